"""JPEG: Pillow, because imagecodecs accepts truncated files. Written with quality 95, 4:4:4: lossy."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import Any

import numpy as np

from .pixels import FormatError, Pixels, require_single
from .sizes import JPEG as RATIO
from .sizes import require_plausible
from .tags import Resolution, Tags, exif_tags, orientation_of, resolution_of, words

QUALITY = 95
UNITS = {0: "", 1: "inch", 2: "cm"}
LARGEST = 65500
SEGMENT = 65500  # most bytes of a text or an EXIF block, which go into one segment
DENSITY = 13  # where a file that begins with JFIF has the unit of its resolution
KNOWN = (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"JFIF\0", b"Adobe")
OTHERS = {b"Photoshop 3.0\0": "IPTC and Photoshop data", b"MPF\0": "further pictures (MPF)"}


def decode(data: bytes) -> Pixels:
    """Pixels of a JPEG file."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if (count := getattr(image, "n_frames", 1)) > 1:
            raise FormatError(f"holds {count} pictures (MPO); save them as separate files")
        if image.mode not in ("L", "RGB"):
            raise FormatError(f"is a {image.mode} JPEG; convert it to grey or RGB first")
        require_plausible((image.height, image.width, len(image.mode)), 1, len(data), RATIO)
        array = np.asarray(image)
        return Pixels(array, colour=array.ndim == 3, tags=_tags(image))


def encode(pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of a JPEG file, and names of what it cannot hold."""
    from PIL import Image

    require_single(pixels, "JPEG")
    if pixels.alpha is not None:
        raise FormatError("a JPEG file cannot hold the alpha channel; use .png or .tif")
    if max(pixels.size) > LARGEST:  # libjpeg would say so on standard error
        raise FormatError(
            f"{pixels.size[0]} x {pixels.size[1]} pixels do not fit into a JPEG file, {LARGEST} a side; use "
            ".png or .tif"
        )
    tags, held = pixels.tags, {"icc", "exif", "xmp", "description", "resolution"}
    options: dict[str, Any] = {"icc_profile": tags.icc}
    if exif := tags.exif_for(*pixels.size):
        options["exif"] = b"Exif\0\0" + exif
    if tags.xmp:
        options["xmp"] = tags.xmp
    if tags.description:
        options["comment"] = tags.description.encode()
    for option, name in (("exif", "exif"), ("xmp", "xmp"), ("comment", "description")):
        if len(options.get(option, b"")) > SEGMENT:
            del options[option]
            held.discard(name)
    stream = io.BytesIO()
    Image.fromarray(pixels.array).save(stream, "JPEG", quality=QUALITY, subsampling=0, **options)
    coded = bytearray(stream.getvalue())
    if tags.resolution:
        density = _density(tags.resolution)
        if density:
            struct.pack_into(">BHH", coded, DENSITY, *density)
        else:
            held.discard("resolution")
    return bytes(coded), tags.losses(held)


def _tags(image: Any) -> Tags:
    raw = image.info.get("exif")
    exif, entries, damaged = exif_tags(raw and raw.removeprefix(b"Exif\0\0"))
    xmp, comment = image.info.get("xmp"), image.info.get("comment")
    lost: dict[str, None] = {}
    for name, content in image.applist:
        if name != "COM" and not content.startswith(KNOWN):
            known = next((words for begin, words in OTHERS.items() if content.startswith(begin)), None)
            lost[known or f"JPEG segment {name}"] = None
    return Tags(
        icc=image.info.get("icc_profile"),
        exif=exif,
        xmp=xmp,
        description=words(comment) if comment else None,
        resolution=_resolution(image.info, resolution_of(entries)),
        orientation=orientation_of(entries, xmp),
        lost=(*lost, *damaged),
    )


def _resolution(info: dict[str, Any], by_exif: Resolution | None) -> Resolution | None:
    """That of JFIF, unless it is a ratio and EXIF knows more."""
    x, y = info.get("jfif_density", (0, 0))
    unit = UNITS.get(info.get("jfif_unit", 0), "")
    if not (x and y) or (unit == "" and (by_exif or x == y)):
        return by_exif
    return Resolution(Fraction(x), Fraction(y), unit)


def _density(resolution: Resolution) -> tuple[int, int, int] | None:
    """Unit and whole pixels per unit of 16 bits; None where they do not fit."""
    candidates = [(2, resolution.per("cm")), (1, resolution.per("inch")), (0, resolution)]
    fitting = [(unit, found) for unit, found in candidates if found and (unit or resolution.unit == "")]
    exact = [(unit, found) for unit, found in fitting if found.x.denominator == found.y.denominator == 1]
    for unit, found in [*exact, *fitting[::-1]]:
        x, y = round(found.x), round(found.y)
        if 0 < x < 2**16 and 0 < y < 2**16:
            return unit, x, y
    return None
