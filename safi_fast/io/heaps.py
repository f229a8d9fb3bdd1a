"""The global heaps of an HDF5 file, where values of any length lie, looked through before HDF5 reads them.

HDF5 follows the sizes that a damaged heap declares, and some it follows for ever.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = 9  # class of data whose length varies, H5T_VLEN
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
            start = data.find(SIGNATURE, start + 1)


def _is_filled(data: mmap.mmap, at: int, end: int) -> bool:
    while at + OBJECT.size <= end:
        index, _, _, size = OBJECT.unpack_from(data, at)
        if index == 0:
            return bool(at + size == end)
        at += OBJECT.size + (size + 7) // 8 * 8
    return at <= end


def require_sound_lengths(rows: Any, stored: int) -> None:
    """Raises ValueError where a row of a table (N,) declares more values than its file, of `stored` bytes, can hold.

    rows: the dataset, of which chunks that are not compressed are looked at.
    """
    kind = rows.id.get_type()
    if rows.chunks is None or rows.id.get_create_plist().get_nfilters():
        return
    members = [number for number in range(kind.get_nmembers()) if kind.get_member_class(number) == VARIABLE]
    for number in range(rows.id.get_num_chunks()):
        data = rows.id.read_direct_chunk(rows.id.get_chunk_info(number).chunk_offset)[1]
        table = np.frombuffer(data, np.uint8)[: len(data) // kind.get_size() * kind.get_size()]
        for member in members:
            start = kind.get_member_offset(member)
            lengths = np.ascontiguousarray(table.reshape(-1, kind.get_size())[:, start : start + 4]).view("<u4")
            if lengths.size and int(lengths.max()) > stored:
                raise ValueError(f"a row declares {lengths.max()} values, which its {stored} bytes cannot hold")
