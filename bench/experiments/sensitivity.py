"""How far PSNR depends on strength, noise_level, outer and inner steps: one denoising, one MRI and one CT case.

    python -m bench.experiments.sensitivity [--size 96] [--output FILE.json] [--plot FILE.png]
    python -m bench.experiments.sensitivity --plot-only

Shipped model safi-gray. Denoising: set12 image 01, sigma 25, Identity operator. MRI: the combined brain, one coil, 4x.
CT: abdomen, 60 views. One of the four is varied, the others stay at a base point.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import safi_fast
from bench import RESULTS, ROOT
from bench.data.cases import abdomen, brain, gray, noise, random_lines
from bench.data.problems import DATA
from bench.report import measure
from bench.report.pictures import plot_of
from safi_fast.metrics import psnr
from safi_fast.operators import Identity

FACTORS = np.array([1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16])
LEVELS = (2, 5, 10, 15, 25, 35, 50)
INNER = (10, 20, 40, 80, 160)
OUTER, BASE_INNER = 6, 60


def problems(size):
    """(name, operator, y, reference, base strength, base noise level)."""
    image = gray(DATA / "set12" / "01.png", 2 * size)[size // 2 : size // 2 + size, size // 2 : size // 2 + size]
    image = np.ascontiguousarray(image)
    noisy = image + np.float32(25 / 255) * noise(image.shape, np.random.default_rng(0), False)
    yield "denoising", Identity(image.shape), noisy, image, 0.0469, 25
    mri = random_lines(np.abs(brain((size, size))[2]), 4, 0.08, 2)
    yield "MRI 4x", mri.operator, mri.y, mri.reference, 4e-4, 10
    ct = abdomen("phantom_149", 60, size, 2)
    yield "CT 60 views", ct.operator, ct.y, ct.reference, 1e-4 * ct.operator.norm**2, 10


def study(solver, name, operator, y, reference, strength, level):
    """PSNR along the four axes."""

    def solve(**changes):
        options = {"strength": strength, "noise_level": level / 255, "max_outer": OUTER, "max_iter": BASE_INNER}
        return solver.reconstruct(y, operator, **{**options, **changes})

    def value(image):
        return round(psnr(reference, image), 3)

    many = solver.reconstruct(
        np.stack([y] * len(FACTORS)), operator, strength=strength * FACTORS, noise_level=level / 255, max_outer=OUTER,
        max_iter=BASE_INNER,
    )  # fmt: skip
    result = {"strength": strength, "noise_level": level, "by_strength": [value(x) for x in many.image]}
    print(name, result, flush=True)
    result["by_noise_level"] = [value(solve(noise_level=v / 255).image) for v in LEVELS]
    print(name, result["by_noise_level"], flush=True)
    trace = []
    solve(max_outer=12, tol=1e-6, callback=lambda s: trace.append(value(s.image()[0])))
    result["by_outer"] = trace
    print(name, trace, flush=True)
    runs = [solve(max_iter=n, tol=1e-6) for n in INNER]
    result["by_inner"] = [value(r.image) for r in runs]
    result["gap_by_inner"] = [r.relative_gap for r in runs]
    print(name, result["by_inner"], result["gap_by_inner"], flush=True)
    return result


def plot(results, path):
    """Four panels, one line per case, PSNR minus the best of the line."""
    figure, panels = plot_of(12, 3.0, columns=4)
    axes = (("by_strength", FACTORS, "strength / base"), ("by_noise_level", LEVELS, "noise_level, 8-bit scale"))
    axes += (("by_outer", range(1, 13), "outer steps (60 inner)"), ("by_inner", INNER, "inner steps (6 outer)"))
    for panel, (key, places, label) in zip(panels, axes, strict=True):
        for name, result in results.items():
            if key in result:
                values = np.array(result[key])
                panel.plot(list(places)[: len(values)], values - values.max(), marker=".", label=name)
        panel.set_xlabel(label)
        panel.set_ylim(-3, 0.2)
        panel.grid(alpha=0.3)
        if key != "by_outer":
            panel.set_xscale("log")
        if key in ("by_noise_level", "by_inner"):
            panel.set_xticks(places, [str(v) for v in places])
            panel.minorticks_off()
    panels[0].set_ylabel("PSNR - best (dB)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), fontsize=8, frameon=False)
    figure.savefig(path)


def main() -> None:
    """Measure, unless it is there already, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--output", type=Path, default=RESULTS / "sensitivity.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "results" / "sensitivity.png")
    parser.add_argument("--plot-only", action="store_true")
    args = parser.parse_args()
    results = json.loads(args.output.read_text())["cases"] if args.plot_only else {}
    if not args.plot_only:
        solver = safi_fast.Solver(backend="cpu")
        for name, *rest in problems(args.size):
            results[name] = study(solver, name, *rest)
            content = {"command": measure.command(), "size": args.size, **measure.load(), "cases": results}
            measure.write_json(args.output, content)
    plot(results, args.plot)


if __name__ == "__main__":
    main()
