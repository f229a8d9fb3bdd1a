"""Series of DICOM files as inputs and outputs of `safi-fast denoise`, and what results say of how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..atomic import is_folder
from .arguments import UsageError
from .plan import Job, plan

if TYPE_CHECKING:
    from ..values import Range
    from .denoise import Options


def plan_with_series(sources: Sequence[Path], inputs: Sequence[Path], output: str) -> list[Job]:
    """A series goes to a folder: OUT itself for one series alone, else OUT/NAME. An OUT that is named like an image
    gets a stack. Raises UsageError.
    """
    from ..io.images import is_image_name

    if len(sources) == 1 and is_folder(sources[0]) and not output.endswith("/"):
        jobs = [Job(sources[0], Path(output))]
    else:
        jobs = plan(sources, inputs, output, noun="images", is_file_name=is_image_name)
    return [replace(job, is_series=is_folder(job.source) and not is_image_name(job.target)) for job in jobs]


def check_folders(jobs: Sequence[Job]) -> None:
    """Raises UsageError where a result would lie in the folder of its DICOM input."""
    from ..io.dicom import lies_in
    from ..io.dicom_series import EXTENSION
    from ..io.images import IN_ITS_FOLDER

    for job in jobs:
        dicom = is_folder(job.source) or job.source.suffix.lower() == EXTENSION
        if dicom and lies_in(job.target, job.source):
            raise UsageError(f"{job.target}: {IN_ITS_FOLDER}")


def derivation(options: Options, model: str, meaning: Range | None = None) -> str:
    """How a result was made: all that decides it."""
    facts = {
        "model": model, "noise": options.noise, "sigma": options.sigma,
        "map of sigma": options.sigma_map and options.sigma_map.name, "gain": options.gain, "offset": options.offset,
        "range": (meaning.low, meaning.high) if meaning else options.data_range, "color": options.color,
        "box": None if options.no_box else options.box or "default", "precision": options.precision, **options.steps(),
    }  # fmt: skip
    words = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    return f"noise removed by safi-fast {__version__}: {words}"
