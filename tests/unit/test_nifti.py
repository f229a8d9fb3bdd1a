"""NIfTI volumes: slices along the third axis, values by slope and intercept, and headers kept byte for byte."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from safi_fast.cli.main import main
from safi_fast.errors import BackendError, ImageFileError, InputError
from safi_fast.io import packages, read_image, write_image

nibabel = pytest.importorskip("nibabel", reason="NIfTI files need the extra `medical`")

SAMPLES = Path(nibabel.__file__).parent / "tests" / "data"
RNG = np.random.default_rng(11)
X, Y, Z = 18, 15, 3


def volume(path, values, slope=None, intercept=0.0, kind=nibabel.Nifti1Image, order="<"):
    """A file with an affine, a description and an extension; values as they are stored."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(values.dtype)
    header["descrip"] = b"made here"
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"hello"))
    image = kind(values, np.diag([2, 3, 4, 1.0]), header)
    image.header.set_slope_inter(1 if slope is None else slope, intercept)
    image.to_filename(path)
    data = bytearray(path.read_bytes())
    if slope is not None and kind is nibabel.Nifti1Image:  # what nibabel scales by itself when it writes
        data[112:120] = np.array([slope, intercept], f"{order}f4").tobytes()
        start = int(image.header["vox_offset"]) or len(data) - values.nbytes
        data[start:] = values.astype(values.dtype.newbyteorder(order)).tobytes("F")
        path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("name", ["anatomical.nii", "example_nifti2.nii.gz", "functional.nii", "standard.nii.gz",
                                  "reoriented_anat_moved.nii", "example4d.nii.gz"])  # fmt: skip
def test_samples_come_back_byte_for_byte(tmp_path, name):
    before = read_image(SAMPLES / name)
    image = nibabel.load(SAMPLES / name)
    x, y = image.shape[:2]
    slices = np.asanyarray(image.dataobj).T.reshape(-1, y, x).astype(before.array.dtype)
    np.testing.assert_array_equal(before.array, slices)
    assert write_image(tmp_path / name, before.array, before) == ()
    old, new = ((folder / name).read_bytes() for folder in (SAMPLES, tmp_path))
    if name.endswith(".gz"):
        old, new = gzip.decompress(old), gzip.decompress(new)
    assert new == old


def test_slices_lie_along_the_third_axis(tmp_path):
    values = RNG.integers(0, 255, (X, Y, Z)).astype(np.uint8)
    found = read_image(volume(tmp_path / "a.nii", values))
    assert (found.array.dtype, found.data_range, found.channel_axis) == (np.uint8, 255, None)
    for z in range(Z):
        np.testing.assert_array_equal(found.array[z], values[:, :, z].T)


@pytest.mark.parametrize("order", ["<", ">"])
def test_slope_and_intercept(tmp_path, order):
    values = RNG.integers(-100, 100, (X, Y, Z)).astype(np.int16)
    path = volume(tmp_path / "a.nii", values, 0.5, 10.0, order=order)
    before = read_image(path)
    assert before.array.dtype == np.float32
    np.testing.assert_array_equal(before.array, 0.5 * values.T + 10)
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj).T, before.array)
    assert write_image(tmp_path / "b.nii", before.array + 0.2, before) == ()
    assert (tmp_path / "b.nii").read_bytes() == path.read_bytes()
    (lost,) = write_image(tmp_path / "b.nii", np.full_like(before.array, 1e6), before)
    assert lost == "values beyond -16374 to 16393.5, which int16 holds (clipped)"
    assert (nibabel.load(tmp_path / "b.nii").dataobj.get_unscaled() == 32767).all()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_every_dtype(tmp_path, dtype, kind):
    values = RNG.random((X, Y)).astype(dtype) if dtype[0] == "f" else RNG.integers(0, 100, (X, Y)).astype(dtype)
    path = volume(tmp_path / "a.nii", values, kind=kind)
    before = read_image(path)
    np.testing.assert_array_equal(before.array, values.T.astype(np.float32) if dtype[0] == "f" else values.T)
    assert before.data_range == {"f": 1.0, "u1": 255.0, "u2": 65535.0}.get(dtype[0] if dtype[0] == "f" else dtype)
    assert write_image(tmp_path / "b.nii.gz", before.array, before) == ()
    after = nibabel.load(tmp_path / "b.nii.gz")
    assert after.get_data_dtype() == (np.float32 if dtype == "f8" else dtype)
    np.testing.assert_array_equal(np.asanyarray(after.dataobj).T, before.array)
    np.testing.assert_array_equal(after.affine, np.diag([2, 3, 4, 1.0]))
    assert bytes(after.header["descrip"].item()) == b"made here"
    assert [bytes(extension.get_content()) for extension in after.header.extensions] == [b"hello"]
    if dtype[0] != "f":
        assert write_image(tmp_path / "b.nii", np.full(before.array.shape, 1e30), before) != ()
        assert np.asanyarray(nibabel.load(tmp_path / "b.nii").dataobj).min() > 2.0 ** (8 * int(dtype[1]) - 1) * 0.99 - 1


def test_what_other_formats_lose(tmp_path):
    before = read_image(volume(tmp_path / "a.nii", RNG.integers(0, 255, (X, Y, Z)).astype(np.uint8)))
    assert write_image(tmp_path / "a.tif", before.array, before) == ("NIfTI header",)
    after = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(after.array, before.array)
    with pytest.raises(ImageFileError, match="NIfTI needs an affine; only a result of a NIfTI file can be one"):
        write_image(tmp_path / "b.nii", after.array, after)
    larger = before.resized((Z, 2 * Y, 2 * X), None)
    with pytest.raises(
        ImageFileError, match=r"\(3, 30, 36\) is not stored as NIfTI, whose affine is of 18 x 15 x 3 vo"
    ):
        write_image(tmp_path / "b.nii", larger.array, larger)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "a.tif"]


def test_refusals(tmp_path, monkeypatch):
    whole = volume(tmp_path / "a.nii", RNG.random((X, Y, Z)).astype(np.float32)).read_bytes()
    wrong = {
        "short.nii": (whole[:-1], r"is truncated: it has \d+ bytes, and voxels from \d+ to \d+"),
        "head.nii": (whole[:100], "is no NIfTI file; expected version 1 or 2"),
        "pair.nii": (whole[:344] + b"ni1\0" + whole[348:], r"voxels in another file .* save it as one \.nii"),
        "gzip.nii.gz": (gzip.compress(whole)[:-20], "is a damaged gzip file"),
        "huge.nii": (whole[:42] + b"\xff\x7f\xff\x7f\xff\x7f" + whole[48:], r"declares 32767 x 32767 x 32767 values"),
        "none.nii": (whole[:42] + b"\0\0" + whole[44:], r"has the shape \(0, 15, 3\); expected"),
        "complex.nii": (
            whole[:70] + b"\x20\0" + whole[72:],
            "voxels of type complex64; expected integers or real floats",
        ),
    }
    for name, (data, message) in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageFileError, match=rf"{name}: .*{message}|{name}: {message}"):
            read_image(tmp_path / name)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"NIfTI needs nibabel; install it with pip install nibabel$"):
        read_image(tmp_path / "a.nii")


def test_signed_integers_have_no_known_range(tmp_path):
    before = read_image(volume(tmp_path / "a.nii", RNG.integers(-9, 9, (X, Y, Z)).astype(np.int16)))
    with pytest.raises(InputError, match="image has dtype int16, whose range is not known; pass data_range"):
        before.meaning()


def test_denoise(tmp_path, capsys):
    """In a folder of its own files, one of them compressed."""
    (tmp_path / "in").mkdir()
    values = (1000 + 200 * RNG.standard_normal((X, Y, Z))).astype(np.int16)
    volume(tmp_path / "in" / "a.nii", values)
    (tmp_path / "in" / "b.nii.gz").write_bytes(gzip.compress((tmp_path / "in" / "a.nii").read_bytes()))
    command = ["denoise", tmp_path / "in", "-o", tmp_path / "out", "--sigma", "25", "--data-range", "0", "2000"]
    quick = ["--model", "safi-gray-fast", "--schedule", "unrolled", "--max-outer", "1", "--max-inner", "4", "--json"]
    assert main([*map(str, command), *quick]) == 0
    assert [record["status"] for record in json.loads(capsys.readouterr().out)["files"]] == ["denoised"] * 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii", "b.nii.gz"]
    found = [nibabel.load(tmp_path / "out" / name) for name in ("a.nii", "b.nii.gz")]
    for image in found:
        assert image.get_data_dtype() == np.int16
        assert np.asanyarray(image.dataobj).std() < 0.9 * values.std()
        np.testing.assert_array_equal(image.affine, np.diag([2, 3, 4, 1.0]))
    np.testing.assert_array_equal(*(np.asanyarray(image.dataobj) for image in found))
