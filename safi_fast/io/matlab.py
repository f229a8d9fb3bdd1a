"""Whether the parts of a MATLAB file (.mat, versions 4 and 5) follow each other as they should: asked before SciPy
reads it.

SciPy 1.17 takes the type of a number from the file as an index without a check: of a damaged file it reads outside of
its own memory and ends the process. Values are passed over, not looked at.

A file of version 5 is a header of 128 bytes, then elements: a tag (type and bytes, 4 each; in small elements 2 each),
then as many bytes, filled up to whole eights. An array is an element of elements: flags, sizes, name, and what belongs
to its class.
"""

import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

from .sizes import DEFLATE, require_plausible

HEADER = 128
TEXT, FLAGS, INT32, ARRAY, COMPRESSED = 1, 6, 5, 14, 15
NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)
CHARACTERS = (*NUMBERS, 16, 17, 18)
CELL, STRUCT, OBJECT, CHAR, SPARSE, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 16, 17  # classes of arrays; 6 to 15 are numbers
IS_COMPLEX = 0x800
DEEPEST = 64  # cells and structs in each other
CHUNK = 2**20

Read = Callable[[int], bytes]
Order = Literal["little", "big"]
ORDERS: dict[bytes, Order] = {b"IM": "little", b"MI": "big"}


def require_sound(path: Path) -> None:
    """Raises ValueError where the elements of a file of version 4 or 5 are not what they should be."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = stream.read(HEADER)
        if 0 in header[:4]:
            _require_sound_4(stream, size)
            return
        order = ORDERS.get(header[126:128])
        if order is None:
            raise ValueError("it has no MATLAB header")
        while (place := stream.tell()) < size:
            kind, count = _pair(stream.read(8), order)
            if place + 8 + count > size:
                raise ValueError(f"an element of {count} bytes at byte {place} reaches beyond its end")
            if kind == COMPRESSED:
                inflated = _Inflated(stream.read, count)
                kind, count = _pair(inflated.read(8), order)
                require_plausible((count,), 1, inflated.stored, DEFLATE)
                read: Read = inflated.read
                stop = place + 8 + inflated.stored
            else:
                read, stop = stream.read, place + 8 + count
            if kind != ARRAY:
                raise ValueError(f"an element at byte {place} has type {kind}; expected an array")
            _Array(read, order, count).check()
            stream.seek(stop, os.SEEK_SET)


def _require_sound_4(stream: IO[bytes], size: int) -> None:
    """Version 4: arrays one after the other, each with a header of five numbers: type, rows, columns, whether complex,
    bytes of the name.
    """
    place = 0
    while place < size:
        stream.seek(place)
        header = stream.read(20)
        order = "<" if struct.unpack("<I", header[:4])[0] < 5000 else ">"
        kind, rows, columns, is_complex, name = struct.unpack(f"{order}5I", header.ljust(20, b"\xff"))
        item = (8, 4, 4, 2, 2, 1)[min(kind // 10 % 10, 5)]
        place += 20 + name + rows * columns * item * (2 if is_complex else 1)
        if place > size:
            raise ValueError(f"it declares {rows} x {columns} values, more than its {size} bytes hold")


class _Inflated:
    """Reads the bytes of a compressed element, a piece at a time."""

    def __init__(self, read: Read, stored: int) -> None:
        self.stored, self._left, self._read = stored, stored, read
        self._inflate, self._waiting = zlib.decompressobj(), b""

    def read(self, count: int) -> bytes:
        pieces = []
        while count > 0:
            if not self._waiting and self._left:
                self._waiting = self._read(min(CHUNK, self._left))
                self._left -= len(self._waiting)
            piece = self._inflate.decompress(self._waiting, count)
            self._waiting = self._inflate.unconsumed_tail
            if not piece and not self._waiting and not self._left:
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


class _Array:
    """What is left of an array that is being passed over."""

    def __init__(self, read: Read, order: Order, count: int, depth: int = 0) -> None:
        self.read, self.order, self.left, self.depth = read, order, count, depth
        if depth > DEEPEST:
            raise ValueError(f"it has arrays in each other, more than {DEEPEST} deep")

    def check(self) -> None:
        """Pass over all of it. Raises ValueError."""
        if not self.left:  # an empty array has no elements
            return
        flags = self._number(self._element((FLAGS,), 8)[:4])
        kind = flags & 0xFF
        if kind != OPAQUE:  # objects of newer kinds have another layout
            sizes = self._element((INT32,), 4 * 32)
            count = math.prod(self._number(sizes[at : at + 4]) for at in range(0, len(sizes), 4))
            self._element((TEXT,), CHUNK)
            self._check_contents(kind, count, bool(flags & IS_COMPLEX))
        self._skip(self.left)

    def _check_contents(self, kind: int, count: int, is_complex: bool) -> None:
        if kind in (STRUCT, OBJECT):
            if kind == OBJECT:
                self._element((TEXT,), CHUNK)
            length = self._number(self._element((INT32,), 4))
            names = self._element((TEXT,), CHUNK)
            count *= len(names) // length if length else 0
        if kind in (CELL, STRUCT, OBJECT, FUNCTION):
            self._check_arrays(1 if kind == FUNCTION else count)
        elif kind == CHAR:
            self._pass(CHARACTERS)
        elif kind == SPARSE or 6 <= kind <= 15:
            for _ in range((2 if kind == SPARSE else 0) + (2 if is_complex else 1)):
                self._pass(NUMBERS)
        else:
            raise ValueError(f"it has an array of class {kind}, which is unknown")

    def _check_arrays(self, count: int) -> None:
        if 8 * count > self.left:
            raise ValueError(f"it declares {count} arrays in {self.left} bytes")
        for _ in range(count):
            kind, size, _ = self._tag()
            if kind != ARRAY:
                raise ValueError(f"an element has type {kind}; expected an array")
            self._spend(size)
            _Array(self.read, self.order, size, self.depth + 1).check()

    def _element(self, kinds: tuple[int, ...], most: int) -> bytes:
        """The bytes of an element of one of these types, which are few."""
        kind, size, padding = self._tag()
        if kind not in kinds or size > most:
            raise ValueError(f"an element has type {kind} and {size} bytes; expected type {kinds[0]}")
        self._spend(size + padding)
        return self._exactly(size + padding)[:size]

    def _pass(self, kinds: tuple[int, ...]) -> None:
        """Pass over an element of one of these types."""
        kind, size, padding = self._tag()
        if kind not in kinds:
            raise ValueError(f"an element has type {kind}; expected numbers or characters")
        self._skip(min(size + padding, self.left) if size <= self.left else size)

    def _tag(self) -> tuple[int, int, int]:
        """Type, bytes, and bytes after them up to the next element."""
        self._spend(4)
        first = self._exactly(4)
        word = self._number(first)
        if word >> 16:
            if word >> 16 > 4:
                raise ValueError(f"a small element has {word >> 16} bytes; expected at most 4")
            return word & 0xFFFF, word >> 16, 4 - (word >> 16)
        self._spend(4)
        size = self._number(self._exactly(4))
        return word, size, -size % 8

    def _number(self, word: bytes) -> int:
        return int.from_bytes(word, self.order)

    def _spend(self, count: int) -> None:
        if count > self.left:
            raise ValueError(f"an element of {count} bytes lies in an array that has {self.left} left")
        self.left -= count

    def _skip(self, count: int) -> None:
        self._spend(count)
        while count:
            count -= len(self._exactly(min(count, CHUNK)))

    def _exactly(self, count: int) -> bytes:
        found = self.read(count)
        if len(found) < count:
            raise ValueError("it ends within an array")
        return found


def _pair(tag: bytes, order: Order) -> tuple[int, int]:
    if len(tag) < 8:
        raise ValueError("it ends within a tag")
    words = [int.from_bytes(tag[at : at + 4], order) for at in (0, 4)]
    return words[0], words[1]
