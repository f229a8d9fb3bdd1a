"""Sampling masks of Cartesian k-space, and whether their order, that of the measurements, and both together, can be
what they are said to be.

"centered" order has frequency zero at (H // 2, W // 2), as scanners, BART, sigpy and fastMRI store k-space; "fft" order
has it at (0, 0), as numpy.fft returns it. A mask in the wrong order gives an operator that is consistent in itself and
reconstructs rubbish.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from ..errors import InputError, shown
from .base import boolean, image_shape
from .fourier import IMAGE_AXES, fft_order, opposite

Order = Literal["centered", "fft"]

PLAUSIBLE, SURPRISING = 1e-2, 1e-4  # chance of as many samples around a frequency as there are
ENERGY_RATIO = 10.0
ZEROS = 0.02  # share of a mask's samples that may be exactly zero in all coils, as rounded numbers may be
ZEROS_WITHOUT_NOISE = 0.5  # of simulated k-space: that of one block has 0.43
HERMITIAN = 1e-5  # of the largest sample: float32 rounding
ENERGY_REACH = 2  # the peak of real k-space lies up to two samples from the nominal centre


def known_order(name: str, order: str) -> Order:
    """`order` if it is one. Raises InputError."""
    if order == "centered" or order == "fft":
        return order  # type: ignore[return-value]
    raise InputError(
        f"{name} is {shown(order)}; expected 'centered' (frequency zero in the middle) or 'fft' (at index 0, as "
        "numpy.fft has it)"
    )


def other(order: Order) -> Order:
    """The order that `order` is not."""
    return "fft" if order == "centered" else "centered"


def in_fft_order(array: NDArray[Any], order: Order) -> NDArray[Any]:
    """The last two axes brought from `order` to FFT order."""
    return fft_order(array) if order == "centered" else array


def sampling_mask(mask: Any, order: Order, shape: tuple[int, int] | None, check_order: bool) -> NDArray[np.bool_]:
    """The argument `mask` as boolean (H, W) in FFT order.

    mask: (H, W), or (H, 1) or (1, W) with `shape`. Raises InputError for other shapes and values, and, with
    check_order, for a mask whose densest region shows that it is in the other order; OperatorError for a mask without a
    sample.
    """
    sampled = boolean("mask", mask)
    while sampled.ndim > 2 and sampled.shape[0] == 1:
        sampled = sampled[0]
    if shape is not None:
        shape = image_shape("shape", shape)
        if sampled.ndim == 2 and all(n in (1, side) for n, side in zip(sampled.shape, shape, strict=True)):
            sampled = np.broadcast_to(sampled, shape)
    if sampled.ndim != 2 or (shape is not None and sampled.shape != shape):
        expected = "(H, W)" if shape is None else f"{shape}, or one of its sides 1"
        raise InputError(f"mask has shape {np.shape(mask)}; expected {expected}")
    said, turned = in_fft_order(sampled, order), in_fft_order(sampled, other(order))
    if check_order and chance(turned) < SURPRISING and chance(said) > PLAUSIBLE:
        place = {"fft": "at index 0", "centered": "in the middle"}
        raise InputError(
            f"mask samples k-space densely {place[other(order)]} and not {place[order]}, where "
            f"mask_order={order!r} puts "
            f"low frequencies; pass mask_order={other(order)!r}, or check_order=False if it is meant so"
        )
    return np.ascontiguousarray(said)


def varied_axes(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """The axes (of -2, -1) along which a mask is not constant.

    Along the others a Fourier transform and its inverse cancel.
    """
    return tuple(axis for axis in IMAGE_AXES if (mask != mask.take([0], axis)).any())


def chance(mask: NDArray[np.bool_]) -> float:
    """The chance that a random mask of the density found elsewhere has as many samples around index (0, 0) as this one.

    The smallest over windows of 3, 5, 9, ... samples up to a quarter of each side; along a side on which the mask is
    constant one sample stands for all. mask: (H, W) in FFT order.
    """
    axes = varied_axes(mask)
    for axis in {-2, -1} - set(axes):
        mask = mask.take([0], axis)
    smallest, reach = 1.0, 1
    while axes and all(2 * reach + 1 <= mask.shape[axis] // 4 for axis in axes):
        sides = [np.arange(-reach, reach + 1) if axis in axes else np.arange(1) for axis in IMAGE_AXES]
        window = mask[np.ix_(*(side % n for side, n in zip(sides, mask.shape, strict=True)))]
        hits = int(window.sum())
        density = (int(mask.sum()) - hits) / (mask.size - window.size)
        if hits:  # P(X >= hits) for X binomial
            smallest = min(smallest, float(bdtrc(hits - 1, window.size, density)))
        reach *= 2
    return smallest


def sampled_centre(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest square around frequency zero, of a quarter of the smaller side at most, in which everything is
    sampled. (H, W), FFT order.
    """
    centre = np.zeros_like(mask)
    for side in range(1, min(mask.shape) // 4 + 1, 2):
        near = np.arange(-(side // 2), side // 2 + 1)
        square = np.ix_(near, near)
        if not mask[square].all():
            break
        centre[square] = True
    return centre


class Fit(NamedTuple):
    """Of k-space and a mask: the share of the mask's samples that are exactly zero in all coils, the number of places
    outside of the mask
    that are not, and their share of the energy."""

    zeros: float
    others: int
    energy: float


def fit(kspace: NDArray[Any], mask: NDArray[np.bool_]) -> Fit:
    """kspace: (..., H, W), leading axes are coils; mask: (H, W) in the same order."""
    energy = np.square(np.abs(kspace), dtype=np.float64).reshape(-1, *mask.shape).sum(0)
    there = (kspace != 0).reshape(-1, *mask.shape).any(0)
    total = float(energy.sum())
    outside = float(energy[~mask].sum()) / total if total > 0 else 0.0
    return Fit(float(np.mean(~there[mask])), int(np.count_nonzero(there & ~mask)), outside)


def check_samples(name: str, kspace: NDArray[Any], mask: NDArray[np.bool_], *, leaves_out: bool, advice: str) -> None:
    """Raise InputError where a mask cannot be that of k-space: too many of its samples are exactly zero, or, unless the
    mask may leave out what was measured, some outside of it are not. kspace: (..., H, W); mask: (H, W), of the same
    order. advice: the way on, if all is right.
    """
    found = fit(kspace, mask)
    if found.zeros == 1 and not found.others:
        return  # a blank slice
    if found.zeros > (ZEROS_WITHOUT_NOISE if found.zeros > ZEROS and _without_noise(kspace) else ZEROS):
        seen = f"{100 * found.zeros:.3g} % of the samples that the mask keeps are exactly zero"
        if found.others:
            seen += f", and {100 * found.energy:.3g} % of the energy lies where the mask is zero"
        raise InputError(f"{name} and mask do not fit: {seen}; {_turned(kspace, mask)}{advice}")
    if found.others and not leaves_out:
        raise InputError(
            f"{name} is not zero in {found.others} of {mask.size} places where the mask is, with "
            f"{100 * found.energy:.3g} % of the energy; "
            f"{_turned(kspace, mask)}pass operator.check_measurement(y), which sets them to zero, if the mask is "
            "meant to leave them out, "
            f"or {advice}"
        )


def _without_noise(kspace: NDArray[Any]) -> bool:
    """Whether samples (H, W), in either order, are those of a real image to the last digits: no measured ones are."""
    if kspace.ndim != 2 or not kspace.any():
        return False
    for mirrored in (opposite(kspace), kspace[::-1, ::-1]):  # the second: centred, of odd sides
        pair = (kspace != 0) & (mirrored != 0)
        if (
            2 * np.count_nonzero(pair) > np.count_nonzero(kspace)
            and np.abs(kspace - mirrored.conj())[pair].max() <= HERMITIAN * np.abs(kspace).max()
        ):
            return True
    return False


def _turned(kspace: NDArray[Any], mask: NDArray[np.bool_]) -> str:
    """Whether the mask fits with its axes exchanged, as half a sentence."""
    if mask.shape[0] != mask.shape[1] or (mask == mask.T).all():
        return ""
    turned = fit(kspace, mask.T)
    if turned.zeros > ZEROS or turned.others:
        return ""
    return (
        "with its axes exchanged the mask fits: one of rows has the shape (H, 1), one of columns (1, W); pass that, or "
    )


def check_energy(name: str, kspace: NDArray[Any], order: Order) -> None:
    """Raise InputError where the energy of k-space lies where the other order has its low frequencies. kspace: (..., H,
    W).
    """
    said, turned = (_low_energy(in_fft_order(kspace, which)) for which in (order, other(order)))
    if turned > ENERGY_RATIO * said:
        place = {"fft": "at index 0", "centered": "in the middle"}
        raise InputError(
            f"{name} has its energy {place[other(order)]}, but kspace_order={order!r} puts low frequencies "
            f"{place[order]}; "
            f"pass kspace_order={other(order)!r}"
        )


def _low_energy(kspace: NDArray[Any]) -> float:
    near = np.arange(-ENERGY_REACH, ENERGY_REACH + 1)
    window = kspace.take(near, axis=-2, mode="wrap").take(near, axis=-1, mode="wrap")
    return float(np.vdot(window, window).real)
