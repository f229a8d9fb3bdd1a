"""Measurements from files: k-space, sinograms, coil maps, sampling masks, angles, kernels.

    .cfl with .hdr    BART: complex64; of its dimensions rows and columns are the two of 0, 1, 2 larger than 1, 3 are
                      coils, 13 slices
    .h5, .hdf5        fastMRI: `kspace`, optional `mask`, `reconstruction_rss`, (slices, [coils,] H, W); or any dataset
                      by its name, as h5py gives it
                      or ISMRMRD: Cartesian lines of MRI, sorted by their counters, see `ismrmrd`
    .npy, .npz, .mat  one array, or one by its name, as stored (.mat: as MATLAB shows it); see `arrange`
    .tif, .png, .jpg  real numbers, turned upright by the orientation tag; rows, columns; pages first

Nothing is transposed unless a layout says so: a word with one letter per axis of the file, as in "hwc".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import is_folder, reason
from ..errors import ImageFileError, InputError
from ..operators.axes import doubt
from .bart import coil_images, pair, read_cfl
from .containers import is_hdf5, read_fastmri, read_named
from .images import is_image_name, read_image
from .ismrmrd import is_ismrmrd, read_ismrmrd
from .sizes import require_plausible_npy
from .text import read_text

CONTAINERS = (".npz", ".mat", ".h5", ".hdf5")
KINDS = (".cfl", ".npy", *CONTAINERS, ".tif", ".tiff")
AXES = {"s": "slices", "c": "coils", "h": "rows", "w": "columns", "v": "views", "d": "detector cells"}

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Kspace:
    """array: (slices, coils, H, W), complex. layout: where its axes came from. mask: (1, W) where the file holds one;
    (H, 1) or (H, W) of lines of ISMRMRD.

    rss: the image (slices, h, w) that a fastMRI file holds beside it.
    """

    array: Array
    layout: str
    mask: Array | None = None
    rss: Array | None = field(default=None, repr=False)


def read_array(path: str | Path, name: str | None = None) -> Array:
    """The array in a file as it is stored, complex or real. name: which of several; "FILE::NAME" does the same.

    .npy and .cfl are mapped, not read. Raises ImageFileError, and BackendError where HDF5 needs h5py.
    """
    path, name = split_name(path, name)
    suffix = path.suffix.lower()
    if suffix in (".cfl", ".hdr"):
        return read_cfl(path)
    if suffix in CONTAINERS:
        _require_file(path)
        return read_named(path, name)
    if suffix == ".npy":
        _require_file(path)
        try:
            with path.open("rb") as stream:
                require_plausible_npy(stream, path.stat().st_size)
            array: Array = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # of a damaged header: ValueError, OSError, EOFError, tokenize's TokenError, ...
            raise ImageFileError(f"{path}: is truncated, damaged or not a NPY file ({error})") from error
        if array.dtype.kind not in "buifc" or array.size == 0:
            raise ImageFileError(f"{path}: holds {array.dtype} of shape {array.shape}; expected numbers")
        return array
    if is_image_name(path):
        file = read_image(path)
        if file.channel_axis is not None:
            raise ImageFileError(f"{path}: is a colour image {file.array.shape}; expected one value per pixel")
        if file.alpha is not None and np.ptp(file.alpha):
            raise ImageFileError(f"{path}: has an alpha channel, which is not used here; save it without")
        return file.array
    raise ImageFileError(f"{path}: unsupported extension {path.suffix!r}; use one of {', '.join((*KINDS, '.png'))}")


def read_kspace(
    path: str | Path, name: str | None = None, layout: str | None = None, *, coils: bool, check_axes: bool = True,
    select: Mapping[str, int] | None = None,
) -> Kspace:  # fmt: skip
    """K-space (slices, coils, H, W) of a file. layout: its axes, of the letters s, c, h, w; None: as the table above
    says, for other files (H, W), (coils, H, W) where `coils` are expected, or (slices, coils, H, W). check_axes: refuse
    axes that cannot be what they are taken for, by where the energy lies. select: counters of the lines of ISMRMRD, as
    {"contrast": 1}. Raises ImageFileError, InputError, BackendError.
    """
    path, name = split_name(path, name)
    suffix = path.suffix.lower()
    lines = _lines(path, name, layout, select)
    if lines:
        return lines
    if suffix in (".cfl", ".hdr") and layout is None:
        arranged = coil_images(read_cfl(path), pair(path)[0])
        if check_axes:
            _check_axes(path, arranged, "schw", given=False)
        return Kspace(arranged, "BART")
    mask = rss = None
    if suffix in (".h5", ".hdf5") and name in (None, "kspace"):
        _require_file(path)
        if not is_hdf5(path):
            raise ImageFileError(f"{path}: is no HDF5 file")
        array, mask, rss = read_fastmri(path)
        layout = layout or {3: "shw", 4: "schw"}[array.ndim]
    else:
        array = read_array(path, name)
    if layout is None:
        if array.ndim == 3 and not coils:
            found = doubt(array, "shw") if check_axes else None
            slices = found.layouts[0] if found and found.layouts else "shw"
            raise ImageFileError(
                f"{path}: k-space of shape {array.shape} may be slices or coils; say which with --layout {slices} "
                f"or --layout "
                f"{slices.replace('s', 'c')} (coils also need --maps FILE or --estimate-maps)"
            )
        layout = {2: "hw", 3: "chw", 4: "schw"}.get(array.ndim, "")
    arranged = arrange(array, layout, "schw", path)
    if arranged.dtype.kind != "c":
        raise ImageFileError(f"{path}: k-space is {array.dtype}; expected complex numbers")
    if check_axes:
        _check_axes(path, array, layout)
    if mask is not None:
        mask = np.asarray(mask).reshape(1, -1) if np.ndim(mask) == 1 else np.asarray(mask)
    return Kspace(arranged, layout, mask, rss)


def _lines(path: Path, name: str | None, layout: str | None, select: Mapping[str, int] | None) -> Kspace | None:
    """Of a file of ISMRMRD, whose axes are known; None for another one."""
    found = path.suffix.lower() in (".h5", ".hdf5")
    if found:
        _require_file(path)
        found = is_hdf5(path) and is_ismrmrd(path, name)
    if found and layout is None:
        array, mask, words = read_ismrmrd(path, name, select)
        return Kspace(array, words, mask)
    if found:
        raise InputError(f"layout is {layout!r}, but {path} is ISMRMRD, whose axes are known; leave it out")
    if select:
        raise InputError(f"select is {', '.join(select)}, but {path} is no ISMRMRD file, which alone has such counters")
    return None


def _check_axes(path: Path, array: Array, layout: str, *, given: bool = True) -> None:
    """Raise ImageFileError where the energy of k-space speaks against its layout. given: the axes are those of the
    file, not BART's.
    """
    found = doubt(array, layout)
    if found is None:
        return
    cure = (
        " or ".join(f"--layout {one}" for one in found.layouts)
        if given
        else "--layout with a letter for each axis of the file"
    )
    raise ImageFileError(
        f"{path}: k-space of shape {array.shape} is taken with the axes {layout!r} "
        f"({', '.join(AXES[letter] for letter in layout)}), but "
        f"{found.seen}; " + (f"pass {cure}, or " if cure else "") + "--no-order-check if it is right as it is"
    )


def read_maps(path: str | Path, layout: str | None = None) -> Array:
    """Coil maps (slices or 1, coils, H, W); layout as in `read_kspace`, by default (coils, H, W) or (slices, coils, H,
    W).
    """
    path, name = split_name(path)
    if path.suffix.lower() in (".cfl", ".hdr") and layout is None:
        return coil_images(read_cfl(path), pair(path)[0])
    array = read_array(path, name)
    return arrange(array, layout or {3: "chw", 4: "schw"}.get(array.ndim, ""), "schw", path)


def read_sinogram(path: str | Path, name: str | None = None, layout: str | None = None) -> tuple[Array, str]:
    """Sinograms (slices, views, detector cells) and the layout; by default (views, cells) or (slices, views, cells)."""
    path, name = split_name(path, name)
    array = read_array(path, name)
    layout = layout or {2: "vd", 3: "svd"}.get(array.ndim, "")
    arranged = arrange(array, layout, "svd", path)
    if arranged.dtype.kind == "c":
        raise ImageFileError(f"{path}: the sinogram is {array.dtype}; expected real line integrals")
    return arranged, layout


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """A mask of zero and one other value, any shape: (n,) becomes (1, n), a mask of columns. Raises ImageFileError."""
    path, name = split_name(path)
    array = read_array(path, name)
    if array.dtype.kind == "c":
        array = array.real if not array.imag.any() else array
    levels = np.unique(array)
    if len(levels) > 2 or (len(levels) == 2 and levels[0] != 0) or array.dtype.kind == "c":
        raise ImageFileError(
            f"{path}: has {len(levels)} different values from {levels[0]:g} to {levels[-1]:g}; expected a mask of "
            "0 and one other value"
        )
    mask = np.squeeze(np.asarray(array != 0)) if path.suffix.lower() in (".cfl", ".hdr") else np.asarray(array != 0)
    return mask.reshape(1, -1) if mask.ndim == 1 else mask


def read_vector(path: str | Path) -> NDArray[np.float64]:
    """Numbers in a row: of a text file (separated by blanks, commas or lines) or of an array with one axis longer than
    1.
    """
    path, name = split_name(path)
    if path.suffix.lower() in (".txt", ".csv", ".dat", ".ang"):
        try:
            return np.asarray([float(word) for word in read_text(path).replace(",", " ").split()], np.float64)
        except ValueError as error:
            raise ImageFileError(f"{path}: {error}; expected numbers") from error
    array = read_array(path, name)
    if array.dtype.kind == "c" or sum(side > 1 for side in array.shape) > 1:
        raise ImageFileError(f"{path}: holds {array.dtype} of shape {array.shape}; expected real numbers in a row")
    return np.asarray(array, np.float64).ravel()


def arrange(array: Array, layout: str, axes: str, path: str | Path) -> Array:
    """The array with its axes, named by the letters of `layout`, in the order `axes`; those it lacks get length 1.

    A view.

    Raises InputError for a layout with other letters, ImageFileError where it does not fit the array.
    """
    needed = axes.strip("s").replace("c", "")
    if layout and (len(set(layout)) != len(layout) or not set(needed) <= set(layout) <= set(axes)):
        known = ", ".join(f"{letter} {AXES[letter]}" for letter in axes)
        raise InputError(
            f"layout is {layout!r}; expected {needed[0]}, {needed[1]} and maybe others of {known}, each once"
        )
    if len(layout) != array.ndim:
        raise ImageFileError(
            f"{path}: has shape {array.shape}; expected "
            + (f"{len(layout)} axes for the layout {layout!r}" if layout else f"at most the axes {', '.join(axes)}")
        )
    if 0 in array.shape:
        raise ImageFileError(f"{path}: has shape {array.shape}, without a single number")
    moved = array.transpose([layout.index(letter) for letter in axes if letter in layout])
    return moved[tuple(slice(None) if letter in layout else None for letter in axes)]


def split_name(path: str | Path, name: str | None = None) -> tuple[Path, str | None]:
    """ "FILE::NAME" as its two parts."""
    file, separator, inside = str(path).partition("::")
    return Path(file), inside if separator else name


def list_measurements(inputs: Iterable[str | Path], kinds: Iterable[str] = KINDS) -> list[Path]:
    """The files of `inputs` in their order, each folder replaced by its files of these kinds, sorted.

    Raises ImageFileError.
    """
    found: dict[Path, None] = {}
    for path in map(Path, inputs):
        if not is_folder(path):
            found[path] = None
            continue
        try:
            names = sorted(path.iterdir())
        except OSError as error:
            raise ImageFileError(f"{path}: cannot be listed ({reason(error)})") from error
        entries = [p for p in names if p.suffix.lower() in kinds and p.name[0] != "." and p.is_file()]
        if not entries:
            raise ImageFileError(f"{path}: the folder holds no measurements ({', '.join(kinds)})")
        found.update(dict.fromkeys(entries))
    return list(found)


def _require_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise ImageFileError(f"{path}: no such file") from error
    except OSError as error:  # a loop of links, a folder that must not be entered
        raise ImageFileError(f"{path}: cannot be read ({reason(error)})") from error
    if not path.is_file():
        raise ImageFileError(f"{path}: is no file")
    if size == 0:
        raise ImageFileError(f"{path}: the file is empty (0 bytes)")
