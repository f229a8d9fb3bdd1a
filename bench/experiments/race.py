"""The engine against the plain PyTorch computation of the same thing, in one run on one image.

    python -m bench.experiments.race [--height 481] [--width 321] [--repeats 2] [--output bench/results/race.json]

Both get the same model, strength and ||W||^2 and make the same steps, those of its schedule (5 x 12, safi-gray-fast
5 x 10), in float32 on two threads; runs alternate and the best of each counts, in seconds on the clock and of the
processor. Memory is read in a process of its own.

Published layouts race against their layers as they are (bench/methods/torch_baseline.py). The shipped models race
against the torch network that trained them (safi_fast/training/network.py), which has W composed, convolves for W and
multiplies spectra for W^T.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import safi_fast
from bench.data.problems import SIGMA, noisy_photograph, published_mmr, published_safi_layout, squared_norm_of
from bench.methods import torch_baseline
from bench.report import measure
from bench.report.memory import fresh
from safi_fast.model import Model
from safi_fast.weights import save_model


def plain(model: Model, noisy: np.ndarray, strength: float, norm: float):
    """The PyTorch computation of the same steps, as a function."""
    y = torch.from_numpy(noisy)[None, None]
    if model.filters.boundary == "zero":
        parameters = torch_baseline.parameters_of(model)
        return lambda: torch_baseline.unrolled(y, parameters, strength, norm).numpy()[0, 0]
    from safi_fast.training.network import network_of

    network, sigma = network_of(model), torch.tensor([SIGMA], dtype=torch.float32)
    steps = model.schedule.outer, model.schedule.inner

    def run():
        with torch.inference_mode():
            return network(y, sigma, *steps).numpy()[0, 0]

    return run


def race(model: Model, height: int, width: int, repeats: int) -> dict[str, object]:
    """Seconds of both, their ratio and how far the results differ."""
    noisy = noisy_photograph(height, width)
    solver = safi_fast.Solver(model, backend="cpu")
    published = model.filters.boundary == "zero"
    norm = squared_norm_of(model, height, width) if published else 1.0
    options = {"lipschitz": norm} if published else {}
    strength = float(model.strength.unrolled[0])
    if published:
        options["strength"] = strength

    def ours():
        return solver.denoise(noisy, SIGMA, schedule="unrolled", **options)

    theirs = plain(model, noisy, strength, norm)
    ours(), plain(model, noisy[:64, :64], strength, norm)()
    runs = measure.alternately({"torch": theirs, "safi_fast": ours}, repeats)
    difference = np.abs(runs["safi_fast"].result - runs["torch"].result)
    return {
        "model": model.name,
        "against": "layers as published" if published else "the network that trained it",
        "filters": model.filters.channels,
        "steps": f"{model.schedule.outer} x {model.schedule.inner}",
        "height": height,
        "width": width,
        "seconds_safi_fast": round(runs["safi_fast"].wall, 4),
        "seconds_torch": round(runs["torch"].wall, 3),
        "times_faster": round(runs["torch"].wall / runs["safi_fast"].wall, 1),
        "cpu_seconds_safi_fast": round(runs["safi_fast"].cpu, 3),
        "cpu_seconds_torch": round(runs["torch"].cpu, 3),
        "times_faster_cpu": round(runs["torch"].cpu / runs["safi_fast"].cpu, 1),
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }


def memory(model: Model, height: int, width: int) -> dict[str, object]:
    """Peak resident memory in a process of its own, without torch; Linux only.

    A fixed part (Numba, LLVM, compiled kernels, spectra of the model) is there once a first small image is done:
    `ready`. What grows with the image is the peak above that.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.safetensors")
        save_model(model, path)
        read = fresh("bench.report.memory", "race", path, height, width)
    return {
        "resident_after_import_mb": round(read["imported"] / 1e6),
        "resident_ready_mb": round(read["ready"] / 1e6),
        "peak_above_import_mb": round((read["peak"] - read["imported"]) / 1e6),
        "peak_above_ready_bytes_per_pixel": round((read["peak"] - read["ready"]) / (height * width)),
    }


def main() -> None:
    """Race both layouts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=481)
    parser.add_argument("--width", type=int, default=321)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    measure.use_threads()
    before = measure.machine()
    rows = []
    models = [safi_fast.load_model(name) for name in safi_fast.list_models()]
    shipped = [lambda model=model: model for model in models if model.filters.planes == 1]
    for maker in (published_mmr, published_safi_layout, *shipped):
        model = maker()
        if model is None:
            print("published MMR weights: not raced, the shared data folder is missing (set SAFI_FAST_DATA)")
            continue
        row = race(model, arguments.height, arguments.width, arguments.repeats)
        row |= memory(model, arguments.height, arguments.width)
        rows.append(row)
        print(
            f"{row['model']}, {row['filters']} filters, {row['height']} x {row['width']}, {row['steps']} steps: "
            f"safi_fast {row['seconds_safi_fast']:.3f} s, PyTorch ({row['against']}) {row['seconds_torch']:.2f} s: "
            f"{row['times_faster']} times faster ({row['times_faster_cpu']} in processor time), "
            f"results within {row['max_difference']:.1e}, "
            f"peak memory {row['peak_above_ready_bytes_per_pixel']} bytes per pixel above a ready solver, "
            f"{row['peak_above_import_mb']} MB above the bare import"
        )
    measure.write(arguments.output, rows, before)


if __name__ == "__main__":
    main()
