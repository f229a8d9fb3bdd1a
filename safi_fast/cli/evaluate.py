"""Measure a model: add seeded noise to clean images, denoise them, print mean PSNR, SSIM and time per image.

The noise is white, Gaussian and not clipped, and depends on the seed and the image's place in the folder. Results are
clipped to black and white before they are compared (not with --no-box). The time is that of denoising alone; before it
is taken, the first image of each size is denoised once as a warm-up. Colour images are turned to grey
(skimage.color.rgb2gray), but for a colour model, whose PSNR is over all channels.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageFileError, InputError
from ..values import DataRange
from . import session as sessions
from .arguments import (
    add_box_arguments,
    add_json_argument,
    add_range_argument,
    add_solver_arguments,
    count,
    positive,
    seed,
)
from .options import ScaleOptions, SolverOptions, box_option, check_box, made, stated
from .output import message_of, print_json, print_table, print_warnings, progress, scientific
from .parser import Rare

if TYPE_CHECKING:
    from ..io import ImageFile


@dataclass(frozen=True, kw_only=True)
class Options(SolverOptions, ScaleOptions):
    """The arguments of `safi-fast evaluate`."""

    data: Path
    sigma: float
    limit: int | None
    seed: int
    per_image: bool
    json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast evaluate`."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of clean images (or one file)")
    parser.add_argument(
        "--sigma", type=positive, required=True, metavar="S", help="noise to add, on the scale 0 to 255"
    )
    add_solver_arguments(parser)
    add_range_argument(parser, "255 or 65535 for 8 or 16 bits, 1 for floats")
    add_box_arguments(parser, "0 1")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N images, by name")
    parser.add_argument("--seed", type=seed, default=0, metavar="K", help=Rare("of the noise (default: 0)"))
    parser.add_argument("--per-image", action="store_true", help="also report every image")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate; an unreadable image ends it, because a mean over the others would not be comparable."""
    from ..io import list_images

    options = made(Options, args)
    check_box(options)
    paths = list_images([options.data])[: options.limit]
    session = sessions.make_session(options.model, options.backend, options.precision)
    settings = stated(schedule=options.schedule, strength=options.strength)
    session.check(options.sigma, **settings)
    settings |= box_option(options)
    rows: list[dict[str, Any]] = []
    warm: set[tuple[int, ...]] = set()
    with progress("evaluating", len(paths)) as advance:
        for index, path in enumerate(paths):
            rows.append(_evaluate_one(path, index, session, options, settings, warm))
            advance()
    result = _totals(options, session, rows)
    print_warnings([(path, row["warning"]) for path, row in zip(paths, rows, strict=True) if "warning" in row])
    if options.json:
        print_json({**result, "per_image": rows} if options.per_image else result)
    else:
        _print(result, rows if options.per_image else [])
    return 0


def clean_image(
    path: Path, file: "ImageFile", data_range: DataRange | None = None, *, planes: int = 1, box: bool = True
) -> tuple[Any, str | None]:
    """A clean image as float32, black 0 and white 1, (H, W) in grey or (3, H, W) for three planes, and a warning where
    its range looks like another.

    box: refuse images of which [0, 1] cuts off more than interpolation leaves outside. Raises ImageFileError.
    """
    import numpy as np
    from skimage.color import rgb2gray

    from ..values import check_inside

    if file.array.ndim - (file.channel_axis is not None) != 2:
        raise ImageFileError(
            f"{path}: a stack of shape {file.array.shape} cannot be evaluated; save its pages as files"
        )
    try:
        meaning = file.meaning(data_range)
        image = meaning.to_unit(file.array.astype(np.float32))
        if not np.isfinite(image).all():
            raise InputError(
                f"has {int((~np.isfinite(image)).sum())} values that are NaN or infinite; expected finite ones"
            )
        parts = np.atleast_3d(image).transpose(2, 0, 1)
        if box:
            check_inside("image", np, parts, meaning, channels=len(parts), free=False)
    except InputError as error:
        raise ImageFileError(f"{path}: {error}") from error
    warning = None if meaning.warning is None else message_of(meaning.warning)
    if planes == 1:
        return (rgb2gray(image) if file.channel_axis is not None else image), warning
    if len(parts) != planes:
        raise ImageFileError(f"{path}: the image has {len(parts)} planes; the model has {planes}")
    return np.ascontiguousarray(parts), warning


def _evaluate_one(
    path: Path,
    index: int,
    session: sessions.Session,
    options: Options,
    settings: dict[str, Any],
    warm: set[tuple[int, ...]],
) -> dict[str, Any]:
    from ..io import read_image
    from ..metrics import psnr, ssim
    from .noise import add_noise

    file = read_image(path)
    planes = session.model.filters.planes
    clean, warning = clean_image(path, file, options.data_range, planes=planes, box="box" not in settings)
    axis = None if planes == 1 else 0
    noisy = add_noise(clean, options.sigma / sessions.EIGHT_BIT, options.seed, index)
    if clean.shape not in warm:  # compilation, and what is computed once per image size
        warm.add(clean.shape)
        session.denoise(noisy, options.sigma, channel_axis=axis, **settings)
    start = time.perf_counter()
    solution = session.denoise(noisy, options.sigma, channel_axis=axis, **settings)
    seconds = time.perf_counter() - start
    result = solution.image if options.no_box else solution.image.clip(0, 1)
    return {
        "image": path.name,
        "shape": list(clean.shape),
        "from_colour": file.channel_axis is not None and planes == 1,
        "psnr_noisy": psnr(clean, noisy),
        "psnr": psnr(clean, result),
        "ssim": ssim(clean, result, channel_axis=axis),
        "seconds": seconds,
        **sessions.summary(solution),
        **({} if warning is None else {"warning": warning}),
    }


def _totals(options: Options, session: sessions.Session, rows: list[dict[str, Any]]) -> dict[str, Any]:
    gaps = [row["relative_gap"] for row in rows if row["relative_gap"] is not None]
    return {
        "psnr": _mean(rows, "psnr"),
        "ssim": _mean(rows, "ssim"),
        "seconds_per_image": _mean(rows, "seconds"),
        "images": len(rows),
        "psnr_noisy": _mean(rows, "psnr_noisy"),
        "images_from_colour": sum(row["from_colour"] for row in rows),
        "model": session.model.name,
        "model_sha256": session.model.fingerprint,
        "sigma": options.sigma,
        "seed": options.seed,
        "schedule": options.schedule or session.model.schedule.name,
        "strength": options.strength,
        "backend": session.solver.backend.name,
        "precision": options.precision,
        "outer_iterations": _mean(rows, "outer_iterations"),
        "inner_iterations": _mean(rows, "inner_iterations"),
        "max_relative_gap": max(gaps, default=None),
    }


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(sum(row[key] for row in rows) / len(rows))


def _print(result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    if rows:
        header = ("image", "size", "noisy dB", "PSNR dB", "SSIM", "seconds", "relative gap", "inner steps")
        print_table(header, [_cells(row) for row in rows])
        print()
    print(f"{result['model']}, sigma {result['sigma']:g}, schedule {result['schedule']}, seed {result['seed']}")
    if result["images_from_colour"]:
        print(f"note: {result['images_from_colour']} colour image(s) turned to grey (skimage.color.rgb2gray)")
    print(f"images       {result['images']}")
    print(f"PSNR         {result['psnr']:.2f} dB (noisy: {result['psnr_noisy']:.2f} dB)")
    print(f"SSIM         {result['ssim']:.4f}")
    print(f"time         {result['seconds_per_image']:.3f} s per image")
    print(f"steps        {result['outer_iterations']:.1f} outer, {result['inner_iterations']:.1f} inner on average")
    print(f"largest gap  {scientific(result['max_relative_gap'])} relative")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    height, width = row["shape"]
    return (
        row["image"],
        f"{height} x {width}",
        f"{row['psnr_noisy']:.2f}",
        f"{row['psnr']:.2f}",
        f"{row['ssim']:.4f}",
        f"{row['seconds']:.3f}",
        scientific(row["relative_gap"]),
        str(row["inner_iterations"]),
    )
