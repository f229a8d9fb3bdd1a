"""Times of the CUDA kernels and of whole denoising on this machine's GPU, beside static bounds and a network in torch.

    make bench-gpu OPTIONS="--teacher FILE --parity"   # python -m bench.experiments.gpu --output bench/results/gpu.json

Kernels: CUDA events around many launches of one kernel, the best of several rounds. Denoising: wall clock around the
unrolled schedule of the shipped model, the median of several runs, images in host memory or on the GPU. Reconstruction:
schedule "fast" on slices of 320 x 320 from 8 coils, every fourth line sampled. BM3D on the GPU where bm3d-cupy or
bm3d-triton is installed. With --teacher
FILE the network of that file (see safi_fast/training/teachers.py) denoises the same batches, in float32 with and
without TF32 and in float16. With --parity one image is solved on the CPU too, at the end. The static bounds hold for an
H100 only. Every part is written as it ends, one that fails is a row with an error, and one that has not begun after
--seconds is a row that says so; last come the tables of docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import safi_fast
from bench import RESULTS
from bench.data.problems import SIGMA, noisy_photograph
from bench.report import gpu as tables
from bench.report import measure
from safi_fast.bindings.clock import SECONDS, Timer, event_timer
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.device import CupyDevice, Device
from safi_fast.bindings.launch import PRECISIONS
from safi_fast.models import load_model
from safi_fast.operators import SenseMRI

HEIGHT, WIDTH = 321, 481
SIDE, COILS, STRENGTH = 320, 8, 1e-3  # of reconstruction
KERNEL_BATCHES = (1, 64)
BATCHES = (1, 4, 16, 64, 256)
RUNS = 7  # of a whole call, at most
WARM = 16  # images that warm up for any number: they are solved a few at a time
LIMIT = 100.0  # seconds, after which no part begins but parity
KERNELS = ("dual_step", "synthesis", "image_step", "analysis", "convolution")
STATIC = RESULTS / "static_cuda.json"
# with the CPU in any pixel: five mask layers enlarge rounding; an H200 had 3.7e-4, 0.040 and 1.4e-3
AGREEMENT = {"float32": 1e-3, "tf32": 0.1, "bf16x3": 5e-3}
LONGEST_ERROR = 300  # characters; a compiler may say thousands
NETWORK_PRECISIONS = ("float32", "tf32", "float16")

Row = dict[str, Any]
Rows = Callable[[], Iterator[Row]]


class Part(NamedTuple):
    """What is measured together."""

    name: str
    rows: Rows
    timed: bool = True  # whether it is left out where time is over


def find_device() -> CupyDevice | str:
    """The current GPU, or one sentence why there is none."""
    try:
        device = CupyDevice()
        device.synchronize()
    except ImportError:
        cure = "pip install 'cupy-cuda13x[ctk]', or cupy-cuda12x for a driver of CUDA 12"
        return f"No GPU was found: CuPy is not installed ({cure})."
    except Exception as error:  # CuPy's own types, which are not at hand without it
        return f"No GPU was found: {' '.join(str(error).split())}."
    return device


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
    workspace.steps(everyone, momenta)  # recorded when called again, then replayed
    found["iteration"] = 1e6 * timer(lambda: workspace.steps(everyone, momenta)) / len(momenta)
    return found


def median_of(call: Callable[[], Any], warm: Callable[[], Any] | None = None) -> float:
    """Seconds of a call: the median of up to RUNS, of fewer where they take long, after `warm` or one more call."""
    (warm or call)()
    times: list[float] = []
    while len(times) < RUNS and (not times or sum(times) < SECONDS):
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

    def solve(images: Any) -> None:
        solver.denoise(images, SIGMA, schedule="unrolled")
        if upload is not None:
            solver.backend.device.synchronize()

    return median_of(lambda: solve(noisy), warm=lambda: solve(noisy[:WARM]))


def time_network(path: Path, batch: int, precision: str, where: str = "cuda") -> float:
    """Seconds of a teacher's network on `batch` images that lie on the GPU (or `where`). In float16 by autocast, with
    images in channels_last; a network of kind "dncnn" keeps that layout.
    """
    import torch

    from safi_fast.training.teachers import load_teacher

    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = precision == "tf32", True
    half = precision == "float16"
    teacher = load_teacher(path, where)
    noisy, sigma = torch.from_numpy(batch_of(batch))[:, None].to(where), torch.full((batch,), SIGMA, device=where)
    if half:
        noisy = noisy.to(memory_format=torch.channels_last)

    def call() -> None:
        with torch.no_grad(), torch.autocast(where, torch.float16, enabled=half):
            teacher.denoise(noisy, sigma)
        if where == "cuda":
            torch.cuda.synchronize()

    return median_of(call)


def slices(batch: int, side: int = SIDE, coils: int = COILS) -> tuple[Any, np.ndarray]:
    """A SENSE operator and measurements (B, C, H, W) of photographs with a phase."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    turn = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    maps = np.exp(-2 * ((y - np.cos(turn) / 2) ** 2 + (x - np.sin(turn) / 2) ** 2)) * np.exp(1j * (x + turn))
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    lines = np.zeros((side, side), bool)
    lines[:, ::4] = lines[:, : side // 26] = lines[:, -side // 26 :] = True
    operator = SenseMRI(maps.astype(np.complex64), lines, mask_order="fft", check_order=False)
    image = noisy_photograph(side, side) * np.exp(0.5j * x)
    return operator, np.stack([operator.apply(image.astype(np.complex64))] * batch)


def time_reconstruction(precision: str, batch: int, backend: str = "cuda") -> float:
    """Seconds of schedule "fast" on `batch` slices."""
    operator, measured = slices(batch, SIDE, COILS)
    solver = safi_fast.Solver(backend=backend, precision=precision)

    def solve(some: Any) -> None:
        solver.reconstruct(some, operator, strength=STRENGTH, box=None, schedule="fast")

    return median_of(lambda: solve(measured), warm=lambda: solve(measured[:1]))


def time_bm3d_cupy(batch: int) -> float:
    """Seconds of bm3d-cupy, image by image as it takes them."""
    import cupy
    from bm3d_cupy import bm3d_gpu

    noisy = cupy.asarray(noisy_photograph(HEIGHT, WIDTH))

    def call() -> None:
        for _ in range(batch):
            bm3d_gpu(noisy, SIGMA)
        cupy.cuda.get_current_stream().synchronize()

    return median_of(call)


def time_bm3d_triton(batch: int) -> float:
    """Seconds of bm3d-triton on a batch."""
    import torch
    from bm3d_triton import denoise

    noisy = torch.from_numpy(batch_of(batch))[:, None].to("cuda")

    def call() -> None:
        denoise(noisy, SIGMA)
        torch.cuda.synchronize()

    return median_of(call)


BM3D: dict[str, Callable[[int], float]] = {"bm3d-cupy": time_bm3d_cupy, "bm3d-triton": time_bm3d_triton}


def release_memory(device: Device) -> None:
    """What CuPy and torch keep for the next call, which the other one may need."""
    device.release_memory()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


@cache
def solved_on_cpu() -> np.ndarray:
    """One image by the reference."""
    noisy = noisy_photograph(HEIGHT, WIDTH)
    return np.asarray(safi_fast.Solver(backend="cpu").denoise(noisy, SIGMA, schedule="unrolled"))


def difference_from_cpu(precision: str) -> float:
    """The largest in any pixel of one image."""
    noisy = noisy_photograph(HEIGHT, WIDTH)
    solved = safi_fast.Solver(backend="cuda", precision=precision).denoise(noisy, SIGMA, schedule="unrolled")
    return float(np.abs(solved - solved_on_cpu()).max())


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


def throughput(what: str, arrays: str, precision: str, batch: int, seconds: float) -> Row:
    """Images a second."""
    return {
        "what": what, "arrays": arrays, "precision": precision, "images": batch,
        "us": round(1e6 * seconds, 1), "images_per_second": round(batch / seconds, 2),
    }  # fmt: skip


def denoising_rows(precision: str, batch: int, upload: Any) -> Iterator[Row]:
    """One: from and to host memory or, with `upload`, on the GPU."""
    seconds = time_denoising(precision, batch, upload=upload)
    yield throughput("denoise", "host" if upload is None else "GPU", precision, batch, seconds)


def reconstruction_rows(precision: str, batch: int) -> Iterator[Row]:
    """One: complex slices; measurements are checked in host memory, wherever they come from."""
    seconds = time_reconstruction(precision, batch)
    yield throughput("reconstruct", "host", precision, batch, seconds)


def bm3d_rows(batch: int) -> Iterator[Row]:
    """One: BM3D on this GPU, or that no library of it is here."""
    for package, seconds in BM3D.items():
        if version_of(package) is not None:
            yield throughput(package, "GPU", "float32", batch, seconds(batch))
            return
    yield {"what": f"BM3D {batch}", "left_out": f"none of {', '.join(BM3D)} is installed"}


def network_rows(path: Path, precision: str, batch: int) -> Iterator[Row]:
    """One: the network in torch."""
    yield throughput(path.stem, "GPU", precision, batch, time_network(path, batch, precision))


def parity_rows(precision: str) -> Iterator[Row]:
    """The difference from the CPU, and what it may be."""
    found, bar = difference_from_cpu(precision), AGREEMENT[precision]
    yield {"what": "difference from the CPU", "precision": precision, "images": 1, "largest": found, "bar": bar}
    if not found <= bar:
        raise ValueError(f"the largest difference from the CPU is {found:.2g}, above {bar:.2g}")


def parts_of(device: Device, cupy: Any, teacher: Path | None, parity: bool) -> list[Part]:
    """What is measured, in the order in which it is worth having."""
    timer = event_timer(cupy)

    def denoising(images: int) -> list[Part]:
        return [
            Part(f"denoise {images} {p} {where}", partial(denoising_rows, p, images, upload))
            for p in PRECISIONS
            for where, upload in (("host", None), ("GPU", cupy.asarray))
        ]

    def network(images: int) -> list[Part]:
        if teacher is None:
            return []
        return [
            Part(f"{teacher.stem} {images} {p}", partial(network_rows, teacher, p, images)) for p in NETWORK_PRECISIONS
        ]

    def others(images: int) -> list[Part]:
        solves = [Part(f"reconstruct {images} {p}", partial(reconstruction_rows, p, images)) for p in PRECISIONS]
        return [*solves, Part(f"BM3D {images}", partial(bm3d_rows, images))]

    kernels = [
        Part(f"kernels {n} {p}", partial(kernel_rows, device, timer, p, n)) for n in KERNEL_BATCHES for p in PRECISIONS
    ]
    *small, large = BATCHES
    agreement = [Part(f"difference from the CPU {p}", partial(parity_rows, p), timed=False) for p in PRECISIONS]
    return [
        *kernels,
        *(part for images in small for part in denoising(images)),
        *(part for images in small for part in network(images)),
        *(part for images in small for part in others(images)),
        *denoising(large),
        *network(large),
        *others(large),
        *(agreement if parity else []),
    ]


def measured(part: Part, device: Device) -> Iterator[Row]:
    """The rows of a part, and one with the error where it ends with one."""
    try:
        release_memory(device)
        yield from part.rows()
    except Exception as error:  # a report of what fails is the purpose
        yield {"what": part.name, "error": " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_ERROR]}


def rows_of(parts: list[Part], device: Device, limit: float) -> Iterator[list[Row]]:
    """Part by part, the rows; printed as they come."""
    begin = time.perf_counter()
    for part in parts:
        rows: list[Row] = []
        taken = time.perf_counter() - begin
        late = part.timed and taken > limit
        left_out = [{"what": part.name, "left_out": f"{taken:.0f} s were over; --seconds is {limit:g}"}]
        for row in left_out if late else measured(part, device):
            print(described(row), flush=True)
            rows.append(row)
        yield rows


def described(row: Row) -> str:
    """One line."""
    facts = [f"{key} {value}" for key, value in row.items() if key != "what" and value is not None]
    return f"{row['what']:28} {', '.join(facts)}"


def driver_version() -> str | None:
    """Of NVIDIA's driver, by nvidia-smi, where that is installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.split() or [None])[0]


def version_of(package: str) -> str | None:
    """Installed or not, without an import."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def facts(cupy: Any, number: int | None) -> Row:
    """The GPU, and the versions that matter."""
    runtime = cupy.cuda.runtime
    return {
        "command": measure.command(), "date": time.strftime("%Y-%m-%d"),
        "gpu": runtime.getDeviceProperties(number)["name"].decode(), "driver": driver_version(),
        "cuda_driver": runtime.driverGetVersion(), "cuda_runtime": runtime.runtimeGetVersion(),
        "cupy": cupy.__version__, "torch": version_of("torch"), "numpy": np.__version__,
        "python": platform.python_version(), "safi_fast": safi_fast.__version__, "image": f"{WIDTH} x {HEIGHT}",
    }  # fmt: skip


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="a network to compare with, run by torch")
    parser.add_argument("--parity", action="store_true", help="compare with the CPU, whose kernels compile first")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="no part but parity begins later (%(default)g)")
    return parser.parse_args()


def main() -> int:
    """Time everything, print and write it; 1 where there is no GPU or a part fails."""
    chosen = options()
    device = find_device()
    if isinstance(device, str):
        print(device)
        return 1
    import cupy

    record: Row = {**facts(cupy, device.number), "rows": []}
    print(f"{record['gpu']}; static bound: of an H100, not measured", flush=True)
    if chosen.teacher is None:
        print("No network beside it: --teacher FILE names one.", flush=True)
    for rows in rows_of(parts_of(device, cupy, chosen.teacher, chosen.parity), device, chosen.seconds):
        record["rows"] += rows
        measure.write_json(chosen.output, record)
    print("", *(table(record) for table in tables.ALL_TABLES), sep="\n\n")
    return int(any("error" in row for row in record["rows"]))


if __name__ == "__main__":
    sys.exit(main())
