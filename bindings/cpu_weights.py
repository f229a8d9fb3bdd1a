"""A model in the layout of the CPU kernels (kernels/cpu/arguments.py), made once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..kernels.cpu.arguments import Bank, Mixing, Spline, Taps
from ..masks import MmrMask, PlainMask, SafiMask
from ..model import FilterBank, Model
from .aligned import aligned
from .border import border_taps
from .cpu_kernels import GROUP, SMALL_TILE, TILE

FloatArray = NDArray[np.float32]


def padded(values: NDArray[Any], channels: int) -> NDArray[Any]:
    """Zeros after the last channel (first axis), up to whole groups of 32."""
    return np.concatenate([values, np.zeros((channels - values.shape[0], *values.shape[1:]), values.dtype)])


def flat(values: NDArray[Any]) -> FloatArray:
    """As the kernels take arrays: float32 and one-dimensional, in C order."""
    return np.ascontiguousarray(values, np.float32).reshape(-1)


def in_lanes(values: NDArray[Any]) -> FloatArray:
    """`flat`, on a cache line: what the kernels read in lanes."""
    return aligned(flat(values))


def per_image(values: NDArray[Any], channels: int) -> FloatArray:
    """(B, C), channels padded."""
    return in_lanes(padded(values.T, channels).T)


def check_plain(values: Any, model: Model, size: tuple[int, int]) -> None:
    """Raise ModelError unless these are masks of an image of this size: one for each filter, on [0, 1]."""
    expected = (model.filters.channels, *size)
    shape = np.shape(values)
    if shape != expected:
        raise ModelError(f"evaluate of the {model.family!r} mask gave shape {shape}; expected (C, H, W) = {expected}")
    if not (np.isfinite(values).all() and np.min(values) >= 0 and np.max(values) <= 1):
        found = f"{np.min(values):.3g} to {np.max(values):.3g}"
        raise ModelError(f"evaluate of the {model.family!r} mask gave values from {found}; expected 0 to 1")


def plain_lanes(values: NDArray[Any], channels: int) -> FloatArray:
    """(C, H, W) in the layout of u and M, (G, H, W, 32)."""
    lanes = padded(values, channels).reshape(-1, GROUP, *values.shape[1:])
    return np.ascontiguousarray(lanes.transpose(0, 2, 3, 1), np.float32)


def spline_bank(values: NDArray[Any], low: float, channels: int) -> Spline:
    """(C, n) values at uniform knots on [low, 1]: the first coefficient and the differences, over all channels."""
    wide = padded(values.astype(np.float64), channels)
    table = in_lanes(np.column_stack([wide[:, 0], np.diff(wide, axis=1)]).T)
    pieces = values.shape[1] - 1
    scale = pieces / (1.0 - low)
    return Spline(table, pieces + 1, np.float32(-low * scale), np.float32(scale))


def taps_of(weight: NDArray[Any], channels: int) -> Taps:
    """(C, k, k), one kernel for each channel, or (C, P, k, k), one for each plane of an image."""
    return Taps(in_lanes(np.moveaxis(padded(weight, channels), 0, -1)), weight.shape[-1])


def filter_bank(filters: FilterBank, channels: int) -> Bank:
    """The composed filters as spectra, and the taps that layer-wise zero padding drops near the border."""
    composed = padded(filters.composed().astype(np.float64), channels).transpose(1, 0, 2, 3)
    spectra = np.conj(np.fft.fft2(composed, (TILE, TILE))) / TILE**2
    pairs = spectra.transpose(0, 1, 3, 2).reshape(-1, 2, 16, TILE * TILE)
    packed = (pairs[:, 0] + 1j * pairs[:, 1]).transpose(0, 2, 1)
    taps = border_taps(filters.layers, filters.band)
    tap_at = (taps.offset_y * TILE + taps.offset_x).astype(np.int32)
    return Bank(
        in_lanes(packed.real),
        in_lanes(packed.imag),
        taps.band,
        taps.first,
        tap_at,
        in_lanes(np.moveaxis(padded(np.moveaxis(taps.weights, -1, 0), channels), 0, -1)),
    )


def dilated(weight: NDArray[Any], dilation: int) -> NDArray[np.float64]:
    """The kernel with its zeros written out."""
    size = (weight.shape[-1] - 1) * dilation + 1
    spread = np.zeros((*weight.shape[:2], size, size))
    spread[:, :, ::dilation, ::dilation] = weight
    return spread


def mixing(kernel: NDArray[np.float64], symmetric: bool, channels: int) -> Mixing:
    """A layer C -> C (C, C, k, k), its kernels dilated, as spectra of the 16 x 16 tiles."""
    bins = SMALL_TILE**2
    spectra = np.conj(np.fft.fft2(kernel, (SMALL_TILE, SMALL_TILE))) / bins
    matrices = np.zeros((bins, channels, channels), np.complex64)
    c_out, c_in = kernel.shape[:2]
    matrices[:, :c_in, :c_out] = spectra.reshape(c_out, c_in, bins).transpose(2, 1, 0)
    return Mixing(in_lanes(matrices.real), in_lanes(matrices.imag), kernel.shape[-1], symmetric)


class SafiWeights:
    """First layer as taps, the others as spectra of the 16 x 16 tiles."""

    def __init__(self, mask: SafiMask, channels: int):
        first, *others = [
            dilated(weight, dilation) for weight, dilation in zip(mask.convolutions, mask.dilations, strict=True)
        ]
        self.symmetric, self._others, self._channels = mask.boundary == "symmetric", others, channels
        self.taps = taps_of(first, channels)
        self.layers = [mixing(kernel, self.symmetric, channels) for kernel in others]
        self.splines = [spline_bank(values, -1.0, channels) for values in mask.splines]

    @cached_property
    def adjoints(self) -> list[Mixing]:
        """The adjoints of `layers` where they do not mirror: for derivatives alone."""
        turned = [kernel.transpose(1, 0, 2, 3)[..., ::-1, ::-1] for kernel in self._others]
        return [mixing(kernel, False, self._channels) for kernel in turned]


class MmrWeights:
    """The depthwise layers as taps, the profile as a spline."""

    def __init__(self, mask: MmrMask, boundary: str, channels: int):
        self.symmetric = boundary == "symmetric"
        self.layers = [taps_of(layer[:, 0], channels) for layer in mask.smoothing]
        self.profile = spline_bank(mask.profile, 0.0, channels)


class CpuWeights:
    """All of a model. Read-only after construction, so threads may share it."""

    def __init__(self, model: Model):
        self.model = model
        filters = model.filters
        self.groups = -(-filters.channels // GROUP)
        self.channels = self.groups * GROUP
        self.support, self.planes = filters.support, filters.planes
        self.symmetric = filters.boundary == "symmetric"
        self.bank = filter_bank(filters, self.channels)
        self.mask: SafiWeights | MmrWeights | PlainMask
        self.halo = self.support // 2
        if isinstance(model.mask, SafiMask):
            self.mask = SafiWeights(model.mask, self.channels)
            self.halo = max(self.halo, self.mask.taps.kernel // 2)
        elif isinstance(model.mask, MmrMask):
            self.mask = MmrWeights(model.mask, filters.boundary, self.channels)
        else:
            self.mask = model.mask

    def padded_size(self, height: int, width: int) -> tuple[int, int, int]:
        """Rows and pitch of an image with the halo that its Fourier tiles read, and how many tiles there are."""
        support, halo = self.support, self.halo
        inner = TILE + 1 - support
        tiles_y, tiles_x = -(-height // inner), -(-width // inner)
        margin = halo - support // 2 + support - 1
        rows = max(height + 2 * halo, tiles_y * inner + margin)
        return rows, max(width + 4 + 2 * halo, tiles_x * inner + margin), tiles_y * tiles_x
