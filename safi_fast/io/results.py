"""Reconstructions into files, whole or not at all.

| suffix | holds |
| --- | --- |
| .npy | the numbers: float32 or complex64, (H, W) or (slices, H, W) |
| .cfl | the same for BART: rows, columns in dimensions 0 and 1, slices in 13 |
| .png, .tif | 16-bit magnitude: negative real values become 0, `white` 65535; .png one slice, .tif also a stack |
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_atomically
from ..errors import ImageFileError, InputError
from .bart import SLICES, write_cfl
from .images import ImageFile, write_image

KINDS = (".npy", ".cfl", ".png", ".tif", ".tiff")
WHITE = 65535


def check_result_name(path: Path, slices: int) -> None:
    """Raise ImageFileError where a reconstruction of that many slices cannot be stored under this name."""
    suffix = path.suffix.lower()
    if suffix not in KINDS:
        raise ImageFileError(f"{path}: unsupported extension {path.suffix!r}; use one of {', '.join(KINDS)}")
    if suffix == ".png" and slices > 1:
        raise ImageFileError(f"{path}: {slices} slices do not fit into one PNG file; use .tif, .npy or a folder")


def write_result(path: str | Path, array: NDArray[Any], white: float | None = None) -> float | None:
    """Write (H, W) or (slices, H, W); white: the magnitude of 65535, by default the largest one.

    Returns the white that was used.

    Raises InputError, ImageFileError.
    """
    path = Path(path)
    if array.ndim not in (2, 3):
        raise InputError(f"array has shape {array.shape}; expected (H, W) or (slices, H, W)")
    check_result_name(path, len(array) if array.ndim == 3 else 1)
    if not np.isfinite(array).all():
        raise InputError("array holds NaN or infinity, which no result should hold")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        write_atomically(path, stream.getvalue())
        return None
    if suffix == ".cfl":
        if array.ndim == 3:
            array = array.transpose(1, 2, 0).reshape(*array.shape[1:], *[1] * (SLICES - 2), len(array))
        write_cfl(path, array)
        return None
    magnitude = np.abs(array) if np.iscomplexobj(array) else np.maximum(array, 0)
    white = float(magnitude.max()) or 1.0 if white is None else white
    levels = np.rint(np.minimum(magnitude.astype(np.float64) / white, 1) * WHITE).astype(np.uint16)
    if suffix == ".png" and levels.ndim == 3:
        levels = levels[0]
    write_image(path, levels, ImageFile(levels, float(WHITE), None, "npy"))
    return white
