"""From the images after two outer steps to the one that the next mask is computed from.

The outer iteration x_k = G(s_k), s_k+1 = x_k, where G solves the convex problem with the mask of s, need not contract:
it may alternate between two images, or creep. Anderson's method with a depth of one looks at the last two residuals
f_k = x_k - s_k and takes

    s_k+1 = x_k - g (x_k - x_k-1),     g = <f_k, f_k - f_k-1> / ||f_k - f_k-1||^2

(Walker and Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal. 49, 2011): the mean of both where
they alternate, a longer step where they creep. Fixed points are those of G, with or without it.
"""

from __future__ import annotations

import numpy as np

from ..namespaces import put, taken
from ..types import Active, AnyArray, FloatVector
from .data_term import column, products, squares

LEAST, MOST = -1.0, 0.5  # of g: convex problems are solved inexactly, which the residuals show too


class Mixing:
    """The images s of a batch, from which the masks are computed; x (B, H, W), where they start."""

    def __init__(self, x: AnyArray):
        self._seen, self._x, self._residual = x.copy(), x.copy(), x.copy()

    def change(self, a: Active, x: AnyArray) -> FloatVector:
        """||x - s|| / ||s|| of the images `a`: 0 for no change, infinite for a change from zero."""
        before = taken(self._seen, a)
        change, size = np.sqrt(squares(x - before)), np.sqrt(squares(before))
        return np.divide(change, size, out=np.where(change > 0, np.inf, 0.0), where=size > 0)

    def next(self, a: Active, x: AnyArray, mixed: bool) -> AnyArray:
        """s of the next mask, for x of the last one; x itself unless `mixed`, which wants two masks before."""
        residual, seen = x - taken(self._seen, a), x
        if mixed:
            difference = residual - taken(self._residual, a)
            size = squares(difference)
            share = np.divide(products(residual, difference), size, out=np.zeros(len(a)), where=size > 0)
            seen = x - column(share.clip(LEAST, MOST), x) * (x - taken(self._x, a))
        for kept, new in ((self._residual, residual), (self._x, x), (self._seen, seen)):
            put(kept, a, new)
        return seen
