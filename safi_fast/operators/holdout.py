"""Measurements left out of a reconstruction, which then show how well it predicts what it was not fitted to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..tensors import plain
from .base import Operator


def hold_out(operator: Operator, share: float, seed: int) -> tuple[Operator, NDArray[np.bool_]]:
    """The operator without a random share (0 to 1) of its measurements, and (*shape_out) which numbers it has lost.

    Left out are whole views of CT, samples of FourierMRI and SenseMRI in all coils at once (not those of the fully
    sampled centre, and for real images a sample together with its opposite), known pixels of Mask; of other operators
    single numbers. The new operator ignores measurements that it has lost. Raises InputError, also where all or none
    would be left out.
    """
    given, share = share, plain(share)
    share = float(share) if np.ndim(share) == 0 and np.asarray(share).dtype.kind in "iuf" else math.nan
    if not 0 < share < 1:
        raise InputError(
            f"holdout is {shown(given)}; expected a share of the measurements between 0 and 1, such as 0.1"
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed is {shown(seed)}; expected a whole number of at least 0")
    lots = operator._lots(np.random.default_rng(seed))
    drawn = np.sort(lots[np.isfinite(lots)])
    number = round(share * len(drawn))
    if not 0 < number < len(drawn):
        raise InputError(
            f"holdout is {share}, which leaves out {number} of {len(drawn)} measurements of {operator.name} that "
            "can be left out; "
            f"expected at least one on either side"
        )
    lost = np.broadcast_to(lots <= drawn[number - 1], operator.shape_out)
    return operator._without(lost) or Selected(operator, ~lost), lost


class Selected(Operator):
    """H x where `keep` is True, else zero. Values of a measurement where it is False do not matter."""

    def __init__(self, operator: Operator, keep: NDArray[np.bool_]):
        """keep: (*operator.shape_out). The norm of `operator` bounds that of a part of it."""
        super().__init__(
            operator.shape_in, operator.shape_out, image=operator.image, complex=operator.complex, norm=operator.norm
        )
        self._whole, self._keep = operator, keep
        self.averages, self.below_black, self.pace = operator.averages, operator.below_black, operator.pace

    @property
    def name(self) -> str:
        """That of the whole operator."""
        return self._whole.name

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._kept(self._whole.apply(x))

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._whole.adjoint(self._kept(y))

    def check_measurement(self, y: Any) -> NDArray[Any]:
        """As of the whole operator, then zero where `keep` is False."""
        return self._kept(self._whole.check_measurement(y))

    def _kept(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.where(self._keep, y, y.dtype.type(0))
