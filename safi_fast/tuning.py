"""How well candidate reconstructions fit: by a known image, by the noise, or by measurements that were left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import positive, positive_per_image
from .errors import InputError
from .measured import check_image, check_single, one_operator
from .operators import Operator
from .operators.holdout import hold_out
from .solver.data_term import squares
from .types import FloatVector


@dataclass(frozen=True)
class Tuning:
    """What `tune_strength` found: the best strength, and the score of each candidate (the lower the better).

    by: "reference" (mean squared error), "discrepancy" (| ||H x - y||^2 / (m noise_std^2) - 1 |, m the real numbers
    measured: those that are not zero) or "holdout" (mean squared error of predicting the numbers that were left out).
    """

    strength: float
    candidates: FloatVector
    scores: FloatVector
    by: str


@dataclass(frozen=True)
class Task:
    """Candidates (n,), the measurement y and its operator, the one that fits a candidate, and what the scores go by."""

    candidates: FloatVector
    y: NDArray[Any]
    operator: Operator
    fitted: Operator
    lost: NDArray[np.bool_] | None
    reference: NDArray[Any] | None
    noise_std: float | None

    @property
    def measurements(self) -> NDArray[Any]:
        """y once for each candidate: all are solved as one batch."""
        return np.stack([self.y] * len(self.candidates))


def make_task(
    measurement: Any,
    operator: Any,
    candidates: Any,
    *,
    reference: Any,
    noise_std: float | None,
    holdout: float | None,
    seed: int,
    planes: int,
) -> Task:
    """Check the arguments of `tune_strength` and bring them to one form; planes: of the model. Raises InputError."""
    strengths = positive_per_image("candidates", candidates, None)
    if [reference is None, noise_std is None, holdout is None].count(False) != 1:
        raise InputError(
            "pass one of reference=... (a known image), noise_std=... (of a measurement, per real number) and "
            "holdout=... (a share of "
            "the measurements)"
        )
    noise_std = None if noise_std is None else positive("noise_std", noise_std)
    only = one_operator(operator)
    y = check_single(only, measurement, planes)
    shape = only.shape_in if planes == 1 else (planes, *only.shape_in)
    known = None if reference is None else check_image("reference", reference, only, [shape])
    fitted, lost = (only, None) if holdout is None else hold_out(only, holdout, seed)
    return Task(strengths, y, only, fitted, lost, known, noise_std)


def tuned(task: Task, images: NDArray[Any], black: float) -> Tuning:
    """The best of the images (n, H, W) of the candidates.

    black: numbers measured of an image of this value alone count as not measured, where there are no others to tell
    them from.
    """
    scores, by = _scores(task, images, black)
    return Tuning(float(task.candidates[np.argmin(scores)]), task.candidates, scores, by)


def _scores(task: Task, images: NDArray[Any], black: float) -> tuple[FloatVector, str]:
    reference, operator, y = task.reference, task.operator, task.y
    if reference is not None:
        shown = np.abs(images) if np.iscomplexobj(images) and not np.iscomplexobj(reference) else images
        return squares(shown - reference) / reference.size, "reference"
    difference = operator.apply(images) - y
    if task.lost is not None:
        predicted = difference[..., task.lost]
        return squares(predicted) / predicted[0].size, "holdout"
    assert task.noise_std is not None
    blank = np.full(operator.shape_in, black, images.dtype)
    measured = max(1, int(np.count_nonzero(y - operator.apply(blank)))) * (2 if np.iscomplexobj(y) else 1)
    return np.abs(squares(difference) / (measured * task.noise_std**2) - 1), "discrepancy"
