"""`denoise_volume`: a volume denoised as slices along several axes, whose results are averaged.

Slices along one axis know nothing of their neighbours, and what is left of the noise differs from slice to slice.
Slices along another axis cross them. The mean of the passes keeps what they agree on and loses part of what they do
not: 2.5-D, with a model of images. It solves no convex problem of its own, and so has no gap: each pass has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .arrays import positive_per_image
from .errors import InputError, shown
from .solver.result import Solution, worst_status
from .tensors import plain

AXES = (0, 1, 2)


@dataclass(frozen=True, repr=False)
class VolumeSolution:
    """A denoised volume and the account of each pass.

    image: (D, H, W), the weighted mean, in the caller's library. passes: one Solution for each of `axes`, whose fields
    have a value per slice and whose image is what this pass alone gives, (D, H, W). weights: of the passes, of sum one.
    The mean has no status and no gap of its own.
    """

    image: Any
    passes: tuple[Solution, ...]
    axes: tuple[int, ...]
    weights: tuple[float, ...]

    def __repr__(self) -> str:
        """One line: the shape, and the worst status of each pass."""
        told = ", ".join(
            f"axis {axis}: {worst_status(one.status)}" for axis, one in zip(self.axes, self.passes, strict=True)
        )
        return f"VolumeSolution({' x '.join(map(str, self.image.shape))}, {told})"


@dataclass(frozen=True)
class Passes:
    """Along which axes a volume is cut, and how much each pass counts; see `passes_of`."""

    axes: tuple[int, ...]
    weights: tuple[float, ...]

    def solve(self, denoise: Callable[[Any, Any], Any], xp: Any, volume: Any, sigma: Any) -> tuple[Any, list[Any]]:
        """The mean of the images, and what `denoise(slices, sigma)` gave for each axis: an image or a Solution."""
        mean, found = None, []
        for axis, weight in zip(self.axes, self.weights, strict=True):
            slices = xp.ascontiguousarray(xp.moveaxis(volume, axis, 0))
            result = denoise(slices, xp.moveaxis(sigma, axis, 0) if np.ndim(sigma) == 3 else sigma)
            image = xp.moveaxis(result.image if isinstance(result, Solution) else result, 0, axis)
            mean = weight * image if mean is None else mean + weight * image
            found.append(replace(result, image=image) if isinstance(result, Solution) else None)
        return xp.ascontiguousarray(mean), found


def passes_of(axes: Any, weights: Any) -> Passes:
    """The arguments `axes`, some of 0, 1 and 2, and `weights`, None or a number > 0 for each. Raises InputError."""
    known = isinstance(axes, Sequence) and not isinstance(axes, str)
    if not known or not axes or len(set(axes)) < len(axes) or not all(axis in AXES for axis in axes):
        raise InputError(f"axes is {shown(axes)}; expected some of (0, 1, 2), each once, such as (0,) or (0, 1, 2)")
    given = np.ones(len(axes)) if weights is None else positive_per_image("weights", weights, None)
    if len(given) != len(axes):
        raise InputError(f"weights is {shown(weights)}; expected {len(axes)} numbers, one for each of axes")
    return Passes(tuple(map(int, axes)), tuple((given / given.sum()).tolist()))


def check_volume(shape: tuple[int, ...], sigma: Any, axes: tuple[int, ...], smallest: int, options: Any) -> Any:
    """sigma as a number, "estimate", or an array of the shape of the volume.

    smallest: side of an image of the model. Raises InputError, also where what is given per slice would be cut along
    other axes than the slices.
    """
    if len(shape) != 3 or 0 in shape:
        raise InputError(f"volume has shape {shape}; expected (D, H, W)")
    for name in ("channel_axis", "color"):
        if options.get(name) is not None:
            raise InputError(f"{name} is {shown(options[name])}, but a volume is grey; denoise each channel alone")
    if np.ndim(plain(options.get("strength", 0.0))):
        raise InputError(f"strength is {shown(options['strength'])}; expected one number for all slices of a volume")
    for axis in axes:
        sides = [side for other, side in enumerate(shape) if other != axis]
        if min(sides) < smallest:
            enough = tuple(one for one in axes if min(s for other, s in enumerate(shape) if other != one) >= smallest)
            advice = f"pass axes={enough}" if enough else "pass a larger volume"
            raise InputError(
                f"volume has shape {shape}: slices along axis {axis} are {sides[0]} x {sides[1]} pixels; "
                f"the filters of this model need {smallest} x {smallest} or more; {advice}"
            )
    if isinstance(sigma, str):
        return sigma
    levels = np.asarray(plain(sigma)) if not hasattr(sigma, "__cuda_array_interface__") else sigma
    if levels.ndim == 0 or levels.shape == shape or (levels.shape == shape[:1] and axes == (0,)):
        return sigma if levels.ndim == 0 else levels
    if levels.shape == shape[:1]:
        raise InputError(
            f"sigma has shape {levels.shape}, one for each slice along axis 0, but axes is {axes}; pass axes=(0,), or "
            f"a map: numpy.broadcast_to(sigma[:, None, None], {shape})"
        )
    raise InputError(f"sigma has shape {levels.shape}; expected one number, {shape[:1]} with axes=(0,), or {shape}")
