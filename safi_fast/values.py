"""What the values of an image mean: which one is black, which is white, and whether noise explains those beyond.

`range_of` decides the range of every image that enters, for the API and for every command: what the caller says, else
what the file declares, else what the dtype says. `check_inside` refuses an image of which a box that nobody asked for
would cut off more than noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, shown
from .tensors import plain

Box = tuple[float, float]

INTEGER_RANGES = {"uint8": 255.0, "uint16": 65535.0}
DEPTHS = (8, 10, 12, 14)  # bits of data that come in 16
HOT = 1e-3  # share of pixels, such as hot ones, that may be brighter than the depth of the others
DIM = 1 / 255  # the largest value of a floating-point image that is hardly meant to lie on [0, 1]
EXPECTED = "a positive number, the value of white, or two numbers (low, high), black and white, with low < high"
WAYS_ON = "pass data_range=..., the value of white (255 for 8-bit values), or data_range=(low, high), black and white"


class DefaultBox(tuple[float, float]):
    """A box that the caller has not passed.

    What it would cut off is refused; in all else it is the tuple that it is.
    """

    __slots__ = ()


UNIT_BOX = DefaultBox((0.0, 1.0))


@dataclass(frozen=True)
class Range:
    """Black and white of an image in the caller's units, and who says so; the solver sees black as 0 and white as 1.

    rule: "given", "of the file", "of uint8", as reports state it. warning: a sentence where the values look like those
        of another range.
    """

    low: float
    high: float
    rule: str = "given"
    warning: str | None = None

    @property
    def scale(self) -> float:
        """high - low: sigma and strength are divided by it."""
        return self.high - self.low

    @property
    def argument(self) -> float | tuple[float, float]:
        """As `data_range` takes it."""
        return (self.low, self.high) if self.low else self.high

    @property
    def sentence(self) -> str:
        """What is taken for granted, for error messages."""
        if self.rule == "of the file":
            return f"the file says that white is {self.high:g}"
        if self.rule.startswith("of float"):
            return "floating-point images are taken to lie on [0, 1]"
        return f"black is taken to be {self.low:g} and white {self.high:g}"

    def to_unit(self, values: Any) -> Any:
        """Values as the solver sees them; bit for bit values / scale where black is 0."""
        return (values - self.low if self.low else values) / self.scale

    def from_unit(self, values: Any) -> Any:
        """The inverse of `to_unit`, in the precision of `values`."""
        real = np.dtype(values.dtype.char.lower()).type  # of complex numbers as well
        scaled = values * real(self.scale)
        if self.low:
            scaled += real(self.low)
        return scaled


DataRange = float | tuple[float, float] | Range
UNIT_RANGE = Range(0.0, 1.0, "of floats")


def stated_range(data_range: Any) -> Range:
    """The argument `data_range`: white, or black and white. Raises InputError."""
    if isinstance(data_range, Range):
        return data_range
    try:
        given = [plain(part) for part in data_range] if isinstance(data_range, (tuple, list)) else plain(data_range)
        numbers = np.asarray(given)
        if numbers.dtype.kind not in "iuf":  # texts and truth values too can be read as numbers
            raise TypeError
        numbers = numbers.astype(np.float64)
        finite = bool(np.isfinite(numbers).all())
    except (TypeError, ValueError, RuntimeError):
        numbers, finite = np.empty(0), False
    if finite and numbers.shape in ((), (1,)) and numbers.item() > 0:
        return Range(0.0, numbers.item())
    if finite and numbers.shape == (2,) and numbers[0] < numbers[1]:
        return Range(float(numbers[0]), float(numbers[1]))
    raise InputError(f"data_range is {shown(data_range)}; expected {EXPECTED}")


def known_range(dtype: Any, white: float | None = None) -> Range | None:
    """The range of values of a dtype, or up to the white that their file declares; None where nobody but the caller
    knows it.
    """
    if white is not None:
        return Range(0.0, float(white), "of the file")
    high = 1.0 if dtype.kind == "f" else INTEGER_RANGES.get(dtype.name)
    return None if high is None else Range(0.0, high, f"of {dtype.name}")


def percent(share: float) -> str:
    """A share as people read it: with two digits, 100 % in full."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def range_of(name: str, array: Any, data_range: DataRange | None = None, white: float | None = None) -> Range:
    """The range of an image, NumPy or CuPy: as the caller says, else as its file declares (`white`), else by dtype.

    By dtype: 255 for uint8, 65535 for uint16, with a warning where the values use fewer bits, 1 for floating point.
    Raises InputError where the range is not known.
    """
    if data_range is not None:
        return _held(name, array.dtype, stated_range(data_range))
    known = known_range(array.dtype, white)
    if known is None:
        raise InputError(f"{name} has dtype {array.dtype}, whose range is not known; {WAYS_ON}")
    return known if white is not None else replace(known, warning=_narrow(array, known.high))


def _held(name: str, dtype: Any, stated: Range) -> Range:
    """A range that integers can have; one more is allowed, as in 256. Raises InputError."""
    if dtype.kind in "iu" and stated.rule == "given":
        least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        if stated.high > most + 1 or stated.low < least - 1:
            raise InputError(
                f"data_range is {stated.argument if stated.low else f'{stated.high:g}'}, but {name} has dtype "
                f"{dtype}, which holds {least} to {most}; expected {EXPECTED}"
            )
    return stated


def _narrow(array: Any, white: float) -> str | None:
    """A warning where 16-bit integers use 14 bits at most, but for a thousandth of them, or floats next to nothing of
    their range.
    """
    if array.size == 0:
        return None
    if array.dtype.kind == "f":
        top = float(abs(array).max())
        if not 0 < top < DIM:
            return None
        return (
            f"largest value {top:.3g} of {white:g}: looks like another range; pass data_range=..., the value of white"
        )
    largest = int(array.max()) if array.dtype.name == "uint16" else 0
    for bits in DEPTHS if largest > 0 else ():
        if largest < 2**bits or int((array > 2**bits - 1).sum()) <= HOT * array.size:
            return f"largest value {largest} of {white:g}: looks like {bits}-bit data; pass data_range={2**bits - 1}"
    return None


# ----------------------------------------------------------------------------------------------- what noise explains

# A pixel whose true value lies in the box is measured more than k sigma outside of it with a probability of at most
# Q(k), the Gaussian tail, which is reached where it lies on the bound: half of a black area is negative. So of n pixels
# no more than n Q(k) are expected there, whatever the image. TOLERATED of them are left to hot pixels and ringing; the
# count of what is then allowed has a standard deviation of less than its square root (Poisson), of which FLUCTUATIONS
# are left to chance: 3e-7, and SMALL_COUNT where it is near zero. Several k, because a shift by d shows where d / sigma
# - k is near zero or more: k = 3 alone would pass an area at 1 + sigma / 2.
TAILS = {k: 0.5 * math.erfc(k / math.sqrt(2)) for k in (0.5, 1.0, 2.0, 3.0)}
TOLERATED = 0.005
FLUCTUATIONS = 5.0
SMALL_COUNT = 2.0
CUT_SIGMAS, CUT_TAIL = 5.0, 3e-6  # beyond so many sigma, and by OVERSHOOT, ten times the Gaussian tail is not noise
FAR_SIGMAS = 8.0  # beyond the box by its width and this: no hot pixel, but another range
UNDERSTATED = 1.3  # times sigma: what callers may be wrong by; noise that is not white does not show how strong it is
ROUNDING = 0.5 / 255  # noise that every image has
OVERSHOOT = 5 / 255  # what interpolation and sharpening leave outside counts as such noise where none is stated
PLAUSIBLE_NOISE = 75 / 255  # the most that an image is believed to have where none is stated
UNKNOWN_NOISE = 25 / 255  # where it cannot be measured either
BLOCK = 8  # pixels: areas beyond the box show in means of blocks where single pixels hide in the noise
GAUSSIAN_MAD = 0.67449  # median |x| of a standard normal x


def check_inside(
    name: str,
    xp: Any,
    stack: Any,
    meaning: Range,
    *,
    sigma: NDArray[np.float64] | None = None,
    box: Box = UNIT_BOX,
    channels: int = 1,
    free: bool = True,
) -> None:
    """Refuse images of which the box would cut off a share that noise does not explain.

    stack: (N, H, W) of array module xp, black 0 and white 1. sigma: (N,) of the noise, on that scale; None: not known.
    channels: planes of one image, for its name. free: whether box=None is a way on. Raises InputError, in the caller's
    units.
    """
    if box[0] <= float(stack.min()) and float(stack.max()) <= box[1]:
        return
    far = None if meaning.rule == "given" else box[1] - box[0]
    for number, plane in enumerate(stack):
        noise = OVERSHOOT if sigma is None else float(sigma[number])
        share = share_outside(xp, plane, box, noise, far=far)
        if share == 0:
            continue
        low, high = (float(meaning.from_unit(np.float64(value))) for value in (plane.min(), plane.max()))
        which = name if len(stack) == channels else f"{name}[{number // channels}]"
        explains = "noise explains" if sigma is None else f"noise of sigma {noise * meaning.scale:.4g} explains"
        raise InputError(
            f"{which} has values from {low:.4g} to {high:.4g}, but {meaning.sentence}: {percent(share)} of them "
            "lie outside, more than "
            f"{explains}, and would be cut off; {WAYS_ON}{', or box=None for no bounds' if free else ''}"
        )


def cut_off(xp: Any, values: Any, meaning: Range, sigma: float, box: Box = UNIT_BOX) -> str | None:
    """What the box cuts off few pixels, fewer than `check_inside` refuses but more than noise of sigma explains: a
    sentence, or None.

    values: of any shape, black 0 and white 1; sigma on that scale. Bright beads, metal and hot pixels are such.
    """
    beyond = _beyond(xp, values, box)
    cut = beyond > max(CUT_SIGMAS * sigma, OVERSHOOT)
    count = int(cut.sum())
    if count <= SMALL_COUNT + beyond.size * CUT_TAIL:
        return None
    limits = " to ".join(f"{float(meaning.from_unit(np.float64(limit))):g}" for limit in box)
    return (
        f"{count} pixels lie up to {float(beyond.max()) * meaning.scale:.4g} outside of {limits}, more than noise "
        "explains, and with them "
        f"{percent(float((beyond > 0).mean()))} of the image is cut off; to keep it pass data_range=(low, high) "
        "that holds it, or box=None"
    )


def share_outside(xp: Any, plane: Any, box: Box, sigma: float, *, known: Any = None, far: float | None = None) -> float:
    """Share of a plane (H, W) outside of the box, where noise does not explain it; 0 where it does.

    Noise is that of `sigma`, UNDERSTATED times that where pixels or means of 2 x 2 show a quarter of it, or what the
    plane itself shows, whichever is more: the caller may have asked for less than there is, and noise that is not
    white is stronger in `block_means` than white noise would be. known: (H, W) True where values count; None: all.
    far: no value may lie further outside than this and FAR_SIGMAS.
    """
    beyond = _beyond(xp, plane, box)
    values = beyond if known is None else beyond[known]
    means = None if known is not None else block_means(plane)

    def explained(noise: float, coarse: float) -> bool:
        return _explained(values, noise, far) and (means is None or _explained(_beyond(xp, means, box), coarse, None))

    fine = max(sigma, ROUNDING)
    coarse = max(fine / BLOCK, OVERSHOOT)
    if explained(fine, coarse):
        return 0.0
    most = PLAUSIBLE_NOISE * (box[1] - box[0])
    seen = noise_of(xp, plane, known)
    pairs = 0.0 if known is not None or min(plane.shape) < 4 else noise_of(xp, block_means(plane, 2))
    shown = max(fine * (UNDERSTATED if max(seen, pairs) >= fine / 4 else 1.0), min(seen, most))
    shown_coarse = coarse if means is None or min(means.shape) < 2 else max(coarse, min(noise_of(xp, means), most))
    if explained(shown, max(shown / BLOCK, shown_coarse)):
        return 0.0
    return int((values > 0).sum()) / max(1, int(values.size))


def _beyond(xp: Any, plane: Any, box: Box) -> Any:
    """Distance from the box, negative inside."""
    return xp.maximum(box[0] - plane, plane - box[1])


def block_means(plane: Any, side: int = BLOCK) -> Any:
    """(H // side, W // side) means, in which white noise is `side` times weaker."""
    height, width = (length // side for length in plane.shape)
    blocks = plane[: height * side, : width * side].reshape(height, side, width, side)
    return blocks.mean(axis=(1, 3))


def _explained(beyond: Any, sigma: float, far: float | None) -> bool:
    """Whether noise explains how far values lie beyond the box (negative: within)."""
    for k, tail in TAILS.items():
        allowed = beyond.size * (tail + TOLERATED)
        if int((beyond > k * sigma).sum()) > allowed + FLUCTUATIONS * math.sqrt(allowed) + SMALL_COUNT:
            return False
    return far is None or beyond.size == 0 or float(beyond.max()) <= far + FAR_SIGMAS * sigma


def noise_of(xp: Any, plane: Any, known: Any = None) -> float:
    """The standard deviation of white noise in a plane (H, W), from above: textures count as noise.

    Median of |a - b - c + d| / 2 over blocks of 2 x 2, in which ramps cancel (Donoho and Johnstone, Biometrika 81,
    1994).
    """
    height, width = (side // 2 * 2 for side in plane.shape)
    corners = [(slice(row, height, 2), slice(column, width, 2)) for row in (0, 1) for column in (0, 1)]
    a, b, c, d = (plane[corner] for corner in corners)
    blocks = xp.abs(a - b - c + d) / 2
    if known is not None:
        whole = known[corners[0]]
        for corner in corners[1:]:
            whole = whole & known[corner]
        blocks = blocks[whole]
    return float(xp.median(blocks)) / GAUSSIAN_MAD if blocks.size else UNKNOWN_NOISE


def box_of(box: Any) -> Box:
    """The argument box as two numbers. Raises InputError."""
    if isinstance(box, DefaultBox):
        return box
    try:
        if isinstance(box, str):
            raise TypeError
        low, high = (float(plain(limit)) for limit in plain(box))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"box is {shown(box)}; expected two numbers (low, high) or None") from None
    if not low < high:
        raise InputError(f"box is {shown(box)}; expected low < high")
    return low, high
