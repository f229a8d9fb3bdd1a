"""What AVX2 costs: the CPU kernels compiled for a processor without AVX-512, and their transforms with twice the lanes.

    python -m bench.experiments.widths [--output FILE.json] [--rounds N]

Needs a processor with AVX-512. Every variant is a process of its own with one thread, and they run in turn: Numba
compiles for NUMBA_CPU_NAME. Transforms take 8 lanes at a time with AVX2 (NARROW in kernels/cpu/simd.py); the third
variant takes 16 there too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.report import measure

FEATURES = ("avx", "avx2", "fma", "bmi", "bmi2", "f16c", "lzcnt", "movbe", "popcnt", "sse4.2")
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in FEATURES)}
SIDE, CALLS = 256, 2000
SIMD = "safi_fast.kernels.cpu.simd"


def transform() -> Callable[[], float]:
    """Nanoseconds of 16 transforms of a line."""
    import numba

    from safi_fast.bindings.aligned import zeros
    from safi_fast.kernels.cpu import fft

    compiled = numba.njit(nogil=True, error_model="numpy")
    line = compiled(fft.fft32.py_func)

    @compiled
    def lines(re: Any, im: Any, scratch: Any) -> None:
        for _ in range(CALLS):
            line(re, im, 0, 16, scratch, 0)

    values = [zeros(4096) for _ in range(3)]
    lines(*values)
    return lambda: _seconds(lambda: lines(*values)) / CALLS * 1e9


def set_narrow(lanes: int) -> None:
    """Transforms take so many lanes at a time. Before any kernel is imported; those that are kept must be alike."""
    path = Path(importlib.import_module("safi_fast.bindings.cache").KERNELS / "simd.py")
    module = ModuleType(SIMD)
    module.__package__, module.__file__ = SIMD.rpartition(".")[0], str(path)
    sys.modules[SIMD] = module
    source, found = re.subn(r"^NARROW = .*$", f"NARROW = {lanes}", path.read_text(), flags=re.MULTILINE)
    assert found == 1
    exec(compile(source, str(path), "exec"), vars(module))


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


def work(lanes: int | None) -> None:
    """A process of one variant: for each line that it reads a line of JSON, the least of five of everything."""
    if lanes:
        set_narrow(lanes)
    tasks = kernels() | {"transform of a line": transform()}
    for task in tasks.values():
        task()
    for _ in sys.stdin:
        print(json.dumps({name: min(task() for _ in range(5)) for name, task in tasks.items()}), flush=True)


def race(variants: dict[str, dict[str, str]], rounds: int) -> dict[str, dict[str, float]]:
    """The least of every figure of every variant, which is an environment and perhaps LANES."""
    processes = {}
    for label, environment in variants.items():
        command = [sys.executable, "-m", "bench.experiments.widths", "--variant", environment.get("LANES", "0")]
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
    parser.add_argument("--variant", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant is not None:
        return work(arguments.variant)
    before = measure.machine()
    with tempfile.TemporaryDirectory() as folder:
        wide = AVX2 | {"LANES": "16", "NUMBA_CACHE_DIR": folder}
        found = race({"avx512": {}, "avx2": AVX2, "avx2_16_lanes": wide}, arguments.rounds)
    rows = [
        {"what": name, "unit": "ns" if name == "transform of a line" else "ns per pixel"}
        | {label: round(best[name], 1) for label, best in found.items()}
        for name in found["avx512"]
    ]
    for row in rows:
        print(row)
    measure.write(arguments.output, rows, before)
    return None


if __name__ == "__main__":
    main()
