"""Arrays as the CPU kernels want them: they begin on a cache line, so that no 16-lane load or store lies across two.

NumPy's own begin 16 bytes after a line or after a page. It asks the system for huge pages by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..kernels.cpu.arguments import (
    Bank,
    Carried,
    Framed,
    Mask,
    Mixing,
    MixWork,
    Place,
    Spline,
    Taps,
    Work,
)

LINE = 64  # bytes of a cache line, and of 16 lanes
READ_IN_LANES = (Bank, Carried, Framed, Mask, Mixing, MixWork, Place, Spline, Taps, Work)  # tuples whose arrays are


def zeros(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Like numpy.zeros, on a cache line; what nobody touches takes no memory."""
    return _placed(np.zeros, shape, dtype)


def empty(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Like numpy.empty, on a cache line."""
    return _placed(np.empty, shape, dtype)


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """The array itself where it is in C order on a cache line, else a copy that is."""
    if is_aligned(values):
        return values
    copy = empty(values.shape, values.dtype)
    copy[...] = values
    return copy


def is_aligned(values: NDArray[Any]) -> bool:
    """Whether the array is in C order and begins on a cache line."""
    return bool(values.flags.c_contiguous and (values.size == 0 or values.ctypes.data % LINE == 0))


def debugging() -> bool:
    """Whether launches check where their arrays lie: SAFI_FAST_DEBUG is set, and not to 0."""
    return os.environ.get("SAFI_FAST_DEBUG", "0").strip() not in ("", "0")


def is_kernel(value: Any) -> bool:
    """Whether this is a kernel that is launched, see kernels/cpu/parallel.py."""
    return bool(getattr(getattr(value, "py_func", None), "is_kernel", False))


def checked(kernel: Callable[..., None]) -> Callable[..., None]:
    """The kernel, after `check` of its arguments."""

    @wraps(kernel)
    def run(*arguments: Any) -> None:
        check(kernel.__name__, arguments)
        kernel(*arguments)

    return run


def check(kernel: str, arguments: Iterable[Any]) -> None:
    """Raise AssertionError where an array that a kernel reads in lanes does not lie on a cache line."""
    for argument in arguments:
        if isinstance(argument, READ_IN_LANES):
            for name, values in zip(argument._fields, argument, strict=True):
                if isinstance(values, np.ndarray) and values.dtype == np.float32 and not is_aligned(values):
                    raise AssertionError(
                        f"{kernel}: {name} of {type(argument).__name__} lies {values.ctypes.data % LINE} bytes after a "
                        f"cache line; expected an array of bindings/aligned.py"
                    )


def _placed(make: Callable[..., NDArray[Any]], shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    kind, sizes = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
    count = int(np.prod(sizes, dtype=np.int64)) * kind.itemsize
    raw = make(count + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + count].view(kind).reshape(sizes)
