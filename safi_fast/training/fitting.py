"""Learned dual steps: size and momentum of each inner step of `unrolled`, fitted to a network that stays as it is.

Two numbers a step are few, so the whole schedule is differentiated, from the noisy image to the result, on small
patches. The same steps serve every outer step and every level: they are what a schedule with fewer inner steps needs to
end as far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from .data import Image, NoiseRange, draw_patch, stacked
from .filters import FilterOperator
from .inner import Step, dual_steps, fista_steps, primal, start
from .network import Network
from .trainer import expected_error

SIDE, CROP = 56, 8  # pixels of a patch, and of its border that the loss leaves out
RATE, LAST_RATE = 0.03, 0.001  # of Adam, falling with a cosine


def fit_steps(
    network: Network,
    images: Sequence[Image],
    noise: NoiseRange,
    *,
    outer: int,
    inner: int,
    iterations: int = 200,
    batch: int = 4,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda iteration, loss: None,
) -> torch.Tensor:
    """Sizes and momenta (2, inner), float64, for `outer` x `inner` steps of the network; its `learned_steps` take them.

    They start from those that the network has, else from FISTA's. report is told the mean loss of late, 1 where the
    expected PSNR is met.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    tensors = [stacked(image, network.planes) for image in images]
    operator = FilterOperator(network.composed().detach(), (SIDE, SIDE))
    known = network.steps(0, inner) if network.learned_steps.shape[1] in (0, inner) else fista_steps(0, inner)
    sizes, factors = (torch.tensor(values, requires_grad=True) for values in zip(*known, strict=True))
    optimizer = torch.optim.Adam([sizes, factors], lr=RATE)
    inside = slice(CROP, SIDE - CROP)
    recent = 0.0
    for iteration in range(iterations):
        late = iteration / iterations
        optimizer.param_groups[0]["lr"] = LAST_RATE + (RATE - LAST_RATE) * (1 + math.cos(math.pi * late)) / 2
        clean = torch.stack([draw_patch(tensors, SIDE, rng) for _ in range(batch)])
        sigma = torch.tensor([noise.draw(rng) for _ in range(batch)])
        noisy = clean + sigma.view(-1, 1, 1, 1) * torch.randn(clean.shape, generator=generator)
        steps = [Step(size, factor) for size, factor in zip(sizes, factors, strict=True)]
        x = _unrolled(network, operator, noisy, sigma, steps, outer)
        error = (x - clean)[..., inside, inside].square().mean((1, 2, 3))
        loss = (error / expected_error(sigma)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recent = float(loss.detach()) if iteration == 0 else 0.95 * recent + 0.05 * float(loss.detach())
        report(iteration, recent)
    network.learned_steps = torch.stack([sizes.detach(), factors.detach()]).double()
    return network.learned_steps


def _unrolled(
    network: Network,
    operator: FilterOperator,
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    steps: Sequence[Step],
    outer: int,
) -> torch.Tensor:
    conditions = network.at(sigma)
    strength = conditions.strength.detach()
    state, mask = start(operator, noisy, strength), None
    for number in range(outer):
        if number:
            mask = network.mask(primal(operator, noisy, state.u, mask, strength), conditions, operator)
            state = type(state)(state.v, state.v)
        state = dual_steps(operator, noisy, state, mask, strength, steps)
    return primal(operator, noisy, state.u, mask, strength)
