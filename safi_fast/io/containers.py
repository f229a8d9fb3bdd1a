"""Files that hold several named arrays: .npz, MATLAB's .mat (version 5, and 7.3, which is HDF5) and HDF5.

A name leads into structs, groups and cells: "scan.parameters.angles", "kernels.0" (cells count from 0, first dimension
fastest). Arrays of a .mat file have MATLAB's shape in both versions; those of other HDF5 files the shape that h5py
gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, ImageFileError
from .matlab import require_sound
from .packages import require
from .sizes import DEFLATE, require_plausible_dataset, require_plausible_npy

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HDF5_OFFSETS = (0, 512, 1024, 2048)  # MATLAB writes a text header of 512 bytes before it


def read_named(path: Path, name: str | None) -> NDArray[Any]:
    """The array called `name`, or the only one of more than one number.

    Raises ImageFileError, and BackendError without h5py.
    """
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return _chosen(path, {key: _member(archive, key) for key in archive if name in (None, key)}, name)
        if is_hdf5(path):
            return _from_hdf5(path, name)
        if path.suffix.lower() != ".mat":
            raise ImageFileError(f"{path}: is no HDF5 file")
        from scipy.io import loadmat

        require_sound(path)
        entries = loadmat(path, struct_as_record=False, squeeze_me=False)
        return _chosen(path, {key: value for key, value in entries.items() if not key.startswith("__")}, name)
    except (ImageFileError, BackendError):
        raise
    except FileNotFoundError as error:
        raise ImageFileError(f"{path}: no such file") from error
    except Exception as error:  # the readers raise anything from zlib.error to KeyError on damaged files
        raise ImageFileError(f"{path}: is truncated, damaged or not a {path.suffix} file ({error})") from error


def read_fastmri(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """kspace (slices, [coils,] H, W) of a fastMRI file, its sampling mask (W,) if it has one, and `reconstruction_rss`.

    Raises ImageFileError, and BackendError without h5py.
    """
    h5py = require_h5py(path)
    try:
        with h5py.File(path, "r") as file:
            names = ("kspace", "mask", "reconstruction_rss")
            found = {key: _loaded(file[key]) if key in file else None for key in names}
    except Exception as error:  # HDF5 raises anything from OSError to RuntimeError and KeyError on damaged files
        raise ImageFileError(f"{path}: is truncated, damaged or not an HDF5 file ({error})") from error
    kspace = found["kspace"]
    if kspace is None or kspace.ndim not in (3, 4):
        what = "no dataset kspace" if kspace is None else f"kspace of shape {kspace.shape}"
        raise ImageFileError(f"{path}: has {what}; expected kspace (slices, H, W) or (slices, coils, H, W)")
    return kspace, found["mask"], found["reconstruction_rss"]


def require_h5py(path: Path) -> Any:
    """The module h5py. Raises BackendError, which says what to install."""
    return require("h5py", f"{path}: reading HDF5")


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as HDF5 files do, or after MATLAB's header."""
    with path.open("rb") as stream:
        head = stream.read(HDF5_OFFSETS[-1] + len(HDF5_SIGNATURE))
    return any(head[offset : offset + len(HDF5_SIGNATURE)] == HDF5_SIGNATURE for offset in HDF5_OFFSETS)


def _member(archive: Any, name: str) -> Any:
    """An array of an .npz file."""
    entry = f"{name}.npy"
    if entry in archive.zip.namelist():
        with archive.zip.open(entry) as stream:
            require_plausible_npy(stream, archive.zip.getinfo(entry).compress_size, DEFLATE)
    return archive[name]


def _loaded(dataset: Any) -> Any:
    """The values of an HDF5 dataset."""
    require_plausible_dataset(dataset)
    return dataset[()]


def _from_hdf5(path: Path, name: str | None) -> NDArray[Any]:
    h5py = require_h5py(path)
    matlab = path.suffix.lower() == ".mat"

    def value(node: Any) -> Any:
        if isinstance(node, h5py.Group):
            return node
        array = _loaded(node)
        if isinstance(array, np.ndarray) and array.dtype.names == ("real", "imag"):
            array = array["real"] + 1j * array["imag"]
        return np.asarray(array).T if matlab else np.asarray(array)

    with h5py.File(path, "r") as file:
        if name is None:
            found = {key: value(file[key]) for key in file if not key.startswith("#") and hasattr(file[key], "shape")}
            return _chosen(path, found, None)
        node: Any = file
        for part in name.split("."):
            if isinstance(node, h5py.Group) and part in node:
                node = node[part]
            elif (
                isinstance(node, h5py.Dataset)
                and node.dtype == h5py.ref_dtype
                and part.isdigit()
                and int(part) < node.size
            ):
                node = file[node[()].T.ravel(order="F")[int(part)]]
            else:
                raise _unknown(path, name, [key for key in file if not key.startswith("#")])
        found = value(node)
        if isinstance(found, h5py.Group):
            raise ImageFileError(f"{path}: {name} is a group of {', '.join(found)}; name one of them, {name}.NAME")
    return _numbers(path, found, name)


def _chosen(path: Path, entries: dict[str, Any], name: str | None) -> NDArray[Any]:
    if name is not None:
        node: Any = entries
        for part in name.split("."):
            if isinstance(node, np.ndarray) and node.dtype == object and node.size == 1 and not part.isdigit():
                node = node.ravel()[0]  # a struct is a 1 x 1 array of structs
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif part in getattr(node, "_fieldnames", ()):
                node = getattr(node, part)
            elif isinstance(node, np.ndarray) and node.dtype == object and part.isdigit() and int(part) < node.size:
                node = node.ravel(order="F")[int(part)]
            else:
                raise _unknown(path, name, list(entries))
        return _numbers(path, node, name)
    arrays = {key: np.asarray(value) for key, value in entries.items()}
    numeric = {key: array for key, array in arrays.items() if array.dtype.kind in "buifc" and array.size > 1}
    if len(numeric) != 1:
        shown = ", ".join(f"{key} {array.shape}" for key, array in arrays.items()) or "nothing"
        raise ImageFileError(f"{path}: holds {shown}; say which with --variable NAME, or FILE::NAME for other files")
    return next(iter(numeric.values()))


def _numbers(path: Path, value: Any, name: str) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "buifc":
        fields = getattr(array.ravel()[0], "_fieldnames", None) if array.size else None
        more = f" with the fields {', '.join(fields)}" if fields else ""
        raise ImageFileError(f"{path}: {name} has dtype {array.dtype}{more}; expected an array of numbers")
    return array


def _unknown(path: Path, name: str, known: list[str]) -> ImageFileError:
    return ImageFileError(f"{path}: has no variable {name!r}; it holds {', '.join(known) or 'nothing'}")
