"""The published converged procedure in PyTorch against schedule="gap": time until a certified end, not equal counts.

    python -m bench.experiments.fixed_point [--crops 1] [--size 128] [--tol 6e-4] [--output FILE.json]

Both get the published MMR weights for sigma 25, their lambda and the ||W||^2 of the size, the middle size x size pixels
of BSD68 images with the noise of `safi-fast evaluate`, and two threads; runs alternate.

Each method ends with a mask M and an image x. "The fixed point" of a method is the minimiser x* of the convex problem
with its own last M,

    min over [0, 1]^N of 1/2 ||x - y||^2 + lambda ||M . W x||_1,

found in float64 by restarted FISTA to a relative gap of 1e-6. It cannot be the limit of the outer iteration: that one
is chaotic in single pixels, so that two float64 runs from starts 1e-9 apart end in different places. Gaps: that of the
method's own u (`relative_gap`), and f(x) minus the best lower bound of the float64 run (`excess`), both relative to
f(x); for PyTorch both are computed here in float64.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import safi_fast
from bench.data import images
from bench.data.problems import DATA, SIGMA, published_mmr, squared_norm_of
from bench.methods import torch_baseline
from bench.methods.judge import Bank, Convex
from bench.report import measure
from bench.report.measure import Timing
from safi_fast.metrics import psnr


def account(convex: Convex, x: np.ndarray, start: torch.Tensor, clean: np.ndarray) -> tuple[dict[str, Any], Any]:
    """How far the image of a method is from the minimiser of its own last problem, and the u of the long run."""
    image = torch.from_numpy(x).double()[None, None]
    exact, u, gap, steps = convex.solve(start)
    bound, objective = convex.dual(u)[0], convex.objective(image)
    facts = {
        "psnr": psnr(clean, x),
        "psnr_of_fixed_point": psnr(clean, exact[0, 0].numpy().astype(np.float32)),
        "distance": float(torch.norm(image - exact) / torch.norm(exact)),
        "excess": (objective - bound) / objective,
        "long_run_gap": gap,
        "long_run_steps": steps,
    }
    return facts, u


def compare(clean: np.ndarray, y: np.ndarray, tol: float, repeats: int) -> dict[str, Any]:
    """One crop."""
    model = published_mmr()
    assert model
    solver = safi_fast.Solver(model, backend="cpu")
    norm, strength = squared_norm_of(model, *y.shape), float(model.strength.converged[0])
    parameters, image = torch_baseline.parameters_of(model), torch.from_numpy(y)[None, None]
    counts: list[int] = []
    last: dict[str, torch.Tensor] = {}

    def theirs():
        counts.clear()
        return torch_baseline.converged(image, parameters, strength, norm, counts=counts, last=last).numpy()[0, 0]

    options = {"strength": strength, "lipschitz": norm, "return_solution": True}

    def ours(**more: bool):
        return solver.denoise(y, SIGMA, schedule="gap", tol=tol, **options, **more)

    def procedure():
        return solver.denoise(y, SIGMA, schedule="converged", **options)

    ours(), procedure(), torch_baseline.unrolled(image[..., :64, :64], parameters, strength, norm, 2, 2)
    runs = {"torch": measure.timed(theirs)}
    runs |= measure.alternately({"gap": ours, "converged": procedure}, repeats)
    again = measure.timed(theirs) if repeats > 3 else runs["torch"]
    runs["torch"] = runs["torch"]._replace(wall=min(runs["torch"].wall, again.wall))
    bank, mask = Bank(parameters["layers"]), torch.from_numpy(ours(return_masks=True).masks)[None]
    problems = {
        "torch": Convex(bank, image, last["mask"], strength, norm),
        "gap": Convex(bank, image, mask, strength, norm),
    }
    return judged(clean, runs, problems, counts, last["u"].double().clamp(-strength, strength))


def judged(
    clean: np.ndarray, runs: dict[str, Timing], problems: dict[str, Convex], counts: list[int], u: torch.Tensor
) -> dict[str, Any]:
    """Ratios and a row for each method; counts, u: the dual steps of PyTorch, and its last dual variable, feasible."""
    theirs, found = runs["torch"].result, runs["gap"].result
    own = problems["torch"].objective(torch.from_numpy(theirs).double()[None, None])
    steps = {
        "torch": {
            "inner_steps": sum(counts),
            "outer_steps": len(counts),
            "relative_gap": (own - problems["torch"].dual(u)[0]) / own,
        },
        "gap": {
            "inner_steps": found.inner_iterations,
            "outer_steps": found.outer_iterations,
            "relative_gap": found.relative_gap,
            "outer_residual": found.outer_residual,
            "status": found.status,
        },
    }
    rows = {}
    for name, image in (("torch", theirs), ("gap", found.image)):
        facts, u = account(problems[name], image, u, clean)
        rows[name] = {"seconds": runs[name].wall, "cpu_seconds": runs[name].cpu, **steps[name], **facts}
    return {
        "times_faster": runs["torch"].wall / runs["gap"].wall,
        "times_faster_cpu": runs["torch"].cpu / runs["gap"].cpu,
        "psnr_difference": rows["gap"]["psnr"] - rows["torch"]["psnr"],
        "seconds_of_the_procedure_here": runs["converged"].wall,
        "distance_between": float(np.linalg.norm(found.image - theirs) / np.linalg.norm(found.image)),
        **rows,
    }


def main() -> None:
    """Compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=1)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--tol", type=float, default=6e-4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if published_mmr() is None:
        print("fixed point: not compared, the shared data folder is missing (set SAFI_FAST_DATA)")
        return
    measure.use_threads()
    before = measure.machine()
    clean = images.load(DATA / "bsd68", arguments.crops, arguments.size)
    rows = []
    for index, (x, y) in enumerate(zip(clean, images.noisy(clean, 255 * SIGMA), strict=True)):
        row = {"crop": index + 1, **compare(x, y, arguments.tol, arguments.repeats)}
        rows.append(row)
        for name in ("torch", "gap"):
            print(f"crop {index + 1}, {name:5s}: " + ", ".join(f"{k} {_short(v)}" for k, v in row[name].items()))
        print(
            f"  {row['times_faster']:.0f} times faster on the clock, {row['times_faster_cpu']:.0f} in processor time, "
            f"PSNR {row['psnr_difference']:+.4f} dB"
        )
    measure.write(arguments.output, rows, before, size=arguments.size, tol=arguments.tol)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
