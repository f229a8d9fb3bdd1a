"""PSNR, time and memory of SAFI and its rivals, on the same noisy images, two threads each: the picture of the README.

    python bench/rivals.py [--limit 4] [--output FILE.json] [--plot FILE.png]

Every method runs in a process of its own: once on a 64 x 64 crop, then on every image; memory is its peak above the ready process. Images: BSD68
with the noise of `safi-fast evaluate`; results are clipped to [0, 1] before PSNR. TV and NLM have one parameter each (TABLE), chosen on
the middle 180 x 180 pixels of Set12 with `--tune`; WCRR has its own strength, one, and stops at a relative change of 1e-3. `--slow N`: images
that layer-wise PyTorch is timed on, half a minute each (default: 1); its PSNR is that of the same steps here, which agree to 2e-5.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import images
import measure
import numpy as np
from problems import DATA, published_mmr

import safi_fast
from safi_fast.metrics import psnr

SIGMA = 25.0
AGAIN = 1.0  # seconds; what takes less is timed twice
TABLE = {"TV": 0.08, "NLM": 0.6, "WCRR": 1.0}  # weight; h over sigma; strength
CANDIDATES = {"TV": (0.06, 0.08, 0.1, 0.12), "NLM": (0.5, 0.6, 0.7, 0.8, 0.9)}
SLOW = {"MMR in PyTorch, 5 x 12": "MMR weights, 5 x 12"}  # and the method of equal results
Denoiser = Callable[[np.ndarray], np.ndarray]


def _safi(name: str, **options: Any) -> Callable[[], Denoiser]:
    def make() -> Denoiser:
        solver = safi_fast.Solver(published_mmr() if name == "mmr25" else name, backend="cpu")
        return lambda y: solver.denoise(y, SIGMA / 255, **options)

    return make


def _tv(weight: float) -> Denoiser:
    from skimage.restoration import denoise_tv_chambolle

    return lambda y: denoise_tv_chambolle(y, weight, eps=1e-5, max_num_iter=1000)


def _nlm(share: float) -> Denoiser:
    from skimage.restoration import denoise_nl_means

    sigma = SIGMA / 255
    return lambda y: denoise_nl_means(y, patch_size=5, patch_distance=10, h=share * sigma, sigma=sigma, fast_mode=True)


def _bm3d() -> Denoiser:
    from bm3d import bm3d

    return lambda y: bm3d(y.astype(np.float64), SIGMA / 255)


def _wcrr(strength: float) -> Denoiser:
    from baselines import Wcrr

    from safi_fast.operators import Identity

    network = Wcrr(DATA / "weights" / "wcrr.pth")
    return lambda y: network.solve(Identity(y.shape), y, strength, SIGMA, tol=1e-3)[0]


def _dncnn() -> Denoiser:
    import torch

    state = torch.load(DATA / "weights" / "dncnn_25.pth", weights_only=True, map_location="cpu")
    numbers = sorted({int(key.split(".")[1]) for key in state})
    layers = [(state[f"model.{n}.weight"], state[f"model.{n}.bias"]) for n in numbers]

    def run(y: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = image = torch.from_numpy(y)[None, None]
            for index, (weight, bias) in enumerate(layers):
                x = torch.nn.functional.conv2d(x, weight, bias, padding=1)
                x = x.relu_() if index < len(layers) - 1 else x
            return (image - x)[0, 0].numpy()

    return run


def _torch_mmr() -> Denoiser:
    import torch
    import torch_baseline
    from race import torch_parameters

    from safi_fast.solver.lipschitz import squared_norm

    model = published_mmr()
    parameters, strength = torch_parameters(model), float(model.strength.unrolled[0])
    norm = squared_norm(safi_fast.Solver(model, backend="cpu")._engine, 128, 128)
    return lambda y: torch_baseline.unrolled(torch.from_numpy(y)[None, None], parameters, strength, norm).numpy()[0, 0]


def methods() -> dict[str, Callable[[], Denoiser]]:
    """A function that makes each ready; those whose weights are at hand."""
    found: dict[str, Callable[[], Denoiser]] = {}
    for outer, inner in ((5, 12), (4, 8), (3, 7)):
        found[f"safi-gray {outer} x {inner}"] = _safi(
            "safi-gray", schedule="unrolled", max_outer=outer, max_inner=inner
        )
    for name in safi_fast.list_models():
        if name != "safi-gray":
            schedule = safi_fast.load_model(name).schedule
            found[f"{name} {schedule.outer} x {schedule.inner}"] = _safi(name, schedule="unrolled")
    found["BM3D"] = _bm3d
    found["TV"] = lambda: _tv(TABLE["TV"])
    found["NLM"] = lambda: _nlm(TABLE["NLM"])
    if (DATA / "weights").is_dir():
        found["DnCNN"] = _dncnn
        found["WCRR"] = lambda: _wcrr(TABLE["WCRR"])
        found["MMR weights, 5 x 12"] = _safi("mmr25", schedule="unrolled")
        found["MMR weights, gap 1e-3"] = _safi("mmr25", schedule="gap", tol=1e-3, strength=0.00110945)
        found["MMR in PyTorch, 5 x 12"] = _torch_mmr
    return found


def tune() -> None:
    """The best parameter of TV and NLM on crops of Set12."""
    clean = images.load(DATA / "set12", 12, 180)
    observed = images.noisy(clean, SIGMA)
    for name, make in (("TV", _tv), ("NLM", _nlm)):
        for value in CANDIDATES[name]:
            run = make(value)
            scores = [psnr(x, run(y).clip(0, 1).astype(np.float32)) for x, y in zip(clean, observed, strict=True)]
            print(f"{name} {value}: {np.mean(scores):.3f} dB")


def _status(key: str) -> int:
    return int(re.search(key + r":\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024


def run_one(name: str, limit: int) -> dict[str, Any]:
    """One method on all images, in this process."""
    measure.use_threads()
    clean = images.load(DATA / "bsd68", limit)
    observed = images.noisy(clean, SIGMA)
    denoise = methods()[name]()
    if "torch" in sys.modules:
        measure.use_threads()
    denoise(np.ascontiguousarray(observed[0][:64, :64]))
    ready = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    scores, walls, cpus = [], [], []
    for x, y in zip(clean, observed, strict=True):
        runs = [measure.timed(lambda y=y: denoise(y))]
        if runs[0].wall < AGAIN:
            runs.append(measure.timed(lambda y=y: denoise(y)))
        scores.append(psnr(x, runs[0].result.clip(0, 1).astype(np.float32)))
        walls.append(min(run.wall for run in runs))
        cpus.append(min(run.cpu for run in runs))
    pixels = np.mean([image.size for image in clean])
    return {
        "method": name,
        "images": len(clean),
        "psnr": float(np.mean(scores)),
        "seconds": float(np.mean(walls)),
        "cpu_seconds": float(np.mean(cpus)),
        "peak_bytes_per_pixel": round((_status("VmHWM") - ready) / pixels),
        "psnr_of_images": [round(score, 3) for score in scores],
        "seconds_of_images": [round(wall, 3) for wall in walls],
    }


def run_all(limit: int, slow: int) -> list[dict[str, Any]]:
    """Each method in a process of its own."""
    rows = []
    for name in methods():
        count = min(limit, slow) if name in SLOW else limit
        if count == 0:
            continue
        words = [sys.executable, __file__, "--one", name, "--limit", str(count)]
        output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        if name in SLOW:
            same = next(made for made in rows if made["method"] == SLOW[name])
            row |= {"psnr": same["psnr"], "psnr_from": same["method"]}
        rows.append(row)
        print(
            f"{name:24s} {row['psnr']:.2f} dB  {row['seconds']:.3f} s  (processor {row['cpu_seconds']:.2f} s)  "
            f"{row['peak_bytes_per_pixel']} bytes per pixel  {row['images']} images",
            flush=True,
        )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR over seconds per image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for row in rows:
        ours = row["method"].startswith(("safi", "mmr", "MMR weights"))
        color = "tab:red" if row["method"].startswith("safi") else "tab:orange" if ours else "tab:blue"
        axes.plot(row["seconds"], row["psnr"], "o" if ours else "s", color=color, markersize=8)
        left = any(
            1 < other["seconds"] / row["seconds"] < 3 and abs(other["psnr"] - row["psnr"]) < 0.1 for other in rows
        )
        axes.annotate(
            row["method"], (row["seconds"], row["psnr"]), xytext=(-7 if left else 7, -3), textcoords="offset points",
            fontsize=8, ha="right" if left else "left",
        )  # fmt: skip
    ladder = sorted((r["seconds"], r["psnr"]) for r in rows if r["method"].startswith("safi-gray "))
    axes.plot(*zip(*ladder, strict=True), "-", color="tab:red", alpha=0.5)
    axes.set(xscale="log", xlabel="seconds per image, 2 CPU cores", ylabel="PSNR in dB")
    axes.set_title(
        f"BSD68, sigma {SIGMA:g}: first {max(r['images'] for r in rows)} images of 481 x 321 pixels", fontsize=10
    )
    axes.grid(which="both", alpha=0.2)
    axes.margins(x=0.2, y=0.08)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """All methods, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--slow", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (DATA / "bsd68").is_dir():
        print("rivals: not compared, the shared data folder is missing (set SAFI_FAST_DATA)")
        return
    if arguments.tune:
        return tune()
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments.limit)))
        return None
    before = measure.machine()
    rows = run_all(arguments.limit, arguments.slow)
    measure.write(arguments.output, rows, before, sigma=SIGMA, parameters=TABLE)
    if arguments.plot:
        plot(rows, arguments.plot)
    return None


if __name__ == "__main__":
    main()
