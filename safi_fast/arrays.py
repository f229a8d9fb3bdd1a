"""Arrays of other libraries in and out, without importing a library that the caller does not use.

A caller's array is recognised by the library it comes from: NumPy and anything that NumPy understands, or a torch CPU tensor.
The way in shares memory where dtype and layout allow it; nothing here writes to the caller's array.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BackendError, InputError

IMPOSSIBLE_SIGMAS = 8.0  # no pixel of a noisy image lies this many sigma outside its range
INTEGER_RANGES = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class ArrayKind:
    """The library of a caller's array: "numpy" or "torch"."""

    library: str

    def wrap(self, values: NDArray[Any]) -> Any:
        """`values` as an array of the caller's library, sharing memory."""
        if self.library == "torch":
            return sys.modules["torch"].from_numpy(values)
        return values


def to_numpy(name: str, value: Any) -> tuple[NDArray[Any], ArrayKind]:
    """The argument `name` as a NumPy array and the kind to give results back in.

    Raises InputError for what is no array of real numbers, BackendError for an array on a GPU.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise BackendError(f"{name} lies on {value.device}; this version computes on the CPU: pass {name}.cpu()")
        try:
            array = value.detach().numpy()
        except TypeError as error:  # bfloat16, sparse
            raise InputError(f"{name} cannot be read as a NumPy array: {error}") from error
        return _checked(name, array), ArrayKind("torch")
    if hasattr(value, "__cuda_array_interface__"):
        raise BackendError(f"{name} lies on a GPU; this version computes on the CPU: pass a NumPy array")
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array, whose mask would be lost; fill it: {name}.filled(...)")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name} is no array of numbers: {error}") from error
    return _checked(name, array), ArrayKind("numpy")


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "c":
        raise InputError(
            f"{name} is complex ({array.dtype}); expected real numbers: denoise its real and imaginary part or its magnitude"
        )
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} has dtype {array.dtype}; expected integers or floating-point numbers")
    return array


def value_range(name: str, array: NDArray[Any], data_range: float | None) -> float:
    """The range of the pixel values: as given, else by dtype (uint8: 255, uint16: 65535, floating point: 1).

    Raises InputError where the range is unknown.
    """
    if data_range is not None:
        return positive("data_range", data_range)
    if array.dtype.kind != "f":
        if array.dtype.name not in INTEGER_RANGES:
            raise InputError(
                f"{name} has dtype {array.dtype}, whose range is not known; pass data_range=..., the value of white"
            )
        return INTEGER_RANGES[array.dtype.name]
    return 1.0


def check_unit_range(name: str, array: NDArray[Any], sigma: float) -> None:
    """Refuse an image that cannot be a noisy one on [0, 1]: a value lies further outside than IMPOSSIBLE_SIGMAS times the noise.

    For images whose range the caller has not stated. Raises InputError.
    """
    low, high, margin = float(array.min()), float(array.max()), IMPOSSIBLE_SIGMAS * sigma
    if low < -margin or high > 1 + margin:
        raise InputError(
            f"{name} has values from {low:.4g} to {high:.4g}, but floating-point images are taken to lie on [0, 1]; "
            f"pass data_range=..., the value of white (255 for 8-bit values)"
        )


def positive(name: str, value: Any) -> float:
    """`value` as a positive finite number. Raises InputError."""
    numbers = positive_per_image(name, value, 1)
    return float(numbers[0])


def positive_per_image(name: str, value: Any, count: int) -> NDArray[np.float64]:
    """A number or one per image as float64 (count,). Raises InputError."""
    expected = "a positive number" if count == 1 else f"a positive number or {count} of them, one per image"
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; expected {expected}") from None
    if numbers.ndim > 1 or numbers.size not in (1, count):
        raise InputError(f"{name} has shape {numbers.shape}; expected {expected}")
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise InputError(f"{name} is {value!r}; expected {expected}")
    return np.broadcast_to(numbers.reshape(-1), (count,)).copy()
