"""Reconstruct images from measurements: MRI, CT, deblurring, inpainting, super-resolution.

OUT is a file for one input, else a folder, which is made if it is missing. Outputs that exist are skipped, so a run that was
stopped goes on where it was; each output is written whole or not at all. An input that cannot be read does not stop the
others: it is reported at the end, with exit status 1.

The strength of the regularisation has no default, because the right one depends on operator and noise. Give --strength, or
have it chosen among --candidates, once, on the first slice of the first input: --noise-std takes the strength whose residual
fits that noise, --holdout the one that best predicts measurements it was not fitted to, --tune-reference the one nearest to
a known image of that slice. The report states what was chosen.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageFileError, SafiError
from . import session as sessions
from .arguments import UsageError, count, positive
from .output import json_text, message_of, print_failures, print_json, print_warning, progress, scientific
from .problems import Array, Slice, Study, ct, deblur, inpaint, mri, superres

if TYPE_CHECKING:
    from ..inverse import Tuning
    from ..solver.result import OuterState

PROBLEMS: dict[str, ModuleType] = {"mri": mri, "ct": ct, "deblur": deblur, "inpaint": inpaint, "superres": superres}
MEASURED = (
    "mri",
    "ct",
)  # problems whose results have a format of their own, and slices that go into files of their own
FORMATS = ("npy", "cfl", "png", "tif")
BACKENDS = ("cpu",)  # reconstruction has no GPU backend yet
OTHER_INPUTS = ("mask", "maps", "kernel", "angles", "tune_reference")
LOW, HIGH, CANDIDATES = 1e-5, 1e-2, 7  # strengths to try, times ||H||^2
PIXELS_AT_ONCE = 2**19  # of the candidates that are solved as one batch: about 0.5 GB


@dataclass(frozen=True)
class Job:
    """One input and where its results go: a file, or a folder."""

    source: Path
    target: Path
    is_folder: bool


@dataclass
class Runner:
    """What lives through a run: the solver, made when first needed, and the strength, found when first needed."""

    args: argparse.Namespace
    first: Path
    session: sessions.Session | None = None
    tuning: "Tuning | None" = None

    def solver(self) -> Any:
        """The solver of --model."""
        if self.session is None:
            self.session = sessions.make_session(self.args.model, self.args.backend)
            if self.args.noise_level is not None:
                self.session.check_level("--noise-level", self.args.noise_level, strength_given=True)
        return self.session.solver

    def strength(self) -> float:
        """--strength, or the one that fits the first slice of the first input best."""
        if self.args.strength is not None:
            return float(self.args.strength)
        if self.tuning is None:
            study = PROBLEMS[self.args.problem].open_study(self.first, self.args)
            number = (getattr(self.args, "slices", None) or (0, 0))[0]
            self.tuning = _tune(self, study, study.slice(number), number)
        return self.tuning.strength


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast reconstruct`."""
    problems = parser.add_subparsers(dest="problem", metavar="PROBLEM", required=True)
    for name, module in PROBLEMS.items():
        text = (module.__doc__ or "").strip()
        command = problems.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            epilog=(__doc__ or "").strip().partition("\n\n")[2],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("inputs", nargs="+", metavar=module.INPUT, help=module.INPUT_HELP)
        command.add_argument("-o", "--output", required=True, metavar="OUT", help="file or folder for the results")
        module.add_arguments(command)
        _add_solver_arguments(command)
        _add_output_arguments(command, measured=name in MEASURED)


def _add_solver_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME|PATH", help="a shipped model or a .safetensors file (default: the shipped one)"
    )
    strength = parser.add_mutually_exclusive_group()
    strength.add_argument("--strength", type=positive, metavar="L", help="lambda for images on [0, 1]")
    strength.add_argument(
        "--tune-reference", metavar="FILE", help="choose the strength by this true image of the first slice"
    )
    strength.add_argument(
        "--noise-std",
        type=positive,
        metavar="S",
        help="choose the strength by the standard deviation of the noise of each real number measured (mri, ct: in the units of "
        "the file; images: on the scale 0 to 255)",
    )
    strength.add_argument(
        "--holdout",
        type=share,
        metavar="SHARE",
        help="choose the strength by predicting this share of the measurements, such as 0.1, from the others (CT: whole views)",
    )
    parser.add_argument(
        "--candidates",
        type=candidates,
        metavar="LOW:HIGH:N",
        help=f"strengths to choose from, N at equal ratios (default: {CANDIDATES} from {LOW:g} to {HIGH:g} times ||H||^2)",
    )
    parser.add_argument(
        "--noise-level",
        type=positive,
        metavar="S",
        help="noise that the model's mask generator should expect, on the scale 0 to 255 (default: the middle of its levels)",
    )
    parser.add_argument("--max-outer", type=count, metavar="N", help="most outer steps, one mask each (default: 20)")
    parser.add_argument("--max-iter", type=count, metavar="N", help="most inner steps under one mask (default: 1000)")
    parser.add_argument("--tol", type=positive, metavar="T", help="of certificate and outer change (default: 1e-3)")
    box = parser.add_mutually_exclusive_group()
    box.add_argument(
        "--box",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="bounds of the image as shares of the data range (default: 0 1, where the range is estimated 0 2)",
    )
    box.add_argument("--no-box", action="store_true", help="no bounds, as complex images have none")
    parser.add_argument(
        "--data-range",
        type=positive,
        metavar="R",
        help="value of white (default: by dtype; mri, ct: estimated, see above)",
    )
    parser.add_argument("--backend", choices=BACKENDS, default="cpu", help="where it runs (default: cpu)")


def _add_output_arguments(parser: argparse.ArgumentParser, *, measured: bool) -> None:
    if measured:
        parser.add_argument(
            "--format",
            choices=FORMATS,
            default="npy",
            help="of results in a folder: npy and cfl hold the numbers, png and tif a 16-bit magnitude (default: npy)",
        )
        parser.add_argument(
            "--slices", type=slices, metavar="A:B", help="only slices A to B - 1 of each input, counted from 0"
        )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist instead of skipping them")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="picture of start, result, masks, convergence; of several slices: a folder",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else to standard output")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write that JSON object to a file")


def share(text: str) -> float:
    """A number between 0 and 1."""
    value = positive(text)
    if not value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return value


def candidates(text: str) -> Array:
    """LOW:HIGH:N as N numbers at equal ratios."""
    try:
        low, high, number = text.split(":")
        values = np.geomspace(float(low), float(high), int(number))
        fine = len(values) > 0 and bool(np.isfinite(values).all()) and float(low) <= float(high)
    except ValueError:
        fine = False
    if not fine:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW:HIGH:N, such as 1e-5:1e-2:7")
    return values


def slices(text: str) -> tuple[int, int]:
    """A:B with A < B."""
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        first = last = 0
    if not 0 <= first < last:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B with 0 <= A < B")
    return first, last


def run(args: argparse.Namespace) -> int:
    """Reconstruct what is not done yet; 1 if any input failed."""
    from ..atomic import output_folders

    if all(given is None for given in (args.strength, args.tune_reference, args.noise_std, args.holdout)):
        raise UsageError(
            "say how much to regularise: --strength L, or let it be chosen: --noise-std S (of the measurements), --holdout SHARE (of "
            "the measurements), or --tune-reference FILE (the true image of the first slice)"
        )
    if args.box and not args.box[0] < args.box[1]:
        raise UsageError(f"--box {args.box[0]:g} {args.box[1]:g}: expected LOW below HIGH")
    module = PROBLEMS[args.problem]
    jobs = plan(module.list_inputs(args.inputs), args)
    if args.plot:
        _check_plot(args.plot, len(jobs))
    runner = Runner(args, jobs[0].source)
    start = time.perf_counter()
    records: list[dict[str, Any]] = []
    with output_folders(job.target if job.is_folder else job.target.parent for job in jobs):
        for number, job in enumerate(jobs):
            if not job.is_folder and job.target.exists() and not args.overwrite:
                records.append(_record(job, job.target, "skipped"))
                continue
            try:
                records += _process(job, module.open_study(job.source, args), runner, f"{number + 1}/{len(jobs)}")
            except (SafiError, MemoryError) as error:
                text = message_of(error).removeprefix(f"{job.source}: ")
                records.append(_record(job, job.target, "failed", error=text))
    report = _summary(args, runner, records, time.perf_counter() - start)
    _deliver(args, report)
    return int(report["failed"] > 0)


def plan(sources: list[Path], args: argparse.Namespace) -> list[Job]:
    """Which input goes where; refuses what would overwrite an input or write one output twice."""
    measured = args.problem in MEASURED
    target = Path(args.output)
    several = len(sources) > 1 or Path(args.inputs[0]).is_dir()
    as_folder = target.is_dir() or args.output.endswith("/") or not target.suffix
    if several and not as_folder:
        raise UsageError(f"several inputs need a folder to go to, and {target} is named like a file")
    jobs = [
        Job(source, target if measured or not as_folder else target / source.name, measured and as_folder)
        for source in sources
    ]
    written: dict[Path, Path] = {}
    for job in jobs:
        place = job.target / job.source.stem if job.is_folder else job.target
        first = written.setdefault(place, job.source)
        if first != job.source:
            raise UsageError(f"{first} and {job.source} would both be written to {place}")
    named = [Path(given) for name in OTHER_INPUTS if (given := getattr(args, name, None))]
    originals = {path.resolve() for given in (*sources, *named) for path in _files_of(given)}
    places = [
        Path(f"{place}.{args.format}") if job.is_folder else place for job, place in zip(jobs, written, strict=True)
    ]
    for place in [*places, *[path for path in (args.plot, args.report) if path]]:
        if place.resolve() in originals:
            raise UsageError(f"{place} is an input and would be overwritten; choose another output")
    return jobs


def _process(job: Job, study: Study, runner: Runner, place: str) -> list[dict[str, Any]]:
    """Solve what is missing of one input, write it; a record for each output."""
    args = runner.args
    first, last = getattr(args, "slices", None) or (0, study.count)
    if last > study.count:
        raise ImageFileError(f"{job.source}: has {study.count} slices; --slices {first}:{last} asks for more")
    for note in study.facts.get("warnings", []):
        print_warning(f"{job.source}: {note}")
    numbers = list(range(first, last))
    if args.plot and args.plot.suffix and len(numbers) > 1:
        raise UsageError(f"--plot {args.plot}: {len(numbers)} slices need a folder, a name without an extension")
    if not job.is_folder and args.problem in MEASURED:
        from ..io.results import check_result_name

        check_result_name(job.target, len(numbers))
    groups = [[number] for number in numbers] if job.is_folder else [numbers]
    targets = {group[0]: _target(job, group[0], study.count, args) for group in groups}
    records = []
    missing = [group for group in groups if args.overwrite or not targets[group[0]].exists()]
    steps = sum(map(len, missing)) * _max_outer(args)
    with _bar(f"{place} {job.source.name}", steps) as advance:
        for group in groups:
            target = targets[group[0]]
            if group not in missing:
                records.append(_record(job, target, "skipped", slices=group))
                continue
            results, details = [], []
            for number in group:
                result, facts = _solve(job, study, number, runner, advance)
                results.append(result)
                details.append(facts)
            written = study.write(target, np.stack(results))
            facts = {"data_range": study.data_range, "data_range_rule": study.range_rule, "box": study.box, **written}
            records.append(_record(job, target, "reconstructed", slices=group, **facts, **study.facts, solved=details))
    return records


def _target(job: Job, number: int, slices: int, args: argparse.Namespace) -> Path:
    if not job.is_folder:
        return job.target
    return job.target / f"{job.source.stem}{f'_{number:03d}' if slices > 1 else ''}.{args.format}"


def _solve(job: Job, study: Study, number: int, runner: Runner, advance: Any) -> tuple[Array, dict[str, Any]]:
    """One slice: the image and what the report says of it."""
    args, strength = runner.args, runner.strength()
    made = study.slice(number)
    seen = 0

    def step(_: "OuterState") -> None:
        nonlocal seen
        seen += 1
        advance(1)

    start = time.perf_counter()
    solution = runner.solver().reconstruct(
        made.measurement,
        made.operator,
        strength=strength,
        x0=made.x0,
        callback=step,
        return_masks=args.plot is not None,
        **_options(args, study),
    )
    seconds = time.perf_counter() - start
    advance(_max_outer(args) - seen)
    history = [(float(np.max(r.relative_gap)), float(np.max(r.outer_residual))) for r in solution.history]
    certificate = "relative duality gap over a ball" if study.box is None else "relative duality gap"
    facts = {
        "slice": number,
        "seconds": seconds,
        "strength": strength,
        **sessions.summary(solution),
        "certificate": certificate,
        "outer_residual": float(np.max(solution.outer_residual)),
        "operator_norm": made.operator.norm,
        "shape": list(solution.image.shape),
        "history": [{"relative_gap": gap, "outer_residual": change} for gap, change in history],
        **made.facts,
    }
    if args.plot is not None:
        facts["picture"] = str(_draw(job, study, made, number, solution, facts, args))
    return solution.image, facts


def _options(args: argparse.Namespace, study: Study) -> dict[str, Any]:
    """Arguments of `Solver.reconstruct` that all slices share, without those that were not given."""
    level = None if args.noise_level is None else args.noise_level / sessions.EIGHT_BIT * study.eight_bit
    given = {name: getattr(args, name, None) for name in ("max_outer", "max_iter", "tol", "mask_of")}
    return {
        "data_range": study.data_range,
        "box": study.box,
        **({} if level is None else {"noise_level": level}),
        **{name: value for name, value in given.items() if value is not None},
    }


def _max_outer(args: argparse.Namespace) -> int:
    from ..inverse import MAX_OUTER

    return int(args.max_outer or MAX_OUTER)


def _tune(runner: Runner, study: Study, made: Slice, number: int) -> "Tuning":
    """The best strength for one slice; of a colour image for its middle channel. Raises as `Solver.tune_strength`."""
    from ..inverse import Tuning

    args, operator = runner.args, made.operator
    y, x0, reference = made.measurement, made.x0, None
    if y.ndim > len(operator.shape_out):
        y, x0 = y[len(y) // 2], None if x0 is None else x0[len(x0) // 2]
    if args.holdout:
        x0 = None  # it was made from what is left out as well
    if args.tune_reference:
        reference = _reference(args, study, made, number)
    tried = operator.norm**2 * np.geomspace(LOW, HIGH, CANDIDATES) if args.candidates is None else args.candidates
    at_once = max(1, PIXELS_AT_ONCE // int(np.prod(operator.shape_in)))
    scores: list[float] = []
    by = ""
    with _bar("choosing the strength", len(tried)) as advance:
        for part in np.split(tried, range(at_once, len(tried), at_once)):
            found = runner.solver().tune_strength(
                y,
                operator,
                part,
                reference=reference,
                noise_std=None if args.noise_std is None else args.noise_std * study.noise_unit,
                holdout=args.holdout,
                x0=None if x0 is None else np.stack([x0] * len(part)),
                **_options(args, study),
            )
            scores, by = [*scores, *found.scores.tolist()], found.by
            advance(len(part))
    best = int(np.argmin(scores))
    if best in (0, len(tried) - 1) and len(tried) > 1:
        print_warning(
            f"the best strength, {tried[best]:.3g}, is the {'smallest' if best == 0 else 'largest'} that was tried; "
            "pass --candidates LOW:HIGH:N around it"
        )
    return Tuning(float(tried[best]), np.asarray(tried), np.asarray(scores), by)


def _reference(args: argparse.Namespace, study: Study, made: Slice, number: int) -> Array:
    """The image of --tune-reference, in the units of the result. Raises ImageFileError."""
    if args.problem in MEASURED:
        from ..io import read_array

        image = np.asarray(read_array(args.tune_reference))
        image = image.reshape([side for side in image.shape if side > 1])
        image = image[number] if image.ndim == 3 and len(image) == study.count else image
    else:
        from ..io import read_image

        file = read_image(args.tune_reference)
        image = file.array if file.channel_axis is None else file.array[..., 1]
        image = image[number] if image.ndim == 3 else image
        image = (
            image.astype(np.float32)
            / np.float32(args.data_range or file.data_range or 1)
            * np.float32(study.data_range)
        )
    shape = made.operator.shape_in
    if image.shape != shape:
        raise ImageFileError(
            f"{args.tune_reference}: the reference has shape {image.shape}; expected the image's {shape}"
        )
    ours, theirs = (float(np.sqrt(np.mean(np.abs(one) ** 2))) for one in (made.start[..., :, :], image))
    if made.start.shape[-2:] == shape and not 0.1 < theirs / max(ours, np.finfo(float).tiny) < 10:
        raise ImageFileError(
            f"{args.tune_reference}: the reference has a root mean square of {theirs:.3g}, but the start image of this slice "
            f"{ours:.3g}; expected the units of the result"
        )
    return image


def _draw(
    job: Job, study: Study, made: Slice, number: int, solution: Any, facts: dict[str, Any], args: argparse.Namespace
) -> Path:
    from ..atomic import prepare_folder
    from ..plots import reconstruction

    path: Path = args.plot
    if path.suffix.lower() != ".png":
        prepare_folder(path)
        path = path / f"{job.source.stem}{f'_{number:03d}' if study.count > 1 else ''}.png"
    colour = solution.image.ndim == 3
    start, result = (_shown(image, study.data_range) for image in (made.start, solution.image))
    masks = solution.masks.mean(axis=(0, 1) if colour else 0)
    reconstruction(
        path,
        start,
        result,
        masks,
        [entry["relative_gap"] for entry in facts["history"]],
        [entry["outer_residual"] for entry in facts["history"]],
        certificate=facts["certificate"],
        captions={
            "start": study.start_name,
            "result": f"Reconstruction\nstrength {facts['strength']:.3g}, {facts['seconds']:.1f} s",
        },
    )
    return path


def _shown(image: Array, data_range: float) -> Array:
    """(H, W) or (H, W, 3) on [0, 1] for a picture: magnitudes of complex numbers."""
    values = (np.abs(image) if np.iscomplexobj(image) else image) / data_range
    return np.moveaxis(values, 0, -1) if values.ndim == 3 else values


def _check_plot(path: Path, inputs: int) -> None:
    from ..plots import require_matplotlib

    require_matplotlib()
    if path.suffix and path.suffix.lower() != ".png":
        raise UsageError(f"--plot {path}: a picture is written as .png; a folder needs a name without an extension")
    if path.suffix and inputs > 1:
        raise UsageError(f"--plot {path}: {inputs} inputs need a folder, a name without an extension")


@contextmanager
def _bar(description: str, total: int) -> Iterator[Any]:
    with progress(description, total, unit="step") as advance:
        yield advance


def _files_of(given: Path) -> list[Path]:
    """The files behind FILE::NAME, and both files of a BART pair."""
    path = Path(str(given).partition("::")[0])
    return [path.with_suffix(".cfl"), path.with_suffix(".hdr")] if path.suffix in (".cfl", ".hdr") else [path]


def _record(job: Job, target: Path, status: str, **facts: Any) -> dict[str, Any]:
    return {"input": str(job.source), "output": str(target), "status": status, **facts}


def _summary(args: argparse.Namespace, runner: Runner, records: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    counts = {
        status: sum(record["status"] == status for record in records)
        for status in ("reconstructed", "skipped", "failed")
    }
    solved = [facts for record in records for facts in record.get("solved", [])]
    tuning = runner.tuning
    return {
        "problem": args.problem,
        "model": runner.session.model.name if runner.session else args.model,
        "model_sha256": runner.session.model.fingerprint if runner.session else None,
        "strength": tuning.strength if tuning else args.strength,
        "tuning": None
        if tuning is None
        else {"by": tuning.by, "candidates": tuning.candidates.tolist(), "scores": tuning.scores.tolist()},
        "noise_level": _noise_level(args, runner),
        **counts,
        "slices": len(solved),
        "seconds": seconds,
        "slices_per_minute": 60 * len(solved) / seconds if solved else None,
        "files": records,
    }


def _noise_level(args: argparse.Namespace, runner: Runner) -> float | None:
    """On the scale 0 to 255; None where no model was loaded."""
    from ..inverse import middle_level

    if args.noise_level is None and runner.session:
        return round(middle_level(runner.session.model) * sessions.EIGHT_BIT, 4)
    return None if args.noise_level is None else float(args.noise_level)


def _unfinished(args: argparse.Namespace, solved: list[dict[str, Any]]) -> str | None:
    """How many slices did not reach the tolerance, what is left, and what to raise; None where all did."""
    from ..inverse import OUTER_TOLERANCE, TOLERANCE

    left = [facts for facts in solved if facts["solver_status"] != "converged"]
    if not left:
        return None
    tol = args.tol or TOLERANCE
    gap, change = (max(facts[name] for facts in left) for name in ("relative_gap", "outer_residual"))
    parts = []
    if gap > tol:
        parts.append(f"gap {gap:.1e}, not {tol:.1e}: raise --max-iter")
    if change > OUTER_TOLERANCE * tol or not parts:
        parts.append(f"change between masks {change:.1e}, not {OUTER_TOLERANCE * tol:.1e}: raise --max-outer")
    return f"{len(left)} of them without reaching the tolerance ({'; '.join(parts)})"


def _deliver(args: argparse.Namespace, report: dict[str, Any]) -> None:
    if args.report:
        from ..atomic import prepare_folder, write_atomically

        prepare_folder(args.report.parent)
        write_atomically(args.report, f"{json_text(report)}\n".encode())
    if args.json:
        print_json(report)
    else:
        _print(args, report)
    print_failures([record for record in report["files"] if record["status"] == "failed"])


def _print(args: argparse.Namespace, report: dict[str, Any]) -> None:
    solved = [facts for record in report["files"] for facts in record.get("solved", [])]
    if solved:
        worst = max(facts["relative_gap"] for facts in solved)
        chosen = f" (chosen by {report['tuning']['by']})" if report["tuning"] else ""
        print(f"strength     {report['strength']:.4g}{chosen}")
        print(f"certificate  {scientific(worst)} or less: {solved[0]['certificate']}")
    parts = [f"{report['slices']} slice{'' if report['slices'] == 1 else 's'} in {report['seconds']:.1f} s"]
    if solved:
        parts.append(f"{report['slices_per_minute']:.1f} slices per minute")
    if unfinished := _unfinished(args, solved):
        parts.append(unfinished)
    if report["skipped"]:
        parts.append(f"{report['skipped']} skipped because the output exists (--overwrite replaces it)")
    if report["failed"]:
        parts.append(f"{report['failed']} failed")
    print(", ".join(parts))
