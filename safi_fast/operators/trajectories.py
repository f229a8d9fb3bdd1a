"""Where k-space is sampled, off the Cartesian grid: trajectories (..., 2) in cycles per field of view.

trajectory[..., 0] runs along the rows' axis (axis 0 of the image), trajectory[..., 1] along that of the columns. An
image (H, W) holds frequencies from -H / 2 to H / 2 and from -W / 2 to W / 2; whole numbers are the Cartesian grid, and
neighbours one cycle apart sample a field of view of this size without aliasing. sigpy's `coord` is the same. BART's
trajectories (3, samples, spokes) have these units too: `trajectory.T[..., :2]`, read as kx along its dimension 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import positive
from ..errors import InputError, shown
from .base import real_numbers

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2  # 111.246 degrees: Winkelmann et al., IEEE Trans. Med. Imaging 26, 2007
EDGE = 1e-3  # cycles beyond the edge of k-space that rounding may make
RADIANS = 3.15  # what is not above is in radians, or a share of the side, unless an image is tiny
TINY = 12  # pixels a side


def radial(spokes: int, samples: int, *, golden: bool = True, reach: float | None = None) -> NDArray[np.float64]:
    """Spokes through the middle of k-space: (spokes, samples, 2), in cycles per field of view.

    samples: of each spoke, from -reach to just below reach, zero at samples // 2. reach: half the side of the image in
    pixels; None: samples / 2, one sample per cycle. golden: each spoke turned by 111.246 degrees from the one before,
    so that any number of them is spread evenly; else by 180 degrees / spokes. The first lies along a row of k-space.
    Raises InputError.
    """
    spokes, samples = _count("spokes", spokes), _count("samples", samples)
    edge = samples / 2 if reach is None else positive("reach", reach)
    angles = np.arange(spokes) * (GOLDEN if golden else math.pi / spokes)
    distance = (np.arange(samples) - samples // 2) * (2 * edge / samples)
    directions = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return np.asarray(distance[None, :, None] * directions[:, None, :])


def spiral(interleaves: int, samples: int, reach: float, *, turns: float | None = None) -> NDArray[np.float64]:
    """Archimedean spirals from the middle of k-space: (interleaves, samples, 2), in cycles per field of view.

    reach: half the side of the image in pixels. turns: of each interleaf; None: as many as put neighbouring turns one
    cycle apart, reach / interleaves. Radius and angle grow evenly with the samples. Raises InputError.
    """
    interleaves, samples = _count("interleaves", interleaves), _count("samples", samples)
    edge = positive("reach", reach)
    windings = edge / interleaves if turns is None else positive("turns", turns)
    time = np.arange(samples) / samples
    angles = 2 * np.pi * (windings * time + np.arange(interleaves)[:, None] / interleaves)
    return np.asarray((edge * time)[None, :, None] * np.stack([np.sin(angles), np.cos(angles)], axis=-1))


def trajectory_of(value: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The argument `trajectory` for images of this shape, (..., 2). Raises InputError, also for other units."""
    array = real_numbers("trajectory", value)
    if array.ndim < 2 or array.shape[-1] != 2 or array.size == 0:
        hint = "; of BART's (3, samples, spokes) pass trajectory.T[..., :2]" if array.shape[:1] == (3,) else ""
        raise InputError(f"trajectory has shape {array.shape}; expected (..., 2), such as (spokes, samples, 2){hint}")
    most = np.abs(array).reshape(-1, 2).max(axis=0)
    for axis, (reached, side) in enumerate(zip(most, shape, strict=True)):
        if reached > side / 2 + EDGE:
            raise InputError(
                f"trajectory[..., {axis}] reaches {reached:.4g} cycles per field of view, but an image of {side} "
                f"pixels along axis {axis} holds {side / 2:g}; pass a larger shape, or leave these samples out"
            )
    if most.max() <= RADIANS and min(shape) > TINY:
        raise InputError(
            f"trajectory reaches {most.max():.4g}; expected cycles per field of view, up to {max(shape) / 2:g} for "
            f"{shape[0]} x {shape[1]} pixels: multiply radians a pixel by the side / (2 pi), shares from -0.5 to 0.5 "
            "by the side"
        )
    return array


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {shown(value)}; expected a whole number of at least 1")
    return int(value)
