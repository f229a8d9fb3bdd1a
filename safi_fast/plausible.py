"""Whether measurements are those of images in the box: their size, their sign, and what of them no such image explains.

A box that the caller has passed cuts, and what is far outside of it is a warning. A `DefaultBox` refuses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .operators import Operator
from .solver.data_term import Measurements, clip, squares
from .types import Box
from .values import OVERSHOOT, UNIT_BOX, WAYS_ON, DefaultBox, Range, percent, share_outside
from .warn import warn

FAR_OUTSIDE = 4.0  # times the larger limit of the box
FAR_BELOW = 1e-3
# of a least-squares step: 0.5 for images on [-1, 1], 1 for negated ones; up to 0.001 by the aliasing in
# bench/data/cases.py, noise adds
OUTSIDE_ENERGY = 0.25
OUTSIDE_SIZE = 0.1  # of the width of the box: root mean square of what lies beyond; less may be noise of a black image
WELL_SEEN = 0.5  # of the largest H 1: rays and pixels whose share of the noise is at most doubled by division


def check_measurements(measurements: Measurements, step: NDArray[Any], box: Box | None, meaning: Range) -> bool:
    """Refuse measurements of images outside of a box that nobody asked for; warn where they are far off in other cases.
    Returns whether it warned: then nothing need be said of images that come out black.

    step: (B, H, W) or (B, P, H, W), one least-squares step from zero. s H^T H x with s = ||H^T H x||^2 / ||H H^T H
    x||^2 has at most the norm of x (Hoelder's inequality over the eigenvalues of H^T H), whatever the scale of H:
    where the step is large, so is every image that fits. Pixels of exactly 0, such as those not known, do not
    count. The root mean square of the others is 0.16 to 0.52 for the cases of bench/data/cases.py with images on
    [0, 1], 41 to 132 on [0, 255]. Raises InputError, naming the measurement.
    """
    asked = not isinstance(box, DefaultBox)
    if box is not None and not asked:
        for number, image in enumerate(step):
            op = measurements.operators[number if len(measurements.operators) > 1 else 0]
            for plane in np.ndindex(*measurements.planes):
                if reason := _doubt(op, measurements.y[(number, *plane)], image[plane], box, meaning):
                    raise InputError(f"{named(measurements, number)} {reason}")
    size, white = _sizes(step), 1.0 if box is None else max(map(abs, box))
    far = (asked and size.max() > FAR_OUTSIDE * white) or ((size > 0) & (size < FAR_BELOW * white)).any()
    if far:
        warn(
            f"measurement fits images with values up to {np.abs(meaning.from_unit(step)).max():.4g}, but the masks "
            f"are made for those of data_range "
            f"{_words(meaning)}; {WAYS_ON}"
        )
    return bool(far)


def named(measurements: Measurements, number: int) -> str:
    """What messages call a measurement: by its number where there are others; copies, one for each strength, are
    one.
    """
    y = measurements.y
    alone = len(measurements.operators) == 1 and all(np.array_equal(y[0], other) for other in y[1:])
    return "measurement" if alone else f"measurement[{number}]"


def _doubt(op: Operator, y: NDArray[Any], step: NDArray[Any], box: Box, meaning: Range) -> str | None:
    """Why y (*shape_out) is not measured from an image in the box: the rest of a sentence; None where nothing speaks
    against it.
    """
    if other := op.doubt(y):
        return f"{other}, or pass box=None for no bounds"
    if (values := _means(op, y)) is not None:
        means, known = values
        seen = means[known]
        share = share_outside(np, means, box, OVERSHOOT, known=None if known.all() else known)
        found = f"{percent(share)} of it"
    else:
        seen, share = step, _outside_energy(op, step, box)
        found = f"{percent(share)} of its energy"
    if share == 0:
        return None
    low, high = (float(meaning.from_unit(np.float64(value))) for value in (seen.min(), seen.max()))
    limits = " to ".join(f"{float(meaning.from_unit(np.float64(limit))):g}" for limit in box)
    negative = squares(np.minimum(seen - box[0], 0)[None])[0] > squares(np.maximum(seen - box[1], 0)[None])[0]
    return (
        f"fits images with values from {low:.4g} to {high:.4g}, but data_range {_words(meaning)} and box "
        f"({box[0]:g}, {box[1]:g}) allow "
        f"{limits}, and {found} lies outside; {f'{op.below_black} Or ' if negative else ''}{WAYS_ON}, or box=None "
        "for no bounds"
    )


def _means(op: Operator, y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    """y / H 1, means of image values, and where they are well seen; None where H has negative weights or y is no
    plane.
    """
    if not op.averages or y.ndim != 2:
        return None
    weights = op.apply(np.ones(op.shape_in, np.float32))
    known = weights > WELL_SEEN * weights.max()
    return np.divide(y, weights, out=np.zeros_like(y), where=known), known


def _outside_energy(op: Operator, step: NDArray[Any], box: Box) -> float:
    """||x - clip(x)||^2 / ||x||^2 of a step, where that is too much; 0 where it is not, or says nothing."""
    beyond = step - clip(step, box)
    share = _share(beyond, step)
    if _sizes(step[None])[0] > FAR_OUTSIDE * max(map(abs, box)):
        return share
    large = _sizes(step[None])[0] * math.sqrt(share) > OUTSIDE_SIZE * (box[1] - box[0])
    return share if share > OUTSIDE_ENERGY and large and _shows_white(op) else 0.0


def _share(part: NDArray[Any], whole: NDArray[Any]) -> float:
    """||part||^2 / ||whole||^2."""
    total = squares(whole[None])[0]
    return float(squares(part[None])[0] / total) if total > 0 else 0.0


def _shows_white(op: Operator) -> bool:
    """Whether the step of a white image looks white.

    That of random matrices and of what filters the mean away does not: it says nothing.
    """
    white = op.apply(np.ones(op.shape_in, np.float32))
    step = Measurements([op], white[None]).least_squares_step()
    return bool(_sizes(step)[0] > 0.5) and _share(step[0] - clip(step[0], UNIT_BOX), step[0]) < OUTSIDE_ENERGY / 2


def _sizes(step: NDArray[Any]) -> NDArray[np.float64]:
    """(B,) root mean square of the pixels that are not 0."""
    known = np.count_nonzero(step.reshape(len(step), -1), axis=1)
    return np.asarray(np.sqrt(squares(step) / np.maximum(1, known)))


def _words(meaning: Range) -> str:
    return f"({meaning.low:g}, {meaning.high:g})" if meaning.low else f"{meaning.high:g}"
