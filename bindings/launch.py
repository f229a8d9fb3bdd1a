"""How the CUDA kernels are launched: pure functions from sizes to a Launch, which need no GPU.

    launch_for("dual_step", Shape(height=321, width=481, channels=64, support=13), images=1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

THREADS = 128
PIXEL_THREADS = 256
TILE = 32  # pixels, of analysis, features, convolution and depthwise
SYNTHESIS_TILE = (64, 32)
ENOUGH_BLOCKS = 1024  # of one image in synthesis: several for each multiprocessor of a large GPU


@dataclass(frozen=True)
class Launch:
    """Blocks, threads of a block, and dynamic shared memory in bytes."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0


@dataclass(frozen=True)
class Shape:
    """One image and the filter bank: pixels, channels (as padded), side of the composed filters, band of layer-wise zero padding."""

    height: int
    width: int
    channels: int
    support: int
    band: int = 0

    @property
    def stride(self) -> int:
        """Floats from one row of a channel to the next: a multiple of 8, so that rows begin at whole sectors of 32 bytes."""
        return ceil_to(self.width, 8)

    @property
    def splits(self) -> int:
        """Summands of synthesis. Of the image alone, not of the batch: an image then gets the same result in every batch."""
        tiles = _synthesis_tiles(self)
        return next((n for n in (1, 2, 4) if n * tiles >= ENOUGH_BLOCKS), min(8, self.channels // 8))

    @property
    def ring(self) -> int:
        """Pixels within `band` + support / 2 of the border."""
        width = self.band + self.support // 2
        inner = max(0, self.height - 2 * width) * max(0, self.width - 2 * width)
        return self.height * self.width - inner


def ceil_div(value: int, unit: int) -> int:
    """value / unit, rounded up."""
    return -(-value // unit)


def ceil_to(value: int, unit: int) -> int:
    """The first multiple of `unit` that is not below `value`."""
    return ceil_div(value, unit) * unit


def _tiles(shape: Shape) -> int:
    return ceil_div(shape.height, TILE) * ceil_div(shape.width, TILE)


def _synthesis_tiles(shape: Shape) -> int:
    spread, (down, across) = shape.support - 1, SYNTHESIS_TILE
    return ceil_div(shape.height + spread, down) * ceil_div(shape.width + spread, across)


def _pixel_blocks(shape: Shape) -> int:
    return ceil_div(shape.height * shape.width, PIXEL_THREADS)


def _by_eight_channels(shape: Shape, images: int) -> Launch:
    return Launch((_tiles(shape), shape.channels // 8, images), (THREADS, 1, 1))


def _by_pixels(shape: Shape, images: int) -> Launch:
    return Launch((_pixel_blocks(shape), 1, images), (PIXEL_THREADS, 1, 1))


def _by_fours(shape: Shape, images: int) -> Launch:
    fours = shape.channels * shape.height * shape.stride // 4
    return Launch((ceil_div(fours, PIXEL_THREADS), 1, images), (PIXEL_THREADS, 1, 1))


_RULES: dict[str, Callable[[Shape, int], Launch]] = {
    "analysis": _by_eight_channels,
    "masked_norm": _by_eight_channels,
    "dual_step": _by_eight_channels,
    "features": _by_eight_channels,
    "convolution": _by_eight_channels,
    "depthwise": lambda shape, images: Launch((_tiles(shape), shape.channels, images), (THREADS, 1, 1)),
    "synthesis": lambda shape, images: Launch((_synthesis_tiles(shape), shape.splits, images), (THREADS, 1, 1)),
    "synthesis_border": lambda shape, images: Launch((ceil_div(shape.ring, 4), 1, images), (THREADS, 1, 1)),
    "set_image": _by_pixels,
    "get_image": _by_pixels,
    "image_step": _by_pixels,
    "primal_sums": _by_pixels,
    "outer_sums": _by_pixels,
    "clear_dual": _by_fours,
    "collapse_momentum": _by_fours,
    "totals": lambda shape, images: Launch((images, 1, 1), (PIXEL_THREADS, 1, 1)),
    "advance": lambda shape, images: Launch((ceil_div(images, PIXEL_THREADS), 1, 1), (PIXEL_THREADS, 1, 1)),
    "stop": lambda shape, images: Launch((ceil_div(images, PIXEL_THREADS), 1, 1), (PIXEL_THREADS, 1, 1)),
}


def launch_for(kernel: str, shape: Shape, images: int) -> Launch:
    """The launch of a kernel for `images` images of one shape. Raises KeyError for an unknown kernel."""
    return _RULES[kernel](shape, images)


def analysis_blocks(shape: Shape) -> int:
    """Partial sums per image that masked_norm and dual_step write."""
    grid = launch_for("dual_step", shape, 1).grid
    return grid[0] * grid[1]


def image_blocks(shape: Shape) -> int:
    """Partial sums per image that the kernels of image.cu write."""
    return _pixel_blocks(shape)
