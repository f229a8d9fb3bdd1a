"""NPY, without pickle: numbers and nothing else."""

from __future__ import annotations

import io

import numpy as np

from .pixels import FormatError, Pixels, join_samples, split_samples
from .sizes import require_plausible_npy


def decode(data: bytes) -> Pixels:
    """Pixels of an NPY file: (H, W), (B, H, W), (B, 1, H, W), with colour or colour and alpha
    as a last axis of 3 or 4.
    """
    require_plausible_npy(io.BytesIO(data), len(data))
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise FormatError("is an archive of arrays; save one array as .npy")
    if array.ndim < 2 or array.ndim > 4:
        raise FormatError(f"holds an array of shape {array.shape}; expected (H, W), (B, H, W) or colour (H, W, 3)")
    if array.ndim > 2 and array.shape[-1] in (3, 4):
        return split_samples(array)
    if array.ndim == 4 and array.shape[1] != 1:
        raise FormatError(f"holds an array of shape {array.shape}; a 4-d array must be (B, 1, H, W) or (B, H, W, 3)")
    return Pixels(array)


def encode(pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of an NPY file, and names of what it cannot hold."""
    stream = io.BytesIO()
    np.save(stream, join_samples(pixels), allow_pickle=False)
    lost = pixels.tags.losses(())
    if pixels.white is not None:
        lost = (*lost, f"depth of {int(pixels.white).bit_length()} bits (white is {pixels.white:g})")
    return stream.getvalue(), lost
