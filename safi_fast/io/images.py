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
from ..values import DataRange, known_range, stated_range
from .formats import KINDS, FormatError, Pixels, declared_white, decode, encode, storage_dtype
from .tags import NO_TAGS, Tags


@dataclass(frozen=True, eq=False)
class ImageFile:
    """The pixels of a file and what is needed to write a result of the same kind.

    `array` is (H, W), (B, H, W) or (B, 1, H, W), with a last axis of red, green, blue where `channel_axis` is -1;
    floats are float32. `white` is the value of white that the file itself declares, as 4095 for 12 bits per sample.
    `data_range`, white or (black, white), is that, else follows from the dtype (255, 65535, 1.0 for floats) and is None
    for other integers, whose range nobody but the user knows. `alpha` is not part of the image: it is written back
    unchanged. `tags` holds what else the file says: profile, resolution, axes and the like.
    """

    array: NDArray[Any]
    data_range: DataRange | None
    channel_axis: int | None
    kind: str
    alpha: NDArray[Any] | None = None
    white: float | None = None
    tags: Tags = NO_TAGS

    def resized(self, shape: tuple[int, ...], alpha: NDArray[Any] | None) -> "ImageFile":
        """What a result of that shape over the same area is like: tags that count pixels count the new ones."""
        places = (-3, -2) if self.channel_axis is not None else (-2, -1)
        y, x = (Fraction(shape[place], self.array.shape[place]) for place in places)
        return replace(self, array=np.empty(shape, self.array.dtype), alpha=alpha, tags=self.tags.resized(y, x))


def read_image(path: str | Path) -> ImageFile:
    """Read a PNG, JPEG, TIFF or NPY file, turned upright; docs/formats.md says what each may hold.

    Raises ImageFileError.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({reason(error)})") from error
    if not data:
        raise ImageFileError(f"{path}: the file is empty (0 bytes)")
    try:
        pixels = decode(kind, data)
    except FormatError as error:
        raise ImageFileError(f"{path}: {error}") from error
    channel_axis = -1 if pixels.colour else None
    known = known_range(pixels.array.dtype, pixels.white)
    data_range = known and known.argument
    return ImageFile(pixels.array, data_range, channel_axis, kind, pixels.alpha, pixels.white, pixels.tags)


def write_image(path: str | Path, array: NDArray[Any], like: ImageFile) -> tuple[str, ...]:
    """Write `array`, a result computed from `like`, as `like` was stored: same shape, range, depth, alpha and tags.

    The extension of `path` picks the format. Integers are rounded and clipped to their type; floats are stored as
    float32 (TIFF, NPY). Where the format cannot hold the dtype, `data_range` is spread over the one it has: floats
    become 16-bit PNG, and everything becomes 8-bit JPEG, which is lossy (quality 95). So does the white that `like`
    declares where the format cannot declare it. The file appears whole or not at all; its folder must exist.

    Returns names of what the input says and this file does not hold, such as "ICC profile". Raises InputError,
    ImageFileError.
    """
    path = Path(path)
    kind = _kind(path)
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
        data, lost = encode(kind, Pixels(stored, like.channel_axis is not None, alpha, white, like.tags))
    except FormatError as error:
        raise ImageFileError(f"{path}: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:  # what encoders raise for sizes that their format cannot hold
        raise ImageFileError(f"{path}: {array.shape} pixels cannot be stored as {kind.upper()} ({error})") from error
    write_atomically(path, data)
    return lost


def list_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The files of `inputs` in their order, each folder replaced by its images, sorted, without its sub-folders.

    A file that is named is kept even if it cannot be read: reading it says why.
    """
    found: dict[Path, None] = {}
    for path in map(Path, inputs):
        if is_folder(path):
            found.update(dict.fromkeys(_images_of(path)))
        else:
            found[path] = None
    return list(found)


def is_image_name(path: Path) -> bool:
    """Whether the extension is one that `read_image` and `write_image` know."""
    return path.suffix.lower() in KINDS


def _images_of(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ImageFileError(f"{folder}: cannot be listed ({reason(error)})") from error
    images = [path for path in entries if is_image_name(path) and not path.name.startswith(".") and path.is_file()]
    if not images:
        raise ImageFileError(f"{folder}: the folder holds no images ({', '.join(KINDS)})")
    return images


def _kind(path: Path) -> str:
    if not is_image_name(path):
        if not path.suffix and not os.path.lexists(path):
            raise ImageFileError(f"{path}: there is no such file or folder")
        raise ImageFileError(f"{path}: unsupported extension {path.suffix!r}; use one of {', '.join(KINDS)}")
    return KINDS[path.suffix.lower()]


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
