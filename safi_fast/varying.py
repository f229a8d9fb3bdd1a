"""Noise whose standard deviation changes over the image: the maps of a weighted data term.

    min over the box of  1/2 sum_p (x_p - y_p)^2 / v_p + lambda ||w . M . W x||_1,      v_p = (sigma_p / sigma_max)^2

lambda is that of sigma_max. Where sigma is constant around a pixel this is the problem of that sigma: there the weight
w is lambda(sigma) sigma_max^2 / (lambda sigma^2), about sigma_max / sigma. Elsewhere sigma in it is the level at which
as much is known of what a filter sees, v harmonically averaged with the energy of the filters; with a limit, since
||sqrt(v) W^T w|| decides how many steps a solve takes. M comes from the masks at several levels, each pixel's level
between two of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .model import Model
from .types import FloatArray, FloatVector

# w at most, times sigma_max / (the noise that a filter sees, in root mean square): more costs steps where the map jumps
MOST = 1.5


@dataclass(frozen=True)
class Varying:
    """Of B images: variance v and weight w (B, H, W), shares (B, K, H, W) of the masks at K levels with gain and bias
    (B, K, C); all float32.
    """

    variance: FloatArray
    weight: FloatArray
    shares: FloatArray
    gain: FloatArray
    bias: FloatArray

    def part(self, images: slice) -> Varying:
        """Of these images."""
        return Varying(*(getattr(self, field.name)[images] for field in fields(self)))

    def window(self, rows: slice, columns: slice) -> Varying:
        """Of these pixels."""
        maps = self.variance, self.weight, self.shares
        variance, weight, shares = (np.ascontiguousarray(values[..., rows, columns]) for values in maps)
        return Varying(variance, weight, shares, self.gain, self.bias)


def varying(model: Model, maps: NDArray[np.float64], strength: FloatVector | None, table: str) -> Varying:
    """Of maps (N, H, W) of sigma for images on [0, 1]. strength: where the caller says lambda, which then is taken for
    proportional to sigma; else it follows `table`, one of those of `Strength`. Raises InputError for levels that the
    model is not for.
    """
    given = strength is not None
    from scipy.ndimage import convolve  # which takes longer to import than all of backend.py

    largest = maps.max(axis=(1, 2), keepdims=True)
    energy = (model.filters.composed().astype(np.float64) ** 2).sum((0, 1))
    near = [convolve(maps**power, energy[None] / energy.sum(), mode="reflect") for power in (-2, 2)]
    seen, noisiest = near[0] ** -0.5, near[1] ** 0.5
    ratio = seen / largest
    if not given:
        levels, values = model.noise_levels, np.log(getattr(model.strength, table))
        ratio = np.exp(np.interp(seen, levels, values) - np.interp(largest, levels, values))
    weight = np.minimum(ratio * (largest / seen) ** 2, MOST * largest / noisiest)
    inner = model.noise_levels[(model.noise_levels > maps.min()) & (model.noise_levels < maps.max())]
    nodes = np.unique([maps.min(), *inner, maps.max()])
    at = [model.at(float(level), strength_given=given) for level in nodes]
    shares = np.stack([np.interp(maps, nodes, row) for row in np.eye(len(nodes))], axis=1)
    gain, bias = (np.stack([getattr(level, name) for level in at]) for name in ("gain", "bias"))
    return Varying(
        ((maps / largest) ** 2).astype(np.float32),
        weight.astype(np.float32),
        shares.astype(np.float32),
        *(np.repeat(values[None], len(maps), axis=0).astype(np.float32) for values in (gain, bias)),
    )
