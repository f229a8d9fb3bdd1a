"""The pool of training states: patches under way, each with the solution and the dual variable it has reached.

A step of training takes some of them one outer step on, so that the many inner steps before it need not be done again.
A patch that has made all its outer steps is replaced by a new one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Start = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
NewPatch = Callable[[], tuple[torch.Tensor, float, torch.Tensor]]

WARM_UP = 4  # batches in the pool at first; it grows by one patch a step, so that early states are soon met again


class Pool:
    """States of `size` patches (side x side, P planes, `channels` filters).

    clean, noisy, x: float32 (N, P, side, side); dual: v / lambda, float16 (N, C, side, side); sigma: float32 (N,), on
        [0, 1];
    visits: int64 (N,) in host memory, outer steps with a mask made so far, -1 for a place that was never filled.
    guided, of the shape of clean: what teachers make of a patch, or None without them.
    """

    def __init__(
        self, size: int, channels: int, side: int, *, planes: int = 1, device: str = "cpu", guided: bool = False
    ):
        self.clean, self.noisy, self.x = (torch.zeros(size, planes, side, side, device=device) for _ in range(3))
        self.dual = torch.zeros(size, channels, side, side, dtype=torch.float16, device=device)
        self.sigma = torch.zeros(size, device=device)
        self.visits = torch.full((size,), -1)
        self.guided = torch.zeros_like(self.clean) if guided else None
        self.live = 0

    def draw(self, batch: int, rng: np.random.Generator) -> torch.Tensor:
        """Places of one batch, (batch,) in host memory, all different."""
        self.live = min(len(self.visits), max(self.live + 1, WARM_UP * batch))
        return torch.from_numpy(rng.choice(self.live, min(batch, self.live), replace=False))

    def renew(self, places: torch.Tensor, limit: int, new_patch: NewPatch, begin: Start) -> None:
        """Fill those of `places` that are empty or have made `limit` visits.

        new_patch() gives clean (P, side, side), sigma and noise of deviation 1; begin(noisy, clean, sigma) gives what
        the teachers make of them, x and v / lambda.
        """
        stale = places[(self.visits[places] < 0) | (self.visits[places] >= limit)]
        if not len(stale):
            return
        for place in stale.tolist():
            clean, sigma, noise = new_patch()
            self.clean[place] = clean
            self.noisy[place] = clean + sigma * noise
            self.sigma[place] = sigma
        there = on_device(stale, self.sigma.device)
        guided, x, v = begin(self.noisy[there], self.clean[there], self.sigma[there])
        if self.guided is not None:
            self.guided[there] = guided
        self.x[there], self.dual[there], self.visits[stale] = x, v.half(), 0

    def store(self, places: torch.Tensor, x: torch.Tensor, v: torch.Tensor, made: int = 1) -> None:
        """Where these patches are after `made` more outer steps."""
        there = on_device(places, self.sigma.device)
        self.x[there], self.dual[there] = x, v.half()
        self.visits[places] += made

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint; places that were never filled are left out."""
        live = self.live
        names = ["clean", "noisy", "x", "dual", "sigma", "visits", *(["guided"] if self.guided is not None else [])]
        return {"live": live, **{name: getattr(self, name)[:live].clone() for name in names}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.live = int(state["live"])
        for name, values in state.items():
            if name != "live":
                getattr(self, name)[: self.live] = values


def on_device(places: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """`places`, which are in host memory, on `device`, without waiting for what it is doing."""
    if torch.device(device).type != "cuda":
        return places
    return places.pin_memory().to(device, non_blocking=True)
