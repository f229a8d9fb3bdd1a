"""Denoising: accelerated projected gradient on the dual of one convex problem, image by image.

u <- clip(v + step M . W x(v), -lambda, lambda),   v <- u + momentum (u - u_old),   x(v) = clip(y - W^T(M . v))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import DualWorkspace
from ..model import StepFactors
from ..namespaces import put, taken
from ..types import Active, FloatArray, FloatVector
from .certificate import Certificate, StepSums, primal_certificate
from .mixing import Mixing
from .momentum import chambolle_dossal, fista
from .progress import InnerResult


@dataclass(frozen=True)
class DualProblem:
    """A loaded workspace and what the inner steps need to know of it: lambda (B,), mask conditioning gain and bias
    (B, C), ||W||^2, pixels.

    t (B,): FISTA's, one where momentum starts from nothing; `run_to_gap` leaves it where it ends, for the next mask.
    mixing: what masks are computed from, where that is not always the accepted image (`start`).
    """

    workspace: DualWorkspace
    strength: FloatVector
    gain: FloatArray
    bias: FloatArray
    family: str
    squared_norm: float
    pixels: int
    t: FloatVector = field(init=False)
    mixing: Mixing | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "t", np.ones(len(self.strength)))

    @property
    def count(self) -> int:
        """Images of the batch."""
        return len(self.strength)

    @property
    def rounding(self) -> FloatVector:
        """(B,): times ||x||_2, how far float32 rounding of W x may move lambda ||M . W x||_1: a gap below that is zero.

        lambda eps sqrt(||W||^2 C N): each of the C values of a pixel carries an error of the order eps ||W|| |x|.
        """
        values = self.gain.shape[1] * self.pixels
        return np.asarray(self.strength * float(np.finfo(np.float32).eps) * (self.squared_norm * values) ** 0.5)

    def change(self, images: Active) -> FloatVector:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call, first since y; with `mixing`
        x_before is what the mask was computed from.
        """
        if self.mixing is None:
            return self.workspace.outer_change(images)
        return self.mixing.change(images, taken(self.workspace.image(), images))

    def image(self) -> Any:
        """A copy of the accepted images (B, H, W), as array of the device."""
        return self.workspace.image()

    def start(self, images: Active, *, zero: bool = False, mixing: bool = False) -> None:
        """From u = v = 0, or M . W of the accepted image. mixing: `next_mask` may mix images, which must be known from
        here on.
        """
        if mixing:
            object.__setattr__(self, "mixing", Mixing(self.workspace.image()))
        if zero:
            self.workspace.clear_dual(images)
        else:
            self.workspace.start_dual(images)
        self.workspace.refresh(images)

    def next_mask(self, images: Active, *, carry_over: bool = True, mixed: bool = False) -> None:
        """M of the accepted images, or of what `Mixing` makes of the last two; u lives on under it, without momentum,
        or starts from M . W x.
        """
        if carry_over:
            self.workspace.collapse_momentum(images)
        if self.mixing is not None:
            whole = self.workspace.image()
            put(whole, images, self.mixing.next(images, taken(whole, images), mixed))
            self.workspace.put_image(images, whole)
        self.workspace.update_mask(images, self.gain, self.bias)
        if not carry_over:
            self.workspace.start_dual(images)
        self.workspace.refresh(images)


def run_fixed(problem: DualProblem, active: Active, steps: int, learned: StepFactors | None = None) -> InnerResult:
    """Exactly `steps` steps, FISTA's or the first of the learned ones; accepts x(u)."""
    problem.workspace.steps(active, *_factors(problem, steps, learned))
    problem.workspace.accept(active, "primal")
    return _as_made(problem, active, steps)


def run_unrolled(problem: DualProblem, outer: int, steps: int, learned: StepFactors | None) -> InnerResult | None:
    """`run_fixed` of every image from the start, and under each of `outer` - 1 masks; None where the workspace makes
    such steps one by one.
    """
    momenta, sizes = _factors(problem, steps, learned)
    if not problem.workspace.unrolled(outer, momenta, sizes, problem.gain, problem.bias):
        return None
    return _as_made(problem, np.arange(problem.count), outer * steps)


def _factors(
    problem: DualProblem, steps: int, learned: StepFactors | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Momenta and sizes (steps, B)."""

    def for_all(factors: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.repeat(factors[:steps, None], problem.count, axis=1)

    if learned is None:
        return for_all(np.fromiter(fista(), np.float32, count=steps)), None
    return for_all(learned.momentum), for_all(learned.size)


def _as_made(problem: DualProblem, active: Active, steps: int) -> InnerResult:
    """What fixed steps came to."""
    certificate = primal_certificate(problem.workspace.measure(active), problem.strength[active])
    return InnerResult(np.full(len(active), steps), np.zeros(len(active), bool), certificate)


class _Tally:
    """Collects, for images that stop at different steps, what InnerResult needs."""

    def __init__(self, active: Active, count: int):
        self.active = active
        self.steps = np.zeros(count, np.int64)
        self.met = np.zeros(count, bool)
        self.objective, self.gap = np.zeros(count), np.zeros(count)

    def certify(self, images: Active, certificate: Certificate) -> None:
        self.objective[images], self.gap[images] = certificate.objective, certificate.gap

    def give_up(self, images: Active) -> None:
        """These are not finite: their certificate says so, and whoever reads it raises."""
        self.objective[images] = self.gap[images] = np.nan

    def result(self) -> InnerResult:
        a = self.active
        return InnerResult(self.steps[a], self.met[a], Certificate(self.objective[a], self.gap[a]))


def run_published(problem: DualProblem, active: Active, rule: str, tolerance: float, limit: int) -> InnerResult:
    """The inner loop of the published test code, rule "CD" or "FISTA"; accepts the x(u) before the step that met the
    rule.

    CD stops when ||x(u) - x(u_old)|| / ||x(u_old)|| < tolerance after more than 6 steps; FISTA when the objective at
    x(u) changes by less than tolerance (relative).
    """
    workspace, strength = problem.workspace, problem.strength
    tally = _Tally(active, len(strength))
    momentum = np.zeros(len(strength), np.float32)
    objective = np.zeros(len(strength))
    if rule == "FISTA":
        objective[active] = primal_certificate(workspace.measure(active), strength[active]).objective
    running = active
    for i, factor in zip(range(limit), fista() if rule == "FISTA" else chambolle_dossal(), strict=False):
        momentum[:] = factor
        measured = workspace.step(running, momentum)
        if rule == "FISTA":
            new = primal_certificate(workspace.measure(running), strength[running]).objective
            met = np.abs(objective[running] - new) <= tolerance * objective[running]
            objective[running] = new
        else:
            met = (StepSums.from_array(measured).relative_change() < tolerance) & (i > 5)
        tally.steps[running] += 1
        lost = ~np.isfinite(measured).all(axis=1)
        tally.give_up(running[lost])
        met, running, measured = met[~lost], running[~lost], measured[~lost]
        stopping, running = running[met], running[~met]
        _accept_primal(workspace, stopping, strength, tally, previous=True)
        if i == 0:  # the u of the start may exceed lambda; the step measured the same image with a u that does not
            tally.certify(stopping, StepSums.from_array(measured[met]).certificate(strength[stopping]))
        tally.met[stopping] = True
        if not len(running):
            break
    _accept_primal(workspace, running, strength, tally, previous=False)
    return tally.result()


def _accept_primal(
    workspace: DualWorkspace, images: Active, strength: FloatVector, tally: _Tally, *, previous: bool
) -> None:
    if len(images):
        workspace.accept(images, "previous" if previous else "primal")
        tally.certify(images, primal_certificate(workspace.measure(images, previous), strength[images]))


def run_to_gap(problem: DualProblem, active: Active, tolerance: float, limit: int) -> InnerResult:
    """FISTA with adaptive restart until gap <= tolerance f(x0) + rounding ||x||; accepts the x0 that the gap certifies.

    Gap and restarts are looked at every `check_every` steps of the workspace. The rounding matters only where f is
    hardly more than float32 rounding, as for a flat image.

    Restart: where the dual objective has fallen, the image's momentum starts again (O'Donoghue and Candes 2015,
    function scheme).
    """
    workspace, strength, rounding, t = problem.workspace, problem.strength, problem.rounding, problem.t
    tally = _Tally(active, len(strength))
    best = np.full(len(strength), -np.inf)
    running, made = active, 0
    while made < limit:
        count = min(workspace.check_every, limit - made)
        momenta = np.zeros((count, len(strength)), np.float32)
        for momentum in momenta:
            following = (1 + np.sqrt(1 + 4 * t[running] ** 2)) / 2
            momentum[running] = (t[running] - 1) / following
            t[running] = following
        sums = StepSums.from_array(workspace.step(running, momenta))
        made += count
        certificate = sums.certificate(strength[running])
        tally.steps[running] += count
        fell = certificate.dual_objective < best[running]
        t[running[fell]] = 1.0
        best[running] = certificate.dual_objective
        tally.certify(running, certificate)
        met = certificate.gap <= tolerance * certificate.objective + rounding[running] * np.sqrt(sums.size)
        tally.met[running] = met
        lost = ~np.isfinite(certificate.objective + certificate.gap)  # as the certificate now says
        stop = met | lost | (made == limit)
        workspace.accept(running[stop], "extrapolated")
        running = running[~stop]
        if not len(running):
            break
    return tally.result()
