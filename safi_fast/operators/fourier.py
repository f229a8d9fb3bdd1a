"""Fourier transforms of the operators: SciPy's, in single precision, on as many threads as the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

MOST_WORKERS = 8  # images of usual sizes do not gain from more
IMAGE_AXES = (-2, -1)


def workers() -> int:
    """Threads of a transform: within a solve those of the solver, see bindings/threads.py."""
    from ..bindings.threads import threads_here

    return min(MOST_WORKERS, threads_here())


def fft_order(array: NDArray[Any]) -> NDArray[Any]:
    """From zero (frequency or pixel) in the middle, at index n // 2, to zero at index 0; the last two axes."""
    result: NDArray[Any] = fft.ifftshift(array, axes=IMAGE_AXES)
    return result


def centered_order(array: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `fft_order`."""
    result: NDArray[Any] = fft.fftshift(array, axes=IMAGE_AXES)
    return result


def opposite(array: NDArray[Any]) -> NDArray[Any]:
    """What lies at frequency -k, for every k; FFT order."""
    return np.roll(array[..., ::-1, ::-1], (1, 1), IMAGE_AXES)


def forward(array: NDArray[Any], axes: tuple[int, ...] = IMAGE_AXES) -> NDArray[Any]:
    """Orthonormal discrete Fourier transform, FFT order."""
    result: NDArray[Any] = fft.fftn(array, axes=axes, norm="ortho", workers=workers())
    return result


def inverse(array: NDArray[Any], axes: tuple[int, ...] = IMAGE_AXES, *, overwrite: bool = False) -> NDArray[Any]:
    """The inverse of `forward`, which is its adjoint. overwrite: `array` may be used as work space."""
    result: NDArray[Any] = fft.ifftn(array, axes=axes, norm="ortho", overwrite_x=overwrite, workers=workers())
    return result
