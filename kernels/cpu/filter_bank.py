"""analysis, masked_norm, synthesis, dual_step, recorded_step and anchored_step: W x, W^T u and the steps of u, each in
one pass over the tiles.

Shapes (flat, C order), for a batch of B images of H x W pixels and G groups of 32 channels:
    image   (4, B, P, rows, pitch)  x with its halo, see image.py for the slots
    dual    (2, B, G, H, W, 32)   u, two slots
    tiles   (B, P, tiles, 32, 32) what each tile adds to W^T (M . u)
    l1      (B, tiles)            float64, one sum of each tile
`active` lists the images to work on; the other arguments are those of arguments.py.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import njit

from .arguments import Bank, Floats, Geometry, Mask, Numbers, Place, Step, Sums, Work, planes_of
from .parallel import PART, Share, kernel, shared
from .simd import Vector, absolute, fma, lane_sum, load, maximum, minimum, splat, store
from .tile import (
    GROUP,
    ROW,
    Tile,
    analyse_columns,
    analyse_row,
    begin_synthesis,
    finish_synthesis,
    load_image,
    locate,
    synthesise_row,
    tiles_of,
)


@njit(**PART)
def load_tile(image: Place, tile: Tile, geometry: Geometry, work: Work) -> None:
    """Read the planes of an image under the tile."""
    own, pitch = image.slot[tile.image] * geometry.batch + tile.image, geometry.pitch
    corner = geometry.halo - geometry.support // 2
    for plane in range(planes_of(geometry)):
        top = (own * planes_of(geometry) + plane) * geometry.rows + tile.top + corner
        load_image(image.values, top * pitch + tile.left + corner, pitch, plane, tile, geometry, work)


@njit(**PART)
def channels_at(plane: int, group: int, row: int, tile: Tile, geometry: Geometry) -> int:
    """Where the lanes of a row of the tile begin in an array (planes, G, H, W, 32)."""
    line = (plane * geometry.groups + group) * geometry.height + tile.top + row
    return (line * geometry.width + tile.left) * GROUP


@kernel
def analysis(
    share: Share,
    active: Numbers,
    image: Place,
    mask: Mask,
    magnitude: bool,
    output: Place,
    geometry: Geometry,
    bank: Bank,
    work: Work,
) -> None:
    """output = M . W x, or its magnitude."""
    for item in shared(share, len(active) * tiles_of(geometry)):
        tile = locate(item, active, geometry, bank.band)
        re, im, values, to = work.re, work.im, mask.values, output.values
        load_tile(image, tile, geometry, work)
        for group in range(geometry.groups):
            analyse_columns(group, tile, geometry, bank, work)
            for row in range(tile.rows):
                analyse_row(group, row, tile, geometry, bank, work)
                pixel = channels_at(tile.image, group, row, tile, geometry)
                plane = output.slot[tile.image] * geometry.batch + tile.image
                target = channels_at(plane, group, row, tile, geometry)
                for column in range(tile.columns):
                    at = tile.work + ROW + column * 16
                    for half in range(2):
                        shift = column * GROUP + half * 16
                        q = load(re, at) if half == 0 else load(im, at)
                        if mask.present:
                            q = q * load(values, pixel + shift)
                        store(to, target + shift, absolute(q) if magnitude else q)


@kernel
def masked_norm(
    share: Share, active: Numbers, image: Place, mask: Mask, l1: Sums, geometry: Geometry, bank: Bank, work: Work
) -> None:
    """l1[b, tile] = sum |M . W x|."""
    for item in shared(share, len(active) * tiles_of(geometry)):
        tile = locate(item, active, geometry, bank.band)
        re, im, values = work.re, work.im, mask.values
        load_tile(image, tile, geometry, work)
        total = 0.0
        for group in range(geometry.groups):
            analyse_columns(group, tile, geometry, bank, work)
            for row in range(tile.rows):
                analyse_row(group, row, tile, geometry, bank, work)
                pixel = channels_at(tile.image, group, row, tile, geometry)
                row_sum = splat(0.0)
                for column in range(tile.columns):
                    at = tile.work + ROW + column * 16
                    qr, qi = absolute(load(re, at)), absolute(load(im, at))
                    if mask.present:
                        qr = qr * load(values, pixel + column * GROUP)
                        qi = qi * load(values, pixel + column * GROUP + 16)
                    row_sum = row_sum + qr + qi
                total += lane_sum(row_sum)
        l1[tile.number] = total


@kernel
def synthesis(
    share: Share, active: Numbers, dual: Place, mask: Mask, tiles: Floats, geometry: Geometry, bank: Bank, work: Work
) -> None:
    """tiles[b] = the parts of W^T (M . u); `image_step` adds them up."""
    for item in shared(share, len(active) * tiles_of(geometry)):
        tile = locate(item, active, geometry, bank.band)
        re, im, values, u = work.re, work.im, mask.values, dual.values
        begin_synthesis(tile, geometry, work)
        for group in range(geometry.groups):
            for row in range(tile.rows):
                pixel = channels_at(tile.image, group, row, tile, geometry)
                plane = dual.slot[tile.image] * geometry.batch + tile.image
                source = channels_at(plane, group, row, tile, geometry)
                for column in range(tile.columns):
                    at = tile.work + ROW + column * 16
                    shift = column * GROUP
                    ur, ui = load(u, source + shift), load(u, source + shift + 16)
                    if mask.present:
                        ur = ur * load(values, pixel + shift)
                        ui = ui * load(values, pixel + shift + 16)
                    store(re, at, ur)
                    store(im, at, ui)
                synthesise_row(group, row, tile, geometry, bank, work)
        finish_synthesis(tiles, tile, geometry, bank, work)


@njit(**PART, forceinline=True)
def _new_lanes(
    q: Vector, dual: Floats, current: int, previous: int, target: int, mask: Mask, pixel: int, size: float,
    bound: float, momentum: float,
) -> tuple[Vector, Vector]:  # fmt: skip
    """u_new = clip(v + size M . q, -bound, bound) at `target`; M . u_new and |M . q|."""
    u = load(dual, current)
    v = fma(splat(momentum), u - load(dual, previous), u)
    if mask.present:
        q = q * load(mask.values, pixel)
    u = maximum(minimum(fma(splat(size), q, v), splat(bound)), splat(-bound))
    store(dual, target, u)
    if mask.present:
        u = u * load(mask.values, pixel)
    return u, absolute(q)


@njit(**PART)
def _update_lanes(
    q: Vector,
    dual: Floats,
    current: int,
    previous: int,
    mask: Mask,
    pixel: int,
    size: float,
    bound: float,
    momentum: float,
) -> tuple[Vector, Vector]:
    """u_new = clip(v + size M . q, -bound, bound) over the previous u; returns M . u_new and |M . q|."""
    return _new_lanes(q, dual, current, previous, previous, mask, pixel, size, bound, momentum)


@njit(**PART)
def _recorded_lanes(
    q: Vector,
    dual: Floats,
    current: int,
    previous: int,
    mask: Mask,
    pixel: int,
    size: float,
    bound: float,
    momentum: float,
) -> tuple[Vector, Vector]:
    """The same, with u_new as far behind u as u is behind the previous u."""
    return _new_lanes(q, dual, current, previous, 2 * current - previous, mask, pixel, size, bound, momentum)


@njit(**PART)
def _clipped_lanes(
    q: Vector, dual: Floats, current: int, mask: Mask, pixel: int, size: float, bound: float
) -> tuple[Vector, Vector]:
    """u_hat = clip(u + size q, -bound M, bound M), and u_hat - u."""
    u = load(dual, current)
    limit = splat(bound)
    if mask.present:
        limit = limit * load(mask.values, pixel)
    moved = maximum(minimum(fma(splat(size), q, u), limit), splat(0.0) - limit)
    return moved, moved - u


@njit(**PART)
def _restart_lanes(
    q: Vector, dual: Floats, current: int, anchor: int, mask: Mask, pixel: int, size: float, bound: float, weight: float
) -> tuple[Vector, Vector]:
    """u = anchor = u_hat; returns u and (u_hat - u_old)^2."""
    moved, difference = _clipped_lanes(q, dual, current, mask, pixel, size, bound)
    store(dual, anchor, moved)
    store(dual, current, moved)
    return moved, difference * difference


@njit(**PART)
def _anchor_lanes(
    q: Vector, dual: Floats, current: int, anchor: int, mask: Mask, pixel: int, size: float, bound: float, weight: float
) -> tuple[Vector, Vector]:
    """u = weight (2 u_hat - u) + (1 - weight) anchor; returns u and (u_hat - u_old)^2."""
    moved, difference = _clipped_lanes(q, dual, current, mask, pixel, size, bound)
    start = load(dual, anchor)
    u = fma(splat(weight), (moved + difference) - start, start)
    store(dual, current, u)
    return u, difference * difference


@njit(**PART)
def _relaxed_lanes(
    q: Vector, dual: Floats, current: int, other: int, mask: Mask, pixel: int, size: float, bound: float, weight: float
) -> tuple[Vector, Vector]:
    """u = u + weight (u_hat - u); returns u and (u_hat - u_old)^2."""
    _, difference = _clipped_lanes(q, dual, current, mask, pixel, size, bound)
    u = fma(splat(weight), difference, load(dual, current))
    store(dual, current, u)
    return u, difference * difference


@njit(**PART, forceinline=True)
def _step_tile(
    move: Callable[..., tuple[Vector, Vector]], tile: Tile, image: Place, dual: Place, mask: Mask, step: Step,
    share: Floats, geometry: Geometry, bank: Bank, work: Work,
) -> float:  # fmt: skip
    """One pass over a tile: W x, `move` for every 16 channels of a pixel, W^T of what it returns first; the sum of
    the second.

    share: (B,), the last argument of `move`. u, the other slot of u and M are read and written in one go.
    """
    re, im, u = work.re, work.im, dual.values
    b, slot = tile.image, dual.slot[tile.image]
    size, bound, part = step.size[b], step.bound[b], share[b]  # read once: the stores below might alias them
    begin_synthesis(tile, geometry, work)
    load_tile(image, tile, geometry, work)
    total = 0.0
    for group in range(geometry.groups):
        analyse_columns(group, tile, geometry, bank, work)
        for row in range(tile.rows):
            analyse_row(group, row, tile, geometry, bank, work)
            pixel = channels_at(b, group, row, tile, geometry)
            current = channels_at(slot * geometry.batch + b, group, row, tile, geometry)
            other = channels_at((1 - slot) * geometry.batch + b, group, row, tile, geometry)
            row_sum = splat(0.0)
            for column in range(tile.columns):
                at, i = tile.work + ROW + column * 16, column * GROUP
                ur, size_r = move(load(re, at), u, current + i, other + i, mask, pixel + i, size, bound, part)
                i += 16
                ui, size_i = move(load(im, at), u, current + i, other + i, mask, pixel + i, size, bound, part)
                store(re, at, ur)
                store(im, at, ui)
                row_sum = row_sum + size_r + size_i
            total += lane_sum(row_sum)
            synthesise_row(group, row, tile, geometry, bank, work)
    return total


@kernel
def dual_step(
    share: Share,
    active: Numbers, image: Place, dual: Place, mask: Mask, step: Step, momentum: Floats, tiles: Floats, l1: Sums,
    geometry: Geometry, bank: Bank, work: Work,
) -> None:  # fmt: skip
    """One projected gradient step on the dual and the parts of W^T (M . u_new).

        v = u + momentum (u - u_previous)
        u_new = clip(v + size M . W x, -bound, bound)       written over u_previous
        l1[b, tile] = sum |M . W x|

    momentum: (B,).
    """
    for item in shared(share, len(active) * tiles_of(geometry)):
        tile = locate(item, active, geometry, bank.band)
        l1[tile.number] = _step_tile(_update_lanes, tile, image, dual, mask, step, momentum, geometry, bank, work)
        finish_synthesis(tiles, tile, geometry, bank, work)


@kernel
def recorded_step(
    share: Share,
    active: Numbers, image: Place, dual: Place, mask: Mask, step: Step, momentum: Floats, tiles: Floats, l1: Sums,
    geometry: Geometry, bank: Bank, work: Work,
) -> None:  # fmt: skip
    """`dual_step` of u in slot 1 of three, u_previous in slot 0; u_new is written into slot 2."""
    for item in shared(share, len(active) * tiles_of(geometry)):
        tile = locate(item, active, geometry, bank.band)
        l1[tile.number] = _step_tile(_recorded_lanes, tile, image, dual, mask, step, momentum, geometry, bank, work)
        finish_synthesis(tiles, tile, geometry, bank, work)


@kernel
def anchored_step(
    share: Share,
    active: Numbers, image: Place, dual: Place, mask: Mask, step: Step, weight: Floats, tiles: Floats, l1: Sums,
    geometry: Geometry, bank: Bank, work: Work,
) -> None:  # fmt: skip
    """A Halpern step of the primal-dual iteration (safi_fast/solver/primal_dual.py) and the parts of W^T u_new.

        u_hat = clip(u + size W x, -bound M, bound M)
        u_new = w (2 u_hat - u) + (1 - w) anchor       for 0 < w <= 1; written over u
        u_new = anchor = u_hat                         for w = 0
        u_new = u + w (u_hat - u)                      for w > 1, a relaxed step that leaves the anchor alone
        l1[b, tile] = sum (u_hat - u)^2

    weight: w (B,). The anchor lies in the other slot of u. The mask bounds u here instead of weighting W x.
    """
    for item in shared(share, len(active) * tiles_of(geometry)):
        tile = locate(item, active, geometry, bank.band)
        if weight[tile.image] == 0:
            total = _step_tile(_restart_lanes, tile, image, dual, mask, step, weight, geometry, bank, work)
        elif weight[tile.image] > 1:
            total = _step_tile(_relaxed_lanes, tile, image, dual, mask, step, weight, geometry, bank, work)
        else:
            total = _step_tile(_anchor_lanes, tile, image, dual, mask, step, weight, geometry, bank, work)
        l1[tile.number] = total
        finish_synthesis(tiles, tile, geometry, bank, work)
