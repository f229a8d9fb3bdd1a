"""Where the outer iteration ends when its first mask is that of another image: does the result depend on the start?

The iteration is that of schedule "gap": u carried over, masks mixed, each problem solved to a small duality gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from safi_fast import Solver
from safi_fast.solver.dual import DualProblem, run_to_gap
from safi_fast.solver.lipschitz import squared_norm

STARTS = ("unmasked solution", "with noise", "pure noise")
NOISE = 0.1  # standard deviation of what is added to the unmasked solution
FIRST_GAP, DECAY, LAST_GAP = 1e-2, 0.5, 1e-5  # relative gap asked of the outer steps, falling
STEPS = 1000  # inner steps at most


@dataclass(frozen=True)
class Ends:
    """One image per start (3, H, W); the largest relative distance from the first; the largest last outer change."""

    images: np.ndarray
    distance: float
    last_change: float


def end_points(solver: Solver, y: np.ndarray, sigma: float, *, outer: int) -> Ends:
    """The solutions after `outer` masks, from the mask of each of STARTS; sigma on the 8-bit scale."""
    unmasked = solver.denoise(y, sigma / 255, schedule="gap", max_outer=1, tol=1e-4)
    rng = np.random.default_rng(0)
    disturbed = unmasked + NOISE * rng.standard_normal(y.shape)
    pure = 0.5 + NOISE * rng.standard_normal(y.shape)
    first = np.stack([unmasked, disturbed, pure]).astype(np.float32)
    count, (height, width) = len(first), y.shape
    engine = solver.backend.prepare(solver.model)
    norm = squared_norm(engine, height, width)
    workspace = engine.workspace(count, height, width)
    conditioned = solver.model.at(sigma / 255, strength_given=False)
    strength = np.full(count, conditioned.strength_converged)
    stack = np.repeat(y.astype(np.float32)[None], count, axis=0)
    workspace.load(stack, strength.astype(np.float32), np.full(count, 1 / norm, np.float32), (0.0, 1.0))
    gain, bias = (np.repeat(values[None], count, axis=0) for values in (conditioned.gain, conditioned.bias))
    problem = DualProblem(workspace, strength, gain, bias, solver.model.family, norm, y.size)
    everyone = np.arange(count)
    workspace.put_image(everyone, first)
    problem.start(everyone, zero=True, mixing=True)
    workspace.put_image(everyone, first)
    change = np.full(count, np.inf)
    for step in range(outer):
        problem.next_mask(everyone, mixed=step > 2)
        problem.t[:] = 1
        tolerance = max(FIRST_GAP * DECAY**step, LAST_GAP)
        run_to_gap(problem, everyone, tolerance, STEPS)
        change = problem.change(everyone)
    images = workspace.image()
    distances = [np.linalg.norm(image - images[0]) / np.linalg.norm(images[0]) for image in images]
    return Ends(images, float(max(distances)), float(change.max()))
