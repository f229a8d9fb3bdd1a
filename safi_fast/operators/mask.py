"""Mask: H x = m . x, for inpainting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..namespaces import namespace
from .base import Image, Operator, Pace, boolean
from .filling import filled

ZEROS, LESS = (
    0.02,
    10,
)  # share of known pixels that are zero from which on a mask is doubted; times fewer with its axes exchanged


class Mask(Operator):
    """H x = m . x with a mask m of True (known) and False (missing). Images and measurements (H, W); norm 1.

    Values of a measurement where m is False do not matter.
    """

    averages = True
    on_devices = True
    recordable = True
    pace = Pace(6, 25, 0.85)  # what is missing is filled in from afar

    def __init__(self, mask: Any, *, image: Image = "real"):
        """mask: (H, W), boolean or of 0 and 1. Raises InputError, OperatorError for a mask without a single True."""
        known = boolean("mask", mask)
        if known.ndim != 2:
            raise InputError(f"mask has shape {known.shape}; expected (H, W)")
        super().__init__(known.shape, known.shape, image=image, complex=image == "complex", norm=1.0)
        known.flags.writeable = False
        self.mask = known

    def first_image(self, y: NDArray[Any]) -> NDArray[Any]:
        """With smooth values where none are known."""
        return filled(y, self._here("mask", y))

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = namespace(x).where(self._here("mask", x), x, x.dtype.type(0))
        return result

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._apply(y)

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(x)

    def _lots(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return np.where(self.mask, rng.random(self.mask.shape), np.inf)

    def _without(self, lost: NDArray[np.bool_]) -> Operator:
        return Mask(self.mask & ~lost, image=self.image)

    def _check_own(self, y: Any) -> None:
        """Refuse zeros where the mask has known pixels, if there are next to none with its axes exchanged.

        Raises InputError.
        """
        turned = self.mask.T
        if turned.shape != self.mask.shape or (turned == self.mask).all():
            return
        blank = np.asarray(self._checked("measurement", y, self.shape_out, self._measured)) == 0
        zeros, others = (float(blank[..., known].mean()) for known in (self.mask, turned))
        if zeros > ZEROS and others < zeros / LESS:
            raise InputError(
                f"measurement and mask do not fit: {100 * zeros:.2g} % of the pixels that the mask keeps are "
                f"exactly zero, but {100 * others:.2g} % "
                "with its axes exchanged; pass mask.T"
            )

    def check_measurement(self, y: Any) -> NDArray[Any]:
        """y (..., H, W), zero where the mask is False, whatever it was there. Raises InputError as in Operator."""
        array = self._checked("measurement", y, self.shape_out, self._measured)
        return super().check_measurement(np.where(self.mask, array, array.dtype.type(0)))
