"""Spokes and spirals: the gridded image, plain least squares and weights of the density, each with the regulariser.

    python -m bench.experiments.off_grid [--output FILE.json]

The middle 48 x 48 of the first photograph of Set12 as a real image, noise of 0.01 on real and imaginary part of each
sample, `schedule="fast"`, `safi-gray`. Of three strengths, shares of ||H||^2, the best of each method by its PSNR in
dB. Spokes have 96 samples and golden angles; 75 of them leave no gaps.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import safi_fast
from bench import RESULTS
from bench.data.images import load
from bench.data.problems import DATA
from bench.report import measure
from safi_fast.cli.output import print_table
from safi_fast.cli.problems.trajectory import gridded
from safi_fast.metrics import psnr
from safi_fast.operators import NonCartesianMRI, Weighted, density_weights, radial, spiral

SIDE, NOISE = 48, 0.01
STRENGTHS = (1e-4, 4e-4, 1.6e-3)
TRAJECTORIES = {
    "11 spokes": radial(11, 2 * SIDE, reach=SIDE / 2),
    "17 spokes": radial(17, 2 * SIDE, reach=SIDE / 2),
    "34 spokes": radial(34, 2 * SIDE, reach=SIDE / 2),
    "8 spirals, half of the turns": spiral(8, 200, SIDE / 2, turns=1.5),
}


def best(solver: safi_fast.Solver, y: np.ndarray, operator: Any, image: np.ndarray) -> tuple[float, float]:
    """PSNR and strength."""
    found = []
    for share in STRENGTHS:
        solution = solver.reconstruct(y, operator, strength=share * operator.norm**2, schedule="fast")
        found.append((psnr(image, solution.image), share))
    return max(found)


def row(solver: safi_fast.Solver, name: str, image: np.ndarray) -> dict[str, Any]:
    """One trajectory."""
    scan = NonCartesianMRI(TRAJECTORIES[name], image.shape, image="real")
    noise = np.random.default_rng(0).normal(0, NOISE, (2, *scan.shape_out))
    y = (scan.apply(image) + noise[0] + 1j * noise[1]).astype(np.complex64)
    dense = Weighted(scan, density_weights(TRAJECTORIES[name], image.shape))
    plain, weighted = best(solver, y, scan, image), best(solver, dense.measured(y), dense, image)
    return {"trajectory": name, "samples": int(np.prod(scan.shape_out)), "gridded": psnr(image, gridded(scan, y)),
            "plain": plain[0], "weighted": weighted[0], "strengths": f"{plain[1]:g}, {weighted[1]:g}"}  # fmt: skip


def main() -> None:
    """Measure, record and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "off_grid.json")
    args = parser.parse_args()
    before, image = measure.machine(), load(DATA / "set12", 1, SIDE)[0].astype(np.float32)
    solver = safi_fast.Solver("safi-gray", backend="cpu")
    rows = [row(solver, name, image) for name in TRAJECTORIES]
    measure.write(args.output, rows, before)
    print_table(
        tuple(rows[0]), [tuple(f"{v:.2f}" if isinstance(v, float) else str(v) for v in r.values()) for r in rows]
    )


if __name__ == "__main__":
    main()
