"""Derivatives of reconstruction: of the schedule "gap" under the masks of its last convex problem.

That is min over the box of 1/2 ||H x - y||^2 + lambda ||M . W x||_1. Near its solution, responses that are zero stay
zero (those with |u| < lambda M), pixels at the box stay there, and the others of u stay at their bounds. What is left
to x is a subspace F = {d: d is 0 where the box holds x, and W d where the response is zero}. With P the projection onto
F a change of y or lambda passes on as

    dx = K H^T dy - K H^T (y - H x) dlambda / lambda,      K = P (P H^T H P)^+ P

(implicit differentiation; Vaiter, Deledalle, Fadili, Peyre, Dossal 2013). K is symmetric, so a gradient g with respect
to x becomes

    H K g for y,      -<H K g, y - H x> / lambda for lambda.

K g minimises 1/2 ||H d||^2 - <g, d> over F (solver/saddle.py). For complex images and measurements <.,.> is the real
part, and a gradient is that with respect to the real part, plus i times that with respect to the imaginary part, as in
torch.

u is at its bound, or the box holds a pixel, where one more step of the solver leaves it there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import fft

from . import reconstructing
from .arrays import to_and_fro
from .backend import Backend, Engine
from .errors import BackendError, InputError, shown
from .model import Model
from .operators import Operator
from .solver.data_term import column, half, products
from .solver.halpern import HostSteps
from .solver.metric import metric
from .solver.primal_dual import PrimalDual
from .solver.result import PerImage, Solution, per_image
from .solver.saddle import Saddle, minres
from .solver.schedules import Reconstruct
from .types import AnyArray, FloatArray

Threads: TypeAlias = Callable[[], AbstractContextManager[Any]]

STEPS = 1000  # of MINRES at most
ENOUGH = 1e-5  # its residual by that of zero
SIGMA = 10.0  # of the constraints, times the mean of H^T H over frequencies by the largest of W^T W
OFF = 1e-6  # a pixel is held where it would be so far beyond the box, in parts of its width


@dataclass(frozen=True)
class ReconstructionGradients:
    """Of a number L that depends on the reconstruction.

    measurement: of the shape of what was measured, complex where the operator's measurements are. strength: a number,
    or (B,). steps: products with W, W^T and H^T H each. residual: of the linear system, by its right-hand side; above
    1e-5 where the limit of steps was reached.
    """

    measurement: Any
    strength: PerImage
    steps: int
    residual: PerImage


class ReconstructionVjp:
    """Call it with dL / d(image), of the shape of the Solution's image, to get ReconstructionGradients. Keeps the work
    space of the solve.
    """

    def __init__(
        self, state: PrimalDual, task: reconstructing.Task, multiplier: FloatArray, back: Callable[[Any], Any],
        threads: Threads,
    ):  # fmt: skip
        """multiplier: Q of solver/metric.py. back: takes a result to the caller's library."""
        self._state, self._task, self._back, self._threads = state, task, back, threads
        self._everyone = np.arange(state.count)
        x = state.accepted(self._everyone)
        self._misfit = task.measurements.y - state.measurements.apply(x, self._everyone)
        HostSteps(state).run(self._everyone, 0, 1)
        self._inside = _inside(state)
        owner = state.workspace.hold_bounded() % state.count
        curvature = state.term.curvature.astype(np.float64)
        sigma = SIGMA * curvature.mean(axis=tuple(range(1, curvature.ndim))) / float(multiplier.max())
        sigma = np.broadcast_to(sigma, state.count)
        self._near = curvature + sigma.reshape(-1, *[1] * (x.ndim - 1)) * multiplier
        self._system = Saddle(self._quadratic, self._constraints, self._adjoint, self._precondition, sigma, owner)

    def __call__(self, gradient: Any) -> ReconstructionGradients:
        """Raises InputError for another shape, values that are not finite, or complex ones for real images."""
        task, state = self._task, self._state
        shape = state.x.shape[1:] if task.single else state.x.shape
        array, is_complex = np.asarray(to_and_fro("gradient", gradient)[0]), np.iscomplexobj(state.x)
        if array.shape != shape:
            raise InputError(f"gradient has shape {array.shape}; expected {shape}, that of the image")
        if array.dtype.kind not in ("fiuc" if is_complex else "fiu") or not np.isfinite(array).all():
            kind = "complex" if is_complex else "real"
            raise InputError(f"gradient has values that are no finite {kind} numbers")
        with self._threads():
            wide = np.complex128 if is_complex else np.float64  # float32 rounding would end the recurrences early
            start = self._inside * array.reshape(state.x.shape).astype(wide)
            found = minres(self._system, start, STEPS, ENOUGH)
            passed = state.measurements.apply(self._narrow(found.x), self._everyone)
        to_strength = -products(passed, self._misfit) * task.range.scale / task.strength
        return ReconstructionGradients(
            self._back(per_image(passed, task.single)), per_image(to_strength, task.single), found.steps,
            per_image(found.residual, task.single),
        )  # fmt: skip

    def _narrow(self, x: AnyArray) -> AnyArray:
        """As the kernels take it."""
        return np.ascontiguousarray(self._inside * x, self._state.x.dtype)

    def _quadratic(self, x: AnyArray) -> AnyArray:
        return self._inside * self._state.measurements.normal(self._narrow(x), self._everyone)

    def _constraints(self, x: AnyArray) -> AnyArray:
        return self._state.workspace.held_responses(self._state.parts.split(self._narrow(x), self._everyone))

    def _adjoint(self, p: AnyArray) -> AnyArray:
        seen = self._state.workspace.from_held(p.astype(np.float32))
        return self._inside * self._state.parts.join(seen, self._everyone)

    def _precondition(self, x: AnyArray) -> AnyArray:
        if np.iscomplexobj(x):
            return fft.ifft2(fft.fft2(x) / self._near)
        return self._inside * fft.irfft2(fft.rfft2(x) / half(self._near, x), x.shape[-2:])


def reconstruct_vjp(
    model: Model, engine: Engine, measurement: Any, operator: Operator | Sequence[Operator], strength: Any,
    options: reconstructing.Options, device: Backend | None, back: Callable[[Any], Any], threads: Threads,
) -> tuple[Solution, ReconstructionVjp]:  # fmt: skip
    """The Solution, and what turns a gradient of its image into those of measurement and strength. threads: gives a
    context with as many threads as there are now, which the work space is made for. Raises as `reconstruct`, and
    InputError for arguments that it is not for, BackendError on a GPU.
    """
    if device is not None:
        raise BackendError("derivatives are computed on the CPU alone; pass backend='cpu'")
    schedule = options["schedule"]
    if not (schedule is None or isinstance(schedule, Reconstruct)) and schedule != Reconstruct.name:
        raise InputError(
            f"schedule is {shown(schedule)}; derivatives are those of 'gap', whose last convex problem is solved"
        )
    if options["callback"] is not None or options["max_memory"] is not None:
        raise InputError("derivatives need the whole solve in memory: leave out callback and max_memory")
    task = reconstructing.make_task(model, engine, measurement, operator, strength, options)
    solution, state = reconstructing.run_whole(engine, task)
    return solution, ReconstructionVjp(state, task, metric(engine, *state.x.shape[-2:]), back, threads)


def _inside(state: PrimalDual) -> AnyArray:
    """1 where the box does not hold x, else 0."""
    v = state.term.box_dual(state.extra_hat)
    if v is None or state.box is None:
        return np.float32(1)
    low, high = state.box
    limit = OFF * (high - low) * state.term.step_sizes[0]
    return (np.abs(v) <= column(limit, v)).astype(np.float32)
