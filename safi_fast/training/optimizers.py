"""The optimiser of a run: Adam for everything, or Muon for the large mask layers and Adam for the rest.

Muon (Jordan et al. 2024) steps along the orthogonal factor of the momentum of a matrix instead of the momentum itself:
every direction of the layer moves alike, however small its gradient. Its update is scaled to the root mean square that
Adam's has, about 0.2 of the rate, so both take the same learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

OPTIMIZERS = ("adam", "muon")
MUON_MOMENTUM = 0.95
ADAM_SIZE = 0.2  # root mean square of Adam's update, as a share of the rate
QUINTIC = (3.4445, -4.7750, 2.0315)  # of the iteration that takes singular values to about one
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For layers (out, in, k, k), taken as matrices (out, in k k)."""

    def __init__(self, groups: Sequence[dict[str, Any]], momentum: float = MUON_MOMENTUM):
        super().__init__(groups, {"momentum": momentum})

    def step(self, closure: Any = None) -> None:
        """One step along the orthogonal factor of every layer's momentum."""
        with torch.no_grad():
            for group in self.param_groups:
                alike: dict[torch.Size, list[torch.nn.Parameter]] = {}
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        alike.setdefault(parameter.shape, []).append(parameter)
                for parameters in alike.values():
                    self._move(parameters, group["lr"], group["momentum"])

    def _move(self, parameters: Sequence[torch.nn.Parameter], rate: float, keep: float) -> None:
        """Layers of one shape at once: a GPU then has fewer and larger products to make."""
        gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
        kept = [self.state[parameter].setdefault("momentum", torch.zeros_like(parameter)) for parameter in parameters]
        torch._foreach_lerp_(kept, list(gradients), 1 - keep)
        ahead = gradients.lerp(torch.stack(kept), keep).flatten(2)
        size = ADAM_SIZE * max(ahead.shape[1:]) ** 0.5
        moves = orthogonal(ahead).view(-1, *parameters[0].shape)
        torch._foreach_add_(list(parameters), list(moves), alpha=-size * rate)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Nearly U V^T of each matrix = U S V^T, (..., m, n), by ITERATIONS of a quintic: singular values end within 0.7 to
    1.2.
    """
    first, third, fifth = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.mT if tall else x


class Optimizer:
    """Adam and, where asked for, Muon as one. groups: dicts with params, highest_rate and `matrices`, whether Muon may
    take them.
    """

    def __init__(self, kind: str, groups: Sequence[dict[str, Any]]):
        apart = [kind == "muon" and group["matrices"] for group in groups]
        plain = [group for group, muon in zip(groups, apart, strict=True) if not muon]
        matrices = [group for group, muon in zip(groups, apart, strict=True) if muon]
        self.parts: list[torch.optim.Optimizer] = []
        if plain:
            self.parts.append(torch.optim.Adam(plain, betas=(0.9, 0.99), foreach=True))
        if matrices:
            self.parts.append(Muon(matrices))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both."""
        return [group for part in self.parts for group in part.param_groups]

    def set_rates(self, factor: float) -> None:
        """Every learning rate to this share of its highest."""
        for group in self.param_groups:
            group["lr"] = group["highest_rate"] * factor

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """One step of each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Of both, for a checkpoint."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Take over what `state_dict` gave."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
