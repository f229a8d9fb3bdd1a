"""Large images: memory and time of tiles, what a cut changes, and how good the estimate of memory is. Each mode writes JSON.

    python bench/large.py memory  [--output bench/results/large_memory.json]    estimate against the measured peak
    python bench/large.py halo    [--output bench/results/large_halo.json]      how far from a cut the result still changes
    python bench/large.py tiles   [--output bench/results/large_tiles.json]     tiles against the image as a whole
    python bench/large.py time    [--size 4096] [--max-memory 6e9] [--outer 5] [--rounds 6] [--output bench/results/large_time.json]
    python bench/large.py start   [--output bench/results/large_start.json]     seconds to the first result
    python bench/large.py stream  [--output bench/results/large_stream.json]    a folder, one by one and overlapped

Memory and start-up are measured in processes of their own. Images are mosaics of BSD68 with seeded noise (SAFI_FAST_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import measure
import numpy as np
from problems import DATA

MODELS = ("safi-gray", "mmr-gray")
LEVELS = (5, 25, 50)
SIZES = (*(((side, side), 0) for side in (64, 96, 128, 192, 256, 512)), ((1024, 768), 0), ((1024, 1024), 300e6))
DISTANCES = (0, 8, 16, 24, 32, 40, 48, 56, 64)
TWICE = 2048
SMALL = 256  # to side, of the image that a large one is compared with
CLOCKS = ("wall", "cpu", "user")
PEAK = """
import ctypes, json, re, sys
import numpy as np, safi_fast
trim = getattr(ctypes.CDLL(None), "malloc_trim", int)  # what the small image has freed goes back to the system
def status(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
name, height, width, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]) or None
solver, rng = safi_fast.Solver(name), np.random.default_rng(0)
solver.denoise(rng.random((64, 64), np.float32), 25 / 255)
image = rng.random((height, width), np.float32)
estimate = solver.estimate_memory(image.shape, max_memory=limit)
trim(0)
ready = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
solver.denoise(image, 25 / 255, max_outer=2, max_inner=1, max_memory=limit)  # more steps take no more
print(json.dumps({"estimate": estimate, "measured": status("VmHWM") - ready, "resident_ready": ready, "peak": status("VmHWM")}))
"""
FIRST = """
import time; start = time.perf_counter()
import json, numpy as np, safi_fast
image = np.random.default_rng(0).random((64, 64))
{before}
safi_fast.denoise(image, 25 / 255); first = time.perf_counter()
safi_fast.denoise(image, 25 / 255)
print(json.dumps({{"first_result": first - start, "next_result": time.perf_counter() - first}}))
"""


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


def fresh(code: str, *arguments: object, **environment: str) -> dict[str, float]:
    """What a new process prints as JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return json.loads(done.stdout)


def memory(_: argparse.Namespace) -> list[dict[str, object]]:
    """Estimate and measured peak above a ready solver."""
    rows = []
    for name in MODELS:
        for size, limit in SIZES:
            found = fresh(PEAK, name, *size, limit)
            found["estimate_over_measured"] = round(found["estimate"] / found["measured"], 3)
            found["bytes_per_pixel"] = round(found["measured"] / (size[0] * size[1]))
            rows.append({"model": name, "size": size, "max_memory": limit or None, **found})
    return rows


def halo(_: argparse.Namespace) -> list[dict[str, object]]:
    """Largest difference at so many pixels or more from a cut, over four images of 256 x 320 cut in the middle."""
    import safi_fast

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
    """An image as a whole and in tiles of at most a sixth of the memory."""
    import safi_fast

    rows, size = [], (arguments.size, arguments.size) if arguments.size else (640, 640)
    for name in MODELS:
        solver = safi_fast.Solver(name)
        limit = solver.estimate_memory(size) / 6
        for level in LEVELS:
            y, options = mosaic(*size, level / 255), options_for(solver, level)
            whole = solver.denoise(y, level / 255, **options)
            tiled = solver.denoise(y, level / 255, max_memory=limit, **options)
            rows.append(
                {"model": name, "sigma": level, "size": size, "max_memory": limit, "max_difference": float(abs(tiled - whole).max())}
            )  # fmt: skip
    return rows


def seconds() -> np.ndarray:
    """Now, on three clocks (CLOCKS): the wall's, the processor's, and the processor's without the system, which makes memory ready."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([time.perf_counter(), used.ru_utime + used.ru_stime, used.ru_utime])


def timing(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Microseconds per pixel of large images over those of 256 x 256, on three clocks, and the peak of memory.

    256 x 256 is solved before and after the large image and, with its clocks stopped, before each of its tiles; the median counts. Images
    up to TWICE are solved again at once and the shorter run counts: pages that a virtual machine touches first come from its host, which takes
    long, and takes them back after seconds.
    """
    import safi_fast

    solver, rows = safi_fast.Solver("safi-gray", backend="cpu"), []
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

        with before_tiles(solver, pause):
            made = [solve(image) - sum(pauses)]
        tiles = len(pauses)
        if size <= TWICE:
            made.append(solve(image))
        pause()
        whole = np.min(made, 0)
        large, each = whole / size**2 * 1e6, np.array(runs) / small.size * 1e6
        row = {"size": size, "max_memory": arguments.max_memory, "steps": f"{arguments.outer} x 12", "tiles": tiles}
        row |= {"runs": len(made), "runs_of_256": len(runs)}
        for number, clock in enumerate(CLOCKS):
            row |= {
                f"{clock}_seconds": whole[number].round(2).item(),
                f"{clock}_us_per_pixel": large[number].round(2).item(),
                f"{clock}_us_per_pixel_of_256": np.quantile(each[:, number], (0, 0.5, 1)).round(2).tolist(),
                f"{clock}_ratio": (large[number] / np.median(each[:, number])).round(3).item(),
            }
        print(row, flush=True)
        rows.append(row | fresh(PEAK, "safi-gray", size, size, arguments.max_memory))
    return rows


@contextmanager
def before_tiles(solver, pause: Callable[[], None]) -> Iterator[None]:
    """Calls `pause` whenever a work space of the solver, but for those of small images, gets its next tile."""
    engine = solver._engine
    make = engine.workspace

    def workspace(batch: int, height: int, width: int):
        made = make(batch, height, width)
        if height * width > SMALL**2:
            load = made.load
            made.load = lambda *problem: (pause(), load(*problem))
        return made

    engine.workspace = workspace
    try:
        yield
    finally:
        del engine.workspace


def start(_: argparse.Namespace) -> list[dict[str, object]]:
    """Seconds from starting to import to the first result: nothing compiled yet, compiled, and after warmup()."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, before in (
            ("cold", ""),
            ("cached", ""),
            ("cached", ""),
            ("warmup, rest cold", "safi_fast.warmup()"),
            ("warmup, cached", "safi_fast.warmup()"),
        ):
            rows.append({"what": name, **fresh(FIRST.format(before=before), NUMBA_CACHE_DIR=folder)})
    return rows


def stream(_: argparse.Namespace) -> list[dict[str, object]]:
    """Twelve 128 x 128 16-bit PNG files read, denoised and written, one after the other and through denoise_batch.

    wait: seconds that reading and writing sleep for each file beside their work, as for a disc behind a network.
    """
    import imageio.v3 as iio

    import safi_fast
    from safi_fast.io import read_image, write_image

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
    from safi_fast.bindings.threads import threads_to_use

    load = round(os.getloadavg()[0], 2)
    rows = RUNS[arguments.mode](arguments)
    print(*rows, sep="\n")
    if arguments.output:
        command = f"python bench/large.py {arguments.mode}"
        command += "".join(f" {word}" for word in sys.argv[2:] if "output" not in word and ".json" not in word)
        record = {
            "command": command,
            "load_average_before": load,
            "threads": threads_to_use(None),
            "rows": rows,
        }
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
