"""The weights of a model in the layouts of the CUDA kernels, and the structs that the kernels take by value (NumPy
only).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GEOMETRY = np.dtype(
    [(name, np.int32) for name in ("batch", "height", "width", "stride", "halo", "rows", "pitch", "channels")]
)
BORDER = np.dtype(
    [("band", np.int32), ("padding", np.int32)]
    + [(name, np.uint64) for name in ("first", "row", "column", "tap_of", "weights")]
)
SPLINE = np.dtype(
    [("pieces", np.int32), ("last", np.int32), ("shift", np.float32), ("stretch", np.float32), ("table", np.uint64)]
)
PARTS = np.dtype([(name, np.int32) for name in ("splits", "support", "tile_y", "tile_x")] + [("values", np.uint64)])

BLOCK = 8  # channels that a block of the direct kernels makes
DEPTH = 16  # inputs, and outputs, of one product on tensor cores


def padded(values: NDArray[Any], channels: int) -> NDArray[Any]:
    """Zeros after the last channel (first axis)."""
    return np.concatenate([values, np.zeros((channels - values.shape[0], *values.shape[1:]), values.dtype)])


def by_eight(weights: NDArray[Any], channels: int) -> NDArray[Any]:
    """(C, c_in, k, k) to (C / 8, c_in, k * k, 8), as analysis, features and convolution read them."""
    c_in = weights.shape[1]
    taps = padded(weights, channels).reshape(channels // BLOCK, BLOCK, c_in, -1)
    return np.ascontiguousarray(taps.transpose(0, 2, 3, 1), np.float32)


def synthesis_taps(composed: NDArray[Any], channels: int) -> NDArray[Any]:
    """(C, P, K, K) to (C, P, K, K rounded up to a multiple of 4), rows and columns reversed."""
    _, planes, support, _ = composed.shape
    taps = np.zeros((channels, planes, support, -(-support // 4) * 4), np.float32)
    taps[: len(composed), ..., :support] = composed[..., ::-1, ::-1]
    return taps


def spline_table(values: NDArray[Any], channels: int) -> NDArray[Any]:
    """(C, n) values at the knots to (C, n - 1, 2): the value at the left knot of a piece and the difference to the
    right one.
    """
    knots = padded(values.astype(np.float64), channels)
    return np.ascontiguousarray(np.stack([knots[:, :-1], np.diff(knots, axis=1)], axis=-1), np.float32)


def tap_numbers(first: NDArray[Any], row: NDArray[Any], column: NDArray[Any], support: int) -> NDArray[Any]:
    """The number of every tap of BorderTaps by position class and place, (classes, K * K) int32; -1 where nothing is
    corrected.
    """
    classes = len(first) - 1
    numbers = np.full((classes, support * support), -1, np.int32)
    kind = np.repeat(np.arange(classes), np.diff(first))
    numbers[kind, row * support + column] = np.arange(len(row))
    return numbers


# ------------------------------------------------------------------------------------------------------- tensor cores
def tf32_bits(values: NDArray[Any]) -> NDArray[Any]:
    """float32 rounded to 10 bits of mantissa, ties away from zero, as uint32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)


def bf16_bits(values: NDArray[Any]) -> NDArray[Any]:
    """float32 rounded to bfloat16, ties to even, as uint32 below 2^16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


def slabs(matrix: NDArray[Any], precision: str) -> NDArray[Any]:
    """Weights (..., outputs, inputs), multiples of 16, as kernels/cuda/tensor.cuh reads them: (..., outputs / 16,
    inputs / 16, 2, 32, 4) uint32.

    Lane (group, quad) of the 32 holds, in two times four words, outputs group and group + 8 for inputs 4 quad .. 4
    quad + 3.
    """
    *front, outputs, inputs = matrix.shape
    tiles = matrix.astype(np.float32).reshape(*front, outputs // DEPTH, 2, 8, inputs // DEPTH, 4, 4)
    lanes = np.moveaxis(
        tiles, (-5, -4, -3, -2, -1), (-2, -4, -5, -3, -1)
    )  # (..., m, k, group, quad, upper half, input)
    if precision == "tf32":
        words = tf32_bits(lanes).reshape(*lanes.shape[:-1], 2, 2)  # input 4 quad + 2 step + i
        words = np.moveaxis(words, (-3, -2, -1), (-1, -3, -2))  # (step, i, half)
    else:
        high = bf16_bits(lanes)
        rest = lanes - (high << np.uint32(16)).view(np.float32)
        parts = np.stack([high, bf16_bits(rest)], axis=-3).reshape(*lanes.shape[:-2], 2, 2, 2, 2)
        words = parts[..., 0] | (parts[..., 1] << np.uint32(16))  # (part, half, pair)
        words = np.swapaxes(words, -1, -2)  # (part, pair, half)
    words = words.reshape(*front, outputs // DEPTH, inputs // DEPTH, 32, 2, 4)
    return np.ascontiguousarray(np.swapaxes(words, -3, -2))  # 16 bytes of a lane lie beside those of its neighbours


def analysis_slabs(composed: NDArray[Any], channels: int, block: int, precision: str) -> NDArray[Any]:
    """(C, P, K, K) to (C / block, P, K, row slabs, block / 16, 2, 32, 4): outputs are channels, inputs the taps of a
    row.
    """
    rows = _rows(composed, channels, block).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(slabs(rows, precision).transpose(0, 1, 2, 4, 3, 5, 6, 7))


def synthesis_slabs(composed: NDArray[Any], channels: int, block: int, precision: str) -> NDArray[Any]:
    """(C, P, K, K) to (C / block, P, K, tap slabs, block / 16, 2, 32, 4): outputs are the taps of a row, inputs
    channels.
    """
    return slabs(_rows(composed, channels, block).transpose(0, 2, 3, 4, 1), precision)


def _rows(composed: NDArray[Any], channels: int, block: int) -> NDArray[Any]:
    """(C, P, K, K) to (C / block, block, P, K, K rounded up to a multiple of 16)."""
    _, planes, support, _ = composed.shape
    taps = np.zeros((channels, planes, support, -(-support // DEPTH) * DEPTH), np.float32)
    taps[: len(composed), ..., :support] = composed
    return taps.reshape(channels // block, block, planes, support, -1)


def convolution_slabs(weights: NDArray[Any], block: int, precision: str) -> NDArray[Any]:
    """(C, C, k, k) to (C / block, C / 16, k, k, block / 16, 2, 32, 4)."""
    channels, _, size, _ = weights.shape
    taps = weights.reshape(channels // block, block, channels, size, size).transpose(0, 3, 4, 1, 2)
    return np.ascontiguousarray(slabs(taps, precision).transpose(0, 4, 1, 2, 3, 5, 6, 7))
