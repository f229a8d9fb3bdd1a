"""How much memory a solve takes, and how images are shared out so that it stays below a limit.

Counted is what a solve adds to a solver that is ready: the work space of what is solved at once, the images as float32,
and the result in the caller's dtype. The caller's own array is there before. What `reconstruct` takes is in
reconstruction_memory.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from .backend import Engine
from .errors import InputError, OutOfMemoryError
from .model import Model
from .tiling import Grid, grid_for, halo_of

MAX_BATCH = 65535  # images, or their planes, that a GPU takes at once
MAPS = 10  # in double precision, of what varying.py works with
Part = TypeVar("Part")


@dataclass(frozen=True)
class Extent:
    """What is to be solved: bytes per value of the result, how many images, their size, their planes, and how many
    levels of noise masks are made at, where sigma is a map, else 0.
    """

    itemsize: int
    count: int
    height: int
    width: int
    planes: int = 1
    levels: int = 0

    @property
    def values(self) -> int:
        """Of all images."""
        return self.count * self.planes * self.height * self.width


@dataclass(frozen=True)
class Division:
    """So many images at once, or one by one in the tiles of a grid."""

    batch: int
    grid: Grid | None = None


def divide(engine: Engine, images: Extent, at_once: bool = False) -> Division:
    """Without a limit of the caller's: all `at_once`, or as many images as the engine has a work space for."""
    if at_once:
        return Division(images.count)
    fitting = engine.batch_bytes() // (images.height * images.width * engine.bytes_per_pixel())
    return Division(min(max(1, fitting), MAX_BATCH // images.planes, images.count))


def divide_below(engine: Engine, model: Model, images: Extent, max_memory: float, at_once: bool = False) -> Division:
    """As many images at once as keep the peak below `max_memory` bytes, else tiles. Raises InputError where no tiles
    do.
    """

    def fits(batch: int, height: int, width: int) -> bool:
        return solving_bytes(engine, images, batch, height, width) <= max_memory

    most = divide(engine, images, at_once).batch if finishing_bytes(images) <= max_memory else 0
    for batch in [most] * (most > 0) if at_once else range(most, 0, -1):
        if fits(batch, images.height, images.width):
            return Division(batch)
    halo = halo_of(model)
    grid = grid_for(images.height, images.width, halo, lambda height, width: fits(1, height, width))
    if grid is None or finishing_bytes(images) > max_memory:
        smallest = (min(4 * halo, images.height), min(4 * halo, images.width))
        least = max(solving_bytes(engine, images, 1, *smallest), finishing_bytes(images))
        raise InputError(
            f"max_memory is {max_memory:.4g} bytes, but {images.count} image(s) of {images.height} x "
            f"{images.width} pixels "
            f"need at least {least:.4g}"
        )
    return Division(1, grid)


def peak_bytes(engine: Engine, images: Extent, division: Division) -> int:
    """Most memory in use at once: during a solve, or when the results are put together."""
    window = division.grid.window if division.grid else (images.height, images.width)
    return max(solving_bytes(engine, images, division.batch, *window), finishing_bytes(images))


def solving_bytes(engine: Engine, images: Extent, batch: int, height: int, width: int) -> int:
    """With a work space for `batch` windows of height x width: beside it, the images as float32 and the results so
    far. Of maps of sigma, the maps and what they are made with, and one image's masks at a level.
    """
    needed = 2 * 4 * images.values + engine.workspace_bytes(batch, height, width)
    if images.levels:
        needed += 8 * (images.levels + MAPS) * images.count * images.height * images.width
        needed += engine.bytes_per_pixel() * height * width // 3
    return needed


def finishing_bytes(images: Extent) -> int:
    """The images, their results one by one and as one array, and the last in the caller's dtype before and after
    scaling.
    """
    return (3 * 4 + 2 * images.itemsize) * images.values


def in_parts(
    engine: Engine, count: int, size: int, solve: Callable[[slice], Part], *, whole: bool, advice: str
) -> list[Part]:
    """solve(images) of `count` images, `size` at once, fewer where there is no memory for so many, even without what is
    kept for the next call.

    whole: they may not be divided. Raises OutOfMemoryError where that or a single image is too much.
    """
    parts: list[Part] = []
    first, again = 0, (-1, size)
    while first < count:
        images = slice(first, min(first + size, count))
        try:
            parts.append(solve(images))
        except MemoryError as error:
            if engine.release() and again != (first, size):  # once: other threads may keep more
                again = first, size
                continue
            tried = images.stop - first
            if tried == 1 or whole:
                raise OutOfMemoryError(f"no memory to solve {tried} image(s) at once ({error}); {advice}") from error
            size = (tried + 1) // 2
            continue
        first = images.stop
    return parts


@contextmanager
def explained(name: str) -> Iterator[None]:
    """In which a MemoryError that nobody has explained is one of the argument `name` itself."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"no memory for {name} ({error}); pass fewer or smaller images") from error
