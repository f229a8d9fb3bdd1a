"""Train a model on folders of clean images, and export it as a weights file.

DIR of --out gets log.jsonl (one JSON object a line), curve.png (with Matplotlib), model.safetensors (the averaged
weights) and checkpoint.pt, from which --resume goes on exactly. Colour images are turned to grey, but for a model of
three planes (--planes 3), which takes colour images only. Validation images must not be training images. Needs PyTorch:
pip install torch.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import real
from ..errors import BackendError
from ..values import DataRange
from .arguments import UsageError, add_range_argument, count, positive, seed
from .options import made, stated
from .output import print_note, print_warnings
from .parser import Rare

if TYPE_CHECKING:
    from ..training.loop import Progress
    from ..training.settings import Settings

UNITS = {"s": 1, "m": 60, "h": 3600}
FOCUS = (5.0, 15.0, 25.0, 50.0)


def duration(text: str) -> float:
    """Seconds from 90s, 45m, 1.5h or 1h30m."""
    if not re.fullmatch(r"(\d+(\.\d+)?[smh])+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write it like 90m, 2h or 1h30m")
    seconds = sum(float(number) * UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smh])", text))
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all")
    return float(seconds)


def schedule(text: str) -> tuple[int, int]:
    """(outer, inner) from 5x12."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a schedule; write outer and inner steps like 5x12")
    return int(match[1]), int(match[2])


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write a number from 0 to 1")
    return value


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `safi-fast train`; times in seconds."""

    data: tuple[Path, ...]
    validation: Path
    out: Path
    data_range: DataRange | None
    sigma_range: tuple[float, float]
    focus: tuple[float, ...] | None
    time_budget: float | None
    steps: int | None
    schedule: tuple[int, int]
    family: str | None
    channels: int | None
    planes: int | None
    init: str | None
    resume: bool
    mask_dilations: tuple[int, ...] | None
    teacher: tuple[Path, ...]
    teacher_share: float | None
    teacher_until: float | None
    optimizer: str
    device: str
    autocast: bool
    chain: int
    name: str | None
    licence: str | None
    batch: int
    patch: int
    pool: int
    rate: float
    steady: float
    average: float
    fixed: tuple[str, ...]
    checkpoint_every: float
    validate_every: float
    threads: int | None
    seed: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast train`."""
    add = parser.add_argument
    add("--data", type=Path, action="append", required=True, metavar="DIR", help="folder of clean images; repeatable")
    add("--validation", type=Path, required=True, metavar="DIR", help="folder of other clean images")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for everything that is written")
    add_range_argument(parser, "255 or 65535 for 8 or 16 bits, 1 for floats")
    add(
        "--sigma-range", type=float, nargs=2, required=True, metavar=("LOW", "HIGH"),
        help="noise levels to train for, on the scale 0 to 255",
    )  # fmt: skip
    add(
        "--focus", type=positive, nargs="*", metavar="S",
        help=Rare("levels drawn most, each as often as it is listed (default: 5 15 25 50 as far as in the range)"),
    )  # fmt: skip
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--time-budget", type=duration, metavar="T", help="how long to train, like 90m or 2h")
    budget.add_argument("--steps", type=count, metavar="N", help="how long to train, in steps")
    add("--schedule", type=schedule, default=(5, 12), metavar="5x12", help="outer x inner steps (default: 5x12)")
    add("--family", choices=("safi", "mmr"), help=Rare("kind of mask generator (default: safi)"))
    add("--channels", type=count, metavar="C", help=Rare("number of filters (default: 64); --init is widened to it"))
    add(
        "--planes", type=int, choices=(1, 3),
        help=Rare("3: a colour model, of red, green and blue together; a grey --init is turned into one (default: 1)"),
    )  # fmt: skip
    add("--init", metavar="NAME|PATH", help="model to start from; sets family, filters and noise levels")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add(
        "--mask-dilations", type=count, nargs="+", metavar="D",
        help=Rare("pixels between the taps of each mask layer, like 1 1 3 2 3: layers that --init lacks are added"),
    )  # fmt: skip
    add("--teacher", type=Path, action="append", default=[], metavar="FILE", help="denoiser to learn from; repeatable")
    add(
        "--teacher-share", type=share, default=None, metavar="0..1",
        help=Rare("of the target that is the teachers' from sigma 12 on (default: 0.85)"),
    )  # fmt: skip
    add(
        "--teacher-until", type=share, default=None, metavar="0..1",
        help=Rare("share of the run after which the teachers' part fades (default: 1, never)"),
    )  # fmt: skip
    _add_course(parser)


def _add_course(parser: argparse.ArgumentParser) -> None:
    """How a run goes: optimizer, device, rates, batches, what it writes and when."""
    add = parser.add_argument
    add(
        "--optimizer",
        choices=("adam", "muon"),
        default="adam",
        help=Rare("muon: for the large mask layers (default: adam)"),
    )
    add("--device", default="cpu", metavar="cpu|cuda", help="where torch computes (default: cpu)")
    add("--autocast", action="store_true", help=Rare("mask layers in bfloat16"))
    add("--chain", type=count, default=1, metavar="N", help=Rare("outer steps to differentiate at once (default: 1)"))
    add("--name", default=None, metavar="N", help="name of the exported model (default: that of the folder)")
    add("--licence", metavar="TEXT", help=Rare("licence of the exported weights, for their metadata"))
    add("--batch", type=count, default=8, metavar="N", help=Rare("patches a step (default: 8)"))
    add("--patch", type=count, default=72, metavar="P", help=Rare("their side in pixels (default: 72)"))
    add("--pool", type=count, default=256, metavar="N", help=Rare("patches under way (default: 256)"))
    add("--rate", type=positive, default=1.0, metavar="F", help=Rare("factor on all learning rates (default: 1)"))
    add(
        "--steady", type=share, default=0.0, metavar="0..1",
        help=Rare("share of the run in which the learning rates stay at their highest (default: 0, they fall)"),
    )  # fmt: skip
    add(
        "--average", type=share, default=0.998, metavar="0..1",
        help=Rare("share of the averaged weights that each step keeps (default: 0.998)"),
    )  # fmt: skip
    add(
        "--fixed", nargs="+", default=(), metavar="NAME",
        help=Rare("parameters that stay as they start, by names in torch, like convolutions.1; also with --resume"),
    )  # fmt: skip
    add(
        "--checkpoint-every",
        type=duration,
        default=300.0,
        metavar="T",
        help=Rare("time between checkpoints (default: 5m)"),
    )
    add(
        "--validate-every",
        type=duration,
        default=600.0,
        metavar="T",
        help=Rare("time between validations (default: 10m)"),
    )
    add("--threads", type=count, metavar="N", help=Rare("processor threads (default: all)"))
    add("--seed", type=seed, default=0, metavar="K", help=Rare("of weights, patches and noise (default: 0)"))


def run(args: argparse.Namespace) -> int:
    """Train, showing where it is."""
    options = made(Options, args)
    _check(options)
    from ..atomic import prepare_folder
    from ..claims import Claims, holder
    from ..training.loop import check_device, set_threads
    from ..training.teachers import load_teacher

    check_device(options.device)
    if options.threads:
        set_threads(options.threads)
    network = None if options.resume else _network(options)
    settings = _settings(options, network)
    planes = network.planes if network is not None else _stored(options)["layers.0"].shape[1]
    inputs = _Inputs(
        network,
        settings,
        [load_teacher(path, options.device) for path in options.teacher],
        _images(options.data, settings.side, options.data_range, planes),
        _validation(options.validation, settings, options.data_range, planes),
    )
    prepare_folder(options.out)
    with Claims() as claims:
        checkpoint = options.out / "checkpoint.pt"
        if not claims.take(checkpoint):
            raise UsageError(
                f"{options.out}: {holder(checkpoint) or 'another process'} trains there; train in another folder"
            )
        _check_new(options)  # again: another run may have ended here meanwhile
        return _train(options, inputs)


@dataclass(frozen=True)
class _Inputs:
    """What a run is made of, read and checked before anything is written; network: None where the checkpoint has it."""

    network: Any
    settings: "Settings"
    teachers: list[Any]
    images: list[Any]
    validation: Any


def _train(options: Options, inputs: _Inputs) -> int:
    from ..plots import training_curve
    from ..training.loop import LOG, MODEL, Run, resumed
    from ..training.trainer import Trainer

    where: dict[str, Any] = {"teachers": inputs.teachers, "device": options.device}
    if inputs.network is None:
        trainer, seconds = resumed(options.out, inputs.images, inputs.settings, **where)
    else:
        trainer, seconds = Trainer(inputs.network, inputs.images, inputs.settings, **where), 0.0
    metadata = {"training_data": ", ".join(real(folder).name for folder in options.data)}
    if inputs.teachers:
        metadata["teachers"] = ", ".join(teacher.name for teacher in inputs.teachers)
    if options.licence:
        metadata["licence"] = options.licence
    name = options.name or real(options.out).name
    training = Run(trainer, inputs.validation, options.out, name=name, metadata=metadata, seconds=seconds)
    if options.resume and inputs.settings.progress(trainer.step_number, seconds) >= 1:
        budget = "--steps" if options.steps else "--time-budget"
        print_note(
            f"{options.out}: this run has ended, at step {trainer.step_number}; it is only exported again: raise "
            f"{budget} to go on"
        )
    with _shown() as report:
        scores = training.finish(report)
    if find_spec("matplotlib") is not None:
        training_curve(options.out / LOG, options.out / "curve.png")
    print(f"{options.out / MODEL}: step {trainer.step_number}, validation {_words(scores)}")
    return 0


def _check(options: Options) -> None:
    given = [
        f"--{name}"
        for name in stated(init=options.init, family=options.family, channels=options.channels, planes=options.planes)
    ]
    teaching = [f"--teacher-{name}" for name in stated(share=options.teacher_share, until=options.teacher_until)]
    if options.resume and options.mask_dilations:
        raise UsageError("--mask-dilations has no meaning with --resume: the network is in the checkpoint")
    if teaching and not options.teacher:
        raise UsageError(f"{teaching[0]} has no meaning without --teacher")
    if options.resume and given:
        raise UsageError(f"{given[0]} has no meaning with --resume: the network is in the checkpoint")
    if options.init and options.family:
        raise UsageError("--family has no meaning with --init: the weights file has it")
    if real(options.out) in {real(folder) for folder in (*options.data, options.validation)}:
        raise UsageError(f"{options.out} holds images, among which the curve would be; choose another folder for --out")
    _check_new(options)
    if real(options.validation) in {real(folder) for folder in options.data}:
        raise UsageError(
            f"{options.validation} is a folder of --data too; validation images must not be training images"
        )
    if find_spec("torch") is None:
        raise BackendError("training needs PyTorch; install it with pip install torch")


def _check_new(options: Options) -> None:
    """Refuse a folder that holds a run, but to go on with it."""
    if not options.resume and (options.out / "checkpoint.pt").exists():
        raise UsageError(f"{options.out} holds a run already; go on with it (--resume) or train in another folder")


def _network(options: Options) -> Any:
    from ..models import load_model
    from ..training.growth import deepened, widened, with_levels, with_planes
    from ..training.network import fresh_network, level_table, network_of

    if not options.init:
        levels = level_table(*options.sigma_range)
        return fresh_network(
            options.family or "safi", options.channels or 64, levels, options.seed, options.mask_dilations,
            options.planes or 1,
        )  # fmt: skip
    model = load_model(options.init)
    if options.mask_dilations:
        model = deepened(model, options.mask_dilations)
    if options.channels and options.channels != model.filters.channels:
        model = widened(model, options.channels, options.seed)
    if options.planes and options.planes != model.filters.planes:
        model = with_planes(model, options.planes)
    low, high = options.sigma_range
    first, last = (255 * float(model.noise_levels[end]) for end in (0, -1))
    grows = len(model.noise_levels) > 1 or model.family == "mmr"
    if grows and (0 < low < 0.999 * first or high > 1.001 * last):
        model = with_levels(model, min(low or first, first), max(high, last))
    return network_of(model)


def _settings(options: Options, network: Any) -> "Settings":
    from ..training.data import NoiseRange
    from ..training.settings import Settings
    from ..training.teachers import DEFAULT_SHARE

    levels = 255 * (network.levels if network is not None else _stored(options)["levels"])
    first, last = float(levels[0]), float(levels[-1])
    low, high = options.sigma_range[0] or first, options.sigma_range[1]
    if len(levels) > 1 and not first * 0.999 <= low <= high <= last * 1.001:
        raise UsageError(f"--sigma-range is {low:g} {high:g}, but the weights have tables for {first:g} to {last:g}")
    low = max(low, first) if len(levels) > 1 else low
    focus = [level for level in FOCUS if low <= level <= high] if options.focus is None else options.focus
    return Settings(
        NoiseRange(low, high, tuple(focus)),
        seconds=options.time_budget,
        steps=options.steps,
        outer=options.schedule[0],
        inner=options.schedule[1],
        trained=min(6, options.schedule[1]),
        chain=options.chain,
        batch=options.batch,
        side=options.patch,
        pool=max(options.pool, options.batch),
        filter_rate=1e-3 * options.rate,
        strength_rate=3e-3 * options.rate,
        mask_rate=7e-4 * options.rate,
        steady=options.steady,
        average=options.average,
        fixed=options.fixed,
        optimizer=options.optimizer,
        share=replace(DEFAULT_SHARE, **stated(most=options.teacher_share, until=options.teacher_until)),
        autocast=options.autocast,
        seed=options.seed,
        checkpoint_seconds=options.checkpoint_every,
        validation_seconds=options.validate_every,
    )


def _stored(options: Options) -> dict[str, Any]:
    """The tensors of the network in the checkpoint."""
    from ..training.loop import read_training_state

    tensors: dict[str, Any] = read_training_state(options.out)["network"]
    return tensors


def _images(folders: Sequence[Path], side: int, data_range: DataRange | None, planes: int) -> list[Any]:
    from ..io import list_images, read_image
    from ..training.data import load_images
    from .evaluate import clean_image

    warned: list[tuple[Any, str]] = []

    def read(path: Path) -> Any:
        image, warning = clean_image(path, read_image(path), data_range, planes=planes)
        if warning is not None:
            warned.append((path, warning))
        return image

    images = load_images(list_images(folders), read, side)
    print_warnings(warned)
    return images


def _validation(folder: Path, settings: "Settings", data_range: DataRange | None, planes: int) -> Any:
    from ..training.validation import Validation

    noise = settings.noise
    levels = [level for level in FOCUS if noise.low <= level <= noise.high] or [(noise.low + noise.high) / 2]
    return Validation(_images([folder], 1, data_range, planes), levels)


@contextmanager
def _shown() -> Iterator[Callable[["Progress"], None]]:
    """A bar in a terminal, else a line on standard error whenever there is a new validation."""
    if not sys.stderr.isatty():
        last: list[dict[str, float]] = [{}]

        def line(progress: "Progress") -> None:
            if progress.validation is not last[0]:
                last[0] = progress.validation
                print(_line(progress), file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=1.0)
        yield lambda progress: bar.update(task, completed=progress.share, description=_line(progress))


def _line(progress: "Progress") -> str:
    left = "" if progress.left is None else f", {progress.left / 60:.0f} min left"
    return f"step {progress.step}, loss {progress.loss:.3f}, validation {_words(progress.validation)}{left}"


def _words(scores: dict[str, float]) -> str:
    return ", ".join(f"{psnr:.2f} dB at {level}" for level, psnr in scores.items())
