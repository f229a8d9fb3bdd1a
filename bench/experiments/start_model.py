"""A model to start training from: the strongest filters of a SAFI model, with its mask or a simple one.

    python -m bench.experiments.start_model --filters-of safi-gray --channels 32 --output OUT.safetensors
    python -m bench.experiments.start_model --filters-of safi-gray --channels 64 --mask-layers 2 \\
        --output OUT.safetensors
    python -m bench.experiments.start_model --filters-of safi-gray --channels 32 --family mmr --sigma 25 \\
        --output OUT.safetensors

--family safi keeps the mask layers of the chosen channels: the first and the last with --mask-layers 2; with 4 a 3 x 3
layer that changes nothing is put before the last. With 1 only the first is left, and a 1 x 1 layer that changes nothing
follows it, since a file has two or more: train with --fixed convolutions.1 splines.1, so that it stays so. --family
mmr, which is for one noise level, has a mask that falls with the local filter response. Nothing is fitted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safi_fast import load_model
from safi_fast.masks import MmrMask, SafiMask
from safi_fast.model import FilterBank, Model, Schedule, Strength
from safi_fast.weights import save_model

KNOTS = 21
SMOOTHING = 7  # side in pixels of both layers of G
REACH = 1.2  # the mask has fallen to 0 where the smoothed response is this many times the noise in it
LAYERS = {1: (0,), 2: (0, 2), 3: (0, 1, 2)}

Filters = NDArray[np.float64]


def strongest(source: Model, channels: int) -> tuple[NDArray[np.intp], Filters, float]:
    """Their numbers in ascending order, the filters (C, K, K) scaled together to ||W|| = 1, and the norm divided by."""
    filters = source.filters.composed()[:, 0].astype(np.float64)
    chosen = np.sort(np.argsort(-(filters**2).sum((1, 2)))[:channels])
    filters = filters[chosen]
    norm = float(np.sqrt((abs(np.fft.fft2(filters, (96, 96))) ** 2).sum(0).max()))
    return chosen, filters / norm, norm


def safi_model(source: Model, channels: int, layers: int) -> Model:
    """A SAFI model for all levels of `source`, its mask generator cut to the chosen channels and this many layers."""
    if not isinstance(source.mask, SafiMask):
        raise SystemExit(f"--filters-of names a model of the family {source.family}; expected safi")
    chosen, filters, norm = strongest(source, channels)
    mask, kept = source.mask, LAYERS[min(layers, 3)]
    convolutions = [mask.convolutions[i][chosen][:, chosen if i else [0]] for i in kept]
    splines = [mask.splines[i][chosen] for i in kept]
    dilations = [mask.dilations[i] for i in kept]
    if layers in (1, 4):
        place, side = (1, 1) if layers == 1 else (2, 3)
        same = np.zeros((channels, channels, side, side), np.float32)
        same[range(channels), range(channels), side // 2, side // 2] = 1
        convolutions.insert(place, same)
        splines.insert(place, np.linspace(-1, 1, splines[0].shape[1], dtype=np.float32)[None].repeat(channels, 0))
        dilations.insert(place, 1)
    part = SafiMask(
        tuple(convolutions), tuple(dilations), tuple(splines), mask.gain[:, chosen], mask.bias[:, chosen], mask.boundary
    )
    strength = Strength(source.strength.unrolled * norm, source.strength.converged * norm)
    bank = FilterBank((filters[:, None],), "symmetric")
    return Model("safi start", "safi", bank, part, strength, source.noise_levels, source.schedule, {}, 1.0)


def mmr_model(source: Model, channels: int, sigma: float) -> Model:
    """An MMR model for sigma (on [0, 1])."""
    _, filters, norm = strongest(source, channels)
    size = np.sqrt((filters**2).sum((1, 2)))
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
    parser.add_argument("--family", choices=("safi", "mmr"), default="safi")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--mask-layers", type=int, choices=(1, 2, 3, 4), default=3)
    parser.add_argument("--sigma", type=float, default=25.0, metavar="S", help="noise level of an mmr model")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.safetensors")
    args = parser.parse_args(words)
    source = load_model(args.filters_of)
    if args.family == "safi":
        model = safi_model(source, args.channels, args.mask_layers)
    else:
        model = mmr_model(source, args.channels, args.sigma / 255)
    save_model(model, args.output)


if __name__ == "__main__":
    main()
