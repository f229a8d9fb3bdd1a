"""What a decoder gives and an encoder takes: samples with their meaning, and the tags of the file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from .tags import NO_TAGS, Tags

Array = NDArray[Any]


class FormatError(Exception):
    """The contents cannot be read, or cannot be stored in this format; a sentence without the file's name."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels as stored: `colour` says that the last axis holds red, green, blue; alpha has no such axis.

    white: the value of white that the file itself declares, in the units of `array`: 4095 for 12 bits per sample. None
    where white is the largest value of the dtype, or 1 for floats. unknown: what values are whose range nobody but the
    user knows, although their dtype has one.
    """

    array: Array
    colour: bool = False
    alpha: Array | None = None
    white: float | None = None
    tags: Tags = NO_TAGS
    unknown: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.array.shape[-3:-1] if self.colour else self.array.shape[-2:]
        return height, width


def split_samples(array: Array) -> Pixels:
    """(..., S) with S = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha."""
    samples = array.shape[-1]
    if samples not in (1, 2, 3, 4):
        raise FormatError(f"has {samples} samples per pixel; grey or colour, with or without alpha, can be read")
    alpha = np.ascontiguousarray(array[..., -1]) if samples in (2, 4) else None
    if samples in (1, 2):
        return Pixels(np.ascontiguousarray(array[..., 0]), alpha=alpha)
    return Pixels(np.ascontiguousarray(array[..., :3]), colour=True, alpha=alpha)


def join_samples(pixels: Pixels) -> Array:
    """The inverse of `split_samples`; grey without alpha stays without a last axis."""
    if pixels.alpha is None:
        return pixels.array
    colours = pixels.array if pixels.colour else pixels.array[..., None]
    return np.concatenate([colours, pixels.alpha[..., None]], axis=-1)


def require_single(pixels: Pixels, name: str) -> None:
    """Raise FormatError for a stack, which a format of single images cannot hold."""
    if pixels.array.ndim - pixels.colour != 2:
        raise FormatError(f"a stack of images does not fit into a {name} file; use .tif or .npy")


def normalised(pixels: Pixels) -> Pixels:
    """In native byte order, floats as float32, booleans as 0 and 255; upright.

    Raises FormatError for what is no image of real numbers.
    """
    array = _numbers(pixels.array)
    alpha = None if pixels.alpha is None else _numbers(pixels.alpha)
    if array.size == 0:
        raise FormatError("holds no pixels")
    orientation = pixels.tags.orientation
    if orientation != 1:
        array = turned(array, orientation, array.ndim - 2 - pixels.colour)
        alpha = None if alpha is None else turned(alpha, orientation, alpha.ndim - 2)
    return replace(pixels, array=array, alpha=alpha, tags=pixels.tags.upright())


def turned(array: Array, orientation: int, rows: int) -> Array:
    """Upright, by an orientation of TIFF and EXIF, 1 to 8; `rows` is the axis of rows, columns follow it."""
    columns = rows + 1
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, rows, columns)
    if orientation in (3, 4, 7, 8):
        array = np.flip(array, rows)
    if orientation in (2, 3, 6, 7):
        array = np.flip(array, columns)
    return np.ascontiguousarray(array)


def _numbers(array: Array) -> Array:
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    if np.issubdtype(array.dtype, np.integer):
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    raise FormatError(f"holds pixels of type {array.dtype}; integers and real floats can be read")


@contextmanager
def decoding(kind: str) -> Iterator[None]:
    """In which whatever a decoder raises on damaged input is a FormatError."""
    try:
        yield
    except (FormatError, BackendError):  # the second: without the package that reads it
        raise
    except Exception as error:  # decoders raise anything from struct.error to RuntimeError on damaged files
        detail = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(f"is truncated, damaged or not a {kind.upper()} file ({detail})") from error


@contextmanager
def silenced(logger: str) -> Iterator[None]:
    """Nothing on standard error from a library whose complaints become exceptions here."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    logging.getLogger(logger).addFilter(refuse)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(refuse)
