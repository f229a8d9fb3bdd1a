"""Files of measurements: what was written is what is read, in the stated order of axes, and what cannot be read says
why.
"""

import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

from safi_fast import io
from safi_fast.errors import BackendError, ImageFileError, InputError
from safi_fast.io import bart, measurements, packages
from safi_fast.io.results import write_result

RNG = np.random.default_rng(5)
S, C, H, W = 2, 3, 12, 10


def complex_array(*shape):
    return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(np.complex64)


KSPACE = complex_array(S, C, H, W)


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="HDF5 files need the extra `medical`")


def fastmri(h5py, path, kspace=KSPACE, **more):
    with h5py.File(path, "w") as file:
        for name, values in {"kspace": kspace, **more}.items():
            file[name] = values
    return path


class TestBart:
    @pytest.mark.parametrize("shape", [(7,), (H, W), (1, H, W, C, 1), (2, 3, 4, 5)])
    def test_round_trip(self, tmp_path, shape):
        array = complex_array(*shape)
        io.write_cfl(tmp_path / "a.cfl", array)
        for name in ("a.cfl", "a.hdr", "a"):
            back = io.read_cfl(tmp_path / name)
            np.testing.assert_array_equal(back.reshape(shape), array)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cfl", "a.hdr"]

    def test_bytes_are_those_of_the_format(self, tmp_path):
        """Two rows, three columns: the first dimension is the fastest."""
        (tmp_path / "a.hdr").write_text("# Dimensions\n2 3 1 \n# Command\nsomething\n")
        (tmp_path / "a.cfl").write_bytes(np.arange(6).astype("<c8").tobytes())
        np.testing.assert_array_equal(io.read_cfl(tmp_path / "a.cfl"), [[0, 2, 4], [1, 3, 5]])

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_rows_and_columns_are_the_first_two_that_are_there(self, tmp_path, place):
        stored = np.moveaxis(KSPACE, (0, 1), (3, 2))  # (H, W, C, S)
        stored = np.expand_dims(stored, place)
        sizes = (*stored.shape[:4], *[1] * 9, S)
        io.write_cfl(tmp_path / "a.cfl", stored.reshape(sizes))
        found = io.read_kspace(tmp_path / "a.cfl", coils=True)
        np.testing.assert_array_equal(found.array, KSPACE)
        assert found.layout == "BART"

    @pytest.mark.parametrize(
        ("shape", "message"),
        [((4, 5, 6), "3 of the first three are larger than 1; expected two"), ((4,), "1 of the first three")],
    )
    def test_other_dimensions(self, tmp_path, shape, message):
        io.write_cfl(tmp_path / "a.cfl", complex_array(*shape))
        with pytest.raises(ImageFileError, match=message):
            io.read_kspace(tmp_path / "a.cfl", coils=True)

    def test_sets_of_maps_are_refused(self, tmp_path):
        io.write_cfl(tmp_path / "a.cfl", complex_array(1, H, W, C, 2))
        with pytest.raises(ImageFileError, match="dimension 4 is 2; expected 1"):
            io.read_maps(tmp_path / "a.cfl")

    def test_damage(self, tmp_path):
        io.write_cfl(tmp_path / "a.cfl", complex_array(4, 5))
        data = (tmp_path / "a.cfl").read_bytes()
        (tmp_path / "a.cfl").write_bytes(data[:-8])
        with pytest.raises(ImageFileError, match=r"has 152 bytes, but a\.hdr says 4 x 5 complex numbers, 160 bytes"):
            io.read_cfl(tmp_path / "a.cfl")
        (tmp_path / "a.hdr").write_text("# Dimensions\n4 five\n")
        with pytest.raises(ImageFileError, match="is no BART header"):
            io.read_cfl(tmp_path / "a.cfl")
        (tmp_path / "a.hdr").unlink()
        with pytest.raises(ImageFileError, match=r"a\.hdr: cannot be read \(no such file"):
            io.read_cfl(tmp_path / "a.cfl")
        with pytest.raises(InputError, match="expected 1 to 16 dimensions"):
            bart.write_cfl(tmp_path / "b.cfl", np.zeros((1,) * 17))


class TestHdf5:
    def test_fastmri(self, tmp_path, h5py):
        mask = np.arange(W) % 2 == 0
        rss = RNG.random((S, 8, 8)).astype(np.float32)
        found = io.read_kspace(fastmri(h5py, tmp_path / "a.h5", mask=mask, reconstruction_rss=rss), coils=True)
        np.testing.assert_array_equal(found.array, KSPACE)
        np.testing.assert_array_equal(found.mask, mask[None])
        np.testing.assert_array_equal(found.rss, rss)
        one_coil = io.read_kspace(fastmri(h5py, tmp_path / "b.h5", KSPACE[:, 0]), coils=False)
        np.testing.assert_array_equal(one_coil.array, KSPACE[:, :1])
        assert (one_coil.layout, one_coil.mask) == ("shw", None)

    def test_wrong_contents(self, tmp_path, h5py):
        with pytest.raises(ImageFileError, match=r"has kspace of shape \(12, 10\); expected kspace \(slices, H, W\)"):
            io.read_kspace(fastmri(h5py, tmp_path / "a.h5", KSPACE[0, 0]), coils=False)
        (tmp_path / "b.h5").write_bytes(b"hello" * 100)
        with pytest.raises(ImageFileError, match=r"b\.h5: is no HDF5 file"):
            io.read_kspace(tmp_path / "b.h5", coils=False)
        whole = fastmri(h5py, tmp_path / "c.h5").read_bytes()
        (tmp_path / "d.h5").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ImageFileError, match=r"d\.h5: is truncated, damaged or not an HDF5 file"):
            io.read_kspace(tmp_path / "d.h5", coils=False)

    def test_without_h5py(self, tmp_path, h5py, monkeypatch):
        fastmri(h5py, tmp_path / "a.h5")
        monkeypatch.setattr(packages, "find_spec", lambda name: None)
        with pytest.raises(BackendError, match=r"reading HDF5 needs h5py; install it with pip install h5py$"):
            io.read_kspace(tmp_path / "a.h5", coils=True)

    def test_matlab_7_3_has_the_shape_of_matlab(self, tmp_path, h5py):
        """MATLAB stores its first dimension fastest, so HDF5 sees the axes turned round."""
        array, cells = RNG.random((2, 3)), [RNG.random((2, 5)), RNG.random((4, 4))]
        with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
            file["x"] = array.T
            file["z"] = np.array([(1, 2)], dtype=[("real", "f8"), ("imag", "f8")])
            file["s/inner"] = array.T
            cell = file.create_dataset("cell", (2, 1), h5py.ref_dtype)
            for number, values in enumerate(cells):
                file[f"#refs#/{number}"] = values.T
                cell[number, 0] = file[f"#refs#/{number}"].ref
        np.testing.assert_array_equal(io.read_array(tmp_path / "a.mat::x"), array)
        np.testing.assert_array_equal(io.read_array(tmp_path / "a.mat", "s.inner"), array)
        np.testing.assert_array_equal(io.read_array(tmp_path / "a.mat::cell.1"), cells[1])
        assert io.read_array(tmp_path / "a.mat::z") == 1 + 2j
        for name, message in (
            ("cell.2", "has no variable 'cell.2'; it holds cell, s, x, z"),
            ("s", "s is a group of inner"),
        ):
            with pytest.raises(ImageFileError, match=message):
                io.read_array(tmp_path / "a.mat", name)


class TestArrays:
    def test_npy_npz_and_tiff(self, tmp_path):
        array = RNG.random((H, W)).astype(np.float32)
        np.save(tmp_path / "a.npy", array)
        np.savez(tmp_path / "a.npz", one=array, two=array + 1)
        np.savez(tmp_path / "b.npz", one=array, note="text", number=3)
        tifffile.imwrite(tmp_path / "a.tif", array)
        for name in ("a.npy", "a.npz::one", "b.npz", "a.tif"):
            np.testing.assert_array_equal(io.read_array(tmp_path / name), array)
        with pytest.raises(ImageFileError, match=r"holds one \(12, 10\), two \(12, 10\); say which with --variable"):
            io.read_array(tmp_path / "a.npz")
        with pytest.raises(ImageFileError, match="has no variable 'three'"):
            io.read_array(tmp_path / "a.npz", "three")

    def test_matlab(self, tmp_path):
        cells = np.empty((1, 2), object)
        cells[0, 0], cells[0, 1] = np.ones((3, 3)), RNG.random((2, 5))
        struct = {"sino": RNG.random((4, 6)), "geometry": {"angles": np.arange(4.0)}, "text": "abc"}
        scipy.io.savemat(tmp_path / "a.mat", {"data": struct, "cells": cells, "Img": KSPACE[0, 0]})
        np.testing.assert_array_equal(io.read_array(tmp_path / "a.mat::data.sino"), struct["sino"])
        np.testing.assert_array_equal(io.read_array(tmp_path / "a.mat::cells.1"), cells[0, 1])
        np.testing.assert_array_equal(io.read_vector(tmp_path / "a.mat::data.geometry.angles"), np.arange(4.0))
        np.testing.assert_array_equal(io.read_array(tmp_path / "a.mat"), KSPACE[0, 0])
        with pytest.raises(ImageFileError, match="data has dtype object with the fields sino, geometry, text"):
            io.read_array(tmp_path / "a.mat", "data")
        (tmp_path / "b.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
        with pytest.raises(ImageFileError, match=r"b\.mat: is truncated, damaged or not a \.mat file"):
            io.read_array(tmp_path / "b.mat")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("missing.npy", None, "no such file"),
            ("empty.mat", b"", "the file is empty"),
            ("a.npy", b"\x93NUMPY broken", "is truncated, damaged or not a NPY file"),
            ("a.xyz", b"1", r"unsupported extension '\.xyz'; use one of \.cfl, \.npy"),
        ],
    )
    def test_unreadable(self, tmp_path, name, content, message):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFileError, match=message):
            io.read_array(tmp_path / name)

    def test_objects_are_not_unpickled(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([print], object), allow_pickle=True)
        with pytest.raises(ImageFileError, match="damaged or not a NPY file"):
            io.read_array(tmp_path / "a.npy")

    def test_colour_is_no_measurement(self, tmp_path):
        Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / "a.png")
        with pytest.raises(ImageFileError, match="is a colour image"):
            io.read_array(tmp_path / "a.png")


class TestLayouts:
    @pytest.mark.parametrize(
        ("stored", "layout", "expected"),
        [
            (KSPACE, None, KSPACE),
            (KSPACE[0], "chw", KSPACE[:1]),
            (KSPACE[:, 0], "shw", KSPACE[:, :1]),
            (KSPACE[0, 0], None, KSPACE[:1, :1]),
            (KSPACE[0].transpose(1, 2, 0), "hwc", KSPACE[:1]),
            (KSPACE[0, 0].T, "wh", KSPACE[:1, :1]),
        ],
    )
    def test_kspace(self, tmp_path, stored, layout, expected):
        np.save(tmp_path / "a.npy", stored)
        np.testing.assert_array_equal(io.read_kspace(tmp_path / "a.npy", None, layout, coils=False).array, expected)

    def test_three_axes_are_coils_only_where_coils_are_expected(self, tmp_path):
        np.save(tmp_path / "a.npy", KSPACE[0])
        np.testing.assert_array_equal(io.read_kspace(tmp_path / "a.npy", coils=True).array, KSPACE[:1])
        with pytest.raises(ImageFileError, match="may be slices or coils; say which with --layout shw or --layout chw"):
            io.read_kspace(tmp_path / "a.npy", coils=False)

    def test_sinograms(self, tmp_path):
        sinograms = RNG.random((S, 7, 5)).astype(np.float32)
        tifffile.imwrite(tmp_path / "a.tif", sinograms)
        tifffile.imwrite(tmp_path / "p.tif", sinograms.transpose(1, 0, 2))
        np.testing.assert_array_equal(io.read_sinogram(tmp_path / "a.tif")[0], sinograms)
        np.testing.assert_array_equal(io.read_sinogram(tmp_path / "p.tif", None, "vsd")[0], sinograms)
        np.save(tmp_path / "a.npy", KSPACE[0])
        with pytest.raises(ImageFileError, match="the sinogram is complex64; expected real line integrals"):
            io.read_sinogram(tmp_path / "a.npy")

    @pytest.mark.parametrize("layout", ["hx", "hhw", "cw", "h"])
    def test_bad_words(self, tmp_path, layout):
        np.save(tmp_path / "a.npy", KSPACE[0])
        with pytest.raises(
            InputError, match=f"layout is '{layout}'; expected h, w and maybe others of s slices, c coils"
        ):
            io.read_kspace(tmp_path / "a.npy", None, layout, coils=False)

    def test_that_do_not_fit(self, tmp_path):
        np.save(tmp_path / "a.npy", KSPACE[0])
        with pytest.raises(ImageFileError, match=r"has shape \(3, 12, 10\); expected 4 axes for the layout 'schw'"):
            io.read_kspace(tmp_path / "a.npy", None, "schw", coils=False)
        np.save(tmp_path / "b.npy", np.abs(KSPACE[0, 0]))
        with pytest.raises(ImageFileError, match="k-space is float32; expected complex numbers"):
            io.read_kspace(tmp_path / "b.npy", coils=False)
        np.save(tmp_path / "c.npy", KSPACE[:, :0])
        with pytest.raises(ImageFileError, match="holds complex64 of shape"):
            io.read_kspace(tmp_path / "c.npy", coils=False)
        with pytest.raises(ImageFileError, match="expected at most the axes s, c, h, w"):
            measurements.arrange(np.zeros((2,) * 5), "", "schw", "a.npy")


class TestMasksAndVectors:
    def test_masks(self, tmp_path):
        mask = RNG.random((H, W)) < 0.5
        np.save(tmp_path / "a.npy", mask)
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "a.png")
        io.write_cfl(tmp_path / "a.cfl", mask[None])
        scipy.io.savemat(tmp_path / "a.mat", {"m": mask.astype(float)})
        for name in ("a.npy", "a.png", "a.cfl", "a.mat"):
            found = io.read_mask(tmp_path / name)
            np.testing.assert_array_equal(found, mask)
            assert found.dtype == bool
        np.save(tmp_path / "b.npy", mask[0])
        np.testing.assert_array_equal(io.read_mask(tmp_path / "b.npy"), mask[:1])
        np.save(tmp_path / "c.npy", np.arange(4.0))
        with pytest.raises(
            ImageFileError, match="has 4 different values from 0 to 3; expected a mask of 0 and one other"
        ):
            io.read_mask(tmp_path / "c.npy")

    def test_vectors(self, tmp_path):
        (tmp_path / "a.txt").write_text("0, 1.5\n3 4.5\n")
        np.save(tmp_path / "a.npy", np.array([[0, 1.5, 3, 4.5]]))
        for name in ("a.txt", "a.npy"):
            np.testing.assert_array_equal(io.read_vector(tmp_path / name), [0, 1.5, 3, 4.5])
        (tmp_path / "b.txt").write_text("0 one")
        with pytest.raises(ImageFileError, match="'one'; expected numbers"):
            io.read_vector(tmp_path / "b.txt")
        np.save(tmp_path / "b.npy", np.zeros((2, 2)))
        with pytest.raises(ImageFileError, match="expected real numbers in a row"):
            io.read_vector(tmp_path / "b.npy")


class TestResults:
    def test_numbers(self, tmp_path):
        for array in (KSPACE[0, 0], KSPACE[:, 0], np.abs(KSPACE[:, 0])):
            assert write_result(tmp_path / "a.npy", array) is None
            back = np.load(tmp_path / "a.npy")
            np.testing.assert_array_equal(back, array)
            assert back.dtype == array.dtype
            write_result(tmp_path / "a.cfl", array)
            stack = io.read_kspace(tmp_path / "a.cfl", coils=False).array[:, 0]
            np.testing.assert_array_equal(stack, array.reshape(-1, H, W))

    def test_magnitudes(self, tmp_path):
        image = KSPACE[0, 0]
        white = write_result(tmp_path / "a.png", image)
        assert white == pytest.approx(np.abs(image).max())
        levels = io.read_image(tmp_path / "a.png").array
        assert levels.dtype == np.uint16
        np.testing.assert_allclose(levels / 65535 * white, np.abs(image), atol=white / 65535)
        assert write_result(tmp_path / "a.tif", image.real, 0.5) == 0.5
        np.testing.assert_array_equal(
            io.read_image(tmp_path / "a.tif").array, np.rint(image.real.astype(float).clip(0, 0.5) / 0.5 * 65535)
        )
        write_result(tmp_path / "b.tif", KSPACE[:, 0])
        assert io.read_image(tmp_path / "b.tif").array.shape == (S, H, W)

    @pytest.mark.parametrize(
        ("name", "array", "error", "message"),
        [
            ("a.png", KSPACE[:, 0], ImageFileError, "2 slices do not fit into one PNG file"),
            ("a.jpg", KSPACE[0, 0], ImageFileError, r"unsupported extension '\.jpg'; use one of \.npy, \.cfl"),
            ("a.npy", KSPACE, InputError, r"expected \(H, W\) or \(slices, H, W\)"),
            ("a.npy", np.full((2, 2), np.nan), InputError, "holds NaN or infinity"),
        ],
    )
    def test_refused(self, tmp_path, name, array, error, message):
        with pytest.raises(error, match=message):
            write_result(tmp_path / name, array)
        assert not list(tmp_path.iterdir())


def test_folders_are_listed(tmp_path):
    for name in ("b.npy", "a.npy", "a.txt", ".hidden.npy"):
        (tmp_path / name).touch()
    found = io.list_measurements([tmp_path, "other.cfl"])
    assert [path.name for path in found] == ["a.npy", "b.npy", "other.cfl"]
    with pytest.raises(ImageFileError, match=r"the folder holds no measurements \(\.tif\)"):
        io.list_measurements([tmp_path], (".tif",))


class TestRealFiles:
    def test_bart(self, data_folder):
        found = io.read_kspace(data_folder / "mri" / "espirit_und2x2.cfl", coils=True).array
        assert found.shape == (1, 8, 230, 180)
        peak = np.unravel_index(np.abs(found[0]).sum(0).argmax(), (230, 180))
        assert np.abs(np.array(peak) - (115, 90)).max() <= 2

    def test_matlab_structs_cells_and_choices(self, data_folder, h5py):
        htc = data_folder / "ct" / "htc2022" / "tb_subsample_30.mat"
        assert io.read_sinogram(htc, "CtDataLimited.sinogram")[0].shape == (1, 61, 560)
        angles = io.read_vector(f"{htc}::CtDataLimited.parameters.angles")
        np.testing.assert_allclose(np.diff(angles), 0.5)
        kernel = io.read_array(data_folder / "blur" / "Levin09.mat::kernels.3")
        assert kernel.shape == (27, 27)
        assert kernel.sum() == pytest.approx(1, abs=1e-3)
        with pytest.raises(ImageFileError, match="say which with --variable"):
            io.read_mask(data_folder / "mri" / "masks" / "Q_Random30.mat")
        assert io.read_mask(data_folder / "mri" / "masks" / "Q_Random30.mat::Q1").shape == (256, 256)

    def test_tiff_sinogram(self, data_folder):
        sinograms, layout = io.read_sinogram(data_folder / "ct" / "tooth.tiff")
        assert (sinograms.shape, layout) == ((1, 181, 400), "vd")
