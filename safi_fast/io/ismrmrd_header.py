"""The XML header of an ISMRMRD file: what grid its lines were encoded on, and which image was meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.dom import minidom

import numpy as np

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Encoding:
    """One encoding; numbers are of readout (x), first and second phase encoding (y, z).

    matrix, field: samples of k-space and millimetres of the image that they encode. wanted, wanted_field: of the image.
    centers: the counters of frequency zero.
    """

    matrix: Triple
    field: tuple[float, float, float]
    wanted: Triple
    wanted_field: tuple[float, float, float]
    centers: Triple
    trajectory: str

    def kept(self, axis: int) -> int:
        """Pixels of the encoded image that are in the wanted one; all, where that is not smaller."""
        full, field, wanted = self.matrix[axis], self.field[axis], self.wanted_field[axis]
        pixels = round(full * wanted / field) if field > 0 and wanted > 0 else self.wanted[axis]
        return min(full, max(1, pixels))


def encodings_of(stored: Any) -> list[Encoding]:
    """Of the dataset `xml`. Raises ValueError for what is no such header."""
    (text,) = np.ravel(stored).tolist() or [""]
    document = minidom.parseString(text if isinstance(text, bytes) else text.encode())
    return [_encoding(element) for element in _all(document, "encoding")]


def _encoding(element: Any) -> Encoding:
    encoded, wanted = (_one(element, name) for name in ("encodedSpace", "reconSpace"))
    matrix, field = _triple(encoded, "matrixSize", int), _triple(encoded, "fieldOfView_mm", float)
    if min(matrix) < 1:
        raise ValueError(f"its encoded matrix is {matrix}")
    centers = [matrix[0] // 2]
    for axis, name in ((1, "kspace_encoding_step_1"), (2, "kspace_encoding_step_2")):
        limits = _all(element, name)
        centers.append(int(_text(_one(limits[0], "center"))) if limits else matrix[axis] // 2)
    return Encoding(
        matrix, field, _triple(wanted, "matrixSize", int), _triple(wanted, "fieldOfView_mm", float),
        (centers[0], centers[1], centers[2]), _text(_one(element, "trajectory")).lower(),
    )  # fmt: skip


def _triple(space: Any, name: str, kind: Any) -> Any:
    found = _one(space, name)
    return tuple(kind(_text(_one(found, axis))) for axis in "xyz")


def _one(node: Any, name: str) -> Any:
    found = _all(node, name)
    if not found:
        raise ValueError(f"its header lacks {name}")
    return found[0]


def _all(node: Any, name: str) -> list[Any]:
    return list(node.getElementsByTagNameNS("*", name))


def _text(element: Any) -> str:
    return "".join(child.data for child in element.childNodes if child.nodeType == child.TEXT_NODE).strip()
