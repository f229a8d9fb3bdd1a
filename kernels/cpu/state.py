"""collapse_momentum: the extrapolated point becomes the iterate, u = u + carried (u - u_previous), in the slot of u.

Shapes: dual (2, B, G, H, W, 32), carried (B,). Twin: kernels/cuda/state.cu.
"""

from numba import njit, prange

from .simd import fma, load, splat, store
from .tile import GROUP

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(parallel=True, **_OPTIONS)
def collapse_momentum(active, slot, dual, carried, geometry):
    """One row of one group at a time."""
    batch, height, width, groups = geometry[0], geometry[1], geometry[2], geometry[3]
    for item in prange(len(active) * groups * height):
        b, row = active[item // (groups * height)], item % (groups * height)
        if carried[b] != 0:
            first = ((slot[b] * batch + b) * groups * height + row) * width * GROUP
            previous = (((1 - slot[b]) * batch + b) * groups * height + row) * width * GROUP
            for i in range(0, width * GROUP, 16):
                u = load(dual, first + i)
                store(dual, first + i, fma(splat(carried[b]), u - load(dual, previous + i), u))
