"""Tomography from counts: weighted least squares beside plain ones and filtered back projection, dose by dose.

    python -m bench.experiments.low_dose [--output FILE.json]

Abdomen slices of 128 x 128, simulated on a grid twice as fine, 120 views. CT: values are 0.02 per pixel at white, so
that a fifth to a half of the photons come through; counts are drawn from Poisson's distribution. PET: the slice as
activity, in a body that attenuates by 0.015 per pixel, randoms of 20 % of all counts. Strengths are tried on `TUNED`,
and the best of STRENGTHS is used for TESTED. PSNR in dB; every result has a box of [0, 1].
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import safi_fast
from bench import RESULTS
from bench.data.cases import gray, half
from bench.data.problems import DATA
from bench.report import measure
from safi_fast.cli.output import print_table
from safi_fast.metrics import psnr
from safi_fast.operators import ParallelBeamCT, Weighted, emission, transmission

SIDE, VIEWS, SLOPE = 128, 120, 0.02
TUNED, TESTED = "phantom_49", ("phantom_149", "phantom_249")
STRENGTHS = tuple(10.0 ** np.arange(0.0, 3.1, 0.5))
ANGLES, DETECTORS = np.linspace(0, np.pi, VIEWS, endpoint=False), 186
DOSES = {"CT": (300, 1e3, 1e4), "PET": (1e5, 1e6)}


def fine_slice(name: str) -> np.ndarray:
    """256 x 256, on [0, 1]."""
    image = gray(DATA / "ct" / "abdomen" / f"{name}.png")
    while image.shape[0] > 2 * SIDE:
        image = half(image)
    return image


def measured(kind: str, name: str, dose: float) -> tuple[Any, Any, np.ndarray]:
    """Line integrals of the slice, their weights, and the slice."""
    fine, rng = fine_slice(name), np.random.default_rng([int(dose), len(name)])
    scan = ParallelBeamCT(fine.shape, ANGLES, DETECTORS, pixel_size=0.5)
    lines = scan.apply(fine).astype(float)
    if kind == "CT":
        counts = rng.poisson(dose * np.exp(-SLOPE * lines))
        y, weights = transmission(counts, dose)
        return y / np.float32(SLOPE), weights, half(fine)
    share = np.exp(-0.015 * scan.apply((fine > 0.05).astype(np.float32)))
    true = share * np.maximum(lines, 0)
    unit = 0.8 * dose / true.sum()
    randoms = 0.2 * dose / true.size
    y, weights = emission(rng.poisson(unit * true + randoms), unit * share, randoms)
    return y, weights, half(fine)


def row(kind: str, dose: float, solver: safi_fast.Solver) -> dict[str, Any]:
    """PSNR of every method, and the strengths."""
    plain = ParallelBeamCT((SIDE, SIDE), ANGLES, DETECTORS)
    found: dict[str, Any] = {"kind": kind, "counts": dose}

    def solve(name: str, weighted: bool, strength: float) -> float:
        y, weights, clean = measured(kind, name, dose)
        operator = Weighted(plain, weights) if weighted else plain
        seen = operator.measured(y) if isinstance(operator, Weighted) else y
        made = solver.reconstruct(seen, operator, strength=strength, schedule="fast").image
        return psnr(clean, made)

    images = [measured(kind, name, dose) for name in TESTED]
    found["FBP"] = np.mean([psnr(x, np.clip(plain.fbp(y, filter="hann"), 0, 1)) for y, _, x in images])
    for method, weighted in (("plain", False), ("weighted", True)):
        tried = {strength: solve(TUNED, weighted, strength) for strength in STRENGTHS}
        best = max(tried, key=lambda strength: tried[strength])
        found[method] = np.mean([solve(name, weighted, best) for name in TESTED])
        found[f"strength, {method}"] = best
    return {name: float(v) if isinstance(v, np.floating) else v for name, v in found.items()}


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "low_dose.json")
    args = parser.parse_args()
    before, solver = measure.machine(), safi_fast.Solver(backend="cpu")
    rows = []
    for kind, doses in DOSES.items():
        for dose in doses:
            rows.append(row(kind, dose, solver))
            print(rows[-1], flush=True)
    print_table(
        tuple(rows[0]), [tuple(f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()) for r in rows]
    )
    measure.write(args.output, rows, before)


if __name__ == "__main__":
    main()
