"""The outer loop for a general forward operator: x, u and the data term's dual variable live on from one mask to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend import Active, FloatArray
from .data_term import squares
from .primal_dual import PrimalDual
from .result import CONVERGED, MAX_ITERATIONS, STOPPED, OuterRecord, OuterState

FloatVector = NDArray[np.float64]

FIRST_TOLERANCE = 0.1  # of the certificate without a mask; falls by DECAY from one outer step to the next
DECAY = 0.3
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
    a mask of each part.
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
        tolerance = max(limits.tolerance, FIRST_TOLERANCE * DECAY**outer)
        steps_before = state.steps.copy()
        found = state.run(active, tolerance, limits.inner, CHECK_EVERY)
        report.outer_iterations[active] += 1
        report.inner_iterations = state.steps.copy()
        x = state.image(active)
        with np.errstate(over="ignore"):  # infinite where the image before was zero
            report.outer_residual[active] = np.sqrt(
                squares(x - before[active]) / np.maximum(squares(before[active]), np.finfo(np.float64).tiny)
            )
        before[active] = x
        report.objective[active], report.gap[active], report.certificate[active] = (
            found.objective[active], found.gap[active], found.residual[active],
        )  # fmt: skip
        report.history.append(
            OuterRecord(
                state.steps - steps_before,
                report.certificate.copy(),
                report.objective.copy(),
                report.outer_residual.copy(),
            )
        )
        if callback is not None:
            try:
                callback(OuterState(outer, active.copy(), report.history[-1], lambda: before.copy()))
            except StopIteration:
                report.status[active] = STOPPED
                break
        done = (report.certificate[active] <= limits.tolerance) & (
            report.outer_residual[active] <= limits.outer_tolerance
        )
        report.status[active[done]] = CONVERGED
        active = active[~done]
        if not len(active):
            break
    return report


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
