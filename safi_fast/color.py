"""Luma and chroma instead of red, green and blue: white noise stays white, and one plane has most of the signal.

The axes are orthonormal, as in colour BM3D (Dabov, Foi, Katkovnik, Egiazarian 2007): noise that is independent and equally strong in
red, green and blue is so in luma and chroma, and the distance between two images is the same in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import InputError

CHANNELS = 3
MODES = ("luma-chroma", "separate")
AXES = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])  # luma, and two of chroma
ORIGIN = np.array([[0], [0.5], [0.5]])  # grey has its chroma planes in the middle of [0, 1]


def mixes(color: str | None, channels: int | None) -> bool:
    """Whether `channels` channels are to be solved as luma and chroma; None of them: a grey image. Raises InputError."""
    if color is not None and color not in MODES:
        raise InputError(f"color is {color!r}; expected one of {', '.join(MODES)} or None")
    if color == "luma-chroma" and channels != CHANNELS:
        found = "is grey (channel_axis is None)" if channels is None else f"has {channels} channels"
        raise InputError(f"color is 'luma-chroma', but image {found}; expected {CHANNELS} channels: red, green, blue")
    return channels == CHANNELS and color != "separate"


def to_luma_chroma(xp: Any, stack: Any) -> Any:
    """Planes (3 B, H, W), red, green, blue of each image, as luma (range 0 to sqrt(3)) and two of chroma; xp: their array module."""
    colors = stack.reshape(-1, CHANNELS, stack.shape[1] * stack.shape[2])
    turned = xp.matmul(xp.asarray(AXES, stack.dtype), colors)
    turned += xp.asarray(ORIGIN, stack.dtype)
    return turned.reshape(stack.shape)


def to_rgb(xp: Any, stack: Any, limits: tuple[float, float]) -> Any:
    """The inverse of `to_luma_chroma`, clipped to `limits`."""
    planes = stack.reshape(-1, CHANNELS, stack.shape[1] * stack.shape[2])
    turned = xp.matmul(xp.asarray(AXES.T, stack.dtype), planes)
    turned -= xp.asarray(AXES.T @ ORIGIN, stack.dtype)
    return xp.clip(turned, *limits, out=turned).reshape(stack.shape)
