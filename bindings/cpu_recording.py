"""A batch of problems on the CPU that remembers the steps of the unrolled schedule, and their derivative.

Of every step x(v) is kept, and u, which has C channels. Where all u would take more than MOST bytes, that at the start
of each outer step is kept alone, and the way back makes the steps once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from ..kernels.cpu.arguments import Carried, Mask, Place, Record
from . import aligned
from .cpu_kernels import gather_image, image_gradient, recorded_step, set_image, start_gradient, step_gradient
from .cpu_mask_gradient import SafiGradient
from .cpu_weights import CpuWeights, SafiWeights, flat
from .cpu_workspace import Active, CpuWorkspace, FloatArray, Sums
from .threads import LAUNCH

MOST = 2**30  # bytes of u that are kept


class StepGradients(NamedTuple):
    """dL / d(.) of the images y (B, H, W), of lambda (B,), and of gain and bias of the masks (B, C)."""

    image: FloatArray
    strength: Sums
    gain: Sums
    bias: Sums


@dataclass
class Segment:
    """The steps under one mask, M or None.

    start: u_0. record: u_-1, which nobody needs, u_0, ... u_n. One of them is None. points: x(v_0), ... x(v_n-1).
    sizes: of the steps. momenta: 0, m_0, ... m_n-1. image: x(u_n), which the next M is computed from.
    """

    mask: FloatArray | None
    gain: FloatArray | None
    start: FloatArray | None
    record: FloatArray | None
    points: list[FloatArray] = field(default_factory=list)
    sizes: list[FloatArray] = field(default_factory=list)
    momenta: list[FloatArray] = field(default_factory=list)
    image: FloatArray | None = None


class RecordingWorkspace(CpuWorkspace):
    """For `outer` times `inner` steps of all images at once, with masks of a SAFI model."""

    def __init__(self, weights: CpuWeights, size: tuple[int, int, int], counts: tuple[int, int]):
        super().__init__(weights, *size)
        outer, self._inner = counts
        self._all = outer * (self._inner + 2) * self.dual[0].nbytes <= MOST
        self._shared: FloatArray | None = None  # the record of one segment at a time
        self.segments: list[Segment] = []
        self._held: Segment  # whose u the record has
        self._gain: FloatArray | None = None
        self._place = 0  # of u in the record

    # -- forward ------------------------------------------------------------------------------------------------------

    def collapse_momentum(self, active: Active) -> None:
        """u = v, momentum zero."""
        for slot, number in ((self.slot, self._place), (1 - self.slot, self._place - 1)):
            self.dual[slot, np.arange(self.batch)] = self._record[number]
        super().collapse_momentum(active)

    def update_mask(self, active: Active, gain: FloatArray, bias: FloatArray) -> None:
        """M = mask(x) of the accepted images, in an array of its own."""
        self.mask, self._gain = None, gain
        super().update_mask(active, gain, bias)

    def accept(self, active: Active, which: Literal["primal", "previous", "extrapolated"]) -> None:
        """Choose the image that counts: x(u) of the last step of a segment."""
        super().accept(active, which)
        self.segments[-1].image = self.image()

    def refresh(self, active: Active) -> None:
        """z and x after u or M has changed: a segment begins."""
        super().refresh(active)
        start = self.dual[self.slot, np.arange(self.batch)]
        segment = Segment(self.mask, self._gain, None if self._all else start, None)
        self.segments.append(segment)
        self._begin(segment, start)

    def step(self, active: Active, momentum: FloatArray) -> Sums:
        """One dual step of all images, momentum (B,)."""
        segment = self.segments[-1]
        segment.points.append(self._shown())
        segment.sizes.append(self.step_size)
        sums = super().step(active, momentum)
        segment.momenta.append(self.carried.copy())
        return sums

    def _begin(self, segment: Segment, start: FloatArray) -> None:
        if self._all:
            segment.record = aligned.zeros((self._inner + 2, *start.shape))
        elif self._shared is None:
            self._shared = aligned.zeros((self._inner + 2, *start.shape))
        segment.momenta.append(np.zeros(self.batch, np.float32))
        self._put_start(segment, start)

    def _put_start(self, segment: Segment, start: FloatArray) -> None:
        self._held, self._place = segment, 1
        self._record[1] = start

    @property
    def _record(self) -> FloatArray:
        """u of the segment that is held."""
        record = self._held.record if self._all else self._shared
        assert record is not None
        return record

    def _dual_step(self, active: Active) -> None:
        window = self._record[self._place - 1 :].reshape(-1)
        recorded_step(
            active, self._image(self.slot), Place(window, np.ones(self.batch, np.int64)), self._mask, self._step,
            self.carried, self.tiles, self._flat_l1, self.geometry, self.weights.bank, self.work,
        )  # fmt: skip
        self._place += 1

    def _shown(self) -> FloatArray:
        """x(v), (B, H, W)."""
        halo = self.geometry.halo
        points = self.image_slots[self.slot, np.arange(self.batch)]
        return points[..., halo : halo + self.height, halo : halo + self.width].copy()

    # -- back ---------------------------------------------------------------------------------------------------------

    def gradients(self, to_image: FloatArray) -> StepGradients:
        """From dL / dx (B, H, W) of the last image. Can be asked again."""
        back = _WayBack(self)
        for number in range(len(self.segments) - 1, -1, -1):
            segment, seen = self.segments[number], self.segments[number - 1].image if number else None
            with LAUNCH:
                self._recall(segment)
                to_image = back.through(segment, self._record, to_image, seen)
        return StepGradients(back.to_y, back.to_bound / self.bound, back.to_gain, back.to_bias)

    def _recall(self, segment: Segment) -> None:
        """Its u are in the record: where they were not kept, its steps are made again."""
        if self._all or self._held is segment:
            self._held = segment
            return
        assert segment.start is not None
        everyone = np.arange(self.batch)
        self.mask, self.has_mask = segment.mask, segment.mask is not None
        self.dual[self.slot, everyone] = segment.start
        self.carried[:] = 0
        super().refresh(everyone)
        self._put_start(segment, segment.start)
        for size, momentum in zip(segment.sizes, segment.momenta[1:], strict=True):
            self.set_step(size)
            super().step(everyone, momentum)


class _WayBack:
    """What one walk from the last segment to the first carries along, and its launches."""

    def __init__(self, workspace: RecordingWorkspace):
        self._workspace, self._active = workspace, np.arange(workspace.batch)
        batch, floats = workspace.batch, workspace.dual[0].size
        channels = workspace.weights.model.filters.channels
        self.to_y = np.zeros(workspace.images, np.float32)
        self.to_bound = np.zeros(batch)  # times lambda
        self.to_gain, self.to_bias = np.zeros((2, batch, channels))
        self._carried = Carried(aligned.empty(floats), aligned.zeros(floats), aligned.empty(floats))
        self._image = Place(aligned.zeros(workspace.image_slots[0].size), np.zeros(batch, np.int64))
        self._masks: SafiGradient | None = None

    def through(
        self, segment: Segment, record: FloatArray, to_image: FloatArray, seen: FloatArray | None
    ) -> FloatArray:
        """From dL / dx(u_n) to that of the image `seen` that the mask was computed from."""
        space, momenta, count = self._workspace, segment.momenta, len(segment.sizes)
        mask = Mask((space.dual[:0] if segment.mask is None else segment.mask).reshape(-1), segment.mask is not None)
        assert segment.image is not None
        low, high = space.box
        slope = to_image * ((segment.image > low) & (segment.image < high))
        self.to_y += slope
        set_image(self._active, flat(slope), self._image, space.geometry)
        for i in range(count, 0, -1):
            following = momenta[min(i + 1, count)]
            steps = Record(record.reshape(-1), i + 1, following, momenta[i], momenta[i - 1])
            step_gradient(
                self._active, self._image, steps, self._carried, mask, space.bound, i == count, space.tiles,
                space.l1.reshape(-1), space.geometry, space.weights.bank, space.work,
            )  # fmt: skip
            self.to_bound += space.l1.sum(1)
            image_gradient(
                self._active, space.tiles, segment.points[i - 1].reshape(-1), space.box, segment.sizes[i - 1],
                self.to_y.reshape(-1), self._image.values, space.geometry,
            )  # fmt: skip
        start_gradient(
            self._active, self._image, Record(record.reshape(-1), 1, momenta[1], momenta[0], momenta[0]),
            self._carried, mask, seen is None, space.tiles, space.geometry, space.weights.bank, space.work,
        )  # fmt: skip
        return self._through_start() if seen is None else self._through_mask(segment, seen, mask)

    def _through_start(self) -> FloatArray:
        """u_0 = W y."""
        space = self._workspace
        adjoint = np.zeros_like(self.to_y)
        gather_image(self._active, space.tiles, adjoint.reshape(-1), space.geometry)
        self.to_y += adjoint
        return adjoint

    def _through_mask(self, segment: Segment, seen: FloatArray, mask: Mask) -> FloatArray:
        space, weights = self._workspace, self._workspace.weights
        assert isinstance(weights.mask, SafiWeights)
        assert segment.gain is not None
        if self._masks is None:
            self._masks = SafiGradient(weights.mask, space.geometry, space.mix_work())
        set_image(self._active, flat(seen), self._image, space.geometry)
        found = self._masks(self._image, segment.gain, mask, self._carried.mask)
        channels = self.to_gain.shape[1]
        self.to_gain += found.gain[:, :channels]
        self.to_bias += found.bias[:, :channels]
        return found.image.reshape(space.images)
