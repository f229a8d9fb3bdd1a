"""SAFI as apps of sigpy: made of measurements, `run()` gives the image.

SafiRecon(A, y, lamda).run()             any Linop of 2D images, as LinearLeastSquares
SafiSenseRecon(y, mps, lamda).run()      Cartesian k-space of several coils, as sigpy.mri.app.SenseRecon
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import sigpy
from numpy.typing import NDArray
from sigpy.app import App

from .. import api
from ..errors import InputError
from ..operators import Operator, SenseMRI, from_sigpy
from ..operators.base import numbers

__all__ = ["SafiRecon", "SafiSenseRecon"]


class _Once(sigpy.alg.Alg):
    """One iteration: the whole solve."""

    def __init__(self, solve: Any):
        super().__init__(1)
        self._solve, self.solution = solve, None

    def _update(self) -> None:
        self.solution = self._solve()

    def _done(self) -> bool:
        return bool(self.iter >= self.max_iter)


class SafiRecon(App):
    """`safi_fast.reconstruct` as an App. `solution` is its Solution after `run`, `time` the seconds that it took."""

    def __init__(self, A: Any, y: Any, lamda: float, *, show_pbar: bool = True, **options: Any):
        """A: a Linop of complex images (H, W), or an Operator of safi_fast. y: measurements, A.oshape.

        lamda: the strength, for images whose brightest pixel is about 1. options: as for `safi_fast.reconstruct`; box
        is None for complex images. Raises InputError.
        """
        operator = A if isinstance(A, Operator) else from_sigpy(A)
        if operator.image == "complex":
            options.setdefault("box", None)
        self.solution: Any = None
        self.time = 0.0

        def solve() -> Any:
            return api.reconstruct(y, operator, strength=lamda, **options)

        super().__init__(_Once(solve), show_pbar=show_pbar)

    def run(self) -> Any:
        """The image (H, W). Raises OperatorError, SolverError."""
        start = time.perf_counter()
        found = super().run()
        self.time = time.perf_counter() - start
        return found

    def _output(self) -> Any:
        self.solution = self.alg.solution
        return self.solution.image


class SafiSenseRecon(SafiRecon):
    """Cartesian k-space of several coils, centred as sigpy has it."""

    def __init__(self, y: Any, mps: Any, lamda: float, weights: Any = None, *, show_pbar: bool = True, **options: Any):
        """y: (C, H, W), zero where nothing was sampled. mps: (C, H, W) sensitivities. weights: (H, W), True or 1 where
        there is a sample; None: where any coil is not zero. Others as in SafiRecon. Raises InputError.
        """
        kspace: NDArray[Any] = numbers("y", y)
        if kspace.ndim != 3:
            raise InputError(f"y has shape {kspace.shape}; expected (C, H, W)")
        mask = (kspace != 0).any(axis=0) if weights is None else np.asarray(weights) != 0
        super().__init__(SenseMRI(mps, mask, mask_order="centered"), kspace, lamda, show_pbar=show_pbar, **options)
