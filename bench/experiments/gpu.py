"""Times of the CUDA kernels and of whole denoising on this machine's GPU, beside static bounds and a network in torch.

    make bench-gpu     # python -m bench.experiments.gpu --output bench/results/gpu.json

Kernels: CUDA events around many launches of one kernel, the best of several rounds. Denoising: wall clock around the
unrolled schedule of the shipped model, the median of several runs, images in host memory or on the GPU. With --teacher
FILE the network of that file (see safi_fast/training/teachers.py) denoises the same batches, float32 with and without
TF32. With --parity one image is solved on the CPU too. The static bounds hold for an H100 only. Every part is written
as it ends, and one that fails is a row with an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
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
KERNEL_BATCHES = (1, 64)
BATCHES = (1, 4, 16, 64, 256)
LAUNCHES, ROUNDS = 10, 3
SECONDS = 1.0  # after which a measurement is not repeated
KERNELS = ("dual_step", "synthesis", "image_step", "analysis", "convolution")
STATIC = RESULTS / "static_cuda.json"
NO_AGREEMENT = 1e-2  # the largest difference from the CPU, in any pixel, that is no fault of a precision

Timer = Callable[[Callable[[], None]], float]  # seconds of one call
Row = dict[str, Any]


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


def median_of(call: Callable[[], Any], runs: int = ROUNDS) -> float:
    """Seconds of a call: the median of up to `runs` after one to warm up, of fewer where they take long."""
    call()
    times: list[float] = []
    while len(times) < runs and (not times or sum(times) < SECONDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def batch_of(count: int) -> np.ndarray:
    """(B, H, W), noisy."""
    return np.stack([noisy_photograph(HEIGHT, WIDTH)] * count)


def time_denoising(precision: str, batch: int, backend: str = "cuda", upload: Any = None) -> float:
    """Seconds of the unrolled schedule on `batch` images; upload: what brings them to the GPU before, and the results
    stay there.
    """
    solver = safi_fast.Solver(backend=backend, precision=precision)
    noisy = batch_of(batch) if upload is None else upload(batch_of(batch))

    def call() -> None:
        solver.denoise(noisy, SIGMA, schedule="unrolled")
        if upload is not None:
            solver.backend.device.synchronize()

    return median_of(call)


def time_network(path: Path, batch: int, tf32: bool) -> float:
    """Seconds of a teacher's network on `batch` images that lie on the GPU."""
    import torch

    from safi_fast.training.teachers import load_teacher

    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, True
    teacher = load_teacher(path, "cuda")
    noisy, sigma = torch.from_numpy(batch_of(batch))[:, None].cuda(), torch.full((batch,), SIGMA, device="cuda")

    def call() -> None:
        with torch.no_grad():
            teacher.denoise(noisy, sigma)
        torch.cuda.synchronize()

    return median_of(call)


def difference_from_cpu(precision: str) -> float:
    """The largest in any pixel of one image."""
    noisy = noisy_photograph(HEIGHT, WIDTH)
    cpu, gpu = (
        safi_fast.Solver(backend=backend, precision=kind).denoise(noisy, SIGMA, schedule="unrolled")
        for backend, kind in (("cpu", "float32"), ("cuda", precision))
    )
    return float(np.abs(cpu - gpu).max())


def static_bounds() -> dict[tuple[str, str, int], float]:
    """Microseconds by kernel, precision and images."""
    rows = json.loads(STATIC.read_text())["kernels"]
    return {
        (row["kernel"], row["precision"], int(images)): max(parts.values())
        for row in rows
        if row["layout"] != "7 x 7"
        for images, parts in row["bound_us"].items()
    }


def kernel_rows(device: Device, timer: Timer, precision: str, batch: int) -> Iterator[Row]:
    """Every kernel, beside its bound."""
    bounds = static_bounds()
    for kernel, us in time_kernels(device, timer, precision, batch, (HEIGHT, WIDTH)).items():
        bound = bounds.get((kernel, precision, batch))
        yield {"what": kernel, "precision": precision, "images": batch, "us": round(us, 2), "static_bound_us": bound}


def denoising_rows(precision: str, batch: int, upload: Any) -> Iterator[Row]:
    """Images a second, from and to host memory, and on the GPU."""
    for where, way in (("host", None), ("GPU", upload)):
        seconds = time_denoising(precision, batch, upload=way)
        yield {
            "what": "denoise", "arrays": where, "precision": precision, "images": batch,
            "us": round(1e6 * seconds, 1), "images_per_second": round(batch / seconds, 2),
        }  # fmt: skip


def network_rows(path: Path, batch: int) -> Iterator[Row]:
    """Images a second of the network in torch."""
    for tf32 in (False, True):
        seconds = time_network(path, batch, tf32)
        yield {
            "what": path.stem, "arrays": "GPU", "precision": "tf32" if tf32 else "float32", "images": batch,
            "us": round(1e6 * seconds, 1), "images_per_second": round(batch / seconds, 2),
        }  # fmt: skip


def parity_rows(precision: str) -> Iterator[Row]:
    """The difference from the CPU."""
    found = difference_from_cpu(precision)
    yield {"what": "difference from the CPU", "precision": precision, "images": 1, "largest": found}
    if not found <= NO_AGREEMENT:
        raise ValueError(f"the largest difference from the CPU is {found:.2g}")


def parts_of(device: Device, cupy: Any, teacher: Path | None, parity: bool) -> list[Callable[[], Iterator[Row]]]:
    """What is measured, in the order in which it is worth having."""
    timer = event_timer(cupy)
    whole = [partial(denoising_rows, p, n, cupy.asarray) for n in BATCHES for p in PRECISIONS]
    network = [partial(network_rows, teacher, n) for n in BATCHES] if teacher else []
    kernels = [partial(kernel_rows, device, timer, p, n) for n in KERNEL_BATCHES for p in PRECISIONS]
    return [
        *kernels,
        *whole[: -len(PRECISIONS)],
        *network,
        *whole[-len(PRECISIONS) :],
        *([partial(parity_rows, p) for p in PRECISIONS] if parity else []),
    ]


def measured(part: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows of a part, and one with the error where it ends with one."""
    try:
        yield from part()
    except Exception as error:  # a report of what fails is the purpose
        call = part.func.__name__ if isinstance(part, partial) else str(part)
        arguments = [str(value) for value in getattr(part, "args", ()) if isinstance(value, (int, str, Path))]
        yield {"what": " ".join([call, *arguments]), "error": f"{type(error).__name__}: {error}"}


def described(row: Row) -> str:
    """One line."""
    facts = [f"{key} {value}" for key, value in row.items() if key != "what" and value is not None]
    return f"{row['what']:28} {', '.join(facts)}"


def main() -> int:
    """Time everything, print and write it; 1 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="a network to compare with, run by torch")
    parser.add_argument("--parity", action="store_true", help="compare with the CPU, whose kernels compile first")
    arguments = parser.parse_args()
    device = find_device()
    if isinstance(device, str):
        print(device)
        return 1
    import cupy

    runtime = cupy.cuda.runtime
    gpu = runtime.getDeviceProperties(device.number)["name"].decode()
    print(f"{gpu}; static bound: of an H100, not measured")
    record = {
        "command": "make bench-gpu", "gpu": gpu, "cupy": cupy.__version__, "cuda_driver": runtime.driverGetVersion(),
        "cuda_runtime": runtime.runtimeGetVersion(), "image": f"{WIDTH} x {HEIGHT}", "rows": [],
    }  # fmt: skip
    for part in parts_of(device, cupy, arguments.teacher, arguments.parity):
        for row in measured(part):
            print(described(row))
            record["rows"].append(row)
        if arguments.output:
            measure.write_json(arguments.output, record)
        device.release_memory()
    return int(any("error" in row for row in record["rows"]))


if __name__ == "__main__":
    sys.exit(main())
