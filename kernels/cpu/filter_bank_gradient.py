"""step_gradient and start_gradient: back through the dual steps under one mask, each in one pass over the tiles.

Step i makes u_i+1 = clip(v_i + s M . W x_i, -bound, bound) and v_i+1 = u_i+1 + m_i (u_i+1 - u_i), from
x_i = clip(y - W^T (M . v_i)); x = clip(y - W^T (M . u_n)) follows the last. A prime marks dL / d(.) of a number L. e is
x', zero where x is at its limits, and q = W e. Pass i leads from u_i and v_i to v_i-1:

    v_i' = through - M . q                                 by the step and by x_i
    u_i' = (1 + m_i-1) v_i' - m_i v_i+1'                   for u_n: (1 + m_n-1) v_n' - M . q, v_n' from the next mask
    g    = u_i' where |u_i| < bound, else 0                through of v_i-1; the rest goes to bound
    M . M' += g . (u_i - v_i-1) - (M . q) . v_i            u_i - v_i-1 is s M . W x_i-1 where g is not zero
    tiles = the parts of W^T (M . g)                       s times their sum is x_i-1'

M . M' instead of M' needs no W x and no division by a small M. u_0 = v_0 is at no bound, and no step led to it. Shapes
as in filter_bank.py and arguments.py; image (1, B, P, rows, pitch) is e with its halo; clipped (B, tiles), float64, is
the sum of u_i . (u_i' - g). Oracles: tests/kernels/test_gradient_kernels.py, of whole solves
tests/unit/test_unrolled_gradients.py.
"""

from __future__ import annotations

from numba import njit

from .arguments import Bank, Carried, Floats, Geometry, Mask, Numbers, Place, Record, Sums, Work
from .filter_bank import channels_at, load_tile
from .parallel import PART, Share, kernel, shared
from .simd import Vector, absolute, fma, lane_sum, load, splat, store, where_below
from .tile import (
    GROUP,
    ROW,
    analyse_columns,
    analyse_row,
    begin_synthesis,
    finish_synthesis,
    locate,
    synthesise_row,
    tiles_of,
)


@njit(**PART, forceinline=True)
def _back_lanes(
    q: Vector, record: Record, image: int, current: int, slot: int, carried: Carried, at: int, mask: Mask, bound: float,
    last: bool,
) -> tuple[Vector, Vector]:  # fmt: skip
    """Pass i for 16 channels of a pixel: M . g and u_i . (u_i' - g). slot: floats from u_i-1 to u_i at `current`."""
    values, zero = record.values, splat(0.0)
    following, now, before = splat(record.next[image]), splat(record.now[image]), splat(record.before[image])
    u, ahead = load(values, current), load(carried.ahead, at)
    if mask.present:
        q = q * load(mask.values, at)
    if last:
        v_slope = ahead
        u_slope = fma(now, ahead, ahead) - q
    else:
        v_slope = load(carried.through, at) - q
        u_slope = fma(now, v_slope, v_slope) - following * ahead
    passed = where_below(absolute(u), splat(bound), u_slope, zero)
    store(carried.through, at, passed)
    store(carried.ahead, at, v_slope)
    clipped = (u_slope - passed) * u
    if mask.present:
        previous = load(values, current - slot)
        v_previous = fma(before, previous - load(values, current - 2 * slot), previous)
        total = zero if last else load(carried.mask, at)
        v = u if last else fma(now, u - previous, u)
        store(carried.mask, at, fma(passed, u - v_previous, total) - q * v)
        passed = passed * load(mask.values, at)
    return passed, clipped


@kernel
def step_gradient(
    share: Share,
    active: Numbers, image: Place, record: Record, carried: Carried, mask: Mask, bound: Floats, last: bool,
    tiles: Floats, clipped: Sums, geometry: Geometry, bank: Bank, work: Work,
) -> None:  # fmt: skip
    """Pass i >= 1; last: i = n, which starts M . M' anew. bound: (B,)."""
    slot = geometry.batch * geometry.groups * geometry.height * geometry.width * GROUP
    for item in shared(share, len(active) * tiles_of(geometry)):
        tile = locate(item, active, geometry, bank.band)
        re, im, b, limit = work.re, work.im, tile.image, bound[tile.image]
        begin_synthesis(tile, geometry, work)
        load_tile(image, tile, geometry, work)
        total = 0.0
        for group in range(geometry.groups):
            analyse_columns(group, tile, geometry, bank, work)
            for row in range(tile.rows):
                analyse_row(group, row, tile, geometry, bank, work)
                first = channels_at(b, group, row, tile, geometry)
                row_sum = splat(0.0)
                for column in range(tile.columns):
                    to, at = tile.work + ROW + column * 16, first + column * GROUP
                    here = record.number * slot + at
                    gr, size_r = _back_lanes(load(re, to), record, b, here, slot, carried, at, mask, limit, last)
                    here, at = here + 16, at + 16
                    gi, size_i = _back_lanes(load(im, to), record, b, here, slot, carried, at, mask, limit, last)
                    store(re, to, gr)
                    store(im, to, gi)
                    row_sum = row_sum + size_r + size_i
                total += lane_sum(row_sum)
                synthesise_row(group, row, tile, geometry, bank, work)
        clipped[tile.number] = total
        finish_synthesis(tiles, tile, geometry, bank, work)


@njit(**PART, forceinline=True)
def _start_lanes(q: Vector, record: Record, image: int, current: int, carried: Carried, at: int, mask: Mask) -> Vector:
    """Pass 0 for 16 channels of a pixel: u_0' + v_0', over `ahead`."""
    if mask.present:
        q = q * load(mask.values, at)
        store(carried.mask, at, load(carried.mask, at) - q * load(record.values, current))
    total = (load(carried.through, at) - q) - splat(record.next[image]) * load(carried.ahead, at)
    store(carried.ahead, at, total)
    return total


@kernel
def start_gradient(
    share: Share,
    active: Numbers, image: Place, record: Record, carried: Carried, mask: Mask, first: bool, tiles: Floats,
    geometry: Geometry, bank: Bank, work: Work,
) -> None:  # fmt: skip
    """Pass 0: ahead = v_n' of the mask before, or, of the first, where u_0 = W y, tiles = the parts of y'."""
    slot = geometry.batch * geometry.groups * geometry.height * geometry.width * GROUP
    for item in shared(share, len(active) * tiles_of(geometry)):
        tile = locate(item, active, geometry, bank.band)
        re, im, b = work.re, work.im, tile.image
        begin_synthesis(tile, geometry, work)
        load_tile(image, tile, geometry, work)
        for group in range(geometry.groups):
            analyse_columns(group, tile, geometry, bank, work)
            for row in range(tile.rows):
                analyse_row(group, row, tile, geometry, bank, work)
                begin = channels_at(b, group, row, tile, geometry)
                for column in range(tile.columns):
                    to, at = tile.work + ROW + column * 16, begin + column * GROUP
                    here = record.number * slot + at
                    store(re, to, _start_lanes(load(re, to), record, b, here, carried, at, mask))
                    store(im, to, _start_lanes(load(im, to), record, b, here + 16, carried, at + 16, mask))
                if first:
                    synthesise_row(group, row, tile, geometry, bank, work)
        if first:
            finish_synthesis(tiles, tile, geometry, bank, work)
