"""Can the axes of k-space be what they are said to be? Coils, slices, rows and columns told apart by where the energy
lies.

Along an axis of k-space most energy lies within two samples of frequency zero, in the middle or at index 0: 12 to 40
times what an even spread would put there, for measured brains and for phantoms. Along coils and slices it is spread: 1
to 2 times. Axes are named by one letter each: s slices, c coils, h rows, w columns.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

REACH = 2  # samples on either side of frequency zero
PEAK = 4.0  # times an even spread: more than coils and slices reach
CONTRAST = 3.0  # between an axis of k-space and one that is none
THIRD_AXIS = 0.7  # share of the energy in the middle slices, of
THIRD_SIDE = 16  # or more: volumes of images stay well below
MANY_COILS, MOST_COILS, NO_COILS = 32, 64, 128  # more is rare, and no scanner has more
NAMES = {"s": "slices", "c": "coils", "h": "rows", "w": "columns"}


class Doubt(NamedTuple):
    """What speaks against a layout, in words, and the layouts that would fit; none where the data cannot be taken as
    they are.
    """

    seen: str
    layouts: tuple[str, ...]


def peaks(array: NDArray[Any]) -> list[float]:
    """For each axis the energy around frequency zero, in the middle or at index 0, as a multiple of an even spread; NaN
    for no energy.
    """
    marginals = [np.zeros(side) for side in array.shape]
    for index, part in enumerate(array):
        energy = np.abs(part).astype(np.float64) ** 2
        marginals[0][index] = energy.sum()
        for axis in range(energy.ndim):
            marginals[axis + 1] += energy.sum(axis=tuple(other for other in range(energy.ndim) if other != axis))
    return [_peak(marginal) for marginal in marginals]


def _peak(marginal: NDArray[np.float64]) -> float:
    side, total = len(marginal), float(marginal.sum())
    near = _near(side)
    most = max(float(marginal[(centre + near) % side].sum()) for centre in (0, side // 2))
    return most / total * side / len(near) if total > 0 else float("nan")


def _near(side: int) -> NDArray[np.int64]:
    reach = min(REACH, (side - 1) // 8)
    return np.arange(-reach, reach + 1)


def doubt(array: NDArray[Any], layout: str) -> Doubt | None:
    """What speaks against `layout` for k-space with these axes; None for nothing.

    NaN and infinity are for others to refuse.
    """
    if array.ndim != len(layout) or not {"h", "w"} < set(layout):
        return None
    with np.errstate(all="ignore"):
        found = dict(zip(layout, peaks(array), strict=True))
    sides = dict(zip(layout, array.shape, strict=True))
    if not np.isfinite(list(found.values())).all():
        return None
    space, others = min(found["h"], found["w"]), [letter for letter in layout if letter not in "hw"]
    odd = max(others, key=lambda letter: found[letter])
    if found[odd] > max(PEAK, CONTRAST * space):
        flat = min("hw", key=lambda letter: found[letter])
        seen = (
            f"the energy is concentrated along the {sides[odd]} {NAMES[odd]}, as along an axis of k-space, and "
            f"spread along the {sides[flat]} "
            f"{NAMES[flat]}, as along coils or slices"
        )
        return Doubt(seen, _by_peaks(list(found.values()), layout))
    slices = sides.get("s", 0)
    if slices >= THIRD_SIDE and found["s"] * len(_near(slices)) / slices > THIRD_AXIS:
        seen = (
            f"the energy is concentrated along the {sides['s']} slices too, as along a third axis of k-space: "
            "transform along it first, or pass "
            f"slices"
        )
        return Doubt(seen, ())
    coils, shortest = sides.get("c", 1), min(sides["h"], sides["w"])
    if coils > MANY_COILS and coils > 2 * shortest and not space > CONTRAST * found["c"]:
        return Doubt(f"{coils} coils of {sides['h']} x {sides['w']} samples are not likely", _by_sides(sides, layout))
    swapped = layout.translate(str.maketrans("sc", "cs"))
    if coils > MOST_COILS and 1 < slices < coils:
        return Doubt(f"{coils} coils in {slices} slices are not likely", (swapped,))
    if coils > NO_COILS:
        return Doubt(f"{coils} coils are not likely: are they slices?", () if slices > 1 else (swapped,))
    return None


def _by_peaks(found: list[float], layout: str) -> tuple[str, ...]:
    """Layouts of the same letters in which the two axes with the highest peaks are rows and columns."""
    space = sorted(sorted(range(len(found)), key=lambda axis: -found[axis])[:2])
    return _layouts(space, layout)


def _by_sides(sides: dict[str, int], layout: str) -> tuple[str, ...]:
    """The layout in which coils lie along the shorter of rows and columns."""
    short = min("hw", key=lambda letter: sides[letter])
    rest = iter("hw")
    return ("".join("c" if letter == short else next(rest) if letter in "chw" else letter for letter in layout),)


def _layouts(space: list[int], layout: str) -> tuple[str, ...]:
    others = [letter for letter in layout if letter not in "hw"]
    found = []
    for order in permutations(others):
        letters = iter(order)
        found.append(
            "".join("hw"[space.index(axis)] if axis in space else next(letters) for axis in range(len(layout)))
        )
    return tuple(dict.fromkeys(found))
