"""Large images: memory and time of tiles, what a cut changes, how good the estimate of memory is.

    python -m bench.experiments.large MODE [--output bench/results/large_MODE.json]

    memory   estimate against the measured peak
    halo     how far from a cut the result still changes
    tiles    tiles against the image as a whole
    time     per pixel, [--size 4096] [--max-memory 6e9] [--outer 5] [--rounds 6]
    start    seconds to the first result
    stream   a folder, one by one and overlapped

Memory and start-up are measured in processes of their own. Images are mosaics of BSD68 with seeded noise
(SAFI_FAST_DATA).
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import safi_fast
from bench.data.problems import DATA
from bench.report import measure
from bench.report.memory import fresh
from safi_fast.bindings.cpu import CpuBackend, CpuEngine
from safi_fast.bindings.cpu_workspace import CpuWorkspace
from safi_fast.bindings.threads import threads_to_use
from safi_fast.io import read_image, write_image

MODELS = ("safi-gray", "mmr-gray")
LEVELS = (5, 25, 50)
SIZES = (*(((side, side), 0) for side in (64, 96, 128, 192, 256, 512)), ((1024, 768), 0), ((1024, 1024), 300e6))
DISTANCES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80)
TWICE = 2048
SMALL = 256  # to side, of the image that a large one is compared with
CLOCKS = ("wall", "cpu", "user")
PROBES = "bench.report.memory"


def mosaic(height: int, width: int, sigma: float) -> np.ndarray:
    """BSD68 images side by side, (height, width) on [0, 1], with Gaussian noise of `sigma`, not clipped; seed 0."""
    from skimage.io import imread

    images = [imread(path)[:320, :320] for path in sorted((DATA / "bsd68").glob("*.png"))]
    rows, columns = -(-height // 320), -(-width // 320)
    picks = [images[number % len(images)] for number in range(rows * columns)]
    blocks = [np.hstack(picks[row * columns : (row + 1) * columns]) for row in range(rows)]
    clean = np.vstack(blocks)[:height, :width].astype(np.float32) / 255
    return clean + np.float32(sigma) * np.random.default_rng(0).standard_normal((height, width), np.float32)


def options_for(solver, level: int) -> dict[str, float]:
    """mmr-gray is made for sigma 25: elsewhere its lambda is scaled with sigma."""
    if solver.model.name != "mmr-gray" or level == 25:
        return {}
    return {"strength": float(solver.model.strength.unrolled[0]) * level / 25}


def memory(_: argparse.Namespace) -> list[dict[str, object]]:
    """Estimate and measured peak above a ready solver."""
    rows = []
    for name in MODELS:
        for size, limit in SIZES:
            found = fresh(PROBES, "peak", name, *size, limit)
            found["estimate_over_measured"] = round(found["estimate"] / found["measured"], 3)
            found["bytes_per_pixel"] = round(found["measured"] / (size[0] * size[1]))
            rows.append({"model": name, "size": size, "max_memory": limit or None, **found})
    return rows


def halo(_: argparse.Namespace) -> list[dict[str, object]]:
    """Largest difference at so many pixels or more from a cut, over four images of 256 x 320 cut in the middle."""
    rows = []
    for name in MODELS:
        solver = safi_fast.Solver(name)
        for level in LEVELS:
            y, worst = mosaic(512, 640, level / 255), np.zeros(160)
            for part in (y[:256, :320], y[256:, :320], y[:256, 320:], y[256:, 320:]):
                whole = solver.denoise(part, level / 255, **options_for(solver, level))
                cut = solver.denoise(part[:, :160], level / 255, **options_for(solver, level))
                worst = np.maximum(worst, abs(cut - whole[:, :160]).max(0)[::-1])
            rows.append({"model": name, "sigma": level, **{str(d): float(worst[d:].max()) for d in DISTANCES}})
    return rows


def tiles(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """An image as a whole and in tiles of at most a quarter of the memory."""
    rows, size = [], (arguments.size, arguments.size) if arguments.size else (640, 640)
    for name in MODELS:
        solver = safi_fast.Solver(name)
        limit = solver.estimate_memory(size) / 4
        for level in LEVELS:
            y, options = mosaic(*size, level / 255), options_for(solver, level)
            whole = solver.denoise(y, level / 255, **options)
            tiled = solver.denoise(y, level / 255, max_memory=limit, **options)
            row = {"model": name, "sigma": level, "size": size, "max_memory": limit}
            rows.append({**row, "max_difference": float(abs(tiled - whole).max())})
    return rows


def seconds() -> np.ndarray:
    """Now, on CLOCKS: the wall's, the processor's, and the processor's without the system, which makes memory ready."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([time.perf_counter(), used.ru_utime + used.ru_stime, used.ru_utime])


class PausingBackend(CpuBackend):
    """The CPU's, which calls `pause` whenever an image that is not small, or a tile of one, is about to be solved."""

    def __init__(self) -> None:
        self.pause: Callable[[], None] = lambda: None

    def prepare(self, model: safi_fast.Model) -> CpuEngine:
        return PausingEngine(model, self)


class PausingEngine(CpuEngine):
    def __init__(self, model: safi_fast.Model, backend: PausingBackend):
        super().__init__(model)
        self.backend = backend

    def workspace(self, batch: int, height: int, width: int) -> CpuWorkspace:
        workspace = PausingWorkspace(self.weights, batch, height, width)
        workspace.backend = self.backend
        return workspace


class PausingWorkspace(CpuWorkspace):
    backend: PausingBackend

    def load(self, *problem) -> None:
        if self.height * self.width > SMALL**2:
            self.backend.pause()
        super().load(*problem)


def timing(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Microseconds per pixel of large images over those of 256 x 256, on three clocks, and the peak of memory.

    256 x 256 is solved before and after the large image and, with its clocks stopped, before each of its tiles; the
    median counts. Images up to TWICE are solved again at once and the shorter run counts: pages that a virtual machine
    touches first come from its host, which takes long, and takes them back after seconds.
    """
    backend, rows = PausingBackend(), []
    solver = safi_fast.Solver("safi-gray", backend=backend)
    sizes = [arguments.size] if arguments.size else [1024, 2048, 4096]
    noisy = mosaic(sizes[-1], sizes[-1], 25 / 255)
    small = np.ascontiguousarray(noisy[:SMALL, :SMALL])

    def solve(image: np.ndarray) -> np.ndarray:
        began = seconds()
        solver.denoise(image, 25 / 255, max_outer=arguments.outer, max_memory=arguments.max_memory)
        return seconds() - began

    solve(small)
    for size in sizes:
        image, runs, pauses = np.ascontiguousarray(noisy[:size, :size]), [], []

        def pause(runs=runs, pauses=pauses) -> None:
            began = seconds()
            runs.extend(solve(small) for _ in range(arguments.rounds))
            pauses.append(seconds() - began)

        backend.pause = pause
        made = [solve(image) - sum(pauses)]
        backend.pause = lambda: None
        tiles = len(pauses)
        if size <= TWICE:
            made.append(solve(image))
        pause()
        row = {"size": size, "max_memory": arguments.max_memory, "steps": f"{arguments.outer} x 12", "tiles": tiles}
        row |= {"runs": len(made), "runs_of_256": len(runs), **ratios(np.min(made, 0), size**2, np.array(runs))}
        print(row, flush=True)
        rows.append(row | fresh(PROBES, "peak", "safi-gray", size, size, arguments.max_memory))
    return rows


def ratios(whole: np.ndarray, pixels: int, runs: np.ndarray) -> dict[str, object]:
    """Seconds of a large image of so many pixels (CLOCKS) beside those of 256 x 256 (runs, CLOCKS)."""
    large, each, row = whole / pixels * 1e6, runs / SMALL**2 * 1e6, {}
    for number, clock in enumerate(CLOCKS):
        row |= {
            f"{clock}_seconds": whole[number].round(2).item(),
            f"{clock}_us_per_pixel": large[number].round(2).item(),
            f"{clock}_us_per_pixel_of_256": np.quantile(each[:, number], (0, 0.5, 1)).round(2).tolist(),
            f"{clock}_ratio": (large[number] / np.median(each[:, number])).round(3).item(),
        }
    return row


def start(_: argparse.Namespace) -> list[dict[str, object]]:
    """Seconds from starting to import to the first result: nothing compiled yet, compiled, and after warmup()."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, words in (
            ("cold", ()),
            ("cached", ()),
            ("cached", ()),
            ("warmup, rest cold", ("warmup",)),
            ("warmup, cached", ("warmup",)),
        ):
            rows.append({"what": name, **fresh(PROBES, "first", *words, NUMBA_CACHE_DIR=folder)})
    return rows


def stream(_: argparse.Namespace) -> list[dict[str, object]]:
    """Twelve 128 x 128 16-bit PNG files read, denoised and written, one after the other and through denoise_batch.

    wait: seconds that reading and writing sleep for each file beside their work, as for a disc behind a network.
    """
    import imageio.v3 as iio

    solver, sigma, rows = safi_fast.Solver("safi-gray", backend="cpu"), 65535 * 25 / 255, []
    y = mosaic(128 * 3, 128 * 4, 25 / 255)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(12)]
        for number, path in enumerate(paths):
            row, column = divmod(number, 4)
            array = y[128 * row :, 128 * column :][:128, :128].clip(0, 1)
            iio.imwrite(path, (array * 65535).astype(np.uint16))
        like, out = read_image(paths[0]), Path(folder) / "out.png"

        def read(path: Path, wait: float) -> np.ndarray:
            time.sleep(wait)
            return read_image(path).array

        def write(result: np.ndarray, wait: float) -> None:
            time.sleep(wait)
            write_image(out, result, like)

        def one_by_one(wait: float) -> None:
            for path in paths:
                write(solver.denoise(read(path, wait), sigma), wait)

        def overlapped(wait: float) -> None:
            for result in solver.denoise_batch((read(path, wait) for path in paths), sigma):
                write(result, wait)

        one_by_one(0)
        for wait in (0, 0.05, 0.2):
            runs = {run.__name__: [] for run in (one_by_one, overlapped)}
            for _ in range(3):
                for run in (one_by_one, overlapped):
                    runs[run.__name__].append(round(measure.timed(lambda run=run, wait=wait: run(wait)).wall, 2))
            least = {f"least_{name}": min(seconds) for name, seconds in runs.items()}
            rows.append({"images": 12, "size": [128, 128], "wait": wait, **least, **runs})
    return rows


RUNS = {"memory": memory, "halo": halo, "tiles": tiles, "time": timing, "start": start, "stream": stream}


def main() -> None:
    """Run one mode, print its rows, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=RUNS)
    parser.add_argument("--size", type=int)
    parser.add_argument("--max-memory", type=float, default=6e9)
    parser.add_argument("--outer", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6, help="runs of 256 x 256 before each tile, for time")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    load = round(os.getloadavg()[0], 2)
    rows = RUNS[arguments.mode](arguments)
    print(*rows, sep="\n")
    record = {"command": measure.command(), "load_average_before": load, "threads": threads_to_use(None), "rows": rows}
    measure.write_json(arguments.output, record)


if __name__ == "__main__":
    main()
