"""Tune lambda of the converged schedule on validation crops, and write it into a weights file.

    python bench/tune.py --model run/model.safetensors --data SET12 --output tuned.safetensors

For every noise level of the model: a golden-section search on the logarithm of lambda for the best mean PSNR of the schedule "converged" on
centre crops. The result stands beside the unrolled strength, which is left as trained.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import images
import numpy as np

from safi_fast import Solver, load_model
from safi_fast.model import Strength
from safi_fast.weights import save_model

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


def main(words: list[str] | None = None) -> None:
    """Tune and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="NAME|PATH")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.safetensors")
    parser.add_argument("--crop", type=int, default=96, metavar="SIDE")
    parser.add_argument("--limit", type=int, metavar="N")
    args = parser.parse_args(words)
    model = load_model(args.model)
    solver = Solver(model, backend="cpu")
    crops = images.load(args.data, args.limit, args.crop)
    factors = []
    for level in 255 * model.noise_levels:
        factors.append(best_strength(solver, crops, float(level), schedule="converged"))
        print(f"sigma {level:g}: lambda converged / unrolled {factors[-1]:.3f}", flush=True)
    strength = Strength(model.strength.unrolled, model.strength.unrolled * np.array(factors))
    save_model(dataclasses.replace(model, strength=strength), args.output)


if __name__ == "__main__":
    main()
