"""The global heaps of an HDF5 file, where values of any length lie, looked through before HDF5 reads them.

HDF5 follows the sizes that a damaged heap declares, and some it follows for ever.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

SIGNATURE = b"GCOL\x01\0\0\0"  # and version 1 (HDF5 File Format Specification, III.E)
HEAD = struct.Struct("<8sQ")  # and the size of the collection
OBJECT = struct.Struct("<HHIQ")  # index, references, reserved, size; 0 is the index of the free space, with this head


def require_sound_heaps(path: Path) -> None:
    """Raises ValueError where objects of a heap do not fill it."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(SIGNATURE)
        while start >= 0:
            end = start + HEAD.unpack_from(data, start)[1] if start + HEAD.size <= len(data) else 0
            if not start + HEAD.size < end <= len(data) or not _is_filled(data, start + HEAD.size, end):
                raise ValueError(f"the objects of its heap at byte {start} do not fill it")
            start = data.find(SIGNATURE, end)


def _is_filled(data: mmap.mmap, at: int, end: int) -> bool:
    while at + OBJECT.size <= end:
        index, _, _, size = OBJECT.unpack_from(data, at)
        if index == 0:
            return bool(at + size == end)
        at += OBJECT.size + (size + 7) // 8 * 8
    return at <= end
