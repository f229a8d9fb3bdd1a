"""The float64 judge of the converged race: the convex problem of one mask, solved to a gap far below any method's."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
from torch.nn import functional

from bench.methods import torch_baseline

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
    """The four parts of the border band of W x and what they see of the first layer, 3 pixels beyond the image."""
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
