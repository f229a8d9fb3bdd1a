"""The inner loop for a general forward operator: restarted Halpern iteration of the primal-dual hybrid gradient map.

    min over the box of  1/2 ||H x - y||^2 + lambda ||M . W x||_1
    = min over the box, max over |u| <= lambda M of  1/2 ||H x - y||^2 + <u, W x>

One application T of the primal-dual map (Chambolle and Pock 2011) takes (x, u, extra) to (x_hat, u_hat, extra_hat);
the iterate is
    w (2 T(s) - s) + (1 - w) s_0,   w = (k + 1) / (k + 2),
pulled towards the anchor s_0, at which the iteration starts anew when its residual has fallen (Lu and Yang 2024,
restarted reflected Halpern iteration); or s + rho (T(s) - s), relaxed, without an anchor (`Halpern`). sigma follows
from the ranges of u and x and from what the data term needs, the metric of x from both (metric.py, docs/adr/0009). u
stays in the workspace; what has the size of an image lies where the workspace takes it, and is computed on there. Each
image has its own step sizes, restarts and end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..backend import ReconstructionWorkspace
from ..namespaces import like, namespace, put, taken, to_host
from ..types import Active, AnyArray, Box, FloatArray, FloatVector, MaskOf
from .certificate import Certificate
from .data_term import Measurements, clip, column, data_term, finite, products, squares
from .faults import Culprit, Fault
from .halpern import DeviceSteps, Halpern, HostSteps
from .means import DualMeans
from .mixing import Mixing
from .progress import InnerResult

Tell: TypeAlias = Callable[[Active, int, int, FloatVector | None], None]  # `Progress.inside`
TINY = float(np.finfo(np.float32).tiny)
ROUNDING = 4 * float(np.finfo(np.float32).eps)


class Parts:
    """Real images as they are, complex ones as two real images each, real parts first: what the regulariser sees.

    Images are (n, H, W), or (n, P, H, W) for a model of P planes.
    """

    def __init__(self, count: int, is_complex: bool):
        self.count, self.is_complex = count, is_complex

    def images(self, active: Active) -> Active:
        """Their numbers in the workspace."""
        return np.concatenate([active, active + self.count]) if self.is_complex else active

    def split(self, x: AnyArray, active: Active) -> AnyArray:
        """(n, H, W) into the whole batch of the workspace; other images are zero."""
        if not self.is_complex and len(active) == self.count:
            return x
        whole = namespace(x).zeros((self.count * (2 if self.is_complex else 1), *x.shape[1:]), np.float32)
        put(whole[: self.count], active, x.real)
        if self.is_complex:
            put(whole[self.count :], active, x.imag)
        return whole

    def join(self, whole: AnyArray, active: Active) -> AnyArray:
        """The inverse of `split`."""
        real = taken(whole[: self.count], active)
        if not self.is_complex:
            return real
        return (real + np.complex64(1j) * taken(whole[self.count :], active)).astype(np.complex64, copy=False)

    def add(self, values: NDArray[np.float64], active: Active) -> FloatVector:
        """Sums of the parts (len(images(active)),) to sums of images."""
        return values[: len(active)] + values[len(active) :] if self.is_complex else values


class PrimalDual:
    """The state of a batch: x, the data term's dual variable and z = W^T u as iterates, u in the workspace.

    gain, bias: (B, C) of a noise-conditioned mask generator. mask_of: for complex images, "magnitude" for one mask of
    |x|, "parts" for a mask of each part.
    """

    def __init__(
        self,
        workspace: ReconstructionWorkspace,
        measurements: Measurements,
        strength: FloatVector,
        squared_norm: float,
        x: AnyArray,
        box: Box | None,
        condition: tuple[FloatArray, FloatArray],
        mask_of: MaskOf = "magnitude",
        steps: Halpern | None = None,
        metric: FloatArray | None = None,
    ):
        self.workspace, self.measurements, self.strength, self.box = workspace, measurements, strength, box
        self.gain, self.bias = condition
        self._full_strength = strength
        self.mask_of, self.rule = mask_of, Halpern() if steps is None else steps
        channels = self.gain.shape[1]
        # below these f is float32 rounding: of the data, and times ||x|| of W x (as in dual.DualProblem.rounding)
        self.rounding_of_data = 0.5 * ROUNDING**2 * squares(measurements.y)
        self.rounding_of_penalty = ROUNDING * strength * (squared_norm * channels * x[0].size) ** 0.5
        self.term = data_term(measurements, box, self.rule.data)
        self.parts = Parts(len(x), np.iscomplexobj(x))
        self.x = x.copy()
        self.extra = self.term.start(x)
        self.z = namespace(x).zeros_like(x)
        self.x_hat, self.extra_hat, self.z_hat = self.x, self.extra, self.z
        self.device_steps: DeviceSteps | None = None
        # the size of an image, wherever x starts
        self.least_radius = np.sqrt(squares(measurements.least_squares_step()))
        size = self.least_radius / x[0].size ** 0.5 + 1e-3
        self._squared_norm = squared_norm
        flat = np.full(x.shape[1:], squared_norm, np.float32) if metric is None else metric
        self._bound = like(flat, x)
        self._dual_step_size = self.rule.sigma * strength * (channels / squared_norm) ** 0.5 / size * squared_norm
        self.choose_steps()
        self.device_steps = DeviceSteps.of(self)
        self.steps = np.zeros(len(x), np.int64)
        self._accepted = x.copy()  # after the last outer step
        self._mixing = Mixing(x)
        self._is_start = True
        self._means: DualMeans | None = None

    def choose_steps(self, factor: float = 1.0) -> None:
        """sigma of u, `factor` times the usual one, those of the data term's dual variables, and the metric of x."""
        own = factor * self._dual_step_size
        own = np.maximum(own, self.rule.least_share * self.term.choose_steps(own))
        self.term.choose_steps(own)  # the box moves as u does
        self.sigma = own / self._squared_norm
        self.metric = column(self.sigma, self.x) * self._bound + self.term.share()
        step = self.sigma.astype(np.float32)
        self.workspace.set_step(np.concatenate([step, step]) if self.parts.is_complex else step)
        if self.device_steps is not None:
            self.device_steps.set_steps()

    def rest(self) -> None:
        """No more steps: the work space may go to another problem."""
        if self.device_steps is not None:
            self.device_steps.rest()

    def scale_strength(self, factor: float) -> None:
        """lambda of the caller times `factor` from now on; step sizes stay."""
        self.strength = factor * self._full_strength
        self.workspace.set_bound(np.tile(self.strength, 2 if self.parts.is_complex else 1).astype(np.float32))

    @property
    def count(self) -> int:
        """Images of the batch."""
        return len(self.x)

    def run(
        self,
        active: Active,
        tolerance: float | FloatVector,
        limit: int,
        check_every: int,
        tell: Tell | None = None,
        means: bool = False,
    ) -> InnerResult:
        """Until the relative gap of an image is at most `tolerance` (one for all, or (B,)), or `limit` steps; the
        certificate is of x_hat, by the last u_hat or, with `means`, by a mean where that shows more. tell: called after
        each step.

        Raises Fault where an image is no longer finite, with the step, whose values were the first, and the image
        before.
        """
        tolerances = np.broadcast_to(tolerance, self.count)
        met, before = np.zeros(self.count, bool), self.steps.copy()
        found = [np.full(self.count, np.inf) for _ in range(3)]
        running, made = active, 0
        watch = None if tell is None else (lambda step: tell(running, step, limit, None))
        self._means = DualMeans(self.z, self.extra) if means and self.device_steps is None else None
        steps = HostSteps(self, self._means) if self.device_steps is None else self.device_steps.begin()
        try:
            while len(running) and made < limit:
                count = min(check_every, limit - made)
                with np.errstate(invalid="ignore", over="ignore"):  # looked for by the steps and below
                    steps.run(running, made, count, watch)
                    made += count
                    self.steps[running] += count
                    certificate = self._checked_certificate(running, made)
                if tell is not None:
                    tell(running, made, limit, certificate.relative_gap)
                for values, new in zip(found, (certificate.objective, certificate.gap, certificate.floor), strict=True):
                    values[running] = new
                met[running] = certificate.relative_gap <= tolerances[running]
                running = running[~met[running]]
        except Fault as fault:
            fault.image = None if self._is_start else self.image()
            raise
        objective, gap, floor = (values[active] for values in found)
        return InnerResult((self.steps - before)[active], met[active], Certificate(objective, gap, floor))

    def accepted(self, active: Active) -> AnyArray:
        """The x that the certificate is of."""
        return clip(taken(self.x_hat, active), self.box)

    def image(self) -> AnyArray:
        """A copy of the images (B, H, W) after the last outer step, in host memory."""
        return to_host(self._accepted.copy())

    def change(self, images: Active) -> FloatVector:
        """||x - x_seen|| / ||x_seen||: x as accepted, x_seen what its mask was computed from; at first the start."""
        x = self.accepted(images)
        change = self._mixing.change(images, x)
        put(self._accepted, images, x)
        self._is_start = False
        return change

    def next_mask(self, active: Active, mixed: bool = False) -> None:
        """M of the accepted images, or of what `Mixing` makes of the last two; and z for the u that lives on under
        it.
        """
        x, gain, bias = self._mixing.next(active, self.accepted(active), mixed), self.gain, self.bias
        images = self.parts.images(active)
        if self.parts.is_complex:
            gain, bias = np.concatenate([gain, gain]), np.concatenate([bias, bias])
            if self.mask_of == "magnitude":
                x = abs(x) * np.complex64(1 + 1j)
        self.workspace.put_image(images, self.parts.split(x, active))
        self.workspace.update_mask(images, gain, bias)
        self.mask_changed(active)

    def mask_changed(self, active: Active) -> None:
        """z for the u that lives on under a new mask."""
        put(self.z, active, self.parts.join(self.workspace.adjoint_of_dual(self.parts.images(active)), active))

    def certificate(self, active: Active) -> Certificate:
        """Of x_hat, projected onto the box, with u_hat: the duality gap, and relative to f(x).

        gap = 1/2 ||H x - y - p||^2 + lambda ||M . W x||_1 - <z, x> + max over x' of <H^T p + z, x - x'>  for any p;
        here the better of p = H x - y and what the data term proposes (`DataTerm.multiplier`), and of the last u_hat
        and a mean of them (means.py). Where f(x) is float32
        rounding, x is a minimiser: 0.

        x' is any image of the box. Without a box it is any image of the ball ||x' - x|| <= R, R the larger of ||x||
        and the size of the least-squares step, and the maximum is R ||H^T p + z||; f being convex, f(x) - f(x') <=
        gap ||x' - x|| / R for all others.
        """
        x = self.accepted(active)
        residual = self.measurements.apply(x, active) - taken(self.measurements.y, active)
        penalty = self.strength[active] * self._penalty(x, active)
        objective = 0.5 * squares(residual) + penalty
        points = [(taken(self.z_hat, active), taken(self.extra_hat, active))]
        mean = None if self._means is None else self._means.point(active)
        points += [] if mean is None else [mean]
        back = self.measurements.adjoint(residual, active)
        gaps = [self._gap(x, residual, back, z, extra, active) for z, extra in points]
        rounding = self.rounding_of_data[active] + self.rounding_of_penalty[active] * np.sqrt(squares(x))
        return Certificate(objective, penalty + np.min(gaps, axis=0), rounding)

    # -- private ------------------------------------------------------------------------------------------------------

    def _checked_certificate(self, active: Active, steps: int) -> Certificate:
        """`certificate`; raises Fault where it is not finite, which one of the operator's own values may be the cause
        of.
        """
        certificate = self.certificate(active)
        lost = ~np.isfinite(certificate.objective + certificate.gap)
        if lost.any():
            raise Fault(active[lost], steps, self._culprit(active[lost]))
        return certificate

    def _culprit(self, active: Active) -> Culprit | None:
        """Which method of the operator gives values that are not finite for the images of a certificate, if one
        does.
        """
        residual = self.measurements.apply(self.accepted(active), active) - taken(self.measurements.y, active)
        if not finite(residual):
            return "apply"
        return None if finite(self.measurements.adjoint(residual, active)) else "adjoint"

    def _gap(
        self, x: AnyArray, residual: AnyArray, back: AnyArray, z: AnyArray, extra: AnyArray, active: Active
    ) -> FloatVector:
        """`certificate` by one dual point, less the penalty; back = H^T residual."""
        slope = back + z
        own = self.term.multiplier(residual, slope, extra, active)
        own_slope = self.measurements.adjoint(own, active) + z
        own_gap = 0.5 * squares(residual - own) + self._furthest(own_slope, x, active)
        return np.asarray(np.minimum(self._furthest(slope, x, active), own_gap) - products(x, z))

    def _furthest(self, slope: AnyArray, x: AnyArray, active: Active) -> FloatVector:
        """max of <slope, x - x'> over the box, or without one over the ball around x."""
        if self.box is None:
            return np.asarray(np.maximum(np.sqrt(squares(x)), self.least_radius[active]) * np.sqrt(squares(slope)))
        low, high = (like(np.array([limit], np.float32), x) for limit in self.box)
        far = namespace(x).where(slope > 0, low, high)
        return products(slope, x - far)

    def _penalty(self, x: AnyArray, active: Active) -> FloatVector:
        return self.parts.add(self.workspace.penalty(self.parts.images(active), self.parts.split(x, active)), active)
