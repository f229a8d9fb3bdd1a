"""The outer loop: solve with a mask, compute the next mask from the solution. One function per schedule, one shared account."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend import Active, FloatArray, Workspace
from .certificate import Certificate
from .dual import InnerResult, run_fixed, run_published, run_to_gap
from .faults import require_finite
from .result import COMPLETED, CONVERGED, MAX_ITERATIONS, STOPPED, OuterRecord, OuterState
from .schedules import Converged, Gap, Schedule, Unrolled

FloatVector = NDArray[np.float64]
Callback = Callable[[OuterState], None]


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


def solve(problem: Problem, schedule: Schedule, callback: Callback | None = None) -> Account:
    """The masks and convex problems of a schedule."""
    if isinstance(schedule, Unrolled):
        return unrolled(problem, schedule, callback)
    return (
        converged(problem, schedule, callback) if isinstance(schedule, Converged) else gap(problem, schedule, callback)
    )


def unrolled(problem: Problem, schedule: Unrolled, callback: Callback | None = None) -> Account:
    """From u = v = W y; u and v live on under the next mask."""
    workspace, account = problem.workspace, Account(problem, callback)
    workspace.start_dual(account.active)
    for outer in range(schedule.outer):
        if outer:
            workspace.collapse_momentum(account.active)
            workspace.update_mask(account.active, problem.gain, problem.bias)
        workspace.refresh(account.active)
        result = run_fixed(workspace, account.active, problem.strength, schedule.inner, schedule.steps)
        if not account.close_step(workspace, result):
            return account
    account.status[:] = COMPLETED
    return account


def converged(problem: Problem, schedule: Converged, callback: Callback | None = None) -> Account:
    """Every outer step from u = v = M . W x, tolerances falling over the first ones."""
    workspace, account = problem.workspace, Account(problem, callback)
    for outer in range(schedule.outer):
        if outer:
            workspace.update_mask(account.active, problem.gain, problem.bias)
        workspace.start_dual(account.active)
        workspace.refresh(account.active)
        rule = "FISTA" if problem.family == "mmr" and outer else "CD"
        tolerance = schedule.tolerance(outer)
        result = run_published(workspace, account.active, problem.strength, rule, tolerance, schedule.inner)
        if not account.close_step(workspace, result):
            return account
        account.status[:] = np.where(result.met, CONVERGED, MAX_ITERATIONS)
    return account


def gap(problem: Problem, schedule: Gap, callback: Callback | None = None) -> Account:
    """u and FISTA's t live on under the next mask: the problem changes little, and restarts catch a momentum that leads astray."""
    workspace, account = problem.workspace, Account(problem, callback)
    workspace.clear_dual(account.active)
    t = np.ones(len(problem.strength))
    for outer in range(schedule.outer):
        if outer:
            workspace.collapse_momentum(account.active)
            workspace.update_mask(account.active, problem.gain, problem.bias)
        workspace.refresh(account.active)
        tolerance = schedule.tolerance(outer)
        result = run_to_gap(workspace, account.active, problem.strength, problem.rounding, tolerance, schedule.inner, t)
        proceed = account.close_step(workspace, result)
        images = account.active
        done = result.met & ((account.certificate.relative_gap[images] <= schedule.tol) | (tolerance == schedule.tol))
        done &= (account.outer_residual[images] <= schedule.tol) & (
            outer > 0
        )  # before, there is no mask to compare with
        account.status[images[done]] = CONVERGED
        account.active = images[~done]
        if not proceed or not len(account.active):
            break
    return account
