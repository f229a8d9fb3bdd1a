"""Multivariate fields of experts with their published weights (Ducotterd, Unser, arXiv 2508.06490), on the CPU.

Needs torch, and `weights/mfoe.pth` of the shared data. All units are those of images on [0, 1].
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from bench.methods.baselines import descend

SIZE = 4  # responses that a potential looks at
MOST = 51 / 255  # of sigma in training
SHRINK = 0.999  # of the concave part: what keeps a potential from being flat
SORTED = ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2))  # exchanges that put four values in order


def onto_ball(torch: Any, z: Any) -> Any:
    """The nearest point of the unit ball of the l1 norm over axis 1 of z (N, 4, ...), of the same shape.

    This is the gradient of the Moreau envelope of the maximum norm, of parameter 1. The threshold is the largest of
    (a_1 + ... + a_k - 1) / k over the magnitudes a in falling order.
    """
    order = list(z.abs().unbind(1))
    for i, j in SORTED:
        order[i], order[j] = torch.maximum(order[i], order[j]), torch.minimum(order[i], order[j])
    sums = itertools.accumulate(order)
    threshold = next(sums) - 1
    for count, total in enumerate(sums, start=2):
        threshold = torch.maximum(threshold, (total - 1) / count)
    threshold = threshold.clamp_(min=0)[:, None]
    return z - torch.maximum(torch.minimum(z, threshold), -threshold)


class Mfoe:
    """1/2 ||H x - y||^2 + strength R(x), R the sum over positions and groups k of gain * phi_k((W x)_k).

    phi_k(z) = M(z; m) - M(Q z; m t |Q|^2), M(.; m) the Moreau envelope of the maximum norm times m; m depends on
    group and noise level. W: convolutions 1 -> 4 -> 8 -> 60, the first of zero mean, divided by its norm; channel c
    belongs to group c modulo 15. At strength 1 and H the identity this is the denoiser that was trained.
    """

    def __init__(self, path: str | Path) -> None:
        import torch

        self.torch = torch
        state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        first = state["conv_layer.conv_layers.0.parametrizations.weight.original"]
        self.layers = [first - first.mean((1, 2, 3), keepdim=True)]
        self.layers += [state[f"conv_layer.conv_layers.{i}.weight"] for i in (1, 2)]
        self.norm = 1.0
        probe = torch.zeros(1, 1, 64, 64)
        probe[0, 0, 32, 32] = 1
        self.norm = float(torch.fft.fft2(self.analysis(probe)).abs().square().sum(1).max().sqrt())
        self.gain = self.curvature = float(state["lamb"].exp())
        raw = state["Q_param"]
        self.turn = SHRINK * raw / raw.abs().sum(2, keepdim=True).clamp(min=1)
        spread = torch.linalg.matrix_norm(self.turn / SHRINK, 2).square()
        self.width = (spread * state["taus"].flatten().clamp(min=0).exp())[None, None, :, None, None]
        self.network = [(state[f"mu.{i}.weight"], state[f"mu.{i}.bias"]) for i in (0, 2, 4)]

    def analysis(self, x: Any) -> Any:
        """W x for x (N, 1, H, W)."""
        for weight in self.layers:
            x = self.torch.nn.functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return x / self.norm

    def synthesis(self, u: Any) -> Any:
        """The adjoint of `analysis`."""
        for weight in reversed(self.layers):
            u = self.torch.nn.functional.conv_transpose2d(u, weight, padding=weight.shape[-1] // 2)
        return u / self.norm

    def radii(self, sigma: float) -> Any:
        """m of each group (1, 1, 15, 1, 1) for noise of sigma on [0, 1]."""
        torch = self.torch
        value = torch.tensor([[20 * sigma - 2]])
        for number, (weight, bias) in enumerate(self.network):
            value = torch.nn.functional.linear(value if number == 0 else value.relu(), weight, bias)
        return (0.01 * (0.05 * value + sigma).relu() + 1e-9).view(1, 1, -1, 1, 1)

    def slope(self, x: Any, radii: Any) -> Any:
        """The gradient of R at x (N, 1, H, W)."""
        torch = self.torch
        z = self.analysis(x)
        z = z.view(len(x), SIZE, -1, *x.shape[2:]) / radii
        turned = torch.einsum("kij,njkhw->nikhw", self.turn, z) / self.width
        concave = torch.einsum("kij,nikhw->njkhw", self.turn, onto_ball(torch, turned))
        u = (onto_ball(torch, z) - concave) * (self.gain * radii)
        return self.synthesis(u.reshape(len(x), -1, *x.shape[2:]))

    def gradient(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Of R at the image x (H, W), or at real and imaginary part each; sigma on the 8-bit scale, 0 to 51."""
        torch = self.torch
        parts = [x.real, x.imag] if np.iscomplexobj(x) else [x]
        with torch.inference_mode():
            stack = torch.from_numpy(np.stack(parts).astype(np.float32, copy=False))[:, None]
            found = self.slope(stack, self.radii(min(sigma / 255, MOST)))[:, 0].numpy()
        return found[0] + 1j * found[1] if len(parts) == 2 else found[0]

    def solve(self, operator: Any, y: Any, strength: float, sigma: float, **options: Any) -> tuple[np.ndarray, float]:
        """As `bench.methods.baselines.descend`."""
        return descend(self, operator, y, strength, sigma, **options)
