"""||W||^2 at the size of the image: the step sizes of the dual iterations are in units of its inverse.

Lanczos on W^T W with a seeded start. Its estimates grow from below; after STEPS of them they lie within 1 % of the
largest eigenvalue, which SAFETY covers (tests/kernels compares with a long power iteration). Fourier bounds of the
filters do not hold for symmetric extension, hence the operator itself. ARPACK (scipy.sparse.linalg.eigsh) would
restart until it converges, which takes more products than this use needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal

from ..backend import DualWorkspace, Engine
from ..errors import InputError
from ..types import FloatArray

STEPS = 16
SAFETY = 1.02
STABLE = 4 / 3

_known: WeakKeyDictionary[Any, dict[tuple[int, int], float]] = WeakKeyDictionary()
_lock = threading.Lock()


def squared_norm(engine: Engine, height: int, width: int) -> float:
    """An upper estimate of ||W||^2 on height x width images; computed once per engine and size."""
    with _lock:
        sizes = _known.setdefault(engine, {})
        if (height, width) not in sizes:
            sizes[height, width] = SAFETY * _largest_eigenvalue(engine, height, width)
        return sizes[height, width]


def varying_squared_norm(workspace: DualWorkspace, variance: FloatArray) -> float:
    """An upper estimate of ||sqrt(v) W^T w||^2 where noise varies (varying.py), the largest of a batch; overwrites the
    state.
    """
    root = np.sqrt(variance if workspace.image().ndim == 3 else variance[:, None])

    def normal(x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(root * workspace.normal_operator((root * x).astype(np.float32)))

    return SAFETY * largest_eigenvalue(normal, workspace.image().shape)


def check_squared_norm(value: float, step: float, engine: Engine, height: int, width: int) -> float:
    """`value`, what the caller takes for ||W||^2, where steps of `step` / value converge. Raises InputError.

    The Lanczos estimate is one from below, and steps with Nesterov's momentum are stable below 4/3 / ||W||^2.
    """
    found = squared_norm(engine, height, width) / SAFETY
    least = found * step / STABLE
    if value < least:
        raise InputError(
            f"lipschitz is {value:.6g}, but ||W||^2 is at least {found:.6g} for images of {height} x {width}: below "
            f"{least:.6g} the solve would diverge; leave it out to have it computed"
        )
    return value


def _largest_eigenvalue(engine: Engine, height: int, width: int) -> float:
    workspace = engine.workspace(1, height, width)
    shape, nothing = workspace.image().shape, np.zeros(1, np.float32)
    workspace.load(np.zeros(shape, np.float32), nothing, nothing, (-np.inf, np.inf))  # it may have served before
    return largest_eigenvalue(lambda x: workspace.normal_operator(x.astype(np.float32)), shape)


def largest_eigenvalue(function: Callable[[NDArray[Any]], NDArray[Any]], shape: tuple[int, ...]) -> float:
    """Of a symmetric function of images of this shape, from below: Lanczos iteration from a seeded random image."""
    vector = np.random.default_rng(0).standard_normal(shape)
    vector /= np.linalg.norm(vector)
    before, coupling = np.zeros_like(vector), 0.0
    diagonal, couplings = [], []
    for _ in range(STEPS):
        product = function(vector) - coupling * before
        diagonal.append(float(np.vdot(product, vector)))
        product -= diagonal[-1] * vector
        coupling = float(np.linalg.norm(product))
        if coupling == 0:  # the start spans an invariant space: nothing more to find
            break
        couplings.append(coupling)
        before, vector = vector, product / coupling
    return float(eigvalsh_tridiagonal(diagonal, couplings[: len(diagonal) - 1])[-1])
