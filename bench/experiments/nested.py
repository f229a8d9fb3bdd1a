"""Our loop against the published nested scheme: the same point, and in what time.

    python bench/nested.py [--size 128] [--strength 1e-4] [--outer 10] [--budget 240] [--output bench/results/nested.json]

MMR weights for sigma 15, one coil, real image (a head of the siat set, magnitude, peak 1, centre crop), 4x Cartesian mask, noise 0.002.
The nested scheme: for each mask up to 300 accelerated proximal gradient steps on x, in each the dual denoiser with that mask, up to 500
steps from u = M . W x, with the published tolerances; `long` divides all of them by `--tighter`.

The published code runs W layer by layer in PyTorch, which makes a long run take hours. So the nested scheme runs here on our kernels, step
for step the same arithmetic, and is timed as such; the layer-wise step is timed in the same run by itself and multiplied by the
number of steps. Both ratios are written. Seconds are of CPU time: run it on one thread, NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch_baseline
from problems import DATA, head, line_mask
from race import torch_parameters

import safi_fast
from safi_fast.metrics import psnr
from safi_fast.operators import FourierMRI
from safi_fast.solver import reconstruction
from safi_fast.solver.dual import run_published
from safi_fast.solver.lipschitz import squared_norm
from safi_fast.training.checkpoint import read_checkpoint

INNER_LIMIT, PROX_LIMIT = 500, 300
PROX_RAMP = 50  # steps over which the tolerance of the inner denoiser falls from 3 to 1/3 of the outer one


class Nested:
    """The published scheme on our kernels; `inner` and `prox` count steps, `trace` keeps (seconds, inner steps, x) after each mask."""

    def __init__(self, solver, operator, y, strength, budget):
        self.operator, self.y, self.budget = operator, y, budget
        self.alpha = 1 / operator.norm**2
        height, width = operator.shape_in
        engine = solver._engine
        self.workspace = engine.workspace(1, height, width)
        self.lam = np.array([strength * self.alpha])
        step = np.array([1 / squared_norm(engine, height, width)], np.float32)
        self.workspace.load(np.zeros((1, height, width), np.float32), self.lam.astype(np.float32), step, (0.0, 1.0))
        level = solver.model.at(None, strength_given=True)  # of the one level that the published models are for
        self.conditions = level.gain[None], level.bias[None]
        self.inner = self.prox = self.limits_hit = 0
        self.trace = []

    def denoise(self, z, x_old, rule, tolerance):
        """The inner denoiser: dual steps from u = M . W x_old on the image z."""
        w, one = self.workspace, np.arange(1)
        w.put_image(one, x_old[None])
        w.start_dual(one)
        w.y = np.ascontiguousarray(z, np.float32).ravel()
        w.refresh(one)
        result = run_published(w, one, self.lam, rule, tolerance, INNER_LIMIT)
        self.inner += int(result.steps[0])
        return w.image()[0]

    def solve(self, x, rule, toll):
        """The accelerated proximal gradient steps of one mask."""
        d, t = x, 1.0
        ramp = 3 * toll * (1 / 9) ** (np.minimum(np.arange(PROX_LIMIT), PROX_RAMP) / PROX_RAMP)
        for i in range(PROX_LIMIT):
            z = d - self.alpha * self.operator.adjoint(self.operator.apply(d) - self.y)
            new = self.denoise(z, x, rule, ramp[i])
            t_new = (i + 3) / 3
            d = new + (t - 1) / t_new * (new - x)
            change = np.linalg.norm(new - x) / np.linalg.norm(x)
            x, t = new, t_new
            self.prox += 1
            if (change < toll and i > 10) or time.process_time() - self.start > self.budget:
                return x
        self.limits_hit += 1
        return x

    def run(self, outer, tighter=1.0):
        """All masks; tolerances 1e-3 to 1e-5 over the first six, divided by `tighter`."""
        self.start = time.process_time()
        x = np.asarray(self.operator.adjoint(self.y))
        for k in range(outer):
            if k:
                self.workspace.put_image(np.arange(1), x[None])
                self.workspace.collapse_momentum(np.arange(1))
                self.workspace.update_mask(np.arange(1), *self.conditions)
            x = self.solve(x, "FISTA" if k else "CD", 1e-3 * 1e-2 ** (min(k, 5) / 5) / tighter)
            self.trace.append((time.process_time() - self.start, self.inner, x.copy()))
            if self.trace[-1][0] > self.budget:
                break
        return x


def layerwise_step(model, x, strength, repeats=6):
    """Seconds of one inner step as the published code makes it: W and W^T layer by layer in PyTorch, with the objective."""
    params = torch_parameters(model)
    image = torch.from_numpy(x)[None, None]
    mask = torch_baseline.mask_of(image, params)
    torch_baseline._converged_inner(image, image, strength, 1000.0, mask, params["layers"], True, -1.0, 1)
    start = time.process_time()
    torch_baseline._converged_inner(image, image, strength, 1000.0, mask, params["layers"], True, -1.0, repeats)
    return (time.process_time() - start) / repeats


def first_below(trace, target, tolerance):
    """The first entry of a trace from which on the distance to `target` stays below; None if there is none."""
    far = [i for i, (*_, x) in enumerate(trace) if distance(x, target) > tolerance]
    first = far[-1] + 1 if far else 0
    return trace[first] if first < len(trace) else None


def distance(x, target):
    return float(np.linalg.norm(x - target) / np.linalg.norm(target))


def main() -> None:
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

    model = read_checkpoint(DATA / "weights" / "mmr_sigma15.pth", converged_strength=0.00058899)
    solver = safi_fast.Solver(model, backend="cpu")
    image = head("lsq1", args.size)
    rng = np.random.default_rng(0)
    operator = FourierMRI(line_mask(image.shape, 4, 0.08, rng), mask_order="centered")
    noise = (rng.standard_normal(image.shape) + 1j * rng.standard_normal(image.shape)).astype(np.complex64)
    y = operator.check_measurement(operator.apply(image) + np.float32(0.002) * noise * operator.mask)
    solver.reconstruct(y, operator, strength=args.strength, max_outer=2, max_iter=2)  # compiles

    trace = []
    if args.tight:
        reconstruction.FIRST_TOLERANCE = args.tol
    start = time.process_time()
    ours = solver.reconstruct(
        y, operator, strength=args.strength, max_outer=args.outer, max_iter=args.inner, tol=args.tol,
        callback=lambda state: trace.append((time.process_time() - start, 0, state.image()[0])),
    )  # fmt: skip
    ours_seconds = time.process_time() - start
    print(
        f"ours {ours_seconds:.1f} s, {psnr(image, ours.image):.3f} dB, {ours.status}, {ours.relative_gap:.1e}",
        flush=True,
    )

    step = layerwise_step(model, image, args.strength)
    print(f"layer-wise step {step:.3f} s", flush=True)
    published = None
    if not args.only_long:
        published = Nested(solver, operator, y, args.strength, args.budget)
        published.run(args.outer)
        print(f"published {published.trace[-1][0]:.1f} s, {published.inner} steps", flush=True)
    long = Nested(solver, operator, y, args.strength, args.budget)
    target = long.run(args.outer, args.tighter)
    if args.images:
        np.savez(
            args.images,
            reference=image,
            y=y,
            mask=operator.mask,
            ours=[x for *_, x in trace],
            long=[x for *_, x in long.trace],
        )

    trace = trace[: len(long.trace)]  # only masks that the long run came to can be compared
    near = first_below(trace, target, 2e-3)
    runs = {"long": long} if published is None else {"published": published, "long": long}
    nested_near = next(filter(None, (first_below(run.trace, target, 2e-3) for run in runs.values())), None)
    result = {
        "size": args.size, "strength": args.strength, "outer": args.outer, "load_average": os.getloadavg()[0],
        "threads": os.environ.get("NUMBA_NUM_THREADS", "default"),
        "ours": {
            "seconds": ours_seconds, "status": ours.status, "relative_gap": ours.relative_gap,
            "outer_residual": ours.outer_residual, "outer": ours.outer_iterations, "steps": ours.inner_iterations,
            "psnr": psnr(image, ours.image), "distance_to_long": distance(trace[-1][2], target),
            "distance_after_each_mask": [distance(x, target) for *_, x in trace],
            "seconds_to_2e-3": near and near[0],
        },
        "nested": {
            name: {
                "masks": len(run.trace), "seconds_on_our_kernels": run.trace[-1][0], "inner_steps": run.inner,
                "prox_steps": run.prox, "masks_at_step_limit": run.limits_hit, "psnr": psnr(image, run.trace[-1][2]),
                "distance_to_long": distance(run.trace[-1][2], target), "seconds_layer_wise": run.inner * step,
                "distance_after_each_mask": [distance(x, target) for *_, x in run.trace],
            }
            for name, run in runs.items()
        },
        "mask_by_mask": [
            {
                "ours_to_long": distance(a[2], b[2]), "psnr_difference": psnr(image, a[2]) - psnr(image, b[2]),
                "seconds": [a[0], b[0]], "complete": b[0] < args.budget,
            }
            for a, b in zip(trace, long.trace, strict=False)
        ],
        "layerwise_step_seconds": step,
        "masks_compared": len(trace), "psnr_difference": psnr(image, trace[-1][2]) - psnr(image, target),
        "time_ratio_same_kernels": near and nested_near and nested_near[0] / near[0],
        "time_ratio_layer_wise": near and nested_near and nested_near[1] * step / near[0],
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
