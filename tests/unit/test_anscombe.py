"""noise="poisson": the transform and its unbiased inverse, and what `denoise` makes of counts."""

from functools import cache

import numpy as np
import pytest
from models import random_model
from scipy.stats import poisson

from safi_fast import InputError, Solver
from safi_fast.anscombe import Anscombe

QUICK = {"max_outer": 1, "max_inner": 3, "noise": "poisson"}
MEANS = (0.0, 0.1, 0.5, 1, 2.3, 5, 20, 60, 200, 255, 257, 1000, 5000)


@cache
def solver():
    return Solver(random_model(levels=(1 / 255, 75 / 255)))


@cache
def shipped():
    return Solver("safi-gray", backend="cpu")


def counts(mean, *shape, gain=1.0, offset=0.0, sigma=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return gain * rng.poisson(mean, shape) + offset + sigma * rng.standard_normal(shape)


def expectation(transform, mean):
    """E f(z), summed over counts and 8,001 values of the Gaussian part."""
    nodes = np.linspace(-8, 8, 8001)
    weights = np.exp(-(nodes**2) / 2)
    k = np.arange(poisson.ppf(1e-14, mean), poisson.ppf(1 - 1e-14, mean) + 2)
    chances = poisson.pmf(k, mean)
    z = transform.gain * k[:, None] + transform.offset + transform.sigma * nodes
    return chances @ transform.forward(z) @ weights / (chances.sum() * weights.sum())


# ------------------------------------------------------------------------------------------------------- the transform


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 10.0])
def test_the_inverse_is_exact_and_unbiased(spread):
    """Of E f(z) it gives the mean count, to a thousandth of a count from 0 to 5,000."""
    transform = Anscombe(2.0, -5.0, 2 * spread)
    stable = np.array([expectation(transform, mean) for mean in MEANS])
    np.testing.assert_allclose((transform.inverse(stable) + 5) / 2, MEANS, atol=1e-3)
    expected = [transform.expected(2 * mean - 5) for mean in MEANS]
    np.testing.assert_allclose(expected, stable, atol=6e-4)


def test_the_algebraic_inverse_is_not():
    transform = Anscombe()
    stable = expectation(transform, 1.0)
    assert stable**2 / 4 - 3 / 8 < 0.9


def test_noise_has_variance_one():
    for mean, sigma in ((4, 0), (30, 3.0), (1000, 10.0)):
        stable = Anscombe(1, 0, sigma).forward(counts(mean, 400, 400, sigma=sigma))
        assert stable.var() == pytest.approx(1, abs=0.05)


def test_values_below_no_counts_give_none():
    transform = Anscombe(2.0, 7.0)
    np.testing.assert_array_equal(transform.inverse(np.array([-1.0, 0.0, transform.expected(7.0)])), 7.0)
    np.testing.assert_array_equal(transform.forward(np.array([-100.0])), 0.0)
    assert transform.expected(-3) == transform.expected(7.0)


# -------------------------------------------------------------------------------------------------------- in `denoise`


@pytest.mark.parametrize("mean", [1, 3, 10, 60])
def test_constant_images_have_no_bias(mean):
    """The mean of a denoised constant image, far from its border, is the mean of the counts up to chance."""
    z = counts(mean, 4, 96, 96)
    found = shipped().denoise(z, 0, noise="poisson")
    deviation = np.sqrt(mean / z.size)
    assert abs(found.mean() - mean) < 4 * deviation + 2e-3 * mean
    assert abs(z.mean() - mean) < 4 * deviation


def test_gaussian_part_gain_and_offset():
    z = counts(20, 2, 96, 96, gain=3, offset=100, sigma=6)
    found = shipped().denoise(z, 6, noise="poisson", gain=3, offset=100)
    assert found.mean() == pytest.approx(160, abs=0.6)
    assert found.std() < 0.25 * z.std()


@pytest.mark.parametrize("options", [{}, {"data_range": (0, 40)}])
def test_units_do_not_matter(options):
    """(z - offset) / gain decides: other units of the image scale the result with them."""
    z = counts(np.linspace(1, 30, 44), 40, 44)
    one = solver().denoise(z, 0.5, **QUICK, **options)
    if options:
        options = {"data_range": (-7, -7 + 40 * 5)}
    other = solver().denoise(5 * z - 7, 2.5, gain=5, offset=-7, **QUICK, **options)
    np.testing.assert_allclose((other + 7) / 5, one, atol=1e-4)


def test_a_batch_is_its_images():
    stack = np.stack([counts(mean, 40, 44) for mean in (1, 50)])
    found = solver().denoise(stack, 0, **QUICK)
    for image, one in zip(stack, found, strict=True):
        np.testing.assert_array_equal(solver().denoise(image, 0, **QUICK), one)
    streamed = list(solver().denoise_batch(list(stack), 0, **QUICK))
    np.testing.assert_array_equal(streamed, found)


def test_integers_and_single_precision():
    z = counts(5, 40, 44)
    found = solver().denoise(z.astype(np.int64), 0, **QUICK)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, solver().denoise(z, 0, **QUICK), atol=1e-4)
    assert solver().denoise(z, 0, **QUICK).dtype == np.float64


@pytest.mark.parametrize("color", ["luma-chroma", "separate"])
def test_colours(color):
    z = counts(np.array([2.0, 8.0, 20.0]), 40, 44, 3)
    found = solver().denoise(z, 0, channel_axis=-1, color=color, **QUICK)
    assert found.shape == z.shape
    np.testing.assert_allclose(found.mean((0, 1)), [2, 8, 20], atol=0.25 + 0.3)  # of noise that is left, and by chance


def test_the_box_bounds_the_result():
    z = counts(np.where(np.arange(44) < 22, 0.2, 9.0), 40, 44)
    assert solver().denoise(z, 0, **QUICK).min() >= 0
    clipped = solver().denoise(z, 0, data_range=(1, 8), **QUICK)
    assert (clipped.min(), clipped.max()) == (pytest.approx(1), pytest.approx(8))
    halved = solver().denoise(z, 0, data_range=10, box=(0, 0.5), **QUICK)
    assert halved.max() == pytest.approx(5)
    free = solver().denoise(z + 1, 3.0, offset=1, box=None, data_range=(1, 8), **QUICK)
    assert free.max() > 8


def test_the_noise_fits_any_model():
    """Few and very many counts, and a model for one level: the contrast is chosen so that its noise is right."""
    for mean in (0.05, 1e6):
        z = counts(mean, 40, 44)
        assert solver().denoise(z, 0, **QUICK).mean() == pytest.approx(z.mean(), rel=0.05, abs=0.05)
    z = counts(10, 40, 44)
    assert Solver(random_model()).denoise(z, 0, **QUICK).mean() == pytest.approx(z.mean(), rel=0.05)


def test_the_solution_has_the_gaussian_part():
    found = solver().denoise(counts(10, 2, 40, 44), 1.5, return_solution=True, **QUICK)
    np.testing.assert_array_equal(found.sigma, [1.5, 1.5])


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sigma": "estimate"},
            "sigma is 'estimate'; with noise='poisson' expected the standard deviation of",
        ),
        ({"sigma": -1}, "sigma is -1; with noise='poisson' expected"),
        ({"gain": 0}, "gain is 0; with noise='poisson' expected a positive number, units of the image per count"),
        ({"gain": [1, 2]}, r"gain is \[1, 2\]; "),
        ({"offset": np.inf}, "offset is inf; with noise='poisson' expected a number, the value of no counts"),
        ({"box": (0, 2)}, r"box is \(0.0, 2.0\), but noise is 'poisson' and data_range, which it is in, is not known"),
        ({"noise": "shot"}, "noise is 'shot'; expected 'gaussian' or 'poisson'"),
        ({"noise": "gaussian", "gain": 1}, "gain was passed, but noise is 'gaussian'; leave it out or pass noise='po"),
        ({"noise": "gaussian", "offset": 1}, "offset was passed, but noise is 'gaussian'"),
    ],
)
def test_arguments_that_are_refused(options, message):
    options = {"sigma": 0.1, **QUICK, **options}
    with pytest.raises(InputError, match=message):
        solver().denoise(counts(5, 40, 44), **options)
