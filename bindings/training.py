"""Launches of the CPU kernels that only training needs."""

from __future__ import annotations

from .cache import prepare_kernels

prepare_kernels()

# ruff: noqa: E402 - the first import of a kernel settles where its compiled form is kept
import numba
import numpy as np
from numpy.typing import NDArray

from ..kernels.cpu import spectra as sums
from ..kernels.cpu.planar_spline import spline_planes, spline_planes_gradient
from .threads import threads_to_use

threads_to_use(None)  # starts them: a kernel that another process compiled does not

Array = NDArray[np.floating]


def use_threads(count: int) -> None:
    """Run the kernels on `count` threads, or on as many as there are."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


def spline(x: Array, values: Array, low: float) -> Array:
    """s(x): x (B, C, N), values (C, n) at uniform knots on [low, 1] -> (B, C, N)."""
    out = np.empty_like(x)
    spline_planes(x, values, low, out)
    return out


def spline_gradient(x: Array, values: Array, low: float, gradient: Array) -> tuple[Array, Array]:
    """From the gradient of s(x), (B, C, N), to those of x, (B, C, N), and of values, (C, n)."""
    to_x, to_values = np.empty_like(x), np.empty((x.shape[0], *values.shape))
    spline_planes_gradient(x, values, low, gradient, to_x, to_values)
    return to_x, to_values.sum(0).astype(values.dtype)


def contract(spectra: Array, bank: Array) -> Array:
    """W^T in Fourier: spectra (B, C, F, 2), bank (2, P, C, F) -> (2, B, P, F)."""
    image = np.empty((2, len(spectra), bank.shape[1], bank.shape[3]), np.float32)
    sums.contract(spectra, bank, image)
    return image


def spread(image: Array, bank: Array, spectra: Array) -> None:
    """W in Fourier: image (2, B, P, F), bank (2, P, C, F) -> into spectra (B, C, F, 2)."""
    sums.spread(image, bank, spectra)


def correlate(spectra: Array, image: Array, total: Array) -> None:
    """total (2, P, C, F) grows by the sum over the batch of spectra (B, C, F, 2) times conj(image (2, B, P, F))."""
    sums.correlate(spectra, image, total)
