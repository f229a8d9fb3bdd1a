"""Operators and solves that turn NaN or infinite in mid-run: an error that says where, on the CPU and in the CUDA loop,
and no lost image.
"""

import json

import numpy as np
import pytest
from emulator.device import EmulatedDevice
from models import random_model

import safi_fast.api as api
from safi_fast import OperatorError, Solver, SolverError
from safi_fast.bindings.cpu import CpuBackend
from safi_fast.bindings.cpu_workspace import CpuWorkspace
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.cuda_workspace import CudaWorkspace
from safi_fast.cli import main as cli
from safi_fast.operators import Blur, FourierMRI, Mask
from safi_fast.solver.faults import NO_CULPRIT
from safi_fast.weights import save_model

SHAPE = (24, 21)
RNG = np.random.default_rng(7)
KNOWN = RNG.random(SHAPE) < 0.7
IMAGE = (0.2 + 0.6 * (np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) > 20)).astype(np.float32)


def spoiling(kind):
    """An operator of this kind whose `method` gives `value` in one pixel from its `calls`-th call on."""

    class Spoiling(kind):
        calls, method, value = None, "", np.nan

        @property
        def name(self):
            return "Spoiling"

        def _spoilt(self, method, result):
            if self.calls is not None and method == self.method:
                self.calls -= 1
                if self.calls < 0:
                    result = np.array(result)
                    result.reshape(len(result), -1)[:, 3] = self.value
            return result

        def _apply(self, x):
            return self._spoilt("apply", super()._apply(x))

        def _adjoint(self, y):
            return self._spoilt("adjoint", super()._adjoint(y))

    return Spoiling


def made(kind):
    lines = np.ones((SHAPE[0], 1)) * (np.arange(SHAPE[1]) % 2 == 0)
    if kind is FourierMRI:
        return spoiling(kind)(lines, mask_order="fft", check_order=False)
    return spoiling(kind)(KNOWN) if kind is Mask else spoiling(kind)(np.full((3, 3), 1 / 9), SHAPE)


def after(operator, method, calls, value=np.nan):
    operator.norm  # noqa: B018 - before it is spoilt
    operator.method, operator.calls, operator.value = method, calls, value
    return operator


@pytest.fixture(scope="module")
def solver():
    return Solver(random_model(), backend="cpu")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["apply", "adjoint"])
@pytest.mark.parametrize("kind", [Blur, FourierMRI])
def test_an_operator_that_turns_bad_in_mid_run(solver, kind, method, value):
    operator = made(kind)
    y = operator.check_measurement(operator.apply(IMAGE))
    assert solver.reconstruct(y, operator, strength=1e-3, max_outer=3, max_iter=45, tol=1e-9).status == "max_iterations"
    seen = []
    with pytest.raises(
        OperatorError, match=f"Spoiling: {method} gave values that are not finite at outer step 2"
    ) as caught:
        solver.reconstruct(
            y, operator, strength=1e-3, max_outer=3, max_iter=45, tol=1e-9,
            callback=lambda state: (seen.append(state.image()), after(operator, method, 0, value)),
        )  # fmt: skip
    assert len(seen) == 1
    assert np.isfinite(seen[0]).all()
    np.testing.assert_array_equal(caught.value.image, seen[0][0])


def test_at_the_first_step(solver):
    operator = after(made(Blur), "adjoint", 30)
    operator._passed = operator.norm
    y = operator.apply(IMAGE)
    with pytest.raises(OperatorError, match=r"adjoint gave values .* at outer step 1, inner step ") as caught:
        solver.reconstruct(y, operator, strength=1e-3, max_iter=100, tol=1e-9)
    assert caught.value.image is None
    with pytest.raises(OperatorError, match="a least-squares step from zero has values that are not finite"):
        solver.reconstruct(y, operator, strength=1e-3)


def test_the_image_of_a_batch_is_named(solver, monkeypatch):
    """The last two of four, in parts of two images each."""
    operators = [made(Mask) for _ in range(4)]
    y = np.stack([op.check_measurement(IMAGE) for op in operators])
    for op in operators:
        op._passed = op.norm
    after(operators[3], "apply", 40)
    with pytest.raises(
        OperatorError, match=r"at outer step \d, inner step \d+, image 3, for a finite argument"
    ) as caught:
        solver.reconstruct(y, operators, strength=1e-3, tol=1e-9)
    assert caught.value.image is None or caught.value.image.shape == y.shape
    after(operators[3], "apply", 40)
    monkeypatch.setattr("safi_fast.reconstructing.images_at_once", lambda *_, **__: 2)
    with pytest.raises(OperatorError, match=r"image 3, for") as caught:
        solver.reconstruct(y, operators, strength=1e-3, tol=1e-9, max_outer=2, max_iter=40)
    assert caught.value.image is None


@pytest.mark.parametrize("schedule", ["unrolled", "converged", "gap"])
@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_a_state_that_is_not_finite(monkeypatch, backend, schedule):
    """From the second mask on one image of the batch has a NaN in its data; what the callback has seen before stays."""
    monkeypatch.setattr(
        api, "select", lambda *_: CpuBackend() if backend == "cpu" else CudaBackend(EmulatedDevice("plain"), "float32")
    )
    kind = CpuWorkspace if backend == "cpu" else CudaWorkspace
    whole, masks = kind.update_mask, []

    def poisoned(workspace, *arguments):
        whole(workspace, *arguments)
        masks.append(1)
        if len(masks) == 2:
            y = np.array(workspace.y)
            y.reshape(2, *SHAPE)[1, 5, 5] = np.nan
            if backend == "cpu":
                workspace.y = y
            else:  # recordings know the array
                workspace.device.fill(workspace.y, y)

    monkeypatch.setattr(kind, "update_mask", poisoned)
    seen = []
    batch = np.stack([IMAGE, IMAGE[::-1]]) + np.float32(0.1) * RNG.standard_normal((2, *SHAPE), np.float32)
    kept = Solver(random_model(boundary="symmetric"))
    options = {"schedule": schedule, "max_outer": 4, "max_inner": 9, "callback": lambda s: seen.append(s.image())}
    with pytest.raises(SolverError, match=r"not finite at outer step 3, inner step \d, image 1: " + NO_CULPRIT[:30]):
        kept.denoise(batch, 25 / 255, **options)
    assert len(seen) == 2
    assert np.isfinite(seen).all()


@pytest.mark.parametrize("schedule", ["converged", "gap"])
def test_a_nan_stops_the_inner_steps(monkeypatch, schedule):
    """At the step where it shows, and not after the limit of a thousand more."""
    step, steps = CpuWorkspace.step, []

    def bad(workspace, active, momentum):
        steps.append(1)
        return step(workspace, active, momentum) * (np.nan if len(steps) == 8 else 1)

    monkeypatch.setattr(CpuWorkspace, "step", bad)
    with pytest.raises(SolverError, match="at outer step 1, inner step 8: "):
        Solver(random_model(), backend="cpu").denoise(IMAGE, 25 / 255, schedule=schedule, tol=1e-9, max_outer=1)
    assert len(steps) == 8


def test_a_stream_names_the_image(monkeypatch):
    outer_change = CpuWorkspace.measure
    monkeypatch.setattr(CpuWorkspace, "measure", lambda *a: outer_change(*a) * (np.nan if a[0].width == 20 else 1))
    with pytest.raises(
        SolverError, match=r"images\[1\]: the solve has values that are not finite at outer step 1, inner step 12: "
    ):
        list(Solver(random_model(), backend="cpu").denoise_batch([IMAGE, IMAGE[:, 1:]], 25 / 255))


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    """One line, exit status 1, and the other images of the folder are made."""
    monkeypatch.chdir(tmp_path)
    save_model(random_model(lipschitz=1.1), tmp_path / "small.safetensors")
    (tmp_path / "in").mkdir()
    for name in "abc":
        np.save(f"in/{name}.npy", IMAGE)
    np.save("k.npy", np.ones((3, 3)))
    count = []

    def blur(*arguments, **options):
        operator = spoiling(Blur)(*arguments, **options)
        count.append(operator)
        return after(operator, "apply", 60) if len(count) == 2 else operator

    monkeypatch.setattr("safi_fast.operators.Blur", blur)
    arguments = ["reconstruct", "deblur", "in", "--kernel", "k.npy", "-o", "out", "--strength", "1e-3", "--json"]
    assert cli.main([*arguments, "--model", "small.safetensors", "--max-outer", "2", "--certify", "--tol", "1e-9"]) == 1
    out, err = capsys.readouterr()
    assert [record["status"] for record in json.loads(out)["files"]] == ["reconstructed", "failed", "reconstructed"]
    assert err.count("\n") == 1
    assert err.startswith("safi-fast: error: in/b.npy: Spoiling: apply gave values that are not finite at outer step ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npy", "c.npy"]
