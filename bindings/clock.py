"""Times of launches on a GPU by CUDA events, and the least that a kernel can take there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .device import CupyDevice

LAUNCHES, ROUNDS = 10, 3  # of a kernel
SECONDS = 1.0  # after which a measurement is not repeated
LANES = 128  # multiply-adds of a multiprocessor in a cycle, float32
COPY = 1 << 26  # bytes that are copied to know what memory gives

Timer = Callable[[Callable[[], Any]], float]  # seconds of one call


def event_timer(cupy: Any) -> Timer:
    """Seconds by CUDA events: the best round of LAUNCHES calls, after one round of warming up; fewer rounds where they
    take long.
    """
    cuda = cupy.cuda

    def seconds(call: Callable[[], Any]) -> float:
        best, spent = float("inf"), 0.0
        for number in range(1 + ROUNDS):
            begin, end = cuda.Event(), cuda.Event()
            begin.record()
            for _ in range(LAUNCHES):
                call()
            end.record()
            end.synchronize()
            taken = cuda.get_elapsed_time(begin, end) / 1000
            spent += taken
            if number:
                best = min(best, taken / LAUNCHES)
            if number and spent > SECONDS:
                break
        return best

    return seconds


def copy_bandwidth(device: CupyDevice, timer: Timer) -> float:
    """Bytes a second of a large copy on the device, read and written."""
    source = device.zeros(COPY // 4, np.float32)
    target = device.zeros(COPY // 4, np.float32)

    def copy() -> None:
        target[...] = source

    return 2 * COPY / timer(copy)


def peak(device: CupyDevice) -> float:
    """FLOP/s in float32 by its multiprocessors and its highest clock."""
    return device.multiprocessors * LANES * 2 * device.clock_rate


def least_seconds(
    kernel: str, channels: int, support: int, pixels: int, bandwidth: float, flops: float
) -> float | None:
    """The longer of arithmetic and traffic of a kernel of the filter bank, each value moved once; None for others."""
    plane = 4 * channels
    moved = {"dual_step": 4 * plane, "synthesis": 2 * plane, "analysis": 2 * plane}.get(kernel)
    if moved is None:
        return None
    return pixels * max(2 * support**2 * channels / flops, moved / bandwidth)
