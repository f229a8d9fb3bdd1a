"""The file formats: bytes to pixels and tags, and back. Nothing here touches the disk.

docs/formats.md says what each format holds, and what becomes of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from . import dicom, jpeg, nifti, npy, png, tiff, tiff_writing
from .pixels import FormatError, Pixels, decoding, normalised

__all__ = [
    "KINDS",
    "FormatError",
    "Pixels",
    "declared_white",
    "decode",
    "encode",
    "is_known",
    "storage_dtype",
    "suffix_of",
]

KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff", ".npy": "npy"}
KINDS |= {".dcm": "dicom", ".nii": "nifti", ".nii.gz": "nifti.gz"}
COMPRESSED_VOLUME = ".nii.gz"  # the one extension with two dots
OF_THEIR_KIND = ("dicom", "nifti", "nifti.gz")  # which store values themselves, by what the input says

_DECODERS = {"png": png.decode, "jpeg": jpeg.decode, "tiff": tiff.decode, "npy": npy.decode}
_DECODERS |= {"dicom": dicom.decode, "nifti": nifti.decode, "nifti.gz": nifti.decode}
_ENCODERS = {"png": png.encode, "jpeg": jpeg.encode, "tiff": tiff_writing.encode, "npy": npy.encode}
_ENCODERS |= {"dicom": dicom.encode, "nifti": nifti.encode, "nifti.gz": nifti.encode_compressed}


def suffix_of(path: Path) -> str:
    """The extension that says the format, in lower case."""
    name = path.name.lower()
    return COMPRESSED_VOLUME if name.endswith(COMPRESSED_VOLUME) else path.suffix.lower()


def is_known(path: Path) -> bool:
    """Whether the extension is one of `KINDS`."""
    return suffix_of(path) in KINDS


def decode(kind: str, data: bytes) -> Pixels:
    """Pixels of a file's bytes, upright. Raises FormatError, whatever the decoder itself raises on damaged input."""
    with decoding(kind.partition(".")[0]):
        return normalised(_DECODERS[kind](data))


def encode(kind: str, pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of a file holding `pixels`, whose dtype the format must be able to store (see `storage_dtype`), and names
    of what is lost.
    """
    return _ENCODERS[kind](pixels)


def storage_dtype(kind: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which a format stores pixels that were read as `dtype`, or in which its encoder takes them."""
    if kind in OF_THEIR_KIND:
        return np.dtype(np.float64)
    if kind == "jpeg":
        return np.dtype(np.uint8)
    if kind == "png":
        return dtype if dtype in (np.uint8, np.uint16) else np.dtype(np.uint16)
    return dtype if np.issubdtype(dtype, np.integer) else np.dtype(np.float32)


def declared_white(kind: str, source: str, white: float | None, style: str) -> float | None:
    """White of the result where it is not the largest value of its dtype: as the input declared it, where the format
    can.

    kind, source: formats of result and input. style: of its axes, see `Layout`. NPY keeps the numbers but declares
    nothing. Samples of less than 8 bits become 8 bits: a result has more levels than they hold.
    """
    if white is None or kind == "jpeg" or (kind == "png" and source != "png"):
        return None
    if kind == "tiff" and style not in ("ome", "imagej"):
        return white if white > np.iinfo(np.uint8).max else None
    return white
