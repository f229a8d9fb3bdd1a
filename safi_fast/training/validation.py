"""PSNR of a network on fixed noisy crops, with the boundary and the schedule of the model that is exported.

On the CPU the exported model is run by the engine, which is many times faster than torch and is what users get;
elsewhere the network itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..api import Solver
from ..errors import InputError
from ..model import Schedule
from .data import Image
from .network import Network
from .spline import by_kernels

CROP = 128  # pixels
BATCH = 4  # crops at once


class Validation:
    """Centre crops of clean images ((H, W), or (P, H, W) for P planes, on [0, 1]) with noise that depends on seed,
    level and place only.

    levels: sigma on the 8-bit scale. Raises InputError.
    """

    def __init__(self, images: Sequence[Image], levels: Sequence[float], side: int = CROP, seed: int = 0):
        if not images or not levels:
            raise InputError("validation needs at least one image and one noise level")
        small = min(min(image.shape[-2:]) for image in images)
        side = min(side, small)
        self.clean = np.stack([_centre(image, side) for image in images])
        self.levels, self.seed = tuple(levels), seed

    def measure(self, network: Network, outer: int, inner: int) -> dict[str, float]:
        """Mean PSNR in dB by level, as text on the 8-bit scale."""
        solver = None
        if by_kernels(network.gain.device):
            model = network.to_model("validation", Schedule("unrolled", outer, inner), {})
            solver = Solver(model, backend="cpu", threads=torch.get_num_threads())
        means = {}
        axis = 1 if network.planes > 1 else None
        for level in self.levels:
            errors: list[float] = []
            for first in range(0, len(self.clean), BATCH):
                clean = self.clean[first : first + BATCH]
                noisy = clean + np.float32(level / 255) * self._noise(first, clean.shape, level)
                if solver is not None:
                    x = solver.denoise(noisy, level / 255, box=(0.0, 1.0), channel_axis=axis)
                else:
                    x = _by_torch(network, noisy, level / 255, outer, inner)
                errors += np.square(x - clean, dtype=np.float64).reshape(len(x), -1).mean(1).tolist()
            means[f"{level:g}"] = float(np.mean(-10 * np.log10(errors)))
        return means

    def _noise(self, first: int, shape: tuple[int, ...], level: float) -> NDArray[np.float32]:
        """As many as `shape`, deviation 1, for the crops from number `first` on."""
        draws = [np.random.default_rng([self.seed, first + i, round(1000 * level)]) for i in range(shape[0])]
        return np.stack([rng.standard_normal((1, *shape[1:]), dtype=np.float32)[0] for rng in draws])


def _by_torch(network: Network, noisy: NDArray[np.float32], sigma: float, outer: int, inner: int) -> Any:
    device = network.gain.device
    with torch.no_grad():
        y = torch.from_numpy(noisy).reshape(len(noisy), network.planes, *noisy.shape[-2:]).to(device)
        made = network(y, torch.full((len(y),), sigma, device=device), outer, inner)
        return made.reshape(noisy.shape).cpu().numpy()


def _centre(image: Image, side: int) -> Image:
    row, column = ((size - side) // 2 for size in image.shape[-2:])
    return image[..., row : row + side, column : column + side]
