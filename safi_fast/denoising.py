"""What `denoise` does, in three steps: check the arguments, make a task of them, run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from . import color as colors
from . import memory
from .anscombe import Anscombe, bounds_of, stabilised
from .arrays import ArrayKind, positive
from .backend import Backend, DualWorkspace, Engine
from .errors import InputError, shown
from .images import Images
from .model import Model
from .noise_level import ESTIMATE
from .options import defaults_of
from .solver.dual import DualProblem
from .solver.faults import Fault
from .solver.lipschitz import check_squared_norm, squared_norm, varying_squared_norm
from .solver.loop import iterate
from .solver.progress import Progress, solution
from .solver.result import OuterState, Solution, per_image
from .solver.schedules import Schedule, Unrolled, schedule_for
from .tiling import Grid
from .types import Box, Callback, FloatArray, FloatVector
from .values import UNIT_BOX, DataRange, DefaultBox, Range, box_of, check_inside, cut_off, stated_range
from .varying import Varying, varying
from .warn import warn


class Options(TypedDict, total=False):
    """Keywords of `denoise`; see there."""

    data_range: DataRange | None
    channel_axis: int | None
    color: colors.Mode | None
    schedule: str | Schedule | None
    box: Box | None
    strength: Any
    lipschitz: float | None
    max_outer: int | None
    max_inner: int | None
    tol: float | None
    max_memory: float | None
    callback: Callback | None
    return_masks: bool
    noise: str
    gain: float | None
    offset: float | None


AS_IT_IS = Range(0.0, 1.0, "of counts")
DEFAULTS = defaults_of(Options, box=UNIT_BOX, return_masks=False, noise="gaussian")


@dataclass(frozen=True)
class Task:
    """What is to be solved: images on [0, 1], lambda (N,), mask conditioning (N, C), limits of the image, how it is
    shared out, whether anybody wants to know more than the image, the noise of each image, and its maps where it
    varies.
    """

    images: Images
    schedule: Schedule
    limits: Box
    strength: FloatArray
    gain: FloatArray
    bias: FloatArray
    family: str
    squared_norm: float
    division: memory.Division
    callback: Callback | None
    return_masks: bool
    account: bool
    noise: FloatVector  # (B,), in the caller's units
    varying: Varying | None = None
    counted: bool = False  # whether the caller says how many inner steps there are


def solve(
    model: Model,
    engine: Engine,
    array: Any,
    kind: ArrayKind,
    sigma: Any,
    options: Options,
    device: Backend | None,
    account: bool,
) -> Solution:
    """From the caller's array to the Solution: `make_task`, `run`. account: whether more than the image is wanted."""
    task = replace(make_task(model, engine, array, kind, sigma, options), account=account)
    return run(engine, task, device)


def make_task(model: Model, engine: Engine, array: Any, kind: ArrayKind, sigma: Any, options: Options) -> Task:
    """Check the arguments, with all of OPTIONS, and bring them to one form. Raises InputError, warns of values in
    doubt.
    """
    callback = options["callback"]
    images, sigmas, noise, limits, maps = _observed(model, array, kind, sigma, options)
    names = ("schedule", "max_outer", "max_inner", "tol")
    schedule = schedule_for(model, *(options[name] for name in names))  # type: ignore[literal-required]
    table = "unrolled" if schedule.name == "unrolled" else "converged"
    strength, gain, bias = _levels(model, images, sigmas, options["strength"], table)
    if model.filters.planes == 1 and colors.mixes(options["color"], images.channels):
        images, limits = images.in_luma_chroma(limits), (-np.inf, np.inf)
    extent = images.extent if maps is None else replace(images.extent, levels=len(model.noise_levels) + 2)
    division = divide(model, engine, extent, options["max_memory"], at_once=callback is not None)
    if division.grid is not None:
        _check_tiles(options, schedule.name)
    noise_maps = None
    if maps is not None:
        noise_maps = varying(model, maps, None if options["strength"] is None else strength.astype(np.float64), table)
    window = division.grid.window if division.grid else images.stack.shape[-2:]
    norm = _squared_norm(model, engine, options["lipschitz"], schedule, *window)
    return Task(
        images, schedule, limits, strength, gain, bias, model.family, norm, division, callback, options["return_masks"],
        account=True, noise=noise, varying=noise_maps, counted=options["max_inner"] is not None,
    )  # fmt: skip


def run(engine: Engine, task: Task, device: Backend | None) -> Solution:
    """Solve a task, in parts where it says so. device: the backend, where its arrays are not NumPy's. Raises
    SolverError, and OutOfMemoryError where there is no memory for the smallest part.
    """
    copies = _Copies(task, device)
    solve = _solve_whole if task.division.grid is None else _solve_in_tiles
    parts = memory.in_parts(
        engine,
        len(task.images.stack),
        task.division.batch,
        lambda chunk: solve(engine, task, chunk, copies),
        whole=task.callback is not None,
        advice=OUT_OF_MEMORY,
    )
    progress, solved, masks = zip(*parts, strict=True)
    image = task.images.restore(task.images.kind.module.concatenate([there() for there in solved]))
    found = solution(progress, image, np.concatenate(masks) if task.return_masks else None, task.images.single)
    return replace(found, sigma=per_image(task.noise, not task.images.several))


def run_whole(engine: Engine, task: Task) -> tuple[Solution, DualWorkspace]:
    """`run` of all images at once on the CPU, and the work space as the last step left it. Raises SolverError."""
    images = task.images.stack
    workspace = engine.workspace(len(images), *images.shape[-2:])
    return run_in(workspace, task), workspace


def run_in(workspace: DualWorkspace, task: Task) -> Solution:
    """`run` of all images at once in a work space on the CPU. Raises SolverError."""
    copies, everyone = _Copies(task, None), slice(0, len(task.images.stack))
    y = copies.part(everyone)
    progress = _solve(workspace, task, y, everyone, copies)
    masks = workspace.masks() if task.return_masks else None
    found = solution([progress], task.images.restore(copies.whole(workspace.image())), masks, task.images.single)
    return replace(found, sigma=per_image(task.noise, not task.images.several))


def divide(
    model: Model, engine: Engine, extent: memory.Extent, max_memory: float | None, at_once: bool
) -> memory.Division:
    """How the images are shared out. Raises InputError."""
    most = memory.MAX_BATCH // extent.planes
    if at_once and extent.count > most:
        raise InputError(
            f"image holds {extent.count} images; with a callback, which sees all at once, at most {most} can be solved"
        )
    if max_memory is None:
        return memory.divide(engine, extent, at_once)
    return memory.divide_below(engine, model, extent, positive("max_memory", max_memory), at_once)


# -- check
# ----------------------------------------------------------------------------------------------------------------


# images, sigma of planes on [0, 1] and of images, limits, and maps of sigma (N, H, W) on [0, 1] where there are some
Observed = tuple[Images, FloatVector, FloatVector, Box, FloatVector | None]


def _observed(model: Model, array: Any, kind: ArrayKind, sigma: Any, options: Options) -> Observed:
    """What was measured, and how strong its noise is. Raises InputError."""
    if model.filters.planes > 1 and options["color"] is not None:
        raise InputError(
            f"color is {shown(options['color'])}, but model {model.name!r} takes {model.filters.planes} planes of an "
            "image together; leave it out, or pass a grey model"
        )
    if options["noise"] == "poisson":
        return _counted(model, array, kind, sigma, options)
    if options["noise"] != "gaussian":
        raise InputError(f"noise is {shown(options['noise'])}; expected 'gaussian' or 'poisson'")
    for name in ("gain", "offset"):
        if options[name] is not None:
            raise InputError(f"{name} was passed, but noise is 'gaussian'; leave it out or pass noise='poisson'")
    data_range, box = options["data_range"], options["box"]
    images = Images.of(array, kind, data_range, options["channel_axis"], model)
    if images.range.warning and not isinstance(data_range, Range):
        warn(f"image: {images.range.warning}")
    limits = (-np.inf, np.inf) if box is None else box_of(box)
    maps = images.maps("sigma", sigma)
    sigmas = _sigmas(model, images, sigma, options) if maps is None else maps.max(axis=(1, 2))
    if isinstance(box, DefaultBox):
        _check_values(images, sigmas, box, silent=isinstance(data_range, Range))
    mean = sigmas if maps is None else np.sqrt((maps**2).mean(axis=(1, 2)))
    if maps is not None and (maps.min(axis=(1, 2)) == sigmas).all():
        maps = None  # one sigma per image after all
    return images, sigmas, mean[:: images.alone] * images.range.scale, limits, maps


def _counted(model: Model, array: Any, kind: ArrayKind, sigma: Any, options: Options) -> Observed:
    """Counts, on a scale where their noise has the same strength everywhere."""
    transform = Anscombe.of(options["gain"], options["offset"], sigma)
    raw = Images.of(array, kind, AS_IT_IS, options["channel_axis"], model)
    given, box = options["data_range"], options["box"]
    meaning = None if given is None else stated_range(given)
    bounds = bounds_of(transform, meaning, box)
    scale = stabilised(transform, raw.stack, raw.alone, meaning, bounds, model.noise_levels)
    images = replace(raw, stack=scale.to_unit(raw.stack).astype(np.float32), range=scale)
    return images, 1 / scale.contrasts, np.full(len(raw.stack) // raw.alone, transform.sigma), scale.limits, None


def _sigmas(model: Model, images: Images, sigma: Any, options: Options) -> FloatVector:
    """Standard deviation of the noise of each of the stack on [0, 1]: as the caller says, or estimated for each image
    and brought to the levels that the model is for, with a warning. Raises InputError.
    """
    if not (isinstance(sigma, str) and sigma == ESTIMATE):
        return images.per_problem("sigma", sigma)
    found, levels = images.noise_levels(options["color"]), model.noise_levels
    if len(levels) == 1:
        for level in found:
            model.at(level, strength_given=options["strength"] is not None, argument="sigma, as estimated,")
        return found.repeat(images.alone)
    within = found.clip(levels[0], levels[-1])
    beyond = np.flatnonzero(within != found)
    if beyond.size and not isinstance(options["data_range"], Range):
        first, scale = beyond[0], images.range.scale
        which = "image" if len(found) == 1 else f"image[{first}]"
        warn(
            f"{which}: the noise is estimated at {found[first] * scale:.3g}, outside of what model {model.name!r} is "
            f"for; {within[first] * scale:.3g} is used"
        )
    return within.repeat(images.alone)


def _check_values(images: Images, sigmas: FloatVector, box: DefaultBox, silent: bool) -> None:
    """Refuse images of which the box would cut off more than noise explains; warn of what it cuts off of others."""
    xp, stack, meaning = images.kind.module, images.flat, images.range
    levels = sigmas.repeat(images.planes)
    check_inside("image", xp, stack, meaning, sigma=levels, box=box, channels=images.channels or 1)
    cut = None if silent else cut_off(xp, stack, meaning, float(sigmas.max()), box)
    if cut:
        warn(f"image: {cut}")


def _levels(
    model: Model, images: Images, sigmas: FloatVector, strength: Any, table: str
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """lambda (N,) and mask conditioning (N, C) of each of the stack."""
    known = {value: model.at(value, strength_given=strength is not None) for value in dict.fromkeys(sigmas)}
    levels = [known[value] for value in sigmas]
    if strength is None:
        values = np.array([getattr(level, f"strength_{table}") for level in levels])
    else:
        values = images.per_problem("strength", strength)
    return (
        values.astype(np.float32),
        np.stack([level.gain for level in levels]),
        np.stack([level.bias for level in levels]),
    )


def _check_tiles(options: Options, schedule: str) -> None:
    """Refuse what tiles, which are problems of their own, cannot give."""
    beyond = f"an image does not fit into max_memory={options['max_memory']:.4g} bytes and would be solved in tiles"
    if schedule != "unrolled":
        raise InputError(
            f"schedule is {schedule!r}, but {beyond}, which have no common stopping rule or certificate; "
            f"use schedule='unrolled' or more memory (estimate_memory says how much)"
        )
    unfit = {"callback": options["callback"] is not None, "return_masks": options["return_masks"]}
    for name, given in unfit.items():
        if given:
            raise InputError(f"{name} was passed, but {beyond}; leave it out or allow more memory")


def _squared_norm(
    model: Model, engine: Engine, lipschitz: float | None, schedule: Schedule, height: int, width: int
) -> float:
    if lipschitz is not None:
        return check_squared_norm(positive("lipschitz", lipschitz), schedule.step, engine, height, width)
    if schedule.name == "unrolled" and model.lipschitz is not None:
        return model.lipschitz
    return squared_norm(engine, height, width)


# -- run
# ------------------------------------------------------------------------------------------------------------------

# of a chunk: account, a function that gives the images, masks where asked for
Part = tuple[Progress, Callable[[], Any], NDArray[np.float32] | None]

OUT_OF_MEMORY = (
    "pass max_memory, below which images are solved in parts or tiles, smaller images, or free memory (other arrays, "
    "other processes; Solver.release_memory)"
)


class _Copies:
    """Images between host and device, while others are solved: the next part on its way there, the last on its way
    back.
    """

    def __init__(self, task: Task, device: Backend | None):
        self.stack, self.kind = task.images.stack, task.images.kind
        self.device = device if self.kind.gpu is None else None  # arrays on a GPU stay there
        self._coming: tuple[slice, Callable[[], Any]] | None = None
        self._going: Callable[[], Any] | None = None

    def part(self, chunk: slice) -> Any:
        """The images of a chunk; those of the next begin their way."""
        if self.device is None:
            return self.stack[chunk]
        known, self._coming = self._coming, None
        following = slice(chunk.stop, min(2 * chunk.stop - chunk.start, len(self.stack)))
        images = known[1]() if known is not None and known[0] == chunk else self.stack[chunk]
        if following.stop > following.start:
            self._coming = following, self.device.send(self.stack[following])
        return images

    def whole(self, images: Any) -> Any:
        """Solved images where the caller's are, at once."""
        return images if self.device is None else self.device.to_host(images)

    def back(self, chunk: slice, images: Any) -> Callable[[], Any]:
        """Solved images begin their way to the caller's; those before have arrived."""
        if self.device is None or chunk.stop == len(self.stack):
            there = self.whole(images)
            return lambda: there
        if self._going is not None:
            self._going()
        self._going = self.device.fetch(images)
        return self._going


def _solve_whole(engine: Engine, task: Task, chunk: slice, copies: _Copies) -> Part:
    y = copies.part(chunk)
    workspace = engine.workspace(len(y), *y.shape[-2:])
    progress = _solve(workspace, task, y, chunk, copies, task.varying and task.varying.part(chunk))
    image, masks = copies.back(chunk, workspace.image()), workspace.masks() if task.return_masks else None
    engine.keep(workspace)
    return progress, image, masks


def _solve_in_tiles(engine: Engine, task: Task, chunk: slice, copies: _Copies) -> Part:
    grid: Grid = task.division.grid  # type: ignore[assignment]
    y, kind = task.images.stack[chunk], task.images.kind
    noise = task.varying and task.varying.part(chunk)
    image, workspace = kind.module.empty_like(y), engine.workspace(1, *grid.window)
    for tile in grid:
        window = kind.module.ascontiguousarray(y[(..., *tile.window)])
        progress = _solve(workspace, task, window, chunk, copies, noise and noise.window(*tile.window))
        image[(..., *tile.core)] = copies.whole(workspace.image())[(..., *tile.inside)]
    engine.keep(workspace)
    return progress.uncertified(), lambda: image, None


def _solve(
    workspace: DualWorkspace, task: Task, y: Any, chunk: slice, copies: _Copies, noise: Varying | None = None
) -> Progress:
    """The images y of `chunk`, or a window of them, with the noise there where it varies; the accepted images are left
    in the workspace. Raises SolverError.
    """
    strength, norm, schedule = task.strength[chunk], task.squared_norm, task.schedule
    if noise is not None:
        workspace.load(y, strength, np.ones(len(y), np.float32), task.limits)
        workspace.vary(noise)
        norm = varying_squared_norm(workspace, noise.variance)
        if isinstance(schedule, Unrolled) and not task.counted:
            schedule = schedule.longer((norm / task.squared_norm) ** 0.5)
    workspace.load(y, strength, np.full(len(y), schedule.step / norm, np.float32), task.limits)
    if noise is not None:
        workspace.vary(noise)
    pixels = y.shape[-2] * y.shape[-1]
    problem = DualProblem(
        workspace, strength.astype(np.float64), task.gain[chunk], task.bias[chunk], task.family, norm, pixels
    )
    try:
        return _iterated(problem, replace(task, schedule=schedule), copies)
    except Fault as fault:  # channels that are solved alone are numbered like images
        raise fault.error("", chunk.start, task.images.single) from None


def _iterated(problem: DualProblem, task: Task, copies: _Copies) -> Progress:
    """All outer steps; at once, where that is faster and nobody wants to know more than the image. Raises Fault."""
    if isinstance(task.schedule, Unrolled) and not (task.account or task.callback or task.return_masks):
        progress = Progress(problem.count)
        if task.schedule.solve_whole(problem, progress):
            return progress
    return iterate(problem, task.schedule, _in_terms_of_caller(task, copies))


def _in_terms_of_caller(task: Task, copies: _Copies) -> Callback | None:
    """The callback, which sees colours, and arrays of the caller's library where they lie on a GPU, else NumPy
    arrays.
    """
    callback, images = task.callback, task.images
    if callback is None or (copies.device is None and images.kind.gpu is None and images.color_limits is None):
        return callback
    kind, tell = images.kind, callback

    def image(state: OuterState) -> Any:
        return kind.beside(images.in_colors(copies.whole(state.image())))

    return lambda state: tell(replace(state, image=lambda: image(state)))
