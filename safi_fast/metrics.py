"""Image quality against a reference: PSNR and SSIM, computed in float64."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import positive
from .errors import InputError
from .tensors import plain

SSIM_WINDOW = 11  # Gaussian of standard deviation 1.5, cut at 3.5 of them


def psnr(reference: ArrayLike, image: ArrayLike, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(data_range^2 / mean squared error); infinite for equal images."""
    reference, image, data_range = _checked(reference, image, data_range)
    if np.array_equal(reference, image):
        return math.inf
    from skimage.metrics import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(reference, image, data_range=data_range))


def ssim(reference: ArrayLike, image: ArrayLike, data_range: float = 1.0, *, channel_axis: int | None = None) -> float:
    """Structural similarity with the Gaussian window of Wang et al. (2004), the mean over colours if there are any."""
    reference, image, data_range = _checked(reference, image, data_range)
    spatial = [
        size
        for axis, size in enumerate(reference.shape)
        if channel_axis is None or axis != channel_axis % reference.ndim
    ]
    if min(spatial, default=0) < SSIM_WINDOW:
        raise InputError(
            f"reference has shape {reference.shape}; SSIM needs at least {SSIM_WINDOW} pixels along each axis"
        )
    from skimage.metrics import structural_similarity

    value = structural_similarity(
        reference,
        image,
        data_range=data_range,
        channel_axis=channel_axis,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


def _checked(reference: ArrayLike, image: ArrayLike, data_range: float) -> tuple[NDArray[Any], NDArray[Any], float]:
    arrays = []
    for name, value in (("reference", reference), ("image", image)):
        array = np.asarray(plain(value))
        if array.dtype.kind not in "biuf":
            raise InputError(f"{name} has dtype {array.dtype}; expected real numbers")
        if array.size == 0:
            raise InputError(f"{name} is empty (shape {array.shape})")
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinity")
        arrays.append(array.astype(np.float64))
    if arrays[0].shape != arrays[1].shape:
        raise InputError(f"image has shape {arrays[1].shape}, but reference has {arrays[0].shape}")
    return arrays[0], arrays[1], positive("data_range", data_range)
