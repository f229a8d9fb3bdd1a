"""Per-channel linear splines and their gradient for training, on arrays of planes.

    s_c(t) = c_i + (c_{i+1} - c_i)(p - i),   p = (t - low)(n - 1) / (1 - low),   i = floor(p) cut to 0 .. n - 2

x, out, gradient, to_x: (B, C, N), N pixels; values: (C, n) at uniform knots on [low, 1]; one floating dtype. The ends go on linearly.
Planes are shared out among the threads. Not for solving: kernels/cpu/spline.py is the one that the engine fuses into its passes.
"""

import numpy as np
from numba import njit, prange

_OPTIONS = {"parallel": True, "fastmath": True, "cache": True}


@njit(**_OPTIONS)
def spline_planes(x, values, low, out):
    """out = s(x)."""
    batch, channels, pixels = x.shape
    last = values.shape[1] - 2
    start, stretch = x.dtype.type(low), x.dtype.type((last + 1) / (1 - low))
    for plane in prange(batch * channels):
        b, c = plane // channels, plane % channels
        table, steps = values[c], values[c, 1:] - values[c, :-1]
        for p in range(pixels):
            t = (x[b, c, p] - start) * stretch
            i = min(max(np.int32(t), 0), last)
            out[b, c, p] = table[i] + steps[i] * (t - i)


@njit(**_OPTIONS)
def spline_planes_gradient(x, values, low, gradient, to_x, to_values):
    """gradient of s(x) -> gradient of x and, plane by plane, of the values: to_values float64 (B, C, n)."""
    batch, channels, pixels = x.shape
    last = values.shape[1] - 2
    start, stretch = x.dtype.type(low), x.dtype.type((last + 1) / (1 - low))
    for plane in prange(batch * channels):
        b, c = plane // channels, plane % channels
        slopes = (values[c, 1:] - values[c, :-1]) * stretch
        sums = np.zeros(last + 2)
        for p in range(pixels):
            t = (x[b, c, p] - start) * stretch
            i = min(max(np.int32(t), 0), last)
            g = gradient[b, c, p]
            to_x[b, c, p] = slopes[i] * g
            sums[i] += (1 - (t - i)) * g
            sums[i + 1] += (t - i) * g
        to_values[b, c] = sums
