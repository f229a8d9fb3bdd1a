"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

CONVERGED = "converged"
COMPLETED = "completed"
MAX_ITERATIONS = "max_iterations"
STOPPED = "stopped"

STATUS_MESSAGES = {
    CONVERGED: "The stopping rule was met: relative gap and outer change (gap, reconstruct), "
    "or the published rules (converged).",
    COMPLETED: "The fixed number of steps was done; `unrolled` has no stopping rule.",
    MAX_ITERATIONS: "The limit of steps was reached before the stopping rule was met.",
    STOPPED: "The callback raised StopIteration.",
}

WORST_FIRST = (STOPPED, MAX_ITERATIONS, COMPLETED, CONVERGED)

# One value for a single image, an array (B,) for a batch.
PerImage: TypeAlias = Any


def per_image(values: NDArray[Any], single: bool) -> PerImage:
    """The value of a single image, else the array of all; plain Python numbers where NumPy would give scalars."""
    if not single:
        return values
    return values[0].item() if isinstance(values[0], np.generic) else values[0]


@dataclass(frozen=True)
class OuterRecord:
    """One outer step: inner steps made, relative duality gap and objective at its end, change since the step before.

    For a batch, arrays (B,); an image that has stopped keeps its last values and makes 0 inner steps.
    """

    inner_iterations: PerImage
    relative_gap: PerImage
    objective: PerImage
    outer_residual: PerImage


def worst_status(status: PerImage) -> str:
    """That of the image that is worst off."""
    statuses = np.atleast_1d(np.asarray(status, dtype=object)).ravel().tolist()
    return min(map(str, statuses), key=lambda one: WORST_FIRST.index(one) if one in WORST_FIRST else -1)


def joined_history(histories: Sequence[Sequence[OuterRecord]]) -> list[OuterRecord]:
    """One history of batches that were solved one after the other; one that made fewer outer steps repeats its last
    record with 0 steps.
    """
    joined = []
    for number in range(max(map(len, histories))):
        rows = []
        for history in histories:
            row = history[min(number, len(history) - 1)]
            if number >= len(history):
                row = replace(row, inner_iterations=np.zeros_like(row.inner_iterations))
            rows.append(row)
        values = {f.name: np.concatenate([getattr(row, f.name) for row in rows]) for f in fields(OuterRecord)}
        joined.append(OuterRecord(**values))
    return joined


@dataclass(frozen=True, repr=False)
class Solution:
    """A reconstruction and the account of how it was reached. For a batch, every entry but `history` has a value per
    image.

    image: the caller's library, device, shape and range.
    status: "converged", "completed" (fixed schedule), "max_iterations" or "stopped"; see STATUS_MESSAGES.
    converged: status == "converged".
    outer_iterations, inner_iterations: steps made (inner: the sum over outer steps).
    gap, relative_gap: duality gap f(x) - f* <= gap of the last convex problem, for the image on [0, 1]; relative to
        f(x). From `reconstruct` without a box it is that over the ball ||x' - x|| <= R, R the larger of ||x|| and the
        size of one least-squares step from zero: f(x) - f(x') <= gap for all images x' of it, f(x) - f(x') <= gap
        ||x' - x|| / R for others.
    outer_residual: ||x - s|| / ||s|| of the last outer step, s the image that its mask was computed from: how far the
    outer iteration is from its fixed point.
    history: one OuterRecord per outer step. Of a colour image all of these have a value per channel, or per plane of
    luma and chroma, whose colours are clipped to the box afterwards. Of an image that was solved in tiles
    (max_memory) gap, relative_gap and outer_residual are NaN: tiles have no common certificate.
    masks: float32 (C, H, W) or (B, C, H, W) of the last outer step, where asked for.
    sigma: standard deviation of the noise that `denoise` took away, in the units of the image: as it was passed, or as
        estimated; of a colour image one value. None from `reconstruct`.
    """

    image: Any
    status: PerImage
    converged: PerImage
    outer_iterations: PerImage
    inner_iterations: PerImage
    gap: PerImage
    relative_gap: PerImage
    outer_residual: PerImage
    history: Sequence[OuterRecord] = ()
    masks: NDArray[np.float32] | None = None
    sigma: PerImage = None

    def __repr__(self) -> str:
        """One line; of a batch the worst status and the largest values."""
        shape, dtype = " x ".join(map(str, self.image.shape)), str(self.image.dtype).removeprefix("torch.")
        figures = (f"{name}={_largest(getattr(self, name)):.2g}" for name in ("relative_gap", "outer_residual"))
        return f"Solution({worst_status(self.status)}, {shape} {dtype}, {', '.join(figures)})"


def _largest(values: PerImage) -> float:
    return float(values.max() if hasattr(values, "max") else values)


@dataclass(frozen=True)
class OuterState:
    """What a callback sees after each outer step; raise StopIteration in it to stop.

    outer: 0, 1, ...; active: indices of the images still running; record: see OuterRecord, arrays (B,) always;
    image(): a copy of the current images (B, H, W) on [0, 1], whatever data_range is; call it within the callback.
    The copy is the caller's: a solve that fails later does not touch it.
    """

    outer: int
    active: NDArray[np.int64]
    record: OuterRecord
    image: Callable[[], NDArray[Any]] = field(repr=False)


@dataclass(frozen=True)
class InnerState:
    """What `watch` of `reconstruct` sees after each inner step.

    outer: 0, 1, ..., as in OuterState; active: indices of the images that made the step, of the whole batch.
    step, steps: inner steps made under this mask, and at most; "fast" makes exactly so many.
    relative_gap: of each of `active`, of the last certificate, under this mask or an earlier one; infinite before the
    first. "gap" takes one every 20 steps, "fast" at the end of each mask.
    """

    outer: int
    active: NDArray[np.int64]
    step: int
    steps: int
    relative_gap: NDArray[np.float64]
