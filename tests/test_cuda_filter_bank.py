"""The CUDA filter-bank kernels, run by the emulator, against the float64 oracle."""

import numpy as np
import oracle
import pytest
from emulator.device import EmulatedDevice

from safi_fast.bindings.border import border_taps
from safi_fast.bindings.module import source

GEOMETRY = np.dtype([(name, np.int32) for name in ("batch", "height", "width", "halo", "rows", "pitch")])
BORDER = np.dtype(
    [("band", np.int32), ("padding", np.int32)] + [(name, np.uint64) for name in ("first", "row", "column", "weights")]
)
SPLITS = 2
SHAPES = [(20, 37), (33, 40), (13, 71)]


class Bank:
    """A random filter bank, a batch of images with their halo on the emulated device, and what the kernels are called with."""

    def __init__(self, shape, *, boundary="zero", kernels=(7, 7), channels=8, batch=2, mode="plain", seed=0):
        rng = np.random.default_rng(seed)
        self.device = EmulatedDevice(mode, seed=seed)
        self.layers = [
            rng.standard_normal((channels, 1 if i == 0 else channels, k, k)) / k / (1 if i == 0 else channels) ** 0.5
            for i, k in enumerate(kernels)
        ]
        self.boundary, self.channels, self.batch, self.shape = boundary, channels, batch, shape
        self.support = sum(k - 1 for k in kernels) + 1
        self.options = (f"-DSUPPORT={self.support}", f"-DCHANNELS={channels}", f"-DSPLITS={SPLITS}")
        self.x = rng.random((batch, *shape)).astype(np.float32)
        self.u, self.u_old = (rng.standard_normal((2, batch, channels, *shape)) * 0.1).astype(np.float32)
        self.mask = rng.random((batch, channels, *shape)).astype(np.float32)
        halo, (height, width) = self.support // 2, shape
        mode_of_pad = "symmetric" if boundary == "symmetric" else "constant"
        padded = np.pad(self.x, ((0, 0), (halo, halo), (halo, halo)), mode=mode_of_pad)
        image = np.full((4, *padded.shape), np.nan, np.float32)
        image[1] = padded
        self.image = self.device.upload(image)
        self.slot = self.device.upload(np.ones(batch, np.int32))
        self.active = self.device.upload(np.arange(batch, dtype=np.int32))
        composed = oracle.compose(self.layers).reshape(channels, -1).T
        self.filters = self.device.upload(np.ascontiguousarray(composed, np.float32))
        self.geometry = np.array([(batch, height, width, halo, *padded.shape[1:])], GEOMETRY)
        band = sum(k // 2 for k in kernels[1:]) if boundary == "zero" else 0
        taps = border_taps(tuple(self.layers), band)
        self.taps = [
            self.device.upload(np.ascontiguousarray(a))
            for a in (taps.first, taps.offset_y, taps.offset_x, taps.weights)
        ]
        if not len(taps.weights):  # an empty array has no address
            self.taps[1:] = [
                self.device.zeros(1, np.int32),
                self.device.zeros(1, np.int32),
                self.device.zeros(1, np.float32),
            ]
        self.border = np.array([(band, 0, *(self.device.address(a) for a in self.taps))], BORDER)

    def kernel(self, file, name):
        return self.device.module(source(file), self.options).get_function(name)

    def analysis_grid(self):
        height, width = self.shape
        return -(-height // 32) * -(-width // 32), self.channels // 8, self.batch

    def responses(self):
        return np.stack([oracle.analysis(x.astype(float), self.layers, self.boundary) for x in self.x])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("boundary", "kernels"), [("zero", (7, 7)), ("symmetric", (7, 7)), ("zero", (5, 3, 3)), ("zero", (9,))]
)
def test_analysis(shape, boundary, kernels):
    bank = Bank(shape, boundary=boundary, kernels=kernels)
    output = bank.device.empty((2, bank.batch, bank.channels, *shape), np.float32)
    mask = bank.device.upload(bank.mask)
    where = bank.device.zeros(bank.batch, np.int32)
    bank.kernel("analysis", "analysis")(
        bank.analysis_grid(), (128,),
        (bank.active, bank.slot, bank.image, mask, np.int32(0), output, where, bank.filters, bank.border, bank.geometry),
    )  # fmt: skip
    expected = bank.responses() * bank.mask
    np.testing.assert_allclose(bank.device.download(output)[0], expected, atol=4e-6 * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["plain", "check"])
def test_dual_step(mode):
    bank = Bank((20, 37), mode=mode)
    dual = bank.device.upload(np.stack([bank.u_old, bank.u]))
    mask = bank.device.upload(bank.mask)
    step, bound, momentum = (np.array(v, np.float32) for v in ((0.3, 0.2), (0.1, 0.15), (0.5, 0.7)))
    blocks = bank.analysis_grid()
    l1 = bank.device.empty((bank.batch, blocks[1] * blocks[0]), np.float64)
    bank.kernel("analysis", "dual_step")(
        blocks, (128,),
        (bank.active, bank.slot, bank.image, dual, mask, *(bank.device.upload(v) for v in (step, bound, momentum)), l1,
         bank.filters, bank.border, bank.geometry),
    )  # fmt: skip
    q = bank.responses() * bank.mask
    column = (slice(None), None, None, None)
    v = bank.u + momentum[column] * (bank.u.astype(float) - bank.u_old)
    expected = np.clip(v + step[column] * q, -bound[column], bound[column])
    after = bank.device.download(dual)
    np.testing.assert_allclose(after[0], expected, atol=2e-6)
    np.testing.assert_array_equal(after[1], bank.u)
    np.testing.assert_allclose(bank.device.download(l1).sum(1), np.abs(q).sum((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["plain", "check"])
def test_synthesis(shape, mode):
    bank = Bank(shape, kernels=(9,), mode=mode)
    reach, (height, width) = bank.support // 2, shape
    extended = (height + 2 * reach, width + 2 * reach)
    parts = bank.device.empty((bank.batch, SPLITS, *extended), np.float32)
    dual, mask = bank.device.upload(np.stack([bank.u_old, bank.u])), bank.device.upload(bank.mask)
    bank.kernel("synthesis", "synthesis")(
        (-(-extended[0] // 64) * -(-extended[1] // 32), SPLITS, bank.batch), (128,),
        (bank.active, bank.slot, dual, mask, parts, bank.filters, bank.geometry),
    )  # fmt: skip
    z = bank.device.download(parts).sum(1)[:, reach : reach + height, reach : reach + width]
    expected = np.stack(
        [oracle.synthesis(u * m, bank.layers, "zero") for u, m in zip(bank.u.astype(float), bank.mask, strict=True)]
    )
    np.testing.assert_allclose(z, expected, atol=4e-6 * np.abs(expected).max())
