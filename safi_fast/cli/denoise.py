"""Denoise image files: one, many, or folders of them (PNG, JPEG, TIFF, NPY, DICOM, NIfTI), or a Zarr volume.

OUT is a file for one input file, else a folder, which is made if it is missing; of a folder its own images are taken,
not those of folders in it; results keep the names of their inputs. Outputs that exist are skipped, so a run that was
stopped goes on where it was; each output is written whole or not at all. Several processes, also on other machines, can
work on one folder: each image is solved once, and at the end a run waits for those that others are solving. A file that
cannot be read does not stop the others: it is reported at the end, with exit status 1. Results keep depth, range and
alpha of their input, its axes and spacing, colour profile, resolution, EXIF and description; they are upright, whatever
the orientation tag said. What the output format cannot hold is named once at the end. A JPEG is compressed again
(quality 95). The next file is read, and the one before written, while one is denoised.

A folder of DICOM files is one series, whose slices are solved together in their order in the patient; OUT is its
folder, there as a whole or not at all. Where values are rescaled (CT) or signed, nobody but you knows black and white:
--data-range LOW HIGH, in the values of the file, such as HU.

A Zarr array or OME-Zarr image (a folder NAME.zarr) is denoised plane by plane into the folder OUT, block by block. A
run that was killed goes on where it was, by the same command.
"""

import argparse
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import prepare_folder
from ..color import MODES, Mode
from ..errors import SafiError
from ..values import PLAUSIBLE_NOISE, Range, cut_off
from . import dicom, volumes
from . import session as sessions
from .arguments import (
    UsageError,
    add_box_arguments,
    add_devices_argument,
    add_json_argument,
    add_range_argument,
    add_solver_arguments,
    count,
    devices_of,
    local,
    local_path,
    positive,
    sigma,
    size,
)
from .denoise_page import entry_of, facts_of, masks_of
from .options import ScaleOptions, SolverOptions, box_option, check_box, made, stated
from .output import Warned, lost_names, message_of, print_failures, print_json, print_lost, progress
from .page import Page, check_name
from .parser import Rare
from .plan import Job, Output, check_outputs
from .sharing import Skipped, Turns, in_turn, skipped_words
from .sigma_map import check_map, fitting_map, read_map

if TYPE_CHECKING:
    from ..io import ImageFile
    from ..types import FloatArray

READ_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Options(SolverOptions, ScaleOptions):
    """The arguments of `safi-fast denoise`."""

    inputs: tuple[Path, ...]
    output: str
    sigma: float | str | None  # or "estimate"
    sigma_map: Path | None
    noise: str
    gain: float | None
    offset: float | None
    max_outer: int | None
    max_inner: int | None
    tol: float | None
    color: Mode | None
    overwrite: bool
    max_memory: float | None
    devices: tuple[int | str, ...] | None
    html: Path | None
    json: bool

    def steps(self) -> dict[str, Any]:
        """The arguments that go to `Solver.denoise` as they are, without those that were not given."""
        return stated(
            schedule=self.schedule,
            strength=self.strength,
            max_outer=self.max_outer,
            max_inner=self.max_inner,
            tol=self.tol,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast denoise`."""
    parser.add_argument("inputs", nargs="+", type=local_path, metavar="IN", help="image files or folders of them")
    parser.add_argument(
        "-o", "--output", required=True, type=local, metavar="OUT", help="file or folder for the results"
    )
    parser.add_argument(
        "--sigma",
        type=sigma,
        metavar="S",
        help="standard deviation of the noise, as if white were 255: 255 * noise / (white - black); or 'estimate': "
        "measured in each image; needed but with --noise poisson",
    )
    parser.add_argument(
        "--sigma-map",
        type=local_path,
        metavar="FILE",
        help=Rare("instead of --sigma: an image or array of it for every pixel, of the size of the inputs"),
    )
    parser.add_argument(
        "--noise",
        choices=("gaussian", "poisson"),
        default="gaussian",
        help="poisson: pixels are counts, gain * count + offset, with Gaussian noise of --sigma besides, all in the "
        "values of the file",
    )
    parser.add_argument("--gain", type=positive, metavar="G", help=Rare("value of one count (default: 1)"))
    parser.add_argument("--offset", type=float, metavar="O", help=Rare("value of no counts (default: 0)"))
    add_solver_arguments(parser)
    add_devices_argument(parser)
    parser.add_argument("--max-outer", type=count, metavar="N", help=Rare("most outer steps, one mask each"))
    parser.add_argument("--max-inner", type=count, metavar="N", help=Rare("most inner steps under one mask"))
    parser.add_argument("--tol", type=positive, metavar="T", help=Rare("tolerance of the schedule's stopping rule"))
    add_range_argument(parser, "255 or 65535 for 8 or 16 bits, 1 for floats; sigma is scaled with it")
    add_box_arguments(parser, "0 1")
    parser.add_argument(
        "--color",
        choices=MODES,
        help="solve red, green and blue as luma and chroma (default), or each of the three channels for itself, "
        "as stains and spectra need",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist instead of skipping them")
    parser.add_argument(
        "--max-memory", type=size, metavar="SIZE", help="such as 4GB: solve what takes more in overlapping tiles"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="page of images before and after, masks, figures")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Denoise what is not done yet; 1 if any file failed."""
    options = made(Options, args)
    check_box(options)
    _check_noise(options)
    if options.html:
        check_name("--html", options.html)
    if volumes.has_volume(options.inputs):
        return volumes.run(options)
    jobs = _jobs(options)
    page = None
    if options.html:
        prepare_folder(options.html.parent)
        page = Page(options.html)
    session, warned = None, Warned()
    with Turns(overwrite=options.overwrite, folders=[job.target for job in jobs if job.is_series]) as turns:
        found = {job: _attempt(turns.skipped, job.target) for job in jobs}
        pending = [job for job in jobs if found[job] is None]
        records = {job: _finish(job, found[job]) if found[job] else {} for job in jobs}
        turns.tidy({job.folder for job in jobs})
        if pending:
            turns.prepare({job.folder for job in pending})
            noise_map = None if options.sigma_map is None else read_map(options.sigma_map)
            session = sessions.make_session(
                options.model, options.backend, options.precision, devices_of(options.devices)
            )
            known = options.sigma if options.noise == "gaussian" and not isinstance(options.sigma, str) else None
            session.check(known, **options.steps())
            if noise_map is not None:
                check_map(noise_map, session, options)
            queue = in_turn(pending, lambda job: job.target, turns)
            solved = _solved(queue, session, options, warned, page, noise_map)
            with progress("denoising", len(pending)) as advance, closing(solved) as results:
                for job, result in results:
                    records[job] = _finish(job, result)
                    turns.let_go(job.target)
                    advance()
    warned.finish()
    _report(options, session, list(records.values()))
    if page:
        page.write("denoise", facts_of(options, session), list(records.values()))
    return int(any(record["status"] == "failed" for record in records.values()))


def _check_noise(options: Options) -> None:
    """Raises UsageError for arguments that do not go together."""
    if options.noise == "gaussian":
        if options.sigma is None and options.sigma_map is None:
            raise UsageError("the following arguments are required: --sigma")
        if options.sigma is not None and options.sigma_map is not None:
            raise UsageError(
                "--sigma-map does not go with --sigma, which it says for every pixel; leave one of them out"
            )
        given = [f"--{name}" for name in stated(gain=options.gain, offset=options.offset)]
        if given:
            raise UsageError(f"{given[0]} goes with --noise poisson alone")
    elif options.sigma_map is not None:
        raise UsageError("--sigma-map does not go with --noise poisson, whose noise follows from the counts")
    elif isinstance(options.sigma, str):
        raise UsageError(f"--sigma {options.sigma} does not go with --noise poisson; expected a number, or none for 0")
    elif options.strength is not None:
        raise UsageError("--strength does not go with --noise poisson, whose scale is of the transform")


def _jobs(options: Options) -> list[Job]:
    """Which file goes where; refuses what would overwrite an input or write one output twice."""
    from ..io import list_images
    from ..io.images import all_files

    sources = list_images(options.inputs, series=True)
    jobs = dicom.plan_with_series(sources, options.inputs, options.output)
    outputs = [Output(job.target, str(job.source)) for job in jobs]
    read = [*all_files(sources), *([options.sigma_map] if options.sigma_map else [])]
    check_outputs([*outputs, *([Output(options.html, "--html")] if options.html else [])], read)
    dicom.check_folders(jobs)
    return jobs


@dataclass(frozen=True)
class Solved:
    """What is to be written, and how it was reached."""

    solution: Any
    like: "ImageFile"
    seconds: float
    warning: str | None
    model: str = ""
    lost: tuple[str, ...] = ()
    estimate: list[float] | None = None  # of the noise, on the 8-bit scale, one of each image of a stack
    meaning: Range | None = None  # black and white; None of counts


def _solved(
    turns: Iterable[tuple[Job, Exception | None]],
    session: sessions.Session,
    options: Options,
    warned: Warned,
    page: Page | None,
    noise_map: "FloatArray | None",
) -> Generator[Any, None, None]:
    """(job, Solved or what stood in its way) of every job; reads in one thread and solves in another, or in one for
    each GPU, ahead of the caller.
    """
    from ..stream import lanes

    def on(one: sessions.Session) -> Callable[..., Iterator[Any]]:
        def solve(files: Iterable[tuple[int, Any]]) -> Iterator[Any]:
            for _, (job, file) in files:
                yield job, _attempt(_denoise, job, file, one, options, warned, page, noise_map)
                del file

        return solve

    files = ((job, found or _attempt(_read, job)) for job, found in turns)
    return lanes(files, READ_AHEAD, [on(one) for one in (session, *session.others)])


def _attempt(step: Callable[..., Any], *arguments: Any) -> Any:
    """What `step` gives, or the exception that concerns this job alone."""
    try:
        return step(*arguments)
    except (SafiError, MemoryError, Skipped) as error:
        return error


def _read(job: Job) -> "ImageFile":
    from ..io import read_image

    return read_image(job.source)


def _denoise(
    job: Job, file: Any, session: sessions.Session, options: Options, warned: Warned, page: Page | None,
    noise_map: "FloatArray | None",
) -> Solved:  # fmt: skip
    if isinstance(file, Exception):
        raise file
    if options.noise == "poisson":
        result = _denoise_counts(file, session, options)
    else:
        if noise_map is not None:
            fitting_map(noise_map, file, options)
        result = _denoise_gaussian(job, file, session, options, warned, noise_map)
    if page:
        page.add(job.target, entry_of(file, result, options))
    return result


def _denoise_gaussian(
    job: Job, file: "ImageFile", session: sessions.Session, options: Options, warned: Warned,
    noise_map: "FloatArray | None",
) -> Solved:  # fmt: skip
    level: Any = options.sigma if noise_map is None else noise_map
    meaning = file.meaning(options.data_range)
    settings = options.steps() | box_option(options) | stated(max_memory=options.max_memory)
    settings |= masks_of(file, options)
    if file.channel_axis is not None:
        settings["color"] = options.color
    found = [meaning.warning]
    if "box" not in settings:
        pixels = meaning.to_unit(file.array.astype(np.float32))
        known = sessions.EIGHT_BIT * PLAUSIBLE_NOISE if isinstance(level, str) else float(np.max(level))
        found.append(cut_off(np, pixels, meaning, known / sessions.EIGHT_BIT))
    warning = "; ".join(message_of(sentence) for sentence in found if sentence) or None
    if warning:
        warned.say(job.source, warning)
    model = session.model_for(file.array.shape, file.channel_axis, options.color).name
    start = time.perf_counter()
    solution = session.denoise(file.array, level, data_range=meaning, channel_axis=file.channel_axis, **settings)
    seconds = time.perf_counter() - start
    estimate = None
    if isinstance(options.sigma, str):
        estimate = np.ravel(solution.sigma * (sessions.EIGHT_BIT / meaning.scale)).tolist()
    like = file.result(meaning.argument, dicom.derivation(options, model, meaning))
    return Solved(solution, like, seconds, warning, model, estimate=estimate, meaning=meaning)


def _denoise_counts(file: "ImageFile", session: sessions.Session, options: Options) -> Solved:
    if options.data_range is None and file.unknown:
        file.meaning()  # which says what to pass
    settings = options.steps() | box_option(options) | masks_of(file, options)
    settings |= stated(
        max_memory=options.max_memory, data_range=options.data_range, gain=options.gain, offset=options.offset,
        color=None if file.channel_axis is None else options.color,
    )  # fmt: skip
    model = session.model_for(file.array.shape, file.channel_axis, options.color).name
    start = time.perf_counter()
    solution = session.solver.denoise(
        file.array, options.sigma or 0.0, noise="poisson", channel_axis=file.channel_axis, return_solution=True,
        **settings,
    )  # fmt: skip
    like = replace(file, tags=replace(file.tags, derivation=dicom.derivation(options, model)))
    return Solved(solution, like, time.perf_counter() - start, None, model)


def _finish(job: Job, result: Any) -> dict[str, Any]:
    """Write the result, if there is one; the record of the job."""
    if not isinstance(result, Exception):
        result = _attempt(_write, job, result)
    if isinstance(result, Skipped):
        return job.record("skipped", reason=result.reason)
    if isinstance(result, Exception):
        return job.failure(result)
    facts: dict[str, Any] = {} if result.warning is None else {"warning": result.warning}
    if result.estimate:
        facts["sigma"] = result.estimate[0] if len(result.estimate) == 1 else result.estimate
    if result.lost:
        facts["lost"] = list(result.lost)
    return job.record(
        "denoised", model=result.model, seconds=result.seconds, **sessions.summary(result.solution), **facts
    )


def _write(job: Job, result: Solved) -> Solved:
    from ..io import write_image

    return replace(result, lost=write_image(job.target, result.solution.image, like=result.like))


def _report(options: Options, session: sessions.Session | None, records: list[dict[str, Any]]) -> None:
    by_status = {
        status: [record for record in records if record["status"] == status]
        for status in ("denoised", "skipped", "failed")
    }
    counts = {status: len(members) for status, members in by_status.items()}
    if options.json:
        model = session.model.name if session else options.model
        schedule = options.schedule or (session.model.schedule.name if session else None)
        print_json(
            {
                "model": model,
                "sigma": options.sigma if options.sigma_map is None else str(options.sigma_map),
                "schedule": schedule,
                **counts,
                **lost_names(records),
                "files": records,
            }
        )
    else:
        unfinished = sum(record["solver_status"] == "max_iterations" for record in by_status["denoised"])
        seconds = sum(record["seconds"] for record in by_status["denoised"])
        print(_sentence(counts, seconds, unfinished, [record["reason"] for record in by_status["skipped"]]))
        _print_estimates(by_status["denoised"])
    print_lost(by_status["denoised"])
    print_failures(by_status["failed"])


def _print_estimates(records: list[dict[str, Any]]) -> None:
    """The least and the most noise that was found, where it was asked for."""
    found = [level for record in records if "sigma" in record for level in np.ravel(record["sigma"])]
    if found:
        least, most = f"{min(found):.3g}", f"{max(found):.3g}"
        print(f"sigma, estimated: {least if least == most else f'{least} to {most}'} of 255")


def _sentence(counts: dict[str, int], seconds: float, unfinished: int, skipped: list[str]) -> str:
    parts = [f"{counts['denoised']} denoised in {seconds:.1f} s"]
    if unfinished:
        parts.append(f"{unfinished} of them without reaching the tolerance")
    parts += skipped_words(skipped)
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    return ", ".join(parts)
