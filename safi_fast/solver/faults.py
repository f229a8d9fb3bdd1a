"""What a loop raises where its state is no longer finite. It knows numbers of images and steps; the API makes an
error of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import OperatorError, SolverError

Culprit = Literal["apply", "adjoint"]
NO_CULPRIT = "values became too large for float32: check the range of the input and the size of strength"


class Fault(Exception):  # noqa: N818 - never leaves the package
    """Images of a batch that stopped being finite.

    images: their numbers. inner: step within the outer step, from 1, at which that was seen. culprit: the operator's
    method that gave the
    first such value, None: none of them did. outer: of the loop, from 0. image: (B, H, W) after the last complete
    outer step, None before.
    """

    def __init__(self, images: NDArray[np.int64], inner: int, culprit: Culprit | None = None, outer: int = 0):
        super().__init__()
        self.images, self.inner, self.culprit, self.outer = images, inner, culprit, outer
        self.image: Any = None

    def error(self, operator: str, first: int = 0, single: bool = False) -> OperatorError | SolverError:
        """What the caller gets. operator: its name; first: number of the batch's first image among the caller's."""
        where = f"outer step {self.outer + 1}, inner step {self.inner}"
        if not single:
            where += f", image {first + int(self.images[0])}"
            if len(self.images) > 1:
                where += f" and {len(self.images) - 1} more"
        if self.culprit is None:
            return SolverError(f"the solve has values that are not finite at {where}: {NO_CULPRIT}")
        return OperatorError(
            f"{operator}: {self.culprit} gave values that are not finite at {where}, for a finite argument; "
            f"expected a linear map with the same values each time"
        )


def require_finite(
    images: NDArray[np.int64], sums: Iterable[NDArray[Any]], *, outer: int, steps: NDArray[np.int64]
) -> None:
    """Raise Fault where one of the sums (len(images),) that a loop has read anyway is not finite; steps
    (len(images),) were made.
    """
    bad = ~np.logical_and.reduce([np.isfinite(values) for values in sums])
    if bad.any():
        raise Fault(images[bad], int(steps[bad][0]), outer=outer)
