"""Images of several planes under one mask through the kernels of the CPU and of CUDA, these in the emulator, against
float64.
"""

from functools import cache

import numpy as np
import oracle
import pytest
from emulator import sanitized
from emulator.device import EmulatedDevice, LaunchError
from models import random_mmr_mask, zero_mean
from scipy.special import expit

from safi_fast.bindings.cpu import CpuBackend
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.masks import SafiMask
from safi_fast.model import FilterBank, Model, Schedule, Strength

BATCH, STEP, STRENGTH, MOMENTA = 3, 0.8, (0.05, 0.08, 0.03), (0.0, 0.28, 0.43)
SOME = np.array([2, 0])
# kernel sizes, boundary, family; the published layout has a band along the border
LAYOUTS = {
    "symmetric": ((5,), "symmetric", "safi"),
    "band": ((3, 3), "zero", "safi"),
    "band, mmr": ((3, 3), "zero", "mmr"),
}
AGREEMENT = {"float32": 1e-5, "bf16x3": 5e-5, "tf32": 3e-3}
SMALL, LARGE = (11, 13), (37, 44)


@cache
def model_of(layout, planes, channels=12):
    """Random filters for so many planes."""
    kernels, boundary, family = LAYOUTS[layout]
    rng = np.random.default_rng(planes)
    inputs = (planes, *[channels] * (len(kernels) - 1))
    layers = [
        zero_mean(rng.standard_normal((channels, n, k, k))) / np.sqrt(n) for n, k in zip(inputs, kernels, strict=True)
    ]
    composed = FilterBank(tuple(layers), boundary).composed()
    layers[0] /= np.sqrt(np.abs(np.fft.fft2(composed, (64, 64)) ** 2).sum((0, 1)).max())
    knots = np.linspace(-1, 1, 21)
    if family == "safi":
        sides, counts = (5, 3, 3), (planes, channels, channels)
        convolutions = tuple(
            rng.standard_normal((channels, n, k, k)) / (k * np.sqrt(n)) for n, k in zip(counts, sides, strict=True)
        )
        splines = tuple(knots + 0.1 * rng.standard_normal((channels, 21)) for _ in sides)
        conditions = rng.uniform(0.5, 2, (1, channels)), rng.standard_normal((1, channels))
        mask = SafiMask(convolutions, (1, 2, 1), splines, *conditions, boundary)
    else:
        mask = random_mmr_mask(rng, channels)
    return Model(
        name=f"random-{planes}",
        family=family,
        filters=FilterBank(tuple(layers), boundary),
        mask=mask,
        strength=Strength(np.array([0.03]), np.array([0.03])),
        noise_levels=np.array([0.1]),
        schedule=Schedule("unrolled", 5, 12),
        metadata={"training_data": "none", "licence": "MIT", "scores": "not measured"},
    )


# ----------------------------------------------------------------------------------------------------------- in float64
class Reference:
    """One image (P, H, W) and its dual problem."""

    def __init__(self, model, y, strength):
        self.model, self.boundary = model, model.filters.boundary
        layers = [layer.astype(float) for layer in model.filters.layers]
        if self.boundary == "symmetric":
            layers = [model.filters.composed().astype(float)]
        self.layers, self.y, self.x, self.strength = layers, y.astype(float), y.astype(float), strength
        self.mask = np.ones(())

    def analysis(self, x):
        """W x: (P, H, W) -> (C, H, W)."""
        for layer in self.layers:
            x = oracle.correlate(x, layer, self.boundary)
        return x

    def synthesis(self, u):
        """W^T u: (C, H, W) -> (P, H, W)."""
        for layer in reversed(self.layers):
            u = oracle.correlate_adjoint(u, layer, self.boundary)
        return u

    def start(self):
        self.u = self.before = self.mask * self.analysis(self.x)
        self.carried = 0.0
        self.refresh()

    def collapse(self):
        self.u = self.before = self.u + self.carried * (self.u - self.before)
        self.carried = 0.0

    def refresh(self):
        self.z = self.synthesis(self.mask * self.u)
        self.x = self.ahead = np.clip(self.y - self.z, 0, 1)

    def step(self, momentum):
        """The sums of CudaWorkspace.step."""
        response = self.mask * self.analysis(self.ahead)
        v = self.u + self.carried * (self.u - self.before)
        self.before, self.u = self.u, np.clip(v + STEP * response, -self.strength, self.strength)
        z, start, old = self.synthesis(self.mask * self.u), self.ahead, self.x
        self.x = np.clip(self.y - z, 0, 1)
        self.ahead = np.clip(self.y - (z + momentum * (z - self.z)), 0, 1)
        self.z, self.carried = z, momentum
        part = (start - self.x) * (0.5 * (start + self.x) - self.y + z)
        terms = np.abs(response), z * start, 0.5 * (start - self.y) ** 2, part, (self.x - old) ** 2, old**2
        return [term.sum() for term in terms]

    def next_mask(self):
        mask = self.model.mask
        if self.model.family == "safi":
            z = self.x
            layers = zip(mask.convolutions, mask.dilations, mask.splines, strict=True)
            for number, (weight, dilation, spline) in enumerate(layers):
                z = oracle.correlate(z, weight.astype(float), mask.boundary, dilation)
                z = z * mask.gain[0][:, None, None] if number == 0 else z
                z = oracle.spline(z, spline.astype(float), -1, 1)
            self.mask = expit(z + mask.bias[0][:, None, None])
            return
        z = np.abs(self.analysis(self.x))
        for weight in mask.smoothing:
            z = each_channel(oracle.correlate, z, weight, self.boundary)
        z = np.clip(
            oracle.spline(
                self.model.at(0.1, strength_given=False).gain[:, None, None] * z, mask.profile.astype(float), 0, 1
            ),
            0,
            1,
        )
        for weight in reversed(mask.smoothing):
            z = each_channel(oracle.correlate_adjoint, z, weight, self.boundary)
        self.mask = z


def each_channel(apply, values, weights, boundary):
    """Every channel with its own kernel."""
    return np.concatenate(
        [apply(v[None], w[None].astype(float), boundary) for v, w in zip(values, weights, strict=True)]
    )


# ---------------------------------------------------------------------------------------------------------- on a device
def pictures(planes, size):
    return np.random.default_rng(3).random((BATCH, planes, *size)).astype(np.float32)


def shaped(images):
    """As the workspace takes them: without an axis of one plane."""
    return images[:, 0] if images.shape[1] == 1 else images


def loaded(model, y, mode, precision):
    """On the emulator in a mode, or on the CPU."""
    backend = CpuBackend() if mode == "cpu" else CudaBackend(EmulatedDevice(mode), precision)
    workspace = backend.prepare(model).workspace(len(y), *y.shape[2:])
    workspace.load(shaped(y), np.float32(STRENGTH), np.full(BATCH, STEP, np.float32), (0.0, 1.0))
    return workspace


def deviations(layout, planes, mode, precision="float32", size=SMALL):
    """Two masks of three steps: how far every result is from float64, by name; relative to its size."""
    model, y = model_of(layout, planes), pictures(planes, size)
    workspace = loaded(model, y, mode, precision)
    gain = np.tile(model.at(0.1, strength_given=False).gain, (BATCH, 1))
    bias = np.tile(model.at(0.1, strength_given=False).bias, (BATCH, 1))
    exact = [Reference(model, y[b], STRENGTH[b]) for b in SOME]
    found = {}

    def compare(what, actual, expected):
        scale = max(0.1, np.abs(expected).max())
        found[what] = max(found.get(what, 0.0), float(np.abs(actual - expected).max() / scale))

    for outer in range(2):
        if outer:
            workspace.collapse_momentum(SOME)
            workspace.update_mask(SOME, gain, bias)
            workspace.refresh(SOME)
            for problem in exact:
                problem.collapse()
                problem.next_mask()
                problem.refresh()
            for problem, masks in zip(exact, workspace.masks()[SOME], strict=True):
                compare("masks", masks, problem.mask)
        else:
            workspace.start_dual(SOME)
            workspace.refresh(SOME)
            for problem in exact:
                problem.start()
        for momentum in MOMENTA:
            sums = workspace.step(SOME, np.full(BATCH, momentum, np.float32))
            for row, problem in zip(sums, exact, strict=True):
                expected = problem.step(momentum)
                for i, (actual, value) in enumerate(zip(row, expected, strict=True)):
                    compare(f"sum {i}", actual, value)
        workspace.accept(SOME, "primal")
        workspace.outer_change(SOME)
        images = np.array(workspace.image()).reshape(y.shape)
        for b, problem in zip(SOME, exact, strict=True):
            compare("image", images[b], problem.x)
    measured = workspace.measure(SOME)
    for row, problem in zip(measured, exact, strict=True):
        expected = (
            np.abs(problem.mask * problem.analysis(problem.x)).sum(),
            (problem.z * problem.x).sum(),
            0.5 * ((problem.x - problem.y) ** 2).sum(),
        )
        for i, value in enumerate(expected):
            compare(f"measured {i}", row[i], value)
    return found


def assert_agree(found, precision="float32"):
    far = {
        what: value for what, value in found.items() if not value <= AGREEMENT[precision] * (10 if "sum" in what else 1)
    }
    assert not far


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["plain", "cpu"])
def test_two_masks(layout, planes, size, mode):
    assert_agree(deviations(layout, planes, mode, size=size))


@pytest.mark.parametrize("precision", ["tf32", "bf16x3"])
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("layout", ["symmetric", "band"])
def test_two_masks_on_tensor_cores(layout, planes, precision):
    assert_agree(deviations(layout, planes, "plain", precision, LARGE), precision)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16x3"])
@pytest.mark.parametrize("layout", ["symmetric", "band"])
@pytest.mark.parametrize("planes", [2, 3])
def test_two_masks_in_check_mode(layout, planes, precision):
    """No race, and nothing read that no kernel wrote."""
    assert_agree(deviations(layout, planes, "check", precision), precision)


def sanitized_deviations(mode):
    """A sanitized process calls this."""
    found = {}
    for layout in ("symmetric", "band"):
        for planes in (2, 3):
            for precision in ("float32", "tf32", "bf16x3"):
                try:
                    assert_agree(deviations(layout, planes, mode, precision), precision)
                except (AssertionError, LaunchError) as error:
                    found[layout, planes, precision] = str(error)
    return found


def test_two_masks_under_sanitizers():
    assert sanitized.call(sanitized_deviations, "sanitize") == {}


@pytest.mark.parametrize("precision", ["float32", "bf16x3"])
def test_an_image_alone_equals_the_same_in_a_batch(precision):
    model, y = model_of("band", 3), pictures(3, SMALL)
    everyone = np.arange(BATCH)

    def solved(images, strength):
        workspace = CudaBackend(EmulatedDevice("plain"), precision).prepare(model).workspace(len(images), *SMALL)
        workspace.load(images, np.float32(strength), np.full(len(images), STEP, np.float32), (0.0, 1.0))
        level = model.at(0.1, strength_given=False)
        gain, bias = (np.tile(v, (len(images), 1)) for v in (level.gain, level.bias))
        momenta = np.repeat(np.float32(MOMENTA)[:, None], len(images), axis=1)
        assert workspace.unrolled(2, momenta, None, gain, bias)
        return workspace.device.download(workspace.image())

    together = solved(y, STRENGTH)
    for b in everyone:
        np.testing.assert_array_equal(solved(y[b : b + 1], STRENGTH[b : b + 1])[0], together[b])


def test_images_that_are_not_active_stay_as_they_are():
    model, y = model_of("symmetric", 2), pictures(2, SMALL)
    workspace = loaded(model, y, "plain", "float32")
    workspace.start_dual(np.arange(BATCH))
    workspace.refresh(np.arange(BATCH))

    def arrays():
        device = workspace.device
        slots = device.download(workspace.image_slots).reshape(4, BATCH, 2, *workspace.image_slots.shape[-2:])
        return [slots[:, 1], device.download(workspace.z)[:, 1], device.download(workspace.dual)[:, 1]]

    before = arrays()
    workspace.step(SOME, np.full(BATCH, 0.3, np.float32))
    workspace.put_image(SOME, y[::-1].copy())
    for then, now in zip(before, arrays(), strict=True):
        np.testing.assert_array_equal(now, then)


BUGS = {
    "image: the first plane for all": ("at.owner * PLANES + blockIdx.z % PLANES", "at.owner * PLANES"),
    "image: slots of one plane": (
        "slot[at.owner] * g.batch * PLANES + at.image", "slot[at.owner] * g.batch + at.image"
    ),
    "analysis: the first plane for all": (
        "(slot * g.batch + at.image) * PLANES + plane", "(slot * g.batch + at.image) * PLANES"
    ),
    "synthesis: filters of the first plane": ("(c * PLANES + made)", "(c * PLANES)"),
    "analysis: no barrier before the next plane": ("if (plane > 0) __syncthreads();", ""),
    "features: no barrier before the next plane": ("if (source > 0) __syncthreads();", ""),
    "analysis: border of the first plane": (
        "((long long)tap * PLANES + p_image) * g.channels", "((long long)tap * PLANES) * g.channels", "band"
    ),
    "synthesis: border of the first plane": (
        "((long long)tap * PLANES + made) * g.channels", "((long long)tap * PLANES) * g.channels", "band"
    ),
    "analysis, tensor: border of the first plane": (
        "((long long)tap * PLANES + p) * g.channels", "((long long)tap * PLANES) * g.channels", "band", "tf32"
    ),
    "analysis, tensor: tile of the first plane": (
        "tile + plane * TILE_WORDS + (row", "tile + (row", "symmetric", "tf32"
    ),
    "analysis, tensor: the first plane for all": ("plane + p, at, g);", "plane, at, g);", "symmetric", "bf16x3"),
    "synthesis, tensor: output of the plane before not cleared": (
        "if (made + 1 < PLANES) output[", "if (false) output[", "symmetric", "tf32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_are_found(monkeypatch, name):
    """One plane for another, and a barrier that is missing."""
    old, new, layout, precision = (*BUGS[name], *("symmetric", "float32")[len(BUGS[name]) - 2 :])
    module, planted = EmulatedDevice.module, []

    def replaced(self, text, options=()):
        planted.append(text.count(old))
        return module(self, text.replace(old, new), options)

    monkeypatch.setattr(EmulatedDevice, "module", replaced)
    with pytest.raises((AssertionError, LaunchError)):
        assert_agree(deviations(layout, 3, "check", precision), precision)
    assert any(planted)
