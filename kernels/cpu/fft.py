"""Fourier transforms of length 32 and 16 over vectors of 16 lanes: 16 independent transforms at once.

    X[k] = sum_n x[n] exp(-2 pi i k n / N),   natural order in and out

Element n of a line is the 16 floats at `offset + n * stride` of the flat arrays `re` and `im`. The inverse (without
1/N) is the same function with `re` and `im` swapped. `scratch` holds one line: 2 * N * 16 floats, starting at `base`.

Both stages, and what they are made of, take NARROW lanes at a time, those that begin at their offsets.

A transform of 32 is `radix4` of the elements j, j + 8, j + 16, j + 24 for j < 8, then `radix8` for the bins g, g + 4,
... g + 28, g < 4. Kernels of tile.py take the two stages apart: what comes in is often a product, and often zero from
some element on; what goes out is often not needed from some element on.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arguments import Floats
from .parallel import PART
from .simd import LANES, NARROW, Vector, fma, negative, store
from .simd import load_narrow as load
from .simd import splat_narrow as splat
from .simd import spread_narrow as spread

TILE = 32  # side of the tiles of the filter bank
SMALL_TILE = 16  # side of the tiles of the mask generator's convolutions
LINE = TILE * 16  # floats of one part of a line

_ANGLES = 2 * np.pi * np.arange(TILE) / TILE
COS = np.cos(_ANGLES).astype(np.float32)
SIN = np.sin(_ANGLES).astype(np.float32)
_HALF_ROOT = np.float32(np.sqrt(0.5))

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}

Four = tuple[Vector, Vector, Vector, Vector, Vector, Vector, Vector, Vector]
Eight = tuple[
    Vector, Vector, Vector, Vector, Vector, Vector, Vector, Vector,
    Vector, Vector, Vector, Vector, Vector, Vector, Vector, Vector,
]  # fmt: skip


@njit(**PART, forceinline=True)
def _butterfly4(ar: Vector, ai: Vector, br: Vector, bi: Vector, cr: Vector, ci: Vector, dr: Vector, di: Vector) -> Four:
    """Transform of length 4 of a, b, c, d."""
    pr, pi, qr, qi = ar + cr, ai + ci, ar - cr, ai - ci
    rr, ri, sr, si = br + dr, bi + di, br - dr, bi - di
    return pr + rr, pi + ri, qr + si, qi - sr, pr - rr, pi - ri, qr - si, qi + sr


@njit(**PART, forceinline=True)
def _store_turned(
    scratch: Floats, real: int, imaginary: int, position: int, xr: Vector, xi: Vector, angle: int
) -> None:
    """scratch[position] = x * exp(-2 pi i angle / 32)."""
    c, s = spread(COS, angle), spread(SIN, angle)
    store(scratch, real + position * 16, fma(xr, c, xi * s))
    store(scratch, imaginary + position * 16, fma(xi, c, negative(xr * s)))


@njit(**PART, forceinline=True)
def _store_stage(scratch: Floats, base: int, length: int, j: int, four: Four) -> None:
    """The outputs of a first stage, times the twiddles exp(-2 pi i j m / N)."""
    quarter, turn, imaginary = length // 4, TILE // length * j, base + length * 16
    store(scratch, base + j * 16, four[0])
    store(scratch, imaginary + j * 16, four[1])
    _store_turned(scratch, base, imaginary, quarter + j, four[2], four[3], turn)
    _store_turned(scratch, base, imaginary, 2 * quarter + j, four[4], four[5], 2 * turn)
    _store_turned(scratch, base, imaginary, 3 * quarter + j, four[6], four[7], 3 * turn)


@njit(**PART, forceinline=True)
def radix4(scratch: Floats, base: int, j: int, elements: Four) -> None:
    """First stage of a transform of 32 on the elements j, j + 8, j + 16, j + 24."""
    _store_stage(scratch, base, TILE, j, _butterfly4(*elements))


@njit(**PART, forceinline=True)
def load4(re: Floats, im: Floats, offset: int, stride: int, j: int, hop: int) -> Four:
    """Elements j, j + hop, j + 2 hop, j + 3 hop of a line."""
    o, step = offset + j * stride, hop * stride
    return (
        load(re, o), load(im, o), load(re, o + step), load(im, o + step),
        load(re, o + 2 * step), load(im, o + 2 * step), load(re, o + 3 * step), load(im, o + 3 * step),
    )  # fmt: skip


@njit(**PART, forceinline=True)
def first_stage(re: Floats, im: Floats, offset: int, stride: int, count: int, scratch: Floats, base: int) -> None:
    """`radix4` of a line whose elements from `count` >= 16 on are zero and not read."""
    zero = splat(0.0)
    for j in range(8):
        o, hop = offset + j * stride, 8 * stride
        ar, ai, br, bi = load(re, o), load(im, o), load(re, o + hop), load(im, o + hop)
        if j + 24 < count:
            cr, ci = load(re, o + 2 * hop), load(im, o + 2 * hop)
            radix4(scratch, base, j, (ar, ai, br, bi, cr, ci, load(re, o + 3 * hop), load(im, o + 3 * hop)))
        elif j + 16 < count:
            radix4(scratch, base, j, (ar, ai, br, bi, load(re, o + 2 * hop), load(im, o + 2 * hop), zero, zero))
        else:
            radix4(scratch, base, j, (ar, ai, br, bi, zero, zero, zero, zero))


@njit(**PART, forceinline=True)
def radix8(scratch: Floats, base: int, g: int) -> Eight:
    """Second stage of a transform of 32: the bins g, g + 4, ... g + 28, real and imaginary parts in turn."""
    c, r, i = splat(_HALF_ROOT), base + g * 128, base + LINE + g * 128
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
        x2i - x6i, x6r - x2r, (t3i - t3r) * c, (t3r + t3i) * splat(-_HALF_ROOT),
    )  # fmt: skip
    return e0r, e0i, d0r, d0i, e1r, e1i, d1r, d1i, e2r, e2i, d2r, d2i, e3r, e3i, d3r, d3i


@njit(**PART, forceinline=True)
def last_stage(re: Floats, im: Floats, offset: int, stride: int, count: int, scratch: Floats, base: int) -> None:
    """`radix8` into a line, whose elements from `count` >= 16 on are not needed; some of them are written."""
    for g in range(4):
        bins, o, hop = radix8(scratch, base, g), offset + g * stride, 4 * stride
        store(re, o, bins[0])
        store(im, o, bins[1])
        store(re, o + hop, bins[2])
        store(im, o + hop, bins[3])
        store(re, o + 2 * hop, bins[4])
        store(im, o + 2 * hop, bins[5])
        store(re, o + 3 * hop, bins[6])
        store(im, o + 3 * hop, bins[7])
        if count > 16:
            store(re, o + 4 * hop, bins[8])
            store(im, o + 4 * hop, bins[9])
        if count > 20:
            store(re, o + 5 * hop, bins[10])
            store(im, o + 5 * hop, bins[11])
            store(re, o + 6 * hop, bins[12])
            store(im, o + 6 * hop, bins[13])
            store(re, o + 7 * hop, bins[14])
            store(im, o + 7 * hop, bins[15])


@njit(**PART, forceinline=True)
def first_and_last(re: Floats, im: Floats, offset: int, stride: int, scratch: Floats, base: int) -> None:
    """`fft32` of NARROW lanes."""
    first_stage(re, im, offset, stride, TILE, scratch, base)
    last_stage(re, im, offset, stride, TILE, scratch, base)


@njit(**_OPTIONS)
def fft32(re: Floats, im: Floats, offset: int, stride: int, scratch: Floats, base: int) -> None:
    """In-place transform of one line of 32 elements: radix 4, then radix 8."""
    for lane in range(0, LANES, NARROW):
        first_and_last(re, im, offset + lane, stride, scratch, base + lane)


@njit(**_OPTIONS)
def fft16(re: Floats, im: Floats, offset: int, stride: int, scratch: Floats, base: int) -> None:
    """In-place transform of one line of 16 elements: radix 4 twice."""
    for lane in range(0, LANES, NARROW):
        _narrow16(re, im, offset + lane, stride, scratch, base + lane)


@njit(**PART, forceinline=True)
def _narrow16(re: Floats, im: Floats, offset: int, stride: int, scratch: Floats, base: int) -> None:
    for j in range(4):
        ar, ai, br, bi, cr, ci, dr, di = load4(re, im, offset, stride, j, 4)
        _store_stage(scratch, base, SMALL_TILE, j, _butterfly4(ar, ai, br, bi, cr, ci, dr, di))
    real, imaginary = base, base + 256
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
