"""Colour as luma and chroma: the change of axes, and what denoising makes of it."""

import numpy as np
import pytest
from models import random_model

from safi_fast import InputError, Solver
from safi_fast.color import to_luma_chroma, to_rgb
from safi_fast.metrics import psnr

QUICK = {"max_outer": 2, "max_inner": 3}
SIGMA = 25 / 255


@pytest.fixture(scope="module")
def solver():
    return Solver(random_model(channels=3), backend="cpu")


def test_axes_are_orthonormal_and_come_back():
    stack = np.random.default_rng(0).random((6, 5, 7))
    planes, other = to_luma_chroma(np, stack), to_luma_chroma(np, np.zeros_like(stack))
    np.testing.assert_allclose(np.linalg.norm((planes - other)[:3]), np.linalg.norm(stack[:3]))
    np.testing.assert_allclose(to_rgb(np, planes), stack, atol=1e-14)


def test_grey_has_no_chroma():
    planes = to_luma_chroma(np, np.full((3, 4, 4), 0.25))
    np.testing.assert_allclose(planes[0], 0.25 * 3**0.5)
    np.testing.assert_allclose(planes[1:], 0.5)


@pytest.mark.parametrize("options", [{}, {"color": "luma-chroma"}])
@pytest.mark.parametrize(("batch", "axis"), [((), -1), ((), 0), ((2,), 1), ((2,), -1)])
def test_each_plane_is_denoised_without_a_box_and_colours_are_clipped(solver, batch, axis, options):
    images = np.random.default_rng(1).random((*batch, 3, 18, 21), np.float32)
    before, moved = images.copy(), np.moveaxis(images, -3, axis)
    result = solver.denoise(moved, SIGMA, channel_axis=axis, **options, **QUICK)
    planes = to_luma_chroma(np, images.reshape(-1, 18, 21))
    expected = np.stack([solver.denoise(plane, SIGMA, box=None, **QUICK) for plane in planes])
    np.testing.assert_array_equal(np.moveaxis(result, axis, -3), to_rgb(np, expected).clip(0, 1).reshape(images.shape))
    np.testing.assert_array_equal(images, before)


def test_box_and_range(solver):
    image = (255 * np.random.default_rng(2).random((18, 21, 3))).astype(np.uint8)
    result = solver.denoise(image, 25.0, channel_axis=-1, box=(0.4, 0.6), **QUICK)
    assert result.min() == pytest.approx(102)
    assert result.max() == pytest.approx(153)
    extremes = np.full((18, 21, 3), 300.0) * (np.arange(21) > 10)[:, None] - 20
    free = solver.denoise(extremes, 25.0, data_range=255, channel_axis=-1, box=None, strength=1e-3, **QUICK)
    assert free.max() > 256
    assert free.min() < -1


def test_sigma_and_strength_per_image_and_a_batch_equals_its_images():
    several = Solver(random_model(levels=(15 / 255, 35 / 255)), backend="cpu")
    images = np.random.default_rng(6).random((2, 18, 21, 3), np.float32)
    sigma, strength = np.array([20, 30]) / 255, np.array([0.02, 0.05])
    batch = several.denoise(images, sigma, strength=strength, channel_axis=-1, **QUICK)
    for image, one, s, k in zip(images, batch, sigma, strength, strict=True):
        np.testing.assert_array_equal(one, several.denoise(image, s, strength=k, channel_axis=-1, **QUICK))


def test_a_callback_sees_colours(solver):
    image, seen = np.random.default_rng(7).random((18, 21, 3), np.float32), []
    result = solver.denoise(image, SIGMA, channel_axis=-1, callback=lambda state: seen.append(state.image()), **QUICK)
    np.testing.assert_array_equal(np.moveaxis(seen[-1], 0, -1), result)


def test_torch_tensors_and_streams(solver):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(8).random((18, 21, 3), np.float32)
    expected = solver.denoise(image, SIGMA, channel_axis=-1, **QUICK)
    result = solver.denoise(torch.from_numpy(image), SIGMA, channel_axis=-1, **QUICK)
    np.testing.assert_array_equal(result.numpy(), expected)
    (streamed,) = solver.denoise_batch([image], SIGMA, channel_axis=-1, color="luma-chroma", **QUICK)
    np.testing.assert_array_equal(streamed, expected)


def test_other_numbers_of_channels_are_separate(solver):
    image = np.random.default_rng(3).random((18, 21, 4), np.float32)
    by_default = solver.denoise(image, SIGMA, channel_axis=-1, **QUICK)
    np.testing.assert_array_equal(by_default, solver.denoise(image, SIGMA, channel_axis=-1, color="separate", **QUICK))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((18, 21, 4), {"channel_axis": -1, "color": "luma-chroma"}, "image has 4 on its channel axis; expected 3"),
        ((18, 21), {"color": "luma-chroma"}, r"image is grey \(channel_axis is None\)"),
        ((18, 21, 3), {"channel_axis": -1, "color": "hsv"}, "color is 'hsv'; expected one of luma-chroma, separate"),
    ],
)
def test_refusals(solver, shape, options, message):
    with pytest.raises(InputError, match=message):
        solver.denoise(np.zeros(shape), SIGMA, **options)


def test_a_solution_has_a_value_and_a_certificate_per_plane(solver):
    images = np.random.default_rng(4).random((2, 18, 21, 3), np.float32)
    solution = solver.denoise(
        images, SIGMA, channel_axis=-1, schedule="gap", tol=1e-3, max_outer=3, return_solution=True, return_masks=True
    )
    assert solution.relative_gap.shape == (6,)
    assert solution.masks.shape == (6, 3, 18, 21)
    assert solution.image.shape == images.shape


def test_planes_that_are_no_colours_lose_a_decibel_and_more():
    """What `denoise`, README and the model card warn of."""
    from skimage.data import camera, coins, moon

    planes = np.dstack([image()[100:228, 100:228] for image in (camera, moon, coins)]).astype(np.float32) / 255
    noisy = planes + np.float32(SIGMA) * np.random.default_rng(9).standard_normal(planes.shape, np.float32)
    solver = Solver("safi-gray-fast", backend="cpu")
    together, separate = (
        psnr(planes, solver.denoise(noisy, SIGMA, channel_axis=-1, color=color))
        for color in ("luma-chroma", "separate")
    )
    assert together < separate - 1


def test_a_photo_gains_half_a_decibel_and_more():
    from skimage.data import astronaut

    clean = astronaut()[60:188, 130:258].astype(np.float32) / 255
    noisy = clean + np.float32(SIGMA) * np.random.default_rng(5).standard_normal(clean.shape, np.float32)
    solver = Solver("safi-gray-fast", backend="cpu")
    together, separate = (
        psnr(clean, solver.denoise(noisy, SIGMA, channel_axis=-1, color=color)) for color in ("luma-chroma", "separate")
    )
    assert together > separate + 0.5
