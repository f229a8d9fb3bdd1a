"""reconstruct() and tune_strength(): images from measurements of a forward operator, with a certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .arrays import positive, positive_per_image
from .backend import Engine
from .errors import InputError
from .model import Model
from .operators import Operator as Operator
from .operators import check_operator
from .solver import reconstruction
from .solver.data_term import Box, Measurements, squares
from .solver.lipschitz import squared_norm
from .solver.primal_dual import PrimalDual
from .solver.result import OuterState, Solution

Callback = Callable[[OuterState], None]
MaskOf = Literal["magnitude", "parts"]

MAX_OUTER, MAX_ITER, TOLERANCE = 10, 300, 1e-3


@dataclass(frozen=True)
class Task:
    """What `reconstruct` was asked for, checked: measurements (B, *shape_out), operators (one or B), start and limits."""

    measurements: Measurements
    strength: NDArray[np.float64]
    start: NDArray[Any]
    box: Box | None
    scale: float
    single: bool
    gain: NDArray[np.float32]
    bias: NDArray[np.float32]
    limits: reconstruction.Limits


def make_task(
    model: Model,
    measurement: Any,
    operator: Operator | Sequence[Operator],
    strength: Any,
    noise_level: float | None,
    data_range: float,
    box: Box | None,
    x0: Any,
    max_outer: int,
    max_iter: int,
    tol: float,
) -> Task:
    """Check and bring to one form. Raises InputError and OperatorError."""
    operators = [operator] if isinstance(operator, Operator) else list(operator)
    if not operators or not all(isinstance(op, Operator) for op in operators):
        raise InputError(
            f"operator is {type(operator).__name__}; expected an Operator of safi_fast.operators, or a list of them "
            "(from_scipy, from_functions and others make one)"
        )
    first = operators[0]
    if any(op.shape_in != first.shape_in or op.image != first.image for op in operators):
        raise InputError("operators differ in shape_in or image; expected images of one shape and kind")
    if min(first.shape_in) < model.smallest_side:
        raise InputError(
            f"operator makes images of {first.shape_in[0]} x {first.shape_in[1]} pixels; "
            f"the filters of this model need {model.smallest_side} x {model.smallest_side} or more"
        )
    for op in dict.fromkeys(operators):
        check_operator(op)
    y, single = _measurements(measurement, operators)
    scale = positive("data_range", data_range)
    y = (y / np.float32(scale)).astype(y.dtype)
    count = len(y)
    if first.image == "complex" and box is not None:
        raise InputError(f"box is {box!r}, but the operator has complex images; pass box=None")
    level = model.noise_levels[len(model.noise_levels) // 2] if noise_level is None else noise_level / scale
    conditioned = model.at(level, strength_given=True, argument="noise_level")
    measurements = Measurements(operators, y)
    return Task(
        measurements,
        positive_per_image("strength", strength, count),
        _start(x0, measurements, first, box, scale, single),
        box,
        scale,
        single,
        np.repeat(conditioned.gain[None], count, axis=0),
        np.repeat(conditioned.bias[None], count, axis=0),
        reconstruction.Limits(max_outer, max_iter, positive("tol", tol), positive("tol", tol)),
    )


def _measurements(measurement: Any, operators: list[Operator]) -> tuple[NDArray[Any], bool]:
    """(B, *shape_out), and whether the caller gave one alone."""
    first = operators[0]
    if len(operators) > 1:
        if len(measurement) != len(operators):
            raise InputError(
                f"measurement has {len(measurement)} entries for {len(operators)} operators; expected one each"
            )
        return np.stack([op.check_measurement(one) for op, one in zip(operators, measurement, strict=True)]), False
    y = first.check_measurement(measurement)
    single = y.ndim == len(first.shape_out)
    return y.reshape(-1, *first.shape_out), single


def _start(
    x0: Any, measurements: Measurements, operator: Operator, box: Box | None, scale: float, single: bool
) -> NDArray[Any]:
    """x0 as a batch on the scale of the solver; by default one least-squares step from zero."""
    dtype = np.complex64 if operator.image == "complex" else np.float32
    x: NDArray[Any]
    if x0 is None:
        everyone = np.arange(len(measurements.y))
        back = measurements.adjoint(measurements.y, everyone)
        normal = measurements.apply(back, everyone)
        step = squares(back) / np.maximum(squares(normal), np.finfo(np.float64).tiny)
        x = (back * step.reshape(-1, 1, 1)).astype(dtype)
    else:
        x = np.asarray(x0) / scale
        if (
            x.shape[-2:] != operator.shape_in
            or x.size != len(measurements.y) * operator.shape_in[0] * operator.shape_in[1]
        ):
            raise InputError(
                f"x0 has shape {np.shape(x0)}; expected {operator.shape_in} for each of {len(measurements.y)} images"
            )
        if not np.isfinite(x).all():
            raise InputError("x0 has values that are NaN or infinite")
        x = x.reshape(-1, *operator.shape_in).astype(dtype)
    return x if box is None else np.clip(x, np.float32(box[0]), np.float32(box[1]))


def run(
    engine: Engine, model: Model, task: Task, *, mask_of: MaskOf = "magnitude", callback: Callback | None = None
) -> tuple[reconstruction.Report, NDArray[Any], NDArray[np.float32]]:
    """Solve a task: the report, the images (B, H, W) on the caller's scale, and the last masks."""
    x = task.start
    parts = 2 if np.iscomplexobj(x) else 1
    height, width = x.shape[1:]
    workspace = engine.workspace(len(x) * parts, height, width)
    strength = np.tile(task.strength, parts).astype(np.float32)
    limits = (-np.inf, np.inf) if task.box is None else task.box
    workspace.load(np.zeros((len(strength), height, width), np.float32), strength, np.ones_like(strength), limits)
    workspace.clear_dual(np.arange(len(strength)))
    state = PrimalDual(
        workspace,
        task.measurements,
        task.strength,
        squared_norm(engine, height, width),
        model.filters.channels,
        x,
        task.box,
    )
    report = reconstruction.solve(
        state, task.gain, task.bias, task.limits, mask_of=mask_of, callback=_on_scale(callback, task.scale)
    )
    return report, state.image(np.arange(len(x))) * np.float32(task.scale), workspace.masks()[: len(x)]


def _on_scale(callback: Callback | None, scale: float) -> Callback | None:
    if callback is None or scale == 1:
        return callback
    return lambda state: callback(replace(state, image=lambda: state.image() * np.float32(scale)))


def solution(
    report: reconstruction.Report, image: NDArray[Any], masks: NDArray[np.float32] | None, single: bool
) -> Solution:
    """The report and the images as the caller gets them."""

    def one(values: NDArray[Any]) -> Any:
        if not single:
            return values
        return values[0].item() if isinstance(values[0], np.generic) else values[0]

    fields = ("inner_iterations", "relative_gap", "objective", "outer_residual")
    history = tuple(replace(r, **{name: one(getattr(r, name)) for name in fields}) for r in report.history)
    status = one(report.status)
    return Solution(
        image=one(image),
        status=status,
        converged=report.status == "converged" if not single else status == "converged",
        outer_iterations=one(report.outer_iterations),
        inner_iterations=one(report.inner_iterations),
        gap=one(report.gap),
        relative_gap=one(report.certificate),
        outer_residual=one(report.outer_residual),
        history=history,
        masks=None if masks is None else one(masks),
    )


@dataclass(frozen=True)
class Tuning:
    """What `tune_strength` found: the best strength, and the score of each candidate (the lower the better).

    by: "reference" (mean squared error), "discrepancy" (| ||H x - y||^2 / (m noise_std^2) - 1 |) or "hold-out" (mean squared
    error of the measurements left out).
    """

    strength: float
    candidates: NDArray[np.float64]
    scores: NDArray[np.float64]
    by: str


def score(
    images: NDArray[Any], operator: Operator, y: NDArray[Any], reference: Any, noise_std: float | None
) -> tuple[NDArray[np.float64], str]:
    """Scores of candidate images (n, H, W) by a reference, a real one by the magnitude, or by the discrepancy principle."""
    if reference is not None:
        target = np.asarray(reference)
        if target.shape != operator.shape_in:
            raise InputError(f"reference has shape {target.shape}; expected {operator.shape_in}")
        shown = np.abs(images) if np.iscomplexobj(images) and not np.iscomplexobj(target) else images
        return squares((shown - target).astype(shown.dtype)) / target.size, "reference"
    assert noise_std is not None
    residual = squares((operator.apply(images) - y).astype(y.dtype))
    measured = np.count_nonzero(y) * (2 if np.iscomplexobj(y) else 1)
    return np.abs(residual / (measured * noise_std**2) - 1), "discrepancy"
