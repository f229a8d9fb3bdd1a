"""Forward operators: the laws that all of them keep, each against its direct definition, and what is refused."""

import numpy as np
import pytest
import scipy.io
from scipy import ndimage

import safi_fast
from safi_fast.errors import InputError, OperatorError
from safi_fast.operators import (
    Blur,
    Downsample,
    FourierMRI,
    Identity,
    Mask,
    Operator,
    ParallelBeamCT,
    SenseMRI,
    Weighted,
    check_adjoint,
    check_norm,
    check_operator,
    emission,
    transmission,
)
from safi_fast.operators.holdout import hold_out

RNG = np.random.default_rng(7)
BOUNDARIES = {"symmetric": "reflect", "zero": "constant", "circular": "wrap"}  # and their names in scipy.ndimage
SIZES = [(17, 22), (16, 9)]
ROUNDING = 1e-6  # of float32: 2^-24 times a few for the additions of a transform


START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers():
    """A test sees the same numbers whichever others run."""
    RNG.bit_generator.state = START


def complex_normal(*shape):
    return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(np.complex64)


def kernel(*shape):
    """Not symmetric, with a few negative values."""
    taps = RNG.random(shape) - 0.1
    return taps / taps.sum()


def random_mask(*shape):
    mask = RNG.random(shape) < 0.4
    mask[0, 0] = mask[shape[0] // 2, shape[1] // 2] = True
    return mask


def lines(height, width, order="centered"):
    """A quarter of the columns and a fully sampled middle, (H, W)."""
    row = np.random.default_rng(3).random(width) < 0.25
    row[width // 2 - 3 : width // 2 + 4] = True
    mask = np.broadcast_to(row, (height, width))
    return mask if order == "centered" else np.fft.ifftshift(mask)


def smooth_maps(coils, height, width, normalised=True):
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angles = 2 * np.pi * np.arange(coils) / coils
    maps = np.stack(
        [
            np.exp(-((rows - np.cos(a)) ** 2 + (columns - np.sin(a)) ** 2) / 2 + 1j * (a + rows * np.sin(a)))
            for a in angles
        ]
    )
    return (maps / np.linalg.norm(maps, axis=0) if normalised else 3 * maps).astype(np.complex64)


def cases():
    """(name, function of the image size)."""
    for image in ("real", "complex"):
        yield f"identity-{image}", lambda shape, image=image: Identity(shape, image=image)
        yield f"mask-{image}", lambda shape, image=image: Mask(random_mask(*shape), image=image)
        for boundary in BOUNDARIES:
            yield (
                f"blur-{boundary}-{image}",
                lambda shape, boundary=boundary, image=image: Blur(kernel(5, 8), shape, boundary, image=image),
            )
        for order in ("centered", "fft"):
            yield (
                f"mri-{order}-{image}",
                lambda shape, order=order, image=image: FourierMRI(random_mask(*shape), mask_order=order, image=image),
            )
            yield (
                f"sense-{order}-{image}",
                lambda shape, order=order, image=image: SenseMRI(
                    smooth_maps(3, *shape), random_mask(*shape), mask_order=order, image=image
                ),
            )
        yield (
            f"mri-two-orders-{image}",
            lambda shape, image=image: FourierMRI(
                random_mask(*shape), mask_order="centered", kspace_order="fft", image=image
            ),
        )
        yield (
            f"mri-lines-{image}",
            lambda shape, image=image: FourierMRI(lines(*shape), mask_order="centered", image=image),
        )
        yield (
            f"sense-lines-{image}",
            lambda shape, image=image: SenseMRI(
                smooth_maps(3, *shape, normalised=False), lines(*shape), mask_order="centered", image=image
            ),
        )
        yield (
            f"weighted-blur-{image}",
            lambda shape, image=image: Weighted(Blur(kernel(3, 3), shape, image=image), RNG.random(shape)),
        )
    yield "downsample-2", lambda shape: Downsample(2, shape)
    yield "downsample-3", lambda shape: Downsample(3, shape, "box", "zero", image="complex")
    yield "downsample-kernel", lambda shape: Downsample(2, shape, kernel(4, 3), "circular")


CASES = dict(cases())


@pytest.fixture(params=[(name, size) for name in CASES for size in SIZES], ids=lambda p: f"{p[0]}-{p[1][0]}x{p[1][1]}")
def operator(request):
    name, size = request.param
    return CASES[name](size)


def images(operator, count):
    values = complex_normal(count, *operator.shape_in)
    return values if operator.image == "complex" else values.real.copy()


def measurements(operator, count):
    values = complex_normal(count, *operator.shape_out)
    return values if operator.complex else values.real.copy()


def dense(operator):
    """The matrix of an operator, float64; a complex one of real images as twice as many real rows."""
    pixels = int(np.prod(operator.shape_in))
    columns = (
        operator.apply(np.eye(pixels).reshape(pixels, *operator.shape_in)).reshape(pixels, -1).astype(np.complex128)
    )
    if operator.image == "real":
        return np.concatenate([columns.real, columns.imag], axis=1).T
    return columns.T


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# ----------------------------------------------------------------------------------------------------------------- laws


def test_adjoint(operator):
    assert check_adjoint(operator) < 1e-6
    assert check_adjoint(operator, seed=5) < 1e-6


def test_adjoint_is_the_transposed_matrix(operator):
    """Every entry, so that an error at a border pixel cannot hide among the others."""
    matrix, y = dense(operator), measurements(operator, 4)
    flat = y.reshape(4, -1).astype(np.complex128)
    if operator.image == "real":
        flat = np.concatenate([flat.real, flat.imag], axis=1)
    expected = (flat @ matrix.conj()).reshape(4, *operator.shape_in)
    assert relative(operator.adjoint(y), expected) < ROUNDING


def test_norm_is_an_upper_bound_and_close(operator):
    largest = np.linalg.svd(dense(operator), compute_uv=False)[0]
    assert largest * (1 - ROUNDING) <= operator.norm <= 1.1 * largest
    check_operator(operator)


def test_normal_is_adjoint_of_apply(operator):
    x = images(operator, 3)
    assert relative(operator.normal(x), operator.adjoint(operator.apply(x))) < ROUNDING


def test_spectrum_is_the_multiplier(operator):
    x = images(operator, 2)
    if operator.spectrum is None:
        assert not isinstance(operator, Identity | FourierMRI)
        return
    assert operator.spectrum.shape == operator.shape_in
    assert operator.spectrum.dtype == np.float32
    product = np.fft.ifft2(operator.spectrum * np.fft.fft2(x))
    assert relative(product, operator.normal(x)) < ROUNDING


def test_batch_equals_loop_and_leading_axes_are_kept(operator):
    x, y = images(operator, 6), measurements(operator, 6)
    for method, batch in ((operator.apply, x), (operator.adjoint, y), (operator.normal, x)):
        together = method(batch)
        np.testing.assert_array_equal(together, np.stack([method(one) for one in batch]))
        np.testing.assert_array_equal(
            together.reshape(2, 3, *together.shape[1:]), method(batch.reshape(2, 3, *batch.shape[1:]))
        )


def test_dtypes_and_arguments_are_left_alone(operator):
    x, y = images(operator, 2), measurements(operator, 2)
    before = x.copy(), y.copy()
    image, measured = (np.complex64 if flag else np.float32 for flag in (operator.image == "complex", operator.complex))
    forward, back = operator.apply(x), operator.adjoint(y)
    assert (forward.dtype, back.dtype, operator.normal(x).dtype) == (measured, image, image)
    assert operator.apply(x.astype(np.complex128 if operator.image == "complex" else np.float64)).dtype == measured
    assert operator.check_measurement(y).dtype == measured
    forward[...] = back[...] = 0
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


# --------------------------------------------------------------------------------------------------- direct definitions


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("taps", [(1, 1), (3, 3), (5, 8), (2, 7), (17, 22), (16, 4)])
def test_blur_is_a_convolution(boundary, taps):
    weights, x = kernel(*taps), RNG.standard_normal((17, 22))
    expected = ndimage.convolve(x, weights, mode=BOUNDARIES[boundary])
    operator = Blur(weights, x.shape, boundary)
    assert relative(operator.apply(x), expected) < ROUNDING
    assert check_adjoint(operator) < 1e-6
    assert relative(Blur(weights, x.shape, boundary, image="complex").apply(1j * x), 1j * expected) < ROUNDING


def test_blur_norms():
    """Circular: the sum of a non-negative kernel.

    Elsewhere never above 1.1 of the singular value, also for a real blur's shape.
    """
    taps = np.zeros((9, 9))
    taps[4, 1:] = taps[2:5, 3] = 1 / 10
    assert Blur(taps, (20, 30), "circular").norm == pytest.approx(taps.sum(), rel=1e-6)
    for boundary in ("symmetric", "zero"):
        operator = Blur(taps, (20, 30), boundary)
        largest = np.linalg.svd(dense(operator), compute_uv=False)[0]
        assert largest <= operator.norm <= 1.05 * largest
    assert Blur(taps, (20, 30), norm=2.5).norm == 2.5


def reduction_matrix(factor, size):
    """One side of an anti-aliased bicubic reduction with reflection, row by row from its definition."""
    rows = []
    for centre in np.arange(size // factor) * factor + (factor - 1) / 2:
        row, total = np.zeros(size), 0.0
        for pixel in range(-size, 2 * size):
            d = abs(pixel - centre) / factor
            weight = 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else (-0.5 * d**3 + 2.5 * d**2 - 4 * d + 2) * (d < 2)
            inside = pixel % (2 * size)
            row[inside if inside < size else 2 * size - 1 - inside] += weight
            total += weight
        rows.append(row / total)
    return np.stack(rows)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_downsampling(factor):
    x = RNG.random((12 * factor, 7 * factor))
    if factor == 4:
        x = RNG.random((24, 32))
    expected = reduction_matrix(factor, x.shape[0]) @ x @ reduction_matrix(factor, x.shape[1]).T
    found = Downsample(factor, x.shape).apply(x)
    assert found.shape == expected.shape
    assert relative(found, expected) < ROUNDING


@pytest.mark.parametrize("factor", [2, 3])
def test_box_downsampling_is_the_mean_of_blocks(factor):
    x = RNG.random((4 * factor, 5 * factor))
    expected = x.reshape(4, factor, 5, factor).mean((1, 3))
    assert relative(Downsample(factor, x.shape, "box").apply(x), expected) < ROUNDING


@pytest.mark.parametrize("kspace_order", ["centered", "fft"])
@pytest.mark.parametrize("mask_order", ["centered", "fft"])
@pytest.mark.parametrize("shape", SIZES)
def test_mri_is_the_masked_transform(shape, mask_order, kspace_order):
    mask, x, maps = random_mask(*shape), complex_normal(*shape), smooth_maps(4, *shape)
    options = {"mask_order": mask_order, "kspace_order": kspace_order, "image": "complex", "check_order": False}
    frequencies = np.fft.ifftshift(mask) if mask_order == "centered" else mask

    def expected(image):
        if kspace_order == "fft":
            return frequencies * np.fft.fft2(image, norm="ortho")
        return np.fft.fftshift(frequencies * np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))

    one = FourierMRI(mask, **options)
    assert relative(one.apply(x), expected(x)) < ROUNDING
    np.testing.assert_array_equal(one.mask, one.apply(complex_normal(*shape)) != 0)
    several = SenseMRI(maps, mask, **options)
    assert relative(several.apply(x), np.stack([expected(coil * x) for coil in maps])) < ROUNDING


def test_real_images_have_the_published_adjoint_and_multiplier():
    mask, y = random_mask(15, 20), complex_normal(15, 20)
    operator = FourierMRI(mask, mask_order="fft")
    assert relative(operator.adjoint(y), np.fft.ifft2(mask * y, norm="ortho").real) < ROUNDING
    negative = mask[np.ix_(-np.arange(15) % 15, -np.arange(20) % 20)]
    np.testing.assert_array_equal(operator.spectrum, (mask.astype(float) + negative) / 2)


def test_norm_of_one_sided_sampling():
    """A real image cannot put all of its energy on k without -k."""
    mask = np.zeros((8, 8))
    mask[1, 2] = 1
    assert FourierMRI(mask, mask_order="fft", check_order=False).norm == pytest.approx(0.5**0.5)
    assert FourierMRI(mask, mask_order="fft", check_order=False, image="complex").norm == 1


def test_mask_of_lines_from_a_row():
    whole = FourierMRI(lines(12, 40), mask_order="centered")
    row = FourierMRI(lines(1, 40), mask_order="centered", shape=(12, 40))
    np.testing.assert_array_equal(whole.mask, row.mask)


def test_norm_of_sense_comes_from_the_maps_or_is_computed():
    maps = smooth_maps(4, 16, 18)
    assert SenseMRI(maps, lines(16, 18), mask_order="centered").norm <= 1 + 1e-6
    assert SenseMRI(2 * maps, np.ones((16, 18)), mask_order="centered").norm == pytest.approx(2, rel=1e-6)


def test_mask_forgets_what_is_missing():
    """Missing pixels are often NaN."""
    known = random_mask(9, 8)
    x = np.where(known, RNG.random((9, 8)), np.nan)
    operator = Mask(known)
    for found in (operator.check_measurement(x), operator.adjoint(x)):
        np.testing.assert_array_equal(found, np.where(known, x, 0).astype(np.float32))


def test_unsampled_measurements_do_not_count():
    operator = FourierMRI(lines(20, 48), mask_order="centered")
    full = np.fft.fftshift(np.fft.fft2(RNG.random((20, 48)), norm="ortho"))
    np.testing.assert_array_equal(
        operator.check_measurement(full), np.where(lines(20, 48), full, 0).astype(np.complex64)
    )


# ------------------------------------------------------------------------------------------------------------- hold-out


def test_an_operator_that_lost_measurements(operator):
    """It is the whole one, zero where measurements were lost, an operator in its own right, and diagonal in Fourier
    where MRI was.
    """
    rest, lost = hold_out(operator, 0.3, 5)
    x, y = images(operator, 2), measurements(operator, 2)
    assert lost.shape == operator.shape_out
    assert lost.any()
    np.testing.assert_array_equal(rest.apply(x), np.where(lost, 0, operator.apply(x)))
    assert relative(rest.adjoint(y), operator.adjoint(np.where(lost, 0, y))) < ROUNDING
    filled = rest.check_measurement(np.where(lost, np.float32(1e6), 0 * y))
    assert not rest.adjoint(filled).any()
    assert rest.norm <= operator.norm
    check_operator(rest)
    assert (rest.name, rest.image, rest.complex) == (operator.name, operator.image, operator.complex)
    if isinstance(operator, FourierMRI):
        assert rest.spectrum is not None
    np.testing.assert_array_equal(lost, hold_out(operator, 0.3, 5)[1])
    assert (lost != hold_out(operator, 0.3, 6)[1]).any()


@pytest.mark.parametrize("order", ["centered", "fft"])
def test_samples_are_lost_in_all_coils_and_opposite_ones_together(order):
    mask = lines(32, 40, order)
    coils, one = SenseMRI(smooth_maps(3, 32, 40), mask, mask_order=order), FourierMRI(mask, mask_order=order)
    for operator in (coils, one):
        lost = hold_out(operator, 0.25, 0)[1]
        lost = lost if operator is one else lost[0]
        assert (hold_out(coils, 0.25, 0)[1] == hold_out(coils, 0.25, 0)[1][:1]).all()
        assert not (lost & ~mask).any()
        middle = lost if order == "centered" else np.fft.fftshift(lost)
        assert not middle[16 - 3 : 16 + 4, 20 - 3 : 20 + 4].any()  # fully sampled, and a quarter of 32 at most
        assert lost.sum() == pytest.approx(0.25 * (mask.sum() - 49), abs=1.5)
    there = np.fft.ifftshift(lost) if order == "centered" else lost
    both = np.fft.ifftshift(mask) if order == "centered" else mask
    both = both & np.roll(both[::-1, ::-1], (1, 1), (0, 1))
    np.testing.assert_array_equal(there & both, np.roll(there[::-1, ::-1], (1, 1), (0, 1)) & both)


def test_known_pixels_and_whole_views_are_lost():
    known = random_mask(20, 18)
    lost = hold_out(Mask(known), 0.1, 0)[1]
    assert lost.sum() == round(0.1 * known.sum())
    assert not (lost & ~known).any()
    views = hold_out(ParallelBeamCT((16, 16), np.linspace(0, 3, 10), 25), 0.2, 0)[1]
    assert views.shape == (10, 25)
    assert sorted(views.sum(1)) == [0] * 8 + [25] * 2


@pytest.mark.parametrize(
    ("operator", "share", "message"),
    [
        (Mask(np.eye(1, 5)), 0.5, "holdout is 0.5, which leaves out 0 of 1 measurements of Mask that can be left out"),
        (FourierMRI(np.eye(9), mask_order="fft"), 0.99, "leaves out 8 of 8 measurements of FourierMRI .*; expected at"),
    ],
)
def test_too_little_is_left_of_an_operator(operator, share, message):
    with pytest.raises(InputError, match=message):
        hold_out(operator, share, 0)


# --------------------------------------------------------------------------------------------------------------- checks


class Planted(Operator):
    """A convolution with one thing wrong."""

    def __init__(self, forward, back, norm=None, image="real", complex=False):
        super().__init__((13, 18), (13, 18), image=image, complex=complex, norm=norm)
        self._forward, self._back = forward, back

    def _apply(self, x):
        return self._forward(x)

    def _adjoint(self, y):
        return self._back(y)


INNER = Blur(kernel(3, 4), (13, 18))
PHASE = complex_normal(13, 18)


def writes(y):
    y *= 2
    return y


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            Planted(INNER.apply, INNER.apply),
            "Planted: adjoint is not the adjoint of apply: <H x, y> = .* but <x, H\\^T y> = ",
        ),
        (
            Planted(INNER.apply, lambda y: 4 * INNER.adjoint(y)),
            "look for .* a scale .*<x, H\\^T y> is 4 times <H x, y>",
        ),
        (Planted(INNER.apply, Blur(np.ones((1, 1)), (13, 18)).adjoint), "another boundary"),
        (Planted(lambda x: INNER.apply(x) + 1, INNER.adjoint), "maps zero to something else: it is affine, not linear"),
        (
            Planted(lambda x: PHASE * x, lambda y: PHASE * y, image="complex", complex=True),
            "missing complex conjugate",
        ),
        (Planted(lambda x: x * np.nan, INNER.adjoint), "apply of a random argument has values that are not finite"),
        (Planted(lambda x: x * 0, lambda y: y * 0), "apply maps a random image to zero; it has no measurements"),
        (Planted(writes, writes), "Planted: apply writes into its argument"),
        (Planted(lambda x: x, writes), "Planted: adjoint writes into its argument"),
    ],
)
def test_wrong_adjoints_are_found(wrong, message):
    with pytest.raises(OperatorError, match=message):
        check_adjoint(wrong)
    wrong.norm = 100.0
    with pytest.raises(OperatorError, match=message):
        check_operator(wrong)


def test_an_error_at_the_border_is_found():
    """The zero boundary's adjoint for the symmetric boundary: right in all but a few pixels."""
    taps = kernel(3, 3)
    right, wrong = Blur(taps, (128, 96), "symmetric"), Blur(taps, (128, 96), "zero")
    right._adjoint = wrong._adjoint
    with pytest.raises(OperatorError, match="Blur: adjoint is not the adjoint"):
        check_adjoint(right)


def test_a_small_error_of_scale_is_found():
    """With y independent of x it would be as small as chance makes both products: 1e-4 / sqrt(60,000)."""
    blur = Blur(kernel(3, 3), (200, 300))
    adjoint = blur._adjoint
    blur._adjoint = lambda y: 1.0001 * adjoint(y)
    with pytest.raises(OperatorError, match=r"<x, H\^T y> is 1\.0001 times <H x, y>"):
        check_adjoint(blur)


@pytest.mark.parametrize("name", CASES)
def test_an_under_estimated_norm_is_found(name):
    operator = CASES[name]((17, 22))
    assert check_norm(operator) <= operator.norm * (1 + ROUNDING)
    operator.norm *= 0.8
    with pytest.raises(
        OperatorError, match=r"norm is .*, but \|\|H x\|\| / \|\|x\|\| reaches .*: a solve would diverge"
    ):
        check_operator(operator)


def test_an_operator_is_checked_once_per_norm(monkeypatch):
    operator, calls = Blur(kernel(3, 3), (20, 20)), []
    apply = operator._apply
    monkeypatch.setattr(operator, "_apply", lambda x: calls.append(1) or apply(x))
    check_operator(operator)
    before = len(calls)
    check_operator(operator)
    assert len(calls) == before > 0
    operator.norm = 0.1
    with pytest.raises(OperatorError, match=r"norm is 0\.1"):
        check_operator(operator)


def test_an_operator_that_measures_nothing_has_no_norm():
    with pytest.raises(OperatorError, match="maps a random image to zero; it has no measurements"):
        _ = Planted(lambda x: x * 0, lambda y: y * 0).norm
    with pytest.raises(OperatorError, match="Planted: H\\^T H of a random image has values that are not finite"):
        _ = Planted(lambda x: x * np.nan, lambda y: y).norm


# ------------------------------------------------------------------------------------------------------------- refusals

MAPS = smooth_maps(3, 16, 48)
MRI = FourierMRI(lines(16, 48), mask_order="centered")
SENSE = SenseMRI(MAPS, lines(16, 48), mask_order="centered")
NAN = np.full((16, 48), np.nan)


def with_zero_coil():
    maps = MAPS.copy()
    maps[1] = 0
    return maps


def with_nan(array, *index):
    array = array.copy()
    array[index] = np.nan
    return array


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Identity((0, 4)), InputError, r"shape_in is \(0, 4\); expected two positive numbers"),
        (lambda: Identity((4, 4), image="colour"), InputError, "image is 'colour'; expected 'real' or 'complex'"),
        (lambda: Identity((4, 4)).apply(np.ones((4, 5))), InputError,
         r"x has shape \(4, 5\); Identity expects \(..., 4, 4\)"),
        (lambda: Identity((4, 4)).apply(np.ones((4, 4)) * 1j), InputError,
         "x is complex .*; Identity expects real numbers"),
        (lambda: Identity((4, 4)).apply(np.full((4, 4), "a")), InputError, "x has dtype .*; expected numbers"),
        (lambda: Identity((2, 2)).apply([[1, 2], [3]]), InputError, "x cannot be read as a NumPy array"),
        (
            lambda: Identity((4, 4)).check_measurement(with_nan(np.ones((4, 4)), 1, 2)),
            InputError,
            r"measurement has 1 values that are not finite, the first at \(1, 2\)",
        ),
        (lambda: Mask(np.zeros((4, 4))), OperatorError, "mask is zero everywhere: nothing is measured"),
        (lambda: Mask(np.full((4, 4), 0.5)), InputError, "mask has other values than 0 and 1"),
        (lambda: Mask(np.ones((2, 4, 4))), InputError, r"mask has shape \(2, 4, 4\); expected \(H, W\)"),
        (lambda: Mask(np.ones((4, 4))).adjoint(np.ones((4, 4)) * 1j), InputError, "y is complex .*; Mask expects real"),
        (lambda: Blur(np.ones((9, 3)), (8, 20)), InputError,
         r"kernel has shape \(9, 3\), larger than the image \(8, 20\)"),
        (lambda: Blur(np.ones(3), (8, 20)), InputError, r"kernel has shape \(3,\); expected \(h, w\)"),
        (lambda: Blur(1j * np.ones((3, 3)), (8, 20)), InputError, "kernel is complex .*; expected real numbers"),
        (lambda: Blur(np.full((3, 3), np.nan), (8, 20)), InputError, "kernel has 9 values that are not finite"),
        (lambda: Blur(np.zeros((3, 3)), (8, 20)), OperatorError, "kernel is zero everywhere"),
        (lambda: Blur(np.ones((3, 3)), (8, 20), "reflect"), InputError,
         "boundary is 'reflect'; expected one of 'symmetric'"),
        (lambda: Blur(np.ones((3, 3)), 8), InputError, r"shape is 8; expected two positive numbers \(H, W\)"),
        (lambda: Blur(np.ones((3, 3)), (8, 8), norm=-1), InputError, "norm is -1; expected a positive number"),
        (lambda: Downsample(1.5, (8, 8)), InputError, "factor is 1.5; expected an integer of at least 2"),
        (lambda: Downsample(2, (16, 16), "lanczos"), InputError, "kernel is 'lanczos'; expected 'bicubic', 'box'"),
        (lambda: Downsample(4, (12, 40)), InputError, r"kernel has shape \(16, 16\), larger than the image"),
        (
            lambda: FourierMRI(np.ones((4, 4)), mask_order="shifted"),
            InputError,
            "mask_order is 'shifted'; expected 'centered' .* or 'fft'",
        ),
        (lambda: FourierMRI(np.ones((4, 4)), mask_order="fft", kspace_order=1), InputError,
         "kspace_order is 1; expected"),
        (
            lambda: FourierMRI(np.ones((4, 5)), mask_order="fft", shape=(5, 4)),
            InputError,
            r"mask has shape \(4, 5\); expected \(5, 4\), or one of its sides 1",
        ),
        (lambda: FourierMRI(np.ones(4), mask_order="fft"), InputError, r"mask has shape \(4,\); expected \(H, W\)"),
        (lambda: FourierMRI(np.zeros((4, 4)), mask_order="fft"), OperatorError, "mask is zero everywhere"),
        (
            lambda: FourierMRI(lines(16, 48), mask_order="fft"),
            InputError,
            "mask samples k-space densely in the middle and not at index 0, .*mask_order='fft'.*; "
            "pass mask_order='centered'",
        ),
        (
            lambda: SenseMRI(MAPS, lines(16, 48, "fft"), mask_order="centered"),
            InputError,
            "densely at index 0 and not in the middle, .*; pass mask_order='fft'",
        ),
        (
            lambda: SenseMRI(MAPS, lines(48, 16), mask_order="centered"),
            InputError,
            r"mask has shape \(48, 16\); expected \(16, 48\)",
        ),
        (lambda: SenseMRI(with_zero_coil(), lines(16, 48), mask_order="centered"), InputError,
         r"maps\[1\] is zero everywhere"),
        (lambda: SenseMRI(with_nan(MAPS, 0, 1, 2), lines(16, 48), mask_order="centered"), InputError,
         "maps has 1 values that are not"),
        (lambda: SenseMRI(MAPS[0], lines(16, 48), mask_order="centered"), InputError,
         r"maps has shape \(16, 48\); expected \(C, H, W\)"),
        (lambda: MRI.check_measurement(NAN), InputError, "measurement has 768 values that are not finite"),
        (lambda: SENSE.check_measurement(with_nan(MAPS, 2, 0, 0)), InputError, r"not finite, the first at \(2, 0, 0\)"),
        (lambda: SENSE.check_measurement(np.ones((16, 48))), InputError, r"SenseMRI expects \(..., 3, 16, 48\)"),
        (
            lambda: MRI.check_measurement(np.fft.fft2(RNG.random((16, 48)))),
            InputError,
            "measurement has its energy at index 0, but kspace_order='centered' .*; pass kspace_order='fft'",
        ),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_mask_without_a_dense_middle_is_accepted_in_both_orders():
    regular = np.zeros((40, 60), bool)
    regular[::2, ::2] = True
    elliptic = np.hypot(*np.mgrid[-1:1:40j, -1:1:60j]) < 1
    assert FourierMRI(elliptic, mask_order="centered").norm == 1
    for order in ("centered", "fft"):
        FourierMRI(regular, mask_order=order)
        FourierMRI(np.ones((40, 60)), mask_order=order)
        for seed in range(20):
            FourierMRI(np.random.default_rng(seed).random((40, 60)) < 0.25, mask_order=order)
            FourierMRI(np.random.default_rng(seed).random((1, 60)) < 0.25, mask_order=order, shape=(40, 60))
    FourierMRI(lines(16, 48), mask_order="fft", check_order=False)


@pytest.mark.parametrize("name", ["Cartesian", "Radial", "Random"])
def test_orders_of_published_masks(data_folder, name):
    both = scipy.io.loadmat(data_folder / "mri" / "masks" / f"Q_{name}30.mat")
    FourierMRI(both["Q1"], mask_order="fft")
    FourierMRI(both["Q11"], mask_order="centered")
    with pytest.raises(InputError, match="pass mask_order='fft'"):
        FourierMRI(both["Q1"], mask_order="centered")
    with pytest.raises(InputError, match="pass mask_order='centered'"):
        FourierMRI(both["Q11"], mask_order="fft")


# ------------------------------------------------------------------------------------------------------------- weights


def test_weights_scale_residuals():
    blur, weights = Blur(kernel(3, 3), (16, 20)), RNG.random((16, 20))
    weighted, x, y = Weighted(blur, weights), RNG.random((16, 20)), RNG.random((16, 20))
    residual = weighted.apply(x) - weighted.measured(y)
    assert np.sum(residual**2) == pytest.approx(np.sum(weights * (blur.apply(x) - y) ** 2), rel=1e-5)
    column = Weighted(blur, weights[:, :1])
    np.testing.assert_allclose(column.apply(x), np.sqrt(weights[:, :1]) * blur.apply(x), rtol=1e-5, atol=1e-6)


def test_weights_of_a_mask_are_the_mask():
    """An image from half of the pixels, whichever way they are left out."""
    image = 0.5 + 0.3 * np.sin(np.arange(30) / 4)[:, None] * np.cos(np.arange(34) / 5)
    mask = RNG.random(image.shape) < 0.5
    options = {"strength": 1e-3, "model": "safi-gray-fast", "backend": "cpu", "max_outer": 3, "max_iter": 60}
    by_mask = safi_fast.reconstruct(mask * image, Mask(mask), **options).image
    weighted = Weighted(Identity(image.shape), mask)
    by_weights = safi_fast.reconstruct(weighted.measured(image), weighted, **options).image
    assert np.abs(by_mask - by_weights).max() < 0.02


def test_counts_behind_an_object():
    """y is unbiased to first order, and the weights are its inverse variance but for a factor."""
    lines, blank = np.array([0.5, 1.0, 2.0]), 2000.0
    counts = RNG.poisson(np.repeat(blank * np.exp(-lines) + 50, 100), (500, 300))  # 100 cells of each
    y, weights = (
        v.reshape(500, 3, 100)[..., 20:80].swapaxes(1, 2).reshape(-1, 3)
        for v in transmission(counts, blank, background=50)
    )
    np.testing.assert_allclose(y.mean(0), lines, atol=0.005)
    assert transmission(counts, blank)[1].mean() == pytest.approx(1, rel=1e-5)
    inverse = 1 / y.var(0)
    np.testing.assert_allclose(weights.mean(0) / weights.mean(0).sum(), inverse / inverse.sum(), rtol=0.05)
    dark, least = transmission(np.zeros((2, 2)), 10.0)
    assert np.isfinite(dark).all()
    assert (least >= 0).all()


def test_counts_of_an_activity():
    activity, attenuation = np.array([100.0, 400.0, 30.0]), np.array([0.5, 0.1, 0.9])
    counts = RNG.poisson(np.repeat(attenuation * activity + 20, 100), (500, 300))
    y, weights = (
        v.reshape(500, 3, 100)[..., 20:80].swapaxes(1, 2).reshape(-1, 3)
        for v in emission(counts, np.repeat(attenuation, 100), background=20)
    )
    np.testing.assert_allclose(y.mean(0), activity, rtol=0.02)
    inverse = 1 / y.var(0)
    np.testing.assert_allclose(weights.mean(0) / weights.mean(0).sum(), inverse / inverse.sum(), rtol=0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Weighted("blur", 1), InputError, "operator is a str; expected an Operator"),
        (lambda: Weighted(Identity((9, 9)), np.ones(4)), InputError, r"weights has shape \(4,\); expected \(9, 9\)"),
        (lambda: Weighted(Identity((9, 9)), -1), InputError, "weights has values down to -1"),
        (lambda: Weighted(Identity((9, 9)), 0), OperatorError, "weights is zero everywhere"),
        (lambda: transmission([-1.0], 10), InputError, "counts has values down to -1"),
        (lambda: transmission([1.0], 0), InputError, "blank has values down to 0; expected more than 0"),
        (lambda: transmission([1.0], np.ones(3)), InputError, r"blank has shape \(3,\); expected \(1,\) or less"),
        (lambda: emission([1.0], 1.0, np.ones(3)), InputError, r"background has shape \(3,\)"),
        (lambda: emission(np.zeros((0, 3))), InputError, r"counts is empty: its shape is \(0, 3\)"),
        (lambda: Weighted(Identity((9, 9)), np.nan), InputError, "weights has 1 values that are not finite"),
        (
            lambda: Weighted(Identity((9, 9)), 1).measured(np.full((9, 9), np.nan)),
            InputError,
            "measurement has 81 values",
        ),
        (lambda: emission([np.nan]), InputError, "counts has 1 values that are not finite"),
    ],
)
def test_weights_and_counts_that_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_missing_pixels_are_filled_in_smoothly():
    """Constants and, in the middle, ramps are kept; known pixels too; images of a batch are alone; any sizes."""
    rng = np.random.default_rng(0)
    for shape in ((1, 7), (9, 1), (33, 20), (64, 48)):
        known = rng.random(shape) < 0.3
        known.flat[0] = True
        ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])).astype(np.float32) / sum(shape)
        stack = np.stack([np.full(shape, 0.7, np.float32), ramp, rng.random(shape, np.float32)])
        found = Mask(known).first_image(np.where(known, stack, np.float32(0)))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[:, known], stack[:, known])
        np.testing.assert_allclose(found[0], 0.7, rtol=1e-5)
        assert found.min() >= stack.min() - 1e-6
        assert found.max() <= stack.max() + 1e-6
        if min(shape) > 30:
            assert np.abs(found[1] - ramp)[8:-8, 8:-8].max() < 0.08
        alone = Mask(known).first_image(np.where(known, stack[2], np.float32(0))[None])
        np.testing.assert_array_equal(alone[0], found[2])
    turned = Mask(known, image="complex").first_image(np.where(known, np.complex64(1j) * stack, 0))
    np.testing.assert_allclose(turned, 1j * found, rtol=0, atol=1e-6)


def test_fast_inpainting_starts_from_it():
    known = np.random.default_rng(0).random((24, 21)) < 0.3
    y = np.where(known, np.float32(0.6), np.float32(0))
    seen = []
    for schedule in ("fast", "gap"):
        safi_fast.reconstruct(
            y, Mask(known), strength=1e-3, schedule=schedule, max_outer=1, max_iter=1,
            callback=lambda state: seen.append(state.image()),
        )  # fmt: skip
    np.testing.assert_allclose(seen[0][0], 0.6, rtol=0, atol=1e-3)
    assert seen[1][0].min() < 0.2


def test_weights_and_other_operators_beside_it_start_from_it_too():
    rng = np.random.default_rng(0)
    known, image = rng.random((24, 21)) < 0.1, np.full((24, 21), 0.6, np.float32)
    operators = [Mask(known), Weighted(Mask(known), np.full(known.shape, 0.25)), Identity(known.shape)]
    y = np.stack([operator.apply(image) for operator in operators])
    options = {"strength": 1e-3, "schedule": "fast", "max_outer": 1, "max_iter": 1}
    found = safi_fast.reconstruct(y, operators, **options)
    np.testing.assert_allclose(found.image, 0.6, rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 3, 3), np.float32), np.full((1, 24, 21), np.nan, np.float32)], ids=["shape", "NaN"]
)
def test_a_first_image_that_is_none_is_refused(wrong, monkeypatch):
    monkeypatch.setattr(Mask, "first_image", lambda *_: wrong)
    known = np.ones((24, 21), bool)
    with pytest.raises(OperatorError, match=r"Mask: first_image gave .*; expected finite values, \(1, 24, 21\)"):
        safi_fast.reconstruct(known / 2, Mask(known), strength=1e-3, schedule="fast")
