"""After a solve: is the operator still the one it was, and does an image explain what was measured?

A certificate says that a problem was solved, not that it was the right one. Two things are seen from the measurements
alone: what of them is out of reach of every image, however much or little was regularised, and not noise; and a black
image of something that is not black.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OperatorError
from .operators import Operator
from .plausible import named
from .solver.data_term import Measurements, column, squares
from .values import GAUSSIAN_MAD, Range, noise_of, percent
from .warn import warn

UNEXPLAINED = (
    0.01  # of the energy of a measurement. Right operators leave 0.002 at most, wrong ones 0.02 to 0.9 (docs/adr/0011)
)
STRUCTURE = (
    3.0  # times what noise explains of it: noise that conjugate gradients fit in part no longer looks quite white
)
STEPS = 10  # of conjugate gradients
SOLVED = 1.0  # relative gap; that of `fast` is up to 0.8 where its image has settled
DIM = 0.1  # of white: a brighter image is not black
DARK = 0.03  # of the norm of a measurement: an image that makes less is black, but for what a gap of 1e-3 leaves of it
SAME = 0.01  # of a scalar product: applications of a linear map agree to about 1e-6
RAYLEIGH_MEDIAN = 1.17741  # median |z| of complex z whose real numbers are standard normal
NOT_FITTED = 1e-3  # of the root mean square: what is smaller is fitted exactly and shows no noise


def check_steady(measurements: Measurements, images: NDArray[Any], step: NDArray[Any]) -> None:
    """Refuse an operator that has changed since `step`, the least-squares step (B, H, W) from before the solve.
    images (B, H, W), on [0, 1].

    H^T y must point where it did, and <H x, y> = <x, H^T y> for the images found: one application of each. Raises
    OperatorError.
    """
    for number, (x, y, before) in enumerate(zip(images, measurements.y, step, strict=True)):
        op = operator_of(measurements, number)
        back, forward = op.adjoint(y), op.apply(x)
        left, right, turned = _inner(forward, y), _inner(x, back), _inner(before, back)
        if abs(left - right) > SAME * _size(forward) * _size(y) or turned < (1 - SAME) * _size(before) * _size(back):
            found = f"<H x, y> = {left:.4g} and <x, H^T y> = {right:.4g}"
        elif _size(before) > 0 and not back.any():
            found = "H^T y is zero now"
        else:
            continue
        raise OperatorError(
            f"{op.name}: apply or adjoint changed in mid-run: at the end of the solve of "
            f"{named(measurements, number)} {found}, for the image "
            f"found and the measurements; expected a linear map with the same values each time"
        )


def check_explained(
    measurements: Measurements, images: NDArray[Any], gaps: NDArray[np.float64], meaning: Range, misscaled: bool = False
) -> None:
    """Warn, once, where no image explains a measurement, or where its image is black and it is not.

    images: (B, H, W), on [0, 1]. gaps: (B,), relative; an image that is black in the midst of a solve says nothing.
    misscaled: a warning has said that the measurements are far from data_range, which makes images black.
    """
    worst, sentence = 0.0, ""
    for number, (x, y) in enumerate(zip(images, measurements.y, strict=True)):
        op = operator_of(measurements, number)
        seen = op.apply(x)
        left = y - seen
        dark = _size(seen) <= DARK * _size(y) and np.abs(x).max() <= DIM
        if not misscaled and gaps[number] < SOLVED and dark and y.any() and not _is_noise(left):
            share, found = 1.0, (
                f"is not zero, and no noise, but its image is {meaning.low:g} everywhere: is the measurement "
                f"negated, strength too large, "
                f"or box not meant?"
            )  # fmt: skip
        else:
            share = unexplained(op, left, y)
            found = (
                f"holds what no image explains: {percent(share)} of its energy, and it is no noise, so that the "
                f"image is wrong, whatever "
                f"its status and gap; {op.likely_causes}"
            )
        if share > worst:
            worst, sentence = share, f"{named(measurements, number)} {found}"
    if worst > 0:
        warn(sentence)


def unexplained(op: Operator, left: NDArray[Any], y: NDArray[Any]) -> float:
    """The share of ||y||^2 that is in `left` = y - H x and would be whatever the image, where it is too much and no
    noise; else 0.

    Bounds do not count here: what the caller's box cuts off is the caller's affair. Conjugate gradients for min
    ||H d - left||^2 end as soon as little is left; where the image found fits, none is made. Too much is also more than
    all noise in `left`, of which they fit a part.
    """
    energy = float(squares(y[None])[0])
    if float(squares(left[None])[0]) <= UNEXPLAINED * energy:
        return 0.0
    rest: NDArray[Any] = left[None].astype(op._measured)
    slope = direction = op.adjoint(rest)
    size = first = float(squares(slope)[0])
    least = max(UNEXPLAINED * energy, _white_energy(left))
    share = 0.0
    for step in range(STEPS + 1):
        rest_energy = float(squares(rest)[0])
        if rest_energy <= least or _is_noise(rest[0]):
            return 0.0
        share = rest_energy / energy
        if step == STEPS or size <= 1e-9 * first:
            break
        forward = op.apply(direction)
        length = float(squares(forward)[0])
        if not length > 0:
            break
        rest = rest - column(np.array([size / length]), rest) * forward
        slope = op.adjoint(rest)
        size, before = float(squares(slope)[0]), size
        direction = slope + column(np.array([size / before]), slope) * direction
    return share


def operator_of(measurements: Measurements, number: int) -> Operator:
    """The operator of one image of a batch."""
    return measurements.operators[number if len(measurements.operators) > 1 else 0]


def _is_noise(left: NDArray[Any]) -> bool:
    """Whether white noise explains a good part of the energy of `left` (*shape_out)."""
    return _white_energy(left) * STRUCTURE >= float(squares(left[None])[0])


def _white_energy(left: NDArray[Any]) -> float:
    """The energy of white noise in `left`: by medians, which structure does not move much."""
    if np.iscomplexobj(left):  # k-space, whose structure is in few large samples
        sizes = np.abs(left)
        sizes = sizes[sizes > NOT_FITTED * np.sqrt(np.mean(sizes**2))]
        return 2 * sizes.size * (float(np.median(sizes)) / RAYLEIGH_MEDIAN) ** 2 if sizes.size else 0.0
    if left.ndim >= 2 and min(left.shape[-2:]) >= 2:
        return left.size * float(np.mean([noise_of(np, plane) ** 2 for plane in left.reshape(-1, *left.shape[-2:])]))
    steps = np.abs(np.diff(left.ravel()))
    return left.size * (float(np.median(steps)) / GAUSSIAN_MAD) ** 2 / 2 if steps.size else float(left.ravel()[0]) ** 2


def _inner(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Re <a, b>, in float64; without BLAS, whose threads would meet those of the kernels."""
    parts = [(a.real, b.real), (a.imag, b.imag)] if np.iscomplexobj(a) and np.iscomplexobj(b) else [(a.real, b.real)]
    return float(sum(np.einsum("i,i->", p.ravel(), q.ravel(), dtype=np.float64) for p, q in parts))


def _size(a: NDArray[Any]) -> float:
    return float(np.sqrt(squares(a[None])[0]))
