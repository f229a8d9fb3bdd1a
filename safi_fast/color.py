"""Luma and chroma instead of red, green and blue: white noise stays white, and one plane has most of the signal.

The axes are orthonormal, as in colour BM3D (Dabov, Foi, Katkovnik, Egiazarian 2007): noise that is independent and
equally strong in red, green and blue is so in luma and chroma, and the distance between two images is the same in both.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from .errors import InputError, shown

Mode = Literal["luma-chroma", "separate"]

CHANNELS = 3
MODES: tuple[Mode, ...] = get_args(Mode)
_LUMA, _FIRST, _SECOND = 3**-0.5, 2**-0.5, 6**-0.5
# Added to chroma: masks see the level of an image, and the change between two is relative to its norm. PSNR alone would
# do as well with 0.
_GREY = 0.5


def mixes(color: Mode | None, channels: int | None) -> bool:
    """Whether `channels` channels are to be solved as luma and chroma; None of them: a grey image.

    Raises InputError.
    """
    if color is not None and color not in MODES:
        raise InputError(f"color is {shown(color)}; expected one of {', '.join(MODES)} or None")
    if color == "luma-chroma" and channels != CHANNELS:
        found = "is grey (channel_axis is None)" if channels is None else f"has {channels} on its channel axis"
        raise InputError(f"color is 'luma-chroma', but image {found}; expected {CHANNELS} channels: red, green, blue")
    return channels == CHANNELS and color != "separate"


def to_luma_chroma(xp: Any, stack: Any) -> Any:
    """Planes (3 B, H, W), red, green, blue of each image, as luma (range 0 to sqrt(3)) and two of chroma; xp: their
    array module.
    """
    planes = xp.empty_like(stack)
    red, green, blue = (stack[channel::CHANNELS] for channel in range(CHANNELS))
    planes[0::CHANNELS] = (red + green + blue) * _LUMA
    planes[1::CHANNELS] = (red - blue) * _FIRST + _GREY
    planes[2::CHANNELS] = (red - green - green + blue) * _SECOND + _GREY
    return planes


def to_rgb(xp: Any, planes: Any) -> Any:
    """The inverse of `to_luma_chroma`."""
    stack = xp.empty_like(planes)
    base = planes[0::CHANNELS] * _LUMA
    first = (planes[1::CHANNELS] + -_GREY) * _FIRST
    second = (planes[2::CHANNELS] + -_GREY) * _SECOND
    stack[0::CHANNELS] = base + first + second
    stack[1::CHANNELS] = base - second - second
    stack[2::CHANNELS] = base - first + second
    return stack
