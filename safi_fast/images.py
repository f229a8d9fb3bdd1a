"""The caller's images to one stack on [0, 1] and back, in the library, shape and range that they came in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import color as colors
from .arrays import ArrayKind, positive_per_image
from .errors import InputError, shown
from .memory import Extent
from .model import Model
from .noise_level import SMALLEST, noise_level
from .tensors import plain
from .types import Box, FloatVector
from .values import DataRange, Range, range_of


@dataclass(frozen=True)
class Images:
    """The caller's images as one stack on [0, 1], and how to give results back.

    What is solved alone, a grey image or one channel, is (H, W) of the stack; an image of several planes under one mask
    is (P, H, W).
    """

    stack: Any  # float32 (N, H, W) or (N, P, H, W) of kind.module
    kind: ArrayKind
    dtype: np.dtype[Any]
    range: Range
    shape: tuple[int, ...]
    channel_axis: int | None
    planes: int = 1
    # where the stack is luma and chroma: what the colours are clipped to
    color_limits: Box | None = None

    @classmethod
    def of(
        cls, array: Any, kind: ArrayKind, data_range: DataRange | None, channel_axis: int | None, model: Model
    ) -> Images:
        """Raises InputError for what the model cannot take."""
        xp, planes, smallest = kind.module, model.filters.planes, model.smallest_side
        if array.size == 0:
            raise InputError(f"image is empty: its shape is {array.shape}")
        stack = _stack(xp, array, channel_axis)
        if min(stack.shape[1:]) < smallest:
            colour = channel_axis is None and array.ndim == 3 and array.shape[-1] in (2, 3, 4)
            raise InputError(
                f"image is {stack.shape[1]} x {stack.shape[2]} pixels; the filters of this model need {smallest} x "
                f"{smallest} or more"
                + (f"; if {array.shape} is a colour image, pass channel_axis=-1" if colour else "")
            )
        if array.dtype.kind == "f" and not xp.isfinite(array).all():
            raise InputError(_not_finite(xp, stack, 1 if channel_axis is None else array.shape[channel_axis]))
        meaning = range_of("image", array, data_range)
        dtype = result_type(array.dtype)
        wide = np.result_type(array.dtype, np.float32)  # float16 neither holds data_range nor the quotient
        with np.errstate(over="ignore"):
            stack = meaning.to_unit(stack.astype(wide, copy=False)).astype(np.float32)
        if not xp.isfinite(stack).all():
            raise InputError(
                f"image has values up to {float(abs(array).max()):.3g}, which float32 cannot hold; rescale it"
            )
        if planes > 1:
            _require_channels(model, array.shape, channel_axis)
            stack = stack.reshape(-1, planes, *stack.shape[1:])
        return cls(stack, kind, dtype, meaning, array.shape, channel_axis, planes)

    @property
    def extent(self) -> Extent:
        """Count and size of the images of the stack."""
        return _extent(self.dtype.itemsize, self.stack.shape)

    @property
    def single(self) -> bool:
        """Whether the caller gave one image that is solved as one, not a stack."""
        return bool(self.stack.ndim == len(self.shape) + 1)

    @property
    def several(self) -> bool:
        """Whether the caller gave a batch, if only of one image."""
        return len(self.shape) > 2 + (self.channel_axis is not None)

    @property
    def flat(self) -> Any:
        """Every plane of the stack, (N P, H, W)."""
        return self.stack.reshape(-1, *self.stack.shape[-2:])

    @property
    def alone(self) -> int:
        """So many of the stack are one image of the caller's."""
        return (self.channels or 1) // self.planes

    @property
    def channels(self) -> int | None:
        """Of a colour image; None for grey."""
        return None if self.channel_axis is None else self.shape[self.channel_axis]

    def per_problem(self, name: str, value: Any) -> NDArray[np.float64]:
        """A positive number, or one per image, as one for each of the stack, on [0, 1]. Raises InputError."""
        return positive_per_image(name, value, len(self.stack) // self.alone).repeat(self.alone) / self.range.scale

    def maps(self, name: str, value: Any) -> NDArray[np.float64] | None:
        """Positive numbers (H, W), for all images, or (B, H, W), as one map for each of the stack (N, H, W), on [0, 1];
        None for a value of fewer dimensions. Raises InputError.
        """
        count, size = len(self.stack) // self.alone, self.stack.shape[-2:]
        try:
            if np.ndim(plain(value)) < 2:
                return None
            numbers = np.asarray(plain(value))
        except (TypeError, ValueError, RuntimeError):  # ragged lists, arrays of a GPU
            raise InputError(f"{name} is {shown(value)}; expected a number or an array in host memory") from None
        expected = f"a positive number, {count} of them, or a map of them of shape {size} or {(count, *size)}"
        if numbers.shape not in (size, (count, *size)):
            raise InputError(f"{name} has shape {numbers.shape}; expected {expected}")
        if numbers.dtype.kind not in "fiu" or not (np.isfinite(numbers).all() and (numbers > 0).all()):
            raise InputError(f"{name} is {shown(value)}; expected {expected}")
        maps = np.broadcast_to(numbers.astype(np.float64), (count, *size))
        return maps.repeat(self.alone, axis=0) / self.range.scale

    def noise_levels(self, mode: colors.Mode | None) -> FloatVector:
        """Standard deviation of the noise in each image, on [0, 1], of a colour image over the planes that `mode` makes
        of it, in root mean square. Raises InputError.
        """
        xp, channels, stack = self.kind.module, self.channels or 1, self.flat
        count, (height, width) = len(stack) // channels, stack.shape[1:]
        if min(height, width) < SMALLEST:
            raise InputError(
                f"sigma is 'estimate', but image is {height} x {width} pixels; expected {SMALLEST} x {SMALLEST} or "
                "more, or sigma as a number"
            )
        mixes = colors.mixes(mode, self.channels)
        levels = np.empty(count)
        for number in range(count):
            planes = stack[number * channels : (number + 1) * channels]
            planes = colors.to_luma_chroma(xp, planes) if mixes else planes
            levels[number] = np.sqrt(np.mean([noise_level(xp, plane) ** 2 for plane in planes]))
        still = np.flatnonzero(levels == 0)
        if still.size:
            which = "image" if count == 1 else f"image[{still[0]}]"
            raise InputError(
                f"sigma is 'estimate', but {which} shows no noise: it is constant or a smooth ramp; pass sigma as a "
                "number"
            )
        return levels

    def in_luma_chroma(self, limits: Box) -> Images:
        """These as luma and chroma; `restore` clips the colours to `limits`."""
        return replace(self, stack=colors.to_luma_chroma(self.kind.module, self.stack), color_limits=limits)

    def in_colors(self, stack: Any) -> Any:
        """Results of luma and chroma as red, green and blue, others as they are."""
        if self.color_limits is None:
            return stack
        xp = self.kind.module
        rgb = colors.to_rgb(xp, stack)
        return xp.clip(rgb, *self.color_limits, out=rgb)

    def restore(self, stack: Any) -> Any:
        """A stack of results (of kind.module) in the caller's shape, range and library."""
        stack = self.in_colors(stack)
        values = self.range.from_unit(stack.astype(self.dtype))
        if self.channel_axis is None:
            return self.kind.wrap(values.reshape(self.shape))
        axis = self.channel_axis % len(self.shape)
        front = [n for i, n in enumerate(self.shape) if i != axis]
        moved = values.reshape(*front[:-2], self.shape[axis], *front[-2:])
        xp = self.kind.module
        return self.kind.wrap(xp.ascontiguousarray(xp.moveaxis(moved, len(front) - 2, axis)))


def _extent(itemsize: int, shape: tuple[int, ...]) -> Extent:
    """Of a stack of this shape."""
    count, *planes, height, width = shape
    return Extent(itemsize, count, height, width, *planes)


def _require_channels(model: Model, shape: tuple[int, ...], channel_axis: int | None) -> None:
    """Refuse images of another number of channels than the model takes at once."""
    planes = model.filters.planes
    if channel_axis is None or shape[channel_axis] != planes:
        found = "channel_axis is None" if channel_axis is None else f"image has {shape[channel_axis]} channels"
        raise InputError(
            f"{found}; expected the axis of {planes} channels, which model {model.name!r} takes together, or a grey "
            "model, which takes any number"
        )


def extent_of(shape: tuple[int, ...], dtype: Any, channel_axis: int | None, model: Model) -> Extent:
    """Of images of this shape and dtype. Raises InputError."""
    try:
        blank = np.broadcast_to(np.zeros((), dtype), shape)
    except (TypeError, ValueError, SyntaxError):  # SyntaxError: NumPy reads some texts as code
        raise InputError(f"shape is {shown(shape)}, dtype is {shown(dtype)}; expected those of an image") from None
    if blank.size == 0:
        raise InputError(f"shape is {shown(shape)}; expected one without a zero")
    stack, planes = _stack(np, blank, channel_axis), model.filters.planes
    if planes > 1:
        _require_channels(model, shape, channel_axis)
        stack = np.broadcast_to(np.float32(0), (len(stack) // planes, planes, *stack.shape[1:]))
    return _extent(result_type(blank.dtype).itemsize, stack.shape)


def is_color(shape: tuple[int, ...], channel_axis: Any) -> bool:
    """Whether an image of this shape has three channels; not where its axis is none, which `Images.of` refuses."""
    if channel_axis is None or isinstance(channel_axis, bool):
        return False
    try:
        return bool(shape[channel_axis] == colors.CHANNELS)
    except (TypeError, IndexError):
        return False


def _not_finite(xp: Any, stack: Any, channels: int) -> str:
    """How many values of (N, H, W) are NaN or infinite, and in which image."""
    planes = [int((~xp.isfinite(stack[number])).sum()) for number in range(len(stack))]
    bad = [sum(planes[first : first + channels]) for first in range(0, len(planes), channels)]
    first = next(number for number, count in enumerate(bad) if count)
    images = sum(count > 0 for count in bad)
    which = "image" if len(bad) == 1 else f"image[{first}]{f' and {images - 1} more' if images > 1 else ''}"
    have = "has" if images == 1 else "have"
    return f"{which} {have} {sum(bad)} values that are NaN or infinite; expected finite ones"


def result_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype.newbyteorder("=") == np.float64 else np.float32)


def _stack(xp: Any, array: Any, channel_axis: int | None) -> Any:
    """(N, H, W): images, or the channels of images."""
    if channel_axis is None:
        if array.ndim == 4 and array.shape[1] == 1:
            return array[:, 0]
        if array.ndim not in (2, 3):
            raise InputError(
                f"image has shape {array.shape}; expected (H, W), (B, H, W) or (B, 1, H, W), or channel_axis=... "
                f"for colour"
            )
        return array if array.ndim == 3 else array[None]
    if array.ndim not in (3, 4):
        raise InputError(
            f"image has shape {array.shape}; with channel_axis={shown(channel_axis)} expected three or four dimensions"
        )
    if (
        isinstance(channel_axis, bool)
        or not isinstance(channel_axis, (int, np.integer))
        or not -array.ndim <= channel_axis < array.ndim
    ):
        raise InputError(f"channel_axis is {shown(channel_axis)}; expected an axis of an image of shape {array.shape}")
    moved = xp.moveaxis(array, channel_axis, -3)
    return moved.reshape(-1, *moved.shape[-2:])
