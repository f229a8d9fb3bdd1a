"""The outer loop for a general forward operator: x, u and the data term's dual variable live on from one mask to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..backend import Active, FloatArray
from .data_term import Array, squares
from .faults import Fault
from .primal_dual import PrimalDual
from .result import CONVERGED, MAX_ITERATIONS, STOPPED, OuterRecord, OuterState, joined_history

FloatVector = NDArray[np.float64]

FIRST_TOLERANCE = 0.1  # of the certificate without a mask
FOLLOW = 0.5  # of the last outer change: the tolerance of a convex problem, which need not be solved better than its mask is known
CHECK_EVERY = 20


@dataclass(frozen=True)
class Limits:
    """Outer steps, inner steps of each, tolerance of the certificate, and of the change between outer steps."""

    outer: int
    inner: int
    tolerance: float
    outer_tolerance: float


@dataclass
class Report:
    """What was reached, per image."""

    status: NDArray[np.object_]
    outer_iterations: NDArray[np.int64]
    inner_iterations: NDArray[np.int64]
    objective: FloatVector
    gap: FloatVector
    certificate: FloatVector
    outer_residual: FloatVector
    history: list[OuterRecord]


def solve(
    state: PrimalDual,
    gain: FloatArray,
    bias: FloatArray,
    limits: Limits,
    *,
    mask_of: str = "magnitude",
    callback: Callable[[OuterState], None] | None = None,
) -> Report:
    """Alternate a convex problem and a new mask until certificate and outer change are small, or the limits are reached.

    gain, bias: (B, C) of a noise-conditioned mask generator. mask_of: for complex images, "magnitude" for one mask of |x|, "parts" for
    a mask of each part. Raises Fault where an image is no longer finite.
    """
    count = len(state.x)
    report = Report(
        status=np.full(count, MAX_ITERATIONS, dtype=object),
        outer_iterations=np.zeros(count, np.int64),
        inner_iterations=np.zeros(count, np.int64),
        objective=np.full(count, np.inf),
        gap=np.full(count, np.inf),
        certificate=np.full(count, np.inf),
        outer_residual=np.full(count, np.inf),
        history=[],
    )
    before = state.x.copy()
    active = np.arange(count)
    for outer in range(limits.outer):
        if outer:
            _update_mask(state, active, gain, bias, mask_of)
        tolerance = _tolerances(limits, outer, report.outer_residual)
        steps_before = state.steps.copy()
        try:
            with np.errstate(invalid="ignore", over="ignore"):  # `run` looks for that itself
                found = state.run(active, tolerance, limits.inner, CHECK_EVERY)
        except Fault as fault:
            fault.outer, fault.image = outer, before if outer else None
            raise
        report.outer_iterations[active] += 1
        report.inner_iterations = state.steps.copy()
        x = state.image(active)
        report.outer_residual[active] = relative_change(x, before[active])
        before[active] = x
        report.objective[active], report.gap[active], report.certificate[active] = (
            found.objective[active], found.gap[active], found.relative_gap[active],
        )  # fmt: skip
        report.history.append(
            OuterRecord(
                state.steps - steps_before,
                report.certificate.copy(),
                report.objective.copy(),
                report.outer_residual.copy(),
            )
        )
        settled = (report.outer_residual[active] <= limits.outer_tolerance) & (
            outer > 0
        )  # there is no change of mask before
        done = (report.certificate[active] <= limits.tolerance) & settled
        report.status[active[done]] = CONVERGED
        proceed = _report(callback, OuterState(outer, active.copy(), report.history[-1], before.copy))
        active = active[~done]
        if not proceed:
            report.status[active] = STOPPED
        if not proceed or not len(active):
            break
    return report


def joined(reports: Sequence[Report]) -> Report:
    """One report of the images of all, in order; images that needed fewer outer steps repeat their last record with 0 steps."""
    if len(reports) == 1:
        return reports[0]
    names = [f.name for f in fields(Report) if f.name != "history"]
    whole = {name: np.concatenate([getattr(report, name) for report in reports]) for name in names}
    return Report(**whole, history=joined_history([report.history for report in reports]))


def _tolerances(limits: Limits, outer: int, changes: FloatVector) -> FloatVector:
    """Of the certificates in this outer step: what was asked for in the last one and where x has settled, laxer before."""
    laxer = np.clip(FOLLOW * changes, limits.tolerance, max(limits.tolerance, FIRST_TOLERANCE))
    settled = (changes <= limits.outer_tolerance) | (outer == limits.outer - 1)
    return np.where(settled, limits.tolerance, laxer)


def _report(callback: Callable[[OuterState], None] | None, state: OuterState) -> bool:
    """False where the callback asks to stop."""
    try:
        if callback is not None:
            callback(state)
    except StopIteration:
        return False
    return True


def relative_change(x: Array, before: Array) -> FloatVector:
    """||x - before|| / ||before|| of each image: 0 for no change, infinite for a change from zero."""
    change, size = np.sqrt(squares(x - before)), np.sqrt(squares(before))
    return np.divide(change, size, out=np.where(change > 0, np.inf, 0.0), where=size > 0)


def _update_mask(state: PrimalDual, active: Active, gain: FloatArray, bias: FloatArray, mask_of: str) -> None:
    x = state.image(active)
    parts, workspace = state.parts, state.workspace
    images = parts.images(active)
    if parts.is_complex:
        gain, bias = np.concatenate([gain, gain]), np.concatenate([bias, bias])
        if mask_of == "magnitude":
            x = np.abs(x) * np.complex64(1 + 1j)
    workspace.put_image(images, parts.split(x, active))
    workspace.update_mask(images, gain, bias)
    state.mask_changed(active)
