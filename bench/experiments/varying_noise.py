"""Noise that varies over the image: sigma as a map, beside the best single number and whitening.

    python -m bench.experiments.varying_noise [--output FILE.json]

The middle 128 x 128 of Set12 with seeded noise that is not clipped. Number: the best of LEVELS for all images of a map.
Whitening: the image divided by the map, denoised with one sigma, and multiplied again. All without a box, so that no
values in doubt are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import safi_fast
from bench import RESULTS
from bench.data.images import centre, identity, load, report
from bench.data.problems import DATA
from safi_fast.metrics import psnr

SIDE = 128
LEVELS = (5, 10, 15, 20, 25, 30, 40, 50)


def maps() -> dict[str, np.ndarray]:
    """Of sigma (of 255) by name."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    rng = np.random.default_rng(5)
    return {
        "5 to 50 from left to right": 5 + 45 * columns / (SIDE - 1),
        "two halves, 10 and 40": np.where(columns < SIDE // 2, 10.0, 40.0),
        "squares of 32, 5 and 50": np.where((rows // 32 + columns // 32) % 2, 5.0, 50.0),
        "each pixel anew, 5 to 50": 10 ** rng.uniform(np.log10(5), np.log10(50), (SIDE, SIDE)),
        "5, and 60 at 5 % of the pixels": np.where(rng.random((SIDE, SIDE)) < 0.05, 60.0, 5.0),
    }


def row(name: str, sigma: np.ndarray, images: list[np.ndarray], solver: safi_fast.Solver) -> dict[str, object]:
    """Mean PSNR in dB, and inner steps."""
    noise = [np.random.default_rng([7, i]).standard_normal(sigma.shape) for i in range(len(images))]
    clean = np.stack(images)
    noisy = (clean + np.stack(noise) * sigma / 255).astype(np.float32)

    def quality(found: np.ndarray) -> float:
        return float(np.mean([psnr(x, y) for x, y in zip(clean, found, strict=True)]))

    by_map = solver.denoise(noisy, sigma / 255, box=None, return_solution=True)
    mean = float(sigma.mean())
    white = solver.denoise((noisy * (mean / sigma)).astype(np.float32), mean / 255, box=None) * (sigma / mean)
    numbers = {level: quality(solver.denoise(noisy, level / 255, box=None)) for level in LEVELS}
    best = max(numbers, key=lambda level: numbers[level])
    return {
        "map": name, "sigma as a map": quality(by_map.image), "whitening": quality(white),
        "best number": numbers[best], "that number": best, "inner steps": int(by_map.inner_iterations[0]),
    }  # fmt: skip


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "varying_noise.json")
    args = parser.parse_args()
    solver = safi_fast.Solver(backend="cpu")
    images = [centre(image, SIDE) for image in load(DATA / "set12")]
    rows = [row(name, sigma, images, solver) for name, sigma in maps().items()]
    report(rows, args.output, **identity(solver.model))


if __name__ == "__main__":
    main()
