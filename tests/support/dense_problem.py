"""A convex problem at fixed masks in float64 with dense matrices, near a solution that was found: the judge of its
derivatives.

    min over the box of 1/2 ||A x - y||^2 + lambda ||mask . W x||_1

Vectors are of real numbers, of complex images real parts first.
"""

import numpy as np
import oracle
import torch


def real(values):
    """A vector of real numbers."""
    flat = np.asarray(values).ravel()
    return (np.concatenate([flat.real, flat.imag]) if np.iscomplexobj(flat) else flat).astype(float)


def analysis_matrix(model, shape):
    """W of images of this shape, (H, W) or (P, H, W), as (responses, pixels)."""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.stack([oracle.analysis(unit, model.filters.layers, "symmetric").ravel() for unit in units], 1)


class Dense:
    """free: which responses are zero, inside: which pixels the box does not hold, mask, x: as the solve has them."""

    def __init__(self, a, w, *, mask, free, inside, x, box):
        self.a, self.w, self.mask, self.free, self.inside, self.x = a, w, mask, free, inside, x
        self.box = (-np.inf, np.inf) if box is None else box
        middle = 0 if box is None else np.mean(box)
        self.bounds = np.where(x < middle, *self.box)[~inside]
        self.constraints = np.vstack([w[free], np.eye(len(x))[~inside]])
        missed = self.constraints @ x - np.concatenate([np.zeros(free.sum()), self.bounds])
        self.start = x - np.linalg.lstsq(self.constraints, missed, rcond=1e-9)[0]
        _, sizes, rows = np.linalg.svd(self.constraints)
        self.basis = rows[(sizes > 1e-9 * sizes[0]).sum() :].T  # of what is left to x
        self.signs = np.where(free, 0.0, mask * np.sign(w @ x))

    def inverse(self):
        """K of safi_fast/reconstruction_gradients.py."""
        q = self.basis
        return q @ np.linalg.pinv((self.a @ q).T @ (self.a @ q), rcond=1e-9) @ q.T

    def exact(self, y, strength):
        """x with these sets, a function of tensors."""
        q, a, start, push = map(torch.from_numpy, (self.basis, self.a, self.start, self.w.T @ self.signs))
        slope = q.T @ (a.T @ (y - a @ start) - strength * push)
        return start + q @ torch.linalg.solve((a @ q).T @ (a @ q), slope)

    def slack(self, x, y, strength, u):
        """How far x is from solving the whole problem: what is left of the slope, by its size, when u, of all
        responses, is changed as little as that takes; and by how much that u is beyond its bound, a sign is wrong, x
        is beyond the box or pushed away from it, at most.
        """
        slope = self.a.T @ (self.a @ x - y) + strength * self.w.T @ self.signs
        known = np.concatenate([u[self.free], np.zeros(len(self.bounds))])
        known += np.linalg.lstsq(self.constraints.T, -slope - self.constraints.T @ known, rcond=1e-9)[0]
        rest = np.linalg.norm(slope + self.constraints.T @ known) / np.linalg.norm(slope)
        count = self.free.sum()
        wrong = [
            np.abs(known[:count]) - strength * self.mask[self.free],
            -(self.signs * (self.w @ x)),
            np.maximum(self.box[0] - x, x - self.box[1])[self.inside],
            np.where(self.bounds == self.box[0], 1, -1) * known[count:],
        ]
        return rest, max(part.max(initial=0.0) for part in wrong)
