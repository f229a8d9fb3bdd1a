"""The account of a batch from one outer step to the next, and the Solution that is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..types import Active, FloatVector, Watch
from .certificate import Certificate
from .faults import require_finite
from .result import (
    CONVERGED,
    MAX_ITERATIONS,
    STATUS_MESSAGES,
    STOPPED,
    InnerState,
    OuterRecord,
    Solution,
    joined_history,
    per_image,
)


@dataclass(frozen=True)
class InnerResult:
    """Of the active images: inner steps made, whether the rule was met, and the certificate of the accepted image."""

    steps: NDArray[np.int64]
    met: NDArray[np.bool_]
    certificate: Certificate


class Progress:
    """Counts, certificate and status of every image; `active` are those that still run, in outer step `outer` from
    0.
    """

    def __init__(self, count: int, watch: Watch | None = None):
        self.watch = watch
        self.active: Active = np.arange(count)
        self.status = np.full(count, MAX_ITERATIONS, dtype=object)
        self.outer_iterations = np.zeros(count, np.int64)
        self.inner_iterations = np.zeros(count, np.int64)
        self.objective = np.full(count, np.inf)
        self.gap = np.full(count, np.inf)
        self.relative_gap = np.full(count, np.inf)
        self.outer_residual = np.full(count, np.inf)
        self.history: list[OuterRecord] = []
        self.outer = 0

    def inside(self, images: Active, step: int, steps: int, certified: FloatVector | None) -> None:
        """Inner step `step` of at most `steps` was made for these images; certified: their relative gaps, where a
        certificate was taken.
        """
        if certified is not None:
            self.relative_gap[images] = certified
        if self.watch is not None:
            self.watch(InnerState(self.outer, images, step, steps, self.relative_gap[images]))

    def enter(self, result: InnerResult) -> None:
        """The result of one convex problem. Raises Fault where it is not finite."""
        if not isinstance(result, InnerResult):
            raise InputError(
                f"solve of the schedule gave {type(result).__name__}; expected the InnerResult of inner steps, such as "
                f"run_fixed"
            )
        images, certificate = self.active, result.certificate
        require_finite(images, (certificate.objective, certificate.gap), outer=self.outer, steps=result.steps)
        self.outer_iterations[images] += 1
        self.inner_iterations[images] += result.steps
        self.objective[images] = certificate.objective
        self.gap[images] = certificate.gap
        self.relative_gap[images] = certificate.relative_gap

    def record(self, result: InnerResult, change: FloatVector) -> OuterRecord:
        """The history's entry of this outer step, which changed the active images by `change`."""
        self.outer_residual[self.active] = change
        steps = np.zeros_like(self.inner_iterations)
        steps[self.active] = result.steps
        now = self.relative_gap.copy(), self.objective.copy(), self.outer_residual.copy()
        self.history.append(OuterRecord(steps, *now))
        return self.history[-1]

    def finish(self, outcome: NDArray[np.object_]) -> None:
        """The status of each active image that ends here; None: it goes on. Raises InputError."""
        statuses = np.asarray(outcome, dtype=object)
        if statuses.shape != self.active.shape or not all(s is None or s in STATUS_MESSAGES for s in statuses):
            raise InputError(
                f"outcome of the schedule gave {shown(outcome)}; expected for each of {len(self.active)} active images "
                f"None or one of {', '.join(STATUS_MESSAGES)}"
            )
        ends = np.array([status is not None for status in statuses])
        self.status[self.active[ends]] = statuses[ends]
        self.active = self.active[~ends]

    def stop(self) -> None:
        """The callback wishes no more: the images that still run."""
        self.status[self.active] = STOPPED
        self.active = self.active[:0]

    def uncertified(self) -> Progress:
        """That of an image of which this solved a part: steps and status stay, gaps and changes are NaN."""
        account, unknown = copy(self), np.full(len(self.status), np.nan)
        account.objective = account.gap = account.relative_gap = account.outer_residual = unknown
        account.history = [OuterRecord(record.inner_iterations, unknown, unknown, unknown) for record in self.history]
        return account


def solution(parts: Sequence[Progress], image: Any, masks: NDArray[np.float32] | None, single: bool) -> Solution:
    """What the caller gets of a batch that was solved in `parts`; single: one image, not a batch of one.

    image is in the caller's form; masks (B, C, H, W).
    """

    def joined(name: str) -> Any:
        return per_image(np.concatenate([getattr(part, name) for part in parts]), single)

    status = joined("status")
    return Solution(
        image=image,
        status=status,
        converged=status == CONVERGED,
        outer_iterations=joined("outer_iterations"),
        inner_iterations=joined("inner_iterations"),
        gap=joined("gap"),
        relative_gap=joined("relative_gap"),
        outer_residual=joined("outer_residual"),
        history=_history(parts, single),
        masks=None if masks is None else per_image(masks, single),
    )


def _history(parts: Sequence[Progress], single: bool) -> tuple[OuterRecord, ...]:
    """The records of all parts, image after image."""
    records = joined_history([part.history for part in parts])
    names = [field.name for field in fields(OuterRecord)]
    return tuple(OuterRecord(**{name: per_image(getattr(r, name), single) for name in names}) for r in records)
