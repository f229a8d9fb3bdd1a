"""Slices of MRI per minute: `reconstruct_batch(schedule="fast")` beside BART, sigpy, WCRR and MFoE.

    python -m bench.experiments.mri_throughput tune [--rivals PYTHON] [--methods ...]
    python -m bench.experiments.mri_throughput run [--rivals PYTHON] [--methods ...] [--sizes ...] [--slices 16]
    python -m bench.experiments.mri_throughput tables

8 coils, 4x: 230 x 180 with measured k-space, 320 x 320 simulated (the brain and its maps, interpolated). Each slice has
a mask and noise of its own. `tune` chooses strength, noise level and steps of every method on another head, seen
through the same coils with three other masks; `run` measures; `tables` writes the table and the plot of
docs/reconstruction.md. Both add to one file, --output. --rivals: an interpreter with bartorch and sigpy
(pip install bartorch==0.0.17 sigpy), this one by default; what it lacks is left out. Methods of torch are slow: --slow
says how many slices they get.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

from bench import RESULTS
from bench.data.cases import TUNED_MASKS, Case, brain, several_coils, simulated_coils
from bench.data.problems import DATA, head
from bench.methods import mri_rivals
from bench.methods.throughput import METHODS, Setting, Solve, apart, chosen, quality, ready, rival
from bench.report import measure, throughput

ACCELERATION, CENTRE = 4, 0.08
ADDED = 0.002  # noise per real number, on top of that of the scan
SEEDS = 10  # of the first mask
SLOW = ("wcrr", "mfoe")
PILOT = 4  # slices that decide how a rival uses two cores


def measured(slices: int) -> list[Case]:
    """The k-space of espirit_full."""
    kspace, maps, image, _ = brain((230, 180))
    seeds = range(SEEDS, SEEDS + slices)
    return [several_coils(kspace, maps, image, ACCELERATION, CENTRE, seed) for seed in seeds]


def simulated(slices: int) -> list[Case]:
    """The same image and maps on a finer grid, with as much noise."""
    _, maps, image, level = brain((230, 180))
    coils = np.stack([enlarged(one) for one in maps])
    coils /= np.maximum(np.sqrt((np.abs(coils) ** 2).sum(0)), 1e-3)
    large, noise = enlarged(image), float(np.hypot(ADDED, level))
    seeds = range(SEEDS, SEEDS + slices)
    return [simulated_coils(large, coils.astype(np.complex64), ACCELERATION, CENTRE, seed, noise) for seed in seeds]


def enlarged(image: Any, side: int = 320) -> Any:
    """To side x side pixels, by cubic splines."""
    factors = [side / n for n in image.shape]
    real, imaginary = (scipy.ndimage.zoom(part, factors, order=3) for part in (image.real, image.imag))
    return (real + 1j * imaginary).astype(np.complex64)


SIZES: dict[str, tuple[str, Callable[[int], list[Case]]]] = {
    "230": ("230 x 180, measured", measured),
    "320": ("320 x 320, simulated", simulated),
}


def tuning_cases() -> list[Case]:
    """Another head, seen through coils of the brain's, with masks that no test has."""
    _, maps, _, level = brain((128, 128))
    noise = float(np.hypot(ADDED, level))
    return [simulated_coils(head("lsq21", 128), maps, ACCELERATION, CENTRE, seed, noise) for seed in TUNED_MASKS]


def tune(args: argparse.Namespace, record: dict[str, Any]) -> None:
    """Choose the settings of every method."""
    cases = tuning_cases()
    for name in args.methods:
        solve, version = ready(name, args.rivals)
        if solve is None:
            print(f"{METHODS[name].name}: left out, {version}")
            continue
        found = chosen(METHODS[name], solve, cases)
        record.setdefault("chosen", {})[name] = [setting._asdict() for setting in found]
        print(name, *found, flush=True)
        measure.write_json(args.output, record)


def run(args: argparse.Namespace, record: dict[str, Any]) -> None:
    """Measure every method with its settings, and keep each row as soon as it is there."""
    before = measure.machine()
    for size in args.sizes:
        label, build = SIZES[size]
        cases = build(args.slices)
        for name in args.methods:
            settings = [Setting(**values) for values in record.get("chosen", {}).get(name, [])]
            solve, version = ready(name, args.rivals)
            if solve is None or not settings:
                print(f"{METHODS[name].name}: left out, {'tune it first' if solve else version}")
                continue
            some = cases[: args.slow] if name in SLOW else cases
            ways = {"one batch": solve, "2 processes": apart} if name == "safi" else {"": solve}
            for setting, (workers, way) in itertools.product(settings, ways.items()):
                figures = one_row(args, name, way, some, setting)
                row = {"size": label, "method": name, "version": version, **figures}
                row |= {"workers": workers} if workers else {}
                print(row, flush=True)
                record["rows"] = throughput.placed(record.get("rows", []), row)
                record |= {"command": measure.command(["run"]), "machine": before}
                measure.write_json(args.output, record)


def one_row(
    args: argparse.Namespace, name: str, solve: Solve, cases: Sequence[Case], setting: Setting
) -> dict[str, Any]:
    """Slices per minute and PSNR; a rival uses both cores as is faster for it."""
    others, workers = measure.Neighbours(), "2 threads"
    if name in mri_rivals.METHODS:
        shared = rival(args.rivals, name, measure.THREADS)
        alone, together = (way(cases[:PILOT], [setting])[0] for way in (solve, shared))
        outcome = alone
        if together.seconds < alone.seconds:
            solve, workers, outcome = shared, "2 processes", together
    if name not in mri_rivals.METHODS or len(cases) > PILOT:
        outcome = solve(cases, [setting])[0]
    return {
        "name": METHODS[name].name, "default": setting.steps == METHODS[name].default, "workers": workers,
        "slices": len(cases), "seconds": round(outcome.seconds, 2),
        "per_minute": round(60 * len(cases) / outcome.seconds, 1), "psnr_of": quality(cases, outcome.images),
        **setting._asdict(), "others": round(others.cpus(), 2),
    }  # fmt: skip


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["tune", "run", "tables"])
    parser.add_argument("--rivals", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--slow", type=int, default=2, help="slices of WCRR and MFoE")
    parser.add_argument("--output", type=Path, default=RESULTS / "mri_throughput.json")
    return parser.parse_args(words)


def main() -> None:
    """One of the commands."""
    args = parsed()
    if args.command == "tables":
        throughput.write(args.output)
        return
    if not (DATA / "mri").is_dir():
        print("mri_throughput: not compared, the shared data folder is missing (set SAFI_FAST_DATA)")
        return
    measure.use_threads()
    record = measure.read(args.output) if args.output.exists() else {}
    (tune if args.command == "tune" else run)(args, record)


if __name__ == "__main__":
    main()
