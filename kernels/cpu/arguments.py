"""What the kernels take: one NamedTuple for what belongs together.

Arrays are flat, C order, float32 unless said otherwise. B images of H x W pixels; G groups of 32 channels
(`tile.GROUP`).
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from .parallel import PART

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]
Numbers = NDArray[np.int64]
Small = NDArray[np.int32]


class Geometry(NamedTuple):
    """Sizes of a batch: `support` is the side of the composed filters, an image has `rows` of `pitch` floats with its
    halo.

    symmetric: the halo mirrors the image, else it is zero. Of images of one plane; those of others are in GEOMETRIES.
    """

    batch: int
    height: int
    width: int
    groups: int
    support: int
    halo: int
    rows: int
    pitch: int
    symmetric: bool


# The same for images of P planes under one mask. P is part of the type, so that each has machine code of its own.
Geometry2 = namedtuple("Geometry2", list(Geometry._fields))  # type: ignore[misc]
Geometry3 = namedtuple("Geometry3", list(Geometry._fields))  # type: ignore[misc]
GEOMETRIES: dict[int, Any] = {1: Geometry, 2: Geometry2, 3: Geometry3}


def planes_of(geometry: Geometry) -> int:
    """P, a constant of what is compiled."""
    return next(planes for planes, kind in GEOMETRIES.items() if type(geometry) is kind)


@overload(planes_of, jit_options=PART)  # type: ignore[arg-type]  # its stubs know no such library
def _compiled_planes_of(geometry):  # type: ignore[no-untyped-def]  # Numba wants the signature of what it returns
    planes = next(planes for planes, kind in GEOMETRIES.items() if geometry.instance_class is kind)
    return lambda geometry: planes


class Data(NamedTuple):
    """y (B, P, H, W), whose noise is equally strong everywhere."""

    y: Floats


class WeightedData(NamedTuple):
    """y and the relative variance of its noise, both (B, P, H, W)."""

    y: Floats
    variance: Floats


AnyData = Data | WeightedData


def variance_at(data: AnyData, place: int) -> np.float32:
    """The relative variance of a pixel; one, as a constant of what is compiled, for `Data`."""
    return data.variance[place] if isinstance(data, WeightedData) else np.float32(1)


@overload(variance_at, jit_options=PART)  # type: ignore[arg-type]
def _compiled_variance_at(data, place):  # type: ignore[no-untyped-def]
    if data.instance_class is WeightedData:
        return lambda data, place: data.variance[place]
    return lambda data, place: np.float32(1)


class Place(NamedTuple):
    """Arrays of a batch in several slots: those of image b are values[slot[b], b]."""

    values: Floats
    slot: Numbers


class Mask(NamedTuple):
    """M (B, G, H, W, 32) in [0, 1]; not read unless `present`."""

    values: Floats
    present: bool


class Bank(NamedTuple):
    """The composed filters as spectra re, im (P, G, kx, ky, 16) of the 32 x 32 tiles, and the taps that layer-wise
    zero padding drops.

    band: pixels from the border on in which taps are dropped; those of a position class are numbers tap_first[class]
    up to tap_first[class + 1], at the places tap_at of a tile (both int32), with tap_weights (taps, P, G, 32).
    """

    re: Floats
    im: Floats
    band: int
    tap_first: Small
    tap_at: Small
    tap_weights: Floats


class Work(NamedTuple):
    """Work space of all threads for the filter bank, in the layout of tile.py."""

    re: Floats
    im: Floats
    extra: Floats


class Step(NamedTuple):
    """Step size and bound lambda of u (B,)."""

    size: Floats
    bound: Floats


class Record(NamedTuple):
    """u of the steps under one mask, one slot (B, G, H, W, 32) after the other; `number` is the slot of u_i.

    next, now, before: momenta (B,) m_i, m_i-1 and m_i-2, with v_i = u_i + m_i-1 (u_i - u_i-1).
    """

    values: Floats
    number: int
    next: Floats
    now: Floats
    before: Floats


class Carried(NamedTuple):
    """What the way back through the steps carries along, (B, G, H, W, 32) each, of a number L.

    through: of dL / dv_i the part through the step from v_i. ahead: dL / dv_i+1. mask: M . dL / dM.
    """

    through: Floats
    ahead: Floats
    mask: Floats


class Framed(NamedTuple):
    """Channels of images with a margin of so many pixels on each side: (B, G, H + 2 margin, W + 2 margin, 32)."""

    values: Floats
    margin: int


class Box(NamedTuple):
    """Limits of x, which may be infinite."""

    low: np.float32
    high: np.float32


class Spline(NamedTuple):
    """A bank of splines, see spline.py: table (n, G, 32), n knots, and p = t stretch + shift."""

    table: Floats
    knots: int
    shift: np.float32
    stretch: np.float32


class Taps(NamedTuple):
    """Weights (k * k, G, 32) of a layer whose channels have one k x k kernel each; of a layer that reads an image
    (P, k * k, G, 32).
    """

    weights: Floats
    kernel: int


class Smoothing(NamedTuple):
    """How a depthwise layer runs: with the half-sample symmetric extension or with zeros outside, forward or as its
    adjoint.
    """

    symmetric: bool
    adjoint: bool


class Mixing(NamedTuple):
    """A layer C -> C: spectra re, im (256, C, C) [frequency, in, out] of its 16 x 16 tiles, and the side of its
    dilated kernel.
    """

    re: Floats
    im: Floats
    support: int
    symmetric: bool


class MixWork(NamedTuple):
    """Work space of all threads for `convolution`, in its layout."""

    re: Floats
    im: Floats
    small_re: Floats
    small_im: Floats


class Scan(NamedTuple):
    """Sizes of a projection: B images of H x W pixels, `views` of `detectors` cells."""

    batch: int
    height: int
    width: int
    views: int
    detectors: int


class Rays(NamedTuple):
    """The tables of projector.py: edges, views, weights, gains, and major (int64)."""

    edges: Floats
    views: Floats
    weights: Floats
    gains: Floats
    major: Numbers
