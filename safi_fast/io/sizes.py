"""Sizes that a file declares, held against the bytes that it has, before memory is taken for them.

A damaged or malicious header can declare 10^9 pixels in a file of a kilobyte. What no compression of that kind can
reach is refused.
"""

import io
import math
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

SMALL = 64 * 2**20  # bytes that any file may declare: they cost nothing worth a check
STORED = 4  # times as many bytes as stored; chroma of a TIFF file may be stored at a quarter of the pixels
DEFLATE = 1032
LZW = 1400
JPEG = 2048  # a block of 8 x 8 pixels takes one bit or more
UNKNOWN = 2**15  # Zstandard: 128 KiB from four bytes


def require_plausible(shape: Sequence[int], itemsize: int, stored: int, ratio: int) -> None:
    """Raises ValueError where `stored` bytes, compressed `ratio` to one at most, cannot hold an array of this shape."""
    declared = math.prod(shape) * itemsize
    if declared > max(SMALL, ratio * stored):
        sizes = " x ".join(map(str, shape))
        raise ValueError(
            f"it declares {sizes} values, {declared / 2**20:.0f} MiB, which its {stored} bytes cannot hold"
        )


def require_plausible_png(data: bytes) -> None:
    """The same of the header of a PNG file. Raises ValueError."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    samples = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}.get(data[25] if len(data) > 25 else 0, 1)  # a palette is expanded
    require_plausible((height, width, samples), 2 if data[24:25] == b"\x10" else 1, len(data), 4 * DEFLATE)


def require_plausible_tiff(series: Any, page: Any, stored: int) -> None:
    """The same of a series of tifffile and its first page, whose tiles may be declared larger than the image.

    Raises ValueError.
    """
    ratio = {1: STORED, 5: LZW}.get(int(page.compression), UNKNOWN)  # not compressed, LZW
    for shape in (series.shape, page.chunks):
        require_plausible(shape, series.dtype.itemsize, stored, ratio)


def require_plausible_npy(stream: IO[bytes], stored: int, ratio: int = 1) -> None:
    """The same of an NPY file or member of an archive, of which only the header is read. Raises ValueError."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format version is {version[0]}.{version[1]}; numbers have version 1.0 or 2.0")
    length = stream.read(2 * version[0])
    require_plausible((int.from_bytes(length, "little"),), 1, stored, ratio)
    stream = io.BytesIO(length + stream.read(int.from_bytes(length, "little")))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    require_plausible(shape, dtype.itemsize, stored, ratio)


def require_plausible_dataset(dataset: Any) -> None:
    """The same of an HDF5 dataset, but for those whose values lie in other files. Raises ValueError."""
    if dataset.shape is None or dataset.is_virtual or dataset.external:
        return
    ratio = STORED if dataset.chunks is None else UNKNOWN
    require_plausible(dataset.shape, dataset.dtype.itemsize, dataset.id.get_storage_size(), ratio)
