"""Blur: H x = crop(k * extend(x)), a convolution whose result has the size of the image.

With c = side // 2, as in scipy.ndimage.convolve, (H x)[i] = sum over j of k[j] x[i + c - j], and x is extended beyond
the image by

    "symmetric"   half-sample reflection, d c b a | a b c d | d c b a     (scipy.ndimage: reflect)
    "zero"        zeros                                                   (constant)
    "circular"    periodic repetition                                     (wrap)

It runs as a circular convolution of at least image plus kernel, the values before the image written at the end of the
transform. The adjoint is the adjoint of these three steps: zero padding, correlation, folding back what was extended.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ..errors import InputError, OperatorError, shown
from ..namespaces import namespace
from .base import Image, Operator, Pace, image_shape, real_numbers
from .fourier import IMAGE_AXES, real_forward, real_inverse

Boundary = Literal["symmetric", "zero", "circular"]
BOUNDARIES = ("symmetric", "zero", "circular")


class Blur(Operator):
    """Convolution with a real kernel (h, w), not larger than the image.

    Images and measurements (H, W), real or complex.
    """

    on_devices = True
    recordable = True
    residual_step = 0.02
    pace = Pace(4, 50)

    def __init__(
        self,
        kernel: Any,
        shape: tuple[int, int],
        boundary: Boundary = "symmetric",
        *,
        image: Image = "real",
        norm: float | None = None,
    ):
        """kernel: (h, w), any real numbers; it is not normalised. shape: (H, W) of an image. boundary: see above.

        Raises InputError, OperatorError for a kernel of zeros.
        """
        taps, shape = real_numbers("kernel", kernel), image_shape("shape", shape)
        if taps.ndim != 2 or 0 in taps.shape:
            raise InputError(f"kernel has shape {taps.shape}; expected (h, w)")
        if taps.shape[0] > shape[0] or taps.shape[1] > shape[1]:
            raise InputError(f"kernel has shape {taps.shape}, larger than the image {shape}; crop the kernel")
        if boundary not in BOUNDARIES:
            raise InputError(f"boundary is {shown(boundary)}; expected one of {', '.join(map(repr, BOUNDARIES))}")
        if not taps.any():
            raise OperatorError("kernel is zero everywhere: nothing is measured")
        super().__init__(shape, shape, image=image, complex=image == "complex", norm=norm)
        self.boundary, self.averages = boundary, bool(taps.min() >= 0)
        self._after = (taps.shape[0] // 2, taps.shape[1] // 2)  # pixels read beyond the end of the image
        self._before = (taps.shape[0] - 1 - self._after[0], taps.shape[1] - 1 - self._after[1])
        self._period = shape
        if boundary != "circular":
            self._period = tuple(
                fft.next_fast_len(side + tap - 1, real=True) for side, tap in zip(shape, taps.shape, strict=True)
            )
        centred = np.zeros(self._period)
        centred[: taps.shape[0], : taps.shape[1]] = taps
        transfer = fft.rfft2(np.roll(centred, (-self._after[0], -self._after[1]), IMAGE_AXES))
        self._largest = float(np.abs(transfer).max())
        self._transfer, self._power = transfer.astype(np.complex64), (np.abs(transfer) ** 2).astype(np.float32)

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        return _by_parts(x, lambda part: self._cropped(self._filter(self._extended(part), self._here("_transfer", x))))

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        return _by_parts(y, lambda part: self._folded(self._filter(part, self._here("_transfer", y).conj())))

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        if self.boundary != "circular":
            return super()._normal(x)
        return _by_parts(x, lambda part: self._filter(part, self._here("_power", x)))

    def _filter(self, x: NDArray[Any], transfer: NDArray[Any]) -> NDArray[Any]:
        """(B, *period): circular convolution of x, zero-padded to the period."""
        product = real_forward(x, self._period)
        product *= transfer
        return real_inverse(product, self._period, overwrite=True)

    def _extended(self, x: NDArray[Any]) -> NDArray[Any]:
        if self.boundary != "symmetric":
            return x
        wide: NDArray[Any] = namespace(x).zeros((len(x), *self._period), x.dtype)
        (H, W), (bottom, right), (top, left) = self.shape_in, self._after, self._before
        wide[:, :H, :W] = x
        wide[:, H : H + bottom, :W] = x[:, ::-1][:, :bottom]
        wide[:, self._period[0] - top :, :W] = x[:, :top][:, ::-1]
        wide[:, :, W : W + right] = wide[:, :, :W][:, :, ::-1][:, :, :right]
        wide[:, :, self._period[1] - left :] = wide[:, :, :left][:, :, ::-1]
        return wide

    def _folded(self, wide: NDArray[Any]) -> NDArray[Any]:
        """The adjoint of `_extended`."""
        (H, W), (bottom, right), (top, left) = self.shape_in, self._after, self._before
        if self.boundary == "symmetric":
            wide[:, :, W - right : W] += wide[:, :, W : W + right][:, :, ::-1]
            wide[:, :, :left] += wide[:, :, self._period[1] - left :][:, :, ::-1]
            wide[:, H - bottom : H] += wide[:, H : H + bottom][:, ::-1]
            wide[:, :top] += wide[:, self._period[0] - top :][:, ::-1]
        return self._cropped(wide)

    def _cropped(self, wide: NDArray[Any]) -> NDArray[Any]:
        return wide[:, : self.shape_in[0], : self.shape_in[1]]

    @property
    def spectrum(self) -> NDArray[np.float32] | None:
        """(H, W) |K|^2 for the circular boundary, else None."""
        if self.boundary != "circular":
            return None
        return full_plane(self._power, self.shape_in[1])

    @cached_property
    def norm(self) -> float:
        """||H||: max |K| for the circular boundary; else as in Operator, at most max |K| of the
        padded plane for zeros.
        """
        return self._largest if self.boundary == "circular" else self._estimated_norm()

    def _norm_bound(self) -> float:
        return self._largest if self.boundary == "zero" else float("inf")


def _by_parts(x: NDArray[Any], function: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """A real linear function of a real or complex batch."""
    if not np.iscomplexobj(x):
        return function(x)
    parts: NDArray[Any] = function(namespace(x).concatenate([x.real, x.imag]))
    return parts[: len(x)] + 1j * parts[len(x) :]


def full_plane(half: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """(H, W) from the (H, W // 2 + 1) half of an even function of frequency."""
    mirrored = np.roll(half[::-1], 1, axis=0)[:, 1 : (width + 1) // 2][:, ::-1]
    return np.concatenate([half, mirrored], axis=1)
