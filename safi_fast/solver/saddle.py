"""A quadratic on the subspace that constraints leave: min over x, N^T x = 0, of 1/2 <x, B x> - <b, x>.

Its conditions are the saddle system

    B x + N p = b,      N^T x = 0,

which MINRES solves (Paige and Saunders 1975), preconditioned by a symmetric G > 0 near B and a number sigma:

    G^-1 for x,         sigma for p.

A step takes one product with each of B, N and N^T. A projection onto the subspace in every product of conjugate
gradients would take dozens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..types import Array, FloatVector
from .data_term import products

Linear: TypeAlias = Callable[[Array], Array]

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Saddle:
    """Functions of a batch of images x (n, ...) and of p (m,), the multipliers of all constraints: x -> B x,
    x -> N^T x, p -> N p and x -> G^-1 x. sigma: (n,); owner: (m,) the image of each constraint.
    """

    quadratic: Linear
    constraints: Linear
    adjoint: Linear
    precondition: Linear
    sigma: FloatVector
    owner: Array


@dataclass(frozen=True)
class Found:
    """x, steps made, and of each image ||residual|| / ||b|| in the norm of the preconditioner."""

    x: Array
    steps: int
    residual: FloatVector


@dataclass(frozen=True)
class _Pair:
    """x (n, ...) and p (m,); factors and products are those of each image."""

    x: Array
    p: Array
    owner: Array

    def __mul__(self, factor: FloatVector) -> _Pair:
        return _Pair(_along(factor, self.x) * self.x, factor[self.owner] * self.p, self.owner)

    def __sub__(self, other: _Pair) -> _Pair:
        return _Pair(self.x - other.x, self.p - other.p, self.owner)

    def dot(self, other: _Pair) -> FloatVector:
        own = np.bincount(self.owner, self.p * other.p, len(self.x))
        return np.asarray(products(self.x, other.x) + own)


def minres(system: Saddle, b: Array, steps: int, enough: float) -> Found:
    """x of the saddle systems of a batch, each until its residual is `enough`, or `steps` steps are made; an image
    that is there stays as it is. In the precision of b.
    """
    now = _Pair(b, np.zeros(len(system.owner)), system.owner)
    before, ahead = now, _preconditioned(system, now)
    first = beta = _norm(now, ahead)
    last_beta, zero = np.ones_like(beta), 0 * b
    cosine, sine, bar, far = -np.ones_like(beta), np.zeros_like(beta), np.zeros_like(beta), np.zeros_like(beta)
    x, left, running, step = zero, first.copy(), first > 0, 0
    direction = last_direction = zero
    while running.any() and step < steps:
        v = ahead * _share(1.0, beta)
        new = _product(system, v) - before * (_share(beta, last_beta) * (step > 0))
        alpha = v.dot(new)
        before, now = now, new - now * _share(alpha, beta)
        ahead, last_beta = _preconditioned(system, now), beta
        beta = _norm(now, ahead)
        # the next rotation of QR, and the column that it makes
        far_before, delta = far, cosine * bar + sine * alpha
        corner, far, bar = sine * bar - cosine * alpha, sine * beta, -cosine * beta
        size = np.maximum(np.hypot(corner, beta), TINY)
        cosine, sine = corner / size, beta / size
        older, last_direction = last_direction, direction
        direction = v.x - _along(far_before, zero) * older - _along(delta, zero) * last_direction
        direction = _along(1 / size, zero) * direction
        x = x + _along(np.where(running, cosine * left, 0.0), zero) * direction
        left = np.where(running, sine * left, left)
        running = running & (left > enough * first)
        step += 1
    return Found(x, step, _share(left, first))


def _product(system: Saddle, v: _Pair) -> _Pair:
    return _Pair(system.quadratic(v.x) + system.adjoint(v.p), system.constraints(v.x), v.owner)


def _preconditioned(system: Saddle, pair: _Pair) -> _Pair:
    return _Pair(system.precondition(pair.x), system.sigma[pair.owner] * pair.p, pair.owner)


def _norm(pair: _Pair, preconditioned: _Pair) -> FloatVector:
    return np.asarray(np.sqrt(np.maximum(pair.dot(preconditioned), 0.0)))


def _share(a: FloatVector | float, b: FloatVector) -> FloatVector:
    """a / b, 0 where b is."""
    return np.asarray(np.divide(a, b, out=np.zeros_like(b), where=b > 0))


def _along(values: FloatVector, array: Array) -> Array:
    """(n,) so that it multiplies an array (n, ...) image by image, in its precision."""
    return values.astype(array.real.dtype).reshape(-1, *[1] * (array.ndim - 1))
