"""What a model can do beyond one score: one command for every measurement of docs/models.

    python -m bench.experiments.study NAME --data SET12 --sigma 25

    bm3d          against BM3D on the same noise (pip install bm3d)
    seeds         spread over noise seeds
    schedules     PSNR and operations of outer x inner steps
    convergence   unrolled against converged
    updates       no mask, one update, five, ten
    starts        where the outer iteration ends from other starts
    real          microscopy pairs, PSNR after an affine fit (--data MICRO)
    color         a grey model on luma and chroma and by channel, or a colour model and safi-gray on luma and chroma;
                  and colour BM3D (without --data on photographs of scikit-image)

Common arguments: --model NAME|PATH, --limit N, --crop SIDE, --output FILE.json. Noise and PSNR are those of `safi-fast
evaluate`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import images
from bench.methods.starts import STARTS, end_points
from bench.methods.strength import best_strength
from safi_fast import Solver
from safi_fast.cli.evaluate import clean_image
from safi_fast.cli.noise import add_noise
from safi_fast.io import list_images, read_image
from safi_fast.metrics import psnr

SCHEDULES = (
    (5, 12), (4, 12), (3, 12), (2, 12), (5, 8), (4, 8), (3, 8), (5, 6), (4, 6), (3, 7), (3, 6), (4, 5), (4, 4), (2, 8),
    (3, 4),
)  # fmt: skip
UPDATES = (0, 1, 5, 10)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
CROP = 96  # pixels; of the crops that `updates` tunes lambda on
FAIR_STEPS = 40  # inner steps of an outer step in `updates`: enough that more updates do not merely mean more steps
REAL_PAIRS = (
    ("fmd/image_R_1_001.png", "fmd/image_R_1_avg50.png"),
    ("w2s/input_avg1_001_0.tif", "w2s/target_avg400_001_0.tif"),
    ("w2s/input_avg1_031_1.tif", "w2s/target_avg400_031_1.tif"),
)


def bm3d(args: argparse.Namespace, solver: Solver) -> list[dict[str, Any]]:
    """PSNR of both on every image."""
    from bm3d import bm3d as rival

    clean = images.load(args.data, args.limit, args.crop)
    rows: list[dict[str, Any]] = []
    for index, (x, y) in enumerate(zip(clean, images.noisy(clean, args.sigma), strict=True)):
        ours = solver.denoise(y, args.sigma / 255).clip(0, 1)
        theirs = rival(y.astype(np.float64), args.sigma / 255).clip(0, 1)
        rows.append({"image": index + 1, "model": psnr(x, ours), "bm3d": psnr(x, theirs)})
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("model", "bm3d")}
    return [*rows, {"image": "mean", **means}]


def seeds(args: argparse.Namespace, solver: Solver) -> list[dict[str, Any]]:
    """Mean PSNR for five seeds of the noise, their mean and standard deviation."""
    clean = images.load(args.data, args.limit, args.crop)
    values = [images.score(solver, clean, images.noisy(clean, args.sigma, seed), args.sigma) for seed in range(5)]
    rows: list[dict[str, Any]] = [{"seed": seed, "psnr": value} for seed, value in enumerate(values)]
    return [
        *rows,
        {"seed": "mean", "psnr": float(np.mean(values))},
        {"seed": "std", "psnr": float(np.std(values, ddof=1))},
    ]


def schedules(args: argparse.Namespace, solver: Solver) -> list[dict[str, Any]]:
    """PSNR of the model as it is with fewer steps, and what they cost; the first row is what it was trained for."""
    clean = images.load(args.data, args.limit, args.crop)
    observed = images.noisy(clean, args.sigma)
    own = (solver.model.schedule.outer, solver.model.schedule.inner)
    rows: list[dict[str, Any]] = []
    for outer, inner in dict.fromkeys([own, *SCHEDULES]):
        value = images.score(solver, clean, observed, args.sigma, schedule="unrolled", max_outer=outer, max_inner=inner)
        cost = images.operations(solver.model, outer, inner)
        first = rows[0] if rows else {"psnr": value, "operations per pixel": cost}
        rows.append(
            {
                "schedule": f"{outer} x {inner}",
                "psnr": value,
                "loss": first["psnr"] - value,
                "operations per pixel": cost,
                "share": cost / first["operations per pixel"],
            }
        )
    return rows


def convergence(args: argparse.Namespace, solver: Solver) -> list[dict[str, Any]]:
    """The schedules on the same noise, each with its own lambda of the weights file."""
    clean = images.load(args.data, args.limit, args.crop)
    observed = images.noisy(clean, args.sigma)
    rows = []
    for name in ("unrolled", "converged", "gap"):
        start = time.perf_counter()
        value = images.score(solver, clean, observed, args.sigma, schedule=name)
        rows.append({"schedule": name, "psnr": value, "seconds": (time.perf_counter() - start) / len(clean)})
    return rows


def updates(args: argparse.Namespace, solver: Solver) -> list[dict[str, Any]]:
    """Number of mask updates: at the model's lambda, and with lambda tuned for each number on crops of the same images.

    The filters were trained with masks: "no mask" is not what filters trained without would reach.
    """
    clean = images.load(args.data, args.limit, args.crop)
    observed = images.noisy(clean, args.sigma)
    crops = [images.centre(image, CROP) for image in clean]
    rows = []
    for count in UPDATES:
        options = {"schedule": "unrolled", "max_outer": count + 1, "max_inner": FAIR_STEPS}
        factor = best_strength(solver, crops, args.sigma, reach=0.6, trials=7, **options)
        tuned = factor * solver.model.at(args.sigma / 255, strength_given=False).strength_unrolled
        rows.append(
            {
                "mask updates": count,
                "psnr": images.score(solver, clean, observed, args.sigma, **options),
                "tuned lambda / own": factor,
                "psnr tuned": images.score(solver, clean, observed, args.sigma, strength=tuned, **options),
            }
        )
    return rows


def starts(args: argparse.Namespace, solver: Solver) -> list[dict[str, Any]]:
    """PSNR at the end from every start, and how far apart the ends are."""
    clean = images.load(args.data, args.limit, args.crop)
    rows: list[dict[str, Any]] = []
    for index, (x, y) in enumerate(zip(clean, images.noisy(clean, args.sigma), strict=True)):
        ends = end_points(solver, y, args.sigma, outer=args.outer)
        values = [psnr(x, image.clip(0, 1)) for image in ends.images]
        row: dict[str, Any] = {"image": index + 1}
        row |= dict(zip(STARTS, values, strict=True))
        row |= {"psnr spread": max(values) - min(values), "relative distance": f"{ends.distance:.1e}"}
        rows.append({**row, "last change": f"{ends.last_change:.1e}"})
    return rows


def real(args: argparse.Namespace, solver: Solver) -> list[dict[str, Any]]:
    """Noisy and averaged microscopy images; sigma is estimated from the noisy image alone (wavelets, skimage)."""
    from skimage.restoration import estimate_sigma

    rows = []
    levels = 255 * solver.model.noise_levels
    for name, target in REAL_PAIRS:
        y, x = (read_image(args.data / path).array.astype(np.float32) / 255 for path in (name, target))
        estimate = 255 * float(estimate_sigma(y))
        sigma = float(np.clip(estimate, levels[0], levels[-1]))
        result = solver.denoise(y, sigma / 255)
        before, after = fitted_psnr(x, y), fitted_psnr(x, result)
        rows.append(
            {"image": name, "estimated sigma": estimate, "noisy": before, "denoised": after, "gain": after - before}
        )
    return rows


def color(args: argparse.Namespace, solver: Solver) -> list[dict[str, Any]]:
    """PSNR over all channels, and seconds, of colour images, each with the noise of `safi-fast evaluate`."""
    from bm3d import bm3d_rgb

    sigma, grey = args.sigma / 255, "luma-chroma"
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    if solver.model.filters.planes == 1:
        for mode in (grey, "separate"):
            methods[mode] = partial(solver.denoise, sigma=sigma, channel_axis=0, color=mode)
    else:
        methods["together"] = partial(solver.denoise, sigma=sigma, channel_axis=0)
        methods["safi-gray"] = partial(
            Solver("safi-gray", backend="cpu").denoise, sigma=sigma, channel_axis=0, color=grey
        )
    methods["bm3d_rgb"] = lambda y: np.moveaxis(bm3d_rgb(np.moveaxis(y, 0, -1).astype(np.float64), sigma), -1, 0)
    rows: list[dict[str, Any]] = []
    for index, (name, x) in enumerate(_colour_images(args)):
        y = add_noise(x, sigma, 0, index)
        row = {"image": name, "noisy": psnr(x, y)}
        for method, function in methods.items():
            if not rows:
                function(y)  # compiles
            start = time.perf_counter()
            found = function(y)
            row |= {f"{method}_seconds": time.perf_counter() - start, method: psnr(x, found.clip(0, 1))}
        rows.append(row)
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "image"}
    return [*rows, {"image": "mean", **means}]


def _colour_images(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Names and images (3, H, W) on [0, 1]: of --data, or the middle of photographs of scikit-image."""
    from skimage import data

    if args.data is None:
        side = args.crop or 256
        for name in PHOTOGRAPHS:
            yield name, images.centre(np.moveaxis(getattr(data, name)().astype(np.float32) / 255, -1, 0), side)
    else:
        for path in list_images([args.data])[: args.limit]:
            image = clean_image(path, read_image(path), planes=3)[0]
            yield path.name, image if args.crop is None else images.centre(image, args.crop)


def fitted_psnr(reference: np.ndarray, image: np.ndarray) -> float:
    """PSNR in dB of the a image + b that comes nearest to the reference (least squares), peak 1."""
    design = np.column_stack([image.ravel().astype(np.float64), np.ones(image.size)])
    fit = design @ np.linalg.lstsq(design, reference.ravel().astype(np.float64), rcond=None)[0]
    return psnr(reference, fit.reshape(reference.shape))


COMMANDS = {
    function.__name__: function for function in (bm3d, seeds, schedules, convergence, updates, starts, real, color)
}


def main(words: list[str] | None = None) -> None:
    """One study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=COMMANDS)
    parser.add_argument("--data", type=Path, metavar="DIR", help="needed by all but `color`")
    parser.add_argument("--sigma", type=float, default=25.0, metavar="S")
    parser.add_argument("--model", default=None, metavar="NAME|PATH")
    parser.add_argument("--limit", type=int, metavar="N")
    parser.add_argument("--crop", type=int, metavar="SIDE")
    parser.add_argument("--outer", type=int, default=40, metavar="N", help="of `starts`: outer steps (default: 40)")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args(words)
    if args.data is None and args.study != "color":
        parser.error(f"{args.study} needs --data")
    solver = Solver(args.model, backend="cpu")
    rows = COMMANDS[args.study](args, solver)
    images.report(rows, args.output, **images.identity(solver.model))


if __name__ == "__main__":
    main()
