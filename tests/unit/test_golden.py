"""The engine against recorded outputs: of the published code (shared data), and of the float64 oracle (tests/golden,
made by
make_golden.py), which every clone has."""

from functools import cache
from pathlib import Path

import make_golden
import numpy as np
import oracle
import pytest
from make_golden import FOLDER, KINDS

from safi_fast import Solver, load_model
from safi_fast.bindings.cpu import CpuEngine

PUBLISHED = ("mmr_sigma5", "mmr_sigma15", "mmr_sigma25", "safi_random_16")


def filtered_and_mask(model, noisy):
    """W y and the mask of y from the kernels, each (C, H, W)."""
    workspace, one = CpuEngine(model).workspace(1, *noisy.shape), np.ones(1, np.float32)
    workspace.load(noisy[None], one, one, (0.0, 1.0))
    filtered = workspace.filtered()[0]
    level = model.at(None, strength_given=False)
    workspace.update_mask(np.arange(1), level.gain[None], level.bias[None])
    return filtered, workspace.masks()[0]


def assert_within(actual, golden, share):
    assert np.abs(actual - golden).max() <= share * np.abs(golden).max()


# ------------------------------------------------------------------------------------------------- the published code


@pytest.fixture(params=PUBLISHED)
def published(request, data_folder):
    """Golden outputs by name, the converted model and its solver."""
    pytest.importorskip("torch", reason="the published checkpoints are torch files")
    return _published(data_folder, request.param)


@cache
def _published(folder: Path, name):
    from safi_fast.training.checkpoint import read_checkpoint

    npz, pth = next(pair for pair in oracle.golden_pairs(folder) if pair[0].stem == name)
    model = read_checkpoint(pth)
    return dict(np.load(npz)), model, Solver(model)


def test_published_filter_responses_and_masks(published):
    golden, model, _ = published
    filtered, mask = filtered_and_mask(model, golden["noisy"])
    assert_within(filtered, golden["filtered"], 1e-4)
    assert_within(mask, golden["mask_of_noisy"], 1e-4)


def test_published_unrolled(published):
    """Strength and Lipschitz constant as trained; the borders are in it."""
    golden, model, solver = published
    strength, lipschitz = float(golden["lambda_trained"]), float(golden["lipschitz"])
    assert model.strength.unrolled[0] == pytest.approx(strength, rel=1e-6)
    image = solver.denoise(
        golden["noisy"], float(golden["sigma"]), schedule="unrolled", strength=strength, lipschitz=lipschitz
    )
    error = np.abs(image - golden["unrolled_5x12"])
    assert np.quantile(error, 0.999) <= 2e-4
    assert error.mean() <= 2e-5
    assert error.max() <= 2e-5  # what the README says
    print(f"max {error.max():.1e}, 99.9 % {np.quantile(error, 0.999):.1e}, mean {error.mean():.1e}")


def test_published_converged(published):
    """PSNR within 0.02 dB; the objective test that stops the inner loops hangs on the last digits of float32."""
    golden, _, solver = published
    strength = float(golden.get("lambda_tuned", golden["lambda_trained"]))
    image = solver.denoise(
        golden["noisy"], float(golden["sigma"]), schedule="converged", strength=strength,
        lipschitz=float(golden["lipschitz"]),
    )  # fmt: skip
    reached, expected = (oracle.psnr(x, golden["clean"]) for x in (image, golden["converged_10x100"]))
    assert reached == pytest.approx(expected, abs=0.02)
    error = np.abs(image - golden["converged_10x100"])
    print(f"PSNR {reached:.4f} dB ({reached - expected:+.1e}), max {error.max():.1e}, mean {error.mean():.1e}")


# --------------------------------------------------------------------------------------------------- our own recording


@pytest.fixture(params=[f"{family}_{boundary}" for family, boundary in KINDS])
def recorded(request):
    """The recorded outputs and the model, read from its weights file."""
    path = FOLDER / request.param
    return dict(np.load(path.with_suffix(".npz"))), load_model(path.with_suffix(".safetensors"))


def test_recorded_filter_responses_and_masks(recorded):
    """float32 rounding of the size of the largest value; a spline of the mask multiplies it by its slope, up to 40."""
    golden, model = recorded
    filtered, mask = filtered_and_mask(model, golden["noisy"])
    assert_within(filtered, golden["filtered"], 5e-7)
    assert_within(mask, golden["mask_of_noisy"], 4e-6)


def test_recorded_unrolled(recorded):
    golden, model = recorded
    image = Solver(model).denoise(golden["noisy"], make_golden.SIGMA, lipschitz=float(golden["lipschitz"]))
    assert_within(image, golden["unrolled_5x12"], 1e-6)


def test_recorded_converged(recorded):
    """With the same number of inner steps in every outer step."""
    golden, model = recorded
    solution = Solver(model).denoise(
        golden["noisy"], make_golden.SIGMA, schedule="converged", lipschitz=float(golden["lipschitz"]),
        return_solution=True,
    )  # fmt: skip
    np.testing.assert_array_equal([record.inner_iterations for record in solution.history], golden["counts"])
    assert_within(solution.image, golden["converged_10x100"], 1e-6)


def test_recording_is_what_the_script_makes(recorded):
    """The oracle of today gives the recorded outputs, so they can be made again."""
    golden, model = recorded
    np.testing.assert_array_equal(golden["noisy"], make_golden.noisy_image())
    for name, values in make_golden.outputs(model, golden["noisy"]).items():
        np.testing.assert_allclose(golden[name], values, rtol=0, atol=1e-6, err_msg=name)


def test_recording_is_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200_000
