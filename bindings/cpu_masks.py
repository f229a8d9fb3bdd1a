"""The mask generators on the CPU: chains of launches that go back and forth between M and the spare slot of u."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.cpu.arguments import Geometry, MixWork, Place, Smoothing
from . import aligned
from .blocking import pairs_of
from .cpu_kernels import BINS, GROUP, convolution, depthwise, features, get_num_threads, small_floats
from .cpu_weights import MmrWeights, SafiWeights, per_image

FloatArray = NDArray[np.float32]


class Chain(NamedTuple):
    """The two ends of a chain of layers: M and the spare slot of u, each (B, G, H, W, 32) of the images `active`."""

    active: NDArray[np.int64]
    mask: Place
    spare: Place
    geometry: Geometry


def work_floats(groups: int) -> tuple[int, int, int, int]:
    """Floats of one thread's work space for convolutions: re, im, small_re, small_im of kernels/cpu/convolution.py."""
    channels = groups * GROUP
    large, small = BINS * (pairs_of(channels) * channels + 16), int(small_floats(groups))
    return large, large, small, small


def work_space(groups: int) -> MixWork:
    """For all threads."""
    threads = get_num_threads()
    return MixWork(*(aligned.zeros(threads * size) for size in work_floats(groups)))


def safi_mask(
    chain: Chain, weights: SafiWeights, image: Place, gain: FloatArray, bias: FloatArray, work: MixWork
) -> None:
    """M = sigmoid(s3(V3 * s2(V2 * s1(gain V1 * x))) + bias); gain and bias are (B, C)."""
    geometry, layers = Geometry(*chain.geometry), weights.layers  # of what is no image
    pairs = pairs_of(geometry.groups * GROUP)
    gains, biases = (per_image(values, geometry.groups * GROUP) for values in (gain, bias))
    places = [chain.mask, chain.spare] * (len(layers) + 1)
    places = places[len(layers) % 2 :]  # so that the last layer writes the mask
    features(chain.active, image, weights.taps, gains, weights.splines[0], places[0], chain.geometry)
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        bank = weights.splines[i + 1]
        convolution(chain.active, places[i], places[i + 1], layer, bank, biases, last, pairs, geometry, work)


def mmr_mask(chain: Chain, weights: MmrWeights, scale: FloatArray) -> None:
    """M = G^T clip(phi(scale G M'), 0, 1) of the magnitude M' = |W x|, which M holds; scale is (B, C)."""
    scales = per_image(scale, chain.geometry.groups * GROUP)
    source, target, geometry = chain.mask, chain.spare, Geometry(*chain.geometry)
    layers = [(taps, False) for taps in weights.layers] + [(taps, True) for taps in reversed(weights.layers)]
    for number, (taps, adjoint) in enumerate(layers):
        how, profiled = Smoothing(weights.symmetric, adjoint), number == len(weights.layers) - 1
        depthwise(chain.active, source, target, taps, how, profiled, scales, weights.profile, geometry)
        source, target = target, source
