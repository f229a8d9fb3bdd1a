"""`safi-fast denoise --devices`: files on several GPUs in turn, in the fake CuPy."""

import numpy as np
import pytest
from fake_cupy import install
from models import random_model

import safi_fast.cli.session as sessions
from safi_fast import Solver, backend
from safi_fast.backend import BackendReport
from safi_fast.bindings.cuda import CudaEngine
from safi_fast.cli.main import main
from safi_fast.weights import save_model

MODEL = random_model("safi", channels=8, kernels=(5,), composed=True, boundary="symmetric", lipschitz=1.1)
STEPS = ("--sigma", "25", "--max-outer", "2", "--max-inner", "2")


@pytest.fixture
def cupy(monkeypatch):
    """Two GPUs; streams are lazy."""
    fake = install(monkeypatch)
    monkeypatch.setattr(backend, "cuda_report", lambda: BackendReport("cuda", True, "a fake"))
    monkeypatch.setattr(backend, "_driver_is_here", lambda: True)
    fake.world.lazy = True
    return fake


@pytest.fixture
def folder(tmp_path):
    """Five images and a file that is none, as the third."""
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(3).integers(0, 255, (5, 20, 22)).astype(np.float32) / 255
    for name, image in zip("abdef", pixels, strict=True):
        np.save(tmp_path / "in" / f"{name}.npy", image)
    (tmp_path / "in" / "c.npy").write_bytes(b"")
    save_model(MODEL, tmp_path / "model.safetensors")
    return tmp_path


def denoise(folder, *arguments, out="out"):
    words = ("denoise", folder / "in", "-o", folder / out, "--model", folder / "model.safetensors", *STEPS, *arguments)
    return main([str(word) for word in words])


def test_files_go_to_the_gpus_in_turn(cupy, folder, monkeypatch, capsys):
    used, make = [], CudaEngine.workspace
    monkeypatch.setattr(CudaEngine, "workspace", lambda self, *s: used.append(self.device.number) or make(self, *s))
    assert denoise(folder, "--devices", "all", "--json") == 1
    assert capsys.readouterr().err.startswith(f"safi-fast: error: {folder}/in/c.npy: the file is empty")
    assert sorted(used) == [0, 0, 1, 1, 1]
    assert denoise(folder, "--backend", "cpu", out="cpu") == 1
    for name in "abdef":
        one, other = (np.load(folder / out / f"{name}.npy") for out in ("out", "cpu"))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    used.clear()
    denoise(folder, "--devices", "1", out="second")
    assert set(used) == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0", "2"), "--devices is [0, 2]; expected 'all' or different numbers of GPUs, of which there are 2"),
        (("1", "1"), "--devices is [1, 1]; expected 'all' or different"),
        (("all", "0"), "--devices is ['all', 0]; expected 'all' or different"),
        (("all", "--backend", "cpu"), "--devices is 'all', but backend is 'cpu'; expected 'auto' or 'cuda'"),
        (("0", "a.npy"), "argument --devices: 'a.npy' is not 'all' or the number of a GPU"),
        (("-1",), "--devices"),
    ],
)
def test_devices_that_are_refused(cupy, folder, arguments, message, capsys):
    assert denoise(folder, "--devices", *arguments) != 0
    assert message in capsys.readouterr().err
    assert not list((folder / "out").glob("*.npy"))


def test_where_there_is_no_gpu(folder, monkeypatch, capsys):
    monkeypatch.setattr(backend, "_driver_is_here", lambda: False)
    assert denoise(folder, "--devices", "0") != 0
    assert "--devices is [0]; expected 'all' or different numbers of GPUs, of which there are 0" in str(
        capsys.readouterr()
    )
    assert sessions.make_session(str(folder / "model.safetensors"), devices="all").others == ()


def test_a_volume_is_for_one_gpu(tmp_path, capsys):
    (tmp_path / "in.zarr").mkdir()
    assert main(["denoise", str(tmp_path / "in.zarr"), "-o", str(tmp_path / "out"), *STEPS, "--devices", "all"]) == 2
    assert "--devices is for image files; a Zarr volume is solved on one GPU" in capsys.readouterr().err


def test_a_solver_for_each_gpu(cupy):
    assert [one._gpu for one in Solver(MODEL, devices=[1, 0]).each_gpu] == [1, 0]
    assert len(Solver(MODEL, backend="cpu").each_gpu) == 1
