"""`--sigma-map`: noise that varies over the image, as a file of its standard deviation at every pixel."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from . import session as sessions
from .arguments import UsageError

if TYPE_CHECKING:
    from ..io import ImageFile
    from ..types import FloatArray
    from .denoise import Options


def read_map(path: Path) -> "FloatArray":
    """(H, W) or (B, H, W) on the 8-bit scale: the values of the file as they are. Raises ImageFileError, UsageError."""
    from ..io import read_image

    file = read_image(path)
    if file.channel_axis is not None:
        raise UsageError(f"--sigma-map {path} has colours; expected one value a pixel")
    levels = file.array.astype(np.float32)
    if not (np.isfinite(levels).all() and (levels > 0).all()):
        raise UsageError(f"--sigma-map {path} has values that are zero, negative or not finite; expected positive ones")
    return levels.reshape(-1, *levels.shape[-2:]) if levels.ndim == 4 else levels


def check_map(levels: "FloatArray", session: sessions.Session, options: "Options") -> None:
    """Refuse noise levels that the model is not for. Raises InputError."""
    for level in (float(levels.min()), float(levels.max())):
        session.check_level("--sigma-map", level, strength_given=options.strength is not None)


def fitting_map(levels: "FloatArray", file: "ImageFile", options: "Options") -> None:
    """Refuse a map of another shape than the image or stack. Raises InputError."""
    shape = file.array.shape if file.channel_axis is None else file.array.shape[:-1]
    shape = (shape[0], *shape[-2:]) if len(shape) > 2 else shape
    if levels.shape not in (shape, shape[-2:]):
        raise InputError(
            f"--sigma-map {options.sigma_map} has shape {levels.shape}; expected that of the image, {shape[-2:]}"
            + (f" or {shape}" if len(shape) > 2 else "")
        )
