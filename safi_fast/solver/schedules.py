"""How steps are counted and stopped: frozen values that hold their constants, and solve one outer step at a time for
`loop.iterate`.

unrolled    as trained: fixed counts, u and v carried over
converged   as the published code was tested: every outer step starts anew, its own stopping rules
gap         ours: u carried over, stops by duality gap and by the change between outer steps
fast        for `reconstruct`: fixed counts of relaxed steps

`denoise(..., schedule=Gap(first_gap=1e-2))` takes a value beside its name, and so does `reconstruct(...,
schedule=Reconstruct(follow=0.3))`. A class in KINDS is a schedule of `denoise` by its `name`, one in RECONSTRUCTIONS
of `reconstruct`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from math import ceil
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..model import Model, StepFactors
from ..operators.base import Pace
from ..types import FloatVector
from .dual import DualProblem, run_fixed, run_published, run_to_gap, run_unrolled
from .halpern import Halpern
from .primal_dual import PrimalDual
from .progress import InnerResult, Progress
from .result import COMPLETED, CONVERGED, MAX_ITERATIONS

COUNTS = ("outer", "inner", "falling", "check_every")
POSITIVE = ("tol", "decay", "step", "settled", "follow", "unmasked", "fall")
RATIO = 100.0  # of the first to the last tolerance of `Converged`


@dataclass(frozen=True)
class Unrolled:
    """Exactly outer x inner steps of FISTA, or of learned `steps`, at least `inner` of them. Raises InputError."""

    name: ClassVar[str] = "unrolled"

    outer: int = 5
    inner: int = 12
    steps: StepFactors | None = None
    step: float = 1.0  # size of a dual step, times ||W||^2

    def __post_init__(self) -> None:
        _check(self)
        if self.steps is not None and self.inner > len(self.steps.size):
            raise InputError(f"max_inner is {self.inner}, but the schedule has learned {len(self.steps.size)} steps")

    def longer(self, factor: float) -> Unrolled:
        """With so many times the inner steps, for a problem whose steps are smaller by the square of that; learned
        steps stay as they are.
        """
        return self if self.steps is not None else replace(self, inner=ceil(max(1.0, factor) * self.inner - 0.1))

    def solve(self, problem: DualProblem, progress: Progress) -> InnerResult:
        """From u = v = W y; u and v live on under the next mask."""
        if progress.outer:
            problem.next_mask(progress.active)
        else:
            problem.start(progress.active)
        return run_fixed(problem, progress.active, self.inner, self.steps)

    def solve_whole(self, problem: DualProblem, progress: Progress) -> bool:
        """All of it at once, with an account of nothing but that the images are finite; False where the backend has no
        faster way than outer step by outer step, and nothing was done. Raises Fault.
        """
        result = run_unrolled(problem, self.outer, self.inner, self.steps)
        if result is None:
            return False
        progress.outer = self.outer - 1
        progress.enter(result)
        progress.finish(self.outcome(progress, result))
        return True

    def outcome(self, progress: Progress, result: InnerResult) -> NDArray[np.object_]:
        """Completed with the last step."""
        return _all(result, COMPLETED if progress.outer == self.outer - 1 else None)


@dataclass(frozen=True)
class Converged:
    """The published test procedure, up to outer x inner steps; the tolerance falls to `tol` over the first `falling`
    outer steps. Raises InputError.
    """

    name: ClassVar[str] = "converged"

    outer: int = 10
    inner: int = 100
    tol: float = 1e-5
    falling: int = 6
    step: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    def tolerance(self, outer: int) -> float:
        """Of the inner rule in this outer step, from 0; the first is RATIO times the last."""
        last = max(self.falling - 1, 1)
        return float(self.tol * RATIO ** (1 - min(outer, last) / last))

    def solve(self, problem: DualProblem, progress: Progress) -> InnerResult:
        """Every outer step from u = v = M . W x, tolerances falling over the first ones."""
        if progress.outer:
            problem.next_mask(progress.active, carry_over=False)
        else:
            problem.start(progress.active)
        rule = "FISTA" if problem.family == "mmr" and progress.outer else "CD"
        return run_published(problem, progress.active, rule, self.tolerance(progress.outer), self.inner)

    def outcome(self, progress: Progress, result: InnerResult) -> NDArray[np.object_]:
        """All outer steps are made; converged is what met the rule of the last."""
        if progress.outer < self.outer - 1:
            return _all(result, None)
        return np.where(result.met, CONVERGED, MAX_ITERATIONS).astype(object)


@dataclass(frozen=True)
class Gap:
    """Until relative gap (but for float32 rounding) <= `tol` and change from one mask to the next <= `settled` times
    `tol`. Raises InputError.

    settled: f being strongly convex in denoising, a relative gap g leaves ||x - x*|| <= sqrt(2 g f) of x unknown, 1e-3
    of a photograph for 1e-4: a smaller change says nothing.

    first_gap: asked of the unmasked problem; it falls by `decay` from one outer step to the next. The change between
    outer steps falls by a quarter each time, so a gap that falls much faster buys accuracy for masks that are about
    to change.
    step: Nesterov's momentum is stable on a quadratic below 4/3, whatever t is.
    """

    name: ClassVar[str] = "gap"

    outer: int = 30
    inner: int = 1000
    tol: float = 1e-4
    settled: float = 10.0
    first_gap: float = 3e-2
    decay: float = 0.6
    step: float = 1.3

    def __post_init__(self) -> None:
        _check(self)

    def tolerance(self, outer: int) -> float:
        """Of the relative gap in this outer step, from 0."""
        if outer == self.outer - 1:
            return self.tol
        return max(self.tol, self.first_gap * self.decay**outer)

    def solve(self, problem: DualProblem, progress: Progress) -> InnerResult:
        """u and FISTA's t live on under the next mask: the problem changes little, and restarts catch a momentum that
        leads astray.
        """
        if progress.outer:
            problem.next_mask(progress.active, mixed=progress.outer > 2)
        else:
            problem.start(progress.active, zero=True, mixing=True)
        return run_to_gap(problem, progress.active, self.tolerance(progress.outer), self.inner)

    def outcome(self, progress: Progress, result: InnerResult) -> NDArray[np.object_]:
        """Converged where gap and change are small; before the second step there is no mask to compare with."""
        images, outer = progress.active, progress.outer
        met = result.met & ((progress.relative_gap[images] <= self.tol) | (self.tolerance(outer) == self.tol))
        return _where(met & (progress.outer_residual[images] <= self.settled * self.tol) & (outer > 0))


@dataclass(frozen=True)
class Reconstruct:
    """For `reconstruct`: until relative gap <= `tol` and change from one mask to the next <= `settled` times `tol`.
    Raises InputError.

    first_gap, decay: at most first_gap decay^k is asked of the problem with mask number k, and at most `follow` times
    the last change of the image: a problem need not be solved better than its mask is known, but better and better, or
    the masks never settle. unmasked: times lambda in the first outer step, as in `Fast`. check_every: inner steps from
    one certificate to the next. steps: the constants of the inner iteration.
    """

    name: ClassVar[str] = "gap"
    begins_near: ClassVar[bool] = False  # at `Operator.first_image`, which so many steps do not need

    outer: int = 20
    inner: int = 1000
    tol: float = 1e-3
    settled: float = 3.0
    first_gap: float = 0.2
    decay: float = 0.5
    follow: float = 2.0
    unmasked: float = 0.25
    check_every: int = 20
    steps: Halpern = field(default_factory=Halpern)

    def __post_init__(self) -> None:
        _check(self)

    def tolerances(self, outer: int, changes: FloatVector) -> FloatVector:
        """Of the relative gaps in this outer step, from 0: `tol` in the last one and where x has settled, laxer
        before.
        """
        laxer = np.clip(self.follow * changes, self.tol, max(self.tol, self.first_gap * self.decay**outer))
        settled = (changes <= self.settled * self.tol) | (outer == self.outer - 1)
        return np.where(settled, self.tol, laxer)

    def solve(self, problem: PrimalDual, progress: Progress) -> InnerResult:
        """x, u and the data term's dual variable live on from one mask to the next."""
        if progress.outer:
            problem.next_mask(progress.active, mixed=progress.outer > 2)
        _scale(problem, progress.outer, self)
        tolerances = self.tolerances(progress.outer, progress.outer_residual)
        inner, often = self.inner, self.check_every
        return problem.run(progress.active, tolerances, inner, often, progress.inside, means=True)

    def outcome(self, progress: Progress, result: InnerResult) -> NDArray[np.object_]:
        """Converged where gap and change are small; before the second step there is no mask to compare with."""
        images = progress.active
        settled = (progress.outer_residual[images] <= self.settled * self.tol) & (progress.outer > 0)
        return _where((progress.relative_gap[images] <= self.tol) & settled)


@dataclass(frozen=True)
class Fast:
    """For `reconstruct`: outer x inner steps. The certificate is taken at the end of each outer step, and not asked to
    be small. Raises InputError.

    By its name alone the operator says outer, inner and fall (`Operator.pace`). fall: times the step size of u from one
    mask to the next. unmasked: times lambda in the first outer step, whose problem has no mask that spares what is
    there; masks have this share of it on average. steps: relaxed ones, for no anchor gains anything in so few.
    """

    name: ClassVar[str] = "fast"
    begins_near: ClassVar[bool] = True

    outer: int = 4
    inner: int = 75
    fall: float = 1.0
    unmasked: float = 0.25
    steps: Halpern = field(default_factory=lambda: Halpern(relaxation=1.8))

    def __post_init__(self) -> None:
        _check(self)

    def solve(self, problem: PrimalDual, progress: Progress) -> InnerResult:
        """x, u and the data term's dual variables live on from one mask to the next."""
        if progress.outer:
            problem.next_mask(progress.active)
        _scale(problem, progress.outer, self)
        if self.fall != 1:
            problem.choose_steps(self.fall**progress.outer)
        return problem.run(progress.active, -np.inf, self.inner, self.inner, progress.inside)

    def outcome(self, progress: Progress, result: InnerResult) -> NDArray[np.object_]:
        """Completed with the last step."""
        return _all(result, COMPLETED if progress.outer == self.outer - 1 else None)


def _scale(problem: PrimalDual, outer: int, schedule: Reconstruction) -> None:
    """lambda of this outer step, from 0: a share of it in the first, unless it is the last as well."""
    if outer <= 1 < schedule.outer:
        problem.scale_strength(1.0 if outer else schedule.unmasked)


def _all(result: InnerResult, status: str | None) -> NDArray[np.object_]:
    return np.full(len(result.steps), status, dtype=object)


def _where(converged: NDArray[np.bool_]) -> NDArray[np.object_]:
    outcome: NDArray[np.object_] = np.full(len(converged), None, dtype=object)
    outcome[converged] = CONVERGED
    return outcome


Schedule: TypeAlias = Unrolled | Converged | Gap
KINDS: dict[str, type[Schedule]] = {kind.name: kind for kind in (Unrolled, Converged, Gap)}
Reconstruction: TypeAlias = Reconstruct | Fast
RECONSTRUCTIONS: dict[str, type[Reconstruction]] = {kind.name: kind for kind in (Reconstruct, Fast)}


def schedule_for(
    model: Model, schedule: str | Schedule | None, max_outer: Any = None, max_inner: Any = None, tol: Any = None
) -> Schedule:
    """The schedule by value or by name, None: what the model was trained for, with the limits that the caller gives.
    Raises InputError.
    """
    chosen: Schedule
    if isinstance(schedule, tuple(kind for kind in KINDS.values() if isinstance(kind, type))):
        _check_kind(type(schedule))
        chosen = schedule  # type: ignore[assignment]
    else:
        chosen = _by_name(model, model.schedule.name if schedule is None else schedule)
    if tol is not None and isinstance(chosen, Unrolled):
        raise InputError(
            "tol has no meaning for schedule='unrolled', which makes a fixed number of steps; use schedule='gap'"
        )
    steps = getattr(chosen, "steps", None)
    if steps is not None and max_inner is not None and count("max_inner", max_inner) > len(steps.size):
        raise InputError(
            f"max_inner is {max_inner}, but model {model.name!r} has learned {len(steps.size)} steps; use "
            f"schedule='gap'"
        )
    limits = {
        "outer": None if max_outer is None else count("max_outer", max_outer),
        "inner": None if max_inner is None else count("max_inner", max_inner),
        "tol": tol,
    }
    if tol is not None and not hasattr(chosen, "tol"):
        raise InputError(f"tol has no meaning for schedule={chosen.name!r}, which has no tolerance; leave it out")
    limited = replace(chosen, **{name: value for name, value in limits.items() if value is not None})
    _check(limited)  # kinds of the caller's may not do so themselves
    return limited


def reconstruct_schedule(
    schedule: str | Reconstruction | None,
    max_outer: Any = None,
    max_iter: Any = None,
    tol: Any = None,
    paces: Iterable[Pace] = (),
) -> Reconstruction:
    """The schedule of `reconstruct` by value or by name, None: "gap", with the limits that the caller gives; paces:
    those of the operators, for "fast". Raises InputError.
    """
    chosen: Reconstruction
    if isinstance(schedule, tuple(RECONSTRUCTIONS.values())):
        chosen = schedule  # type: ignore[assignment]
    elif schedule is None or (isinstance(schedule, str) and schedule in RECONSTRUCTIONS):
        chosen = RECONSTRUCTIONS[schedule or Reconstruct.name]()
        if isinstance(chosen, Fast) and (asked := list(paces)):
            masks, steps, falls = zip(*asked, strict=True)
            chosen = replace(chosen, outer=max(masks), inner=max(steps), fall=max(falls))
    else:
        names = ", ".join(map(repr, RECONSTRUCTIONS))
        kinds = " or ".join(kind.__name__ for kind in RECONSTRUCTIONS.values())
        raise InputError(f"schedule is {shown(schedule)}; expected one of {names}, a value of {kinds}, or None")
    if tol is not None and not hasattr(chosen, "tol"):
        raise InputError(
            f"tol has no meaning for schedule={chosen.name!r}, which makes a fixed number of steps; use schedule='gap'"
        )
    limits = {
        "outer": None if max_outer is None else count("max_outer", max_outer),
        "inner": None if max_iter is None else count("max_iter", max_iter),
        "tol": tol,
    }
    return replace(chosen, **{name: value for name, value in limits.items() if value is not None})


def _by_name(model: Model, name: Any) -> Schedule:
    if not isinstance(name, str) or name not in KINDS:
        hint = " (another kind has its entry in solver.schedules.KINDS)" if hasattr(name, "solve") else ""
        raise InputError(
            f"schedule is {shown(name)}; expected one of {', '.join(KINDS)}, a value of one of these kinds, or "
            f"None{hint}"
        )
    _check_kind(KINDS[name])
    trained, kind = model.schedule, KINDS[name]()
    if name == trained.name:
        kind = replace(kind, outer=trained.outer, inner=trained.inner)
    return replace(kind, steps=model.steps) if isinstance(kind, Unrolled) else kind


def _check_kind(kind: Any) -> None:
    """Raise InputError for an entry of KINDS that is no schedule: all that it lacks, at once."""
    if not isinstance(kind, type):
        raise InputError(f"schedule {shown(kind)} in KINDS is a value; expected its class")
    own = fields(kind) if is_dataclass(kind) else ()
    wrong = [name for name in ("outer", "inner", "step") if name not in {entry.name for entry in own}]
    wrong += [name for name in ("name", "solve", "outcome") if getattr(kind, name, None) is None]
    wrong += [f"default of {e.name}" for e in own if e.init and e.default is e.default_factory is MISSING]
    if wrong:
        raise InputError(
            f"schedule {kind.__name__} has no {', '.join(wrong)}; a schedule is a frozen dataclass whose fields have "
            f"defaults: outer, inner and step, beside a ClassVar name, solve(problem, progress) and "
            f"outcome(progress, result)"
        )


def count(name: str, value: Any) -> int:
    """The argument `name`, a number of steps or images. Raises InputError."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name} is {shown(value)}; expected a whole number of at least 1")
    return int(value)


def _check(schedule: Any) -> None:
    """Counts are whole and at least 1, the other numbers finite; tolerances, decay and step positive."""
    for entry in fields(schedule):
        value = getattr(schedule, entry.name)
        if entry.name in COUNTS:
            count(_argument(entry.name), value)
        elif entry.name in POSITIVE and not _is_number(value, above=0.0):
            raise InputError(f"{entry.name} is {shown(value)}; expected a positive number")
        elif entry.name == "first_gap" and not _is_number(value, above=-np.inf):
            raise InputError(f"first_gap is {shown(value)}; expected a finite number")


def _argument(name: str) -> str:
    return f"max_{name}" if name in ("outer", "inner") else name


def _is_number(value: Any, above: float) -> bool:
    try:
        return bool(np.isfinite(float(value)) and float(value) > above)
    except (TypeError, ValueError, OverflowError):
        return False
