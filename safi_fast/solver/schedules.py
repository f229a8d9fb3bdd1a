"""How the steps of `denoise` are counted and stopped: frozen values that hold their constants.

unrolled    as trained: fixed counts, u and v carried over
converged   as the published code was tested: every outer step starts anew, its own stopping rules
gap         ours: u carried over, stops by duality gap and by the change between outer steps

`denoise(..., schedule=Gap(first_gap=1e-2))` takes a value beside its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ..errors import InputError, shown
from ..model import Model, StepFactors

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


@dataclass(frozen=True)
class Converged:
    """The published test procedure, up to outer x inner steps; the tolerance falls to `tol` over the first `falling` outer steps. Raises InputError."""

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


@dataclass(frozen=True)
class Gap:
    """Until relative gap (but for float32 rounding) and change from one mask to the next are both at most `tol`. Raises InputError.

    first_gap: asked of the unmasked problem; it falls by `decay` from one outer step to the next. The change between outer steps falls by
    a quarter each time, so a gap that falls much faster buys accuracy for masks that are about to change.
    step: Nesterov's momentum is stable on a quadratic below 4/3, whatever t is.
    """

    name: ClassVar[str] = "gap"

    outer: int = 30
    inner: int = 1000
    tol: float = 1e-4
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


Schedule: TypeAlias = Unrolled | Converged | Gap
KINDS: Mapping[str, type[Schedule]] = {kind.name: kind for kind in (Unrolled, Converged, Gap)}


def schedule_for(
    model: Model, schedule: str | Schedule | None, max_outer: Any = None, max_inner: Any = None, tol: Any = None
) -> Schedule:
    """The schedule by value or by name, None: what the model was trained for, with the limits that the caller gives. Raises InputError."""
    if isinstance(schedule, (Unrolled, Converged, Gap)):
        chosen: Schedule = schedule
    else:
        chosen = _by_name(model, model.schedule.name if schedule is None else schedule)
    if tol is not None and isinstance(chosen, Unrolled):
        raise InputError(
            "tol has no meaning for schedule='unrolled', which makes a fixed number of steps; use schedule='gap'"
        )
    steps = getattr(chosen, "steps", None)
    if steps is not None and max_inner is not None and count("max_inner", max_inner) > len(steps.size):
        raise InputError(
            f"max_inner is {max_inner}, but model {model.name!r} has learned {len(steps.size)} steps; use schedule='gap'"
        )
    limits = {
        "outer": None if max_outer is None else count("max_outer", max_outer),
        "inner": None if max_inner is None else count("max_inner", max_inner),
        "tol": tol,
    }
    return replace(chosen, **{name: value for name, value in limits.items() if value is not None})


def _by_name(model: Model, name: Any) -> Schedule:
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(
            f"schedule is {shown(name)}; expected one of {', '.join(KINDS)}, a value of one of these kinds, or None"
        )
    trained, kind = model.schedule, KINDS[name]()
    if name == trained.name:
        kind = replace(kind, outer=trained.outer, inner=trained.inner)
    return replace(kind, steps=model.steps) if isinstance(kind, Unrolled) else kind


def count(name: str, value: Any) -> int:
    """The argument `name`, a number of steps or images. Raises InputError."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name} is {shown(value)}; expected a whole number of at least 1")
    return int(value)


def _check(schedule: Any) -> None:
    """Counts are whole and at least 1, the other numbers finite; tolerances, decay and step positive."""
    for field in fields(schedule):
        value = getattr(schedule, field.name)
        if field.name in ("outer", "inner", "falling"):
            count(_argument(field.name), value)
        elif field.name in ("tol", "decay", "step") and not _is_number(value, above=0.0):
            raise InputError(f"{field.name} is {shown(value)}; expected a positive number")
        elif field.name == "first_gap" and not _is_number(value, above=-np.inf):
            raise InputError(f"first_gap is {shown(value)}; expected a finite number")


def _argument(name: str) -> str:
    return name if name == "falling" else f"max_{name}"


def _is_number(value: Any, above: float) -> bool:
    try:
        return bool(np.isfinite(float(value)) and float(value) > above)
    except (TypeError, ValueError, OverflowError):
        return False
