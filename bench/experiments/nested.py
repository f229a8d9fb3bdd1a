"""Our loop against the published nested scheme: the same point, and in what time.

    python -m bench.experiments.nested [--size 128] [--strength 1e-4] [--outer 10] [--budget 240] [--output FILE.json]

MMR weights for sigma 15, one coil, real image (a head of the siat set, magnitude, peak 1, centre crop), 4x Cartesian
mask, noise 0.002. The nested scheme: for each mask up to 300 accelerated proximal gradient steps on x, in each the dual
denoiser with that mask, up to 500 steps from u = M . W x, with the published tolerances; `long` divides all of them by
`--tighter`.

The published code runs W layer by layer in PyTorch, which makes a long run take hours. So the nested scheme runs here
on our kernels, step for step the same arithmetic, and is timed as such; the layer-wise step is timed in the same run by
itself and multiplied by the number of steps. Both ratios are written. Seconds are of CPU time: run it on one thread,
NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import safi_fast
from bench.data.cases import single_coil
from bench.data.problems import head, line_mask, published_mmr
from bench.methods import torch_baseline
from bench.methods.nested import Nested
from bench.report import measure
from safi_fast.metrics import psnr

NEAR = 2e-3  # relative distance to the long run at which a method has arrived


def layerwise_step(model, x, strength, repeats=6):
    """Seconds of one inner step as published: W and W^T layer by layer in PyTorch, with the objective."""
    params = torch_baseline.parameters_of(model)
    image = torch.from_numpy(x)[None, None]
    mask = torch_baseline.mask_of(image, params)
    torch_baseline.converged_inner(image, image, strength, 1000.0, mask, params["layers"], True, -1.0, 1)
    start = time.process_time()
    torch_baseline.converged_inner(image, image, strength, 1000.0, mask, params["layers"], True, -1.0, repeats)
    return (time.process_time() - start) / repeats


def first_below(trace, target, tolerance):
    """The first entry of a trace from which on the distance to `target` stays below; None if there is none."""
    far = [i for i, (*_, x) in enumerate(trace) if distance(x, target) > tolerance]
    first = far[-1] + 1 if far else 0
    return trace[first] if first < len(trace) else None


def distance(x, target):
    """Of an image to another, relative."""
    return float(np.linalg.norm(x - target) / np.linalg.norm(target))


def our_run(solver, case, args) -> tuple[safi_fast.Solution, float, list[tuple[float, int, np.ndarray]]]:
    """The solution, CPU seconds, and the image after each mask."""
    trace: list[tuple[float, int, np.ndarray]] = []
    solver.reconstruct(case.y, case.operator, strength=args.strength, max_outer=2, max_iter=2)  # compiles
    schedule = safi_fast.Reconstruct(outer=args.outer, inner=args.inner, tol=args.tol)
    if args.tight:
        schedule = replace(schedule, first_gap=args.tol)
    start = time.process_time()
    ours = solver.reconstruct(
        case.y, case.operator, strength=args.strength, schedule=schedule,
        callback=lambda state: trace.append((time.process_time() - start, 0, state.image()[0])),
    )  # fmt: skip
    seconds = time.process_time() - start
    print(f"ours {seconds:.1f} s, {psnr(case.reference, ours.image):.3f} dB, {ours.status}, {ours.relative_gap:.1e}")
    return ours, seconds, trace


def nested_runs(solver, case, args) -> dict[str, Nested]:
    """The nested scheme with the published tolerances, unless it is left out, and the long run."""
    runs = {}
    for name, tighter in (("published", 1.0), ("long", args.tighter)):
        if name == "published" and args.only_long:
            continue
        runs[name] = Nested(solver, case.operator, case.y, args.strength, args.budget)
        runs[name].run(args.outer, tighter)
        print(f"{name} {runs[name].trace[-1][0]:.1f} s, {runs[name].inner} steps", flush=True)
    return runs


def account(image, ours, seconds, trace, target, near) -> dict[str, Any]:
    """Of our run."""
    return {
        "seconds": seconds, "status": ours.status, "relative_gap": ours.relative_gap,
        "outer_residual": ours.outer_residual, "outer": ours.outer_iterations, "steps": ours.inner_iterations,
        "psnr": psnr(image, ours.image), "distance_to_long": distance(trace[-1][2], target),
        "distance_after_each_mask": [distance(x, target) for *_, x in trace], "seconds_to_2e-3": near and near[0],
    }  # fmt: skip


def account_of_nested(image, run: Nested, target, step: float) -> dict[str, Any]:
    """Of one run of the nested scheme; step: seconds of a layer-wise dual step."""
    end = run.trace[-1][2]
    return {
        "masks": len(run.trace), "seconds_on_our_kernels": run.trace[-1][0], "inner_steps": run.inner,
        "prox_steps": run.prox, "masks_at_step_limit": run.limits_hit, "psnr": psnr(image, end),
        "distance_to_long": distance(end, target), "seconds_layer_wise": run.inner * step,
        "distance_after_each_mask": [distance(x, target) for *_, x in run.trace],
    }  # fmt: skip


def compared(image, ours, seconds, trace, runs: dict[str, Nested], step: float, budget: float) -> dict[str, Any]:
    """Both, mask by mask and in time; only masks that the long run came to can be compared."""
    long = runs["long"].trace
    target, trace = long[-1][2], trace[: len(long)]
    near = first_below(trace, target, NEAR)
    nested_near = next(filter(None, (first_below(run.trace, target, NEAR) for run in runs.values())), None)
    return {
        "ours": account(image, ours, seconds, trace, target, near),
        "nested": {name: account_of_nested(image, run, target, step) for name, run in runs.items()},
        "mask_by_mask": [
            {
                "ours_to_long": distance(a[2], b[2]), "psnr_difference": psnr(image, a[2]) - psnr(image, b[2]),
                "seconds": [a[0], b[0]], "complete": b[0] < budget,
            }
            for a, b in zip(trace, long, strict=False)
        ],
        "layerwise_step_seconds": step,
        "masks_compared": len(trace), "psnr_difference": psnr(image, trace[-1][2]) - psnr(image, target),
        "time_ratio_same_kernels": near and nested_near and nested_near[0] / near[0],
        "time_ratio_layer_wise": near and nested_near and nested_near[1] * step / near[0],
    }  # fmt: skip


def main() -> None:
    """Run both, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--strength", type=float, default=1e-4)
    parser.add_argument("--outer", type=int, default=10)
    parser.add_argument("--inner", type=int, default=400, help="steps of ours per mask at most")
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--tight", action="store_true", help="solve every mask to --tol, also the first ones")
    parser.add_argument("--tighter", type=float, default=10.0)
    parser.add_argument("--budget", type=float, default=240.0, help="seconds for the long nested run")
    parser.add_argument("--only-long", action="store_true", help="leave the run with the published tolerances out")
    parser.add_argument("--images", type=Path, metavar="FILE.npz", help="write the images after each mask")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("NUMBA_NUM_THREADS", torch.get_num_threads())))

    model = published_mmr(15)
    if model is None:
        raise SystemExit("nested: the shared data folder is missing (set SAFI_FAST_DATA)")
    solver, image, rng = safi_fast.Solver(model, backend="cpu"), head("lsq1", args.size), np.random.default_rng(0)
    case = single_coil(image, line_mask(image.shape, 4, 0.08, rng), rng)
    ours, seconds, trace = our_run(solver, case, args)
    step = layerwise_step(model, image, args.strength)
    print(f"layer-wise step {step:.3f} s", flush=True)
    runs = nested_runs(solver, case, args)
    if args.images:
        after = {"ours": [x for *_, x in trace], "long": [x for *_, x in runs["long"].trace]}
        np.savez(args.images, reference=image, y=case.y, mask=case.operator.mask, **after)
    result = {"command": measure.command(), "size": args.size, "strength": args.strength, "outer": args.outer}
    result |= measure.load() | compared(image, ours, seconds, trace, runs, step, args.budget)
    print(json.dumps(result, indent=1))
    measure.write_json(args.output, result)


if __name__ == "__main__":
    main()
