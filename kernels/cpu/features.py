"""features: the first layer of the SAFI mask generator, s1(gain . (V1 x)), the planes of an image in, C channels
out.

Shapes: image (4, B, P, rows, pitch) with its halo; gain (B, G, 32); output (2, B, G, H, W, 32).
Four pixels share every load of a weight.
"""

from __future__ import annotations

from numba import njit

from .arguments import Floats, Geometry, Numbers, Place, Spline, Taps, planes_of
from .parallel import PART, Share, kernel, shared
from .simd import Vector, fma, load, splat, spread, store
from .spline import spline
from .tile import GROUP


@njit(**PART)
def _four_pixels(
    image: Floats, first: int, taps: Taps, lanes: int, geometry: Geometry
) -> tuple[Vector, Vector, Vector, Vector]:
    """V1 x at four neighbouring pixels for 16 channels."""
    weights, kernel, groups, pitch = taps.weights, taps.kernel, geometry.groups, geometry.pitch
    a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for plane in range(planes_of(geometry)):
        for row in range(kernel):
            for column in range(kernel):
                weight = load(weights, ((plane * kernel + row) * kernel + column) * groups * GROUP + lanes)
                at = first + (plane * geometry.rows + row) * pitch + column
                a = fma(weight, spread(image, at), a)
                b = fma(weight, spread(image, at + 1), b)
                c = fma(weight, spread(image, at + 2), c)
                d = fma(weight, spread(image, at + 3), d)
    return a, b, c, d


@kernel
def features(
    share: Share,
    active: Numbers,
    image: Place,
    taps: Taps,
    gain: Floats,
    bank: Spline,
    output: Place,
    geometry: Geometry,
) -> None:
    """One row of one image at a time."""
    for item in shared(share, len(active) * geometry.height):
        batch, height, width, groups = geometry.batch, geometry.height, geometry.width, geometry.groups
        pitch, corner, x, to = geometry.pitch, geometry.halo - taps.kernel // 2, image.values, output.values
        b, row = active[item // height], item % height
        plane = (image.slot[b] * batch + b) * planes_of(geometry)
        first = (plane * geometry.rows + row + corner) * pitch + corner
        for lanes in range(0, groups * GROUP, 16):
            scale = load(gain, b * groups * GROUP + lanes)
            plane = (output.slot[b] * batch + b) * groups + lanes // GROUP
            target = (plane * height + row) * width * GROUP + lanes % GROUP
            for column in range(0, width, 4):
                values = _four_pixels(x, first + column, taps, lanes, geometry)
                for pixel in range(min(4, width - column)):
                    value = spline(values[pixel] * scale, bank, groups, lanes)
                    store(to, target + (column + pixel) * GROUP, value)
