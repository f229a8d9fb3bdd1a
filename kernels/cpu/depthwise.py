"""depthwise: one smoothing layer of the MMR mask generator, or its adjoint; each channel with its own k x k kernel.

    output[c] = K_c * input[c]  (cross-correlation, `same` size), or the adjoint of that;
    with `profiled`, output = clip(phi(scale . K * input), 0, 1) afterwards

Boundary: zeros outside, or the half-sample symmetric extension. The adjoint of the latter folds the extension back.
Shapes: input, output (2, B, G, H, W, 32); scale (B, G, 32).
"""

from __future__ import annotations

from numba import njit

from .arguments import Floats, Geometry, Numbers, Place, Smoothing, Spline, Taps
from .convolution import mirror
from .parallel import PART, Share, kernel, shared
from .simd import Vector, fma, load, maximum, minimum, splat, store
from .spline import spline
from .tile import GROUP


@njit(**PART)
def _correlate_at(
    source: Floats, plane: int, y: int, x: int, lanes: int, taps: Taps, how: Smoothing, geometry: Geometry
) -> Vector:
    """The sum of K over the pixels around (y, x), which may lie outside the image in the adjoint."""
    weights, kernel, lane = taps.weights, taps.kernel, lanes % GROUP
    height, width, reach = geometry.height, geometry.width, kernel // 2
    total = splat(0.0)
    for row in range(kernel):
        for column in range(kernel):
            py, px = y + row - reach, x + column - reach
            if how.symmetric and not how.adjoint:
                py, px = mirror(py, height), mirror(px, width)
            if 0 <= py < height and 0 <= px < width:
                tap = row * kernel + column
                if how.adjoint:
                    tap = kernel * kernel - 1 - tap
                weight = load(weights, tap * geometry.groups * GROUP + lanes)
                total = fma(weight, load(source, ((plane * height + py) * width + px) * GROUP + lane), total)
    return total


@njit(**PART)
def _folded_at(
    source: Floats, plane: int, y: int, x: int, lanes: int, taps: Taps, how: Smoothing, geometry: Geometry
) -> Vector:
    """`_correlate_at`, and for the adjoint of a symmetric extension the pixels outside that mirror onto (y, x)."""
    height, width, reach = geometry.height, geometry.width, taps.kernel // 2
    total = splat(0.0)
    for py in (y, -1 - y, 2 * height - 1 - y):
        for px in (x, -1 - x, 2 * width - 1 - x):
            inside = py == y and px == x
            near = -reach <= py < height + reach and -reach <= px < width + reach
            if inside or (how.adjoint and how.symmetric and near):
                total = total + _correlate_at(source, plane, py, px, lanes, taps, how, geometry)
    return total


@njit(**PART)
def _four_pixels(
    source: Floats, first: int, row_floats: int, lanes: int, groups: int, taps: Taps, adjoint: bool
) -> tuple[Vector, Vector, Vector, Vector]:
    """Four neighbouring pixels well inside the image."""
    weights, kernel = taps.weights, taps.kernel
    a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for row in range(kernel):
        for column in range(kernel):
            tap = row * kernel + column
            if adjoint:
                tap = kernel * kernel - 1 - tap
            weight = load(weights, tap * groups * GROUP + lanes)
            at = first + row * row_floats + column * GROUP
            a = fma(weight, load(source, at), a)
            b = fma(weight, load(source, at + GROUP), b)
            c = fma(weight, load(source, at + 2 * GROUP), c)
            d = fma(weight, load(source, at + 3 * GROUP), d)
    return a, b, c, d


@njit(**PART)
def _finish(value: Vector, profiled: bool, scale: Floats, image: int, bank: Spline, groups: int, lanes: int) -> Vector:
    if profiled:
        value = spline(value * load(scale, image * groups * GROUP + lanes), bank, groups, lanes)
        value = minimum(maximum(value, splat(0.0)), splat(1.0))
    return value


@kernel
def depthwise(
    share: Share,
    active: Numbers, source: Place, output: Place, taps: Taps, how: Smoothing, profiled: bool, scale: Floats,
    bank: Spline, geometry: Geometry,
) -> None:  # fmt: skip
    """One row of one image at a time."""
    for item in shared(share, len(active) * geometry.height):
        batch, height, width, groups = geometry.batch, geometry.height, geometry.width, geometry.groups
        reach, values, to = taps.kernel // 2, source.values, output.values
        b, row = active[item // height], item % height
        for lanes in range(0, groups * GROUP, 16):
            plane, lane = (source.slot[b] * batch + b) * groups + lanes // GROUP, lanes % GROUP
            target = ((output.slot[b] * batch + b) * groups + lanes // GROUP) * height + row
            target = target * width * GROUP + lane
            inside = reach <= row < height - reach
            column = 0
            while column < width:
                if inside and column >= reach and column + 4 <= width - reach:
                    first = ((plane * height + row - reach) * width + column - reach) * GROUP + lane
                    four = _four_pixels(values, first, width * GROUP, lanes, groups, taps, how.adjoint)
                    for pixel in range(4):
                        value = _finish(four[pixel], profiled, scale, b, bank, groups, lanes)
                        store(to, target + (column + pixel) * GROUP, value)
                    column += 4
                else:
                    value = _folded_at(values, plane, row, column, lanes, taps, how, geometry)
                    value = _finish(value, profiled, scale, b, bank, groups, lanes)
                    store(to, target + column * GROUP, value)
                    column += 1
