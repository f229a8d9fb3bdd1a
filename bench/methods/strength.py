"""lambda with the best mean PSNR of given images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.data import images
from safi_fast import Solver

REACH = 0.25  # |log(lambda / unrolled lambda)| that is searched
TRIALS = 5  # evaluations of one search
GOLDEN = (5**0.5 - 1) / 2


def best_strength(
    solver: Solver,
    clean: Sequence[np.ndarray],
    sigma: float,
    *,
    reach: float = REACH,
    trials: int = TRIALS,
    **options: Any,
) -> float:
    """lambda with the best mean PSNR, as a multiple of the model's unrolled lambda; sigma on the 8-bit scale."""
    observed = images.noisy(clean, sigma)
    own = solver.model.at(sigma / 255, strength_given=False).strength_unrolled

    def value(exponent: float) -> float:
        return images.score(solver, clean, observed, sigma, strength=own * np.exp(exponent), **options)

    low, high = -reach, reach
    inside = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)]
    found = [value(exponent) for exponent in inside]
    for _ in range(trials - 2):
        if found[0] >= found[1]:
            high, inside = inside[1], [inside[1] - GOLDEN * (inside[1] - low), inside[0]]
            found = [value(inside[0]), found[0]]
        else:
            low, inside = inside[0], [inside[1], inside[0] + GOLDEN * (high - inside[0])]
            found = [found[1], value(inside[1])]
    return float(np.exp(inside[int(np.argmax(found))]))
