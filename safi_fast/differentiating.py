"""Derivatives of denoising: of the schedule "gap" under the masks of its last convex problem, without the steps that
led there; of "unrolled" through every step and every mask.

"gap". With z = W^T (M . u), x = clip(y - z) solves that problem. Near it, responses that are zero at the solution stay
zero (those with |u| < lambda; A chooses them), pixels at the box stay there (D chooses the others), and u stays at its
bound elsewhere. So a change of y passes on as the orthogonal projection

    J = D - N (N^T N)^+ N^T,   N = D W^T M A:     dx = J dy,     dx / dlambda = -J (y - x) / lambda

(implicit differentiation; Vaiter, Deledalle, Fadili, Peyre, Dossal 2013 for l1 analysis regularisers). J g is what is
left of D g when S = N N^T has taken out all it can: the residual of the conjugate residual method for S v = D g
(Stiefel 1955), whose vectors have the size of an image. One product with S is as dear as one step of the solve.

"unrolled". The chain rule backwards through the steps that the work space remembers
(kernels/cpu/filter_bank_gradient.py), for image and lambda, and through the mask generator, for the image that it sees
and its gain and bias. A step back is about as dear as a step. sigma acts through lambda, gain and bias, as tables of
the model over noise levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import color as colors
from . import denoising
from .arrays import ArrayKind, to_and_fro
from .backend import Backend, DualWorkspace, Engine, RecordingWorkspace
from .errors import BackendError, InputError, shown
from .images import Images
from .masks import SafiMask
from .model import Model
from .solver.result import Solution, per_image
from .solver.schedules import Gap, Unrolled
from .types import FloatVector

Threads: TypeAlias = Callable[[], AbstractContextManager[Any]]

STEPS = 500  # of conjugate residuals at most
ENOUGH = 1e-4  # ||S r|| by ||S D g|| where they end


@dataclass(frozen=True)
class Gradients:
    """Of a number L that depends on the result: image, of its shape, and sigma and strength, in the caller's units, a
    number or (B,).

    sigma: of "gap" through lambda alone, at fixed masks; of "unrolled" through lambda and masks. Not through lambda
    where the caller gave `strength`. steps: products with S, or steps that were gone back through.
    """

    image: Any
    sigma: Any
    strength: Any
    steps: int


# of the stack: with respect to y, (N,) to sigma and strength, and steps
Passed = tuple[NDArray[Any], FloatVector, FloatVector, int]


class Vjp(ABC):
    """Call it with dL / d(result), of the shape of the result, to get Gradients. Keeps the work space of the solve."""

    def __init__(self, model: Model, task: denoising.Task, x: NDArray[Any], threads: Threads):
        """x: the result on [0, 1], as stack."""
        self._model, self._task, self._threads = model, task, threads
        self._unclipped = np.float32(1)
        if task.images.color_limits is not None:
            low, high = task.images.color_limits
            shown_colors = colors.to_rgb(np, x)
            self._unclipped = ((shown_colors > low) & (shown_colors < high)).astype(np.float32)

    def __call__(self, gradient: Any) -> Gradients:
        """Raises InputError for another shape, or values that are not finite."""
        images = self._task.images
        array, kind = np.asarray(to_and_fro("gradient", gradient)[0]), images.kind
        if array.shape != images.shape:
            raise InputError(f"gradient has shape {array.shape}; expected {images.shape}, that of the result")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError("gradient has values that are no finite real numbers")
        plain = replace(images, range=denoising.AS_IT_IS, color_limits=None, kind=ArrayKind("numpy"))
        stack = Images.of(array, plain.kind, denoising.AS_IT_IS, images.channel_axis, self._model).stack
        mixed = images.color_limits is not None
        if mixed:
            stack = colors.to_luma_chroma(np, stack * self._unclipped) - colors.to_luma_chroma(np, 0 * stack)
        with self._threads():
            passed, to_sigma, to_strength, steps = self._passed(stack)
        if mixed:
            passed = colors.to_rgb(np, passed) - colors.to_rgb(np, 0 * passed)
        several = not images.several
        by_image = to_strength.reshape(-1, images.alone).sum(1)
        slopes = to_sigma.reshape(-1, images.alone).sum(1)
        return Gradients(
            kind.wrap(replace(plain, dtype=images.dtype).restore(passed)),
            per_image(slopes, several), per_image(by_image, several), steps,
        )  # fmt: skip

    @abstractmethod
    def _passed(self, stack: NDArray[Any]) -> Passed:
        """From dL / dx of the stack."""


class _GapVjp(Vjp):
    """The projection J."""

    def __init__(self, model: Model, task: denoising.Task, workspace: DualWorkspace, given: bool, threads: Threads):
        """given: whether lambda is the caller's."""
        x = np.asarray(workspace.image())
        super().__init__(model, task, x, threads)
        low, high = task.limits
        self._inside = ((x > low) & (x < high)).astype(np.float32)
        self._moved = task.images.stack - x  # y - x
        self._workspace = workspace
        self._slopes = _strength_slopes(model, task, model.strength.converged, given)
        workspace.hold()

    def _passed(self, stack: NDArray[Any]) -> Passed:
        passed, steps = projected(stack * self._inside, self._normal)
        to_strength = -sums(passed * self._moved) / self._task.strength
        return passed, to_strength * self._slopes, to_strength, steps

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._inside * self._workspace.normal_operator(x)


class _UnrolledVjp(Vjp):
    """Through all steps and masks."""

    def __init__(
        self, model: Model, task: denoising.Task, workspace: RecordingWorkspace, given: bool, threads: Threads
    ):
        super().__init__(model, task, np.asarray(workspace.image()), threads)
        mask = model.mask
        assert isinstance(mask, SafiMask)
        self._workspace = workspace
        self._slopes = _strength_slopes(model, task, model.strength.unrolled, given)
        self._gain, self._bias = (_table_slopes(model, task, table) for table in (mask.gain, mask.bias))

    def _passed(self, stack: NDArray[Any]) -> Passed:
        passed, strength, gain, bias = self._workspace.gradients(np.ascontiguousarray(stack, np.float32))
        to_sigma = strength * self._slopes + (gain * self._gain).sum(1) + (bias * self._bias).sum(1)
        return passed, to_sigma, strength, self._task.schedule.outer * self._task.schedule.inner


def denoise_vjp(
    model: Model, engine: Engine, array: Any, kind: ArrayKind, sigma: Any, options: denoising.Options,
    device: Backend | None, threads: Threads,
) -> tuple[Solution, Vjp]:  # fmt: skip
    """The Solution, and what turns a gradient of its image into those of the arguments. threads: gives a context
    with as many threads as there are now, which the work space is made for. Raises as `denoise`, and InputError for a
    schedule or arguments that it is not for, BackendError on a GPU.
    """
    if device is not None:
        raise BackendError("derivatives are computed on the CPU alone; pass backend='cpu'")
    unrolled = options["schedule"] == Unrolled.name or isinstance(options["schedule"], Unrolled)
    if not unrolled and options["schedule"] not in (None, Gap.name):
        raise InputError(f"schedule is {shown(options['schedule'])}; derivatives are those of 'gap' and 'unrolled'")
    if unrolled and not isinstance(model.mask, SafiMask):
        raise InputError(
            f"derivatives of 'unrolled' are for the family 'safi'; {model.name!r} is {model.family!r}, for which there "
            f"are those of 'gap'"
        )
    if options["noise"] != "gaussian" or (isinstance(sigma, str) or np.ndim(sigma) > 1):
        raise InputError("derivatives are for Gaussian noise with sigma as a number or one per image")
    if options["callback"] is not None or options["max_memory"] is not None:
        raise InputError("derivatives need the whole solve in memory: leave out callback and max_memory")
    given = options["strength"] is not None
    if unrolled:
        task = denoising.make_task(model, engine, array, kind, sigma, options)
        count, (height, width) = len(task.images.stack), task.images.stack.shape[-2:]
        recording = engine.recording_workspace(count, height, width, task.schedule.outer, task.schedule.inner)
        return denoising.run_in(recording, task), _UnrolledVjp(model, task, recording, given, threads)
    task = denoising.make_task(model, engine, array, kind, sigma, {**options, "schedule": "gap"})
    solution, workspace = denoising.run_whole(engine, task)
    return solution, _GapVjp(model, task, workspace, given, threads)


def _strength_slopes(model: Model, task: denoising.Task, table: FloatVector, given: bool) -> FloatVector:
    """d lambda / d sigma of each of the stack, of a table that is linear in the logarithm of lambda; zeros where lambda
    is given.
    """
    return np.asarray(_table_slopes(model, task, np.log(table)) * task.strength * (not given))


def _table_slopes(model: Model, task: denoising.Task, table: NDArray[Any]) -> FloatVector:
    """d / d sigma of a table (K, ...) over noise levels that is linear between them, for each of the stack."""
    levels, sigmas = model.noise_levels, task.noise.repeat(task.images.alone) / task.images.range.scale
    if len(levels) == 1:
        return np.zeros((len(sigmas), *table.shape[1:]))
    above = np.searchsorted(levels, sigmas).clip(1, len(levels) - 1)
    rise = table.astype(np.float64)[above] - table[above - 1]
    return np.asarray(rise / (levels[above] - levels[above - 1]).reshape(-1, *[1] * (table.ndim - 1)))


def projected(
    start: NDArray[Any], normal: Callable[[NDArray[Any]], NDArray[Any]], steps: int = STEPS, enough: float = ENOUGH
) -> tuple[NDArray[Any], int]:
    """What is left of a batch of images, (N, ...), when `normal` (symmetric, not negative) has taken out its range, and
    the products that it took: the residual of conjugate residuals.
    """
    residual = start.astype(np.float32)
    seen = normal(residual)
    direction, moved = residual.copy(), seen.copy()
    energy, limit = sums(residual * seen), enough**2 * sums(seen * seen)
    for step in range(1, steps + 1):
        size = sums(moved * moved)
        length = np.divide(energy, size, out=np.zeros_like(energy), where=size > 0)
        residual = residual - along(length, residual) * moved
        seen = normal(residual)
        if (sums(seen * seen) <= limit).all():
            return residual, step + 1
        before, energy = energy, sums(residual * seen)
        share = along(np.divide(energy, before, out=np.zeros_like(energy), where=before > 0), residual)
        direction = residual + share * direction
        moved = seen + share * moved
    return residual, steps + 1


def sums(values: NDArray[Any]) -> FloatVector:
    """Of each image."""
    return np.asarray(values.reshape(len(values), -1).sum(1, dtype=np.float64))


def along(values: FloatVector, images: NDArray[Any]) -> NDArray[np.float32]:
    """One number per image, as an array that multiplies images."""
    return values.astype(np.float32).reshape(-1, *[1] * (images.ndim - 1))
