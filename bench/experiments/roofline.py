"""Every CPU kernel against two ceilings of the same run: the rates of a float32 matrix product and of a copy.

    python -m bench.experiments.roofline [--size 512] [--output FILE.json] [--plot FILE.png]
    python -m bench.experiments.roofline --output FILE.json --plot FILE.png --plot-only

Counted are the operations of the algorithm as it is written (a multiply-add is two) and the bytes that a kernel has to
read and write once; the bound is the longer of operations / GEMM rate and bytes / copy rate, and `share` is bound /
time. For filters, `direct` is the time that the plain 13 x 13 or 7 x 7 bank would need at 70 % of the GEMM rate:
`against_direct` says how many times faster the kernel is than that.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

import safi_fast
from bench.data.problems import SIGMA, noisy_photograph, published_mmr, published_safi_layout
from bench.report import labels, measure
from bench.report.pictures import plot_of
from safi_fast.bindings import cpu, cpu_masks, cpu_workspace

GEMM_SHARE = 0.7
LINE32, LINE16, LANES = 500, 200, 16  # operations of one lane in fft32 and fft16, counted in kernels/cpu/fft.py


@numba.njit(parallel=True)
def _copy(source, target):
    for i in numba.prange(len(source)):
        target[i] = source[i]


def ceilings() -> dict[str, float]:
    """The best of several: GFLOP/s of a 2048^3 product, NumPy's or torch's; GB/s of a 256 MB copy, read and write."""
    a, b = (np.random.default_rng(seed).standard_normal((2048, 2048), np.float32) for seed in (0, 1))
    source, target = np.ones(2**26, np.float32), np.zeros(2**26, np.float32)
    _copy(source[:8], target[:8])
    gemm = min(measure.timed(lambda: a @ b).wall for _ in range(10))
    if "torch" in sys.modules:  # its matrix product is often the faster one
        ta, tb = (sys.modules["torch"].from_numpy(matrix) for matrix in (a, b))
        gemm = min([gemm, *(measure.timed(lambda: ta @ tb).wall for _ in range(10))])
    copy = min(measure.timed(lambda: _copy(source, target)).wall for _ in range(10))
    return {"gemm_gflops": 2 * 2048**3 / gemm / 1e9, "copy_gbps": 2 * source.nbytes / copy / 1e9}


def _tiles(size: int, inner: int) -> int:
    return (-(-size // inner)) ** 2


def work(size: int, channels: int, layer: int) -> dict[str, tuple[float, float, float]]:
    """Operations, bytes and multiply-adds of the direct computation, of one call on size x size pixels.

    layer: side of a (dilated) C -> C mask kernel, from which the tiles follow; the direct computation counts the taps
    of 7 x 7.
    """
    pixels, groups, inner = size * size, channels // 32, 20
    tiles, values = _tiles(size, inner), 4.0 * channels * pixels
    image = 4 * LINE32 * LANES + 1024 * 4
    analysis = (32 + inner) * LINE32 * LANES + 6 * 1024 * LANES
    synthesis = (32 + inner) * LINE32 * LANES + 8 * 1024 * LANES
    gather = 1024 * 2 * 15
    update = 2 * 12 * inner**2 * LANES
    planes = 4.0 * pixels
    tile_bytes = 4.0 * 1024 * tiles
    bank = channels * 169.0 * pixels
    pairs = -(-_tiles(size, 17 - layer) // 2)
    mix = 256 * 8 * channels**2
    transforms = 2 * 32 * LINE16 * 16 * (channels / 16)
    spline = 80.0 * channels * pixels
    return {
        "analysis": (tiles * (image + groups * analysis), planes + 2 * values, bank),
        "masked_norm": (tiles * (image + groups * analysis), planes + values, bank),
        "synthesis": (tiles * (image + gather + groups * synthesis), 2 * values + tile_bytes, bank),
        "dual_step": (
            tiles * (2 * image + gather + groups * (analysis + synthesis + update)),
            planes + 4 * values + tile_bytes,
            2 * bank,
        ),
        "image_step": (40.0 * pixels, tile_bytes + 7 * planes, 0.0),
        "features": (2 * 49.0 * channels * pixels + spline, planes + values, 49.0 * channels * pixels),
        "convolution": (
            pairs * (mix + transforms) + spline,
            2 * values + 8 * 256.0 * channels**2,
            49.0 * channels**2 * pixels,
        ),
        "depthwise": (2 * 49.0 * channels * pixels, 2 * values, 0.0),
    }


class Stopwatch:
    """Puts a clock around a kernel where the binding calls it."""

    def __init__(self, owner: Any, name: str, seconds: dict[str, list[float]]):
        kernel: Callable[..., Any] = getattr(owner, name)

        def run(*arguments):
            start = time.perf_counter()
            kernel(*arguments)
            seconds.setdefault(name, []).append(time.perf_counter() - start)

        setattr(owner, name, run)


def _exercise(engine: Any, size: int, repeats: int, gain: np.ndarray, bias: np.ndarray) -> None:
    one, ones = np.arange(1), np.ones(1, np.float32)
    space = engine.workspace(1, size, size)
    space.load(noisy_photograph(size, size)[None], 0.05 * ones, ones, (0.0, 1.0))
    space.start_dual(one)
    space.refresh(one)
    for _ in range(repeats):
        space.update_mask(one, gain, bias)
        space.start_dual(one)
        space.refresh(one)
        space.measure(one)
        space.step(one, 0.5 * ones)
        space.collapse_momentum(one)


def measure_kernels(size: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of every kernel with our model, and of the mask kernels of the published layouts."""
    seconds: dict[str, list[float]] = {}
    for name in ("analysis", "masked_norm", "synthesis", "dual_step", "image_step"):
        Stopwatch(cpu_workspace, name, seconds)
    for name in ("features", "convolution", "depthwise"):
        Stopwatch(cpu_masks, name, seconds)
    rows = []
    kept = {"safi-gray": None, "published SAFI layout": ("dual_step", "convolution"), "MMR weights": ("depthwise",)}
    models = {"safi-gray": safi_fast.load_model("safi-gray"), "published SAFI layout": published_safi_layout()}
    if (published := published_mmr()) is not None:
        models["MMR weights"] = published
    for label, model in models.items():
        seconds.clear()
        engine = cpu.CpuBackend().prepare(model)
        level = model.at(SIGMA, strength_given=False)
        _exercise(engine, size, repeats, level.gain[None], level.bias[None])
        layer = max((getattr(layer, "support", 7) for layer in engine.weights.mask.layers), default=7)
        counted = work(size, engine.weights.channels, layer)
        taps = 9 / 49 if label == "safi-gray" else 1.0  # of the C -> C layers, 3 x 3 dilated against 7 x 7
        for kernel, samples in seconds.items():
            if kept[label] is None or kernel in kept[label]:
                operations, moved, direct = counted[kernel]
                direct *= taps if kernel == "convolution" else 1.0
                rows.append(
                    {"kernel": kernel, "model": label, "seconds": min(samples), "flop": operations, "bytes": moved}
                    | {"direct_flop": 2 * direct}
                )
    return rows


def report(rows: list[dict[str, Any]], limits: dict[str, float], pixels: int) -> list[dict[str, Any]]:
    """Rates, bounds and shares."""
    found = []
    for row in rows:
        compute = row["flop"] / limits["gemm_gflops"] / 1e9
        memory = row["bytes"] / limits["copy_gbps"] / 1e9
        direct = row["direct_flop"] / (GEMM_SHARE * limits["gemm_gflops"]) / 1e9
        found.append(
            {
                "kernel": row["kernel"],
                "model": row["model"],
                "ns_per_pixel": row["seconds"] / pixels * 1e9,
                "flop_per_pixel": row["flop"] / pixels,
                "bytes_per_pixel": row["bytes"] / pixels,
                "gflops": row["flop"] / row["seconds"] / 1e9,
                "gbps": row["bytes"] / row["seconds"] / 1e9,
                "bound_by": "operations" if compute > memory else "memory",
                "share": max(compute, memory) / row["seconds"],
                "against_direct": direct / row["seconds"] if direct else None,
            }
        )
    return found


def plot(rows: list[dict[str, Any]], limits: dict[str, float], path: Path) -> None:
    """GFLOP/s over operations per byte."""
    figure, axes = plot_of(7, 4.5)
    intensity = np.geomspace(0.2, 500, 100)
    ceiling = np.minimum(limits["gemm_gflops"], intensity * limits["copy_gbps"])
    (roof,) = axes.plot(intensity, ceiling, "k-", alpha=0.6)
    names = []
    for row in rows:
        x = row["flop_per_pixel"] / row["bytes_per_pixel"]
        color = "tab:red" if row["model"] == "safi-gray" else "tab:blue"
        axes.plot(x, row["gflops"], "o", color=color)
        name = row["kernel"] + ("" if row["model"] == "safi-gray" else f" ({row['model']})")
        names.append((name, x, row["gflops"], color))
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s")
    axes.set_title("CPU kernels under the matrix-product rate and the copy rate of the same run", fontsize=10)
    axes.grid(which="both", alpha=0.2)
    labels.label(axes, names, [roof], size=7)
    figure.savefig(path)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--plot-only", action="store_true", help="draw what --output holds, and measure nothing")
    arguments = parser.parse_args()
    if arguments.plot_only:
        record = measure.read(arguments.output)
        return plot(record["rows"], record, arguments.plot)
    if importlib.util.find_spec("torch"):
        import torch  # noqa: F401
    measure.use_threads()
    before = measure.machine()
    limits = ceilings()
    kernels = measure_kernels(arguments.size, arguments.repeats)
    later = ceilings()
    limits = {key: max(limits[key], later[key]) for key in limits}
    rows = report(kernels, limits, arguments.size**2)
    print(f"matrix product {limits['gemm_gflops']:.0f} GFLOP/s, copy {limits['copy_gbps']:.1f} GB/s")
    for row in rows:
        direct = "" if row["against_direct"] is None else f", {row['against_direct']:.1f} x direct at 70 % of GEMM"
        print(
            f"{row['kernel']:12s} {row['model']:22s} {row['ns_per_pixel']:7.2f} ns per pixel, "
            f"{row['gflops']:6.1f} GFLOP/s, {row['gbps']:5.1f} GB/s, "
            f"{100 * row['share']:3.0f} % of its bound ({row['bound_by']}){direct}"
        )
    measure.write(arguments.output, rows, before, size=arguments.size, **limits)
    if arguments.plot:
        plot(rows, limits, arguments.plot)
    return None


if __name__ == "__main__":
    main()
