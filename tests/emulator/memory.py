"""Device memory of the emulator: NumPy arrays between guards, and a record of which of
their bytes were ever written.
"""

from __future__ import annotations

import ctypes
import math
import weakref

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 512  # bytes, as CuPy's pool gives
GUARD = 512  # bytes before and after an array that belong to nobody
_GUARD_BYTE = 0xA5
_UNWRITTEN_BYTE = 0xFF  # a float of these is NaN


class Allocation:
    """One array of a device. Does not keep it alive: it goes with the last view of it."""

    def __init__(self, owner: np.ndarray, begin: int, nbytes: int, *, tracked: bool):
        self._owner = weakref.ref(owner)
        self._begin = begin
        self.nbytes = nbytes
        self.address = owner.ctypes.data + begin
        # Of each byte, if tracked: written by a kernel or, after refresh(), by the host.
        self.written = np.zeros(max(nbytes, 1) if tracked else 0, np.uint8)

    def refresh(self) -> None:
        """Takes note of what NumPy wrote: bytes that are no longer those of a fresh array."""
        self.written[: self.nbytes] |= self._bytes(0, self.nbytes) != _UNWRITTEN_BYTE

    def damaged_guard(self) -> int | None:
        """The offset, from the begin of the array, of a guard byte that was overwritten."""
        for start, length in ((-GUARD, GUARD), (self.nbytes, GUARD)):
            damaged = np.flatnonzero(self._bytes(start, length) != _GUARD_BYTE)
            if damaged.size:
                nearest = damaged[-1] if start < 0 else damaged[0]
                return start + int(nearest)
        return None

    def _bytes(self, start: int, length: int) -> np.ndarray:
        owner = self._owner()
        assert owner is not None, "the launch holds the arrays it was given"
        return owner[self._begin + start : self._begin + start + length]


class Memory:
    """All arrays of one device that are alive; `tracked`: with a record of what was written."""

    def __init__(self, *, tracked: bool) -> None:
        self._tracked = tracked
        self._allocations: dict[int, Allocation] = {}  # by address of the owner

    def allocate(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An array whose bytes are all unwritten."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        owner = np.full(nbytes + 2 * GUARD + ALIGNMENT, _GUARD_BYTE, np.uint8)
        begin = GUARD + -(owner.ctypes.data + GUARD) % ALIGNMENT
        inside = owner[begin : begin + nbytes]
        inside.fill(_UNWRITTEN_BYTE)
        allocation = Allocation(owner, begin, nbytes, tracked=self._tracked)
        key = owner.ctypes.data
        self._allocations[key] = allocation
        guards = ((key, begin), (allocation.address + nbytes, owner.size - begin - nbytes))
        for address, length in guards:
            _forbid(address, length)
        weakref.finalize(owner, self._release, key, owner.size)
        return inside.view(dtype).reshape(shape)

    def __len__(self) -> int:
        return len(self._allocations)

    @property
    def live_bytes(self) -> int:
        """Of the arrays themselves."""
        return sum(allocation.nbytes for allocation in list(self._allocations.values()))

    def find(self, array: np.ndarray) -> Allocation | None:
        """The allocation that an array of this device, or a view of one, lies in."""
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        return self._allocations.get(owner.ctypes.data)

    def find_address(self, address: int) -> Allocation | None:
        """The allocation that holds this address."""
        inside = (a for a in self._allocations.values() if a.address <= address < a.address + a.nbytes)
        return next(inside, None)

    def mark_written(self, array: np.ndarray) -> None:
        """Takes note that all of a whole array of this device was written."""
        allocation = self.find(array)
        assert allocation is not None
        allocation.written.fill(1)

    def unwritten(self, array: np.ndarray) -> np.ndarray:
        """Which elements of an array of this device were never written."""
        allocation = self.find(array)
        assert allocation is not None
        allocation.refresh()
        offset = array.ctypes.data - allocation.address
        written = np.ndarray(array.shape, np.uint8, allocation.written, offset if array.size else 0, array.strides)
        unwritten: np.ndarray = written == 0
        return unwritten

    def _release(self, key: int, nbytes: int) -> None:
        _permit(key, nbytes)
        self._allocations.pop(key, None)


# ----------------------------------------------------------------------------------------------------- AddressSanitizer
def sanitizer_is_loaded() -> bool:
    """Whether this process runs with AddressSanitizer preloaded."""
    return hasattr(ctypes.CDLL(None), "__asan_poison_memory_region")


def _forbid(address: int, nbytes: int) -> None:
    """Makes every access by sanitized code an error."""
    if sanitizer_is_loaded():
        ctypes.CDLL(None).__asan_poison_memory_region(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))


def _permit(address: int, nbytes: int) -> None:
    if sanitizer_is_loaded():
        ctypes.CDLL(None).__asan_unpoison_memory_region(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))
