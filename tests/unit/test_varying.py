"""sigma as a map: noise that varies over the image."""

import numpy as np
import oracle
import pytest
from models import random_model, random_planes_model
from skimage.data import camera

from safi_fast import Solver, load_model
from safi_fast.errors import InputError
from safi_fast.varying import varying

LEVELS = (5 / 255, 25 / 255, 50 / 255)


def model_of(planes=1):
    if planes > 1:
        return random_planes_model(planes)
    return random_model("safi", 6, boundary="symmetric", levels=LEVELS, lipschitz=1.0)


@pytest.fixture(scope="module")
def solver():
    return Solver(model_of())


def picture(shape=(33, 40)):
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    return np.broadcast_to(0.5 + 0.3 * np.sin(rows / 5) * np.cos(columns / 7), shape).astype(np.float32)


def ramp(shape=(33, 40), low=6, high=45):
    return np.linspace(low, high, shape[1])[None] * np.ones(shape) / 255


@pytest.mark.parametrize("schedule", ["unrolled", "converged", "gap"])
def test_a_constant_map_is_its_number(solver, schedule):
    images = np.stack([picture(), picture()[::-1]])
    maps = np.stack([np.full((33, 40), 0.05), np.full((33, 40), 0.1)])
    options = {"schedule": schedule, "max_outer": 2, "max_inner": 10}
    found = solver.denoise(images, maps, return_solution=True, **options)
    wanted = solver.denoise(images, [0.05, 0.1], return_solution=True, **options)
    np.testing.assert_array_equal(found.image, wanted.image)
    np.testing.assert_allclose(found.sigma, [0.05, 0.1])


def test_where_the_map_is_constant_the_problem_is_that_of_the_number():
    """Far from the jump; the steps are not the same, so of solves to the end."""
    model = model_of()
    maps = np.where(np.arange(96) < 48, 8, 40)[None] * np.ones((33, 1)) / 255
    noisy = picture((33, 96)) + maps * np.random.default_rng(0).standard_normal((33, 96))
    options = {"schedule": "gap", "max_outer": 1, "max_inner": 3000, "tol": 1e-6, "box": None}
    found = Solver(model).denoise(noisy, maps, **options)
    for part, level in ((slice(0, 24), 8), (slice(-24, None), 40)):
        wanted = Solver(model).denoise(noisy, level / 255, **options)[:, part]
        assert np.abs(found[:, part] - wanted).max() < 0.05 * np.abs(noisy[:, part] - wanted).max()


@pytest.mark.parametrize("planes", [1, 2])
def test_the_gap_holds_against_a_long_float64_run(planes):
    """z sqrt(v), W' = w M W sqrt(v) and y / sqrt(v) make a plain problem of it, but for the box."""
    model, strength = model_of(planes), 0.05
    shape = (24, 27) if planes == 1 else (planes, 24, 27)
    image, sigma = picture(shape), ramp((24, 27))
    solution = Solver(model).denoise(
        image, sigma, channel_axis=None if planes == 1 else 0, strength=strength, schedule="gap", tol=1e-3,
        max_outer=3, return_masks=True, return_solution=True, box=(0.3, 0.7),
    )  # fmt: skip
    noise = varying(model, sigma[None], np.array([strength]), "converged")
    variance, weight = noise.variance[0].astype(float), noise.weight[0].astype(float)
    mask, layers = weight * solution.masks.astype(float), model.filters.layers

    def objective(x):
        data = 0.5 * np.sum((x - image) ** 2 / variance)
        return data + strength * np.abs(mask * oracle.analysis(x, layers, "symmetric")).sum()

    u, best = np.zeros(mask.shape), None
    for _ in range(3000):
        best = np.clip(image - variance * oracle.synthesis(mask * u, layers, "symmetric"), 0.3, 0.7)
        u = np.clip(u + mask * oracle.analysis(best, layers, "symmetric") / mask.max() ** 2, -strength, strength)
    lead = objective(solution.image.astype(float)) - objective(best)
    assert ((best == 0.3) | (best == 0.7)).mean() > 0.02
    assert -1e-4 * objective(best) < lead < float(solution.gap)
    assert float(solution.gap) < 1.1e-3 * objective(best)


@pytest.mark.parametrize("schedule", ["unrolled", "gap"])
def test_a_batch_is_its_images(solver, schedule):
    images = np.stack([picture(), picture()[:, ::-1], picture()[::-1]])
    maps = np.stack([ramp(), ramp(low=10, high=20), np.full((33, 40), 0.1)])
    options = {"schedule": schedule, "max_outer": 2, "max_inner": 12}
    whole = solver.denoise(images, maps, **options)
    for image, sigma, result in zip(images, maps, whole, strict=True):
        np.testing.assert_allclose(solver.denoise(image, sigma, **options), result, rtol=0, atol=4e-3)
    same = solver.denoise(images[[0, 0]], maps[0], **options)
    np.testing.assert_array_equal(same[0], same[1])


def test_smaller_steps_are_more_steps(solver):
    """Where the map jumps ||sqrt(v) W^T w|| grows, and `unrolled` makes as many more inner steps, but not where the
    caller counts them.
    """
    jump = np.where(np.arange(40) < 20, 5, 50)[None] * np.ones((33, 1)) / 255
    own = solver.model.schedule
    found = solver.denoise(picture(), jump, return_solution=True)
    counted = solver.denoise(picture(), jump, max_inner=own.inner, return_solution=True)
    assert found.inner_iterations > own.outer * own.inner == counted.inner_iterations


def test_a_map_beats_one_number_and_whitening():
    """On a photograph with the shipped model: noise of 10 on squares, 40 between them."""
    clean = camera()[100:228, 200:328].astype(np.float32) / 255
    rows, columns = np.mgrid[:128, :128] // 32
    sigma = np.where((rows + columns) % 2, 10, 40) / 255
    noisy = (clean + sigma * np.random.default_rng(1).standard_normal(clean.shape)).astype(np.float32)
    solver, box = Solver(load_model("safi-gray-fast")), None

    def error(image):
        return float(np.mean((image - clean) ** 2))

    numbers = min(error(solver.denoise(noisy, level / 255, box=box)) for level in (10, 20, 25, 40))
    mean = float(sigma.mean())
    white = error(solver.denoise((noisy / sigma * mean).astype(np.float32), mean, box=box) * sigma / mean)
    assert error(solver.denoise(noisy, sigma, box=box)) < 0.95 * min(numbers, white)


def test_units_and_colour(solver):
    image, sigma = np.stack([picture(), picture().T.reshape(33, 40), picture()], -1), ramp()
    found = solver.denoise(image, sigma, channel_axis=-1, max_outer=2, return_solution=True)
    eight = solver.denoise(255 * image, 255 * sigma, channel_axis=-1, max_outer=2, data_range=255)
    np.testing.assert_allclose(eight, 255 * found.image, rtol=0, atol=0.02)
    assert found.sigma == pytest.approx(np.sqrt((sigma**2).mean()))
    masks = solver.denoise(image[..., 0], sigma, max_outer=2, return_masks=True, return_solution=True).masks
    assert masks.max() <= 1 + 1e-5


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (np.full((40, 33), 0.1), r"sigma has shape \(40, 33\); expected .* a map of them of shape \(33, 40\)"),
        (np.full((2, 33, 40), 0.1), r"sigma has shape \(2, 33, 40\)"),
        (ramp() - 10 / 255, "sigma is .*; expected a positive number"),
        (np.where(ramp() > 0.1, np.nan, 0.1), "sigma is .*; expected a positive number"),
        (ramp(low=2), "sigma is 0.0078.*"),
    ],
)
def test_maps_that_do_not_fit(solver, sigma, message):
    with pytest.raises(InputError, match=message):
        solver.denoise(picture(), sigma)


def test_tiles_take_their_part_of_the_map(solver):
    """What a cut changes falls off within the halo, also where the map jumps."""
    shape = (150, 260)
    jump = np.where(np.arange(260) % 90 < 45, 10, 30)[None] * np.ones(shape) / 255
    noisy = picture(shape) + jump * np.random.default_rng(0).standard_normal(shape)
    options = {"schedule": "unrolled", "box": None, "max_outer": 3, "max_inner": 8}
    whole = solver.denoise(noisy, jump, **options)
    found = solver.denoise(noisy, jump, max_memory=0.9 * solver.estimate_memory(shape), return_solution=True, **options)
    assert np.isnan(found.gap)
    assert np.abs(found.image - whole).max() < 0.01 * np.abs(noisy - whole).max()
    other = solver.denoise(noisy, jump[:, ::-1], max_memory=0.9 * solver.estimate_memory(shape), **options)
    assert np.abs(other - whole).max() > 0.1 * np.abs(noisy - whole).max()


def test_maps_of_a_stream(solver):
    """One for all, one for each, among numbers, and from a generator: each as `denoise` has it."""
    images, options = [picture(), picture()[::-1], picture((30, 41))], {"max_outer": 1, "max_inner": 3}
    maps = [ramp(), 0.1, ramp((30, 41))]
    wanted = [solver.denoise(image, sigma, **options) for image, sigma in zip(images, maps, strict=True)]
    for given in (maps, iter(maps)):
        for found, result in zip(solver.denoise_batch(images, given, **options), wanted, strict=True):
            np.testing.assert_array_equal(found, result)
    one = [solver.denoise(image, ramp(), **options) for image in images[:2]]
    for given in (ramp(), ramp().tolist(), np.stack([ramp(), ramp()])):
        for found, result in zip(solver.denoise_batch(images[:2], given, **options), one, strict=True):
            np.testing.assert_array_equal(found, result)


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (ramp((40, 33)), r"images\[0\]: sigma has shape \(40, 33\)"),
        ([ramp(), ramp((30, 41))], r"images\[1\]: sigma has shape \(30, 41\)"),
        ([ramp(), -0.1], r"images\[1\]: sigma\[1\] is -0\.1; expected a positive number"),
        ([ramp()], "sigma has 1 values; expected 2 of them, one per image"),
        (iter([ramp()]), r"images\[1\]: sigma has no value left"),
        (np.ones((2, 1, 1, 33, 40)), r"images\[0\]: sigma\[0\] has shape"),
    ],
)
def test_maps_of_a_stream_that_do_not_fit(solver, sigma, message):
    with pytest.raises(InputError, match=message):
        list(solver.denoise_batch([picture(), picture()], sigma, max_outer=1, max_inner=1))
    with pytest.raises(InputError, match="strength"):
        list(solver.denoise_batch([picture()], 0.1, strength=ramp(), max_outer=1, max_inner=1))
