"""OME-XML, the description of an OME-TIFF: what must be known before its planes are read, and the same text for the
result.

The text is kept but for what the result contradicts: where planes lie, their type, size and spacing.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple
from xml.dom import minidom

import numpy as np

MICROMETRES: dict[str, Fraction | int] = {
    "µm": 1,
    "\u03bcm": 1,
    "nm": Fraction(1, 1000),
    "mm": 1000,
    "cm": 10000,
    "m": 10**6,
    "Å": Fraction(1, 10000),
}
TYPES = {"float32": "float", "float64": "double"}
DECLARATION = re.compile(r"^<\?xml.*?\?>", re.DOTALL)
REGIONS = ("ROI", "ROIRef")


def is_ome(text: str) -> bool:
    """Whether a TIFF description is OME-XML."""
    return text.lstrip()[:5].lower() in ("<?xml", "<ome ", "<ome>") and text.rstrip()[-4:] == "OME>"


class Files(NamedTuple):
    """The files that planes of an OME-TIFF lie in.

    own: the name under which planes of this one are listed; None where none are, or where it cannot be told which it
    is. others: names of the other files by their UUID. uuid: of this file. holder: the file with the description, where
    this one has none.
    """

    own: str | None
    others: dict[str, str]
    uuid: str = ""
    holder: str = ""


def files_of(text: str) -> Files:
    """Without a UUID of its own, a file is the only one that is named, or one of several that cannot be told apart."""
    root = _parse(text).documentElement
    uuid = root.getAttribute("UUID")
    for element in _all(root, "BinaryOnly"):
        return Files(None, {}, uuid, element.getAttribute("MetadataFile") or "a companion file")
    named = {_text(element): element.getAttribute("FileName") or _text(element) for element in _all(root, "UUID")}
    if uuid:
        return Files(named.get(uuid), {key: name for key, name in named.items() if key != uuid}, uuid)
    if len(named) > 1:
        return Files(None, named)
    return Files(next(iter(named.values()), None), {})


def white(text: str, dtype: np.dtype[Any]) -> float | None:
    """The largest value that the significant bits can hold, None where these are all bits of the dtype."""
    for pixels in _all(_parse(text), "Pixels"):
        bits = pixels.getAttribute("SignificantBits")
        if dtype.kind == "u" and bits.isdigit() and 0 < int(bits) < 8 * dtype.itemsize:
            return float(2 ** int(bits) - 1)
    return None


def spacing(text: str) -> tuple[Fraction, Fraction] | None:
    """Pixels per metre along columns and rows."""
    for pixels in _all(_parse(text), "Pixels"):
        found = [_metres(pixels, f"PhysicalSize{axis}") for axis in "XY"]
        if found[0] and found[1]:
            return 1 / found[0], 1 / found[1]
    return None


def resized(text: str, y: Fraction, x: Fraction) -> str:
    """With pixels x times narrower and y times lower."""
    document = _parse(text)
    for pixels in _all(document, "Pixels"):
        for name, factor in (("PhysicalSizeX", x), ("PhysicalSizeY", y)):
            if size := _number(pixels.getAttribute(name)):
                pixels.setAttribute(name, repr(float(size / factor)))
    return str(document.toxml())


def turned(text: str) -> str:
    """With rows for columns."""
    document = _parse(text)
    for pixels in _all(document, "Pixels"):
        for first, second in (("PhysicalSizeX", "PhysicalSizeY"), ("PhysicalSizeXUnit", "PhysicalSizeYUnit")):
            values = pixels.getAttribute(first), pixels.getAttribute(second)
            for name, value in zip((second, first), values, strict=True):
                if value:
                    pixels.setAttribute(name, value)
                elif pixels.hasAttribute(name):
                    pixels.removeAttribute(name)
    return str(document.toxml())


def without_regions(text: str) -> tuple[str, bool]:
    """Without regions of interest, and whether it had any."""
    document = _parse(text)
    regions = [element for name in REGIONS for element in _all(document, name)]
    for element in regions:
        element.parentNode.removeChild(element)
    return (str(document.toxml()) if regions else text), bool(regions)


def for_result(text: str, planes: int, height: int, width: int, dtype: np.dtype[Any], white: float | None) -> bytes:
    """The description of a file that holds all planes in the order of the text, one a page."""
    document = _parse(text)
    root = document.documentElement
    for name in ("UUID", "Creator"):
        if root.hasAttribute(name):
            root.removeAttribute(name)
    for pixels in _all(document, "Pixels"):
        places = _all(pixels, "TiffData")
        for element in places[1:]:
            pixels.removeChild(element)
        name = pixels.tagName.replace("Pixels", "TiffData")
        place = places[0] if places else pixels.appendChild(document.createElement(name))
        for name in list(place.attributes.keys()):
            place.removeAttribute(name)
        for child in list(place.childNodes):
            place.removeChild(child)
        place.setAttribute("IFD", "0")
        place.setAttribute("PlaneCount", str(planes))
        facts = {"SizeX": width, "SizeY": height, "Type": TYPES.get(dtype.name, dtype.name)}
        for name, value in facts.items():
            pixels.setAttribute(name, str(value))
        for name in ("BigEndian", "Interleaved", *(("SignificantBits",) if white is None else ())):
            if pixels.hasAttribute(name):
                pixels.removeAttribute(name)
    return bytes(document.toxml(encoding="UTF-8"))


def _parse(text: str) -> Any:
    return minidom.parseString(DECLARATION.sub("", text.strip()).encode())  # its encoding is not ours


def _all(node: Any, name: str) -> list[Any]:
    return list(node.getElementsByTagNameNS("*", name))


def _text(element: Any) -> str:
    return "".join(child.data for child in element.childNodes if child.nodeType == child.TEXT_NODE).strip()


def _number(text: str) -> Fraction | None:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


def _metres(pixels: Any, name: str) -> Fraction | None:
    size, unit = _number(pixels.getAttribute(name)), pixels.getAttribute(f"{name}Unit") or "µm"
    return size * MICROMETRES[unit] / 10**6 if size and unit in MICROMETRES else None
