"""What the CPU path is asked for, each as one row of a record: the figure, what was asked, whether it is met.

    python -m bench.experiments.bars dncnn | kernels [--base FOLDER] | mmr | safi | batch | planes
                                    [--output FILE.json]

    dncnn     safi-gray and safi-gray-fast beside DnCNN in torch, 481 x 321, two threads, in turn
    kernels   the mask convolution against its bound; a dual step beside that of an older checkout in FOLDER, in turn
    mmr       the published MMR weights beside their layers in PyTorch, 481 x 321
    safi      the same of the published SAFI layout
    batch     `denoise_batch` of 64 images of 256 x 256 beside the sum of its kernels, and beside two workers of joblib
              with one thread each
    planes    images of three planes under one mask beside grey images of the same model and size, in turn

Each takes less than three minutes on two idle cores. Rows of the record that are made again replace the old ones;
`neighbours` is how many CPUs other processes kept busy meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import safi_fast
from bench.data.problems import SIGMA, noisy_photograph, published_mmr, published_safi_layout
from bench.report import measure

Row = dict[str, Any]
HEIGHT, WIDTH = 481, 321
IMAGES, SIDE = 64, 256
STEPS = """
import json, sys, time
import numpy as np
import safi_fast
from safi_fast.bindings.cpu import CpuBackend
space = CpuBackend().prepare(safi_fast.load_model("safi-gray")).workspace(1, 481, 321)
one, ones = np.arange(1), np.ones(1, np.float32)
image = np.random.default_rng(0).random((1, 481, 321), np.float32)
space.load(image, 0.05 * ones, ones, (0.0, 1.0))
space.start_dual(one)
space.refresh(one)
for _ in sys.stdin:
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        space.step(one, 0.5 * ones)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds), flush=True)
"""


def row(bar: str, what: str, value: float, asked: str, met: bool, **facts: Any) -> Row:
    """One figure."""
    return {"bar": bar, "what": what, "value": round(value, 3), "asked": asked, "met": met, **facts}


def dncnn() -> list[Row]:
    """The least of five calls of each."""
    from bench.methods import denoisers

    measure.use_threads()
    noisy = noisy_photograph(HEIGHT, WIDTH)
    ready = {"DnCNN": denoisers.dncnn()} | {
        name: denoisers.safi(name, schedule="unrolled")() for name in ("safi-gray", "safi-gray-fast")
    }
    for method in ready.values():
        method(noisy)
    runs = measure.alternately({name: lambda m=m: m(noisy) for name, m in ready.items()}, 5)
    return [
        row(
            "dncnn", f"seconds of {name} over those of DnCNN", runs[name].wall / runs["DnCNN"].wall, f"at most {most}",
            runs[name].wall <= most * runs["DnCNN"].wall, seconds=runs[name].wall, seconds_dncnn=runs["DnCNN"].wall,
            in_processor_time=round(runs[name].cpu / runs["DnCNN"].cpu, 3),
        )
        for name, most in (("safi-gray", 1.0), ("safi-gray-fast", 0.5))
    ]  # fmt: skip


def kernels(base: Path | None) -> list[Row]:
    """Shares of bounds by `roofline`; steps in processes of their own."""
    from bench.experiments import roofline

    measure.use_threads()
    limits, size = roofline.ceilings(), 512
    measured = [found for found in roofline.measure_kernels(size, 4) if found["model"] == "safi-gray"]
    share = next(r["share"] for r in roofline.report(measured, limits, size**2) if r["kernel"] == "convolution")
    rows = [row("kernels", "mask convolution, share of its bound", share, "at least 0.7", share >= 0.7, **limits)]
    return rows if base is None else [*rows, *(_steps(base, threads) for threads in (1, 2))]


def _steps(base: Path, threads: int) -> Row:
    """A dual step with its image step, here and in an older checkout; the least of 8 rounds of 20."""
    processes = {}
    for name, folder in (("now", None), ("before", base)):
        environment = os.environ | {"NUMBA_NUM_THREADS": str(threads)}
        if folder is not None:
            environment |= {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / ".numba")}
        processes[name] = subprocess.Popen(
            [sys.executable, "-P", "-c", STEPS],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    found: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(8):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found[name] += json.loads(process.stdout.readline())
    for process in processes.values():
        process.communicate()
    now, before = (min(found[name]) / HEIGHT / WIDTH * 1e9 for name in ("now", "before"))
    middle = float(np.median(found["before"]) / np.median(found["now"]))
    return row(
        "kernels", f"dual step, times faster than {base.name}, threads: {threads}", before / now,
        "at least 1.6 on Intel, 1 on AMD", before >= now, ns_per_pixel=round(now, 1),
        ns_per_pixel_before=round(before, 1), by_medians=round(middle, 3),
    )  # fmt: skip


def layers(bar: str, maker: Callable[[], Any]) -> list[Row]:
    """By `race`, once."""
    from bench.experiments import race

    measure.use_threads()
    model = maker()
    if model is None:
        raise SystemExit("the published weights are not here: set SAFI_FAST_DATA")
    found = race.race(model, HEIGHT, WIDTH, 1)
    value = float(str(found["times_faster"]))
    return [
        row(bar, f"{model.name}, times faster than its layers in PyTorch", value, "at least 30", value >= 30, **found)
    ]


def batch() -> list[Row]:
    """One process of two threads, its kernels alone, and two workers of one thread."""
    import joblib

    from bench.experiments.roofline import Stopwatch
    from safi_fast.bindings import aligned, cpu_masks, cpu_workspace

    measure.use_threads()
    noisy = np.stack([noisy_photograph(SIDE, SIDE)] * IMAGES)
    solver, seconds = safi_fast.Solver("safi-gray", backend="cpu"), {}
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1), joblib.Parallel() as workers:
        workers(joblib.delayed(_solve)(noisy[:1]) for _ in range(2))
        solver.denoise(noisy[:1], SIGMA, schedule="unrolled")
        apart = measure.timed(lambda: workers(joblib.delayed(_solve)(half) for half in np.split(noisy, 2)))
        for owner in (cpu_workspace, cpu_masks):
            for name in [name for name, value in vars(owner).items() if aligned.is_kernel(value)]:
                Stopwatch(owner, name, seconds)
        together = measure.timed(lambda: list(solver.denoise_batch(noisy, SIGMA, schedule="unrolled")))
    inside = sum(map(sum, seconds.values()))
    assert np.array_equal(np.concatenate(apart.result), np.stack(together.result))
    return [
        row("batch", "seconds of denoise_batch over those of its kernels", together.wall / inside, "at most 1.05",
            together.wall <= 1.05 * inside, seconds=together.wall, seconds_of_kernels=inside),
        row("batch", "seconds of two workers over those of denoise_batch", apart.wall / together.wall, "at most 1",
            apart.wall <= together.wall, seconds=apart.wall, seconds_of_denoise_batch=together.wall),
    ]  # fmt: skip


def planes() -> list[Row]:
    """The filters and the first mask layer of safi-gray, a third of them for each plane; the least of eight calls."""
    measure.use_threads()
    grey = safi_fast.load_model("safi-gray")

    def thrice(kernels: np.ndarray) -> np.ndarray:
        return np.repeat(kernels / 3, 3, axis=1)

    filters = replace(grey.filters, layers=(thrice(grey.filters.layers[0]),))
    first, *rest = grey.mask.convolutions  # type: ignore[attr-defined]
    mask = replace(grey.mask, convolutions=(thrice(first), *rest))  # type: ignore[type-var]
    colour = safi_fast.Solver(replace(grey, filters=filters, mask=mask), backend="cpu")
    noisy, solver = noisy_photograph(HEIGHT, WIDTH), safi_fast.Solver(grey, backend="cpu")
    methods = {
        "grey": lambda: solver.denoise(noisy, SIGMA, schedule="unrolled"),
        "colour": lambda: colour.denoise(np.stack([noisy] * 3), SIGMA, channel_axis=0, schedule="unrolled"),
    }
    for method in methods.values():
        method()
    runs = measure.alternately(methods, 8)
    value = runs["colour"].wall / runs["grey"].wall
    return [
        row("planes", "seconds of three planes together over those of one", value, "at most 1.5", value <= 1.5,
            seconds=runs["colour"].wall, seconds_grey=runs["grey"].wall,
            in_processor_time=round(runs["colour"].cpu / runs["grey"].cpu, 3)),
    ]  # fmt: skip


def _solve(noisy: np.ndarray) -> Any:
    return safi_fast.Solver("safi-gray", backend="cpu").denoise(noisy, SIGMA, schedule="unrolled")


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bar", choices=("dncnn", "kernels", "mmr", "safi", "batch", "planes"))
    parser.add_argument(
        "--base", type=Path, help="an older checkout, its kernels/ and bindings/ linked into safi_fast/"
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    bars: dict[str, Callable[[], list[Row]]] = {
        "dncnn": dncnn,
        "kernels": lambda: kernels(arguments.base),
        "mmr": lambda: layers("mmr", published_mmr),
        "safi": lambda: layers("safi", published_safi_layout),
        "batch": batch,
        "planes": planes,
    }
    before, neighbours = measure.machine(), measure.Neighbours()
    found = bars[arguments.bar]()
    for made in found:
        made["neighbours"] = round(neighbours.cpus(), 2)
        print(f"{made['what']}: {made['value']} ({made['asked']}; neighbours {made['neighbours']})")
    kept: list[Row] = []
    if arguments.output and arguments.output.exists():
        kept = [old for old in measure.read(arguments.output)["rows"] if old["bar"] != arguments.bar]
    measure.write(arguments.output, [*kept, *found], before)


if __name__ == "__main__":
    main()
