"""A batch of dual problems on a device: the arrays, and the launches on them.

A step is four launches (five with layer-wise zero padding); which slot is current, and the momentum of each step, are
read from device memory, so that many steps can be recorded once and replayed as a CUDA graph. Sums come to the host
when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import launch
from . import weights as layout
from .cuda_weights import CudaWeights, MmrWeights, SafiWeights
from .launch import analysis_blocks, ceil_to, image_blocks, launch_for

Active = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Sums = NDArray[np.float64]

STEP_SUMS = 5  # of image_step
STEP_KERNELS = (
    ("analysis", "dual_step"), ("synthesis", "synthesis"), ("border", "synthesis_border"), ("image", "image_step"),
    ("state", "advance"),
)  # fmt: skip


class CudaWorkspace:
    """State of a batch of dual problems on the device, in the layout of kernels/cuda/filter_bank.cuh.

    u, z = W^T(M . u), x(u) and x(v) have two slots each; slot[b] tells which one is current. The device's own copies
    of slot and of the carried momentum are what kernels read; the host keeps the slots along, since it knows when
    they change.
    """

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
        self.image_slots = device.zeros((4, batch, rows, pitch), np.float32)
        self.z = device.zeros((2, batch, height, width), np.float32)
        self.dual = device.zeros((2, batch, channels, height, shape.stride), np.float32)
        self.mask: Any = None
        self.has_mask = False
        self.reference = device.empty((batch, height, width), np.float32)
        tile_y, tile_x = (launch.WARP_ROWS, launch.TILE) if shape.tensor else (0, 0)
        extended = (tile_y + spread, tile_x + spread) if shape.tensor else (height + spread, width + spread)
        tiles = launch_for("synthesis", shape, 1).grid[0] if shape.tensor else 1
        self.parts = device.empty((batch, shape.splits, tiles, *extended), np.float32)
        sizes = (shape.splits, bank.support, tile_y, tile_x, device.address(self.parts))
        self.parts_struct = np.array([sizes], layout.PARTS)
        self.dropped = device.empty((batch, height, width), np.float32) if bank.band else None
        self.l1 = device.empty((batch, analysis_blocks(shape)), np.float64)
        self.sums = device.empty((batch, image_blocks(shape), STEP_SUMS), np.float64)
        self.totals = device.zeros((batch, 1 + STEP_SUMS), np.float64)
        self.host_slot = np.zeros(batch, np.int64)
        self.host_accepted = np.zeros(batch, np.int64)
        self.slot = device.zeros(batch, np.int32)
        self.accepted = device.zeros(batch, np.int32)
        self.scratch_slot = device.zeros(batch, np.int32)
        self.first_slot = device.zeros(batch, np.int32)
        self.carried = device.zeros(batch, np.float32)
        self.turn = device.zeros(batch, np.int32)
        self.momenta = device.zeros((1, batch), np.float32)
        self.sizes = device.zeros((2, batch), np.float32)
        self.usual_size = np.zeros(batch, np.float32)
        self.bound, self.step_size = (device.zeros(batch, np.float32) for _ in range(2))
        self.lists: dict[bytes, Any] = {}
        self.asked: set[tuple[bytes, int, bool]] = set()
        self.replays: dict[tuple[bytes, int, bool], Callable[[], None]] = {}

    # -- data ---------------------------------------------------------------------------------------------------------

    def load(self, y: Any, strength: FloatArray, step: FloatArray, box: tuple[float, float]) -> None:
        """The problems: y (B, H, W) of NumPy or of the device, lambda and step size (B,), box limits.

        x starts at y, without mask.
        """
        self.y = self.device.adopt(y)
        self.device.write(self.bound, np.asarray(strength, np.float32))
        self.usual_size = np.array(step, np.float32)
        self.device.write(self.step_size, self.usual_size)
        self.low, self.high = np.float32(box[0]), np.float32(box[1])
        self.has_mask = False
        self.replays.clear()  # they know the address of the y before
        self.host_slot[:] = 0
        self._write(self.slot, self.host_slot)
        self.device.write(self.carried, np.zeros(self.batch, np.float32))
        everyone = np.arange(self.batch)
        self.put_image(everyone, self.y)
        self._launch("image", "get_image", everyone, self.accepted, self.image_slots, self.reference)

    def put_image(self, active: Active, x: Any) -> None:
        """The accepted image and x(v) become x (B, H, W)."""
        values = self.device.adopt(x)
        self._launch("image", "set_image", active, self.slot, values, self.image_slots, self.weights.symmetric)
        self._accept(active, self.host_slot[active])

    def accept(self, active: Active, which: Literal["primal", "previous", "extrapolated"]) -> None:
        """Choose the image that counts: "primal" x(u), "previous" x(u) of the step before, "extrapolated" x0 of the
        last step.
        """
        now, before = self.host_slot[active], 1 - self.host_slot[active]
        self._accept(active, {"primal": 2 + now, "previous": 2 + before, "extrapolated": before}[which])

    def outer_change(self, active: Active) -> Sums:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call."""
        self._launch("image", "outer_sums", active, self.accepted, self.image_slots, self.reference, self.sums)
        self._total(active, self.sums, image_blocks(self.shape), 2, 0)
        change, size = self.device.download(self.totals)[active, :2].T
        result: Sums = np.sqrt(change / np.maximum(size, np.finfo(np.float64).tiny))
        return result

    def image(self) -> Any:
        """The accepted images (B, H, W), a new array of the device."""
        values = self.device.empty((self.batch, self.height, self.width), np.float32)
        self._launch("image", "get_image", np.arange(self.batch), self.accepted, self.image_slots, values)
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
        """One dual step and its sums (active, 6): see CpuWorkspace.step."""
        self.steps(active, np.asarray(momentum, np.float32)[None])
        self._total(active, self.l1, analysis_blocks(self.shape), 1, 0)
        self._total(active, self.sums, image_blocks(self.shape), STEP_SUMS, 1)
        return self.device.download(self.totals)[active]

    def steps(self, active: Active, momenta: FloatArray, sizes: FloatArray | None = None) -> None:
        """As many dual steps as `momenta` (steps, B) has rows, without their sums; sizes (steps, B) times the step
        size of `load`.

        Recorded as a graph when asked for a second time.
        """
        count = len(momenta)
        if len(self.momenta) < count:
            self.momenta = self.device.zeros((count, self.batch), np.float32)
            self.sizes = self.device.zeros((count + 1, self.batch), np.float32)
            self.replays.clear()
        self._write_steps(active, momenta, sizes)
        key = (active.tobytes(), count, self.has_mask)
        if key not in self.asked:  # recording pays from the second time on
            self.asked.add(key)
            for _ in range(count):
                self._step(active)
        else:
            if key not in self.replays:
                self.replays[key] = self._record(active, count)
            self.replays[key]()
        if count % 2:
            self.host_slot[active] = 1 - self.host_slot[active]

    def _write_steps(self, active: Active, momenta: FloatArray, sizes: FloatArray | None) -> None:
        """Extrapolation and step size of the steps that follow, and the usual size for what comes after them."""
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
        self._write(self.scratch_slot, 2 + slot)
        arguments = (self.image_slots, self._mask(), self.l1, self.weights.filters, self.weights.border.struct)
        self._launch("analysis", "masked_norm", active, self.scratch_slot, *arguments)
        self._write(self.scratch_slot, slot)
        self._launch("image", "primal_sums", active, self.scratch_slot, self.y, self.z, self.image_slots, self.sums)
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
        """W^T W x (B, H, W), without mask; overwrites x, u and z. For power iteration."""
        everyone, nothing = np.arange(self.batch), np.zeros(self.batch, np.float32)
        self.load(np.zeros_like(x), nothing, nothing, (-np.inf, np.inf))
        self.put_image(everyone, np.ascontiguousarray(x, np.float32))
        self.start_dual(everyone)
        self.refresh(everyone)
        return self.device.download(self.z)[self.host_slot, everyone]

    # -- masks --------------------------------------------------------------------------------------------------------

    def update_mask(self, active: Active, gain: FloatArray, bias: FloatArray) -> None:
        """M = mask(x) of the accepted images; gain and bias are (B, C).

        Needs collapsed momentum: the spare slot of u is scratch.
        """
        if self.mask is None:
            shape = (self.batch, self.weights.channels, self.height, self.shape.stride)
            self.mask = self.device.ones(shape, np.float32)
        self._write(self.scratch_slot, 1 - self.host_slot)
        if isinstance(self.weights.mask, SafiWeights):
            self._update_safi_mask(active, self.weights.mask, gain, bias)
        else:
            self._update_mmr_mask(active, self.weights.mask, gain)
        self.has_mask = True

    def masks(self) -> FloatArray:
        """M (B, C, H, W) as NumPy; ones before the first mask."""
        if not self.has_mask:
            return np.ones((self.batch, self.weights.model.filters.channels, self.height, self.width), np.float32)
        return self._unpadded(self.device.download(self.mask))

    def _update_safi_mask(self, active: Active, mask: SafiWeights, gain: FloatArray, bias: FloatArray) -> None:
        first, *others = mask.layers
        gains, biases = self._per_image(gain), self._per_image(bias)
        places = [(self.mask, self.first_slot), (self.dual, self.scratch_slot)] * (len(others) + 1)
        places = places[len(others) % 2 :]  # so that the last layer writes the mask
        self._launch(
            "features", "features", active, self.accepted, self.image_slots, first.weights, gains,
            mask.splines[0].struct, *places[0], options=first.options,
        )  # fmt: skip
        for i, layer in enumerate(others):
            self._launch(
                "convolution", "convolution", active, *places[i], *places[i + 1], mask.symmetric, layer.weights,
                mask.splines[i + 1].struct, biases, options=layer.options, size=layer.size,
            )  # fmt: skip

    def _update_mmr_mask(self, active: Active, mask: MmrWeights, scale: FloatArray) -> None:
        scales = self._per_image(scale)
        self._analyse(active, self.mask, self.first_slot, magnitude=True)
        places = [(self.mask, self.first_slot), (self.dual, self.scratch_slot)]
        chain = [(*layer, False) for layer in mask.layers] + [(*layer, True) for layer in reversed(mask.layers)]
        for number, (taps, option, adjoint) in enumerate(chain):
            profiled = number == len(mask.layers) - 1
            self._launch(
                "depthwise", "depthwise", active, *places[0], *places[1], taps, np.int32(adjoint), mask.symmetric,
                np.int32(profiled), scales, mask.profile.struct, options=(option,),
            )  # fmt: skip
            places.reverse()

    def _per_image(self, values: FloatArray) -> Any:
        """(B, C) on the device, channels padded."""
        padded = layout.padded(np.asarray(values, np.float32).T, self.weights.channels).T
        return self.device.upload(np.ascontiguousarray(padded))

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
        key = active.tobytes()
        if key not in self.lists:
            self.lists[key] = self.device.upload(active.astype(np.int32))
        return self.lists[key]

    def _write(self, array: Any, values: NDArray[Any]) -> None:
        self.device.write(array, values.astype(np.int32))

    def _mask(self) -> Any:
        return self.mask if self.has_mask else None

    def _accept(self, active: Active, planes: NDArray[np.int64]) -> None:
        self.host_accepted[active] = planes
        self._write(self.accepted, self.host_accepted)

    def _stop(self, active: Active) -> None:
        how = launch_for("stop", self.shape, len(active))
        arguments = (self._list(active), np.int32(len(active)), self.carried)
        self.weights.kernel("state", "stop")(how.grid, how.block, arguments)

    def _record(self, active: Active, count: int) -> Callable[[], None]:
        """`count` steps as something to replay.

        What may not happen in a capture, compiling and uploading, happens before.
        """
        self._list(active)
        for file, name in STEP_KERNELS:
            if file != "border" or self.dropped is not None:
                self.weights.kernel(file, name)

        def steps() -> None:
            for _ in range(count):
                self._step(active)

        return self.device.capture(steps)

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
            self.weights.symmetric, self.sums,
        )  # fmt: skip

    def _analyse(self, active: Active, output: Any, slot: Any, *, magnitude: bool) -> None:
        mask = None if magnitude else self._mask()
        self._launch(
            "analysis", "analysis", active, self.accepted, self.image_slots, mask, np.int32(magnitude), output, slot,
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
