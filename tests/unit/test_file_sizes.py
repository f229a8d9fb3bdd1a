"""Files that declare more than they hold, and MATLAB files whose parts do not fit, are refused before memory is taken
for them.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from fuzz.formats import CORPUS
from scipy import sparse
from scipy.io import savemat

from safi_fast.errors import ImageFileError
from safi_fast.io import read_array, read_image, read_kspace, sizes
from safi_fast.io.containers import read_named
from safi_fast.io.matlab import require_sound

h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py (extra 'medical')")

CANNOT_HOLD = r"it declares {} values, \d+ MiB, which its \d+ bytes cannot hold"


@pytest.fixture
def file(tmp_path):
    """Writes bytes under a name and gives the path."""

    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def npy(shape):
    """A header of an array of float64, and 16 of its values."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(128)


def test_a_png_of_a_thousand_million_pixels(file):
    data = bytearray((CORPUS / "grey.png").read_bytes())
    data[16:24] = struct.pack(">II", 32_000, 32_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ImageFileError, match=CANNOT_HOLD.format("32000 x 32000 x 1")):
        read_image(file("a.png", data))


def test_a_jpeg_of_many_pixels(file):
    data = bytearray((CORPUS / "grey.jpg").read_bytes())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 9_000, 9_000)
    with pytest.raises(ImageFileError, match=CANNOT_HOLD.format("9000 x 9000 x 1")):
        read_image(file("a.jpg", data))


def test_a_tiff_of_many_pixels(file):
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((20, 20), np.uint8))
    data = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as made:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = made.pages[0].tags[name]
            data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = (30_000).to_bytes(
                tag.valuebytecount, "little"
            )
    with pytest.raises(ImageFileError, match=CANNOT_HOLD.format("30000 x 30000")):
        read_image(file("a.tif", data))


def test_a_tiff_with_a_tile_far_larger_than_the_image(file):
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((20, 20), np.uint8), tile=(16, 16), compression="zlib")
    data = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as made:
        for name in ("TileWidth", "TileLength"):
            tag = made.pages[0].tags[name]
            data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = (32_768).to_bytes(
                tag.valuebytecount, "little"
            )
    with pytest.raises(ImageFileError, match=CANNOT_HOLD.format("32768 x 32768")):
        read_image(file("a.tif", data))


@pytest.mark.parametrize("read", [read_image, read_array])
def test_an_npy_of_many_numbers(file, read):
    path = file("a.npy", npy((40_000, 40_000)))
    with pytest.raises(ImageFileError, match=CANNOT_HOLD.format("40000 x 40000")):
        read(path)


def test_an_npy_with_a_header_of_gigabytes(file):
    path = file("a.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{'descr'")
    with pytest.raises(ImageFileError, match=CANNOT_HOLD.format(2**31)):
        read_array(path)


def test_a_damaged_header_of_an_npy_is_no_other_exception(file):
    """NumPy reads headers with a tokenizer of Python's, whose TokenError is no ValueError."""
    data = npy((4, 4)).replace(b"}", b"(")
    with pytest.raises(ImageFileError, match="is truncated, damaged or not a NPY file"):
        read_array(file("a.npy", data))


def test_an_npz_of_many_numbers(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kspace.npy", npy((40_000, 40_000)))
    with pytest.raises(ImageFileError, match=CANNOT_HOLD.format("40000 x 40000")):
        read_array(tmp_path / "a.npz")


def test_an_hdf5_dataset_that_was_never_written(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made.create_dataset("kspace", (1, 100_000, 100_000), "c8", chunks=(1, 1000, 1000))
    for read in (lambda path: read_array(path, "kspace"), lambda path: read_kspace(path, coils=False)):
        with pytest.raises(ImageFileError, match=CANNOT_HOLD.format("1 x 100000 x 100000")):
            read(tmp_path / "a.h5")


def test_sizes_that_can_be_are_let_through():
    sizes.require_plausible((8_000, 8_000), 1, 100, 1)  # small enough for any file
    sizes.require_plausible((30_000, 30_000), 2, 2 * 30_000**2 // 1_000, sizes.DEFLATE)
    with pytest.raises(ValueError, match=CANNOT_HOLD.format("30000 x 30000")):
        sizes.require_plausible((30_000, 30_000), 2, 2 * 30_000**2 // 1_100, sizes.DEFLATE)


def test_black_images_are_read(file):
    """Nothing compresses further."""
    import imagecodecs

    black = np.zeros((9_000, 9_000), np.uint8)
    assert not read_image(file("a.png", imagecodecs.png_encode(black, level=9))).array.any()


# -------------------------------------------------------------------------------------------------------------- MATLAB


def matlab(compressed=False, **arrays):
    stream = io.BytesIO()
    savemat(stream, arrays, do_compression=compressed)
    return stream.getvalue()


VALUES = {
    "real": np.arange(6.0).reshape(2, 3),
    "complex": np.arange(4) * 1j,
    "bytes": np.zeros((2, 3, 4), np.uint8),
    "empty": np.zeros((0, 3)),
    "text": "grüße",
    "sparse": sparse.eye(4).tocsc() * (1 + 1j),
    "cells": np.array([np.arange(3), "x", np.array([1j])], object),
    "struct": {"a": np.ones(3), "b": {"c": "deep"}},
}


@pytest.mark.parametrize("compressed", [False, True])
def test_every_kind_of_array_is_sound(file, compressed):
    path = file("a.mat", matlab(compressed, **VALUES))
    require_sound(path)
    np.testing.assert_array_equal(read_named(path, "real"), VALUES["real"])
    np.testing.assert_array_equal(read_named(path, "struct.a"), [[1, 1, 1]])


def test_files_of_version_4_are_read(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.eye(3) * 1j, "y": np.arange(3.0)}, format="4")
    np.testing.assert_array_equal(read_named(tmp_path / "a.mat", "x"), np.eye(3) * 1j)
    data = bytearray((tmp_path / "a.mat").read_bytes())
    data[4:8] = struct.pack("<I", 10**9)
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(ImageFileError, match="it declares 1000000000 x 3 values, more than its"):
        read_named(tmp_path / "a.mat", "x")


def changed(data, old, new, count=1):
    assert data.count(old) >= 1
    return data.replace(old, new, count)


NUMBERS = struct.pack("<II", 9, 48)  # the tag of six float64


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (NUMBERS, struct.pack("<II", 62, 48), "an element has type 62; expected numbers or characters"),
        (NUMBERS, struct.pack("<II", 9, 4800), "an element of 4800 bytes lies in an array that has 48 left"),
        (
            struct.pack("<I", 6 | 6 << 8)[:1] + b"\0\0\0\x08\0\0\0\x06",
            b"\x06\0\0\0\x08\0\0\0\x1e",
            "class 30, which is unknown",
        ),
        (struct.pack("<II", 5, 8), struct.pack("<II", 7, 8), "an element has type 7 and 8 bytes; expected type 5"),
    ],
)
def test_parts_that_do_not_fit_are_named(file, old, new, message):
    """The first ends SciPy 1.17 with a segmentation fault, and this process with it."""
    path = file("a.mat", changed(matlab(real=VALUES["real"]), old, new))
    with pytest.raises(ImageFileError, match=message):
        read_named(path, "real")


def test_the_missing_half_of_complex_numbers(file):
    data = bytearray(matlab(real=VALUES["real"]))
    data[128 + 16 + 1] |= 0x08  # says that they are complex
    with pytest.raises(ImageFileError, match="lies in an array that has 0 left"):
        read_named(file("a.mat", data), "real")


def test_more_cells_than_bytes(file):
    data = changed(
        matlab(cells=np.array([1.0, 2.0], object)), struct.pack("<II", 1, 2), struct.pack("<II", 10**5, 10**4)
    )
    with pytest.raises(ImageFileError, match=r"it declares 1000000000 arrays in \d+ bytes"):
        read_named(file("a.mat", data), "cells.0")


def test_a_file_that_ends_early(file):
    data = matlab(real=VALUES["real"])
    with pytest.raises(ImageFileError, match="reaches beyond its end"):
        read_named(file("a.mat", data[:-8]), "real")
    packed = matlab(True, real=VALUES["real"])
    with pytest.raises(ImageFileError, match=r"is truncated, damaged or not a \.mat file"):
        read_named(file("a.mat", packed[:140]), "real")
