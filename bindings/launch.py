"""How the CUDA kernels are launched: pure functions from sizes to a Launch, which need no GPU.

launch_for("dual_step", Shape(height=321, width=481, channels=64, support=13), images=1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PRECISIONS = ("float32", "tf32", "bf16x3")
THREADS = 128
PIXEL_THREADS = 256
TILE = 32  # pixels, of analysis, features, convolution and depthwise
SYNTHESIS_TILE = (64, 32)
TENSOR_THREADS = 256
TENSOR_ROWS, WARP_ROWS = 16, 8  # rows of a block of analysis_tensor, and of the other two
SLAB_BYTES = 1024  # weights of 16 outputs and 16 inputs
TAPS_PITCH = 56  # of synthesis_tensor
MAX_SHARED_BYTES = 98 * 1024  # of a block on every GPU from compute capability 8.0 on, less 1 KiB for what is static
MAX_IMAGES = 65535  # of a launch: they, or their planes, are the z of the grid
ENOUGH_BLOCKS = 1024  # of one image in synthesis: several for each multiprocessor of a large GPU


@dataclass(frozen=True)
class Launch:
    """Blocks, threads of a block, and dynamic shared memory in bytes."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0


@dataclass(frozen=True)
class Kernel:
    """A convolution kernel: the side of it, and the distance of its taps."""

    side: int
    dilation: int = 1


@dataclass(frozen=True)
class Shape:
    """One image and the filter bank: pixels, channels (as padded), side of the composed filters, band of layer-wise
    zero padding, precision, planes of the image.
    """

    height: int
    width: int
    channels: int
    support: int
    band: int = 0
    precision: str = "float32"
    planes: int = 1

    @property
    def tensor(self) -> bool:
        """Whether the heavy kernels run on tensor cores."""
        return self.precision != "float32"

    @property
    def stride(self) -> int:
        """Floats from one row of a channel to the next: a multiple of 8, so that rows begin at whole sectors of 32
        bytes.
        """
        return ceil_to(self.width, 8)

    @property
    def splits(self) -> int:
        """Summands of synthesis.

        Of the image alone, not of the batch: an image then gets the same result in every batch.
        """
        if self.tensor:
            return self.channels // channel_block("synthesis", self)
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
    return Launch((_pixel_blocks(shape), 1, images * shape.planes), (PIXEL_THREADS, 1, 1))


def _by_fours(shape: Shape, images: int) -> Launch:
    fours = shape.channels * shape.height * shape.stride // 4
    return Launch((ceil_div(fours, PIXEL_THREADS), 1, images), (PIXEL_THREADS, 1, 1))


def _by_images(shape: Shape, images: int) -> Launch:
    return Launch((ceil_div(images, PIXEL_THREADS), 1, 1), (PIXEL_THREADS, 1, 1))


def _by_rows(shape: Shape, images: int) -> Launch:
    """The row of an image has height x width floats."""
    return Launch((ceil_div(shape.height * shape.width, 4 * PIXEL_THREADS), 1, images), (PIXEL_THREADS, 1, 1))


_RULES: dict[str, Callable[[Shape, int], Launch]] = {
    "analysis": _by_eight_channels,
    "masked_norm": _by_eight_channels,
    "dual_step": _by_eight_channels,
    "anchored_step": _by_eight_channels,
    "features": _by_eight_channels,
    "convolution": _by_eight_channels,
    "depthwise": lambda shape, images: Launch((_tiles(shape), shape.channels, images), (THREADS, 1, 1)),
    "synthesis": lambda shape, images: Launch(
        (_synthesis_tiles(shape), shape.splits * shape.planes, images), (THREADS, 1, 1)
    ),
    "synthesis_border": lambda shape, images: Launch(
        (ceil_div(shape.ring, 4), 1, images * shape.planes), (THREADS, 1, 1)
    ),
    "set_image": _by_pixels,
    "get_image": _by_pixels,
    "gather_image": _by_pixels,
    "image_step": _by_pixels,
    "extrapolate": _by_pixels,
    "mix_images": _by_pixels,
    "move_rows": _by_rows,
    "mix_rows": _by_rows,
    "restart": _by_images,
    "primal_sums": _by_pixels,
    "outer_sums": _by_pixels,
    "clear_dual": _by_fours,
    "collapse_momentum": _by_fours,
    "weigh_mask": lambda shape, images: Launch(
        (ceil_div(shape.height * shape.stride, PIXEL_THREADS), shape.channels, images), (PIXEL_THREADS, 1, 1)
    ),
    "totals": lambda shape, images: Launch((images, 1, 1), (PIXEL_THREADS, 1, 1)),
    "advance": _by_images,
    "stop": _by_images,
}


def launch_for(kernel: str, shape: Shape, images: int, size: Kernel | None = None) -> Launch:
    """The launch of a kernel for `images` images of one shape; `size` is needed for "convolution" on tensor cores.

    Raises KeyError for an unknown kernel.
    """
    if shape.tensor and kernel in _TENSOR:
        rows, _, shared_bytes = _TENSOR[kernel]
        block = channel_block(kernel, shape, size)
        tiles = ceil_div(shape.height, rows) * ceil_div(shape.width, TILE)
        grid = (tiles, shape.channels // block, images)
        return Launch(grid, (TENSOR_THREADS, 1, 1), shared_bytes(shape, block, size))
    return _RULES[kernel](shape, images)


def channel_block(kernel: str, shape: Shape, size: Kernel | None = None) -> int:
    """CHANNEL_BLOCK of a kernel on tensor cores: as many channels as divide C and fit into registers and shared
    memory.
    """
    _, most, shared_bytes = _TENSOR[kernel]
    for block in (64, 48, 32, 16):
        fits = block <= most and shape.channels % block == 0
        if fits and shared_bytes(shape, block, size) <= MAX_SHARED_BYTES:
            return block
    raise ValueError(
        f"{kernel}: filters of side {shape.support}, kernel {size} and {shape.channels} channels do not fit into "
        f"{MAX_SHARED_BYTES} bytes of shared memory; use precision='float32'"
    )


def _analysis_bytes(shape: Shape, block: int, size: Kernel | None) -> int:
    slabs = ceil_div(shape.support, 16)
    tile = (TENSOR_ROWS + shape.support - 1) * (TILE + 16 * slabs)
    plane = shape.support * slabs * block // 16 * SLAB_BYTES + 4 * tile * (2 if shape.precision == "bf16x3" else 1)
    return shape.planes * plane


def _synthesis_bytes(shape: Shape, block: int, size: Kernel | None) -> int:
    row = ceil_div(shape.support, 16) * block // 16 * SLAB_BYTES
    return 2 * row + 4 * TAPS_PITCH * (WARP_ROWS * shape.support + WARP_ROWS + shape.support - 1)


def _convolution_bytes(shape: Shape, block: int, size: Kernel | None) -> int:
    if size is None:
        raise ValueError("size is None; expected the kernel of the convolution")
    spread = (size.side - 1) * size.dilation
    return 2 * size.side * block // 16 * SLAB_BYTES + 64 * (WARP_ROWS + spread) * (TILE + spread)


# On tensor cores: rows of a block's tile, the most channels of a block (by registers), and its shared memory in bytes.
_TENSOR: dict[str, tuple[int, int, Callable[[Shape, int, Kernel | None], int]]] = {
    "analysis": (TENSOR_ROWS, 32, _analysis_bytes),
    "masked_norm": (TENSOR_ROWS, 32, _analysis_bytes),
    "dual_step": (TENSOR_ROWS, 32, _analysis_bytes),
    "anchored_step": (TENSOR_ROWS, 32, _analysis_bytes),
    "synthesis": (WARP_ROWS, 64, _synthesis_bytes),
    "convolution": (WARP_ROWS, 64, _convolution_bytes),
}


def analysis_blocks(shape: Shape) -> int:
    """Partial sums per image that masked_norm and dual_step write."""
    grid = launch_for("dual_step", shape, 1).grid
    return grid[0] * grid[1]


def image_blocks(shape: Shape) -> int:
    """Partial sums per image that the kernels of image.cu write."""
    return shape.planes * _pixel_blocks(shape)
