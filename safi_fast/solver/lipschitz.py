"""||W||^2 at the size of the image: the step length of the dual iteration is its inverse.

Lanczos (scipy.sparse.linalg.eigsh) on W^T W with a seeded start. It approaches the largest eigenvalue from below, so the result
carries a safety factor. Fourier bounds of the filters do not hold for symmetric extension, hence the operator itself.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from ..backend import Engine

SAFETY = 1.01
RELATIVE_ACCURACY = 5e-3

_known: WeakKeyDictionary[Any, dict[tuple[int, int], float]] = WeakKeyDictionary()
_lock = threading.Lock()


def squared_norm(engine: Engine, height: int, width: int) -> float:
    """An upper estimate of ||W||^2 on height x width images; computed once per engine and size."""
    with _lock:
        sizes = _known.setdefault(engine, {})
        if (height, width) not in sizes:
            sizes[height, width] = SAFETY * _largest_eigenvalue(engine, height, width)
        return sizes[height, width]


def _largest_eigenvalue(engine: Engine, height: int, width: int) -> float:
    workspace = engine.workspace(1, height, width)

    def apply(vector: np.ndarray) -> np.ndarray:
        image = vector.reshape(1, height, width).astype(np.float32)
        return workspace.normal_operator(image).reshape(-1).astype(np.float64)

    size = height * width
    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
    values = eigsh(operator, k=1, which="LA", v0=start, tol=RELATIVE_ACCURACY, ncv=8, return_eigenvectors=False)
    return float(values[0])
