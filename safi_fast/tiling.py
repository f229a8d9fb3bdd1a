"""Windows that cover an image too large to be solved as one: each is solved alone, and its core, away from its cuts, is
kept.

    |<-------- window -------->|
    |     core      |<- halo ->|<- halo ->|     core    ...

A cut is the border of another problem. In theory what it changes reaches as far as all filters of all steps do, 780
pixels for 5 x 12 steps of the shipped models; in fact it falls by a factor of ten every 8 to 10 pixels
(docs/large-images.md), so the halo is HALO times the reach of the filters there and back, W^T W, and more for deep
mask generators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from .masks import SafiMask
from .model import Model

HALO = 4  # 48 pixels for filters of 13 x 13
LAYERS = 3  # mask layers for which that was measured to be enough; 72 pixels are for five
Slices = tuple[slice, slice]


@dataclass(frozen=True)
class Span:
    """Of one axis: the pixels that are solved, and those of them that are kept."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Tile:
    """What to solve, what it yields (both in the image), and where that lies in the result of the window."""

    window: Slices
    core: Slices
    inside: Slices


@dataclass(frozen=True)
class Grid:
    """Windows of one size whose cores cover the image once."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of every window."""
        return self.rows[0].stop - self.rows[0].start, self.columns[0].stop - self.columns[0].start

    @property
    def work(self) -> int:
        """Pixels that are solved in all."""
        return len(self.rows) * len(self.columns) * prod(self.window)

    def __iter__(self) -> Iterator[Tile]:
        for row in self.rows:
            for column in self.columns:
                both = (row, column)
                yield Tile(
                    _pair(slice(span.start, span.stop) for span in both),
                    _pair(slice(span.first, span.last) for span in both),
                    _pair(slice(span.first - span.start, span.last - span.start) for span in both),
                )


def halo_of(model: Model) -> int:
    """Pixels between a cut and what is kept; mask layers beyond three carry what a cut changes further."""
    layers = len(model.mask.convolutions) if isinstance(model.mask, SafiMask) else 0
    return (HALO + max(0, layers - LAYERS)) * (model.filters.support - 1)


def spans(length: int, count: int, halo: int) -> tuple[Span, ...]:
    """`count` windows of one size along `length` pixels, every cut at least `halo` pixels away
    from the core beside it.
    """
    size = -(-(length + 2 * halo * (count - 1)) // count)
    starts = [number * (length - size) // max(count - 1, 1) for number in range(count)]
    middles = [(start + size + following) // 2 for start, following in pairwise(starts)]
    cores = pairwise([0, *middles, length])
    return tuple(Span(start, start + size, *core) for start, core in zip(starts, cores, strict=True))


def grid_for(height: int, width: int, halo: int, fits: Callable[[int, int], bool]) -> Grid | None:
    """The grid with least work whose windows (height, width) fit; None where no window that is more halo than core
    does.
    """
    counts = [range(1, max(1, length // max(1, 2 * halo)) + 1) for length in (height, width)]
    best = None
    for rows in counts[0]:
        for columns in counts[1]:
            grid = Grid(spans(height, rows, halo), spans(width, columns, halo))
            if best is not None and grid.work >= best.work:
                break
            if fits(*grid.window):
                best = grid
                break
    return best


def _pair(slices: Iterator[slice]) -> Slices:
    first, second = slices
    return first, second
