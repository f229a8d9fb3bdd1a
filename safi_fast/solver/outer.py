"""The outer loop: solve with a mask, compute the next mask from the solution. One function per schedule, one shared account.

unrolled    as trained: fixed counts, u and v carried over
converged   as the published code was tested: every outer step starts anew, its own stopping rules
gap         ours: u carried over, stops by duality gap and by the change between outer steps
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend import Active, FloatArray, Workspace
from ..model import StepFactors
from .certificate import Certificate
from .dual import InnerResult, run_fixed, run_published, run_to_gap
from .faults import require_finite
from .result import COMPLETED, CONVERGED, MAX_ITERATIONS, STOPPED, OuterRecord, OuterState

FloatVector = NDArray[np.float64]
Callback = Callable[[OuterState], None]

PUBLISHED_TOLERANCE = 1e-5  # of the last outer steps; the first starts a hundred times higher
PUBLISHED_STEPS = 6  # outer steps over which the tolerance falls
# Relative gap asked of the unmasked problem; falls by GAP_DECAY from one outer step to the next. The change between outer steps falls by a
# quarter each time, so a gap that falls much faster buys accuracy for masks that are about to change.
FIRST_GAP = 3e-2
GAP_DECAY = 0.6
# Step size of u times ||W||^2. Nesterov's momentum is stable on a quadratic below 4/3, whatever t is.
STEP = {"unrolled": 1.0, "converged": 1.0, "gap": 1.3}


@dataclass(frozen=True)
class Plan:
    """Limits and tolerance of a schedule, and learned steps of `unrolled` (at least `inner`), checked by the caller."""

    outer: int
    inner: int
    tolerance: float
    steps: StepFactors | None = None


@dataclass(frozen=True)
class Problem:
    """A loaded workspace and what the loops need to know of it: lambda (B,), mask conditioning gain and bias (B, C), ||W||^2, pixels."""

    workspace: Workspace
    strength: FloatVector
    gain: FloatArray
    bias: FloatArray
    family: str
    squared_norm: float
    pixels: int

    @property
    def rounding(self) -> FloatVector:
        """(B,): times ||x||_2, how far float32 rounding of W x may move lambda ||M . W x||_1: a gap below that is zero.

        lambda eps sqrt(||W||^2 C N): each of the C values of a pixel carries an error of the order eps ||W|| |x|.
        """
        values = self.gain.shape[1] * self.pixels
        return np.asarray(self.strength * float(np.finfo(np.float32).eps) * (self.squared_norm * values) ** 0.5)

    @property
    def everyone(self) -> Active:
        """All images of the batch."""
        return np.arange(len(self.strength))


class Account:
    """The state of every image between outer steps: counts, certificate, status."""

    def __init__(self, problem: Problem, callback: Callback | None):
        count = len(problem.strength)
        self._callback = callback
        self.active = problem.everyone
        self.status = np.full(count, MAX_ITERATIONS, dtype=object)
        self.outer_iterations = np.zeros(count, np.int64)
        self.inner_iterations = np.zeros(count, np.int64)
        self.certificate = Certificate(np.zeros(count), np.zeros(count))
        self.outer_residual = np.full(count, np.inf)
        self.history: list[OuterRecord] = []

    def close_step(self, workspace: Workspace, result: InnerResult) -> bool:
        """Enter the result of one outer step; False where the callback asks to stop. Raises Fault where it is not finite."""
        images = self.active
        sums = (result.certificate.objective, result.certificate.gap)
        require_finite(images, sums, outer=len(self.history), steps=result.steps)
        self.outer_iterations[images] += 1
        self.inner_iterations[images] += result.steps
        self.outer_residual[images] = workspace.outer_change(images)
        self.certificate.objective[images] = result.certificate.objective
        self.certificate.gap[images] = result.certificate.gap
        steps = np.zeros_like(self.inner_iterations)
        steps[images] = result.steps
        relative_gap, objective = self.certificate.relative_gap, self.certificate.objective.copy()
        self.history.append(OuterRecord(steps, relative_gap, objective, self.outer_residual.copy()))
        return self._report(workspace)

    def uncertified(self) -> Account:
        """The account of an image of which this solved a part: steps and status stay, gaps and changes are NaN."""
        account, unknown = copy(self), np.full(len(self.status), np.nan)
        account.certificate, account.outer_residual = Certificate(unknown, unknown), unknown
        account.history = [OuterRecord(record.inner_iterations, unknown, unknown, unknown) for record in self.history]
        return account

    def _report(self, workspace: Workspace) -> bool:
        if self._callback is None:
            return True
        state = OuterState(len(self.history) - 1, self.active.copy(), self.history[-1], workspace.image)
        try:
            self._callback(state)
        except StopIteration:
            self.status[self.active] = STOPPED
            return False
        return True


def unrolled(problem: Problem, plan: Plan, callback: Callback | None = None) -> Account:
    """Exactly plan.outer x plan.inner steps, FISTA's or learned ones, from u = v = W y; u and v live on under the next mask."""
    workspace, account = problem.workspace, Account(problem, callback)
    workspace.start_dual(account.active)
    for outer in range(plan.outer):
        if outer:
            workspace.collapse_momentum(account.active)
            workspace.update_mask(account.active, problem.gain, problem.bias)
        workspace.refresh(account.active)
        result = run_fixed(workspace, account.active, problem.strength, plan.inner, plan.steps)
        if not account.close_step(workspace, result):
            return account
    account.status[:] = COMPLETED
    return account


def converged(problem: Problem, plan: Plan, callback: Callback | None = None) -> Account:
    """The published test procedure: every outer step from u = v = M . W x, tolerances falling over the first ones."""
    workspace, account = problem.workspace, Account(problem, callback)
    for outer in range(plan.outer):
        if outer:
            workspace.update_mask(account.active, problem.gain, problem.bias)
        workspace.start_dual(account.active)
        workspace.refresh(account.active)
        rule = "FISTA" if problem.family == "mmr" and outer else "CD"
        tolerance = plan.tolerance * 100 ** (1 - min(outer, PUBLISHED_STEPS - 1) / (PUBLISHED_STEPS - 1))
        result = run_published(workspace, account.active, problem.strength, rule, tolerance, plan.inner)
        if not account.close_step(workspace, result):
            return account
        account.status[:] = np.where(result.met, CONVERGED, MAX_ITERATIONS)
    return account


def gap(problem: Problem, plan: Plan, callback: Callback | None = None) -> Account:
    """Until relative gap (but for float32 rounding) and change from one mask to the next are both at most plan.tolerance.

    u and FISTA's t live on under the next mask: the problem changes little, and restarts catch a momentum that leads astray.
    """
    workspace, account = problem.workspace, Account(problem, callback)
    workspace.clear_dual(account.active)
    t = np.ones(len(problem.strength))
    for outer in range(plan.outer):
        if outer:
            workspace.collapse_momentum(account.active)
            workspace.update_mask(account.active, problem.gain, problem.bias)
        workspace.refresh(account.active)
        last = outer == plan.outer - 1
        tolerance = plan.tolerance if last else max(plan.tolerance, FIRST_GAP * GAP_DECAY**outer)
        result = run_to_gap(workspace, account.active, problem.strength, problem.rounding, tolerance, plan.inner, t)
        proceed = account.close_step(workspace, result)
        images = account.active
        done = result.met & (
            (account.certificate.relative_gap[images] <= plan.tolerance) | (tolerance == plan.tolerance)
        )
        done &= (account.outer_residual[images] <= plan.tolerance) & (
            outer > 0
        )  # before, there is no mask to compare with
        account.status[images[done]] = CONVERGED
        account.active = images[~done]
        if not proceed or not len(account.active):
            break
    return account


SCHEDULES = {"unrolled": unrolled, "converged": converged, "gap": gap}
