"""Reconstruct images from measurements: MRI, CT, deblurring, inpainting, super-resolution.

OUT is a file for one input, else a folder, which is made if it is missing. Outputs that exist are skipped, so a run
that was stopped goes on where it was; each output is written whole or not at all. Several processes, also on other
machines, can work on one folder: each output is solved once, and at the end a run waits for those that others are
solving. An input that cannot be read does not stop the others: it is reported at the end, with exit status 1. Results
of deblur, inpaint and superres keep depth, alpha, colour profile, resolution, EXIF and axes of their input; what the
output format cannot hold is named.

The strength of the regularisation has no default, because the right one depends on operator and noise. Give --strength,
or have it chosen among --candidates, once, on the first slice of the first input that can be read: --noise-std takes
the strength whose residual fits that noise, --holdout the one that best predicts measurements it was not fitted to,
--tune-reference the one nearest to a known image of that slice. The report states what was chosen.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from ..atomic import prepare_folder
from .arguments import (
    BACKENDS,
    UsageError,
    add_box_arguments,
    add_precision_argument,
    add_range_argument,
    count,
    positive,
    size,
)
from .options import check_box, made
from .output import first_sentence
from .page import Page, check_name
from .parser import Rare
from .plan import Job, Output, check_outputs, plan, slice_outputs
from .reconstruct_job import CANDIDATES, HIGH, LOW, Runner, numbers_of, reconstruct_all
from .reconstruct_options import MEASURED, PROBLEMS, Options
from .reconstruct_page import facts_of
from .reconstruct_report import deliver, summary
from .sharing import Turns

FORMATS = ("npy", "cfl", "png", "tif")


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
        )
        command.set_defaults(parser=command)
        command.add_argument("inputs", nargs="+", metavar=module.INPUT, help=module.INPUT_HELP)
        command.add_argument("-o", "--output", required=True, metavar="OUT", help="file or folder for the results")
        module.add_arguments(command)
        _add_solver_arguments(command)
        _add_output_arguments(command, measured=name in MEASURED)


def _add_strength_arguments(parser: argparse.ArgumentParser) -> None:
    strength = parser.add_mutually_exclusive_group()
    strength.add_argument("--strength", type=positive, metavar="L", help="lambda for images on [0, 1]")
    strength.add_argument(
        "--tune-reference", metavar="FILE", help="choose the strength by this true image of the first slice"
    )
    strength.add_argument(
        "--noise-std",
        type=positive,
        metavar="S",
        help="choose the strength by the standard deviation of the noise of each real number measured (mri, ct: "
        "in the units of "
        "the file; images: on the scale 0 to 255)",
    )
    strength.add_argument(
        "--holdout",
        type=share,
        metavar="SHARE",
        help="choose the strength by predicting this share of the measurements, such as 0.1, from the others "
        "(CT: whole views)",
    )
    parser.add_argument(
        "--candidates",
        type=candidates,
        metavar="LOW:HIGH:N",
        help=Rare(
            f"strengths to choose from, N at equal ratios (default: {CANDIDATES} from {LOW:g} to {HIGH:g} times "
            f"||H||^2)"
        ),
    )


def _add_solver_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME|PATH", help="a shipped model or a .safetensors file (default: the shipped one)"
    )
    _add_strength_arguments(parser)
    parser.add_argument(
        "--noise-level",
        type=positive,
        metavar="S",
        help=Rare(
            "noise that the model's mask generator should expect, on the scale 0 to 255 (default: the middle of "
            "its levels)"
        ),
    )
    parser.add_argument(
        "--certify",
        action="store_const",
        dest="schedule",
        const="gap",
        default="fast",
        help="go on until the certificate says that the image is solved, instead of a fixed number of steps",
    )
    parser.add_argument(
        "--max-outer",
        type=count,
        metavar="N",
        help=Rare("outer steps, one mask each (default: 4, 8 for inpaint; with --certify at most 20)"),
    )
    parser.add_argument(
        "--max-iter",
        type=count,
        metavar="N",
        help=Rare("inner steps under one mask (default: 75, deblur and superres 37; with --certify at most 1000)"),
    )
    parser.add_argument(
        "--tol",
        type=positive,
        metavar="T",
        help=Rare("of certificate and outer change (default: 1e-3)"),
    )
    parser.add_argument(
        "--max-memory", type=size, metavar="SIZE", help=Rare("such as 4GB: refuse a slice that takes more")
    )
    add_range_argument(parser, "by dtype; mri, ct: estimated, see above")
    add_box_arguments(parser, "0 1, where the range is estimated 0 2; complex images have none")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help=Rare("where it runs (default: auto, a GPU if one can be used)"),
    )
    add_precision_argument(parser)


def _add_output_arguments(parser: argparse.ArgumentParser, *, measured: bool) -> None:
    if measured:
        parser.add_argument(
            "--format",
            choices=FORMATS,
            default="npy",
            help=Rare(
                "of results in a folder: npy and cfl hold the numbers, png and tif a 16-bit magnitude (default: npy)"
            ),
        )
        parser.add_argument(
            "--slices", type=slices, metavar="A:B", help=Rare("only slices A to B - 1 of each input, counted from 0")
        )
    else:
        parser.set_defaults(format=None, slices=None)
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist instead of skipping them")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="picture of start, result, masks, convergence; of several slices: a folder",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="page of start and result, masks, convergence, figures"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else to standard output")
    parser.add_argument("--report", type=Path, metavar="FILE", help=Rare("write that JSON object to a file"))


def share(text: str) -> float:
    """A number between 0 and 1."""
    value = positive(text)
    if not value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return value


def candidates(text: str) -> tuple[float, ...]:
    """LOW:HIGH:N as N numbers at equal ratios."""
    try:
        low, high, number = text.split(":")
        values = np.geomspace(float(low), float(high), int(number))
        fine = len(values) > 0 and bool(np.isfinite(values).all()) and float(low) <= float(high)
    except ValueError:
        fine = False
    if not fine:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW:HIGH:N, such as 1e-5:1e-2:7")
    return tuple(values.tolist())


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
    options = options_of(args)
    if all(given is None for given in (options.strength, options.tune_reference, options.noise_std, options.holdout)):
        raise UsageError(
            "say how much to regularise: --strength L, or let it be chosen: --noise-std S (of the measurements), "
            "--holdout SHARE (of "
            "the measurements), or --tune-reference FILE (the true image of the first slice)"
        )
    if options.tol is not None and options.schedule == "fast":
        raise UsageError(f"--tol is {options.tol:g}, but a fixed number of steps has no tolerance; add --certify")
    check_box(options.case)
    jobs = _jobs(options)
    if options.plot:
        _check_plot(options.plot, len(jobs))
    page = None
    if options.html:
        check_name("--html", options.html)
        page = Page(options.html)
    parents = [path.parent for path in (options.report, options.html) if path]
    for beside in (*parents, options.plot_folder):
        if beside is not None:
            prepare_folder(beside)
    with Turns(overwrite=options.overwrite) as turns:
        turns.prepare({job.folder for job in jobs})
        runner = Runner(options, [job.source for job in jobs], turns, page)
        start = time.perf_counter()
        records = reconstruct_all(jobs, runner)
    report = summary(options, runner, records, time.perf_counter() - start)
    deliver(options, report)
    if page:
        page.write(f"reconstruct {options.problem}", facts_of(report), records)
    drawn = [facts["picture"] for record in records for facts in record.get("solved", []) if "picture" in facts]
    return int(report["failed"] > 0 or None in drawn)


def options_of(args: argparse.Namespace) -> Options:
    """The arguments of a run, typed."""
    return made(Options, args, case=made(PROBLEMS[args.problem].OPTIONS, args))


def _jobs(options: Options) -> list[Job]:
    """Which input goes where; refuses what would overwrite an input or write one output twice."""
    sources = PROBLEMS[options.problem].list_inputs(options.inputs)
    jobs = plan(sources, options.inputs, options.output, in_slices=options.measured)
    named = [Path(given) for given in (*options.case.files, options.tune_reference) if given]
    check_outputs(_outputs(jobs, options), [path for given in (*sources, *named) for path in _files_of(given)])
    return jobs


def _outputs(jobs: list[Job], options: Options) -> list[Output]:
    """All files that the run may write, as far as they can meet."""
    sources = [job.source for job in jobs]

    def numbers(source: Path) -> tuple[range, int]:
        return numbers_of(source, options)

    if jobs[0].is_folder:
        outputs = slice_outputs(jobs[0].target, sources, f".{options.format}", "{}", numbers)
    else:
        outputs = [Output(job.target, str(job.source)) for job in jobs]
    outputs = [Output(path, output.source) for output in outputs for path in _files_of(output.path)]
    if options.plot and options.plot == options.plot_folder:
        outputs += slice_outputs(options.plot, sources, ".png", "the picture of {}", numbers)
    elif options.plot:
        outputs.append(Output(options.plot, "--plot"))
    beside = (("--report", options.report), ("--html", options.html))
    return [*outputs, *(Output(path, option) for option, path in beside if path)]


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
