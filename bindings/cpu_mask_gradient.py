"""Back through the mask generator of a SAFI model on the CPU: chains of launches, as in cpu_masks.py.

The responses t of every layer are computed anew from the image. A convolution's adjoint is the convolution with the
kernels transposed and turned, on an image with a margin where the boundary is symmetric; the margin is folded back by
the layer before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.cpu.arguments import Framed, Geometry, Mask, Mixing, MixWork, Place, Spline, planes_of
from . import aligned
from .blocking import pairs_of
from .cpu_kernels import GROUP, convolution, features, features_gradient, spline_layer, spline_layer_gradient
from .cpu_weights import SafiWeights, in_lanes, per_image

FloatArray = NDArray[np.float32]


class MaskGradient(NamedTuple):
    """dL / d(.) of the image (B, P, H, W) and of gain and bias (B, C)."""

    image: FloatArray
    gain: NDArray[np.float64]
    bias: NDArray[np.float64]


class SafiGradient:
    """For masks M of a batch of this geometry; keeps its arrays from one outer step to the next."""

    def __init__(self, weights: SafiWeights, geometry: Geometry, work: MixWork):
        self._weights, self._geometry, self._work = weights, geometry, work
        self._plain = Geometry(*geometry)  # of what is no image
        batch, groups, channels = geometry.batch, geometry.groups, geometry.groups * GROUP
        self._active, self._slots = np.arange(batch), np.zeros(batch, np.int64)
        self._identity = Spline(in_lanes(np.repeat([0.0, 1.0], channels)), 2, np.float32(0), np.float32(1))
        self._zeros, self._ones = (in_lanes(np.full((batch, channels), value)) for value in (0, 1))
        whole = batch * groups * geometry.height * geometry.width * GROUP
        self._responses = [aligned.empty(whole) for _ in weights.splines]
        self._activity = aligned.empty(whole)
        self._sums = aligned.zeros(batch * geometry.height * channels)
        self._frames: dict[tuple[int, int], FloatArray] = {}

    def __call__(self, image: Place, gain: FloatArray, mask: Mask, slope: FloatArray) -> MaskGradient:
        """Of M of this image, from M . dL / dM, like M (B, G, H, W, 32). Called under LAUNCH."""
        gains = per_image(gain, self._geometry.groups * GROUP)
        self._forward(image, gains)
        given, splines, count = Framed(slope.reshape(-1), 0), self._weights.splines, len(self._weights.adjoints)
        for number in range(count, 0, -1):
            adjoint, present = self._weights.adjoints[number - 1], number == count
            margin = adjoint.support // 2 if self._weights.symmetric else 0
            passed = self._frame(margin, 0)
            spline_layer_gradient(
                self._active, given, mask._replace(present=present), self._responses[number], self._ones,
                splines[number], passed, self._sums, False, self._plain,
            )  # fmt: skip
            if present:
                bias = self._summed()
            given = self._frame(margin, 1)
            self._convolve(passed.values, given.values, adjoint, self._framed_geometry(margin))
        reach = self._weights.taps.kernel // 2
        passed = self._frame(2 * reach if self._weights.symmetric else reach, 2)
        spline_layer_gradient(
            self._active, given, mask._replace(present=False), self._responses[0], gains, splines[0], passed,
            self._sums, True, self._plain,
        )  # fmt: skip
        return MaskGradient(self._to_image(passed, reach), self._summed(), bias)

    def _forward(self, image: Place, gains: FloatArray) -> None:
        """t of every layer; of the first without its gain."""
        first, splines = Place(self._responses[0], self._slots), self._weights.splines
        features(self._active, image, self._weights.taps, self._ones, self._identity, first, self._geometry)
        for number, layer in enumerate(self._weights.layers):
            scale = self._ones if number else gains
            spline_layer(self._active, self._responses[number], scale, splines[number], self._activity, self._plain)
            self._convolve(self._activity, self._responses[number + 1], layer, self._plain)

    def _convolve(self, source: FloatArray, target: FloatArray, layer: Mixing, geometry: Geometry) -> None:
        convolution(
            self._active, Place(source, self._slots), Place(target, self._slots), layer, self._identity, self._zeros,
            False, pairs_of(geometry.groups * GROUP), geometry, self._work,
        )  # fmt: skip

    def _to_image(self, passed: Framed, reach: int) -> FloatArray:
        batch, height, width = self._plain.batch, self._plain.height, self._plain.width
        edge = passed.margin - reach
        image = np.zeros((batch, planes_of(self._geometry), height + 2 * edge, width + 2 * edge), np.float32)
        features_gradient(self._active, passed, self._weights.taps, image.reshape(-1), self._geometry)
        return folded(image, edge)

    def _summed(self) -> NDArray[np.float64]:
        """The sums of all rows, (B, C)."""
        return np.asarray(
            self._sums.reshape(self._plain.batch, self._plain.height, -1).sum(1, dtype=np.float64), np.float64
        )

    def _framed_geometry(self, margin: int) -> Geometry:
        plain = self._plain
        return plain._replace(height=plain.height + 2 * margin, width=plain.width + 2 * margin)

    def _frame(self, margin: int, number: int) -> Framed:
        """Channels with a margin, which is zero in what nobody convolves into."""
        geometry = self._framed_geometry(margin)
        if (margin, number) not in self._frames:
            floats = geometry.batch * geometry.groups * geometry.height * geometry.width * GROUP
            self._frames[margin, number] = aligned.zeros(floats + 3 * GROUP)  # room for features_gradient
        return Framed(self._frames[margin, number], margin)


def folded(image: FloatArray, edge: int) -> FloatArray:
    """The adjoint of the half-sample symmetric extension by `edge` pixels, of (..., H + 2 edge, W + 2 edge)."""
    for axis in (-2, -1):
        moved = np.moveaxis(image, axis, 0)
        core = moved[edge : len(moved) - edge].copy()
        if edge:
            core[:edge] += moved[edge - 1 :: -1]
            core[-edge:] += moved[: -edge - 1 : -1]
        image = np.moveaxis(core, 0, axis)
    return np.ascontiguousarray(image)
