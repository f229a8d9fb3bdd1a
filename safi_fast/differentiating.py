"""Derivatives of denoising under the masks of its last convex problem, without the steps that led there.

With z = W^T (M . u), x = clip(y - z) solves that problem. Near it, responses that are zero at the solution stay zero
(those with |u| < lambda; A chooses them), pixels at the box stay there (D chooses the others), and u stays at its bound
elsewhere. So a change of y passes on as the orthogonal projection

    J = D - N (N^T N)^+ N^T,   N = D W^T M A:     dx = J dy,     dx / dlambda = -J (y - x) / lambda

(implicit differentiation; Vaiter, Deledalle, Fadili, Peyre, Dossal 2013 for l1 analysis regularisers). J g is what is
left of D g when S = N N^T has taken out all it can: the residual of the conjugate residual method for S v = D g
(Stiefel 1955), whose vectors have the size of an image. One product with S is as dear as one step of the solve.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import color as colors
from . import denoising
from .arrays import ArrayKind
from .backend import Backend, DualWorkspace, Engine
from .errors import BackendError, InputError, shown
from .images import Images
from .model import Model
from .solver.result import Solution, per_image
from .types import FloatVector

Threads: TypeAlias = Callable[[], AbstractContextManager[Any]]

STEPS = 500  # of conjugate residuals at most
ENOUGH = 1e-4  # ||S r|| by ||S D g|| where they end


@dataclass(frozen=True)
class Gradients:
    """Of a number L that depends on the result: image, of its shape, and sigma and strength, in the caller's units, a
    number or (B,).

    sigma: through lambda alone, at fixed masks; zero where the caller gave `strength`. steps: products with S.
    """

    image: Any
    sigma: Any
    strength: Any
    steps: int


class Vjp:
    """Call it with dL / d(result), of the shape of the result, to get Gradients. Keeps the work space of the solve."""

    def __init__(self, model: Model, task: denoising.Task, workspace: DualWorkspace, slopes: Any, threads: Threads):
        self._model, self._task, self._workspace, self._slopes = model, task, workspace, slopes
        self._threads = threads
        x = np.asarray(workspace.image())
        low, high = task.limits
        self._inside = ((x > low) & (x < high)).astype(np.float32)
        self._moved = task.images.stack - x  # y - x
        self._unclipped = np.float32(1)
        if task.images.color_limits is not None:
            low, high = task.images.color_limits
            shown_colors = colors.to_rgb(np, x)
            self._unclipped = ((shown_colors > low) & (shown_colors < high)).astype(np.float32)
        workspace.hold()

    def __call__(self, gradient: Any) -> Gradients:
        """Raises InputError for another shape, or values that are not finite."""
        task, images = self._task, self._task.images
        array, kind = np.asarray(gradient), images.kind
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
            passed, steps = projected(stack * self._inside, self._normal)
        to_strength = -sums(passed * self._moved) / task.strength
        if mixed:
            passed = colors.to_rgb(np, passed) - colors.to_rgb(np, 0 * passed)
        several = not images.several
        by_image = to_strength.reshape(-1, images.alone).sum(1)
        slopes = (to_strength * self._slopes).reshape(-1, images.alone).sum(1)
        return Gradients(
            kind.wrap(replace(plain, dtype=images.dtype).restore(passed)),
            per_image(slopes, several), per_image(by_image, several), steps,
        )  # fmt: skip

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._inside * self._workspace.normal_operator(x)


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
    if options["schedule"] not in (None, "gap"):
        raise InputError(f"schedule is {shown(options['schedule'])}; derivatives are those of 'gap'")
    if options["noise"] != "gaussian" or (isinstance(sigma, str) or np.ndim(sigma) > 1):
        raise InputError("derivatives are for Gaussian noise with sigma as a number or one per image")
    if options["callback"] is not None or options["max_memory"] is not None:
        raise InputError("derivatives need the whole solve in memory: leave out callback and max_memory")
    task = denoising.make_task(model, engine, array, kind, sigma, {**options, "schedule": "gap"})
    solution, workspace = denoising.run_whole(engine, task)
    given = options["strength"] is not None
    return solution, Vjp(model, task, workspace, 0.0 if given else slopes_of(model, task), threads)


def slopes_of(model: Model, task: denoising.Task) -> FloatVector:
    """d lambda / d sigma of each of the stack: of the table of `converged`, linear in the logarithm of lambda."""
    levels, values = model.noise_levels, np.log(model.strength.converged)
    if len(levels) == 1:
        return np.zeros(len(task.strength))
    sigmas = task.noise.repeat(task.images.alone) / task.images.range.scale
    above = np.searchsorted(levels, sigmas).clip(1, len(levels) - 1)
    slope = (values[above] - values[above - 1]) / (levels[above] - levels[above - 1])
    return np.asarray(slope * task.strength)


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
