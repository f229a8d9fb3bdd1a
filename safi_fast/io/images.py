"""Image files in and out, with the dtype, range and layout of the input kept for the output."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import is_folder, reason, write_atomically
from ..errors import ImageFileError, InputError
from ..values import WAYS_ON, DataRange, Range, known_range, range_of, stated_range
from .dicom import Dicom, lies_in
from .dicom_series import dicom_files, read_series, write_series
from .formats import (
    KINDS,
    FormatError,
    Pixels,
    declared_white,
    decode,
    encode,
    is_known,
    storage_dtype,
    suffix_of,
)
from .ome_set import one_of_each, others_of, read_set
from .pixels import normalised
from .tags import NO_TAGS, Tags

IN_ITS_FOLDER = "lies in the folder of the DICOM input, which would then hold two series; choose another folder"


@dataclass(frozen=True, eq=False)
class ImageFile:
    """The pixels of a file and what is needed to write a result of the same kind.

    `array` is (H, W), (B, H, W) or (B, 1, H, W), with a last axis of red, green, blue where `channel_axis` is -1;
    floats are float32. `white` is the value of white that the file itself declares, as 4095 for 12 bits per sample.
    `data_range`, white or (black, white), is that, else follows from the dtype (255, 65535, 1.0 for floats) and is None
    for other integers, whose range nobody but the user knows, and where `unknown` says so. `alpha` is not part of the
    image: it is written back unchanged. `tags` holds what else the file says: profile, resolution, axes and the like.
    """

    array: NDArray[Any]
    data_range: DataRange | None
    channel_axis: int | None
    kind: str
    alpha: NDArray[Any] | None = None
    white: float | None = None
    tags: Tags = NO_TAGS
    unknown: str = ""

    def meaning(self, data_range: DataRange | None = None, name: str = "image") -> Range:
        """Black and white: as the caller says, else as the file does, else by dtype.

        Raises InputError where they are not known.
        """
        if data_range is None and self.unknown:
            raise InputError(f"{name} holds {self.unknown}: black and white are not known; {WAYS_ON}")
        return range_of(name, self.array, data_range, self.white)

    def result(self, data_range: DataRange, derivation: str = "") -> "ImageFile":
        """What a result of that range is like. derivation: how it was made, for formats that say so (DICOM)."""
        return replace(self, data_range=data_range, tags=replace(self.tags, derivation=derivation))

    def resized(self, shape: tuple[int, ...], alpha: NDArray[Any] | None) -> "ImageFile":
        """What a result of that shape over the same area is like: tags that count pixels count the new ones."""
        places = (-3, -2) if self.channel_axis is not None else (-2, -1)
        y, x = (Fraction(shape[place], self.array.shape[place]) for place in places)
        return replace(self, array=np.empty(shape, self.array.dtype), alpha=alpha, tags=self.tags.resized(y, x))


def read_image(path: str | Path) -> ImageFile:
    """Read a PNG, JPEG, TIFF, NPY, NIfTI or DICOM file, turned upright, or a folder that is a DICOM series, (slices, H,
    W); docs/formats.md says what each may hold. A file of an OME-TIFF that lies in several is read with the others.

    Raises ImageFileError, and BackendError without the package that a format needs.
    """
    path = Path(path)
    series = is_series(path)
    kind = "dicom" if series else _kind(path)
    try:
        pixels = read_series(path) if series else _decoded(path, kind)
    except FormatError as error:
        raise ImageFileError(f"{path}: {error}") from error
    origin = pixels.tags.origin
    if isinstance(origin, Dicom):
        pixels = replace(pixels, tags=replace(pixels.tags, origin=replace(origin, source=path)))
    channel_axis = -1 if pixels.colour else None
    known = None if pixels.unknown else known_range(pixels.array.dtype, pixels.white)
    data_range = known and known.argument
    return ImageFile(
        pixels.array, data_range, channel_axis, kind, pixels.alpha, pixels.white, pixels.tags, pixels.unknown
    )


def _decoded(path: Path, kind: str) -> Pixels:
    """Of a file, or of the files of an OME-TIFF that it is one of."""
    data = _bytes(path)
    found = read_set(path, data) if kind == "tiff" else None
    return decode(kind, data) if found is None else normalised(found)


def _bytes(path: Path) -> bytes:
    """Raises ImageFileError, also for a file without any."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({reason(error)})") from error
    if not data:
        raise ImageFileError(f"{path}: the file is empty (0 bytes)")
    return data


def write_image(path: str | Path, array: NDArray[Any], like: ImageFile) -> tuple[str, ...]:
    """Write `array`, a result computed from `like`, as `like` was stored: same shape, range, depth, alpha and tags.

    The extension of `path` picks the format. Integers are rounded and clipped to their type; floats are stored as
    float32 (TIFF, NPY). Where the format cannot hold the dtype, `data_range` is spread over the one it has: floats
    become 16-bit PNG, and everything becomes 8-bit JPEG, which is lossy (quality 95). So does the white that `like`
    declares where the format cannot declare it. The file appears whole or not at all; its folder must exist.

    A series of DICOM goes into a folder, which `path` without an extension names, and which appears as a whole; one
    that exists may hold the same files and no others. Nothing is written into the folder that DICOM was read from.

    Returns names of what the input says and this file does not hold, such as "ICC profile". Raises InputError,
    ImageFileError.
    """
    path, origin = Path(path), like.tags.origin
    series = isinstance(origin, Dicom) and origin.is_series and not is_known(path)
    kind = "dicom" if series else _kind(path)
    if isinstance(origin, Dicom) and origin.source and lies_in(path, origin.source):
        raise ImageFileError(f"{path}: {IN_ITS_FOLDER}")
    array = np.asarray(array)
    if array.shape != like.array.shape:
        raise InputError(f"array has shape {array.shape}, but the image it comes from has {like.array.shape}")
    if not np.isfinite(array).all():
        raise InputError("array holds NaN or infinity, which no image file should hold")
    white = declared_white(kind, like.kind, like.white, like.tags.layout.style)
    try:
        alpha = like.alpha
        if (
            alpha is not None
        ):  # where the file itself says its range, that is alpha's, whatever the caller says of the image
            known = known_range(like.array.dtype, like.white)
            if known and like.array.dtype.kind == "f" and alpha.max() > known.high:  # floats as wide as the image's
                known = None
            alpha = _store(alpha, kind, like, known.argument if known else like.data_range, white)
        stored = _store(array, kind, like, like.data_range, white)
        pixels = Pixels(stored, like.channel_axis is not None, alpha, white, like.tags)
        if series:
            return write_series(path, pixels)
        data, lost = encode(kind, pixels)
    except ImageFileError:
        raise
    except FormatError as error:
        raise ImageFileError(f"{path}: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:  # what encoders raise for sizes that their format cannot hold
        raise ImageFileError(f"{path}: {array.shape} pixels cannot be stored as {kind.upper()} ({error})") from error
    write_atomically(path, data)
    return lost


def list_images(inputs: Iterable[str | Path], *, series: bool = False) -> list[Path]:
    """The files of `inputs` in their order, each folder replaced by its images, sorted, without its sub-folders.

    A file that is named is kept even if it cannot be read: reading it says why. Of the files of one OME-TIFF the first
    is kept. series: a folder of DICOM files stays a folder, which `read_image` takes as one. Raises ImageFileError.
    """
    found: dict[Path, None] = {}
    for path in map(Path, inputs):
        if series and is_series(path):
            found[path] = None
        elif is_folder(path):
            found.update(dict.fromkeys(_images_of(path)))
        else:
            found[path] = None
    return one_of_each(list(found))


def all_files(paths: Iterable[Path]) -> list[Path]:
    """Those, and the other files that they are read with."""
    return [file for path in paths for file in (path, *others_of(path))]


def is_image_name(path: Path) -> bool:
    """Whether the extension is one that `read_image` and `write_image` know."""
    return is_known(path)


def is_series(path: Path) -> bool:
    """Whether it is a folder of DICOM files. Raises ImageFileError where it holds other images as well."""
    files = dicom_files(path) if is_folder(path) else []
    others = [other for other in _images_in(path) if other not in files] if files else []
    if others:
        raise ImageFileError(f"{path}: holds DICOM files and other images ({others[0].name}); move them apart, or name "
                             "the files")  # fmt: skip
    return bool(files)


def _images_in(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ImageFileError(f"{folder}: cannot be listed ({reason(error)})") from error
    return [path for path in entries if is_image_name(path) and not path.name.startswith(".") and path.is_file()]


def _images_of(folder: Path) -> list[Path]:
    images = _images_in(folder)
    if not images:
        raise ImageFileError(f"{folder}: the folder holds no images ({', '.join(KINDS)})")
    return images


def _kind(path: Path) -> str:
    if not is_image_name(path):
        if not path.suffix and not os.path.lexists(path):
            raise ImageFileError(f"{path}: there is no such file or folder")
        raise ImageFileError(f"{path}: unsupported extension {path.suffix!r}; use one of {', '.join(KINDS)}")
    return KINDS[suffix_of(path)]


def _store(
    values: NDArray[Any], kind: str, like: ImageFile, data_range: DataRange | None, white: float | None
) -> NDArray[Any]:
    """`values` in the dtype of the format, rescaled only where dtype or white are not those of the input.

    white: the one that the output will declare, None: the largest value of its dtype.
    """
    source = like.array.dtype
    dtype = storage_dtype(kind, source)
    if dtype == values.dtype == source and white == like.white:
        return values
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    scaled = values.astype(np.float64)
    if dtype != source:
        if data_range is None:
            raise FormatError(f"{source} pixels do not fit into {kind.upper()} without a data range")
        scaled = stated_range(data_range).to_unit(scaled) * limits.max
    elif white is None and like.white is not None:
        scaled *= limits.max / like.white
    return np.clip(np.rint(scaled), limits.min, white or limits.max).astype(dtype)
