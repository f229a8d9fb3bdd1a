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


def encode(pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of a TIFF file, and names of what it cannot hold."""
    import tifffile

    tags, samples = pixels.tags, pixels.colour or pixels.alpha is not None
    array = as_stack(join_samples(pixels), "YX" + "S" * samples)
    large, style = array.nbytes > CLASSIC, tags.layout.style
    order = (
        ">" if style == "imagej" and pixels.white is None else "<"
    )  # ImageJ's own, in which packed samples come out wrong
    about = exif_tags(tags.exif_for(*pixels.size))[1]
    binary = {name: value for name, value in tags.layout.entries.items() if name in BINARY}
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
        extratags=tifffile.imagej_metadata_tag(binary, order) if style == "imagej" and binary else (),
        **options,
    )
    lost = tags.losses({"icc", "exif", "xmp", "description", "resolution", "layout"})
    return _with_entries(stream.getvalue(), _entries(tags, about)), lost


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


def _entries(tags: Tags, about: ifd.Directory) -> ifd.Directory:
    """What goes into the directory of the first page. tifffile would write rationals wrongly
    and pointers not at all.
    """
    found: ifd.Directory = {tag: value for tag, value in about.items() if tag in ABOUT or isinstance(value, dict)}
    for tag, data, dtype in ((ICC, tags.icc, UNDEFINED), (XMP, tags.xmp, BYTE)):
        if data:
            found[tag] = ifd.Value(dtype, len(data), data)
    return found


def _with_entries(data: bytes, entries: ifd.Directory) -> bytes:
    """With those entries in the directory of the first page, which is written anew at the end of the file."""
    if not entries:
        return data
    kind, offset = ifd.header(data)
    first, link = ifd.read(data, kind, offset)
    base = len(data) + len(data) % 2
    place, pointer = (8, "Q") if kind.big else (4, "I")
    start = data[:place] + struct.pack(f"{kind.order}{pointer}", base)
    return (
        start + data[len(start) :].ljust(base - len(start), b"\0") + ifd.written({**first, **entries}, base, kind, link)
    )
