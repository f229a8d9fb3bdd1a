"""The command line with a Gaussian filter in the solver's place: files, streams, exit statuses."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from models import random_model
from patience import PROCESS
from scipy.ndimage import gaussian_filter

import safi_fast.cli.session as sessions
from safi_fast import Solver, __version__, backend, models
from safi_fast.cli import main as cli
from safi_fast.cli.output import message_of, print_failures
from safi_fast.errors import InputError, ModelError
from safi_fast.io import ImageFile, read_image, write_image
from safi_fast.masks import SafiMask
from safi_fast.model import FilterBank, Model, Schedule, Strength
from safi_fast.solver.result import Solution

RNG = np.random.default_rng(3)
H, W = 32, 40
FORBIDDEN = 13  # an image of this value is refused by the fake solver


def tiny_model(name="tiny", levels=(25,), metadata=None):
    channels, rows = 4, np.ones((len(levels), 4))
    kernels = RNG.standard_normal((channels, 1, 5, 5))
    square = RNG.standard_normal((channels, channels, 3, 3))
    splines = tuple(RNG.standard_normal((3, channels, 5)))
    mask = SafiMask((kernels, square, square), (1, 1, 1), splines, rows, rows, "symmetric")
    strength = Strength(1e-3 * rows[:, 0], 2e-3 * rows[:, 0])
    bank, schedule = FilterBank((kernels,), "symmetric"), Schedule("unrolled", 5, 12)
    return Model(name, "safi", bank, mask, strength, np.asarray(levels) / 255, schedule, metadata or {})


class GaussianSolver:
    """Smooths, and remembers how it was called."""

    backend = SimpleNamespace(name="cpu")

    def __init__(self):
        self.calls = []
        self.gap = 1e-3

    def model_for(self, *_):
        return models.load_model()

    def denoise(self, image, sigma, *, data_range, channel_axis, return_solution, return_masks=False, **options):
        assert return_solution
        self.calls.append({"sigma": sigma, "data_range": data_range.argument, "channel_axis": channel_axis, **options})
        if (image == FORBIDDEN).all():
            raise InputError("image is unlucky")
        plane = (1.0, 1.0, 0.0) if channel_axis is not None else (1.0, 1.0)
        smooth = gaussian_filter(image.astype(np.float32), (0.0,) * (image.ndim - len(plane)) + plane)
        masks = np.full((4, *image.shape[:2]), 0.5, np.float32) if return_masks else None
        found = 7 / 255 * data_range.scale if isinstance(sigma, str) else sigma
        gap = self.gap * data_range.scale
        return Solution(smooth, "completed", False, 5, 60, gap, self.gap, 1e-2, (), masks, sigma=found)


@pytest.fixture
def solver(monkeypatch):
    fake = GaussianSolver()
    monkeypatch.setattr(sessions, "make_session", lambda *_: sessions.Session(TINY, fake))
    return fake


TINY = tiny_model()


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        save(images / name)
    return images


def save(path, array=None):
    array = RNG.integers(0, 256, (H, W), dtype=np.uint8) if array is None else array
    colour = -1 if array.ndim == 3 and array.shape[-1] == 3 else None
    write_image(path, array, ImageFile(array, None, colour, "npy"))
    return array


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def denoise(*arguments):
    return run("denoise", *arguments, "--sigma", 25)


class TestDenoise:
    def test_one_file_to_a_file_or_a_folder(self, tmp_path, solver):
        array = save(tmp_path / "in.png")
        assert denoise(tmp_path / "in.png", "-o", tmp_path / "out.png") == 0
        assert denoise(tmp_path / "in.png", "-o", tmp_path / "new" / "folder") == 0
        assert denoise(tmp_path / "in.png", "-o", f"{tmp_path}/dots.v2/") == 0
        expected = np.rint(gaussian_filter(array.astype(np.float32), 1)).clip(0, 255)
        for result in ("out.png", "new/folder/in.png", "dots.v2/in.png"):
            back = read_image(tmp_path / result).array
            assert back.dtype == np.uint8
            np.testing.assert_array_equal(back, expected)

    def test_folder_and_files_to_a_folder(self, tmp_path, solver, folder):
        save(tmp_path / "d.tif", RNG.random((3, H, W)).astype(np.float32))
        assert denoise(folder, tmp_path / "d.tif", "-o", tmp_path / "out.v2") == 0
        assert sorted(path.name for path in (tmp_path / "out.v2").iterdir()) == ["a.png", "b.png", "c.png", "d.tif"]
        assert read_image(tmp_path / "out.v2" / "d.tif").array.shape == (3, H, W)

    @pytest.mark.parametrize(
        ("dtype", "name", "extra", "sigma", "data_range"),
        [
            (np.uint8, "a.png", (), 25.0, 255.0),
            (np.uint16, "a.png", (), 25 / 255 * 65535, 65535.0),
            (np.uint16, "a.tif", ("--data-range", 4095), 25 / 255 * 4095, 4095.0),
            (np.float32, "a.tif", (), 25 / 255, 1.0),
            (np.int16, "a.npy", ("--data-range", 1000), 25 / 255 * 1000, 1000.0),
            (np.int16, "a.npy", ("--data-range", -1000, 1500), 25 / 255 * 2500, (-1000.0, 1500.0)),
        ],
    )
    def test_sigma_is_on_the_8_bit_scale(self, tmp_path, solver, dtype, name, extra, sigma, data_range):
        save(tmp_path / name, RNG.integers(0, 2, (H, W)).astype(dtype))
        assert denoise("-o", tmp_path / "out", *extra, tmp_path / name) == 0
        expected = {"sigma": pytest.approx(sigma), "data_range": data_range, "channel_axis": None, "strength": None}
        assert solver.calls == [expected]

    def test_twelve_bits_in_sixteen_are_a_warning_once(self, tmp_path, solver, capsys):
        for name, white in (("a", 4095), ("b", 900), ("c", 16384), ("d", 0)):
            save(tmp_path / f"{name}.png", np.full((H, W), white, np.uint16))
        assert denoise(*(tmp_path / f"{name}.png" for name in "abcd"), "-o", tmp_path / "out", "--json") == 0
        captured = capsys.readouterr()
        warning = "largest value 4095 of 65535: looks like 12-bit data; pass --data-range 4095"
        first, others = captured.err.splitlines()
        assert first == f"safi-fast: warning: {tmp_path}/a.png: {warning}"
        assert (
            others
            == f"safi-fast: warning: a warning like the first one is due to {tmp_path}/b.png; --json has them all"
        )
        assert [record.get("warning") for record in json.loads(captured.out)["files"]][::3] == [warning, None]
        assert denoise(tmp_path / "a.png", "-o", tmp_path / "given", "--data-range", 4095) == 0
        assert capsys.readouterr().err == ""

    def test_options_reach_the_solver(self, tmp_path, solver):
        save(tmp_path / "a.png", RNG.integers(0, 256, (H, W, 3), dtype=np.uint8))
        options = ("--schedule", "gap", "--strength", 0.5, "--max-outer", 3, "--max-inner", 7, "--tol", 1e-3)
        options += ("--color", "separate")
        assert denoise(tmp_path / "a.png", "-o", tmp_path / "out.png", *options) == 0
        expected = {"schedule": "gap", "strength": 0.5 * 255, "max_outer": 3, "max_inner": 7, "tol": 1e-3}
        assert solver.calls == [
            {"sigma": 25.0, "data_range": 255.0, "channel_axis": -1, "color": "separate", **expected}
        ]

    def test_a_second_run_does_only_what_is_missing(self, tmp_path, solver, folder, capsys):
        out = tmp_path / "out"
        assert denoise(folder, "-o", out) == 0
        (out / "b.png").unlink()
        before = (out / "a.png").stat().st_mtime_ns
        solver.calls.clear()
        capsys.readouterr()
        assert denoise(folder, "-o", out) == 0
        assert len(solver.calls) == 1
        assert (out / "a.png").stat().st_mtime_ns == before
        text = capsys.readouterr().out
        assert "1 denoised" in text
        assert "2 skipped because the output exists" in text
        assert denoise(folder, "-o", out, "--overwrite") == 0
        assert len(solver.calls) == 4

    def test_backend_precision_and_devices_reach_the_solver(self, tmp_path, solver, folder, monkeypatch):
        asked = []
        monkeypatch.setattr(
            sessions, "make_session", lambda *args: asked.append(args) or sessions.Session(TINY, solver)
        )
        denoise(folder, "-o", tmp_path / "out", "--backend", "cuda", "--precision", "tf32")
        run("evaluate", "--data", folder, "--sigma", 25, "--backend", "cpu")
        denoise(folder, "-o", tmp_path / "again", "--devices", "all")
        denoise(folder, "-o", tmp_path / "again", "--overwrite", "--devices", "1", "0")
        assert asked == [
            (None, "cuda", "tf32", None), (None, "cpu", "float32"),
            (None, "auto", "float32", "all"), (None, "auto", "float32", [1, 0]),
        ]  # fmt: skip

    def test_nothing_left_to_do_loads_no_model(self, tmp_path, solver, folder, monkeypatch):
        denoise(folder, "-o", tmp_path / "out")
        monkeypatch.delattr(sessions, "make_session")
        assert denoise(folder, "-o", tmp_path / "out") == 0

    def test_bad_files_are_reported_at_the_end(self, tmp_path, solver, folder, capsys):
        (folder / "0.png").write_bytes(b"")
        (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:50])
        save(folder / "c.png", np.full((H, W), FORBIDDEN, np.uint8))
        assert denoise(folder, tmp_path / "missing.png", "-o", tmp_path / "out") == 1
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
        captured = capsys.readouterr()
        assert "1 denoised" in captured.out
        assert "4 failed" in captured.out
        lines = captured.err.splitlines()
        assert lines[0] == f"safi-fast: error: {folder}/0.png: the file is empty (0 bytes)"
        assert lines[1].startswith(f"safi-fast: error: {folder}/b.png: is truncated, damaged or not a PNG file")
        assert lines[2] == f"safi-fast: error: {folder}/c.png: image is unlucky"
        assert lines[3] == f"safi-fast: error: {tmp_path}/missing.png: no such file"

    def test_what_fails_alike_is_one_line(self, tmp_path, solver, capsys):
        missing = [tmp_path / f"{n}.png" for n in range(7)]
        assert denoise(*missing, "-o", tmp_path / "out") == 1
        names = ", ".join(map(str, missing[:5]))
        assert capsys.readouterr().err == f"safi-fast: error: {names} and 2 more: no such file\n"

    def test_many_failures_are_cut_short(self, capsys):
        print_failures([{"input": f"{n}.png", "error": f"error {n}"} for n in range(25)])
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 21
        assert lines[20] == "safi-fast: error: and 5 more inputs failed"

    def test_sigma_can_be_estimated(self, tmp_path, solver, folder, capsys):
        """What was found is told, on the 8-bit scale, at the end and in the JSON of each file."""
        arguments = ("denoise", folder, "-o", tmp_path / "out", "--sigma", "estimate", "--overwrite")
        assert run(*arguments) == 0
        assert {call["sigma"] for call in solver.calls} == {"estimate"}
        assert capsys.readouterr().out.endswith("\nsigma, estimated: 7 of 255\n")
        assert run(*arguments, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["sigma"], report["files"][0]["sigma"]) == ("estimate", pytest.approx(7))

    def test_counts(self, tmp_path, monkeypatch):
        """All in the values of the file."""
        solver = Solver(random_model(channels=4, levels=(5 / 255, 50 / 255)), backend="cpu")
        monkeypatch.setattr(sessions, "make_session", lambda *_: sessions.Session(solver.model, solver))
        counts = (3 * RNG.poisson(40, (H, W)) + 100).astype(np.uint16)
        save(tmp_path / "in.tif", counts)
        words = ("denoise", tmp_path / "in.tif", "-o", tmp_path / "out.tif", "--overwrite", "--noise", "poisson")
        words += ("--gain", 3, "--offset", 100)
        for extra, options in (
            ((), {"sigma": 0}),
            (("--sigma", 5, "--data-range", 90, 200), {"sigma": 5, "data_range": (90, 200)}),
        ):
            assert run(*words, *extra) == 0
            expected = solver.denoise(counts, noise="poisson", gain=3, offset=100, **options)
            np.testing.assert_array_equal(read_image(tmp_path / "out.tif").array, np.rint(expected))

    def test_json(self, tmp_path, solver, folder, capsys):
        save(folder / "b.png", np.full((H, W), FORBIDDEN, np.uint8))
        solver.gap = float("inf")
        (tmp_path / "out").mkdir()
        save(tmp_path / "out" / "c.png")
        assert denoise(folder, "-o", tmp_path / "out", "--json") == 1
        report = json.loads(capsys.readouterr().out)
        assert {key: report[key] for key in report if key != "files"} == {
            "model": "tiny",
            "sigma": 25.0,
            "schedule": "unrolled",
            "denoised": 1,
            "skipped": 1,
            "failed": 1,
        }
        first, second, third = report["files"]
        assert first.pop("seconds") > 0
        assert first == {
            "input": str(folder / "a.png"),
            "output": str(tmp_path / "out" / "a.png"),
            "status": "denoised",
            "model": "safi-gray",
            "solver_status": "completed",
            "gap": None,
            "relative_gap": None,
            "outer_iterations": 5,
            "inner_iterations": 60,
        }
        assert (second["status"], second["error"]) == ("failed", "image is unlucky")
        assert third["status"] == "skipped"

    def test_same_output_name_twice_is_refused(self, tmp_path, solver, folder, capsys):
        save(tmp_path / "a.png")
        assert denoise(folder, tmp_path / "a.png", "-o", tmp_path / "out") == 2
        assert "would both be written to" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        assert not solver.calls

    @pytest.mark.parametrize("output", ["images", "images/../images", "images/a.png", "link"])
    def test_output_that_is_an_input_is_refused(self, tmp_path, solver, folder, capsys, output):
        (tmp_path / "link").symlink_to(folder)
        assert denoise(folder / "a.png", "-o", f"{tmp_path}/{output}", "--overwrite") == 2
        assert "is an input and would be overwritten" in capsys.readouterr().err

    def test_several_images_need_a_folder(self, tmp_path, solver, folder, capsys):
        assert denoise(folder, "-o", tmp_path / "out.png") == 2
        assert "several images need a folder" in capsys.readouterr().err
        assert denoise(folder / "a.png", "-o", tmp_path / "out.gif") == 2
        assert "unsupported extension '.gif'" in capsys.readouterr().err

    def test_folder_that_cannot_be_written(self, tmp_path, solver, folder, capsys):
        (tmp_path / "file").touch()
        assert denoise(folder, "-o", tmp_path / "file" / "out") == 1
        assert capsys.readouterr().err.endswith("the output folder cannot be written (not a directory)\n")
        assert not solver.calls

    def test_folder_without_images(self, tmp_path, solver, capsys):
        assert denoise(tmp_path, "-o", tmp_path / "out") == 1
        assert "the folder holds no images" in capsys.readouterr().err

    def test_integers_of_unknown_range_are_refused(self, tmp_path, solver, capsys):
        save(tmp_path / "a.tif", np.zeros((H, W), np.int16))
        assert denoise(tmp_path / "a.tif", "-o", tmp_path / "out") == 1
        assert (
            "dtype int16, whose range is not known; pass --data-range R, the value of white" in capsys.readouterr().err
        )

    @pytest.mark.parametrize("failing", ["fsync", "replace"])
    def test_full_disk_leaves_no_output(self, tmp_path, solver, folder, monkeypatch, capsys, failing):
        def full(*_args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), full)
        assert denoise(folder, "-o", tmp_path / "out") == 1
        assert not list((tmp_path / "out").iterdir())
        assert capsys.readouterr().err.count("cannot be written (no space left on device)") == 3


@pytest.mark.parametrize("command", ["denoise", "evaluate"])
@pytest.mark.parametrize(
    ("levels", "accepted"),
    [
        ((25,), "is for 25 only; pass that (to 1 %), choose another --model, or set --strength yourself"),
        ((2, 10, 50), "accepts 2 to 50"),
    ],
)
def test_sigma_outside_the_model(tmp_path, folder, monkeypatch, capsys, command, levels, accepted):
    session = sessions.Session(tiny_model(levels=levels), GaussianSolver())
    monkeypatch.setattr(sessions, "make_session", lambda *_: session)
    arguments = {"denoise": (folder, "-o", tmp_path / "out"), "evaluate": ("--data", folder)}[command]
    assert run(command, *arguments, "--sigma", 0.1) == 1
    expected = f"safi-fast: error: --sigma is 0.1, on the scale 0 to 255; model 'tiny' {accepted}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("pass data_range=..., the value of white", "pass --data-range R, the value of white"),
        ("data_range=(low, high), or box=None for", "--data-range LOW HIGH, or --no-box for"),
        ("12-bit data; pass data_range=4095", "12-bit data; pass --data-range 4095"),
        ("mask_order='fft', or check_order=False if", "--mask-order fft, or --no-order-check if"),
        ("backend='cuda' cannot run; or use backend='cpu'", "--backend cuda cannot run; or use --backend cpu"),
        ("use schedule='gap'", "use --schedule gap"),
        ("", "not enough memory"),
    ],
)
def test_arguments_are_named_as_options(said, shown):
    assert message_of(InputError(said)) == shown


class TestStreams:
    def test_silent_without_a_terminal(self, tmp_path, solver, folder, capsys):
        denoise(folder, "-o", tmp_path / "out")
        captured = capsys.readouterr()
        assert captured.err == ""
        assert len(captured.out.splitlines()) == 1

    def test_progress_on_a_terminal(self, tmp_path, solver, folder, capsys, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        denoise(folder, "-o", tmp_path / "out")
        captured = capsys.readouterr()
        assert "denoising" in captured.err
        assert "3/3" in captured.err
        assert "image" in captured.err
        assert len(captured.out.splitlines()) == 1

    def test_interrupt(self, tmp_path, solver, folder, capsys, monkeypatch):
        def interrupt(*_args, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr(solver, "denoise", interrupt)
        assert denoise(folder, "-o", tmp_path / "out") == 130
        assert capsys.readouterr().err == "safi-fast: interrupted; every output that exists is complete\n"

    def test_library_errors_become_one_line(self, tmp_path, folder, capsys, monkeypatch):
        def unknown(*_args):
            raise ModelError("there is no model 'x';\ndid you mean 'y'?")

        monkeypatch.setattr(sessions, "make_session", unknown)
        assert denoise(folder, "-o", tmp_path / "out", "--model", "x") == 1
        assert capsys.readouterr().err == "safi-fast: error: there is no model 'x'; did you mean 'y'?\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "the following arguments are required: --sigma"),
            (("--sigma", "1", "--gain", "2"), "--gain goes with --noise poisson alone"),
            (
                ("--noise", "poisson", "--sigma", "estimate"),
                "--sigma estimate does not go with --noise poisson; expected a number, or none for 0",
            ),
            (("--noise", "poisson", "--strength", "1"), "--strength does not go with --noise poisson"),
        ],
    )
    def test_arguments_of_noise_that_do_not_go_together(self, capsys, arguments, message):
        assert run("denoise", "a.png", "-o", "b.png", *arguments) == 2
        assert capsys.readouterr().err.startswith(f"safi-fast: error: {message}")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "the following arguments are required: COMMAND"),
            (("polish",), "invalid choice: 'polish'"),
            (("evaluate", "--data", "a", "--sigma", "1", "--precision", "half"), "invalid choice: 'half'"),
            (
                ("denoise", "a.png", "-o", "b.png", "--sigma", "0"),
                "argument --sigma: '0' is not a positive number or 'estimate'",
            ),
            (
                ("denoise", "a.png", "-o", "b.png", "--sigma", "nan"),
                "argument --sigma: 'nan' is not a positive number or 'est",
            ),
            (
                ("denoise", "a.png", "-o", "b.png", "--sigma", "x"),
                "argument --sigma: 'x' is not a positive number or 'esti",
            ),
            (
                ("denoise", "a", "-o", "b", "--sigma", "1", "--max-outer", "0"),
                "'0' is not a whole number of at least 1",
            ),
            (("evaluate", "--data", "a", "--sigma", "1", "--seed", "-1"), "'-1' is not a whole number of at least 0"),
            (
                ("denoise", "a", "-o", "b", "--sigma", "1", "--schedule", "x"),
                "argument --schedule: invalid choice: 'x'",
            ),
        ],
    )
    def test_usage_errors(self, capsys, arguments, message):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("usage: safi-fast")
        assert f"safi-fast: error: {message}" in error or message in error.splitlines()[-1]

    def test_version_and_help(self, capsys):
        assert run("--version") == 0
        assert capsys.readouterr().out == f"safi-fast {__version__}\n"
        assert run("--version", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["safi-fast"], found["packages"]["numpy"]) == (__version__, np.__version__)
        assert list(found["models"]) == models.list_models()
        assert found["models"]["safi-gray"]["sha256"] == models.load_model("safi-gray").fingerprint
        for command in cli.COMMANDS:
            assert run(command, "--help") == 0
            assert len(capsys.readouterr().out) > 100

    def test_as_a_module(self):
        """Where scripts are not on the path."""
        done = subprocess.run(
            [sys.executable, "-m", "safi_fast", "denoise"], capture_output=True, text=True, timeout=PROCESS
        )
        assert done.returncode == 2
        assert done.stderr.startswith("usage: safi-fast denoise")

    def test_the_handler_for_sigterm_is_put_back(self, tmp_path, solver, folder):
        before = signal.getsignal(signal.SIGTERM)
        denoise(folder, "-o", tmp_path / "out")
        assert signal.getsignal(signal.SIGTERM) == before


TERMINATED_WRITE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
from types import SimpleNamespace
import safi_fast.cli.session as sessions
from safi_fast.cli.main import main
from safi_fast.models import load_model

class Echo:
    def model_for(self, *_):
        return load_model()

    def denoise(self, image, sigma, **options):
        return SimpleNamespace(image=image)

def hang(descriptor):
    print("writing", flush=True)
    time.sleep(600)

sessions.make_session = lambda *_: sessions.Session(load_model(), Echo())
os.fsync = hang
raise SystemExit(main(["denoise", sys.argv[1], "-o", sys.argv[2], "--sigma", "25"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_kill_in_the_middle_of_a_write_leaves_nothing(tmp_path, folder, number, status):
    command = [sys.executable, "-c", TERMINATED_WRITE, str(folder), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=PROCESS)
    assert process.returncode == status
    assert "Traceback" not in error
    assert not list((tmp_path / "out").iterdir())


def test_a_reader_that_has_gone_is_no_traceback():
    script = "from safi_fast.cli.main import main; raise SystemExit(main(['denoise', '--help']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""


def test_the_command_line_starts_without_the_heavy_libraries():
    script = "import sys, safi_fast.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"numba", "torch", "cupy", "skimage", "scipy", "matplotlib", "rich", "PIL", "tifffile", "imagecodecs"}
    assert not heavy & set(done.stdout.split())


class TestEvaluate:
    def evaluate(self, data, *arguments):
        return run("evaluate", "--data", data, "--sigma", 25, *arguments)

    def test_json_keys_and_values(self, solver, folder, capsys):
        assert self.evaluate(folder, "--json", "--limit", 2, "--seed", 7, "--schedule", "gap", "--strength", 0.1) == 0
        result = json.loads(capsys.readouterr().out)
        assert set(result) == {
            "psnr",
            "ssim",
            "seconds_per_image",
            "images",
            "psnr_noisy",
            "images_from_colour",
            "model",
            "model_sha256",
            "sigma",
            "seed",
            "schedule",
            "strength",
            "backend",
            "precision",
            "outer_iterations",
            "inner_iterations",
            "max_relative_gap",
        }
        facts = {key: result[key] for key in ("images", "model", "sigma", "seed", "schedule", "strength")}
        assert facts == {"images": 2, "model": "tiny", "sigma": 25.0, "seed": 7, "schedule": "gap", "strength": 0.1}
        assert (result["outer_iterations"], result["inner_iterations"], result["max_relative_gap"]) == (5.0, 60.0, 1e-3)
        assert result["psnr_noisy"] == pytest.approx(20.17, abs=0.3)
        assert len(solver.calls) == 3  # one warm-up

    def test_the_noise_is_the_documented_one(self, tmp_path, solver, monkeypatch):
        clean = np.full((H, W), 0.05, np.float32)
        save(tmp_path / "a.npy", clean)
        save(tmp_path / "b.npy", clean)
        images = []
        monkeypatch.setattr(
            solver,
            "denoise",
            lambda image, sigma, **_: (images.append(image), Solution(image, "completed", False, 1, 1, 0, 0, 0))[1],
        )
        assert self.evaluate(tmp_path, "--seed", 5) == 0
        for index, image in enumerate(images[1:]):
            noise = np.random.default_rng([5, index]).standard_normal((H, W), dtype=np.float32)
            np.testing.assert_array_equal(image, clean + np.float32(25 / 255) * noise)
            assert image.dtype == np.float32
        assert images[1].min() < 0  # not clipped

    def test_per_image_table_and_grey_note(self, tmp_path, solver, folder, capsys):
        save(folder / "d.png", RNG.integers(0, 256, (H, W, 3), dtype=np.uint8))
        assert self.evaluate(folder, "--per-image") == 0
        text = capsys.readouterr().out
        assert text.splitlines()[0].split()[:2] == ["image", "size"]
        assert re.search(r"^a\.png +32 x 40 ", text, re.MULTILINE)
        assert "note: 1 colour image(s) turned to grey (skimage.color.rgb2gray)" in text
        assert self.evaluate(folder, "--per-image", "--json") == 0
        rows = json.loads(capsys.readouterr().out)["per_image"]
        assert [row["image"] for row in rows] == ["a.png", "b.png", "c.png", "d.png"]
        assert [row["from_colour"] for row in rows] == [False, False, False, True]

    def test_a_perfect_result_is_valid_json(self, tmp_path, solver, monkeypatch, capsys):
        clean = RNG.random((H, W)).astype(np.float32)
        save(tmp_path / "a.npy", clean)
        perfect = Solution(clean, "completed", False, 1, 1, 0.0, 0.0, 0.0)
        monkeypatch.setattr(solver, "denoise", lambda *_args, **_options: perfect)
        assert self.evaluate(tmp_path, "--json") == 0
        assert json.loads(capsys.readouterr().out)["psnr"] is None

    def test_a_file_with_nan_is_named(self, tmp_path, solver, capsys):
        np.save(tmp_path / "a.npy", np.zeros((H, W), np.float32))
        np.save(tmp_path / "b.npy", np.full((H, W), np.nan, np.float32))
        assert self.evaluate(tmp_path) == 1
        assert f"{tmp_path}/b.npy: has {H * W} values that are NaN or infinite" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, H, W), np.float32), r"a stack of shape (3, 32, 40) cannot be evaluated"),
            (np.zeros((H, W), np.int16), "dtype int16, whose range is not known; pass --data-range R"),
        ],
    )
    def test_images_that_cannot_be_scored(self, tmp_path, solver, capsys, array, message):
        save(tmp_path / "a.tif", array)
        assert self.evaluate(tmp_path) == 1
        assert message in capsys.readouterr().err


@pytest.fixture
def shipped(monkeypatch):
    """Two shipped models, whatever the package really ships."""
    known = {
        "tiny": tiny_model(metadata={"scores": "BSD68 29.1 dB"}),
        "wide": tiny_model("wide", levels=(5, 50)),
    }
    monkeypatch.setattr(models, "list_models", lambda: sorted(known))
    monkeypatch.setattr(models, "load_model", lambda name: known[name])
    monkeypatch.setattr(models, "DEFAULT_MODEL", "tiny")


class TestModels:
    def test_table(self, shipped, capsys):
        assert run("models") == 0
        header, _, *rows = capsys.readouterr().out.splitlines()
        assert header.split("  ")[0] == "model"
        assert " ".join(rows[0].split()) == "tiny (default) SAFI 25 4 BSD68 29.1 dB"
        assert " ".join(rows[1].split()) == "wide SAFI 5 to 50 4 not measured"

    def test_json(self, shipped, capsys):
        assert run("models", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["default"] == "tiny"
        assert [entry["noise_levels"] for entry in report["models"]] == [[25.0], [5.0, 50.0]]

    def test_inspect(self, shipped, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
        assert run("inspect", "wide", "-o", tmp_path / "a.png") == 0
        text = capsys.readouterr().out
        assert "SAFI" in text
        assert str(tmp_path / "a.png") in text
        assert (tmp_path / "a.png").stat().st_size > 10_000
        assert run("inspect", "tiny", "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["schedule"] == {"name": "unrolled", "outer": 5, "inner": 12}
        assert facts["strength"] == {"unrolled": [1e-3], "converged": [2e-3]}

    def test_inspect_refuses_another_picture_format(self, shipped, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
        assert run("inspect", "wide", "-o", tmp_path / "a.jpg") == 1
        assert "a picture is written as .png" in capsys.readouterr().err

    def test_convert(self, tmp_path, monkeypatch, capsys):
        from safi_fast.training import checkpoint

        calls = []
        monkeypatch.setattr(checkpoint, "convert", lambda *args, **options: calls.append((args, options)) or TINY)
        assert run("convert", "a.pth", "b.safetensors", "--converged-strength", 0.001, "--name", "n") == 0
        expected = {"converged_strength": 0.001, "name": "n", "overwrite": False}
        assert calls == [((Path("a.pth"), Path("b.safetensors")), expected)]
        assert capsys.readouterr().out.startswith("b.safetensors: SAFI tiny, 4 filters, sha256 ")


class TestDoctor:
    @pytest.fixture(autouse=True)
    def _backends(self, monkeypatch):
        reports = [("cpu", True, "Numba runs."), ("cuda", False, "There is no GPU.")]
        monkeypatch.setattr(backend, "describe_backends", lambda: reports)

    def test_report(self, solver, capsys):
        assert run("doctor") == 0
        text = capsys.readouterr().out
        assert "backend cpu    yes: Numba runs." in text
        assert "backend cuda   no: There is no GPU." in text
        assert "self-check     passed: 20." in text
        assert f"numpy          {np.__version__}" in text

    def test_json(self, solver, capsys):
        assert run("doctor", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["backends"][1] == {"name": "cuda", "available": False, "reason": "There is no GPU."}
        assert report["self_check"]["passed"]
        assert report["cores"] >= 1
        assert report["caches"]["second"] > 0
        assert report["caches"]["pairs_of_64"] % 6 == 0

    @pytest.mark.parametrize("gap", [float("nan"), -0.1])
    def test_an_impossible_gap_fails(self, solver, capsys, gap):
        solver.gap = gap
        assert run("doctor") == 1
        assert "which is impossible" in capsys.readouterr().out

    def test_a_solver_that_does_nothing_fails(self, solver, monkeypatch, capsys):
        monkeypatch.setattr(
            solver, "denoise", lambda image, *_, **__: Solution(image, "completed", False, 1, 1, 0.0, 0.0, 0.0)
        )
        assert run("doctor") == 1
        assert "far less than it should" in capsys.readouterr().out

    def test_a_solver_that_cannot_be_set_up_fails(self, monkeypatch, capsys):
        def broken(*_args):
            raise ModelError("no weights")

        monkeypatch.setattr(sessions, "make_session", broken)
        assert run("doctor", "--json") == 1
        assert json.loads(capsys.readouterr().out)["self_check"]["message"] == "ModelError: no weights"


class TestDemo:
    def test_scores_and_picture(self, solver, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
        assert run("demo", "-o", tmp_path / "out") == 0
        text = capsys.readouterr().out
        assert "tiny on skimage.data.camera(), 512 x 512, sigma 25" in text
        assert re.search(r"^noisy +20\.", text, re.MULTILINE)
        assert "relative gap  1.0e-03" in text
        assert (tmp_path / "out" / "before_after.png").stat().st_size > 100_000
        assert len(solver.calls) == 2

    def test_a_level_that_the_model_is_not_for(self, solver, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
        assert run("demo", "-o", tmp_path / "out", "--sigma", 500) == 1
        assert "--sigma is 500, on the scale 0 to 255; model 'tiny' " in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_missing_matplotlib_is_said_before_the_work(self, solver, tmp_path, monkeypatch, capsys):
        from safi_fast import plots

        monkeypatch.setattr(plots, "find_spec", lambda name: None)
        assert run("demo", "-o", tmp_path / "out") == 1
        assert "pip install matplotlib" in capsys.readouterr().err
        assert not solver.calls


def test_summary_of_a_batch_is_its_worst_image():
    single = Solution(None, "converged", True, 3, 40, 1e-3, 1e-4, 1e-2)
    batch = replace(
        single,
        status=np.array(["converged", "max_iterations", "converged"]),
        gap=np.array([1.0, 3.0, 2.0]),
        relative_gap=np.array([0.1, 0.2, 0.3]),
        inner_iterations=np.array([1, 5, 2]),
    )
    assert sessions.summary(single)["solver_status"] == "converged"
    assert sessions.summary(batch) == {
        "solver_status": "max_iterations",
        "gap": 3.0,
        "relative_gap": 0.3,
        "outer_iterations": 3,
        "inner_iterations": 5,
    }
