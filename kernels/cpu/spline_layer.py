"""spline_layer and spline_layer_gradient: the splines of the SAFI mask generator apart from its convolutions.

    a = s(scale . t),      t' = scale . s'(scale . t) . a'

of a layer whose convolution gave t. A prime marks dL / d(.) of a number L. a' comes with the margin into which the
adjoint of the next convolution puts what belongs to a mirrored image: it is folded back here. Of the last layer, M =
sigmoid(a + bias), M . M' comes instead, and a' = (1 - M) M . M'.

Shapes: responses, which is t, activity (B, G, H, W, 32); scale (B, G, 32); source and target, a' and t', framed, and
the margin of the target is not written; sums (B, H, G, 32) of a' over each row, or of t . t' / scale where `weighted`:
bias' or scale' when added up.
"""

from __future__ import annotations

from numba import njit

from .arguments import Floats, Framed, Geometry, Mask, Numbers, Spline
from .parallel import PART, Share, kernel, shared
from .simd import Vector, fma, load, splat, store
from .spline import slope, spline
from .tile import GROUP


@njit(**PART)
def _framed_at(framed: Framed, plane: int, y: int, x: int, geometry: Geometry) -> int:
    """Where the lanes of a pixel begin, which may lie in the margin."""
    margin = framed.margin
    line = plane * (geometry.height + 2 * margin) + y + margin
    return (line * (geometry.width + 2 * margin) + x + margin) * GROUP


@njit(**PART)
def _folded(framed: Framed, plane: int, y: int, x: int, lane: int, geometry: Geometry) -> Vector:
    """A pixel and those of the margin that mirror onto it."""
    height, width, margin, values = geometry.height, geometry.width, framed.margin, framed.values
    total = load(values, _framed_at(framed, plane, y, x, geometry) + lane)
    if margin <= y < height - margin and margin <= x < width - margin:
        return total
    for py in (y, -1 - y, 2 * height - 1 - y):
        for px in (x, -1 - x, 2 * width - 1 - x):
            near = -margin <= py < height + margin and -margin <= px < width + margin
            if near and (py != y or px != x):
                total = total + load(values, _framed_at(framed, plane, py, px, geometry) + lane)
    return total


@kernel
def spline_layer(
    share: Share, active: Numbers, responses: Floats, scale: Floats, bank: Spline, activity: Floats, geometry: Geometry
) -> None:
    """One row of one image at a time."""
    for item in shared(share, len(active) * geometry.height):
        height, width, groups = geometry.height, geometry.width, geometry.groups
        b, row = active[item // height], item % height
        for lanes in range(0, groups * GROUP, 16):
            factor = load(scale, b * groups * GROUP + lanes)
            first = ((b * groups + lanes // GROUP) * height + row) * width * GROUP + lanes % GROUP
            for at in range(first, first + width * GROUP, GROUP):
                store(activity, at, spline(load(responses, at) * factor, bank, groups, lanes))


@kernel
def spline_layer_gradient(
    share: Share,
    active: Numbers, source: Framed, mask: Mask, responses: Floats, scale: Floats, bank: Spline, target: Framed,
    sums: Floats, weighted: bool, geometry: Geometry,
) -> None:  # fmt: skip
    """One row of one image at a time. The mask is present in the last layer."""
    for item in shared(share, len(active) * geometry.height):
        height, width, groups = geometry.height, geometry.width, geometry.groups
        b, row, to, one = active[item // height], item % height, target.values, splat(1.0)
        for lanes in range(0, groups * GROUP, 16):
            plane, lane, total = b * groups + lanes // GROUP, lanes % GROUP, splat(0.0)
            factor = load(scale, b * groups * GROUP + lanes)
            first = (plane * height + row) * width * GROUP + lane
            for column in range(width):
                at = first + column * GROUP
                t, given = load(responses, at), _folded(source, plane, row, column, lane, geometry)
                if mask.present:
                    given = given * (one - load(mask.values, at))
                passed = given * slope(t * factor, bank, groups, lanes)
                total = fma(passed, t, total) if weighted else total + given
                store(to, _framed_at(target, plane, row, column, geometry) + lane, passed * factor)
            store(sums, (b * height + row) * groups * GROUP + lanes, total)
