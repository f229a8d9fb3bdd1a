"""SAFI beside the denoisers of scikit-image, with their habits."""

from __future__ import annotations

from os import PathLike
from typing import Any

from skimage.util import img_as_float

from .. import api
from ..model import Model

__all__ = ["denoise_safi"]


def denoise_safi(
    image: Any,
    sigma: float | None = None,
    *,
    model: Model | str | PathLike[str] | None = None,
    backend: str = "auto",
    channel_axis: int | None = None,
    **options: Any,
) -> Any:
    """Denoise an image with a learned, structure-adaptive regulariser.

    Parameters
    ----------
    image : array, (M, N) or with `channel_axis` (M, N, C)
        Integers become floats from 0 to 1 (`skimage.util.img_as_float`).
    sigma : float
        Standard deviation of the noise, for the image from 0 to 1. None: estimated.
    model, backend, options
        As for `safi_fast.denoise`.
    channel_axis : int
        The axis of colour; None for grey.

    Returns
    -------
    array
        Of the same shape; float32 for float32, else float64.

    Raises
    ------
    InputError

    Examples
    --------
    >>> from skimage import data, util
    >>> from safi_fast.integrations.skimage import denoise_safi
    >>> noisy = util.random_noise(data.camera()[:64, :64], var=0.01, clip=False, rng=0)
    >>> clean = denoise_safi(noisy, max_outer=1)
    >>> clean.shape, clean.std() < noisy.std()
    ((64, 64), True)
    """
    values = img_as_float(image)
    return api.denoise(
        values, "estimate" if sigma is None else sigma, model=model, backend=backend, channel_axis=channel_axis,
        **options,
    )  # fmt: skip
