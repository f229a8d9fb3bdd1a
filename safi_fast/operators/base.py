"""What a forward operator is: a linear map H from images to measurements, with its adjoint and its norm.

    shape_in      (H, W) of an image                image     "real" or "complex": what x is
    shape_out     of the measurements of one image  complex   whether measurements are complex
    apply(x)      H x,    x (..., H, W)      to (..., *shape_out)
    adjoint(y)    H^T y,  y (..., *shape_out) to (..., H, W);  real images: the adjoint for Re <., .>
    norm          an upper estimate of the largest singular value, never its square

Leading axes are a batch. float32 and complex64; other dtypes are converted, arguments are not changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OperatorError

Image = Literal["real", "complex"]

POWER_STEPS = 30
SAFETY = 1.02


class Operator(ABC):
    """A forward operator. A subclass gives `_apply` and `_adjoint` for a batch (B, ...), and `norm` where it knows it in closed form."""

    def __init__(
        self,
        shape_in: tuple[int, int],
        shape_out: tuple[int, ...],
        *,
        image: Image = "real",
        complex: bool = False,
        norm: float | None = None,
    ):
        """norm: overrides the computed one. Raises InputError."""
        if image not in ("real", "complex"):
            raise InputError(f"image is {image!r}; expected 'real' or 'complex'")
        self.shape_in, self.shape_out = tuple(map(int, shape_in)), tuple(map(int, shape_out))
        self.image, self.complex = image, complex
        if len(self.shape_in) != 2 or min(self.shape_in) < 1:
            raise InputError(f"shape_in is {shape_in}; expected two positive numbers (H, W)")
        if norm is not None:
            if not (np.isfinite(norm) and norm > 0):
                raise InputError(f"norm is {norm!r}; expected a positive number")
            self.norm = float(norm)

    @abstractmethod
    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """(B, H, W) to (B, *shape_out)."""

    @abstractmethod
    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        """(B, *shape_out) to (B, H, W); a complex result is made real by the caller for real images."""

    def apply(self, x: Any) -> NDArray[Any]:
        """H x for x (..., H, W). Raises InputError for a wrong shape or a complex x where images are real."""
        array = self._checked("x", x, self.shape_in, np.complex64 if self.image == "complex" else np.float32)
        batch = array.reshape(-1, *self.shape_in)
        dtype = np.complex64 if self.complex else np.float32
        return self._apply(batch).astype(dtype, copy=False).reshape(*array.shape[:-2], *self.shape_out)

    def adjoint(self, y: Any) -> NDArray[Any]:
        """H^T y for y (..., *shape_out). Raises InputError."""
        array = self._checked("y", y, self.shape_out, np.complex64 if self.complex else np.float32)
        front = array.shape[: array.ndim - len(self.shape_out)]
        image = self._adjoint(array.reshape(-1, *self.shape_out))
        if self.image == "real" and np.iscomplexobj(image):
            image = image.real
        dtype = np.complex64 if self.image == "complex" else np.float32
        return np.ascontiguousarray(image, dtype).reshape(*front, *self.shape_in)

    def normal(self, x: Any) -> NDArray[Any]:
        """H^T H x; a subclass may know a cheaper way."""
        return self.adjoint(self.apply(x))

    @cached_property
    def norm(self) -> float:
        """||H||: seeded power iteration on H^T H times a safety factor, computed once."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal(self.shape_in).astype(np.float32)
        if self.image == "complex":
            x = x + 1j * rng.standard_normal(self.shape_in).astype(np.float32)
        value = 0.0
        for _ in range(POWER_STEPS):
            x = x / np.linalg.norm(x)
            x = self.normal(x)
            value = float(np.linalg.norm(x))
            if value == 0:
                raise OperatorError(f"{type(self).__name__}: H^T H maps a random image to zero; it has no measurements")
        return SAFETY * float(value**0.5)

    def _checked(self, name: str, value: Any, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        array = np.asarray(value)
        if array.shape[max(0, array.ndim - len(shape)) :] != shape:
            raise InputError(
                f"{name} has shape {array.shape}; {type(self).__name__} expects (..., {', '.join(map(str, shape))})"
            )
        if np.iscomplexobj(array) and dtype is np.float32:
            raise InputError(f"{name} is complex ({array.dtype}); {type(self).__name__} expects real numbers")
        return array.astype(dtype, copy=False)
