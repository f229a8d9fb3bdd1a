"""`safi-fast doctor --gpu`: on a CuPy that is not there, whose kernels the emulator runs. Times mean nothing here."""

import json
from functools import partial

import numpy as np
import pytest
from fake_cupy import install
from models import random_model

import safi_fast
from safi_fast import backend
from safi_fast.bindings import clock
from safi_fast.bindings import gpu as examined
from safi_fast.bindings.device import CupyDevice
from safi_fast.cli import doctor, doctor_gpu
from safi_fast.cli.main import main
from safi_fast.solver.schedules import Fast


@pytest.fixture
def cupy(monkeypatch):
    """A GPU, small images and a small model."""
    fake, model = (
        install(monkeypatch, gpus=1),
        random_model(channels=16, kernels=(5,), composed=True, boundary="symmetric", lipschitz=1.1),
    )
    monkeypatch.setattr(examined, "_working_cupy", lambda: fake)
    monkeypatch.setattr(backend, "cuda_report", lambda: backend.BackendReport("cuda", True, "A GPU."))
    monkeypatch.setattr(safi_fast, "Solver", partial(safi_fast.Solver, model))
    monkeypatch.setattr("safi_fast.models.load_model", lambda *_: model)
    for name, value in (("HEIGHT", 21), ("WIDTH", 24), ("SCHEDULE", Fast(outer=2, inner=4))):
        monkeypatch.setattr(doctor_gpu, name, value)
    monkeypatch.setattr(doctor, "SIDE", 32)
    for name, value in (("LAUNCHES", 1), ("ROUNDS", 1), ("COPY", 1 << 12)):
        monkeypatch.setattr(clock, name, value)
    return fake


def test_report_of_a_gpu(cupy):
    found = doctor_gpu.report()
    assert found["passed"]
    assert found["device"].startswith("Fake GPU, 80 GiB, compute capability 9.0")
    assert [row["kernel"] for row in found["kernels"]][:3] == ["dual_step", "synthesis", "image_step"]
    assert all(row["us"] > 0 for row in found["kernels"])
    assert [row["what"] for row in found["parity"]] == ["denoise", "reconstruct"]
    assert all(row["largest"] < 1e-4 for row in found["parity"])
    printed = dict(doctor_gpu.lines(found))
    assert "at least" in printed["dual_step"]
    assert printed["reconstruct"].endswith("from the CPU, at most 0.005")


def test_a_result_that_differs_fails(cupy, monkeypatch):
    solved = doctor_gpu.solved
    monkeypatch.setattr(doctor_gpu, "solved", lambda what, where: solved(what, "cpu") + (where == "cuda") * 2e-3)
    found = doctor_gpu.report()
    assert not found["passed"]
    assert "denoise differs from the CPU by 0.002, more than 0.001" in found["short"]

    def broken(what, where):
        raise safi_fast.BackendError("no memory")

    monkeypatch.setattr(doctor_gpu, "solved", broken)
    found = doctor_gpu.report()
    assert not found["passed"]
    assert "reconstruct failed: BackendError: no memory" in found["short"]
    assert ("denoise", "BackendError: no memory") in doctor_gpu.lines(found)


def test_what_falls_short():
    kernels = [
        {"kernel": "dual_step", "us": 100.0, "least_us": 49.0}, {"kernel": "synthesis", "us": 100.0, "least_us": 51.0},
        {"kernel": "totals", "us": 5.0, "least_us": None},
    ]  # fmt: skip
    assert doctor_gpu.shortcomings(kernels, []) == ["dual_step takes 2.0 times the least that this GPU allows"]


def test_bounds_of_kernels(cupy):
    """As in docs/gpu.md: 43264 FLOPs and 1536 bytes per pixel, of both kernels."""
    device = CupyDevice()
    assert clock.peak(device) == 4 * 128 * 2 * 1.5e9
    assert clock.least_seconds("dual_step", 64, 13, 1000, 3e12, 60e12) == pytest.approx(1000 * 21632 / 60e12)
    assert clock.least_seconds("dual_step", 64, 13, 1000, 3e12, 400e12) == pytest.approx(1000 * 1024 / 3e12)
    assert clock.least_seconds("synthesis", 64, 13, 1000, 3e12, 400e12) == pytest.approx(1000 * 512 / 3e12)
    assert clock.least_seconds("totals", 64, 13, 1000, 3e12, 60e12) is None
    assert clock.copy_bandwidth(device, lambda call: (call(), 1e-6)[1]) == pytest.approx(2 * clock.COPY / 1e-6)


@pytest.mark.parametrize("usable", [True, False])
def test_command_line(usable, cupy, monkeypatch, capsys):
    """The report is a part of what doctor prints, and of its status."""
    passed = {"passed": True, "message": "passed"}
    monkeypatch.setattr(doctor, "self_check", lambda: passed)
    if not usable:
        monkeypatch.setattr(examined, "examine", lambda: examined.Finding(False, "There is no GPU."))
    assert main(["doctor", "--gpu"]) == (0 if usable else 1)
    said = capsys.readouterr().out
    assert ("reconstruct    " in said) == usable
    assert f"gpu            {'Fake GPU' if usable else 'There is no GPU.'}" in said
    assert main(["doctor", "--gpu", "--json"]) == (0 if usable else 1)
    assert json.loads(capsys.readouterr().out)["gpu"]["passed"] == usable
    assert main(["doctor", "--json"]) == 0
    assert "gpu" not in json.loads(capsys.readouterr().out)


def test_problems_of_the_report():
    """Denoising helps, and so does reconstruction."""
    image = doctor.synthetic_image()
    for what in ("denoise", "reconstruct"):
        assert np.sqrt(np.mean((doctor_gpu.solved(what, "cpu") - image) ** 2)) < 0.06
