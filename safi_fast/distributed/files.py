"""Many image files by the workers of Dask, or by this process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import real
from ..claims import folded
from ..errors import InputError, shown
from ..io import read_image, write_image
from ..io.images import all_files
from ..noise_level import ESTIMATE
from ..options import shows
from .recipe import DEFAULTS, Options, Recipe
from .urls import here, local_path, name_of, sources
from .work import Done, run

if TYPE_CHECKING:
    from typing_extensions import Unpack

STATUS = {"made": "denoised"}


@dataclass(frozen=True)
class FileRecord:
    """What became of a file. status: "denoised", "skipped" (the output was there) or "failed", with the error in words.
    seconds: of reading, solving and writing; None where this run did not, or its worker was killed after it.
    warning: where the values look like those of another range.
    """

    path: Path | str  # a URL is a str
    output: Path
    status: str
    seconds: float | None = None
    error: str | None = None
    warning: str | None = None


@shows(Options, DEFAULTS)
def process_files(
    urls: Iterable[Any], out: Any, sigma: Any, *, client: Any = None, overwrite: bool = False,
    **options: Unpack[Options],
) -> list[FileRecord]:  # fmt: skip
    """Denoise image files into a folder, each output once and whole.

    A file that fails does not stop the others. Outputs that exist are skipped, so a run that was stopped goes on where
    it was; other runs, of the command line too, may work on the same folder. What a worker that is killed had not
    finished is made by others.

    Parameters
    ----------
    urls : list of paths
        Files, folders of them, or URLs of fsspec, such as s3://bucket/name; all that `safi_fast.io.read_image` reads,
        in grey or colour. With a client they must be seen by the workers under the same names.
    out : path
        The folder of the results, which keep names, depth and tags of their files.
    sigma : float or "estimate"
        Standard deviation of the noise where black is 0 and white is 1: 25 / 255. "estimate": measured in each image.
    client : distributed.Client
        Whose workers do it, such as those of `local_cluster`; None: this process.
    overwrite : bool
        Replace outputs that were there before the run.
    model, backend, precision, threads
        As of `Solver`. threads None: in workers of Dask NUMBA_NUM_THREADS, else as many as the worker has.
    data_range, box, schedule, max_outer, max_inner, tol, lipschitz
        As of `safi_fast.denoise`. data_range None: what each file declares.
    strength : float
        lambda for images on [0, 1].

    Returns
    -------
    list of FileRecord
        In the order of the files.

    Raises
    ------
    InputError
        For a wrong argument, and outputs that meet or are inputs.
    ImageFileError
        Where the folder cannot be written, or a URL not be listed.
    ModelError
    BackendError
        Also without the package that a URL needs.
    """
    work = _Files(sigma, Recipe.of("process_files", options), overwrite)
    work.check()
    if isinstance(urls, (str, Path)):
        urls = [urls]
    folder = local_path("out", out).absolute()
    jobs = [
        _Job(source.absolute() if isinstance(source, Path) else source, folder / name_of(source))
        for source in sources("urls", urls)
    ]
    _check_outputs(jobs)
    found = {done.item: _record(done) for done in run(work, jobs, client)}
    return [found[job] for job in jobs]


@dataclass(frozen=True)
class _Job:
    source: Path | str
    target: Path


@dataclass(frozen=True)
class _Files:
    """The work on files; see work.py."""

    sigma: Any
    recipe: Recipe
    overwrite: bool

    def check(self) -> None:
        """Raises InputError for what no file could be denoised with."""
        if isinstance(self.sigma, str) and self.sigma == ESTIMATE:
            return
        self.recipe.known_model().at(self.sigma, strength_given=self.recipe.options.get("strength") is not None)

    def target(self, job: _Job) -> Path:
        return job.target

    def make(self, job: _Job) -> str | None:
        with here(job.source) as path:
            file = read_image(path)
        solver = self.recipe.solver()
        options = dict(self.recipe.options)
        meaning = file.meaning(options.pop("data_range", None))
        sigma = self.sigma if isinstance(self.sigma, str) else self.sigma * meaning.scale
        if options.get("strength") is not None:
            options["strength"] *= meaning.scale
        image = solver.denoise(file.array, sigma, data_range=meaning, channel_axis=file.channel_axis, **options)
        facts = {"sigma": shown(self.sigma), **self.recipe.facts()}
        words = ", ".join(f"{name} {value}" for name, value in facts.items())
        write_image(job.target, image, like=file.result(meaning.argument, f"noise removed by safi-fast: {words}"))
        return meaning.warning


def _record(done: Done[_Job]) -> FileRecord:
    status = STATUS.get(done.status, done.status)
    return FileRecord(done.item.source, done.item.target, status, done.seconds, done.error, done.warning)


def _check_outputs(jobs: list[_Job]) -> None:
    """Raises InputError for outputs that meet, also where case does not count, and those that are inputs."""
    writers: dict[str, _Job] = {}
    inputs = {real(path) for path in all_files(job.source for job in jobs if isinstance(job.source, Path))}
    for job in jobs:
        first = writers.setdefault(folded(job.target.name), job)
        if first is not job:
            raise InputError(f"urls has {first.source} and {job.source}, which would both be written to {job.target}; "
                             "call once for each folder, with an out of its own")  # fmt: skip
        if real(job.target) in inputs:
            raise InputError(f"out is {job.target.parent}, where {job.target.name} is an input and would be "
                             "overwritten; choose another folder")  # fmt: skip
