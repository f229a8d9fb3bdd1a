"""What the values of an image mean: one rule for black and white, and nothing cut off without a word."""

import inspect
import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from models import random_model
from scipy.ndimage import gaussian_filter, zoom

import safi_fast
from safi_fast import InputError, Solver, values
from safi_fast.cli import main as cli
from safi_fast.io import ImageFile, formats, read_image, write_image
from safi_fast.operators import Blur, Downsample, FourierMRI, Identity, Mask, ParallelBeamCT, from_functions
from safi_fast.values import Range, cut_off, range_of, share_outside, stated_range

SIGMA = 25 / 255
SHAPE = (40, 36)
QUICK = {"max_outer": 2, "max_inner": 3}
FEW = {"strength": 0.005, "max_outer": 2, "max_iter": 20}
LEVELS = (5, 25, 75)
HOUNSFIELD = (-1000.0, 1500.0)
CLOSE = 3e-6  # one rounding of the input, as in test_api.py, and one of the shift


@cache
def solver():
    return Solver(random_model(lipschitz=1.1), backend="cpu")


def picture(shape=SHAPE, seed=0):
    """Grey discs on black and white halves, on [0, 1]: a fifth of it lies on the bounds."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / max(shape)
    image = np.where(columns < 0.4, 0.05, 0.6) + 0.2 * rows
    image[:4], image[-4:] = 0, 1
    for y, x, radius, grey in rng.uniform((0.2, 0, 0.1, 0.0), (0.8, 1, 0.3, 1.0), (4, 4)):
        image = np.where((rows - y) ** 2 + (columns - x) ** 2 < radius**2, grey, image)
    return image


def noisy(image, level, seed=0):
    return (image + level / 255 * np.random.default_rng(seed).standard_normal(image.shape)).astype(np.float32)


def slice_in_hounsfield(seed=0):
    """Air around fat, water and bone."""
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    image = np.where(x**2 + y**2 < 0.6, -100.0, -1000.0)
    image[(x - 0.2) ** 2 + y**2 < 0.2] = 40
    image[(x + 0.3) ** 2 + (y - 0.2) ** 2 < 0.05] = 1200
    return image + 20 * np.random.default_rng(seed).standard_normal(SHAPE)


def unit(image):
    """A slice in Hounsfield units, shifted and scaled by hand."""
    return (image - HOUNSFIELD[0]) / (HOUNSFIELD[1] - HOUNSFIELD[0])


# ------------------------------------------------------------------------------------------------------------ the range


@pytest.mark.parametrize(
    ("dtype", "given", "white", "expected"),
    [
        (np.uint8, None, None, (0, 255, "of uint8")),
        (np.uint16, None, None, (0, 65535, "of uint16")),
        (">u2", None, None, (0, 65535, "of uint16")),
        (np.float64, None, None, (0, 1, "of float64")),
        (np.uint8, None, 63.0, (0, 63, "of the file")),
        (np.uint16, 1000, 4095.0, (0, 1000, "given")),
        (np.int16, (-1000, 1500), None, (-1000, 1500, "given")),
        (np.float32, [-1, 1], None, (-1, 1, "given")),
        (np.float32, np.array([5.0]), None, (0, 5, "given")),
    ],
)
def test_the_caller_then_the_file_then_the_dtype_decide(dtype, given, white, expected):
    found = range_of("image", np.full((2, 2), 60).astype(dtype), given, white)
    assert (found.low, found.high, found.rule) == expected


@pytest.mark.parametrize(
    "given", [0, -1, np.nan, np.inf, "8 bit", (1, 0), (0, 0), (0, np.nan), (0, 1, 2), [], {}, [[0, 1]]]
)
def test_ranges_that_are_refused(given):
    with pytest.raises(
        InputError, match=r"data_range is .*; expected a positive number, the value of white, or two numbers"
    ):
        range_of("image", np.zeros((2, 2)), given)


def test_the_ways_into_the_unit_range_and_back_are_inverse():
    image = np.array([[-1000.0, 250.0, 1500.0]])
    meaning = Range(*HOUNSFIELD)
    np.testing.assert_array_equal(meaning.to_unit(image), [[0, 0.5, 1]])
    np.testing.assert_array_equal(meaning.from_unit(meaning.to_unit(image)), image)
    assert (meaning.argument, Range(0.0, 255.0).argument) == (HOUNSFIELD, 255.0)


@pytest.mark.parametrize(
    ("largest", "words"),
    [
        (65535, None),
        (16384, None),
        (16383, "looks like 14-bit data; pass data_range=16383"),
        (4095, "largest value 4095 of 65535: looks like 12-bit data; pass data_range=4095"),
        (1024, "looks like 12-bit data"),
        (1023, "looks like 10-bit data; pass data_range=1023"),
        (200, "looks like 8-bit data; pass data_range=255"),
        (0, None),
    ],
)
def test_few_bits_in_sixteen_are_a_warning(largest, words):
    image = np.array([[0, largest]], np.uint16)
    warning = range_of("image", image).warning
    assert warning is None if words is None else words in warning
    assert range_of("image", image, 65535).warning is None
    assert range_of("image", image, white=65535.0).warning is None
    assert range_of("image", image.astype(np.float32)).warning is None


def test_the_api_warns_of_few_bits():
    image = (4000 * picture()).astype(np.uint16)
    with pytest.warns(
        UserWarning, match="image: largest value 4000 of 65535: looks like 12-bit data; pass data_range=4095"
    ):
        result = solver().denoise(image, 65535 * SIGMA, **QUICK)
    np.testing.assert_array_equal(result, solver().denoise(image, 65535 * SIGMA, data_range=65535, **QUICK))


def test_the_default_box_reads_as_numbers():
    for function in (safi_fast.denoise, safi_fast.reconstruct, Solver.denoise, Solver.reconstruct):
        default = inspect.signature(function).parameters["box"]
        assert str(default).endswith("= (0.0, 1.0)")
        assert default.default == (0.0, 1.0)


# ---------------------------------------------------------------------------------------------- what noise explains


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("side", [13, 40, 128])
def test_noise_on_black_and_white_is_explained(level, side):
    for seed in range(10):
        for grey in (0.0, 1.0):
            assert share_outside(np, noisy(np.full((side, side), grey), level, seed), (0, 1), level / 255) == 0
        assert (
            share_outside(np, noisy(np.arange(side * side).reshape(side, side) % 2, level, seed), (0, 1), level / 255)
            == 0
        )


@pytest.mark.parametrize("width", [0.7, 1.5])
def test_noise_that_is_not_white_or_stronger_than_stated_is_explained(width):
    image, rng = picture((96, 96)), np.random.default_rng(0)
    coloured = gaussian_filter(rng.standard_normal(image.shape), width)
    coloured *= 1 / coloured.std()
    for level in (15, 50):
        for clean in (image, 0 * image):  # half of a black area is negative
            seen = (clean + level / 255 * coloured).astype(np.float32)
            assert share_outside(np, seen, (0, 1), level / 255) == 0
            assert share_outside(np, seen, (0, 1), level / 255 / 1.25) == 0
    assert share_outside(np, noisy(image, 30), (0, 1), 15 / 255) == 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_shift_is_not_explained(level):
    """Of areas, however strong the noise; the share is the one outside."""
    image = picture((128, 128))
    for moved in (image - 0.5, 2 * image - 1, 1.6 * image):
        y = noisy(moved, level)
        assert share_outside(np, y, (0, 1), level / 255) == pytest.approx(np.mean((y < 0) | (y > 1)))


def test_a_share_of_one_in_twenty_and_a_third_of_sigma_beyond_are_too_much():
    image = np.full((200, 200), 0.5)
    image[:10] = 1.3
    assert share_outside(np, noisy(image, 25), (0, 1), SIGMA) > 0.04
    image[:10] = 1.0
    image[10:] = -SIGMA / 3
    assert share_outside(np, noisy(image, 25), (0, 1), SIGMA) > 0.5


def test_an_area_that_hides_in_the_noise_shows_in_means():
    """A seventh of the image 0.8 sigma above white: no count of pixels tells, but means of 8 x 8 have an eighth of the
    noise.
    """
    image = np.full((200, 200), 0.5)
    image[:30] = 1 + 0.8 * SIGMA
    assert share_outside(np, noisy(image, 25), (0, 1), SIGMA) > 0.1
    image[:30] = 1
    assert share_outside(np, noisy(image, 25), (0, 1), SIGMA) == 0


def test_hot_pixels_pass_but_no_other_range():
    image = noisy(np.full((100, 100), 0.5), 5)
    image[::25, ::25] = 1.5
    assert share_outside(np, image, (0, 1), 5 / 255, far=1.0) == 0
    image[3, 4] = 255
    assert share_outside(np, image, (0, 1), 5 / 255) == 0
    assert share_outside(np, image, (0, 1), 5 / 255, far=1.0) == pytest.approx(17 / 10_000)


def test_values_that_are_not_known_do_not_count():
    image, known = noisy(picture(), 5), np.random.default_rng(0).random(SHAPE) < 0.6
    image[~known] = 7
    assert share_outside(np, image, (0, 1), 5 / 255, known=known) == 0
    assert share_outside(np, image, (0, 1), 5 / 255) == pytest.approx(np.mean((image < 0) | (image > 1)))
    assert share_outside(np, image - 0.5, (0, 1), 5 / 255, known=known) > 0.3


def test_noise_is_measured():
    ramp = np.add.outer(np.arange(101) / 50, np.arange(77) / 30)
    for level in LEVELS:
        assert values.noise_of(np, noisy(ramp, level)) == pytest.approx(level / 255, rel=0.05)


@pytest.mark.parametrize("folder", ["set12", "bsd68"])
def test_photographs(data_folder, folder):
    """Seeded noise never refuses them; twice as bright or on [-1, 1] they are, where a twentieth of them would be cut
    by a tenth or more.
    """
    for number, path in enumerate(sorted((data_folder / folder).glob("*.png"))):
        image = read_image(path).array[:128, :128] / 255
        for level in LEVELS:
            assert share_outside(np, noisy(image, level, number), (0, 1), level / 255) == 0, path
        assert share_outside(np, zoom(image[::2, ::2], 2, order=3), (0, 1), values.OVERSHOOT) == 0, path
        for moved in (2 * image, 2 * image - 1):
            if np.mean((moved < -0.1) | (moved > 1.1)) > 0.05:
                assert share_outside(np, noisy(moved, 5, number), (0, 1), 5 / 255) > 0.05, path


def test_ringing_is_refused_where_it_is_large():
    image = picture((128, 128))
    rings = image - gaussian_filter(image, 1.5)
    assert share_outside(np, noisy(image + 0.1 * rings, 2), (0, 1), values.OVERSHOOT) == 0
    assert share_outside(np, noisy(image + 4 * rings, 2), (0, 1), values.OVERSHOOT) > 0.02


# -------------------------------------------------------------------------------------------------------------- denoise


@pytest.mark.parametrize("schedule", ["unrolled", "converged", "gap"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_black_and_white_are_those_of_the_caller(schedule, dtype):
    """Equal to the image shifted and scaled by hand; sigma, strength and box in the units of the caller."""
    image = slice_in_hounsfield().astype(dtype)
    before = image.copy()
    for options in ({}, {"box": (0.1, 0.8)}, {"box": None}):
        result = solver().denoise(
            image, 2500 * SIGMA, data_range=HOUNSFIELD, strength=2500 * 0.02, schedule=schedule, **options, **QUICK
        )
        expected = solver().denoise(
            unit(image.astype(float)), SIGMA, strength=0.02, schedule=schedule, **options, **QUICK
        )
        assert result.dtype == (np.float64 if dtype == np.float64 else np.float32)
        np.testing.assert_allclose(result, 2500 * expected - 1000, rtol=0, atol=2500 * CLOSE)
    np.testing.assert_array_equal(image, before)


def test_batches_colours_and_tensors_have_black_and_white():
    torch = pytest.importorskip("torch")
    images = np.stack([slice_in_hounsfield(seed) for seed in range(3)]).astype(np.float32)
    options = {"data_range": HOUNSFIELD, **QUICK}
    each = np.stack([solver().denoise(image, 2500 * SIGMA, **options) for image in images])
    np.testing.assert_array_equal(solver().denoise(images, 2500 * SIGMA, **options), each)
    np.testing.assert_array_equal(solver().denoise(torch.from_numpy(images), 2500 * SIGMA, **options).numpy(), each)
    np.testing.assert_array_equal(list(solver().denoise_batch(images, 2500 * SIGMA, **options)), each)
    for color in ("luma-chroma", "separate"):
        result = solver().denoise(images, 2500 * SIGMA, channel_axis=0, color=color, **options)
        expected = solver().denoise(unit(images.astype(float)), SIGMA, channel_axis=0, color=color, **QUICK)
        np.testing.assert_allclose(result, 2500 * expected - 1000, rtol=0, atol=2500 * CLOSE)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (
            slice_in_hounsfield().astype(np.int16),
            {"data_range": 2000},
            r"image has values from -10.. to 1..., but black is taken to be 0 and white 2000: [89]\d % of them lie "
            r"outside, more than noise of sigma 196.1 explains, and would be cut off; pass data_range=..., the value "
            r"of white .* or data_range=\(low, high\), black "
            "and white, or box=None for no bounds",
        ),
        (2 * picture() - 1, {}, r"floating-point images are taken to lie on \[0, 1\]: \d\d % of them lie outside"),
        (2 * picture() - 1, {"data_range": 1}, "black is taken to be 0 and white 1: "),
        (1.5 * picture(), {"data_range": 1}, r"\d % of them lie outside"),
        (slice_in_hounsfield(), {"data_range": (-1000, 600)}, "black is taken to be -1000 and white 600"),
        (np.stack([picture(), picture(), 2 * picture() - 1]), {}, r"image\[2\] has values from -1"),
        (np.stack([picture(), 3 * picture()]), {"data_range": 1}, r"image\[1\] has values from 0 to 3"),
        (np.stack([picture()] * 5 + [3 * picture()], -1).reshape(*SHAPE, 2, 3).transpose(2, 0, 1, 3),
         {"channel_axis": -1}, r"image\[1\]"),
        (np.stack([picture(), picture(), -picture()], -1), {"channel_axis": -1}, "image has values from -1"),
        (np.stack([picture(), picture(), -picture()], -1), {"channel_axis": -1, "color": "separate"}, "image has"),
    ],
)  # fmt: skip
def test_what_would_be_cut_is_refused(image, options, message):
    meaning = values.stated_range(options.get("data_range", 1))
    sigma = SIGMA * meaning.scale
    with pytest.raises(InputError, match=message):
        solver().denoise(image, sigma, **options, **QUICK)
    cut = solver().denoise(image, sigma, box=(0.0, 1.0), **options, **QUICK)
    assert cut.min() >= meaning.low
    assert cut.max() <= meaning.high * (1 + 1e-6)
    free = solver().denoise(image, sigma, box=None, **options, **QUICK)
    assert free.min() < meaning.low or free.max() > meaning.high


def test_tiles_and_streams_refuse_it_too():
    image = np.tile(2 * picture() - 1, (4, 3))
    limit = 8 * image.size + solver()._engine.workspace_bytes(1, 130, 108)
    with pytest.raises(InputError, match="% of them lie outside"):
        solver().denoise(image, SIGMA, max_memory=limit)
    with pytest.raises(InputError, match=r"images\[1\]: image has values from"):
        list(solver().denoise_batch([picture(), image], SIGMA, **QUICK))


def test_a_pair_in_tiles():
    image = np.tile(slice_in_hounsfield(), (6, 3)).astype(np.float32)
    limit = 8 * image.size + solver()._engine.workspace_bytes(1, 130, 108)
    tiled = solver().denoise(image, 2500 * SIGMA, data_range=HOUNSFIELD, max_memory=limit, **QUICK)
    expected = solver().denoise(unit(image), SIGMA, max_memory=limit, **QUICK)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(tiled, 2500 * expected - 1000, rtol=0, atol=2500 * CLOSE)


# ---------------------------------------------------------------------------------------------------------- reconstruct

LINES = np.ones((SHAPE[0], 1)) * (np.arange(SHAPE[1]) % 3 == 0)
LINES[:, [0, 1, 2, -1, -2]] = 1
KERNEL = np.outer([1, 2, 1], [1, 2, 3, 2, 1]) / 36
ANGLES = np.linspace(0, np.pi, 24, endpoint=False)
OPERATORS = {
    "identity": Identity(SHAPE),
    "blur": Blur(KERNEL, SHAPE),
    "blur with zeros": Blur(KERNEL, SHAPE, "zero"),
    "circular blur": Blur(KERNEL, SHAPE, "circular"),
    "inpainting": Mask(np.random.default_rng(1).random(SHAPE) < 0.6),
    "superres": Downsample(2, SHAPE),
    "mri": FourierMRI(LINES, mask_order="fft"),
    "ct": ParallelBeamCT(SHAPE, ANGLES, 41, pixel_size=0.1, detector_spacing=0.1),
    "functions": from_functions(lambda x: 0.3 * x, lambda y: 0.3 * y, SHAPE, SHAPE),
}
each_operator = pytest.mark.parametrize("name", OPERATORS)


def solve(y, operator, **options):
    return solver().reconstruct(y, operator, **(FEW | options))


@each_operator
def test_a_reconstruction_has_black_and_white(name):
    """Equal to the measurement of the shifted and scaled image by hand: y - H(low), for the operator is linear and not
    affine.
    """
    operator, image = OPERATORS[name], slice_in_hounsfield()
    y = operator.apply(image)
    x0 = gaussian_filter(image, 2)
    found = solve(y, operator, data_range=HOUNSFIELD, x0=x0, noise_level=2500 * SIGMA)
    by_hand = (y - operator.apply(np.full(SHAPE, -1000.0))) / 2500
    expected = solve(by_hand, operator, x0=unit(x0), noise_level=SIGMA)
    np.testing.assert_allclose(found.image, 2500 * expected.image - 1000, rtol=0, atol=2500 * 3e-5)
    assert found.relative_gap == pytest.approx(expected.relative_gap, rel=1e-2)
    both = solver().reconstruct_batch([y, y], [operator, operator], data_range=HOUNSFIELD, x0=x0, **FEW)
    np.testing.assert_array_equal(both.image[1], solve(y, operator, data_range=HOUNSFIELD, x0=x0).image)


@each_operator
@pytest.mark.parametrize("wrong", ["Hounsfield units", "[-1, 1]", "negated", "too bright"])
def test_measurements_of_images_outside_of_the_box_are_refused(name, wrong):
    operator = OPERATORS[name]
    image, data_range = {
        "Hounsfield units": (slice_in_hounsfield(), 2000),
        "[-1, 1]": (2 * picture() - 1, 1),
        "negated": (-picture(), 1),
        "too bright": (3 * picture(), 1),
    }[wrong]
    y = operator.apply(image)
    negative = "" if wrong == "too bright" else "are they negated.* Or "
    ways = r"pass data_range=.*, or data_range=\(low, high\), black and white, or box=None"
    with pytest.raises(
        InputError, match=rf"measurement fits images with values from .* lies outside; {negative}{ways}"
    ):
        solve(y, operator, data_range=data_range)
    with pytest.raises(InputError, match=r"measurement\[1\] fits images"):
        solve(np.stack([operator.apply(data_range * picture()), y]), operator, data_range=data_range)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "measurement is not zero, and no noise, but its image is 0 everywhere")
        solve(y, operator, data_range=data_range, box=(0.0, 1.0))
    solve(y, operator, data_range=data_range, box=None)


@each_operator
def test_measurements_of_images_in_the_box_are_not(name):
    operator, rng = OPERATORS[name], np.random.default_rng(0)
    for image in (picture(), np.zeros(SHAPE), np.ones(SHAPE), np.arange(SHAPE[1]) % 2 * np.ones(SHAPE)):
        y = operator.apply(image)
        noise = rng.standard_normal((2, *y.shape)) * 0.05 * np.sqrt(np.mean(abs(operator.apply(np.ones(SHAPE))) ** 2))
        solve(operator.check_measurement(y + (noise[0] + 1j * noise[1] if operator.complex else noise[0])), operator)


def test_operators_whose_back_projection_has_no_sign_are_not_judged_by_it():
    """Differences, random signs, k-space without its middle: even of a white image half of H^T y is negative."""
    image, matrix = picture(), np.random.default_rng(0).standard_normal((300, SHAPE[0] * SHAPE[1])) / 30
    signs = from_functions(lambda x: matrix @ x.ravel(), lambda y: (matrix.T @ y).reshape(SHAPE), SHAPE, (300,))
    middle = LINES.copy()
    middle[:, [0, 1, 2, -1, -2]] = 0
    slope = from_functions(lambda x: x - np.roll(x, 1, 1), lambda y: y - np.roll(y, -1, 1), SHAPE, SHAPE)
    for operator in (signs, slope, FourierMRI(middle, mask_order="fft", check_order=False)):
        solve(operator.apply(image), operator)


def test_raw_transmission_is_refused():
    operator, image = OPERATORS["ct"], picture()
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    image = 0.8 * image * (x**2 + y**2 < 0.8)
    integrals = operator.apply(image)
    solve(integrals, operator)
    pipe = operator.apply(1.0 * (abs(x**2 + y**2 - 0.9) < 0.1))
    solve(pipe, operator)
    for raw in (np.exp(-integrals), 40_000 * np.exp(-integrals)):
        with pytest.raises(
            InputError,
            match=r"measurement is largest at the ends of the detector .* pass line integrals, -log\(I / I0\)",
        ):
            solve(raw, operator)
    with pytest.raises(
        InputError, match=r"are they negated line integrals, or transmission, which needs -log\(I / I0\)\?"
    ):
        solve(-integrals, operator)


def test_complex_images_have_no_black():
    operator = FourierMRI(LINES, mask_order="fft", image="complex")
    with pytest.raises(
        InputError, match=r"data_range is \(-1, 1\), but FourierMRI has complex images, which have no black"
    ):
        solve(operator.apply(picture()), operator, data_range=(-1, 1), box=None)


def test_a_strength_is_tuned_with_black_and_white():
    operator, image = OPERATORS["blur"], slice_in_hounsfield()
    y, options = operator.apply(image), {"max_outer": 1, "max_iter": 5}
    shifted = (y - operator.apply(np.full(SHAPE, -1000.0))) / 2500
    for given, by_hand in (
        ({"reference": image}, {"reference": unit(image)}),
        ({"holdout": 0.2}, {"holdout": 0.2}),
        ({"noise_std": 20}, {"noise_std": 20 / 2500}),
    ):
        found = solver().tune_strength(y, operator, [1e-3, 1e-1], data_range=HOUNSFIELD, **given, **options)
        expected = solver().tune_strength(shifted, operator, [1e-3, 1e-1], **by_hand, **options)
        scale = 1 if "noise_std" in given else 2500**2
        np.testing.assert_allclose(found.scores, scale * expected.scores, rtol=1e-3)


# --------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Run a command in an empty folder with a kernel, a mask and angles; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    np.save("kernel.npy", KERNEL)
    np.save("mask.npy", OPERATORS["inpainting"].mask)

    def call(*arguments):
        return cli.main([*(str(part) for part in arguments), "--model", str(model)])

    return call


def command(name, source, target):
    """A command line over one image; `evaluate` writes nothing."""
    steps = ("--max-outer", 2, "--max-iter", 20)
    tail = ("-o", target, "--strength", 0.005, *steps)
    return {
        "denoise": ("denoise", source, "-o", target, "--sigma", 25, "--max-outer", 2, "--max-inner", 3),
        "evaluate": ("evaluate", "--data", source, "--sigma", 25, "--json"),
        "deblur": ("reconstruct", "deblur", source, "--kernel", "kernel.npy", *tail),
        "inpaint": ("reconstruct", "inpaint", source, "--mask", "mask.npy", *tail),
        "superres": ("reconstruct", "superres", source, "--factor", 2, *tail),
    }[name]


COMMANDS = ("denoise", "evaluate", "deblur", "inpaint", "superres")
each_command = pytest.mark.parametrize("name", COMMANDS)


@each_command
def test_commands_refuse_what_would_be_cut(run, name, capsys):
    """Hounsfield units with one number for white, floats on 0 to 255, images on [-1, 1]; and take them with their black
    and white.
    """
    np.save("ct.npy", slice_in_hounsfield().astype(np.float32))
    np.save("bytes.npy", (255 * picture()).astype(np.float32))
    np.save("signed.npy", (2 * picture() - 1).astype(np.float32))
    for source, wrong, right in (
        ("ct.npy", ("--data-range", 2000), ("--data-range", -1000, 1500)),
        ("bytes.npy", (), ("--data-range", 255)),
        ("signed.npy", (), ("--data-range", -1, 1)),
    ):
        assert run(*command(name, source, "out.npy"), *wrong) == 1
        error = capsys.readouterr().err
        assert "values from -10" in error or "values from -1" in error or "to 255" in error
        assert "outside" in error
        assert (
            "pass --data-range R, the value of white (255 for 8-bit values), or --data-range LOW HIGH, black and white"
            in error
        )
        assert name == "evaluate" or "or --no-box for no bounds" in error
        assert "Traceback" not in error
        for extra in (right, (*wrong, "--box", 0, 1), (*wrong, "--no-box")):
            assert run(*command(name, source, "out.npy"), *extra) == 0
            assert name == "evaluate" or Path("out.npy").exists()
            Path("out.npy").unlink(missing_ok=True)
        capsys.readouterr()


def test_commands_give_what_the_api_gives(run, model):
    image = np.rint(OPERATORS["blur"].apply(slice_in_hounsfield())).astype(np.int16)
    np.save("ct.npy", image)
    tail = ("--data-range", "-1000", "1500")
    assert run("denoise", "--data-range", -1000, 1500, "ct.npy", "-o", "a.npy", "--sigma", 25, "--max-outer", 2) == 0
    expected = safi_fast.denoise(image, 25 / 255 * 2500, model=model, data_range=HOUNSFIELD, max_outer=2, backend="cpu")
    np.testing.assert_array_equal(np.load("a.npy"), np.rint(expected))
    assert run(*command("deblur", "ct.npy", "b.npy"), *tail, "--report", "r.json") == 0
    operator = Blur(KERNEL, SHAPE)
    direct = safi_fast.reconstruct(image, operator, model=model, data_range=HOUNSFIELD, schedule="fast", **FEW).image
    np.testing.assert_array_equal(np.load("b.npy"), np.rint(direct))
    record = json.loads(Path("r.json").read_text(encoding="utf-8"))["files"][0]
    assert (record["data_range"], record["data_range_rule"], record["box"]) == ([-1000, 1500], "given", [0, 1])
    assert run(*command("deblur", "ct.npy", "c.png"), *tail) == 0
    spread = np.clip((direct + 1000) / 2500, 0, 1) * 65535
    np.testing.assert_allclose(read_image("c.png").array, spread, atol=0.51)


def test_what_no_box_leaves_far_outside_is_a_line_of_warning(run, capsys):
    """Not a warning of Python with a line of source code."""
    np.save("bytes.npy", (255 * picture()).astype(np.float32))
    assert run(*command("deblur", "bytes.npy", "out.npy"), "--no-box") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("safi-fast: warning: measurement fits images with values up to 2")
    assert "pass --data-range R, the value of white" in line


def test_images_with_another_range_score_as_what_they_are(run, capsys):
    """Not at -43 dB."""
    np.save("unit.npy", picture().astype(np.float32))
    np.save("bytes.npy", (255 * picture()).astype(np.float32))
    np.save("ct.npy", (2500 * picture() - 1000).astype(np.float32))
    scores = []
    for source, options in (("unit", ()), ("bytes", ("--data-range", 255)), ("ct", ("--data-range", -1000, 1500))):
        assert run(*command("evaluate", f"{source}.npy", None), "--schedule", "unrolled", *options) == 0
        scores.append(json.loads(capsys.readouterr().out)["psnr"])
    assert scores[1:] == pytest.approx([scores[0]] * 2, abs=1e-3)


@each_command
def test_commands_warn_alike_of_few_bits_and_believe_the_file(run, name, capsys, monkeypatch):
    image = np.rint(4095 * picture()).astype(np.uint16)
    formats_before = formats.decode
    np.save("in.npy", image)
    assert run(*command(name, "in.npy", "a.npy")) == 0
    warning = (
        "safi-fast: warning: in.npy: largest value 4095 of 65535: looks like 12-bit data; pass --data-range 4095\n"
    )
    assert capsys.readouterr().err == warning
    assert run(*command(name, "in.npy", "b.npy"), "--data-range", 4095) == 0
    given = capsys.readouterr()

    def declared(kind, data):
        pixels = formats_before(kind, data)
        return formats.Pixels(pixels.array, pixels.colour, pixels.alpha, 4095.0)

    monkeypatch.setattr("safi_fast.io.images.decode", declared)
    assert run(*command(name, "in.npy", "c.npy")) == 0
    captured = capsys.readouterr()
    assert given.err == ""
    assert captured.err in ("", "safi-fast: warning: not carried over: depth of 12 bits (white is 4095), of in.npy\n")
    if name == "evaluate":
        assert json.loads(captured.out)["psnr"] == json.loads(given.out)["psnr"]
    else:
        np.testing.assert_array_equal(np.load("c.npy"), np.load("b.npy"))
        assert (np.load("a.npy") != np.load("b.npy")).any()


def test_sinograms_that_are_negated_or_raw(run, capsys):
    operator = ParallelBeamCT((33, 33), np.deg2rad(np.arange(24) * 7.5), 33)
    y, x = np.mgrid[-1:1:33j, -1:1:33j]
    sinogram = operator.apply(0.05 * (0.5 + 0.5 * (x > 0)) * (x**2 + y**2 < 0.6))
    tail = ("-o", "x.npy", "--angles", "0:180:24", "--geometry", "parallel", "--strength", 0.1, "--max-outer", 2)
    for wrong, words in (
        (-sinogram, "are they negated line integrals, or transmission, which needs -log(I / I0)?"),
        (np.exp(-sinogram), "largest at the ends of the detector"),
    ):
        np.save("s.npy", wrong)
        for options in ((), ("--data-range", 0.1)):
            assert run("reconstruct", "ct", "s.npy", *tail, *options) == 1
            assert words in capsys.readouterr().err
    np.save("s.npy", sinogram)
    assert run("reconstruct", "ct", "s.npy", *tail) == 0
    assert run("reconstruct", "ct", "s.npy", *tail, "--data-range", -0.01, 0.1, "--overwrite") == 0


def test_a_range_that_integers_cannot_have(run, capsys):
    image = (255 * picture()).astype(np.uint8)
    with pytest.raises(
        InputError, match=r"data_range is 1000, but image has dtype uint8, which holds 0 to 255; expected a"
    ):
        range_of("image", image, 1000)
    with pytest.raises(
        InputError, match=r"data_range is \(-40000.0, 1000.0\), but image has dtype int16, which holds -32768"
    ):
        range_of("image", image.astype(np.int16), (-40000, 1000))
    assert range_of("image", image, 256).high == 256
    assert range_of("image", image.astype(np.float32), 1000).high == 1000
    np.save("bytes.npy", image)
    assert run(*command("denoise", "bytes.npy", "out.npy"), "--data-range", 1000) == 1
    assert "data_range is 1000, but image has dtype uint8" in capsys.readouterr().err


def test_a_folder_named_by_a_number_is_not_taken_for_white(run, capsys):
    Path("2024").mkdir()
    np.save("2024/a.npy", (255 * picture()).astype(np.float32))
    words = ("denoise", "--sigma", 25, "--max-outer", 1, "-o", "out")
    assert run(*words, "--data-range", 255, "2024") == 2
    assert "'--data-range=255 2024' in quotes for the first, ./2024 for the second" in capsys.readouterr().err
    assert run(*words, "--data-range", 255, "./2024") == 0
    assert Path("out/a.npy").exists()
    assert run(*words, "--data-range=255 2024", "./2024", "--overwrite") == 1
    assert "255" in capsys.readouterr().err


def test_warnings_come_before_the_work(run, capsys, monkeypatch):
    """So that they are seen even if the run is stopped, and a later one skips what is made."""
    np.save("in.npy", np.full(SHAPE, 4095, np.uint16))
    seen = []
    monkeypatch.setattr(
        "safi_fast.cli.session.Session.denoise", lambda *_, **__: seen.append(capsys.readouterr().err) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run(*command("denoise", "in.npy", "out.npy"))
    assert "looks like 12-bit data; pass --data-range 4095" in seen[0]


def test_mri_has_no_black(run, capsys):
    np.save("k.npy", np.ones(SHAPE, np.complex64))
    assert run("reconstruct", "mri", "k.npy", "-o", "x.npy", "--strength", 0.1, "--data-range", -1, 1) == 2
    assert "--data-range -1 1: black is 0 in MRI; pass one number" in capsys.readouterr().err


def test_training_refuses_another_range(tmp_path, capsys):
    pytest.importorskip("torch", reason="training needs PyTorch (extra 'train')")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", (255 * picture()).astype(np.float32))
    options = [
        "--steps",
        "1",
        "--channels",
        "4",
        "--patch",
        "24",
        "--batch",
        "1",
        "--pool",
        "1",
        "--sigma-range",
        "25",
        "25",
    ]
    folders = ["train", "--data", str(tmp_path / "a"), "--validation", str(tmp_path / "b"), "--schedule", "2x4"]
    assert cli.main([*folders, *options, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "x.npy: image has values from 0 to 255, but floating-point images are taken to lie on [0, 1]" in error
    assert "pass --data-range R" in error
    assert "--no-box" not in error
    assert not (tmp_path / "out").exists()
    assert cli.main([*folders, *options, "--out", str(tmp_path / "out"), "--data-range", "255"]) == 0


@pytest.mark.parametrize("text", ["0", "-5", "2 1", "nan", "x", "1 2 3"])
def test_ranges_that_the_command_line_refuses(text, capsys):
    assert cli.main(["denoise", "in.png", "-o", "x", "--sigma", "25", f"--data-range={text}"]) == 2
    assert (
        f"argument --data-range: '{text}' is not a positive number, the value of white, or two numbers"
        in capsys.readouterr().err
    )


def test_a_box_upside_down_is_refused(run, capsys):
    for name in COMMANDS:
        assert run(*command(name, "in.npy", "x.npy"), "--box", 1, 0) == 2
        assert "--box 1 0: expected LOW below HIGH" in capsys.readouterr().err


def test_alpha_keeps_its_own_range(tmp_path):
    """Whatever the caller says of the image: half transparent stays half transparent."""
    image, alpha = slice_in_hounsfield().astype(np.float32), np.full(SHAPE, 0.5, np.float32)
    like = ImageFile(image, HOUNSFIELD, None, "tiff", alpha)
    write_image(tmp_path / "a.png", image, like)
    back = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(back.alpha, np.full(SHAPE, 32768))
    np.testing.assert_allclose(back.array, unit(image).clip(0, 1) * 65535, atol=0.51)


# ---------------------------------------------------------------------------------- few pixels, tensors, other brothers


def test_few_pixels_that_are_cut_off_are_named(run, capsys):
    """Metal in a CT slice: too few pixels to refuse the image, but not without a word."""
    slice_ = (100 * picture((64, 64))).astype(np.float32)
    slice_[20:25, 20:25] = 3000
    with pytest.warns(
        UserWarning,
        match=r"image: 25 pixels lie up to 1500 outside of -1000 to 1500, more than noise explains, and with them "
        r"0\.61 % of",
    ):
        result = safi_fast.denoise(slice_, 20, data_range=(-1000, 1500), max_outer=1, max_inner=1)
    assert result.max() <= 1500
    for quiet in ({"box": (0, 1)}, {"box": None}):
        safi_fast.denoise(slice_, 20, data_range=(-1000, 1500), max_outer=1, max_inner=1, **quiet)
    np.save("metal.npy", slice_)
    options = ("--sigma", 25, "--data-range", -1000, 1500, "--max-outer", 1)
    assert run("denoise", "metal.npy", "-o", "a.npy", *options) == 0
    assert "metal.npy: 25 pixels lie up to 1500 outside" in capsys.readouterr().err
    assert run("denoise", "metal.npy", "-o", "b.npy", *options, "--no-box") == 0
    assert capsys.readouterr().err == ""


def test_noise_alone_is_not_named():
    rng = np.random.default_rng(0)
    for grey in (0.0, 1.0, 0.5):
        noisy = np.float32(grey) + rng.normal(0, 25 / 255, (200, 200)).astype(np.float32)
        assert cut_off(np, noisy, Range(0.0, 1.0), 25 / 255) is None


def test_alpha_of_floats_has_their_range(run):
    colours = np.full((20, 22, 4), 128, np.float32)
    np.save("rgba.npy", colours)
    assert run("denoise", "rgba.npy", "-o", "rgba.png", "--sigma", 25, "--data-range", 255, "--max-outer", 1) == 0
    assert abs(read_image("rgba.png").alpha.astype(int) - 65535 * 128 // 255).max() <= 1


def test_one_refused_input_does_not_fail_the_others(run, capsys):
    """The strength is chosen on the first input that can be used, not only read."""
    good = (255 * picture((24, 24))).astype(np.uint8)
    np.save("a.npy", (300 * picture((24, 24)) + 200).astype(np.float32))
    np.save("b.npy", good)
    np.save("mask.npy", np.random.default_rng(0).random(good.shape) > 0.3)
    tail = ("--mask", "mask.npy", "--noise-std", 5, "--max-outer", 1, "--max-iter", 5, "--candidates", "1e-3:1e-2:2")
    assert run("reconstruct", "inpaint", "a.npy", "b.npy", "-o", "out", *tail) == 1
    error = capsys.readouterr().err
    assert "a.npy: " in error
    assert "b.npy" not in error
    assert Path("out/b.npy").exists()


@pytest.mark.parametrize("value", ["255", True, [0.0, "1"]])
def test_what_is_no_number_is_no_range(value):
    with pytest.raises(InputError, match=r"data_range is .*; expected a positive number, the value of white"):
        stated_range(value)


def test_tensors_with_a_gradient_are_taken_everywhere():
    torch = pytest.importorskip("torch", reason="tensors need PyTorch")
    one = torch.tensor(1.0, requires_grad=True)
    assert stated_range(one).high == 1
    assert stated_range((torch.tensor(-1.0, requires_grad=True), one)).low == -1
    angles = torch.linspace(0, 3, 5, requires_grad=True)
    assert ParallelBeamCT((16, 16), angles, 24, norm=torch.tensor(9.0, requires_grad=True)).norm == 9
    image = picture((16, 16))
    np.testing.assert_array_equal(
        safi_fast.denoise(image, 0.1, box=torch.tensor([0.0, 1.0], requires_grad=True), max_outer=1),
        safi_fast.denoise(image, 0.1, box=(0, 1), max_outer=1),
    )


def test_zeros_of_a_ct_image_count_as_measured():
    """Water is 0 HU: with black at -1000 it is a number like all others."""
    rng = np.random.default_rng(1)
    image = np.float32(1000) * (rng.random((20, 20)) > 0.5) * picture((20, 20))
    known = np.ones((20, 20), bool)
    known[::3] = False
    y, mask = np.round(image * known), Mask(known)
    assert np.count_nonzero(y) < 0.8 * known.sum()
    options = {"noise_std": 10.0, "max_outer": 1, "max_iter": 5, "tol": 1e-2}
    ours = safi_fast.tune_strength(y, mask, [0.005, 0.015], data_range=(-1000, 1000), **options)
    shifted = safi_fast.tune_strength(
        (y + 1000 * known) / 2000, mask, [0.005, 0.015], **options | {"noise_std": 10 / 2000}
    )
    np.testing.assert_allclose(ours.scores, shifted.scores, rtol=1e-3)


def test_depth_is_seen_beside_hot_pixels_and_in_floats():
    twelve = np.full((100, 100), 4000, np.uint16)
    twelve[:3, 0] = 65535
    assert "looks like 12-bit data" in range_of("image", twelve).warning
    twelve[:, :2] = 65535
    assert range_of("image", twelve).warning is None
    assert (
        "largest value 0.001 of 1: looks like another range"
        in range_of("image", np.full((4, 4), 1e-3, np.float32)).warning
    )
    assert range_of("image", np.zeros((4, 4), np.float32)).warning is None


def test_transmission_of_few_photons_is_refused():
    operator = ParallelBeamCT((40, 40), np.linspace(0, np.pi, 30, endpoint=False), 57)
    inside = np.zeros((40, 40), np.float32)
    inside[10:30, 12:28] = 0.5
    integrals = operator.apply(inside) / 3
    for photons in (40, 100, 300):
        counts = np.random.default_rng(photons).poisson(photons * np.exp(-integrals)).astype(np.float32)
        with pytest.raises(InputError, match="is largest at the ends of the detector"):
            safi_fast.reconstruct(counts, operator, strength=0.01, max_outer=1, max_iter=2)
    noise = np.random.default_rng(0).normal(0, 0.05, integrals.shape)
    safi_fast.reconstruct(integrals + noise, operator, strength=0.01, max_outer=1, max_iter=2)


def test_an_inpainting_mask_with_its_axes_exchanged():
    known = np.random.default_rng(0).random((24, 24)) > 0.3
    image = 0.1 + 0.8 * picture((24, 24))
    y = np.where(known, image, 0)
    with pytest.raises(
        InputError, match=r"measurement and mask do not fit: .* are exactly zero, but 0 % with .*; pass mask\.T"
    ):
        safi_fast.reconstruct(y, Mask(known.T), strength=0.01, max_outer=1, max_iter=2)
    safi_fast.reconstruct(y, Mask(known), strength=0.01, max_outer=1, max_iter=2)
    black = np.where(known, picture((24, 24)) * (np.arange(24) > 12), 0)  # zeros that belong to the image
    safi_fast.reconstruct(black, Mask(known), strength=0.01, max_outer=1, max_iter=2)
