"""Each kernel of samples.cu against NumPy, on any device: SAMPLES[name](device, rng) raises if a result is wrong."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safi_fast.bindings.device import Device
from safi_fast.bindings.module import KERNELS, inline_headers

HERE = Path(__file__).resolve().parent

Sample = Callable[[Device, np.random.Generator], None]
SAMPLES: dict[str, Sample] = {}


@functools.cache
def sample_source() -> str:
    return inline_headers(HERE / "samples.cu", (KERNELS,))


def sample(check: Sample) -> Sample:
    SAMPLES[check.__name__] = check
    return check


def run(
    device: Device,
    name: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: tuple[Any, ...],
    *,
    shared_mem: int = 0,
    options: Sequence[str] = (),
) -> None:
    kernel = device.module(sample_source(), options).get_function(name)
    kernel(grid, block, args, shared_mem=shared_mem)


def blocks_for(n: int, per_block: int) -> int:
    return -(-n // per_block)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- bfloat16 and TF32
def bf16_bits(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def tf32_bits(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest, ties away from zero."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)


# -------------------------------------------------------------------------------------------------------- global memory
@sample
def copy(device: Device, rng: np.random.Generator) -> None:
    for n in (1, 31, 256, 1000):
        x = normal(rng, n)
        y = device.empty(n, np.float32)
        run(device, "copy", (blocks_for(n, 128),), (128,), (device.upload(x), y, np.int32(n)))
        np.testing.assert_array_equal(device.download(y), x)


@sample
def copy_by_four(device: Device, rng: np.random.Generator) -> None:
    x = normal(rng, 1000)
    y = device.empty(1000, np.float32)
    run(device, "copy_by_four", (2,), (128,), (device.upload(x), y, np.int32(250)))
    np.testing.assert_array_equal(device.download(y), x)


@sample
def arrival(device: Device, rng: np.random.Generator) -> None:
    y = device.empty(5 * 96, np.int32)
    run(device, "arrival", (5,), (96,), (device.zeros(1, np.int32), y))
    np.testing.assert_array_equal(np.sort(device.download(y)), np.arange(5 * 96))


@sample
def scale(device: Device, rng: np.random.Generator) -> None:
    for dtype in (np.float32, np.float64, np.int32, np.int64, np.uint8):
        x = rng.integers(0, 100, 77).astype(dtype)
        y = device.empty(77, dtype)
        name = f"scale_{np.dtype(dtype).name}"
        run(device, name, (3,), (32,), (device.upload(x), y, np.int64(77), dtype(2)))
        np.testing.assert_array_equal(device.download(y), 2 * x)


@sample
def gradient(device: Device, rng: np.random.Generator) -> None:
    for shape in ((2, 16, 32), (3, 13, 37)):
        image = normal(rng, *shape)
        across = device.empty(shape, np.float32)
        count, height, width = shape
        grid = (blocks_for(width, 32), blocks_for(height, 4), count)
        run(device, "gradient", grid, (32, 4), (device.upload(image), across, np.int32(height), np.int32(width)))
        expected = np.diff(image, axis=2, append=image[:, :, -1:])
        np.testing.assert_array_equal(device.download(across), expected)


# -------------------------------------------------------------------------------------------------------- shared memory
@sample
def reverse(device: Device, rng: np.random.Generator) -> None:
    for n in (256, 1000):
        x = normal(rng, n)
        y = device.empty(n, np.float32)
        run(device, "reverse", (blocks_for(n, 256),), (256,), (device.upload(x), y, np.int32(n)))
        expected = np.concatenate([x[i : i + 256][::-1] for i in range(0, n, 256)])
        np.testing.assert_array_equal(device.download(y), expected)


@sample
def reverse_dynamic(device: Device, rng: np.random.Generator) -> None:
    for n in (128, 77):
        x = normal(rng, n)
        y = device.empty(n, np.float32)
        args = (device.upload(x), y, np.int32(n))
        run(device, "reverse_dynamic", (1,), (128,), args, shared_mem=4 * 128)
        np.testing.assert_array_equal(device.download(y), x[::-1])


@sample
def template_shared(device: Device, rng: np.random.Generator) -> None:
    y = device.empty(64, np.float32)
    run(device, "template_shared", (1,), (64,), (y,))
    np.testing.assert_array_equal(device.download(y), np.full(64, sum(range(32)) + 1000 * sum(range(64)), np.float32))


@sample
def transpose(device: Device, rng: np.random.Generator) -> None:
    for height, width in ((64, 32), (45, 70)):
        x = normal(rng, height, width)
        y = device.empty((width, height), np.float32)
        grid = (blocks_for(width, 32), blocks_for(height, 32))
        run(device, "transpose", grid, (32, 8), (device.upload(x), y, np.int32(height), np.int32(width)))
        np.testing.assert_array_equal(device.download(y), x.T)


# --------------------------------------------------------------------------------------------------- warps, reductions
def close_sum(result: np.ndarray, x: np.ndarray) -> None:
    """Adding n numbers in float32 by any tree errs by less than log2(n) + 2 units of their absolute sum."""
    steps = math.ceil(math.log2(x.size)) + 2
    bound = steps * np.finfo(np.float32).eps * np.abs(x).sum(dtype=np.float64)
    assert abs(float(result) - x.sum(dtype=np.float64)) <= bound


@sample
def sum_atomic(device: Device, rng: np.random.Generator) -> None:
    for n in (1, 500, 5000):
        x = normal(rng, n)
        total = device.zeros(1, np.float32)
        run(device, "sum_atomic", (5,), (96,), (device.upload(x), total, np.int32(n)))
        close_sum(device.download(total)[0], x)


@sample
def sum_last_block(device: Device, rng: np.random.Generator) -> None:
    x = normal(rng, 3000)
    partial, total = device.empty(7, np.float32), device.empty(1, np.float32)
    finished = device.zeros(1, np.uint32)
    totals = []
    for _ in range(2):  # the kernel leaves the counter at zero
        run(device, "sum_last_block", (7,), (64,), (device.upload(x), partial, finished, total, np.int32(3000)))
        totals.append(device.download(total)[0])
    close_sum(totals[0], x)
    assert totals[0] == totals[1]


@sample
def swap_pairs(device: Device, rng: np.random.Generator) -> None:
    x = normal(rng, 128)
    y = device.empty(128, np.float32)
    run(device, "swap_pairs", (1,), (128,), (device.upload(x), y))
    np.testing.assert_array_equal(device.download(y), (x + np.float32(2)).reshape(-1, 2)[:, ::-1].ravel())


@sample
def half_sums(device: Device, rng: np.random.Generator) -> None:
    x = rng.integers(-5, 6, 96).astype(np.float32)
    y = device.empty(96, np.float32)
    run(device, "half_sums", (1,), (24, 4), (device.upload(x), y))
    expected = np.repeat(x.reshape(-1, 16).sum(1), 16)
    expected[np.arange(96) % 32 >= 16] *= -1
    np.testing.assert_array_equal(device.download(y), expected)


@sample
def votes(device: Device, rng: np.random.Generator) -> None:
    for n in (64, 80):
        x = normal(rng, n)
        y = device.empty((n, 4), np.uint32)
        run(device, "votes", (1,), (n,), (device.upload(x), y))
        expected = np.empty((n, 4), np.uint32)
        for first in range(0, n, 32):
            vote = x[first : first + 32] > 0
            ballot = sum(1 << i for i, voted in enumerate(vote) if voted)
            expected[first : first + 32] = (ballot, vote.any(), vote.all(), (x > 0).sum())
        np.testing.assert_array_equal(device.download(y), expected)


@sample
def shuffles(device: Device, rng: np.random.Generator) -> None:
    x = normal(rng, 32)
    y = device.empty((32, 3), np.float32)
    run(device, "shuffles", (1,), (32,), (device.upload(x), y))
    lane = np.arange(32)
    up = np.where(lane % 8 >= 3, lane - 3, lane)
    down = np.where(lane % 8 + 3 < 8, lane + 3, lane)
    np.testing.assert_array_equal(device.download(y), np.stack([x[up], x[down], x[lane // 8 * 8 + 5]], axis=1))


# ------------------------------------------------------------------------------------------------- asynchronous copies
@sample
def smooth_pipelined(device: Device, rng: np.random.Generator) -> None:
    for n in (128, 500):
        x = normal(rng, n)
        y = device.empty(n, np.float32)
        run(device, "smooth_pipelined", (1,), (128,), (device.upload(x), y, np.int32(n)))
        padded = np.pad(x, 1)
        expected = (padded[:-2] + padded[1:-1] + padded[2:]) / np.float32(3)
        np.testing.assert_array_max_ulp(device.download(y), expected, 1)


# -------------------------------------------------------------------------------------------------------- tensor cores
def check_product(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """a and b as the tensor cores see them. Each product is exact in float32, or nearly; k of them are added."""
    k = a.shape[1]
    bound = (k + 2) * np.finfo(np.float32).eps * (np.abs(a).astype(np.float64) @ np.abs(b))
    assert (np.abs(result - a.astype(np.float64) @ b) <= bound).all()


@sample
def matmul_tf32(device: Device, rng: np.random.Generator) -> None:
    for m, n, k in ((32, 16, 24), (19, 13, 21)):
        a, b = normal(rng, m, k), normal(rng, k, n)
        c = device.empty((m, n), np.float32)
        args = (device.upload(a), device.upload(b), c, np.int32(m), np.int32(n), np.int32(k))
        run(device, "matmul_tf32", (blocks_for(n, 8), blocks_for(m, 16)), (32,), args)
        check_product(device.download(c), tf32_bits(a).view(np.float32), tf32_bits(b).view(np.float32))


@sample
def matmul_bf16(device: Device, rng: np.random.Generator) -> None:
    for m, n, k in ((64, 64, 64), (70, 50, 88)):
        a, b = bf16_bits(normal(rng, m, k)), bf16_bits(normal(rng, n, k))
        c = device.empty((m, n), np.float32)
        args = (device.upload(a), device.upload(b), c, np.int32(m), np.int32(n), np.int32(k))
        run(device, "matmul_bf16", (blocks_for(n, 64), blocks_for(m, 64)), (128,), args, shared_mem=2 * 128 * 40 * 2)
        check_product(device.download(c), from_bf16(a), from_bf16(b).T)


@sample
def ldmatrix_registers(device: Device, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    y = device.empty((10, 32), np.uint32)
    run(device, "ldmatrix_registers", (1,), (32,), (device.upload(x), y))
    straight = np.ascontiguousarray(x).view(np.uint32).reshape(4, 32)
    transposed = np.ascontiguousarray(x.transpose(0, 2, 1)).view(np.uint32).reshape(4, 32)
    np.testing.assert_array_equal(device.download(y), np.concatenate([straight, transposed, transposed[:2]]))


@sample
def conversions(device: Device, rng: np.random.Generator) -> None:
    special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, 3.4e38, 1.00390625, 1.01171875], np.float32)
    x = np.concatenate([special, normal(rng, 91) * np.float32(1000)])
    n = x.size
    tf32, pairs = device.empty(n, np.uint32), device.empty(n, np.uint32)
    back = device.empty((n, 2), np.float32)
    run(device, "conversions", (1,), (128,), (device.upload(x), tf32, pairs, back, np.int32(n)))
    finite = np.isfinite(x)
    np.testing.assert_array_equal(device.download(tf32)[finite], tf32_bits(x)[finite])
    np.testing.assert_array_equal(device.download(tf32).view(np.float32)[~finite], x[~finite])
    low, high = bf16_bits(x).astype(np.uint32), bf16_bits(-x).astype(np.uint32)
    np.testing.assert_array_equal(device.download(pairs), low | high << 16)
    np.testing.assert_array_equal(device.download(back), np.stack([from_bf16(low), from_bf16(high)], axis=1))


# ----------------------------------------------------------------------------------------------------------- arithmetic
@sample
def arithmetic(device: Device, rng: np.random.Generator) -> None:
    x = np.array([1, np.nan], np.float32)
    y = device.empty(8, np.float32)
    run(device, "arithmetic", (1,), (1,), (device.upload(x), y))
    np.testing.assert_array_equal(device.download(y), np.array([0, 2, 3, 0, 1, 2, 0.5, 1], np.float32))
