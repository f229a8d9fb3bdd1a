"""PSNR, time and memory of SAFI and its rivals, on the same noisy images, two threads each.

    python -m bench.experiments.rivals [--limit 4] [--output FILE.json] [--plot FILE.png]
    python -m bench.experiments.rivals --output FILE.json --plot FILE.png --plot-only

Every method runs in a process of its own: once on a 64 x 64 crop, then on every image; memory is its peak above the
ready process. Images: BSD68 with the noise of `safi-fast evaluate`; results are clipped to [0, 1] before PSNR. TV and
NLM have one parameter each (TABLE), chosen on the middle 180 x 180 pixels of Set12 with `--tune`; WCRR has its own
strength, one, and stops at a relative change of 1e-3. `--slow N`: images that layer-wise PyTorch is timed on, half a
minute each (default: 1); its PSNR is that of the same steps here, which agree to 2e-5.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import images
from bench.data.problems import DATA
from bench.methods.denoisers import SIGMA, SLOW, TABLE, methods, nlm, tv
from bench.report import labels, measure
from bench.report.memory import forget_peak, fresh, status
from bench.report.pictures import plot_of
from safi_fast.metrics import psnr

AGAIN = 1.0  # seconds; what takes less is timed twice
CANDIDATES = {"TV": (0.06, 0.08, 0.1, 0.12), "NLM": (0.5, 0.6, 0.7, 0.8, 0.9)}


def tune() -> None:
    """The best parameter of TV and NLM on crops of Set12."""
    clean = images.load(DATA / "set12", 12, 180)
    observed = images.noisy(clean, SIGMA)
    for name, make in (("TV", tv), ("NLM", nlm)):
        for value in CANDIDATES[name]:
            run = make(value)
            scores = [psnr(x, run(y).clip(0, 1).astype(np.float32)) for x, y in zip(clean, observed, strict=True)]
            print(f"{name} {value}: {np.mean(scores):.3f} dB")


def run_one(name: str, limit: int) -> dict[str, Any]:
    """One method on all images, in this process."""
    measure.use_threads()
    clean = images.load(DATA / "bsd68", limit)
    observed = images.noisy(clean, SIGMA)
    denoise = methods()[name]()
    if "torch" in sys.modules:
        measure.use_threads()
    denoise(np.ascontiguousarray(observed[0][:64, :64]))
    ready = status("VmRSS")
    forget_peak()
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
        "peak_bytes_per_pixel": round((status("VmHWM") - ready) / pixels),
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
        row = fresh("bench.experiments.rivals", "--one", name, "--limit", count)
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
    figure, axes = plot_of(8, 5)
    names = []
    for row in rows:
        ours = row["method"].startswith(("safi", "mmr", "MMR weights"))
        color = "tab:red" if row["method"].startswith("safi") else "tab:orange" if ours else "tab:blue"
        axes.plot(row["seconds"], row["psnr"], "o" if ours else "s", color=color, markersize=8)
        names.append((row["method"], row["seconds"], row["psnr"], color))
    ladder = sorted((r["seconds"], r["psnr"]) for r in rows if r["method"].startswith("safi-gray "))
    (line,) = axes.plot(*zip(*ladder, strict=True), "-", color="tab:red", alpha=0.5)
    axes.set(xscale="log", xlabel="seconds per image, 2 CPU cores", ylabel="PSNR in dB")
    axes.set_title(
        f"BSD68, sigma {SIGMA:g}: first {max(r['images'] for r in rows)} images of 481 x 321 pixels", fontsize=10
    )
    axes.grid(which="both", alpha=0.2)
    axes.margins(x=0.2, y=0.08)
    labels.label(axes, names, [line])
    figure.savefig(path)


def main() -> None:
    """All methods, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--slow", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--plot-only", action="store_true", help="draw what --output holds, and measure nothing")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plot_only:
        return plot(measure.read(arguments.output)["rows"], arguments.plot)
    if not (DATA / "bsd68").is_dir():
        print("rivals: not compared, the shared data folder is missing (set SAFI_FAST_DATA)")
        return None
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
