"""The CPU backend: Numba kernels over tiles, all cores, no state on the model.

    CpuBackend.prepare(model) -> CpuEngine        weights in the layout of the kernels, made once
    engine.workspace(batch, height, width)        arrays of one batch of dual problems, allocated once
    workspace.step(...)                           one inner step; see safi_fast/backend.py for the protocol

Numba's default threading layer must not be entered by two threads at once, so every launch holds one lock; the kernels use all
cores anyway.
"""

from __future__ import annotations

import threading

from .cache import prepare_kernels

prepare_kernels()

# ruff: noqa: E402 - the first import of a kernel settles where its compiled form is kept
import numba
import numpy as np
from numpy.typing import NDArray

from ..kernels.cpu import convolution as _convolution
from ..kernels.cpu import tile as _tile
from ..kernels.cpu.depthwise import depthwise
from ..kernels.cpu.features import features
from ..kernels.cpu.fft import SMALL_TILE, TILE
from ..kernels.cpu.filter_bank import analysis, dual_step, masked_norm, synthesis
from ..kernels.cpu.image import SUMS, gather_image, image_step, outer_sums, primal_step, primal_sums, set_image
from ..kernels.cpu.state import collapse_momentum
from ..masks import MmrMask, PlainMask, SafiMask
from ..model import Model
from .border import border_taps
from .threads import on_threads

FloatArray = NDArray[np.float32]

PAIRS = 24  # tile pairs that share one pass over the spectra of a mask layer: 3 MB of channels per thread at C = 64
WORK = (_tile.WORK, _tile.WORK, _tile.EXTRA)  # floats of one thread's work space for the filter bank: re, im, extra
_LAUNCH = threading.RLock()


def _padded(values: np.ndarray, channels: int) -> np.ndarray:
    """Zeros after the last channel (first axis), up to whole groups of 32."""
    return np.concatenate([values, np.zeros((channels - values.shape[0], *values.shape[1:]), values.dtype)])


def _flat(values: np.ndarray) -> FloatArray:
    return np.ascontiguousarray(values, np.float32).reshape(-1)


class _Spline:
    """A bank of splines as the kernels read it: the first coefficient and the differences, over all channels."""

    def __init__(self, values: np.ndarray, low: float, channels: int):
        padded = _padded(values.astype(np.float64), channels)
        self.table = _flat(np.column_stack([padded[:, 0], np.diff(padded, axis=1)]).T)
        pieces = values.shape[1] - 1
        scale = pieces / (1.0 - low)
        self.arguments = (self.table, pieces + 1, np.float32(-low * scale), np.float32(scale))


class _FilterBank:
    """The composed filters as spectra, and the taps that layer-wise zero padding drops near the border."""

    def __init__(self, model: Model, channels: int):
        bank = model.filters
        self.support = bank.support
        spectra = np.conj(np.fft.fft2(_padded(bank.composed().astype(np.float64), channels), (TILE, TILE))) / TILE**2
        pairs = spectra.reshape(-1, 2, 16, TILE * TILE)
        packed = (pairs[:, 0] + 1j * pairs[:, 1]).transpose(0, 2, 1)
        taps = border_taps(bank.layers, bank.band)
        tap_at = (taps.offset_y * TILE + taps.offset_x).astype(np.int32)
        tap_weights = _flat(_padded(taps.weights.T, channels).T)
        self.arguments = (_flat(packed.real), _flat(packed.imag), taps.band, taps.first, tap_at, tap_weights)


def _dilated(weight: np.ndarray, dilation: int) -> np.ndarray:
    size = (weight.shape[-1] - 1) * dilation + 1
    spread = np.zeros((*weight.shape[:2], size, size))
    spread[:, :, ::dilation, ::dilation] = weight
    return spread


class _SafiMaskWeights:
    """First layer as taps, the others as spectra of the 16 x 16 tiles."""

    def __init__(self, mask: SafiMask, channels: int):
        kernels = [
            _dilated(weight, dilation) for weight, dilation in zip(mask.convolutions, mask.dilations, strict=True)
        ]
        self.symmetric = mask.boundary == "symmetric"
        self.kernel = kernels[0].shape[-1]
        self.taps = _flat(_padded(kernels[0][:, 0], channels).transpose(1, 2, 0))
        self.splines = [_Spline(values, -1.0, channels) for values in mask.splines]
        self.supports = [kernel.shape[-1] for kernel in kernels[1:]]
        self.spectra = [self._spectra(kernel, channels) for kernel in kernels[1:]]
        self.no_bias = np.zeros(channels, np.float32)

    @staticmethod
    def _spectra(kernel: np.ndarray, channels: int) -> tuple[FloatArray, FloatArray]:
        bins = SMALL_TILE**2
        spectra = np.conj(np.fft.fft2(kernel, (SMALL_TILE, SMALL_TILE))) / bins
        matrices = np.zeros((bins, channels, channels), np.complex64)
        c_out, c_in = kernel.shape[:2]
        matrices[:, :c_in, :c_out] = spectra.reshape(c_out, c_in, bins).transpose(2, 1, 0)
        return _flat(matrices.real), _flat(matrices.imag)


class _MmrMaskWeights:
    """The depthwise layers as taps, the profile as a spline."""

    def __init__(self, mask: MmrMask, boundary: str, channels: int):
        self.symmetric = boundary == "symmetric"
        self.layers = [
            (_flat(_padded(layer[:, 0], channels).transpose(1, 2, 0)), layer.shape[-1]) for layer in mask.smoothing
        ]
        self.profile = _Spline(mask.profile, 0.0, channels)


class CpuEngine:
    """One model on the CPU. Read-only after construction, so threads may share it."""

    def __init__(self, model: Model):
        self.model = model
        self.channels = -(-model.filters.channels // _tile.GROUP) * _tile.GROUP
        self.groups = self.channels // _tile.GROUP
        self.bank = _FilterBank(model, self.channels)
        self.symmetric = model.filters.boundary == "symmetric"
        self.mask: _SafiMaskWeights | _MmrMaskWeights | PlainMask
        reach = self.bank.support // 2
        if isinstance(model.mask, SafiMask):
            self.mask = _SafiMaskWeights(model.mask, self.channels)
            reach = max(reach, self.mask.kernel // 2)
        elif isinstance(model.mask, MmrMask):
            self.mask = _MmrMaskWeights(model.mask, model.filters.boundary, self.channels)
        else:
            self.mask = model.mask
        self.halo = reach

    def workspace(self, batch: int, height: int, width: int) -> CpuWorkspace:
        """Arrays for `batch` images of height x width."""
        return CpuWorkspace(self, batch, height, width)

    def bytes_per_pixel(self) -> int:
        """u twice and M for every channel, a dozen images, and the tiles that overlap."""
        inner = TILE + 1 - self.bank.support
        return 4 * (3 * self.channels + 12 + (TILE / inner) ** 2).__ceil__()

    def workspace_bytes(self, batch: int, height: int, width: int) -> int:
        """Memory of `workspace(batch, height, width)` once it has a mask, on the threads that kernels would use now."""
        rows, pitch, tiles = self.padded_size(height, width)
        floats = 4 * rows * pitch + 3 * height * width * (1 + self.channels)
        floats += tiles * (TILE * TILE + 2) + 2 * height * SUMS
        return 4 * (batch * floats + self._work_floats(batch, height, width))

    def _work_floats(self, batch: int, height: int, width: int) -> int:
        """Work space of the threads that find work; that of the others is never written."""
        threads, tiles = numba.get_num_threads(), self.padded_size(height, width)[2]
        floats = min(threads, batch * tiles) * sum(WORK)
        if isinstance(self.mask, _SafiMaskWeights):
            inner = SMALL_TILE + 1 - max(self.mask.supports)
            pairs = -(-(-(-height // inner) * -(-width // inner)) // 2)
            floats += min(threads, batch * -(-pairs // PAIRS)) * sum(self.mask_work)
        return floats

    @property
    def mask_work(self) -> tuple[int, int, int, int]:
        """Floats of one thread's work space for convolutions: re, im, small_re, small_im of kernels/cpu/convolution.py."""
        large, small = _convolution.BINS * (PAIRS * self.channels + 16), int(_convolution.small_floats(self.groups))
        return large, large, small, small

    def padded_size(self, height: int, width: int) -> tuple[int, int, int]:
        """Rows and pitch of an image with the halo that its Fourier tiles read, and how many tiles there are."""
        support, halo = self.bank.support, self.halo
        inner = TILE + 1 - support
        tiles_y, tiles_x = -(-height // inner), -(-width // inner)
        margin = halo - support // 2 + support - 1
        rows = max(height + 2 * halo, tiles_y * inner + margin)
        return rows, max(width + 4 + 2 * halo, tiles_x * inner + margin), tiles_y * tiles_x


class CpuWorkspace:
    """State of a batch of dual problems; every array is float32 in the layout that kernels/cpu describes.

    u, z = W^T(M . u), x(u) and the extrapolated x(v) have two slots each; slot[b] tells which one is current, the other holds
    the step before. accepted[b] is the plane of the image that masks and outer steps refer to.
    """

    def __init__(self, engine: CpuEngine, batch: int, height: int, width: int):
        self.engine = engine
        self.batch, self.height, self.width = batch, height, width
        support, halo = engine.bank.support, engine.halo
        rows, pitch, self.tile_count = engine.padded_size(height, width)
        self.geometry = np.array([batch, height, width, engine.groups, support, halo, rows, pitch], np.int64)
        self.image_slots = np.zeros((4, batch, rows, pitch), np.float32)
        self.z = np.zeros((2, batch, height, width), np.float32)
        self.dual = np.zeros((2, batch, engine.groups, height, width, _tile.GROUP), np.float32)
        self.mask: FloatArray | None = None
        self.tiles = np.empty(batch * self.tile_count * TILE * TILE, np.float32)
        self.l1 = np.zeros((batch, self.tile_count))
        self.sums = np.zeros((batch, height, SUMS))
        self.slot = np.zeros(batch, np.int64)
        self.accepted = np.zeros(batch, np.int64)
        self.reference = np.zeros((batch, height, width), np.float32)
        self.carried = np.zeros(batch, np.float32)  # v = u + carried (u - u_previous)
        self.has_mask = False
        threads = numba.get_num_threads()
        self.work = tuple(np.zeros(threads * size, np.float32) for size in WORK)
        self.mask_work: tuple[FloatArray, ...] | None = None

    # -- data ---------------------------------------------------------------------------------------------------------

    def load(self, y: FloatArray, strength: FloatArray, step: FloatArray, box: tuple[float, float]) -> None:
        """The problems: y (B, H, W), lambda and step size (B,), box limits (may be infinite). x starts at y, without mask."""
        self.y = _flat(y)
        self.bound = np.ascontiguousarray(strength, np.float32)
        self.step_size = np.ascontiguousarray(step, np.float32)
        self.low, self.high = np.float32(box[0]), np.float32(box[1])
        self.has_mask = False
        self.carried[:] = 0
        self.slot[:] = 0
        self.reference[:] = y
        self.put_image(np.arange(self.batch), y)

    def put_image(self, active: NDArray[np.int64], x: FloatArray) -> None:
        """The accepted image and x(v) become x (B, H, W)."""
        with _LAUNCH:
            set_image(active, self.slot, _flat(x), self._flat_image, self.engine.symmetric, self.geometry)
        self.accepted[active] = self.slot[active]

    def accept(self, active: NDArray[np.int64], which: str) -> None:
        """Choose the image that counts: "primal" x(u), "previous" x(u) of the step before, "extrapolated" x0 of the last step."""
        now, before = self.slot[active], 1 - self.slot[active]
        self.accepted[active] = {"primal": 2 + now, "previous": 2 + before, "extrapolated": before}[which]

    def image(self) -> FloatArray:
        """A copy of the accepted images (B, H, W)."""
        halo = self.engine.halo
        planes = self.image_slots[self.accepted, np.arange(self.batch)]
        return planes[:, halo : halo + self.height, halo : halo + self.width].copy()

    def outer_change(self, active: NDArray[np.int64]) -> NDArray[np.float64]:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call (active,); the first call compares with y."""
        with _LAUNCH:
            outer_sums(
                active, self.accepted, self._flat_image, self.reference.reshape(-1), self.sums.reshape(-1), self.geometry,
            )  # fmt: skip
        change, size = self.sums[active, :, :2].sum(1).T
        result: NDArray[np.float64] = np.sqrt(change / np.maximum(size, np.finfo(np.float64).tiny))
        return result

    # -- filter bank --------------------------------------------------------------------------------------------------

    def clear_dual(self, active: NDArray[np.int64]) -> None:
        """u = v = 0."""
        self.dual[self.slot[active], active] = 0
        self.carried[active] = 0

    def start_dual(self, active: NDArray[np.int64]) -> None:
        """u = v = M . W x of the accepted image, not clipped."""
        self._analyse(active, self.dual, self.slot, magnitude=False)
        self.carried[active] = 0

    def collapse_momentum(self, active: NDArray[np.int64]) -> None:
        """u = v, momentum zero: the extrapolated point becomes the iterate, and the other slot is free."""
        with _LAUNCH:
            collapse_momentum(active, self.slot, self._flat_dual, self.carried, self.geometry)
        self.carried[active] = 0

    def refresh(self, active: NDArray[np.int64]) -> None:
        """z = W^T(M . u) and x(u) = x(v) = clip(y - z), after u or M has changed."""
        with _LAUNCH:
            synthesis(
                active, self.slot, self._flat_dual, self._flat_mask, self.has_mask, self.tiles, self.geometry,
                *self.engine.bank.arguments, *self.work,
            )  # fmt: skip
            self._image_step(active, self.slot, self.slot, np.zeros(self.batch, np.float32))

    def step(self, active: NDArray[np.int64], momentum: FloatArray) -> NDArray[np.float64]:
        """One dual step of the active images; `momentum` (B,) extrapolates the new u.

        Returns (active, 6), of the x0 the step started from and the new u: ||M . W x0||_1, <z, x0>, 1/2 ||x0 - y||^2, the
        primal-dual part (kernels/cpu/image.py), ||x(u) - x(u_old)||^2, ||x(u_old)||^2.
        """
        momentum = np.ascontiguousarray(momentum, np.float32)
        other = 1 - self.slot
        with _LAUNCH:
            dual_step(
                active, self.slot, self._flat_image, self._flat_dual, self._flat_mask, self.has_mask,
                self.step_size, self.bound, self.carried, False, self.tiles, self.l1.reshape(-1), self.geometry,
                *self.engine.bank.arguments, *self.work,
            )  # fmt: skip
            self._image_step(active, self.slot, other, momentum)
        self.slot[active] = other[active]
        self.carried[active] = momentum[active]
        return np.column_stack([self.l1[active].sum(1), self.sums[active].sum(1)])

    def steps(self, active: NDArray[np.int64], momenta: FloatArray, sizes: FloatArray | None = None) -> None:
        """As many dual steps as `momenta` (steps, B) has rows, without their sums; sizes (steps, B) times the step size of `load`."""
        usual = self.step_size
        for i, momentum in enumerate(momenta):
            self.step_size = usual if sizes is None else np.asarray(usual * sizes[i], np.float32)
            self.step(active, momentum)
        self.step_size = usual

    def primal_dual_step(
        self, active: NDArray[np.int64], gradient: FloatArray, tau: FloatArray, theta: float = 1.0
    ) -> NDArray[np.float64]:
        """u <- clip(u + sigma M . W x_bar), x <- clip(x - tau (gradient + W^T (M . u))), x_bar <- x + theta (x - x_old).

        gradient (B, H, W) of the data term at x = x(u); x_bar = x(v); sigma is the step size of `load`; tau (B,). Needs collapsed
        momentum. Returns (active, 5), see kernels/cpu/image.py.
        """
        other = 1 - self.slot
        with _LAUNCH:
            dual_step(
                active, self.slot, self._flat_image, self._flat_dual, self._flat_mask, self.has_mask,
                self.step_size, self.bound, self.carried, False, self.tiles, self.l1.reshape(-1), self.geometry,
                *self.engine.bank.arguments, *self.work,
            )  # fmt: skip
            primal_step(
                active, self.slot, other, self.tiles, _flat(gradient), self.z.reshape(-1), self._flat_image, self.low, self.high,
                np.ascontiguousarray(tau, np.float32), np.float32(theta), self.engine.symmetric, self.sums.reshape(-1),
                self.geometry,
            )  # fmt: skip
        self.slot[active] = other[active]
        return self.sums[active].sum(1)

    def anchored_step(
        self, active: NDArray[np.int64], x: FloatArray, weight: FloatArray
    ) -> tuple[FloatArray, NDArray[np.float64]]:
        """A Halpern step of u at the image x (B, H, W), with the step size of `load` (kernels/cpu/filter_bank.py, dual_step).

            u_hat = clip(u + step W x, -lambda M, lambda M)
            u = w (2 u_hat - u) + (1 - w) anchor    where weight (B,) is w > 0, else u = anchor = u_hat

        Returns W^T u (B, H, W), zero for the other images, and ||u_hat - u||^2 (active,). Needs collapsed momentum; overwrites x(v).
        """
        with _LAUNCH:
            set_image(active, self.slot, _flat(x), self._flat_image, self.engine.symmetric, self.geometry)
            dual_step(
                active, self.slot, self._flat_image, self._flat_dual, self._flat_mask, self.has_mask,
                self.step_size, self.bound, np.ascontiguousarray(weight, np.float32), True, self.tiles, self.l1.reshape(-1),
                self.geometry, *self.engine.bank.arguments, *self.work,
            )  # fmt: skip
            z = self._gather(active)
        return z, self.l1[active].sum(1)

    def adjoint_of_dual(self, active: NDArray[np.int64]) -> FloatArray:
        """W^T u (B, H, W); zero for the other images."""
        with _LAUNCH:
            synthesis(
                active, self.slot, self._flat_dual, self._flat_mask, False, self.tiles, self.geometry,
                *self.engine.bank.arguments, *self.work,
            )  # fmt: skip
            return self._gather(active)

    def _gather(self, active: NDArray[np.int64]) -> FloatArray:
        z = np.zeros((self.batch, self.height, self.width), np.float32)
        gather_image(active, self.tiles, self.engine.symmetric, z.reshape(-1), self.geometry)
        return z

    def penalty(self, active: NDArray[np.int64], x: FloatArray) -> NDArray[np.float64]:
        """||M . W x||_1 (active,) of any image x (B, H, W); overwrites x(v)."""
        with _LAUNCH:
            set_image(active, self.slot, _flat(x), self._flat_image, self.engine.symmetric, self.geometry)
            masked_norm(
                active, self.slot, self._flat_image, self._flat_mask, self.has_mask, self.l1.reshape(-1), self.geometry,
                *self.engine.bank.arguments, *self.work,
            )  # fmt: skip
        return self.l1[active].sum(1)

    def set_step(self, step: FloatArray) -> None:
        """The step size of u (B,) from now on."""
        self.step_size = np.ascontiguousarray(step, np.float32)

    def measure(self, active: NDArray[np.int64], previous: bool = False) -> NDArray[np.float64]:
        """(active, 3): ||M . W x(u)||_1, <z, x(u)>, 1/2 ||x(u) - y||^2, of this u or the one before."""
        slot = 1 - self.slot if previous else self.slot
        with _LAUNCH:
            masked_norm(
                active, 2 + slot, self._flat_image, self._flat_mask, self.has_mask, self.l1.reshape(-1), self.geometry,
                *self.engine.bank.arguments, *self.work,
            )  # fmt: skip
            primal_sums(
                active, slot, self.y, self.z.reshape(-1), self._flat_image, self.sums.reshape(-1), self.geometry
            )
        return np.column_stack([self.l1[active].sum(1), self.sums[active, :, :2].sum(1)])

    def filtered(self) -> FloatArray:
        """W x (B, C, H, W) of the accepted image; overwrites u."""
        had_mask, self.has_mask = self.has_mask, False
        self.start_dual(np.arange(self.batch))
        self.has_mask = had_mask
        return self._channels_first(self.dual[self.slot, np.arange(self.batch)])

    def normal_operator(self, x: FloatArray) -> FloatArray:
        """W^T W x (B, H, W), without mask; overwrites x, u and z. For power iteration."""
        active = np.arange(self.batch)
        self.load(np.zeros_like(x), self.carried, self.carried, (-np.inf, np.inf))
        self.put_image(active, x)
        self.start_dual(active)
        self.refresh(active)
        return self.z[self.slot, active].copy()

    # -- masks --------------------------------------------------------------------------------------------------------

    def update_mask(self, active: NDArray[np.int64], gain: FloatArray, bias: FloatArray) -> None:
        """M = mask(x) of the accepted images; gain and bias are (B, C). Needs collapsed momentum: the spare slot of u is scratch."""
        if self.mask is None:
            self.mask = np.empty((self.batch, self.engine.groups, self.height, self.width, _tile.GROUP), np.float32)
            self.mask[np.setdiff1d(np.arange(self.batch), active)] = 1  # the kernels write the others whole
        with _LAUNCH:
            if isinstance(self.engine.mask, _SafiMaskWeights):
                self._update_safi_mask(active, self.engine.mask, gain, bias)
            elif isinstance(self.engine.mask, _MmrMaskWeights):
                self._update_mmr_mask(active, self.engine.mask, gain)
            else:
                self._update_plain_mask(active, self.engine.mask, gain, bias)
        self.has_mask = True

    def masks(self) -> FloatArray:
        """M (B, C, H, W); ones before the first mask."""
        shape = (self.batch, self.engine.model.filters.channels, self.height, self.width)
        if not self.has_mask or self.mask is None:
            return np.ones(shape, np.float32)
        return self._channels_first(self.mask)

    # -- private ------------------------------------------------------------------------------------------------------

    @property
    def _flat_image(self) -> FloatArray:
        return self.image_slots.reshape(-1)

    @property
    def _flat_dual(self) -> FloatArray:
        return self.dual.reshape(-1)

    @property
    def _flat_mask(self) -> FloatArray:
        return self.dual.reshape(-1)[:0] if self.mask is None else self.mask.reshape(-1)

    def _channels_first(self, lanes: FloatArray) -> FloatArray:
        ordered = lanes.transpose(0, 1, 4, 2, 3).reshape(self.batch, -1, self.height, self.width)
        return np.ascontiguousarray(ordered[:, : self.engine.model.filters.channels])

    def _analyse(
        self, active: NDArray[np.int64], output: FloatArray, slot: NDArray[np.int64], *, magnitude: bool
    ) -> None:
        with _LAUNCH:
            analysis(
                active, self.accepted, self._flat_image, self._flat_mask, self.has_mask and not magnitude, magnitude,
                output.reshape(-1), slot, self.geometry, *self.engine.bank.arguments, *self.work,
            )  # fmt: skip

    def _image_step(
        self, active: NDArray[np.int64], source: NDArray[np.int64], target: NDArray[np.int64], momentum: FloatArray
    ) -> None:
        image_step(
            active, source, target, self.tiles, self.y, self.z.reshape(-1), self._flat_image, self.low, self.high,
            momentum, self.engine.symmetric, self.sums.reshape(-1), self.geometry,
        )  # fmt: skip

    def _update_safi_mask(
        self, active: NDArray[np.int64], weights: _SafiMaskWeights, gain: FloatArray, bias: FloatArray
    ) -> None:
        assert self.mask is not None
        channels, only = self.engine.channels, np.zeros(self.batch, np.int64)
        spare, mask = 1 - self.slot, self.mask.reshape(-1)
        flat_gain, flat_bias = (_flat(_padded(values.T, channels).T) for values in (gain, bias))
        layers = len(weights.supports)
        places = [(mask, only), (self._flat_dual, spare)] * (layers + 1)
        places = places[layers % 2 :]  # so that the last layer writes the mask
        features(
            active, self.accepted, self._flat_image, weights.taps, weights.kernel, flat_gain, *weights.splines[0].arguments,
            *places[0], self.geometry,
        )  # fmt: skip
        for layer in range(layers):
            _convolution.convolution(
                active, *places[layer], *places[layer + 1], weights.supports[layer], weights.symmetric,
                *weights.spectra[layer], *weights.splines[layer + 1].arguments, flat_bias, layer == layers - 1, PAIRS,
                *self._mask_arrays(), self.geometry,
            )  # fmt: skip

    def _update_plain_mask(
        self, active: NDArray[np.int64], mask: PlainMask, gain: FloatArray, bias: FloatArray
    ) -> None:
        assert self.mask is not None
        images = self.image()
        for b in active:
            values = _padded(mask.evaluate(images[b], gain[b], bias[b]).astype(np.float32), self.engine.channels)
            lanes = values.reshape(self.engine.groups, _tile.GROUP, self.height, self.width)
            self.mask[b] = lanes.transpose(0, 2, 3, 1)

    def _mask_arrays(self) -> tuple[FloatArray, ...]:
        if self.mask_work is None:
            threads = numba.get_num_threads()
            self.mask_work = tuple(np.zeros(threads * size, np.float32) for size in self.engine.mask_work)
        return self.mask_work

    def _update_mmr_mask(self, active: NDArray[np.int64], weights: _MmrMaskWeights, scale: FloatArray) -> None:
        assert self.mask is not None
        flat_scale = _flat(_padded(scale.T, self.engine.channels).T)
        only, spare = np.zeros(self.batch, np.int64), 1 - self.slot
        self._analyse(active, self.mask, only, magnitude=True)
        places = [(self.mask.reshape(-1), only), (self._flat_dual, spare)]
        chain = [(taps, kernel, False) for taps, kernel in weights.layers]
        chain += [(taps, kernel, True) for taps, kernel in reversed(weights.layers)]
        for number, (taps, kernel, adjoint) in enumerate(chain):
            profiled = number == len(weights.layers) - 1
            depthwise(
                active, *places[0], *places[1], taps, kernel, adjoint, weights.symmetric, profiled,
                flat_scale, *weights.profile.arguments, self.geometry,
            )  # fmt: skip
            places.reverse()


class CpuBackend:
    """Numba on all cores."""

    name = "cpu"
    on_threads = staticmethod(on_threads)

    def prepare(self, model: Model) -> CpuEngine:
        """Weights in the layout of the kernels."""
        return CpuEngine(model)
