"""Fit the dual steps of `unrolled` to a model, and write the model with them.

    python -m bench.experiments.fit_steps --model run/model.safetensors --data BSD400 --schedule 4x8 \\
        --output faster.safetensors

The model itself stays as it is: two numbers for each inner step are fitted, the same in every outer step
(docs/training.md).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.data import images
from safi_fast import load_model
from safi_fast.cli.train import schedule
from safi_fast.model import Schedule
from safi_fast.training.data import NoiseRange
from safi_fast.training.fitting import fit_steps
from safi_fast.training.loop import set_threads
from safi_fast.training.network import network_of
from safi_fast.weights import save_model

LEVELS = (5.0, 15.0, 25.0, 50.0)


def main(words: list[str] | None = None) -> None:
    """Fit, print the factors, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="NAME|PATH")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--schedule", type=schedule, required=True, metavar="4x8")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.safetensors")
    args = parser.parse_args(words)
    set_threads(args.threads)
    model, (outer, inner) = load_model(args.model), args.schedule
    network = network_of(model).requires_grad_(False)
    levels = [level for level in LEVELS if 255 * model.noise_levels[0] <= level <= 255 * model.noise_levels[-1]]
    noise = NoiseRange(min(levels), max(levels), tuple(levels), 0.0)

    def report(iteration: int, loss: float) -> None:
        if iteration % 20 == 0:
            print(f"iteration {iteration}, loss {loss:.4f}", file=sys.stderr, flush=True)

    steps = fit_steps(
        network, images.load(args.data), noise, outer=outer, inner=inner, iterations=args.iterations, seed=args.seed,
        report=report,
    )  # fmt: skip
    print("sizes", [round(value, 3) for value in steps[0].tolist()])
    print("momenta", [round(value, 3) for value in steps[1].tolist()])
    save_model(network.to_model(model.name, Schedule("unrolled", outer, inner), dict(model.metadata)), args.output)


if __name__ == "__main__":
    main()
