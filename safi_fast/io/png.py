"""PNG: pixels by imagecodecs, because Pillow reduces 16-bit colour to 8 bits; chunks beside them by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from .pixels import Array, FormatError, Pixels, join_samples, require_single, silenced, split_samples
from .sizes import require_plausible_png
from .tags import Resolution, Tags, exif_tags, orientation_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = len(SIGNATURE) + 25  # IHDR comes first and has a fixed length
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"sBIT", b"acTL", b"fcTL", b"fdAT")
STALE_CHUNKS = (b"tIME",)  # the time of the last change, which the result is
COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
XMP, DESCRIPTION, OLD_EXIF = b"XML:com.adobe.xmp", b"Description", b"Raw profile type exif"
LARGEST = 2**26  # bytes of a text or profile once it is unpacked
PALETTE = 3


class Chunk(NamedTuple):
    """Its four letters, what it holds, and whether the check sum is right."""

    name: bytes
    data: bytes
    intact: bool


def decode(data: bytes) -> Pixels:
    """Pixels of a PNG file."""
    import imagecodecs

    require_plausible_png(data)
    with silenced("imagecodecs"):
        array = imagecodecs.png_decode(data)
    chunks = list(chunks_of(data))
    frames = sum(chunk.name == b"fcTL" for chunk in chunks)
    if frames > 1 or any(chunk.name == b"fdAT" for chunk in chunks):
        raise FormatError(f"is an animation of {frames} frames; save them as separate files")
    pixels = Pixels(array) if array.ndim == 2 else split_samples(array)
    return replace(pixels, white=_white(chunks, pixels.array), tags=_tags(chunks))


def encode(pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of a PNG file, and names of what it cannot hold."""
    import imagecodecs

    require_single(pixels, "PNG")
    array = np.ascontiguousarray(join_samples(pixels))
    with silenced("imagecodecs"):
        data = bytes(imagecodecs.png_encode(array))
    tags, held = pixels.tags, {"icc", "exif", "xmp", "description", "resolution", "chunks"}
    chunks = [(name, raw) for name, raw in tags.chunks if name in COLOUR_CHUNKS]
    if tags.icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(tags.icc)))
    if pixels.white is not None:
        bits = int(pixels.white).bit_length()
        chunks.append((b"sBIT", bytes([bits]) * (1 if array.ndim == 2 else array.shape[-1])))
    if tags.resolution:
        density = _density(tags.resolution)
        if density:
            chunks.append((b"pHYs", density))
        else:
            held.discard("resolution")
    if exif := tags.exif_for(*pixels.size):
        chunks.append((b"eXIf", exif))
    if tags.xmp:
        chunks.append((b"iTXt", XMP + bytes(5) + tags.xmp))
    if tags.description:
        chunks.append(_description(tags.description))
    chunks += [(name, raw) for name, raw in tags.chunks if name in TEXT_CHUNKS]
    inserted = b"".join(chunk_of(name, raw) for name, raw in chunks)
    return data[:HEADER_END] + inserted + data[HEADER_END:], tags.losses(held)


def chunks_of(data: bytes) -> Iterator[Chunk]:
    """The chunks up to the end of the image, or of the file."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        raw = data[place + 8 : place + 8 + length]
        check = data[place + 8 + length : place + 12 + length]
        yield Chunk(name, raw, check == struct.pack(">I", zlib.crc32(name + raw)))
        if name == b"IEND":
            return
        place += 12 + length


def chunk_of(name: bytes, raw: bytes) -> bytes:
    """A chunk as it lies in a file."""
    return struct.pack(">I", len(raw)) + name + raw + struct.pack(">I", zlib.crc32(name + raw))


def _white(chunks: list[Chunk], array: Array) -> float | None:
    """White of samples that are smaller than their container says, by sBIT.

    The standard has such samples scaled to the whole range of the container, where white is its largest value. Some
    programs write them as they are: then none exceeds the significant bits, and not all agree with being scaled.
    """
    head = chunks[0].data
    depth, colour_type = head[8], head[9]
    said = next((chunk.data for chunk in chunks if chunk.name == b"sBIT" and chunk.intact), b"")
    if colour_type == PALETTE or depth < 8 or len(set(said)) != 1 or not 0 < said[0] < depth:
        return None
    bits, largest = said[0], 2**depth - 1
    white = 2**bits - 1
    if array.max() > white:
        return None
    high = array.astype(np.int64) >> (depth - bits)
    linear = (2 * high * largest + white) // (2 * white)
    scaled = (array == high << (depth - bits)) | (np.abs(array - linear) <= 1)
    return None if scaled.all() else float(white)


def _tags(chunks: list[Chunk]) -> Tags:
    icc = exif = xmp = description = resolution = None
    kept: list[tuple[bytes, bytes]] = []
    lost: dict[str, None] = {}
    for name, raw, intact in chunks:
        keyword = raw.partition(b"\0")[0]
        if name in PIXEL_CHUNKS or name in STALE_CHUNKS:
            continue
        if not intact:
            lost[f"PNG chunk {name.decode('latin-1')} (damaged)"] = None
        elif name == b"iCCP":
            icc = _unpacked(raw[len(keyword) + 2 :])
            lost |= {} if icc else {"ICC profile (damaged)": None}
        elif name == b"eXIf":
            exif = raw
        elif name == b"pHYs" and len(raw) == 9:
            resolution = _resolution(raw)
        elif name in TEXT_CHUNKS and keyword == XMP:
            xmp = _text(name, raw)
        elif name in TEXT_CHUNKS and keyword == OLD_EXIF and exif is None:
            exif = _old_exif(_text(name, raw))
        elif name in TEXT_CHUNKS and keyword == DESCRIPTION and description is None:
            description = (_text(name, raw) or b"").decode("utf-8" if name == b"iTXt" else "latin-1", "replace")
        elif name in COLOUR_CHUNKS or name in TEXT_CHUNKS:
            kept.append((name, raw))
        else:
            lost[f"PNG chunk {name.decode('latin-1')}"] = None
    block, entries, damaged = exif_tags(exif)
    return Tags(
        icc=icc,
        exif=block,
        xmp=xmp,
        description=description,
        resolution=resolution,
        chunks=tuple(kept),
        orientation=orientation_of(entries, xmp),
        lost=(*lost, *damaged),
    )


def _unpacked(raw: bytes) -> bytes | None:
    """What zlib packed, None where it is damaged or larger than any profile."""
    worker = zlib.decompressobj()
    try:
        data = worker.decompress(raw, LARGEST)
    except zlib.error:
        return None
    return data if worker.eof else None


def _text(name: bytes, raw: bytes) -> bytes | None:
    """The text behind the keyword."""
    _, _, rest = raw.partition(b"\0")
    if name == b"tEXt":
        return rest
    if name == b"zTXt":
        return _unpacked(rest[1:])
    packed, rest = rest[:1] == b"\1", rest[2:]
    rest = rest.partition(b"\0")[2].partition(b"\0")[2]  # language, keyword in that language
    return _unpacked(rest) if packed else rest


def _old_exif(text: bytes | None) -> bytes | None:
    """EXIF as programs wrote it before there was a chunk for it: three lines, then hexadecimal digits."""
    lines = (text or b"").strip().split(b"\n")
    try:
        return bytes.fromhex(b"".join(lines[2:]).decode("ascii")).removeprefix(b"Exif\0\0")
    except ValueError:
        return b"?"  # reported as damaged


def _description(text: str) -> tuple[bytes, bytes]:
    try:
        return b"tEXt", DESCRIPTION + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", DESCRIPTION + bytes(5) + text.encode()


def _resolution(raw: bytes) -> Resolution | None:
    x, y, metre = struct.unpack(">IIB", raw)
    return Resolution(Fraction(x), Fraction(y), "m" if metre == 1 else "") if x and y else None


def _density(resolution: Resolution) -> bytes | None:
    """Whole pixels per metre, or their ratio; None where 31 bits cannot hold them."""
    metric = resolution.per("m")
    x, y = (metric.x, metric.y) if metric else (resolution.x, resolution.y)
    if metric is None:
        common = x.denominator * y.denominator
        x, y = x * common, y * common
    whole = round(x), round(y)
    if not all(0 < number < 2**31 for number in whole):
        return None
    return struct.pack(">IIB", *whole, 1 if metric else 0)
