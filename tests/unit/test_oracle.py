"""The oracle is judged by laws, by SciPy and by the published code's own outputs; everything else is judged by it."""

import numpy as np
import oracle
import pytest
from scipy.ndimage import correlate as scipy_correlate

BOUNDARIES = ("zero", "symmetric")
SHAPE = (13, 18)
# One float64 sum of n terms is off by at most n eps of its absolute sum; 1e-11 leaves room for n of a few thousand.
EXACT = 1e-11


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def random_layers(rng, channels=4, k=5):
    """A cascade 1 -> channels -> channels of zero-mean filters with ||W|| near 1."""
    layers = [rng.standard_normal((channels, c_in, k, k)) / (k * channels) for c_in in (1, channels)]
    return [w - w.mean(axis=(2, 3), keepdims=True) for w in layers]


def random_mmr(rng, channels=4, k=3):
    smoothing = [rng.random((channels, 1, k, k)) for _ in range(2)]
    falls = -rng.random((channels, 20)) / 8
    return {
        "smoothing": [w / w.sum(axis=(2, 3), keepdims=True) for w in smoothing],
        "profile": 1 + np.concatenate([np.zeros((channels, 1)), np.cumsum(falls, axis=1)], axis=1),
        "scale": rng.uniform(0.5, 3, channels),
    }


def random_problem(rng, channels=4):
    """(y, lam, mask, layers) of a small convex subproblem whose solution is neither y nor constant."""
    y = np.clip(rng.random(SHAPE), 0.1, 0.9) + 0.2 * rng.standard_normal(SHAPE)
    return y, 0.1, rng.random((channels, *SHAPE)), random_layers(rng, channels)


def assert_adjoint(apply, adjoint, x, u):
    left, right = np.vdot(apply(x), u), np.vdot(x, adjoint(u))
    assert abs(left - right) <= EXACT * np.linalg.norm(apply(x)) * np.linalg.norm(u)


# ------------------------------------------------------------------------------------------------ convolutions and W


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_correlate_agrees_with_scipy(rng, boundary, dilation):
    image, weight = rng.standard_normal((2, *SHAPE)), rng.standard_normal((3, 2, 3, 3))
    dilated = np.zeros((3, 2, 2 * dilation + 1, 2 * dilation + 1))
    dilated[:, :, ::dilation, ::dilation] = weight
    mode = {"zero": "constant", "symmetric": "reflect"}[boundary]
    expected = [sum(scipy_correlate(image[c], dilated[o, c], mode=mode) for c in range(2)) for o in range(3)]
    np.testing.assert_allclose(oracle.correlate(image, weight, boundary, dilation), expected, atol=EXACT)


@pytest.mark.parametrize("shape", [SHAPE, (2, 3)], ids=["larger than the kernel", "smaller than the kernel"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_correlate_adjoint(rng, boundary, dilation, shape):
    weight = rng.standard_normal((3, 2, 5, 5))
    assert_adjoint(
        lambda x: oracle.correlate(x, weight, boundary, dilation),
        lambda u: oracle.correlate_adjoint(u, weight, boundary, dilation),
        rng.standard_normal((2, *shape)),
        rng.standard_normal((3, *shape)),
    )


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_depthwise_adjoint(rng, boundary):
    weight = rng.standard_normal((3, 1, 7, 7))
    assert_adjoint(
        lambda x: oracle.correlate_depthwise(x, weight, boundary),
        lambda u: oracle.correlate_depthwise_adjoint(u, weight, boundary),
        rng.standard_normal((3, *SHAPE)),
        rng.standard_normal((3, *SHAPE)),
    )


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_synthesis_is_the_adjoint_of_analysis(rng, boundary):
    layers = random_layers(rng)
    assert_adjoint(
        lambda x: oracle.analysis(x, layers, boundary),
        lambda u: oracle.synthesis(u, layers, boundary),
        rng.standard_normal(SHAPE),
        rng.standard_normal((4, *SHAPE)),
    )


def test_composed_filters_agree_with_the_cascade_inside(rng):
    layers, x = [*random_layers(rng), rng.standard_normal((2, 4, 3, 3))], rng.standard_normal((24, 27))
    composed = oracle.compose(layers)
    assert composed.shape == (2, 11, 11)
    cascade = oracle.analysis(x, layers, "zero")
    once = oracle.correlate(x[None], composed[:, None], "zero")
    # Only the samples that the later layers' padding reaches may differ: 2 + 1 from every edge.
    np.testing.assert_allclose(once[:, 3:-3, 3:-3], cascade[:, 3:-3, 3:-3], atol=EXACT)
    assert np.abs(once - cascade).max() > 1e-3


def test_lipschitz_is_the_largest_eigenvalue(rng):
    layers = random_layers(rng)
    columns = [oracle.analysis(e.reshape(6, 7), layers, "symmetric").ravel() for e in np.eye(42)]
    expected = np.linalg.norm(np.array(columns), 2) ** 2
    assert oracle.lipschitz(layers, "symmetric", (6, 7), iterations=300) == pytest.approx(expected, rel=1e-3)


def test_even_kernels_are_refused(rng):
    with pytest.raises(ValueError, match="odd square kernels"):
        oracle.correlate(np.zeros((1, *SHAPE)), np.zeros((1, 1, 4, 4)), "zero")


# -------------------------------------------------------------------------------------------------------------- masks


def test_spline_interpolates_and_extrapolates(rng):
    coefficients, knots = rng.standard_normal((2, 21)), np.linspace(-1, 1, 21)
    x = rng.uniform(-1, 1, (2, 500))
    expected = [np.interp(row, knots, values) for row, values in zip(x, coefficients, strict=True)]
    np.testing.assert_allclose(oracle.spline(x, coefficients, -1, 1), expected, atol=EXACT)
    outside = oracle.spline(np.array([[-3.0, 2.5]] * 2), coefficients, -1, 1)
    first, last = coefficients[:, :2].T, coefficients[:, -2:].T
    np.testing.assert_allclose(outside[:, 0], first[0] - 20 * (first[1] - first[0]), atol=EXACT)
    np.testing.assert_allclose(outside[:, 1], last[1] + 15 * (last[1] - last[0]), atol=EXACT)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_masks_lie_in_the_unit_interval(rng, boundary):
    x, layers = rng.random(SHAPE), random_layers(rng)
    convolutions = [(rng.standard_normal((4, c_in, 3, 3)), d) for c_in, d in ((1, 1), (4, 3), (4, 3))]
    splines = [rng.standard_normal((4, 21)) for _ in range(3)]
    safi = oracle.safi_mask(x, convolutions, splines, rng.random(4), rng.standard_normal(4), boundary)
    mmr = oracle.mmr_mask(x, layers, boundary, **random_mmr(rng))
    for mask in (safi, mmr):
        assert mask.shape == (4, *SHAPE)
        assert mask.min() >= 0
    assert safi.max() <= 1
    # Every kernel of G sums to one, so folding it back can exceed one at the edge, nowhere else.
    inside = mmr[:, 2:-2, 2:-2]
    assert inside.max() <= 1 + EXACT


def test_clipped_integral_agrees_with_quadrature(rng):
    profile = np.cumsum(np.concatenate([[1.3], -rng.random(20) / 5]))
    s = np.linspace(0, 1.7, 200_001)
    values = np.clip(oracle.spline(s[None], profile[None], 0, 1)[0], 0, 1)
    expected = np.concatenate([[0], np.cumsum((values[1:] + values[:-1]) / 2)]) * s[1]
    np.testing.assert_allclose(oracle._clipped_integral(s, profile), expected, atol=1e-9)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_mmr_energy_is_majorised_by_its_convex_problem(rng, boundary):
    y, lam, _, layers = random_problem(rng)
    layers, mmr = [4 * w for w in layers], random_mmr(rng)
    x = rng.random(SHAPE)
    mask = oracle.mmr_mask(x, layers, boundary, **mmr)
    energy = oracle.mmr_energy(x, y, lam, layers, boundary, **mmr)
    convex = oracle.objective(x, y, lam, mask, layers, boundary)
    for size in (1e-4, 1e-2, 1.0):
        z = x + size * rng.standard_normal(SHAPE)
        rise = oracle.mmr_energy(z, y, lam, layers, boundary, **mmr) - energy
        bound = oracle.objective(z, y, lam, mask, layers, boundary) - convex
        assert rise <= bound + EXACT * energy
    # Tangent at x: for a small step the two changes agree to second order.
    z = x + 1e-6 * rng.standard_normal(SHAPE)
    rise = oracle.mmr_energy(z, y, lam, layers, boundary, **mmr) - energy
    bound = oracle.objective(z, y, lam, mask, layers, boundary) - convex
    assert rise == pytest.approx(bound, rel=1e-3)


# ----------------------------------------------------------------------------------------------- the convex subproblem


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_duality_gap_bounds_the_distance_to_the_optimum(rng, boundary):
    y, lam, mask, layers = random_problem(rng)
    best, u = oracle.solve_dual(y, lam, mask, layers, boundary, steps=1000)
    optimum = oracle.objective(best, y, lam, mask, layers, boundary)
    assert 0 <= oracle.duality_gap(best, u, y, lam, mask, layers, boundary) <= 1e-10 * optimum
    assert optimum < oracle.objective(np.clip(y, 0, 1), y, lam, mask, layers, boundary)
    for _ in range(5):
        x0, feasible = rng.random(SHAPE), rng.uniform(-lam, lam, mask.shape)
        excess = oracle.objective(x0, y, lam, mask, layers, boundary) - optimum
        assert oracle.duality_gap(x0, feasible, y, lam, mask, layers, boundary) >= excess >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"u": 0.2}, r"\|u\| <= lam"), ({"x0": 1.5}, "x0: expected values"), ({"box": None}, "unbounded without a box")],
)
def test_duality_gap_refuses_what_makes_it_meaningless(rng, change, message):
    y, lam, mask, layers = random_problem(rng)
    x0, u = np.full(SHAPE, change.get("x0", 0.5)), np.full(mask.shape, change.get("u", 0.0))
    with pytest.raises(ValueError, match=message):
        oracle.duality_gap(x0, u, y, lam, mask, layers, "zero", change.get("box", (0, 1)))


def test_both_schedules_reach_the_solution_of_one_subproblem(rng):
    y, lam, _, layers = random_problem(rng)
    best, _ = oracle.solve_dual(y, lam, None, layers, "zero", steps=1000)
    bound = 1.01 * oracle.lipschitz(layers, "zero", SHAPE)
    unrolled = oracle.unrolled(y, lam, bound, None, layers, "zero", outer=1, inner=1000)
    np.testing.assert_allclose(unrolled, best, atol=1e-4)

    def no_mask(x):
        return np.ones((4, *SHAPE))

    for family in ("safi", "mmr"):
        counts = []
        x = oracle.converged(y, lam, bound, no_mask, layers, "zero", family, outer=8, counts=counts)
        np.testing.assert_allclose(x, best, atol=2e-2)
        again = oracle.converged(y, lam, bound, no_mask, layers, "zero", family, outer=8, replay=counts)
        np.testing.assert_array_equal(again, x)


# ------------------------------------------------------------------------------------------------------- golden files


def golden_errors(data_folder, stem, schedules):
    """The absolute errors against the published code, relative to the largest golden value, by name."""
    npz, pth = next(pair for pair in oracle.golden_pairs(data_folder) if pair[0].stem == stem)
    golden = dict(np.load(npz))
    outputs = oracle.golden_outputs(golden, oracle.read_published(pth), schedules)
    return {name: np.abs(value - golden[name]) / np.abs(golden[name]).max() for name, value in outputs.items()}


def test_published_safi_outputs(data_folder):
    pytest.importorskip("torch", reason="the published checkpoints are torch files")
    errors = golden_errors(data_folder, "safi_random_16", ["unrolled"])
    assert errors["filtered"].max() < 1e-5
    assert errors["mask_of_noisy"].max() < 1e-5
    assert errors["unrolled_5x12"].max() < 1e-6


@pytest.mark.parametrize("stem", ["mmr_sigma5", "mmr_sigma15", "mmr_sigma25"])
def test_published_mmr_masks(data_folder, stem):
    pytest.importorskip("torch", reason="the published checkpoints are torch files")
    errors = golden_errors(data_folder, stem, [])
    assert errors["filtered"].max() < 1e-5
    # The published float32 response is off by 1e-6 of its size, which the steep end of phi multiplies at a few pixels.
    assert np.quantile(errors["mask_of_noisy"], 0.999) < 1e-5
    assert errors["mask_of_noisy"].max() < 2e-4
