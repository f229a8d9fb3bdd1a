"""line_sums, project, view_sums, back_project, smear: X-ray projection of pixel images, and its exact adjoint.

The discretisation is distance-driven (De Man and Basu, Physics in Medicine and Biology 49, 2004): detector cells and
pixels are mapped to the middle lines of the image rows (columns, where rays are closer to horizontal) and weigh by
how much they overlap there:

    project       y[v, k] = sum over lines l and pixels i of  w[v, k] * overlap / length of cell k on line l  *  x[l, i]
    back_project  x[l, i] = the same weights times y[v, k], summed over v and k

w is the length of the ray through the middle of cell k between two lines. An overlap summed over pixels is a
difference of two values of the running sum along a line, linear between pixels; summed over detector cells, one of
the running sum along the detector. So both directions gather two numbers for each edge, whatever the ratio of cells
to pixels; nothing is scattered, and the order of the additions does not depend on the number of threads.

smear is for filtered back projection: the sum over views of the linearly interpolated detector value at the middle of
each pixel, divided by the square of its relative distance from the source.

View v steps through rows (major[v] = 0) or columns (1). Along a line pixel i covers [i, i + 1]; rho is the distance
of a line from the middle one, xi that of a position from the middle of a line, both in pixels. Detector cell k covers
[k, k + 1] in units of cells.

    lines    edges (V, 2, K + 1)      where the edges of the cells lie on the line rho:
             edges[v, 0, k] + edges[v, 1, k] * rho
    views    (V, 8) c, t1, t2, u1, u2, delta, lambda, 0:
             (xi, rho) lies at  c + (t1 xi + t2 rho) / (1 + u1 xi + u2 rho)  on the detector; 1 + u1 xi + u2 rho is its
             distance from the source, that of the origin being 1; the cells are 1 + lambda rho times as long on line
             rho as on the middle one; f of the way through a cell on the detector is
             f (1 + delta (k + 1 - c)) / (1 + delta (k + f - c))  of it on a line
    weights  (V, K) w, negative where positions on lines fall with k;   gains (V, K): w / length of the cell on the
             middle line
    x (B, H, W);  y (B, V, K);  all float32 but for `major` (int64)
    rows (B, H, W + 2), columns (B, W, H + 2), sums (B, V, K + 2): running sums that begin at 0, the last one twice
    cells (B, V, K + 3): y after one zero and before two

`edges` has 32 more elements at the end, since 16 are read at once. An edge costs about ten operations (twenty back
along a fan) and one load of two numbers in each lane; parallel rays have about 0.9 H W V edges in either direction.

Twin: kernels/cuda/projector.cu.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .arguments import Floats, Rays, Scan
from .parallel import Share, kernel, shared
from .simd import LANES, floor, fma, interpolate, lanes_up, load, maximum, minimum, splat, store

COEFFICIENTS = 8  # of a view
BLOCK = 8  # image rows that back_project and smear make at a time, while the sums of a view stay in the first cache

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


class Walk(NamedTuple):
    """Positions (xi + i xi_step, rho + i rho_step), i = 0, 1, ..."""

    xi: np.float32
    xi_step: np.float32
    rho: np.float32
    rho_step: np.float32


@kernel
def line_sums(share: Share, x: Floats, rows: Floats, columns: Floats, scan: Scan) -> None:
    """Running sums along the rows and the columns of an image; one line at a time, added in float64."""
    batch, height, width = scan.batch, scan.height, scan.width
    for item in shared(share, batch * (height + width)):
        b, line = item // (height + width), item % (height + width)
        if line < height:
            total, first = 0.0, (b * height + line) * (width + 2)
            rows[first] = 0
            for i in range(width):
                total += x[(b * height + line) * width + i]
                rows[first + i + 1] = total
            rows[first + width + 1] = total
        else:
            total, first = 0.0, (b * width + line - height) * (height + 2)
            columns[first] = 0
            for i in range(height):
                total += x[(b * height + i) * width + line - height]
                columns[first + i + 1] = total
            columns[first + height + 1] = total


@njit(**_OPTIONS)
def _detector_place(views: Floats, v: int, xi: np.float32, rho: np.float32) -> Any:
    """Where (xi, rho) lies on the detector."""
    at = v * COEFFICIENTS
    above = views[at + 1] * xi + views[at + 2] * rho
    return views[at] + above / (np.float32(1) + views[at + 3] * xi + views[at + 4] * rho)


@njit(**_OPTIONS)
def _sums_at_edges(
    lines: Floats,
    first: int,
    length: int,
    edges: Floats,
    at: tuple[int, int],
    low: int,
    high: int,
    rho: np.float32,
    value: Floats,
) -> None:
    """value[k] = the running sum of a line where the edges low ..

    high of the cells lie; at: where both rows of `edges` begin.
    """
    end, zero, distance = splat(np.float32(length)), splat(np.float32(0)), splat(rho)
    for k in range(low, high + 1, LANES):
        place = fma(load(edges, at[1] + k), distance, load(edges, at[0] + k))
        place = minimum(maximum(place, zero), end)
        whole = floor(place)
        store(value, k, interpolate(lines, first, whole, place - whole))


@njit(**_OPTIONS)
def _add_differences(
    total: Floats, at: int, scale: np.float32, value: Floats, before: Floats, low: int, high: int
) -> None:
    """total[at + k] += scale (value[k] - before[k]) for k from low up to high, rounded up to whole vectors."""
    factor = splat(scale)
    for k in range(low, high, LANES):
        store(total, at + k, fma(factor, load(value, k) - load(before, k), load(total, at + k)))


@kernel
def project(share: Share, rows: Floats, columns: Floats, rays: Rays, y: Floats, scan: Scan) -> None:
    """One view of one image at a time, line after line."""
    batch, height, width, view_count, detectors = scan.batch, scan.height, scan.width, scan.views, scan.detectors
    edges, views, gains, major = rays.edges, rays.views, rays.gains, rays.major
    for item in shared(share, batch * view_count):
        b, v = item // view_count, item % view_count
        lines = rows if major[v] == 0 else columns
        count, length = (height, width) if major[v] == 0 else (width, height)
        at = v * 2 * (detectors + 1)
        value = np.zeros(detectors + 1 + 3 * LANES, np.float32)
        total = np.zeros(detectors + LANES, np.float32)
        half, middle = np.float32(0.5 * length), np.float32(0.5 * (count - 1))
        for line in range(count):
            rho = np.float32(line) - middle
            one, other = _detector_place(views, v, -half, rho), _detector_place(views, v, half, rho)
            low = max(0, int(np.floor(min(one, other))) - 1)
            high = min(detectors, int(np.floor(max(one, other))) + 2)
            if low >= high:
                continue
            # the edges beyond lie outside the line and add nothing
            high = low + (high - low + LANES - 1) // LANES * LANES
            first = (b * count + line) * (length + 2)
            _sums_at_edges(lines, first, length, edges, (at, at + detectors + 1), low, high, rho, value)
            scale = np.float32(1) / (np.float32(1) + views[v * COEFFICIENTS + 6] * rho)
            _add_differences(total, 0, scale, value[1:], value, low, high)
        for k in range(detectors):
            y[item * detectors + k] = gains[v * detectors + k] * total[k]


@kernel
def view_sums(share: Share, y: Floats, weights: Floats, sums: Floats, scan: Scan) -> None:
    """Running sums of w y along the detector, added in float64."""
    batch, view_count, detectors = scan.batch, scan.views, scan.detectors
    for item in shared(share, batch * view_count):
        total, first = 0.0, item * (detectors + 2)
        sums[first] = 0
        for k in range(detectors):
            total += weights[item % view_count * detectors + k] * y[item * detectors + k]
            sums[first + k + 1] = total
        sums[first + detectors + 1] = total


@njit(**_OPTIONS)
def _sums_at_pixels(
    sums: Floats, first: int, detectors: int, views: Floats, v: int, walk: Walk, count: int, value: Floats
) -> None:
    """value[i] = the running sum of a view at the i-th position."""
    at, xi, xi_step, rho, rho_step = v * COEFFICIENTS, walk.xi, walk.xi_step, walk.rho, walk.rho_step
    one, end, zero = splat(np.float32(1)), splat(np.float32(detectors)), splat(np.float32(0))
    centre, delta = splat(views[at]), splat(views[at + 5])
    above = splat(views[at + 1] * xi + views[at + 2] * rho)
    above_step = splat(views[at + 1] * xi_step + views[at + 2] * rho_step)
    below = splat(np.float32(1) + (views[at + 3] * xi + views[at + 4] * rho))
    below_step = splat(views[at + 3] * xi_step + views[at + 4] * rho_step)
    if views[at + 3] == 0 and views[at + 4] == 0:
        for i in range(0, count, LANES):
            steps = splat(np.float32(i)) + lanes_up()
            place = minimum(maximum(centre + fma(steps, above_step, above), zero), end)
            cell = floor(place)
            store(value, i, interpolate(sums, first, cell, place - cell))
    else:
        for i in range(0, count, LANES):
            steps = splat(np.float32(i)) + lanes_up()
            place = centre + fma(steps, above_step, above) / fma(steps, below_step, below)
            place = minimum(maximum(place, zero), end)
            cell = floor(place)
            share = (place - cell) * fma(delta, cell + one - centre, one) / fma(delta, place - centre, one)
            store(value, i, interpolate(sums, first, cell, share))


@kernel
def back_project(share: Share, sums: Floats, rays: Rays, x: Floats, scan: Scan) -> None:
    """BLOCK rows of one image at a time, view after view."""
    batch, height, width, view_count, detectors = scan.batch, scan.height, scan.width, scan.views, scan.detectors
    blocks, views, major = (height + BLOCK - 1) // BLOCK, rays.views, rays.major
    half_height, half_width = np.float32(0.5 * height), np.float32(0.5 * width)
    middle_row, middle_column = np.float32(0.5 * (height - 1)), np.float32(0.5 * (width - 1))
    one, zero = np.float32(1), np.float32(0)
    pitch = width + LANES
    for item in shared(share, batch * blocks):
        b, low = item // blocks, item % blocks * BLOCK
        high = min(height, low + BLOCK)
        total = np.zeros(BLOCK * pitch, np.float32)
        value, before = np.zeros(width + 2 * LANES, np.float32), np.zeros(width + 2 * LANES, np.float32)
        for v in range(view_count):
            first = (b * view_count + v) * (detectors + 2)
            if major[v] == 0:
                for row in range(low, high):
                    rho = np.float32(row) - middle_row
                    walk = Walk(-half_width, one, rho, zero)
                    _sums_at_pixels(sums, first, detectors, views, v, walk, width + 1, value)
                    _add_differences(total, (row - low) * pitch, one, value[1:], value, 0, width)
            else:
                for row in range(low, high + 1):
                    xi = np.float32(row) - half_height
                    value, before = before, value
                    walk = Walk(xi, zero, -middle_column, one)
                    _sums_at_pixels(sums, first, detectors, views, v, walk, width, value)
                    if row > low:
                        _add_differences(total, (row - 1 - low) * pitch, one, value, before, 0, width)
        for row in range(low, high):
            for i in range(width):
                x[(b * height + row) * width + i] = total[(row - low) * pitch + i]


@njit(**_OPTIONS)
def _smear_row(
    cells: Floats, first: int, detectors: int, views: Floats, v: int, walk: Walk, count: int, total: Floats, target: int
) -> None:
    """total[target + i] += what one view has for the i-th position."""
    at, xi, xi_step, rho, rho_step = v * COEFFICIENTS, walk.xi, walk.xi_step, walk.rho, walk.rho_step
    one, half, zero = splat(np.float32(1)), splat(np.float32(0.5)), splat(np.float32(0))
    end, centre = splat(np.float32(detectors + 1)), splat(views[at])
    above = splat(views[at + 1] * xi + views[at + 2] * rho)
    above_step = splat(views[at + 1] * xi_step + views[at + 2] * rho_step)
    below = splat(np.float32(1) + (views[at + 3] * xi + views[at + 4] * rho))
    below_step = splat(views[at + 3] * xi_step + views[at + 4] * rho_step)
    for i in range(0, count, LANES):
        steps = splat(np.float32(i)) + lanes_up()
        near = one / fma(steps, below_step, below)
        place = fma(fma(steps, above_step, above), near, centre + half)
        place = minimum(maximum(place, zero), end)
        cell = floor(place)
        value = interpolate(cells, first, cell, place - cell)
        store(total, target + i, fma(value, near * near, load(total, target + i)))


@kernel
def smear(share: Share, cells: Floats, rays: Rays, x: Floats, scan: Scan) -> None:
    """BLOCK rows of one image at a time, view after view; y outside the detector is 0."""
    batch, height, width, view_count, detectors = scan.batch, scan.height, scan.width, scan.views, scan.detectors
    blocks, views, major = (height + BLOCK - 1) // BLOCK, rays.views, rays.major
    middle_row, middle_column = np.float32(0.5 * (height - 1)), np.float32(0.5 * (width - 1))
    one, zero = np.float32(1), np.float32(0)
    pitch = width + LANES
    for item in shared(share, batch * blocks):
        b, low = item // blocks, item % blocks * BLOCK
        high = min(height, low + BLOCK)
        total = np.zeros(BLOCK * pitch, np.float32)
        for v in range(view_count):
            first = (b * view_count + v) * (detectors + 3)
            for row in range(low, high):
                down, at = np.float32(row) - middle_row, (row - low) * pitch
                across = (
                    Walk(-middle_column, one, down, zero) if major[v] == 0 else Walk(down, zero, -middle_column, one)
                )
                _smear_row(cells, first, detectors, views, v, across, width, total, at)
        for row in range(low, high):
            for i in range(width):
                x[(b * height + row) * width + i] = total[(row - low) * pitch + i]
