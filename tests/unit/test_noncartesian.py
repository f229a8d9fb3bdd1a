"""k-space off the Cartesian grid against direct sums, FourierMRI and sigpy's conventions; whole solves of a phantom."""

import pickle

import numpy as np
import pytest

import safi_fast
from safi_fast.errors import BackendError, InputError
from safi_fast.operators import (
    FourierMRI,
    NonCartesianMRI,
    SenseMRI,
    Weighted,
    check_adjoint,
    check_norm,
    density_weights,
    radial,
    spiral,
)
from safi_fast.operators.holdout import hold_out

pytest.importorskip("finufft", reason="NonCartesianMRI needs finufft (extra 'nufft')")

SHAPE = 13, 18
ASKED = 1e-7  # of finufft
ROUNDING = 2**-23  # of measurements as complex64


def rng():
    return np.random.default_rng(11)


def complex_normal(draw, *shape):
    return (draw.standard_normal(shape) + 1j * draw.standard_normal(shape)).astype(np.complex64)


def grid(height, width):
    """(H, W, 2): the Cartesian grid as a trajectory."""
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)


def direct(trajectory, maps, images):
    """The formula at the head of noncartesian.py, in float64."""
    phases = np.einsum("abk,hwk->abhw", trajectory / np.array(SHAPE), grid(*SHAPE))
    matrix = np.exp(-2j * np.pi * phases) / np.sqrt(np.prod(SHAPE))
    return np.einsum("abhw,chw,nhw->ncab", matrix, maps, images)


@pytest.mark.parametrize("image", ["real", "complex"])
@pytest.mark.parametrize("coils", [None, 3])
def test_it_is_the_direct_sum_and_its_adjoint(image, coils):
    draw = rng()
    trajectory = draw.uniform(-0.5, 0.5, (5, 7, 2)) * SHAPE
    maps = None if coils is None else complex_normal(draw, coils, *SHAPE)
    images = complex_normal(draw, 2, *SHAPE) if image == "complex" else draw.standard_normal((2, *SHAPE))
    operator = NonCartesianMRI(trajectory, SHAPE, maps, image=image)
    expected = direct(trajectory, np.ones((1, *SHAPE)) if maps is None else maps, images)
    measured = operator.apply(images)
    assert measured.shape == (2, *(() if coils is None else (coils,)), 5, 7)
    assert np.linalg.norm(measured.reshape(expected.shape) - expected) < 4 * ASKED * np.linalg.norm(expected)
    assert check_adjoint(operator, tol=4 * ROUNDING) < 4 * ROUNDING
    assert check_norm(operator) < operator.norm


@pytest.mark.parametrize("image", ["real", "complex"])
@pytest.mark.parametrize("coils", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_normal_operator_is_adjoint_of_apply(image, coils, weighted, monkeypatch):
    """By transforms on the grid alone: neither H nor H^T is called."""
    draw = rng()
    trajectory = draw.uniform(-0.5, 0.5, (60, 2)) * SHAPE
    maps = None if coils is None else complex_normal(draw, coils, *SHAPE)
    images = complex_normal(draw, 2, *SHAPE) if image == "complex" else draw.standard_normal((2, *SHAPE))
    operator = NonCartesianMRI(trajectory, SHAPE, maps, image=image)
    if weighted:
        operator = Weighted(operator, draw.random(60))
    expected = operator.adjoint(operator.apply(images))
    monkeypatch.setattr(NonCartesianMRI, "_apply", None)
    monkeypatch.setattr(NonCartesianMRI, "_adjoint", None)
    found = operator.normal(images)
    assert found.dtype == expected.dtype
    assert np.linalg.norm(found - expected) < 8 * ROUNDING * np.linalg.norm(expected)
    assert np.array_equal(pickle.loads(pickle.dumps(operator)).normal(images), found)


def test_weights_that_differ_between_coils_go_by_the_measurements():
    draw = rng()
    inner = NonCartesianMRI(draw.uniform(-0.5, 0.5, (20, 2)) * SHAPE, SHAPE, complex_normal(draw, 2, *SHAPE))
    operator = Weighted(inner, draw.random((2, 1)))
    image = complex_normal(draw, *SHAPE)
    np.testing.assert_array_equal(operator.normal(image), operator.adjoint(operator.apply(image)))


@pytest.mark.parametrize("shape", [(13, 18), (16, 9)])
def test_whole_numbers_are_the_cartesian_grid(shape):
    image, maps = complex_normal(rng(), *shape), complex_normal(rng(), 2, *shape)
    everything = np.ones(shape)
    pairs = (
        (NonCartesianMRI(grid(*shape), shape), FourierMRI(everything, mask_order="centered", image="complex")),
        (NonCartesianMRI(grid(*shape), shape, maps), SenseMRI(maps, everything, mask_order="centered")),
    )
    for ours, cartesian in pairs:
        expected = cartesian.apply(image)
        assert np.linalg.norm(ours.apply(image) - expected) < 4 * ASKED * np.linalg.norm(expected)
        assert ours.norm == pytest.approx(cartesian.norm, rel=0.03)


def test_spokes_and_spirals():
    spokes = radial(5, 8, reach=4)
    assert spokes.shape == (5, 8, 2)
    np.testing.assert_allclose(spokes[0], [[0, k] for k in range(-4, 4)], atol=1e-12)
    np.testing.assert_array_equal(spokes[:, 4], 0)
    turned = np.degrees(np.arctan2(*spokes[1, 5]))
    assert turned == pytest.approx(111.246, abs=1e-3)
    even = radial(6, 8, golden=False)
    assert np.degrees(np.arctan2(*even[1, 5])) == pytest.approx(30)
    arms = spiral(4, 800, 16)
    assert arms.shape == (4, 800, 2)
    assert np.linalg.norm(arms, axis=-1).max() == pytest.approx(16 * 799 / 800)
    radii = np.sort(np.linalg.norm(arms, axis=-1)[np.abs(np.arctan2(arms[..., 0], arms[..., 1])) < 0.05])
    assert np.diff(radii).max() < 1.1  # neighbouring turns lie one cycle apart


def test_density_of_full_spokes_is_the_ramp():
    """Pipe and Menon's iteration finds it, but for the samples at the edge, beyond which there are none."""
    spokes = radial(51, 64, reach=16, golden=False)
    ramp, found = (density_weights(spokes, (32, 32), method=name) for name in ("ramp", "pipe-menon"))
    assert ramp.mean() == pytest.approx(1, abs=1e-6)
    assert found.mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.mean(0)[8:32], ramp.mean(0)[8:32], atol=0.06)
    assert found[:, 32].max() < 0.05


@pytest.mark.parametrize("schedule", ["gap", "fast"])
def test_a_phantom_from_spokes(schedule):
    """Beyond the gridded image, with and without weights, real and complex."""
    side, draw = 32, rng()
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    phantom = (rows**2 + columns**2 < 0.8) * 0.6 + (abs(rows - 0.2) + abs(columns) < 0.4) * 0.3
    spokes = radial(13, 2 * side, reach=side / 2)
    plain = NonCartesianMRI(spokes, (side, side), image="real" if schedule == "gap" else "complex")
    y = plain.apply(phantom) + 0.01 * complex_normal(draw, *plain.shape_out)
    weights = density_weights(spokes, (side, side))
    weighted = Weighted(plain, weights)
    gridded = plain.adjoint(weights * y)
    seen = plain.apply(gridded)
    gridded *= np.vdot(seen, weights * y).real / np.vdot(seen, weights * seen).real
    solver = safi_fast.Solver("safi-gray-fast", backend="cpu")
    box = (0.0, 1.0) if schedule == "gap" else None
    for measured, operator in ((y, plain), (weighted.measured(y), weighted)):
        solution = solver.reconstruct(
            measured, operator, strength=3e-4 * operator.norm**2, box=box, schedule=schedule, max_outer=2, max_iter=120
        )
        errors = [np.linalg.norm(abs(image) - phantom) for image in (gridded, solution.image)]
        assert errors[1] < errors[0] / 2
        assert solution.relative_gap < 0.3


def test_the_cartesian_grid_gives_the_image_of_fourier_mri():
    side, draw = 24, rng()
    phantom = np.kron(draw.random((4, 4)), np.ones((6, 6))).astype(np.float32)
    mask = draw.random((side, side)) < 0.6
    mask[9:15, 9:15] = True
    cartesian = FourierMRI(mask, mask_order="centered", check_order=False)
    ours = NonCartesianMRI(grid(side, side)[mask], (side, side), image="real")
    kspace = cartesian.apply(phantom)
    solver = safi_fast.Solver("safi-gray-fast", backend="cpu")
    one, other = (
        solver.reconstruct(y, op, strength=1e-2, max_outer=2, max_iter=150, tol=1e-3).image
        for y, op in ((kspace, cartesian), (kspace[mask], ours))
    )
    assert np.linalg.norm(one - other) < 0.01 * np.linalg.norm(one)


def test_held_out_samples_are_those_of_all_coils():
    operator = NonCartesianMRI(radial(4, 16), (16, 16), complex_normal(rng(), 2, 16, 16))
    fitted, lost = hold_out(operator, 0.25, 0)
    assert lost.shape == operator.shape_out
    assert (lost[0] == lost[1]).all()
    assert lost[0].sum() == 16
    assert not fitted.apply(np.ones((16, 16)))[lost].any()


def test_it_says_what_is_wrong_with_its_arguments(monkeypatch):
    spokes = radial(4, 32)
    with pytest.raises(InputError, match=r"trajectory has shape \(3, 32, 4\).*trajectory\.T\[\.\.\., :2\]"):
        NonCartesianMRI(np.zeros((3, 32, 4)), (32, 32))
    with pytest.raises(InputError, match=r"trajectory\[\.\.\., 1\] reaches 16 cycles.*24 pixels along axis 1 holds 12"):
        NonCartesianMRI(spokes, (32, 24))
    with pytest.raises(InputError, match=r"trajectory reaches 0\.5; expected cycles per field of view, up to 16"):
        NonCartesianMRI(spokes / 32, (32, 32))
    with pytest.raises(InputError, match=r"maps has shape \(2, 16, 16\); expected \(C, 32, 32\)"):
        NonCartesianMRI(spokes, (32, 32), np.ones((2, 16, 16)))
    with pytest.raises(InputError, match=r"method is 'voronoi'; expected 'pipe-menon' or 'ramp'"):
        density_weights(spokes, (32, 32), method="voronoi")
    with pytest.raises(InputError, match="steps is 0; expected a whole number of at least 1"):
        density_weights(spokes, (32, 32), steps=0)
    with pytest.raises(InputError, match="spokes is 0"):
        radial(0, 8)
    monkeypatch.setattr("safi_fast.operators.nufft.find_spec", lambda name: None)
    with pytest.raises(BackendError, match="needs finufft; install it with pip install finufft"):
        NonCartesianMRI(spokes, (32, 32))
