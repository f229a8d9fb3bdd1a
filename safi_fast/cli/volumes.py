"""`safi-fast denoise` of a Zarr array or an OME-Zarr image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from . import session as sessions
from .arguments import UsageError
from .options import box_option, stated
from .output import print_error, print_json, print_note, progress

if TYPE_CHECKING:
    from .denoise import Options

SUFFIX = ".zarr"
METADATA = ("zarr.json", ".zarray", ".zgroup")
INTERRUPTED = 130


def has_volume(inputs: Sequence[Path]) -> bool:
    """Whether one of the inputs is a Zarr array or group, or is named like one."""
    return any(path.suffix == SUFFIX or any((path / name).is_file() for name in METADATA) for path in inputs)


def run(options: Options) -> int:
    """Denoise it. Raises UsageError for what goes with image files alone."""
    from ..distributed.multiscale import denoise_volume, range_of_volume

    _check(options)
    source, target = options.inputs[0], Path(options.output)
    if options.output.endswith("/"):
        target /= source.name
    meaning = range_of_volume(source, options.data_range)
    session = sessions.make_session(options.model, options.backend, options.precision)
    level = options.sigma if isinstance(options.sigma, float) else None
    session.check(level, **options.steps())
    settings = options.steps() | box_option(options)
    settings |= stated(model=options.model, data_range=options.data_range)
    if options.strength is not None:
        settings["strength"] = options.strength * meaning.scale
    start = time.perf_counter()
    with ExitStack() as stack:
        try:
            denoise_volume(
                source, target, options.sigma if level is None else level / sessions.EIGHT_BIT * meaning.scale,
                max_memory=options.max_memory, overwrite=options.overwrite, say=print_note,
                progress=lambda blocks: stack.enter_context(progress("denoising", blocks, "block")),
                backend=options.backend, precision=options.precision, **settings,
            )  # fmt: skip
        except KeyboardInterrupt:
            print_error(f"interrupted; {target} is not complete, and the same command goes on where it was")
            return INTERRUPTED
    seconds = time.perf_counter() - start
    record = {"input": str(source), "output": str(target), "model": session.model.name, "seconds": seconds}
    if options.json:
        print_json(record)
    else:
        print(f"{target}: denoised in {seconds:.1f} s")
    return 0


def _check(options: Options) -> None:
    if len(options.inputs) > 1:
        raise UsageError("a Zarr volume is denoised in a run of its own; name one input")
    if options.noise != "gaussian":
        raise UsageError(f"--noise {options.noise} is for image files; a Zarr volume takes --sigma alone")
    if options.sigma_map is not None:
        raise UsageError("--sigma-map is for image files; a Zarr volume takes --sigma alone")
    if options.html is not None:
        raise UsageError("--html is for image files")
    if options.devices is not None:
        raise UsageError("--devices is for image files; a Zarr volume is solved on one GPU")
    if options.color is not None:
        raise UsageError("--color is for image files; planes of a Zarr volume are solved one by one")
