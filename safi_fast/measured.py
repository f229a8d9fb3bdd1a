"""The caller's measurements, operators and images of `reconstruct`, checked and brought to one form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, shown
from .operators import Operator
from .operators.base import finite, numbers
from .types import Box
from .values import Range

LARGEST_START = 1e6  # times white


def operators_of(operator: Any) -> list[Operator]:
    """One operator or several as a list. Raises InputError."""
    operators: list[Any] = [operator]
    if not isinstance(operator, Operator) and isinstance(operator, Iterable):
        operators = list(operator)
    if not operators or not all(isinstance(op, Operator) for op in operators):
        raise InputError(
            f"operator is {type(operator).__name__}; expected an Operator of safi_fast.operators, or a list of them "
            "(from_scipy, from_functions and others make one)"
        )
    for name in ("shape_in", "shape_out", "image", "complex"):
        values = list(dict.fromkeys(getattr(op, name) for op in operators))
        if len(values) > 1:
            raise InputError(
                f"operators differ in {name}: {values[0]} and {values[1]}; expected one for all of a batch"
            )
    return operators


def one_operator(operator: Any) -> Operator:
    """The operator of a single measurement. Raises InputError."""
    operators = operators_of(operator)
    if len(operators) > 1:
        raise InputError(f"operator is a list of {len(operators)}; expected one operator")
    return operators[0]


def measured_shape(operator: Operator, planes: int) -> tuple[int, ...]:
    """Of the measurements of one image: the operator's, behind the planes of an image where it has several."""
    return operator.shape_out if planes == 1 else (planes, *operator.shape_out)


def measurements_of(measurement: Any, operators: list[Operator], planes: int) -> tuple[NDArray[Any], bool]:
    """(B, *measured_shape), and whether the caller gave one alone."""
    first, count = operators[0], len(operators)
    if count > 1:
        entries = list(measurement)
        if len(entries) != count:
            raise InputError(f"measurement has {len(entries)} entries for {count} operators; expected one each")
        return np.stack([check_single(op, one, planes) for op, one in zip(operators, entries, strict=True)]), False
    y, wanted = _own(first, measurement), measured_shape(first, planes)
    front, own = _split(y.shape, len(wanted))
    if own != wanted or len(front) > 1 or y.size == 0:
        expected = ", ".join(map(str, wanted))
        raise InputError(f"measurement has shape {y.shape}; expected ({expected}) or (B, {expected}){_why(planes)}")
    return y.reshape(-1, *wanted), not front


def _why(planes: int) -> str:
    return "" if planes == 1 else f", since the model takes {planes} planes of an image together"


def count_of(shape: Any, operators: list[Operator], planes: int) -> int:
    """How many measurements an array of this shape holds, (*measured_shape) or (B, *measured_shape). Raises
    InputError.
    """
    wanted = measured_shape(operators[0], planes)
    try:
        front, own = _split(tuple(int(side) for side in shape), len(wanted))
    except (TypeError, ValueError):
        front, own = (0,), ()
    count = front[0] if front else 1
    if own != wanted or len(front) > 1 or count < 1 or len(operators) not in (1, count):
        expected = ", ".join(map(str, wanted))
        many = f"({expected}) or (B, {expected})" if len(operators) == 1 else f"({len(operators)}, {expected})"
        raise InputError(f"shape is {shown(shape)}; expected that of measurements, {many}{_why(planes)}")
    return count


def _split(shape: tuple[int, ...], last: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """All but the `last` entries, and these."""
    first = max(0, len(shape) - last)
    return shape[:first], shape[first:]


def to_unit(y: NDArray[Any], operators: list[Operator], meaning: Range) -> NDArray[Any]:
    """(y - H(low)) / (high - low), the measurements (B, ...) of images whose black is 0 and white 1. Raises
    InputError.
    """
    first, black = operators[0], meaning.low
    if black and first.image == "complex":
        raise InputError(
            f"data_range is ({black:g}, {meaning.high:g}), but {first.name} has complex images, which have no "
            f"black; pass one number, "
            "the magnitude of white"
        )
    if black:
        blank = np.full(first.shape_in, black, np.float32)
        dark = np.stack([op.apply(blank) for op in operators])
        y = y - dark.reshape(len(dark), *[1] * (y.ndim - dark.ndim), *first.shape_out)
    return (y / np.float32(meaning.scale)).astype(first._measured)


def _own(operator: Operator, measurement: Any) -> NDArray[Any]:
    """A measurement in the form that a solve uses. Raises InputError, also where it cannot be one of this operator."""
    y = operator.check_measurement(measurement)
    operator._check_own(measurement)
    return y


def check_single(operator: Operator, measurement: Any, planes: int) -> NDArray[Any]:
    """One measurement of an operator. Raises InputError."""
    y, wanted = _own(operator, measurement), measured_shape(operator, planes)
    if y.shape != wanted:
        raise InputError(f"measurement has shape {y.shape}; expected {wanted}{_why(planes)}")
    return y


def start_of(
    x0: Any, usual: NDArray[Any], operator: Operator, box: Box | None, meaning: Range, single: bool
) -> NDArray[Any]:
    """x0 as a batch on the scale of the solver; by default `usual`, images (B, H, W), or (B, P, H, W) of planes."""
    dtype = np.complex64 if operator.image == "complex" else np.float32
    x: NDArray[Any]
    one = usual.shape[1:]
    if x0 is None:
        x = usual.astype(dtype)
    else:
        shapes = [one] if single else [one, usual.shape]
        given = check_image("x0", x0, operator, shapes)
        if (top := float(np.abs(given).max())) > LARGEST_START * max(abs(meaning.low), abs(meaning.high)):
            raise InputError(
                f"x0 has values up to {top:.3g}, far from data_range, whose white is {meaning.high:g}; expected an "
                f"image to start from"
            )
        x = np.broadcast_to(meaning.to_unit(given), usual.shape).astype(dtype)
    return x if box is None else np.clip(x, np.float32(box[0]), np.float32(box[1]))


def check_image(name: str, value: Any, operator: Operator, shapes: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    """The argument `name` as a finite array of one of these shapes, of numbers that an image of the operator can
    have. Raises InputError.
    """
    image = numbers(name, value)
    if image.shape not in shapes:
        raise InputError(f"{name} has shape {image.shape}; expected {' or '.join(map(str, shapes))}")
    finite(name, image)
    if np.iscomplexobj(image) and operator.image == "real":
        raise InputError(f"{name} is complex ({image.dtype}); the images of {operator.name} are real")
    return image
