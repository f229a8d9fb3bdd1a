"""Colour measurements: `safi-color` with all channels of an image together, beside `safi-gray` channel by channel.

    python -m bench.experiments.colour_inverse [--output FILE.json]

Three photographs of CBSD68 (middle SIDE x SIDE pixels) blurred, with missing pixels, and reduced; `schedule="fast"`.
The strength of each model and problem is the best of STRENGTHS on a fourth photograph.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS
from bench.data import images
from bench.data.cases import levin
from bench.data.problems import DATA
from bench.report import measure
from safi_fast import Solver, operators
from safi_fast.cli.output import print_table
from safi_fast.metrics import psnr

SIDE, NOISE = 96, 2.55 / 255
STRENGTHS = {"safi-gray": np.geomspace(1e-4, 1e-2, 6), "safi-color": np.geomspace(1e-3, 1e-1, 6)}

PROBLEMS: dict[str, Callable[[], Any]] = {
    "blur, Levin kernel 1": lambda: operators.Blur(levin(1), (SIDE, SIDE)),
    "70 % of the pixels missing": lambda: operators.Mask(np.random.default_rng(0).random((SIDE, SIDE)) < 0.3),
    "reduced by 2": lambda: operators.Downsample(2, (SIDE, SIDE)),
}


def solved(solver: Solver, operator: Any, y: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """The image (3, H, W), and seconds. To a grey model the channels are a batch."""
    start = time.perf_counter()
    image = solver.reconstruct(y, operator, strength=strength, schedule="fast", box=(0.0, 1.0)).image
    return image, time.perf_counter() - start


def rows_of(name: str, make: Callable[[], Any], clean: list[np.ndarray]) -> list[dict[str, Any]]:
    """PSNR over all channels and seconds of both models, means over all images but the first."""
    operator, rng = make(), np.random.default_rng(1)
    shape = (3, *operator.shape_out)
    seen = [operator.apply(x) + np.float32(NOISE) * rng.standard_normal(shape).astype(np.float32) for x in clean]
    found = []
    for model, strengths in STRENGTHS.items():
        solver = Solver(model, backend="cpu")
        tried = [psnr(clean[0], solved(solver, operator, seen[0], float(s))[0]) for s in strengths]
        best = int(np.argmax(tried))
        results = [solved(solver, operator, y, float(strengths[best])) for y in seen[1:]]
        values = [psnr(x, image) for x, (image, _) in zip(clean[1:], results, strict=True)]
        found.append({
            "problem": name, "model": model, "strength": float(strengths[best]),
            "edge": best in (0, len(tried) - 1), "psnr": float(np.mean(values)),
            "seconds": float(np.mean([seconds for _, seconds in results])),
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "colour_inverse.json")
    args = parser.parse_args()
    before, clean = measure.machine(), images.load(DATA / "cbsd68", 40, SIDE, 3)[::10]
    rows = [row for name, make in PROBLEMS.items() for row in rows_of(name, make, clean)]
    print_table(
        ["problem", "model", "PSNR", "seconds"],
        [[r["problem"], r["model"], f"{r['psnr']:.2f}", f"{r['seconds']:.2f}"] for r in rows],
    )
    measure.write(args.output, rows, before)


if __name__ == "__main__":
    main()
