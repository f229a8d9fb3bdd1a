"""The duality gap of the current convex problem, from sums that a step measures anyway.

For min over the box of f(x) = 1/2 ||x - y||^2 + lambda ||M . W x||_1, any |u| <= lambda and z = W^T(M . u):

    d(u)   = min over the box of 1/2 ||x - y||^2 + <z, x>,   attained at x(u) = clip(y - z)
    gap    = f(x0) - d(u) = (lambda ||M . W x0||_1 - <z, x0>) + (primal-dual part of x0 and u)   >= f(x0) - f*

Both brackets are non-negative, so nothing cancels. For H = I this is the bound of the general certificate (a
linearised data term) made tighter by evaluating the quadratic exactly; it stays finite without a box (docs/adr/0004).
relative gap = gap / f(x0).
The masks are fixed: the gap certifies this convex problem, not the fixed point of the outer iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..types import FloatVector


@dataclass(frozen=True)
class Certificate:
    """Objective f(x0) and duality gap, one value per image; up to `floor`, f is float32 rounding."""

    objective: FloatVector
    gap: FloatVector
    floor: FloatVector | float = 0.0

    @property
    def relative_gap(self) -> FloatVector:
        """gap / f(x0); 0 for a problem solved exactly, where f is no more than its floor."""
        return np.divide(self.gap, self.objective, out=np.zeros_like(self.gap), where=~(self.objective <= self.floor))

    @property
    def dual_objective(self) -> FloatVector:
        """d(u), a lower bound of the minimum."""
        return self.objective - self.gap


@dataclass(frozen=True)
class StepSums:
    """What one dual step of `DualWorkspace.step` measured, one value per active image."""

    norm: FloatVector
    inner_product: FloatVector
    data: FloatVector
    primal_dual: FloatVector
    change: FloatVector
    size: FloatVector

    @classmethod
    def from_array(cls, sums: NDArray[np.float64]) -> StepSums:
        """The columns of (active, 6)."""
        return cls(*sums.T)

    def certificate(self, strength: FloatVector) -> Certificate:
        """Of the x0 that the step started from, with the u that it made."""
        penalty = strength * self.norm
        return Certificate(self.data + penalty, penalty - self.inner_product + self.primal_dual)

    def relative_change(self) -> FloatVector:
        """||x(u) - x(u_old)|| / ||x(u_old)||."""
        return np.asarray(np.sqrt(self.change / np.maximum(self.size, np.finfo(np.float32).tiny)))


def primal_certificate(measured: NDArray[np.float64], strength: FloatVector) -> Certificate:
    """Of x(u) with its own u, from (active, 3) of `DualWorkspace.measure`: the primal-dual part is zero."""
    norm, inner_product, data = measured.T
    penalty = strength * norm
    return Certificate(data + penalty, penalty - inner_product)
