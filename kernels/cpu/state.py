"""collapse_momentum: the extrapolated point becomes the iterate, u = u + carried (u - u_previous), in the slot of u.

Shapes: dual (2, B, G, H, W, 32), carried (B,). Twin: kernels/cuda/state.cu.
"""

from __future__ import annotations

from .arguments import Floats, Geometry, Numbers, Place
from .parallel import Share, kernel, shared
from .simd import fma, load, splat, store
from .tile import GROUP


@kernel
def collapse_momentum(share: Share, active: Numbers, dual: Place, carried: Floats, geometry: Geometry) -> None:
    """One row of one group at a time."""
    for item in shared(share, len(active) * geometry.groups * geometry.height):
        batch, lines, width = geometry.batch, geometry.groups * geometry.height, geometry.width
        b, row, u = active[item // lines], item % lines, dual.values
        if carried[b] != 0:
            first = ((dual.slot[b] * batch + b) * lines + row) * width * GROUP
            previous = (((1 - dual.slot[b]) * batch + b) * lines + row) * width * GROUP
            for i in range(0, width * GROUP, 16):
                now = load(u, first + i)
                store(u, first + i, fma(splat(carried[b]), now - load(u, previous + i), now))
