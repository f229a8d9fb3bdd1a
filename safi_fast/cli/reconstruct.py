"""Reconstruct images from measurements: MRI, CT, deblurring, inpainting, super-resolution.

OUT is a file for one input, else a folder, which is made if it is missing. Outputs that exist are skipped, so a run that was
stopped goes on where it was; each output is written whole or not at all. An input that cannot be read does not stop the
others: it is reported at the end, with exit status 1.

The strength of the regularisation has no default, because the right one depends on operator and noise. Give --strength, or
have it chosen among --candidates, once, on the first slice of the first input that can be read: --noise-std takes the strength whose residual
fits that noise, --holdout the one that best predicts measurements it was not fitted to, --tune-reference the one nearest to
a known image of that slice. The report states what was chosen.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SafiError
from .arguments import UsageError, count, positive
from .output import first_sentence, message_of
from .problems import Array
from .reconstruct_job import CANDIDATES, HIGH, LOW, MEASURED, PROBLEMS, Job, Runner, process, record_of
from .reconstruct_report import deliver, summary

FORMATS = ("npy", "cfl", "png", "tif")
BACKENDS = ("cpu",)  # reconstruction has no GPU backend yet
OTHER_INPUTS = ("mask", "maps", "kernel", "angles", "tune_reference")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast reconstruct`."""
    problems = parser.add_subparsers(dest="problem", metavar="PROBLEM", required=True)
    for name, module in PROBLEMS.items():
        text = (module.__doc__ or "").strip()
        command = problems.add_parser(
            name,
            help=first_sentence(text),
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
    from ..atomic import prepare_folder

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
    runner = Runner(args, [job.source for job in jobs])
    for folder in {job.target if job.is_folder else job.target.parent for job in jobs}:
        prepare_folder(folder)
    start = time.perf_counter()
    records: list[dict[str, Any]] = []
    for number, job in enumerate(jobs):
        if not job.is_folder and job.target.exists() and not args.overwrite:
            records.append(record_of(job, job.target, "skipped"))
            continue
        try:
            records += process(job, module.open_study(job.source, args), runner, f"{number + 1}/{len(jobs)}")
        except (SafiError, MemoryError) as error:
            text = message_of(error).removeprefix(f"{job.source}: ")
            records.append(record_of(job, job.target, "failed", error=text))
    report = summary(args, runner, records, time.perf_counter() - start)
    deliver(args, report)
    return int(report["failed"] > 0)


def plan(sources: list[Path], args: argparse.Namespace) -> list[Job]:
    """Which input goes where; refuses what would overwrite an input or write one output twice."""
    from ..atomic import real

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
    originals = {real(path) for given in (*sources, *named) for path in _files_of(given)}
    places = [
        Path(f"{place}.{args.format}") if job.is_folder else place for job, place in zip(jobs, written, strict=True)
    ]
    for place in [*places, *[path for path in (args.plot, args.report) if path]]:
        if real(place) in originals:
            raise UsageError(f"{place} is an input and would be overwritten; choose another output")
    return jobs


def _check_plot(path: Path, inputs: int) -> None:
    from ..plots import require_matplotlib

    require_matplotlib()
    if path.suffix and path.suffix.lower() != ".png":
        raise UsageError(f"--plot {path}: a picture is written as .png; a folder needs a name without an extension")
    if path.suffix and inputs > 1:
        raise UsageError(f"--plot {path}: {inputs} inputs need a folder, a name without an extension")


def _files_of(given: Path) -> list[Path]:
    """The files behind FILE::NAME, and both files of a BART pair."""
    path = Path(str(given).partition("::")[0])
    return [path.with_suffix(".cfl"), path.with_suffix(".hdr")] if path.suffix in (".cfl", ".hdr") else [path]
