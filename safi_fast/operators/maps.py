"""Coil sensitivity maps from the calibration region, the fully sampled centre of k-space.

    "espirit"         Uecker et al., Magn. Reson. Med. 71, 2014. All patches (6 x 6 samples of all coils) of the
                      calibration region span a space V of few dimensions. A coil image vector at pixel p is consistent
                      with V where the C x C matrix
                          G(p) = 1/|patch| sum over v in an orthonormal basis of V of  v(p)^H v(p)
                      has the eigenvalue 1; its eigenvector is the map. Zero where the largest eigenvalue is below
                      `crop`: no signal.
    "low_resolution"  each coil's image from the windowed calibration region, divided by their root sum of squares.

Both are normalised, sum over c |S_c|^2 = 1 where they are not zero, and have the phase that makes the low-resolution
image real and positive, so the image that belongs to them is nearly real.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ..errors import InputError, shown
from .axes import doubt
from .base import finite, numbers
from .fourier import IMAGE_AXES, centered_order, fft_order, workers
from .sampling import Order, check_energy, known_order

METHODS = ("espirit", "low_resolution")
SMALLEST, LARGEST = 8, 32  # side of a calibration region found by itself
BLOCK = 8192  # pixels whose matrices G are decomposed at once


def estimate_maps(
    kspace: Any,
    *,
    kspace_order: Order,
    method: str = "espirit",
    calibration: int | tuple[int, int] | None = None,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
) -> NDArray[np.complex64]:
    """Normalised coil maps (C, H, W), complex64, from k-space (C, H, W), zero where not sampled.

    kspace_order: "centered" or "fft", as in SenseMRI. calibration: sides of the fully sampled centre; None: the largest
    that is found, at most 32. kernel, threshold, crop (espirit): side of a patch; singular values kept as a share of
    the largest; eigenvalue below which a map is zero.

    Raises InputError, also for a calibration region with samples that are zero, for a coil without signal, and where
    the energy shows that coils lie along another axis.
    """
    array, order = numbers("kspace", kspace), known_order("kspace_order", kspace_order)
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"kspace has shape {array.shape}; expected (C, H, W)")
    finite("kspace", array)
    if method not in METHODS:
        raise InputError(f"method is {shown(method)}; expected one of {', '.join(map(repr, METHODS))}")
    for coil, one in enumerate(array):
        if not one.any():
            raise InputError(f"kspace[{coil}] is zero everywhere; leave this coil out")
    check_energy("kspace", array, order)
    _check_axes(array)
    centred = (array if order == "centered" else centered_order(array)).astype(np.complex64)
    region = _region(centred, calibration)
    low = _low_resolution(region, centred.shape[1:])
    if method == "espirit":
        if kernel < 2 or min(region.shape[1:]) < kernel + 2:
            raise InputError(
                f"kernel is {shown(kernel)}; expected 2 to {min(region.shape[1:]) - 2}, for a region of "
                f"{region.shape[1:]}"
            )
        maps = _espirit(region, centred.shape[1:], kernel, threshold, crop)
    else:
        maps = low / np.maximum(np.linalg.norm(low, axis=0), np.finfo(np.float32).tiny)
    combined = (maps.conj() * low).sum(0)
    maps = maps * np.exp(1j * np.angle(combined))
    return (maps if order == "centered" else fft_order(maps)).astype(np.complex64)


def explained(kspace: NDArray[Any], maps: NDArray[Any], order: Order) -> float:
    """The share of the energy of the low-resolution coil images (C, H, W) that maps (C, H, W) explain: 1 for the right
    ones.

    sum over pixels of |<S, I>|^2 / |S|^2, over that of |I|^2 where the maps are not zero; of k-space in `order`, from
    its middle.
    """
    centred = np.asarray(kspace if order == "centered" else centered_order(kspace))
    sides = tuple(min(LARGEST, side) for side in centred.shape[1:])
    images = _low_resolution(_middle(centred, sides), centred.shape[1:])
    images = images if order == "centered" else fft_order(images)
    weight = np.sum(np.abs(maps) ** 2, axis=0)
    seen = weight > 0
    energy = float(np.sum(np.abs(images[:, seen]) ** 2))
    matched = np.abs(np.sum(maps.conj() * images, axis=0))[seen] ** 2 / weight[seen]
    return float(matched.sum()) / energy if energy > 0 else 1.0


def _check_axes(kspace: NDArray[Any]) -> None:
    found = doubt(kspace, "chw")
    if found is not None:
        order = tuple(found.layouts[0].index(letter) for letter in "chw")
        raise InputError(
            f"kspace has shape {kspace.shape}, but {found.seen}; expected (C, H, W): pass kspace.transpose{order}"
        )


def _region(kspace: NDArray[Any], calibration: int | tuple[int, int] | None) -> NDArray[Any]:
    """(C, h, w) the middle of centred k-space."""
    sampled = (kspace != 0).any(0)
    sides = kspace.shape[1:]
    if calibration is None:
        fits = [h for h in range(SMALLEST, LARGEST + 1, 2) if h <= min(sides) and _middle(sampled, (h, h)).all()]
        if not fits:
            raise InputError(
                f"kspace has no fully sampled {SMALLEST} x {SMALLEST} centre, which maps are estimated from; "
                f"pass maps of your own, or check kspace_order"
            )
        return _middle(kspace, (fits[-1], fits[-1]))
    height, width = (calibration, calibration) if isinstance(calibration, int) else calibration
    if not (1 < height <= sides[0] and 1 < width <= sides[1]):
        raise InputError(f"calibration is {shown(calibration)}; expected sides from 2 to those of k-space, {sides}")
    missing = int((~_middle(sampled, (height, width))).sum())
    if missing:
        raise InputError(
            f"calibration is {calibration}, but {missing} of {height * width} samples of that region are zero; "
            f"expected the fully sampled centre, or None to find it"
        )
    return _middle(kspace, (height, width))


def _middle(array: NDArray[Any], sides: tuple[int, int]) -> NDArray[Any]:
    """The middle of the last two axes, index n // 2 in the middle."""
    starts = [n // 2 - side // 2 for n, side in zip(array.shape[-2:], sides, strict=True)]
    return array[..., starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]]


def _embedded(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Zeros around the last two axes: the adjoint of `_middle`."""
    wide = np.zeros((*array.shape[:-2], *shape), array.dtype)
    _middle(wide, array.shape[-2:])[...] = array
    return wide


def _low_resolution(region: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """(C, H, W) images of the calibration region under a Hann window, which keeps it from ringing."""
    windows = [np.hanning(side + 2)[1:-1] for side in region.shape[1:]]
    kspace = _embedded(region * np.outer(*windows), shape)
    return centered_order(fft.ifft2(fft_order(kspace), norm="ortho", workers=workers()))


def _espirit(
    region: NDArray[Any], shape: tuple[int, ...], kernel: int, threshold: float, crop: float
) -> NDArray[np.complex128]:
    """(C, H, W), centred; see the head of this file."""
    coils = len(region)
    patches = np.lib.stride_tricks.sliding_window_view(region, (kernel, kernel), IMAGE_AXES)
    rows = patches.transpose(1, 2, 0, 3, 4).reshape(-1, coils * kernel * kernel).astype(np.complex128)
    values, vectors = np.linalg.eigh(rows.T @ rows.conj())
    basis = vectors[:, values > threshold**2 * values[-1]].T.reshape(-1, coils, kernel, kernel)
    # G is a trigonometric polynomial of degree kernel - 1: (2 kernel - 1)^2 points hold all of it, and zeros around its
    # coefficients interpolate it to the image.
    points = 2 * kernel - 1
    small = fft.ifft2(_embedded(basis, (points, points)), norm="forward")
    coarse = np.einsum("kcyx,kdyx->cdyx", small, small.conj(), optimize=True) / kernel**2
    coefficients = centered_order(fft.fft2(coarse, norm="forward"))
    wide = fft_order(_embedded(coefficients.astype(np.complex64), shape))
    matrices = centered_order(fft.ifft2(wide, norm="forward", workers=workers()))
    matrices = matrices.reshape(coils, coils, -1).transpose(2, 0, 1)
    maps = np.empty((len(matrices), coils), np.complex128)
    for start in range(0, len(matrices), BLOCK):
        part = slice(start, start + BLOCK)
        largest, eigenvectors = np.linalg.eigh(matrices[part])
        maps[part] = eigenvectors[:, :, -1] * (largest[:, -1:] >= crop)
    return maps.T.reshape(coils, *shape)
