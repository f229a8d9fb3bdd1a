"""Clean patches and noise levels for training, all from one seeded generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError

Image = NDArray[np.float32]


@dataclass(frozen=True)
class NoiseRange:
    """How sigma is drawn (8-bit scale): uniformly on low .. high with probability `spread`, else near one of `focus`.

    focus: levels that are wanted most, each as often as it is listed; drawn within 10 % of it, cut to the range.
    Raises InputError.
    """

    low: float
    high: float
    focus: tuple[float, ...] = ()
    spread: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise InputError(f"sigma range is {self.low:g} to {self.high:g}; expected 0 < low <= high")
        for level in self.focus:
            if not self.low <= level <= self.high:
                raise InputError(f"focus has {level:g}, outside of the sigma range {self.low:g} to {self.high:g}")
        if not 0 <= self.spread <= 1:
            raise InputError(f"spread is {self.spread:g}; expected a probability")

    def draw(self, rng: np.random.Generator) -> float:
        """One standard deviation for images on [0, 1]."""
        if not self.focus or rng.random() < self.spread:
            sigma = rng.uniform(self.low, self.high)
        else:
            sigma = self.focus[int(rng.integers(len(self.focus)))] * rng.uniform(0.9, 1.1)
        return float(np.clip(sigma, self.low, self.high)) / 255


def draw_patch(images: Sequence[torch.Tensor], side: int, rng: np.random.Generator) -> torch.Tensor:
    """(P, side, side) from a random place of a random image (P, H, W), turned by a random multiple of 90 degrees and
    mirrored or not.

    The images may lie on any device; only the numbers drawn come from the host.
    """
    image = images[int(rng.integers(len(images)))]
    row, column = (int(rng.integers(size - side + 1)) for size in image.shape[1:])
    patch = torch.rot90(image[:, row : row + side, column : column + side], int(rng.integers(4)), (1, 2))
    return patch.flip(1) if rng.integers(2) else patch


def stacked(image: Image, planes: int) -> torch.Tensor:
    """(P, H, W) of an image of that shape, or for one plane (H, W). Raises InputError for other planes."""
    tensor = torch.from_numpy(image).reshape(-1, *image.shape[-2:])
    if len(tensor) != planes:
        raise InputError(f"an image has {len(tensor)} planes; the network has {planes}")
    return tensor


def load_images(paths: Sequence[Path], read: Any, side: int) -> list[Image]:
    """float32 images on [0, 1], (H, W) or (P, H, W), all at least `side` pixels wide and high; `read` turns a path into
    one.

    Raises InputError where an image is smaller.
    """
    images = []
    for path in paths:
        image = read(path)
        height, width = image.shape[-2:]
        if min(height, width) < side:
            raise InputError(f"{path}: the image has {height} x {width} pixels; patches need {side} x {side}")
        images.append(image)
    return images
