"""reconstruct() and tune_strength(): images from measurements of a forward operator, with a certificate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .arrays import positive, positive_per_image
from .backend import Engine
from .errors import InputError, OperatorError, SolverError, shown
from .explained import check_explained, check_steady
from .memory import Images, divide
from .model import Model
from .operators import Operator as Operator
from .operators import check_operator
from .operators.base import finite, numbers
from .operators.holdout import hold_out as hold_out
from .plausible import check_measurements
from .solver import reconstruction
from .solver.data_term import Box, Measurements, squares
from .solver.faults import Fault
from .solver.lipschitz import squared_norm
from .solver.primal_dual import PrimalDual
from .solver.result import CONVERGED, OuterState, Solution, per_image
from .values import DataRange, Range, stated_range

Callback = Callable[[OuterState], None]
MaskOf = Literal["magnitude", "parts"]

MAX_OUTER, MAX_ITER, TOLERANCE = 20, 1000, 1e-3
LARGEST_START = 1e6  # times white
OUTER_TOLERANCE = 3.0  # times the tolerance of the certificate: change of the image from one mask to the next


@dataclass(frozen=True)
class Task:
    """What `reconstruct` was asked for, checked: measurements (B, *shape_out), operators (one or B), start and limits."""

    measurements: Measurements
    strength: NDArray[np.float64]
    step: NDArray[Any]  # least-squares from zero
    start: NDArray[Any]
    box: Box | None
    range: Range
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
    data_range: DataRange,
    box: Box | None,
    x0: Any,
    max_outer: int,
    max_iter: int,
    tol: float,
) -> Task:
    """Check and bring to one form. Raises InputError and OperatorError."""
    operators = _operators(operator)
    first = operators[0]
    if min(first.shape_in) < model.smallest_side:
        raise InputError(
            f"operator makes images of {first.shape_in[0]} x {first.shape_in[1]} pixels; "
            f"the filters of this model need {model.smallest_side} x {model.smallest_side} or more"
        )
    for op in dict.fromkeys(operators):
        check_operator(op)
    y, single = _measurements(measurement, operators)
    meaning = stated_range(data_range)
    y = _to_unit(y, operators, meaning)
    count = len(y)
    if first.image == "complex" and box is not None:
        raise InputError(f"box is {shown(box)}, but the operator has complex images; pass box=None")
    if box is not None and not np.isfinite(box).all():
        raise InputError(f"box is {shown(box)}; expected two finite numbers, which the duality gap needs, or None")
    level = middle_level(model) if noise_level is None else positive("noise_level", noise_level) / meaning.scale
    tolerance = positive("tol", tol)
    conditioned = model.at(level, strength_given=True, argument="noise_level")
    measurements = Measurements(operators, y)
    step = measurements.least_squares_step()
    if not np.isfinite(step).all():
        raise OperatorError(f"{first.name}: a least-squares step from zero has values that are not finite")
    check_measurements(measurements, step, box, meaning)
    return Task(
        measurements,
        positive_per_image("strength", strength, count),
        step,
        _start(x0, step, first, box, meaning, single),
        box,
        meaning,
        single,
        np.repeat(conditioned.gain[None], count, axis=0),
        np.repeat(conditioned.bias[None], count, axis=0),
        reconstruction.Limits(max_outer, max_iter, tolerance, OUTER_TOLERANCE * tolerance),
    )


def middle_level(model: Model) -> float:
    """The noise level, for images on [0, 1], that a mask generator expects where the caller says nothing."""
    return float(model.noise_levels[len(model.noise_levels) // 2])


def _operators(operator: Any) -> list[Operator]:
    """One operator or several as a list. Raises InputError."""
    operators: list[Any] = [operator]
    if not isinstance(operator, Operator) and isinstance(operator, Iterable):
        operators = list(operator)
    if not operators or not all(isinstance(op, Operator) for op in operators):
        raise InputError(
            f"operator is {type(operator).__name__}; expected an Operator of safi_fast.operators, or a list of them "
            "(from_scipy, from_functions and others make one)"
        )
    for name in ("shape_in", "shape_out", "image", "complex"):
        values = list(dict.fromkeys(getattr(op, name) for op in operators))
        if len(values) > 1:
            raise InputError(
                f"operators differ in {name}: {values[0]} and {values[1]}; expected one for all of a batch"
            )
    return operators


def one_operator(operator: Any) -> Operator:
    """The operator of a single measurement. Raises InputError."""
    operators = _operators(operator)
    if len(operators) > 1:
        raise InputError(f"operator is a list of {len(operators)}; expected one operator")
    return operators[0]


def _measurements(measurement: Any, operators: list[Operator]) -> tuple[NDArray[Any], bool]:
    """(B, *shape_out), and whether the caller gave one alone."""
    first, count = operators[0], len(operators)
    if count > 1:
        entries = list(measurement)
        if len(entries) != count:
            raise InputError(f"measurement has {len(entries)} entries for {count} operators; expected one each")
        return np.stack([check_single(op, one) for op, one in zip(operators, entries, strict=True)]), False
    y = _own(first, measurement)
    dimensions = len(first.shape_out)
    if y.ndim > dimensions + 1 or y.size == 0:
        expected = ", ".join(map(str, first.shape_out))
        raise InputError(f"measurement has shape {y.shape}; expected ({expected}) or (B, {expected})")
    return y.reshape(-1, *first.shape_out), y.ndim == dimensions


def _to_unit(y: NDArray[Any], operators: list[Operator], meaning: Range) -> NDArray[Any]:
    """(y - H(low)) / (high - low), the measurements (B, *shape_out) of images whose black is 0 and white 1. Raises InputError."""
    first, black = operators[0], meaning.low
    if black and first.image == "complex":
        raise InputError(
            f"data_range is ({black:g}, {meaning.high:g}), but {first.name} has complex images, which have no black; pass one number, "
            "the magnitude of white"
        )
    if black:
        blank = np.full(first.shape_in, black, np.float32)
        y = y - np.stack([op.apply(blank) for op in operators])
    return (y / np.float32(meaning.scale)).astype(first._measured)


def _own(operator: Operator, measurement: Any) -> NDArray[Any]:
    """A measurement in the form that a solve uses. Raises InputError, also where it cannot be one of this operator."""
    y = operator.check_measurement(measurement)
    operator._check_own(measurement)
    return y


def check_single(operator: Operator, measurement: Any) -> NDArray[Any]:
    """One measurement of an operator. Raises InputError."""
    y = _own(operator, measurement)
    if y.shape != operator.shape_out:
        raise InputError(f"measurement has shape {y.shape}; expected {operator.shape_out}")
    return y


def _start(
    x0: Any, step: NDArray[Any], operator: Operator, box: Box | None, meaning: Range, single: bool
) -> NDArray[Any]:
    """x0 as a batch on the scale of the solver; by default `step`, one least-squares step from zero."""
    dtype = np.complex64 if operator.image == "complex" else np.float32
    x: NDArray[Any]
    count = len(step)
    if x0 is None:
        x = step.astype(dtype)
    else:
        shapes = [operator.shape_in] if single else [operator.shape_in, (count, *operator.shape_in)]
        given = check_image("x0", x0, operator, shapes)
        if (top := float(np.abs(given).max())) > LARGEST_START * max(abs(meaning.low), abs(meaning.high)):
            raise InputError(
                f"x0 has values up to {top:.3g}, far from data_range, whose white is {meaning.high:g}; expected an image to start from"
            )
        x = np.broadcast_to(meaning.to_unit(given), (count, *operator.shape_in)).astype(dtype)
    return x if box is None else np.clip(x, np.float32(box[0]), np.float32(box[1]))


def check_image(name: str, value: Any, operator: Operator, shapes: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    """The argument `name` as a finite array of one of these shapes, of numbers that an image of the operator can have. Raises InputError."""
    image = numbers(name, value)
    if image.shape not in shapes:
        raise InputError(f"{name} has shape {image.shape}; expected {' or '.join(map(str, shapes))}")
    finite(name, image)
    if np.iscomplexobj(image) and operator.image == "real":
        raise InputError(f"{name} is complex ({image.dtype}); the images of {operator.name} are real")
    return image


def run(
    engine: Engine, model: Model, task: Task, *, mask_of: MaskOf = "magnitude", callback: Callback | None = None
) -> tuple[reconstruction.Report, NDArray[Any], NDArray[np.float32]]:
    """Solve a task: the report, the images (B, H, W) on the caller's scale, and the last masks. Raises InputError for a wrong mask_of,
    OperatorError and SolverError where an image is no longer finite.

    As many images at once as `memory.divide` says; all of them where a callback wants to see them.
    """
    if mask_of not in get_args(MaskOf):
        raise InputError(f"mask_of is {shown(mask_of)}; expected 'magnitude' or 'parts'")
    count, height, width = task.start.shape
    parts = 2 if np.iscomplexobj(task.start) else 1
    sizes = Images(task.start.itemsize, count, height, width * parts)
    batch = divide(engine, sizes, at_once=callback is not None).batch
    solved = []
    for first in range(0, count, batch):
        try:
            solved.append(_run(engine, model, _part(task, slice(first, first + batch)), mask_of, callback))
        except Fault as fault:
            raise _error(fault, task, first, whole=batch >= count) from None
    reports, images, masks = zip(*solved, strict=True)
    image = np.concatenate(images)
    unit = task.range.to_unit(image)
    try:
        check_steady(task.measurements, unit, task.step)
    except OperatorError as error:
        error.image = per_image(image, task.single)
        raise
    report = reconstruction.joined(reports)
    check_explained(task.measurements, unit, report.certificate, task.range)
    return report, image, np.concatenate(masks)


def _error(fault: Fault, task: Task, first: int, whole: bool) -> OperatorError | SolverError:
    """A fault in the part of a task that begins with image `first` as the caller gets it."""
    operators = task.measurements.operators
    operator = operators[0 if len(operators) == 1 else first + int(fault.images[0])]
    error = fault.error(operator.name, first, task.single)
    if whole and fault.image is not None:
        error.image = per_image(task.range.from_unit(fault.image), task.single)
    return error


def _part(task: Task, images: slice) -> Task:
    whole = task.measurements
    operators = whole.operators if len(whole.operators) == 1 else whole.operators[images]
    cut = {name: getattr(task, name)[images] for name in ("strength", "start", "gain", "bias")}
    return replace(task, measurements=Measurements(operators, whole.y[images]), **cut)


def _run(
    engine: Engine, model: Model, task: Task, mask_of: MaskOf, callback: Callback | None
) -> tuple[reconstruction.Report, NDArray[Any], NDArray[np.float32]]:
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
    report = reconstruction.solve(state, task.gain, task.bias, task.limits, mask_of=mask_of, callback=callback)
    return report, task.range.from_unit(state.image(np.arange(len(x)))), workspace.masks()[: len(x)]


def solution(
    report: reconstruction.Report, image: NDArray[Any], masks: NDArray[np.float32] | None, single: bool
) -> Solution:
    """The report and the images as the caller gets them."""

    def one(values: NDArray[Any]) -> Any:
        return per_image(values, single)

    fields = ("inner_iterations", "relative_gap", "objective", "outer_residual")
    history = tuple(replace(r, **{name: one(getattr(r, name)) for name in fields}) for r in report.history)
    status = one(report.status)
    return Solution(
        image=one(image),
        status=status,
        converged=status == CONVERGED,
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

    by: "reference" (mean squared error), "discrepancy" (| ||H x - y||^2 / (m noise_std^2) - 1 |, m the real numbers measured: those
    that are not zero) or "holdout" (mean squared error of predicting the numbers that were left out).
    """

    strength: float
    candidates: NDArray[np.float64]
    scores: NDArray[np.float64]
    by: str


def score(
    images: NDArray[Any],
    operator: Operator,
    y: NDArray[Any],
    *,
    reference: Any = None,
    noise_std: float | None = None,
    lost: NDArray[np.bool_] | None = None,
    black: float = 0.0,
) -> tuple[NDArray[np.float64], str]:
    """Scores of candidate images (n, H, W) by a reference, a real one by the magnitude; by the discrepancy principle; or by what was lost.

    black: numbers measured of an image of this value alone count as not measured, where there are no others to tell them from.
    """
    if reference is not None:
        shown = np.abs(images) if np.iscomplexobj(images) and not np.iscomplexobj(reference) else images
        return squares(shown - reference) / reference.size, "reference"
    difference = operator.apply(images) - y
    if lost is not None:
        return squares(difference[:, lost]) / np.count_nonzero(lost), "holdout"
    assert noise_std is not None
    blank = np.full(operator.shape_in, black, images.dtype)
    measured = max(1, int(np.count_nonzero(y - operator.apply(blank)))) * (2 if np.iscomplexobj(y) else 1)
    return np.abs(squares(difference) / (measured * noise_std**2) - 1), "discrepancy"
