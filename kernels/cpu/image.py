"""image_step and its like: add up the tiles of W^T (M . u), move x, and measure what the stopping rules and the
certificate need.

With z = W^T (M . u), x(u) = clip(y - z, low, high) and x0 the extrapolated image that the dual step started from:

    z_v = z_new + momentum (z_new - z_old)                     by linearity
    x   = clip(y - z_v, low, high)
    sums[b, row] = ( <z_new, x0>,  1/2 ||x0 - y||^2,  primal-dual part,  ||x(u_new) - x(u_old)||^2,  ||x(u_old)||^2 )

The primal-dual part is 1/2 ||x0 - y||^2 + <z_new, x0> minus the minimum of the same over the box, written without
cancellation: (x0 - x(u)) . ((x0 + x(u)) / 2 - y + z_new) >= 0. With lambda ||M . W x0||_1 - <z_new, x0> it makes the
duality gap.

Where noise varies, with a relative variance v of each pixel (`WeightedData`), z is multiplied by v in x, and a square
(x - y)^2 divided by it.

Shapes, P planes: tiles (B, P, tiles, 32, 32); y (B, P, H, W); z (2, B, P, H, W); image (4, B, P, rows, pitch) with its
halo: slots 0 and 1 hold the extrapolated x(v), slots 2 and 3 hold x(u); sums (B, P, H, 5) float64. Here b is the number
of a plane among those of all images, and `owner` its image.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arguments import AnyData, Box, Floats, Geometry, Numbers, Place, Sums, planes_of, variance_at
from .fft import TILE
from .parallel import PART, Share, kernel, shared
from .simd import load, store

SUMS = 5


@njit(**PART, forceinline=True)
def plane_of(item: int, active: Numbers, geometry: Geometry) -> tuple[int, int, int]:
    """Image, plane among those of all images, and row of a work item."""
    number, count = item // geometry.height, planes_of(geometry)
    owner = active[number // count]
    return owner, owner * count + number % count, item % geometry.height


@njit(**PART)
def _add_extended_row(
    tiles: Floats, b: int, row: int, inner: int, tile_rows: int, tile_columns: int, line: Floats
) -> None:
    """line += row `row` of W^T u before folding, where row 0 lies `reach` pixels above the image."""
    low = max(0, (row - TILE + inner) // inner)
    high = min(tile_rows - 1, row // inner)
    for tile_row in range(low, high + 1):
        for tile_column in range(tile_columns):
            tile = (b * tile_rows + tile_row) * tile_columns + tile_column
            first = (tile * TILE + row - tile_row * inner) * TILE
            left = tile_column * inner
            for column in range(0, TILE, 16):
                store(line, left + column, load(line, left + column) + load(tiles, first + column))


@njit(**PART)
def gather_row(tiles: Floats, b: int, row: int, geometry: Geometry, line: Floats) -> None:
    """line[reach : reach + width] = row `row` of W^T u, the extension of the boundary folded back."""
    height, width = geometry.height, geometry.width
    reach, inner = geometry.support // 2, TILE + 1 - geometry.support
    tile_rows, tile_columns = (height + inner - 1) // inner, (width + inner - 1) // inner
    line[:] = 0
    _add_extended_row(tiles, b, row + reach, inner, tile_rows, tile_columns, line)
    if geometry.symmetric:
        if row < reach:
            _add_extended_row(tiles, b, reach - 1 - row, inner, tile_rows, tile_columns, line)
        if row >= height - reach:
            _add_extended_row(tiles, b, 2 * height - 1 - row + reach, inner, tile_rows, tile_columns, line)
        for column in range(reach):
            line[reach + column] += line[reach - 1 - column]
            line[reach + width - 1 - column] += line[reach + width + column]


@njit(**PART)
def row_at(plane: int, row: int, geometry: Geometry) -> int:
    """Where a row of a plane begins, behind its halo."""
    return (plane * geometry.rows + row + geometry.halo) * geometry.pitch + geometry.halo


@njit(**PART)
def extend_row(image: Floats, plane: int, row: int, geometry: Geometry) -> None:
    """Mirror a finished row of x into the halo; with zero padding the halo stays zero."""
    if not geometry.symmetric:
        return
    height, width, halo, pitch = geometry.height, geometry.width, geometry.halo, geometry.pitch
    first = (plane * geometry.rows + row + halo) * pitch
    for column in range(halo):
        image[first + halo - 1 - column] = image[first + halo + column]
        image[first + halo + width + column] = image[first + halo + width - 1 - column]
    for mirror in (halo - 1 - row, 2 * height - 1 - row + halo):
        if 0 <= mirror < halo or halo + height <= mirror < 2 * halo + height:
            copy = (plane * geometry.rows + mirror) * pitch
            for column in range(width + 2 * halo):
                image[copy + column] = image[first + column]


@kernel
def image_step(
    share: Share,
    active: Numbers, source: Numbers, target: Numbers, tiles: Floats, data: AnyData, z: Floats, image: Floats, box: Box,
    momentum: Floats, sums: Sums, geometry: Geometry,
) -> None:  # fmt: skip
    """One row at a time: z[target], image[target] and sums from tiles, z[source] and image[source]."""
    line = np.empty(geometry.pitch + 2 * TILE, np.float32)
    for item in shared(share, len(active) * planes_of(geometry) * geometry.height):
        height, width, pitch = geometry.height, geometry.width, geometry.pitch
        reach, low, high = geometry.support // 2, box.low, box.high
        batch = geometry.batch * planes_of(geometry)
        owner, b, row = plane_of(item, active, geometry)
        gather_row(tiles, b, row, geometry, line)
        old, new = source[owner] * batch + b, target[owner] * batch + b
        primal = 2 * batch * geometry.rows * pitch  # from x(v) to x(u)
        x_old, x_new = row_at(old, row, geometry), row_at(new, row, geometry)
        zx, squares, primal_dual, change, size = 0.0, 0.0, 0.0, 0.0, 0.0
        for column in range(width):
            z_new = line[reach + column]
            y_here = data.y[(b * height + row) * width + column]
            variance = variance_at(data, (b * height + row) * width + column)
            x0 = image[x_old + column]
            u_old = image[primal + x_old + column]
            z_old = z[(old * height + row) * width + column]
            u_new = min(max(y_here - variance * z_new, low), high)
            zx += z_new * x0
            squares += np.float32(0.5) * (x0 - y_here) * (x0 - y_here) / variance
            primal_dual += (x0 - u_new) * ((np.float32(0.5) * (x0 + u_new) - y_here) / variance + z_new)
            change += (u_new - u_old) * (u_new - u_old)
            size += u_old * u_old
            z[(new * height + row) * width + column] = z_new
            z_v = z_new + momentum[owner] * (z_new - z_old)
            image[x_new + column] = min(max(y_here - variance * z_v, low), high)
            image[primal + x_new + column] = u_new
        extend_row(image, new, row, geometry)
        extend_row(image, 2 * batch + new, row, geometry)
        at = (b * height + row) * SUMS
        sums[at], sums[at + 1], sums[at + 2], sums[at + 3], sums[at + 4] = zx, squares, primal_dual, change, size


@kernel
def set_image(share: Share, active: Numbers, values: Floats, image: Place, geometry: Geometry) -> None:
    """The image of its slot becomes values[b], with its halo; values (B, P, H, W)."""
    for item in shared(share, len(active) * planes_of(geometry) * geometry.height):
        height, width, to = geometry.height, geometry.width, image.values
        owner, b, row = plane_of(item, active, geometry)
        plane = image.slot[owner] * geometry.batch * planes_of(geometry) + b
        first = row_at(plane, row, geometry)
        for column in range(width):
            to[first + column] = values[(b * height + row) * width + column]
        extend_row(to, plane, row, geometry)


@kernel
def primal_sums(
    share: Share,
    active: Numbers,
    slot: Numbers,
    data: AnyData,
    z: Floats,
    image: Floats,
    sums: Sums,
    geometry: Geometry,
) -> None:
    """sums[b, row, :2] = ( <z, x(u)>,  1/2 ||x(u) - y||^2 ) for the u of slot[b]."""
    for item in shared(share, len(active) * planes_of(geometry) * geometry.height):
        height, width = geometry.height, geometry.width
        owner, b, row = plane_of(item, active, geometry)
        batch = geometry.batch * planes_of(geometry)
        plane = slot[owner] * batch + b
        first = row_at(2 * batch + plane, row, geometry)
        zx, squares = 0.0, 0.0
        for column in range(width):
            x, place = image[first + column], (b * height + row) * width + column
            difference = x - data.y[place]
            zx += z[(plane * height + row) * width + column] * x
            squares += np.float32(0.5) * difference * difference / variance_at(data, place)
        at = (b * height + row) * SUMS
        sums[at], sums[at + 1] = zx, squares


@kernel
def outer_sums(share: Share, active: Numbers, image: Place, reference: Floats, sums: Sums, geometry: Geometry) -> None:
    """sums[b, row, :2] = ( ||x - before||^2,  ||before||^2 ) of the image x and before = reference (B, P, H, W),
    which becomes x.
    """
    for item in shared(share, len(active) * planes_of(geometry) * geometry.height):
        height, width, values = geometry.height, geometry.width, image.values
        owner, b, row = plane_of(item, active, geometry)
        first = row_at(image.slot[owner] * geometry.batch * planes_of(geometry) + b, row, geometry)
        change, size = 0.0, 0.0
        for column in range(width):
            x, at = values[first + column], (b * height + row) * width + column
            before = reference[at]
            change += (x - before) * (x - before)
            size += before * before
            reference[at] = x
        at = (b * height + row) * SUMS
        sums[at], sums[at + 1] = change, size


@kernel
def gather_image(share: Share, active: Numbers, tiles: Floats, output: Floats, geometry: Geometry) -> None:
    """output (B, P, H, W) = what the tiles add up to, W^T u or W^T (M . u)."""
    line = np.empty(geometry.pitch + 2 * TILE, np.float32)
    for item in shared(share, len(active) * planes_of(geometry) * geometry.height):
        height, width, reach = geometry.height, geometry.width, geometry.support // 2
        _, b, row = plane_of(item, active, geometry)
        gather_row(tiles, b, row, geometry, line)
        first = (b * height + row) * width
        for column in range(width):
            output[first + column] = line[reach + column]
