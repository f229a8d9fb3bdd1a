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
    """Windows whose cores cover the image once: of one size, but where the cores are chunks that are given."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the largest window."""
        return max(map(_length, self.rows)), max(map(_length, self.columns))

    @property
    def work(self) -> int:
        """Pixels that are solved in all."""
        return sum(map(_length, self.rows)) * sum(map(_length, self.columns))

    def __iter__(self) -> Iterator[Tile]:
        for row in range(len(self.rows)):
            for column in range(len(self.columns)):
                yield self.tile(row, column)

    def tile(self, row: int, column: int) -> Tile:
        """That of the row's and the column's number."""
        both = (self.rows[row], self.columns[column])
        return Tile(
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


def spans_of_chunks(length: int, core: int, halo: int) -> tuple[Span, ...]:
    """Windows around cores of `core` pixels each, the last may have fewer: `halo` more on each side, but not beyond the
    border.
    """
    starts = range(0, length, core)
    cores = [(first, min(first + core, length)) for first in starts]
    return tuple(Span(max(0, first - halo), min(length, last + halo), first, last) for first, last in cores)


def grid_of_chunks(
    size: tuple[int, int], chunk: tuple[int, int], halo: int, fits: Callable[[Grid], bool]
) -> Grid | None:
    """The grid with least work that fits, whose cores are whole chunks (height, width); None where none does."""
    axes = [
        {len(found := spans_of_chunks(length, side * count, halo)): found for count in range(-(-length // side), 0, -1)}
        for length, side in zip(size, chunk, strict=True)
    ]
    best = None
    for rows in axes[0].values():
        for columns in axes[1].values():
            grid = Grid(rows, columns)
            if best is not None and grid.work >= best.work:
                break
            if fits(grid):
                best = grid
                break
    return best


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


def _length(span: Span) -> int:
    return span.stop - span.start


def _pair(slices: Iterator[slice]) -> Slices:
    first, second = slices
    return first, second
