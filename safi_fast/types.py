"""Names of types that many modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .solver.result import InnerState, OuterState

FloatArray: TypeAlias = NDArray[np.float32]
FloatVector: TypeAlias = NDArray[np.float64]  # a number per image
Active: TypeAlias = NDArray[np.int64]  # numbers of images of a batch
Array: TypeAlias = NDArray[Any]
AnyArray: TypeAlias = Any  # of NumPy, or of the device that a solve runs on
Box: TypeAlias = tuple[float, float]  # bounds of an image whose black is 0 and white 1
MaskOf: TypeAlias = Literal["magnitude", "parts"]
Callback: TypeAlias = Callable[["OuterState"], None]  # may raise StopIteration
Watch: TypeAlias = Callable[["InnerState"], None]  # of inner steps
