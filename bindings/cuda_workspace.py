"""A batch of dual problems on a device: the arrays, and the launches on them.

A step is four launches (five with layer-wise zero padding); which slot is current, and the momentum of each step, are
read from device memory, so that many steps can be recorded once and replayed as a CUDA graph (cuda_recording.py). Sums
come to the host when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from ..varying import Varying
from . import launch
from . import weights as layout
from .cuda_masks import make
from .cuda_recording import Recordings
from .cuda_varying import NoiseMaps
from .cuda_weights import CudaWeights, SafiWeights
from .launch import analysis_blocks, ceil_to, image_blocks, launch_for

Active = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Sums = NDArray[np.float64]

STEP_SUMS = 5  # of image_step
CONSTANTS, KEPT_CONSTANTS = 64, 5  # small arrays of numbers that are kept; the first of them always


class HostState(NamedTuple):
    """What the host knows of the device: slots, planes of the accepted images, whether there is a mask."""

    slot: NDArray[np.int64]
    accepted: NDArray[np.int64]
    has_mask: bool


class CudaWorkspace:
    """State of a batch of dual problems on the device, in the layout of kernels/cuda/filter_bank.cuh.

    u, z = W^T(M . u), x(u) and x(v) have two slots each; slot[b] tells which one is current. The device's own copies
    of slot and of the carried momentum are what kernels read; the host keeps the slots along, since it knows when
    they change. It can be loaded again and again; recordings stay.
    """

    check_every = 4

    def __init__(self, weights: CudaWeights, batch: int, height: int, width: int):
        self.weights, self.device = weights, weights.device
        self.batch, self.height, self.width = batch, height, width
        bank = weights.model.filters
        self.shape = shape = weights.shape(height, width)
        rows, pitch = height + 2 * weights.halo, ceil_to(width + 2 * weights.halo, 4)
        self.geometry = np.array(
            [(batch, height, width, shape.stride, weights.halo, rows, pitch, weights.channels)], layout.GEOMETRY
        )
        device, channels, spread = self.device, weights.channels, bank.support - 1
        planes = weights.planes
        self.images = (batch, height, width) if planes == 1 else (batch, planes, height, width)  # shape of a batch
        self.image_slots = device.zeros((4, batch * planes, rows, pitch), np.float32)
        self.z = device.zeros((2, *self.images), np.float32)
        self.dual = device.zeros((2, batch, channels, height, shape.stride), np.float32)
        self.mask: Any = None
        self.has_mask = False
        self.noise = NoiseMaps(device, self.images)
        self.y, self.reference = (device.empty(self.images, np.float32) for _ in range(2))
        tile_y, tile_x = (launch.WARP_ROWS, launch.TILE) if shape.tensor else (0, 0)
        extended = (tile_y + spread, tile_x + spread) if shape.tensor else (height + spread, width + spread)
        tiles = launch_for("synthesis", shape, 1).grid[0] if shape.tensor else 1
        self.parts = device.empty((batch * planes, shape.splits, tiles, *extended), np.float32)
        sizes = (shape.splits, bank.support, tile_y, tile_x, device.address(self.parts))
        self.parts_struct = np.array([sizes], layout.PARTS)
        self.dropped = device.empty(self.images, np.float32) if bank.band else None
        self.l1 = device.empty((batch, analysis_blocks(shape)), np.float64)
        self.sums = device.empty((batch, image_blocks(shape), STEP_SUMS), np.float64)
        self.totals = device.zeros((batch, 1 + STEP_SUMS), np.float64)
        self.host_slot = np.zeros(batch, np.int64)
        self.host_accepted = np.zeros(batch, np.int64)
        self.told: NDArray[np.float32] | None = None  # gain and bias on the device
        self.slot = device.zeros(batch, np.int32)
        self.carried = device.zeros(batch, np.float32)
        self.turn = device.zeros(batch, np.int32)
        self.momenta = device.zeros((1, batch), np.float32)
        self.sizes = device.zeros((2, batch), np.float32)
        self.usual_size = np.zeros(batch, np.float32)
        self.bound, self.step_size = (device.zeros(batch, np.float32) for _ in range(2))
        self.gains, self.biases = (device.zeros((batch, channels), np.float32) for _ in range(2))
        self.constants: dict[bytes, Any] = {}
        for plane in range(4):  # what a solve needs, which a recording may not upload
            self._numbers(np.full(batch, plane))
        self._list(np.arange(batch))
        self.first_slot = self._numbers(np.zeros(batch))
        self.recordings = Recordings(self)

    # -- data ---------------------------------------------------------------------------------------------------------

    def load(self, y: Any, strength: FloatArray, step: FloatArray, box: tuple[float, float]) -> None:
        """The problems: y (B, H, W) of NumPy or of the device, lambda and step size (B,), box limits.

        x starts at y, without mask.
        """
        self.device.fill(self.y, y)
        self.device.write(self.bound, np.asarray(strength, np.float32))
        self.usual_size = np.array(step, np.float32)
        self.device.write(self.step_size, self.usual_size)
        self.low, self.high = np.float32(box[0]), np.float32(box[1])
        self.has_mask, self.noise.noise = False, None
        self.host_slot[:] = 0
        self.device.write(self.slot, np.zeros(self.batch, np.int32))
        self.device.write(self.carried, np.zeros(self.batch, np.float32))
        everyone = np.arange(self.batch)
        self._set_image(everyone, self.y)
        self.host_accepted[:] = 0
        self._launch("image", "get_image", everyone, self._accepted(), self.image_slots, self.reference)

    def vary(self, noise: Varying) -> None:
        """The noise of the images that were loaded changes over them; without mask M is the weight of `noise`."""
        self._room_for_masks()
        self.noise.load(noise, self.mask.shape)
        weight = self.device.upload(noise.weight), np.int32(0), np.int32(1)
        self._launch("state", "weigh_mask", np.arange(self.batch), *weight, self.mask, None)
        self.has_mask = True

    def hold(self) -> None:
        """Raises BackendError: derivatives are computed on the CPU."""
        raise BackendError("derivatives are computed on the CPU alone; pass backend='cpu'")

    def put_image(self, active: Active, x: Any) -> None:
        """The accepted image and x(v) become x (B, H, W)."""
        self._set_image(active, self.device.adopt(x))
        self.host_accepted[active] = self.host_slot[active]

    def accept(self, active: Active, which: Literal["primal", "previous", "extrapolated"]) -> None:
        """Choose the image that counts: "primal" x(u), "previous" x(u) of the step before, "extrapolated" x0 of the
        last step.
        """
        now, before = self.host_slot[active], 1 - self.host_slot[active]
        self.host_accepted[active] = {"primal": 2 + now, "previous": 2 + before, "extrapolated": before}[which]

    def outer_change(self, active: Active) -> Sums:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call."""
        self._launch("image", "outer_sums", active, self._accepted(), self.image_slots, self.reference, self.sums)
        self._total(active, self.sums, image_blocks(self.shape), 2, 0)
        change, size = self.device.download(self.totals)[active, :2].T
        result: Sums = np.sqrt(change / np.maximum(size, np.finfo(np.float64).tiny))
        return result

    def image(self) -> Any:
        """The accepted images (B, H, W), a new array of the device."""
        values = self.device.empty(self.images, np.float32)
        self._launch("image", "get_image", np.arange(self.batch), self._accepted(), self.image_slots, values)
        return values

    # -- the dual -----------------------------------------------------------------------------------------------------

    def clear_dual(self, active: Active) -> None:
        """u = v = 0."""
        self._launch("state", "clear_dual", active, self.slot, self.dual)
        self._stop(active)

    def start_dual(self, active: Active) -> None:
        """u = v = M . W x of the accepted image, not clipped."""
        self._analyse(active, self.dual, self.slot, magnitude=False)
        self._stop(active)

    def collapse_momentum(self, active: Active) -> None:
        """u = v, momentum zero: the extrapolated point becomes the iterate, and the other slot is free."""
        self._launch("state", "collapse_momentum", active, self.slot, self.dual, self.carried)
        self._stop(active)

    def refresh(self, active: Active) -> None:
        """z = W^T(M . u) and x(u) = x(v) = clip(y - z), after u or M has changed."""
        self._synthesise(active, other=False)
        self._image_step(active, refresh=True)

    def step(self, active: Active, momentum: FloatArray) -> Sums:
        """One dual step, or one for each row of momentum, and the sums of the last (active, 6): see
        CpuWorkspace.step.
        """
        self.steps(active, np.atleast_2d(np.asarray(momentum, np.float32)))
        self._total(active, self.l1, analysis_blocks(self.shape), 1, 0)
        self._total(active, self.sums, image_blocks(self.shape), STEP_SUMS, 1)
        return self.device.download(self.totals)[active]

    def steps(self, active: Active, momenta: FloatArray, sizes: FloatArray | None = None) -> None:
        """As many dual steps as `momenta` (steps, B) has rows, without their sums; sizes (steps, B) times the step
        size of `load`.
        """
        self._write_steps(active, momenta, sizes)
        self._list(active)
        self.recordings.steps(active, len(momenta))
        self.turned(active, len(momenta))

    def unrolled(
        self, outer: int, momenta: FloatArray, sizes: FloatArray | None, gain: FloatArray, bias: FloatArray
    ) -> bool:
        """All of the unrolled schedule, with these steps under each mask: one graph. False: it was not made."""
        if self.noise.noise is not None:
            return False
        everyone, lengths = np.arange(self.batch), None if sizes is None else np.tile(sizes, (outer, 1))
        self._write_steps(everyone, np.tile(momenta, (outer, 1)), lengths)
        self._condition(gain, bias)
        self.recordings.solve(outer, len(momenta))
        return True

    def turned(self, active: Active, count: int) -> None:
        """So many steps were made."""
        if count % 2:
            self.host_slot[active] = 1 - self.host_slot[active]

    def host_state(self) -> HostState:
        """A copy of what the host knows."""
        return HostState(self.host_slot.copy(), self.host_accepted.copy(), self.has_mask)

    def set_host_state(self, state: HostState) -> None:
        """What `host_state` gave."""
        self.host_slot[:], self.host_accepted[:], self.has_mask = state

    def _write_steps(self, active: Active, momenta: FloatArray, sizes: FloatArray | None) -> None:
        """Extrapolation and step size of the steps that follow, and the usual size for what comes after them."""
        if len(self.momenta) < len(momenta):
            self.momenta = self.device.zeros((len(momenta), self.batch), np.float32)
            self.sizes = self.device.zeros((len(momenta) + 1, self.batch), np.float32)
            self.recordings.clear()
        rows = np.zeros(self.momenta.shape, np.float32)
        rows[: len(momenta)] = momenta
        lengths = np.broadcast_to(self.usual_size, self.sizes.shape).copy()
        if sizes is not None:
            lengths[: len(sizes)] *= sizes
        self.device.write(self.momenta, rows)
        self.device.write(self.sizes, lengths)
        first = self.usual_size.copy()
        first[active] = lengths[0, active]
        self.device.write(self.step_size, first)
        self.device.write(self.turn, np.zeros(self.batch, np.int32))

    def measure(self, active: Active, previous: bool = False) -> Sums:
        """(active, 3): ||M . W x(u)||_1, <z, x(u)>, 1/2 ||x(u) - y||^2, of this u or the one before."""
        slot = 1 - self.host_slot if previous else self.host_slot
        arguments = (self.image_slots, self._mask(), self.l1, self.weights.filters, self.weights.border.struct)
        self._launch("analysis", "masked_norm", active, self._numbers(2 + slot), *arguments)
        images = self._numbers(slot), self.y, self.z, self.image_slots, self.sums, self.noise.variance
        self._launch("image", "primal_sums", active, *images, options=self.image_options())
        self._total(active, self.l1, analysis_blocks(self.shape), 1, 0)
        self._total(active, self.sums, image_blocks(self.shape), 2, 1)
        return self.device.download(self.totals)[active, :3]

    def filtered(self) -> FloatArray:
        """W x (B, C, H, W) of the accepted image; overwrites u."""
        had_mask, self.has_mask = self.has_mask, False
        self.start_dual(np.arange(self.batch))
        self.has_mask = had_mask
        return self._unpadded(self.device.download(self.dual)[self.host_slot, np.arange(self.batch)])

    def normal_operator(self, x: FloatArray) -> FloatArray:
        """W^T W x (B, H, W), or W^T M M W x where noise varies; overwrites x, u and z. For power iteration."""
        everyone, nothing = np.arange(self.batch), np.zeros(self.batch, np.float32)
        if self.noise.noise is None:
            self.load(np.zeros_like(x), nothing, nothing, (-np.inf, np.inf))
        self.put_image(everyone, np.ascontiguousarray(x, np.float32))
        self.start_dual(everyone)
        self.refresh(everyone)
        return self.device.download(self.z)[self.host_slot, everyone]

    # -- masks --------------------------------------------------------------------------------------------------------

    def update_mask(self, active: Active, gain: FloatArray, bias: FloatArray) -> None:
        """M = mask(x) of the accepted images; gain and bias are (B, C).

        Needs collapsed momentum: the spare slot of u is scratch. Where noise varies, gain and bias are those of
        `vary`.
        """
        noise = self.noise.noise
        if noise is None:
            self._condition(gain, bias)
            self.make_mask(active)
            return
        count = noise.shares.shape[1]
        for level in range(count):
            self._condition(noise.gain[:, level], noise.bias[:, level])
            self.make_mask(active)
            self._launch("state", "weigh_mask", active, *self.noise.level(level, count), self.mask, self.noise.sum)

    def make_mask(self, active: Active) -> None:
        """`update_mask` with the conditioning that is there."""
        make(self, active)
        self.has_mask = True

    def masks(self) -> FloatArray:
        """M (B, C, H, W) as NumPy, without the weight of noise that varies; ones before the first mask."""
        if not self.has_mask:
            return np.ones((self.batch, self.weights.model.filters.channels, self.height, self.width), np.float32)
        return self.noise.without_weight(self._unpadded(self.device.download(self.mask)))

    def _condition(self, gain: FloatArray, bias: FloatArray) -> None:
        """Conditioning (B, C) of masks from now on, and the memory for them."""
        self._room_for_masks()
        told = np.stack([gain, bias]).astype(np.float32)
        if self.told is not None and np.array_equal(self.told, told):
            return
        self.told = told
        for array, values in zip((self.gains, self.biases), told, strict=True):
            self.device.write(array, np.ascontiguousarray(layout.padded(values.T, self.weights.channels).T))

    def _room_for_masks(self) -> None:
        if self.mask is None:
            shape = (self.batch, self.weights.channels, self.height, self.shape.stride)
            self.mask = self.device.ones(shape, np.float32)

    # -- launches -----------------------------------------------------------------------------------------------------

    def launches(self, active: Active) -> dict[str, Callable[[], None]]:
        """Single launches by kernel, for clocks and profiles: those of a step, "totals" of its sums, "analysis" of
        the accepted image.

        "convolution", where the mask generator is SAFI's, is its second layer, from M to u. No slot turns, so each
        can be called again.
        """
        calls: dict[str, Callable[[], None]] = {
            "dual_step": lambda: self._dual_step(active),
            "synthesis": lambda: self._synthesise(active, other=True),
            "image_step": lambda: self._image_step(active, refresh=False),
            "totals": lambda: self._total(active, self.sums, image_blocks(self.shape), STEP_SUMS, 1),
            "analysis": lambda: self._analyse(active, self.dual, self.slot, magnitude=False),
        }
        mask = self.weights.mask
        if isinstance(mask, SafiWeights):
            layer, bias = mask.layers[1], self.device.zeros((self.batch, self.weights.channels), np.float32)
            calls["convolution"] = lambda: self._launch(
                "convolution", "convolution", active, self.mask, self.first_slot, self.dual, self.first_slot,
                mask.symmetric, layer.weights, mask.splines[1].struct, bias, options=layer.options, size=layer.size,
            )  # fmt: skip
        return calls

    def _launch(
        self,
        file: str,
        name: str,
        active: Active,
        *args: Any,
        options: tuple[str, ...] = (),
        size: launch.Kernel | None = None,
    ) -> None:
        """Launch a kernel for the active images: `active` goes first, the geometry last."""
        if not len(active):
            return
        how = launch_for(name, self.shape, len(active), size)
        kernel = self.weights.kernel(file, name, options)
        if how.shared_bytes > kernel.max_dynamic_shared_size_bytes:
            kernel.max_dynamic_shared_size_bytes = how.shared_bytes
        kernel(how.grid, how.block, (self._list(active), *args, self.geometry), shared_mem=how.shared_bytes)

    def _list(self, active: Active) -> Any:
        """The numbers of the active images on the device."""
        return self._numbers(active)

    def _numbers(self, values: NDArray[Any]) -> Any:
        """Whole numbers on the device, in an array that nobody writes to."""
        own = values.astype(np.int32)
        key = own.tobytes()
        if key not in self.constants:
            if len(self.constants) >= CONSTANTS:  # those of a recording live on with it
                self.constants.pop(list(self.constants)[KEPT_CONSTANTS])
            self.constants[key] = self.device.upload(own)
        return self.constants[key]

    def _mask(self) -> Any:
        return self.mask if self.has_mask else None

    def _accepted(self) -> Any:
        """Where the accepted images lie."""
        return self._numbers(self.host_accepted)

    def _set_image(self, active: Active, values: Any) -> None:
        self._launch("image", "set_image", active, self.slot, values, self.image_slots, self.weights.symmetric)

    def _stop(self, active: Active) -> None:
        how = launch_for("stop", self.shape, len(active))
        arguments = (self._list(active), np.int32(len(active)), self.carried)
        self.weights.kernel("state", "stop")(how.grid, how.block, arguments)

    def _step(self, active: Active) -> None:
        self._dual_step(active)
        self._synthesise(active, other=True)
        self._image_step(active, refresh=False)
        self._launch(
            "state", "advance", active, np.int32(len(active)), self.slot, self.carried, self.momenta, self.step_size,
            self.sizes, self.turn,
        )  # fmt: skip

    def _dual_step(self, active: Active) -> None:
        self._launch(
            "analysis", "dual_step", active, self.slot, self.image_slots, self.dual, self._mask(), self.step_size,
            self.bound, self.carried, self.l1, self.weights.filters, self.weights.border.struct,
        )  # fmt: skip

    def _synthesise(self, active: Active, *, other: bool, masked: bool = True) -> None:
        common = (self.slot, np.int32(other), self.dual, self._mask() if masked else None)
        self._launch("synthesis", "synthesis", active, *common, self.parts, self.weights.taps)
        if self.dropped is not None:
            self._launch("border", "synthesis_border", active, *common, self.dropped, self.weights.border.struct)

    def _image_step(self, active: Active, *, refresh: bool) -> None:
        self._launch(
            "image", "image_step", active, self.slot, np.int32(refresh), self.parts_struct, np.int32(self.shape.band),
            self.dropped, self.y, self.z, self.image_slots, self.low, self.high, self.momenta, self.turn,
            self.weights.symmetric, self.sums, self.noise.variance, options=self.image_options(),
        )  # fmt: skip

    def image_options(self) -> tuple[str, ...]:
        """Of image_step and primal_sums."""
        return (*self.weights.options["image"], *self.noise.options)

    def _analyse(self, active: Active, output: Any, slot: Any, *, magnitude: bool) -> None:
        mask = None if magnitude else self._mask()
        self._launch(
            "analysis", "analysis", active, self._accepted(), self.image_slots, mask, np.int32(magnitude), output, slot,
            self.weights.filters, self.weights.border.struct,
        )  # fmt: skip

    def _total(self, active: Active, partials: Any, blocks: int, columns: int, first: int) -> None:
        """Columns first .. of `totals`: the partial sums of every block added up."""
        how = launch_for("totals", self.shape, len(active))
        counts = np.int32(blocks), np.int32(columns)
        arguments = (partials, *counts, self.totals, np.int32(first), np.int32(1 + STEP_SUMS))
        self.weights.kernel("state", "totals")(how.grid, how.block, (self._list(active), *arguments))

    def _unpadded(self, values: NDArray[Any]) -> FloatArray:
        return np.ascontiguousarray(values[:, : self.weights.model.filters.channels, :, : self.width])
