"""The outer loop, one for all problems and schedules: solve with a mask, compute the next mask from the solution."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..types import Active, Array, Callback, FloatVector, Watch
from .faults import Fault
from .progress import InnerResult, Progress
from .result import OuterState


class Problem(Protocol):
    """A batch of convex problems and their masks: `dual.DualProblem` or `primal_dual.PrimalDual`."""

    @property
    def count(self) -> int:
        """Images of the batch."""

    def change(self, images: Active) -> FloatVector:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call; first since the start."""

    def image(self) -> Array | Any:
        """A copy of the accepted images (B, H, W), in NumPy or on the device."""


P = TypeVar("P", bound=Problem, contravariant=True)


class Schedule(Protocol[P]):
    """How the steps are counted and stopped; frozen values of solver/schedules.py."""

    @property
    def outer(self) -> int:
        """Outer steps at most."""

    def solve(self, problem: P, progress: Progress) -> InnerResult:
        """Outer step `progress.outer` for `progress.active`: their next mask, unless it is the first step, and inner
        steps under it.
        """

    def outcome(self, progress: Progress, result: InnerResult) -> NDArray[np.object_]:
        """The status of each active image that ends with this outer step, None for one that goes on."""


def iterate(
    problem: P, schedule: Schedule[P], callback: Callback | None = None, watch: Watch | None = None
) -> Progress:
    """Until every image has ended, or the schedule's outer steps are made. watch: sees inner steps, where the schedule
    tells of them. Raises Fault where an image is no longer finite.
    """
    progress = Progress(problem.count, watch)
    for progress.outer in range(schedule.outer):
        try:
            result = schedule.solve(problem, progress)
        except Fault as fault:
            fault.outer = progress.outer
            raise
        progress.enter(result)
        record = progress.record(result, problem.change(progress.active))
        proceed = _told(callback, OuterState(progress.outer, progress.active.copy(), record, problem.image))
        progress.finish(schedule.outcome(progress, result))
        if not proceed:
            progress.stop()
        if not len(progress.active):
            break
    return progress


def _told(callback: Callback | None, state: OuterState) -> bool:
    """False where the callback asks to stop."""
    try:
        if callback is not None:
            callback(state)
    except StopIteration:
        return False
    return True
