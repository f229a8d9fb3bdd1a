"""depthwise: one smoothing layer of the MMR mask generator, or its adjoint; each channel with its own k x k kernel.

    output[c] = K_c * input[c]  (cross-correlation, `same` size), or the adjoint of that;
    with `profiled`, output = clip(phi(scale . K * input), 0, 1) afterwards

Boundary: zeros outside, or the half-sample symmetric extension. The adjoint of the latter folds the extension back.
Shapes: input, output (2, B, G, H, W, 32); weights (k * k, G, 32); scale (B, G, 32).
"""

from numba import njit, prange

from .convolution import _mirror as mirror
from .simd import fma, load, maximum, minimum, splat, store
from .spline import spline
from .tile import GROUP

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def _correlate_at(source, plane, y, x, height, width, lane, weights, lanes, groups, kernel, adjoint, symmetric):
    """The sum of K over the pixels around (y, x), which may lie outside the image in the adjoint."""
    reach = kernel // 2
    total = splat(0.0)
    for row in range(kernel):
        for column in range(kernel):
            py, px = y + row - reach, x + column - reach
            if symmetric and not adjoint:
                py, px = mirror(py, height), mirror(px, width)
            if 0 <= py < height and 0 <= px < width:
                tap = row * kernel + column
                if adjoint:
                    tap = kernel * kernel - 1 - tap
                weight = load(weights, tap * groups * GROUP + lanes)
                total = fma(weight, load(source, ((plane * height + py) * width + px) * GROUP + lane), total)
    return total


@njit(**_OPTIONS)
def _folded_at(source, plane, y, x, height, width, lane, weights, lanes, groups, kernel, adjoint, symmetric):
    """`_correlate_at`, and for the adjoint of a symmetric extension the pixels outside that mirror onto (y, x)."""
    reach = kernel // 2
    total = splat(0.0)
    for py in (y, -1 - y, 2 * height - 1 - y):
        for px in (x, -1 - x, 2 * width - 1 - x):
            inside = py == y and px == x
            near = -reach <= py < height + reach and -reach <= px < width + reach
            if inside or (adjoint and symmetric and near):
                total = total + _correlate_at(
                    source, plane, py, px, height, width, lane, weights, lanes, groups, kernel, adjoint, symmetric
                )
    return total


@njit(**_OPTIONS)
def _four_pixels(source, first, row_floats, weights, lanes, groups, kernel, adjoint):
    """Four neighbouring pixels well inside the image."""
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


@njit(**_OPTIONS)
def _finish(value, profiled, scale, image, table, groups, lanes, knots, shift, stretch):
    if profiled:
        value = spline(value * load(scale, image * groups * GROUP + lanes), table, groups, lanes, knots, shift, stretch)
        value = minimum(maximum(value, splat(0.0)), splat(1.0))
    return value


@njit(parallel=True, **_OPTIONS)
def depthwise(
    active, source, source_slot, output, output_slot, weights, kernel, adjoint, symmetric,
    profiled, scale, table, knots, shift, stretch, geometry,
):  # fmt: skip
    """One row of one image at a time."""
    batch, height, width, groups = geometry[0], geometry[1], geometry[2], geometry[3]
    reach = kernel // 2
    for item in prange(len(active) * height):
        b, row = active[item // height], item % height
        for lanes in range(0, groups * GROUP, 16):
            plane, lane = (source_slot[b] * batch + b) * groups + lanes // GROUP, lanes % GROUP
            target = ((output_slot[b] * batch + b) * groups + lanes // GROUP) * height + row
            target = target * width * GROUP + lane
            inside = reach <= row < height - reach
            column = 0
            while column < width:
                if inside and column >= reach and column + 4 <= width - reach:
                    first = ((plane * height + row - reach) * width + column - reach) * GROUP + lane
                    values = _four_pixels(source, first, width * GROUP, weights, lanes, groups, kernel, adjoint)
                    for pixel in range(4):
                        value = _finish(values[pixel], profiled, scale, b, table, groups, lanes, knots, shift, stretch)
                        store(output, target + (column + pixel) * GROUP, value)
                    column += 4
                else:
                    value = _folded_at(
                        source,
                        plane,
                        row,
                        column,
                        height,
                        width,
                        lane,
                        weights,
                        lanes,
                        groups,
                        kernel,
                        adjoint,
                        symmetric,
                    )
                    value = _finish(value, profiled, scale, b, table, groups, lanes, knots, shift, stretch)
                    store(output, target + column * GROUP, value)
                    column += 1
