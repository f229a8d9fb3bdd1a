"""Whatever goes wrong around a command or an argument: one line that names it, exit status 1 or 2, no traceback, no
address.
"""

import codecs
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import random_model

import safi_fast
from safi_fast import BackendError, InputError, ModelError, Solver, backend, io, metrics
from safi_fast.arrays import as_array, positive_per_image
from safi_fast.cli import main as cli
from safi_fast.cli.output import LONGEST_LINE, first_sentence, print_error
from safi_fast.errors import LONGEST, ImageFileError, shown
from safi_fast.operators import Blur, Downsample, FourierMRI, Identity, from_functions
from safi_fast.operators.base import image_shape, numbers

ROOT = Path(__file__).resolve().parents[2]
IMAGE = np.linspace(0, 1, 20 * 24, dtype=np.float32).reshape(20, 24)
ADDRESS = re.compile("0x[0-9a-f]{6}")


def shell(line, **environment):
    """A shell's run of the command, as $SAFI in `line`: exit status, standard output, standard error."""
    command = f"{sys.executable} -m safi_fast.cli.main"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, errors="surrogateescape", check=False, timeout=250,
        cwd=ROOT,
        env=os.environ | {"SAFI": command, "PYTHON": sys.executable} | environment,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stdout, done.stderr


# ---------------------------------------------------------------------------------------------------------- streams


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        (
            "$SAFI models > /dev/full",
            1,
            "safi-fast: error: standard output cannot be written (no space left on device)\n",
        ),
        ("$SAFI models >&-", 1, "safi-fast: error: standard output is closed; what should be printed is lost\n"),
        ("$SAFI models nonsense 2> /dev/full", 2, ""),
        ("$SAFI models nonsense 2>&-", 2, ""),
        ("$SAFI models > /dev/full 2>&-", 1, ""),
    ],
)
def test_streams_that_cannot_be_written(line, status, error):
    assert shell(line) == (status, "", error)


def test_a_closed_standard_error_does_not_spill_into_the_output(tmp_path):
    status, out, _ = shell(f"$SAFI denoise {tmp_path}/none.npy -o {tmp_path}/o.npy --sigma 25 --json 2>&-")
    assert status == 1
    assert out.startswith("{")
    assert out.endswith("}\n")


def test_without_documentation():
    """python -OO drops the texts that the help is made of."""
    status, out, error = shell(
        "$PYTHON -OO -m safi_fast.cli.main --help && $PYTHON -OO -m safi_fast.cli.main reconstruct mri --help"
    )
    assert (status, error) == (0, "")
    assert "--estimate-maps" in out
    assert first_sentence(None) == ""
    assert first_sentence("\nDo this.\n\nAnd that.") == "Do this."


def test_names_that_a_terminal_cannot_show(tmp_path):
    """Not UTF-8, and a terminal of ASCII: the name is printed with escapes."""
    name = os.fsencode(tmp_path) + b"/\xc3\xa9\xff\n[b].npy"
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    line = (
        b"$SAFI denoise $'"
        + name.replace(b"\n", b"\\n").replace(b"\xff", b"\\xff")
        + b"' -o "
        + os.fsencode(tmp_path)
        + b"/o --sigma 25"
    )
    status, out, error = shell(os.fsdecode(line), PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8")
    assert (status, out) == (1, "0 denoised in 0.0 s, 1 failed\n")
    assert error.startswith(f"safi-fast: error: {tmp_path}/\\xe9\\udcff [b].npy: ")
    assert error.count("\n") == 1


def test_what_the_system_refuses_is_one_line(monkeypatch, capsys):
    def refuse(number, name=None):
        def run(args):
            raise OSError(number, os.strerror(number), name)

        monkeypatch.setattr("safi_fast.cli.models.run", run)
        assert cli.main(["models"]) == 1
        out, error = capsys.readouterr()
        assert out == ""
        return error

    assert refuse(errno.ENOSPC) == "safi-fast: error: standard output cannot be written (no space left on device)\n"
    assert refuse(errno.EACCES, "/secret") == "safi-fast: error: /secret: permission denied\n"
    assert refuse(errno.ENOENT) == "safi-fast: error: the system refused: no such file or directory\n"
    assert refuse(errno.EPIPE) == ""


def test_long_lines_are_cut(capsys):
    print_error("a" * 10 * LONGEST_LINE + "\n the end")
    line = capsys.readouterr().err
    assert len(line) < 1.1 * LONGEST_LINE
    assert line.endswith("a the end\n")
    assert cli.main(["denoise", "a.png", "-o", "b.png", "--sigma", "9x" * 10 * LONGEST_LINE]) == 2
    assert len(capsys.readouterr().err.splitlines()[-1]) < 1.1 * LONGEST_LINE


def test_brackets_in_names_are_no_markup(monkeypatch, capsys):
    from safi_fast.cli.output import progress

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("1/1 [/x].npy", 1) as advance:
        advance()
    assert "[/x].npy" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ environment


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "NUMBA_NUM_THREADS",
            "0",
            "NUMBA_NUM_THREADS is '0'; expected a whole number of at least 1, or leave it unset",
        ),
        ("NUMBA_NUM_THREADS", "two", "NUMBA_NUM_THREADS is 'two'; expected a whole number"),
        ("NUMBA_THREADING_LAYER", "nonsense", "Numba cannot start threads with the layer 'nonsense': "),
        (
            "NUMBA_DISABLE_JIT",
            "1",
            "NUMBA_DISABLE_JIT is set, but the kernels exist in compiled form only; leave it unset",
        ),
    ],
)
def test_environment(tmp_path, name, value, message):
    np.save(tmp_path / "a.npy", IMAGE)
    status, _, error = shell(f"$SAFI denoise {tmp_path}/a.npy -o {tmp_path}/b.npy --sigma 25", **{name: value})
    assert status == 1
    assert error.startswith("safi-fast: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_threading_layer(monkeypatch):
    """As Numba says it where it was asked for TBB, and TBB is not there."""
    import numba

    from safi_fast.bindings import threads

    def refuse():
        raise ValueError("No threading layer could be loaded.\nHINT:\nIntel TBB is required")

    monkeypatch.setattr(numba, "get_num_threads", refuse)
    with pytest.raises(
        BackendError,
        match=r"No threading layer could be loaded\.; leave NUMBA_THREADING_LAYER unset, or pass 'workqueue'",
    ):
        threads.threads_to_use(None)
    report = backend._describe_cpu()
    assert not report.available
    assert "cannot start threads" in report.sentence


@pytest.mark.parametrize(
    "error", [RuntimeError("cannot cache function 'x': no locator"), PermissionError(13, "denied")]
)
def test_kernels_that_cannot_be_kept(monkeypatch, error):
    from safi_fast.bindings import cache

    def refuse(name):
        raise error

    monkeypatch.setattr(cache.importlib, "import_module", refuse)
    with pytest.raises(
        BackendError, match="compiled kernels cannot be stored; set NUMBA_CACHE_DIR to a folder that can be written"
    ):
        cache._import_kernels()


# ------------------------------------------------------------------------------------------------------------ files


def test_loops_of_links(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("loop.png", "loop.npy", "loop.cfl", "loop.hdr", "loop.safetensors", "loop.txt"):
        Path(name).symlink_to(name)
    np.save("a.npy", IMAGE)
    loops = "too many levels of symbolic links"
    for arguments, name in (
        (["denoise", "loop.png", "-o", "x.png", "--sigma", "25"], "loop.png"),
        (["denoise", "a.npy", "-o", "x.npy", "--sigma", "25", "--model", "loop.safetensors"], "loop.safetensors"),
        (["inspect", "loop.safetensors"], "loop.safetensors"),
        (["reconstruct", "mri", "loop.npy", "-o", "x.npy", "--strength", "1"], "loop.npy"),
        (["reconstruct", "mri", "loop.cfl", "-o", "x.npy", "--strength", "1"], "loop.hdr"),
        (["reconstruct", "deblur", "a.npy", "--kernel", "loop.npy", "-o", "x.npy", "--strength", "1"], "loop.npy"),
        (["evaluate", "--data", "loop.png", "--sigma", "25"], "loop.png"),
    ):
        assert cli.main(arguments) in (1, 2), arguments
        error = capsys.readouterr().err
        assert error.count("\n") == 1, arguments
        assert name in error
        assert loops in error.lower(), arguments
    with pytest.raises(ImageFileError, match=rf"loop\.txt: cannot be read \({loops}"):
        io.read_vector("loop.txt")
    with pytest.raises(ModelError, match=loops):
        safi_fast.load_model("loop.safetensors")


def test_an_output_that_is_a_loop_of_links_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop.npy").symlink_to("loop.npy")
    np.save("a.npy", IMAGE)
    from safi_fast.cli.plan import Output, check_outputs, plan

    (job,) = plan([Path("a.npy")], ["a.npy"], "loop.npy")
    check_outputs([Output(job.target, "a.npy")], [job.source])
    assert not job.target.exists()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"0, 1.5\n3", [0, 1.5, 3]),
        (codecs.BOM_UTF8 + b"0, 1.5\r\n3", [0, 1.5, 3]),
        ("0, 1.5\n3".encode("utf-16"), [0, 1.5, 3]),
        (codecs.BOM_UTF16_BE + "0, 1.5\n3".encode("utf-16-be"), [0, 1.5, 3]),
        ("0, 1.5\n3".encode("utf-16-le"), "it holds zero bytes"),
        (b"\x80\x81 1 2", "is no text"),
        (codecs.BOM_UTF16_LE + b"1", "is no text"),
        (b"0 one", "'one'; expected numbers"),
    ],
)
def test_text_files(tmp_path, data, expected):
    (tmp_path / "a.txt").write_bytes(data)
    if isinstance(expected, list):
        np.testing.assert_array_equal(io.read_vector(tmp_path / "a.txt"), expected)
    else:
        with pytest.raises(ImageFileError, match=rf"a\.txt: .*{expected}"):
            io.read_vector(tmp_path / "a.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_headers_of_bart(tmp_path, encoding):
    (tmp_path / "a.hdr").write_text("# Dimensions\n2 3 1 \n", encoding=encoding)
    (tmp_path / "a.cfl").write_bytes(np.arange(6).astype("<c8").tobytes())
    np.testing.assert_array_equal(io.read_cfl(tmp_path / "a.cfl"), [[0, 2, 4], [1, 3, 5]])


# -------------------------------------------------------------------------------------------------------- arguments


class Hostile:
    def __repr__(self):
        raise RuntimeError("no")


def test_shown():
    assert shown("a") == "'a'"
    assert shown(0.5) == "0.5"
    assert shown(object()) == "<object object>"
    assert shown([print, len]) == "[<built-in function print>, <built-in function len>]"
    assert not ADDRESS.search(shown(test_shown))
    assert shown(Hostile()) == "<Hostile>"
    assert "\n" not in shown(np.zeros((3, 3)))
    assert len(shown("x" * 10_000)) < 1.1 * LONGEST


THING = object()


@pytest.mark.parametrize(
    "call",
    [
        lambda thing: safi_fast.denoise(IMAGE, thing, model=random_model()),
        lambda thing: safi_fast.denoise(IMAGE, 0.1, model=random_model(), strength=thing),
        lambda thing: safi_fast.denoise(IMAGE, 0.1, model=random_model(), box=thing),
        lambda thing: safi_fast.denoise(IMAGE, 0.1, model=random_model(), box=(thing, 1)),
        lambda thing: safi_fast.denoise(IMAGE, 0.1, model=random_model(), schedule=thing),
        lambda thing: safi_fast.denoise(IMAGE, 0.1, model=random_model(), channel_axis=thing),
        lambda thing: safi_fast.denoise(IMAGE, 0.1, model=random_model(), max_outer=thing),
        lambda thing: safi_fast.denoise(IMAGE, 0.1, model=random_model(), data_range=thing),
        lambda thing: safi_fast.denoise(IMAGE, 0.1, model=random_model(), lipschitz=thing),
        lambda thing: safi_fast.denoise(thing, 0.1, model=random_model()),
        lambda thing: safi_fast.reconstruct(IMAGE, thing, strength=1, model=random_model()),
        lambda thing: safi_fast.reconstruct(IMAGE, Identity(IMAGE.shape), strength=thing, model=random_model()),
        lambda thing: safi_fast.reconstruct(IMAGE, Identity(IMAGE.shape), strength=1, model=random_model(),
            mask_of=thing),
        lambda thing: Solver(random_model(), threads=thing),
        lambda thing: Solver(random_model(), backend=[thing]),
        lambda thing: safi_fast.estimate_memory(thing, model=random_model()),
        lambda thing: safi_fast.load_model(thing),
        lambda thing: FourierMRI(np.ones((4, 4)), mask_order=[thing]),
        lambda thing: FourierMRI(np.ones((1, 4)), mask_order="fft", shape=thing),
        lambda thing: Blur(np.ones((3, 3)), (9, 9), boundary=[thing]),
        lambda thing: Downsample(thing, (9, 9)),
        lambda thing: Downsample(3, (9, 9), kernel=thing),
        lambda thing: from_functions([thing], abs, shape_in=(9, 9), shape_out=(9, 9)),
        lambda thing: image_shape("shape", thing),
        lambda thing: metrics.psnr(IMAGE, IMAGE, data_range=thing),
    ],
)  # fmt: skip
def test_no_addresses(call):
    """What is no argument at all is an InputError on one line that shows what came, not where it lies in memory."""
    with pytest.raises(InputError) as caught:
        call(THING)
    assert not ADDRESS.search(str(caught.value))
    assert "\n" not in str(caught.value)


class TestTorch:
    """Gradients and what torch puts off are no reason to fail, for any argument."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    def test_numbers_that_require_a_gradient(self, torch):
        sigma = torch.tensor(0.1, requires_grad=True)
        model = random_model()
        expected = safi_fast.denoise(IMAGE, 0.1, model=model, strength=0.02, backend="cpu")
        strength = torch.tensor([0.02], requires_grad=True)
        np.testing.assert_allclose(
            safi_fast.denoise(IMAGE, sigma, model=model, strength=strength, backend="cpu"), expected, atol=1e-6
        )
        np.testing.assert_array_equal(
            positive_per_image("sigma", torch.tensor([1.0, 2.0], requires_grad=True), 2), [1, 2]
        )
        with pytest.raises(
            InputError, match=r"sigma is tensor\(-1\., requires_grad=True\); expected a positive number"
        ):
            positive_per_image("sigma", torch.tensor(-1.0, requires_grad=True), 1)

    def test_tensors_that_are_conjugated_or_negated_lazily(self, torch):
        kspace = torch.complex(torch.tensor(IMAGE), torch.tensor(1 - IMAGE))
        negated = kspace.conj().imag
        assert negated.is_neg()
        np.testing.assert_array_equal(as_array("image", negated)[0], IMAGE - 1)
        conjugated = kspace.conj()
        assert conjugated.is_conj()
        with pytest.raises(InputError, match="image is complex"):
            as_array("image", conjugated)
        np.testing.assert_array_equal(numbers("measurement", conjugated), np.conj(kspace.numpy()))
        np.testing.assert_array_equal(Identity(IMAGE.shape, image="complex").apply(conjugated), np.conj(kspace.numpy()))
        weighted = torch.tensor(IMAGE, requires_grad=True) * 2
        np.testing.assert_array_equal(numbers("measurement", weighted), 2 * IMAGE)
        assert metrics.psnr(negated, negated.clone()) == np.inf

    def test_what_has_no_numpy_form(self, torch):
        for tensor, cure in (
            (torch.zeros(4, 4).to_sparse(), "to_dense"),
            (torch.zeros(4, 4, dtype=torch.bfloat16), "float"),
        ):
            with pytest.raises(InputError, match=rf"pass image\.{cure}\(\)"):
                as_array("image", tensor)
            with pytest.raises(InputError, match=r"measurement .*(pass|cannot be read)"):
                numbers("measurement", tensor)
