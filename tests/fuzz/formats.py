"""What is read from damaged files, and how: per format its files in the corpus, the reader, and the errors it may
raise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from safi_fast.errors import ImageFileError, InputError, ModelError, OperatorError

CORPUS = Path(__file__).parent / "corpus"
CHECKED = (ImageFileError, InputError)
SOLVED = 40  # of so many images one is denoised as well


@dataclass(frozen=True)
class Format:
    """`files`: one is damaged and read. `beside`: the file that goes with it, by its suffix, damaged sometimes instead.

    `lazy`: the reader of another library asks for what a header declares, but touches no more than it reads.
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[Path, int], Any]
    errors: tuple[type[Exception], ...] = CHECKED
    beside: str | None = None
    lazy: bool = False

    @cached_property
    def contents(self) -> dict[str, bytes]:
        return {name: (CORPUS / name).read_bytes() for name in self.files}


def image(path, seed):
    """As `denoise` takes it. Values that are not finite must be refused there."""
    from safi_fast import denoise
    from safi_fast.io import read_image

    file = read_image(path)
    assert file.array.size
    assert file.array.dtype.kind in "iuf"
    if file.array.dtype.kind == "f" and not np.isfinite(file.array).all():
        return denoise(file.array, 25, data_range=255, channel_axis=file.channel_axis)
    if seed % SOLVED == 0 and file.array.size < 4096:
        options = {"max_outer": 1, "max_inner": 2, "backend": "cpu", "box": None}
        return denoise(file.array, 25, data_range=255, channel_axis=file.channel_axis, **options)
    return file.array


def _measured(array):
    """As `reconstruct` takes measurements."""
    from safi_fast.operators.base import finite

    finite("measurement", array)
    return array


def array(path, seed):
    from safi_fast.io import read_array

    name = ("kspace", "parameters.angles", "cells.0", None)[seed % 4] if path.suffix == ".mat" else None
    return _measured(np.asarray(read_array(path, name)))


def named(path, seed):
    from safi_fast.io import read_array

    return _measured(np.asarray(read_array(path, "kspace" if seed % 2 else None)))


def kspace(path, seed):
    from safi_fast.io import read_kspace

    found = read_kspace(path, coils=True)
    for beside in (found.mask, found.rss):
        if beside is not None:
            _measured(np.asarray(beside))
    return _measured(np.asarray(found.array))


def kernel(path, seed):
    from safi_fast.cli.problems.deblur import read_kernel
    from safi_fast.operators import Blur

    blur = Blur(read_kernel(str(path))[0], (16, 16))
    return blur.apply(np.ones((16, 16)))


def angles(path, seed):
    from safi_fast.cli.problems.ct import read_angles
    from safi_fast.operators import ParallelBeamCT

    values = read_angles(str(path), "degrees")
    return ParallelBeamCT((8, 8), values[:50], 8).angles


def weights(path, seed):
    from safi_fast.weights import read_model

    return read_model(path).filters.composed()


def checkpoint(path, seed):
    from safi_fast.training.checkpoint import read_checkpoint

    return read_checkpoint(path).filters.composed()


TIFFS = ("grey", "big_endian", "float_tiles", "lzw_colour", "planar_alpha", "palette", "imagej", "ome_bigtiff")

FORMATS = {
    made.name: made
    for made in (
        Format("png", ("grey.png", "colour16.png", "palette.png"), image),
        Format("jpeg", ("grey.jpg", "colour.jpg"), image),
        *(Format(f"tiff-{name}", (f"{name}.tif",), image) for name in TIFFS),
        Format("dicom", ("ct.dcm", "rle.dcm"), image),
        Format("nifti", ("scaled.nii", "zipped.nii"), image),
        Format("npy", ("float.npy", "stack.npy"), image),
        Format("npy-measurement", ("float.npy", "stack.npy"), array),
        Format("npz", ("kspace.npz",), named),
        Format("mat5", ("plain.mat", "compressed.mat"), array),
        Format("mat73", ("hdf5.mat",), named),
        Format("cfl", ("kspace.cfl",), kspace, beside="kspace.hdr"),
        Format("fastmri", ("fastmri.h5",), kspace),
        Format("ismrmrd", ("ismrmrd.h5",), kspace),
        Format("weights", ("weights.safetensors",), weights, (ModelError,)),
        Format("checkpoint", ("modern.pth", "legacy.pth"), checkpoint, (ModelError,), lazy=True),
        Format("kernel", ("kernel.npy", "kernel.png"), kernel, (*CHECKED, OperatorError)),
        Format("angles", ("angles.txt", "angles.csv"), angles, (*CHECKED, OperatorError)),
    )
}
