"""A batch of problems on the CPU: the arrays, and the launches on them.

Numba's default threading layer must not be entered by two threads at once, so every launch holds one lock; the
kernels use all cores anyway.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..kernels.cpu.arguments import (
    GEOMETRIES,
    AnyData,
    Box,
    Data,
    Geometry,
    Mask,
    MixWork,
    Place,
    Step,
    WeightedData,
    Work,
)
from ..varying import Varying
from . import aligned
from .cpu_kernels import (
    GROUP,
    SUMS,
    TILE,
    analysis,
    anchored_step,
    collapse_momentum,
    dual_step,
    extra_floats,
    gather_image,
    get_num_threads,
    image_step,
    masked_norm,
    outer_sums,
    primal_sums,
    set_image,
    synthesis,
    work_floats,
)
from .cpu_masks import Chain, mmr_mask, safi_mask, work_space
from .cpu_weights import CpuWeights, MmrWeights, SafiWeights, check_plain, flat, plain_lanes
from .threads import LAUNCH

Active = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Sums = NDArray[np.float64]
AT_BOUND = 1e-6  # relative; u is clipped to its bound


def bank_floats(groups: int, planes: int) -> tuple[int, int, int]:
    """Floats of one thread's work space for the filter bank: re, im, extra."""
    floats = int(work_floats(groups, planes))
    return floats, floats, int(extra_floats(planes))


class CpuWorkspace:
    """State of a batch of problems; every array is float32 in the layout that kernels/cpu describes.

    u, z = W^T(M . u), x(u) and the extrapolated x(v) have two slots each; slot[b] tells which one is current, the
    other holds the step before. accepted[b] is the plane of the image that masks and outer steps refer to.
    """

    check_every = 1  # the sums of a step are there when it is made

    def __init__(self, weights: CpuWeights, batch: int, height: int, width: int):
        self.weights = weights
        self.batch, self.height, self.width = batch, height, width
        support, halo, symmetric = weights.support, weights.halo, weights.symmetric
        rows, pitch, tile_count = weights.padded_size(height, width)
        planes = weights.planes
        self.geometry = GEOMETRIES[planes](batch, height, width, weights.groups, support, halo, rows, pitch, symmetric)
        self.images = (batch, height, width) if planes == 1 else (batch, planes, height, width)  # shape of a batch
        self.image_slots = aligned.zeros((4, *self.images[:-2], rows, pitch))
        self.z = np.zeros((2, *self.images), np.float32)
        self.dual = aligned.zeros((2, batch, weights.groups, height, width, GROUP))
        self.mask: FloatArray | None = None
        self.has_mask = False
        self.tiles = aligned.empty(batch * planes * tile_count * TILE * TILE)
        self.l1 = np.zeros((batch, tile_count))
        self.sums = np.zeros((batch, planes * height, SUMS))
        self.slot = np.zeros(batch, np.int64)
        self.accepted = np.zeros(batch, np.int64)
        self.reference = np.zeros(self.images, np.float32)
        self.varying: Varying | None = None
        self.variance = np.zeros(0, np.float32)  # where noise varies
        self.carried = np.zeros(batch, np.float32)  # v = u + carried (u - u_previous)
        threads = get_num_threads()
        self.work = Work(*(aligned.zeros(threads * size) for size in bank_floats(weights.groups, planes)))
        self._mix_work: MixWork | None = None
        self._places = np.zeros(0, np.int64)  # places in a slot of u

    # -- data ---------------------------------------------------------------------------------------------------------

    def load(self, y: FloatArray, strength: FloatArray, step: FloatArray, box: tuple[float, float]) -> None:
        """The problems: y (B, H, W), lambda and step size (B,), box limits (may be infinite).

        x starts at y, without mask.
        """
        self.y, self.varying = flat(y), None
        self.bound = np.ascontiguousarray(strength, np.float32)
        self.set_step(step)
        self.box = Box(np.float32(box[0]), np.float32(box[1]))
        self.has_mask = False
        self.carried[:] = 0
        self.slot[:] = 0
        self.reference[:] = y
        self.put_image(np.arange(self.batch), y)

    def vary(self, noise: Varying) -> None:
        """The noise of the images that were loaded changes over them; without mask M is the weight of `noise`."""
        spread = noise.variance if self.weights.planes == 1 else noise.variance[:, None]
        self.variance = flat(np.broadcast_to(spread, self.images))
        self.varying, self.has_mask = noise, True
        self._room_for_masks(np.arange(self.batch))[:] = noise.weight[:, None, :, :, None]

    def set_step(self, step: FloatArray) -> None:
        """The step size of u (B,) from now on."""
        self.step_size = np.ascontiguousarray(step, np.float32)

    def put_image(self, active: Active, x: FloatArray) -> None:
        """The accepted image and x(v) become x (B, H, W)."""
        with LAUNCH:
            set_image(active, flat(x), self._image(self.slot), self.geometry)
        self.accepted[active] = self.slot[active]

    def accept(self, active: Active, which: Literal["primal", "previous", "extrapolated"]) -> None:
        """Choose the image that counts: x(u), x(u) of the step before, or the x0 of the last step."""
        now, before = self.slot[active], 1 - self.slot[active]
        self.accepted[active] = {"primal": 2 + now, "previous": 2 + before, "extrapolated": before}[which]

    def image(self) -> FloatArray:
        """A copy of the accepted images (B, H, W)."""
        halo = self.geometry.halo
        planes = self.image_slots[self.accepted, np.arange(self.batch)]
        return planes[..., halo : halo + self.height, halo : halo + self.width].copy()

    def outer_change(self, active: Active) -> Sums:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call (active,); the first call
        compares with y.
        """
        with LAUNCH:
            outer_sums(active, self._image(self.accepted), self.reference.reshape(-1), self._flat_sums, self.geometry)
        change, size = self.sums[active, :, :2].sum(1).T
        result: Sums = np.sqrt(change / np.maximum(size, np.finfo(np.float64).tiny))
        return result

    # -- filter bank --------------------------------------------------------------------------------------------------

    def clear_dual(self, active: Active) -> None:
        """u = v = 0."""
        self.dual[self.slot[active], active] = 0
        self.carried[active] = 0

    def start_dual(self, active: Active) -> None:
        """u = v = M . W x of the accepted image, not clipped."""
        self._analyse(active, self._dual(self.slot), magnitude=False)
        self.carried[active] = 0

    def collapse_momentum(self, active: Active) -> None:
        """u = v, momentum zero: the extrapolated point becomes the iterate, and the other slot is free."""
        with LAUNCH:
            collapse_momentum(active, self._dual(self.slot), self.carried, Geometry(*self.geometry))
        self.carried[active] = 0

    def refresh(self, active: Active) -> None:
        """z = W^T(M . u) and x(u) = x(v) = clip(y - z), after u or M has changed."""
        with LAUNCH:
            self._synthesise(active, self._mask)
            self._image_step(active, self.slot, np.zeros(self.batch, np.float32))

    def step(self, active: Active, momentum: FloatArray) -> Sums:
        """One dual step of the active images; `momentum` (B,) extrapolates the new u. Several where it is (steps, B).

        Returns (active, 6), of the x0 that the last step started from and the new u: ||M . W x0||_1, <z, x0>,
        1/2 ||x0 - y||^2, the primal-dual part (kernels/cpu/image.py), ||x(u) - x(u_old)||^2, ||x(u_old)||^2.
        """
        momentum = np.ascontiguousarray(momentum, np.float32)
        if momentum.ndim == 2:
            self.steps(active, momentum[:-1])
            momentum = momentum[-1]
        other = 1 - self.slot
        with LAUNCH:
            self._dual_step(active)
            self._image_step(active, other, momentum)
        self.slot[active] = other[active]
        self.carried[active] = momentum[active]
        return np.column_stack([self.l1[active].sum(1), self.sums[active].sum(1)])

    def unrolled(
        self, outer: int, momenta: FloatArray, sizes: FloatArray | None, gain: FloatArray, bias: FloatArray
    ) -> bool:
        """Nothing, which False says: launches cost little here."""
        return False

    def steps(self, active: Active, momenta: FloatArray, sizes: FloatArray | None = None) -> None:
        """As many dual steps as `momenta` (steps, B) has rows, without their sums; sizes (steps, B) times the step
        size of `load`.
        """
        usual = self.step_size
        for i, momentum in enumerate(momenta):
            self.step_size = usual if sizes is None else np.asarray(usual * sizes[i], np.float32)
            self.step(active, momentum)
        self.step_size = usual

    def place(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself: the kernels take it as it is."""
        return array

    def iteration(
        self, x: Any, z: Any, rows: Any | None, box: tuple[float, float] | None, box_first: int | None
    ) -> None:
        """None: the solver makes the steps in NumPy."""
        return

    def set_bound(self, strength: FloatArray) -> None:
        """lambda (B,) from now on."""
        self.bound = np.ascontiguousarray(strength, np.float32)

    def anchored_step(self, active: Active, x: FloatArray, weight: FloatArray) -> tuple[FloatArray, Sums]:
        """A Halpern step of u at the image x (B, H, W), with the step size that was set (kernels/cpu/filter_bank.py).

            u_hat = clip(u + step W x, -lambda M, lambda M)
            u = w (2 u_hat - u) + (1 - w) anchor    where weight (B,) is 0 < w <= 1
            u = anchor = u_hat                      where it is 0
            u = u + w (u_hat - u)                   where it is above 1

        Returns W^T u (B, H, W), zero for the other images, and ||u_hat - u||^2 (active,). Needs collapsed momentum;
        overwrites x(v).
        """
        with LAUNCH:
            set_image(active, flat(x), self._image(self.slot), self.geometry)
            anchored_step(
                active, self._image(self.slot), self._dual(self.slot), self._mask, self._step,
                np.ascontiguousarray(weight, np.float32), self.tiles, self._flat_l1, self.geometry,
                self.weights.bank, self.work,
            )  # fmt: skip
            z = self._gather(active)
        return z, self.l1[active].sum(1)

    def adjoint_of_dual(self, active: Active) -> FloatArray:
        """W^T u (B, H, W); zero for the other images."""
        with LAUNCH:
            self._synthesise(active, self._mask._replace(present=False))
            return self._gather(active)

    def penalty(self, active: Active, x: FloatArray) -> Sums:
        """||M . W x||_1 (active,) of any image x (B, H, W); overwrites x(v)."""
        with LAUNCH:
            set_image(active, flat(x), self._image(self.slot), self.geometry)
            self._norm(active, self.slot)
        result: Sums = self.l1[active].sum(1)
        return result

    def measure(self, active: Active, previous: bool = False) -> Sums:
        """(active, 3): ||M . W x(u)||_1, <z, x(u)>, 1/2 ||x(u) - y||^2, of this u or the one before."""
        slot = 1 - self.slot if previous else self.slot
        with LAUNCH:
            self._norm(active, 2 + slot)
            primal_sums(
                active,
                slot,
                self._data,
                self.z.reshape(-1),
                self.image_slots.reshape(-1),
                self._flat_sums,
                self.geometry,
            )
        return np.column_stack([self.l1[active].sum(1), self.sums[active, :, :2].sum(1)])

    def filtered(self) -> FloatArray:
        """W x (B, C, H, W) of the accepted image; overwrites u."""
        had_mask, self.has_mask = self.has_mask, False
        self.start_dual(np.arange(self.batch))
        self.has_mask = had_mask
        return self._channels_first(self.dual[self.slot, np.arange(self.batch)])

    def normal_operator(self, x: FloatArray) -> FloatArray:
        """W^T W x (B, H, W), with masks W^T M M W x; overwrites x, u and z."""
        active = np.arange(self.batch)
        if not self.has_mask:
            self.load(np.zeros_like(x), self.carried, self.carried, (-np.inf, np.inf))
        self.put_image(active, x)
        self.start_dual(active)
        self.refresh(active)
        return self.z[self.slot, active].copy()

    def hold(self) -> None:
        """M becomes zero where u is at its bound: `normal_operator` then is that of the responses which are zero."""
        active = np.arange(self.batch)
        masks, u = self._room_for_masks(active), self.dual[self.slot, active]
        if not self.has_mask:
            masks[:], self.has_mask = 1, True
        masks *= np.abs(u) < (self.bound * np.float32(1 - AT_BOUND)).reshape(-1, 1, 1, 1, 1)

    def hold_bounded(self) -> NDArray[np.int64]:
        """Remember the responses with |u| < lambda M, which are zero; the image of each, in ascending order."""
        active = np.arange(self.batch)
        u, bound = self.dual[self.slot, active], (self.bound * np.float32(1 - AT_BOUND)).reshape(-1, 1, 1, 1, 1)
        held = np.abs(u) < (bound if self.mask is None or not self.has_mask else bound * self.mask)
        channels = np.arange(held.shape[1] * GROUP).reshape(-1, 1, 1, GROUP)
        held &= channels < self.weights.model.filters.channels
        self._places, self.slot[:], self.has_mask = np.flatnonzero(held), 0, False
        return np.asarray(self._places // held[0].size)

    def held_responses(self, x: FloatArray) -> FloatArray:
        """W x of images (B, H, W) at the responses of `hold_bounded`; overwrites x and u."""
        active = np.arange(self.batch)
        self.put_image(active, x)
        self.start_dual(active)
        return np.asarray(self.dual[0].reshape(-1)[self._places])

    def from_held(self, values: FloatArray) -> FloatArray:
        """The adjoint of `held_responses`: W^T u (B, H, W), u zero elsewhere."""
        self.dual[0] = 0
        self.dual[0].reshape(-1)[self._places] = values
        return self.adjoint_of_dual(np.arange(self.batch))

    # -- masks --------------------------------------------------------------------------------------------------------

    def update_mask(self, active: Active, gain: FloatArray, bias: FloatArray) -> None:
        """M = mask(x) of the accepted images; gain and bias are (B, C).

        Needs collapsed momentum: the spare slot of u is scratch. Where noise varies, gain and bias are those of
        `vary`.
        """
        masks = self._room_for_masks(active)
        if self.varying is None:
            self._make_mask(active, gain, bias)
            return
        for image in active:
            total = np.zeros_like(masks[image])
            for level, share in enumerate(self.varying.shares[image]):
                self._make_mask(np.array([image]), self.varying.gain[:, level], self.varying.bias[:, level])
                masks[image] *= (share * self.varying.weight[image])[..., None]
                total += masks[image]
            masks[image] = total

    def _room_for_masks(self, active: Active) -> FloatArray:
        if self.mask is None:
            self.mask = aligned.empty((self.batch, self.weights.groups, self.height, self.width, GROUP))
            self.mask[np.setdiff1d(np.arange(self.batch), active)] = 1  # the kernels write the others whole
        return self.mask

    def _make_mask(self, active: Active, gain: FloatArray, bias: FloatArray) -> None:
        mask = self._room_for_masks(active)
        chain = Chain(
            active,
            Place(mask.reshape(-1), np.zeros(self.batch, np.int64)),
            self._dual(1 - self.slot),
            self.geometry,
        )
        with LAUNCH:
            if isinstance(self.weights.mask, SafiWeights):
                safi_mask(chain, self.weights.mask, self._image(self.accepted), gain, bias, self.mix_work())
            elif isinstance(self.weights.mask, MmrWeights):
                self._analyse(active, chain.mask, magnitude=True)
                mmr_mask(chain, self.weights.mask, gain)
            else:
                images = self.image()
                for b in active:
                    values = self.weights.mask.evaluate(images[b], gain[b], bias[b])
                    check_plain(values, self.weights.model, (self.height, self.width))
                    mask[b] = plain_lanes(values, self.weights.channels)
        self.has_mask = True

    def masks(self) -> FloatArray:
        """M (B, C, H, W), without the weight of noise that varies; ones before the first mask."""
        shape = (self.batch, self.weights.model.filters.channels, self.height, self.width)
        if not self.has_mask or self.mask is None:
            return np.ones(shape, np.float32)
        masks = self._channels_first(self.mask)
        return masks if self.varying is None else masks / self.varying.weight[:, None]

    def mix_work(self) -> MixWork:
        """The work space of convolutions, allocated when first asked for."""
        if self._mix_work is None:
            self._mix_work = work_space(self.weights.groups)
        return self._mix_work

    # -- private: what the kernels take -------------------------------------------------------------------------------

    def _image(self, slot: NDArray[np.int64]) -> Place:
        return Place(self.image_slots.reshape(-1), slot)

    def _dual(self, slot: NDArray[np.int64]) -> Place:
        return Place(self.dual.reshape(-1), slot)

    @property
    def _data(self) -> AnyData:
        return Data(self.y) if self.varying is None else WeightedData(self.y, self.variance)

    @property
    def _mask(self) -> Mask:
        return Mask((self.dual[:0] if self.mask is None else self.mask).reshape(-1), self.has_mask)

    @property
    def _step(self) -> Step:
        return Step(self.step_size, self.bound)

    @property
    def _flat_l1(self) -> Sums:
        return self.l1.reshape(-1)

    @property
    def _flat_sums(self) -> Sums:
        return self.sums.reshape(-1)

    # -- private: launches --------------------------------------------------------------------------------------------

    def _analyse(self, active: Active, output: Place, *, magnitude: bool) -> None:
        mask = self._mask._replace(present=self.has_mask and not magnitude)
        with LAUNCH:
            analysis(
                active, self._image(self.accepted), mask, magnitude, output, self.geometry, self.weights.bank, self.work
            )

    def _dual_step(self, active: Active) -> None:
        dual_step(
            active, self._image(self.slot), self._dual(self.slot), self._mask, self._step, self.carried, self.tiles,
            self._flat_l1, self.geometry, self.weights.bank, self.work,
        )  # fmt: skip

    def _synthesise(self, active: Active, mask: Mask) -> None:
        synthesis(active, self._dual(self.slot), mask, self.tiles, self.geometry, self.weights.bank, self.work)

    def _norm(self, active: Active, planes: NDArray[np.int64]) -> None:
        masked_norm(active, self._image(planes), self._mask, self._flat_l1, self.geometry, self.weights.bank, self.work)

    def _gather(self, active: Active) -> FloatArray:
        z = np.zeros(self.images, np.float32)
        gather_image(active, self.tiles, z.reshape(-1), self.geometry)
        return z

    def _image_step(self, active: Active, target: NDArray[np.int64], momentum: FloatArray) -> None:
        image_step(
            active, self.slot, target, self.tiles, self._data, self.z.reshape(-1), self.image_slots.reshape(-1),
            self.box, momentum, self._flat_sums, self.geometry,
        )  # fmt: skip

    def _channels_first(self, lanes: FloatArray) -> FloatArray:
        ordered = lanes.transpose(0, 1, 4, 2, 3).reshape(self.batch, -1, self.height, self.width)
        return np.ascontiguousarray(ordered[:, : self.weights.model.filters.channels])
