"""The data term 1/2 ||H x - y||^2 in the primal-dual iteration, in two forms.

DiagonalData   H^T H is diagonal in Fourier (`operator.spectrum`): x is updated by the exact proximal map, the box by a dual variable v
DualData       any H: the residual H x - y has a dual variable p of its own, x is updated by projection onto the box

With z = W^T u, both make a step from x and their own dual variable (`extra`) to x_hat and extra_hat, and say how far they moved.
Step sizes are per image: tau for x, and for a dual variable the sigma that makes its share of tau sigma ||K||^2 <= 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from ..operators.base import Operator
from ..operators.fourier import workers

Array = NDArray[Any]
FloatVector = NDArray[np.float64]
Box = tuple[float, float]

SHARE = 0.5  # of tau sigma ||K||^2 <= 1 that goes to u; the rest to the other dual variable


class Measurements:
    """y (B, *shape_out) and the operators, one for all images or one each."""

    def __init__(self, operators: list[Operator], y: Array):
        self.operators, self.y = operators, y
        self.norm = np.array([op.norm for op in operators] * (len(y) if len(operators) == 1 else 1))

    def apply(self, x: Array, images: NDArray[np.int64]) -> Array:
        """H x for the images listed; x (n, H, W)."""
        if len(self.operators) == 1:
            return self.operators[0].apply(x)
        return np.stack([self.operators[b].apply(one) for b, one in zip(images, x, strict=True)])

    def adjoint(self, r: Array, images: NDArray[np.int64]) -> Array:
        """H^T r for the images listed."""
        if len(self.operators) == 1:
            return self.operators[0].adjoint(r)
        return np.stack([self.operators[b].adjoint(one) for b, one in zip(images, r, strict=True)])

    @property
    def diagonal(self) -> bool:
        """Whether every H^T H is diagonal in Fourier."""
        return all(op.spectrum is not None for op in self.operators)


@dataclass
class Move:
    """x_hat and extra_hat (n, ...), and ||x_hat - x||^2, ||extra_hat - extra||^2 (n,)."""

    x: Array
    extra: Array
    primal: FloatVector
    dual: FloatVector


class DataTerm(Protocol):
    """See the module. has_multiplier: whether the other dual variable is p, that of the residual."""

    has_multiplier: bool

    def start(self, x: Array) -> Array:
        """The other dual variable at the start, for all images."""

    def move(self, x: Array, extra: Array, z: Array, tau: FloatVector, images: NDArray[np.int64]) -> Move: ...


def squares(x: Array) -> FloatVector:
    """||x||^2 of each of n images."""
    flat = np.ascontiguousarray(x).reshape(len(x), -1)
    if np.iscomplexobj(flat):
        flat = flat.view(flat.real.dtype)
    sums: FloatVector = np.einsum("bi,bi->b", flat, flat, dtype=np.float64, optimize=False)
    return sums


def column(values: FloatVector, like: Array) -> Array:
    """(n,) so that it multiplies (n, ...) image by image, in the precision of `like`."""
    return values.astype(np.float32).reshape(-1, *[1] * (like.ndim - 1))


def clip(x: Array, box: Box | None) -> Array:
    """The projection onto the box."""
    return x if box is None else np.clip(x, np.float32(box[0]), np.float32(box[1]))


class DiagonalData:
    """Exact: (1 + tau H^T H)^-1 by Fourier multipliers; v is the dual variable of the box (none without a box)."""

    has_multiplier = False

    def __init__(self, measurements: Measurements, box: Box | None):
        self.measurements, self.box = measurements, box
        ops = measurements.operators
        everyone = np.arange(len(measurements.y))
        self.back = measurements.adjoint(measurements.y, everyone)
        self.spectrum = np.stack([np.asarray(op.spectrum, np.float32) for op in ops])
        if len(ops) == 1:
            self.spectrum = np.broadcast_to(self.spectrum, (len(everyone), *self.spectrum.shape[1:]))

    def start(self, x: Array) -> Array:
        """v = 0."""
        return np.zeros_like(x)

    def move(self, x: Array, extra: Array, z: Array, tau: FloatVector, images: NDArray[np.int64]) -> Move:
        """x_hat = (1 + tau H^T H)^-1 (x + tau (H^T y - z - v)); v_hat = t - sigma clip(t / sigma), t = v + sigma (2 x_hat - x)."""
        step = column(tau, x)
        right = x + step * (self.back[images] - z - extra)
        x_hat = self._solve(right, step, images)
        moved = x_hat - x
        if self.box is None:
            return Move(x_hat, extra, squares(moved), np.zeros(len(x)))
        sigma = (1 - SHARE) / step
        t = extra + sigma * (x_hat + moved)
        extra_hat = t - sigma * clip(t / sigma, self.box)
        return Move(x_hat, extra_hat, squares(moved), squares(extra_hat - extra))

    def _solve(self, right: Array, step: Array, images: NDArray[np.int64]) -> Array:
        factor = 1 + step * self.spectrum[images]
        if np.iscomplexobj(right):
            frequencies = scipy.fft.fft2(right, workers=workers()) / factor
            return np.asarray(scipy.fft.ifft2(frequencies, workers=workers()), np.complex64)
        half = right.shape[-1] // 2 + 1
        frequencies = scipy.fft.rfft2(right, workers=workers()) / factor[..., :half]
        return np.asarray(scipy.fft.irfft2(frequencies, s=right.shape[-2:], workers=workers()), np.float32)


class DualData:
    """Any H: p is the dual variable of the residual."""

    has_multiplier = True

    def __init__(self, measurements: Measurements, box: Box | None):
        self.measurements, self.box = measurements, box

    def start(self, x: Array) -> Array:
        """p = H x - y."""
        return self.measurements.apply(x, np.arange(len(x))) - self.measurements.y

    def move(self, x: Array, extra: Array, z: Array, tau: FloatVector, images: NDArray[np.int64]) -> Move:
        """x_hat = clip(x - tau (z + H^T p)); p_hat = (p + sigma (H (2 x_hat - x) - y)) / (1 + sigma)."""
        step = column(tau, x)
        x_hat = clip(x - step * (z + self.measurements.adjoint(extra, images)), self.box)
        moved = x_hat - x
        sigma = column((1 - SHARE) / (tau * self.measurements.norm[images] ** 2), extra)
        residual = self.measurements.apply(x_hat + moved, images) - self.measurements.y[images]
        extra_hat = (extra + sigma * residual) / (1 + sigma)
        return Move(x_hat, extra_hat, squares(moved), squares(extra_hat - extra))


def data_term(measurements: Measurements, box: Box | None) -> DiagonalData | DualData:
    """The exact form where the operators allow it."""
    return DiagonalData(measurements, box) if measurements.diagonal else DualData(measurements, box)
