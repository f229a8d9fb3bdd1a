"""Steps of the restarted Halpern iteration: `HostSteps` in NumPy, `DeviceSteps` as launches on a device.

Both make the same steps. An application T of the primal-dual map takes s = (x, u, extra) to (x_hat, u_hat, extra_hat);
the iterate is w (2 T(s) - s) + (1 - w) s_0, see primal_dual.py. The device knows the rule itself and is asked for one
number per image after a run of steps; where the operator's work can be recorded, these are a CUDA graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..backend import Iteration
from ..namespaces import like, namespace, put, taken
from ..types import Active, AnyArray, FloatVector
from .data_term import DataTermSteps, Move, column
from .faults import Fault
from .means import DualMeans

if TYPE_CHECKING:
    from .primal_dual import PrimalDual

Watch: TypeAlias = Callable[[int], None]  # the number of a step


@dataclass(frozen=True)
class Halpern:
    """Constants of the iteration.

    restart_fall, restart_length, least_run: start anew when the residual is this share of what it was after the last
    start, or the run is this share of all steps so far; not before so many steps.
    sigma: times lambda sqrt(C) / (rms(x) ||W||): x and u move over their ranges in comparable numbers of steps.
    least_share: sigma ||W||^2 is not less than this share of what the data term takes of tau: where that is much
    (CT), a small sigma gains nothing.
    """

    restart_fall: float = 0.2
    restart_length: float = 0.4
    least_run: int = 3
    sigma: float = 2.0
    least_share: float = 1.0
    data: DataTermSteps = field(default_factory=DataTermSteps)


class Restarts:
    """When each image's iteration starts anew, and the anchor (x, extra, z) that it is pulled to until then."""

    def __init__(self, state: PrimalDual):
        count, self.rule = state.count, state.rule
        self.run_length, self.total = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.first, self.last = np.full(count, np.inf), np.full(count, np.inf)
        self.fresh = np.ones(count, bool)
        self.x, self.extra, self.z = state.x.copy(), state.extra.copy(), state.z.copy()

    def weights(self, a: Active) -> FloatVector:
        """w of the next step: 0 where it starts anew."""
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
        w = column(weight, z_new)
        anchored = (z_new - (1 - w) * taken(restarts.z, a)) / column(np.maximum(weight, 0.25), z_new)
        z_hat = namespace(z_new).where(w > 0, (anchored + z) / 2, z_new)
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
            mixed = w * (2 * hat - taken(now, a)) + (1 - w) * taken(start, a)
            put(now, a, namespace(hat).where(w > 0, mixed, hat))


class DeviceSteps:
    """Steps whose state, weights and restarts stay on the device (`backend.Iteration`).

    The first step of a run of steps is launched as it is, so that whatever a recording may not do has been done:
    kernels are compiled, plans of transforms made, constants copied. The others are replayed.
    """

    def __init__(self, state: PrimalDual, iteration: Iteration):
        # the problem owns this: memory of a device should not wait for a collection of circles
        self.state: PrimalDual = weakref.proxy(state)
        self.iteration = iteration
        self.selections: dict[bytes, _Selection] = {}
        self.replays: dict[Any, Callable[[], None]] = {}

    @classmethod
    def of(cls, state: PrimalDual) -> DeviceSteps | None:
        """For this problem, whose arrays become those of the device; None where the solver makes the steps."""
        first, (_, row_steps) = state.term.box_first, state.term.step_sizes
        has_rows = first is not None or row_steps is not None
        rows = state.extra if has_rows else None
        iteration = state.workspace.iteration(state.x, state.z, rows, state.box, first)
        if iteration is None:
            return None
        state.x, state.z, state.x_hat, state.z_hat = iteration.x, iteration.z, iteration.x_hat, iteration.z_hat
        if has_rows:
            state.extra, state.extra_hat = iteration.rows, iteration.rows_hat
        steps = cls(state, iteration)
        steps.set_steps()
        return steps

    def set_steps(self) -> None:
        """Those of the problem from now on."""
        box, rows = self.state.term.step_sizes
        self.iteration.set_steps(self.state.sigma, box, rows)
        self.selections.clear()
        self.replays.clear()

    def begin(self) -> DeviceSteps:
        """A run of its own restarts."""
        rule = self.state.rule
        self.iteration.begin(rule.restart_fall, rule.restart_length, rule.least_run)
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
            self.iteration.move_rows(a, own.whole(seen), state.measurements.y)
        self.iteration.finish(a, term.sign)

    def _selection(self, a: Active) -> _Selection:
        key = a.tobytes()
        if key not in self.selections:
            state = self.state
            fixed = state.term.fixed(taken(state.metric, a), state.x, a)
            self.selections[key] = _Selection(len(state.x), None if len(a) == state.count else like(a, state.x), fixed)
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
