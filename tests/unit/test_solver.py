"""The loops: certificate, energy, batches, limits, callbacks, threads.

The oracle judges what is computed, laws judge the rest.
"""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
from itertools import islice, pairwise

import numpy as np
import oracle
import pytest
from models import oracle_form, random_model
from patience import SOON

from safi_fast import Converged, Gap, Solver, Unrolled
from safi_fast.bindings.cpu import BATCH_BYTES
from safi_fast.errors import InputError
from safi_fast.model import StepFactors
from safi_fast.solver import dual
from safi_fast.solver.momentum import chambolle_dossal, fista
from safi_fast.solver.result import STATUS_MESSAGES, OuterState

FAMILIES = ("safi", "mmr")
BOUNDARIES = ("zero", "symmetric")
SCHEDULES = ("unrolled", "converged", "gap")
SIGMA = 25 / 255
LEVELS = (10 / 255, 25 / 255, 40 / 255)


@cache
def solver_of(family="safi", boundary="zero", levels=(SIGMA,), **parts):
    return Solver(random_model(family, 4, boundary=boundary, levels=levels, **parts))


def photograph(shape=(40, 33), seed=0, sigma=SIGMA):
    """Discs on a ramp with noise, float32: edges, flat parts, and values that noise takes below 0."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / max(shape)
    image = 0.5 * rows + 0.1
    for y, x, radius, grey in rng.uniform((0, 0, 0.1, 0.0), (1, 1, 0.4, 1.0), (4, 4)):
        image = np.where((rows - y) ** 2 + (columns - x) ** 2 < radius**2, grey, image)
    return (image + sigma * rng.standard_normal(shape)).astype(np.float32)


def solve(solver, image, sigma=SIGMA, **options):
    return solver.denoise(image, sigma, return_solution=True, return_masks=True, **options)


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


def alone(solution, number):
    """What a batch says of one image, under the names of Solution."""
    return {e.name: getattr(solution, e.name)[number] for e in fields(solution) if e.name != "history"}


def assert_is(solution, expected):
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(solution, name), value, err_msg=name)


# -------------------------------------------------------------------------------------------------------- certificate


@pytest.fixture
def gaps(monkeypatch):
    """The relative gaps of all inner steps of the gap schedule, as they come."""
    seen = []

    class Spy(dual.StepSums):
        def certificate(self, strength):
            result = super().certificate(strength)
            seen.extend(result.relative_gap)
            return result

    monkeypatch.setattr(dual, "StepSums", Spy)
    return seen


@pytest.mark.parametrize("box", [(0.0, 1.0), None], ids=["box", "no box"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_gap_is_never_negative(family, boundary, box, gaps):
    """At every inner step, down to the rounding of float32, where a gap of a wrong sign would show first."""
    solver, schedule = solver_of(family, boundary), Gap(outer=3, inner=80, tol=1e-30, first_gap=0.0)
    for strength in (0.003, 0.03, 0.3):
        solution = solve(solver, photograph(), strength=strength, schedule=schedule, box=box)
        assert min(record.relative_gap for record in solution.history) >= -1e-6
    assert len(gaps) > 100
    assert -1e-6 <= min(gaps) < 1e-6


@pytest.mark.parametrize("schedule", ["unrolled", "converged"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_gap_of_the_published_schedules(family, boundary, schedule):
    """Not negative either, and small at the end."""
    for strength in (0.003, 0.03, 0.3):
        solution = solve(solver_of(family, boundary), photograph(), strength=strength, schedule=schedule)
        gaps = [record.relative_gap for record in solution.history]
        assert min(gaps) >= -1e-6
        assert gaps[-1] < 0.05


@pytest.mark.parametrize("schedule", ["unrolled", "converged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gap_falls_with_more_inner_steps(family, schedule):
    tol = {} if schedule == "unrolled" else {"tol": 1e-7}
    reached = [
        solve(solver_of(family), photograph(), schedule=schedule, max_outer=2, max_inner=steps, **tol).relative_gap
        for steps in (2, 8, 32, 90)
    ]
    assert all(later < earlier for earlier, later in pairwise(reached))
    assert reached[-1] < reached[0] / 100


@pytest.mark.parametrize("family", FAMILIES)
def test_gap_falls_along_the_inner_steps(family, gaps):
    """Not from one step to the next, but from one stretch of steps to the next."""
    solve(solver_of(family), photograph(), schedule=Gap(first_gap=0.0), tol=1e-5, max_outer=1)
    stretches = [max(gaps[first : first + 4]) for first in range(0, len(gaps), 4)]
    assert len(stretches) >= 4
    assert all(later < earlier for earlier, later in pairwise(stretches))


@pytest.mark.parametrize("family", FAMILIES)
def test_gap_schedule_asks_for_less_gap_at_every_outer_step(family):
    schedule = Gap(tol=3e-5, settled=1.0)
    history = solve(solver_of(family), photograph(), schedule=schedule).history
    gaps = [record.relative_gap for record in history]
    assert gaps[-1] <= 3e-5 < gaps[0] <= schedule.first_gap
    assert all(later <= earlier for earlier, later in pairwise(gaps) if earlier > 3e-5)


@pytest.mark.parametrize(
    ("family", "boundary", "box"),
    [("safi", "symmetric", (0, 1)), ("mmr", "zero", (0, 1)), ("safi", "zero", None), ("mmr", "symmetric", None)],
)
def test_solution_is_within_its_gap_of_the_optimum(family, boundary, box):
    """At status "converged" f(x) - f* of the last convex problem is at most the reported gap; f* by 5,000 float64
    steps.

    The two other schedules stop elsewhere, so their problems have masks of their own; 1,000 steps will do for them.
    """
    solver, y = solver_of(family, boundary), photograph((48, 40))
    for schedule, steps in (("gap", 5000), ("unrolled", 1000), ("converged", 1000)):
        solution = solve(solver, y, schedule=schedule, box=box)
        assert solution.status in ("converged", "completed")
        strengths = solver.model.strength
        strength = float(np.float32((strengths.unrolled if schedule == "unrolled" else strengths.converged)[0]))
        problem = y.astype(float), strength, solution.masks.astype(float), solver.model.filters.layers, boundary
        best, _ = oracle.solve_dual(*problem, steps=steps, box=box)
        optimum, reached = oracle.objective(best, *problem), oracle.objective(solution.image.astype(float), *problem)
        # f itself is known to float32 rounding of the pixels, 1e-7 of its value
        assert -1e-7 * optimum <= reached - optimum <= solution.gap + 1e-7 * optimum
        assert solution.gap / reached == pytest.approx(solution.relative_gap, rel=1e-5)
        assert solution.history[-1].objective == pytest.approx(reached, rel=1e-5)
        assert 0 < solution.relative_gap < 1e-3


@pytest.mark.parametrize("schedule", ["gap", "converged"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_mmr_energy_never_rises(boundary, schedule, seed):
    """From one outer step to the next the explicit energy rises by no more than the gap that the later one leaves."""
    solver, y = solver_of("mmr", boundary), photograph(seed=seed)
    model, seen = solver.model, []

    def energy(x):
        mask = (model.mask.smoothing, model.mask.profile.astype(float), model.mask.scale.astype(float))
        return oracle.mmr_energy(x, y, strength, model.filters.layers, boundary, *mask)

    strength = float(np.float32(model.strength.converged[0]))
    solve(solver, y, schedule=schedule, callback=lambda state: seen.append((energy(state.image()[0]), state.record)))
    assert len(seen) >= 4
    for (before, _), (after, record) in pairwise(seen):
        gap = float(record.relative_gap[0] * record.objective[0])
        assert after <= before + gap + 1e-7 * before  # the energy of a float32 image is known to 1e-7 of its value
    assert seen[-1][0] < seen[0][0]


def test_a_stop_at_the_first_step_is_certified_by_a_feasible_u():
    """The published rule may stop at once and keep x(M . W x), whose u exceeds lambda: no
    certificate may use that u.
    """
    solution = solve(solver_of("mmr"), photograph(), schedule="converged", tol=0.5, strength=1e-4)
    assert solution.history[-1].inner_iterations == 1
    assert min(record.relative_gap for record in solution.history) >= -1e-6


# ------------------------------------------------------------------------------------------------------ known answers


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_black_image_stays_black(family, schedule):
    """f = 0 is reached at once: nothing is divided by it."""
    solution = solve(solver_of(family), np.zeros((30, 31)), schedule=schedule)
    assert not solution.image.any()
    assert (solution.gap, solution.relative_gap, solution.outer_residual) == (0, 0, 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_flat_image_stays_flat(family, schedule):
    """Zero-mean filters and symmetric extension leave a constant alone, whatever the strength."""
    flat = np.full((30, 31), 0.4)
    image = solve(solver_of(family, "symmetric"), flat, schedule=schedule, max_outer=3, max_inner=20).image
    np.testing.assert_allclose(image, 0.4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_gap_schedule_ends_on_a_flat_image(family):
    """There the objective is float32 rounding, so that no relative gap can be reached."""
    solution = solve(solver_of(family, "symmetric"), np.full((30, 31), 0.4), schedule="gap")
    assert solution.converged
    assert solution.inner_iterations < 100


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_box_holds(schedule):
    y = photograph()
    assert y.min() < -0.1
    assert y.max() > 0.8
    free = solve(solver_of(), y, schedule=schedule, box=None).image
    assert free.min() < 0
    for box in ((0.0, 1.0), (0.2, 0.7)):
        image = solve(solver_of(), y, schedule=schedule, box=box).image
        assert np.float32(box[0]) == image.min()
        assert image.max() <= np.float32(box[1])


def test_learned_steps():
    """Learned factors are used by `unrolled` alone; FISTA's written as learned ones give the same bits."""
    image = photograph()
    fista_like = StepFactors(np.ones(12), list(islice(fista(), 12)))
    plain, same = random_model(), random_model(steps=fista_like)
    other = random_model(steps=StepFactors(np.full(12, 1.3), np.full(12, 0.5)))
    expected = Solver(plain).denoise(image, SIGMA)
    np.testing.assert_array_equal(Solver(same).denoise(image, SIGMA), expected)
    assert abs(Solver(other).denoise(image, SIGMA) - expected).max() > 1e-5
    np.testing.assert_array_equal(
        Solver(other).denoise(image, SIGMA, schedule="gap", tol=1e-3),
        Solver(plain).denoise(image, SIGMA, schedule="gap", tol=1e-3),
    )
    short = Solver(same).denoise(image, SIGMA, max_inner=5)
    np.testing.assert_array_equal(short, Solver(plain).denoise(image, SIGMA, max_inner=5))
    with pytest.raises(InputError, match="max_inner is 13, but model 'random-safi' has learned 12 steps"):
        Solver(other).denoise(image, SIGMA, max_inner=13)


@pytest.mark.parametrize(("name", "kind"), [("unrolled", Unrolled), ("converged", Converged), ("gap", Gap)])
def test_a_schedule_by_value_is_that_by_name(name, kind):
    """Limits of the call replace those of the value; those of the model hold for names alone."""
    image = photograph()
    by_name = solve(solver_of(), image, schedule=name, max_outer=2, max_inner=5)
    assert_same(solve(solver_of(), image, schedule=kind(outer=2, inner=5)), by_name)
    assert_same(solve(solver_of(), image, schedule=kind(), max_outer=2, max_inner=5), by_name)


def test_constants_of_a_schedule_count():
    eager, lax = (solve(solver_of(), photograph(), schedule=Gap(first_gap=f, tol=1e-3)) for f in (1e-3, 1e-1))
    assert eager.history[0].relative_gap <= 1e-3 < lax.history[0].relative_gap
    assert Gap(outer=3, tol=1e-4, first_gap=1e-2, decay=0.1).tolerance(1) == pytest.approx(1e-3)
    assert Gap(outer=3, tol=1e-4, first_gap=1e-2, decay=0.1).tolerance(2) == 1e-4
    assert [Converged(tol=1e-5, falling=3).tolerance(k) for k in range(4)] == pytest.approx([1e-3, 1e-4, 1e-5, 1e-5])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Unrolled, {"outer": 0}, "max_outer is 0; expected a whole number of at least 1"),
        (Unrolled, {"inner": 2.5}, r"max_inner is 2\.5; expected a whole number"),
        (Unrolled, {"inner": 3, "steps": StepFactors([1, 1], [0, 0.3])}, "max_inner is 3, but .* learned 2 steps"),
        (Converged, {"tol": -1}, "tol is -1; expected a positive number"),
        (Gap, {"tol": "small"}, "tol is 'small'; expected a positive number"),
        (Gap, {"decay": 0}, "decay is 0; expected a positive number"),
        (Gap, {"first_gap": float("nan")}, "first_gap is nan; expected a finite number"),
    ],
)
def test_what_no_schedule_can_have(kind, values, message):
    with pytest.raises(InputError, match=message):
        kind(**values)


def test_momentum_factors():
    t = [1.0]
    for _ in range(3):
        t.append((1 + (1 + 4 * t[-1] ** 2) ** 0.5) / 2)
    assert list(islice(fista(), 3)) == pytest.approx([(a - 1) / b for a, b in pairwise(t)])
    assert list(islice(chambolle_dossal(), 3)) == pytest.approx([1 / 3, 3 / 7, 1 / 2])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_strength_and_lipschitz_replace_the_models(family, schedule):
    solver, y = solver_of(family), photograph()
    own = solver.model.strength.unrolled if schedule == "unrolled" else solver.model.strength.converged
    plain = solve(solver, y, schedule=schedule)
    assert_same(plain, solve(solver, y, schedule=schedule, strength=own))
    assert (solve(solver, y, schedule=schedule, strength=2 * own).image != plain.image).any()
    assert (solve(solver, y, schedule=schedule, lipschitz=5.0).image != plain.image).any()


def test_unrolled_takes_the_lipschitz_of_the_model():
    y, trained = photograph(), solver_of(lipschitz=2.5)
    assert_same(solve(trained, y), solve(solver_of(), y, lipschitz=2.5))
    assert_same(solve(trained, y, schedule="gap"), solve(solver_of(), y, schedule="gap"))


def test_strength_replaces_the_noise_level_of_a_one_level_model():
    y = photograph()
    other, usual = solve(solver_of(), y, 50 / 255, strength=0.02), solve(solver_of(), y, strength=0.02)
    assert_same(replace(other, sigma=usual.sigma), usual)


# ------------------------------------------------------------------------------------------------------------ batches

# Different pictures, noise levels and strengths, so that they stop at different steps.
BATCH = np.stack([photograph(seed=seed, sigma=sigma) for seed, sigma in enumerate((0.01, 0.2, 0.05, 0.1, 0.03))])
BATCH_SIGMA = np.array([10, 40, 15, 25, 12.5]) / 255


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_equals_its_images_alone(family, schedule):
    """Bit for bit, in any order, with a noise level of its own for each."""
    solver, order = solver_of(family, levels=LEVELS), [3, 0, 4, 1, 2]
    batch = solve(solver, BATCH, BATCH_SIGMA, schedule=schedule)
    shuffled = solve(solver, BATCH[order], BATCH_SIGMA[order], schedule=schedule)
    for place, number in enumerate(order):
        single = solve(solver, BATCH[number], BATCH_SIGMA[number], schedule=schedule)
        assert_is(single, alone(batch, number))
        assert_is(single, alone(shuffled, place))
    if schedule != "unrolled":
        assert len(set(batch.inner_iterations)) > 1, "images that stop together do not test freezing"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_strength_per_image(schedule):
    strengths = np.array([0.01, 0.02, 0.03, 0.05, 0.08])
    batch = solve(solver_of("mmr"), BATCH, schedule=schedule, strength=strengths)
    for number, strength in enumerate(strengths):
        assert_is(solve(solver_of("mmr"), BATCH[number], schedule=schedule, strength=strength), alone(batch, number))


def test_sigma_between_the_levels_conditions_mask_and_strength():
    solver, y = solver_of(levels=LEVELS), photograph()
    masks = [solve(solver, y, sigma).masks for sigma in (15 / 255, 25 / 255)]
    assert np.abs(masks[0] - masks[1]).max() > 0.01
    images = [solve(solver, y, sigma, strength=0.02, max_outer=1).image for sigma in (15 / 255, 25 / 255)]
    np.testing.assert_array_equal(*images)  # the strength was given and the first outer step has no mask


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_equal_the_whole_batch(family, schedule, monkeypatch):
    solver = solver_of(family, levels=LEVELS)
    whole = solve(solver, BATCH, BATCH_SIGMA, schedule=schedule)
    room_for_two = BATCH_BYTES // (2 * BATCH[0].size)
    monkeypatch.setattr(type(solver._engine), "bytes_per_pixel", lambda _: room_for_two)
    sizes, make = [], type(solver._engine).workspace
    monkeypatch.setattr(type(solver._engine), "workspace", lambda *a: sizes.append(a[1]) or make(*a))
    assert_same(solve(solver, BATCH, BATCH_SIGMA, schedule=schedule), whole)
    assert sizes == [2, 2, 1]


def test_chunks_do_not_pile_up(monkeypatch):
    """A part of a batch is let go before the next one is set up."""
    solver, alive = solver_of(), []
    monkeypatch.setattr(type(solver._engine), "bytes_per_pixel", lambda _: BATCH_BYTES)  # one at a time
    options = {"schedule": "gap", "lipschitz": 1.1, "max_outer": 2, "max_inner": 3}
    solve(solver, BATCH, 25 / 255, **options)  # which looks whether lipschitz can be right
    make = type(solver._engine).workspace

    def counted(*arguments):
        assert not any(reference() for reference in alive)
        workspace = make(*arguments)
        alive.append(weakref.ref(workspace))
        return workspace

    monkeypatch.setattr(type(solver._engine), "workspace", counted)
    solve(solver, BATCH, 25 / 255, **options)
    assert len(alive) == len(BATCH)


def test_a_callback_sees_the_whole_batch(monkeypatch):
    solver, seen = solver_of(), []
    monkeypatch.setattr(type(solver._engine), "bytes_per_pixel", lambda _: BATCH_BYTES)  # room for one

    def stop(state):
        seen.append((state.active.tolist(), state.image().shape))
        raise StopIteration

    solution = solve(solver, BATCH, 25 / 255, schedule="gap", max_inner=2, callback=stop)
    assert seen == [(list(range(len(BATCH))), (len(BATCH), *BATCH[0].shape))]
    assert set(solution.status) == {"stopped"}


def test_finished_images_keep_their_values():
    batch = solve(solver_of("mmr"), BATCH, schedule="gap", strength=[0.01, 0.02, 0.03, 0.05, 0.08])
    assert len(set(batch.outer_iterations)) > 1, "images that stop together test nothing"
    for number, steps in enumerate(batch.outer_iterations):
        last = batch.history[steps - 1]
        for record in batch.history[steps:]:
            assert record.inner_iterations[number] == 0
            for key in ("relative_gap", "objective", "outer_residual"):
                assert getattr(record, key)[number] == getattr(last, key)[number]
    total = sum(record.inner_iterations for record in batch.history)
    np.testing.assert_array_equal(total, batch.inner_iterations)


# ---------------------------------------------------------------------------------- statuses, limits, what is reported


@pytest.mark.parametrize(
    ("schedule", "options", "status", "outer_steps", "inner_steps"),
    [
        ("unrolled", {}, "completed", 5, 60),
        ("unrolled", {"max_outer": 2, "max_inner": 3}, "completed", 2, 6),
        ("converged", {"max_outer": 2, "max_inner": 3}, "max_iterations", 2, 6),
        ("gap", {"max_outer": 2, "max_inner": 1}, "max_iterations", 2, 2),
    ],
)
def test_limits(schedule, options, status, outer_steps, inner_steps):
    solution = solve(solver_of(), photograph(), schedule=schedule, **options)
    assert (solution.status, solution.converged) == (status, False)
    assert (solution.outer_iterations, solution.inner_iterations) == (outer_steps, inner_steps)
    assert len(solution.history) == outer_steps


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_published_schedules_are_the_oracles(family, boundary):
    """Images to 1e-5; inner steps of `converged` to one, as its stopping rules hang on the last digits of float32."""
    solver, y, bound, counts = solver_of(family, boundary), photograph(), 1.1, []
    model, double = solver.model, y.astype(float)
    problem = (bound, mask_function(model), model.filters.layers, boundary)
    exact = oracle.unrolled(double, model.strength.unrolled[0], *problem)
    image = solve(solver, y, schedule="unrolled", lipschitz=bound).image
    np.testing.assert_allclose(image, exact, rtol=0, atol=1e-5)

    solution = solve(solver, y, schedule="converged", lipschitz=bound)
    made = [record.inner_iterations for record in solution.history]
    strength = model.strength.converged[0]
    oracle.converged(double, strength, *problem, family, counts=counts)
    assert made == pytest.approx(counts, abs=1)
    exact = oracle.converged(double, strength, *problem, family, replay=made)
    np.testing.assert_allclose(solution.image, exact, rtol=0, atol=1e-5)
    assert (solution.status, solution.converged) == ("converged", True)


def mask_function(model):
    """The oracle's mask generator of a model."""
    form = oracle_form(model)
    return lambda x: oracle.mask_of(x, form, model.filters.boundary)


@pytest.mark.parametrize("schedule", ["converged", "gap"])
def test_a_tighter_tolerance_takes_more_steps(schedule):
    loose, tight = (solve(solver_of(), photograph(), schedule=schedule, tol=tol) for tol in (1e-3, 1e-5))
    assert loose.status == tight.status == "converged"
    assert loose.inner_iterations < tight.inner_iterations
    assert tight.gap < loose.gap


def test_gap_schedule_converges_in_gap_and_in_outer_change():
    for tol in (1e-3, 1e-4, 1e-5):
        solution = solve(solver_of("mmr"), photograph(), schedule="gap", tol=tol)
        assert solution.status == "converged"
        assert solution.relative_gap <= tol
        assert solution.outer_residual <= 10 * tol
    few = solve(solver_of("mmr"), photograph(), schedule="gap", tol=1e-5, max_outer=2)
    assert few.status == "max_iterations"
    assert few.relative_gap > 1e-5 or few.outer_residual > 1e-4


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_solution_says_of_its_image(family, schedule):
    """Residuals, objective and masks, computed again from the images that the callback saw; gap mixes them later."""
    solver, y, seen = solver_of(family), photograph(), [photograph()]
    limit = {"max_outer": 3} if schedule == "gap" else {}
    solution = solve(solver, y, schedule=schedule, callback=lambda state: seen.append(state.image()[0]), **limit)
    np.testing.assert_array_equal(seen[-1], solution.image)
    for record, (before, after) in zip(solution.history, pairwise(seen), strict=True):
        change = np.linalg.norm(after.astype(float) - before) / np.linalg.norm(before.astype(float))
        assert record.outer_residual == pytest.approx(change, rel=1e-4, abs=1e-9)
    last = solution.history[-1]
    assert (last.relative_gap, last.outer_residual) == (solution.relative_gap, solution.outer_residual)
    assert last.relative_gap * last.objective == pytest.approx(solution.gap, rel=1e-12)
    # the masks of the last problem come from the image before it, to the accuracy that test_kernels_cpu.py holds them
    # to
    np.testing.assert_allclose(solution.masks, mask_function(solver.model)(seen[-2]), atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_types_and_shapes(schedule):
    single = solve(solver_of(), BATCH[0], schedule=schedule)
    assert isinstance(single.status, str)
    assert type(single.converged) is bool
    assert single.status in STATUS_MESSAGES
    for name in ("outer_iterations", "inner_iterations"):
        assert type(getattr(single, name)) is int
    for name in ("gap", "relative_gap", "outer_residual"):
        assert type(getattr(single, name)) is float
    assert type(single.history[0].inner_iterations) is int
    assert type(single.history[0].objective) is float
    assert single.masks.shape == (4, 40, 33)
    assert single.masks.dtype == np.float32

    batch = solve(solver_of(), BATCH, schedule=schedule)
    assert batch.image.shape == BATCH.shape
    assert batch.masks.shape == (5, 4, 40, 33)
    assert batch.converged.dtype == bool
    for name in (
        "status",
        "converged",
        "outer_iterations",
        "inner_iterations",
        "gap",
        "relative_gap",
        "outer_residual",
    ):
        assert getattr(batch, name).shape == (5,)
    for record in batch.history:
        assert all(value.shape == (5,) for value in vars(record).values())
    assert len(batch.history) == max(batch.outer_iterations)


def test_masks_only_on_request():
    assert solver_of().denoise(BATCH[0], SIGMA, return_solution=True).masks is None


# ----------------------------------------------------------------------------------------------------------- callbacks


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_callback_sees_every_outer_step(schedule):
    states, images = [], []

    def callback(state):
        assert isinstance(state, OuterState)
        states.append(state)
        images.append(state.image())
        state.image()[...] = np.nan  # a copy: the solve goes on unharmed
        state.active[...] = 0

    solution = solve(solver_of(), BATCH, schedule=schedule, callback=callback)
    assert [state.outer for state in states] == list(range(len(solution.history)))
    for image, state, record in zip(images, states, solution.history, strict=True):
        assert (image.shape, image.dtype) == (BATCH.shape, np.float32)
        for key, values in vars(state.record).items():
            assert values.shape == (5,)
            np.testing.assert_array_equal(values, getattr(record, key))
    np.testing.assert_array_equal(images[-1], solution.image)
    assert_same(solution, solve(solver_of(), BATCH, schedule=schedule))


def test_one_convex_problem_can_be_certified():
    """max_outer=1: no mask, so never converged, but the gap is what was asked for."""
    solution = solve(solver_of(), photograph(), schedule="gap", max_outer=1, tol=1e-3)
    assert solution.relative_gap <= 1e-3
    assert (solution.status, solution.outer_iterations) == ("max_iterations", 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_callback_may_stop(schedule):
    seen = []

    def stop_at_the_second(state):
        seen.append(state.image()[0])
        if state.outer == 1:
            raise StopIteration

    solution = solve(solver_of(), photograph(), schedule=schedule, callback=stop_at_the_second)
    assert (solution.status, solution.converged, solution.outer_iterations) == ("stopped", False, 2)
    np.testing.assert_array_equal(solution.image, seen[-1])
    if schedule != "gap":  # which asks for its tolerance in the last outer step that it may make
        limited = solve(solver_of(), photograph(), schedule=schedule, max_outer=2)
        np.testing.assert_array_equal(solution.image, limited.image)


def test_stop_leaves_converged_images_converged():
    options = {"schedule": "gap", "strength": [0.01, 0.02, 0.03, 0.05, 0.08]}
    free = solve(solver_of("mmr"), BATCH, **options)
    first = min(free.outer_iterations)
    assert first < max(free.outer_iterations)

    def stop(state):
        if state.outer == first:  # one step after the first image was done
            raise StopIteration

    stopped = solve(solver_of("mmr"), BATCH, callback=stop, **options)
    done = free.outer_iterations <= first + 1
    assert (stopped.status[done] == "converged").all()
    assert (stopped.status[~done] == "stopped").all()


def test_other_exceptions_of_a_callback_reach_the_caller():
    def fail(state):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        solve(solver_of(), photograph(), callback=fail)


# ------------------------------------------------------------------------------------------ repeatability and sharing


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_same_bits_every_time(family, schedule):
    """From the same Solver and from a new one."""
    y, solver = photograph(), solver_of(family)
    first = solve(solver, y, schedule=schedule)
    assert_same(first, solve(solver, y, schedule=schedule))
    assert_same(first, solve(Solver(solver.model), y, schedule=schedule))


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_share_a_solver(family):
    """Two threads in turns through all schedules and sizes give what one alone gives, and the model stays as it was."""
    solver = Solver(random_model(family, 4, levels=LEVELS))
    before = solver.model.fingerprint
    jobs = [(image[: 40 - 3 * n], {"schedule": s}) for n, image in enumerate(BATCH) for s in SCHEDULES]
    serial = [solve(solver, image, **options) for image, options in jobs]
    start = threading.Barrier(2)

    def work(number):
        start.wait(timeout=SOON)
        return [solve(solver, image, **options) for image, options in jobs[number::2]]

    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(work, range(2)))
    for number, expected in enumerate(serial):
        assert_same(shared[number % 2][number // 2], expected)
    del solver.model.__dict__["fingerprint"]
    assert solver.model.fingerprint == before


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_inputs_are_not_modified(schedule):
    image, sigma, strength = BATCH.copy(), BATCH_SIGMA.copy(), np.linspace(0.01, 0.05, 5)
    kept = [array.copy() for array in (image, sigma, strength)]
    for array in (image, sigma, strength):
        array.flags.writeable = False
    solution = solve(solver_of(levels=LEVELS), image, sigma, strength=strength, schedule=schedule)
    for array, before in zip((image, sigma, strength), kept, strict=True):
        np.testing.assert_array_equal(array, before)
    assert not np.shares_memory(solution.image, image)
