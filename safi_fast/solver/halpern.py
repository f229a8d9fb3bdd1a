"""Steps of the restarted Halpern iteration: `HostSteps` in NumPy, `DeviceSteps` as launches on a device.

Both make the same steps. An application T of the primal-dual map takes s = (x, u, extra) to (x_hat, u_hat, extra_hat);
the iterate is w (2 T(s) - s) + (1 - w) s_0, see primal_dual.py, or s + rho (T(s) - s). The
device knows the rule itself and is asked for one number per image after a run of steps; where the operator's work can
be recorded, these are a CUDA graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..backend import Iteration
from ..errors import InputError, shown
from ..namespaces import like, namespace, put, taken
from ..types import Active, AnyArray, FloatVector
from .data_term import DataTermSteps, Move, column
from .faults import Fault
from .means import DualMeans

if TYPE_CHECKING:
    from .primal_dual import PrimalDual

Watch: TypeAlias = Callable[[int], None]  # the number of a step
RECORDINGS = 8  # of all images that are kept for the next problem


@dataclass(frozen=True)
class Halpern:
    """Constants of the iteration. Raises InputError.

    restart_fall, restart_length, least_run: start anew when the residual is this share of what it was after the last
    start, or the run is this share of all steps so far; not before so many steps.
    sigma: times lambda sqrt(C) / (rms(x) ||W||): x and u move over their ranges in comparable numbers of steps.
    least_share: sigma ||W||^2 is not less than this share of what the data term takes of tau: where that is much
    (CT), a small sigma gains nothing.
    relaxation: rho between 1 and 2 for s + rho (T(s) - s) in place of the anchor, which never restarts; None: anchored.
    Sooner near the solution in a few dozen steps, later at it (docs/adr/0009).
    """

    restart_fall: float = 0.2
    restart_length: float = 0.4
    least_run: int = 3
    sigma: float = 2.0
    least_share: float = 1.0
    relaxation: float | None = None
    data: DataTermSteps = field(default_factory=DataTermSteps)

    def __post_init__(self) -> None:
        rho = self.relaxation
        if rho is not None and not (isinstance(rho, (int, float, np.floating)) and 1 < rho < 2):
            raise InputError(f"relaxation is {shown(rho)}; expected a number above 1 and below 2, or None")


class Restarts:
    """When each image's iteration starts anew, and the anchor (x, extra, z) that it is pulled to until then."""

    def __init__(self, state: PrimalDual):
        count, self.rule = state.count, state.rule
        self.run_length, self.total = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.first, self.last = np.full(count, np.inf), np.full(count, np.inf)
        self.fresh = np.ones(count, bool)
        self.x, self.extra, self.z = state.x.copy(), state.extra.copy(), state.z.copy()

    def weights(self, a: Active) -> FloatVector:
        """w of the next step: 0 where it starts anew, rho above 1 where there is no anchor."""
        if self.rule.relaxation is not None:
            return np.full(len(a), self.rule.relaxation)
        due = self.fresh[a] | (
            (self.run_length[a] > self.rule.least_run)
            & (
                (self.last[a] <= self.rule.restart_fall * self.first[a])
                | (self.run_length[a] > self.rule.restart_length * self.total[a] + 20)
            )
        )
        return np.where(due, 0.0, (self.run_length[a] + 1) / (self.run_length[a] + 2))

    def note(self, a: Active, weight: FloatVector, residual: FloatVector, state: PrimalDual) -> None:
        """The step that was made with these weights: ||T(s) - s|| of it, and the state that it left."""
        restarted = weight == 0
        again = a[restarted]
        if len(again):
            for anchor, now in ((self.x, state.x), (self.extra, state.extra), (self.z, state.z)):
                put(anchor, again, taken(now, again))
        self.last[a] = residual
        self.first[a] = np.where(restarted | (self.run_length[a] == 0), residual, self.first[a])
        self.run_length[a] = np.where(restarted, 0, self.run_length[a] + 1)
        self.fresh[a] = False
        self.total[a] += 1


class HostSteps:
    """A run of steps that the solver computes itself, on NumPy arrays."""

    def __init__(self, state: PrimalDual, means: DualMeans | None = None):
        self.state, self.restarts, self.means = state, Restarts(state), means

    def run(self, a: Active, made: int, count: int, watch: Watch | None = None) -> None:
        """`count` more steps of the images `a`, after `made`; watch: called after each but the last. Raises Fault where
        an image is no longer finite.
        """
        for step in range(made + 1, made + count + 1):
            self._step(a, step)
            if watch is not None and step < made + count:
                watch(step)

    def _step(self, a: Active, step: int) -> None:
        """One step of the images `a`, number `step` of this run."""
        state, restarts = self.state, self.restarts
        weight = restarts.weights(a)
        x, extra, z = (taken(values, a) for values in (state.x, state.extra, state.z))
        moved = state.term.move(x, extra, z, taken(state.metric, a), a)
        z_new, change = self._dual_step(a, 2 * moved.x - x, weight)
        z_hat = self._z_hat(a, weight, z, z_new)
        residual = np.sqrt(moved.primal.clip(0) + change / state.sigma[a] + moved.dual)
        lost = ~np.isfinite(residual)
        if lost.any():
            own = np.flatnonzero(lost)
            raise Fault(a[lost], step, state.term.culprit(*(taken(v, own) for v in (extra, moved.x, moved.extra))))
        self._store_hats(a, moved.x, moved.extra, z_hat)
        self._mix(a, weight, moved)
        put(state.z, a, z_new)
        restarts.note(a, weight, residual, state)
        if self.means is not None:
            self.means.add(a, weight, (z_hat, moved.extra))

    def _z_hat(self, a: Active, weight: FloatVector, z: AnyArray, z_new: AnyArray) -> AnyArray:
        """W^T u_hat, from what it was mixed into."""
        if self.state.rule.relaxation is not None:
            return z + (z_new - z) / column(weight, z)
        w = column(weight, z_new)
        anchored = (z_new - (1 - w) * taken(self.restarts.z, a)) / column(np.maximum(weight, 0.25), z_new)
        return namespace(z_new).where(w > 0, (anchored + z) / 2, z_new)

    def _dual_step(self, a: Active, x: AnyArray, weight: FloatVector) -> tuple[AnyArray, FloatVector]:
        """u at the images x: W^T u, and ||u_hat - u||^2."""
        parts = self.state.parts
        weights = np.zeros(parts.count, np.float32)
        weights[a] = weight
        everywhere = np.concatenate([weights, weights]) if parts.is_complex else weights
        z, change = self.state.workspace.anchored_step(parts.images(a), parts.split(x, a), everywhere)
        return parts.join(z, a), parts.add(change, a)

    def _store_hats(self, a: Active, x: AnyArray, extra: AnyArray, z: AnyArray) -> None:
        state = self.state
        if len(a) == state.count:
            state.x_hat, state.extra_hat, state.z_hat = x, extra, z
        else:
            state.x_hat, state.extra_hat, state.z_hat = state.x_hat.copy(), state.extra_hat.copy(), state.z_hat.copy()
            for whole, new in ((state.x_hat, x), (state.extra_hat, extra), (state.z_hat, z)):
                put(whole, a, new)

    def _mix(self, a: Active, weight: FloatVector, moved: Move) -> None:
        state, anchor = self.state, self.restarts
        for now, hat, start in ((state.x, moved.x, anchor.x), (state.extra, moved.extra, anchor.extra)):
            w = column(weight, hat)
            if state.rule.relaxation is not None:
                put(now, a, taken(now, a) + w * (hat - taken(now, a)))
                continue
            mixed = w * (2 * hat - taken(now, a)) + (1 - w) * taken(start, a)
            put(now, a, namespace(hat).where(w > 0, mixed, hat))


class DeviceSteps:
    """Steps whose state, weights and restarts stay on the device (`backend.Iteration`).

    The first step of a run of steps is launched as it is, so that whatever a recording may not do has been done:
    kernels are compiled, plans of transforms made, constants copied. The others are replayed.

    They live as long as the work space, and make the steps of the next problem there as well, if all is alike that a
    recording knows. What it reads stays where it is and gets the values of that problem: the variables, `y`, and the
    constants of the steps.
    """

    def __init__(self, state: PrimalDual, iteration: Iteration, rows: AnyArray | None):
        self.iteration, self.y = iteration, state.measurements.y
        self.operators, self.known = [weakref.ref(op) for op in state.measurements.operators], _known(state, rows)
        self.selections: dict[bytes, _Selection] = {}
        self.current: set[bytes] = set()  # of the selections, those with the constants of these steps
        self.replays: dict[Any, Callable[[], None]] = {}

    @classmethod
    def of(cls, state: PrimalDual) -> DeviceSteps | None:
        """For this problem, whose arrays become those of the device; None where the solver makes the steps."""
        first, (_, row_steps) = state.term.box_first, state.term.step_sizes
        rows = state.extra if first is not None or row_steps is not None else None
        steps = _kept.pop(state.workspace, None)
        if steps is not None and steps._fit(state, rows):
            steps.iteration.start(state.x, state.z, rows)
            steps._measure(state)
        else:
            steps = None  # before there is another
            iteration = state.workspace.iteration(state.x, state.z, rows, state.box, first)
            if iteration is None:
                return None
            steps = cls(state, iteration, rows)
        _kept[state.workspace] = steps
        steps._serve(state)
        return steps

    def _fit(self, state: PrimalDual, rows: AnyArray | None) -> bool:
        """Whether what was recorded, and the arrays, are right for this problem too."""
        operators = state.measurements.operators
        same = len(operators) == len(self.operators) and all(
            known() is op for known, op in zip(self.operators, operators, strict=True)
        )
        return same and self.known == _known(state, rows)

    def _measure(self, state: PrimalDual) -> None:
        """Its measurements move to where recordings read them."""
        self.y[...] = state.measurements.y
        state.measurements.y = self.y

    def _serve(self, state: PrimalDual) -> None:
        # the problem owns this by its work space: memory of a device should not wait for a collection of circles
        self.state: PrimalDual = weakref.proxy(state)
        iteration = self.iteration
        state.x, state.z, state.x_hat, state.z_hat = iteration.x, iteration.z, iteration.x_hat, iteration.z_hat
        if iteration.rows is not None:
            state.extra, state.extra_hat = iteration.rows, iteration.rows_hat
        self.set_steps()

    def rest(self) -> None:
        """Until the next problem: which of its images end first is its own."""
        everyone = np.arange(len(self.iteration.x)).tobytes()
        self.selections = {key: value for key, value in self.selections.items() if key == everyone}
        self.replays = dict([one for one in self.replays.items() if one[0][0] == everyone][-RECORDINGS:])

    def set_steps(self) -> None:
        """Those of the problem from now on."""
        box, rows = self.state.term.step_sizes
        self.iteration.set_steps(self.state.sigma, box, rows)
        self.current.clear()

    def begin(self) -> DeviceSteps:
        """A run of its own restarts."""
        rule = self.state.rule
        self.iteration.begin(rule.restart_fall, rule.restart_length, rule.least_run, rule.relaxation or 0.0)
        return self

    def run(self, a: Active, made: int, count: int, watch: Watch | None = None) -> None:
        """As HostSteps.run; waits for the device once, at the end, so there is nothing to watch before."""
        self._step(a)
        operators = self.state.measurements.operators
        if count > 1 and self.iteration.records and all(op.recordable for op in operators):
            key = (*self.iteration.key(a), count)
            if key not in self.replays:
                self.replays[key] = self.iteration.record(
                    partial(DeviceSteps._steps, weakref.proxy(self), a, count - 1)
                )
            self.replays[key]()
        else:
            self._steps(a, count - 1)
        self._look(a)

    def _steps(self, a: Active, count: int) -> None:
        for _ in range(count):
            self._step(a)

    def _step(self, a: Active) -> None:
        state, own, term = self.state, self._selection(a), self.state.term
        x, extra, z = (own.of(values) for values in (state.x, state.extra, state.z))
        moved, slope = term.direction(x, extra, z, own.fixed, a)
        self.iteration.extrapolate(a, own.whole(moved), own.whole(slope))
        if term.step_sizes[1] is not None:
            seen = state.measurements.apply(own.of(self.iteration.ahead), a)
            self.iteration.move_rows(a, own.whole(seen), self.y)
        self.iteration.finish(a, term.sign)

    def _selection(self, a: Active) -> _Selection:
        key = a.tobytes()
        if key not in self.current:
            state = self.state
            fixed = state.term.fixed(taken(state.metric, a), state.x, a)
            if key in self.selections:
                for kept, values in zip(self.selections[key].fixed, fixed, strict=True):
                    kept[...] = values
            else:
                index = None if len(a) == state.count else like(a, state.x)
                self.selections[key] = _Selection(len(state.x), index, tuple(one.copy() for one in fixed))
            self.current.add(key)
        return self.selections[key]

    def _look(self, a: Active) -> None:
        lost = self.iteration.lost()[a]
        if not lost.any():
            return
        first = lost[lost > 0].min()
        images = a[lost == first]
        state = self.state
        seen = (taken(values, images) for values in (state.extra, state.x_hat, state.extra_hat))
        raise Fault(images, int(first), state.term.culprit(*seen))


_kept: weakref.WeakKeyDictionary[Any, DeviceSteps] = weakref.WeakKeyDictionary()  # by work space


def _known(state: PrimalDual, rows: AnyArray | None) -> tuple[Any, ...]:
    """What recorded steps know of a problem, beside its operators and where arrays lie."""
    arrays = state.x, state.z, rows, state.measurements.y
    shapes = tuple(None if one is None else (one.shape, one.dtype) for one in arrays)
    return type(state.term), state.box, state.rule, shapes


@dataclass(frozen=True)
class _Selection:
    """Some images of a batch, their numbers on the device (None: all), and the constants of their steps."""

    count: int
    index: AnyArray | None
    fixed: tuple[AnyArray, ...]

    def of(self, values: AnyArray) -> AnyArray:
        """values[index]."""
        return values if self.index is None else values[self.index]

    def whole(self, values: AnyArray) -> AnyArray:
        """(B, ...) with these values; zero for the other images."""
        if self.index is None:
            return values
        result = namespace(values).zeros((self.count, *values.shape[1:]), values.dtype)
        result[self.index] = values
        return result
