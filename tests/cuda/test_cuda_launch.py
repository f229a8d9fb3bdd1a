"""Launches as values (bindings/launch.py): they cover the work and stay within CUDA's limits, for images up to 16384 x
16384.
"""

import itertools
import math

import pytest
from cuda_cases import KERNELS
from emulator.device import MAX_BLOCK, MAX_GRID, MAX_THREADS

from safi_fast.bindings.launch import (
    MAX_SHARED_BYTES,
    PIXEL_THREADS,
    SYNTHESIS_TILE,
    TENSOR_THREADS,
    TILE,
    Kernel,
    Shape,
    analysis_blocks,
    ceil_div,
    ceil_to,
    channel_block,
    image_blocks,
    launch_for,
)

NAMES = [name for names in KERNELS.values() for name in names]
SIZES = [(1, 1), (5, 3), (32, 32), (33, 31), (17, 16384), (321, 481), (4096, 4097), (16384, 13), (16384, 16384)]
SHAPES = [
    Shape(height, width, channels, support, band)
    for (height, width), channels, (support, band) in itertools.product(
        SIZES, (8, 64, 128), ((3, 0), (5, 1), (13, 6), (17, 8))
    )
]


@pytest.mark.parametrize("images", [1, 3, 64])
@pytest.mark.parametrize("name", NAMES)
def test_launch_is_within_the_limits_of_cuda(name, images):
    for shape in SHAPES:
        launch = launch_for(name, shape, images)
        assert all(1 <= size <= limit for size, limit in zip(launch.grid, MAX_GRID, strict=True)), shape
        assert all(1 <= size <= limit for size, limit in zip(launch.block, MAX_BLOCK, strict=True)), shape
        assert math.prod(launch.block) <= MAX_THREADS
        assert launch.shared_bytes <= 48 * 1024


@pytest.mark.parametrize("name", NAMES)
def test_every_image_gets_its_blocks(name):
    """Two images get twice the blocks of one, or as many threads where a thread has an image of its own."""
    for shape in SHAPES:
        one, two = (math.prod(launch_for(name, shape, images).grid) for images in (1, 2))
        assert two == (one if name in ("advance", "stop", "restart") else 2 * one)
    assert launch_for("advance", SHAPES[0], 257).grid == (2, 1, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grid_covers_the_image(shape):
    height, width, channels = shape.height, shape.width, shape.channels
    tiles = ceil_div(height, TILE) * ceil_div(width, TILE)
    for name in ("analysis", "masked_norm", "dual_step", "anchored_step", "features", "convolution"):
        assert launch_for(name, shape, 5).grid == (tiles, channels // 8, 5)
    assert launch_for("depthwise", shape, 5).grid == (tiles, channels, 5)
    spread, (down, across) = shape.support - 1, SYNTHESIS_TILE
    blocks, splits, images = launch_for("synthesis", shape, 5).grid
    assert (blocks, splits, images) == (
        ceil_div(height + spread, down) * ceil_div(width + spread, across),
        shape.splits,
        5,
    )
    for name in ("set_image", "get_image", "gather_image", "image_step", "primal_sums", "outer_sums"):
        threads = launch_for(name, shape, 1).grid[0] * PIXEL_THREADS
        assert threads - PIXEL_THREADS < height * width <= threads
    for name in ("extrapolate", "mix_images"):
        assert launch_for(name, shape, 5) == launch_for("image_step", shape, 5)
    for name in ("move_rows", "mix_rows"):
        floats = 4 * launch_for(name, shape, 1).grid[0] * PIXEL_THREADS
        assert floats - 4 * PIXEL_THREADS < height * width <= floats
    for name in ("clear_dual", "collapse_momentum"):
        floats = launch_for(name, shape, 1).grid[0] * PIXEL_THREADS * 4
        assert floats - 4 * PIXEL_THREADS < channels * height * shape.stride <= floats
    blocks, rows, images = launch_for("weigh_mask", shape, 5).grid
    assert (blocks, rows, images) == (ceil_div(height * shape.stride, PIXEL_THREADS), channels, 5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_have_a_place_for_every_block(shape):
    for name in ("masked_norm", "dual_step", "anchored_step"):
        assert math.prod(launch_for(name, shape, 1).grid) == analysis_blocks(shape)
    for name in ("image_step", "primal_sums", "outer_sums"):
        assert math.prod(launch_for(name, shape, 1).grid) == image_blocks(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_begin_at_whole_sectors(shape):
    assert shape.stride % 8 == 0
    assert 0 <= shape.stride - shape.width < 8


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_splits_share_the_channels_and_do_not_depend_on_the_batch(shape):
    assert 1 <= shape.splits <= shape.channels
    assert len({launch_for("synthesis", shape, images).grid[:2] for images in (1, 2, 64)}) == 1
    ends = [split * shape.channels // shape.splits for split in range(shape.splits + 1)]
    assert min(b - a for a, b in itertools.pairwise(ends)) >= 1


@pytest.mark.parametrize(("height", "width"), [(5, 5), (13, 40), (14, 13), (29, 31), (64, 33)])
@pytest.mark.parametrize(("support", "band"), [(3, 0), (5, 1), (13, 6)])
def test_ring_counts_the_pixels_near_the_border(height, width, support, band):
    reach = band + support // 2
    near = [
        y < reach or x < reach or y >= height - reach or x >= width - reach for y in range(height) for x in range(width)
    ]
    shape = Shape(height, width, 8, support, band)
    assert shape.ring == sum(near)
    warps = 4 * launch_for("synthesis_border", shape, 1).grid[0]
    assert warps - 4 < shape.ring <= warps


TENSOR_KERNELS = ("analysis", "masked_norm", "dual_step", "anchored_step", "synthesis", "convolution")
SIDES = (Kernel(7), Kernel(3, 2), Kernel(3, 4))


def tensor_shapes(height=33, width=41):
    """Every size of filters and of channels that multiples of 16 allow, in both precisions."""
    for support, channels, precision in itertools.product(range(3, 18, 2), range(16, 129, 16), ("tf32", "bf16x3")):
        yield Shape(height, width, channels, support, support // 2, precision)


@pytest.mark.parametrize("name", TENSOR_KERNELS)
def test_tensor_launch_is_within_the_limits(name):
    for shape, size in itertools.product(tensor_shapes(), SIDES):
        block, launch = channel_block(name, shape, size), launch_for(name, shape, 5, size)
        assert block in (16, 32, 48, 64)
        assert launch.shared_bytes <= MAX_SHARED_BYTES
        assert launch.block == (TENSOR_THREADS, 1, 1)
        rows = 16 if name in TENSOR_KERNELS[:4] else 8
        assert launch.grid == (ceil_div(33, rows) * 2, shape.channels // block, 5)
        assert shape.channels % block == 0


@pytest.mark.parametrize("precision", ["tf32", "bf16x3"])
def test_channel_block_of_the_models(precision):
    """As many channels as registers allow, where shared memory has room for them."""
    blocks = {c: channel_block("analysis", Shape(64, 64, c, 13, 6, precision)) for c in (16, 32, 48, 64, 80)}
    assert blocks == {16: 16, 32: 32, 48: 16, 64: 32, 80: 16}
    blocks = {c: channel_block("synthesis", Shape(64, 64, c, 13, 6, precision)) for c in (16, 32, 48, 64, 80)}
    assert blocks == {16: 16, 32: 32, 48: 48, 64: 64, 80: 16}
    shape = Shape(64, 64, 48, 13, 6, precision)
    assert [channel_block("convolution", shape, size) for size in (Kernel(7), Kernel(3, 2))] == [48, 48]
    assert channel_block("convolution", Shape(64, 64, 64, 13, 6, precision), Kernel(9)) == 32  # 64 need 112 KiB


def test_no_channel_block_fits():
    shape = Shape(64, 64, 16, 13, 6, "tf32")
    with pytest.raises(
        ValueError,
        match=r"convolution: .*Kernel\(side=15, dilation=4\) and 16 channels do not fit.*precision='float32'",
    ):
        channel_block("convolution", shape, Kernel(15, 4))
    with pytest.raises(ValueError, match=r"analysis: filters of side 13.* and 24 channels do not fit"):
        channel_block("analysis", Shape(64, 64, 24, 13, 6, "bf16x3"))


@pytest.mark.parametrize("precision", ["tf32", "bf16x3"])
def test_tensor_launches_do_not_depend_on_the_batch_and_have_places_for_their_sums(precision):
    shape = Shape(321, 481, 64, 13, 6, precision)
    for name in ("masked_norm", "dual_step", "anchored_step"):
        assert math.prod(launch_for(name, shape, 1).grid) == analysis_blocks(shape)
    assert shape.splits == launch_for("synthesis", shape, 1).grid[1] == launch_for("synthesis", shape, 64).grid[1]


def test_rounding_up():
    assert [ceil_to(n, 8) for n in (1, 8, 9, 16)] == [8, 8, 16, 16]
    assert [ceil_div(n, 8) for n in (1, 8, 9, 16)] == [1, 1, 2, 2]


def test_unknown_kernel():
    with pytest.raises(KeyError, match="sharpen"):
        launch_for("sharpen", SHAPES[0], 1)
