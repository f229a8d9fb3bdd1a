"""A volume larger than memory by workers that are killed, and many small files by workers of Dask.

    python -m bench.experiments.at_scale volume [--output bench/results/at_scale_volume.json]
    python -m bench.experiments.at_scale files [--images 1000] [--output bench/results/at_scale_files.json]

volume    128 x 2048 x 2048 float32, every tenth plane stored, by two workers that may each allocate 600 MB above a
          ready process (RLIMIT_DATA): undisturbed; killed with all workers by SIGKILL once half of the blocks are done;
          and by the same call again. The two results are compared file by file
files     256 x 256 PNG by one process with two threads, by two workers with one thread each, and by two processes with
          one thread each that share the folder without Dask, in turn: all of them with 1 x 1 steps, and every sixteenth
          with the steps of the model

The steps are the fewest, 1 x 1, where nothing else is said: what is measured is everything but the solver. Every run is
a process of its own.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, ROOT
from bench.data.problems import SIGMA, photograph
from bench.report import measure
from bench.report.memory import forget_peak, fresh, give_back, status

SHAPE, CHUNK, STORED_EVERY = (128, 2048, 2048), (1, 256, 256), 10
CAP, MAX_MEMORY = 600e6, 450e6  # bytes
OPTIONS = {"model": "safi-gray-fast", "backend": "cpu", "schedule": "unrolled", "max_outer": 1, "max_inner": 1}
SELF = "bench.experiments.at_scale"
SIDE, ROUNDS, SUBSET = 256, 4, 16
WORKERS = 2
ONE, DASK, PLAIN = "one process, two threads", "two Dask workers", "two processes without Dask"


def make_volume(path: Path) -> Any:
    """The volume, whose stored planes are one photograph with noise of their own."""
    import zarr

    array = zarr.create_array(path, shape=SHAPE, chunks=CHUNK, dtype="f4", fill_value=0)
    scene = np.tile(photograph(512, 512), (4, 4))
    for plane in range(0, SHAPE[0], STORED_EVERY):
        noise = np.random.default_rng(plane).standard_normal(scene.shape, np.float32)
        array[plane] = scene + np.float32(SIGMA) * noise
    return array


def cap() -> None:
    """Make a worker ready and let it allocate CAP bytes more."""
    import safi_fast

    image = photograph(64, 64)
    safi_fast.denoise(image, SIGMA, **OPTIONS)
    give_back()
    most = status("VmData") + int(CAP)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    forget_peak()
    os.environ["READY"] = str(status("VmRSS"))


def above_ready() -> float:
    """Bytes of a worker at its peak above what it had when it was ready."""
    return status("VmHWM") - int(os.environ["READY"])


def denoise(source: str, out: str) -> dict[str, Any]:
    """The volume by capped workers: seconds, and the peak of each."""
    import zarr
    from distributed import Client

    from safi_fast.distributed import denoise_array, local_cluster

    with local_cluster(WORKERS, threads=1) as cluster, Client(cluster) as client:
        client.wait_for_workers(WORKERS)
        client.run(cap)
        start = time.perf_counter()
        array = zarr.open_array(source, mode="r")
        done = denoise_array(array, SIGMA, out=out, client=client, max_memory=MAX_MEMORY, **OPTIONS)
        seconds = time.perf_counter() - start
        peaks = list(client.run(above_ready).values())
    return {"seconds": seconds, "peaks": peaks, "blocks": done.attrs["safi_fast"]["blocks"]}


def killed(source: Path, out: Path, half: int) -> int:
    """How many blocks were done when the run and its workers were killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", SELF, "denoise", str(source), str(out)], cwd=ROOT, start_new_session=True
    )
    state = out.with_name(f".safi-fast.{out.name}.run")
    while process.poll() is None and len(list(state.glob("*.done"))) < half:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return len(list(state.glob("*.done")))


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def volume(_: argparse.Namespace) -> list[dict[str, Any]]:
    """Undisturbed, killed, and gone on with."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        array = make_volume(folder / "in.zarr")
        undisturbed = fresh(SELF, "denoise", folder / "in.zarr", folder / "reference.zarr")
        blocks = int(np.prod(undisturbed["blocks"]))
        done = killed(folder / "in.zarr", folder / "out.zarr", blocks // 2)
        left = sum(".partial" in path for path in files_in(folder / "out.zarr"))
        resumed = fresh(SELF, "denoise", folder / "in.zarr", folder / "out.zarr")
        names = files_in(folder / "reference.zarr")
        same = names == files_in(folder / "out.zarr") and all(
            filecmp.cmp(folder / "reference.zarr" / path, folder / "out.zarr" / path, shallow=False) for path in names
        )
        row = {
            "logical_bytes": array.nbytes, "chunks": array.nchunks, "chunks_stored": array.nchunks_initialized,
            "blocks": blocks, "cap": CAP, "max_memory": MAX_MEMORY, "undisturbed": undisturbed,
            "blocks_done_when_killed": done, "chunks_half_written": left, "resumed": resumed, "files": len(names),
            "equal_byte_by_byte": same, "hidden_files_left": [p.name for p in folder.iterdir() if p.name[0] == "."],
        }  # fmt: skip
    return [row]


def process(folder: str, out: str, way: str, steps: str) -> dict[str, Any]:
    """All files of a folder, or what another process leaves of them, by a process or workers that are ready."""
    from contextlib import ExitStack

    from distributed import Client

    from safi_fast.distributed import local_cluster, process_files

    client: Any = None
    options = OPTIONS if steps == "few" else {name: OPTIONS[name] for name in ("model", "backend")}
    with ExitStack() as stack:
        if way == DASK:
            client = stack.enter_context(Client(stack.enter_context(local_cluster(WORKERS, threads=1))))
            client.wait_for_workers(WORKERS)
            client.run(ready)
        else:
            ready()

        def cpu() -> float:
            return time.process_time() + (sum(client.run(time.process_time).values()) if client else 0)

        if way == PLAIN:
            print("ready", flush=True)
            sys.stdin.readline()
        start, before = time.perf_counter(), cpu()
        records = process_files([folder], out, SIGMA, client=client, **options)
        wall, busy = time.perf_counter() - start, cpu() - before
    own = [record.seconds for record in records if record.seconds is not None]
    assert all(record.status != "failed" for record in records)
    return {"wall": wall, "cpu": busy, "files": len(own), "inside": sum(own)}


def both(folder: Path, out: Path, steps: str) -> dict[str, Any]:
    """By two processes that begin at the same time, once both are ready."""
    words = [sys.executable, "-m", SELF, "process", str(folder), str(out), PLAIN, steps]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    environment = os.environ | {"NUMBA_NUM_THREADS": "1"}
    pair = [subprocess.Popen(words, **pipes, env=environment) for _ in range(WORKERS)]
    for one in pair:
        assert one.stdout.readline() == "ready\n"
    for one in pair:
        one.stdin.write("go\n")
        one.stdin.flush()
    found = [json.loads(one.communicate()[0].splitlines()[-1]) for one in pair]
    total = {key: sum(part[key] for part in found) for key in ("cpu", "files", "inside")}
    return {**total, "wall": max(part["wall"] for part in found)}


def ready() -> None:
    """The kernels, the solver, and what reads and writes files."""
    from skimage.io import imsave

    from safi_fast.distributed import process_files

    with tempfile.TemporaryDirectory() as name:
        imsave(f"{name}/in.png", np.rint(255 * photograph(SIDE, SIDE)).astype(np.uint8), check_contrast=False)
        process_files([f"{name}/in.png"], f"{name}/out", SIGMA, **OPTIONS)


def make_files(folder: Path, numbers: range) -> None:
    """One photograph with noise of their own, 8-bit PNG."""
    from skimage.io import imsave

    folder.mkdir()
    for number in numbers:
        noise = np.random.default_rng(number).standard_normal((SIDE, SIDE))
        pixels = np.rint(255 * (photograph(SIDE, SIDE) + SIGMA * noise).clip(0, 1)).astype(np.uint8)
        imsave(folder / f"{number}.png", pixels, check_contrast=False)


def in_turn(folder: Path, images: int, steps: str) -> tuple[dict[str, list[dict[str, Any]]], bool]:
    """Each way on all images, a part of them at a time, and whether their results are the same."""
    found: dict[str, list[dict[str, Any]]] = {ONE: [], DASK: [], PLAIN: []}
    each, same = images // ROUNDS, True
    for part in range(ROUNDS):
        source, ways = folder / f"in{part}", list(found)[:: 1 - 2 * (part % 2)]
        make_files(source, range(part * each, (part + 1) * each))
        outs = [folder / f"out{part} {way}" for way in ways]
        for way, out in zip(ways, outs, strict=True):
            if way == PLAIN:
                found[way].append(both(source, out, steps))
                continue
            threads = 1 if way == DASK else WORKERS
            found[way].append(fresh(SELF, "process", source, out, way, steps, NUMBA_NUM_THREADS=str(threads)))
        for out in outs[1:]:
            same &= all(filecmp.cmp(path, out / path.name, shallow=False) for path in outs[0].iterdir())
    return found, same


def files(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Files per second, and milliseconds of a file in and beside reading, solving and writing."""
    rows = []
    for steps, images in (("few", arguments.images), ("of the model", arguments.images // SUBSET)):
        with tempfile.TemporaryDirectory() as name:
            found, same = in_turn(Path(name), images, steps)
        for way, parts in found.items():
            count, wall, cpu, inside = (sum(part[key] for part in parts) for key in ("files", "wall", "cpu", "inside"))
            rows.append({
                "by": way, "steps": steps, "files": count, "files_per_second": count / wall,
                "rounds": [part["files"] / part["wall"] for part in parts], "cpu_ms_of_a_file": 1e3 * cpu / count,
                "ms_of_a_file": 1e3 * inside / count,
                "ms_beside_it": 1e3 * ((1 if way == ONE else WORKERS) * wall - inside) / count, "equal": same,
            })  # fmt: skip
    return rows


MODES = {"volume": volume, "files": files}
RUNS = {"denoise": denoise, "process": process}


def main() -> None:
    """Measure, print and record."""
    if sys.argv[1:2] and sys.argv[1] in RUNS:
        print(json.dumps(RUNS[sys.argv[1]](*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    before, neighbours = measure.machine(), measure.Neighbours()
    rows = MODES[args.mode](args)
    print(json.dumps(rows, indent=1))
    output = args.output or RESULTS / f"at_scale_{args.mode}.json"
    measure.write(output, rows, before, neighbours=round(neighbours.cpus(), 2), model=OPTIONS["model"])


if __name__ == "__main__":
    main()
