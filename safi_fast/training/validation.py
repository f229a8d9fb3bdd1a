"""PSNR of a network on fixed noisy crops, with the boundary and the schedule of the model that is exported."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .data import Image
from .network import Network

CROP = 128  # pixels
BATCH = 4  # crops at once


class Validation:
    """Centre crops of clean images (grey, on [0, 1]) with noise that depends on seed, level and place only.

    levels: sigma on the 8-bit scale. Raises InputError.
    """

    def __init__(self, images: Sequence[Image], levels: Sequence[float], side: int = CROP, seed: int = 0):
        if not images or not levels:
            raise InputError("validation needs at least one image and one noise level")
        small = min(min(image.shape) for image in images)
        side = min(side, small)
        self.clean = torch.from_numpy(np.stack([_centre(image, side) for image in images])[:, None])
        self.levels, self.seed = tuple(levels), seed

    def measure(self, network: Network, outer: int, inner: int) -> dict[str, float]:
        """Mean PSNR in dB by level, as text on the 8-bit scale."""
        return {f"{level:g}": self._mean(network, level, outer, inner) for level in self.levels}

    def _mean(self, network: Network, level: float, outer: int, inner: int) -> float:
        values: list[float] = []
        with torch.no_grad():
            for first in range(0, len(self.clean), BATCH):
                clean = self.clean[first : first + BATCH]
                noise = [self._noise(first + i, clean.shape[-1], level) for i in range(len(clean))]
                sigma = torch.full((len(clean),), level / 255)
                x = network(clean + level / 255 * torch.from_numpy(np.stack(noise)), sigma, outer, inner)
                values += (-10 * torch.log10((x - clean).double().square().mean((1, 2, 3)))).tolist()
        return float(np.mean(values))

    def _noise(self, index: int, side: int, level: float) -> Any:
        rng = np.random.default_rng([self.seed, index, round(1000 * level)])
        return rng.standard_normal((1, side, side), dtype=np.float32)


def _centre(image: Image, side: int) -> Image:
    row, column = ((size - side) // 2 for size in image.shape)
    return image[row : row + side, column : column + side]
