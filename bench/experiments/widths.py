"""What AVX2 costs: the CPU kernels compiled for a processor without AVX-512, and vectors of 16 lanes beside those of 8.

    python -m bench.experiments.widths [--output FILE.json] [--rounds N]

Needs a processor with AVX-512. Every variant is a process of its own with one thread, and they run in turn: Numba
compiles for NUMBA_CPU_NAME. The loops of 8 lanes are the same sources with another width, called for both halves of a
vector: twice for a transform, and for a mask layer with as many pairs as AVX2 keeps in registers, six instead of two.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.report import measure

FEATURES = ("avx", "avx2", "fma", "bmi", "bmi2", "f16c", "lzcnt", "movbe", "popcnt", "sse4.2")
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in FEATURES)}
LANES = {"8 lanes": 8, "16 lanes": 16}
SIDE, CALLS = 256, 2000
SIMD = "safi_fast.kernels.cpu.simd"


def loops(lanes: int) -> dict[str, Callable[[], float]]:
    """Nanoseconds of the hot loops on 16 lanes, in vectors of so many."""
    _set_width(lanes)
    import numba
    import numpy as np

    from safi_fast.bindings.aligned import zeros
    from safi_fast.kernels.cpu import convolution, fft
    from safi_fast.kernels.cpu.arguments import Mixing, MixWork
    from safi_fast.kernels.cpu.simd import WIDE

    compiled = numba.njit(nogil=True, error_model="numpy")
    line, mix, channels = compiled(fft.fft32.py_func), convolution.mix_two, 64
    if lanes == 8 or WIDE:
        mix = convolution.mix_six
    pairs = 6 if mix is convolution.mix_six else 2

    @compiled
    def lines(re: Any, im: Any, scratch: Any) -> None:
        for _ in range(CALLS):
            for half in range(0, 16, lanes):
                line(re, im, half, 16, scratch, half)

    @compiled
    def layers(layer: Any, work: Any) -> None:
        for _ in range(CALLS):
            for pair in range(0, 6 * channels, pairs * channels):
                for half in range(0, 16, lanes):
                    mix(pair, channels, layer, 0, half, work, pair)

    values = [zeros(4096) for _ in range(3)]
    layer = Mixing(zeros(channels**2), zeros(channels**2), 7, True)
    work = MixWork(*(zeros(8 * channels) + np.float32(0) for _ in range(4)))
    return {
        "transform of a line": lambda: _seconds(lambda: lines(*values)) / CALLS * 1e9,
        "mask layer, six pairs": lambda: _seconds(lambda: layers(layer, work)) / CALLS * 1e9,
    }


def _set_width(lanes: int) -> None:
    """The sources of the kernels see vectors of so many lanes; what is kept of other widths is not used."""
    text = Path(importlib.import_module("safi_fast.bindings.cache").KERNELS / "simd.py")
    module = ModuleType(SIMD)
    module.__package__, module.__file__ = SIMD.rpartition(".")[0], str(text)
    sys.modules[SIMD] = module
    source = text.read_text().replace("LANES = 16", f"LANES = {lanes}", 1)
    exec(compile(source, str(text), "exec"), vars(module))


def kernels() -> dict[str, Callable[[], float]]:
    """Nanoseconds per pixel of whole kernels with `safi-gray`."""
    import numpy as np

    import safi_fast
    from bench.data.problems import SIGMA, noisy_photograph
    from safi_fast.bindings.cpu import CpuBackend

    model = safi_fast.load_model("safi-gray")
    space, level = CpuBackend().prepare(model).workspace(1, SIDE, SIDE), model.at(SIGMA, strength_given=False)
    one, ones = np.arange(1), np.ones(1, np.float32)
    space.load(noisy_photograph(SIDE, SIDE)[None], 0.05 * ones, ones, (0.0, 1.0))
    space.start_dual(one)
    space.refresh(one)
    calls = {
        "mask": lambda: space.update_mask(one, level.gain[None], level.bias[None]),
        "analysis": lambda: space.start_dual(one),
        "synthesis": lambda: space.refresh(one),
        "dual step": lambda: space.step(one, 0.5 * ones),
    }
    return {name: lambda call=call: _seconds(call) / SIDE**2 * 1e9 for name, call in calls.items()}


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def work(variant: str) -> None:
    """A process of one variant: for each line that it reads a line of JSON, the least of five of everything."""
    tasks = loops(LANES[variant]) if variant in LANES else kernels()
    for task in tasks.values():
        task()
    for _ in sys.stdin:
        print(json.dumps({name: min(task() for _ in range(5)) for name, task in tasks.items()}), flush=True)


def race(variants: dict[str, tuple[str, dict[str, str]]], rounds: int) -> dict[str, dict[str, float]]:
    """The least of every figure of every variant, a name of `work` and its environment."""
    processes = {}
    for label, (variant, environment) in variants.items():
        command = [sys.executable, "-m", "bench.experiments.widths", "--variant", variant]
        environment = os.environ | {"NUMBA_NUM_THREADS": "1"} | environment
        processes[label] = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    best: dict[str, dict[str, float]] = {label: {} for label in variants}
    for _ in range(rounds):
        for label, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            for name, value in json.loads(process.stdout.readline()).items():
                best[label][name] = min(value, best[label].get(name, value))
    for process in processes.values():
        process.communicate()
    return best


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        return work(arguments.variant)
    before = measure.machine()
    found = race({"AVX-512": ("kernels", {}), "AVX2": ("kernels", AVX2)}, arguments.rounds)
    halves = race({label: (label, AVX2) for label in LANES}, arguments.rounds)
    rows: list[dict[str, Any]] = [
        {"what": f"{name}, ns per pixel", "avx512": value, "avx2": found["AVX2"][name]}
        for name, value in found["AVX-512"].items()
    ]
    rows += [
        {"what": f"{name}, ns", "avx2": value, "avx2_8_lanes": halves["8 lanes"][name]}
        for name, value in halves["16 lanes"].items()
    ]
    for row in rows:
        print(row)
    measure.write(arguments.output, rows, before)
    return None


if __name__ == "__main__":
    main()
