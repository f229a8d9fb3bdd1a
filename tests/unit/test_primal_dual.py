"""The primal-dual iteration on one convex problem, masks fixed, against a dense float64 solver with a certificate of
its own.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import oracle
import pytest
from cpu_layout import channels_first, lanes
from models import random_model
from reconstructions import problem

from safi_fast.bindings.cpu import CpuEngine
from safi_fast.operators import Blur, FourierMRI, Identity, from_functions
from safi_fast.solver.data_term import DiagonalData, DualData, Measurements, data_term
from safi_fast.solver.lipschitz import squared_norm
from safi_fast.solver.means import DualMeans
from safi_fast.solver.metric import bound, metric
from safi_fast.solver.mixing import Mixing
from safi_fast.solver.primal_dual import PrimalDual

SHAPE, SMALL = (16, 15), (11, 14)  # SMALL: of complex images, which have twice the unknowns
CHANNELS = 3
UNCONDITIONED = np.ones((1, CHANNELS), np.float32), np.zeros((1, CHANNELS), np.float32)
UNIT = (0.0, 1.0)
STRENGTH = 0.01
ROUNDING = 1e-6  # of f: what float32 pixels leave unknown of it


TAPS = np.outer([1, 2, 3, 1], [2, 3, 1]) / 42.0


@cache
def operators(kind):
    """An operator in its exact and in its general form: the same functions, nobody knows that H^T H is diagonal in
    Fourier.
    """
    shape = SMALL if kind == "complex mri" else SHAPE
    mask = np.random.default_rng(8).random(shape) < 0.35
    mask[:2] = mask[-2:] = mask[0, 0] = True
    options = {"mask_order": "fft", "check_order": False}
    known = {
        "identity": lambda: Identity(shape),
        "blur": lambda: Blur(TAPS, shape, "circular"),
        "mri": lambda: FourierMRI(mask, **options),
        "complex mri": lambda: FourierMRI(mask, image="complex", **options),
    }[kind]()
    return known, from_functions(
        known.apply, known.adjoint, shape, known.shape_out,
        image=known.image, complex=known.complex, norm=known.norm, batched=True,
    )  # fmt: skip


def dense(operator):
    """H as a real float64 matrix on (Re x, Im x) for complex images, x for real ones; complex measurements likewise."""
    height, width = operator.shape_in
    pixels = np.eye(height * width, dtype=np.float32).reshape(-1, height, width)
    columns = operator.apply(pixels if operator.image == "real" else np.concatenate([pixels, 1j * pixels]))
    return np.stack([flat(column, operator.complex) for column in columns], axis=1)


def flat(values, is_complex):
    values = np.ravel(values)
    return np.concatenate([values.real, values.imag]).astype(float) if is_complex else values.astype(float)


@dataclass(frozen=True)
class Problem:
    """min over the box of 1/2 ||H x - y||^2 + lambda ||A x||_1, A = M . W, of one operator, model and mask."""

    kind: str
    box: tuple | None
    boundary: str = "zero"
    strength: float = STRENGTH
    seed: int = 0

    @property
    def operators(self):
        return operators(self.kind)

    @cached_property
    def engine(self):
        return CpuEngine(random_model(channels=CHANNELS, boundary=self.boundary, seed=self.seed))

    @property
    def shape(self):
        return self.operators[0].shape_in

    @property
    def is_complex(self):
        return self.operators[0].image == "complex"

    @cached_property
    def mask(self):
        """(parts, C, H, W)."""
        rng = np.random.default_rng(self.seed + 1)
        shape = (2 if self.is_complex else 1, CHANNELS, *self.shape)
        return (rng.random(shape) * (rng.random(shape) < 0.9)).astype(np.float32)

    @cached_property
    def y(self):
        """From a picture that leaves [0, 1] here and there, with noise."""
        rng = np.random.default_rng(self.seed + 2)
        rows, columns = np.mgrid[: self.shape[0], : self.shape[1]] / self.shape[0]
        x = 0.4 + 0.7 * ((rows - 0.5) ** 2 + (columns - 0.4) ** 2 < 0.1) - 0.5 * (columns > 0.7)
        x = (x * np.exp(2j * rows) if self.is_complex else x).astype(np.complex64 if self.is_complex else np.float32)
        y = self.operators[0].apply(x)
        noise = rng.standard_normal((2, *y.shape)).astype(np.float32)
        y = y + 0.03 * (noise[0] + 1j * noise[1] if self.operators[0].complex else noise[0])
        return self.operators[0].check_measurement(y.astype(np.complex64 if self.operators[0].complex else np.float32))

    @cached_property
    def matrices(self):
        """H, A and y, dense, on real numbers."""
        filters = self.engine.model.filters
        pixels = np.eye(self.shape[0] * self.shape[1]).reshape(-1, *self.shape)
        W = np.stack([oracle.analysis(x, filters.layers, filters.boundary).ravel() for x in pixels], axis=1)
        parts = [part.ravel()[:, None] * W for part in self.mask.astype(float)]
        A = parts[0] if len(parts) == 1 else np.block([[parts[0], 0 * W], [0 * W, parts[1]]])
        return dense(self.operators[0]), A, flat(self.y, self.operators[0].complex)

    def objective(self, x):
        H, A, y = self.matrices
        x = flat(x, self.is_complex)
        lam = float(np.float32(self.strength))
        return 0.5 * float(np.sum((H @ x - y) ** 2)) + lam * float(np.abs(A @ x).sum())

    @cached_property
    def solution(self):
        """x* (H, W) and a lower bound of f* that f(x*) reaches to 1e-8: an interior-point method, and its own gap.

        min 1/2 x'Qx - c'x + lambda sum t  over  t - Ax, t + Ax, x - low, high - x >= 0, with multipliers p;
        u = p[0] - p[1].
        """
        H, A, y = self.matrices
        lam, n = float(np.float32(self.strength)), H.shape[1]
        Q, c = H.T @ H, H.T @ y
        bounded = self.box is not None
        x = np.full(n, np.mean(self.box) if bounded else 0.0)
        t = np.abs(A @ x) + 1
        p = [np.full(len(A), lam / 2)] * 2 + [np.ones(n)] * (2 * bounded)
        for _ in range(60):
            s = [t - A @ x, t + A @ x] + ([x - self.box[0], self.box[1] - x] if bounded else [])
            mu = 0.1 * sum(a @ b for a, b in zip(p, s, strict=True)) / sum(map(len, p))
            if mu < 1e-16:
                break
            d, g = [a / b for a, b in zip(p, s, strict=True)], [mu / b - a for a, b in zip(p, s, strict=True)]
            total, difference = d[0] + d[1], d[0] - d[1]
            left = Q + A.T @ ((4 * d[0] * d[1] / total)[:, None] * A)
            right = c - Q @ x - A.T @ (p[0] - p[1] + g[0] - g[1] - difference * (g[0] + g[1]) / total)
            if bounded:
                left[np.diag_indices(n)] += d[2] + d[3]
                right += p[2] - p[3] + g[2] - g[3]
            dx = np.linalg.solve(left, right)
            dt = (g[0] + g[1] + difference * (A @ dx)) / total
            ds = [dt - A @ dx, dt + A @ dx] + ([dx, -dx] if bounded else [])
            dp = [a - b * e for a, b, e in zip(g, d, ds, strict=True)]
            shrink = max(float((-move / value).max()) for move, value in zip(dp + ds, p + s, strict=True))
            step = min(1.0, 0.99 / shrink) if shrink > 0 else 1.0
            x, t, p = x + step * dx, t + step * dt, [a + step * b for a, b in zip(p, dp, strict=True)]
        best, gap, slope = self._gap(x, p[0] - p[1])
        assert gap < 1e-8 * best, "the reference has not converged"
        assert slope < 1e-7, "the reference has not converged"
        return (x[: n // 2] + 1j * x[n // 2 :] if self.is_complex else x).reshape(self.shape), best - gap

    def _gap(self, x, u):
        """f(x) and the duality gap of the real vectors x and u; without a box the gap for slope 0, and the relative
        slope.
        """
        H, A, y = self.matrices
        lam = float(np.float32(self.strength))
        x = x if self.box is None else np.clip(x, *self.box)
        residual, response = H @ x - y, A @ x
        penalty, slope = lam * np.abs(response).sum(), H.T @ residual + A.T @ u
        gap, left = penalty - u @ response, 0.0
        if self.box is None:
            left = np.linalg.norm(slope) / np.linalg.norm(H.T @ y)
        else:
            gap += np.maximum(slope * (x - self.box[0]), slope * (x - self.box[1])).sum()
        return 0.5 * residual @ residual + penalty, gap, left

    def state(self, *, hidden=False, start=None):
        """A PrimalDual with the mask set, from x = 0 or `start`."""
        operator = self.operators[hidden]
        x = np.zeros((1, *self.shape), np.complex64 if self.is_complex else np.float32) if start is None else start
        parts = len(self.mask)
        workspace = self.engine.workspace(parts, *self.shape)
        ones = np.ones(parts, np.float32)
        workspace.load(np.zeros((parts, *self.shape), np.float32), self.strength * ones, ones, (-np.inf, np.inf))
        workspace.mask, workspace.has_mask = lanes(self.mask), True
        return PrimalDual(
            workspace, Measurements([operator], self.y[None]), np.array([self.strength]),
            squared_norm(self.engine, *self.shape), x, self.box, UNCONDITIONED,
        )  # fmt: skip


ONE = np.array([0])
PROBLEMS = {
    "identity, box": Problem("identity", UNIT),
    "blur, box": Problem("blur", UNIT),
    "blur, box, symmetric": Problem("blur", (0.1, 0.8), "symmetric", seed=3),
    "blur, no box": Problem("blur", None, seed=1),
    "mri, box": Problem("mri", UNIT),
    "mri, no box": Problem("mri", None, strength=0.03),
    "complex mri": Problem("complex mri", None),
}
each_problem = pytest.mark.parametrize("name", PROBLEMS)
each_form = pytest.mark.parametrize("hidden", [False, True], ids=["exact", "general"])


def distance(x, reference):
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


def test_forms():
    """The exact form where every H^T H is diagonal in Fourier, the general one else."""
    known, hidden = operators("blur")
    y = np.zeros((2, *SHAPE), np.float32)
    assert isinstance(data_term(Measurements([known], y), UNIT), DiagonalData)
    assert isinstance(data_term(Measurements([known, known], y), UNIT), DiagonalData)
    assert isinstance(data_term(Measurements([hidden], y), UNIT), DualData)
    assert isinstance(data_term(Measurements([known, hidden], y), UNIT), DualData)


@pytest.mark.parametrize("strength", [1e-6, 0.1])
def test_step_sizes(strength):
    """The metric is sigma ||W||^2 + share, and sigma ||W||^2 at least the share of the data term, however small the
    strength.
    """
    problem = Problem("blur", UNIT, strength=strength)
    state = problem.state(hidden=True)
    own, share = state.sigma * squared_norm(problem.engine, *problem.shape), state.term.share()[0, 0, 0]
    np.testing.assert_allclose(state.metric[0], own[0] + share, rtol=1e-6)
    of_residual = share - state.term.box_sigma
    assert own >= 0.999 * of_residual
    assert (own > 2 * of_residual) == (strength == 0.1)


@each_form
@each_problem
def test_solution_is_the_references(name, hidden):
    """After many steps: f(x) - f* at float32 rounding, x near x* as far as f is curved there; the box holds."""
    problem = PROBLEMS[name]
    state = problem.state(hidden=hidden)
    found = state.run(ONE, 1e-5, 6000, 50).certificate
    best, lowest = problem.solution
    x = state.accepted(ONE)[0]
    reached = problem.objective(x)
    assert found.relative_gap[0] <= 5e-5
    assert found.objective[0] == pytest.approx(reached, rel=ROUNDING)
    assert -ROUNDING <= reached / lowest - 1 <= 1e-4
    assert distance(x, best) < (3e-2 if problem.is_complex else 1e-2)
    if problem.box is not None:
        assert x.min() >= np.float32(problem.box[0])
        assert x.max() <= np.float32(problem.box[1])
        assert (best <= problem.box[0] + 1e-6).any(), "a box that does not bind tests nothing"


@each_form
@each_problem
@pytest.mark.parametrize("means", [False, True], ids=["last", "means"])
def test_certificate_holds_at_every_step(name, hidden, means):
    """f(x) - f* <= gap, without a box as far as x* lies in the ball, else in proportion; by the mean dual points too.

    Never negative, and it falls to the tolerance.
    """
    problem = PROBLEMS[name]
    best, lowest = problem.solution
    state, seen = problem.state(hidden=hidden), []
    for steps in (1, 1, 1, 2, 5, 10, 20, 40, 80, 160, 320):
        found = state.run(ONE, 0.0, steps, steps, means=means).certificate
        x = state.accepted(ONE)[0]
        off = problem.objective(x) - lowest
        objective, gap = found.objective[0], found.gap[0]
        assert gap >= -1e-6 * objective
        assert found.relative_gap[0] == pytest.approx(gap / objective)
        far = 1.0
        if problem.box is None:
            radius = max(np.linalg.norm(x), state.least_radius[0])
            far = max(far, np.linalg.norm(x - best) / radius)
        assert -ROUNDING * lowest <= off <= far * gap + ROUNDING * objective
        seen.append(gap / objective)
    assert min(seen[-3:]) < max(seen[:3]) / 20


@each_form
@pytest.mark.parametrize("name", [name for name, problem in PROBLEMS.items() if problem.box is None])
def test_no_image_of_the_ball_is_better(name, hidden):
    """The gap without a box, recomputed in float64 from x and u, bounds f(x) - f(x') for random x' of the ball, far and
    near.
    """
    problem, rng = PROBLEMS[name], np.random.default_rng(0)
    state = problem.state(hidden=hidden)
    best, _ = problem.solution
    for steps in (5, 100):
        gap = state.run(ONE, 0.0, steps, steps).certificate.gap[0]
        x = state.accepted(ONE)[0].astype(complex if problem.is_complex else float)
        radius = max(np.linalg.norm(x), state.least_radius[0])
        towards = [best - x, -x, *rng.standard_normal((20, *x.shape))]
        others = [x + share * radius * d / np.linalg.norm(d) for d in towards for share in (1e-3, 0.1, 1.0)]
        value = problem.objective(x)
        assert all(value - problem.objective(other) <= gap + ROUNDING * value for other in others)


def test_ball_of_a_start_at_zero():
    """Where x is zero the ball is not: zero is no minimiser, and the gap says so."""
    problem = PROBLEMS["complex mri"]
    for hidden in (False, True):
        state = problem.state(hidden=hidden)
        found, zero = state.certificate(ONE), problem.objective(np.zeros(problem.shape, complex))
        assert not state.accepted(ONE).any()
        assert found.relative_gap[0] > 0.5
        assert found.gap[0] >= zero - problem.solution[1]


@each_form
@pytest.mark.parametrize("name", [name for name, problem in PROBLEMS.items() if problem.box is None])
def test_gap_is_zero_at_the_minimiser(name, hidden):
    """Of the reference, where z = -H^T (H x - y)."""
    problem = PROBLEMS[name]
    operator = problem.operators[hidden]
    state = problem.state(hidden=hidden)
    x = problem.solution[0].astype(state.x.dtype)[None]
    residual = operator.apply(x) - problem.y
    state.x_hat, state.z_hat, state.extra_hat = x, -operator.adjoint(residual), residual if hidden else 0 * x
    assert abs(state.certificate(ONE).relative_gap[0]) < 1e-5


@each_problem
def test_both_forms_reach_one_image(name):
    """Each stops by its certificate; then f differs by no more than the gaps, and the images are near."""
    problem = PROBLEMS[name]
    images, values, gaps = [], [], []
    for hidden in (False, True):
        state = problem.state(hidden=hidden)
        found = state.run(ONE, 1e-4, 6000, 20).certificate
        assert found.relative_gap[0] <= 1e-4
        images.append(state.accepted(ONE)[0])
        values.append(found.objective[0])
        gaps.append(found.gap[0])
    assert abs(values[0] - values[1]) <= max(gaps) + ROUNDING * values[0]
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert distance(images[0], images[1]) < 2e-2


@pytest.mark.parametrize("name", ["blur, box", "mri, no box", "complex mri"])
def test_dual_variable_obeys_its_bounds(name, monkeypatch):
    """u_hat of a step of weight 0 lies within lambda M, and z_hat is its W^T u: what the certificate stands on."""
    problem = PROBLEMS[name]
    state = problem.state()
    state.run(ONE, 0.0, 25, 25)
    state.run(ONE, 0.0, 1, 1)  # the first step of a run has weight 0
    u = channels_first(state.workspace.dual[state.workspace.slot, np.arange(len(problem.mask))], CHANNELS)
    assert (np.abs(u) <= np.float32(problem.strength) * problem.mask).all()
    filters = problem.engine.model.filters
    z = [oracle.synthesis(part, filters.layers, filters.boundary) for part in u]
    exact = z[0] if len(z) == 1 else z[0] + 1j * z[1]
    np.testing.assert_allclose(state.z_hat[0], exact, rtol=0, atol=2e-7)


@pytest.mark.parametrize("hidden", [False, True], ids=["exact", "general"])
def test_start_does_not_matter(hidden):
    """The convex problem has one value, wherever x starts."""
    problem = PROBLEMS["blur, box"]
    values = []
    for start in (np.zeros((1, *SHAPE), np.float32), np.random.default_rng(0).random((1, *SHAPE), np.float32)):
        state = problem.state(hidden=hidden, start=start)
        before = start.copy()
        values.append(state.run(ONE, 1e-4, 2000, 20).certificate.objective[0])
        np.testing.assert_array_equal(start, before)
    assert values[0] == pytest.approx(values[1], rel=2e-4)


def test_limit_and_checks():
    """No more steps than the limit; the certificate is of the last one; an image that is done makes no more."""
    problem = PROBLEMS["blur, box"]
    state = problem.state()
    found = state.run(ONE, 0.0, 7, 20).certificate
    assert state.steps[0] == 7
    assert np.isfinite(found.relative_gap[0])
    assert found.relative_gap[0] == state.certificate(ONE).relative_gap[0]
    state.run(ONE, 1e9, 100, 20)
    assert state.steps[0] == 27


def test_problem_solved_from_the_start():
    """y = 0: f = 0 at once, with a box and without; nothing is divided by it."""
    for name in PROBLEMS:
        problem = PROBLEMS[name]
        if problem.box is not None and problem.box[0] > 0:
            continue
        state = problem.state()
        state = PrimalDual(
            state.workspace, Measurements([problem.operators[0]], 0 * problem.y[None]), np.array([STRENGTH]),
            squared_norm(problem.engine, *problem.shape), state.x, problem.box, UNCONDITIONED,
        )  # fmt: skip
        found = state.run(ONE, 1e-3, 300, 5).certificate
        assert (found.objective[0], found.gap[0], found.relative_gap[0]) == (0, 0, 0)
        assert state.steps[0] == 5
        assert not state.accepted(ONE).any()


def test_mask_of_zeros():
    """Without a penalty, and so without a dual variable: the data alone."""
    problem = PROBLEMS["identity, box"]
    state = problem.state()
    state.workspace.mask[...] = 0
    found = state.run(ONE, 1e-5, 400, 20).certificate
    assert found.relative_gap[0] <= 1e-5
    np.testing.assert_allclose(state.accepted(ONE)[0], np.clip(problem.y, 0, 1), atol=2e-3)


@each_form
def test_step_sizes_use_their_whole_bound(hidden):
    """The metric is sigma ||W||^2 and sigma ||K||^2 of the other dual variables, not more."""
    problem = PROBLEMS["mri, box"]
    state = problem.state(hidden=hidden)
    others = state.term.sigma
    if hidden:
        others = others * problem.operators[0].norm ** 2 + state.term.box_sigma
    whole = state.sigma * squared_norm(problem.engine, *problem.shape) + others
    np.testing.assert_allclose(state.metric[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(state.workspace.step_size, state.sigma, rtol=1e-6)


@pytest.mark.parametrize(("boundary", "size"), [("symmetric", (30, 44)), ("zero", (41, 32))])
def test_the_metric_bounds_the_filters(boundary, size):
    """W^T W <= Q as matrices, the boundary included, and not by far; also with the metric of an operator."""
    engine = CpuEngine(random_model(channels=CHANNELS, boundary=boundary))
    workspace = engine.workspace(1, *size)
    blur = Blur(TAPS, size)
    for normal, multiplier in (
        (lambda x: workspace.normal_operator(x.astype(np.float32)), metric(engine, *size)),
        (blur.normal, bound(blur.normal, (1, *size))),
    ):
        root = multiplier.astype(float) ** -0.5

        def between(x, normal=normal, root=root):
            def filtered(values):
                return np.fft.ifft2(np.fft.fft2(values) * root).real

            return filtered(normal(filtered(x)))

        vector = np.random.default_rng(1).standard_normal((1, *size))
        for _ in range(200):
            vector = between(vector / np.linalg.norm(vector))
        assert 0.9 < np.linalg.norm(vector) <= 1
    assert metric(engine, *size) is metric(engine, *size)


def test_mean_of_a_run():
    """Weights 1, 2, 3, ...; a weight of 0 starts anew, and the longer of the last two runs is given. Each image has its
    own.
    """
    rng = np.random.default_rng(0)
    z, extra = (rng.standard_normal((7, 2, *shape)).astype(np.float32) for shape in ((4, 3), (5,)))
    means, everyone = DualMeans(z[0], extra[0]), np.arange(2)
    assert means.point(everyone) is None
    means.add(everyone, np.zeros(2), (z[0], extra[0]))
    assert means.point(everyone) is None
    for step in range(1, 5):  # image 1 starts anew at step 3
        means.add(everyone, np.array([0.5, 0.0 if step == 3 else 0.5]), (z[step], extra[step]))
    for values, found in zip((z, extra), means.point(everyone), strict=True):
        np.testing.assert_allclose(found[0], np.average(values[1:5, 0], axis=0, weights=[1, 2, 3, 4]), rtol=1e-5)
        np.testing.assert_allclose(found[1], np.average(values[1:3, 1], axis=0, weights=[1, 2]), rtol=1e-5)
    for step in (5, 6):
        means.add(ONE + 1, np.full(1, 0.5), (z[step, 1:], extra[step, 1:]))
    for values, found in zip((z, extra), means.point(ONE + 1), strict=True):
        np.testing.assert_allclose(found[0], np.average(values[4:7, 1], axis=0, weights=[1, 2, 3]), rtol=1e-5)


def test_means_count_where_they_prove_more():
    """The gap is never larger than by the last dual point alone, and that of the mean where the last one is bad."""
    with_means, without = (PROBLEMS["mri, box"].state(hidden=True) for _ in range(2))
    found = with_means.run(ONE, 0.0, 300, 300, means=True).certificate
    alone = without.run(ONE, 0.0, 300, 300).certificate
    np.testing.assert_array_equal(found.objective, alone.objective)
    assert found.gap[0] <= alone.gap[0]
    for state in (with_means, without):
        state.z_hat = state.z_hat + np.float32(0.1)
    assert with_means.certificate(ONE).gap[0] < 0.5 * without.certificate(ONE).gap[0]


def test_masks_are_mixed():
    """A linear outer iteration with the eigenvalue -1 alternates for ever, one with 0.9 creeps; mixed, both end. A
    fixed point stays, to the last bit.
    """
    rng = np.random.default_rng(1)
    point = rng.standard_normal((2, 6, 5)).astype(np.float32)
    factors = np.array([-1.0, 0.9], np.float32).reshape(2, 1, 1)
    seen, everyone = point + rng.standard_normal(point.shape).astype(np.float32), np.arange(2)
    mixing, changes = Mixing(seen), []
    for outer in range(6):
        x = point + factors * (seen - point)
        changes.append(mixing.change(everyone, x))
        seen = mixing.next(everyone, x, outer > 1)
    assert (changes[2] > 0.05).all()
    assert changes[-1][0] < 1e-5
    assert changes[-1][1] < 0.4 * changes[2][1]  # alone 0.9^3
    still = Mixing(point)
    for outer in range(4):
        assert (still.change(everyone, point) == 0).all()
        np.testing.assert_array_equal(still.next(everyone, point, outer > 1), point)


@pytest.mark.parametrize("name", ["SENSE", "CT", "MRI, one coil, complex"])
def test_conjugate_gradients(name):
    """Each image has its own: one step is steepest descent, many reach the least-squares image, one without slope
    stays.
    """
    operator, y = problem(name, 3)
    y[1] = 0
    measurements = Measurements([operator], y)
    np.testing.assert_allclose(measurements.conjugate_gradients(1), measurements.least_squares_step(), atol=1e-6)
    x = measurements.conjugate_gradients(40)
    assert not x[1].any()
    slopes = [np.linalg.norm(operator.adjoint(y - operator.apply(image))) for image in (np.zeros_like(x), x)]
    assert slopes[1] < 0.01 * slopes[0]
    np.testing.assert_allclose(
        Measurements([operator], y[2:]).conjugate_gradients(7), measurements.conjugate_gradients(7)[2:], atol=2e-5
    )
