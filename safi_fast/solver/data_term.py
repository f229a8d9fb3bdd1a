"""The data term 1/2 ||H x - y||^2 in the primal-dual iteration, in two forms.

DiagonalData   H^T H is diagonal in Fourier (`operator.spectrum`): x is updated by the exact proximal map, the box by
a dual variable v
DualData       any H: the residual H x - y has a dual variable p of its own, x is updated by projection onto the box

With z = W^T u, both make a step from x and their own dual variable (`extra`) to x_hat and extra_hat, and say how far
they moved.
Step sizes are per image: tau for x, sigma for the dual variable; tau (sigma ||K||^2 of all dual variables together)
<= 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..namespaces import like, namespace, on_host, taken, to_host
from ..operators.base import Operator
from ..operators.fourier import forward, inverse, real_forward, real_inverse
from ..types import AnyArray, Box, FloatVector
from .faults import Culprit

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class DataTermSteps:
    """Constants: step size of p; share of the largest of H^T H below which is not divided when p is made for the
    certificate.
    """

    multiplier_sigma: float = 0.02
    spectrum_floor: float = 1e-2


class Measurements:
    """y (B, *shape_out), in NumPy or on a device, and the operators, one for all images or one each."""

    def __init__(self, operators: list[Operator], y: AnyArray):
        self.operators, self.y = operators, y
        self.norm = np.array([op.norm for op in operators] * (len(y) if len(operators) == 1 else 1))

    def apply(self, x: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        """H x for the images listed; x (n, H, W)."""
        if len(self.operators) == 1:
            return self.operators[0].apply(x)
        return namespace(x).stack([self.operators[b].apply(one) for b, one in zip(images, x, strict=True)])

    def adjoint(self, r: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        """H^T r for the images listed."""
        if len(self.operators) == 1:
            return self.operators[0].adjoint(r)
        return namespace(r).stack([self.operators[b].adjoint(one) for b, one in zip(images, r, strict=True)])

    def least_squares_step(self) -> AnyArray:
        """(B, H, W): the step of steepest descent from zero, s H^T y with s = ||H^T y||^2 / ||H H^T y||^2."""
        everyone = np.arange(len(self.y))
        back = self.adjoint(self.y, everyone)
        again = squares(self.apply(back, everyone))
        step = np.divide(squares(back), again, out=np.zeros(len(back)), where=again > 0)
        return back * column(step, back)

    @property
    def diagonal(self) -> bool:
        """Whether every H^T H is diagonal in Fourier."""
        return all(op.spectrum is not None for op in self.operators)


@dataclass
class Move:
    """x_hat and extra_hat (n, ...), and ||x_hat - x||^2, ||extra_hat - extra||^2 (n,)."""

    x: AnyArray
    extra: AnyArray
    primal: FloatVector
    dual: FloatVector


class DataTerm(Protocol):
    """See the module."""

    def start(self, x: AnyArray) -> AnyArray:
        """The other dual variable at the start, for all images."""

    def steps(self, own: FloatVector, images: NDArray[np.int64]) -> tuple[FloatVector, FloatVector]:
        """sigma of the other dual variable, and sigma ||K||^2, where that of u is `own`."""

    def move(
        self, x: AnyArray, extra: AnyArray, z: AnyArray, tau: FloatVector, sigma: FloatVector, images: NDArray[np.int64]
    ) -> Move: ...

    def multiplier(self, residual: AnyArray, slope: AnyArray, extra: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        """A p for the certificate of the images listed; residual = H x - y, slope = H^T residual + z."""

    def culprit(self, extra: AnyArray, x_hat: AnyArray, extra_hat: AnyArray) -> Culprit | None:
        """Which method of the operator made a `move` from `extra` to x_hat and extra_hat give values that are not
        finite, if one did.
        """


def squares(x: AnyArray) -> FloatVector:
    """||x||^2 of each of n images, in NumPy."""
    flat = namespace(x).ascontiguousarray(x).reshape(len(x), -1)
    if np.iscomplexobj(flat):
        flat = flat.view(np.float32)
    if not on_host(flat):
        return to_host((flat * flat).sum(axis=1, dtype=np.float64))
    sums: FloatVector = np.einsum("bi,bi->b", flat, flat, dtype=np.float64, optimize=False)
    return sums


def column(values: FloatVector, array: AnyArray) -> AnyArray:
    """(n,) so that it multiplies `array` (n, ...) image by image, in its precision and where it lies."""
    return like(values.astype(np.float32), array).reshape(-1, *[1] * (array.ndim - 1))


def finite(x: AnyArray) -> bool:
    """Whether all of it is."""
    return bool(namespace(x).isfinite(x).all())


def clip(x: AnyArray, box: Box | None) -> AnyArray:
    """The projection onto the box."""
    return x if box is None else namespace(x).clip(x, np.float32(box[0]), np.float32(box[1]))


class DiagonalData:
    """Exact: (1 + tau H^T H)^-1 by Fourier multipliers; v is the dual variable of the box (none without a box)."""

    def __init__(self, measurements: Measurements, box: Box | None, constants: DataTermSteps):
        self.measurements, self.box, self.constants = measurements, box, constants
        ops = measurements.operators
        everyone = np.arange(len(measurements.y))
        self.back = measurements.adjoint(measurements.y, everyone)
        self.spectrum = np.stack([np.asarray(op.spectrum, np.float32) for op in ops])
        if len(ops) == 1:
            self.spectrum = np.broadcast_to(self.spectrum, (len(everyone), *self.spectrum.shape[1:]))
        self.largest = self.spectrum.max(axis=(1, 2), keepdims=True)
        self.spectrum = like(self.spectrum, self.back)

    def start(self, x: AnyArray) -> AnyArray:
        """v = 0."""
        return namespace(x).zeros_like(x)

    def steps(self, own: FloatVector, images: NDArray[np.int64]) -> tuple[FloatVector, FloatVector]:
        """v moves as fast as z = W^T u does."""
        sigma = np.zeros_like(own) if self.box is None else own
        return sigma, sigma

    def move(
        self, x: AnyArray, extra: AnyArray, z: AnyArray, tau: FloatVector, sigma: FloatVector, images: NDArray[np.int64]
    ) -> Move:
        """x_hat = (1 + tau H^T H)^-1 (x + tau (H^T y - z - v)); v_hat = t - sigma clip(t / sigma), t = v + sigma (2
        x_hat - x).
        """
        step = column(tau, x)
        right = x + step * (taken(self.back, images) - z - extra)
        x_hat = self._solve(right, step, images)
        moved = x_hat - x
        if self.box is None:
            return Move(x_hat, extra, squares(moved), np.zeros(len(x)))
        long = column(sigma, x)
        t = extra + long * (x_hat + moved)
        extra_hat = t - long * clip(t / long, self.box)
        return Move(x_hat, extra_hat, squares(moved), squares(extra_hat - extra))

    def multiplier(self, residual: AnyArray, slope: AnyArray, extra: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        """p = residual - H w with H^T H w about slope + v: where H measures, neither slope nor the rounding of H x is
        left.
        """
        spectrum = taken(self.spectrum, images)
        floor = like(self.constants.spectrum_floor * self.largest[images], spectrum)
        w = _filtered(slope + extra, spectrum / (spectrum**2 + floor**2 + TINY))
        return residual - self.measurements.apply(w, images)

    def culprit(self, extra: AnyArray, x_hat: AnyArray, extra_hat: AnyArray) -> Culprit | None:
        """The step itself does not call the operator."""
        return None

    def _solve(self, right: AnyArray, step: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        return _filtered(right, 1 / (1 + step * taken(self.spectrum, images)))


class DualData:
    """Any H: p is the dual variable of the residual."""

    def __init__(self, measurements: Measurements, box: Box | None, constants: DataTermSteps):
        self.measurements, self.box, self.constants = measurements, box, constants

    def start(self, x: AnyArray) -> AnyArray:
        """p = H x - y."""
        return self.measurements.apply(x, np.arange(len(x))) - self.measurements.y

    def steps(self, own: FloatVector, images: NDArray[np.int64]) -> tuple[FloatVector, FloatVector]:
        """p lives on the scale of the measurements, whatever the regulariser."""
        sigma = np.full_like(own, self.constants.multiplier_sigma)
        return sigma, sigma * self.measurements.norm[images] ** 2

    def move(
        self, x: AnyArray, extra: AnyArray, z: AnyArray, tau: FloatVector, sigma: FloatVector, images: NDArray[np.int64]
    ) -> Move:
        """x_hat = clip(x - tau (z + H^T p)); p_hat = (p + sigma (H (2 x_hat - x) - y)) / (1 + sigma)."""
        step = column(tau, x)
        x_hat = clip(x - step * (z + self.measurements.adjoint(extra, images)), self.box)
        moved = x_hat - x
        long = column(sigma, extra)
        residual = self.measurements.apply(x_hat + moved, images) - taken(self.measurements.y, images)
        extra_hat = (extra + long * residual) / (1 + long)
        return Move(x_hat, extra_hat, squares(moved), squares(extra_hat - extra))

    def multiplier(self, residual: AnyArray, slope: AnyArray, extra: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        """The dual variable of the residual itself."""
        return extra

    def culprit(self, extra: AnyArray, x_hat: AnyArray, extra_hat: AnyArray) -> Culprit | None:
        """x_hat comes from H^T, extra_hat from H; `extra` may be bad from the start, where it is H x - y."""
        if not finite(extra):
            return "apply"
        if not finite(x_hat):
            return "adjoint"
        return None if finite(extra_hat) else "apply"


def _filtered(x: AnyArray, factor: AnyArray) -> AnyArray:
    """Images (n, H, W) times `factor` (n, H, W) in Fourier; that of real images is even."""
    if np.iscomplexobj(x):
        return inverse(forward(x) * factor).astype(np.complex64, copy=False)
    frequencies = real_forward(x) * factor[..., : x.shape[-1] // 2 + 1]
    return real_inverse(frequencies, x.shape[-2:]).astype(np.float32, copy=False)


def data_term(
    measurements: Measurements, box: Box | None, constants: DataTermSteps | None = None
) -> DiagonalData | DualData:
    """The exact form where the operators allow it."""
    form = DiagonalData if measurements.diagonal else DualData
    return form(measurements, box, DataTermSteps() if constants is None else constants)
