"""Images whose missing pixels are filled in smoothly, to start from: push and pull (Gortler et al., The lumigraph,
SIGGRAPH 1996).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..namespaces import namespace
from .fourier import IMAGE_AXES

AnyArray = NDArray[Any]


def filled(values: AnyArray, known: AnyArray) -> AnyArray:
    """values (..., H, W) where known (H, W) is True; elsewhere interpolated between the means of ever larger blocks of
    known pixels. In float32 or complex64, where `values` lie.
    """
    return _filled(values, known.astype(np.float32))


def _filled(values: AnyArray, weight: AnyArray) -> AnyArray:
    """weight (H, W) from 0 to 1: how much of a pixel is known."""
    xp, (height, width) = namespace(values), weight.shape
    if min(height, width) == 1:
        coarse: AnyArray = (weight * values).sum(IMAGE_AXES, keepdims=True) / xp.maximum(weight.sum(), np.float32(1e-6))
    else:
        total = _of_blocks(weight)
        means = _of_blocks(weight * values) / xp.maximum(total, np.float32(1e-6))
        coarse = _filled(means, xp.minimum(total, np.float32(1)))
        for axis in IMAGE_AXES:
            coarse = _doubled(coarse, axis)
        coarse = coarse[..., :height, :width]
    result: AnyArray = (weight * values + (1 - weight) * coarse).astype(values.dtype, copy=False)
    return result


def _of_blocks(values: AnyArray) -> AnyArray:
    """Sums over 2 x 2 pixels, of images (..., H, W) with a row and a column of zeros where a number is odd."""
    *others, height, width = values.shape
    even = namespace(values).zeros((*others, height + height % 2, width + width % 2), values.dtype)
    even[..., :height, :width] = values
    sums: AnyArray = even[..., ::2, ::2] + even[..., 1::2, ::2] + even[..., ::2, 1::2] + even[..., 1::2, 1::2]
    return sums


def _doubled(values: AnyArray, axis: int) -> AnyArray:
    """Twice as many values along an axis, linear between them and constant beyond."""
    xp = namespace(values)
    turned = values.swapaxes(axis, -1)
    before = xp.concatenate([turned[..., :1], turned[..., :-1]], axis=-1)
    after = xp.concatenate([turned[..., 1:], turned[..., -1:]], axis=-1)
    near, far = np.float32(0.75), np.float32(0.25)
    both = xp.stack([near * turned + far * before, near * turned + far * after], axis=-1)
    doubled: AnyArray = both.reshape(*turned.shape[:-1], 2 * turned.shape[-1]).swapaxes(axis, -1)
    return doubled
