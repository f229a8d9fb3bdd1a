"""What `fast` reaches from a first image of 1, 5, 10 or 15 steps of conjugate gradients (`Operator.start_steps`).

    python -m bench.experiments.first_image [--output FILE.json]

Problems: those that `fast` is tuned by (bench/experiments/fast.py), and a training phantom at 256 x 256. PSNR in dB.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import safi_fast
from bench.data.cases import abdomen
from bench.experiments.fast import Problem, tuning
from bench.report import measure
from safi_fast.cli.output import print_table
from safi_fast.metrics import psnr

STEPS = (1, 5, 10, 15)


def problems() -> Iterator[Problem]:
    """One image each."""
    yield from tuning()
    for views, strength, level in ((60, 0.258, 15), (200, 0.5, 50)):
        case = abdomen("phantom_49", views, 256, 1)
        yield Problem(f"CT, training phantom, {views} views, 256 x 256", [case], strength, level)


def reached(solver: safi_fast.Solver, problem: Problem) -> dict[str, object]:
    """PSNR by steps."""
    (case,), row = problem.cases, {"problem": problem.name}
    for steps in STEPS:
        case.operator.start_steps = steps
        found = solver.reconstruct(
            case.y, case.operator, strength=problem.strength, noise_level=problem.level / 255, box=case.box,
            schedule="fast",
        )  # fmt: skip
        row[str(steps)] = round(psnr(abs(case.reference), abs(found.image)), 3)
    return row


def main() -> None:
    """Solve, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    before, solver = measure.machine(), safi_fast.Solver("safi-gray", backend="cpu")
    rows = [reached(solver, problem) for problem in problems()]
    print_table(tuple(rows[0]), [tuple(map(str, row.values())) for row in rows])
    measure.write(args.output, rows, before)


if __name__ == "__main__":
    main()
