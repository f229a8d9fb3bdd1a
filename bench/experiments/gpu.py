"""Times of the CUDA kernels and of whole denoising on this machine's GPU, beside the static bounds.

    make bench-gpu     # python -m bench.experiments.gpu --output bench/results/gpu.json

Kernels: CUDA events around many launches of one kernel, the best of several rounds. Denoising: wall clock around 5 x 12
steps of the shipped model, images from and to host memory, the best of several runs. The static bounds hold for an H100
only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import safi_fast
from bench import RESULTS
from bench.data.problems import SIGMA, noisy_photograph
from bench.report import measure
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.device import CupyDevice, Device
from safi_fast.bindings.launch import PRECISIONS
from safi_fast.models import load_model

HEIGHT, WIDTH = 321, 481
BATCHES = (1, 64)
LAUNCHES, ROUNDS = 20, 5
KERNELS = ("dual_step", "synthesis", "image_step", "analysis", "convolution")
STATIC = RESULTS / "static_cuda.json"

Timer = Callable[[Callable[[], None]], float]  # seconds of one call


def find_device() -> CupyDevice | str:
    """The current GPU, or one sentence why there is none."""
    try:
        device = CupyDevice()
        device.synchronize()
    except ImportError:
        cure = "pip install 'safi-fast[gpu13]', or gpu12 for a driver of CUDA 12"
        return f"No GPU was found: CuPy is not installed ({cure})."
    except Exception as error:  # CuPy's own types, which are not at hand without it
        return f"No GPU was found: {' '.join(str(error).split())}."
    return device


def event_timer(cupy: Any) -> Timer:
    """Seconds by CUDA events: the best round of LAUNCHES calls, after one round of warming up."""

    def seconds(call: Callable[[], None]) -> float:
        best = float("inf")
        for number in range(1 + ROUNDS):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record()
            for _ in range(LAUNCHES):
                call()
            end.record()
            end.synchronize()
            if number:
                best = min(best, cupy.cuda.get_elapsed_time(begin, end) / 1000 / LAUNCHES)
        return best

    return seconds


def time_kernels(device: Device, timer: Timer, precision: str, batch: int, size: tuple[int, int]) -> dict[str, float]:
    """Microseconds by kernel, "iteration" (a step as it is launched) among them."""
    workspace = CudaBackend(device, precision).prepare(load_model()).workspace(batch, *size)
    noisy = np.broadcast_to(noisy_photograph(*size), (batch, *size))
    workspace.load(noisy, np.full(batch, 0.01), np.full(batch, 1e-3), (0.0, 1.0))
    everyone, ones = np.arange(batch), np.ones((batch, workspace.weights.channels), np.float32)
    workspace.clear_dual(everyone)
    workspace.update_mask(everyone, ones, 0 * ones)
    workspace.refresh(everyone)
    launches = workspace.launches(everyone)
    found = {name: 1e6 * timer(launches[name]) for name in KERNELS}
    momenta = np.zeros((12, batch), np.float32)
    workspace.steps(everyone, momenta)  # recorded here, replayed below
    found["iteration"] = 1e6 * timer(lambda: workspace.steps(everyone, momenta)) / len(momenta)
    return found


def time_denoising(precision: str, batch: int, backend: str = "cuda", runs: int = ROUNDS) -> float:
    """Seconds of the 5 x 12 steps on `batch` images."""
    solver = safi_fast.Solver(backend=backend, precision=precision)
    noisy = np.stack([noisy_photograph(HEIGHT, WIDTH)] * batch)
    times = []
    for _ in range(1 + runs):
        start = time.perf_counter()
        solver.denoise(noisy, SIGMA, schedule="unrolled")
        times.append(time.perf_counter() - start)
    return min(times[1:])


def static_bounds() -> dict[tuple[str, str, int], float]:
    """Microseconds by kernel, precision and images."""
    rows = json.loads(STATIC.read_text())["kernels"]
    return {
        (row["kernel"], row["precision"], int(images)): max(parts.values())
        for row in rows
        if row["layout"] != "7 x 7"
        for images, parts in row["bound_us"].items()
    }


def time_all(device: Device, timer: Timer) -> Iterator[dict[str, Any]]:
    """Rows of every precision and batch, printed as they come."""
    bounds = static_bounds()
    for precision in PRECISIONS:
        for batch in BATCHES:
            label, same = f"{precision:8} {batch:3} x {WIDTH} x {HEIGHT}", {"precision": precision, "images": batch}
            for kernel, us in time_kernels(device, timer, precision, batch, (HEIGHT, WIDTH)).items():
                bound = bounds.get((kernel, precision, batch))
                beside = f", static bound {bound:.1f} us" if bound else ""
                print(f"{label}  {kernel:12} {us:10.1f} us{beside}")
                yield {"what": kernel, **same, "us": round(us, 2), "static_bound_us": bound}
            seconds = time_denoising(precision, batch)
            print(f"{label}  denoise 5 x 12: {1e3 * seconds:.2f} ms")
            yield {"what": "denoise 5 x 12", **same, "us": round(1e6 * seconds, 1)}


def main() -> int:
    """Time everything, print and write it; 1 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = find_device()
    if isinstance(device, str):
        print(device)
        return 1
    import cupy

    gpu = cupy.cuda.runtime.getDeviceProperties(device.number)["name"].decode()
    print(f"{gpu}; static bound: of an H100, not measured")
    rows = list(time_all(device, event_timer(cupy)))
    record = {"command": "make bench-gpu", "gpu": gpu, "cupy": cupy.__version__, "rows": rows}
    measure.write_json(arguments.output, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
