"""Measurements that are not all equally sure: weighted least squares, 1/2 sum_i w_i (H x - y)_i^2.

    H = Weighted(operator, weights)
    found = reconstruct(H.measured(y), H, strength=...)

w_i = 1 / variance_i makes it the log-likelihood of Gaussian noise. For counts, whose noise is that of Poisson, the two
functions below give y and w of the usual second-order expansion of the log-likelihood (Sauer and Bouman, IEEE Trans.
Signal Process. 41, 1993):

    y, w = transmission(counts, blank)              CT: counts behind the object, and without it
    y, w = emission(counts, attenuation, background)    PET, SPECT

Variances are those of the counts smoothed along the detector: weights from single small counts would favour those that
came out too small.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OperatorError
from .base import Operator, real_numbers

LEAST_COUNT = 0.5  # instead of none: has a logarithm and a variance
SMOOTH = 2.0  # standard deviation in detector cells of the mean that stands for the expected count


class Weighted(Operator):
    """sqrt(w) H for an operator H and weights w >= 0 that broadcast to its shape_out.

    measured(y) is sqrt(w) y. A common factor of the weights acts as 1 / strength: those of `transmission` and
    `emission` have mean one. Raises InputError for other weights, OperatorError where all are zero.
    """

    def __init__(self, operator: Operator, weights: Any, *, norm: float | None = None):
        if not isinstance(operator, Operator):
            raise InputError(f"operator is a {type(operator).__name__}; expected an Operator")
        values = real_numbers("weights", weights)
        try:
            values = np.broadcast_to(values, operator.shape_out)
        except ValueError:
            raise InputError(f"weights has shape {values.shape}; expected {operator.shape_out} or less") from None
        if (values < 0).any():
            raise InputError(f"weights has values down to {values.min():.3g}; expected none below 0")
        if not values.any():
            raise OperatorError("weights is zero everywhere: nothing is measured")
        super().__init__(
            operator.shape_in, operator.shape_out, image=operator.image, complex=operator.complex, norm=norm
        )
        self.operator, self.root = operator, np.sqrt(values).astype(np.float32)
        self.on_devices, self.recordable = operator.on_devices, operator.recordable
        self.start_steps, self.residual_step = operator.start_steps, operator.residual_step
        self.pace = operator.pace
        self.likely_causes, self.below_black = operator.likely_causes, operator.below_black

    def measured(self, y: Any) -> NDArray[Any]:
        """sqrt(w) y for measurements y (..., *shape_out) of H, checked as its own. Raises InputError."""
        array = self.operator.check_measurement(y)
        self.operator._check_own(array)
        result: NDArray[Any] = array * self._here("root", array)
        return result

    def first_image(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """That of H, where no weight is zero."""
        return None if (self.root == 0).any() else self.operator.first_image(y / self._here("root", y))

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        y = self.operator.apply(x)
        result: NDArray[Any] = y * self._here("root", y)
        return result

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = self.operator.adjoint(y * self._here("root", y))
        return result

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        return super()._normal(x) if self._cheaper is None else self._cheaper(x)

    @cached_property
    def _cheaper(self) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        return self.operator._weighted_normal(self.root**2)

    def _norm_bound(self) -> float:
        return float(self.root.max()) * self.operator.norm

    def _lots(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return self.operator._lots(rng)

    @property
    def kept_bytes(self) -> int:
        """Those of the operator inside."""
        return self.operator.kept_bytes


def transmission(counts: Any, blank: Any, *, background: Any = 0.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Line integrals -log((counts - background) / blank) and weights of mean one, both of the shape of `counts`.

    counts: of photons that came through, 0 or more. blank: expected without an object, a number or an array that
    broadcasts. background: expected scatter and the like. The weight is (expected - background)^2 / expected, the
    inverse variance of the line integral; where hardly anything came through it is almost zero. Raises InputError.
    """
    seen, through, expected = _counted(counts, background)
    full = _positive("blank", blank, seen.shape)
    line = -np.log(np.maximum(through, LEAST_COUNT) / full)
    passed = np.maximum(expected - (seen - through), LEAST_COUNT)
    return line.astype(np.float32), _of_mean_one(passed**2 / np.maximum(expected, LEAST_COUNT))


def emission(
    counts: Any, attenuation: Any = 1.0, background: Any = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(counts - background) / attenuation, which is H x but for noise, and weights of mean one.

    counts: coincidences of each line, expected to be attenuation (H x) + background. attenuation: the share that gets
    out of the object, times the sensitivity of the line; more than 0. background: expected randoms and scatter. The
    weight is attenuation^2 / expected counts. Raises InputError.
    """
    _, true, expected = _counted(counts, background)
    share = _positive("attenuation", attenuation, true.shape)
    return (true / share).astype(np.float32), _of_mean_one(share**2 / np.maximum(expected, LEAST_COUNT))


def _counted(counts: Any, background: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Counts, counts less the background, and what was expected in their place: a smooth mean along the detector."""
    from scipy.ndimage import gaussian_filter1d  # which not everybody waits for

    seen = real_numbers("counts", counts)
    if not seen.size:
        raise InputError(f"counts is empty: its shape is {seen.shape}")
    if (seen < 0).any():
        raise InputError(f"counts has values down to {seen.min():.3g}; expected none below 0")
    try:
        beside = np.broadcast_to(real_numbers("background", background), seen.shape)
    except ValueError:
        raise InputError(f"background has shape {np.shape(background)}; expected {seen.shape} or less") from None
    return seen, seen - beside, gaussian_filter1d(seen, SMOOTH, mode="nearest") if seen.ndim else seen


def _positive(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.broadcast_to(real_numbers(name, value), shape)
    except ValueError:
        raise InputError(f"{name} has shape {np.shape(value)}; expected {shape} or less") from None
    if not (array > 0).all():
        raise InputError(f"{name} has values down to {array.min():.3g}; expected more than 0")
    return array


def _of_mean_one(weights: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(weights / weights.mean(), np.float32)
