"""How near `schedule="fast"` comes to the certified image, and in how many steps `schedule="gap"` does.

    python -m bench.experiments.fast tuning|test [--output FILE] [--resume | --again] [--only WORDS ...]

tuning: problems that no table tests on, 96 x 96 and less, one image each: what the schedules were chosen by. test: the
problems of docs/results, three images, masks or sets of views each. The certified image is that of the default
schedule, to a gap of 1e-3, for `test` in at most 12 masks of 500 steps. Steps and PSNR depend on neither machine nor
load. The column "steps before" is what the same kind of problem took at commit 1f32491 (its
bench/results/inverse_*.json, other weights and, for MRI and restoration, other masks and sizes). --resume keeps the
rows of --output that are of the same weights, --again their certified images alone: for a change of `fast`. --only
takes the problems whose names have one of these words in them, and keeps the other rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import safi_fast
from bench.data.cases import (
    TESTED_MASKS,
    TUNING,
    Case,
    abdomen,
    brain,
    levin,
    photograph,
    random_lines,
    several_coils,
    tooth,
)
from bench.data.problems import head
from bench.experiments.steps import measured
from bench.report import measure
from bench.report.markdown import table
from safi_fast.metrics import psnr
from safi_fast.operators import Blur, Downsample, Mask, SenseMRI

HEAD, HEAD_SIDE, SIDE, TEST_SIDE = "lsq21", 96, 72, 128
PICTURES = ("01", "03", "05")  # of set12


@dataclass(frozen=True)
class Problem:
    """Cases that are solved with one strength and one level (of 255); `before`: steps at commit 1f32491."""

    name: str
    cases: list[Case]
    strength: float
    level: float
    before: int | None = None


def tuning() -> Iterator[Problem]:
    """What the constants of the schedules were chosen by."""
    image = head(HEAD, HEAD_SIDE)
    yield Problem("MRI, one coil, 4x", [random_lines(image, 4, 0.08, 1)], 4e-4, 25)
    _, maps, _, level = brain((HEAD_SIDE, HEAD_SIDE))
    full = SenseMRI(maps, np.ones((HEAD_SIDE, HEAD_SIDE), bool), mask_order="centered", check_order=False)
    seen = full.apply(image.astype(np.complex64))
    for acceleration, centre, strength, level_of_mask in ((4, 0.08, 8e-4, 5), (8, 0.04, 8e-4, 15)):
        case = several_coils(seen, maps, full.adjoint(seen), acceleration, centre, 1, float(np.hypot(0.002, level)))
        yield Problem(f"MRI, 8 coils, {acceleration}x", [case], strength, level_of_mask)
    picture, rng = photograph(TUNING, SIDE), np.random.default_rng(2)
    for kernel, noise_level, strength in ((1, 2.55, 2e-3), (4, 7.65, 5e-3)):
        blur = Blur(levin(kernel), picture.shape)
        yield Problem(f"deblurring, noise {noise_level:g}", [measured(blur, picture, noise_level, rng)], strength, 15)
    missing = Mask(rng.random(picture.shape) >= 0.8)
    yield Problem("inpainting, 80 % missing", [measured(missing, picture, 2.55, rng)], 1e-3, 25)
    yield Problem("super-resolution, 2x", [measured(Downsample(2, picture.shape), picture, 2.55, rng)], 1e-3, 5)
    yield Problem("CT, abdomen, 60 views, 128 x 128", [abdomen("phantom_149", 60, 128, 2)], 0.7445, 5)


def test() -> Iterator[Problem]:
    """Three images, masks or sets of views each, of what the tables of docs/results test on."""
    kspace, maps, image, _ = brain((230, 180))
    one, eight = {4: (2e-4, 3200), 8: (2e-4, 7340)}, {4: 740, 8: 2020}
    for acceleration, centre in ((4, 0.08), (8, 0.04)):
        masks = [random_lines(np.abs(image), acceleration, centre, seed) for seed in TESTED_MASKS]
        yield Problem(f"MRI, one coil, {acceleration}x", masks, one[acceleration][0], 25, one[acceleration][1])
    for acceleration, centre in ((4, 0.08), (8, 0.04)):
        masks = [several_coils(kspace, maps, image, acceleration, centre, seed) for seed in TESTED_MASKS]
        yield Problem(f"MRI, 8 coils, {acceleration}x", masks, 1.6e-3, 15, eight[acceleration])
    pictures, rng = [photograph(name, TEST_SIDE) for name in PICTURES], np.random.default_rng(3)
    side = pictures[0].shape
    blurs = ((1, 2.55, 1.2e-3, 967), (4, 2.55, 1.2e-3, 1232), (1, 7.65, 5e-3, 489))
    for kernel, noise_level, strength, before in blurs:
        cases = [measured(Blur(levin(kernel), side), picture, noise_level, rng) for picture in pictures]
        yield Problem(f"deblurring, kernel {kernel}, noise {noise_level:g}", cases, strength, 15, before)
    for share, before in ((0.5, 889), (0.8, 3340)):
        cases = [measured(Mask(rng.random(side) >= share), picture, 2.55, rng) for picture in pictures]
        yield Problem(f"inpainting, {share:.0%} missing", cases, 1e-3, 25, before)
    cases = [measured(Downsample(2, side), picture, 2.55, rng) for picture in pictures]
    yield Problem("super-resolution, 2x", cases, 1e-3, 5, 1738)
    for views, strength, level, before in ((60, 0.258, 15, 19040), (200, 0.5, 50, 18800)):
        cases = [abdomen("phantom_149", views, 256, seed) for seed in (2, 3, 4)]
        yield Problem(f"CT, abdomen, {views} views, 256 x 256", cases, strength, level, before)
    yield Problem("CT, tooth, 60 of 181 views", [tooth(3, offset, 200) for offset in (0, 1, 2)], 5.99, 50, 1620)


SETS = {"tuning": (tuning, safi_fast.Reconstruct()), "test": (test, safi_fast.Reconstruct(outer=12, inner=500))}


def solved(
    solver: safi_fast.Solver, problem: Problem, certified: safi_fast.Reconstruct, gap: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Means of PSNR and steps, the worst gap, and how many have converged; gap: those of the certified images, where
    they are known.
    """
    row: dict[str, Any] = {"problem": problem.name, "images": len(problem.cases), "before": problem.before}
    row |= {} if gap is None else {"gap": gap}
    for name, schedule in (("gap", certified), ("fast", "fast")):
        if name in row:
            continue
        solutions = [
            solver.reconstruct(
                case.y, case.operator, strength=problem.strength, noise_level=problem.level / 255, box=case.box,
                schedule=schedule,
            )
            for case in problem.cases
        ]  # fmt: skip
        quality = [
            psnr(abs(case.reference), abs(solution.image))
            for case, solution in zip(problem.cases, solutions, strict=True)
        ]
        row[name] = {
            "psnr": float(np.mean(quality)),
            "psnr_of": [round(float(value), 3) for value in quality],
            "steps": round(np.mean([s.inner_iterations for s in solutions])),
            "steps_of": [int(s.inner_iterations) for s in solutions],
            "gap": float(max(s.relative_gap for s in solutions)),
            "converged": sum(bool(s.converged) for s in solutions),
        }
    return row


def cells(row: dict[str, Any]) -> list[str]:
    """Of the table."""
    gap, fast = row["gap"], row["fast"]
    settled = "" if gap["converged"] == row["images"] else f" ({row['images'] - gap['converged']} not settled)"
    return [
        row["problem"],
        str(row["images"]),
        str(fast["steps"]),
        f"{fast['psnr'] - gap['psnr']:+.2f} dB",
        f"{fast['gap']:.0e}",
        f"{gap['psnr']:.2f} dB",
        f"{gap['steps']:,}{settled}",
        "" if row["before"] is None else f"{row['before']:,}",
    ]


TITLES = ["case", "images", "steps of fast", "fast", "its gap", "certified", "steps", "steps before"]


def kept(path: Path | None, model: Any) -> list[dict[str, Any]]:
    """The rows of a record of the same weights, or none."""
    record = measure.read(path) if path is not None and path.exists() else {}
    return record["rows"] if record.get("model_sha256") == model.fingerprint else []


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", choices=SETS)
    parser.add_argument("--output", type=Path)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--resume", action="store_true", help="keep the rows of --output, and add those that it lacks")
    which.add_argument("--again", action="store_true", help="keep the certified images of --output, make `fast` again")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="of the names of problems")
    return parser.parse_args(words)


def main() -> None:
    """Solve each problem by both schedules, print a table and record, in the order of the problems."""
    args = parsed()
    solver = safi_fast.Solver(backend="cpu")
    build, certified = SETS[args.problems]
    problems = list(build())
    before = {row["problem"]: row for row in kept(args.output, solver.model)}
    rows = before if args.resume or args.only else {}
    for problem in problems:
        asked = not args.only or any(words in problem.name for words in args.only)
        if not asked or (args.resume and problem.name in rows):
            continue
        gap = before[problem.name]["gap"] if args.again and problem.name in before else None
        rows[problem.name] = solved(solver, problem, certified, gap)
        print(rows[problem.name], flush=True)
        record = {
            "command": measure.command([args.problems]), "model": solver.model.name,
            "model_sha256": solver.model.fingerprint, "rows": [rows[p.name] for p in problems if p.name in rows],
        }  # fmt: skip
        measure.write_json(args.output, record)
    print(table(TITLES, [cells(rows[p.name]) for p in problems if p.name in rows]))


if __name__ == "__main__":
    main()
