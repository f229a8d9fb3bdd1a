"""Layouts of the CPU kernels, and their mask layers as functions of arrays with channels first."""

import numpy as np
from models import random_model

from safi_fast.bindings.blocking import pairs_of
from safi_fast.bindings.cpu import CpuEngine
from safi_fast.bindings.cpu_weights import dilated, mixing, per_image, spline_bank, taps_of
from safi_fast.bindings.threads import on_threads
from safi_fast.kernels.cpu.arguments import Geometry, Place, Smoothing
from safi_fast.kernels.cpu.convolution import convolution
from safi_fast.kernels.cpu.depthwise import depthwise

GROUP = 32


def lanes(values):
    """(..., C, H, W) -> (..., G, H, W, 32), zeros after the last channel."""
    *front, channels, height, width = values.shape
    groups = -(-channels // GROUP)
    wide = np.zeros((*front, groups * GROUP, height, width), np.float32)
    wide[..., :channels, :, :] = values
    return np.moveaxis(wide.reshape(*front, groups, GROUP, height, width), -3, -1).copy()


def channels_first(values, channels):
    """The inverse of `lanes`."""
    moved = np.moveaxis(values, -1, -3)
    return moved.reshape(*moved.shape[:-4], -1, *moved.shape[-2:])[..., :channels, :, :]


def geometry_of(batch, height, width, channels):
    groups = -(-channels // GROUP)
    return Geometry(batch, height, width, groups, 1, 0, height, width, symmetric=False)


def identity(channels):
    """A spline bank that changes nothing."""
    return spline_bank(np.tile(np.float32([-1, 1]), (channels, 1)), -1.0, -(-channels // GROUP) * GROUP)


def two_slots(values):
    """(2, B, G, H, W, 32) with `values` (B, C, H, W) in slot 1 for image 0 and in slot 0 for
    the others, NaN elsewhere.
    """
    wide = lanes(values)
    slots = np.full((2, *wide.shape), np.nan, np.float32)
    where = (np.arange(len(values)) == 0).astype(np.int64)
    slots[where, np.arange(len(values))] = wide
    return slots, where


def convolve(x, weight, dilation, boundary, splines, bias=None):
    """A layer C -> C of a mask generator with its splines: (B, C, H, W) -> the same."""
    batch, channels, height, width = x.shape
    wide = -(-channels // GROUP) * GROUP
    kernel = dilated(weight, dilation)
    source, slot = two_slots(x)
    output = np.full_like(source, np.nan)
    helper = CpuEngine(random_model(channels=channels)).workspace(1, 13, 13)
    for array in helper.mix_work():
        array[...] = np.nan
    offsets = np.zeros((batch, channels), np.float32) if bias is None else bias
    convolution(
        np.arange(batch), Place(source.reshape(-1), slot), Place(output.reshape(-1), 1 - slot),
        mixing(kernel, boundary == "symmetric", wide), splines, per_image(offsets, wide), bias is not None,
        pairs_of(wide),
        geometry_of(batch, height, width, channels), helper.mix_work(),
    )  # fmt: skip
    assert np.isnan(output[slot, np.arange(batch)]).all(), "the other slot was written"
    return channels_first(output[1 - slot, np.arange(batch)], channels)


def smooth(x, weight, boundary, *, adjoint=False, profile=None):
    """A depthwise layer: (B, C, H, W), (C, 1, k, k) -> (B, C, H, W); profile: scale (C,) and spline bank, or None."""
    batch, channels, height, width = x.shape
    wide = -(-channels // GROUP) * GROUP
    source, slot = two_slots(x)
    output = np.full_like(source, np.nan)
    scale, table = (np.ones(channels, np.float32), identity(channels)) if profile is None else profile
    with on_threads(None):  # a kernel from the cache, the first of a process, needs them started
        depthwise(
            np.arange(batch), Place(source.reshape(-1), slot), Place(output.reshape(-1), 1 - slot),
            taps_of(weight[:, 0], wide),
            Smoothing(boundary == "symmetric", adjoint), profile is not None,
            per_image(np.tile(scale, (batch, 1)), wide), table,
            geometry_of(batch, height, width, channels),
        )  # fmt: skip
    return channels_first(output[1 - slot, np.arange(batch)], channels)
