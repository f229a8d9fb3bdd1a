"""The strength of white Gaussian noise in an image, from the image alone.

Noise shows in the finest details, where photographs have least; what they do have there makes an estimate too large.
Three measurements of it, each a standard deviation and unbiased for pure noise:

    m    median |d| / 0.6745, d the diagonal wavelet details of the finest scale (Donoho and Johnstone, Biometrika 81,
         1994), of Daubechies' wavelet with two vanishing moments
    h    the same of fourth differences along rows and columns, a narrower band at the highest frequencies
    b    second differences along rows and columns, which ramps and edges along an axis leave at zero (Immerkaer,
         Computer Vision and Image Understanding 64, 1996): their power in the quietest hundredth of all blocks of
         16 x 16 pixels

The estimate is b (h / m)^SHARE. In an image without texture h = m. Where there is texture it falls with frequency, and
h / m says how much of it is left in the quietest blocks. On photographs for training the error is least for SHARE
between 0.8 and 1 (bench/experiments/unknown_sigma.py --fit).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .namespaces import to_host
from .values import block_means

ESTIMATE = "estimate"  # a sigma that asks for it
SMALLEST = 32  # pixels of the smaller side
SHARE = 0.8
GAUSSIAN_MAD = 0.67449  # median |x| of a standard normal x
QUIET = 0.01  # share of blocks
ALIVE = 0.9  # of a block's details are not zero; fewer are where it is partly padding, or noise lost in rounding
FREEDOM = 77.0  # their power in white noise, over its mean, is chi-squared of so many degrees of freedom, over that

SECOND = np.array([1, -2, 1]) / np.sqrt(6)  # all of norm one
FOURTH = np.array([1, -4, 6, -4, 1]) / np.sqrt(70)
WAVELET = np.array([1 - 3**0.5, 3**0.5 - 3, 3 + 3**0.5, -1 - 3**0.5]) / np.sqrt(32)


def noise_level(xp: Any, plane: Any) -> float:
    """Standard deviation of white Gaussian noise in a plane (H, W) of array module xp, both sides at least SMALLEST.

    In the units of the plane. What is exactly constant, such as padding, is left out; 0.0 where all of it is.
    """
    m, h, b = measured(xp, plane)
    return b * (h / m) ** SHARE if min(m, h, b) > 0 else 0.0


def measured(xp: Any, plane: Any) -> tuple[float, float, float]:
    """m, h and b of a plane (H, W)."""
    m, h = (_median(xp, _details(plane, taps)) for taps in (WAVELET, FOURTH))
    second = _details(plane, SECOND)
    return m, h, _quiet(to_host(block_means(second * second)), to_host(block_means(xp.abs(second) > 0)))


def _details(plane: Any, taps: NDArray[np.float64]) -> Any:
    """`taps` along columns and rows, where they fit: (H - n + 1, W - n + 1)."""
    height, width = (side - len(taps) + 1 for side in plane.shape)
    weights = [float(tap) for tap in taps]  # which leave float32 as it is
    rows = sum(weight * plane[n : n + height] for n, weight in enumerate(weights))
    return sum(weight * rows[:, n : n + width] for n, weight in enumerate(weights))


def _median(xp: Any, details: Any) -> float:
    """The standard deviation of those that are not zero, as the median sees it."""
    sizes = xp.abs(details)
    sizes = sizes[sizes > 0]
    return float(xp.median(sizes)) / GAUSSIAN_MAD if sizes.size else 0.0


def _quiet(powers: NDArray[Any], alive: NDArray[Any]) -> float:
    """The standard deviation that the quietest blocks of 16 x 16 pixels show, from their power and the share of their
    pixels whose details are not zero.

    What white noise has there is a quantile: Blom's rank of few blocks, chi-squared by Wilson and Hilferty.
    """
    power, share = (
        (small[1:, 1:] + small[1:, :-1] + small[:-1, 1:] + small[:-1, :-1]) / 4 for small in (powers, alive)
    )
    full = power[share >= ALIVE]
    if not full.size:
        return 0.0
    rank = (QUIET * (full.size - 1) + 0.625) / (full.size + 0.25)
    spread = 2 / (9 * FREEDOM)
    expected = (1 - spread + NormalDist().inv_cdf(rank) * np.sqrt(spread)) ** 3
    return float(np.sqrt(np.quantile(full, QUIET) / expected))
