"""Whether memory grows in long use: an hour of mixed calls, resident memory after each identical cycle of them.

    python -m bench.experiments.soak [--minutes 60] [--output bench/results/soak.json]

A cycle is the same every time: sizes, models, schedules, threads, batches, streams, reconstructions, the command line
on files, and errors raised on purpose. The slope is that of a line through the cycles after the first ones, in which
caches and allocators fill up. Exit status 1 where it is LIMIT or more, or where the result of a cycle is not that of
the first.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import safi_fast
from bench.report import measure
from bench.report.memory import give_back, status
from safi_fast import operators
from safi_fast.cli.main import main as command_line

LIMIT = 20.0  # MB per hour
IDENTICAL_AFTER = 0.2  # share of the cycles in which memory may still settle
FEWEST = 10  # cycles, which a slope needs
SIGMA = 25 / 255
SIZES = ((24, 31), (40, 40), (57, 33), (2, 24, 24))
FEW = {"max_outer": 2, "max_inner": 3}

Call = Callable[[Path], Any]
clock = time.monotonic


def image_of(*shape: int) -> np.ndarray:
    """The same noise every time."""
    return np.random.default_rng(7).random(shape, np.float32)


def denoise_all(folder: Path) -> list[Any]:
    """Sizes, models and schedules by the function, which keeps its solvers."""
    results = []
    for model in safi_fast.list_models():
        planes = safi_fast.load_model(model).filters.planes
        for shape, schedule in zip(SIZES, ("unrolled", "gap", "converged", "unrolled"), strict=True):
            whole = {} if planes == 1 else {"channel_axis": -1}
            image = image_of(*shape, *[planes] * (planes > 1))
            results.append(
                safi_fast.denoise(image, SIGMA, model=model, schedule=schedule, backend="cpu", **whole, **FEW)
            )
    return results


def solvers(folder: Path) -> list[Any]:
    """New solvers, threads, colour, tiles, streams, solutions with masks."""
    results = []
    for threads in (1, 2):
        if threads <= (os.cpu_count() or 1):
            solver = safi_fast.Solver("mmr-gray", backend="cpu", threads=threads)
            results.append(solver.denoise(image_of(32, 32, 3), SIGMA, channel_axis=-1, **FEW))
            images = [image_of(24, 24 + n) for n in range(4)]
            results += list(solver.denoise_batch(images, SIGMA, **FEW))
            results.append(
                solver.denoise(image_of(30, 30), SIGMA, return_solution=True, return_masks=True, **FEW).masks
            )
    less = 0.96 * safi_fast.estimate_memory((200, 200), model="mmr-gray", backend="cpu")
    results.append(
        safi_fast.denoise(image_of(200, 200), SIGMA, model="mmr-gray", max_memory=less, backend="cpu", **FEW)
    )
    return results


def side_by_side(folder: Path) -> list[Any]:
    """Two threads of the caller's."""
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        results[number] = safi_fast.denoise(image_of(28, 28 + number), SIGMA, backend="cpu", **FEW)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [results[number] for number in sorted(results)]


def reconstructions(folder: Path) -> list[Any]:
    """Every kind of operator, real and complex, one and a batch."""
    image = image_of(24, 24)
    some = np.random.default_rng(3).random((24, 24)) < 0.6
    made = [
        operators.Blur(np.ones((3, 3)) / 9, image.shape),
        operators.Mask(some),
        operators.FourierMRI(some, mask_order="fft", image="real"),
        operators.ParallelBeamCT(image.shape, np.linspace(0, np.pi, 12, endpoint=False), 40),
        operators.Downsample(2, image.shape),
    ]
    results = []
    for operator in made:
        y = operator.apply(image)
        results.append(safi_fast.reconstruct(y, operator, strength=1e-2, max_outer=2, max_iter=5, backend="cpu").image)
    mri = operators.FourierMRI(some, mask_order="fft", image="complex")
    y = np.stack([mri.apply(image), mri.apply(image)])
    results.append(safi_fast.reconstruct(y, mri, strength=1e-2, box=None, max_outer=2, max_iter=5, backend="cpu").image)
    return results


def commands(folder: Path) -> list[Any]:
    """The command line in this process, on files that are new every time."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        np.save(f"{name}/a.npy", image_of(26, 27))
        np.save(f"{name}/b.npy", image_of(2, 20, 20))
        options = ["--sigma", "25", "--backend", "cpu"]
        statuses = [
            quietly("denoise", f"{name}/a.npy", f"{name}/b.npy", "-o", f"{name}/out", *options),
            quietly("denoise", f"{name}/a.npy", "-o", f"{name}/a.png", *options),
            quietly("denoise", f"{name}/missing.png", "-o", f"{name}/out", *options),
            quietly("denoise", f"{name}/a.npy"),
            quietly("models"),
        ]
        return [np.array(statuses), np.load(f"{name}/out/a.npy")]


def errors(folder: Path) -> list[Any]:
    """Mistakes, each of which raises."""

    def stop(state: Any) -> None:
        raise RuntimeError("the caller's own")

    image, nan = image_of(20, 20), np.full((20, 20), np.nan, np.float32)
    mistakes: list[Callable[[], Any]] = [
        lambda: safi_fast.denoise(nan, SIGMA),
        lambda: safi_fast.denoise(image, -1),
        lambda: safi_fast.denoise(image[:3], SIGMA),
        lambda: safi_fast.denoise(255 * image, SIGMA),
        lambda: safi_fast.denoise(image, SIGMA, callback=stop, backend="cpu"),
        lambda: safi_fast.Solver("no such model"),
        lambda: operators.Blur(np.zeros((3, 3)), (20, 20)),
        lambda: safi_fast.reconstruct(image, operators.Mask(image > 0.5), strength=-1),
    ]
    raised = 0
    for mistake in mistakes:
        try:
            mistake()
        except (safi_fast.SafiError, RuntimeError):
            raised += 1
    if raised != len(mistakes):
        raise SystemExit(f"{len(mistakes) - raised} of {len(mistakes)} mistakes were not refused")
    return [np.array(raised)]


CYCLE: tuple[Call, ...] = (denoise_all, solvers, side_by_side, reconstructions, commands, errors)


def quietly(*arguments: str) -> int:
    """The exit status of a command."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return command_line(arguments)


def cycle(folder: Path) -> str:
    """All calls once; a digest of their results."""
    digest = hashlib.sha256()
    for call in CYCLE:
        for result in call(folder):
            digest.update(np.ascontiguousarray(result).tobytes())
    return digest.hexdigest()


def resident() -> float:
    """MB, after what is free has been given back."""
    gc.collect()
    give_back()
    return status("VmRSS") / 1e6


def slope(hours: np.ndarray, memory: np.ndarray) -> float:
    """MB per hour, by least squares."""
    return float(np.polyfit(hours - hours[0], memory, 1)[0])


def soak(minutes: float) -> dict[str, Any]:
    """Cycles for so long; what was measured."""
    begun, hours, memory, digests, others = clock(), [], [], set(), set(threading.enumerate())
    with tempfile.TemporaryDirectory() as name:
        while clock() - begun < 60 * minutes or len(memory) < FEWEST:
            digests.add(cycle(Path(name)))
            hours.append((clock() - begun) / 3600)
            memory.append(resident())
        left = len(list(Path(name).iterdir()))
    first = max(2, int(IDENTICAL_AFTER * len(memory)))
    return {
        "minutes": round(60 * hours[-1], 2),
        "cycles": len(memory),
        "left_out": first,
        "slope_mb_per_hour": round(slope(np.array(hours[first:]), np.array(memory[first:])), 3),
        "growth_mb": round(memory[-1] - memory[first], 3),
        "resident_mb": {"first": round(memory[0], 1), "settled": round(memory[first], 1), "last": round(memory[-1], 1)},
        "limit_mb_per_hour": LIMIT,
        "different_results": len(digests) - 1,
        "files_left": left,
        "threads_left": len(set(threading.enumerate()) - others),
    }


def main() -> None:
    """Run for so long, print, record and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not sys.platform.startswith("linux"):
        raise SystemExit("soak reads /proc/self/status, which is Linux's")
    result = soak(args.minutes)
    print(json.dumps(result, indent=2))
    measure.write_json(args.output, {"command": measure.command(), "machine": measure.machine(), **result})
    wrong = [key for key in ("different_results", "files_left", "threads_left") if result[key]]
    if result["slope_mb_per_hour"] >= LIMIT:
        wrong.append(f"slope of {result['slope_mb_per_hour']} MB an hour; allowed is less than {LIMIT}")
    if wrong:
        raise SystemExit("failed: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
