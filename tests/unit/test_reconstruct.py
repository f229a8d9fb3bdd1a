"""reconstruct() and tune_strength(): known answers, laws of the API, and in which words the rest is refused."""

from dataclasses import fields
from functools import cache
from itertools import pairwise

import numpy as np
import oracle
import pytest
import scipy.sparse
from models import oracle_form, random_model
from reconstructions import problem
from scipy.sparse.linalg import LinearOperator

import safi_fast
from safi_fast import BackendError, Fast, Gap, InputError, OperatorError, Reconstruct, Solver
from safi_fast.bindings.cpu import BATCH_BYTES, CpuEngine
from safi_fast.model import FilterBank
from safi_fast.operators import (
    Blur,
    Downsample,
    FourierMRI,
    Identity,
    Mask,
    Pace,
    Weighted,
    from_functions,
    from_scipy,
    from_sigpy,
)
from safi_fast.operators.holdout import Selected, hold_out
from safi_fast.solver.data_term import Measurements
from safi_fast.solver.halpern import Halpern, HostSteps
from safi_fast.solver.primal_dual import PrimalDual

SHAPE = (24, 21)
STRENGTH = 0.005
LEVELS = (10 / 255, 25 / 255, 40 / 255)
QUICK = {"strength": STRENGTH, "max_outer": 2, "max_iter": 20}  # a mask, restarts, and little work
RNG = np.random.default_rng(4)
LINES = np.ones((SHAPE[0], 1)) * (RNG.random((1, SHAPE[1])) < 0.5)
LINES[:, [0, 1, 2, -1, -2]] = 1
KNOWN = RNG.random(SHAPE) < 0.6
TAPS = np.outer([1, 2, 1], [1, 2, 3, 2, 1]) / 36.0
OPERATORS = {
    "identity": Identity(SHAPE),
    "blur": Blur(TAPS, SHAPE),
    "circular blur": Blur(TAPS, SHAPE, "circular"),
    "inpainting": Mask(KNOWN),
    "mri": FourierMRI(LINES, mask_order="fft"),
    "complex mri": FourierMRI(LINES, mask_order="fft", image="complex"),
}
each_operator = pytest.mark.parametrize("name", OPERATORS)


@cache
def solver(family="safi", **options):
    return Solver(random_model(family, **options))


@cache
def differences():
    """A regulariser that fits pictures of discs: total variation, weighted by masks."""
    taps = np.zeros((2, 1, 3, 3))
    taps[:, 0, 1, 1], taps[0, 0, 1, 2], taps[1, 0, 2, 1] = -1, 1, 1
    return Solver(random_model("mmr", 2, boundary="symmetric", filters=FilterBank((taps,), "symmetric")))


def picture(seed=0, shape=SHAPE):
    """Discs on a ramp within [0, 1], float32."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / max(shape)
    image = 0.5 * rows + 0.1
    for y, x, radius, grey in rng.uniform((0, 0, 0.1, 0.0), (1, 1, 0.4, 1.0), (4, 4)):
        image = np.where((rows - y) ** 2 + (columns - x) ** 2 < radius**2, grey, image)
    return image.astype(np.float32)


def truth_of(operator, seed=0):
    return picture(seed) * np.exp(2j * picture(seed + 50)) if operator.image == "complex" else picture(seed)


def measured(operator, seed=0, noise=0.03):
    """Noisy measurements of a picture, as the operator's `check_measurement` leaves them."""
    y = operator.apply(truth_of(operator, seed).astype(np.complex64 if operator.image == "complex" else np.float32))
    real, imaginary = np.random.default_rng(seed + 100).standard_normal((2, *y.shape))
    return operator.check_measurement(y + noise * (real + 1j * imaginary if operator.complex else real))


def box_of(operator):
    return None if operator.image == "complex" else (0.0, 1.0)


def run(operator, y=None, **options):
    if "box" not in options:
        options["box"] = None if operator is OPERATORS["complex mri"] else box_of(operator)
    options = QUICK | options
    return solver().reconstruct(measured(operator) if y is None else y, operator, **options)


def assert_same(one, other):
    """Two solutions, equal bit for bit in everything."""
    for entry in fields(one):
        first, second = getattr(one, entry.name), getattr(other, entry.name)
        if entry.name == "history":
            assert len(first) == len(second)
            for a, b in zip(first, second, strict=True):
                for key in vars(a):
                    np.testing.assert_array_equal(getattr(a, key), getattr(b, key), err_msg=key)
        else:
            np.testing.assert_array_equal(first, second, err_msg=entry.name)


def assert_is(solution, batch, number):
    """What a batch says of one image is what the image alone says, bit for bit."""
    for entry in fields(solution):
        if entry.name != "history" and getattr(batch, entry.name) is not None:
            np.testing.assert_array_equal(
                getattr(solution, entry.name), getattr(batch, entry.name)[number], err_msg=entry.name
            )
    for record, records in zip(solution.history, batch.history, strict=False):
        for key, value in vars(record).items():
            assert value == getattr(records, key)[number]


def error(image, truth):
    return float(np.mean(np.abs(image - truth) ** 2))


# ------------------------------------------------------------------------------------------------------ known answers


@pytest.mark.parametrize("family", ["safi", "mmr"])
@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
def test_identity_is_denoising(family, boundary):
    """H = 1: the first convex problem is that of denoise(schedule="gap"), and so are the masks and what follows from
    them.
    """
    many, y = solver(family, boundary=boundary), measured(OPERATORS["identity"], noise=0.1)
    exact = Gap(first_gap=0.0)  # the first problems as well
    for limits, close in (({"max_outer": 1}, 1e-3), ({"max_outer": 4}, 2e-3)):
        ours = many.reconstruct(y, Identity(SHAPE), strength=0.02, tol=1e-5, max_iter=2000, **limits)
        theirs = many.denoise(
            y, 25 / 255, strength=0.02, schedule=exact, tol=1e-6, max_inner=2000, return_solution=True, **limits
        )
        # f is 1-strongly convex: ||x - x'||^2 / 2 <= gap of either, for the first problem
        assert np.linalg.norm(ours.image - theirs.image) <= close * np.linalg.norm(theirs.image)
        if limits["max_outer"] == 1:
            far = np.sqrt(2 * ours.gap) + np.sqrt(2 * theirs.gap) + 1e-5
            assert np.linalg.norm(ours.image - theirs.image) <= far
            assert ours.history[0].objective == pytest.approx(theirs.history[0].objective, rel=1e-4)


@each_operator
def test_better_than_the_adjoint(name):
    """And what the data term alone gives, of noisy measurements, with a strength that was not tuned for the case."""
    operator = OPERATORS[name]
    y, truth = measured(operator), truth_of(operator)
    solution = differences().reconstruct(y, operator, strength=0.01, box=box_of(operator), max_outer=3, max_iter=100)
    assert error(solution.image, truth) < 0.8 * error(operator.adjoint(y), truth)
    assert solution.relative_gap < 0.05


@each_operator
def test_converged_means_what_it_says(name):
    operator = OPERATORS[name]
    solution = solver("mmr").reconstruct(
        measured(operator), operator, strength=0.02, box=box_of(operator), max_outer=25, max_iter=1500, tol=3e-3
    )
    assert (solution.status, solution.converged) == ("converged", True)
    assert solution.relative_gap <= 3e-3
    assert solution.outer_residual <= 9e-3
    few = run(operator, strength=0.02, max_outer=2, max_iter=3, tol=1e-6)
    assert (few.status, few.converged) == ("max_iterations", False)
    assert (few.outer_iterations, few.inner_iterations) == (2, 6)


@each_operator
def test_measurement_of_zero(name):
    """f = 0 at once: nothing is divided by it, with a box and without."""
    operator = OPERATORS[name]
    zero = np.zeros(operator.shape_out, np.complex64 if operator.complex else np.float32)
    for box in {box_of(operator), None}:
        solution = run(operator, zero, box=box, max_outer=5)
        assert not solution.image.any()
        assert (solution.gap, solution.relative_gap, solution.outer_residual) == (0, 0, 0)
        assert solution.converged


@pytest.mark.parametrize("box", [(0.0, 1.0), None], ids=["box", "no box"])
@pytest.mark.parametrize("name", ["identity", "blur", "circular blur"])
def test_flat_image_converges(name, box):
    """Zero-mean filters and symmetric extension leave a constant alone; f is float32 rounding, no relative gap can be
    reached.
    """
    solution = solver(boundary="symmetric").reconstruct(
        np.full(SHAPE, 0.4), OPERATORS[name], strength=STRENGTH, box=box, max_iter=400
    )
    np.testing.assert_allclose(solution.image, 0.4, atol=1e-4)
    assert solution.converged


def test_what_a_solution_says_of_its_image():
    """Objective, masks and residuals, computed again in float64 from the images that the callback saw."""
    operator, seen = OPERATORS["circular blur"], []
    y, model = measured(operator), solver().model
    options = {"max_outer": 3, "max_iter": 60, "return_masks": True}
    solution = run(operator, y, callback=lambda state: seen.append(state.image()[0]), **options)
    np.testing.assert_array_equal(seen[-1], solution.image)
    masks = [np.ones_like(solution.masks)] + [oracle.mask_of(x, oracle_form(model), "zero") for x in seen[:-1]]
    np.testing.assert_allclose(solution.masks, masks[-1], atol=1e-5)
    strengths = [Reconstruct().unmasked * STRENGTH, STRENGTH, STRENGTH]
    for record, x, mask, strength in zip(solution.history, seen, masks, strengths, strict=True):
        response = mask * oracle.analysis(x.astype(float), model.filters.layers, "zero")
        objective = 0.5 * np.sum((operator.apply(x) - y.astype(float)) ** 2) + strength * np.abs(response).sum()
        assert record.objective == pytest.approx(objective, rel=1e-5)
    for record, (before, after) in zip(solution.history[1:], pairwise(seen), strict=True):
        change = np.linalg.norm(after.astype(float) - before) / np.linalg.norm(before.astype(float))
        assert record.outer_residual == pytest.approx(change, rel=1e-4)
    last = solution.history[-1]
    assert (last.relative_gap, last.outer_residual) == (solution.relative_gap, solution.outer_residual)
    assert last.relative_gap * last.objective == pytest.approx(solution.gap, rel=1e-12)


def test_box_holds():
    operator = OPERATORS["inpainting"]
    y = 2 * measured(operator, noise=0.2) - 0.5 * KNOWN
    for box in ((0.0, 1.0), (0.2, 0.7)):
        image = run(operator, y, box=box).image
        assert image.min() == np.float32(box[0])
        assert image.max() == np.float32(box[1])
    free = run(operator, y, box=None).image
    assert free.min() < 0
    assert free.max() > 1


# ------------------------------------------------------------------------------------------------ start, range, noise


@pytest.mark.parametrize("name", ["circular blur", "blur", "complex mri"])
def test_start_is_respected_and_does_not_matter_in_the_end(name):
    """One inner step from elsewhere is elsewhere; the first convex problem, solved, has one value of f."""
    operator = OPERATORS[name]
    default = run(operator, max_outer=1, max_iter=1)
    x0 = np.full(SHAPE, 0.9)
    assert np.abs(run(operator, max_outer=1, max_iter=1, x0=x0).image - default.image).max() > 0.02
    ends = [run(operator, max_outer=1, max_iter=600, tol=1e-5, x0=start) for start in (None, x0, np.zeros(SHAPE))]
    values = [end.history[0].objective for end in ends]
    tolerance = 5e-3 if operator.image == "complex" else 1e-3
    assert max(values) <= min(values) * (1 + tolerance) + max(end.gap for end in ends)


def test_start_from_zero_has_no_relative_change():
    """Nor a warning: the change from nothing is infinite."""
    solution = run(OPERATORS["blur"], x0=np.zeros(SHAPE), max_outer=1)
    assert solution.outer_residual == np.inf


def test_a_start_for_all_or_one_each():
    operator = OPERATORS["circular blur"]
    stack = np.stack([measured(operator, seed) for seed in range(2)])
    x0 = picture(9)
    everyone = run(operator, stack, x0=x0)
    each = run(operator, stack, x0=np.stack([x0, x0]))
    assert_same(everyone, each)
    other = run(operator, stack, x0=np.stack([x0, 1 - x0]))
    np.testing.assert_array_equal(other.image[0], everyone.image[0])
    assert (other.image[1] != everyone.image[1]).any()


@pytest.mark.parametrize("name", ["identity", "blur", "mri", "complex mri"])
def test_data_range_scales_measurement_and_image(name):
    """4096 is exact in float32; x0 and noise_level are in the units of the image, strength and box are not."""
    operator, many = OPERATORS[name], Solver(random_model(levels=LEVELS))
    y, x0 = measured(operator), np.full(SHAPE, 0.3)
    options = {"box": None if operator.image == "complex" else (0.1, 0.8), **QUICK}
    one = many.reconstruct(y, operator, x0=x0, noise_level=0.1, **options)
    scaled = many.reconstruct(4096 * y, operator, x0=4096 * x0, noise_level=409.6, data_range=4096, **options)
    np.testing.assert_allclose(scaled.image, 4096 * one.image, rtol=1e-5, atol=4096 * 1e-6)
    assert scaled.relative_gap == pytest.approx(one.relative_gap, rel=1e-4)
    assert scaled.gap == pytest.approx(one.gap, rel=1e-4)


def test_noise_level_conditions_the_masks():
    """By default the middle level of the model; it has no say before the first mask."""
    operator, many = OPERATORS["circular blur"], Solver(random_model(levels=LEVELS))
    y = measured(operator)
    of = {
        level: many.reconstruct(y, operator, noise_level=level, return_masks=True, **QUICK) for level in (None, *LEVELS)
    }
    np.testing.assert_array_equal(of[None].masks, of[LEVELS[1]].masks)
    assert np.abs(of[LEVELS[0]].masks - of[LEVELS[2]].masks).max() > 0.01
    first = [many.reconstruct(y, operator, noise_level=level, **QUICK | {"max_outer": 1}).image for level in LEVELS]
    np.testing.assert_array_equal(first[0], first[2])


# ------------------------------------------------------------------------------------------------------------ batches


STRENGTHS = np.array([0.002, 0.02, 0.006])


@each_operator
def test_batch_equals_its_images_alone(name):
    """Bit for bit, in any order, with strengths of their own; images stop at different steps."""
    operator, order = OPERATORS[name], [2, 0, 1]
    stack = np.stack([measured(operator, seed, noise) for seed, noise in ((0, 0.01), (1, 0.1), (2, 0.03))])
    schedule = Reconstruct(outer=5, inner=100, tol=1e-2, check_every=5)
    options = {"schedule": schedule, "return_masks": True} | {"max_outer": None, "max_iter": None}
    batch = run(operator, stack, strength=STRENGTHS, **options)
    shuffled = run(operator, stack[order], strength=STRENGTHS[order], **options)
    for place, number in enumerate(order):
        single = run(operator, stack[number], strength=STRENGTHS[number], **options)
        assert_is(single, batch, number)
        assert_is(single, shuffled, place)
    assert len(set(batch.inner_iterations)) > 1, "images that stop together do not test freezing"


@pytest.mark.parametrize("kind", ["mri", "blur"])
def test_one_operator_for_all_or_one_each(kind):
    """reconstruct_batch, from a list or an array, with operators that differ, gives what each gets alone."""
    if kind == "mri":
        masks = [np.roll(LINES, 7 * shift, axis=1) + LINES > 0 for shift in range(3)]
        operators = [FourierMRI(mask, mask_order="fft", check_order=False) for mask in masks]
    else:
        operators = [Blur(TAPS[:, : 1 + 2 * n], SHAPE) for n in range(3)]
    each = [measured(operator, seed) for seed, operator in enumerate(operators)]
    batch = solver().reconstruct_batch(each, operators, **QUICK | {"strength": STRENGTHS})
    assert_same(batch, solver().reconstruct_batch(np.stack(each), tuple(operators), **QUICK | {"strength": STRENGTHS}))
    for number, (y, operator) in enumerate(zip(each, operators, strict=True)):
        assert_is(run(operator, y, strength=STRENGTHS[number]), batch, number)
    own = np.stack([operators[0].check_measurement(y) for y in each])  # zero where this mask is
    # a box that is passed: these measurements are of brighter kernels
    shared = solver().reconstruct_batch((y for y in own), operators[0], box=(0.0, 1.0), **QUICK)
    assert_same(shared, run(operators[0], own))
    assert_same(shared, run([operators[0]] * 3, own, box=(0.0, 1.0)))


def test_a_list_of_one_operator_and_a_batch_of_one():
    operator = OPERATORS["blur"]
    y = measured(operator)
    assert_same(run(operator, y), run([operator], y, box=(0.0, 1.0)))
    assert run(operator, y[None]).image.shape == (1, *SHAPE)
    assert run(operator, y[None]).status.tolist() == ["max_iterations"]


@pytest.mark.parametrize("name", ["blur", "complex mri"])
def test_inputs_are_not_modified(name):
    operator = OPERATORS[name]
    y, x0, strength = measured(operator)[None].copy(), truth_of(operator, 5)[None], np.array([STRENGTH])
    arrays = [y, x0, strength]
    kept = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    solution = run(operator, y, x0=x0, strength=strength)
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before)
    assert not np.shares_memory(solution.image, x0)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.astype(np.float64),
        np.asfortranarray,
        lambda y: np.repeat(np.repeat(y, 2, 0), 3, 1)[::2, ::3],
        lambda y: y[::-1, ::-1].copy()[::-1, ::-1],
        np.ndarray.tolist,
    ],
    ids=["float64", "Fortran", "strided", "negative strides", "list"],
)
def test_memory_layout_and_dtype_do_not_matter(change):
    operator = OPERATORS["circular blur"]
    y = measured(operator)
    expected = run(operator, y, x0=y)
    solution = run(operator, change(y), x0=change(y))
    np.testing.assert_array_equal(solution.image, expected.image)
    assert solution.image.dtype == np.float32


def test_same_bits_every_time():
    operator = OPERATORS["mri"]
    assert_same(run(operator), run(operator))
    fresh = Solver(solver().model).reconstruct(measured(operator), operator, **QUICK)
    assert_same(run(operator), fresh)
    plain = safi_fast.reconstruct(measured(operator), operator, model=solver().model, **QUICK)
    assert_same(fresh, plain)


# ------------------------------------------------------------------------------------------------- what is reported


def test_types_and_shapes():
    operator = OPERATORS["circular blur"]
    single = run(operator, return_masks=True)
    assert isinstance(single.status, str)
    assert type(single.converged) is bool
    for name in ("outer_iterations", "inner_iterations"):
        assert type(getattr(single, name)) is int
    for name in ("gap", "relative_gap", "outer_residual"):
        assert type(getattr(single, name)) is float
    assert type(single.history[0].inner_iterations) is int
    assert type(single.history[0].objective) is float
    assert (single.image.shape, single.image.dtype) == (SHAPE, np.float32)
    assert (single.masks.shape, single.masks.dtype) == ((4, *SHAPE), np.float32)
    assert run(operator).masks is None

    batch = run(operator, np.stack([measured(operator, seed) for seed in range(3)]), return_masks=True)
    assert batch.image.shape == (3, *SHAPE)
    assert batch.masks.shape == (3, 4, *SHAPE)
    assert batch.sigma is None
    assert batch.converged.dtype == bool
    for entry in fields(batch):
        if entry.name not in ("history", "image", "masks", "sigma"):
            assert getattr(batch, entry.name).shape == (3,)
    for record in batch.history:
        assert all(value.shape == (3,) for value in vars(record).values())
    np.testing.assert_array_equal(sum(record.inner_iterations for record in batch.history), batch.inner_iterations)


@each_operator
def test_fast_makes_its_steps(name):
    """Fixed counts, in a batch as alone, to the last bit, and a gap that falls."""
    operator = OPERATORS[name]
    stack = np.stack([measured(operator, seed, noise) for seed, noise in ((0, 0.01), (1, 0.1))])
    schedule = Fast(outer=4, inner=25)
    options = {"schedule": schedule, "return_masks": True} | {"max_outer": None, "max_iter": None}
    batch = run(operator, stack, strength=STRENGTHS[:2], **options)
    assert batch.status.tolist() == ["completed", "completed"]
    assert batch.inner_iterations.tolist() == [100, 100]
    assert batch.outer_iterations.tolist() == [4, 4]
    for number in range(2):
        assert_is(run(operator, stack[number], strength=STRENGTHS[number], **options), batch, number)
    first = run(operator, stack, strength=STRENGTHS[:2], **options | {"schedule": Fast(outer=4, inner=3)})
    assert (batch.relative_gap < 0.8 * first.relative_gap).all()


@pytest.mark.parametrize(
    ("kind", "pace"),
    [("mask", (6, 25)), ("blur", (4, 50)), ("downsample", (5, 30)), ("weighted", (6, 25)), ("selected", (6, 25))],
)
def test_fast_goes_at_the_pace_of_the_operator(kind, pace):
    """By name; limits of the caller come first, and a schedule by value is taken at its word."""
    known = Mask(np.random.default_rng(0).random(SHAPE) < 0.5)
    operator = {
        "mask": known, "blur": Blur(np.ones((3, 3)) / 9, SHAPE), "downsample": Downsample(3, SHAPE),
        "weighted": Weighted(known, np.full(SHAPE, 0.5)), "selected": Selected(known, np.ones(SHAPE, bool)),
    }[kind]  # fmt: skip
    options = {"strength": 0.1, "max_outer": None, "max_iter": None}

    def counts(**more):
        found = run(operator, measured(operator), **{**options, **more})
        return found.outer_iterations, found.inner_iterations // found.outer_iterations

    assert counts(schedule="fast") == pace
    assert counts(schedule="fast", max_outer=2, max_iter=3) == (2, 3)
    assert counts(schedule=Fast(), max_iter=2) == (4, 2)


def test_steps_of_the_filters_fall_from_mask_to_mask(monkeypatch):
    chosen, whole = [], PrimalDual.choose_steps
    monkeypatch.setattr(
        PrimalDual, "choose_steps", lambda state, factor=1.0: (chosen.append(factor), whole(state, factor))[1]
    )
    operator = OPERATORS["identity"]
    options = {"strength": 0.1, "max_outer": None, "max_iter": None}
    run(operator, measured(operator), schedule=Fast(outer=3, inner=2, fall=0.5), **options)
    assert chosen == [1, 1, 0.5, 0.25]  # the first: as it is made


@pytest.mark.parametrize("name", ["blur", "complex mri"])
def test_relaxed_steps_are_those_of_their_formula(name, monkeypatch):
    """s + rho (T(s) - s) for all variables; z is W^T u, and u_hat within its bound."""
    operator, rho, seen = OPERATORS[name], 1.8, []
    step = HostSteps._step

    def watched(steps, a, number):
        state = steps.state
        before = [values.copy() for values in (state.x, state.extra, state.z)]
        u = state.workspace.dual[state.workspace.slot[0], 0].copy()
        step(steps, a, number)
        hats = state.x_hat, state.extra_hat, state.z_hat
        for old, hat, new in zip(before, hats, (state.x, state.extra, state.z), strict=True):
            np.testing.assert_allclose(new, old + rho * (hat - old), rtol=0, atol=1e-5)
        images = state.parts.images(a)
        z = state.parts.join(state.workspace.adjoint_of_dual(images), a)
        np.testing.assert_allclose(state.z, z, rtol=0, atol=1e-5)
        seen.append(u + (state.workspace.dual[state.workspace.slot[0], 0] - u) / rho)

    monkeypatch.setattr(HostSteps, "_step", watched)
    options = {"strength": 0.02, "max_outer": None, "max_iter": None}
    run(operator, measured(operator), schedule=Fast(outer=1, inner=4, steps=Halpern(relaxation=rho)), **options)
    assert max(abs(u).max() for u in seen) == pytest.approx(0.02, rel=1e-4)


def test_relaxed_steps_end_at_the_solution():
    """Of the convex problem of one mask, where the anchored ones end."""
    operator, y = OPERATORS["blur"], measured(OPERATORS["blur"])
    options = {"strength": 0.02, "max_outer": None, "max_iter": None}
    relaxed = run(operator, y, schedule=Fast(outer=1, inner=2000), **options)
    anchored = run(operator, y, schedule=Fast(outer=1, inner=2000, steps=Halpern()), **options)
    assert relaxed.relative_gap < 1e-3
    np.testing.assert_allclose(relaxed.image, anchored.image, rtol=0, atol=2e-3)


def test_fast_begins_with_a_share_of_the_strength():
    """Its only problem, where there is one alone, has all of it; that of the last mask too."""
    operator, y = OPERATORS["identity"], measured(OPERATORS["identity"])

    def unmasked(strength, schedule):
        images = []
        options = {"strength": strength, "schedule": schedule, "callback": lambda state: images.append(state.image())}
        options |= {"max_outer": None, "max_iter": None}
        last = run(operator, y, **options)
        return images[0], last

    whole, _ = unmasked(0.1, Fast(outer=1, inner=200))
    share, last = unmasked(0.4, Fast(outer=2, inner=200, unmasked=0.25))
    other, _ = unmasked(0.4, Fast(outer=1, inner=200))
    assert abs(share - whole).max() < 5e-3 < 0.2 * abs(share - other).max()
    assert last.relative_gap < 1e-2  # of the problem with all of lambda


def test_schedules_of_reconstruct_are_checked():
    with pytest.raises(InputError, match="tol has no meaning for schedule='fast'"):
        run(OPERATORS["identity"], measured(OPERATORS["identity"]), schedule="fast", tol=1e-3)
    with pytest.raises(InputError, match="expected one of 'gap', 'fast', a value of Reconstruct or Fast, or None"):
        run(OPERATORS["identity"], measured(OPERATORS["identity"]), schedule="slow")
    with pytest.raises(InputError, match="unmasked is 0; expected a positive number"):
        Fast(unmasked=0)
    with pytest.raises(InputError, match="fall is -1; expected a positive number"):
        Fast(fall=-1)
    for factor in (1, 2.5, "1.8"):
        with pytest.raises(InputError, match=f"relaxation is '?{factor}'?; expected a number above 1 and below 2"):
            Halpern(relaxation=factor)


def test_finished_images_keep_their_values():
    operator = OPERATORS["identity"]
    stack = np.stack([measured(operator, seed, noise) for seed, noise in ((0, 0.01), (1, 0.2), (2, 0.05))])
    batch = run(
        operator,
        stack,
        strength=[0.001, 0.05, 0.2],
        schedule=Reconstruct(first_gap=0.0),
        max_outer=8,
        max_iter=200,
        tol=1e-3,
    )
    assert len(set(batch.outer_iterations)) > 1, "images that stop together test nothing"
    for number, steps in enumerate(batch.outer_iterations):
        last = batch.history[steps - 1]
        for record in batch.history[steps:]:
            assert record.inner_iterations[number] == 0
            for key in ("relative_gap", "objective", "outer_residual"):
                assert getattr(record, key)[number] == getattr(last, key)[number]


def test_gap_is_never_negative_and_falls():
    for name in ("identity", "circular blur", "blur", "inpainting", "mri"):
        solution = run(OPERATORS[name], max_outer=4, max_iter=300, tol=1e-4)
        gaps = [record.relative_gap for record in solution.history]
        assert min(gaps) >= -1e-6
        assert gaps[-1] < gaps[0]


# ---------------------------------------------------------------------------------------------------------- callbacks


def test_callback_sees_every_outer_step():
    operator, states, images = OPERATORS["blur"], [], []
    stack = 50 * np.stack([measured(operator, seed) for seed in range(2)])

    def callback(state):
        states.append(state)
        images.append(state.image())
        state.image()[...] = np.nan  # a copy: the solve goes on unharmed
        state.active[...] = 0

    solution = run(operator, stack, max_outer=3, data_range=50, callback=callback)
    assert [state.outer for state in states] == [0, 1, 2]
    for state, record, image in zip(states, solution.history, images, strict=True):
        assert image.shape == (2, *SHAPE)
        for key, values in vars(state.record).items():
            np.testing.assert_array_equal(values, getattr(record, key))
    np.testing.assert_array_equal(50 * images[-1], solution.image)  # what a callback sees is on [0, 1]
    assert_same(solution, run(operator, stack, max_outer=3, data_range=50))


def test_callback_may_stop():
    operator, seen = OPERATORS["circular blur"], []

    def stop_at_the_second(state):
        seen.append(state.image()[0])
        if state.outer == 1:
            raise StopIteration

    solution = run(operator, max_outer=5, callback=stop_at_the_second)
    assert (solution.status, solution.converged, solution.outer_iterations) == ("stopped", False, 2)
    np.testing.assert_array_equal(solution.image, seen[-1])
    np.testing.assert_array_equal(solution.image, run(operator, max_outer=2).image)

    def fail(state):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(operator, callback=fail)


def test_stop_leaves_converged_images_converged():
    """Also those that converge at the very step at which the callback stops."""
    operator = OPERATORS["identity"]
    stack = np.stack([measured(operator, seed, noise) for seed, noise in ((0, 0.01), (1, 0.2), (2, 0.05))])
    options = {
        "schedule": Reconstruct(first_gap=0.0),
        "strength": [0.001, 0.05, 0.2],
        "max_outer": 8,
        "max_iter": 200,
        "tol": 1e-3,
    }
    free = run(operator, stack, **options)
    first = min(free.outer_iterations)
    assert first < max(free.outer_iterations)

    def stop(state):
        if state.outer == first - 1:
            raise StopIteration

    stopped = run(operator, stack, callback=stop, **options)
    done = free.outer_iterations == first
    assert (stopped.status[done] == "converged").all()
    assert (stopped.status[~done] == "stopped").all()


# ------------------------------------------------------------------------------------------------------- complex images


def test_masks_of_complex_images():
    """One mask of |x| for both parts, or one of each: then a real image gets what it would get as a real one."""
    operator = OPERATORS["complex mri"]
    model, seen = solver().model, []
    solution = run(operator, return_masks=True, callback=lambda state: seen.append(state.image()[0]))
    assert solution.image.dtype == np.complex64
    assert solution.masks.shape == (4, *SHAPE)
    np.testing.assert_allclose(solution.masks, oracle.mask_of(np.abs(seen[0]), oracle_form(model), "zero"), atol=1e-5)
    seen.clear()
    parts = run(operator, return_masks=True, mask_of="parts", callback=lambda state: seen.append(state.image()[0]))
    np.testing.assert_allclose(parts.masks, oracle.mask_of(seen[0].real, oracle_form(model), "zero"), atol=1e-5)
    assert (parts.image != solution.image).any()


@pytest.mark.parametrize("mask_of", ["magnitude", "parts"])
def test_a_real_image_as_a_complex_one(mask_of):
    """H = 1: parts with parts as masks do not see each other; i y gives i x for masks of the magnitude."""
    y = measured(OPERATORS["identity"])
    whole, options = Identity(SHAPE, image="complex"), {"box": None, "mask_of": mask_of, "max_outer": 3}
    as_complex = run(whole, y, **options)
    turned = run(whole, 1j * y, **options)
    if mask_of == "magnitude":
        np.testing.assert_allclose(turned.image, 1j * as_complex.image, atol=1e-6)
    else:
        real = run(Identity(SHAPE), y, box=None, max_outer=3)
        np.testing.assert_allclose(as_complex.image.real, real.image, atol=1e-5)
    np.testing.assert_allclose(as_complex.image.imag, 0, atol=1e-6)


# ----------------------------------------------------------------------------------------------------- users' operators


def users_operators():
    pixels = SHAPE[0] * SHAPE[1]
    blur = OPERATORS["blur"]
    linear = LinearOperator(
        (pixels, pixels), dtype=np.float32,
        matvec=lambda x: blur.apply(x.reshape(SHAPE)).ravel(), rmatvec=lambda y: blur.adjoint(y.reshape(SHAPE)).ravel(),
    )  # fmt: skip
    yield "scipy LinearOperator", from_scipy(linear, SHAPE, SHAPE)
    rows = np.flatnonzero(RNG.random(pixels) < 0.7)
    yield "scipy sparse matrix", from_scipy(scipy.sparse.identity(pixels, format="csr")[rows], SHAPE)
    sigpy = pytest.importorskip("sigpy", reason="sigpy's operators are tested with sigpy (extra 'dev')")
    mask = np.fft.fftshift(LINES)
    yield "sigpy Linop", from_sigpy(sigpy.linop.Multiply(SHAPE, mask) * sigpy.linop.FFT(SHAPE))
    yield (
        "plain functions",
        from_functions(lambda x: x[::2] + x[1::2], lambda y: np.repeat(y, 2, axis=0), SHAPE, (SHAPE[0] // 2, SHAPE[1])),
    )


def test_operators_of_other_libraries():
    """Each reconstructs better than its adjoint, scaled as well as can be."""
    for name, operator in users_operators():
        y, truth = measured(operator, noise=0.01), truth_of(operator)
        solution = differences().reconstruct(
            y, operator, strength=0.003, box=box_of(operator), max_outer=3, max_iter=100
        )
        back = operator.adjoint(y)
        back = back * (np.vdot(back, truth) / np.vdot(back, back))
        assert error(solution.image, truth) < 0.95 * error(back, truth), name
        assert solution.relative_gap < 0.1, name


# -------------------------------------------------------------------------------------------------------- tune_strength

CANDIDATES = [0.0005, 0.005, 0.05, 0.5]


def test_tune_strength_by_a_reference():
    operator = OPERATORS["circular blur"]
    y, truth = measured(operator), picture()
    options = {"max_outer": 2, "max_iter": 60}
    found = safi_fast.tune_strength(y, operator, CANDIDATES, reference=truth, model=solver().model, **options)
    scores = [error(run(operator, y, strength=strength, **options).image, truth) for strength in CANDIDATES]
    assert found.by == "reference"
    assert found.scores.shape == found.candidates.shape == (4,)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    np.testing.assert_array_equal(found.candidates, CANDIDATES)
    assert found.strength == CANDIDATES[np.argmin(scores)] != max(CANDIDATES)
    assert type(found.strength) is float


@pytest.mark.parametrize("name", ["circular blur", "mri", "complex mri", "inpainting"])
def test_tune_strength_by_discrepancy(name):
    """The strength whose residual has the size of the noise, on the caller's scale and counting what was measured."""
    operator = OPERATORS[name]
    y = 10 * measured(operator, noise=0.05)
    options = {"box": box_of(operator), "max_outer": 2, "max_iter": 60, "data_range": 10}
    found = solver().tune_strength(y, operator, CANDIDATES, noise_std=0.5, **options)
    count = {"circular blur": y.size, "mri": 2 * LINES.sum(), "complex mri": 2 * LINES.sum(), "inpainting": KNOWN.sum()}
    for strength, score in zip(CANDIDATES, found.scores, strict=True):
        image = run(operator, y, strength=strength, **options).image
        size = np.linalg.norm((operator.apply(image) - y).astype(np.complex128)) ** 2 / count[name]
        assert score == pytest.approx(abs(size / 0.25 - 1), rel=1e-3, abs=1e-4)
    assert found.by == "discrepancy"
    assert found.strength == CANDIDATES[np.argmin(found.scores)]


def holdout_cases():
    """Large enough for the score, a mean over few edges, to tell candidates apart."""
    shape = (40, 36)
    rng = np.random.default_rng(11)
    lines = np.ones((shape[0], 1)) * (rng.random((1, shape[1])) < 0.5)
    lines[:, [0, 1, 2, -1, -2]] = 1
    return {
        "mri": FourierMRI(lines, mask_order="fft"),
        "complex mri": FourierMRI(lines, mask_order="fft", image="complex"),
        "inpainting": Mask(rng.random((72, 68)) < 0.6),
    }


@pytest.mark.parametrize("name", holdout_cases())
@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_tune_strength_by_holdout(name, noise):
    """Within a factor of 4 of the best by the true image; the same for the same seed."""
    operator, strengths = holdout_cases()[name], noise * 4.0 ** np.arange(-5, 2)
    truth = picture(0, operator.shape_in)
    y = operator.apply(truth)
    real, imaginary = np.random.default_rng(1).standard_normal((2, *y.shape))
    y = operator.check_measurement(y + noise * (real + 1j * imaginary if operator.complex else real))
    options = {"box": box_of(operator), "max_outer": 3, "max_iter": 100}
    found = differences().tune_strength(y, operator, strengths, holdout=0.1, **options)
    best = differences().tune_strength(y, operator, strengths, reference=truth, **options)
    assert found.by == "holdout"
    assert 1 / 4.01 < found.strength / best.strength < 4.01, (found, best)
    assert min(best.scores[0], best.scores[-1]) > 1.1 * best.scores.min(), "any strength would do"
    if name == "inpainting":
        again = differences().tune_strength(y, operator, strengths, holdout=0.1, **options)
        np.testing.assert_array_equal(found.scores, again.scores)
        other = differences().tune_strength(y, operator, strengths, holdout=0.1, seed=1, **options)
        assert (found.scores != other.scores).all()


def test_holdout_scores_what_was_left_out():
    operator = OPERATORS["blur"]
    y = measured(operator)
    options = {"max_outer": 2, "max_iter": 40}
    found = solver().tune_strength(y, operator, CANDIDATES[:2], holdout=0.25, **options)
    fitted, lost = hold_out(operator, 0.25, 0)
    for strength, score in zip(CANDIDATES, found.scores, strict=False):
        image = run(fitted, np.where(lost, 1e6, y), strength=strength, **options).image
        assert score == pytest.approx(np.mean((operator.apply(image) - y)[lost] ** 2), rel=1e-3)


def test_tomography_starts_from_conjugate_gradients(monkeypatch):
    """They are a start like one of the caller's, and another one than a single step."""
    (operator, y), solver = problem("CT", 2), Solver(random_model(channels=4, boundary="symmetric", composed=True))
    options = {"strength": 0.02, "schedule": Fast(outer=2, inner=5), "box": (0.0, 1.0)}
    found = solver.reconstruct(y, operator, **options).image
    start = Measurements([operator], y).conjugate_gradients(operator.start_steps).clip(0, 1)
    np.testing.assert_array_equal(solver.reconstruct(y, operator, x0=start, **options).image, found)
    monkeypatch.setattr(type(operator), "start_steps", 1)
    assert np.abs(solver.reconstruct(y, operator, **options).image - found).max() > 1e-3


def test_tune_strength_takes_a_start():
    operator = OPERATORS["blur"]
    found = solver().tune_strength(
        measured(operator), [operator], CANDIDATES[:2], noise_std=0.03, x0=picture(3), max_outer=1, max_iter=5
    )
    assert found.scores.shape == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass one of reference=... .*, noise_std=... .* and holdout=..."),
        ({"reference": picture(), "noise_std": 0.1}, "pass one of reference=... .*, noise_std=... .* and holdout=..."),
        ({"reference": picture(), "holdout": 0.1}, "pass one of reference=... .*, noise_std=... .* and holdout=..."),
        ({"noise_std": 0.1, "holdout": 0.1}, "pass one of reference=... .*, noise_std=... .* and holdout=..."),
        ({"holdout": 0}, "holdout is 0; expected a share of the measurements between 0 and 1"),
        ({"holdout": 1.0}, "holdout is 1.0; expected a share of the measurements between 0 and 1"),
        ({"holdout": "some"}, "holdout is 'some'; expected a share of the measurements between 0 and 1"),
        ({"holdout": 0.1, "seed": -1}, "seed is -1; expected a whole number of at least 0"),
        (
            {"holdout": 1e-4},
            "holdout is 0.0001, which leaves out 0 of 504 measurements of Blur .* at least one on either side",
        ),
        ({"holdout": 0.9999}, "holdout is 0.9999, which leaves out 504 of 504 measurements of Blur"),
        ({"noise_std": 0}, "noise_std is 0; expected a positive number"),
        ({"noise_std": 0.1, "candidates": []}, r"candidates has shape \(0,\); expected a positive number"),
        ({"noise_std": 0.1, "candidates": [0.1, -1]}, r"candidates is \[0.1, -1\]; expected a positive number"),
        ({"noise_std": 0.1, "candidates": "many"}, "candidates is 'many'; expected a positive number"),
        ({"reference": picture()[1:]}, r"reference has shape \(23, 21\); expected \(24, 21\)"),
        ({"reference": picture() * np.nan}, "reference has 504 values that are not finite"),
        ({"reference": picture() * 1j}, "reference is complex .*; the images of Blur are real"),
        ({"noise_std": 0.1, "measurement": np.zeros((2, *SHAPE))}, r"measurement has shape \(2, 24, 21\); expected"),
        ({"noise_std": 0.1, "operator": "blur"}, "operator is str; expected an Operator"),
        ({"noise_std": 0.1, "operator": [OPERATORS["blur"]] * 2}, "operator is a list of 2; expected one operator"),
    ],
)
def test_tunings_that_are_refused(options, message):
    arguments = {"measurement": measured(OPERATORS["blur"]), "operator": OPERATORS["blur"], "candidates": [0.1, 0.2]}
    with pytest.raises(InputError, match=message):
        solver().tune_strength(**arguments | options)


# ------------------------------------------------------------------------------------------------------------ bad input


BLUR, MRI = OPERATORS["blur"], OPERATORS["mri"]
WRONG_ADJOINT = from_functions(lambda x: x[:, 1:] - x[:, :-1], lambda y: np.pad(y, ((0, 0), (0, 1))), SHAPE, (24, 20))
HOLED = measured(BLUR).copy()
HOLED[3, 4:6] = np.nan


@pytest.mark.parametrize(
    ("options", "error_type", "message"),
    [
        ({"measurement": HOLED}, InputError, r"measurement has 2 values that are not finite, the first at \(3, 4\)"),
        ({"measurement": HOLED[1:]}, InputError, r"measurement has shape \(23, 21\); Blur expects \(..., 24, 21\)"),
        ({"measurement": 1j * HOLED}, InputError, r"measurement is complex \(complex64\); Blur expects real numbers"),
        ({"measurement": "y"}, InputError, "measurement has dtype <U1; expected numbers"),
        (
            {"measurement": np.zeros((2, 3, *SHAPE))},
            InputError,
            r"\(2, 3, 24, 21\); expected \(24, 21\) or \(B, 24, 21\)",
        ),
        ({"measurement": np.zeros((0, *SHAPE))}, InputError, r"measurement has shape \(0, 24, 21\); expected"),
        (
            {"measurement": measured(MRI) * np.nan, "operator": MRI},
            InputError,
            "measurement has 504 values that are not finite",
        ),
        ({"operator": None}, InputError, "operator is NoneType; expected an Operator of safi_fast.operators"),
        ({"operator": np.fft.fft2}, InputError, r"operator is .*; expected an Operator .*from_functions"),
        ({"operator": []}, InputError, "operator is list; expected an Operator"),
        ({"operator": [BLUR, "blur"]}, InputError, "operator is list; expected an Operator"),
        ({"operator": np.eye(4)}, InputError, "operator is ndarray; expected an Operator"),
        ({"operator": WRONG_ADJOINT, "measurement": np.zeros((24, 20))}, OperatorError, "is not the adjoint of apply"),
        (
            {"operator": from_functions(lambda x: 3 * x, lambda y: 3 * y, SHAPE, SHAPE, norm=1)},
            OperatorError,
            r"norm is 1, but \|\|H x\|\| / \|\|x\|\| reaches 3",
        ),
        ({"operator": [BLUR, BLUR]}, InputError, "measurement has 24 entries for 2 operators; expected one each"),
        (
            {"operator": [BLUR, Identity((24, 22))], "measurement": [np.zeros(SHAPE)] * 2},
            InputError,
            r"operators differ in shape_in: \(24, 21\) and \(24, 22\)",
        ),
        (
            {"operator": [BLUR, Downsample(3, SHAPE)], "measurement": [np.zeros(SHAPE)] * 2},
            InputError,
            r"operators differ in shape_out: \(24, 21\) and \(8, 7\)",
        ),
        (
            {"operator": [BLUR, OPERATORS["complex mri"]], "measurement": [np.zeros(SHAPE)] * 2},
            InputError,
            "operators differ in image: real and complex",
        ),
        ({"operator": [BLUR, MRI], "measurement": [np.zeros(SHAPE)] * 2}, InputError, "operators differ in complex"),
        (
            {"operator": [BLUR, BLUR], "measurement": [np.zeros((1, *SHAPE))] * 2},
            InputError,
            r"measurement has shape \(1, 24, 21\); expected \(24, 21\)",
        ),
        (
            {"operator": Identity((6, 30)), "measurement": np.zeros((6, 30))},
            InputError,
            "operator makes images of 6 x 30 pixels; the filters of this model need 7 x 7 or more",
        ),
        ({"strength": 0}, InputError, "strength is 0; expected a positive number"),
        ({"strength": -1.0}, InputError, "strength is -1.0; expected a positive number"),
        ({"strength": [0.1, 0.2]}, InputError, r"strength has shape \(2,\); expected a positive number"),
        ({"box": (1, 0)}, InputError, r"box is \(1, 0\); expected low < high"),
        (
            {"operator": OPERATORS["complex mri"], "measurement": measured(MRI)},
            InputError,
            r"box is \(0.0, 1.0\), but the operator has complex images; pass box=None",
        ),
        ({"x0": np.zeros((23, 21))}, InputError, r"x0 has shape \(23, 21\); expected \(24, 21\)"),
        ({"x0": np.zeros((2, *SHAPE))}, InputError, r"x0 has shape \(2, 24, 21\); expected \(24, 21\)"),
        ({"x0": HOLED}, InputError, "x0 has 2 values that are not finite"),
        ({"x0": 1j * picture()}, InputError, "x0 is complex .*; the images of Blur are real"),
        (
            {"x0": np.full(SHAPE, 1e30)},
            InputError,
            r"x0 has values up to 1e\+30, far from data_range, whose white is 1; expected",
        ),
        ({"x0": "zero"}, InputError, "x0 has dtype <U4; expected numbers"),
        (
            {"measurement": np.zeros((3, *SHAPE)), "x0": np.zeros((2, *SHAPE))},
            InputError,
            r"x0 has shape \(2, 24, 21\); expected \(24, 21\) or \(3, 24, 21\)",
        ),
        ({"noise_level": -1}, InputError, "noise_level is -1; expected a positive number"),
        ({"noise_level": "low"}, InputError, "noise_level is 'low'; expected a positive number"),
        ({"data_range": 0}, InputError, "data_range is 0; expected a positive number"),
        ({"max_outer": 0}, InputError, "max_outer is 0; expected a whole number of at least 1"),
        ({"max_iter": 1.5}, InputError, "max_iter is 1.5; expected a whole number of at least 1"),
        ({"tol": 0}, InputError, "tol is 0; expected a positive number"),
        ({"mask_of": "phase"}, InputError, "mask_of is 'phase'; expected 'magnitude' or 'parts'"),
        ({"backend": "cuda"}, BackendError, "backend='cuda' cannot run: .* use backend='cpu'"),
        ({"backend": "gpu"}, InputError, "backend is 'gpu'; expected 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_what_is_refused(options, error_type, message):
    arguments = {"measurement": measured(BLUR), "operator": BLUR, "strength": 0.1, "model": solver().model} | options
    with pytest.raises(error_type, match=message):
        safi_fast.reconstruct(arguments.pop("measurement"), arguments.pop("operator"), **arguments)


def test_a_batch_of_nothing_or_of_odd_shapes_is_refused():
    with pytest.raises(InputError, match=r"measurement has shape \(0,\)"):
        solver().reconstruct_batch([], BLUR, strength=0.1)
    with pytest.raises(InputError, match="measurement cannot be read as a NumPy array"):
        solver().reconstruct_batch([np.zeros(SHAPE), np.zeros((5, 6))], BLUR, strength=0.1)
    with pytest.raises(InputError, match="measurement has 1 entries for 2 operators"):
        solver().reconstruct_batch([np.zeros(SHAPE)], [BLUR, BLUR], strength=0.1)


def test_noise_level_outside_the_model():
    many = Solver(random_model(levels=LEVELS))
    with pytest.raises(InputError, match=r"noise_level is 0.5 .* accepts"):
        many.reconstruct(measured(BLUR), BLUR, strength=0.1, noise_level=0.5)


def test_the_backend_is_chosen_as_for_denoise(monkeypatch):
    asked = []
    monkeypatch.setattr(
        safi_fast.api, "_solver", lambda model, backend, precision, gpu, process: asked.append(backend) or solver()
    )
    safi_fast.reconstruct(measured(BLUR), BLUR, model=solver().model, **QUICK)
    safi_fast.tune_strength(measured(BLUR), BLUR, [0.1], noise_std=0.1, max_outer=1, max_iter=1, backend="cuda")
    assert asked == ["auto", "cuda"]


def test_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    y = measured(BLUR)
    found = run(BLUR, torch.from_numpy(y), **QUICK)
    assert isinstance(found.image, torch.Tensor)
    np.testing.assert_array_equal(found.image.numpy(), run(BLUR, y, **QUICK).image)


@each_operator
def test_a_batch_that_is_solved_in_parts_is_the_same(name, monkeypatch):
    """Images beyond what memory allows at once are solved afterwards: same result, one account."""
    operator = OPERATORS[name]
    stack = np.stack([measured(operator, seed) for seed in range(3)])
    options = QUICK | {"strength": STRENGTHS, "return_masks": True}
    whole = run(operator, stack, **options)
    counts = []
    workspace = CpuEngine.workspace
    monkeypatch.setattr(CpuEngine, "workspace", lambda self, n, *size: counts.append(n) or workspace(self, n, *size))
    monkeypatch.setattr(CpuEngine, "bytes_per_pixel", lambda _: BATCH_BYTES)  # room for one
    parts = run(operator, stack, **options)
    assert len(counts) == 3
    assert_same(parts, whole)
    assert_same(solver().reconstruct_batch(stack, [operator] * 3, box=box_of(operator), **options), whole)


def test_nothing_is_converged_before_a_mask():
    """However large tol is: the first change that counts is the one from one mask to the next."""
    operator = OPERATORS["identity"]
    solution = run(operator, tol=1.0, max_outer=4, return_masks=True)
    assert (solution.status, solution.outer_iterations) == ("converged", 2)
    assert solution.masks.min() < 1


def test_an_infinite_box_is_refused():
    with pytest.raises(InputError, match=r"box is \(0\.0, inf\); expected two finite numbers"):
        run(OPERATORS["identity"], box=(0.0, np.inf))


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "complex mri"])
def test_measurements_far_outside_the_box_are_refused(name):
    """On any scale of the operator; where the caller passes the box, they are cut, and far ones warned of."""
    operator, factor = OPERATORS[name], 1e-3
    rescaled = from_functions(
        lambda x: factor * operator.apply(x), lambda y: factor * operator.adjoint(y),
        SHAPE, operator.shape_out, batched=True, complex=operator.complex,
    )  # fmt: skip
    for op in (operator, rescaled):
        y = op.apply(picture())
        run(op, 1.5 * y)
        run(op, 255 * y, data_range=255)
        with pytest.warns(
            UserWarning, match=r"values up to .*, but the masks are made for those of data_range 1; pass"
        ):
            run(op, 255 * y, box=None)
        with pytest.warns(UserWarning, match="are made for those of data_range 255; pass data_range="):
            run(op, 1e-3 * y, data_range=255)
        with pytest.warns(UserWarning, match="are made for those of data_range 1; pass data_range="):
            run(op, 255 * y)
        with pytest.raises(InputError, match=r"measurement fits images with values from .* pass data_range=\.\.\."):
            solver().reconstruct(255 * y, op, **QUICK)
        with pytest.raises(InputError, match=r"measurement\[1\] .* data_range 2 and box \(0, 1\) allow 0 to 2"):
            solver().reconstruct(np.stack([y, 255 * y]), op, data_range=2, x0=np.zeros(SHAPE), **QUICK)


def test_few_known_pixels_far_outside_the_box_are_refused():
    operator = Mask(np.random.default_rng(0).random(SHAPE) < 0.03)
    run(operator, operator.apply(picture()))
    with pytest.raises(InputError, match=r"fits images with values from .* pass data_range=\.\.\."):
        solver().reconstruct((255 * operator.apply(picture())).astype(np.uint8), operator, **QUICK)


def test_a_solution_is_printed_on_one_line():
    operator = OPERATORS["identity"]
    one = run(operator)
    assert repr(one) == (
        f"Solution({one.status}, 24 x 21 float32, relative_gap={one.relative_gap:.2g}, "
        f"outer_residual={one.outer_residual:.2g})"
    )
    batch = run(operator, np.stack([measured(operator), np.zeros(SHAPE)]))
    worst = f"relative_gap={max(batch.relative_gap):.2g}, outer_residual={max(batch.outer_residual):.2g}"
    assert repr(batch) == f"Solution(max_iterations, 2 x 24 x 21 float32, {worst})"


def test_operators_are_printed_on_one_line():
    assert repr(OPERATORS["complex mri"]) == "<FourierMRI: complex (24, 21) to complex (24, 21)>"
    matrix = scipy.sparse.csr_matrix(np.ones((7, SHAPE[0] * SHAPE[1])))
    assert repr(from_scipy(matrix, SHAPE)) == f"<{from_scipy(matrix, SHAPE).name}: real (24, 21) to real (7,)>"


@pytest.mark.parametrize(
    "pace", [(4, 37), Pace(0, 37), Pace(4, 37.5), Pace(True, 37), Pace(4, 37, 0.0), Pace(4, 37, 2.0), None]
)
def test_a_pace_that_is_none_is_refused_by_name(pace):
    """Of a user's subclass, at every schedule."""
    operator = Identity(SHAPE)
    operator.pace = pace
    with pytest.raises(OperatorError, match=r"Identity: pace is .*; expected Pace\(masks, steps, fall\)"):
        solver().reconstruct(picture(), operator, **QUICK)
