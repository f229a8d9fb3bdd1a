"""The engine against the plain PyTorch computation of the same thing, in one run on one image.

    python bench/race.py [--size 256] [--repeats 3] [--output bench/results/race.json]

Both get the same model, strength and ||W||^2 and make the same 5 x 12 steps in float32 on the same number of threads; runs alternate
and the best of each counts. Memory is read in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch_baseline
from problems import SIGMA, noisy_photograph, published_mmr, published_safi_layout

import safi_fast
from safi_fast.cli.doctor import processor_name
from safi_fast.model import MmrMask, Model
from safi_fast.solver.lipschitz import squared_norm
from safi_fast.weights import save_model

MEMORY_PROBE = """
import json, re, sys
def status(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
sys.path.insert(0, {bench!r})
import numpy as np, safi_fast
from problems import noisy_photograph
imported = status("VmRSS")
solver = safi_fast.Solver({path!r})
solver.denoise(noisy_photograph(64, 64), 25 / 255, schedule="unrolled", lipschitz=1000.0)
image = noisy_photograph({size}, {size})
ready = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
solver.denoise(image, 25 / 255, schedule="unrolled", lipschitz=1000.0)
print(json.dumps(dict(imported=imported, ready=ready, peak=status("VmHWM"))))
"""


def torch_parameters(model: Model) -> dict[str, object]:
    """The model as the baseline reads it."""
    mask = model.mask
    common = {"family": model.family, "layers": [np.array(layer) for layer in model.filters.layers]}
    if isinstance(mask, MmrMask):
        smoothing = [np.array(layer) for layer in mask.smoothing]
        return torch_baseline.load(
            {**common, "smoothing": smoothing, "profile": mask.profile.copy(), "scale": mask.scale.copy()}
        )
    convolutions = [(np.array(w), d) for w, d in zip(mask.convolutions, mask.dilations, strict=True)]
    splines = [np.array(values) for values in mask.splines]
    return torch_baseline.load(
        {
            **common,
            "convolutions": convolutions,
            "splines": splines,
            "gain": mask.gain[0].copy(),
            "bias": mask.bias[0].copy(),
        }
    )


def timed(function) -> tuple[float, object]:
    """Seconds and result of one call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def race(model: Model, size: int, repeats: int) -> dict[str, object]:
    """Seconds of both, their ratio and how far the results differ."""
    noisy = noisy_photograph(size, size)
    solver = safi_fast.Solver(model)
    norm = squared_norm(solver._engine, size, size)
    strength = float(model.strength.unrolled[0])
    parameters, y = torch_parameters(model), torch.from_numpy(noisy)[None, None]

    def ours():
        return solver.denoise(noisy, SIGMA, schedule="unrolled", strength=strength, lipschitz=norm)

    def theirs():
        return torch_baseline.unrolled(y, parameters, strength, norm).numpy()[0, 0]

    ours(), torch_baseline.unrolled(y[..., :64, :64], parameters, strength, norm)
    times = {"safi_fast": [], "torch": []}
    for _ in range(repeats):
        seconds, result = timed(theirs)
        times["torch"].append(seconds)
        seconds, own = timed(ours)
        times["safi_fast"].append(seconds)
    best = {name: min(values) for name, values in times.items()}
    difference = np.abs(own - result)
    return {
        "model": model.name,
        "filters": model.filters.channels,
        "size": size,
        "seconds_safi_fast": round(best["safi_fast"], 4),
        "seconds_torch": round(best["torch"], 3),
        "times_faster": round(best["torch"] / best["safi_fast"], 1),
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }


def memory(model: Model, size: int) -> dict[str, object]:
    """Peak resident memory in a process of its own, without torch; Linux only.

    A fixed part (Numba, LLVM, compiled kernels, spectra of the model) is there once a first small image is done: `ready`. What grows with
    the image is the peak above that.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.safetensors")
        save_model(model, path)
        code = MEMORY_PROBE.format(bench=str(Path(__file__).parent), path=path, size=size)
        output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    read = json.loads(output)
    return {
        "resident_after_import_mb": round(read["imported"] / 1e6),
        "resident_ready_mb": round(read["ready"] / 1e6),
        "peak_above_import_mb": round((read["peak"] - read["imported"]) / 1e6),
        "peak_above_ready_bytes_per_pixel": round((read["peak"] - read["ready"]) / size**2),
    }


def machine() -> dict[str, object]:
    """Where this ran and how busy it was."""
    return {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "torch": torch.__version__,
        "safi_fast": safi_fast.__version__,
    }


def main() -> None:
    """Race both layouts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for maker in (published_mmr, published_safi_layout):
        model = maker()
        if model is None:
            print("published MMR weights: not raced, the shared data folder is missing (set SAFI_FAST_DATA)")
            continue
        row = race(model, arguments.size, arguments.repeats) | memory(model, arguments.size)
        rows.append(row)
        print(
            f"{row['model']}, {row['filters']} filters, {arguments.size}^2, 5 x 12 steps: safi_fast {row['seconds_safi_fast']:.3f} s, "
            f"PyTorch {row['seconds_torch']:.2f} s: {row['times_faster']} times faster, results within {row['max_difference']:.1e}, "
            f"peak memory {row['peak_above_ready_bytes_per_pixel']} bytes per pixel above a ready solver, "
            f"{row['peak_above_import_mb']} MB above the bare import"
        )
    if arguments.output:
        record = {"command": "python bench/race.py", "machine": machine(), "rows": rows}
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
