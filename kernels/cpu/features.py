"""features: the first layer of the SAFI mask generator, s1(gain . (V1 x)), one image in, C channels out.

Shapes: image (2, B, rows, pitch) with its halo; weights (k * k, G, 32); gain (B, G, 32); output (2, B, G, H, W, 32) at `output_slot`.
Four pixels share every load of a weight.
"""

from numba import njit, prange

from .simd import fma, load, splat, store
from .spline import spline
from .tile import GROUP

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def _four_pixels(image, first, pitch, weights, lanes, groups, kernel):
    """V1 x at four neighbouring pixels for 16 channels."""
    a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for row in range(kernel):
        for column in range(kernel):
            weight = load(weights, (row * kernel + column) * groups * GROUP + lanes)
            at = first + row * pitch + column
            a = fma(weight, splat(image[at]), a)
            b = fma(weight, splat(image[at + 1]), b)
            c = fma(weight, splat(image[at + 2]), c)
            d = fma(weight, splat(image[at + 3]), d)
    return a, b, c, d


@njit(parallel=True, **_OPTIONS)
def features(active, slot, image, weights, kernel, gain, table, knots, shift, stretch, output, output_slot, geometry):
    """One row of one image at a time."""
    batch, height, width, groups = geometry[0], geometry[1], geometry[2], geometry[3]
    halo, rows, pitch = geometry[5], geometry[6], geometry[7]
    corner = halo - kernel // 2
    for item in prange(len(active) * height):
        b, row = active[item // height], item % height
        first = ((slot[b] * batch + b) * rows + row + corner) * pitch + corner
        for lanes in range(0, groups * GROUP, 16):
            scale = load(gain, b * groups * GROUP + lanes)
            plane = (output_slot[b] * batch + b) * groups + lanes // GROUP
            target = (plane * height + row) * width * GROUP + lanes % GROUP
            for column in range(0, width, 4):
                values = _four_pixels(image, first + column, pitch, weights, lanes, groups, kernel)
                for pixel in range(min(4, width - column)):
                    value = spline(values[pixel] * scale, table, groups, lanes, knots, shift, stretch)
                    store(output, target + (column + pixel) * GROUP, value)
