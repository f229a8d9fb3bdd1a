"""Functions for arrays wherever they lie: NumPy's, or those of the library whose array on a GPU it is."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def on_host(array: Any) -> bool:
    """Whether it is a NumPy array."""
    return isinstance(array, np.ndarray)


def on_device(value: Any) -> bool:
    """Whether it is an array of CuPy, whatever it holds."""
    return type(value).__module__.partition(".")[0] == "cupy" and hasattr(value, "__cuda_array_interface__")


def namespace(array: Any) -> Any:
    """NumPy, or the module that the array's class is of, which has functions of the same names."""
    return np if on_host(array) else sys.modules[type(array).__module__.partition(".")[0]]


def to_host(array: Any) -> NDArray[Any]:
    """A NumPy array: the array itself, or a copy from its device."""
    result: NDArray[Any] = array if on_host(array) else namespace(array).asnumpy(array)
    return result


def like(values: NDArray[Any], array: Any) -> Any:
    """`values` of the host where `array` lies."""
    return values if on_host(array) else namespace(array).asarray(values)


def taken(array: Any, images: NDArray[np.int64]) -> Any:
    """array[images], without a copy where that is all of it in order, as `images` of a batch always are."""
    return array if len(images) == len(array) else array[like(images, array)]


def put(array: Any, images: NDArray[np.int64], values: Any) -> None:
    """array[images] = values."""
    if len(images) == len(array):
        array[...] = values
    else:
        array[like(images, array)] = values
