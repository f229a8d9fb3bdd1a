"""A model to start the training of an MMR model from: filters of a SAFI model, and a mask that falls with the local filter response.

python bench/mmr_start.py --filters-of safi-gray --channels 32 --sigma 25 --output start.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from safi_fast import load_model
from safi_fast.model import FilterBank, MmrMask, Model, Schedule, Strength
from safi_fast.weights import save_model

KNOTS = 21
SMOOTHING = 7  # side in pixels of both layers of G
REACH = 1.2  # the mask has fallen to 0 where the smoothed response is this many times the noise in it


def start_model(source: Model, channels: int, sigma: float) -> Model:
    """An MMR model for sigma (on [0, 1]) with the strongest filters of `source`, together scaled to ||W|| = 1."""
    filters = source.filters.composed().astype(np.float64)
    size = np.sqrt((filters**2).sum((1, 2)))
    chosen = np.sort(np.argsort(-size)[:channels])
    filters, size = filters[chosen], size[chosen]
    norm = np.sqrt((abs(np.fft.fft2(filters, (96, 96))) ** 2).sum(0).max())
    filters, size = filters / norm, size / norm
    smoothing = np.full((channels, 1, SMOOTHING, SMOOTHING), 1 / SMOOTHING**2)
    mask = MmrMask(
        (smoothing, smoothing), np.linspace(1, 0, KNOTS)[None].repeat(channels, 0), 1 / (REACH * sigma * size)
    )
    own = source.at(sigma, strength_given=False).strength_unrolled
    strength = Strength(np.array([own * norm]), np.array([own * norm]))
    bank = FilterBank((filters[:, None],), "symmetric")
    return Model("mmr start", "mmr", bank, mask, strength, np.array([sigma]), Schedule("unrolled", 5, 12), {}, 1.0)


def main(words: list[str] | None = None) -> None:
    """Make and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters-of", required=True, metavar="NAME|PATH")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--sigma", type=float, default=25.0, metavar="S")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.safetensors")
    args = parser.parse_args(words)
    save_model(start_model(load_model(args.filters_of), args.channels, args.sigma / 255), args.output)


if __name__ == "__main__":
    main()
