"""What `reconstruct` does, in three steps: check the arguments, make a task of them, run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from .arrays import positive, positive_per_image
from .backend import Engine, ReconstructionWorkspace
from .errors import InputError, ModelError, OperatorError, SolverError, shown
from .explained import check_explained, check_steady
from .measured import count_of, measurements_of, operators_of, start_of, to_unit
from .memory import in_parts
from .model import Model
from .operators import Operator, check_operator
from .options import defaults_of
from .plausible import check_measurements
from .reconstruction_memory import Unknowns, images_at_once, peak_bytes
from .solver.data_term import Measurements, clip
from .solver.faults import Fault
from .solver.lipschitz import squared_norm
from .solver.loop import iterate
from .solver.metric import metric
from .solver.primal_dual import PrimalDual
from .solver.progress import Progress, solution
from .solver.result import Solution, per_image
from .solver.schedules import Reconstruction, reconstruct_schedule
from .types import Box, Callback, FloatArray, FloatVector, MaskOf, Watch
from .values import UNIT_BOX, DataRange, Range, box_of, stated_range


class Options(TypedDict, total=False):
    """Keywords of `reconstruct`; see there."""

    noise_level: float | None
    data_range: DataRange
    box: Box | None
    x0: Any
    schedule: str | Reconstruction | None
    max_outer: int | None
    max_iter: int | None
    tol: float | None
    mask_of: MaskOf
    max_memory: float | None
    callback: Callback | None
    watch: Watch | None
    return_masks: bool


OUT_OF_MEMORY = (
    "pass fewer slices or smaller images, or free memory (other arrays, other processes; Solver.release_memory)"
)
DEFAULTS = defaults_of(Options, data_range=1.0, box=UNIT_BOX, mask_of="magnitude", return_masks=False)


@dataclass(frozen=True)
class Task:
    """What is to be solved: measurements (B, *shape_out), operators (one or B), start (B, H, W), lambda (B,), mask
    conditioning (B, C), and how many images at once. Images of P planes: (B, P, *shape_out) and (B, P, H, W).
    """

    measurements: Measurements
    schedule: Reconstruction
    strength: FloatVector
    step: NDArray[Any]  # least-squares from zero
    start: NDArray[Any]
    start_steps: int  # of conjugate gradients that replace `start`; 0 where the caller gave it
    box: Box | None
    range: Range
    single: bool
    gain: FloatArray
    bias: FloatArray
    mask_of: MaskOf
    at_once: int
    callback: Callback | None
    watch: Watch | None
    return_masks: bool
    misscaled: bool  # a warning has said so

    def part(self, images: slice) -> Task:
        """Of these images."""
        whole = self.measurements
        operators = whole.operators if len(whole.operators) == 1 else whole.operators[images]
        cut = {name: getattr(self, name)[images] for name in ("strength", "start", "gain", "bias")}
        return replace(self, measurements=Measurements(operators, whole.y[images]), **cut)


def solve(
    model: Model,
    engine: Engine,
    measurement: Any,
    operator: Operator | Sequence[Operator],
    strength: Any,
    options: Options,
) -> Solution:
    """From the caller's measurement to the Solution: `make_task`, `run`."""
    return run(engine, make_task(model, engine, measurement, operator, strength, options))


def make_task(
    model: Model,
    engine: Engine,
    measurement: Any,
    operator: Operator | Sequence[Operator],
    strength: Any,
    options: Options,
) -> Task:
    """Check the arguments, with all of OPTIONS, and bring them to one form. Raises InputError and OperatorError."""
    if options["mask_of"] not in get_args(MaskOf):
        raise InputError(f"mask_of is {shown(options['mask_of'])}; expected 'magnitude' or 'parts'")
    operators = _checked_operators(operator, model)
    first, limits = operators[0], (options["max_outer"], options["max_iter"], options["tol"])
    schedule = reconstruct_schedule(options["schedule"], *limits, (op.pace for op in operators))
    planes = model.filters.planes
    y, single = measurements_of(measurement, operators, planes)
    box = _box(options["box"], first)
    unknowns, limit = _unknowns(model, operators, len(y), options)
    at_once = images_at_once(engine, unknowns, limit, at_once=options["callback"] is not None)
    meaning = stated_range(options["data_range"])
    y = to_unit(y, operators, meaning)
    conditioned = _level(model, options["noise_level"], meaning)
    measurements = Measurements(operators, y)
    step = measurements.least_squares_step()
    if not np.isfinite(step).all():
        raise OperatorError(f"{first.name}: a least-squares step from zero has values that are not finite")
    misscaled = check_measurements(measurements, step, box, meaning)
    own = measurements.first_images(step) if options["x0"] is None and schedule.begins_near else None
    return Task(
        measurements, schedule, positive_per_image("strength", strength, len(y)), step,
        start_of(options["x0"], step if own is None else own, first, box, meaning, single),
        max(op.start_steps for op in operators) if options["x0"] is None and own is None else 0, box, meaning, single,
        np.repeat(conditioned.gain[None], len(y), axis=0), np.repeat(conditioned.bias[None], len(y), axis=0),
        options["mask_of"], at_once, options["callback"], options["watch"], options["return_masks"],
        misscaled,
    )  # fmt: skip


def run(engine: Engine, task: Task) -> Solution:
    """Solve a task, in parts of as many images as it says. Raises OperatorError and SolverError where an image is no
    longer finite.
    """
    count, batch = len(task.start), task.at_once

    def solve(images: slice) -> tuple[Progress, NDArray[Any], FloatArray | None]:
        try:
            return _solve(engine, task.part(images), images.start)
        except Fault as fault:
            raise _error(fault, task, images.start, whole=images == slice(0, count)) from None

    parts = in_parts(engine, count, batch, solve, whole=task.callback is not None, advice=OUT_OF_MEMORY)
    progress, images, masks = zip(*parts, strict=True)
    image = np.concatenate(images)
    _check_result(task, image, np.concatenate([part.relative_gap for part in progress]))
    return solution(
        progress, per_image(image, task.single), np.concatenate(masks) if task.return_masks else None, task.single
    )


def run_whole(engine: Engine, task: Task) -> tuple[Solution, PrimalDual]:
    """`run` of all images at once on the CPU, and the state that the last step left. Raises as `run`."""
    state = _started(engine, task)
    try:
        progress = iterate(state, task.schedule, task.callback, task.watch)
    except Fault as fault:
        raise _error(fault, task, 0, whole=True) from None
    image = task.range.from_unit(state.image())
    _check_result(task, image, progress.relative_gap)
    masks = state.workspace.masks()[: state.count] if task.return_masks else None
    return solution([progress], per_image(image, task.single), masks, task.single), state


def estimate(model: Model, engine: Engine, shape: Any, operator: Any, max_memory: float | None) -> int:
    """Bytes that `reconstruct` of measurements of this shape takes at its peak, with DEFAULTS but for `max_memory` and,
    for complex images, the box. Raises InputError.
    """
    operators = operators_of(operator)
    _check_planes(model, operators)
    count = count_of(shape, operators, model.filters.planes)
    options: Options = {**DEFAULTS, "max_memory": max_memory}  # type: ignore[typeddict-item]
    if operators[0].image == "complex":
        options["box"] = None
    unknowns, limit = _unknowns(model, operators, count, options)
    return peak_bytes(engine, unknowns, images_at_once(engine, unknowns, limit, at_once=False))


def middle_level(model: Model) -> float:
    """The noise level, for images on [0, 1], that a mask generator expects where the caller says nothing."""
    return float(model.noise_levels[len(model.noise_levels) // 2])


# -- check
# ----------------------------------------------------------------------------------------------------------------


def _check_planes(model: Model, operators: list[Operator]) -> None:
    """Raises ModelError for complex images and a model of images of several planes."""
    planes = model.filters.planes
    if planes > 1 and operators[0].image == "complex":
        raise ModelError(
            f"model {model.name!r} takes {planes} planes of real images together, but {operators[0].name} has complex "
            "images; pass a grey model"
        )


def _checked_operators(operator: Any, model: Model) -> list[Operator]:
    operators = operators_of(operator)
    _check_planes(model, operators)
    first = operators[0]
    if min(first.shape_in) < model.smallest_side:
        raise InputError(
            f"operator makes images of {first.shape_in[0]} x {first.shape_in[1]} pixels; "
            f"the filters of this model need {model.smallest_side} x {model.smallest_side} or more"
        )
    for op in dict.fromkeys(operators):
        check_operator(op)
    return operators


def _box(box: Any, operator: Operator) -> Box | None:
    if box is None:
        return None
    limits = box_of(box)
    if operator.image == "complex":
        raise InputError(f"box is {shown(limits)}, but the operator has complex images; pass box=None")
    if not np.isfinite(limits).all():
        raise InputError(f"box is {shown(limits)}; expected two finite numbers, which the duality gap needs, or None")
    return limits


def _unknowns(model: Model, operators: list[Operator], count: int, options: Options) -> tuple[Unknowns, float | None]:
    """What is to be reconstructed, and the limit of its memory."""
    limit = None if options["max_memory"] is None else positive("max_memory", options["max_memory"])
    channels = model.filters.channels if options["return_masks"] else 0
    return Unknowns.of(operators, count, options["box"] is not None, channels, model.filters.planes), limit


def _level(model: Model, noise_level: float | None, meaning: Range) -> Any:
    """The mask conditioning of the model at the stated level, else at its middle one."""
    level = middle_level(model) if noise_level is None else positive("noise_level", noise_level) / meaning.scale
    return model.at(level, strength_given=True, argument="noise_level")


# -- run
# ------------------------------------------------------------------------------------------------------------------


def _solve(engine: Engine, task: Task, first: int) -> tuple[Progress, NDArray[Any], FloatArray | None]:
    """The account, the images like those of the task on the caller's scale, and the last masks where they are asked
    for. first: the number of the first image.
    """
    state = _started(engine, task)
    progress = iterate(state, task.schedule, task.callback, task.watch and _numbered(task.watch, first))
    masks = state.workspace.masks()[: state.count] if task.return_masks else None
    images = task.range.from_unit(state.image())
    state.rest()
    engine.keep(state.workspace)
    return progress, images, masks


def _started(engine: Engine, task: Task) -> PrimalDual:
    """All images of a task at their start."""
    workspace = _loaded(engine, task)
    measurements = Measurements(task.measurements.operators, workspace.place(task.measurements.y))
    x = workspace.place(task.start)
    if task.start_steps > 1:
        x = clip(measurements.conjugate_gradients(task.start_steps), task.box)
    return PrimalDual(
        workspace, measurements, task.strength, squared_norm(engine, *x.shape[-2:]), x, task.box,
        (task.gain, task.bias), task.mask_of, task.schedule.steps, metric(engine, *x.shape[-2:]),
    )  # fmt: skip


def _numbered(watch: Watch, first: int) -> Watch:
    """The caller's function, which sees the numbers of images in the whole batch."""
    return watch if first == 0 else lambda state: watch(replace(state, active=state.active + first))


def _loaded(engine: Engine, task: Task) -> ReconstructionWorkspace:
    """A workspace with u = 0 for the parts of the images."""
    parts = 2 if np.iscomplexobj(task.start) else 1
    count, *image = task.start.shape
    workspace = engine.reconstruction_workspace(count * parts, *image[-2:])
    strength = np.tile(task.strength, parts).astype(np.float32)
    limits = (-np.inf, np.inf) if task.box is None else task.box
    workspace.load(np.zeros((len(strength), *image), np.float32), strength, np.ones_like(strength), limits)
    workspace.clear_dual(np.arange(len(strength)))
    return workspace


def _check_result(task: Task, image: NDArray[Any], relative_gap: FloatVector) -> None:
    """Refuse an operator that is another one at the end; warn where the images do not explain their measurements."""
    unit = task.range.to_unit(image)
    try:
        check_steady(task.measurements, unit, task.step)
    except OperatorError as error:
        error.image = per_image(image, task.single)
        raise
    check_explained(task.measurements, unit, relative_gap, task.range, task.misscaled)


def _error(fault: Fault, task: Task, first: int, whole: bool) -> OperatorError | SolverError:
    """A fault in the part of a task that begins with image `first` as the caller gets it."""
    operators = task.measurements.operators
    operator = operators[0 if len(operators) == 1 else first + int(fault.images[0])]
    error = fault.error(operator.name, first, task.single)
    if whole and fault.image is not None:
        error.image = per_image(task.range.from_unit(fault.image), task.single)
    return error
