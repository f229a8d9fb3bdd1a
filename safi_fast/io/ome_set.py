"""An OME-TIFF whose planes lie in several files of one folder, read as one.

Each file has the description of the whole set, which names the others by file name and UUID (OME data model,
docs.openmicroscopy.org/ome-model, "The Structure of OME-TIFF files"); or it has none and names the file that does.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import real, reason
from . import ifd, ome
from .pixels import FormatError, Pixels, decoding, silenced
from .tiff import description_of, directories, files_of, pixels_of, shortened

SUFFIXES = (".tif", ".tiff")
PART = "is one file of a multi-file OME-TIFF"
# Width, height, bits, photometric interpretation, orientation, samples, their layout, alpha, format.
TAGS = (256, 257, 258, 262, 274, 277, 284, 338, 339)
DEFAULTS = {274: (1,), 277: (1,), 284: (1,), 339: (1,)}  # where these tags are left out


def read_set(path: Path, data: bytes) -> Pixels | None:
    """Pixels of the set that a file is one of; None for what is no such file, or cannot be read at all.

    data: bytes of the file. Raises FormatError where another file is missing, or is not the one that is meant.
    """
    import tifffile

    files = _files(data)
    if files is None or not files.others:
        return None
    others = _checked(path, files)
    with decoding("tiff"):
        stored = _stored_alike(path.name, data, others)
        with silenced("tifffile"), tifffile.TiffFile(path) as file:
            return pixels_of(file, data, stored)


def others_of(path: Path) -> list[Path]:
    """The files that are there of the set that `path` is one of, and has the description of, without `path` itself."""
    files = _read(path)
    if files is None:
        return []
    beside = {uuid: path.parent / name for uuid, name in files.others.items() if name == Path(name).name}
    return [other for uuid, other in beside.items() if other != path and _is_meant(_read(other), uuid, files)]


def one_of_each(paths: Sequence[Path]) -> list[Path]:
    """Without the files of a set that another of the paths is read with."""
    left_out: set[Path] = set()
    for path in paths:
        if real(path) not in left_out:
            left_out.update(map(real, others_of(path)))
    return [path for path in paths if real(path) not in left_out]


def _checked(path: Path, files: ome.Files) -> list[Path]:
    """The other files of the set, all of which are there. Raises FormatError."""
    named = files.others
    if not files.uuid:
        own = [uuid for uuid, name in named.items() if name.lower() == path.name.lower()]
        if not own:
            raise FormatError(f"{PART}, but its description names only others: {shortened(sorted(named.values()))}; "
                              "give it back the name that it had")  # fmt: skip
        named = {uuid: name for uuid, name in named.items() if uuid not in own}
    elsewhere = [name for name in named.values() if name != Path(name).name]
    if elsewhere:
        raise FormatError(f"{PART}, whose other planes lie in {shortened(elsewhere)}; expected files of its folder")
    others = {uuid: path.parent / name for uuid, name in named.items()}
    missing = sorted(other.name for other in others.values() if not other.is_file())
    if missing:
        raise FormatError(f"{PART}, and of its {len(others) + 1} files these are missing: {shortened(missing)}; "
                          "put them into its folder")  # fmt: skip
    for uuid, other in others.items():
        found = _read(other)
        if found is None:
            raise FormatError(f"{PART}, and {other.name} is no OME-TIFF that can be read")
        if not _is_meant(found, uuid, files):
            raise FormatError(f"{PART}, and {other.name} is another file than its description means: it has the UUID "
                              f"{found.uuid or 'of no file'}; expected {uuid}")  # fmt: skip
    return list(others.values())


def _is_meant(found: ome.Files | None, uuid: str, files: ome.Files) -> bool:
    """Whether a file is the one of that UUID; without a UUID of its own, whether it names the same files."""
    if found is None:
        return False
    return found.uuid == uuid if found.uuid else found.others == files.others


def _stored_alike(name: str, data: bytes, others: Sequence[Path]) -> int:
    """Bytes of all files, the first of which is given. tifffile reads their planes as those of one of them.

    Raises FormatError where planes differ, also for a file that is cut off.
    """
    expected = _facts(name, data)
    stored = len(data)
    for other in others:
        try:
            part = other.read_bytes()
        except OSError as error:
            raise FormatError(f"{PART}, and {other.name} cannot be read ({reason(error)})") from error
        if _facts(other.name, part) != expected:
            raise FormatError(f"{PART}, whose planes differ in size, type or orientation: those of {other.name} from "
                              f"those of {name}; save them as separate images")  # fmt: skip
        stored += len(part)
    return stored


def _facts(name: str, data: bytes) -> dict[int, tuple[int, ...]]:
    """What all planes of a file have in common. Raises FormatError where they have not."""
    try:
        pages = directories(data)[1]
    except FormatError as error:
        raise FormatError(f"{PART}, and {name} {error}") from error
    facts = [{tag: page[tag].numbers() if tag in page else DEFAULTS.get(tag, ()) for tag in TAGS} for page in pages]
    if any(found != facts[0] for found in facts):
        raise FormatError(f"{PART}, and planes of {name} differ in size, type or orientation; save them as separate "
                          "images")  # fmt: skip
    return facts[0]


def _read(path: Path) -> ome.Files | None:
    """What the description of a file names, of which its first directory alone is read; None where there is none."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return None
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _files(data)
    except (OSError, ValueError):  # an empty file has no memory map
        return None


def _files(data: Any) -> ome.Files | None:
    """Of bytes or a memory map; None for what is no TIFF file with a description that can be read."""
    try:
        kind, offset = ifd.header(data)
        return files_of(description_of(ifd.read(data, kind, offset)[0]))
    except (ValueError, struct.error, FormatError):
        return None
