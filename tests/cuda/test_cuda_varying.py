"""Noise that varies, through CUDA in the emulator: whole solves equal those of the CPU backend."""

import numpy as np
import pytest
from emulator.device import EmulatedDevice
from models import random_model, random_planes_model

from safi_fast import Solver
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.cuda_workspace import CudaWorkspace

AGREEMENT = 1e-4  # in any pixel: float32 rounding grows over the steps of a whole solve
SIZE = (33, 40)
LEVELS = (5 / 255, 25 / 255, 50 / 255)


def model_of(name):
    if name == "two planes":
        return random_planes_model(2)
    family = "mmr" if name == "mmr" else "safi"
    return random_model(family, 6, boundary="symmetric", levels=LEVELS, lipschitz=1.0)


def pictures(planes=1):
    """(2, H, W) or (2, P, H, W), and a map of sigma for each."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    clean = 0.5 + 0.3 * np.sin(rows / 5) * np.cos(columns / 7)
    sigma = np.stack([6 + columns, 45 - rows]) / 255
    noise = np.random.default_rng(0).standard_normal((2, planes, *SIZE))
    images = (clean + sigma[:, None] * noise).astype(np.float32)
    return (images[:, 0] if planes == 1 else images), sigma


def on_cuda(model, mode="plain", precision="float32"):
    return Solver(model, backend=CudaBackend(EmulatedDevice(mode), precision))


def solutions(solver, images, sigma, **options):
    axis = None if images.ndim == 3 else 1
    limits = {"max_outer": 3, "max_inner": 12, "return_solution": True, "return_masks": True}
    return solver.denoise(images, sigma, channel_axis=axis, **limits, **options)


def assert_equal(found, wanted, agreement=AGREEMENT):
    np.testing.assert_allclose(found.image, wanted.image, rtol=0, atol=agreement)
    np.testing.assert_allclose(found.masks, wanted.masks, rtol=0, atol=10 * agreement)
    np.testing.assert_allclose(found.gap, wanted.gap, rtol=1e-2, atol=1e-3)
    np.testing.assert_array_equal(found.inner_iterations, wanted.inner_iterations)


@pytest.mark.parametrize("schedule", ["unrolled", "gap"])
@pytest.mark.parametrize("name", ["safi", "mmr", "two planes"])
def test_solves_equal_the_cpu(name, schedule, monkeypatch):
    """Of "gap" where both look at every step."""
    monkeypatch.setattr(CudaWorkspace, "check_every", 1)
    model, (images, sigma) = model_of(name), pictures(2 if name == "two planes" else 1)
    options = {"schedule": schedule}
    if name == "two planes":  # a model of one level
        options["strength"] = 0.05
    found = solutions(on_cuda(model), images, sigma, **options)
    assert_equal(found, solutions(Solver(model, backend="cpu"), images, sigma, **options))
    assert np.abs(found.image - solutions(on_cuda(model), images, [0.05, 0.1], **options).image).max() > 0.01


def test_a_work_space_that_knew_a_map_knows_numbers():
    """And the other way round: recordings and kernels are not mixed up."""
    solver, (images, sigma) = on_cuda(model_of("safi")), pictures()
    given = [[0.05, 0.1], sigma, [0.05, 0.1], sigma[::-1], sigma]
    found = [solutions(solver, images, one, schedule="unrolled") for one in given]
    for number, one in enumerate(given):
        wanted = solutions(on_cuda(model_of("safi")), images, one, schedule="unrolled")
        np.testing.assert_array_equal(found[number].image, wanted.image)
        np.testing.assert_array_equal(found[number].gap, wanted.gap)


def test_solve_in_check_mode():
    """No race, and nothing read that no kernel wrote."""
    (images, sigma), options = pictures(), {"schedule": "unrolled", "max_outer": 2, "max_inner": 2}
    found = on_cuda(model_of("safi"), "check").denoise(images, sigma, **options)
    wanted = Solver(model_of("safi"), backend="cpu").denoise(images, sigma, **options)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=AGREEMENT)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16x3"])
def test_solve_on_a_gpu_equals_the_cpu(gpu, precision):
    model, (images, sigma) = model_of("safi"), pictures()
    found = solutions(Solver(model, backend=CudaBackend(gpu, precision)), images, sigma, schedule="unrolled")
    wanted = solutions(Solver(model, backend="cpu"), images, sigma, schedule="unrolled")
    np.testing.assert_allclose(found.image, wanted.image, rtol=0, atol=1e-3 if precision == "tf32" else 1e-4)
