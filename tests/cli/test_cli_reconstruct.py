"""`safi-fast reconstruct` end to end on small problems: the same answer as the API, files,
resuming, reports, errors.
"""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from models import coil_maps, phantom, random_planes_model
from PIL import Image

from safi_fast import io
from safi_fast.api import reconstruct
from safi_fast.cli import main as cli
from safi_fast.cli import reconstruct_job
from safi_fast.cli.reconstruct_options import PROBLEMS
from safi_fast.operators import (
    Blur,
    Downsample,
    FanBeamCT,
    FourierMRI,
    Mask,
    ParallelBeamCT,
    SenseMRI,
    estimate_maps,
)
from safi_fast.weights import save_model

RNG = np.random.default_rng(8)
H, W = 36, 32
FEW = {"max_outer": 2, "max_iter": 20}
FEW_WORDS = ("--max-outer", "2", "--max-iter", "20")
STRENGTH = 1e-3


IMAGE = phantom(H, W)
LINES = (np.arange(W) % 3 == 0) | (abs(np.arange(W) - W // 2) < 5)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Run a problem in an empty folder with the small model, few steps and --certify; returns the exit status."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, few=True, certify=True):
        steps = ("--max-outer", FEW["max_outer"], "--max-iter", FEW["max_iter"]) if few else ()
        steps += ("--certify",) if certify else ()
        return cli.main(["reconstruct", *(str(part) for part in (*arguments, "--model", model, *steps))])

    return call


def expected(measurement, operator, model, strength=STRENGTH, **options):
    fixed = {"model": model, "backend": "cpu", **FEW}
    return reconstruct(measurement, operator, strength=strength, **{**fixed, **options})


def kspace_of(images, scale=1.0, mask=LINES):
    operator = FourierMRI(mask[None], mask_order="centered", shape=images.shape[-2:], image="complex")
    return (scale * operator.apply(images)).astype(np.complex64)


def coils(count=4):
    return coil_maps(count, H, W)


class TestMri:
    def test_same_as_the_api_and_scale_is_undone(self, run, model, tmp_path, capsys):
        for scale in (1.0, 1e-6):
            np.save("k.npy", kspace_of(IMAGE, scale))
            assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH, "--overwrite", "--report", "r.json") == 0
            record = json.loads((tmp_path / "r.json").read_text())["files"][0]
            operator = FourierMRI(LINES[None], mask_order="centered", shape=(H, W), image="complex")
            zero_filled = abs(operator.adjoint(kspace_of(IMAGE, scale)))
            assert record["data_range"] == pytest.approx(np.quantile(zero_filled, 0.999), rel=1e-4)
            direct = expected(kspace_of(IMAGE, scale), operator, model, data_range=record["data_range"], box=None)
            result = np.load("x.npy")
            assert result.dtype == np.complex64
            np.testing.assert_array_equal(result, direct.image)
            assert np.linalg.norm(result - scale * IMAGE) < 0.15 * np.linalg.norm(scale * IMAGE)

    def test_report_and_sentence(self, run, tmp_path, capsys):
        np.save("k.npy", kspace_of(IMAGE))
        assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH, "--json", "--report", "deep/r.json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report == json.loads((tmp_path / "deep" / "r.json").read_text())
        counts = {key: report[key] for key in ("problem", "reconstructed", "skipped", "failed", "slices", "strength")}
        assert counts == {
            "problem": "mri", "reconstructed": 1, "skipped": 0, "failed": 0, "slices": 1, "strength": STRENGTH,
        }  # fmt: skip
        assert report["slices_per_minute"] == pytest.approx(60 / report["seconds"])
        (record,) = report["files"]
        assert record["mask"] == "where k-space is not zero"
        assert record["data_range_rule"] == "99.9 % quantile of the zero-filled magnitude"
        assert (record["kspace_order"], record["layout"], record["box"]) == ("centered", "hw", None)
        (solved,) = record["solved"]
        assert solved["certificate"] == "relative duality gap over a ball"
        assert (solved["solver_status"], solved["outer_iterations"]) == ("max_iterations", 2)
        assert report["schedule"] == "gap"
        assert len(solved["history"]) == 2
        assert solved["sampled_share"] == pytest.approx(LINES.mean())
        assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH, "--overwrite") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "strength     0.001"
        assert lines[1].endswith("or less: relative duality gap over a ball")
        assert "slices per minute, 1 of them without reaching the tolerance (gap " in lines[2]
        assert report["noise_level"] == pytest.approx(25)

    def test_what_was_not_reached(self, run, capsys):
        np.save("k.npy", kspace_of(IMAGE))
        tail = ("-o", "x.npy", "--strength", STRENGTH, "--overwrite")

        def sentence(*arguments):
            assert run("mri", "k.npy", *tail, *arguments, few=False) == 0
            return capsys.readouterr().out.splitlines()[2]

        assert ", not 1.0e-06: raise --max-iter; change between masks " in sentence(
            "--tol", 1e-6, "--max-iter", 20, "--max-outer", 2
        )
        text = sentence("--tol", 0.5, "--max-outer", 1)  # converged but for a second mask
        assert "(change between masks " in text
        assert text.endswith(", not 1.5e+00: raise --max-outer)")
        assert "without" not in sentence("--tol", 0.5)

    def test_fast_is_the_default_and_the_schedule_of_the_api(self, run, model, capsys):
        np.save("k.npy", kspace_of(IMAGE))
        tail = ("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH)
        assert run(*tail, "--report", "r.json", certify=False) == 0
        assert capsys.readouterr().out.splitlines()[2].endswith("slices per minute")
        report = json.loads(Path("r.json").read_text())
        assert report["schedule"] == "fast"
        (record,) = report["files"]
        assert (record["solved"][0]["solver_status"], record["solved"][0]["inner_iterations"]) == ("completed", 40)
        operator = FourierMRI(LINES[None], mask_order="centered", shape=(H, W), image="complex")
        options = {"schedule": "fast", "data_range": record["data_range"], "box": None}
        np.testing.assert_array_equal(np.load("x.npy"), expected(kspace_of(IMAGE), operator, model, **options).image)
        assert run(*tail, "--overwrite", "--tol", 0.1, certify=False) == 2
        assert "--tol is 0.1, but a fixed number of steps has no tolerance; add --certify" in capsys.readouterr().err

    def test_orders_and_masks(self, run, model):
        full = kspace_of(IMAGE, mask=np.ones(W, bool))
        np.save("centered.npy", full)
        np.save("fft.npy", np.fft.ifftshift(full))
        np.save("columns.npy", LINES)
        np.save("mask.npy", np.fft.ifftshift(np.broadcast_to(LINES, (H, W))))
        tail = ("--strength", STRENGTH, "--data-range", 1)
        assert run("mri", "centered.npy", "--mask", "columns.npy", "-o", "a.npy", *tail) == 0
        assert run("mri", "centered.npy", "--mask", "mask.npy", "--mask-order", "fft", "-o", "b.npy", *tail) == 0
        np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))
        assert run("mri", "fft.npy", "--kspace-order", "fft", "--mask", "mask.npy", "-o", "c.npy", *tail) == 0
        centred = np.fft.fftshift(np.load("c.npy"))  # the origin of the image goes with that of k-space
        assert np.linalg.norm(centred - IMAGE) < 0.2 * np.linalg.norm(IMAGE)

    def test_wrong_order_is_named(self, run, capsys):
        np.save("k.npy", np.fft.ifftshift(kspace_of(IMAGE)))
        assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH) == 1
        error = capsys.readouterr().err
        assert "but --kspace-order centered puts low frequencies in the middle; pass --kspace-order fft\n" in error

    def test_wrong_order_of_a_mask_found_in_kspace_is_that_of_kspace(self, run, model, capsys):
        mask = np.zeros((H, W), bool)
        mask[:, :3] = mask[:, -2:] = True
        tail = ("-o", "x.npy", "--strength", STRENGTH)
        np.save("k.npy", np.where(mask, 1 + 0j, 0))
        assert run("mri", "k.npy", *tail) == 1
        error = capsys.readouterr().err
        assert (
            "where --kspace-order centered puts low frequencies; pass --kspace-order fft, or --no-order-check" in error
        )
        np.save("mask.npy", mask)
        assert run("mri", "k.npy", "--mask", "mask.npy", *tail) == 1
        assert "pass --mask-order fft, or --no-order-check" in capsys.readouterr().err

    def test_real_images_and_their_box(self, run, model, tmp_path):
        np.save("k.npy", kspace_of(IMAGE))
        tail = ("--strength", STRENGTH, "--image", "real", "--overwrite", "--report", "r.json")

        def box_of(*arguments):
            assert run("mri", "k.npy", "-o", "x.npy", *tail, *arguments) == 0
            return json.loads((tmp_path / "r.json").read_text())["files"][0]["box"]

        assert [box_of(), box_of("--data-range", 1), box_of("--no-box")] == [[0, 2], [0, 1], None]
        assert box_of("--data-range", 1, "--box", 0.1, 0.6) == [0.1, 0.6]
        result = np.load("x.npy")
        assert result.dtype == np.float32
        assert (result.min(), result.max()) == pytest.approx((0.1, 0.6))

    def test_coils_with_maps_given_and_estimated(self, run, model, tmp_path, capsys):
        maps, mask = coils(), LINES[None]
        y = SenseMRI(maps, mask, mask_order="centered").apply(IMAGE.astype(np.complex64))
        io.write_cfl("k.cfl", np.moveaxis(y, 0, -1)[None])
        np.save("maps.npy", maps)
        tail = ("--strength", STRENGTH, "--data-range", 1)
        assert run("mri", "k.cfl", "--maps", "maps.npy", "-o", "given.cfl", *tail) == 0
        operator = SenseMRI(maps, mask, mask_order="centered")
        direct = expected(y, operator, model, box=None).image
        np.testing.assert_array_equal(io.read_cfl("given.cfl"), direct)
        found = ("--estimate-maps", "--maps-method", "low_resolution", "--calibration", 8)
        assert run("mri", "k.cfl", *found, "-o", "found.npy", *tail) == 0
        operator = SenseMRI(
            estimate_maps(y, kspace_order="centered", calibration=8, method="low_resolution"),
            mask,
            mask_order="centered",
        )
        np.testing.assert_array_equal(np.load("found.npy"), expected(y, operator, model, box=None).image)
        assert run("mri", "k.cfl", "--estimate-maps", "--calibration", 8, "-o", "espirit.npy", *tail) == 1
        assert "no pixel of k.cfl fits its calibration region" in capsys.readouterr().err
        assert run("mri", "k.cfl", "--maps", "maps.npy", "-o", "auto.npy", *tail[:2], "--report", "r.json") == 0
        assert json.loads((tmp_path / "r.json").read_text())["files"][0]["data_range"] == pytest.approx(0.9, abs=0.1)

    def test_fastmri_slices_resume_and_stacks(self, run, tmp_path, capsys):
        h5py = pytest.importorskip("h5py", reason="HDF5 files need the extra `medical`")
        images = np.stack([IMAGE, IMAGE[::-1], 0.5 * IMAGE])
        (tmp_path / "in").mkdir()
        with h5py.File("in/vol.h5", "w") as file:
            file["kspace"] = kspace_of(images, mask=np.ones(W, bool))
            file["mask"] = LINES
        tail = ("--strength", STRENGTH)
        assert run("mri", "in", "-o", "out", *tail, "--json", "--plot", "pictures") == 0
        report = json.loads(capsys.readouterr().out)
        names = [f"vol_{number:03d}" for number in range(3)]
        assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == names
        assert sorted(path.stem for path in (tmp_path / "pictures").iterdir()) == names
        assert [record["mask"] for record in report["files"]] == ["of the file"] * 3
        assert len({record["data_range"] for record in report["files"]}) == 1
        assert report["slices"] == 3
        (tmp_path / "out" / "vol_001.npy").unlink()
        before = (tmp_path / "out" / "vol_000.npy").stat().st_mtime_ns
        assert run("mri", "in", "-o", "out", *tail) == 0
        text = capsys.readouterr().out
        assert "1 slice in" in text
        assert "2 skipped because the output exists" in text
        assert (tmp_path / "out" / "vol_000.npy").stat().st_mtime_ns == before
        assert run("mri", "in/vol.h5", "-o", "all.npy", *tail) == 0
        singles = np.stack([np.load(tmp_path / "out" / f"{name}.npy") for name in names])
        np.testing.assert_array_equal(np.load("all.npy"), singles)
        assert run("mri", "in/vol.h5", "-o", "two.tif", *tail, "--slices", "1:3", "--report", "r.json") == 0
        record = json.loads((tmp_path / "r.json").read_text())["files"][0]
        assert record["white"] == pytest.approx(abs(singles[1:]).max())
        levels = io.read_image("two.tif").array
        np.testing.assert_allclose(levels / 65535 * record["white"], abs(singles[1:]), atol=record["white"] / 65535)
        assert run("mri", "in", "-o", "png", *tail, "--format", "png", "--slices", "2:3") == 0
        assert [path.name for path in (tmp_path / "png").iterdir()] == ["vol_002.png"]
        for arguments, message in (
            (("-o", "all.png"), "3 slices do not fit into one PNG file"),
            (("-o", "a.npy", "--slices", "2:4"), "has 3 slices; --slices 2:4 asks for more"),
        ):
            assert run("mri", "in/vol.h5", *arguments, *tail) == 1
            assert message in capsys.readouterr().err
        assert run("mri", "in/vol.h5", "-o", "b.npy", *tail, "--plot", "p.png") == 2
        assert "3 slices need a folder" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("shape", "arguments", "status", "message"),
        [
            ((H, W), ("--estimate-maps",), 1, "k.npy: has one coil"),
            ((4, H, W), (), 1, "k.npy: k-space of shape (4, 36, 32) may be slices or coils"),
            ((4, H, W), ("--layout", "chw"), 1, "k.npy: has 4 coils; pass their sensitivities with --maps FILE"),
            (
                (4, H, W),
                ("--maps", "m.npy"),
                1,
                "maps are (slices, coils, H, W) = (1, 3, 36, 32); expected 1 or 1 slices",
            ),
            ((H, W), ("--mask", "v.npy"), 1, "v.npy: the mask has shape (1, 7); expected (36, 32), one of its sides 1"),
            ((H, W), ("--box", 0, 1), 2, "--box bounds real images"),
            ((H, W), ("--image", "real", "--box", 1, 0), 2, "--box 1 0: expected LOW below HIGH"),
            ((H, W), ("--layout", "wx"), 1, "layout is 'wx'"),
            ((H, W), ("--variable", "x", "--maps", "m.npy", "--estimate-maps"), 2, "not allowed with argument"),
        ],
    )
    def test_errors(self, run, capsys, shape, arguments, status, message):
        np.save("k.npy", np.broadcast_to(kspace_of(IMAGE), shape))
        np.save("m.npy", coils(3))
        np.save("v.npy", np.ones(7))
        assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH, *arguments) == status
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error

    def test_kspace_of_zeros_and_nan(self, run, capsys):
        for value, message in ((0, "magnitude is 0; pass --data-range R"), (np.nan, "values that are not finite")):
            np.save("k.npy", np.full((H, W), value, np.complex64))
            assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH) == 1
            assert message in capsys.readouterr().err


class TestCt:
    VIEWS = 24

    def parallel(self, side=33):
        return ParallelBeamCT((side, side), np.deg2rad(np.arange(self.VIEWS) * 7.5), side)

    def test_parallel_as_the_api(self, run, model, tmp_path):
        operator, image = self.parallel(), 0.02 * phantom(33, 33)
        sinogram = operator.apply(image)
        tifffile.imwrite("s.tif", sinogram)
        np.save("a.npy", np.arange(self.VIEWS) * 7.5)
        np.save("radians.npy", np.deg2rad(np.arange(self.VIEWS) * 7.5))
        strength = 1e-4 * operator.norm**2
        tail = ("--geometry", "parallel", "--strength", strength, "--report", "r.json")
        assert run("ct", "s.tif", "--angles", "0:180:24", "-o", "a_.npy", *tail, "--plot", "p.png") == 0
        record = json.loads((tmp_path / "r.json").read_text())["files"][0]
        assert record["data_range"] == pytest.approx(np.quantile(operator.fbp(sinogram), 0.999), rel=1e-5)
        assert (record["box"], record["views"], record["pixel_size"]) == ([0, 2], 24, 1)
        assert record["solved"][0]["certificate"] == "relative duality gap"
        assert record["solved"][0]["operator_norm"] == pytest.approx(operator.norm)
        options = {"data_range": record["data_range"], "box": (0, 2), "x0": operator.fbp(sinogram)}
        np.testing.assert_array_equal(np.load("a_.npy"), expected(sinogram, operator, model, strength, **options).image)
        with Image.open("p.png") as picture:
            assert picture.width > 4 * 300
        for name, angles in (("b_", ("a.npy",)), ("c_", ("radians.npy", "--angle-unit", "radians"))):
            assert run("ct", "s.tif", "--angles", *angles, "-o", f"{name}.npy", *tail) == 0
            np.testing.assert_allclose(np.load(f"{name}.npy"), np.load("a_.npy"), atol=1e-6)

    def test_size_spacing_and_centre(self, run, tmp_path):
        np.save("s.npy", self.parallel().apply(phantom(33, 33)))
        tail = ("--angles", "0:180:24", "--geometry", "parallel", "--strength", 1, "--overwrite", "-o", "x.npy")
        assert run("ct", "s.npy", *tail, "--size", "20x24", "--pixel-size", 1.3, "--detector-spacing", 1) == 0
        assert np.load("x.npy").shape == (20, 24)
        assert run("ct", "s.npy", *tail, "--centre", 15) == 0
        assert np.load("x.npy").shape == (31, 31)

    def test_fan(self, run, model, tmp_path):
        angles = np.deg2rad(np.arange(36) * 10.0)
        operator = FanBeamCT((24, 24), angles, 40, 2.0, 60.0, 90.0, pixel_size=1.5)
        sinogram = operator.apply(phantom(24, 24))
        np.save("s.npy", np.stack([sinogram, 2 * sinogram]).transpose(2, 1, 0))
        distances = ("--geometry", "fan", "--source-origin", 60, "--source-detector", 90, "--detector-spacing", 2)
        tail = ("--angles", "0:360:36", *distances, "--strength", 100, "--layout", "dvs")
        assert run("ct", "s.npy", *tail, "--size", 24, "--pixel-size", 1.5, "-o", "out", "--data-range", 1) == 0
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["s_000.npy", "s_001.npy"]
        direct = expected(sinogram, operator, model, 100, x0=operator.fbp(sinogram)).image
        np.testing.assert_array_equal(np.load(tmp_path / "out" / "s_000.npy"), direct)
        assert run("ct", "s.npy", *tail, "-o", "y.npy", "--report", "r.json") == 0
        record = json.loads((tmp_path / "r.json").read_text())["files"][0]
        assert record["pixel_size"] == pytest.approx(2 * 60 / 90)
        assert record["warnings"] == []
        side = np.load("y.npy").shape[1]
        assert side * record["pixel_size"] == pytest.approx(
            2 * 60 * np.sin(np.arctan(40 / 90)), abs=record["pixel_size"]
        )

    def test_a_small_detector_is_a_warning(self, run, capsys):
        np.save("s.npy", self.parallel().apply(phantom(33, 33)))
        tail = ("--angles", "0:180:24", "--geometry", "parallel", "--strength", 1)
        assert run("ct", "s.npy", *tail, "--size", 40, "-o", "x.npy") == 0
        assert "safi-fast: warning: s.npy: the detector is too small" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            (
                ("--angles", "0:180:33"),
                1,
                "has 24 views of 33 cells, but --angles gives 33 angles; if detector cells come",
            ),
            (("--angles", "0:180:20"), 1, "has 24 views of 33 cells, but --angles gives 20 angles\n"),
            (("--angles", "0:180:2.5"), 2, "--angles 0:180:2.5: N is 2.5; expected a whole number"),
            (("--angles", "radians.npy"), 2, "24 views within 3.01 degrees; for radians pass --angle-unit radians"),
            (("--angles", "0:3.14:24"), 2, "24 views within 3.01 degrees; for radians pass --angle-unit radians"),
            (("--angles", "0:3.14:24", "--angle-unit", "degrees", "--data-range", 1), 0, ""),
            (("--angles", "none.npy"), 1, "none.npy: no such file"),
            (("--angles", "0:180:24", "--centre", 99), 1, "--centre 99 lies outside the detector of 33 cells"),
            (("--angles", "0:180:24", "--source-origin", 9), 2, "belong to --geometry fan"),
            (
                ("--angles", "0:180:24", "--geometry", "fan"),
                2,
                "--geometry fan needs --source-origin D and --source-detector",
            ),
            (("--angles", "0:180:24", "--size", "8x"), 2, "'8x' is not a size such as 256 or 256x320"),
            (("--angles", "0:180:24", "--size", "4"), 1, "the filters of this model need"),
        ],
    )
    def test_errors(self, run, capsys, arguments, status, message):
        np.save("s.npy", self.parallel().apply(phantom(33, 33)))
        np.save("radians.npy", np.deg2rad(np.arange(self.VIEWS) * 7.5))
        assert run("ct", "s.npy", "-o", "x.npy", "--strength", 1, "--geometry", "parallel", *arguments) == status
        assert message in capsys.readouterr().err


class TestPictures:
    KERNEL = np.outer([1, 2, 1], [1, 3, 1, 0, 0]).astype(float)

    def test_deblur(self, run, model, tmp_path):
        operator = Blur(self.KERNEL / self.KERNEL.sum(), (H, W), "zero")
        blurred = np.rint(255 * operator.apply(IMAGE)).astype(np.uint8)
        Image.fromarray(blurred).save("in.png")
        np.save("kernel.npy", self.KERNEL)
        tail = ("--kernel", "kernel.npy", "--boundary", "zero", "--strength", 1e-4)
        assert run("deblur", "in.png", *tail, "-o", "out.png", "--plot", "p.png", "--report", "r.json") == 0
        direct = expected(blurred.astype(np.float32), operator, model, 1e-4, data_range=255).image
        result = io.read_image("out.png").array
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, np.rint(direct))
        record = json.loads((tmp_path / "r.json").read_text())["files"][0]
        assert (record["kernel_sum"], record["kernel"], record["data_range"]) == (20, [3, 5], 255)

    def test_colour_stacks_and_folders(self, run, model, tmp_path):
        (tmp_path / "in").mkdir()
        colour = np.stack([IMAGE, IMAGE[::-1], 1 - IMAGE], -1)
        Image.fromarray((255 * colour).astype(np.uint8)).save("in/a.png")
        tifffile.imwrite("in/b.tif", np.stack([IMAGE, 1 - IMAGE]))
        np.save("kernel.npy", self.KERNEL)
        tail = ("--kernel", "kernel.npy", "--strength", 1e-4)
        assert run("deblur", "in", *tail, "-o", "out", "--plot", "pictures") == 0
        assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["a.png", "b_000.png", "b_001.png"]
        operator = Blur(self.KERNEL / self.KERNEL.sum(), (H, W))
        red = expected((255 * colour[..., 0]).astype(np.uint8), operator, model, 1e-4, data_range=255).image
        np.testing.assert_array_equal(io.read_image("out/a.png").array[..., 0], np.rint(red))
        np.testing.assert_array_equal(
            io.read_image("out/b.tif").array[1], expected(1 - IMAGE, operator, model, 1e-4).image
        )

    def test_channels_together(self, tmp_path, monkeypatch):
        """With a model of three planes: strength, image, report and picture of one image, not of three."""
        monkeypatch.chdir(tmp_path)
        whole = random_planes_model(3, channels=8)
        save_model(whole, "whole.safetensors")
        known, colour = RNG.random((H, W)) < 0.6, np.stack([IMAGE, IMAGE[::-1], 1 - IMAGE], -1)
        eight = (255 * colour).astype(np.uint8)
        Image.fromarray(eight).save("in.png")
        Image.fromarray(known.astype(np.uint8) * 255).save("mask.png")
        tail = ("--model", "whole.safetensors", "--tune-reference", "in.png", "--candidates", "1e-4:1e-2:2")
        words = ("in.png", "--mask", "mask.png", *tail, "-o", "out.png", "--plot", "p.png", "--report", "r.json")
        assert cli.main(["reconstruct", "inpaint", *words, *FEW_WORDS, "--certify"]) == 0
        record = json.loads((tmp_path / "r.json").read_text())["files"][0]["solved"][0]
        y = np.moveaxis(eight, -1, 0)
        direct = expected(y, Mask(known), whole, record["strength"], data_range=255)
        assert record["shape"] == [3, H, W]
        assert record["relative_gap"] == pytest.approx(direct.relative_gap)
        np.testing.assert_array_equal(io.read_image("out.png").array, np.moveaxis(np.rint(direct.image), 0, -1))

    def test_inpaint(self, run, model):
        known = RNG.random((H, W)) < 0.6
        np.save("in.npy", np.where(known, IMAGE, np.float32(7)))
        Image.fromarray(known.astype(np.uint8) * 255).save("mask.png")
        Image.fromarray((~known).astype(np.uint8) * 255).save("inverse.png")
        tail = ("--strength", STRENGTH)
        assert run("inpaint", "in.npy", "--mask", "mask.png", "-o", "a.npy", *tail) == 0
        assert run("inpaint", "in.npy", "--mask", "inverse.png", "--invert-mask", "-o", "b.npy", *tail) == 0
        np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))
        np.testing.assert_array_equal(np.load("a.npy"), expected(IMAGE, Mask(known), model).image)

    @pytest.mark.parametrize(("hole", "values"), [(7, "7"), ((200, 0, 10), "0, 10, 200")])
    def test_an_inverted_mask_is_named(self, run, capsys, hole, values):
        known = RNG.random((H, W)) < 0.6
        grey = (255 * IMAGE).astype(np.uint8)
        picture = grey if hole == 7 else np.stack([grey] * 3, -1)
        picture[~known] = hole
        Image.fromarray(picture).save("in.png")
        Image.fromarray((~known).astype(np.uint8) * 255).save("inverse.png")
        assert run("inpaint", "in.png", "--mask", "inverse.png", "-o", "a.png", "--strength", STRENGTH) == 1
        expected = f"in.png: all known pixels are {values}; is the mask inverted (--invert-mask)?"
        assert expected in capsys.readouterr().err

    def test_superres(self, run, model):
        operator = Downsample(2, (H, W))
        small = operator.apply(IMAGE)
        np.save("in.npy", small)
        assert run("superres", "in.npy", "--factor", 2, "-o", "out.npy", "--strength", 1e-4, "--plot", "p.png") == 0
        np.testing.assert_array_equal(np.load("out.npy"), expected(small, operator, model, 1e-4).image)
        Image.fromarray((255 * small).astype(np.uint8)).save("in.png")
        assert run("superres", "in.png", "--factor", 3, "--kernel", "box", "-o", "big.png", "--strength", 1e-4) == 0
        assert io.read_image("big.png").array.shape == (3 * H // 2, 3 * W // 2)

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            (("superres", "in.npy", "--factor", 1), 1, "factor is 1; expected an integer of at least 2"),
            (
                ("deblur", "in.npy", "--kernel", "zero.npy"),
                1,
                "zero.npy: the kernel sums to 0; expected a positive sum",
            ),
            (("deblur", "in.npy", "--kernel", "k.npy::x.y"), 0, ""),
            (("deblur", "in.npy", "--kernel", "line.npy"), 1, "of shape (3,); expected a real kernel (h, w)"),
            (
                ("inpaint", "in.npy", "--mask", "zero.npy"),
                1,
                "zero.npy: the mask has shape (3, 3); expected (36, 32), as in.npy",
            ),
            (("inpaint", "bright.npy", "--mask", "known.npy"), 1, "pass --data-range R, the value of white"),
        ],
    )
    def test_errors(self, run, capsys, arguments, status, message):
        np.save("in.npy", IMAGE)
        np.save("bright.npy", 255 * IMAGE)
        np.save("known.npy", np.ones((H, W)))
        np.save("zero.npy", np.zeros((3, 3)))
        np.save("line.npy", np.ones(3))
        np.save("k.npy", self.KERNEL)
        assert run(*arguments, "-o", "x.npy", "--strength", 1e-3) == status
        assert message in capsys.readouterr().err


class TestStrength:
    def test_it_must_be_given(self, run, capsys):
        np.save("k.npy", kspace_of(IMAGE))
        assert run("mri", "k.npy", "-o", "x.npy") == 2
        assert "say how much to regularise: --strength L, or let it be chosen: --noise-std S" in capsys.readouterr().err

    def test_by_reference(self, run, model, tmp_path, capsys):
        noisy = kspace_of(IMAGE) + (0.02 * LINES * (RNG.standard_normal((H, W)) + 1j * RNG.standard_normal((H, W))))
        np.save("k.npy", noisy.astype(np.complex64))
        np.save("truth.npy", IMAGE)
        tail = ("-o", "x.npy", "--tune-reference", "truth.npy", "--candidates", "1e-5:1:4", "--report", "r.json")
        assert run("mri", "k.npy", *tail) == 0
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["tuning"]["by"] == "reference"
        assert report["tuning"]["candidates"] == pytest.approx(np.geomspace(1e-5, 1, 4))
        assert report["strength"] == pytest.approx(
            report["tuning"]["candidates"][np.argmin(report["tuning"]["scores"])]
        )
        assert report["strength"] == report["files"][0]["solved"][0]["strength"]
        magnitude = abs(np.load("x.npy"))
        assert np.mean((magnitude - IMAGE) ** 2) == pytest.approx(min(report["tuning"]["scores"]), rel=1e-3)
        assert "(chosen by reference)" in capsys.readouterr().out

    def test_by_noise_in_the_units_of_the_file(self, run, model, tmp_path, capsys):
        noise = 5.0  # of 255
        noisy = np.clip(255 * IMAGE + noise * RNG.standard_normal((H, W)) + 20, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save("in.png")
        np.save("k.npy", np.ones((1, 1)))
        tail = ("--kernel", "k.npy", "-o", "out.png", "--noise-std", noise, "--report", "r.json", "--noise-level", 25)
        assert run("deblur", "in.png", *tail, "--candidates", "1e-4:10:6") == 0
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["tuning"]["by"] == "discrepancy"
        assert 1e-4 < report["strength"] < 10
        assert "is the" not in capsys.readouterr().err
        assert run("deblur", "in.png", *tail, "--candidates", "1e-4:2e-4:2", "--overwrite") == 0
        assert "is the largest that was tried; pass --candidates LOW:HIGH:N around it" in capsys.readouterr().err

    def test_on_the_first_input_that_can_be_read(self, run, tmp_path, capsys):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.png").write_bytes(b"no image")
        for name in ("b", "c"):
            Image.fromarray((255 * IMAGE).astype(np.uint8)).save(f"in/{name}.png")
        np.save("k.npy", np.ones((1, 1)))
        tail = ("--kernel", "k.npy", "-o", "out", "--noise-std", 5, "--candidates", "1e-2:1:3", "--report", "r.json")
        assert run("deblur", "in", *tail) == 1
        report = json.loads((tmp_path / "r.json").read_text())
        assert [record["status"] for record in report["files"]] == ["failed", "reconstructed", "reconstructed"]
        assert report["tuning"]["input"] == "in/b.png"
        (tmp_path / "in" / "a.png").unlink()
        (tmp_path / "out" / "c.png").unlink()
        assert run("deblur", "in", *tail) == 0
        again = json.loads((tmp_path / "r.json").read_text())
        assert again["strength"] == report["strength"]
        assert [record["status"] for record in again["files"]] == ["skipped", "reconstructed"]
        assert again["files"][0]["solved"] == report["files"][1]["solved"]
        assert run("deblur", "in", *tail) == 0
        last = json.loads((tmp_path / "r.json").read_text())
        assert (last["strength"], last["tuning"], last["model"]) == (again["strength"], again["tuning"], again["model"])
        assert all(record["status"] == "skipped" and record["solved"] for record in last["files"])
        (tmp_path / "r.json").write_text("not a report")
        assert run("deblur", "in", *tail) == 0
        assert json.loads((tmp_path / "r.json").read_text())["skipped"] == 2

    def test_by_measurements_left_out(self, run, tmp_path, capsys):
        operator = TestCt().parallel()
        np.save("s.npy", operator.apply(phantom(33, 33)) + 0.05 * RNG.standard_normal(operator.shape_out))
        tail = ("--angles", "0:180:24", "--geometry", "parallel", "-o", "x.npy", "--holdout", 0.2, "--report", "r.json")
        assert run("ct", "s.npy", *tail, "--candidates", "1e-3:10:3") == 0
        tuning = json.loads((tmp_path / "r.json").read_text())["tuning"]
        assert tuning["by"] == "holdout"
        assert len(tuning["scores"]) == 3
        assert "(chosen by holdout)" in capsys.readouterr().out
        assert run("ct", "s.npy", *tail[:-4], "--holdout", 1) == 2
        assert "'1' is not a share between 0 and 1" in capsys.readouterr().err
        assert run("ct", "s.npy", *tail, "--noise-std", 1) == 2
        assert "not allowed with" in capsys.readouterr().err

    def test_candidates_follow_the_operator(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(reconstruct_job, "PIXELS_AT_ONCE", 3 * 33 * 33)
        operator = TestCt().parallel()
        np.save("s.npy", operator.apply(phantom(33, 33)))
        tail = ("--angles", "0:180:24", "--geometry", "parallel", "-o", "x.npy", "--noise-std", 0.1)
        assert run("ct", "s.npy", *tail, "--report", "r.json") == 0
        tuning = json.loads((tmp_path / "r.json").read_text())["tuning"]
        assert tuning["candidates"] == pytest.approx(operator.norm**2 * np.geomspace(1e-5, 1e-2, 7))
        assert len(tuning["scores"]) == 7

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            (IMAGE[1:], r"the reference has shape (35, 32); expected the image's (36, 32)"),
            (255 * IMAGE, "expected the units of the result"),
        ],
    )
    def test_bad_references(self, run, capsys, reference, message):
        np.save("k.npy", kspace_of(IMAGE))
        np.save("truth.npy", reference)
        assert run("mri", "k.npy", "-o", "x.npy", "--tune-reference", "truth.npy") == 1
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["1:2", "2:1:3", "0:1:3", "a:b:c", "1:2:0"])
    def test_bad_candidates(self, run, capsys, text):
        assert run("mri", "k.npy", "-o", "x.npy", "--noise-std", 1, "--candidates", text) == 2
        assert "is not LOW:HIGH:N" in capsys.readouterr().err


class TestFiles:
    def test_bad_inputs_do_not_stop_the_others(self, run, tmp_path, capsys):
        (tmp_path / "in").mkdir()
        np.save("in/b.npy", kspace_of(IMAGE))
        (tmp_path / "in" / "a.npy").write_bytes(b"broken")
        np.save("in/c.npy", kspace_of(phantom(4, W)))
        assert run("mri", "in", "-o", "out", "--strength", STRENGTH) == 1
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.npy"]
        captured = capsys.readouterr()
        assert "1 slice in" in captured.out
        assert "2 failed" in captured.out
        lines = captured.err.splitlines()
        assert lines[0].startswith("safi-fast: error: in/a.npy: is truncated, damaged or not a NPY file")
        assert lines[1].startswith("safi-fast: error: in/c.npy: operator makes images of 4 x 32 pixels")

    def test_an_output_that_exists_is_kept(self, run, tmp_path, capsys):
        np.save("k.npy", kspace_of(IMAGE))
        (tmp_path / "x.npy").write_bytes(b"mine")
        assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH) == 0
        assert (tmp_path / "x.npy").read_bytes() == b"mine"
        assert capsys.readouterr().out.startswith("0 slices in 0.0 s, 1 skipped")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("k.npy", "-o", "k.npy"), "k.npy is an input and would be overwritten"),
            (("k.npy", "-o", "."), "k.npy is an input and would be overwritten"),
            (("k.npy", "-o", "x.npy", "--report", "k.npy"), "k.npy is an input and would be overwritten"),
            (("k.npy", "-o", "m.npy", "--mask", "m.npy"), "m.npy is an input and would be overwritten"),
            (("b.hdr", "-o", "b.cfl"), "b.cfl is an input and would be overwritten"),
            (("k.npy", "l.npy", "-o", "x.npy"), "several inputs need a folder to go to"),
            (("k.npy", "in/k.npy", "-o", "out"), "would both be written to out/k"),
            (("k.npy", "-o", "x.npy", "--plot", "p.jpg"), "a picture is written as .png"),
            (("k.npy", "l.npy", "-o", "out", "--plot", "p.png"), "2 inputs need a folder"),
            (("k.npy", "-o", "x.npy", "--slices", "3:3"), "'3:3' is not A:B"),
        ],
    )
    def test_plans_that_are_refused(self, run, tmp_path, capsys, arguments, message):
        before = kspace_of(IMAGE)
        np.save("k.npy", before)
        assert run("mri", *arguments, "--strength", STRENGTH, "--overwrite") == 2
        assert message in capsys.readouterr().err
        np.testing.assert_array_equal(np.load("k.npy"), before)

    def test_progress_on_a_terminal(self, run, capsys, monkeypatch):
        np.save("k.npy", kspace_of(IMAGE))
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH) == 0
        error = capsys.readouterr().err
        assert "1/1 k.npy" in error
        assert "2/2" in error
        assert "mask" in error

    def test_progress_within_a_slice(self, run, monkeypatch):
        """What the bar is told: inner steps of the fixed number, or masks with steps and gap beside them."""
        np.save("k.npy", np.stack([kspace_of(IMAGE), kspace_of(IMAGE[::-1])])[:, None])
        told = []

        @contextmanager
        def bar(description, total, unit):
            told.append((total, unit))
            yield lambda count=1, **facts: told.append((count, facts))

        monkeypatch.setattr(reconstruct_job, "progress", bar)
        assert run("mri", "k.npy", "-o", "x.npy", "--strength", STRENGTH, certify=False) == 0
        (total, unit), *steps = told
        assert (total, unit) == (2 * 2 * 20, "step")
        assert [count for count, _ in steps] == ([1] * 40 + [0]) * 2
        assert steps[0][1]["note"] == "mask 1, step 1 of 20"
        assert steps[39][1]["note"].startswith("mask 2, step 20 of 20, gap ")
        told.clear()
        assert run("mri", "k.npy", "-o", "y.npy", "--strength", STRENGTH) == 0
        assert told[0] == (2 * 2, "mask")
        assert sum(count for count, _ in told[1:]) == 4
        assert told[20][1]["note"].startswith("mask 1, step 20 of 20, gap ")

    def test_the_total_is_that_of_the_operator(self, run, monkeypatch):
        """Five masks of 30 steps for downsampling, in each of three channels."""
        Image.fromarray((255 * np.stack([IMAGE] * 3, -1).clip(0, 1)).astype(np.uint8)).save("a.png")
        told, made = [], []

        @contextmanager
        def bar(description, total, unit):
            told.append(total)
            yield lambda count=1, **facts: made.append(count)

        monkeypatch.setattr(reconstruct_job, "progress", bar)
        arguments = ("superres", "a.png", "-o", "b.png", "--factor", 2, "--strength", STRENGTH, "--max-outer", 2)
        assert run(*arguments, few=False, certify=False) == 0
        assert told == [2 * 30]
        assert sum(made) == pytest.approx(2 * 30)

    def test_a_slice_that_is_too_large_is_refused_with_the_figure(self, run, capsys):
        np.save("k.npy", kspace_of(IMAGE))
        tail = ("-o", "x.npy", "--strength", STRENGTH, "--max-memory")
        assert run("mri", "k.npy", *tail, "100KB") == 1
        error = capsys.readouterr().err
        assert "--max-memory is 1e+05 bytes, but 1 image(s) of 36 x 32 pixels need at least " in error
        assert run("mri", "k.npy", *tail, "100MB") == 0


def test_help(capsys):
    for problem in PROBLEMS:
        assert cli.main(["reconstruct", problem, "--help-all"]) == 0
        text = capsys.readouterr().out
        assert "--strength L" in text
        assert "Outputs that exist are skipped" in text
    assert cli.main(["reconstruct", "--help"]) == 0


class TestRealData:
    """With the shipped model, few steps."""

    def test_brain(self, data_folder, tmp_path, capsys):
        source = data_folder / "mri" / "espirit_und2x2.cfl"
        arguments = ["--estimate-maps", "--strength", "3e-4", "--max-outer", "2", "--max-iter", "30", "--json"]
        output, picture = tmp_path / "brain.png", tmp_path / "plot.png"
        assert cli.main(["reconstruct", "mri", str(source), *arguments, "-o", str(output), "--plot", str(picture)]) == 0
        (record,) = json.loads(capsys.readouterr().out)["files"]
        assert (record["coils"], record["solved"][0]["shape"]) == (8, [230, 180])
        assert record["solved"][0]["relative_gap"] < 2
        assert io.read_image(output).array.shape == (230, 180)
        assert picture.stat().st_size > 50_000

    def test_tooth(self, data_folder, tmp_path, capsys):
        """Every third view, cells of four."""
        full = tifffile.imread(data_folder / "ct" / "tooth.tiff")
        tifffile.imwrite(tmp_path / "tooth.tif", full.reshape(181, 100, 4).mean(2)[::3].astype(np.float32))
        arguments = ["--angles", "0:183:61", "--geometry", "parallel", "--detector-spacing", "4", "--strength", "30"]
        limits = ["--max-outer", "2", "--max-iter", "20", "--json"]
        paths = [str(tmp_path / "tooth.tif"), "-o", str(tmp_path / "tooth.npy")]
        assert cli.main(["reconstruct", "ct", *paths, *arguments, *limits]) == 0
        (record,) = json.loads(capsys.readouterr().out)["files"]
        image = np.load(tmp_path / "tooth.npy")
        assert image.shape == (100, 100)
        angles = np.deg2rad(np.arange(181))
        reference = ParallelBeamCT((400, 400), angles, 400).fbp(full).reshape(100, 4, 100, 4).mean((1, 3))
        assert np.linalg.norm(image - reference) < 0.2 * np.linalg.norm(reference)
        assert 0.005 < record["data_range"] < 0.015
