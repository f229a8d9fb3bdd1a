"""BART's .cfl/.hdr pairs: the sizes of up to 16 dimensions as text, and complex64 numbers, the first dimension fastest.

Dimensions that are used here: 0 to 2 space or k-space, 3 coils, 4 sets of maps, 13 slices.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import reason, write_atomically
from ..errors import ImageFileError, InputError
from .text import read_text

SPACE, COILS, SLICES, DIMENSIONS = (0, 1, 2), 3, 13, 16
NUMBER = np.dtype("<c8")


def pair(path: str | Path) -> tuple[Path, Path]:
    """The .cfl and the .hdr file that one of them, or their common name, stands for."""
    path = Path(path)
    stem = path.name.removesuffix(".cfl").removesuffix(".hdr")
    return path.with_name(f"{stem}.cfl"), path.with_name(f"{stem}.hdr")


def read_cfl(path: str | Path) -> NDArray[np.complex64]:
    """The array as BART indexes it, (d0, d1, ...) without the ones at the end, mapped from the file and read-only.

    Raises ImageFileError.
    """
    data, header = pair(path)
    sizes = _sizes(header)
    try:
        have = data.stat().st_size
    except OSError as error:
        raise ImageFileError(f"{data}: cannot be read ({reason(error)}); it belongs to {header.name}") from error
    expected = math.prod(sizes) * NUMBER.itemsize
    if have != expected:
        raise ImageFileError(
            f"{data}: has {have} bytes, but {header.name} says {' x '.join(map(str, sizes))} complex numbers, "
            f"{expected} bytes"
        )
    return np.memmap(data, NUMBER, "r", shape=sizes, order="F")


def write_cfl(path: str | Path, array: NDArray[Any]) -> None:
    """Write an array as BART indexes it, at most 16 dimensions; the header first, so that data never lie without one.

    Raises InputError, ImageFileError.
    """
    data, header = pair(path)
    if array.ndim > DIMENSIONS or array.size == 0:
        raise InputError(f"array has shape {array.shape}; expected 1 to {DIMENSIONS} dimensions, none of them empty")
    sizes = (*array.shape, *[1] * (DIMENSIONS - array.ndim))
    write_atomically(header, f"# Dimensions\n{' '.join(map(str, sizes))}\n".encode())
    write_atomically(data, array.astype(NUMBER).tobytes(order="F"))


def coil_images(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """(slices, coils, H, W) of an array in BART's dimensions: H and W are those two of dimensions 0, 1, 2 that are not
    1, in this order.

    Raises ImageFileError where three of them, or other dimensions, are not 1.
    """
    sizes = (*array.shape, *[1] * (DIMENSIONS - array.ndim))
    plane = [axis for axis in SPACE if sizes[axis] > 1]
    others = [axis for axis in range(DIMENSIONS) if sizes[axis] > 1 and axis not in (*SPACE, COILS, SLICES)]
    shown = " x ".join(map(str, array.shape))
    if len(plane) != 2:
        raise ImageFileError(
            f"{path}: dimensions {shown}: {len(plane)} of the first three are larger than 1; expected two, rows "
            "and columns "
            "(of 3-D k-space transform one axis, with bart fft -i, and take slices)"
        )
    if others:
        raise ImageFileError(
            f"{path}: dimensions {shown}: dimension {others[0]} is {sizes[others[0]]}; expected 1 "
            "(only rows, columns, coils in dimension 3 and slices in dimension 13 can be larger)"
        )
    full = array.reshape(sizes, order="F")
    keep = (SLICES, COILS, *plane)
    rest = [axis for axis in range(DIMENSIONS) if axis not in keep]
    return full.transpose(*keep, *rest).reshape([sizes[axis] for axis in keep])


def _sizes(header: Path) -> tuple[int, ...]:
    lines = read_text(header).splitlines()
    try:
        place = next(number for number, line in enumerate(lines) if line.strip().lower() == "# dimensions")
        sizes = [int(word) for word in lines[place + 1].split()]
    except (StopIteration, IndexError, ValueError):
        sizes = []
    if not 1 <= len(sizes) <= DIMENSIONS or min(sizes) < 1:
        raise ImageFileError(
            f"{header}: is no BART header; expected the line '# Dimensions' and below it 1 to {DIMENSIONS} "
            "positive numbers"
        )
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)
