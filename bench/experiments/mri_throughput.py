"""Slices of MRI per minute: `reconstruct_batch(schedule="fast")` beside BART, sigpy and WCRR.

    python -m bench.experiments.mri_throughput [--rivals PYTHON] [--slices 16] [--slow 2] [--output JSON] [--plot PNG]

8 coils, 4x: 230 x 180 with measured k-space, 320 x 320 simulated (the brain and its maps, interpolated). Each slice has
a mask and noise of its own. Strengths and steps of every method are chosen on a tuning head seen through the same
coils: the best strength, then the fewest steps that keep its PSNR within 0.05 dB. --rivals: an interpreter with
bartorch and sigpy (pip install bartorch==0.0.17 sigpy); without it they are left out. --slow: slices of WCRR.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

import safi_fast
from bench.data.cases import Case, brain, several_coils, simulated_coils
from bench.data.problems import DATA, head
from bench.methods import mri_rivals
from bench.methods.baselines import Wcrr
from bench.report import labels, measure
from bench.report.markdown import table
from bench.report.pictures import plot_of
from safi_fast.metrics import psnr

ACCELERATION, CENTRE = 4, 0.08
STRENGTH, LEVEL = 1.6e-3, 15 / 255  # of safi-gray, as bench/experiments/inverse.py chose them for 8 coils, 4x
SEEDS = 10  # of the first mask
STRENGTHS = {
    "bart-wavelet": (1e-3, 2e-3, 5e-3, 1e-2, 2e-2),
    "sigpy-wavelet": (3e-4, 1e-3, 3e-3, 1e-2),
    "sigpy-tv": (3e-4, 1e-3, 3e-3, 1e-2),
    "wcrr": (3e-2, 5.2e-2, 9e-2),
}
STEPS = {"bart-wavelet": (30, 60, 100), "sigpy-wavelet": (30, 60, 100), "sigpy-tv": (50, 100, 200), "wcrr": (100, 200)}
NAMES = {
    "bart-wavelet": "BART pics, l1-wavelets",
    "sigpy-wavelet": "sigpy L1WaveletRecon",
    "sigpy-tv": "sigpy TotalVariationRecon",
    "wcrr": "WCRR",
}
Outcome = tuple[Sequence[Any], float]  # images, seconds


def sizes(slices: int) -> Iterator[tuple[str, list[Case]]]:
    """(name, slices)."""
    kspace, maps, image, level = brain((230, 180))
    total = float(np.hypot(0.002, level))
    seeds = range(SEEDS, SEEDS + slices)
    yield (
        "230 x 180, measured",
        [several_coils(kspace, maps, image, ACCELERATION, CENTRE, seed) for seed in seeds],
    )
    large, coils = enlarged(image), np.stack([enlarged(one) for one in maps])
    coils /= np.maximum(np.sqrt((np.abs(coils) ** 2).sum(0)), 1e-3)
    yield (
        "320 x 320, simulated",
        [simulated_coils(large, coils.astype(np.complex64), ACCELERATION, CENTRE, seed, total) for seed in seeds],
    )


def tuning_case() -> Case:
    """Another head, seen through coils of the brain's."""
    _, maps, _, level = brain((128, 128))
    return simulated_coils(head("lsq21", 128), maps, ACCELERATION, CENTRE, 1, float(np.hypot(0.002, level)))


def enlarged(image: Any, side: int = 320) -> Any:
    """To side x side pixels, by cubic splines."""
    factors = [side / n for n in image.shape]
    real, imaginary = (scipy.ndimage.zoom(part, factors, order=3) for part in (image.real, image.imag))
    return (real + 1j * imaginary).astype(np.complex64)


def ours(cases: Sequence[Case]) -> Outcome:
    """All slices as one batch."""
    solver = safi_fast.Solver("safi-gray", backend="cpu")
    stack, operators = np.stack([case.y for case in cases]), [case.operator for case in cases]
    options = {"strength": STRENGTH, "noise_level": LEVEL, "box": None, "schedule": "fast"}
    solver.reconstruct_batch(stack[:1], operators[:1], **options)
    run = measure.timed(lambda: solver.reconstruct_batch(stack, operators, **options))
    return list(run.result.image), run.wall


def of_wcrr(cases: Sequence[Case], strength: float, steps: int) -> Outcome:
    """One slice after the other."""
    network = Wcrr(DATA / "weights" / "wcrr.pth")
    run = measure.timed(lambda: [network.solve(c.operator, c.y, strength, 20, box=None, steps=steps)[0] for c in cases])
    return run.result, run.wall


def of_rival(python: str, method: str, cases: Sequence[Case], strength: float, steps: int) -> tuple[Outcome, str]:
    """By the other interpreter; and the version of its library."""
    with tempfile.TemporaryDirectory() as folder:
        problem, answer = Path(folder) / "problem.npz", Path(folder) / "answer.npz"
        np.savez(
            problem, kspace=np.stack([c.y for c in cases]), mask=np.stack([c.operator.mask for c in cases]),
            maps=cases[0].operator.maps, strength=strength, steps=steps, threads=measure.THREADS,
        )  # fmt: skip
        environment = os.environ | {name: str(measure.THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        environment.pop("PYTHONPATH", None)
        subprocess.run([python, mri_rivals.__file__, problem, answer, method], check=True, env=environment)
        with np.load(answer) as file:
            return (list(file["images"]), float(file["seconds"])), str(file["version"])


def quality(cases: Sequence[Case], images: Sequence[Any]) -> float:
    """Mean PSNR of magnitudes."""
    return float(np.mean([psnr(np.abs(c.reference), np.abs(x)) for c, x in zip(cases, images, strict=True)]))


def chosen(method: str, solve: Callable[[float, int], Outcome], tuning: Case) -> tuple[float, int]:
    """Strength and steps, on the tuning case."""
    most = STEPS[method][-1]
    scores = {strength: quality([tuning], solve(strength, most)[0]) for strength in STRENGTHS[method]}
    strength = max(scores, key=lambda one: scores[one])
    enough = (s for s in STEPS[method] if quality([tuning], solve(strength, s)[0]) >= scores[strength] - 0.05)
    return strength, next(enough, most)


def rows_of(size: str, cases: list[Case], args: argparse.Namespace, kept: dict) -> Iterator[dict]:
    """One row per method; kept: what was chosen for each, by method."""
    tuning = tuning_case()
    images, seconds = ours(cases)
    yield row(size, "safi-gray, fast", cases, images, seconds, strength=STRENGTH, steps=300)
    for method in STRENGTHS:
        few = cases[: args.slow] if method == "wcrr" else cases
        if method == "wcrr":

            def solve(strength, steps, some=few):
                return of_wcrr(some, strength, steps)

            version = "weights as published"
        elif args.rivals is None:
            print(f"{NAMES[method]}: left out, --rivals names no interpreter")
            continue
        else:

            def solve(strength, steps, some=few, method=method):
                return of_rival(args.rivals, method, some, strength, steps)[0]

            version = of_rival(args.rivals, method, [tuning], STRENGTHS[method][0], 2)[1]
        if method not in kept:
            kept[method] = chosen(method, lambda a, b, s=solve: s(a, b, [tuning]), tuning)
        strength, steps = kept[method]
        images, seconds = solve(strength, steps)
        yield row(size, NAMES[method], few, images, seconds, strength=strength, steps=steps, version=version)


def row(size: str, name: str, cases: Sequence[Case], images: Sequence[Any], seconds: float, **more: Any) -> dict:
    """Slices per minute and PSNR."""
    per_minute = round(60 * len(cases) / seconds, 1)
    found = {"size": size, "method": name, "slices": len(cases), "seconds": round(seconds, 2)}
    return found | {"per_minute": per_minute, "psnr": round(quality(cases, images), 2)} | more


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR over slices per minute, a panel per size."""
    sizes_ = list(dict.fromkeys(r["size"] for r in rows))
    figure, panels = plot_of(11, 4.5, len(sizes_))
    for axes, size in zip(np.atleast_1d(panels), sizes_, strict=True):
        names = []
        for r in (r for r in rows if r["size"] == size):
            color = "tab:red" if r["method"].startswith("safi") else "tab:blue"
            axes.plot(r["per_minute"], r["psnr"], "o", color=color, markersize=8)
            names.append((r["method"], r["per_minute"], r["psnr"], color))
        axes.set(xscale="log", xlabel="slices per minute, 2 CPU cores", ylabel="PSNR in dB")
        axes.set_title(f"8 coils, 4x, {size}", fontsize=10)
        axes.grid(which="both", alpha=0.2)
        axes.margins(x=0.3, y=0.15)
        labels.label(axes, names, [])
    figure.savefig(path)


def main() -> None:
    """Measure, print a table and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", metavar="PYTHON")
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--slow", type=int, default=2)
    parser.add_argument("--sizes", type=int, default=2, help="1: only what was measured")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    measure.use_threads()
    before, rows, kept = measure.machine(), [], {}
    for size, cases in list(sizes(args.slices))[: args.sizes]:
        for found in rows_of(size, cases, args, kept):
            rows.append(found)
            print(found, flush=True)
            measure.write(args.output, rows, before)
    cells = [
        [r["size"], r["method"], str(r["slices"]), f"{r['per_minute']:g}", f"{r['psnr']:.2f} dB", str(r["steps"])]
        for r in rows
    ]
    print(table(["size", "method", "slices", "slices per minute", "PSNR", "steps"], cells))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
