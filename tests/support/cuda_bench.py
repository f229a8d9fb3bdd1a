"""A bench for single CUDA kernels: inputs in their layouts, launches that are watched, results with the error allowed
to them.

    bench = Bench(device, model, (33, 41))
    for result in CASES["analysis"](bench):   # cuda_cases.py
        result.check()

A launch may change what it is said to write and nothing else, in any image, slot, channel or column, bit for bit.
Whatever a kernel must not read is NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from emulator.device import EmulatedDevice
from models import random_model
from plain import EPS

from safi_fast.bindings import weights as layout
from safi_fast.bindings.border import border_taps
from safi_fast.bindings.cuda_weights import TENSOR_FILES, tensor_options
from safi_fast.bindings.launch import TILE, WARP_ROWS, Shape, ceil_div, ceil_to, channel_block, launch_for
from safi_fast.bindings.module import source

OUTSIDE = 7.0  # in columns of a mask from the width on: finite is all that a kernel may count on

# channels, kernel sizes of the cascade, boundary, image: supports 3, 5, 9, 13, 15 and 17; widths of all remainders by 4
# and 8
SETTINGS = {
    "3, one tile": (5, (3,), "symmetric", (32, 32)),
    "3, just over one tile": (5, (3,), "zero", (33, 34)),
    "3, as small as the filters": (5, (3,), "symmetric", (3, 3)),
    "5, band": (5, (3, 3), "zero", (33, 37)),
    "5, as small as the filters": (12, (3, 3), "zero", (5, 5)),
    "5, half of eight columns": (5, (5,), "symmetric", (20, 44)),
    "9, three layers": (12, (5, 3, 3), "zero", (41, 27)),
    "13, published": (16, (7, 7), "zero", (17, 67)),
    "13, published, as small": (16, (7, 7), "zero", (13, 13)),
    "13, shipped": (20, (7, 7), "symmetric", (65, 30)),
    "15, three layers": (3, (7, 5, 5), "zero", (29, 36)),
    "17, layers": (8, (9, 9), "zero", (19, 40)),
    "17, composed": (5, (17,), "symmetric", (17, 33)),
}
SMALL = {  # for the slow modes: more than one block in each direction, few compiled variants
    "band": (12, (3, 3), "zero", (33, 37)),
    "symmetric": (5, (5,), "symmetric", (34, 36)),
    "as small as the filters": (5, (5,), "symmetric", (5, 5)),
}
# On tensor cores: supports on both sides of the 16 taps of a product, channels of every size of block, and some that
# only fill up
TENSOR_SETTINGS = {
    "3, one tile": (16, (3,), "symmetric", (16, 32)),
    "3, five blocks of channels": (80, (3,), "zero", (9, 33)),
    "9, three layers": (30, (5, 3, 3), "zero", (17, 35)),
    "13, published": (48, (7, 7), "zero", (13, 33)),
    "13, published, as small": (12, (7, 7), "zero", (13, 13)),
    "13, shipped": (64, (7, 7), "symmetric", (13, 34)),
    "15, three layers": (16, (7, 5, 5), "zero", (33, 23)),
    "17, layers": (12, (9, 9), "zero", (18, 25)),
    "17, composed": (20, (17,), "symmetric", (17, 34)),
}
TENSOR_SMALL = {  # for the slow modes: two tiles in each direction, two blocks of channels in analysis
    "tensor, band": (44, (3, 3), "zero", (18, 35)),
    "tensor, symmetric": (12, (5,), "symmetric", (9, 33)),
}

# The most that the product of two factors is off, relative to itself. A factor of TF32 is rounded to 11 bits: 2^-11
# each. A factor of bf16x3 is a bfloat16, which misses up to 2^-8, and another one for that, which misses up to 2^-16:
# twice that, and as much again for the product of the small parts, which is left out. Products are added in float32, as
# everywhere.
PRODUCT_ROUNDING = {"float32": 0.0, "tf32": 2**-10 + 2**-22, "bf16x3": 3 * 2**-16 + 2**-32}


@dataclass(frozen=True)
class Result:
    """What a kernel gave for one image, the same in float64, and in plain float32 NumPy.

    Allowed is twice the error of plain float32, and at least `ulps` roundings of `scale`, by default the largest value.
    `twin` computes the same by the CPU backend, which is held to the same error: the two may differ by twice as much.
    `rounding` is what the precision of the factors adds to that, element by element: the sum of the absolute values of
    the products, times PRODUCT_ROUNDING.
    """

    what: str
    actual: np.ndarray
    exact: np.ndarray
    plain: np.ndarray
    ulps: int = 4
    scale: float | None = None
    twin: Callable[[], np.ndarray] | None = None
    rounding: np.ndarray | float = 0.0

    @property
    def allowed(self):
        error = np.abs(np.asarray(self.plain, float) - self.exact).max()
        scale = np.abs(self.exact).max() if self.scale is None else self.scale
        return max(2 * error, self.ulps * EPS * scale)

    def check(self):
        self._compare(self.exact, self.allowed, "float64")

    def check_twin(self):
        self._compare(self.twin(), 2 * self.allowed, "the CPU backend")

    def _compare(self, other, allowed, name):
        assert self.actual.shape == other.shape, self.what
        error = (np.abs(np.asarray(self.actual, float) - other) - self.rounding).max()
        more = f" and {np.max(self.rounding):.3g} for its factors" if np.any(self.rounding) else ""
        assert error <= allowed, f"{self.what}: off by {error:.3g} from {name}; allowed are {allowed:.3g}{more}"


class Bench:
    """One model and one batch on a device.

    `active`: the images of every launch, in this order; the others are not to be touched.
    """

    def __init__(self, device, model, size, *, batch=3, active=(2, 0), seed=5, precision="float32"):
        self.device, self.model, self.filters = device, model, model.filters
        self.rng = np.random.default_rng(seed)
        self.size = self.height, self.width = size
        self.batch, self.active = batch, np.array(active)
        self.boundary = self.filters.boundary
        self.symmetric = np.int32(self.boundary == "symmetric")
        self.precision, self.rounding = precision, PRODUCT_ROUNDING[precision]
        together, columns = (layout.BLOCK, 4) if precision == "float32" else (layout.DEPTH, 2)  # that a thread writes
        self.channels, self.used = ceil_to(self.filters.channels, together), self.filters.channels
        self.stored = ceil_to(self.width, columns)
        self.shape = Shape(*size, self.channels, self.filters.support, self.filters.band, precision)
        self.composed = self.filters.composed()[:, 0]
        self.support_option = (f"-DSUPPORT={self.filters.support}",)
        self.watched, self.outputs = [], []
        self.set_halo(self.filters.support // 2)
        self.active_list = self.put(self.active.astype(np.int32))

    def set_halo(self, halo):
        """At least as wide as what any kernel reaches over."""
        self.halo = halo
        self.rows, self.pitch = self.height + 2 * halo, ceil_to(self.width + 2 * halo, 4)
        sizes = (self.batch, self.height, self.width, self.shape.stride, halo, self.rows, self.pitch, self.channels)
        self.geometry = np.array([sizes], layout.GEOMETRY)

    # -- weights ------------------------------------------------------------------------------------------------------

    def analysis_filters(self):
        if not self.shape.tensor:
            return self.put(layout.by_eight(self.composed[:, None], self.channels))
        block = channel_block("analysis", self.shape)
        return self.put(layout.analysis_slabs(self.composed[:, None], self.channels, block, self.precision))

    def synthesis_filters(self):
        if not self.shape.tensor:
            return self.put(layout.synthesis_taps(self.composed[:, None], self.channels))
        block = channel_block("synthesis", self.shape)
        return self.put(layout.synthesis_slabs(self.composed[:, None], self.channels, block, self.precision))

    def convolution_weights(self, weight, size):
        """(C, C, k, k) of the channels that are used."""
        filled = np.zeros((self.channels, self.channels, *weight.shape[2:]), np.float32)
        filled[: self.used, : self.used] = weight
        if not self.shape.tensor:
            return self.put(layout.by_eight(filled, self.channels))
        block = channel_block("convolution", self.shape, size)
        return self.put(layout.convolution_slabs(filled, block, self.precision))

    def border(self):
        """The struct of the corrections, whose arrays stay alive with the bench."""
        taps = border_taps(self.filters.layers, self.filters.band)
        numbers = layout.tap_numbers(taps.first, taps.offset_y, taps.offset_x, self.filters.support)
        corrections = np.ascontiguousarray(layout.padded(taps.weights[:, 0].T, self.channels).T, np.float32)
        arrays = [
            self.put(array if array.size else np.zeros(1, array.dtype))
            for array in (taps.first, taps.offset_y, taps.offset_x, numbers, corrections)
        ]
        return np.array([(taps.band, 0, *map(self.device.address, arrays))], layout.BORDER)

    def spline(self, values, low=-1.0, *, last=False):
        """The struct of a bank of splines (C, knots) on [low, 1]."""
        pieces = values.shape[1] - 1
        scale = pieces / (1 - low)
        table = self.put(layout.spline_table(values, self.channels))
        return np.array([(pieces, last, -low * scale, scale, self.device.address(table))], layout.SPLINE)

    def per_channel(self, values, axis=0):
        """Zeros after the last channel."""
        moved = layout.padded(np.moveaxis(values, axis, 0), self.channels)
        return self.put(np.ascontiguousarray(np.moveaxis(moved, 0, axis), np.float32))

    # -- data ---------------------------------------------------------------------------------------------------------

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def uniform(self, *shape):
        return self.rng.random(shape, np.float32)

    def images(self):
        """(B, H, W) in [0, 1]."""
        return self.uniform(self.batch, self.height, self.width)

    def responses(self):
        """(B, C, H, W), normal."""
        return self.normal(self.batch, self.used, self.height, self.width)

    def images_of_channels(self):
        """(B, C, H, W) in [0, 1]."""
        return self.uniform(self.batch, self.used, self.height, self.width)

    def slots(self, count=2):
        """A slot for every image, not the same for all."""
        return ((np.arange(self.batch) + self.rng.integers(count)) % count).astype(np.int32)

    def put(self, values):
        """A watched array with these values."""
        array = self.device.upload(values)
        self.watched.append(array)
        return array

    def blank(self, shape, dtype=np.float32):
        """A watched array of NaN (or -1) that nobody has written."""
        if isinstance(self.device, EmulatedDevice):
            array = self.device.empty(shape, dtype)
        else:
            array = self.device.upload(np.full(shape, np.nan if np.dtype(dtype).kind == "f" else -1, dtype))
        self.watched.append(array)
        return array

    def per_image(self, values):
        """Values (B, ...) of float32; NaN for the images that are not active."""
        return self.put(self._only_active(np.asarray(values, np.float32)))

    def image_planes(self, *filled):
        """(4, B, rows, pitch) with the halo of the boundary; `filled`: pairs of planes (B,) and images (B, H, W)."""
        planes = np.full((4, self.batch, self.rows, self.pitch), np.nan, np.float32)
        for plane, values in filled:
            for b in self.active:
                planes[plane[b], b] = 0
                planes[plane[b], b, :, : self.width + 2 * self.halo] = self.extended(values[b])
        return self.put(planes)

    def extended(self, image):
        """(H, W) with its halo."""
        return np.pad(image, self.halo, mode="symmetric" if self.symmetric else "constant")

    def masks(self, values):
        """(B, C, H, stride) of masks (B, C, H, W)."""
        return self.put(self._only_active(self._wide(values, OUTSIDE)))

    def slotted(self, *filled, outside=0.0):
        """(2, B, C, H, stride); `filled`: pairs of slots (B,) and values (B, C, H, W)."""
        planes = np.full((2, self.batch, self.channels, self.height, self.shape.stride), np.nan, np.float32)
        for slot, values in filled:
            planes[slot[self.active], self.active] = self._wide(values, outside)[self.active]
        return self.put(planes)

    def tiled(self, values):
        """(C, H, W) in the pieces that synthesis makes summands of: (tiles, C, h, w), zeros outside the image; all of
        it, or tiles.
        """
        if not self.shape.tensor:
            return values[None]
        down, across = ceil_div(self.height, WARP_ROWS), ceil_div(self.width, TILE)
        wide = np.zeros((len(values), down * WARP_ROWS, across * TILE), values.dtype)
        wide[:, : self.height, : self.width] = values
        tiles = wide.reshape(len(values), down, WARP_ROWS, across, TILE).transpose(1, 3, 0, 2, 4)
        return tiles.reshape(down * across, len(values), WARP_ROWS, TILE)

    def parts(self):
        """An array for the summands of synthesis, (B, splits, tiles, h + K - 1, w + K - 1), and its struct."""
        spread = self.filters.support - 1
        tiles, _, *sizes = self.tiled(np.zeros((1, *self.size))).shape
        values = self.blank((self.batch, self.shape.splits, tiles, *(size + spread for size in sizes)))
        tile = sizes if self.shape.tensor else (0, 0)
        struct = (self.shape.splits, self.filters.support, *tile, self.device.address(values))
        return values, np.array([struct], layout.PARTS)

    def _wide(self, values, outside):
        wide = np.zeros((self.batch, self.channels, self.height, self.shape.stride), np.float32)
        wide[..., self.width :] = outside
        wide[:, : self.used, :, : self.width] = values
        return wide

    def _only_active(self, values):
        hidden = np.full_like(values, np.nan)
        hidden[self.active] = values[self.active]
        return hidden

    # -- launches -----------------------------------------------------------------------------------------------------

    def launch(self, file, name, *args, writes, options=(), geometry=True, size=None):
        """Launch for the active images.

        `writes`: pairs of an array and an index of what may change in it; `size`: of a convolution.
        """
        free = {id(array): np.zeros(array.shape, bool) for array in self.watched}
        for array, index in writes:
            free[id(array)][index] = True
        before = [self.peek(array) for array in self.watched]
        launch = launch_for(name, self.shape, len(self.active), size)
        if self.shape.tensor and file in TENSOR_FILES:
            options += tensor_options(self.precision, channel_block(name, self.shape, size))
            file += "_tensor"
        kernel = self.device.module(source(file), options).get_function(name)
        kernel.max_dynamic_shared_size_bytes = max(launch.shared_bytes, kernel.max_dynamic_shared_size_bytes)
        last = (self.geometry,) if geometry else ()
        kernel(launch.grid, launch.block, (self.active_list, *args, *last), shared_mem=launch.shared_bytes)
        for number, (array, then) in enumerate(zip(self.watched, before, strict=True)):
            now = self.peek(array)
            changed = (_bits(now) != _bits(then)) & ~free[id(array)]
            assert not changed.any(), (
                f"{name} wrote elsewhere: array {number} {array.shape} at {np.argwhere(changed)[0]}"
            )
        self.outputs += [self.peek(array) for array, _ in writes]

    def active_of(self, slot):
        """The index of the active images in (slots, B, ...)."""
        return slot[self.active], self.active

    def rows_of(self, slot):
        """The index of what a kernel may write in (2, B, C, H, stride): whole fours of columns, or pairs on tensor
        cores.
        """
        return (*self.active_of(slot), slice(None), slice(None), slice(0, self.stored))

    def region(self, plane):
        """The index of what belongs to images in (4, B, rows, pitch): with the halo where the boundary fills it."""
        low = 0 if self.symmetric else self.halo
        rows, columns = (slice(low, size + 2 * self.halo - low) for size in (self.height, self.width))
        return (*self.active_of(plane), rows, columns)

    def read(self, array, index=...):
        """A part of an array as NumPy; all of it must have been written."""
        return self.device.download(array[index])

    def peek(self, array):
        """A copy as NumPy, undefined elements included."""
        return array.copy() if isinstance(array, np.ndarray) else self.device.download(array)

    def read_channels(self, array, slot=None):
        """Per active image (C, H, W) of (B, C, H, stride) or of a slot; what must be zero has been
        checked elsewhere.
        """
        for b in self.active:
            plane = array[b] if slot is None else array[slot[b], b]
            yield b, self.device.download(plane[: self.used, :, : self.width])


class PlantedDevice(EmulatedDevice):
    """Compiles every text with one piece of it replaced, wherever the piece occurs."""

    def __init__(self, old, new, mode="plain", **options):
        super().__init__(mode, **options)
        self.old, self.new = old, new

    def module(self, text, options=()):
        return super().module(text.replace(self.old, self.new), options)


def bench_of(device, setting, **options):
    """A Bench for one of the settings above."""
    *model, size = setting
    return Bench(device, model_of(*model), size, **options)


@lru_cache(maxsize=32)
def model_of(channels, kernels, boundary):
    """A random model with these filters, the same each time."""
    return random_model(channels=channels, kernels=kernels, boundary=boundary)


def _bits(array):
    return array.view(f"u{array.dtype.itemsize}")
