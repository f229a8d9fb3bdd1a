"""PSNR and SSIM against their definitions."""

import math

import numpy as np
import pytest

from safi_fast.errors import InputError
from safi_fast.metrics import psnr, ssim

RNG = np.random.default_rng(1)
CLEAN = RNG.random((24, 31))
NOISY = CLEAN + 0.1 * RNG.standard_normal(CLEAN.shape)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_psnr_is_its_definition(data_range):
    expected = -10 * math.log10(np.mean((CLEAN - NOISY) ** 2))
    assert psnr(data_range * CLEAN, data_range * NOISY, data_range) == pytest.approx(expected, abs=1e-9)


def test_equal_images():
    assert psnr(CLEAN, CLEAN) == math.inf
    assert ssim(CLEAN, CLEAN) == pytest.approx(1, abs=1e-12)


def test_integers_do_not_wrap_around():
    black, white = np.zeros((16, 16), np.uint8), np.full((16, 16), 255, np.uint8)
    assert psnr(black, white, 255) == pytest.approx(0, abs=1e-12)
    assert psnr(white, black, 255) == pytest.approx(0, abs=1e-12)


def ssim_by_hand(x, y, data_range):
    """The mean over every full window of Wang et al. (2004), with an 11 x 11 Gaussian of deviation 1.5."""
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    patches = [np.lib.stride_tricks.sliding_window_view(image, (11, 11)) for image in (x, y)]
    mx, my = ((window * p).sum((-2, -1)) for p in patches)
    vx, vy = ((window * p**2).sum((-2, -1)) - m**2 for p, m in zip(patches, (mx, my), strict=True))
    vxy = (window * patches[0] * patches[1]).sum((-2, -1)) - mx * my
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_is_its_definition(data_range):
    x, y = data_range * CLEAN, data_range * NOISY
    assert ssim(x, y, data_range) == pytest.approx(ssim_by_hand(x, y, data_range), abs=1e-9)


def test_ssim_of_colour_is_the_mean_of_its_channels():
    colour = np.stack([CLEAN, CLEAN**2, 1 - CLEAN], -1)
    other = colour + 0.05 * RNG.standard_normal(colour.shape)
    expected = np.mean([ssim(colour[..., c], other[..., c]) for c in range(3)])
    assert ssim(colour, other, channel_axis=-1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("reference", "image", "data_range", "message"),
    [
        (CLEAN, NOISY[1:], 1.0, r"image has shape \(23, 31\), but reference has \(24, 31\)"),
        (CLEAN, np.where(CLEAN > 0.5, np.nan, CLEAN), 1.0, "image holds NaN or infinity"),
        (CLEAN + np.inf, NOISY, 1.0, "reference holds NaN or infinity"),
        (CLEAN, NOISY + 0j, 1.0, "image has dtype complex128; expected real numbers"),
        (np.zeros((0, 3)), np.zeros((0, 3)), 1.0, r"reference is empty \(shape \(0, 3\)\)"),
        (CLEAN, NOISY, 0.0, r"data_range is 0\.0; expected a positive number"),
        (CLEAN, NOISY, math.nan, "data_range is nan; expected a positive number"),
    ],
)
def test_bad_input(metric, reference, image, data_range, message):
    with pytest.raises(InputError, match=message):
        metric(reference, image, data_range)


def test_ssim_of_a_small_image():
    with pytest.raises(InputError, match="SSIM needs at least 11 pixels along each axis"):
        ssim(CLEAN[:10], NOISY[:10])
