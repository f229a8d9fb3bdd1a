"""Mutations of the bytes of a file, drawn from a random generator: the same generator state gives the same file."""

import io
import re
import struct
import zipfile
import zlib

import numpy as np

PNG, ZIP = b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"
HEADER = 256  # bytes in which most of what a reader believes is written
WORDS = (
    b"0 -1 1 nan inf -inf 1e999 1e38 99999 2147483647 4294967296 9223372036854775808 x ,, 0x10 1_0 "
    b"\xef\xbb\xbf \xff".split()
)


def mutate(rng, data, others):
    """A damaged copy of `data`. others: files to splice with.

    Half of the PNG files get right checksums again, and half of the zip archives are damaged inside of a member:
    without that nearly all of them would be refused at the first checksum.
    """
    if data.startswith(ZIP) and rng.random() < 0.5:
        return _in_a_member(rng, data, others)
    damaged = _several(rng, data, others)
    return _with_checksums(damaged) if damaged.startswith(PNG) and rng.random() < 0.5 else damaged


def _several(rng, data, others):
    kinds = [_flip, _set, _truncate, _duplicate, _remove, _splice, _number, _number, _number]
    if data.isascii():
        kinds += [_word] * len(kinds)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        if not data:
            break
        data = kinds[rng.integers(len(kinds))](rng, data, others)
    return data


# ---------------------------------------------------------------------------------------------------------- mutations


def _place(rng, size):
    """An index below `size`, half of the time in the header."""
    return int(rng.integers(min(size, HEADER) if rng.random() < 0.5 else size))


def _piece(rng, size):
    start = _place(rng, size)
    return start, min(size, start + int(rng.integers(1, 1 + max(1, size // 4))))


def _flip(rng, data, others):
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        changed[_place(rng, len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def _set(rng, data, others):
    start, stop = _piece(rng, len(data))
    stop = min(stop, start + int(rng.choice([1, 1, 2, 4, 64])))
    value = int(rng.choice([0, 255, 128, 127, rng.integers(256)]))
    return data[:start] + bytes([value]) * (stop - start) + data[stop:]


def _truncate(rng, data, others):
    return data[: _place(rng, len(data))]


def _duplicate(rng, data, others):
    start, stop = _piece(rng, len(data))
    return data[:stop] + data[start:stop] * int(rng.choice([1, 1, 3, 50])) + data[stop:]


def _remove(rng, data, others):
    start, stop = _piece(rng, len(data))
    return data[:start] + data[stop:]


def _splice(rng, data, others):
    """The start of one file and the end of another."""
    other = others[rng.integers(len(others))] if others else data
    return data[: _place(rng, len(data))] + other[_place(rng, len(other)) :]


def _number(rng, data, others):
    """A number of 1, 2, 4 or 8 bytes, such as a length, set to an extreme or to something near what it was."""
    width = int(rng.choice([1, 2, 4, 4, 8]))
    if len(data) < width:
        return data
    at = _place(rng, len(data) - width + 1)
    if rng.random() < 0.7:
        at -= at % width
    order = "little" if rng.random() < 0.6 else "big"
    old, most = int.from_bytes(data[at : at + width], order), 256**width - 1
    values = (
        0,
        1,
        most,
        most // 2,
        most // 2 + 1,
        old + 1,
        old - 1,
        2 * old,
        old // 2,
        30_000,
        1_000_000_000,
        most - 7,
    )
    return data[:at] + (values[rng.integers(len(values))] & most).to_bytes(width, order) + data[at + width :]


def _word(rng, data, others):
    """One word of a text replaced."""
    words = list(re.finditer(rb"[^\s,]+", data))
    if not words:
        return data
    word = words[rng.integers(len(words))]
    return data[: word.start()] + WORDS[rng.integers(len(WORDS))] + data[word.end() :]


# ---------------------------------------------------------------------------------------------------------- checksums


def _with_checksums(data):
    """A PNG file whose chunks have the right checksums, as far as their lengths lead."""
    fixed, at = bytearray(data), len(PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


def _in_a_member(rng, data, others):
    """A zip archive with one damaged member and the right checksums."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w") as target:
        members = source.infolist()
        chosen = rng.integers(len(members))
        for number, member in enumerate(members):
            content = source.read(member)
            if number == chosen:
                content = _several(rng, content, [content])
            target.writestr(member, content, member.compress_type)
    return stream.getvalue()


def generator(seed, name):
    """Of one damaged file: of its seed and its format."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
