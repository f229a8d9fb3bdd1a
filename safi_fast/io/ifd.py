"""Directories of TIFF files and of EXIF blocks, which are small TIFF files: read, written and mended entry by entry.

Values are kept as bytes of little-endian numbers, so that what is not understood is carried over unchanged.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np

# Bytes of one number by TIFF type, and of the parts that byte order turns round.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
PARTS = {**SIZES, 5: 4, 10: 4}
SHORT, LONG, RATIONAL, IFD8 = 3, 4, 5, 18
CODES = {1: "B", SHORT: "H", LONG: "I", 13: "I", 16: "Q", 18: "Q"}

WIDTH, HEIGHT, ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 256, 257, 274, 282, 283, 296
EXIF, GPS, INTEROPERABILITY, EXIF_WIDTH, EXIF_HEIGHT = 0x8769, 0x8825, 0xA005, 0xA002, 0xA003
SHARED = 4  # how often over the entries of a directory may use the bytes of its file
POINTERS = (EXIF, GPS, INTEROPERABILITY)
HEADER = b"II*\0\x08\0\0\0"


class Value(NamedTuple):
    """One entry: TIFF type, number of numbers, little-endian bytes, and where these lie in the file.

    No bytes: the type is unknown, or they would lie behind the end of the file.
    """

    type: int
    number: int
    data: bytes
    place: int = 0

    def numbers(self) -> tuple[int, ...]:
        """Whole numbers; none for entries of other types."""
        code = CODES.get(self.type)
        return struct.unpack(f"<{self.number}{code}", self.data) if code and self.data else ()

    def fraction(self) -> Fraction | None:
        """The first RATIONAL, None where it is none or divides by zero."""
        if self.type != RATIONAL or len(self.data) < SIZES[RATIONAL]:
            return None
        top, bottom = struct.unpack_from("<II", self.data)
        return Fraction(top, bottom) if bottom else None


Directory = dict[int, "Value | Directory"]


class Header(NamedTuple):
    """Byte order of struct, and whether offsets have eight bytes (BigTIFF)."""

    order: str
    big: bool


LITTLE = Header("<", False)


def header(data: bytes) -> tuple[Header, int]:
    """What a TIFF file begins with, and the offset of its first directory. Raises ValueError."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    version = struct.unpack_from(f"{order}H", data, 2)[0] if order and len(data) >= 8 else 0
    if order is None or version not in (42, 43):
        raise ValueError("not a TIFF header")
    big = version == 43
    offset: int = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    return Header(order, big), offset


def read(data: bytes, kind: Header, offset: int) -> tuple[dict[int, Value], int]:
    """The entries of one directory and the offset of the next one. Raises struct.error where they cannot be."""
    number, entry, pointer = ("Q", "HHQ", "Q") if kind.big else ("H", "HHI", "I")
    count: int = struct.unpack_from(f"{kind.order}{number}", data, offset)[0]
    place = offset + struct.calcsize(f"<{number}")
    room = struct.calcsize(f"<{pointer}")
    stride = struct.calcsize(f"<{entry}") + room
    if place + count * stride + room > len(data):
        raise struct.error("the directory goes on behind the end of the file")
    link: int = struct.unpack_from(f"{kind.order}{pointer}", data, place + count * stride)[0]
    entries: dict[int, Value] = {}
    left = SHARED * len(data)
    for start in range(place, place + count * stride, stride):
        tag, dtype, amount = struct.unpack_from(f"{kind.order}{entry}", data, start)
        where = start + stride - room
        size = SIZES.get(dtype, 0) * amount
        if size > room:
            where = struct.unpack_from(f"{kind.order}{pointer}", data, where)[0]
        raw = data[where : where + size] if where + size <= len(data) else b""
        left -= len(raw)
        if left < 0:
            raise struct.error("its entries lie on top of one another")
        if tag not in entries:  # tifffile writes a second description behind the first
            entries[tag] = Value(dtype, amount, _swapped(raw, dtype) if kind.order == ">" else raw, where)
    return entries, link


def read_nested(data: bytes, kind: Header, offset: int, depth: int = 0) -> Directory:
    """A directory with those of EXIF, GPS and interoperability inside it. Raises struct.error, ValueError."""
    if depth > len(POINTERS):
        raise ValueError("directories inside one another")
    found: Directory = {}
    for tag, value in read(data, kind, offset)[0].items():
        target = value.numbers() if tag in POINTERS else ()
        if value.data:
            found[tag] = read_nested(data, kind, target[0], depth + 1) if target else value
    return found


def written(entries: Mapping[int, Value | Directory], base: int, kind: Header = LITTLE, link: int = 0) -> bytes:
    """The directory, and those inside it, as bytes that will lie at `base`. link: offset of the next one, 0 behind the
    last.
    """
    number, pointer, target = ("Q", "Q", IFD8) if kind.big else ("H", "I", LONG)
    room = struct.calcsize(f"<{pointer}")
    head = struct.pack(f"{kind.order}{number}", len(entries))
    cursor = base + len(head) + (4 + 2 * room) * len(entries) + room
    tail = b""
    for tag, value in sorted(entries.items()):
        if isinstance(value, dict):
            dtype, amount, raw, outside = target, 1, written(value, cursor, kind), True
        else:
            dtype, amount, outside = value.type, value.number, len(value.data) > room
            raw = _swapped(value.data, dtype) if kind.order == ">" else value.data
        place = struct.pack(f"{kind.order}{pointer}", cursor) if outside else raw.ljust(room, b"\0")
        head += struct.pack(f"{kind.order}HH{pointer}", tag, dtype, amount) + place
        if outside:
            raw += b"\0" * (len(raw) % 2)
            tail, cursor = tail + raw, cursor + len(raw)
    return head + struct.pack(f"{kind.order}{pointer}", link) + tail


def _swapped(raw: bytes, dtype: int) -> bytes:
    size = PARTS.get(dtype, 1)
    return raw if size == 1 else np.frombuffer(raw, f"<u{size}").byteswap().tobytes()


def parsed(block: bytes) -> Directory:
    """The main directory of an EXIF block with those inside it. Raises ValueError for a damaged one."""
    try:
        kind, offset = header(block)
        return read_nested(block, kind, offset)
    except struct.error as error:
        raise ValueError(f"damaged EXIF ({error})") from error


def block_of(entries: Mapping[int, Value | Directory]) -> bytes:
    """An EXIF block of that directory."""
    return HEADER + written(entries, len(HEADER))


def first_number(entries: Mapping[int, Value | Directory], tag: int, otherwise: int) -> int:
    """The first whole number of an entry."""
    value = entries.get(tag)
    numbers = value.numbers() if isinstance(value, Value) else ()
    return numbers[0] if numbers else otherwise


def mended(
    block: bytes, width: int, height: int, x: Fraction | None = None, y: Fraction | None = None, unit: int = 1
) -> bytes:
    """An EXIF block that says what is true of the image now: upright, that size and resolution, no thumbnail.

    Entries are changed where they lie: maker notes count on their place. unit: 1 none, 2 inch, 3 centimetre.
    """
    kind, offset = header(block)
    out = bytearray(block)
    main, link = read(block, kind, offset)
    if link:  # the next directory is the thumbnail, of the picture as it was
        width_of_count, stride, pointer = (8, 20, "Q") if kind.big else (2, 12, "I")
        count = struct.unpack_from(f"{kind.order}{'Q' if kind.big else 'H'}", block, offset)[0]
        struct.pack_into(f"{kind.order}{pointer}", out, offset + width_of_count + count * stride, 0)
    whole = {WIDTH: width, HEIGHT: height, ORIENTATION: 1}
    if x is not None and y is not None:
        whole[RESOLUTION_UNIT] = unit
        for tag, value in ((X_RESOLUTION, x), (Y_RESOLUTION, y)):
            if tag in main and main[tag].fraction() is not None:
                struct.pack_into(f"{kind.order}II", out, main[tag].place, *rational(value))
    _patch(out, kind, main, whole)
    target = main[EXIF].numbers() if EXIF in main else ()
    if target:
        _patch(out, kind, read(block, kind, target[0])[0], {EXIF_WIDTH: width, EXIF_HEIGHT: height})
    return bytes(out)


def rational(value: Fraction) -> tuple[int, int]:
    """Numerator and denominator of 32 bits each, as near as they come."""
    limit = 2**32 - 1
    largest = min(limit, int(limit / value) if value > 1 else limit)
    near = value.limit_denominator(max(1, largest))
    return min(near.numerator, limit), near.denominator


def _patch(out: bytearray, kind: Header, entries: Mapping[int, Value], numbers: Mapping[int, int]) -> None:
    for tag, number in numbers.items():
        if tag in entries and entries[tag].type in (SHORT, LONG) and entries[tag].data:
            code = CODES[entries[tag].type]
            struct.pack_into(
                f"{kind.order}{code}", out, entries[tag].place, min(number, 2 ** (8 * SIZES[entries[tag].type]) - 1)
            )
