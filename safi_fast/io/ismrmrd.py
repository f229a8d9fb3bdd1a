"""ISMRMRD raw data of Cartesian MRI: acquisitions, each a line of k-space, sorted to the grid that the header encodes.

An HDF5 file has one or more groups with two datasets: `xml`, the header, and `data`, one row for each acquisition with
its `head` and `data` (Inati et al., Magn. Reson. Med. 77, 2017). Lines are placed by their counters, rows are
kspace_encode_step_1. What is no line of the image is left out, equal lines are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, ImageFileError, InputError
from .containers import require_h5py
from .heaps import require_sound_heaps, require_sound_lengths
from .ismrmrd_header import Encoding, encodings_of
from .sizes import require_plausible, require_plausible_dataset

Array = NDArray[Any]

LEFT_OUT = {  # by the number of their flag
    19: "noise",
    20: "parallel calibration",
    23: "navigator",
    24: "phase correction",
    26: "feedback",
    27: "dummy",
    28: "feedback",
    29: "surface coil correction",
    30: "phase stabilization",
    31: "phase stabilization",
}
ALSO_IMAGING, REVERSED = 21, 22
COMPRESSED = (53, 54, 55, 56)
APART, AVERAGED = ("encoding", "contrast", "phase", "set"), ("average", "repetition")
COUNTERS = (*APART, *AVERAGED)
SPARSE = 1024  # samples of the grid for each one that is stored, at most
ROWS = 256  # acquisitions that are read at a time


class Lines(NamedTuple):
    """array: complex64 (slices, coils, H, W), frequency zero in the middle. mask: (H, 1) or (H, W) where all slices
    have one; None: where k-space is not zero. words: how it was made.
    """

    array: Array
    mask: Array | None
    words: str


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where the lines of the slices go. places: row of `data` for each line; z, y: where it lies in the grid."""

    encoding: Encoding
    heads: Array
    places: Array
    slices: Array
    z: Array
    y: Array

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Slices, coils, kz, ky, kx."""
        nx, ny, nz = self.encoding.matrix
        return int(self.slices.max()) + 1, int(self.heads["active_channels"][0]), nz, ny, nx


def is_ismrmrd(path: Path, name: str | None) -> bool:
    """Whether an HDF5 file holds acquisitions, or its group of that name does."""
    h5py = require_h5py(path)
    try:
        with h5py.File(path, "r") as file:
            return name in _groups(file, h5py) if name else "kspace" not in file and bool(_groups(file, h5py))
    except Exception:  # of a damaged file, which its reader names
        return False


def read_ismrmrd(path: Path, name: str | None = None, select: Mapping[str, int] | None = None) -> Lines:
    """The k-space of one image, or of the slices of one.

    name: of the group, where the file has several. select: values of `COUNTERS`; where one is not selected, lines of
    several contrasts, phases, sets or encodings are refused, and those of averages and repetitions averaged. A 3-D scan
    whose second phase encoding is complete gives slices. Raises ImageFileError, InputError, BackendError.
    """
    h5py = require_h5py(path)
    _check_names(select or {})
    try:
        require_sound_heaps(path)
        with h5py.File(path, "r") as file:
            group = file[_chosen(path, list(_groups(file, h5py)), name)]
            require_plausible_dataset(group["data"])
            require_sound_lengths(group["data"], path.stat().st_size)
            heads = group["data"].fields("head")[()]
            grid, words = _sorted(path, heads, encodings_of(group["xml"][()]), dict(select or {}))
            require_plausible(grid.shape, 8, path.stat().st_size, SPARSE)
            array, counts = _placed(path, group["data"], grid)
    except (ImageFileError, InputError, BackendError):
        raise
    except Exception as error:  # HDF5 raises anything from OSError to RuntimeError and KeyError on damaged files
        raise ImageFileError(f"{path}: is truncated, damaged or not an ISMRMRD file ({error})") from error
    most = int(counts.max())
    return _planes(path, array, counts > 0, grid.encoding, [*words, *([f"up to {most} averaged"] if most > 1 else [])])


def _groups(file: Any, h5py: Any) -> list[str]:
    return [key for key in file if isinstance(file[key], h5py.Group) and {"xml", "data"} <= set(file[key])]


def _chosen(path: Path, groups: list[str], name: str | None) -> str:
    if name is None and len(groups) > 1:
        raise ImageFileError(f"{path}: holds the scans {', '.join(groups)}; say which with --variable NAME")
    return name or groups[0]


def _check_names(select: Mapping[str, int]) -> None:
    for counter in select:
        if counter not in COUNTERS:
            raise InputError(f"select is {counter}={select[counter]}; expected one of {', '.join(COUNTERS)}")


def _flagged(heads: Array, *numbers: int) -> Array:
    bits = np.uint64(sum(1 << (number - 1) for number in numbers))
    return np.asarray((heads["flags"] & bits) != 0)


def _sorted(path: Path, heads: Array, encodings: list[Encoding], select: dict[str, int]) -> tuple[_Grid, list[str]]:
    """The lines of the image and their places, and what is to be told of the others."""
    if len(heads) == 0:
        raise ImageFileError(f"{path}: holds no acquisitions")
    if _flagged(heads, *COMPRESSED).any():
        raise ImageFileError(f"{path}: holds compressed acquisitions; save it without compression")
    dropped = _flagged(heads, *LEFT_OUT) & ~(_flagged(heads, ALSO_IMAGING) & ~_flagged(heads, 19, 23, 24))
    words = _words_of(heads[dropped])
    if dropped.all():
        raise ImageFileError(f"{path}: holds no lines of an image, only {words}")
    places = _selected(path, heads, np.flatnonzero(~dropped), select)
    chosen = heads[places]
    encoding = _encoding(path, chosen, encodings)
    _check_lines(path, chosen)
    indices = []
    for axis, step in ((1, "kspace_encode_step_1"), (2, "kspace_encode_step_2")):
        steps = chosen["idx"][step].astype(np.int64)
        index = steps - encoding.centers[axis] + encoding.matrix[axis] // 2
        if index.min() < 0 or index.max() >= encoding.matrix[axis]:
            raise ImageFileError(
                f"{path}: has {step} from {steps.min()} to {steps.max()} with {encoding.centers[axis]} in the middle, "
                f"which do not fit the encoded matrix of {encoding.matrix[axis]}"
            )
        indices.append(index)
    slices = np.unique(chosen["idx"]["slice"], return_inverse=True)[1]
    told = [f"{name} {value}" for name, value in select.items()] + ([f"without {words}"] if words else [])
    return _Grid(encoding, chosen, places, slices, indices[1], indices[0]), told


def _words_of(heads: Array) -> str:
    """How many acquisitions of which kind these are."""
    names = dict.fromkeys(LEFT_OUT.values())
    kinds = {name: _flagged(heads, *(n for n, kind in LEFT_OUT.items() if kind == name)).sum() for name in names}
    return ", ".join(f"{count} {name}" for name, count in kinds.items() if count)


def _selected(path: Path, heads: Array, places: Array, select: dict[str, int]) -> Array:
    """Those of the lines with the selected counters. Raises ImageFileError where that is not one image."""
    for counter in COUNTERS:
        values = heads["encoding_space_ref"] if counter == "encoding" else heads["idx"][counter]
        values = values[places]
        found = [int(value) for value in np.unique(values)]
        if counter in select:
            if select[counter] not in found:
                raise ImageFileError(f"{path}: has no {counter} {select[counter]}; it has {_listed(found)}")
            places = places[values == select[counter]]
        elif counter in APART and len(found) > 1:
            raise ImageFileError(
                f"{path}: has the {counter}s {_listed(found)}, each an image of its own; say which with "
                f"--select {counter}={found[0]}"
            )
    return places


def _listed(values: list[int], shown: int = 8) -> str:
    return ", ".join(map(str, values[:shown])) + (f" and {len(values) - shown} more" if len(values) > shown else "")


def _encoding(path: Path, heads: Array, encodings: list[Encoding]) -> Encoding:
    number = int(heads["encoding_space_ref"][0])
    if number >= len(encodings):
        raise ImageFileError(f"{path}: refers to encoding {number}, but its header has {len(encodings)}")
    encoding = encodings[number]
    if encoding.trajectory != "cartesian":
        cure = "save its samples and where they lie as arrays, and pass --trajectory FILE"
        if encoding.trajectory == "epi":
            cure = "correct its reversed lines and pass k-space on the grid"
        raise ImageFileError(f"{path}: has the trajectory {encoding.trajectory}; expected cartesian: {cure}")
    return encoding


def _check_lines(path: Path, heads: Array) -> None:
    """Raises ImageFileError for lines that cannot lie on one grid."""
    if _flagged(heads, REVERSED).any():
        raise ImageFileError(
            f"{path}: {_flagged(heads, REVERSED).sum()} of its {len(heads)} lines are read in reverse, and need a "
            "correction of their phase first; expected lines in one direction"
        )
    channels = np.unique(heads["active_channels"])
    if len(channels) > 1 or channels[0] == 0:
        raise ImageFileError(f"{path}: has lines of {_listed(channels.tolist())} coils; expected the same coils in all")


def _placed(path: Path, data: Any, grid: _Grid) -> tuple[Array, Array]:
    """Means of the lines (slices, coils, kz, ky, kx), and how many there are of each sample, without coils."""
    slices, coils, *sides = grid.shape
    total = np.zeros(grid.shape, np.complex64)
    counts = np.zeros((slices, *sides), np.int32)
    for line, values in enumerate(_values(data, grid.places)):
        head, (s, z, y) = grid.heads[line], (index[line] for index in (grid.slices, grid.z, grid.y))
        samples = int(head["number_of_samples"])
        if len(values) != 2 * coils * samples:
            raise ImageFileError(
                f"{path}: acquisition {grid.places[line]} holds {len(values)} numbers; expected 2 x {coils} coils x "
                f"{samples} samples"
            )
        kept = slice(int(head["discard_pre"]), samples - int(head["discard_post"]))
        start = sides[2] // 2 - int(head["center_sample"]) + kept.start
        stop = start + kept.stop - kept.start
        if not 0 <= start < stop <= sides[2]:
            raise ImageFileError(
                f"{path}: acquisition {grid.places[line]} has {kept.stop - kept.start} samples with "
                f"{head['center_sample']} in the middle, which do not fit the encoded matrix of {sides[2]}"
            )
        total[s, :, z, y, start:stop] += values.view(np.complex64).reshape(coils, samples)[:, kept]
        counts[s, z, y, start:stop] += 1
    total /= np.maximum(counts, 1)[:, None]
    return total, counts


def _values(data: Any, places: Array) -> Iterator[NDArray[np.float32]]:
    """The numbers of each acquisition, real and imaginary parts in turn."""
    rows = data.fields("data")
    for first in range(0, len(places), ROWS):
        some = places[first : first + ROWS]
        block = rows[int(some[0]) : int(some[-1]) + 1]
        for place in some:
            yield np.ascontiguousarray(block[place - some[0]], np.float32)


def _planes(path: Path, array: Array, measured: Array, encoding: Encoding, words: list[str]) -> Lines:
    """Slices of the scan (slices, coils, kz, ky, kx), and without what readout takes beyond the image."""
    if array.shape[2] > 1:
        array, measured = _along_z(path, array, measured, encoding.kept(2))
        words.append("slices by the transform along kspace_encode_step_2")
    array, measured = (np.moveaxis(array, 2, 1), measured) if array.ndim == 5 else (array, measured)
    array = array.reshape(-1, *array.shape[2:])
    measured = measured.reshape(-1, *measured.shape[2:])
    whole = bool((measured.any(axis=-1) == measured.all(axis=-1)).all())
    kept = encoding.kept(0)
    if kept < array.shape[-1]:
        if whole:
            array, measured = _cut(array, -1, kept, both=True), measured[..., :kept]
            words.append("readout oversampling removed")
        else:
            words.append("readout oversampling kept, as echoes are asymmetric")
    same = bool((measured == measured[0]).all())
    mask = (measured[0, :, :1] if whole else measured[0]) if same else None
    return Lines(np.ascontiguousarray(array), mask, "; ".join(["ISMRMRD", *words]))


def _along_z(path: Path, array: Array, measured: Array, kept: int) -> tuple[Array, Array]:
    """Slices of a 3-D scan: the image along z, k-space in the plane."""
    if not (measured == measured[:, :1]).all():
        raise ImageFileError(
            f"{path}: is a 3-D scan without all lines of kspace_encode_step_2; expected one that is complete along it, "
            "of which slices can be made"
        )
    return _cut(array, 2, kept, both=False), np.broadcast_to(measured[:, :1], measured.shape)[:, :kept]


def _cut(array: Array, axis: int, kept: int, *, both: bool) -> Array:
    """The middle of the image along an axis of k-space, and back to k-space. Orthonormal, zero in the middle."""
    from scipy.fft import fft, fftshift, ifft, ifftshift

    image = fftshift(ifft(ifftshift(array, axis), axis=axis, norm="ortho"), axis)
    first = array.shape[axis] // 2 - kept // 2
    image = np.take(image, range(first, first + kept), axis)
    if both:
        image = fftshift(fft(ifftshift(image, axis), axis=axis, norm="ortho"), axis)
    return np.asarray(image, np.complex64)
