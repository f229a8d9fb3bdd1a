"""Identity: H x = x, for denoising as an inverse problem."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Image, Operator, Pace


class Identity(Operator):
    """H x = x. Images and measurements (H, W), real or complex; norm 1, spectrum 1."""

    averages = True
    on_devices = True
    pace = Pace(4, 37)

    def __init__(self, shape: tuple[int, int], *, image: Image = "real"):
        """shape: (H, W). Raises InputError."""
        super().__init__(shape, shape, image=image, complex=image == "complex", norm=1.0)

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        return x.copy()

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        return y.copy()

    @property
    def spectrum(self) -> NDArray[np.float32]:
        """(H, W) of ones."""
        return np.ones(self.shape_in, np.float32)
