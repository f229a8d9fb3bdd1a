"""Fourier transforms at frequencies off the grid, by finufft (Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput.
41, 2019), and H^T H of them by transforms on a grid of twice the size.

    sampled(x)_j   = 1 / sqrt(H W)  sum over pixels r  of x_r exp(-2 pi i k_j . r / (H, W))
    spread(c)_r    = 1 / sqrt(H W)  sum over samples j of c_j exp(+2 pi i k_j . r / (H, W))

r counts from pixel (H // 2, W // 2): at whole k it is the transform of `FourierMRI` in "centered" order. spread is the
adjoint of sampled. spread(w sampled(x)) is a convolution of x with t(d) = 1 / (H W) sum w_j exp(2 pi i k_j . d / (H,
W)), |d| < (H, W), and so `Toeplitz` multiplies in Fourier on a grid of (2 H, 2 W) (Fessler et al., IEEE Trans. Signal
Process. 53, 2005). finufft computes on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from .fourier import forward, inverse, opposite, real_forward, real_inverse, workers

ACCURACY = 1e-7  # relative, asked of finufft. In float32 it takes as long, and frequencies would be rounded: 1e-5
KERNEL_ACCURACY = 1e-12
SMALL = 1 << 20  # samples and pixels that one thread transforms: others would wait longer for each other than they work


def require_finufft() -> Any:
    """The module finufft. Raises BackendError, which says what to install."""
    if find_spec("finufft") is None:
        raise BackendError("k-space off the Cartesian grid needs finufft; install it with pip install finufft")
    return import_module("finufft")


def sampled(x: NDArray[Any], phases: NDArray[np.float64]) -> NDArray[np.complex128]:
    """(B, H, W) to (B, n). phases: (2, n), 2 pi k / (H, W)."""
    images = np.ascontiguousarray(x, np.complex128)
    threads = _threads(len(x), x.shape[-2:], phases)
    found = require_finufft().nufft2d2(*phases, images, eps=ACCURACY, isign=-1, nthreads=threads)
    return _scaled(found, x.shape[-2:]).reshape(len(x), -1)


def spread(
    c: NDArray[Any], phases: NDArray[np.float64], shape: tuple[int, int], accuracy: float = ACCURACY
) -> NDArray[np.complex128]:
    """(B, n) to (B, *shape)."""
    samples = np.ascontiguousarray(c, np.complex128)
    threads = _threads(len(c), shape, phases)
    found = require_finufft().nufft2d1(*phases, samples, shape, eps=accuracy, isign=1, nthreads=threads)
    return _scaled(found, shape).reshape(len(c), *shape)


def _threads(count: int, shape: tuple[int, ...], phases: NDArray[np.float64]) -> int:
    return 1 if count * (int(np.prod(shape)) + phases.shape[1]) < SMALL else workers()


def _scaled(array: NDArray[np.complex128], shape: tuple[int, ...]) -> NDArray[np.complex128]:
    array /= np.sqrt(np.prod(shape))
    return array


@dataclass(frozen=True, eq=False)
class Toeplitz:
    """x -> spread(w sampled(x)) for images (B, H, W). multiplier: float32 (2 H, 2 W) in FFT order."""

    multiplier: NDArray[np.float32]

    @classmethod
    def of(cls, phases: NDArray[np.float64], weights: NDArray[np.float64], shape: tuple[int, int]) -> Toeplitz:
        """weights: (n,). One transform in float64."""
        twice = (2 * shape[0], 2 * shape[1])
        kernel = spread(weights[None], phases, twice, KERNEL_ACCURACY)[0] * np.sqrt(np.prod(twice))
        kernel[0], kernel[:, 0] = 0, 0  # d = -H and d = -W, which have no opposite and which no two pixels are apart
        multiplier = np.fft.fft2(np.fft.ifftshift(kernel)).real / np.prod(shape)
        return cls(multiplier.astype(np.float32))

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Of real images the real part."""
        height, width = x.shape[-2:]
        twice = self.multiplier.shape
        if not np.iscomplexobj(x):
            half = (self.multiplier + opposite(self.multiplier))[:, : width + 1] / 2
            return real_inverse(real_forward(x, twice) * half, twice, overwrite=True)[..., :height, :width]
        wide = np.zeros((*x.shape[:-2], *twice), x.dtype)
        wide[..., :height, :width] = x
        return inverse(forward(wide) * self.multiplier, overwrite=True)[..., :height, :width]
