"""NIfTI-1 and NIfTI-2 volumes: slices along the third axis, and back with the header byte for byte.

nibabel reads the header. Voxels are taken and put by its offset, so that a result differs from its input in voxels
alone, and in the data type where floats become float32.
"""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .packages import require
from .pixels import Array, FormatError, Pixels
from .sizes import DEFLATE, SMALL, require_plausible
from .tags import Origin, Tags

GZIP_MAGIC = b"\x1f\x8b"
LEVEL = 6  # of zlib: larger ones take several times as long for a few percent


@dataclass(frozen=True, eq=False)
class Nifti(Origin):
    """All of a file but its voxels. shape: as NIfTI has it, (x, y, z, ...). value = slope * stored + intercept."""

    name: ClassVar[str] = "NIfTI header"
    header: Any  # nibabel.Nifti1Header or its twin of version 2
    before: bytes
    after: bytes
    slope: float
    intercept: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the voxels."""
        return tuple(int(side) for side in self.header.get_data_shape())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels as they are stored."""
        dtype: np.dtype[Any] = self.header.get_data_dtype()
        return dtype

    @property
    def is_rescaled(self) -> bool:
        """Whether values are others than those that are stored."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def decode(data: bytes) -> Pixels:
    """(slices, y, x) of a file, compressed or not: third and further axes are slices, the third fastest."""
    data = _expanded(data)
    header = _header(data)
    dtype, shape, start = np.dtype(header.get_data_dtype()), header.get_data_shape(), int(header["vox_offset"])
    if dtype.kind not in "iuf":
        raise FormatError(
            f"holds voxels of type {header.get_value_label('datatype')}; expected integers or real floats"
        )
    if len(shape) < 2 or min(shape, default=0) < 1:
        raise FormatError(f"has the shape {tuple(shape)}; expected (x, y), (x, y, z) or more")
    require_plausible(shape, dtype.itemsize, len(data), 1)
    stop = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if start < header.sizeof_hdr or stop > len(data):
        raise FormatError(f"is truncated: it has {len(data)} bytes, and voxels from {start} to {stop}")
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if not (np.isfinite([slope, intercept]).all() and slope):
        slope, intercept = 1.0, 0.0  # the standard: then values are not scaled
    origin = Nifti(header, data[:start], data[stop:], slope, intercept)
    stored = np.frombuffer(data[start:stop], dtype).reshape(*shape[:1:-1], shape[1], shape[0])
    values = (stored * slope + intercept).astype(np.float32) if origin.is_rescaled else stored
    return Pixels(values.reshape(-1, *values.shape[-2:]) if len(shape) > 2 else values, tags=Tags(origin=origin))


def encode(pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of a file with those values, float64, and what is lost. Raises FormatError for what was not read from one,
    and for another size.
    """
    origin = pixels.tags.origin
    if not isinstance(origin, Nifti):
        raise FormatError("NIfTI needs an affine; only a result of a NIfTI file can be one")
    width, height = origin.shape[:2]
    if pixels.array.shape[-2:] != (height, width) or pixels.array.size != np.prod(origin.shape, dtype=np.int64):
        raise FormatError(f"a result of shape {pixels.array.shape} is not stored as NIfTI, whose affine is of "
                          f"{' x '.join(map(str, origin.shape))} voxels")  # fmt: skip
    stored, lost = _stored(origin, pixels.array)
    return _head(origin, stored.dtype) + stored.tobytes() + origin.after, lost


def encode_compressed(pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """The same by gzip, without a name or time, so that equal results are equal files."""
    data, lost = encode(pixels)
    return gzip.compress(data, LEVEL, mtime=0), lost


def _stored(origin: Nifti, values: Array) -> tuple[Array, tuple[str, ...]]:
    """In the type of the file: integers rounded and clipped, floats as float32."""
    if origin.is_rescaled:
        values = (values - origin.intercept) / origin.slope
    if origin.dtype.kind == "f":
        return values.astype(np.dtype(np.float32).newbyteorder(origin.dtype.byteorder)), ()
    limits, rounded = np.iinfo(origin.dtype), np.rint(values)
    lost: tuple[str, ...] = ()
    if rounded.min() < limits.min or rounded.max() > limits.max:
        ends = sorted(origin.slope * end + origin.intercept for end in (limits.min, limits.max))
        lost = (f"values beyond {ends[0]:g} to {ends[1]:g}, which {origin.dtype.name} holds (clipped)",)
    inside = np.clip(rounded, limits.min, limits.max)
    if origin.dtype.itemsize == 8:  # whose ends are no float64
        inside = np.clip(inside, np.nextafter(float(limits.min), 0.0), np.nextafter(float(limits.max), 0.0))
    return inside.astype(origin.dtype), lost


def _head(origin: Nifti, dtype: np.dtype[Any]) -> bytes:
    """What lies before the voxels, of which the type of the voxels may be another one."""
    if dtype == origin.dtype:
        return origin.before
    header = origin.header.copy()
    header.set_data_dtype(dtype)
    block = bytes(header.binaryblock)
    return block + origin.before[len(block) :]


def _expanded(data: bytes) -> bytes:
    """Of a .nii.gz file. Raises FormatError where it grows by more than gzip can."""
    if not data.startswith(GZIP_MAGIC):
        return data
    most = max(SMALL, DEFLATE * len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        try:
            found = stream.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise FormatError(f"is a damaged gzip file ({error})") from error
    return found


def _header(data: bytes) -> Any:
    """Of version 1 or 2, in either byte order. Raises FormatError."""
    nibabel = require("nibabel", "NIfTI")
    for kind, magic in ((nibabel.Nifti1Header, data[344:348]), (nibabel.Nifti2Header, data[4:8])):
        if magic in (b"ni1\0", b"ni2\0"):
            raise FormatError("has its voxels in another file (.hdr with .img); save it as one .nii")
        if magic in (b"n+1\0", b"n+2\0") and len(data) >= kind.sizeof_hdr:
            return kind(data[: kind.sizeof_hdr], check=False)
    raise FormatError("is no NIfTI file; expected version 1 or 2")
