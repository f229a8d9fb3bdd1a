"""The metric of x in the primal-dual iteration: a multiplier in Fourier that bounds W^T W, instead of one number.

A filter bank without a constant part says nothing about the mean of an image and little about its coarse structure:
||W||^2 bounds W^T W by what it does to the finest structure. With

    P(w) = sigma Q(w) + what the other dual variables need,      W^T W <= Q,     Q = q (|W^(w)|^2 + floor max |W^|^2)

steps of x are long where W^T W is small (Pock and Chambolle, Diagonal preconditioning for first order primal-dual
algorithms, ICCV 2011, in Fourier instead of pixels). |W^|^2 is read off W^T W of an impulse in the middle, and q is
found by Lanczos iteration on Q^-1/2 W^T W Q^-1/2 for the image size, boundary included. With several planes |W^|^2 is
the largest eigenvalue, at each frequency, of the P x P matrix of the sums over channels of conj(w_cp^) w_cq^: one
multiplier for all planes.
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
    return bound(lambda x: workspace.normal_operator(x.astype(np.float32)), workspace.image().shape)


def bound(normal: Callable[[NDArray[Any]], NDArray[Any]], images: tuple[int, ...]) -> FloatArray:
    """A multiplier (H, W) of which a symmetric function of images (1, H, W) or (1, P, H, W), nearly a convolution, is
    not more.
    """
    power = _power(normal, images)
    shape = power + FLOOR * power.max()
    root = shape**-0.5

    def filtered(x: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = fft.ifft2(fft.fft2(x) * root).real
        return result

    factor = SAFETY * largest_eigenvalue(lambda x: filtered(normal(filtered(x)).astype(np.float64)), images)
    return np.asarray(factor * shape, np.float32)


def _power(normal: Callable[[NDArray[Any]], NDArray[Any]], images: tuple[int, ...]) -> NDArray[np.float64]:
    """(H, W): the transform of what an impulse in the middle becomes; of planes, the largest eigenvalue."""
    middle = images[-2] // 2, images[-1] // 2
    columns = []
    for plane in np.ndindex(*images[1:-2]):
        impulse = np.zeros(images)
        impulse[(0, *plane, *middle)] = 1
        response = normal(impulse)[0].astype(np.float64)
        columns.append(fft.fft2(np.roll(response, (-middle[0], -middle[1]), (-2, -1))))
    if len(images) == 3:
        return np.asarray(columns[0].real.clip(0))
    matrix = np.moveaxis(np.stack(columns), (0, 1), (-1, -2))  # (H, W, plane it goes to, plane of the impulse)
    matrix = (matrix + matrix.conj().swapaxes(-1, -2)) / 2  # boundaries leave it not quite Hermitian
    return np.asarray(np.linalg.eigvalsh(matrix)[..., -1].clip(0))
