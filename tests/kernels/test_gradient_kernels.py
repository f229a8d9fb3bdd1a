"""The kernels that go back through steps and masks, each against float64: tests/unit/test_unrolled_gradients.py has
whole solves.

Piecewise linear functions are differentiated by differences so short that no piece ends between.
"""

import numpy as np
import oracle
import pytest
from cpu_layout import channels_first, lanes
from models import random_model, random_planes_model

from safi_fast.bindings import aligned
from safi_fast.bindings.cpu import CpuEngine
from safi_fast.bindings.cpu_kernels import image_gradient, start_gradient, step_gradient
from safi_fast.bindings.cpu_mask_gradient import SafiGradient
from safi_fast.bindings.cpu_weights import flat
from safi_fast.bindings.threads import LAUNCH
from safi_fast.kernels.cpu.arguments import Box, Carried, Mask, Place, Record

SHAPE, BATCH, SHORT = (19, 23), 2, 1e-7
EVERYONE, SLOT = np.arange(BATCH), np.zeros(BATCH, np.int64)
NEAR = 3e-6  # relative to the largest value: float32 rounding of sums over taps and channels


def near(found, expected, tolerance=NEAR):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def model_of(boundary="symmetric", planes=1):
    return random_planes_model(planes) if planes > 1 else random_model("safi", 6, kernels=(5,), boundary=boundary)


def space_of(model):
    """A work space, and images in it."""
    space = CpuEngine(model).workspace(BATCH, *SHAPE)
    shape = (BATCH, *SHAPE) if model.filters.planes == 1 else (BATCH, model.filters.planes, *SHAPE)
    images = np.random.default_rng(7).random(shape).astype(np.float32)
    space.load(images, np.ones(BATCH), np.ones(BATCH), (0.0, 1.0))
    return space, images


@pytest.mark.parametrize(("boundary", "planes"), [("symmetric", 1), ("zero", 1), ("symmetric", 2), ("symmetric", 3)])
def test_back_through_the_mask_generator(boundary, planes, rng):
    """Along random directions of image, gain and bias."""
    model = model_of(boundary, planes)
    space, images = space_of(model)
    mask, channels = model.mask, model.filters.channels
    gain, bias = (table[0] + 0.1 * rng.standard_normal((BATCH, channels)) for table in (mask.gain, mask.bias))
    weights = rng.standard_normal((BATCH, channels, *SHAPE))

    def masks(images, gain, bias):
        layers = list(zip(mask.convolutions, mask.dilations, strict=True))
        return np.stack(
            [
                oracle.safi_mask(images[b].astype(float), layers, mask.splines, gain[b], bias[b], boundary)
                for b in range(BATCH)
            ]
        )

    values = masks(images, gain, bias)
    given = Mask(lanes(values.astype(np.float32)).reshape(-1), present=True)
    back = SafiGradient(space.weights.mask, space.geometry, space.mix_work())
    with LAUNCH:
        found = back(space._image(SLOT), gain.astype(np.float32), given, lanes((values * weights).astype(np.float32)))
    directions = [rng.standard_normal(part.shape) for part in (images, gain, bias)]
    for number, gradient in enumerate((found.image.reshape(images.shape), found.gain, found.bias)):
        moved = [
            [part + (sign * SHORT * directions[i] if i == number else 0) for i, part in enumerate((images, gain, bias))]
            for sign in (1, -1)
        ]
        ahead, behind = (masks(*parts) for parts in moved)
        for b in range(BATCH):
            slope = float(((ahead - behind)[b] * weights[b]).sum() / (2 * SHORT))
            size = np.linalg.norm(gradient[b]) * np.linalg.norm(directions[number][b])
            own = float(
                (gradient[b, ..., :channels] if number else gradient[b]).ravel() @ directions[number][b].ravel()
            )
            assert own == pytest.approx(slope, abs=1e-4 * size)


def test_back_through_the_image(rng):
    """e is nothing where x is at its limits; what was in y' stays."""
    model = model_of()
    space, _ = space_of(model)
    u = rng.standard_normal((BATCH, model.filters.channels, *SHAPE)).astype(np.float32)
    x = rng.choice(np.float32([0.0, 0.3, 0.8, 1.0]), (BATCH, *SHAPE))
    before, scale = rng.standard_normal((BATCH, *SHAPE)).astype(np.float32), np.float32([0.5, 2.0])
    space.dual[SLOT, EVERYONE] = lanes(u)
    with LAUNCH:
        space._synthesise(EVERYONE, space._mask)
    total, place = before.copy(), Place(aligned.zeros(space.image_slots[0].size), SLOT)
    image_gradient(
        EVERYONE, space.tiles, flat(x), Box(np.float32(0), np.float32(1)), scale, total.reshape(-1), place.values,
        space.geometry,
    )  # fmt: skip
    halo = space.geometry.halo
    framed = place.values.reshape(space.image_slots[0].shape)[:, : SHAPE[0] + 2 * halo, : SHAPE[1] + 2 * halo]
    for b in range(BATCH):
        wanted = scale[b] * oracle.synthesis(u[b], model.filters.layers, "symmetric") * ((x[b] > 0) & (x[b] < 1))
        near(framed[b], np.pad(wanted, halo, mode="symmetric"))
        near(total[b], before[b] + wanted)


class Steps:
    """A step to go back through: u_i-2, u_i-1 and u_i, momenta, M, and what the way back carries, by image."""

    def __init__(self, rng, model, space):
        shape = (BATCH, model.filters.channels, *SHAPE)
        self.model, self.space = model, space
        self.u = rng.uniform(-1.2, 1.2, (3, *shape)).clip(-1, 1).astype(np.float32)  # a sixth at the bound of 1
        self.next, self.now, self.before = rng.random((3, BATCH)).astype(np.float32)
        self.mask = rng.random(shape).astype(np.float32)
        self.through, self.ahead, self.to_mask = rng.standard_normal((3, *shape)).astype(np.float32)
        self.e = rng.standard_normal((BATCH, *SHAPE)).astype(np.float32)
        self.record = Record(
            np.concatenate([lanes(u).reshape(-1) for u in self.u]), 2, self.next, self.now, self.before
        )
        self.carried = Carried(*(self._array(part) for part in (self.through, self.ahead, self.to_mask)))
        halo = space.geometry.halo
        planes = aligned.zeros(space.image_slots[0].size)
        framed = planes.reshape(space.image_slots[0].shape)
        framed[:, : SHAPE[0] + 2 * halo, : SHAPE[1] + 2 * halo] = np.pad(
            self.e, ((0, 0), (halo,) * 2, (halo,) * 2), mode="symmetric"
        )
        self.image = Place(planes, SLOT)

    @staticmethod
    def _array(values):
        array = aligned.zeros(lanes(values).size)
        array[:] = lanes(values).reshape(-1)
        return array

    def masked(self, present):
        return Mask(lanes(self.mask).reshape(-1) if present else self.space.dual[:0].reshape(-1), present)

    def carried_now(self):
        shape = (BATCH, -1, *SHAPE, 32)
        return [channels_first(part.reshape(shape), self.model.filters.channels) for part in self.carried]

    def gathered(self):
        """W^T of what lies in the tiles, (B, H, W)."""
        total = np.zeros((BATCH, *SHAPE), np.float32)
        ones, everywhere = np.ones(BATCH, np.float32), Box(np.float32(-np.inf), np.float32(np.inf))
        scratch = aligned.zeros(self.space.image_slots[0].size)
        image_gradient(
            EVERYONE, self.space.tiles, total.reshape(-1).copy(), everywhere, ones, total.reshape(-1), scratch,
            self.space.geometry,
        )  # fmt: skip
        return total


@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_back_through_a_step(last, present, rng):
    """The formulas of kernels/cpu/filter_bank_gradient.py, in float64."""
    model = model_of()
    space, _ = space_of(model)
    steps, clipped = Steps(rng, model, space), np.zeros(space.l1.size)
    step_gradient(
        EVERYONE, steps.image, steps.record, steps.carried, steps.masked(present), np.ones(BATCH, np.float32), last,
        space.tiles, clipped, space.geometry, space.weights.bank, space.work,
    )  # fmt: skip
    through, ahead, to_mask = steps.carried_now()
    images, sums = steps.gathered(), clipped.reshape(space.l1.shape).sum(1)
    for b in range(BATCH):
        q = oracle.analysis(steps.e[b], model.filters.layers, "symmetric") * (steps.mask[b] if present else 1)
        (older, old, u), (following, now, before) = steps.u[:, b].astype(float), (
            steps.next[b], steps.now[b], steps.before[b],
        )  # fmt: skip
        if last:
            v_slope = steps.ahead[b]
            u_slope = (1 + now) * v_slope - q
        else:
            v_slope = steps.through[b] - q
            u_slope = (1 + now) * v_slope - following * steps.ahead[b]
        passed = np.where(np.abs(u) < 1, u_slope, 0)
        near(ahead[b], v_slope)
        near(through[b], passed)
        near(images[b], oracle.synthesis(passed * (steps.mask[b] if present else 1), model.filters.layers, "symmetric"))
        near(sums[b], ((u_slope - passed) * u).sum())
        if present:
            v_old, v = old + before * (old - older), u if last else u + now * (u - old)
            near(to_mask[b], (0 if last else steps.to_mask[b]) + passed * (u - v_old) - q * v)


@pytest.mark.parametrize("first", [True, False])
def test_back_to_the_start(first, rng):
    """Pass 0, with W^T of it where u_0 = W y."""
    model = model_of()
    space, _ = space_of(model)
    steps = Steps(rng, model, space)
    start_gradient(
        EVERYONE, steps.image, steps.record, steps.carried, steps.masked(not first), first, space.tiles,
        space.geometry, space.weights.bank, space.work,
    )  # fmt: skip
    _, ahead, to_mask = steps.carried_now()
    images = steps.gathered() if first else None
    for b in range(BATCH):
        q = oracle.analysis(steps.e[b], model.filters.layers, "symmetric") * (1 if first else steps.mask[b])
        total = steps.through[b] - q - steps.next[b] * steps.ahead[b]
        near(ahead[b], total)
        if first:
            near(images[b], oracle.synthesis(total, model.filters.layers, "symmetric"))
        else:
            near(to_mask[b], steps.to_mask[b] - q * steps.u[2, b])
