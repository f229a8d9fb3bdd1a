"""The weights of a model in the layouts of the CUDA kernels, and the structs that the kernels take by value (NumPy only)."""

from __future__ import annotations

import numpy as np

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


def padded(values: np.ndarray, channels: int) -> np.ndarray:
    """Zeros after the last channel (first axis)."""
    return np.concatenate([values, np.zeros((channels - values.shape[0], *values.shape[1:]), values.dtype)])


def by_eight(weights: np.ndarray, channels: int) -> np.ndarray:
    """(C, c_in, k, k) to (C / 8, c_in, k * k, 8), as analysis, features and convolution read them."""
    c_in = weights.shape[1]
    taps = padded(weights, channels).reshape(channels // BLOCK, BLOCK, c_in, -1)
    return np.ascontiguousarray(taps.transpose(0, 2, 3, 1), np.float32)


def synthesis_taps(composed: np.ndarray, channels: int) -> np.ndarray:
    """(C, K, K) to (C, K, K rounded up to a multiple of 4), rows and columns reversed."""
    support = composed.shape[-1]
    taps = np.zeros((channels, support, -(-support // 4) * 4), np.float32)
    taps[: len(composed), :, :support] = composed[:, ::-1, ::-1]
    return taps


def spline_table(values: np.ndarray, channels: int) -> np.ndarray:
    """(C, n) values at the knots to (C, n - 1, 2): the value at the left knot of a piece and the difference to the right one."""
    knots = padded(values.astype(np.float64), channels)
    return np.ascontiguousarray(np.stack([knots[:, :-1], np.diff(knots, axis=1)], axis=-1), np.float32)


def tap_numbers(first: np.ndarray, row: np.ndarray, column: np.ndarray, support: int) -> np.ndarray:
    """The number of every tap of BorderTaps by position class and place, (classes, K * K) int32; -1 where nothing is corrected."""
    classes = len(first) - 1
    numbers = np.full((classes, support * support), -1, np.int32)
    kind = np.repeat(np.arange(classes), np.diff(first))
    numbers[kind, row * support + column] = np.arange(len(row))
    return numbers

