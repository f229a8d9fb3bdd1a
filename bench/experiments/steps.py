"""How many steps `reconstruct` takes with other step sizes: why `least_share` and `multiplier_sigma` are what they are.

    python -m bench.experiments.steps [--output bench/results/steps.json]

Real problems of bench/data/cases.py, 128 x 128 (restoration: 96 x 96), at most 8 masks of 1500 steps, tolerance 1e-3.
Steps depend on neither machine nor load.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import safi_fast
from bench.data.cases import Case, abdomen, brain, levin, noise, photograph, several_coils, tooth
from bench.report import measure
from safi_fast.operators import Blur, Downsample, Mask
from safi_fast.solver.data_term import DataTermSteps
from safi_fast.solver.halpern import Halpern

SETTINGS = ((0.0, 0.04), (1.0, 0.04), (0.0, 0.02), (1.0, 0.02))  # least_share, multiplier_sigma; first what it was
OUTER, INNER = 8, 1500


def problems() -> Iterator[tuple[str, Case, float, float]]:
    """(name, case, strength, noise level of 255)."""
    yield "CT, abdomen, 60 views", abdomen("phantom_149", 60, 128, 2), 0.7445, 5
    yield "CT, abdomen, 200 views", abdomen("phantom_149", 200, 128, 2), 0.83, 50
    yield "CT, tooth, 90 views", tooth(2, 0, 128), 1.73, 50
    kspace, maps, image, _ = brain((128, 128))
    yield "MRI, 8 coils, 4x", several_coils(kspace, maps, image, 4, 0.08, 2), 1.6e-3, 15
    yield "MRI, 8 coils, 8x", several_coils(kspace, maps, image, 8, 0.04, 2), 1.6e-3, 15
    picture, rng = photograph("04", 96), np.random.default_rng(2)
    for kernel, level, strength in ((1, 2.55, 2e-3), (4, 7.65, 1e-2)):
        yield (
            f"blur, Levin kernel {kernel}",
            measured(Blur(levin(kernel), picture.shape), picture, level, rng),
            strength,
            15,
        )
    missing = Mask(rng.random(picture.shape) >= 0.8)
    yield "inpainting, 80 %", measured(missing, picture, 2.55, rng), 1e-3, 15
    yield "super-resolution", measured(Downsample(2, picture.shape), picture, 2.55, rng), 1e-3, 5


def measured(operator, picture, level, rng) -> Case:
    """With noise of `level` of 255."""
    y = operator.apply(picture) + np.float32(level / 255) * noise(operator.shape_out, rng, False)
    return Case(operator, operator.check_measurement(y), picture, ("", None))


def main() -> None:
    """Solve with every setting, print a table and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    solver = safi_fast.Solver(backend="cpu")
    rows = []
    print("| problem | " + " | ".join(f"{share:g}, {sigma:g}" for share, sigma in SETTINGS) + " |")
    print("| --- " * (1 + len(SETTINGS)) + "|")
    for name, case, strength, level in problems():
        found = []
        for share, sigma in SETTINGS:
            steps = Halpern(least_share=share, data=DataTermSteps(multiplier_sigma=sigma))
            solution = solver.reconstruct(
                case.y, case.operator, strength=strength, noise_level=level / 255, box=case.box,
                schedule=safi_fast.Reconstruct(outer=OUTER, inner=INNER, steps=steps),
            )  # fmt: skip
            found.append(
                {"steps": solution.inner_iterations, "masks": solution.outer_iterations, "status": solution.status}
            )
        rows.append({"problem": name, "settings": SETTINGS, "found": found})
        cells = [f"{one['steps']}{'' if one['status'] == 'converged' else ' (not settled)'}" for one in found]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    measure.write_json(args.output, {"command": measure.command([]), "rows": rows})


if __name__ == "__main__":
    main()
