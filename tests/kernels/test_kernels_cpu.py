"""Every CPU kernel against the float64 oracle, through the workspace or the arguments that the binding gives it.

Tolerances: at most twice the error of plain float32 NumPy (plain.py), or a stated number of float32 roundings. Work
space and outputs are filled with NaN first wherever a kernel has to write all of it before it reads.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import oracle
import plain
import pytest
from cpu_layout import GROUP, channels_first, convolve, identity, lanes, smooth
from models import conditions, random_mmr_mask, random_model
from numba import njit
from plain import EPS, assert_as_good

from safi_fast.bindings.cpu import CpuEngine
from safi_fast.bindings.cpu_weights import MmrWeights, flat, padded, per_image, spline_bank
from safi_fast.kernels.cpu.arguments import Place
from safi_fast.kernels.cpu.features import features
from safi_fast.kernels.cpu.fft import fft16, fft32
from safi_fast.kernels.cpu.simd import SATURATION, load, sigmoid, store
from safi_fast.kernels.cpu.spline import spline
from safi_fast.solver.certificate import StepSums, primal_certificate
from safi_fast.solver.lipschitz import squared_norm

# channels, kernel sizes of the cascade, boundary, composed to one layer
BANKS = {
    "one channel, one layer": (1, (7,), "zero", False),
    "five, unequal": (5, (5, 3), "zero", False),
    "five, three layers": (5, (3, 7, 5), "zero", False),
    "widest support": (3, (9, 9), "zero", False),
    "wider second layer": (3, (3, 9), "zero", False),
    "sixteen, published sizes": (16, (7, 7), "zero", False),
    "forty, three layers": (40, (3, 5, 3), "zero", False),
    "sixty-four, published sizes": (64, (7, 7), "zero", False),
    "composed, zero": (5, (7, 7), "zero", True),
    "composed, symmetric": (5, (7, 7), "symmetric", True),
    "thirty-two, symmetric": (32, (7, 7), "symmetric", False),
    "symmetric, three layers": (5, (3, 7, 5), "symmetric", False),
}
SIZES = [None, (17, 45), (33, 20), (41, 64)]  # None: as small as the filters
FEW = ["five, three layers", "sixteen, published sizes", "composed, symmetric", "forty, three layers"]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@cache
def model_of(bank, family="safi"):
    channels, kernels, boundary, composed = BANKS[bank]
    return random_model(family, channels, kernels=kernels, boundary=boundary, composed=composed)


@cache
def engine_of(bank, family="safi"):
    return CpuEngine(model_of(bank, family))


def poison(workspace):
    """NaN into everything that every kernel must write before it reads it."""
    for array in (workspace.tiles, workspace.l1, workspace.sums, *workspace.work, *workspace.mix_work()):
        array[...] = np.nan


def poison_other_slot(workspace):
    """NaN into z, x(u) and x(v) of the slot that the next step writes; the margin of zero padding is nobody's
    output.
    """
    around = 0 if workspace.weights.symmetric else workspace.weights.halo
    last_row, last_column = (size + 2 * workspace.weights.halo - around for size in (workspace.height, workspace.width))
    for b, slot in enumerate(1 - workspace.slot):
        workspace.z[slot, b] = np.nan
        for plane in (slot, 2 + slot):
            workspace.image_slots[plane, b, around:last_row, around:last_column] = np.nan


def loaded(engine, y, *, strength=0.1, step=0.9, box=(0.0, 1.0)):
    """A poisoned workspace with the problems y (B, H, W)."""
    workspace = engine.workspace(*y.shape)
    poison(workspace)
    strength, step = (np.broadcast_to(np.float32(values), len(y)) for values in (strength, step))
    workspace.load(y, strength, step, box)
    return workspace


def assert_near(actual, exact, tolerance):
    np.testing.assert_allclose(actual, exact, rtol=0, atol=tolerance)


def everyone(workspace):
    return np.arange(workspace.batch)


def set_dual(workspace, u):
    """The current u becomes u (B, C, H, W); the other slot is NaN."""
    workspace.dual[...] = np.nan
    workspace.dual[workspace.slot, everyone(workspace)] = lanes(u)


def set_mask(workspace, mask):
    workspace.mask, workspace.has_mask = lanes(mask), True


def current(workspace, array):
    return array[workspace.slot, everyone(workspace)]


def dual_of(workspace):
    return channels_first(current(workspace, workspace.dual), workspace.weights.model.filters.channels)


def images(rng, engine, size, batch=2):
    return rng.random((batch, *(size or (engine.weights.support,) * 2)), np.float32)


# -------------------------------------------------------------------------------------------------------- transforms


@pytest.mark.parametrize(("transform", "length"), [(fft32, 32), (fft16, 16)])
@pytest.mark.parametrize(("stride", "offset"), [(16, 0), (48, 5), (33 * 16, 0)])
def test_transform_against_numpy(rng, transform, length, stride, offset):
    """Sixteen transforms at once, forward and (parts swapped) backward; what lies between the elements stays."""
    floats = offset + (length - 1) * stride + 16 + 3
    re, im = rng.standard_normal((2, floats)).astype(np.float32)
    scratch, base = np.full(2 * length * 16 + 7, np.nan, np.float32), 7
    places = offset + stride * np.arange(length)[:, None] + np.arange(16)
    before = re.copy(), im.copy()
    exact = np.fft.fft(re[places] + 1j * im[places].astype(float), axis=0)
    single = (
        np.ones(length)[:, None] * 0 + np.exp(-2j * np.pi * np.outer(np.arange(length), np.arange(length)) / length)
    ).astype(np.complex64)
    direct = single @ (re[places] + 1j * im[places])

    transform(re, im, offset, stride, scratch, base)
    assert_as_good(re[places], exact.real, direct.real)
    assert_as_good(im[places], exact.imag, direct.imag)
    transform(im, re, offset, stride, scratch, base)
    # Two transforms, each with an error of a few roundings of the largest value of its input.
    np.testing.assert_allclose(re[places] / length, before[0][places], rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(im[places] / length, before[1][places], rtol=0, atol=16 * EPS)
    between = np.ones(floats, bool)
    between[places] = False
    np.testing.assert_array_equal(re[between], before[0][between])
    np.testing.assert_array_equal(im[between], before[1][between])


# ------------------------------------------------------------------------------------------------------- filter bank


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bank", BANKS)
def test_analysis(rng, bank, size):
    engine, model = engine_of(bank), model_of(bank)
    x = images(rng, engine, size)
    workspace = loaded(engine, x)
    workspace.dual[...] = np.nan
    response = workspace.filtered()
    for image, actual in zip(x, response, strict=True):
        exact = oracle.analysis(image, model.filters.layers, model.filters.boundary)
        assert_as_good(actual, exact, plain.analysis(image, model.filters))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bank", BANKS)
def test_synthesis(rng, bank, size):
    engine, filters = engine_of(bank), model_of(bank).filters
    workspace = loaded(engine, images(rng, engine, size), box=(-np.inf, np.inf))
    u = rng.standard_normal((2, filters.channels, workspace.height, workspace.width), np.float32)
    set_dual(workspace, u)
    workspace.refresh(everyone(workspace))
    for response, y, z, x in zip(
        u, workspace.y.reshape(2, workspace.height, -1), current(workspace, workspace.z), workspace.image(), strict=True
    ):
        exact = oracle.synthesis(response, filters.layers, filters.boundary)
        assert_as_good(z, exact, plain.synthesis(response, filters))
        np.testing.assert_array_equal(x, y - z)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bank", BANKS)
def test_synthesis_is_the_adjoint_of_analysis(rng, bank, size):
    """<W x, u> = <x, W^T u>: each side is off by roundings of its norms at most, as errors of
    pixels are independent.
    """
    engine, channels = engine_of(bank), model_of(bank).filters.channels
    x = images(rng, engine, size, batch=1) - np.float32(0.5)
    workspace = loaded(engine, x)
    response = workspace.filtered().astype(float)
    u = rng.standard_normal((1, channels, workspace.height, workspace.width), np.float32)
    set_dual(workspace, u)
    workspace.refresh(everyone(workspace))
    back = current(workspace, workspace.z).astype(float)
    assert abs(np.vdot(response, u) - np.vdot(x, back)) <= EPS * np.linalg.norm(response) * np.linalg.norm(u)


@pytest.mark.parametrize("bank", FEW)
def test_masked_analysis_and_synthesis(rng, bank):
    """start_dual gives M . W x, refresh W^T(M . u) and both images clipped to the box."""
    engine, filters = engine_of(bank), model_of(bank).filters
    y = images(rng, engine, (29, 37))
    workspace = loaded(engine, y, box=(0.2, 0.7))
    mask = rng.random((2, filters.channels, 29, 37), np.float32)
    set_mask(workspace, mask)
    workspace.dual[...] = np.nan
    workspace.start_dual(everyone(workspace))
    started = dual_of(workspace)
    workspace.refresh(everyone(workspace))
    for b in range(2):
        exact = mask[b] * oracle.analysis(y[b], filters.layers, filters.boundary)
        assert_as_good(started[b], exact, mask[b] * plain.analysis(y[b], filters))
        z = current(workspace, workspace.z)[b]
        back = oracle.synthesis(mask[b] * started[b].astype(float), filters.layers, filters.boundary)
        assert_as_good(z, back, plain.synthesis(mask[b] * started[b], filters))
        for plane in (0, 2):  # x(v), x(u)
            workspace.accepted[:] = plane + workspace.slot
            np.testing.assert_array_equal(workspace.image()[b], np.clip(y[b] - z, np.float32(0.2), np.float32(0.7)))


@pytest.mark.parametrize("bank", ["five, unequal", "composed, symmetric", "sixty-four, published sizes"])
def test_normal_operator(rng, bank):
    engine, filters = engine_of(bank), model_of(bank).filters
    x = images(rng, engine, (21, 34), batch=1)
    result = engine.workspace(1, 21, 34).normal_operator(x)
    exact = oracle.synthesis(oracle.analysis(x[0], filters.layers, filters.boundary), filters.layers, filters.boundary)
    assert_as_good(result[0], exact, plain.synthesis(plain.analysis(x[0], filters), filters))


@pytest.mark.parametrize("size", [(13, 13), (26, 41)], ids=str)
@pytest.mark.parametrize("bank", ["five, unequal", "widest support", "composed, symmetric", "symmetric, three layers"])
def test_squared_norm_is_a_close_upper_estimate(bank, size):
    engine, filters = engine_of(bank), model_of(bank).filters
    size = tuple(max(n, filters.support) for n in size)
    largest = oracle.lipschitz(filters.layers, filters.boundary, size, iterations=400)
    assert 0.99 * largest <= squared_norm(engine, *size) <= 1.05 * largest


# --------------------------------------------------------------------------------------------------------- dual step


class Dual:
    """The dual iteration in float64 by the oracle's formulas, for one image: u, v, z = W^T(M . u), x(u) and x(v)."""

    def __init__(self, y, u, mask, filters, step, bound, box):
        self.y, self.mask, self.step, self.bound, self.box = y, mask, step, bound, box
        self.where = (filters.layers, filters.boundary)
        self.u = self.v = u.astype(float)
        self.z, self.x = self._image(self.u)
        self.x0 = self.x

    def _image(self, u):
        z = oracle.synthesis(u if self.mask is None else self.mask * u, *self.where)
        return z, self.y - z if self.box is None else np.clip(self.y - z, *self.box)

    def advance(self, momentum):
        """One step; returns the six sums that `Workspace.step` measures, and the size of what
        rounding acts on in each.
        """
        new = oracle.dual_step(self.v, self.y, self.bound, 1 / self.step, self.mask, *self.where, self.box)
        response = oracle.analysis(self.x0, *self.where)
        norm = np.abs(response if self.mask is None else self.mask * response)
        self.v, self.u = new + momentum * (new - self.u), new
        x0, x_old, (self.z, self.x) = self.x0, self.x, self._image(self.u)
        self.x0 = self._image(self.v)[1]
        off, rest, change = x0 - self.y, (x0 + self.x) / 2 - self.y + self.z, self.x - x_old
        terms = norm, self.z * x0, off**2 / 2, (x0 - self.x) * rest, change**2, x_old**2
        sizes = norm, self.z * x0, off, np.abs(x0 - self.x) + np.abs(rest), change, x_old**2
        return np.array([term.sum() for term in terms]), np.array([np.abs(size).sum() for size in sizes])


# Per image of a batch: bound (lambda), step and the momenta of three steps.
BOUNDS, STEPS = np.float32([0.02, 0.3, 0.1]), np.float32([0.9, 0.5, 1.1])
MOMENTA = np.float32([[0.0, 0.3, 0.0], [0.28, 0.6, 0.4], [0.43, 1.2, 0.9]])  # learned ones may be above 1


@pytest.mark.parametrize("box", [(0.0, 1.0), (-np.inf, np.inf)], ids=["box", "no box"])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("bank", FEW)
def test_dual_step(rng, bank, masked, box):
    """Three steps of three images, each with its own bound, step and momentum: u, z, x(u), x(v) and the sums."""
    engine, filters = engine_of(bank), model_of(bank).filters
    y = (1.4 * images(rng, engine, (23, 38), batch=3) - np.float32(0.2)).astype(np.float32)
    workspace = loaded(engine, y, strength=BOUNDS, step=STEPS, box=box)
    u = 0.3 * rng.standard_normal((3, filters.channels, 23, 38), np.float32)
    mask = rng.random(u.shape, np.float32) if masked else [None] * 3
    if masked:
        set_mask(workspace, mask)
    set_dual(workspace, u)
    workspace.dual[1 - workspace.slot, everyone(workspace)] = 0
    workspace.refresh(everyone(workspace))
    limits = None if np.isinf(box[0]) else box
    exact = [Dual(y[b].astype(float), u[b], mask[b], filters, STEPS[b], float(BOUNDS[b]), limits) for b in range(3)]
    for momentum in MOMENTA:
        poison(workspace)
        poison_other_slot(workspace)
        sums = workspace.step(everyone(workspace), momentum)
        for b, dual in enumerate(exact):
            # Every pixel of x carries roundings of 1, which W passes on with ||W|| near 1.
            exact_sums, sizes = dual.advance(float(momentum[b]))
            assert (np.abs(sums[b] - exact_sums) <= 4 * EPS * sizes).all()
            assert_near(dual_of(workspace)[b], dual.u, 4 * EPS * max(1, np.abs(dual.v).max()))
            assert np.abs(dual_of(workspace)[b]).max() <= BOUNDS[b]
            assert_near(current(workspace, workspace.z)[b], dual.z, 4 * EPS * max(1, np.abs(dual.z).max()))
            for plane, x in ((2, dual.x), (0, dual.x0)):
                workspace.accepted[:] = plane + workspace.slot
                assert_near(workspace.image()[b], x, 4 * EPS * max(1, np.abs(x).max()))


@pytest.mark.parametrize("box", [(0.0, 1.0), (-np.inf, np.inf)], ids=["box", "no box"])
@pytest.mark.parametrize("bank", ["five, three layers", "composed, symmetric"])
def test_certificate_is_primal_minus_dual_objective(rng, bank, box):
    """gap = f(x0) - d(u) after a step and f(x(u)) - d(u) of x(u); no larger than the bound
    with a linearised data term.
    """
    engine, filters = engine_of(bank), model_of(bank).filters
    where = (filters.layers, filters.boundary)
    y = (1.4 * images(rng, engine, (23, 38)) - np.float32(0.2)).astype(np.float32)
    workspace, strength = loaded(engine, y, strength=0.1, step=0.5, box=box), np.full(2, float(np.float32(0.1)))
    mask = rng.random((2, filters.channels, 23, 38), np.float32)
    set_mask(workspace, mask)
    workspace.clear_dual(everyone(workspace))
    workspace.refresh(everyone(workspace))
    for momentum in (0.0, 0.3, 0.6):
        sums = workspace.step(everyone(workspace), np.full(2, momentum, np.float32))
        after = StepSums.from_array(sums).certificate(strength)
        workspace.accept(everyone(workspace), "extrapolated")
        start = workspace.image().astype(float)
        primal = primal_certificate(workspace.measure(everyone(workspace)), strength)
        for b in range(2):
            problem = (y[b].astype(float), strength[b], mask[b], *where)
            u = dual_of(workspace)[b].astype(float)
            z = oracle.synthesis(mask[b] * u, *where)
            nearest = np.clip(y[b] - z, *box)
            bound = ((nearest - y[b]) ** 2).sum() / 2 + np.vdot(z, nearest)
            for x, certificate in ((start[b], after), (nearest, primal)):
                objective = oracle.objective(x, *problem)
                assert certificate.objective[b] == pytest.approx(objective, rel=1e-6)
                assert certificate.gap[b] == pytest.approx(objective - bound, abs=1e-6 * objective)
                assert certificate.dual_objective[b] == pytest.approx(bound, rel=2e-6)
                if np.isfinite(box[0]):
                    assert certificate.gap[b] <= oracle.duality_gap(x, u, *problem, box) + 1e-6 * objective


@pytest.mark.parametrize("bank", FEW)
def test_measure_of_this_step_and_the_one_before(rng, bank):
    engine, filters = engine_of(bank), model_of(bank).filters
    where = (filters.layers, filters.boundary)
    y = images(rng, engine, (23, 38))
    workspace = loaded(engine, y, step=0.5)
    mask = rng.random((2, filters.channels, 23, 38), np.float32)
    set_mask(workspace, mask)
    workspace.start_dual(everyone(workspace))
    workspace.dual[1 - workspace.slot, everyone(workspace)] = 0
    workspace.refresh(everyone(workspace))
    for momentum in (0.0, 0.5):
        workspace.step(everyone(workspace), np.full(2, momentum, np.float32))
    for previous in (False, True):
        poison(workspace)
        sums = workspace.measure(everyone(workspace), previous)
        workspace.accept(everyone(workspace), "previous" if previous else "primal")
        u = dual_of(workspace)
        if previous:
            u = channels_first(workspace.dual[1 - workspace.slot, [0, 1]], filters.channels)
        for b, x in enumerate(workspace.image().astype(float)):
            norm = np.abs(mask[b] * oracle.analysis(x, *where)).sum()
            z = oracle.synthesis(mask[b] * u[b].astype(float), *where)
            np.testing.assert_allclose(sums[b], [norm, np.vdot(z, x), ((x - y[b]) ** 2).sum() / 2], rtol=3e-6)


def test_collapse_momentum_moves_u_to_v(rng):
    engine = engine_of("five, unequal")
    workspace = loaded(engine, images(rng, engine, (20, 23), batch=3))
    u, before = rng.standard_normal((2, 3, 5, 20, 23), np.float32)
    workspace.slot[:] = 0, 1, 0
    set_dual(workspace, u)
    workspace.dual[1 - workspace.slot, [0, 1, 2]] = lanes(before)
    workspace.carried[:] = 0.4, 0.7, 0.2
    workspace.collapse_momentum(np.array([0, 1]))
    for b, momentum in enumerate((0.4, 0.7)):
        expected = u[b] + momentum * (u[b] - before[b].astype(float))
        np.testing.assert_allclose(dual_of(workspace)[b], expected, rtol=0, atol=4 * EPS * abs(expected).max())
    np.testing.assert_array_equal(dual_of(workspace)[2], u[2])
    np.testing.assert_array_equal(workspace.carried, np.float32([0, 0, 0.2]))


@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_inactive_images_stay_as_they_are(rng, family, boundary):
    """Every operation on images 0 and 2 of a batch leaves each array of image 1 untouched, bit for bit."""
    engine = CpuEngine(random_model(family, 5, boundary=boundary))
    workspace = loaded(engine, images(rng, engine, (22, 27), batch=3))
    some, conditioning = np.array([0, 2]), np.tile(conditions(engine.model)[0], (3, 1))
    workspace.start_dual(everyone(workspace))
    workspace.refresh(everyone(workspace))
    workspace.step(everyone(workspace), np.zeros(3, np.float32))
    workspace.accept(everyone(workspace), "primal")
    workspace.collapse_momentum(everyone(workspace))
    workspace.update_mask(everyone(workspace), conditioning, 0 * conditioning)

    def arrays():
        own = (workspace.dual[:, 1], workspace.z[:, 1], workspace.image_slots[:, 1], workspace.mask[1])
        return [a.copy() for a in (*own, workspace.slot[1], workspace.accepted[1], workspace.carried[1])]

    before = arrays()
    workspace.start_dual(some)
    workspace.refresh(some)
    workspace.step(some, np.zeros(3, np.float32))
    workspace.step(some, np.full(3, 0.3, np.float32))
    workspace.measure(some)
    workspace.accept(some, "previous")
    workspace.outer_change(some)
    workspace.collapse_momentum(some)
    workspace.update_mask(some, 2 * conditioning, conditioning)
    workspace.clear_dual(some)
    workspace.put_image(some, np.zeros((3, 22, 27), np.float32))
    workspace.anchored_step(some, np.ones((3, 22, 27), np.float32), np.zeros(3, np.float32))
    workspace.adjoint_of_dual(some)
    workspace.penalty(some, np.ones((3, 22, 27), np.float32))
    for then, now in zip(before, arrays(), strict=True):
        np.testing.assert_array_equal(now, then)


# ------------------------------------------------------------------------------------------- the primal-dual iteration

# three images, six steps; above 1: relaxed
WEIGHTS = np.float32([[0, 0, 0], [0.5, 0, 0.6], [2 / 3, 0.5, 0], [1.8, 2 / 3, 1.2], [1.5, 1.9, 0.5], [0.75, 0, 1.1]])


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("bank", FEW)
def test_anchored_step(rng, bank, masked):
    """Steps at as many images, each image of the batch with its own bound, step, weight: u, W^T u and the change of
    u.
    """
    engine, filters = engine_of(bank), model_of(bank).filters
    where, everybody = (filters.layers, filters.boundary), np.arange(3)
    workspace = loaded(engine, np.zeros((3, 23, 38), np.float32), strength=BOUNDS)
    workspace.set_step(STEPS)
    u = 0.3 * rng.standard_normal((3, filters.channels, 23, 38), np.float32)
    mask = rng.random(u.shape, np.float32) * (rng.random(u.shape) < 0.8) if masked else np.ones_like(u)
    mask = mask.astype(np.float32)
    if masked:
        set_mask(workspace, mask)
    workspace.slot[:] = 0, 1, 0
    set_dual(workspace, u)
    u, anchor = u.astype(float), np.full(u.shape, np.nan)
    limit = BOUNDS[:, None, None, None].astype(float) * mask
    for weight in WEIGHTS:
        poison(workspace)
        x = (2 * rng.random((3, 23, 38), np.float32) - np.float32(0.5)).astype(np.float32)
        z, change = workspace.anchored_step(everybody, x, weight)
        hat = u + STEPS[:, None, None, None].astype(float) * [oracle.analysis(image, *where) for image in x]
        hat = np.clip(hat, -limit, limit)
        w = weight[:, None, None, None].astype(float)
        moved = hat - u
        anchored = np.where(w > 0, w * (hat + moved) + (1 - w) * anchor, hat)
        u, anchor = np.where(w > 1, u + w * moved, anchored), np.where(w > 0, anchor, hat)
        tolerance = 8 * EPS * max(1, np.abs(u).max())
        assert_near(dual_of(workspace), u, tolerance)
        np.testing.assert_allclose(change, (moved**2).sum((1, 2, 3)), rtol=1e-5)
        for b in range(3):
            assert_near(z[b], oracle.synthesis(u[b], *where), tolerance)
            assert_near(workspace.adjoint_of_dual(np.array([b]))[b], oracle.synthesis(u[b], *where), tolerance)


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_anchored_step_stays_within_the_masked_bounds(rng, masked):
    """u_hat, which is u where the weight is 0, obeys |u| <= lambda M exactly: it takes part in the certificate."""
    engine = engine_of("five, three layers")
    workspace = loaded(engine, np.zeros((3, 20, 31), np.float32), strength=BOUNDS)
    mask = rng.random((3, 5, 20, 31), np.float32)
    if masked:
        set_mask(workspace, mask)
    set_dual(workspace, rng.standard_normal((3, 5, 20, 31)).astype(np.float32))
    workspace.anchored_step(np.arange(3), rng.random((3, 20, 31), np.float32), np.zeros(3, np.float32))
    bound = BOUNDS[:, None, None, None] * (mask if masked else np.float32(1))
    reached = np.abs(dual_of(workspace))
    assert (reached <= bound).all()
    assert (reached == bound).any()


@pytest.mark.parametrize("bank", FEW)
def test_some_images_of_an_anchored_step(rng, bank):
    """Image 1 of three is not active: its u and anchor stay, its W^T u comes back as zero, the others get what they get
    alone.
    """
    engine, channels = engine_of(bank), model_of(bank).filters.channels
    x = rng.random((3, 20, 31), np.float32)
    u, anchor = 0.1 * rng.standard_normal((2, 3, channels, 20, 31), np.float32)
    mask, weight = rng.random(u.shape, np.float32), np.float32([0.5, 0.7, 0])

    def ready(images):
        workspace = loaded(engine, x[images], strength=BOUNDS[images])
        workspace.set_step(STEPS[images])
        set_mask(workspace, mask[images])
        set_dual(workspace, u[images])
        workspace.dual[1 - workspace.slot, everyone(workspace)] = lanes(anchor[images])
        return workspace

    whole = ready([0, 1, 2])
    before = whole.dual[:, 1].copy()
    z, change = whole.anchored_step(np.array([0, 2]), x, weight)
    np.testing.assert_array_equal(whole.dual[:, 1], before)
    assert not z[1].any()
    back = whole.adjoint_of_dual(np.array([2]))
    assert not back[:2].any()
    for place, b in enumerate((0, 2)):
        alone = ready([b])
        z_alone, change_alone = alone.anchored_step(np.array([0]), x[[b]], weight[[b]])
        np.testing.assert_array_equal(z[b], z_alone[0])
        assert change[place] == change_alone[0]
        np.testing.assert_array_equal(whole.dual[:, b], alone.dual[:, 0])
    np.testing.assert_array_equal(back[2], z[2])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bank", ["five, unequal", "composed, symmetric", "sixteen, published sizes"])
def test_adjoint_of_dual(rng, bank, size):
    """W^T u, whatever the mask is; a smallest image and others; tiles of either boundary added up by `gather_image`."""
    engine, filters = engine_of(bank), model_of(bank).filters
    workspace = loaded(engine, images(rng, engine, size))
    u = rng.standard_normal((2, filters.channels, workspace.height, workspace.width), np.float32)
    set_dual(workspace, u)
    set_mask(workspace, rng.random(u.shape, np.float32))
    for z, response in zip(workspace.adjoint_of_dual(everyone(workspace)), u, strict=True):
        exact = oracle.synthesis(response, filters.layers, filters.boundary)
        assert_as_good(z, exact, plain.synthesis(response, filters))


def test_collapsed_momentum_is_the_extrapolated_point(rng):
    engine = engine_of("five, unequal")
    workspace = loaded(engine, images(rng, engine, (13, 17)))
    workspace.dual[:] = rng.standard_normal(workspace.dual.shape, np.float32)
    workspace.slot[:], workspace.carried[:] = (1, 0), (0.4, 0.7)
    u, before = workspace.dual[[1, 0], [0, 1]], workspace.dual[[0, 1], [0, 1]]
    workspace.collapse_momentum(np.array([0]))
    np.testing.assert_allclose(workspace.dual[1, 0], u[0] + 0.4 * (u[0] - before[0]), rtol=0, atol=8 * EPS)
    np.testing.assert_array_equal(workspace.dual[0, 1], u[1])
    assert workspace.carried.tolist() == [0, np.float32(0.7)]


def test_change_between_outer_steps(rng):
    engine = engine_of("five, unequal")
    y, x = images(rng, engine, (13, 17)), images(rng, engine, (13, 17))
    workspace = loaded(engine, y)
    workspace.put_image(everyone(workspace), x)
    first = np.linalg.norm((x - y)[1].astype(float)) / np.linalg.norm(y[1].astype(float))
    np.testing.assert_allclose(workspace.outer_change(np.array([1])), [first], rtol=1e-6)
    assert workspace.outer_change(everyone(workspace))[1] == 0


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("bank", FEW)
def test_penalty(rng, bank, masked):
    """||M . W x||_1 of any image, of some of a batch; u stays."""
    engine, filters = engine_of(bank), model_of(bank).filters
    workspace = loaded(engine, images(rng, engine, (23, 38), batch=3))
    mask = rng.random((3, filters.channels, 23, 38), np.float32) if masked else np.ones((3, 1, 1, 1))
    if masked:
        set_mask(workspace, mask)
    before = workspace.dual.copy()
    x = (3 * rng.random((3, 23, 38), np.float32) - np.float32(1)).astype(np.float32)
    sums = workspace.penalty(np.array([0, 2]), x)
    exact = [np.abs(mask[b] * oracle.analysis(x[b], filters.layers, filters.boundary)).sum() for b in (0, 2)]
    np.testing.assert_allclose(sums, exact, rtol=3e-6)
    np.testing.assert_array_equal(workspace.dual, before)


# ------------------------------------------------------------------------------------------------- splines and masks


@njit
def _apply_lanewise(values, out, groups, bank):
    for first in range(0, values.size, 16):
        lane = first % (groups * 32)
        store(out, first, spline(load(values, first), bank, groups, lane))


@njit
def _apply_sigmoid(values, out):
    for first in range(0, values.size, 16):
        store(out, first, sigmoid(load(values, first)))


@pytest.mark.parametrize("low", [-1.0, 0.0])
@pytest.mark.parametrize("knots", [2, 3, 21])
def test_spline_on_its_range_and_beyond(rng, knots, low):
    channels = 40
    coefficients = rng.standard_normal((channels, knots)).astype(np.float32)
    at_knots = np.linspace(low, 1, knots)
    t = np.concatenate([at_knots, rng.uniform(low, 1, 200), rng.uniform(-5, 5, 100)]).astype(np.float32)
    t = np.tile(t, (channels, 1))
    exact = oracle.spline(t.astype(float), coefficients.astype(float), low, 1)
    bank = spline_bank(coefficients, low, 64)
    values, out = flat(padded(t, 64).T), np.full(64 * t.shape[1], np.nan, np.float32)
    _apply_lanewise(values, out, 2, bank)
    actual = out.reshape(-1, 64).T
    # Roundings of position and sum, each times the slope: up to `knots` pieces of a jump of size 2 to 5, t up to 5.
    scale = np.abs(np.diff(coefficients)).max() * (knots - 1) / (1 - low) * np.maximum(1, np.abs(t))
    assert (np.abs(actual[:channels] - exact) <= 8 * EPS * np.maximum(scale, 1)).all()
    assert not actual[channels:].any()


def test_sigmoid():
    """Relative accuracy up to where it saturates, and the saturated value beyond."""
    inside = np.linspace(-SATURATION, SATURATION, 8000, dtype=np.float32)
    t = np.concatenate([inside, np.float32(8 * [-1e4] + 8 * [1e4])])
    out = np.full(t.size, np.nan, np.float32)
    _apply_sigmoid(t, out)
    exact = 1 / (1 + np.exp(-inside.astype(float)))
    # exp(t) by the bits of t log2(e) is off by the rounding of that product, up to EPS |t| relative
    assert (np.abs(out[:8000] / exact - 1) <= EPS * np.maximum(4, np.abs(inside))).all()
    assert (out[8000:8008] == out[0]).all()
    assert (out[8008:] == 1).all()


@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize(
    ("channels", "kernel", "size"),
    [(5, 3, (17, 45)), (40, 3, (13, 22)), (4, 7, (64, 80)), (4, 5, (25, 28)), (4, 5, (8, 7))],
    ids=["five", "two groups", "more than one set of tiles", "odd number of tiles", "one tile"],
)
def test_convolution(rng, channels, kernel, size, dilation, boundary):
    """C to C channels with splines; two images from different slots; sizes that leave tiles without a partner."""
    if dilation * (kernel - 1) > 14:
        dilation = 14 // (kernel - 1)
    x = rng.standard_normal((2, channels, *size), np.float32)
    weight = (rng.standard_normal((channels, channels, kernel, kernel)) / kernel / channels**0.5).astype(np.float32)
    coefficients = rng.standard_normal((channels, 21)).astype(np.float32)
    output = convolve(x, weight, dilation, boundary, spline_bank(coefficients, -1.0, -(-channels // GROUP) * GROUP))
    linear = convolve(x, weight, dilation, boundary, identity(channels))
    for b in range(2):
        exact = oracle.correlate(x[b], weight, boundary, dilation)
        direct = plain.correlate(x[b], weight, boundary, dilation)
        assert_as_good(linear[b], exact, direct)
        steep = [oracle.spline(np.asarray(values), coefficients, -1, 1) for values in (exact, direct)]
        assert_as_good(output[b], *steep, ulps=16)  # the slopes of the spline are up to 40


@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
def test_widest_convolution(rng, boundary):
    """Fifteen pixels with the dilation: two outputs per side of a tile."""
    x, weight = rng.standard_normal((2, 4, 17, 18), np.float32), rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
    output = convolve(x, weight, 7, boundary, identity(4))
    for b in range(2):
        parts = [f(x[b], weight, boundary, 7) for f in (oracle.correlate, plain.correlate)]
        assert_as_good(output[b], *parts)


@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
def test_last_convolution_ends_in_a_sigmoid_of_the_biased_sum(rng, boundary):
    x, bias = rng.standard_normal((2, 5, 19, 30), np.float32), rng.standard_normal((2, 5)).astype(np.float32)
    weight = (rng.standard_normal((5, 5, 3, 3)) / 3).astype(np.float32)
    output = convolve(x, weight, 1, boundary, identity(5), bias)
    for b in range(2):
        parts = [f(x[b], weight, boundary) for f in (oracle.correlate, plain.correlate)]
        assert_as_good(output[b], *(1 / (1 + np.exp(-part - bias[b][:, None, None])) for part in parts))


@pytest.mark.parametrize("adjoint", [False, True], ids=["forward", "adjoint"])
@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
@pytest.mark.parametrize(
    ("channels", "kernel", "size"), [(5, 5, (17, 45)), (40, 3, (13, 22)), (3, 7, (13, 13)), (3, 7, (4, 9))]
)
def test_depthwise(rng, channels, kernel, size, boundary, adjoint):
    x = rng.standard_normal((2, channels, *size), np.float32)
    weight = rng.random((channels, 1, kernel, kernel), np.float32)
    exact = oracle.correlate_depthwise_adjoint if adjoint else oracle.correlate_depthwise
    output = smooth(x, weight, boundary, adjoint=adjoint)
    for b in range(2):
        direct = plain.depthwise(x[b], weight, boundary, adjoint=adjoint)
        assert_as_good(output[b], exact(x[b].astype(float), weight, boundary), direct)


@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
def test_depthwise_adjoint_law(rng, boundary):
    x, u = rng.standard_normal((2, 1, 5, 21, 30), np.float32)
    weight = rng.random((5, 1, 5, 5), np.float32)
    forward, back = (smooth(v, weight, boundary, adjoint=a).astype(float) for v, a in ((x, False), (u, True)))
    assert abs(np.vdot(forward, u) - np.vdot(x, back)) <= EPS * np.linalg.norm(forward) * np.linalg.norm(u)


def test_profile_of_the_smoothed_responses(rng):
    """The last layer of G with its profile: clip(phi(scale . G z), 0, 1)."""
    mask = random_mmr_mask(rng, channels=5, kernels=(5,))
    x = 0.2 * rng.random((1, 5, 19, 26), np.float32)
    weights = MmrWeights(mask, "symmetric", GROUP)
    output = smooth(x, mask.smoothing[0], "symmetric", profile=(mask.scale, weights.profile))[0]

    def profiled(activity):
        return np.clip(oracle.spline(mask.scale[:, None, None] * activity, mask.profile, 0, 1), 0, 1)

    exact = profiled(oracle.correlate_depthwise(x[0].astype(float), mask.smoothing[0], "symmetric"))
    assert exact.min() < 0.2
    assert exact.max() > 0.5
    direct = profiled(plain.depthwise(x[0], mask.smoothing[0], "symmetric"))
    assert_as_good(output, exact, direct, ulps=16)  # the slopes of scale . phi are up to 20


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
@pytest.mark.parametrize("channels", [5, 40])
def test_features(rng, channels, boundary, dilation):
    """s1(gain . V1 x); a kernel wider than the filters needs the wider halo."""
    model = random_model(channels=channels, kernels=(5,), boundary=boundary, dilations=(dilation, 1, 1))
    engine = CpuEngine(model)
    x, weights = images(rng, engine, (14, 27)), engine.weights
    workspace = loaded(engine, x)
    gain = rng.uniform(0.5, 2, (2, channels)).astype(np.float32)
    output = np.full_like(workspace.dual, np.nan)
    features(
        everyone(workspace), Place(workspace.image_slots.reshape(-1), workspace.accepted), weights.mask.taps,
        per_image(gain, weights.channels), weights.mask.splines[0], Place(output.reshape(-1), np.array([1, 0])),
        workspace.geometry,
    )  # fmt: skip
    actual = channels_first(output[[1, 0], [0, 1]], channels)
    weight, coefficients = model.mask.convolutions[0], model.mask.splines[0]
    for b in range(2):
        parts = [f(x[b][None], weight, boundary, dilation) for f in (oracle.correlate, plain.correlate)]
        assert_as_good(
            actual[b], *(oracle.spline(part * gain[b][:, None, None], coefficients, -1, 1) for part in parts), ulps=16
        )
    assert np.isnan(output[[0, 1], [0, 1]]).all()


MASK_SIZES = [(13, 13), (17, 45), (41, 64)]


@pytest.mark.parametrize("size", MASK_SIZES, ids=str)
@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
@pytest.mark.parametrize(
    ("channels", "dilations"), [(5, (1, 2, 1)), (16, (1, 2, 3)), (40, (1, 1, 1)), (5, (1, 2)), (5, (1, 1, 2, 1))]
)
def test_whole_safi_mask(rng, channels, dilations, boundary, size):
    """Two images under different conditioning."""
    model = random_model(channels=channels, kernels=(7, 7), boundary=boundary, dilations=dilations)
    x = rng.random((2, *size), np.float32)
    gain, bias = rng.uniform(0.5, 2, (2, channels)), rng.standard_normal((2, channels))
    gain, bias = gain.astype(np.float32), bias.astype(np.float32)
    masks = _mask_of(CpuEngine(model), x, gain, bias)
    convolutions = list(zip(model.mask.convolutions, model.mask.dilations, strict=True))
    for b in range(2):
        exact = oracle.safi_mask(x[b], convolutions, model.mask.splines, gain[b], bias[b], boundary)
        assert_as_good(masks[b], exact, plain.safi_mask(x[b], model.mask, gain[b], bias[b]))
        assert np.ptp(exact) > 0.5, "a mask without contrast tests nothing"


@pytest.mark.parametrize("size", MASK_SIZES, ids=str)
@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
@pytest.mark.parametrize(("channels", "smoothing"), [(5, (5, 3)), (16, (7, 7)), (40, (3,)), (4, (3, 3, 5))])
def test_whole_mmr_mask(rng, channels, smoothing, boundary, size):
    mask = random_mmr_mask(rng, channels, smoothing)
    model = random_model("mmr", channels, kernels=(7, 7), boundary=boundary, mask=mask)
    x = rng.random((2, *size), np.float32)
    scales = np.stack([mask.scale, np.float32(0.8) * mask.scale])
    masks = _mask_of(CpuEngine(model), x, scales, 0 * scales)
    for b in range(2):
        exact = oracle.mmr_mask(
            x[b], model.filters.layers, boundary, mask.smoothing, mask.profile.astype(float), scales[b]
        )
        assert_as_good(masks[b], exact, plain.mmr_mask(x[b], replace(mask, scale=scales[b]), model.filters))
        assert np.ptp(exact) > 0.2, "a mask without contrast tests nothing"


def test_mask_of_the_accepted_image(rng):
    """After a step the masks follow x(u), x(u) of the step before or x0, as accepted; its halo is that of the same
    plane.
    """
    model = random_model(channels=5, boundary="symmetric")
    engine = CpuEngine(model)
    workspace = loaded(engine, images(rng, engine, (20, 31)))
    workspace.start_dual(everyone(workspace))
    workspace.refresh(everyone(workspace))
    for momentum in (0.0, 0.4, 0.5):
        workspace.step(everyone(workspace), np.full(2, momentum, np.float32))
    convolutions = list(zip(model.mask.convolutions, model.mask.dilations, strict=True))
    gain, bias = np.ones(5), np.zeros(5)
    for which in ("primal", "previous", "extrapolated"):
        workspace.accept(everyone(workspace), which)
        workspace.update_mask(everyone(workspace), *np.float32([[gain] * 2, [bias] * 2]))
        for x, mask in zip(workspace.image(), workspace.masks(), strict=True):
            exact = oracle.safi_mask(x, convolutions, model.mask.splines, gain, bias, "symmetric")
            # as in test_whole_safi_mask: 32 roundings cover the splines' slopes
            np.testing.assert_allclose(mask, exact, rtol=0, atol=32 * EPS)


def _mask_of(engine, x, gain, bias):
    workspace = loaded(engine, x)
    workspace.mask = np.full((len(x), engine.weights.groups, *x.shape[1:], GROUP), np.nan, np.float32)
    workspace.dual[1 - workspace.slot, everyone(workspace)] = np.nan
    workspace.update_mask(everyone(workspace), gain, bias)
    return workspace.masks()


def test_masks_are_ones_before_the_first(rng):
    engine = engine_of("five, unequal")
    workspace = loaded(engine, images(rng, engine, (13, 14)))
    np.testing.assert_array_equal(workspace.masks(), np.ones((2, 5, 13, 14), np.float32))
