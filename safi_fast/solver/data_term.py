"""The data term 1/2 ||H x - y||^2 in the primal-dual iteration, in two forms.

DiagonalData   H^T H is diagonal in Fourier (`operator.spectrum`): x is updated by the exact proximal map, the box by
a dual variable v
DualData       any H: the residual H x - y has a dual variable p of its own, x is updated by projection onto the box

With z = W^T u, both make a step from x and their own dual variable (`extra`) to x_hat and extra_hat, and say how far
they moved.
Step sizes are per image: sigma for each dual variable; for x a metric P, a multiplier in Fourier, which is not less
than the sum of sigma K^T K over all dual variables (metric.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..errors import OperatorError
from ..namespaces import like, namespace, on_host, taken, to_host
from ..operators.base import Operator
from ..operators.fourier import forward, inverse, real_forward, real_inverse
from ..types import AnyArray, Box, FloatVector
from .faults import Culprit
from .metric import bound

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class DataTermSteps:
    """Constants: step size of p where the operator does not say (`residual_step`); that of the box's dual variable, as
    a share of that of u; share of the largest of H^T H below which is not divided when p is made for the certificate.
    """

    multiplier_sigma: float = 0.02
    box_sigma: float = 0.2
    spectrum_floor: float = 1e-2


class Measurements:
    """y (B, *shape_out), in NumPy or on a device, and the operators, one for all images or one each.

    Images of several planes have an axis for them behind that of the batch, and so have their measurements: H acts on
    each plane.
    """

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

    def first_images(self, usual: AnyArray) -> AnyArray | None:
        """(B, H, W): those that the operators have for these measurements, else those of `usual`; None where none has
        any. Raises OperatorError for others than images of finite values.
        """
        if len(self.operators) == 1:
            found = self.operators[0].first_image(self.y)
        else:
            own = [op.first_image(y[None]) for op, y in zip(self.operators, self.y, strict=True)]
            if all(one is None for one in own):
                return None
            images = [usual[b : b + 1] if one is None else one for b, one in enumerate(own)]
            found = namespace(self.y).concatenate(images)
        if found is not None and (found.shape != usual.shape or not finite(found)):
            raise OperatorError(
                f"{self.operators[0].name}: first_image gave {found.shape}; expected finite values, {usual.shape}"
            )
        return found

    def least_squares_step(self) -> AnyArray:
        """(B, H, W): the step of steepest descent from zero, s H^T y with s = ||H^T y||^2 / ||H H^T y||^2."""
        everyone = np.arange(len(self.y))
        back = self.adjoint(self.y, everyone)
        again = squares(self.apply(back, everyone))
        step = np.divide(squares(back), again, out=np.zeros(len(back)), where=again > 0)
        return back * column(step, back)

    def conjugate_gradients(self, steps: int) -> AnyArray:
        """(B, H, W): so many steps of CGLS from zero towards the least-squares image (Hestenes and Stiefel 1952); one
        is `least_squares_step`.
        """
        everyone, residual = np.arange(len(self.y)), self.y
        slope = self.adjoint(residual, everyone)
        x, direction, power = slope * np.float32(0), slope, squares(slope)
        for _ in range(steps):
            seen = self.apply(direction, everyone)
            again = squares(seen)
            length = np.divide(power, again, out=np.zeros(len(x)), where=again > 0)
            x = x + direction * column(length, x)
            residual = residual - seen * column(length, seen)
            slope, before = self.adjoint(residual, everyone), power
            power = squares(slope)
            share = np.divide(power, before, out=np.zeros(len(x)), where=before > 0)
            direction = slope + direction * column(share, direction)
        return x

    @property
    def planes(self) -> tuple[int, ...]:
        """(P,), or () for images of one plane."""
        return self.y.shape[1 : self.y.ndim - len(self.operators[0].shape_out)]  # type: ignore[no-any-return]

    def normal(self, x: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        """H^T H x for the images listed."""
        if len(self.operators) == 1:
            return self.operators[0].normal(x)
        return namespace(x).stack([self.operators[b].normal(one) for b, one in zip(images, x, strict=True)])

    @property
    def diagonal(self) -> bool:
        """Whether every H^T H is diagonal in Fourier."""
        return all(op.spectrum is not None for op in self.operators)


@dataclass
class Move:
    """x_hat and extra_hat (n, ...), and ||x_hat - x||^2, ||extra_hat - extra||^2 (n,) in the metric of steps."""

    x: AnyArray
    extra: AnyArray
    primal: FloatVector
    dual: FloatVector


class DataTerm(Protocol):
    """See the module."""

    def start(self, x: AnyArray) -> AnyArray:
        """The other dual variable at the start, for all images."""

    def choose_steps(self, own: FloatVector) -> FloatVector:
        """Step sizes of the other dual variables, where that of u times ||W||^2 is `own` (B,); the most that they take
        of P.
        """

    def share(self) -> AnyArray:
        """What the other dual variables take of P, so that it broadcasts to (B, H, W)."""

    def move(self, x: AnyArray, extra: AnyArray, z: AnyArray, metric: AnyArray, images: NDArray[np.int64]) -> Move:
        """A step of the images listed; metric (n, H, W): P in FFT order."""

    sign: float  # of <moved, slope> of `direction` in ||x_hat - x||^2

    @property
    def box_first(self) -> int | None:
        """Where v begins in `extra` of an image, None without a box."""

    @property
    def step_sizes(self) -> tuple[FloatVector, FloatVector | None]:
        """(B,) of v and of p; None where there is no p."""

    @property
    def curvature(self) -> AnyArray:
        """A multiplier in FFT order, so that it broadcasts to (B, H, W), of which H^T H is not more."""

    def box_dual(self, extra: AnyArray) -> AnyArray | None:
        """v of all images, None without a box."""

    def fixed(self, metric: AnyArray, x: AnyArray, images: NDArray[np.int64]) -> tuple[AnyArray, ...]:
        """What `direction` needs in every step of the images listed; metric (n, H, W): P in FFT order."""

    def direction(
        self, x: AnyArray, extra: AnyArray, z: AnyArray, fixed: tuple[AnyArray, ...], images: NDArray[np.int64]
    ) -> tuple[AnyArray, AnyArray]:
        """x_hat - x of the images listed, and an image whose product with it is ||x_hat - x||^2 in the metric."""

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

    sign = 1.0

    def __init__(self, measurements: Measurements, box: Box | None, constants: DataTermSteps):
        self.measurements, self.box, self.constants = measurements, box, constants
        ops = measurements.operators
        everyone = np.arange(len(measurements.y))
        self.back = measurements.adjoint(measurements.y, everyone)
        self.spectrum = np.stack([np.asarray(op.spectrum, np.float32) for op in ops])
        if len(ops) == 1:
            self.spectrum = np.broadcast_to(self.spectrum, (len(everyone), *self.spectrum.shape[1:]))
        self.spectrum = for_planes(self.spectrum, measurements)
        self.largest = self.spectrum.max(axis=(-2, -1), keepdims=True)
        self.spectrum = like(self.spectrum, self.back)

    def start(self, x: AnyArray) -> AnyArray:
        """v = 0."""
        return namespace(x).zeros_like(x)

    def choose_steps(self, own: FloatVector) -> FloatVector:
        """v moves as z = W^T u does, more slowly."""
        self.sigma = np.zeros_like(own) if self.box is None else self.constants.box_sigma * own
        return self.sigma

    @property
    def box_first(self) -> int | None:
        """See `DataTerm`."""
        return None if self.box is None else 0

    @property
    def step_sizes(self) -> tuple[FloatVector, None]:
        """See `DataTerm`."""
        return self.sigma, None

    def share(self) -> AnyArray:
        """That of v."""
        return column(self.sigma, self.back)

    @property
    def curvature(self) -> AnyArray:
        """H^T H itself."""
        return self.spectrum

    def box_dual(self, extra: AnyArray) -> AnyArray | None:
        """See `DataTerm`."""
        return None if self.box is None else extra

    def fixed(self, metric: AnyArray, x: AnyArray, images: NDArray[np.int64]) -> tuple[AnyArray, ...]:
        """See `DataTerm`: H^T y, H^T H, P, and their sum."""
        spectrum = taken(self.spectrum, images)
        return taken(self.back, images), half(spectrum, x), half(metric, x), half(metric + spectrum, x)

    def direction(
        self, x: AnyArray, extra: AnyArray, z: AnyArray, fixed: tuple[AnyArray, ...], images: NDArray[np.int64]
    ) -> tuple[AnyArray, AnyArray]:
        """x_hat = (P + H^T H)^-1 (P x + H^T y - z - v), written as x + (P + H^T H)^-1 (H^T y - z - v - H^T H x)."""
        back, spectrum, metric, both = fixed
        change = (frequencies(back - z - extra) - spectrum * frequencies(x)) / both
        return image_of(change, x), image_of(change * metric, x)

    def move(self, x: AnyArray, extra: AnyArray, z: AnyArray, metric: AnyArray, images: NDArray[np.int64]) -> Move:
        """Along `direction`, and v as the box asks."""
        moved, weighted = self.direction(x, extra, z, self.fixed(metric, x, images), images)
        x_hat, primal = x + moved, products(moved, weighted)
        if self.box is None:
            return Move(x_hat, extra, primal, np.zeros(len(x)))
        v, dual = box_step(extra, x_hat + moved, self.sigma[images], self.box)
        return Move(x_hat, v, primal, dual)

    def multiplier(self, residual: AnyArray, slope: AnyArray, extra: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        """p = residual - H w with H^T H w about slope + v: where H measures, neither slope nor the rounding of H x is
        left.
        """
        spectrum = taken(self.spectrum, images)
        floor = like(self.constants.spectrum_floor * self.largest[images], spectrum)
        divided = frequencies(slope + extra) * half(spectrum / (spectrum**2 + floor**2 + TINY), slope)
        w = image_of(divided, slope)
        return residual - self.measurements.apply(w, images)

    def culprit(self, extra: AnyArray, x_hat: AnyArray, extra_hat: AnyArray) -> Culprit | None:
        """The step itself does not call the operator."""
        return None


class DualData:
    """Any H: p is the dual variable of the residual, v that of the box; both in one array (n, N) of real numbers."""

    sign = -1.0

    def __init__(self, measurements: Measurements, box: Box | None, constants: DataTermSteps):
        self.measurements, self.box, self.constants = measurements, box, constants
        bounds = [_bound(op) for op in measurements.operators]
        shape = np.broadcast_shapes(*(one.shape for one in bounds))
        self.bound = for_planes(np.stack([np.broadcast_to(one, shape) for one in bounds]), measurements)

    def start(self, x: AnyArray) -> AnyArray:
        """p = H x - y, v = 0."""
        self.bound = like(self.bound, x)
        p = self.measurements.apply(x, np.arange(len(x))) - self.measurements.y
        return self._together(p, None if self.box is None else namespace(x).zeros_like(x))

    def choose_steps(self, own: FloatVector) -> FloatVector:
        """p lives on the scale of the measurements, whatever the regulariser; v moves as z does, more slowly."""
        sizes = [op.residual_step or self.constants.multiplier_sigma for op in self.measurements.operators]
        self.sigma = np.zeros_like(own) + np.array(sizes)
        self.box_sigma = np.zeros_like(own) if self.box is None else self.constants.box_sigma * own
        return np.asarray(self.sigma * self.measurements.norm**2 + self.box_sigma)

    def share(self) -> AnyArray:
        """Those of p and of v."""
        return column(self.sigma, self.bound) * self.bound + column(self.box_sigma, self.bound)

    @property
    def curvature(self) -> AnyArray:
        """The bound that step sizes come from."""
        return self.bound

    def box_dual(self, extra: AnyArray) -> AnyArray | None:
        """See `DataTerm`."""
        return self._apart(extra)[1]

    def fixed(self, metric: AnyArray, x: AnyArray, images: NDArray[np.int64]) -> tuple[AnyArray, ...]:
        """See `DataTerm`: P."""
        return (half(metric, x),)

    def direction(
        self, x: AnyArray, extra: AnyArray, z: AnyArray, fixed: tuple[AnyArray, ...], images: NDArray[np.int64]
    ) -> tuple[AnyArray, AnyArray]:
        """x_hat = x - P^-1 (z + H^T p + v), and that slope."""
        p, v = self._apart(extra)
        slope = z + self.measurements.adjoint(p, images)
        slope = slope if v is None else slope + v
        return -image_of(frequencies(slope) / fixed[0], x), slope

    def move(self, x: AnyArray, extra: AnyArray, z: AnyArray, metric: AnyArray, images: NDArray[np.int64]) -> Move:
        """Along `direction`; p_hat = (p + sigma (H (2 x_hat - x) - y)) / (1 + sigma), and v as the box asks."""
        moved, slope = self.direction(x, extra, z, self.fixed(metric, x, images), images)
        p, v = self._apart(extra)
        ahead = x + 2 * moved
        long = column(self.sigma[images], p)
        p_hat = (p + long * (self.measurements.apply(ahead, images) - taken(self.measurements.y, images))) / (1 + long)
        dual = squares(p_hat - p) / self.sigma[images]
        v_hat = None
        if v is not None and self.box is not None:
            v_hat, more = box_step(v, ahead, self.box_sigma[images], self.box)
            dual = dual + more
        return Move(x + moved, self._together(p_hat, v_hat), -products(moved, slope), dual)

    @property
    def box_first(self) -> int | None:
        """See `DataTerm`."""
        return None if self.box is None else self._residuals

    @property
    def step_sizes(self) -> tuple[FloatVector, FloatVector]:
        """See `DataTerm`."""
        return self.box_sigma, self.sigma

    @property
    def _residuals(self) -> int:
        """Real numbers of p of one image."""
        return int(np.prod(self.measurements.y.shape[1:])) * (2 if self.measurements.operators[0].complex else 1)

    def _together(self, p: AnyArray, v: AnyArray | None) -> AnyArray:
        parts = [namespace(p).ascontiguousarray(part).reshape(len(p), -1) for part in (p, v) if part is not None]
        return namespace(p).concatenate([part.view(np.float32) for part in parts], axis=1)

    def _apart(self, extra: AnyArray) -> tuple[AnyArray, AnyArray | None]:
        """p (n, *shape_out) and v (n, H, W) of an array made by `_together`."""
        operator, y, count = self.measurements.operators[0], self.measurements.y, self._residuals
        p = namespace(extra).ascontiguousarray(extra[:, :count]).view(operator._measured)
        v = None
        if self.box is not None:
            v = extra[:, count:].reshape(-1, *self.measurements.planes, *operator.shape_in)
        return p.reshape(-1, *y.shape[1:]), v

    def multiplier(self, residual: AnyArray, slope: AnyArray, extra: AnyArray, images: NDArray[np.int64]) -> AnyArray:
        """The dual variable of the residual itself."""
        return self._apart(extra)[0]

    def culprit(self, extra: AnyArray, x_hat: AnyArray, extra_hat: AnyArray) -> Culprit | None:
        """x_hat comes from H^T, extra_hat from H; `extra` may be bad from the start, where it is H x - y."""
        if not finite(extra):
            return "apply"
        if not finite(x_hat):
            return "adjoint"
        return None if finite(extra_hat) else "apply"


def _bound(operator: Operator) -> NDArray[np.float32]:
    """(H, W) or (1, 1): a multiplier of which H^T H is not more; found once for an operator."""
    if operator.residual_step is None or operator.image == "complex":
        return np.full((1, 1), operator.norm**2, np.float32)
    if operator not in _bounds:
        _bounds[operator] = bound(operator.normal, (1, *operator.shape_in))
    return _bounds[operator]


def for_planes(multiplier: NDArray[np.float32], measurements: Measurements) -> NDArray[np.float32]:
    """(B, h, w), so that it broadcasts to images: the same for each plane."""
    return multiplier.reshape(len(multiplier), *[1] * len(measurements.planes), *multiplier.shape[1:])


_bounds: WeakKeyDictionary[Operator, NDArray[np.float32]] = WeakKeyDictionary()


def frequencies(x: AnyArray) -> AnyArray:
    """Of images (n, H, W): all of complex ones, the half plane of real ones."""
    return forward(x) if np.iscomplexobj(x) else real_forward(x)


def half(factor: AnyArray, x: AnyArray) -> AnyArray:
    """An even multiplier (n, H, W) for `frequencies(x)`."""
    return factor if np.iscomplexobj(x) else factor[..., : x.shape[-1] // 2 + 1]


def image_of(values: AnyArray, x: AnyArray) -> AnyArray:
    """The inverse of `frequencies`, for an image like x."""
    if np.iscomplexobj(x):
        return inverse(values).astype(np.complex64, copy=False)
    return real_inverse(values, x.shape[-2:]).astype(np.float32, copy=False)


def products(a: AnyArray, b: AnyArray) -> FloatVector:
    """Re <a, b> of each of n images, in NumPy."""
    sums: FloatVector = to_host((a.conj() * b).real.sum(axis=tuple(range(1, a.ndim)), dtype=np.float64))
    return sums


def box_step(v: AnyArray, ahead: AnyArray, sigma: FloatVector, box: Box) -> tuple[AnyArray, FloatVector]:
    """v_hat = t - sigma clip(t / sigma), t = v + sigma `ahead`, and ||v_hat - v||^2 / sigma."""
    long = column(sigma, v)
    t = v + long * ahead
    v_hat = t - long * clip(t / long, box)
    return v_hat, squares(v_hat - v) / sigma


def data_term(
    measurements: Measurements, box: Box | None, constants: DataTermSteps | None = None
) -> DiagonalData | DualData:
    """The exact form where the operators allow it."""
    form = DiagonalData if measurements.diagonal else DualData
    return form(measurements, box, DataTermSteps() if constants is None else constants)
