"""TIFF, read: pixels by tifffile (with imagecodecs for compressed pages), tags from the directories themselves."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np

from . import ifd, ome
from .pixels import Array, FormatError, Pixels, silenced, split_samples
from .sizes import require_plausible_tiff
from .tags import GEO, METRES, UNIT_NAMES, Layout, Resolution, Tags, orientation_of, resolution_of, words

DESCRIPTION, XMP, ICC = 270, 700, 34675
COMPRESSIONS_OF_JPEG = (6, 7)
SHOWN = 3  # names of a refusal
# Tags that say how pixels are stored: the result has its own.
STORAGE = {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 288, 289}
STORAGE |= {290, 291, 292, 293, 297, 317, 320, 321, 322, 323, 324, 325, 330, 338, 339, 340, 341, 347, 32996, 32997}
STORAGE |= {512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}
# Tags about the picture that mean the same beside any pixels. They travel as the main directory of an EXIF block.
ABOUT = {269, 271, 272, 285, 286, 287, 305, 306, 315, 316, 318, 319, 33432, *GEO}
HANDLED = {DESCRIPTION, XMP, ICC, ifd.X_RESOLUTION, ifd.Y_RESOLUTION, ifd.RESOLUTION_UNIT, ifd.EXIF, ifd.GPS}
IMAGEJ = {50838, 50839}
BINARY = ("Info", "Labels", "Ranges", "LUTs", "Plot", "ROI", "Overlays", "Properties")  # what these two hold
NAMES = {33723: "IPTC data", 34377: "Photoshop data", 37724: "Photoshop layers", 50341: "print settings"}
JOIN = "join them first, for instance with bfconvert or with tifffile.imread and imwrite"


def decode(data: bytes) -> Pixels:
    """Pixels of a TIFF file of one image or one stack."""
    import tifffile

    name = _check_whole(description_of(directories(data)[1][0]))
    with silenced("tifffile"), tifffile.TiffFile(io.BytesIO(data), name=name) as file:
        return pixels_of(file, data, len(data))


def pixels_of(file: Any, data: bytes, stored: int) -> Pixels:
    """Pixels of the one series of a file that tifffile has opened, and whose bytes are `data`. stored: bytes of all
    files that hold planes of it. Raises FormatError.
    """
    kind, pages = directories(data)
    text = description_of(pages[0])
    series, smaller = _only_series(file)
    require_plausible_tiff(series, file.pages[0], stored)
    array, axes, page = series.asarray(), series.axes, file.pages[0]
    layout = _layout(file, series, text)
    pixels = _samples(array, axes, page, _white(array, page, layout))
    tags = _tags(data, kind, pages, layout)
    return replace(pixels, tags=replace(tags, lost=(*tags.lost, *smaller)))


def directories(data: bytes) -> tuple[ifd.Header, list[dict[int, ifd.Value]]]:
    """The directories of all pages. Refuses a chain that does not end: tifffile reads what comes before the break."""
    kind, offset = ifd.header(data)
    pages: list[dict[int, ifd.Value]] = []
    seen = set()
    while offset:
        try:
            entries, link = ifd.read(data, kind, offset)
        except struct.error:
            entries = {}
        if not entries or offset in seen:
            if not pages:
                raise ValueError("its first directory cannot be read")
            raise FormatError(f"is truncated or damaged after page {len(pages)}")
        seen.add(offset)
        pages.append(entries)
        offset = link
    if not pages:
        raise FormatError("holds no pages")
    return kind, pages


def description_of(page: dict[int, ifd.Value]) -> str:
    return words(page[DESCRIPTION].data) if DESCRIPTION in page else ""


def _check_whole(text: str) -> str | None:
    """Refuse one of several files of an OME-TIFF; else the name under which OME-XML knows this one."""
    files = files_of(text)
    if files.holder:
        raise FormatError(f"is one file of a multi-file OME-TIFF, which {files.holder} describes; name that file "
                          f"instead, or {JOIN}")  # fmt: skip
    if files.others:
        names = shortened(sorted(files.others.values()))
        raise FormatError(f"is one file of a multi-file OME-TIFF, whose other planes lie in {names}; {JOIN}")
    return files.own


def files_of(text: str) -> ome.Files:
    """The files that a description of a TIFF names; none where it is no OME-XML. Raises FormatError."""
    if not ome.is_ome(text):
        return ome.Files(None, {})
    try:
        return ome.files_of(text)
    except ExpatError as error:
        raise FormatError(f"its OME-XML, which says where its planes lie, is damaged ({error})") from error


def shortened(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _only_series(file: Any) -> tuple[Any, tuple[str, ...]]:
    """The one series of the file, and what is left out beside it."""
    first = file.pages[0]
    inside = list(first.pages or []) if first.subifds else []
    if any(page.imagewidth > first.imagewidth for page in inside):
        raise FormatError("holds a larger image in a sub-directory (SubIFD), as raw photographs do; convert it first")
    if len(file.series) != 1:
        alike = len({(series.shape, series.dtype) for series in file.series}) == 1
        if alike and not file.is_ome:
            raise FormatError(f"holds {len(file.series)} images that are no stack; write them in one go, as one array")
        what = "images" if file.is_ome else "different shapes or types"
        raise FormatError(f"its pages have {len(file.series)} {what}; save them as separate files")
    series = file.series[0]
    blank = sum(page is None for page in series.pages)
    if blank:
        raise FormatError(f"{blank} of the {len(series.pages)} planes that its description lists are missing")
    declared = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
    planes = int(np.prod([size for size, axis in zip(series.shape, series.axes, strict=True) if axis not in "YXS"]))
    if declared != planes and declared > 1:
        raise FormatError(f"its ImageJ description lists {declared} planes, but it holds {planes}")
    smaller = len(series.levels) > 1 or bool(inside)
    return series, ("smaller copies of the image (pyramid, SubIFD)",) if smaller else ()


def _white(array: Array, page: Any, layout: Layout) -> float | None:
    """The largest value of the depth that the file declares, by bits per sample or OME-XML; None where it is that of
    the dtype.

    A declaration that the values contradict counts for nothing.
    """
    bits = page.bitspersample
    if not isinstance(bits, int):
        raise FormatError(f"has samples of {', '.join(map(str, bits))} bits; expected one depth for all")
    if 16 < bits < 32:  # readers differ on the order of their bytes
        raise FormatError(f"has {bits} bits per sample; expected 1 to 16, or 32")
    if array.dtype.kind != "u" or page.photometric.name == "PALETTE":
        return None
    white = float(2**bits - 1) if bits < 8 * array.dtype.itemsize else None
    if white is None and layout.style == "ome":
        white = ome.white(layout.text, array.dtype)
    return None if white is None or (array.size and array.max() > white) else white


def _samples(array: Array, axes: str, page: Any, white: float | None) -> Pixels:
    """Grey or colour, with alpha aside, rows and columns last, black as zero."""
    photometric = page.photometric.name
    if photometric == "PALETTE" and "S" not in axes:
        palette = page.colormap if page.colormap.max() < 256 else page.colormap >> 8  # some write 8 bits of the 16
        return Pixels(as_stack(np.moveaxis(palette, 0, -1)[array], axes + "S").astype(np.uint8), colour=True)
    if photometric == "MINISWHITE":
        array = _inverted(array, white)
    elif not (
        photometric in ("MINISBLACK", "RGB") or (photometric == "YCBCR" and page.compression in COMPRESSIONS_OF_JPEG)
    ):
        raise FormatError(f"is a {photometric} TIFF; convert it to grey or RGB first")
    if "S" not in axes:
        return Pixels(as_stack(array, axes), white=white)
    extra = [sample.name for sample in page.extrasamples]
    if extra not in ([], ["UNASSALPHA"]):
        raise FormatError(f"has extra samples that are not plain alpha ({', '.join(extra).lower()})")
    where = axes.index("S")
    stack = as_stack(np.moveaxis(array, where, -1), axes.replace("S", "") + "S")
    return replace(split_samples(stack), white=white)


def _inverted(array: Array, white: float | None) -> Array:
    """Of an image whose white is zero, within the depth that it declares."""
    if array.dtype.kind == "f":
        raise FormatError("holds floats whose white is zero and whose black is not known; save it with black as zero")
    if white is None:
        return np.asarray(~array)
    return np.asarray(array.dtype.type(white) - array)


def as_stack(array: Array, axes: str) -> Array:
    """All axes before YX (time, depth, channel, page) become one. Raises FormatError."""
    plane = 3 if axes.endswith("S") else 2
    if axes[len(axes) - plane :] not in ("YX", "YXS"):
        raise FormatError(f"its axes {axes} do not end in rows and columns")
    return array if array.ndim <= plane + 1 else array.reshape(-1, *array.shape[-plane:])


def _layout(file: Any, series: Any, text: str) -> Layout:
    """The axes before rows and columns and who described them."""
    leading = [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXS"]
    axes, shape = "".join(axis for axis, _ in leading), tuple(size for _, size in leading)
    if series.kind == "ome":
        return Layout(axes, shape, "ome", text)
    if file.is_imagej:
        facts = dict(file.imagej_metadata or {})
        unit = str(facts.get("unit", "")).lower()
        binary = {name: facts[name] for name in BINARY if name in facts}
        return Layout(axes, shape, "imagej", text, binary, UNIT_NAMES.get(unit, unit))
    if series.kind == "shaped":
        entries = dict(file.shaped_metadata[0]) if file.shaped_metadata else {}
        entries = {name: value for name, value in entries.items() if name not in ("shape", "axes", "truncated")}
        return Layout(axes, shape, "shaped", entries=entries)
    return Layout(axes, shape, "shaped" if axes.strip("IQ") else "")


def _tags(data: bytes, kind: ifd.Header, pages: list[dict[int, ifd.Value]], layout: Layout) -> Tags:
    import tifffile

    first = pages[0]
    damaged = {tag for tag, value in first.items() if not value.data and tag not in STORAGE}
    about: dict[int, Any] = {tag: value for tag, value in first.items() if tag in ABOUT - damaged}
    lost = [f"TIFF tag {tifffile.TIFF.TAGS.get(tag, tag)} (damaged)" for tag in sorted(damaged)]
    for tag, name in ((ifd.EXIF, "EXIF (damaged)"), (ifd.GPS, "GPS (damaged)")):
        if target := first[tag].numbers() if tag in first else ():
            try:
                about[tag] = ifd.read_nested(data, kind, target[0], 1)
            except (struct.error, ValueError):
                lost.append(name)
    others = first.keys() - STORAGE - ABOUT - HANDLED - damaged - (IMAGEJ if layout.style == "imagej" else set())
    lost += [NAMES.get(tag, f"TIFF tag {tifffile.TIFF.TAGS.get(tag, tag)}") for tag in sorted(others)]
    text = description_of(first)
    structured = layout.style in ("imagej", "ome") or (layout.style == "shaped" and text.startswith("{"))
    if not structured and any(description_of(page) not in ("", text) for page in pages[1:]):
        lost.append("descriptions of later pages")
    if len({orientation_of(dict(page), None) for page in pages}) > 1:
        raise FormatError("its pages have different orientation tags; save them as separate files")
    return Tags(
        icc=first[ICC].data or None if ICC in first else None,
        exif=ifd.block_of(about) if about else None,
        xmp=first[XMP].data or None if XMP in first else None,
        description=None if structured else text or None,
        resolution=_resolution(first, layout),
        layout=layout,
        orientation=orientation_of(dict(first), None),
        lost=tuple(lost),
    )


def _resolution(first: dict[int, ifd.Value], layout: Layout) -> Resolution | None:
    """By OME-XML or in ImageJ's unit where they know it, else by the tags."""
    found = resolution_of(dict(first))
    if layout.style == "ome" and (sides := ome.spacing(layout.text)):
        return Resolution(*sides, "m")
    if layout.style == "imagej" and found and layout.unit:
        return replace(found, unit=layout.unit if layout.unit in METRES else "")
    return found
