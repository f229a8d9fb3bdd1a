"""The published converged procedure in PyTorch against schedule="gap": time until a certified end, not until equal counts.

    python bench/fixed_point.py [--crops 1] [--size 128] [--tol 6e-4] [--output FILE.json]

Both get the published MMR weights for sigma 25, their lambda and the ||W||^2 of the size, the middle size x size pixels of BSD68 images with
the noise of `safi-fast evaluate`, and two threads; runs alternate.

Each method ends with a mask M and an image x. "The fixed point" of a method is the minimiser x* of the convex problem with its own last M,

    min over [0, 1]^N of 1/2 ||x - y||^2 + lambda ||M . W x||_1,

found in float64 by restarted FISTA to a relative gap of 1e-6. It cannot be the limit of the outer iteration: that one is chaotic in single
pixels, so that two float64 runs from starts 1e-9 apart end in different places. Gaps: that of the method's own u (`relative_gap`), and
f(x) minus the best lower bound of the float64 run (`excess`), both relative to f(x); for PyTorch both are computed here in float64.
"""

from __future__ import annotations

import argparse
from math import sqrt
from pathlib import Path
from typing import Any

import images
import measure
import numpy as np
import torch
import torch_baseline
from problems import DATA, SIGMA, published_mmr
from race import torch_parameters
from torch.nn import functional

import safi_fast
from safi_fast.metrics import psnr
from safi_fast.solver.lipschitz import squared_norm

LONG_GAP, LONG_STEPS = 1e-6, 2000


class Bank:
    """W of two zero-padded layers in float64: the composed filters, less what the cascade drops outside the image."""

    def __init__(self, layers: list[torch.Tensor]):
        self.first, self.second = (layer.double() for layer in layers)
        delta = torch.zeros(1, 1, 25, 25, dtype=torch.float64)
        delta[..., 12, 12] = 1
        response = torch_baseline.analysis(delta, [self.first, self.second])
        self.composed = response[0, :, None, 6:19, 6:19].flip(2, 3).contiguous()

    def analysis(self, x: torch.Tensor) -> torch.Tensor:
        """W x: (1, 1, H, W) -> (1, C, H, W)."""
        q = functional.conv2d(x, self.composed, padding=6)
        v = functional.conv2d(x, self.first, padding=6)
        v[..., 3:-3, 3:-3] = 0
        for outputs, inputs in _strips(q, v):
            outputs -= functional.conv2d(inputs, self.second)
        return q

    def synthesis(self, u: torch.Tensor) -> torch.Tensor:
        """W^T u."""
        v = u.new_zeros(*u.shape[:2], u.shape[2] + 6, u.shape[3] + 6)
        for outputs, inputs in _strips(u, v):
            inputs += functional.conv_transpose2d(outputs, self.second)
        v[..., 3:-3, 3:-3] = 0
        whole = functional.conv_transpose2d(u, self.composed, padding=6)
        return whole - functional.conv_transpose2d(v, self.first, padding=6)


def _strips(outputs, inputs):
    """The four parts of the border band of W x and what they see of the first layer, which reaches 3 pixels beyond the image."""
    yield outputs[..., :3, :], inputs[..., :9, :]
    yield outputs[..., -3:, :], inputs[..., -9:, :]
    yield outputs[..., 3:-3, :3], inputs[..., 3:-3, :9]
    yield outputs[..., 3:-3, -3:], inputs[..., 3:-3, -9:]


class Convex:
    """The convex problem of one mask in float64; y, x (1, 1, H, W), mask and u (1, C, H, W)."""

    def __init__(self, bank: Bank, y: torch.Tensor, mask: torch.Tensor, strength: float, norm: float):
        self.bank, self.y, self.mask = bank, y.double(), mask.double()
        self.strength, self.norm = strength, norm

    def objective(self, x: torch.Tensor) -> float:
        """f(x)."""
        penalty = (self.mask * self.bank.analysis(x)).abs().sum()
        return float((x - self.y).square().sum() / 2 + self.strength * penalty)

    def dual(self, u: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The lower bound of |u| <= lambda, and x(u)."""
        z = self.bank.synthesis(self.mask * u)
        x = (self.y - z).clamp(0, 1)
        return float((x - self.y).square().sum() / 2 + (z * x).sum()), x

    def solve(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float, int]:
        """x*, u*, relative gap and steps of restarted FISTA from u."""
        v, t, best, gap = u, 1.0, -np.inf, np.inf
        for step in range(LONG_STEPS):
            x = self.dual(v)[1]
            q = self.mask * self.bank.analysis(x)
            new = (v + q / self.norm).clamp(-self.strength, self.strength)
            following = (1 + sqrt(1 + 4 * t * t)) / 2
            if step % 10 == 0:
                bound, x_u = self.dual(new)
                objective = self.objective(x_u)
                gap = (objective - bound) / objective
                if bound < best:
                    following = 1.0
                best = bound
                if gap <= LONG_GAP:
                    break
            v = new + (t - 1) / following * (new - u) if following > 1 else new
            u, t = new, following
        return self.dual(u)[1], u, gap, step + 1


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
    solver = safi_fast.Solver(model, backend="cpu")
    norm, strength = squared_norm(solver._engine, *y.shape), float(model.strength.converged[0])
    parameters, image = torch_parameters(model), torch.from_numpy(y)[None, None]
    counts: list[int] = []
    last: dict[str, torch.Tensor] = {}

    def theirs():
        counts.clear()
        return torch_baseline.converged(image, parameters, strength, norm, counts=counts, last=last).numpy()[0, 0]

    options = {"strength": strength, "lipschitz": norm, "return_solution": True}

    def ours():
        return solver.denoise(y, SIGMA, schedule="gap", tol=tol, **options)

    def procedure():
        return solver.denoise(y, SIGMA, schedule="converged", **options)

    ours(), procedure(), torch_baseline.unrolled(image[..., :64, :64], parameters, strength, norm, 2, 2)
    runs = {"torch": measure.timed(theirs)}
    runs |= measure.alternately({"gap": ours, "converged": procedure}, repeats)
    again = measure.timed(theirs) if repeats > 3 else runs["torch"]
    seconds = min(runs["torch"].wall, again.wall)
    found = runs["gap"].result
    mask = torch.from_numpy(solver.denoise(y, SIGMA, schedule="gap", tol=tol, return_masks=True, **options).masks)[None]
    bank = Bank(parameters["layers"])
    problem = Convex(bank, image, last["mask"], strength, norm)
    u = last["u"].double().clamp(-strength, strength)
    own = problem.objective(torch.from_numpy(runs["torch"].result).double()[None, None])
    rows = {
        "torch": {
            "seconds": seconds,
            "cpu_seconds": runs["torch"].cpu,
            "inner_steps": sum(counts),
            "outer_steps": len(counts),
            "relative_gap": (own - problem.dual(u)[0]) / own,
        }
    }
    facts, u = account(problem, runs["torch"].result, u, clean)
    rows["torch"] |= facts
    facts, _ = account(Convex(bank, image, mask, strength, norm), found.image, u, clean)
    rows["gap"] = {
        "seconds": runs["gap"].wall,
        "cpu_seconds": runs["gap"].cpu,
        "inner_steps": found.inner_iterations,
        "outer_steps": found.outer_iterations,
        "relative_gap": found.relative_gap,
        "outer_residual": found.outer_residual,
        "status": found.status,
        **facts,
    }
    return {
        "times_faster": seconds / runs["gap"].wall,
        "times_faster_cpu": runs["torch"].cpu / runs["gap"].cpu,
        "psnr_difference": rows["gap"]["psnr"] - rows["torch"]["psnr"],
        "seconds_of_the_procedure_here": runs["converged"].wall,
        "distance_between": float(np.linalg.norm(found.image - runs["torch"].result) / np.linalg.norm(found.image)),
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
