"""Where noise varies over the images of a workspace: what its kernels need of it, on the device (varying.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..varying import Varying
from .device import Device

OPTION = "-DVARYING=1"  # of image.cu


class NoiseMaps:
    """Of one workspace, whose images have the shape (B, H, W) or (B, P, H, W); `noise` is None where sigma is a
    number. The memory comes with the first maps and stays, since recordings know where it lies.
    """

    def __init__(self, device: Device, images: tuple[int, ...]):
        self.device, self.images = device, images
        self.noise: Varying | None = None
        self._variance: Any = None
        self._levels: Any = None
        self.sum: Any = None  # of the masks at several levels

    def load(self, noise: Varying, masks: tuple[int, ...]) -> None:
        """masks: the shape of M on the device."""
        if self.sum is None:
            self._variance = self.device.empty(self.images, np.float32)
            self.sum = self.device.empty(masks, np.float32)
        variance = noise.variance if len(self.images) == 3 else noise.variance[:, None]
        self.device.write(self._variance, np.ascontiguousarray(np.broadcast_to(variance, self.images)))
        self._levels = self.device.upload(noise.shares * noise.weight[:, None])
        self.noise = noise

    @property
    def variance(self) -> Any:
        """What the kernels of image.cu take: (B, P, H, W) or None."""
        return None if self.noise is None else self._variance

    @property
    def options(self) -> tuple[str, ...]:
        """Of image.cu, beside the usual ones."""
        return () if self.noise is None else (OPTION,)

    def level(self, number: int, count: int) -> tuple[Any, ...]:
        """What `weigh_mask` takes of one of the levels."""
        return self._levels, np.int32(number), np.int32(count)

    def without_weight(self, masks: NDArray[np.float32]) -> NDArray[np.float32]:
        """M (B, C, H, W) of what the kernels take for M."""
        return masks if self.noise is None else masks / self.noise.weight[:, None]
