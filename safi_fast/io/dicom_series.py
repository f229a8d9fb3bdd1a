"""A folder of DICOM files as one volume, its slices in the order in which they lie in the patient, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import reason, write_folder
from ..errors import ImageFileError
from .dicom import Dicom, encode_part, key_of, lenient, read_part, unknown_of, white_of
from .packages import require
from .pixels import Array, FormatError, Pixels, decoding
from .tags import Tags

EXTENSION, MAGIC, MAGIC_AT = ".dcm", b"DICM", 128
INDEX = "DICOMDIR"
PARALLEL = 1e-3  # difference of direction cosines that rounding explains
SHOWN = 5  # series of a refusal


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files of a folder, sorted: those named .dcm, and those without an extension of another kind that begin
    as DICOM files do. Raises ImageFileError.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if path.name[0] != "." and path.name != INDEX)
    except OSError as error:
        raise ImageFileError(f"{folder}: cannot be listed ({reason(error)})") from error
    return [path for path in entries if path.is_file() and (path.suffix.lower() == EXTENSION or _begins_as_dicom(path))]


def read_series(folder: Path) -> Pixels:
    """(slices, H, W) of the one series in a folder. Raises ImageFileError, FormatError, BackendError."""
    paths = dicom_files(folder)
    _require_one_series(folder, paths)
    read = []
    for path in paths:
        with _named(path):
            read.append((*read_part(path.read_bytes()), path.name))
    order = _order([part.dataset for _, part, _ in read])
    values, parts, names = (list(column) for column in zip(*(read[number] for number in order), strict=True))
    _require_alike(values, names)
    stack = np.stack([one.astype(np.result_type(*values)) for one in values])
    whites = {white_of(part) for part in parts}
    unknown = unknown_of(stack, parts)
    if len(whites) > 1 and not unknown:
        unknown = "values of slices with different BitsStored"
    origin = Dicom(tuple(parts), tuple(names), folder)
    return Pixels(stack, white=None if unknown else whites.pop(), tags=Tags(origin=origin), unknown=unknown)


def write_series(folder: Path, pixels: Pixels) -> tuple[str, ...]:
    """The files of a result, under the names of their inputs, in a folder that is there whole or not at all.

    pixels: float64. Returns names of what is lost. Raises FormatError, ImageFileError.
    """
    origin, lost, key = pixels.tags.origin, dict[str, None](), key_of(pixels.tags.derivation)
    assert isinstance(origin, Dicom)

    def contents() -> Iterator[bytes]:
        for part, values in zip(origin.parts, pixels.array, strict=True):
            data, missing = encode_part(part, values, pixels.tags.derivation, key)
            lost.update(dict.fromkeys(missing))
            yield data

    write_folder(folder, origin.names, contents())
    return tuple(lost)


def _begins_as_dicom(path: Path) -> bool:
    from .formats import is_known

    if is_known(path):
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC
    except OSError:
        return False


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of one file say which it is. Raises FormatError."""
    try:
        with decoding("dicom"):
            yield
    except FormatError as error:
        raise FormatError(f"{path.name} {error}") from error


@lenient()
def _require_one_series(folder: Path, paths: list[Path]) -> None:
    """By the headers alone. Raises FormatError, which names the series."""
    pydicom = require("pydicom", "DICOM")
    found: dict[str, list[Any]] = {}
    wanted = ["SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"]
    for path in paths:
        with _named(path):
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((header, path.name))
    if len(found) > 1:
        words = []
        for members in found.values():
            header, name = members[0]
            about = [header.get(key) for key in ("SeriesNumber", "Modality", "SeriesDescription")]
            words.append(f"{' '.join(str(part) for part in about if part not in (None, ''))} ({len(members)} files, "
                         f"{name} first)")  # fmt: skip
        more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
        raise FormatError(
            f"holds {len(words)} series: {'; '.join(words[:SHOWN])}{more}; move each into a folder of its own, or name "
            "the files"
        )


def _require_alike(values: list[Array], names: list[str]) -> None:
    """Raises FormatError for frames, and for slices of several sizes."""
    for one, name in zip(values, names, strict=True):
        if one.ndim != 2:
            raise FormatError(f"holds {name} with {len(one)} frames beside other files; name such a file by itself")
        if one.shape != values[0].shape:
            sizes = [" x ".join(map(str, shape)) for shape in (values[0].shape, one.shape)]
            raise FormatError(f"holds slices of several sizes: {names[0]} has {sizes[0]}, {name} has {sizes[1]}; move "
                              "each size into a folder of its own")  # fmt: skip


@lenient()
def _order(datasets: list[Any]) -> list[int]:
    """Places of slices by their position along the normal, then InstanceNumber; by that alone where planes are not
    parallel or do not say where they lie.
    """
    numbers = [int(dataset.get("InstanceNumber") or 0) for dataset in datasets]
    heights = _heights(datasets)
    return sorted(range(len(datasets)), key=lambda place: (heights[place], numbers[place]))


def _heights(datasets: list[Any]) -> list[float]:
    """Millimetres along the normal of the first slice (DICOM PS3.3, C.7.6.2.1.1); zeros where they are not known."""
    try:
        axes = np.array([[float(x) for x in dataset.ImageOrientationPatient] for dataset in datasets])
        places = np.array([[float(x) for x in dataset.ImagePositionPatient] for dataset in datasets])
    except (AttributeError, TypeError, ValueError):
        axes = places = np.empty(0)
    if axes.shape[1:] != (6,) or places.shape[1:] != (3,) or np.abs(axes - axes[0]).max() > PARALLEL:
        return [0.0] * len(datasets)
    return [round(float(height), 3) for height in places @ np.cross(axes[0, :3], axes[0, 3:])]
