"""The file formats: bytes to pixels and back. Nothing here touches the disk.

| kind | read | written |
| --- | --- | --- |
| png | 1 to 16 bit, grey or colour, palette expanded, alpha kept aside | 8 or 16 bit; float as 16 bit |
| jpeg | 8 bit, grey or colour, turned upright by its EXIF orientation | 8 bit, quality 95, 4:4:4: lossy |
| tiff | one page or a stack, integer or float, palette expanded, alpha kept aside | the same, uncompressed |
| npy | (H, W), stacks (B, H, W) and (B, 1, H, W), colour (..., 3), colour with alpha (..., 4) | the same |

Pixels only: colour profiles, resolution and other metadata are not carried over.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import plausible

KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff", ".npy": "npy"}
JPEG_QUALITY = 95

Array = NDArray[Any]


class FormatError(Exception):
    """The contents cannot be read, or cannot be stored in this format; a sentence without the file's name."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels as stored: `colour` says that the last axis holds red, green, blue; alpha has no such axis."""

    array: Array
    colour: bool = False
    alpha: Array | None = None


def decode(kind: str, data: bytes) -> Pixels:
    """Pixels of a file's bytes. Raises FormatError, whatever the decoder itself raises on damaged input."""
    try:
        raw = _DECODERS[kind](data)
    except FormatError:
        raise
    except Exception as error:  # decoders raise anything from struct.error to RuntimeError on damaged files
        detail = str(error).strip() or type(error).__name__
        raise FormatError(f"is truncated, damaged or not a {kind.upper()} file ({detail})") from error
    if raw.array.size == 0:
        raise FormatError("holds no pixels")
    return Pixels(_normalise(raw.array), raw.colour, None if raw.alpha is None else _normalise(raw.alpha))


def encode(kind: str, pixels: Pixels) -> bytes:
    """Bytes of a file holding `pixels`, whose dtype the format must be able to store (see `storage_dtype`)."""
    return _ENCODERS[kind](pixels)


def storage_dtype(kind: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which a format stores pixels that were read as `dtype`."""
    if kind == "jpeg":
        return np.dtype(np.uint8)
    if kind == "png":
        return dtype if dtype in (np.uint8, np.uint16) else np.dtype(np.uint16)
    return dtype if np.issubdtype(dtype, np.integer) else np.dtype(np.float32)


def _normalise(array: Array) -> Array:
    """Native byte order; floats to float32, booleans to 0 and 255, complex and other kinds refused."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    if np.issubdtype(array.dtype, np.integer):
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    raise FormatError(f"holds pixels of type {array.dtype}; integers and real floats can be read")


def _split_samples(array: Array) -> Pixels:
    """(..., S) with S = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha."""
    samples = array.shape[-1]
    if samples not in (1, 2, 3, 4):
        raise FormatError(f"has {samples} samples per pixel; grey or colour, with or without alpha, can be read")
    alpha = np.ascontiguousarray(array[..., -1]) if samples in (2, 4) else None
    if samples in (1, 2):
        return Pixels(np.ascontiguousarray(array[..., 0]), alpha=alpha)
    return Pixels(np.ascontiguousarray(array[..., :3]), colour=True, alpha=alpha)


def _join_samples(pixels: Pixels) -> Array:
    if pixels.alpha is None:
        return pixels.array
    colours = pixels.array if pixels.colour else pixels.array[..., None]
    return np.concatenate([colours, pixels.alpha[..., None]], axis=-1)


def _require_single(pixels: Pixels, name: str) -> None:
    if pixels.array.ndim - pixels.colour != 2:
        raise FormatError(f"a stack of images does not fit into a {name} file; use .tif or .npy")


# PNG: imagecodecs, because Pillow reduces 16-bit colour to 8 bits.


def _decode_png(data: bytes) -> Pixels:
    import imagecodecs

    plausible.require_plausible_png(data)
    array = imagecodecs.png_decode(data)
    return Pixels(array) if array.ndim == 2 else _split_samples(array)


def _encode_png(pixels: Pixels) -> bytes:
    import imagecodecs

    _require_single(pixels, "PNG")
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(_join_samples(pixels))))


# JPEG: Pillow, because imagecodecs accepts truncated files.


def _decode_jpeg(data: bytes) -> Pixels:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if image.mode not in ("L", "RGB"):
            raise FormatError(f"is a {image.mode} JPEG; convert it to grey or RGB first")
        plausible.require_plausible((image.height, image.width, len(image.mode)), 1, len(data), plausible.JPEG)
        array = np.asarray(ImageOps.exif_transpose(image))
    return Pixels(array, colour=array.ndim == 3)


def _encode_jpeg(pixels: Pixels) -> bytes:
    from PIL import Image

    _require_single(pixels, "JPEG")
    if pixels.alpha is not None:
        raise FormatError("a JPEG file cannot hold the alpha channel; use .png or .tif")
    stream = io.BytesIO()
    Image.fromarray(pixels.array).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


# TIFF: tifffile (with imagecodecs for compressed pages).


def _decode_tiff(data: bytes) -> Pixels:
    import tifffile

    with _silenced("tifffile"), tifffile.TiffFile(io.BytesIO(data)) as file:
        _check_pages(file)
        if len(file.series) != 1:
            raise FormatError(
                f"its pages have {len(file.series)} different shapes or types; save them as separate files"
            )
        series, page = file.series[0], file.pages[0]
        plausible.require_plausible_tiff(series, page, len(data))
        array, axes = series.asarray(), series.axes
        photometric = page.photometric.name
        extra = [sample.name for sample in page.extrasamples]
        palette = page.colormap
        converted = page.compression == tifffile.COMPRESSION.JPEG  # a plain 1 where the file has no such tag
    if photometric == "PALETTE":
        return Pixels(_as_stack(np.moveaxis(palette, 0, -1)[array] >> 8, axes + "S").astype(np.uint8), colour=True)
    if photometric == "MINISWHITE" and array.dtype.kind in "bu":
        array = ~array
    elif not (photometric in ("MINISBLACK", "RGB") or (photometric == "YCBCR" and converted)):
        raise FormatError(f"is a {photometric} TIFF; convert it to grey or RGB first")
    if "S" not in axes:
        return Pixels(_as_stack(array, axes))
    if extra not in ([], ["UNASSALPHA"]):
        raise FormatError(f"has extra samples that are not plain alpha ({', '.join(extra).lower()})")
    where = axes.index("S")
    return _split_samples(_as_stack(np.moveaxis(array, where, -1), axes.replace("S", "") + "S"))


def _check_pages(file: Any) -> None:
    """Refuse a file whose chain of pages does not end: tifffile reads the pages before the break and goes on."""
    pages = len(file.pages)  # walks the chain
    file.filehandle.seek(file.pages.next_page_offset)
    link = file.filehandle.read(file.tiff.offsetsize)
    if len(link) < file.tiff.offsetsize or any(link):
        raise FormatError(f"is truncated or damaged after page {pages}")


@contextmanager
def _silenced(logger: str) -> Iterator[None]:
    """Nothing on standard error from a library whose complaints become exceptions here."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    logging.getLogger(logger).addFilter(refuse)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(refuse)


def _as_stack(array: Array, axes: str) -> Array:
    """All axes before YX (time, depth, channel, page) become one."""
    plane = 3 if axes.endswith("S") else 2
    if axes[len(axes) - plane :] not in ("YX", "YXS"):
        raise FormatError(f"its axes {axes} do not end in rows and columns")
    return array if array.ndim <= plane + 1 else array.reshape(-1, *array.shape[-plane:])


def _encode_tiff(pixels: Pixels) -> bytes:
    import tifffile

    array = _as_stack(_join_samples(pixels), "YX" + "S" * (pixels.colour or pixels.alpha is not None))
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        array,
        photometric="rgb" if pixels.colour else "minisblack",
        planarconfig="contig" if pixels.colour or pixels.alpha is not None else None,
        extrasamples=None if pixels.alpha is None else ["unassalpha"],
        bigtiff=array.nbytes > 2**32 - 2**25,
    )
    return stream.getvalue()


# NPY: without pickle.


def _decode_npy(data: bytes) -> Pixels:
    plausible.require_plausible_npy(io.BytesIO(data), len(data))
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise FormatError("is an archive of arrays; save one array as .npy")
    if array.ndim < 2 or array.ndim > 4:
        raise FormatError(f"holds an array of shape {array.shape}; expected (H, W), (B, H, W) or colour (H, W, 3)")
    if array.ndim > 2 and array.shape[-1] in (3, 4):
        return _split_samples(array)
    if array.ndim == 4 and array.shape[1] != 1:
        raise FormatError(f"holds an array of shape {array.shape}; a 4-d array must be (B, 1, H, W) or (B, H, W, 3)")
    return Pixels(array)


def _encode_npy(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    np.save(stream, _join_samples(pixels), allow_pickle=False)
    return stream.getvalue()


_DECODERS = {"png": _decode_png, "jpeg": _decode_jpeg, "tiff": _decode_tiff, "npy": _decode_npy}
_ENCODERS = {"png": _encode_png, "jpeg": _encode_jpeg, "tiff": _encode_tiff, "npy": _encode_npy}
