"""What SAFI is compared with: total variation, conjugate gradients, Wiener, and WCRR with its published weights.

tv(...)        1/2 ||H x - y||^2 + strength TV(x) over the box, isotropic; primal-dual hybrid gradient (Chambolle and
Pock 2011) cg(...)        (H^T H + strength) x = H^T y: Tikhonov, CG-SENSE wiener(...)    the same in Fourier space for
a blur, circular Wcrr           weakly convex ridge regulariser (Goujon, Neumayer, Unser, SIAM J. Imaging Sci. 17,
2024); accelerated gradient

All take operators of safi_fast.operators; images (H, W), real with a box or complex without. Needs torch for Wcrr only.
"""

from __future__ import annotations

import numpy as np


def gradient(x):
    """(2, H, W) forward differences, zero at the far border."""
    g = np.zeros((2, *x.shape), x.dtype)
    g[0, :-1] = x[1:] - x[:-1]
    g[1, :, :-1] = x[:, 1:] - x[:, :-1]
    return g


def divergence(q):
    """gradient^T q, which is minus the divergence."""
    d = np.zeros(q.shape[1:], q.dtype)
    d[:-1] -= q[0, :-1]
    d[1:] += q[0, :-1]
    d[:, :-1] -= q[1, :, :-1]
    d[:, 1:] += q[1, :, :-1]
    return d


def _length(q):
    return np.sqrt((np.abs(q) ** 2).sum(0))


def tv(operator, y, strength, *, box=(0.0, 1.0), x0=None, steps=3000, tol=1e-4, check_every=50, balance=4.0):
    """The minimiser, and its change over the last `check_every` steps, at most `tol` unless `steps` ran out."""
    clip = (lambda x: x) if box is None else (lambda x: np.clip(x, *np.float32(box)))
    norm2 = operator.norm**2
    x = clip(operator.adjoint(y) / np.float32(norm2)) if x0 is None else x0.copy()
    q, p = np.zeros((2, *x.shape), x.dtype), operator.apply(x) - y
    # tau (sigma_q 8 + sigma_p norm^2) = 1, half each
    tau = balance / norm2
    sigma_q, sigma_p = 0.5 / (8 * tau), 0.5 / (norm2 * tau)
    tau, sigma_q, sigma_p, strength = (np.float32(v) for v in (tau, sigma_q, sigma_p, strength))
    change, marked = np.inf, x
    for step in range(steps):
        new = clip(x - tau * (divergence(q) + operator.adjoint(p)))
        bar = 2 * new - x
        q = q + sigma_q * gradient(bar)
        q /= np.maximum(_length(q) / strength, 1)
        p = (p + sigma_p * (operator.apply(bar) - y)) / (1 + sigma_p)
        x = new
        if (step + 1) % check_every == 0:
            change = float(np.linalg.norm(x - marked) / max(np.linalg.norm(x), 1e-12))
            if change < tol:
                break
            marked = x
    return x, change


def cg(operator, y, strength, *, box=(0.0, 1.0), steps=100, tol=1e-5):
    """Conjugate gradients on the normal equations, then clipped to the box."""
    b = operator.adjoint(y)
    x, r = np.zeros_like(b), b.copy()
    d, rr = r.copy(), np.vdot(r, r).real
    first = rr
    for _ in range(steps):
        a = operator.normal(d) + np.float32(strength) * d
        alpha = np.float32(rr / np.vdot(d, a).real)
        x += alpha * d
        r -= alpha * a
        rr, before = np.vdot(r, r).real, rr
        if rr < tol**2 * first:
            break
        d = r + np.float32(rr / before) * d
    return x if box is None else np.clip(x, *np.float32(box))


def wiener(kernel, y, strength):
    """conj(K) Y / (|K|^2 + strength), circular, after the border was tapered (edges blended with the blurred image)."""
    padded = np.zeros_like(y)
    h, w = kernel.shape
    padded[:h, :w] = kernel
    transfer = np.fft.fft2(np.roll(padded, (-(h // 2), -(w // 2)), (0, 1)))
    rows, columns = (
        np.minimum(1, np.minimum(np.arange(n), np.arange(n)[::-1]) / side)
        for n, side in zip(y.shape, (h, w), strict=True)
    )
    weight = np.outer(rows, columns)
    blurred = np.fft.ifft2(np.fft.fft2(y) * transfer).real
    tapered = weight * y + (1 - weight) * blurred
    x = np.fft.ifft2(np.conj(transfer) * np.fft.fft2(tapered) / (np.abs(transfer) ** 2 + strength)).real
    return np.clip(x, 0, 1).astype(np.float32)


class Wcrr:
    """1/2 ||H x - y||^2 + strength R(x), R's gradient W^T phi(W x), phi = (mu phi_convex(s .) - phi_concave(s .)) / s.

    W: three 5x5 convolutions, 1 -> 4 -> 8 -> 60, the first of zero mean, divided by its norm; s depends on channel and
    noise level; both phi are linear splines of 101 knots on [-0.1, 0.1], slopes in [0, 1], constant beyond, odd.
    """

    def __init__(self, path):
        import torch

        self.torch = torch
        state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        first = state["conv_layer.conv_layers.0.parametrizations.weight.original"]
        self.layers = [first - first.mean((1, 2, 3), keepdim=True)]
        self.layers += [state[f"conv_layer.conv_layers.{i}.weight"] for i in (1, 2)]
        self.mu = self.curvature = float(state["mu_"].exp())
        self.splines = [self._spline(state[f"activation_{kind}.coefficients"]) for kind in ("cvx", "ccv")]
        self.scaling = state["spline_scaling.coefficients"]
        self.norm = 1.0
        probe = torch.zeros(1, 1, 64, 64)
        probe[0, 0, 32, 32] = 1
        response = torch.fft.fft2(self._analysis(probe))
        self.norm = float(response.abs().square().sum(1).max().sqrt())

    def _spline(self, coefficients):
        step = 0.2 / 100
        slopes = ((coefficients[0, 1:] - coefficients[0, :-1]) / step).clamp(0, 1)
        slopes[0] = slopes[-1] = 0
        values = self.torch.cat([self.torch.zeros(1), slopes.cumsum(0) * step])
        return 0.5 * (values - values.flip(0))

    def _phi(self, x, values):
        position = ((x.clamp(-0.1, 0.1) + 0.1) / 0.002).clamp(0, 99.999)
        left = position.long()
        return self.torch.lerp(values[left], values[left + 1], position - left)

    def _analysis(self, x):
        for weight in self.layers:
            x = self.torch.nn.functional.conv2d(x, weight, padding=2)
        return x / self.norm

    def gradient(self, x, sigma):
        """Of R at the image x (H, W) or each part of a complex one; sigma on the 8-bit scale, 0 to 30."""
        if np.iscomplexobj(x):
            return self.gradient(x.real, sigma) + 1j * self.gradient(x.imag, sigma)
        torch = self.torch
        with torch.inference_mode():
            left = min(int(sigma / 3), 9)
            s = torch.lerp(self.scaling[:, left], self.scaling[:, left + 1], torch.tensor(sigma / 3 - left)).exp() / (
                sigma + 1e-5
            )
            s = s.view(1, -1, 1, 1)
            wx = self._analysis(torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None]) * s
            u = (self.mu * self._phi(wx, self.splines[0]) - self._phi(wx, self.splines[1])) / s / self.norm
            for weight in reversed(self.layers):
                u = torch.nn.functional.conv_transpose2d(u, weight, padding=2)
            return u[0, 0].numpy()

    def solve(self, operator, y, strength, sigma, **options):
        """As `descend`."""
        return descend(self, operator, y, strength, sigma, **options)


def descend(prior, operator, y, strength, sigma, *, box=(0.0, 1.0), x0=None, steps=300, tol=1e-4):
    """Accelerated projected gradient with restarts; the image and the last relative change.

    prior: has gradient(x, sigma) of its regulariser and curvature, which bounds how fast that changes.
    """
    clip = (lambda x: x) if box is None else (lambda x: np.clip(x, *np.float32(box)))
    back, step = operator.adjoint(y), np.float32(1 / (operator.norm**2 + strength * prior.curvature))
    x = clip(back / np.float32(operator.norm**2)) if x0 is None else x0
    d, t, change = x, 1.0, np.inf
    for _ in range(steps):
        slope = operator.normal(d) - back + np.float32(strength) * prior.gradient(d, sigma)
        new = clip(d - step * slope)
        if np.vdot(d - new, new - x).real > 0:
            t = 1.0
        following = (1 + np.sqrt(1 + 4 * t * t)) / 2
        change = float(np.linalg.norm(new - x) / max(np.linalg.norm(new), 1e-12))
        d = new + np.float32((t - 1) / following) * (new - x)
        x, t = new, following
        if change < tol:
            break
    return x, change
