"""What layer-wise zero padding takes off the composed filters near the border.

A cascade of L zero-padded layers drops intermediate values outside the image, the composed filter does not. A pixel
within `band` = sum of (k - 1) / 2 over layers 2 .. L of the border therefore has an effective filter of its own; it
depends only on the distances to the borders, (2 band + 1)^2 cases in all. `border_taps` lists composed minus
effective filter for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BorderTaps:
    """Sparse corrections by position class (row class * (2 band + 1) + column class), as the kernels read them.

    first: int32 (classes + 1,), where the taps of a class start; offset_y, offset_x: int32 (taps,), rows and columns
    from the upper left corner of the filter; weights: float32 (taps, P, C).
    """

    band: int
    first: NDArray[Any]
    offset_y: NDArray[Any]
    offset_x: NDArray[Any]
    weights: NDArray[Any]


def _spread(field: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Adjoint of one layer without any border: field (C, c_out, n, n) -> (C, c_in, n + k - 1, n + k - 1)."""
    channels, c_out, size, _ = field.shape
    _, c_in, kernel, _ = weight.shape
    products = field.transpose(0, 2, 3, 1).reshape(-1, c_out) @ weight.reshape(c_out, -1)
    products = products.reshape(channels, size, size, c_in, kernel, kernel)
    spread = np.zeros((channels, c_in, size + kernel - 1, size + kernel - 1))
    for row in range(kernel):
        for column in range(kernel):
            part = products[:, :, :, :, row, column].transpose(0, 3, 1, 2)
            spread[:, :, row : row + size, column : column + size] += part
    return spread


def _effective_filter(layers: list[NDArray[Any]], outside_y: int, outside_x: int) -> NDArray[Any]:
    """Filter (C, P, K, K) of a pixel beyond which the image ends after -outside (to the left) or +outside pixels; 0:
    nowhere.
    """
    field = layers[-1].astype(np.float64)
    for weight in layers[-2::-1]:
        reach = field.shape[-1] // 2
        offsets = np.arange(-reach, reach + 1)
        field = field * _inside(offsets, outside_y)[:, None] * _inside(offsets, outside_x)[None, :]
        field = _spread(field, weight.astype(np.float64))
    return field


def _inside(offsets: NDArray[Any], outside: int) -> NDArray[Any]:
    if outside < 0:
        return offsets > outside
    if outside > 0:
        return offsets < outside
    return np.ones(offsets.size, bool)


def _first_outside(position: int, band: int) -> int:
    """Offset of the first row outside the image for a position class: -1 - distance, +1 + distance or 0 for none."""
    if position < band:
        return -1 - position
    if position > band:
        return 2 * band + 1 - position
    return 0


def border_taps(layers: tuple[NDArray[Any], ...], band: int) -> BorderTaps:
    """The corrections of a cascade (C, P, k, k), (C, C, k, k), ...; none where band is 0."""
    channels, planes = layers[0].shape[:2]
    weights_of = [weight.astype(np.float64) for weight in layers]
    first, offsets, weights = [0], [np.zeros((0, 2), np.int32)], [np.zeros((0, planes, channels))]
    composed = _effective_filter(weights_of, 0, 0) if band else np.zeros(0)
    for row_class in range(2 * band + 1):
        for column_class in range(2 * band + 1):
            outside = _first_outside(row_class, band), _first_outside(column_class, band)
            if outside != (0, 0):
                dropped = composed - _effective_filter(weights_of, *outside)
                touched = np.abs(dropped).max((0, 1)) > 1e-9 * np.abs(composed).max()
                offsets.append(np.argwhere(touched).astype(np.int32))
                weights.append(dropped[:, :, touched].T)
            first.append(sum(len(block) for block in offsets))
    where = np.concatenate(offsets)
    return BorderTaps(
        band,
        np.array(first, np.int32),
        np.ascontiguousarray(where[:, 0]),
        np.ascontiguousarray(where[:, 1]),
        np.ascontiguousarray(np.concatenate(weights), np.float32),
    )
