"""How near `schedule="fast"` comes to the certified image, on problems that no table tests on.

    python -m bench.experiments.fast [--output bench/results/fast.json]

The tuning problems of bench/experiments/steps.py and MRI of a tuning head, 96 x 96 and less, each certified to a gap of
3e-3 in at most 14 masks of 400 steps. Steps and PSNR depend on neither machine nor load.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import safi_fast
from bench.data.cases import TUNING, Case, abdomen, brain, levin, photograph, random_lines, several_coils
from bench.data.problems import head
from bench.experiments.steps import measured
from bench.report import measure
from bench.report.markdown import table
from safi_fast.metrics import psnr
from safi_fast.operators import Blur, Downsample, Mask, SenseMRI

HEAD, HEAD_SIDE, SIDE = "lsq21", 96, 72
OUTER, INNER, TOLERANCE = 14, 400, 3e-3


def problems() -> Iterator[tuple[str, Case, float, float]]:
    """(name, case, strength, noise level of 255)."""
    image = head(HEAD, HEAD_SIDE)
    yield "MRI, one coil, 4x", random_lines(image, 4, 0.08, 1), 4e-4, 25
    _, maps, _, level = brain((HEAD_SIDE, HEAD_SIDE))
    full = SenseMRI(maps, np.ones((HEAD_SIDE, HEAD_SIDE), bool), mask_order="centered", check_order=False)
    seen = full.apply(image.astype(np.complex64))
    for acceleration, centre, strength, level_of_mask in ((4, 0.08, 8e-4, 5), (8, 0.04, 8e-4, 15)):
        case = several_coils(seen, maps, full.adjoint(seen), acceleration, centre, 1, float(np.hypot(0.002, level)))
        yield f"MRI, 8 coils, {acceleration}x", case, strength, level_of_mask
    picture, rng = photograph(TUNING, SIDE), np.random.default_rng(2)
    for kernel, noise_level, strength in ((1, 2.55, 2e-3), (4, 7.65, 5e-3)):
        blur = Blur(levin(kernel), picture.shape)
        yield f"deblurring, noise {noise_level:g}", measured(blur, picture, noise_level, rng), strength, 15
    missing = Mask(rng.random(picture.shape) >= 0.8)
    yield "inpainting, 80 % missing", measured(missing, picture, 2.55, rng), 1e-3, 25
    yield "super-resolution, factor 2", measured(Downsample(2, picture.shape), picture, 2.55, rng), 1e-3, 5
    yield "CT, abdomen, 60 views, 128 x 128", abdomen("phantom_149", 60, 128, 2), 0.7445, 5


def main() -> None:
    """Solve each problem by both schedules, print a table and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    solver = safi_fast.Solver(backend="cpu")
    schedules = {"gap": safi_fast.Reconstruct(outer=OUTER, inner=INNER, tol=TOLERANCE), "fast": safi_fast.Fast()}
    rows = []
    for name, case, strength, level in problems():
        found = {}
        for schedule, value in schedules.items():
            solution = solver.reconstruct(
                case.y, case.operator, strength=strength, noise_level=level / 255, box=case.box, schedule=value
            )
            found[schedule] = {
                "psnr": float(psnr(abs(case.reference), abs(solution.image))), "steps": solution.inner_iterations,
                "gap": float(solution.relative_gap), "status": solution.status,
            }  # fmt: skip
        print(name, found, flush=True)
        rows.append({"problem": name, **found})
    cells = []
    for r in rows:
        gap, fast = r["gap"], r["fast"]
        taken = f"{gap['steps']:,}{'' if gap['status'] == 'converged' else ' (not settled)'}"
        difference = f"{fast['psnr'] - gap['psnr']:+.2f} dB"
        cells.append(
            [r["problem"], str(fast["steps"]), taken, f"{gap['psnr']:.2f} dB", difference, f"{fast['gap']:.0e}"]
        )
    print(table(["case", "steps of fast", "steps to the certificate", "certified", "fast", "its gap"], cells))
    model = solver.model
    record = {"command": measure.command([]), "model": model.name, "model_sha256": model.fingerprint, "rows": rows}
    measure.write_json(args.output, record)


if __name__ == "__main__":
    main()
