"""features_gradient: back through the first convolution of the SAFI mask generator, C channels in, the planes of an
image out.

    x'(p) = sum over channels and taps of V1(tap) t'(p + reach - tap),     where t' is zero beyond its frame

Shapes: source, which is t', framed, its margin at least `reach`, the half side of the kernel; output (B, P, H + 2 e,
W + 2 e) with e = margin - reach: what goes to a mirrored image lies in the frame of the output. Four pixels share every
load of a weight, so the source ends with room for three pixels more.
"""

from __future__ import annotations

from numba import njit

from .arguments import Floats, Framed, Geometry, Numbers, Taps, planes_of
from .parallel import PART, Share, kernel, shared
from .simd import Vector, fma, lane_sum, load, splat
from .tile import GROUP


@njit(**PART)
def _four_pixels(
    source: Floats, first: int, pitch: int, step: int, plane: int, taps: Taps, groups: int
) -> tuple[Vector, Vector, Vector, Vector]:
    """The sums of four neighbouring pixels, lane by lane; step: floats from one group of the source to the next."""
    weights, kernel = taps.weights, taps.kernel
    a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for lanes in range(0, groups * GROUP, 16):
        corner = first + lanes // GROUP * step + lanes % GROUP
        for row in range(kernel):
            for column in range(kernel):
                tap = (plane + 1) * kernel * kernel - 1 - (row * kernel + column)
                weight = load(weights, tap * groups * GROUP + lanes)
                at = corner + row * pitch + column * GROUP
                a = fma(weight, load(source, at), a)
                b = fma(weight, load(source, at + GROUP), b)
                c = fma(weight, load(source, at + 2 * GROUP), c)
                d = fma(weight, load(source, at + 3 * GROUP), d)
    return a, b, c, d


@kernel
def features_gradient(
    share: Share, active: Numbers, source: Framed, taps: Taps, output: Floats, geometry: Geometry
) -> None:
    """One row of one image at a time."""
    edge = 2 * (source.margin - taps.kernel // 2)
    for item in shared(share, len(active) * (geometry.height + edge)):
        height, width, groups = geometry.height + edge, geometry.width + edge, geometry.groups
        lines, pitch = geometry.height + 2 * source.margin, (geometry.width + 2 * source.margin) * GROUP
        b, row, count = active[item // height], item % height, planes_of(geometry)
        for plane in range(count):
            to = ((b * count + plane) * height + row) * width
            for column in range(0, width, 4):
                first = (b * groups * lines + row) * pitch + column * GROUP
                four = _four_pixels(source.values, first, pitch, lines * pitch, plane, taps, groups)
                for pixel in range(min(4, width - column)):
                    output[to + column + pixel] = lane_sum(four[pixel])
