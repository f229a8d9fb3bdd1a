"""Axes of k-space and of its mask: what cannot be right is refused before any work, and the suggested cure gives the
right image.
"""

import re
import time

import numpy as np
import pytest
import scipy.io
from models import coil_maps, phantom, random_model
from scipy.ndimage import gaussian_filter

from safi_fast import InputError, Solver, io
from safi_fast.cli import main as cli
from safi_fast.errors import ImageFileError
from safi_fast.operators import FourierMRI, SenseMRI, estimate_maps
from safi_fast.operators.axes import doubt, peaks
from safi_fast.operators.maps import explained
from safi_fast.operators.sampling import fit

N = 48
RNG = np.random.default_rng(3)
LINES = (np.arange(N) % 3 == 0) | (abs(np.arange(N) - N // 2) < 5)
FEW = ("--max-outer", "2", "--max-iter", "60", "--strength", "1e-4")
SMALL = 0.2  # error of the image, as a share of its norm


def noisy_kspace(images):
    """Centred k-space with a little noise, as measured: nowhere exactly zero."""
    axes = (-2, -1)
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes), norm="ortho"), axes)
    return (k + 1e-4 * (RNG.standard_normal(k.shape) + 1j * RNG.standard_normal(k.shape))).astype(np.complex64)


IMAGE = phantom(N, N)
FULL = noisy_kspace(IMAGE)
COLUMNS, ROWS = FULL * LINES, FULL * LINES[:, None]


def error(image, truth=IMAGE):
    return np.linalg.norm(abs(image) - truth) / np.linalg.norm(truth)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: cli.main(["reconstruct", "mri", *map(str, arguments), *FEW, "--model", str(model)])


class TestMaskOnTheCommandLine:
    def test_on_the_wrong_axis(self, run, capsys):
        """Lines of rows with a mask of (n,), which is one of columns."""
        np.save("k.npy", ROWS)
        np.save("m.npy", LINES)
        assert run("k.npy", "--mask", "m.npy", "-o", "x.npy") == 1
        line = capsys.readouterr().err
        assert "k.npy and mask do not fit: 54.2 % of the samples that the mask keeps are exactly zero, and " in line
        assert float(re.search(r"and ([\d.]+) % of the energy lies where", line)[1]) > 0.5
        assert "with its axes exchanged the mask fits: one of rows has the shape (H, 1)" in line
        assert "leave --mask out to take what is not zero, or pass --no-mask-check if zeros were measured" in line
        np.save("m.npy", LINES[:, None])
        assert run("k.npy", "--mask", "m.npy", "-o", "x.npy") == 0
        assert error(np.load("x.npy")) < SMALL
        assert run("k.npy", "-o", "y.npy") == 0
        np.testing.assert_array_equal(np.load("y.npy"), np.load("x.npy"))
        np.save("m.npy", LINES)
        assert run("k.npy", "--mask", "m.npy", "-o", "z.npy", "--no-mask-check") == 0
        assert error(np.load("z.npy")) > 1.2 * error(np.load("x.npy"))

    def test_of_ones_over_zero_filled_kspace(self, run, capsys):
        np.save("k.npy", COLUMNS)
        np.save("m.npy", np.ones((N, N)))
        assert run("k.npy", "--mask", "m.npy", "-o", "x.npy") == 1
        line = capsys.readouterr().err
        assert "54.2 % of the samples that the mask keeps are exactly zero; leave --mask out" in line
        assert line.count("\n") == 1
        assert run("k.npy", "-o", "x.npy") == 0
        assert error(np.load("x.npy")) < SMALL

    def test_that_leaves_out_what_was_measured(self, run):
        """Full k-space and a mask: under-sampling in retrospect, as before."""
        np.save("k.npy", FULL)
        np.save("m.npy", LINES)
        np.save("c.npy", COLUMNS)
        assert run("k.npy", "--mask", "m.npy", "-o", "x.npy") == 0
        assert run("c.npy", "-o", "y.npy", "--data-range", 1) == 0
        assert error(np.load("x.npy")) < SMALL

    def test_the_orders_are_looked_at_first(self, run, capsys):
        np.save("k.npy", COLUMNS)
        np.save("m.npy", np.fft.ifftshift(LINES))
        assert run("k.npy", "--mask", "m.npy", "-o", "x.npy") == 1
        assert "pass --mask-order fft" in capsys.readouterr().err
        assert run("k.npy", "--mask", "m.npy", "--mask-order", "fft", "-o", "x.npy") == 0
        assert error(np.load("x.npy")) < SMALL

    def test_of_rows_where_it_cannot_be(self, run, capsys):
        np.save("k.npy", noisy_kspace(phantom(N, 40)) * LINES[:, None])
        np.save("m.npy", LINES)
        assert run("k.npy", "--mask", "m.npy", "-o", "x.npy") == 1
        assert (
            "the mask has shape (1, 48); expected (48, 40), one of its sides 1, or (40,); one of rows is (48, 1)"
            in capsys.readouterr().err
        )

    def test_of_fastmri_counts_its_padding_as_sampled(self, run, tmp_path, capsys):
        """Columns of zeros on both sides are not measured; zeros between columns are a mask that does not fit."""
        h5py = pytest.importorskip("h5py", reason="HDF5 files need the extra `medical`")
        inside = abs(np.arange(N) - N // 2) < 20
        for name, sampled, mask in (("a", LINES & inside, LINES | ~inside), ("b", LINES, LINES | True)):
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                file["kspace"], file["mask"] = (FULL * sampled)[None], mask
        assert run("a.h5", "-o", "x.npy", "--report", "r.json") == 0
        assert '"of the file, without 9 columns of zeros around it"' in (tmp_path / "r.json").read_text()
        assert error(np.load("x.npy")) < SMALL
        assert run("b.h5", "-o", "y.npy") == 1
        assert "are exactly zero; or pass" not in (line := capsys.readouterr().err)
        assert "of the samples that the mask keeps are exactly zero; pass --no-mask-check" in line


class TestMaskInPython:
    @staticmethod
    def solve(y, mask, **options):
        operator = FourierMRI(mask, mask_order="centered", image="complex", shape=(N, N), **options)
        solver = Solver(random_model(lipschitz=1.1), backend="cpu")
        return solver.reconstruct(y, operator, strength=1e-4, box=None, max_outer=2, max_iter=60).image

    def test_on_the_wrong_axis(self):
        with pytest.raises(
            InputError, match=r"measurement and mask do not fit: 54\.2 % of .* axes exchanged the mask fits"
        ):
            self.solve(ROWS, LINES[None])
        assert error(self.solve(ROWS, LINES[:, None])) < SMALL
        self.solve(ROWS, LINES[None], check_mask=False)

    def test_of_ones(self):
        with pytest.raises(
            InputError, match=r"54\.2 % of the samples that the mask keeps are exactly zero; pass check_mask=False"
        ):
            self.solve(COLUMNS, np.ones((N, N)))
        assert error(self.solve(COLUMNS, COLUMNS != 0)) < SMALL

    def test_samples_that_the_mask_has_not(self):
        with pytest.raises(
            InputError,
            match=r"measurement is not zero in 1248 of 2304 places where the mask is, with .* % of the energy",
        ):
            self.solve(FULL, LINES[None])
        operator = FourierMRI(LINES[None], mask_order="centered", image="complex", shape=(N, N))
        cure = operator.check_measurement(FULL)
        np.testing.assert_array_equal(cure, COLUMNS)
        assert error(self.solve(cure, LINES[None])) < SMALL

    def test_coils_count_together_and_images_by_themselves(self):
        maps = coil_maps(3, N, N)
        operator = SenseMRI(maps, LINES[None], mask_order="centered")
        y = noisy_kspace(maps * IMAGE) * LINES
        solver = Solver(random_model(lipschitz=1.1), backend="cpu")
        options = {"strength": 1e-4, "box": None, "max_outer": 1, "max_iter": 2}
        silent = y.copy()
        silent[1] = 0
        with pytest.warns(
            match="holds what no image explains"
        ):  # a sample is measured if one coil has it; the map says more
            solver.reconstruct(silent, operator, **options)
        turned = noisy_kspace(maps * IMAGE) * LINES[:, None]
        with pytest.raises(InputError, match="measurement and mask do not fit"):
            solver.reconstruct(np.stack([y, turned]), operator, **options)
        solver.tune_strength(y, operator, [1e-4], holdout=0.2, box=None, max_outer=1, max_iter=2)

    def test_a_blank_slice_is_no_mistake(self):
        assert not self.solve(0 * COLUMNS, LINES[None]).any()

    @pytest.mark.parametrize("order", ["centered", "fft"])
    @pytest.mark.parametrize("side", [N, N - 1])
    def test_a_block_without_noise_has_zeros_of_its_own(self, order, side):
        """Simulated k-space; that of lines with a mask of ones has more of them, and none of noise has as many."""
        image = np.zeros((side, side))
        image[side // 4 : side // 2, side // 4 : side // 2] = 1
        y = np.fft.fft2(image, norm="ortho").astype(np.complex64)
        y[np.abs(y) < np.quantile(np.abs(y), 0.4)] = 0
        y = np.fft.fftshift(y) if order == "centered" else y

        def check(kspace):
            operator = FourierMRI(np.ones((side, side)), mask_order=order, image="complex")
            operator._check_own(kspace)

        assert 0.02 < np.mean(y == 0) < 0.5
        check(y)
        for wrong in (y * (1 + 1e-3j * np.arange(side)), y * (np.arange(side) % 3 == 0)):
            with pytest.raises(InputError, match="measurement and mask do not fit"):
                check(wrong)

    def test_a_few_zeros_are_none(self):
        y = COLUMNS.copy()
        y[0, np.flatnonzero(LINES)[:10]] = 0  # 10 of 1056
        assert fit(y, np.broadcast_to(LINES, (N, N))) == (10 / 1056, 0, 0.0)
        assert error(self.solve(y, LINES[None])) < SMALL


class TestMaps:
    """Of a square image: exchanged axes, and an origin in the corner, are found by what the
    maps explain of the signal.
    """

    MAPS = coil_maps(6, N, N)[:, :, ::-1] * np.linspace(0.2, 1, N)[:, None]  # nothing is symmetric
    KSPACE = noisy_kspace(MAPS * IMAGE) * ((np.arange(N) % 2 == 0) | (abs(np.arange(N) - N // 2) < 10))

    @pytest.mark.parametrize(
        ("stored", "said", "cure"),
        [
            (
                np.swapaxes(MAPS, 1, 2),
                "with rows and columns exchanged (--maps-layout with w before h)",
                ("--maps-layout", "cwh"),
            ),
            (np.fft.ifftshift(MAPS, (1, 2)), "with their origin moved to the middle of the image", None),
        ],
    )
    def test_exchanged(self, run, capsys, stored, said, cure):
        np.save("k.npy", self.KSPACE)
        np.save("s.npy", stored)
        assert run("k.npy", "--maps", "s.npy", "-o", "x.npy") == 1
        error_line = capsys.readouterr().err
        assert said in error_line
        share = re.search(r"the maps explain (\d+) % of the signal in the middle of k-space, but (\d+) %", error_line)
        assert int(share[1]) < 80
        assert int(share[2]) > 95
        if cure is None:
            np.save("s.npy", self.MAPS)
        assert run("k.npy", "--maps", "s.npy", "-o", "x.npy", *(cure or ())) == 0
        assert error(np.load("x.npy")) < SMALL

    def test_of_another_order_of_kspace(self, run):
        """At index 0 both ways: right as they are."""
        np.save("k.npy", np.fft.ifftshift(self.KSPACE, (1, 2)))
        np.save("s.npy", np.fft.ifftshift(self.MAPS, (1, 2)))
        assert run("k.npy", "--kspace-order", "fft", "--maps", "s.npy", "-o", "x.npy") == 0

    def test_explained(self, data_folder):
        k = io.read_kspace(data_folder / "mri" / "espirit_und2x2.cfl", coils=True).array[0]
        maps = estimate_maps(k, kspace_order="centered")
        assert explained(k, maps, "centered") > 0.99
        assert explained(k, maps[:, ::-1], "centered") < 0.9
        assert explained(k, np.fft.ifftshift(maps, (1, 2)), "centered") < 0.9


class TestCoilAxis:
    @pytest.mark.parametrize("coils", [8, 16])
    def test_last(self, run, capsys, coils):
        """(64, 72, coils) took 290 s to a ValueError, or gave garbage with exit status 0."""
        height, width = 64, 72
        image = phantom(height, width)
        k = noisy_kspace(coil_maps(coils, height, width) * image)
        k[..., (np.arange(width) % 2 == 1) & (abs(np.arange(width) - width // 2) > 12)] = 0
        np.save("k.npy", k.transpose(1, 2, 0))
        start = time.perf_counter()
        assert run("k.npy", "--estimate-maps", "-o", "x.npy") == 1
        assert time.perf_counter() - start < 60
        line = capsys.readouterr().err
        assert f"k-space of shape (64, 72, {coils}) is taken with the axes 'chw' (coils, rows, columns), but " in line
        assert (
            "the energy is concentrated along the 64 coils, as along an axis of k-space, and spread along the "
            f"{coils} columns" in line
        )
        assert "pass --layout hwc, or --no-order-check if it is right as it is" in line
        assert run("k.npy", "--estimate-maps", "--layout", "hwc", "-o", "x.npy") == 0
        assert error(np.load("x.npy"), image) < SMALL

    def test_last_in_python(self):
        k = noisy_kspace(coil_maps(8, 64, 72) * phantom(64, 72))
        with pytest.raises(InputError, match=r"kspace has shape \(64, 72, 8\), .*: pass kspace\.transpose\(2, 0, 1\)"):
            estimate_maps(k.transpose(1, 2, 0), kspace_order="centered")
        cured = k.transpose(1, 2, 0).transpose(2, 0, 1)
        maps = estimate_maps(cured, kspace_order="centered")
        truth = coil_maps(8, 64, 72)
        assert np.abs(np.abs((maps.conj() * truth).sum(0)) - 1)[phantom(64, 72) > 0.1].max() < 0.02

    @pytest.mark.parametrize(
        ("shape", "said", "stored", "cure"),
        [
            ((4, N, 40), "chw", "hcw", ("hcw",)),
            ((4, N, 40), "shw", "hws", ("hws",)),
            ((3, 4, N, 40), "schw", "hwcs", ("hwsc", "hwcs")),
            ((3, 4, N, 40), "schw", "hwsc", ("hwsc", "hwcs")),
            ((3, 4, N, 40), "schw", "shwc", ("shwc", "chws")),
            ((3, 4, N, 40), "schw", "schw", None),
            ((3, 4, N, 40), "cshw", "cshw", None),
            ((4, N, 40), "chw", "chw", None),
            ((40, N, 44), "chw", "chw", None),
        ],
    )
    @pytest.mark.parametrize("order", ["centered", "fft"])
    def test_layouts(self, shape, said, stored, cure, order):
        """An array whose axes are `stored` taken for `said`."""
        letters = "schw"[4 - len(shape) :] if "c" in said or len(shape) == 4 else "shw"
        coils = shape[letters.index("c")] if "c" in letters else 1
        image = phantom(*shape[-2:]) * (coil_maps(coils, *shape[-2:]) if coils > 1 else 1)
        weights = np.linspace(0.5, 1, shape[0])[(...,) + (None,) * (len(shape) - 1)]
        k = noisy_kspace(image * weights if "s" in letters else image)
        k = np.fft.ifftshift(k, (-2, -1)) if order == "fft" else k
        array = k.transpose([letters.index(letter) for letter in stored])
        found = doubt(array, said)
        assert (None if found is None else found.layouts) == cure
        if cure:
            assert stored in cure
            assert doubt(array, stored) is None

    def test_where_the_energy_says_nothing(self, tmp_path):
        """By the sides alone: more than 32 coils of few samples, more than 64 in fewer slices."""
        noise = RNG.standard_normal((64, 72, 8)) + 1j * RNG.standard_normal((64, 72, 8))
        assert doubt(noise, "chw").layouts == ("hwc",)
        assert "64 coils of 72 x 8 samples are not likely" in doubt(noise, "chw").seen
        assert doubt(noise[:24], "chw") is None
        assert doubt(noise.reshape(4, 16, 72, 8)[:, :8], "schw") is None
        assert doubt(np.tile(noise[:40, :40, 0], (6, 70, 1, 1)), "schw").layouts == ("cshw",)
        np.save(tmp_path / "k.npy", noise.astype(np.complex64))
        with pytest.raises(ImageFileError, match="pass --layout hwc, or --no-order-check"):
            io.read_kspace(tmp_path / "k.npy", coils=True)
        assert io.read_kspace(tmp_path / "k.npy", coils=True, check_axes=False).array.shape == (1, 64, 72, 8)

    def test_without_maps_the_layouts_that_fit_are_named(self, tmp_path):
        np.save(tmp_path / "k.npy", noisy_kspace(phantom(72, 64)[None] * np.ones((4, 1, 1))).transpose(1, 2, 0))
        with pytest.raises(
            ImageFileError, match=r"\(72, 64, 4\) may be slices or coils; .* --layout hws or --layout hwc"
        ):
            io.read_kspace(tmp_path / "k.npy", coils=False)

    def test_more_coils_than_there_are(self):
        noise = RNG.standard_normal((140, 72, 72))
        assert doubt(noise * 1j, "chw").layouts == ("shw",)
        assert doubt(noise[None], "schw").layouts == ("cshw",)
        assert doubt(noise[:100], "chw") is None

    def test_a_third_axis_of_kspace(self, tmp_path):
        volume = gaussian_filter(RNG.random((24, 32, 32)), 2)
        k = np.fft.fftshift(np.fft.fftn(volume))
        assert doubt(k, "shw").layouts == ()
        np.save(tmp_path / "k.npy", k)
        with pytest.raises(
            ImageFileError, match=r"along the 24 slices too, as along a third axis of k-space: .*; --no-order-check if"
        ):
            io.read_kspace(tmp_path / "k.npy", None, "shw", coils=False)
        slices = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(k, 0), axis=0), 0)  # the cure
        assert doubt(slices, "shw") is None

    def test_what_others_refuse(self):
        """Values that are not finite, energy nowhere, and arrays that do not fit the layout are for other checks."""
        bad = noisy_kspace(coil_maps(8, 24, 28) * phantom(24, 28)).transpose(1, 2, 0)
        assert doubt(bad, "chw") is not None
        bad[0, 0, 0] = np.nan
        assert doubt(bad, "chw") is None
        assert doubt(0 * FULL[None], "chw") is None
        assert doubt(FULL, "chw") is None
        assert doubt(FULL, "hw") is None


class TestRealData:
    def test_measured_kspace_is_accepted(self, data_folder):
        folder = data_folder / "mri"
        for name in ("espirit_full.cfl", "espirit_und2x2.cfl", "sigpy_cartesian_ksp.npy"):
            k = io.read_kspace(folder / name, coils=True).array[0]
            assert k.shape == (8, 230, 180)
            coils, *space = peaks(k)
            assert coils < 2
            assert min(space) > 20
            for axes, layout in (((1, 2, 0), "hwc"), ((1, 0, 2), "hcw")):
                assert doubt(k.transpose(axes), "chw").layouts == (layout,)
            sampled = (k != 0).any(0)
            assert fit(k, sampled) == (0, 0, 0)
            if not sampled.all():
                assert fit(k, np.ones_like(sampled)).zeros > 0.7

    def test_measured_kspace_with_its_axes_mixed_up(self, data_folder, run, capsys):
        np.save("k.npy", np.load(data_folder / "mri" / "sigpy_cartesian_ksp.npy").transpose(1, 2, 0))
        assert run("k.npy", "--estimate-maps", "-o", "x.npy") == 1
        assert "pass --layout hwc" in capsys.readouterr().err

    def test_slices_of_heads(self, data_folder):
        heads = [scipy.io.loadmat(path)["Img"][:256] for path in sorted((data_folder / "mri" / "siat").glob("*.mat"))]
        k = np.fft.fftshift(np.fft.fft2(np.stack(heads)), (-2, -1))
        assert doubt(k, "shw") is None
        assert doubt(k.transpose(1, 2, 0), "shw").layouts == ("hws",)
