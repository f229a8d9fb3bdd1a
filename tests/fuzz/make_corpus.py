"""Writes tests/fuzz/corpus: one small valid file of every format that is read.

    python -m tests.fuzz.make_corpus

The files are committed, so that a seed gives the same damaged file with every version of the libraries that write them.
"""

import io
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

CORPUS = Path(__file__).parent / "corpus"
sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("support", "unit")]  # what the tests share

RNG = np.random.default_rng(14)
H, W = 14, 17
GREY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (H, W), dtype=np.uint16)
COLOUR = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
FLOAT = RNG.random((H, W), dtype=np.float32)
KSPACE = (RNG.standard_normal((2, 8, 9)) + 1j * RNG.standard_normal((2, 8, 9))).astype(np.complex64)
KERNEL = np.outer([1, 2, 1], [1, 3, 1]) / 20


def pictures():
    """PNG, JPEG, NPY."""
    import imagecodecs
    from PIL import Image

    yield "grey.png", imagecodecs.png_encode(GREY)
    yield "colour16.png", imagecodecs.png_encode(RNG.integers(0, 65536, (H, W, 4), dtype=np.uint16))
    stream = io.BytesIO()
    Image.fromarray(COLOUR).quantize(8).save(stream, "PNG")
    yield "palette.png", stream.getvalue()
    for name, pixels, options in (("grey.jpg", GREY, {}), ("colour.jpg", COLOUR, {"progressive": True})):
        stream, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(stream, "JPEG", quality=85, exif=exif, **options)
        yield name, stream.getvalue()
    for name, array in (("float.npy", FLOAT), ("stack.npy", GREY16.astype(">u2")[None, None])):
        stream = io.BytesIO()
        np.save(stream, array)
        yield name, stream.getvalue()


def tiffs():
    """Eight variants of TIFF."""
    import tifffile

    stack = RNG.integers(0, 65536, (3, H, W), dtype=np.uint16)
    alpha = RNG.integers(0, 256, (4, H, W), dtype=np.uint8)
    variants = {
        "grey": (GREY, {"photometric": "minisblack"}),
        "big_endian": (GREY16, {"photometric": "miniswhite", "byteorder": ">"}),
        "float_tiles": (FLOAT, {"tile": (16, 16), "compression": "zlib", "predictor": True}),
        "lzw_colour": (COLOUR, {"photometric": "rgb", "compression": "lzw", "rowsperstrip": 5}),
        "planar_alpha": (alpha, {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]}),
        "palette": (GREY, {"photometric": "palette", "colormap": RNG.integers(0, 65536, (3, 256), dtype=np.uint16)}),
        "imagej": (stack, {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 0.5}}),
        "ome_bigtiff": (stack, {"ome": True, "bigtiff": True, "metadata": {"axes": "TYX"}}),
    }
    for name, (pixels, options) in variants.items():
        stream = io.BytesIO()
        tifffile.imwrite(stream, pixels, **options)
        yield f"{name}.tif", stream.getvalue()


def clinics():
    """DICOM, made of files that pydicom comes with, and NIfTI."""
    import gzip

    import nibabel
    import pydicom
    from pydicom.data import get_testdata_file

    for name, sample in (("ct.dcm", "CT_small.dcm"), ("rle.dcm", "MR_small.dcm")):
        dataset = pydicom.dcmread(get_testdata_file(sample, download=False))
        pixels = dataset.pixel_array[:H, :W]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.add_new("PixelData", "OW", pixels.tobytes())
        for element in [element for element in dataset if element.tag.is_private or element.tag.group > 0x7FE0]:
            del dataset[element.tag]
        if name == "rle.dcm":
            dataset.compress(pydicom.uid.RLELossless)
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        yield name, stream.getvalue()
    header = nibabel.Nifti2Header(endianness=">")
    header.set_data_dtype(np.float32)
    yield "zipped.nii", gzip.compress(nibabel.Nifti2Image(FLOAT[:, :, None], np.eye(4), header).to_bytes(), mtime=0)
    yield "scaled.nii", nibabel.Nifti1Image(np.stack([FLOAT] * 2, 2), np.eye(4), dtype=np.int16).to_bytes()


def containers():
    """NPZ, MATLAB 5 and 7.3, BART, fastMRI, ISMRMRD."""
    import h5py
    import test_ismrmrd
    from scipy.io import savemat

    yield "kspace.npz", archive({"kspace.npy": saved(KSPACE), "sigma.npy": saved(np.float64(0.1))})
    scan = {
        "kspace": KSPACE,
        "parameters": {"angles": np.arange(5.0), "name": "scan"},
        "cells": np.array([KERNEL, 1], object),
    }
    for name, compressed in (("plain.mat", False), ("compressed.mat", True)):
        stream = io.BytesIO()
        savemat(stream, scan, do_compression=compressed)
        yield name, b"MATLAB 5.0 MAT-file".ljust(116) + stream.getvalue()[116:]  # without the date
    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=512) as file:
        parts = np.zeros(KSPACE.T.shape, [("real", "f4"), ("imag", "f4")])
        parts["real"], parts["imag"] = KSPACE.T.real, KSPACE.T.imag
        file.create_dataset("kspace", data=parts, compression="gzip", chunks=(9, 8, 1))
    yield "hdf5.mat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + stream.getvalue()[128:]
    yield "kspace.hdr", b"# Dimensions\n8 9 1 2 1 1 1 1 1 1 1 1 1 1 1 1\n"
    yield "kspace.cfl", KSPACE.transpose(1, 2, 0).tobytes(order="F")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["kspace"] = KSPACE[None]
        file["mask"] = np.arange(9) % 2
        file["reconstruction_rss"] = FLOAT[None, :6, :6]
    yield "fastmri.h5", stream.getvalue()
    stream = io.BytesIO()
    scan = test_ismrmrd.lines(KSPACE.transpose(0, 2, 1)[:, :6], range(6))
    test_ismrmrd.write(stream, scan, nx=8, ny=6, most=5, center=3)
    yield "ismrmrd.h5", stream.getvalue()


def weights():
    """Weights of this package, and a checkpoint of the published code."""
    import torch
    from models import random_model
    from test_checkpoint import published_content

    from safi_fast.weights import save_model

    target = CORPUS / "weights.safetensors"
    save_model(random_model(channels=2, kernels=(3,), name="fuzz"), target)
    yield target.name, target.read_bytes()
    for name, modern in (("modern.pth", True), ("legacy.pth", False)):
        stream = io.BytesIO()
        content = published_content("mmr", channels=2, kernel=3, depth=1)
        torch.save(content, stream, _use_new_zipfile_serialization=modern)
        yield name, stream.getvalue()


def arguments():
    """Blur kernels and angle lists."""
    import imagecodecs

    yield "kernel.npy", saved(KERNEL)
    yield "kernel.png", imagecodecs.png_encode((KERNEL * 255).astype(np.uint8))
    yield "angles.txt", "\n".join(f"{angle:.4g}" for angle in np.linspace(0, 180, 12, endpoint=False)).encode()
    yield "angles.csv", b"0,22.5,45,67.5,90,112.5,135,157.5"


def saved(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(members):
    """A .npz whose members carry no date."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def main():
    CORPUS.mkdir(exist_ok=True)
    for part in (pictures, tiffs, clinics, containers, weights, arguments):
        for name, data in part():
            (CORPUS / name).write_bytes(data)
            print(f"{name:20} {len(data):6} bytes, CRC {zlib.crc32(data):08x}")


if __name__ == "__main__":
    main()
