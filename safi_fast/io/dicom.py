"""DICOM files of one image, or of frames alike: values with RescaleSlope and RescaleIntercept applied, and back.

A result keeps the tags of its input, but for those that say what it is: see `derived`. Pixels are stored as they came,
with the same slope, in the transfer syntax of the input where that is not compressed.
"""

from __future__ import annotations

import copy
import io
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..atomic import is_folder, real
from .packages import require
from .pixels import Array, FormatError, Pixels, silenced
from .sizes import require_plausible
from .tags import Origin, Tags

SUFFIX = " (denoised)"  # of SeriesDescription
LONG_STRING, SHORT_TEXT = 64, 1024  # characters of the value representations LO and ST
GREY = ("MONOCHROME1", "MONOCHROME2")
NEEDED = ("Rows", "Columns", "BitsStored", "PixelRepresentation", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
VOID = {  # what no longer holds of other pixels
    "DigitalSignaturesSequence": "digital signatures",
    "MACParametersSequence": "digital signatures",
    "SmallestPixelValueInSeries": "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries": "LargestPixelValueInSeries",
    "ExtendedOffsetTable": "",
    "ExtendedOffsetTableLengths": "",
}
JPEG, JPEG_2000 = "pylibjpeg pylibjpeg-libjpeg", "pylibjpeg pylibjpeg-openjpeg"
DECODERS = {"JPEG 2000": JPEG_2000, "High-Throughput": JPEG_2000, "JPEG": JPEG}  # by the name of the transfer syntax
COMPRESSED = 2**15  # times as many bytes as stored, at most


@dataclass(frozen=True, eq=False)
class Part:
    """One file: its tags, without pixels, and how values became of what it stores.

    value = slope * stored + intercept, or mirror - stored. padding: where stored values are no image, and these values.
    """

    dataset: Any  # pydicom.FileDataset
    shape: tuple[int, ...]
    slope: float
    intercept: float
    mirror: int | None
    padding: tuple[Array, Array] | None

    @property
    def is_rescaled(self) -> bool:
        """Whether values are others than those that are stored."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest that can be stored."""
        bits, signed = int(self.dataset.BitsStored), bool(self.dataset.PixelRepresentation)
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)

    def stored(self, values: Array) -> tuple[Array, tuple[str, ...]]:
        """Values, float64, as the file stores them: rounded and clipped; and what that lost."""
        if self.mirror is not None:
            values = self.mirror - values
        elif self.is_rescaled:
            values = (values - self.intercept) / self.slope
        values, (least, most) = np.rint(values), self.limits
        lost: tuple[str, ...] = ()
        if values.min() < least or values.max() > most:
            bits, ends = self.dataset.BitsStored, sorted(self.slope * end + self.intercept for end in (least, most))
            lost = (f"values beyond {ends[0]:g} to {ends[1]:g}, which {bits} bits hold (clipped)",)
        dtype = np.dtype(f"{'i' if least else 'u'}{self.dataset.BitsAllocated // 8}")
        result = np.clip(values, least, most).astype(dtype)
        if self.padding:
            result[self.padding[0]] = self.padding[1]
        return result, lost


@dataclass(frozen=True, eq=False)
class Dicom(Origin):
    """Tags of one file, or of a series in the order of its slices. names: of the files of a series.

    source: the file or the folder of the series.
    """

    name: ClassVar[str] = "DICOM tags"
    parts: tuple[Part, ...]
    names: tuple[str, ...] = ()
    source: Path | None = None

    @property
    def is_series(self) -> bool:
        """Whether it was read from a folder."""
        return bool(self.names)


@contextmanager
def lenient() -> Iterator[None]:
    """In which pydicom takes tags as other programs wrote them, without a word."""
    with require("pydicom", "DICOM").config.disable_value_validation(), silenced("pydicom"):
        yield


def decode(data: bytes) -> Pixels:
    """Pixels of a DICOM file. Raises FormatError for what is not grey, not an image, or cannot be decoded."""
    values, part = read_part(data)
    return Pixels(values, white=white_of(part), tags=Tags(origin=Dicom((part,))), unknown=unknown_of(values, [part]))


def encode(pixels: Pixels) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of one DICOM file. Raises FormatError for what was not read from one."""
    origin = pixels.tags.origin
    if not isinstance(origin, Dicom):
        raise FormatError("DICOM needs the tags of a patient and a study; only a result of a DICOM file can be one")
    if len(origin.parts) > 1:
        raise FormatError(f"a series of {len(origin.parts)} files goes into a folder; name one without an extension")
    derivation = pixels.tags.derivation
    return encode_part(origin.parts[0], pixels.array, derivation, key_of(derivation))


def lies_in(target: Path, source: Path) -> bool:
    """Whether a result would come to lie in the folder of its DICOM file, or anywhere in that of its series."""
    target, source = real(target), real(source)
    return source in (target, *target.parents) if is_folder(source) else target.parent == source.parent


@lenient()
def read_part(data: bytes) -> tuple[Array, Part]:
    """Values (H, W), or (frames, H, W), of a file: integers as stored, or float32 where they are rescaled.

    Padding takes the least of the other values. Raises FormatError, and BackendError without pydicom.
    """
    dataset = require("pydicom", "DICOM").dcmread(io.BytesIO(data))
    _check(dataset)
    stored = _pixels(dataset, len(data))
    for keyword in ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]
    slope, intercept = (_number(dataset, *tag) for tag in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)))
    if not (np.isfinite([slope, intercept]).all() and slope):
        raise FormatError(f"has RescaleSlope {slope:g} and RescaleIntercept {intercept:g}; expected a slope but zero")
    least, most = Part(dataset, stored.shape, 1.0, 0.0, None, None).limits
    rescaled = (slope, intercept) != (1.0, 0.0)
    mirror = most if dataset.PhotometricInterpretation == "MONOCHROME1" and not (rescaled or least) else None
    mask = _padded(dataset, stored)
    part = Part(dataset, stored.shape, slope, intercept, mirror, (mask, stored[mask]) if mask.any() else None)
    values = stored if mirror is None else most - stored
    if rescaled:
        values = (stored * slope + intercept).astype(np.float32)
    if part.padding and not mask.all():
        values[mask] = values[~mask].min()
    return values, part


def key_of(derivation: str) -> str:
    """What new unique names follow from, beside the old ones: equal words for how it was made give equal names."""
    return derivation or uuid.uuid4().hex


@lenient()
def encode_part(part: Part, values: Array, derivation: str, key: str) -> tuple[bytes, tuple[str, ...]]:
    """Bytes of a file with those values, float64, and what is lost. key: see `key_of`. Raises FormatError for another
    size.
    """
    if values.size != np.prod(part.shape) or values.shape[-2:] != part.shape[-2:]:
        sizes = " x ".join(map(str, part.shape))
        raise FormatError(f"a result of shape {values.shape} is not stored as DICOM, whose tags are of {sizes} pixels")
    pixels, lost = part.stored(values.reshape(part.shape))
    dataset = copy.deepcopy(part.dataset)
    lost += tuple(dict.fromkeys(name for keyword, name in VOID.items() if name and keyword in dataset))
    _derive(dataset, derivation, key)
    _put(dataset, pixels)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue(), lost


def white_of(part: Part) -> float | None:
    """White that BitsStored declares: of unsigned values that are not rescaled, where it is not that of the dtype."""
    least, most = part.limits
    declared = not least and not part.is_rescaled and part.dataset.BitsStored < part.dataset.BitsAllocated
    return float(most) if declared else None


@lenient()
def unknown_of(values: Array, parts: list[Part]) -> str:
    """What values are whose black and white no tag says; "" where BitsStored says them."""
    if any(part.is_rescaled for part in parts):
        kind = "values by RescaleSlope and RescaleIntercept"
    elif any(part.limits[0] for part in parts):
        kind = "signed values"
    else:
        return ""
    window = _window(parts[0].dataset)
    shown = f", their window is {window[0]:g} to {window[1]:g}" if window else ""
    return f"{kind}, here {values.min():g} to {values.max():g}{shown}"


def _window(dataset: Any) -> tuple[float, float] | None:
    """The first window that a viewer shows."""
    try:
        middle, width = (float(np.ravel(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return middle - width / 2, middle + width / 2


def _check(dataset: Any) -> None:
    """Raises FormatError for what is no grey image of at most 16 bits whose frames are alike."""
    if "PixelData" not in dataset:
        what = "pixels as floats" if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset else "no image"
        raise FormatError(f"holds {what} (modality {dataset.get('Modality', 'not said')}); expected grey integers")
    missing = [keyword for keyword in NEEDED if dataset.get(keyword) in (None, "")]
    if missing:
        raise FormatError(f"lacks {', '.join(missing)}")
    kind = dataset.get("PhotometricInterpretation")
    if kind not in GREY or dataset.get("SamplesPerPixel", 1) != 1:
        raise FormatError(f"has the photometric interpretation {kind}; expected {' or '.join(GREY)}")
    bits, stored, high = (dataset.get(name) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if bits not in (8, 16) or stored is None or not 1 <= stored <= bits or high not in (None, stored - 1):
        raise FormatError(f"has BitsAllocated {bits}, BitsStored {stored}, HighBit {high}; expected 8 or 16 bits "
                          "allocated, of which the lowest are stored")  # fmt: skip
    if "ModalityLUTSequence" in dataset:
        raise FormatError("has a Modality LUT; expected RescaleSlope and RescaleIntercept, or neither")
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    if any(name in dataset for name in groups):
        raise FormatError("is an enhanced multi-frame file, whose frames have tags of their own; save the frames as a "
                          "series of single files (dcm4che's emf2sf)")  # fmt: skip


def _pixels(dataset: Any, size: int) -> Array:
    """What the file stores. Raises FormatError, which names the package that would decode it."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    shape = (frames, int(dataset.Rows), int(dataset.Columns))
    syntax = dataset.file_meta.TransferSyntaxUID
    require_plausible(shape, dataset.BitsAllocated // 8, size, COMPRESSED if syntax.is_compressed else 1)
    try:
        array = dataset.pixel_array
    except RuntimeError as error:  # what pydicom raises where no decoder is there, or none can do it
        package = next((package for name, package in DECODERS.items() if syntax.name.startswith(name)), None)
        cure = f"install it with pip install {package}" if package else "save it without compression"
        raise FormatError(f"is compressed as {syntax.name}, which cannot be decoded here; {cure}") from error
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _number(dataset: Any, keyword: str, default: float) -> float:
    """Of a tag that may be missing, or empty."""
    value = dataset.get(keyword)
    return default if value in (None, "") else float(value)


def _padded(dataset: Any, stored: Array) -> Array:
    """Where pixels are filling and no image: (..., H, W) bool."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    ends = [
        np.array(end).astype(np.int64).astype(stored.dtype)
        for end in (value, dataset.get("PixelPaddingRangeLimit", value))
    ]
    return (stored >= min(ends)) & (stored <= max(ends))


def _derive(dataset: Any, derivation: str, key: str) -> None:
    """The tags of a derived image. What is taken from the input need not be valid."""
    from pydicom.dataset import Dataset

    purpose, source = Dataset(), Dataset()
    _set(purpose, CodeValue="121322", CodingSchemeDesignator="DCM")
    _set(purpose, CodeMeaning="Source image for image processing operation")
    _set(source, ReferencedSOPClassUID=dataset.SOPClassUID, ReferencedSOPInstanceUID=dataset.SOPInstanceUID)
    _set(source, PurposeOfReferenceCodeSequence=[purpose])
    kinds = dataset.get("ImageType") or []
    words = [str(dataset.get("DerivationDescription") or ""), derivation or "noise removed by safi-fast"]
    series = str(dataset.get("SeriesDescription") or "")
    _set(
        dataset,
        SourceImageSequence=[source],
        ImageType=["DERIVED", "SECONDARY", *([kinds] if isinstance(kinds, str) else list(kinds))[2:]],
        DerivationDescription="; ".join(filter(None, words))[-SHORT_TEXT:],
        SeriesDescription=(series[: LONG_STRING - len(SUFFIX)] + SUFFIX).strip(),
        SeriesInstanceUID=_unique(dataset.SeriesInstanceUID, key),
        SOPInstanceUID=_unique(dataset.SOPInstanceUID, key),
    )
    for keyword in VOID:
        if keyword in dataset:
            del dataset[keyword]
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _set(dataset: Any, **values: Any) -> None:
    """Tags by their keywords, without a check of what other programs wrote."""
    from pydicom.config import IGNORE
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import DataElement

    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        dataset[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=IGNORE)


def _unique(name: str, key: str) -> str:
    """A UID of the kind 2.25, of a UUID by the old one and the key."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{name} {key}').int}"


def _put(dataset: Any, pixels: Array) -> None:
    """The pixels, in the byte order of the file, and the tags that say what is in them."""
    from pydicom.uid import ExplicitVRLittleEndian

    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    syntax = dataset.file_meta.TransferSyntaxUID
    data = pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    kind = "OB" if pixels.itemsize == 1 and not syntax.is_implicit_VR else "OW"  # PS3.5, annex A
    dataset.add_new("PixelData", kind, data + b"\0" * (len(data) % 2))
    for keyword, value in (("SmallestImagePixelValue", pixels.min()), ("LargestImagePixelValue", pixels.max())):
        if keyword in dataset:
            setattr(dataset, keyword, int(value))
