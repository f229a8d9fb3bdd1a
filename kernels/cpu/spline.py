"""Per-channel linear splines on uniform knots, linearly extrapolated, for 16 channels at once.

    s(t) = c_0 + sum_k (c_{k+1} - c_k) clip(p - k, 0, 1),     p = (t - low) / spacing

The first and the last piece are not clipped on their outer side. No gather and no branch; every term is bounded, so
that nothing cancels (a sum of hinges would lose three digits where a profile is steep). Table of a spline bank,
float32 (n, G, 32): rows c_0 and the n - 1 differences.
"""

from __future__ import annotations

from numba import njit

from .arguments import Spline
from .simd import Vector, fma, load, maximum, minimum, splat, where_below
from .tile import GROUP

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def spline(t: Vector, bank: Spline, groups: int, lanes: int) -> Vector:
    """s(t) for the 16 channels that start at `lanes`."""
    table, row = bank.table, groups * GROUP
    zero, one = splat(0.0), splat(1.0)
    p = fma(t, splat(bank.stretch), splat(bank.shift))
    value = load(table, lanes)
    if bank.knots == 2:
        return fma(load(table, row + lanes), p, value)
    value = fma(load(table, row + lanes), minimum(p, one), value)
    for piece in range(1, bank.knots - 2):
        p = p - one
        value = fma(load(table, (piece + 1) * row + lanes), minimum(maximum(p, zero), one), value)
    return fma(load(table, (bank.knots - 1) * row + lanes), maximum(p - one, zero), value)


@njit(**_OPTIONS)
def slope(t: Vector, bank: Spline, groups: int, lanes: int) -> Vector:
    """s'(t) for the 16 channels that start at `lanes`; at a knot that of the piece to its right."""
    table, row = bank.table, groups * GROUP
    p = fma(t, splat(bank.stretch), splat(bank.shift))
    value = load(table, row + lanes)
    for piece in range(1, bank.knots - 1):
        value = where_below(p, splat(piece), value, load(table, (piece + 1) * row + lanes))
    return value * splat(bank.stretch)
