"""What a file says beside its pixels, in a form that any format can be asked to hold.

An encoder writes what its format can hold and names the rest, so that nothing is lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

from . import ifd, ome

METRES = {"m": Fraction(1), "cm": Fraction(1, 100), "inch": Fraction(254, 10000), "mm": Fraction(1, 1000)}
METRES |= {"um": Fraction(1, 10**6), "nm": Fraction(1, 10**9)}
UNIT_NAMES = {
    "micron": "um",
    "microns": "um",
    "µm": "um",
    "\u03bcm": "um",
    "\\u00b5m": "um",
    "inches": "inch",
    "in": "inch",
}
TIFF_UNITS = {"": 1, "inch": 2, "cm": 3}
GEO = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)  # where on earth the pixels lie
SOFTWARE = 305
SWAPPING = (5, 6, 7, 8)  # orientations that make rows of columns
XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>\s*))[0-9]+")


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit along columns (x) and along rows (y); unit "" is not known, only the ratio counts."""

    x: Fraction
    y: Fraction
    unit: str = ""

    def per(self, unit: str) -> Resolution | None:
        """The same in another unit, None where the own one is not known."""
        if self.unit not in METRES or unit not in METRES:
            return None
        factor = METRES[unit] / METRES[self.unit]
        return Resolution(self.x * factor, self.y * factor, unit)

    def for_tiff(self) -> Resolution:
        """In a unit that TIFF knows."""
        return self if self.unit in TIFF_UNITS else self.per("cm") or replace(self, unit="")


@dataclass(frozen=True)
class Layout:
    """Axes before rows and columns, as "TZC" of (frames, slices, channels), and the words of the program that wrote
    them.

    style: "" pages, "shaped" the JSON of tifffile, "imagej", "ome". text: the description of ImageJ or OME as it came.
    entries: of the JSON, or of ImageJ's binary metadata.
    """

    axes: str = ""
    shape: tuple[int, ...] = ()
    style: str = ""
    text: str = ""
    entries: dict[str, Any] = field(default_factory=dict)
    unit: str = ""

    @property
    def name(self) -> str:
        """What is lost where a format cannot hold it; "" for nothing."""
        named = {"imagej": "ImageJ metadata", "ome": "OME metadata"}.get(self.style, "")
        axes = f"axes {self.axes}" if self.axes.strip("IQ") else ""
        return " and ".join(part for part in (named, axes) if part)


class Origin:
    """All that a file says in a format that only a result of such a file can be stored in. name: of what is lost in
    other formats.
    """

    name: ClassVar[str]


@dataclass(frozen=True)
class Tags:
    """The tags of one file. exif: a small TIFF file, as JPEG and PNG hold it. chunks: those that only PNG knows.

    orientation: how the pixels lie in the file; 1 once they are upright. lost: names of what no output gets.
    derivation: how a result was made, for formats that say so.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    description: str | None = None
    resolution: Resolution | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    layout: Layout = field(default_factory=Layout)
    orientation: int = 1
    lost: tuple[str, ...] = ()
    origin: Origin | None = None
    derivation: str = ""

    def upright(self) -> Tags:
        """Of pixels that have been turned as `orientation` says."""
        if self.orientation == 1:
            return self
        resolution = self.resolution
        xmp = self.xmp and XMP_ORIENTATION.sub(rb"\g<1>1", self.xmp)
        layout = self.layout
        if self.orientation in SWAPPING:
            if resolution:
                resolution = replace(resolution, x=resolution.y, y=resolution.x)
            if layout.style == "ome":
                layout = replace(layout, text=ome.turned(layout.text))
        return replace(self, orientation=1, resolution=resolution, xmp=xmp, layout=layout)._without_places()

    def resized(self, y: Fraction, x: Fraction) -> Tags:
        """Of an image with y times as many rows and x times as many columns over the same area."""
        if x == y == 1:
            return self
        resolution, layout = self.resolution, self.layout
        if resolution:
            resolution = replace(resolution, x=resolution.x * x, y=resolution.y * y)
        if layout.style == "ome":
            layout = replace(layout, text=ome.resized(layout.text, y, x))
        return replace(self, resolution=resolution, layout=layout)._without_places()

    def exif_for(self, height: int, width: int) -> bytes | None:
        """The EXIF block of the image as it is now, None where there is none or it is damaged."""
        if self.exif is None:
            return None
        found = self.resolution.for_tiff() if self.resolution else None
        if found is None:
            return ifd.mended(self.exif, width, height)
        return ifd.mended(self.exif, width, height, found.x, found.y, TIFF_UNITS[found.unit])

    def losses(self, held: Collection[str]) -> tuple[str, ...]:
        """Names of what a format does not hold that holds those fields only."""
        names = {
            "icc": "ICC profile",
            "exif": "EXIF" if self.exif and ifd.parsed(self.exif).keys() != {SOFTWARE} else "name of the software",
            "xmp": "XMP",
            "description": "description",
            "resolution": "resolution",
            "chunks": f"PNG chunks {', '.join(sorted({name.decode('ascii') for name, _ in self.chunks}))}",
            "layout": self.layout.name,
            "origin": self.origin.name if self.origin else "",
        }
        missing = [name for key, name in names.items() if key not in held and getattr(self, key)]
        return (*self.lost, *[name for name in missing if name])

    def _without_places(self) -> Tags:
        """Without regions and positions on the earth, which pixels that moved would contradict."""
        lost, exif, layout = list(self.lost), self.exif, self.layout
        if exif:
            entries = ifd.parsed(exif)
            if any(tag in entries for tag in GEO):
                exif = ifd.block_of({tag: value for tag, value in entries.items() if tag not in GEO})
                lost.append("georeference")
        if layout.style == "ome":
            text, removed = ome.without_regions(layout.text)
            layout = replace(layout, text=text)
        else:
            removed = any(name in layout.entries for name in ("ROI", "Overlays"))
            kept = {name: value for name, value in layout.entries.items() if name not in ("ROI", "Overlays")}
            layout = replace(layout, entries=kept)
        if removed:
            lost.append("regions of interest")
        return replace(self, lost=tuple(lost), exif=exif, layout=layout)


NO_TAGS = Tags()


def exif_tags(block: bytes | None) -> tuple[bytes | None, dict[int, Any], tuple[str, ...]]:
    """An EXIF block, its main directory and what is lost of it; a damaged one is lost whole."""
    if not block:
        return None, {}, ()
    try:
        return block, ifd.parsed(block), ()
    except ValueError:
        return None, {}, ("EXIF (damaged)",)


def resolution_of(entries: dict[int, Any]) -> Resolution | None:
    """Of a TIFF directory."""
    x, y = (entries.get(tag) for tag in (ifd.X_RESOLUTION, ifd.Y_RESOLUTION))
    found = [value.fraction() for value in (x, y) if isinstance(value, ifd.Value)]
    if len(found) < 2 or not found[0] or not found[1]:
        return None
    unit = ifd.first_number(entries, ifd.RESOLUTION_UNIT, 2)  # inch, where the tag is left out
    names = {number: name for name, number in TIFF_UNITS.items()}
    resolution = Resolution(found[0], found[1], names.get(unit, ""))
    return None if resolution == Resolution(Fraction(1), Fraction(1)) else resolution


def orientation_of(entries: dict[int, Any], xmp: bytes | None) -> int:
    """1 to 8, by EXIF or else by XMP."""
    found = ifd.first_number(entries, ifd.ORIENTATION, 0)
    if not found and xmp and (match := XMP_ORIENTATION.search(xmp)):
        found = int(match.group(0)[len(match.group(1)) :])
    return found if found in range(1, 9) else 1


def words(raw: bytes) -> str:
    """Text of a tag, which is UTF-8 or else Latin-1, up to the first NUL."""
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
