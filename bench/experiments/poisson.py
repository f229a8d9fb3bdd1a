"""Counts with Poisson noise: PSNR of `denoise(noise="poisson")` beside BM3D with the same transform and its inverse.

    python -m bench.experiments.poisson [--images 6] [--crop 128] [--output FILE.json]

Middles of the first images of Set12, whose brightest pixel has `peak` counts on average. Both methods denoise the same
transform of the same counts and take the same exact unbiased inverse; BM3D sees it on [0, 1]. Without data_range, and
with sigma=0: nothing is told but the counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import safi_fast
from bench import RESULTS
from bench.data.images import identity, load, report
from bench.data.problems import DATA
from safi_fast.anscombe import Anscombe
from safi_fast.metrics import psnr

PEAKS = (1, 2, 5, 10, 20, 30, 60)


def bm3d(counts, algebraic=False):
    """BM3D of the transformed counts, and back; algebraic: by the inverse of f itself, which is biased."""
    from bm3d import bm3d as rival

    transform = Anscombe()
    stable = transform.forward(counts.astype(np.float64))
    low, high = stable.min(), stable.max()
    found = low + (high - low) * rival((stable - low) / (high - low), 1 / (high - low))
    return found**2 / 4 - 3 / 8 if algebraic else transform.inverse(found)


def row(images, peak, solver):
    """Mean PSNR at one peak."""
    methods = {
        "noisy": lambda z: z,
        "safi-gray": lambda z: solver.denoise(z, 0, noise="poisson"),
        "BM3D": bm3d,
        "BM3D, algebraic inverse": lambda z: bm3d(z, algebraic=True),
    }
    found = {name: [] for name in methods}
    for index, image in enumerate(images):
        mean = image / image.max()
        counts = np.random.default_rng([peak, index]).poisson(peak * mean).astype(np.float32)
        for name, method in methods.items():
            found[name].append(psnr(mean, (method(counts) / peak).astype(np.float32)))
    return {"peak": peak, **{name: float(np.mean(values)) for name, values in found.items()}}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--output", type=Path, default=RESULTS / "poisson.json")
    args = parser.parse_args()
    images, solver = load(DATA / "set12", args.images, args.crop), safi_fast.Solver(backend="cpu")
    rows = [row(images, peak, solver) for peak in PEAKS]
    report(rows, args.output, images=args.images, crop=args.crop, **identity(solver.model))


if __name__ == "__main__":
    main()
