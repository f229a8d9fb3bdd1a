"""The metric of x in the primal-dual iteration: a multiplier in Fourier that bounds W^T W, instead of one number.

A filter bank without a constant part says nothing about the mean of an image and little about its coarse structure:
||W||^2 bounds W^T W by what it does to the finest structure. With

    P(w) = sigma Q(w) + what the other dual variables need,      W^T W <= Q,     Q = q (|W^(w)|^2 + floor max |W^|^2)

steps of x are long where W^T W is small (Pock and Chambolle, Diagonal preconditioning for first order primal-dual
algorithms, ICCV 2011, in Fourier instead of pixels). |W^|^2 is read off W^T W of an impulse in the middle, and q is
found by Lanczos iteration on Q^-1/2 W^T W Q^-1/2 for the image size, boundary included.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ..backend import Engine
from ..types import FloatArray
from .lipschitz import SAFETY, largest_eigenvalue

FLOOR = 0.02  # of the largest of |W^|^2

_known: WeakKeyDictionary[Engine, dict[tuple[int, int], FloatArray]] = WeakKeyDictionary()
_lock = threading.Lock()


def metric(engine: Engine, height: int, width: int) -> FloatArray:
    """Q (H, W), float32 in FFT order; computed once per engine and size."""
    with _lock:
        sizes = _known.setdefault(engine, {})
        if (height, width) not in sizes:
            sizes[height, width] = _metric(engine, height, width)
        return sizes[height, width]


def _metric(engine: Engine, height: int, width: int) -> FloatArray:
    workspace = engine.workspace(1, height, width)
    return bound(lambda x: workspace.normal_operator(x.astype(np.float32)), height, width)


def bound(normal: Callable[[NDArray[Any]], NDArray[Any]], height: int, width: int) -> FloatArray:
    """A multiplier (H, W) of which a symmetric function of images (1, H, W), nearly a convolution, is not more."""
    middle = height // 2, width // 2
    impulse = np.zeros((1, height, width))
    impulse[0, middle[0], middle[1]] = 1
    power = fft.fft2(np.roll(normal(impulse)[0].astype(np.float64), (-middle[0], -middle[1]), (0, 1))).real.clip(0)
    shape = power + FLOOR * power.max()
    root = shape**-0.5

    def filtered(x: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = fft.ifft2(fft.fft2(x) * root).real
        return result

    factor = SAFETY * largest_eigenvalue(lambda x: filtered(normal(filtered(x)).astype(np.float64)), (1, height, width))
    return np.asarray(factor * shape, np.float32)
