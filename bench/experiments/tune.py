"""Tune lambda of the converged schedule on validation crops, and write it into a weights file.

    python -m bench.experiments.tune --model run/model.safetensors --data SET12 --output tuned.safetensors

For every noise level of the model: a golden-section search on the logarithm of lambda for the best mean PSNR of the
schedule "converged" on centre crops. The result stands beside the unrolled strength, which is left as trained.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from bench.data import images
from bench.methods.strength import best_strength
from safi_fast import Solver, load_model
from safi_fast.model import Strength
from safi_fast.weights import save_model


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
    crops = images.load(args.data, args.limit, args.crop, model.filters.planes)
    factors = []
    for level in 255 * model.noise_levels:
        factors.append(best_strength(solver, crops, float(level), schedule="converged"))
        print(f"sigma {level:g}: lambda converged / unrolled {factors[-1]:.3f}", flush=True)
    strength = Strength(model.strength.unrolled, model.strength.unrolled * np.array(factors))
    save_model(dataclasses.replace(model, strength=strength), args.output)


if __name__ == "__main__":
    main()
