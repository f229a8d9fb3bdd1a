"""Denoise image files: one file, many, or whole folders (PNG, JPEG, TIFF, NPY; grey or colour).

OUT is a file for one input file, else a folder, which is made if it is missing; results keep the names of their
inputs. Outputs that exist are skipped, so a run that was stopped goes on where it was; each output is written whole
or not at all. A file that cannot be read does not stop the others: it is reported at the end, with exit status 1.
Results keep dtype, range and alpha of their input; a JPEG is compressed again (quality 95). The next file is read, and the
one before written, while one is denoised.
"""

import argparse
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..color import MODES
from ..errors import ImageFileError, SafiError
from . import session as sessions
from .arguments import UsageError, add_json_argument, add_solver_arguments, count, positive, size, solver_options
from .output import message_of, print_failures, print_json, print_warning, progress

if TYPE_CHECKING:
    from ..io import ImageFile

READ_AHEAD = 2
TWELVE_BIT = 4095


@dataclass(frozen=True)
class Job:
    """One input and where its result goes."""

    source: Path
    target: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast denoise`."""
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="image files or folders of them")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="file or folder for the results")
    parser.add_argument("--sigma", type=positive, required=True, metavar="S", help="noise level, on the scale 0 to 255")
    add_solver_arguments(parser)
    parser.add_argument("--max-outer", type=count, metavar="N", help="most outer steps, one mask each")
    parser.add_argument("--max-inner", type=count, metavar="N", help="most inner steps under one mask")
    parser.add_argument("--tol", type=positive, metavar="T", help="tolerance of the schedule's stopping rule")
    parser.add_argument(
        "--data-range",
        type=positive,
        metavar="R",
        help="value of white (default: 255 or 65535 for 8 or 16 bits, 1 for floats); sigma is scaled with it",
    )
    parser.add_argument(
        "--color",
        choices=MODES,
        help="solve red, green and blue as luma and chroma (default), or each of the three channels for itself, as stains and spectra need",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist instead of skipping them")
    parser.add_argument(
        "--max-memory", type=size, metavar="SIZE", help="such as 4GB: solve what takes more in overlapping tiles"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Denoise what is not done yet; 1 if any file failed."""
    from ..atomic import prepare_folder

    jobs = plan(args.inputs, args.output)
    records = {job: _record(job, "skipped") for job in jobs}
    pending = [job for job in jobs if args.overwrite or not job.target.exists()]
    session = None
    if pending:
        for folder in {job.target.parent for job in pending}:
            prepare_folder(folder)
        session = sessions.make_session(args.model, args.backend, args.precision)
        session.check(args.sigma, **solver_options(args))
        with progress("denoising", len(pending)) as advance, closing(_solved(pending, session, args)) as results:
            for job, result in results:
                records[job] = _finish(job, result)
                advance()
    _report(args, session, list(records.values()))
    return int(any(record["status"] == "failed" for record in records.values()))


def plan(inputs: list[Path], output: str) -> list[Job]:
    """Which file goes where; refuses what would overwrite an input or write one output twice."""
    from ..atomic import real
    from ..io import list_images
    from ..io.images import is_image_name

    sources = list_images(inputs)
    target = Path(output)
    several = len(sources) > 1 or inputs[0].is_dir()
    as_folder = target.is_dir() or output.endswith("/") or not target.suffix or (several and not is_image_name(target))
    if several and not as_folder:
        raise UsageError(f"several images need a folder to go to, and {target} is named like a file")
    if not as_folder and not is_image_name(target):
        raise UsageError(
            f"{target}: unsupported extension {target.suffix!r}; a folder needs a name without one or a final /"
        )
    jobs = [Job(source, target / source.name if as_folder else target) for source in sources]
    writers: dict[Path, Path] = {}
    for job in jobs:
        first = writers.setdefault(job.target, job.source)
        if first != job.source:
            raise UsageError(f"{first} and {job.source} would both be written to {job.target}")
    originals = {real(source) for source in sources}
    for job in jobs:
        if real(job.target) in originals:
            raise UsageError(f"{job.target} is an input and would be overwritten; choose another output")
    return jobs


@dataclass(frozen=True)
class _Solved:
    """What is to be written, and how it was reached."""

    solution: Any
    like: "ImageFile"
    seconds: float
    warning: str | None


def _solved(jobs: list[Job], session: sessions.Session, args: argparse.Namespace) -> Generator[Any, None, None]:
    """(job, _Solved or what went wrong) of every job; reads in one thread and solves in another, ahead of the caller."""
    from ..stream import ahead

    files = ahead(((job, _attempt(_read, job)) for job in jobs), READ_AHEAD)
    results = ((job, _attempt(_denoise, job, file, session, args)) for job, file in files)
    return ahead(results, 1, solves=True)


def _attempt(step: Callable[..., Any], job: Job, *arguments: Any) -> Any:
    """What `step` gives, or the exception that concerns this job alone."""
    try:
        return step(job, *arguments)
    except (SafiError, MemoryError) as error:
        return error


def _read(job: Job) -> "ImageFile":
    from ..io import read_image

    return read_image(job.source)


def _denoise(job: Job, file: Any, session: sessions.Session, args: argparse.Namespace) -> _Solved:
    if isinstance(file, Exception):
        raise file
    data_range = _data_range(job.source, file, args.sigma, args.data_range)
    options = solver_options(args)
    if args.max_memory is not None:
        options["max_memory"] = args.max_memory
    if file.channel_axis is not None:
        options["color"] = args.color
    start = time.perf_counter()
    solution = session.denoise(file.array, args.sigma, data_range=data_range, channel_axis=file.channel_axis, **options)
    seconds = time.perf_counter() - start
    warning = _narrow(file) if args.data_range is None else None
    return _Solved(solution, replace(file, data_range=data_range), seconds, warning)


def _finish(job: Job, result: Any) -> dict[str, Any]:
    """Write the result; the record of the job."""
    if not isinstance(result, Exception):
        result = _attempt(_write, job, result)
    if isinstance(result, Exception):
        return _record(job, "failed", error=message_of(result).removeprefix(f"{job.source}: "))
    facts = {} if result.warning is None else {"warning": result.warning}
    return _record(job, "denoised", seconds=result.seconds, **sessions.summary(result.solution), **facts)


def _write(job: Job, result: _Solved) -> _Solved:
    from ..io import write_image

    write_image(job.target, result.solution.image, like=result.like)
    return result


def _data_range(path: Path, file: "ImageFile", sigma: float, given: float | None) -> float:
    """The value of white, as given or as the dtype says; refuses floats that are evidently not on [0, 1]."""
    from ..arrays import check_unit_range

    if given is not None:
        return given
    if file.data_range is None:
        raise ImageFileError(f"{path}: {file.array.dtype} pixels have no known range; pass --data-range")
    if file.array.dtype.kind == "f":
        check_unit_range("image", file.array, sigma / sessions.EIGHT_BIT)
    return file.data_range


def _narrow(file: "ImageFile") -> str | None:
    """A warning where a file of 16 bits uses 12 of them at most."""
    largest = int(file.array.max()) if file.array.dtype == "uint16" else 0
    if not 0 < largest <= TWELVE_BIT:
        return None
    return f"largest value {largest} of {file.data_range:g}; for 12-bit data pass --data-range {TWELVE_BIT}"


def _record(job: Job, status: str, **facts: Any) -> dict[str, Any]:
    return {"input": str(job.source), "output": str(job.target), "status": status, **facts}


def _report(args: argparse.Namespace, session: sessions.Session | None, records: list[dict[str, Any]]) -> None:
    by_status = {
        status: [record for record in records if record["status"] == status]
        for status in ("denoised", "skipped", "failed")
    }
    counts = {status: len(members) for status, members in by_status.items()}
    if args.json:
        model = session.model.name if session else args.model
        schedule = args.schedule or (session.model.schedule.name if session else None)
        print_json({"model": model, "sigma": args.sigma, "schedule": schedule, **counts, "files": records})
    else:
        unfinished = sum(record["solver_status"] == "max_iterations" for record in by_status["denoised"])
        print(_sentence(counts, sum(record["seconds"] for record in by_status["denoised"]), unfinished))
    warned = [record for record in by_status["denoised"] if "warning" in record]
    if warned:
        others = f" (and {len(warned) - 1} more)" if len(warned) > 1 else ""
        print_warning(f"{warned[0]['input']}{others}: {warned[0]['warning']}")
    print_failures(by_status["failed"])


def _sentence(counts: dict[str, int], seconds: float, unfinished: int) -> str:
    parts = [f"{counts['denoised']} denoised in {seconds:.1f} s"]
    if unfinished:
        parts.append(f"{unfinished} of them without reaching the tolerance")
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} skipped because the output exists (--overwrite replaces it)")
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    return ", ".join(parts)
