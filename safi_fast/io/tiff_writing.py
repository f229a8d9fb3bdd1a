"""TIFF, written: uncompressed, one page or a stack, with the axes and tags that came."""

from __future__ import annotations

import io
import struct
from typing import Any

from . import ifd, ome
from .pixels import Pixels, join_samples
from .tags import TIFF_UNITS, Resolution, Tags, exif_tags
from .tiff import ABOUT, BINARY, ICC, XMP, as_stack

BYTE, UNDEFINED = 1, 7
CLASSIC = 2**32 - 2**25  # bytes of pixels that offsets of four bytes can hold, with room for the rest
FIRST = 4  # where a classic TIFF file has the offset of its first directory
NESTED = (ifd.EXIF, ifd.GPS)


def encode(pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of a TIFF file, and names of what it cannot hold."""
    import tifffile

    tags, samples = pixels.tags, pixels.colour or pixels.alpha is not None
    array = as_stack(join_samples(pixels), "YX" + "S" * samples)
    large, style = array.nbytes > CLASSIC, tags.layout.style
    order = ">" if style == "imagej" else "<"  # ImageJ's own
    about = exif_tags(tags.exif_for(*pixels.size))[1]
    nested: ifd.Directory = {tag: value for tag, value in about.items() if isinstance(value, dict) and not large}
    options: dict[str, Any] = {"metadata": None, "description": _description(pixels)}
    if style == "shaped":
        axes = f"{tags.layout.axes}YX{'S' * samples}"
        array = array.reshape(*tags.layout.shape, *array.shape[-2 - samples :])
        options["metadata"] = {**tags.layout.entries, "axes": axes}
    if pixels.white is not None and style != "ome":
        options["bitspersample"] = int(pixels.white).bit_length()
    if tags.resolution:
        options |= _resolution(tags.resolution, tags)
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        array,
        photometric="rgb" if pixels.colour else "minisblack",
        planarconfig="contig" if samples else None,
        extrasamples=None if pixels.alpha is None else ["unassalpha"],
        bigtiff=large,
        byteorder=order,
        software=False,
        extratags=_extra(tags, about, order),
        **options,
    )
    lost = tags.losses({"icc", "exif", "xmp", "description", "resolution", "layout"})
    if large and any(tag in about for tag in NESTED):
        lost = (*lost, "EXIF")
    return _with_nested(stream.getvalue(), nested, order), lost


def _description(pixels: Pixels) -> bytes | None:
    tags, (height, width) = pixels.tags, pixels.size
    if tags.layout.style == "ome":
        planes = pixels.array.size // (height * width * (3 if pixels.colour else 1))
        return ome.for_result(tags.layout.text, planes, height, width, pixels.array.dtype, pixels.white)
    if tags.layout.style == "imagej":
        return tags.layout.text.encode()
    return tags.description.encode() if tags.description else None


def _resolution(resolution: Resolution, tags: Tags) -> dict[str, Any]:
    unit = tags.layout.unit if tags.layout.style == "imagej" else ""
    found = resolution.per(unit) or resolution.for_tiff()
    return {
        "resolution": (ifd.rational(found.x), ifd.rational(found.y)),
        "resolutionunit": TIFF_UNITS.get(found.unit, TIFF_UNITS[""]),
    }


def _extra(tags: Tags, about: ifd.Directory, order: str) -> list[tuple[Any, ...]]:
    """Tags in tifffile's form."""
    import tifffile

    found: dict[int, tuple[int, int, bytes]] = {}
    for tag, value in about.items():
        if isinstance(value, ifd.Value) and tag in ABOUT:
            found[tag] = (value.type, value.number, ifd.swapped(value) if order == ">" else value.data)
    for tag, data, dtype in ((ICC, tags.icc, UNDEFINED), (XMP, tags.xmp, BYTE)):
        if data:
            found[tag] = (dtype, len(data), data)
    extra = [(tag, *value, True) for tag, value in found.items()]
    binary = {name: value for name, value in tags.layout.entries.items() if name in BINARY}
    if tags.layout.style == "imagej" and binary:
        extra += list(tifffile.imagej_metadata_tag(binary, order))
    return extra


def _with_nested(data: bytes, nested: ifd.Directory, order: str) -> bytes:
    """With those directories in the one of the first page, which is written anew at the end of the file."""
    if not nested:
        return data
    kind, offset = ifd.header(data)
    first, link = ifd.read(data, kind, offset)
    base = len(data) + len(data) % 2
    directory = ifd.written({**first, **nested}, base, order, link)
    return data[:FIRST] + struct.pack(f"{order}I", base) + data[FIRST + 4 :].ljust(base - FIRST - 4, b"\0") + directory
