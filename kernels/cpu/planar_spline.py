"""Per-channel linear splines and their gradient for training, on arrays of planes.

    s_c(t) = c_i + (c_{i+1} - c_i)(p - i),   p = (t - low)(n - 1) / (1 - low),   i = floor(p) cut to 0 .. n - 2

x, out, gradient, to_x: (B, C, N), N pixels; values: (C, n) at uniform knots on [low, 1]; one floating dtype. The ends
go on linearly. Planes are shared out among the threads. The index is unsigned, so that a loop becomes vector gathers;
the sums over a piece cannot, and have a loop of their own. Not for solving: kernels/cpu/spline.py is the one that the
engine fuses into its passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Planes = NDArray[Any]

# Without the flags that deny NaN and infinity: a NaN must end as an index that exists.
_FAST = {"nsz", "arcp", "contract", "reassoc"}
_OPTIONS = {"parallel": True, "fastmath": _FAST, "cache": True, "error_model": "numpy"}


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _piece(t: Any, last: Any) -> Any:
    """floor(t) cut to 0 .. last, as a float; 0 for NaN."""
    zero = last - last
    t = t if t > zero else zero
    return np.floor(t if t < last else last)


@njit(**_OPTIONS)
def spline_planes(x: Planes, values: Planes, low: float, out: Planes) -> None:
    """out = s(x)."""
    batch, channels, pixels = x.shape
    pieces = values.shape[1] - 1
    kind = x.dtype.type
    start, stretch, last = kind(low), kind(pieces / (1 - low)), kind(pieces - 1)
    for plane in prange(batch * channels):
        b, c = plane // channels, plane % channels
        table, steps = values[c].copy(), values[c, 1:] - values[c, :-1]
        row, result = x[b, c], out[b, c]
        for p in range(pixels):
            t = (row[p] - start) * stretch
            left = _piece(t, last)
            i = np.uint32(left)
            result[p] = table[i] + steps[i] * (t - left)


@njit(**_OPTIONS)
def spline_planes_gradient(
    x: Planes, values: Planes, low: float, gradient: Planes, to_x: Planes, to_values: Planes
) -> None:
    """gradient of s(x) -> gradient of x and, plane by plane, of the values: to_values float64 (B, C, n)."""
    batch, channels, pixels = x.shape
    pieces = values.shape[1] - 1
    kind = x.dtype.type
    start, stretch, last = kind(low), kind(pieces / (1 - low)), kind(pieces - 1)
    for plane in prange(batch * channels):
        b, c = plane // channels, plane % channels
        slopes = (values[c, 1:] - values[c, :-1]) * stretch
        row, incoming, result = x[b, c], gradient[b, c], to_x[b, c]
        for p in range(pixels):
            i = np.uint32(_piece((row[p] - start) * stretch, last))
            result[p] = slopes[i] * incoming[p]
        whole, right = np.zeros(pieces), np.zeros(pieces)  # sums over each piece of g and of g (p - i)
        for p in range(pixels):
            t = (row[p] - start) * stretch
            left = _piece(t, last)
            i = np.uint32(left)
            whole[i] += incoming[p]
            right[i] += incoming[p] * (t - left)
        to_values[b, c, 0] = 0
        for piece in range(pieces):
            to_values[b, c, piece] += whole[piece] - right[piece]
            to_values[b, c, piece + 1] = right[piece]
