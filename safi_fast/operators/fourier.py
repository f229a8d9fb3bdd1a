"""Fourier transforms of the operators, in single precision: SciPy's, on as many threads as the kernels, or those of the
library whose array it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ..namespaces import namespace, on_host

MOST_WORKERS = 8  # images of usual sizes do not gain from more
IMAGE_AXES = (-2, -1)


def workers() -> int:
    """Threads of a transform: within a solve those of the solver, see bindings/threads.py."""
    from ..bindings.threads import threads_here

    return min(MOST_WORKERS, threads_here())


def fft_order(array: NDArray[Any]) -> NDArray[Any]:
    """From zero (frequency or pixel) in the middle, at index n // 2, to zero at index 0; the last two axes."""
    result: NDArray[Any] = namespace(array).fft.ifftshift(array, axes=IMAGE_AXES)
    return result


def centered_order(array: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `fft_order`."""
    result: NDArray[Any] = namespace(array).fft.fftshift(array, axes=IMAGE_AXES)
    return result


def opposite(array: NDArray[Any]) -> NDArray[Any]:
    """What lies at frequency -k, for every k; FFT order."""
    return np.roll(array[..., ::-1, ::-1], (1, 1), IMAGE_AXES)


def forward(array: NDArray[Any], axes: tuple[int, ...] = IMAGE_AXES) -> NDArray[Any]:
    """Orthonormal discrete Fourier transform, FFT order."""
    if not on_host(array):
        return namespace(array).fft.fftn(array, axes=axes, norm="ortho")  # type: ignore[no-any-return]
    result: NDArray[Any] = fft.fftn(array, axes=axes, norm="ortho", workers=workers())
    return result


def inverse(array: NDArray[Any], axes: tuple[int, ...] = IMAGE_AXES, *, overwrite: bool = False) -> NDArray[Any]:
    """The inverse of `forward`, which is its adjoint. overwrite: `array` may be used as work space."""
    if not on_host(array):
        return namespace(array).fft.ifftn(array, axes=axes, norm="ortho")  # type: ignore[no-any-return]
    result: NDArray[Any] = fft.ifftn(array, axes=axes, norm="ortho", overwrite_x=overwrite, workers=workers())
    return result


def real_forward(array: NDArray[Any], shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """The half plane (..., H, W // 2 + 1) of a real image's transform, not normalised; zeros up to `shape`."""
    if not on_host(array):
        return namespace(array).fft.rfft2(array, s=shape)  # type: ignore[no-any-return]
    result: NDArray[Any] = fft.rfft2(array, s=shape, workers=workers())
    return result


def real_inverse(half: NDArray[Any], shape: tuple[int, ...], *, overwrite: bool = False) -> NDArray[Any]:
    """The inverse of `real_forward`, an image (..., *shape). overwrite: `half` may be used as work space."""
    if not on_host(half):
        return namespace(half).fft.irfft2(half, s=shape)  # type: ignore[no-any-return]
    result: NDArray[Any] = fft.irfft2(half, s=shape, overwrite_x=overwrite, workers=workers())
    return result
