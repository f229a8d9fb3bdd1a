"""Fourier transforms of length 32 and 16 over vectors of 16 lanes: 16 independent transforms at once.

    X[k] = sum_n x[n] exp(-2 pi i k n / N),   natural order in and out, in place

Element n of a line is the 16 floats at `offset + n * stride` of the flat arrays `re` and `im`. The inverse (without
1/N) is the same function with `re` and `im` swapped. `scratch` holds one line: 2 * N * 16 floats, starting at `base`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arguments import Floats
from .simd import Vector, fma, load, splat, store

TILE = 32  # side of the tiles of the filter bank
SMALL_TILE = 16  # side of the tiles of the mask generator's convolutions

_ANGLES = 2 * np.pi * np.arange(TILE) / TILE
COS = np.cos(_ANGLES).astype(np.float32)
SIN = np.sin(_ANGLES).astype(np.float32)
_ZERO = np.float32(0)
_HALF_ROOT = np.float32(np.sqrt(0.5))

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def _butterfly4(
    ar: Vector, ai: Vector, br: Vector, bi: Vector, cr: Vector, ci: Vector, dr: Vector, di: Vector
) -> tuple[Vector, Vector, Vector, Vector, Vector, Vector, Vector, Vector]:
    """Transform of length 4 of a, b, c, d."""
    pr, pi, qr, qi = ar + cr, ai + ci, ar - cr, ai - ci
    rr, ri, sr, si = br + dr, bi + di, br - dr, bi - di
    return pr + rr, pi + ri, qr + si, qi - sr, pr - rr, pi - ri, qr - si, qi + sr


@njit(**_OPTIONS)
def _first_stage(
    re: Floats, im: Floats, offset: int, step: int, scratch: Floats, j: int, length: int, imaginary: int
) -> None:
    """Radix 4 over the elements j, j + N/4, j + N/2, j + 3N/4, times the twiddles exp(-2 pi i j m / N)."""
    quarter = length // 4
    turn = TILE // length
    o = offset + j * step
    hop = quarter * step
    ar, ai, br, bi, cr, ci, dr, di = _butterfly4(
        load(re, o), load(im, o), load(re, o + hop), load(im, o + hop),
        load(re, o + 2 * hop), load(im, o + 2 * hop), load(re, o + 3 * hop), load(im, o + 3 * hop),
    )  # fmt: skip
    real = imaginary - length * 16
    store(scratch, real + j * 16, ar)
    store(scratch, imaginary + j * 16, ai)
    _store_turned(scratch, real, imaginary, quarter + j, br, bi, j * turn)
    _store_turned(scratch, real, imaginary, 2 * quarter + j, cr, ci, 2 * j * turn)
    _store_turned(scratch, real, imaginary, 3 * quarter + j, dr, di, 3 * j * turn)


@njit(**_OPTIONS)
def _store_turned(
    scratch: Floats, real: int, imaginary: int, position: int, xr: Vector, xi: Vector, angle: int
) -> None:
    """scratch[position] = x * exp(-2 pi i angle / 32)."""
    c, s = splat(COS[angle]), splat(SIN[angle])
    store(scratch, real + position * 16, fma(xr, c, xi * s))
    store(scratch, imaginary + position * 16, fma(xi, c, splat(_ZERO) - xr * s))


@njit(**_OPTIONS)
def fft32(re: Floats, im: Floats, offset: int, stride: int, scratch: Floats, base: int) -> None:
    """In-place transform of one line of 32 elements: radix 4, then radix 8."""
    real, imaginary = base, base + 512
    for j in range(8):
        _first_stage(re, im, offset, stride, scratch, j, 32, imaginary)
    c = splat(_HALF_ROOT)
    for g in range(4):
        r, i = real + g * 128, imaginary + g * 128
        x0r, x1r, x2r, x3r = load(scratch, r), load(scratch, r + 16), load(scratch, r + 32), load(scratch, r + 48)
        x4r, x5r, x6r, x7r = load(scratch, r + 64), load(scratch, r + 80), load(scratch, r + 96), load(scratch, r + 112)
        x0i, x1i, x2i, x3i = load(scratch, i), load(scratch, i + 16), load(scratch, i + 32), load(scratch, i + 48)
        x4i, x5i, x6i, x7i = load(scratch, i + 64), load(scratch, i + 80), load(scratch, i + 96), load(scratch, i + 112)
        e0r, e0i, e1r, e1i, e2r, e2i, e3r, e3i = _butterfly4(
            x0r + x4r, x0i + x4i, x1r + x5r, x1i + x5i, x2r + x6r, x2i + x6i, x3r + x7r, x3i + x7i
        )
        t1r, t1i, t3r, t3i = x1r - x5r, x1i - x5i, x3r - x7r, x3i - x7i
        d0r, d0i, d1r, d1i, d2r, d2i, d3r, d3i = _butterfly4(
            x0r - x4r, x0i - x4i, (t1r + t1i) * c, (t1i - t1r) * c,
            x2i - x6i, x6r - x2r, (t3i - t3r) * c, (splat(_ZERO) - t3r - t3i) * c,
        )  # fmt: skip
        o = offset + g * stride  # bin g + 4 q goes to its natural place
        hop = 4 * stride
        store(re, o, e0r)
        store(im, o, e0i)
        store(re, o + hop, d0r)
        store(im, o + hop, d0i)
        store(re, o + 2 * hop, e1r)
        store(im, o + 2 * hop, e1i)
        store(re, o + 3 * hop, d1r)
        store(im, o + 3 * hop, d1i)
        store(re, o + 4 * hop, e2r)
        store(im, o + 4 * hop, e2i)
        store(re, o + 5 * hop, d2r)
        store(im, o + 5 * hop, d2i)
        store(re, o + 6 * hop, e3r)
        store(im, o + 6 * hop, e3i)
        store(re, o + 7 * hop, d3r)
        store(im, o + 7 * hop, d3i)


@njit(**_OPTIONS)
def fft16(re: Floats, im: Floats, offset: int, stride: int, scratch: Floats, base: int) -> None:
    """In-place transform of one line of 16 elements: radix 4 twice."""
    real, imaginary = base, base + 256
    for j in range(4):
        _first_stage(re, im, offset, stride, scratch, j, 16, imaginary)
    for g in range(4):
        r, i = real + g * 64, imaginary + g * 64
        ar, ai, br, bi, cr, ci, dr, di = _butterfly4(
            load(scratch, r), load(scratch, i), load(scratch, r + 16), load(scratch, i + 16),
            load(scratch, r + 32), load(scratch, i + 32), load(scratch, r + 48), load(scratch, i + 48),
        )  # fmt: skip
        o = offset + g * stride
        hop = 4 * stride
        store(re, o, ar)
        store(im, o, ai)
        store(re, o + hop, br)
        store(im, o + hop, bi)
        store(re, o + 2 * hop, cr)
        store(im, o + 2 * hop, ci)
        store(re, o + 3 * hop, dr)
        store(im, o + 3 * hop, di)
