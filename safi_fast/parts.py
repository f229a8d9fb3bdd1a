"""What the parts of a model have in common: checked, read-only tensors, and copies through the constructor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .errors import ModelError, shown

BOUNDARIES = ("zero", "symmetric")
MAX_PLANES = 3  # of an image: 1 grey, 2 complex, 3 colour


class Rebuilt:
    """Pickles and copies through the constructor, so that a copy is checked and read-only as well."""

    def __reduce__(self) -> tuple[Any, ...]:
        values = (getattr(self, entry.name) for entry in fields(self))  # type: ignore[arg-type]
        return type(self), tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)


def tensor_of(name: str, value: ArrayLike, dtype: DTypeLike, shape: Sequence[int | str]) -> NDArray[Any]:
    """A read-only copy of `value` with this dtype, checked against `shape`, where letters stand for any size."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ModelError(f"tensor {name} has dtype {array.dtype}; expected real numbers")
    fits = array.ndim == len(shape) and all(
        isinstance(w, str) or w == n for w, n in zip(shape, array.shape, strict=True)
    )
    if not fits or array.size == 0:
        raise ModelError(f"tensor {name} has shape {array.shape}; expected ({', '.join(map(str, shape))})")
    with np.errstate(over="ignore"):  # a float64 that float32 cannot hold becomes infinite and is refused below
        array = np.array(array, dtype, order="C")
    if not np.isfinite(array).all():
        raise ModelError(f"tensor {name} has values that are not finite (NaN or infinity)")
    array.flags.writeable = False
    return array


def kernels_of(name: str, value: ArrayLike, shape: Sequence[int | str]) -> NDArray[np.float32]:
    array = tensor_of(name, value, np.float32, shape)
    if array.shape[2] != array.shape[3] or array.shape[2] % 2 == 0:
        raise ModelError(f"tensor {name} has kernels of {array.shape[2]} x {array.shape[3]}; expected odd squares")
    return array


def check_planes(name: str, planes: int) -> None:
    """Raise ModelError for more planes than an image of a model may have."""
    if planes > MAX_PLANES:
        raise ModelError(f"tensor {name} is for {planes} planes; at most {MAX_PLANES} can be used")


def spline_of(name: str, value: ArrayLike, channels: int) -> NDArray[np.float32]:
    array = tensor_of(name, value, np.float32, (channels, "n"))
    if array.shape[1] < 2:
        raise ModelError(f"tensor {name} has {array.shape[1]} knot; expected at least 2")
    return array


def one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ModelError(f"{what} is {shown(value)}; expected one of {', '.join(known)}")
