"""Downsample: H x = every factor-th sample of k * x, for super-resolution.

Low-resolution pixel i covers the pixels factor i to factor i + factor - 1 of the image, so it is sampled at their
centre, factor i + (factor - 1) / 2. The built-in kernels k are separable and sum to one:

    "bicubic"   Keys' cubic with a = -1/2, stretched by the factor (Keys, IEEE Trans. ASSP 29, 1981): with
                the symmetric boundary the anti-aliased bicubic reduction of most super-resolution benchmarks (imresize
                of MATLAB)
    "box"       the mean over the factor x factor block, as an ideal detector would measure
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..namespaces import namespace
from .base import Image, Operator, Pace, image_shape
from .blur import Blur, Boundary


class Downsample(Operator):
    """Anti-aliased decimation of images (H, W) to (h, w), h = ceil((H - (factor - 1) // 2) / factor): H / factor where
    it divides.
    """

    on_devices = True
    recordable = True
    pace = Pace(5, 30)

    def __init__(
        self,
        factor: int,
        shape: tuple[int, int],
        kernel: Any = "bicubic",
        boundary: Boundary = "symmetric",
        *,
        image: Image = "real",
        norm: float | None = None,
    ):
        """factor: at least 2. shape: (H, W) of an image. kernel: "bicubic", "box", or (h, w) real numbers as in Blur,
        whose centre side // 2 then lies at pixel factor i + (factor - 1) // 2. boundary: as in Blur. Raises InputError.
        """
        if isinstance(factor, bool) or not isinstance(factor, int | np.integer) or factor < 2:
            raise InputError(f"factor is {shown(factor)}; expected an integer of at least 2")
        shape = image_shape("shape", shape)
        self.factor, start = int(factor), (int(factor) - 1) // 2
        built_in = isinstance(kernel, str)
        if built_in:
            if kernel not in PROFILES:
                raise InputError(f"kernel is {shown(kernel)}; expected 'bicubic', 'box' or an array (h, w)")
            profile = PROFILES[kernel](self.factor)
            kernel = np.outer(profile, profile)
        self._blur = Blur(kernel, shape, boundary, image=image)
        self.averages = built_in or self._blur.averages  # the lobes of "bicubic" are small
        self._kept = (slice(None), slice(start, None, self.factor), slice(start, None, self.factor))
        small = (len(range(start, shape[0], self.factor)), len(range(start, shape[1], self.factor)))
        super().__init__(shape, small, image=image, complex=image == "complex", norm=norm)

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = namespace(x).ascontiguousarray(self._blur._apply(x)[self._kept])
        return result

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        spread = namespace(y).zeros((len(y), *self.shape_in), y.dtype)
        spread[self._kept] = y
        return self._blur._adjoint(spread)


def bicubic(factor: int) -> NDArray[np.float64]:
    """(taps,) Keys' cubic at the distances of pixels from the centre of a block; 4 factor taps, one less where it is
    odd.
    """
    reach = 2 * factor - (factor % 2)
    distance = np.abs(np.arange(-reach, reach + 1) if factor % 2 else np.arange(-reach, reach) + 0.5) / factor
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return np.asarray(taps / taps.sum())


def box(factor: int) -> NDArray[np.float64]:
    """(factor,) the mean."""
    return np.full(factor, 1 / factor)


PROFILES = {"bicubic": bicubic, "box": box}
