"""The inner loop for a general forward operator: restarted Halpern iteration of the primal-dual hybrid gradient map.

    min over the box of  1/2 ||H x - y||^2 + lambda ||M . W x||_1
    = min over the box, max over |u| <= lambda M of  1/2 ||H x - y||^2 + <u, W x>

One application T of the primal-dual map (Chambolle and Pock 2011) takes (x, u, extra) to (x_hat, u_hat, extra_hat); the iterate is
    w (2 T(s) - s) + (1 - w) s_0,   w = (k + 1) / (k + 2),
pulled towards the anchor s_0, at which the iteration starts anew when its residual has fallen (Lu and Yang 2024, restarted reflected
Halpern iteration). sigma follows from the ranges of u and x and from what the data term needs, tau from
tau sigma ||K||^2 = 1 (docs/adr/0009). u stays in the workspace; everything of the size of an image is NumPy here. Each image has its
own step sizes, restarts and end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend import Active, Workspace
from .data_term import Array, Box, Measurements, clip, column, data_term, squares
from .faults import Culprit, Fault

FloatVector = NDArray[np.float64]

RESTART_FALL = 0.2  # start anew when the residual is this share of what it was after the last start
RESTART_LENGTH = 0.4  # or when the run is this share of all steps so far
LEAST_RUN = 3
SIGMA = 2.0  # times lambda sqrt(C) / (rms(x) ||W||): x and u move over their ranges in comparable numbers of steps
LEAST_SHARE = 1.0  # sigma ||W||^2 is not less than what the data term takes of tau: where that is much (CT), a small sigma gains nothing
TINY = float(np.finfo(np.float32).tiny)
ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass
class ReconstructionCertificate:
    """Of one image each: objective f(x), duality gap over the box, or over a ball where there is no box, and gap / f(x)."""

    objective: FloatVector
    gap: FloatVector
    relative_gap: FloatVector


class Parts:
    """Real images as they are, complex ones as two real images each, real parts first: what the regulariser sees."""

    def __init__(self, count: int, is_complex: bool):
        self.count, self.is_complex = count, is_complex

    def images(self, active: Active) -> Active:
        """Their numbers in the workspace."""
        return np.concatenate([active, active + self.count]) if self.is_complex else active

    def split(self, x: Array, active: Active) -> NDArray[np.float32]:
        """(n, H, W) into the whole batch of the workspace; other images are zero."""
        whole = np.zeros((self.count * (2 if self.is_complex else 1), *x.shape[1:]), np.float32)
        if self.is_complex:
            whole[active], whole[active + self.count] = x.real, x.imag
        else:
            whole[active] = x
        return whole

    def join(self, whole: NDArray[np.float32], active: Active) -> Array:
        """The inverse of `split`."""
        if not self.is_complex:
            return whole[active]
        return (whole[active] + 1j * whole[active + self.count]).astype(np.complex64)

    def add(self, values: NDArray[np.float64], active: Active) -> FloatVector:
        """Sums of the parts (len(images(active)),) to sums of images."""
        return values[: len(active)] + values[len(active) :] if self.is_complex else values


class PrimalDual:
    """The state of a batch: x, the data term's dual variable and z = W^T u as iterates, u in the workspace."""

    def __init__(
        self,
        workspace: Workspace,
        measurements: Measurements,
        strength: FloatVector,
        squared_norm: float,
        channels: int,
        x: Array,
        box: Box | None,
    ):
        self.workspace, self.measurements, self.strength, self.box = workspace, measurements, strength, box
        everyone = np.arange(len(x))
        # below these f is float32 rounding: of the data, and times ||x|| of W x (as in outer.Problem.rounding)
        self.rounding_of_data = 0.5 * ROUNDING**2 * squares(measurements.y)
        self.rounding_of_penalty = ROUNDING * strength * (squared_norm * channels * x[0].size) ** 0.5
        self.term = data_term(measurements, box)
        self.parts = Parts(len(x), np.iscomplexobj(x))
        self.x = x.copy()
        self.extra = self.term.start(x)
        self.z = np.zeros_like(x)
        self.x_hat, self.extra_hat, self.z_hat = self.x, self.extra, self.z
        self.least_radius = np.sqrt(
            squares(measurements.least_squares_step())
        )  # the size of an image, wherever x starts
        scale = self.least_radius / x[0].size ** 0.5 + 1e-3
        self.sigma = SIGMA * strength * (channels / squared_norm) ** 0.5 / scale
        own = self.sigma * squared_norm
        self.extra_sigma, share = self.term.steps(own, everyone)
        own = np.maximum(own, LEAST_SHARE * share)
        self.sigma = own / squared_norm
        self.tau = 1 / (own + share)
        step = self.sigma.astype(np.float32)
        workspace.set_step(np.concatenate([step, step]) if self.parts.is_complex else step)
        self.steps = np.zeros(len(x), np.int64)

    def run(
        self, active: Active, tolerance: float | FloatVector, limit: int, check_every: int
    ) -> ReconstructionCertificate:
        """Until the certificate of an image is at most `tolerance` (one for all, or (B,)), or `limit` steps; the certificate of x_hat.

        Raises Fault where an image is no longer finite, with the step and whose values were the first.
        """
        count = len(self.x)
        tolerances = np.broadcast_to(tolerance, count)
        met = np.zeros(count, bool)
        found = ReconstructionCertificate(*(np.full(count, np.inf) for _ in range(3)))
        run_length = np.zeros(count, np.int64)
        first, last, total = np.full(count, np.inf), np.full(count, np.inf), np.zeros(count, np.int64)
        x_start, extra_start, z_start = self.x.copy(), self.extra.copy(), self.z.copy()
        fresh = np.ones(count, bool)
        running = active
        for step in range(limit):
            a = running
            restart = fresh[a] | (
                (run_length[a] > LEAST_RUN)
                & ((last[a] <= RESTART_FALL * first[a]) | (run_length[a] > RESTART_LENGTH * total[a] + 20))
            )
            weight = np.where(restart, 0.0, (run_length[a] + 1) / (run_length[a] + 2))
            moved = self.term.move(self.x[a], self.extra[a], self.z[a], self.tau[a], self.extra_sigma[a], a)
            weights = np.zeros(self.parts.count, np.float32)
            weights[a] = weight
            everywhere = np.concatenate([weights, weights]) if self.parts.is_complex else weights
            images = self.parts.images(a)
            bar = 2 * moved.x - self.x[a]
            z, change = self.workspace.anchored_step(images, self.parts.split(bar, a), everywhere)
            z_new, change = self.parts.join(z, a), self.parts.add(change, a)
            w = column(weight, z_new)
            anchored = (z_new - (1 - w) * z_start[a]) / np.maximum(w, np.float32(0.25))
            z_hat = np.where(w > 0, (anchored + self.z[a]) / 2, z_new)
            extra_weight = 1 / np.maximum(self.extra_sigma[a], TINY)
            last[a] = np.sqrt(moved.primal / self.tau[a] + change / self.sigma[a] + moved.dual * extra_weight)
            if not np.isfinite(last[a]).all():
                lost = ~np.isfinite(last[a])
                raise Fault(a[lost], step + 1, self.term.culprit(self.extra[a][lost], moved.x[lost], moved.extra[lost]))
            self._store_hats(a, moved.x, moved.extra, z_hat)
            self._mix(a, weight, moved.x, moved.extra, z_new, x_start, extra_start)
            again = a[restart]
            x_start[again], extra_start[again], z_start[again] = self.x[again], self.extra[again], self.z[again]
            first[a] = np.where(restart | (run_length[a] == 0), last[a], first[a])
            run_length[a] = np.where(restart, 0, run_length[a] + 1)
            fresh[a] = False
            total[a] += 1
            self.steps[a] += 1
            if (step + 1) % check_every == 0 or step + 1 == limit:
                certificate = self._checked_certificate(a, step + 1)
                found.objective[a], found.gap[a], found.relative_gap[a] = (
                    certificate.objective,
                    certificate.gap,
                    certificate.relative_gap,
                )
                met[a] = certificate.relative_gap <= tolerances[a]
                running = a[~met[a]]
                if not len(running):
                    break
        return found

    def image(self, active: Active) -> Array:
        """The x that the certificate is of."""
        return clip(self.x_hat[active], self.box)

    def mask_changed(self, active: Active) -> None:
        """z for the u that lives on under a new mask."""
        self.z[active] = self.parts.join(self.workspace.adjoint_of_dual(self.parts.images(active)), active)

    def certificate(self, active: Active) -> ReconstructionCertificate:
        """Of x_hat, projected onto the box, with u_hat: the duality gap, and relative to f(x).

        gap = 1/2 ||H x - y - p||^2 + lambda ||M . W x||_1 - <z, x> + max over x' of <H^T p + z, x - x'>  for any p; here the better of
        p = H x - y and what the data term proposes (`DataTerm.multiplier`). Where f(x) is float32 rounding, x is a minimiser: 0.

        x' is any image of the box. Without a box it is any image of the ball ||x' - x|| <= R, R the larger of ||x|| and the size of the
        least-squares step, and the maximum is R ||H^T p + z||; f being convex, f(x) - f(x') <= gap ||x' - x|| / R for all others.
        """
        x, z = clip(self.x_hat[active], self.box), self.z_hat[active]
        residual = self.measurements.apply(x, active) - self.measurements.y[active]
        penalty = self.strength[active] * self._penalty(x, active)
        objective = 0.5 * squares(residual) + penalty
        inner = np.sum((x.conj() * z).real, axis=(1, 2), dtype=np.float64)
        slope = self.measurements.adjoint(residual, active) + z
        own = self.term.multiplier(residual, slope, self.extra_hat[active], active)
        own_slope = self.measurements.adjoint(own, active) + z
        own_gap = 0.5 * squares(residual - own) + self._furthest(own_slope, x, active)
        gap = penalty - inner + np.minimum(self._furthest(slope, x, active), own_gap)
        relevant = objective > self.rounding_of_data[active] + self.rounding_of_penalty[active] * np.sqrt(squares(x))
        relative = np.divide(gap, objective, out=np.zeros_like(gap), where=relevant)
        return ReconstructionCertificate(objective, gap, relative)

    # -- private ------------------------------------------------------------------------------------------------------

    def _checked_certificate(self, active: Active, steps: int) -> ReconstructionCertificate:
        """`certificate`; raises Fault where it is not finite, which one of the operator's own values may be the cause of."""
        certificate = self.certificate(active)
        lost = ~np.isfinite(certificate.objective + certificate.gap)
        if lost.any():
            raise Fault(active[lost], steps, self._culprit(active[lost]))
        return certificate

    def _culprit(self, active: Active) -> Culprit | None:
        """Which method of the operator gives values that are not finite for the images of a certificate, if one does."""
        residual = self.measurements.apply(clip(self.x_hat[active], self.box), active) - self.measurements.y[active]
        if not np.isfinite(residual).all():
            return "apply"
        return None if np.isfinite(self.measurements.adjoint(residual, active)).all() else "adjoint"

    def _furthest(self, slope: Array, x: Array, active: Active) -> FloatVector:
        """max of <slope, x - x'> over the box, or without one over the ball around x."""
        if self.box is None:
            return np.asarray(np.maximum(np.sqrt(squares(x)), self.least_radius[active]) * np.sqrt(squares(slope)))
        far = np.where(slope > 0, np.float32(self.box[0]), np.float32(self.box[1]))
        return np.asarray(np.sum(slope * (x - far), axis=(1, 2), dtype=np.float64))

    def _penalty(self, x: Array, active: Active) -> FloatVector:
        return self.parts.add(self.workspace.penalty(self.parts.images(active), self.parts.split(x, active)), active)

    def _store_hats(self, a: Active, x: Array, extra: Array, z: Array) -> None:
        if len(a) == len(self.x):
            self.x_hat, self.extra_hat, self.z_hat = x, extra, z
        else:
            self.x_hat, self.extra_hat, self.z_hat = self.x_hat.copy(), self.extra_hat.copy(), self.z_hat.copy()
            self.x_hat[a], self.extra_hat[a], self.z_hat[a] = x, extra, z

    def _mix(
        self,
        a: Active,
        weight: FloatVector,
        x_hat: Array,
        extra_hat: Array,
        z_new: Array,
        x_start: Array,
        extra_start: Array,
    ) -> None:
        for state, hat, start in ((self.x, x_hat, x_start), (self.extra, extra_hat, extra_start)):
            w = column(weight, hat)
            state[a] = np.where(w > 0, w * (2 * hat - state[a]) + (1 - w) * start[a], hat)
        self.z[a] = z_new
