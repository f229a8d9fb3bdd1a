"""The published nested scheme on our kernels: accelerated proximal gradient steps, each a dual denoising."""

from __future__ import annotations

import time

import numpy as np

from safi_fast.solver.dual import DualProblem, run_published
from safi_fast.solver.lipschitz import squared_norm

INNER_LIMIT, PROX_LIMIT = 500, 300
PROX_RAMP = 50  # steps over which the tolerance of the inner denoiser falls from 3 to 1/3 of the outer one


class Nested:
    """`inner` and `prox` count steps, `trace` keeps (seconds, inner steps, x) after each mask."""

    def __init__(self, solver, operator, y, strength, budget):
        self.operator, self.y, self.budget = operator, y, budget
        self.alpha = 1 / operator.norm**2
        height, width = operator.shape_in
        engine = solver.backend.prepare(solver.model)
        self.workspace = engine.workspace(1, height, width)
        self.lam = np.array([strength * self.alpha])
        norm = squared_norm(engine, height, width)
        step = np.array([1 / norm], np.float32)
        self.workspace.load(np.zeros((1, height, width), np.float32), self.lam.astype(np.float32), step, (0.0, 1.0))
        level = solver.model.at(None, strength_given=True)  # of the one level that the published models are for
        conditions = level.gain[None], level.bias[None]
        self.problem = DualProblem(self.workspace, self.lam, *conditions, solver.model.family, norm, height * width)
        self.inner = self.prox = self.limits_hit = 0
        self.trace = []

    def denoise(self, z, x_old, rule, tolerance):
        """The inner denoiser: dual steps from u = M . W x_old on the image z."""
        w, one = self.workspace, np.arange(1)
        w.put_image(one, x_old[None])
        w.start_dual(one)
        w.y = np.ascontiguousarray(z, np.float32).ravel()
        w.refresh(one)
        result = run_published(self.problem, one, rule, tolerance, INNER_LIMIT)
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
                self.problem.next_mask(np.arange(1))
            x = self.solve(x, "FISTA" if k else "CD", 1e-3 * 1e-2 ** (min(k, 5) / 5) / tighter)
            self.trace.append((time.process_time() - self.start, self.inner, x.copy()))
            if self.trace[-1][0] > self.budget:
                break
        return x
