"""Counts with Poisson and Gaussian noise, brought to noise of variance one, and back without bias.

A pixel is z = gain * P + offset + sigma * N, P a Poisson count of mean y, N standard normal. In counts, (z - offset) /
gain, the generalised Anscombe transform is

    f(z) = 2 sqrt(max(0, z + 3/8 + s^2)),    s = sigma / gain

whose noise has about variance one where y + s^2 is more than about two. A denoised D estimates E[f(z)], not f(y), so
that f inverted would be too small. The exact unbiased inverse maps E[f(z) | y] to y (Makitalo and Foi, IEEE
Transactions on Image Processing 20, 2011 and 22, 2013): here from a table of that expectation up to 256 counts, beyond
as D^2 / 4 - 1/8 - s^2, to which it tends. Both are off by less than 1e-3 counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, shown
from .namespaces import like, namespace
from .tensors import plain
from .values import Box, DefaultBox, Range, block_means, box_of

STEP, KNOTS = 0.05, 321  # of the table, in square roots of counts
NODES = np.linspace(-8, 8, 801)  # of a standard normal


@dataclass(frozen=True)
class Anscombe:
    """The transform for one camera. gain: units of the image per count; offset, sigma: in those units."""

    gain: float = 1.0
    offset: float = 0.0
    sigma: float = 0.0

    @classmethod
    def of(cls, gain: Any, offset: Any, sigma: Any) -> Anscombe:
        """The caller's arguments. Raises InputError."""
        return cls(
            _number("gain", 1.0 if gain is None else gain, "a positive number, units of the image per count", 0, False),
            _number("offset", 0.0 if offset is None else offset, "a number, the value of no counts", -np.inf, False),
            _number("sigma", sigma, "the standard deviation of the Gaussian part of the noise, 0 or more", 0, True),
        )

    @property
    def spread(self) -> float:
        """s."""
        return self.sigma / self.gain

    def forward(self, values: Any) -> Any:
        """f of values in the units of the image."""
        xp = namespace(values)
        return 2 * xp.sqrt(xp.maximum((values - self.offset) / self.gain + (0.375 + self.spread**2), 0))

    def inverse(self, stable: Any) -> Any:
        """The exact unbiased inverse, in the units of the image; those below that of no counts give no counts."""
        xp, table = namespace(stable), _table(self.spread)
        roots, expected = (like(part, stable) for part in table)
        near = xp.interp(stable.reshape(-1), expected, roots).reshape(stable.shape)
        far = stable * stable / 4 - (1 / 8 + self.spread**2)
        counts = xp.where(stable > float(table[1][-1]), far, near * near)
        return counts * self.gain + self.offset

    def expected(self, value: float) -> float:
        """E[f(z)] where the mean of z is `value`, in the units of the image; that of no counts below."""
        counts = max(0.0, (value - self.offset) / self.gain)
        roots, expected = _table(self.spread)
        if counts <= roots[-1] ** 2:
            return float(np.interp(counts**0.5, roots, expected))
        root = (counts + 0.375 + self.spread**2) ** 0.5
        return float(2 * root - 0.25 / root)


@dataclass(frozen=True, eq=False)
class Stabilised(Range):
    """Images of counts on a scale where black, or no counts, is 0 and noise has the same strength in all pixels.

    black: the value of 0, transformed. contrasts: (N,) the distance of 1 from it in standard deviations of the noise,
    of each of the stack. low and high bound the result, in the caller's units.
    """

    transform: Anscombe = Anscombe()
    black: float = 0.0
    contrasts: NDArray[np.float64] = None  # type: ignore[assignment]

    @property
    def limits(self) -> Box:
        """low and high as the solver sees them; planes differ in what is above only where that is infinite."""
        low, high = (
            bound if np.isinf(bound) else (self.transform.expected(bound) - self.black) / float(self.contrasts[0])
            for bound in (self.low, self.high)
        )
        return low, high

    @property
    def scale(self) -> Any:
        """What the standard deviation of the noise, 1, is divided by, of each of the stack."""
        return self.contrasts

    def to_unit(self, values: Any) -> Any:
        """(N, H, W) or (N, P, H, W) as the solver sees them."""
        return (self.transform.forward(values) - self.black) / self._in_stack(values)

    def from_unit(self, values: Any) -> Any:
        """The unbiased inverse, clipped."""
        found = self.transform.inverse(values * self._in_stack(values) + self.black)
        return namespace(values).clip(found, self.low, self.high).astype(values.dtype)

    def _in_stack(self, values: Any) -> Any:
        return like(self.contrasts.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1)), values)


def bounds_of(transform: Anscombe, meaning: Range | None, box: Any) -> Box:
    """What bounds the result, in the caller's units: the box of the range, without a range no counts alone.

    Raises InputError.
    """
    if box is None:
        return -np.inf, np.inf
    limits = box_of(box)
    if meaning is not None:
        return meaning.low + limits[0] * meaning.scale, meaning.low + limits[1] * meaning.scale
    if not isinstance(box, DefaultBox):
        raise InputError(f"box is {shown(limits)}, but noise is 'poisson' and data_range, which it is in, is not known")
    return transform.offset, np.inf


def stabilised(
    transform: Anscombe, stack: Any, alone: int, meaning: Range | None, bounds: Box, levels: NDArray[np.float64]
) -> Stabilised:
    """How the solver sees counts, (N, H, W) or (N, P, H, W), `alone` of which are one image.

    meaning: black and white, where they are known; else 1 is the brightest mean of 8 x 8 pixels of each image.
    levels: of noise, on [0, 1], that the model is for, from the least: images of few counts have less contrast, of
    very many more.
    """
    black = transform.expected(transform.offset if meaning is None else meaning.low)
    if meaning is None:
        planes = stack.reshape(-1, *stack.shape[-2:])
        bright = np.array([float(block_means(transform.forward(plane)).max()) for plane in planes])
        whites = bright.reshape(len(stack) // alone, -1).max(axis=1).repeat(alone)
    else:
        whites = np.full(len(stack), transform.expected(meaning.high))
    return Stabilised(
        *bounds, "of counts", None, transform, black, (whites - black).clip(1 / levels[-1], 1 / levels[0])
    )


@lru_cache(maxsize=8)
def _table(spread: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Square roots of mean counts, and E[f(z)] of each."""
    from scipy.special import gammaln

    roots = np.linspace(0.0, STEP * (KNOTS - 1), KNOTS)
    counts = np.arange(int(roots[-1] ** 2 + 12 * roots[-1]))
    weights = np.exp(-(NODES**2) / 2)
    noisy = counts[:, None] + spread * NODES
    transformed = 2 * np.sqrt(np.maximum(noisy + 0.375 + spread**2, 0)) @ (weights / weights.sum())
    means = np.maximum(roots**2, 1e-300)[:, None]
    probabilities = np.exp(counts * np.log(means) - means - gammaln(counts + 1))
    return roots, (probabilities @ transformed).astype(np.float64)


def _number(name: str, value: Any, expected: str, least: float, closed: bool) -> float:
    """A finite number above `least`, or `least` where closed. Raises InputError."""
    try:
        if isinstance(value, str):
            raise TypeError
        number = float(plain(value))
    except (TypeError, ValueError, RuntimeError):
        number = np.nan
    if not (np.isfinite(number) and (number > least or (closed and number == least))):
        raise InputError(f"{name} is {shown(value)}; with noise='poisson' expected {expected}")
    return number
