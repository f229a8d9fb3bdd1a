"""How an array (*leading, H, W) is shared out: in blocks of whole chunks, so that no two blocks write one chunk."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ..api import Solver
from ..errors import InputError
from ..tiling import Grid, Tile, grid_of_chunks, halo_of, spans_of_chunks

AT_ONCE = 10  # chunks that Zarr codes at the same time, as its configuration has it


@dataclass(frozen=True)
class Block:
    """planes: of each leading axis. tile: what is read of the planes, what it yields, and where that lies in it."""

    number: int
    planes: tuple[slice, ...]
    tile: Tile

    @property
    def window(self) -> tuple[slice, ...]:
        """What is read."""
        return (*self.planes, *self.tile.window)

    @property
    def core(self) -> tuple[slice, ...]:
        """What is written."""
        return (*self.planes, *self.tile.core)


@dataclass(frozen=True)
class Layout:
    """leading: sizes of the axes before rows and columns. unit: of those axes, what one block has."""

    leading: tuple[int, ...]
    unit: tuple[int, ...]
    grid: Grid

    @property
    def counts(self) -> tuple[int, ...]:
        """Of blocks along each axis."""
        along = tuple(-(-length // side) for length, side in zip(self.leading, self.unit, strict=True))
        return (*along, len(self.grid.rows), len(self.grid.columns))

    @property
    def is_cut(self) -> bool:
        """Whether planes are solved in more than one window."""
        return len(self.grid.rows) * len(self.grid.columns) > 1

    def __len__(self) -> int:
        return prod(self.counts)

    def block(self, number: int) -> Block:
        """Blocks are counted as C arrays are."""
        *along, row, column = (int(index) for index in np.unravel_index(number, self.counts))
        planes = tuple(
            slice(index * side, min((index + 1) * side, length))
            for index, side, length in zip(along, self.unit, self.leading, strict=True)
        )
        return Block(number, planes, self.grid.tile(row, column))


def chunks(shape: tuple[int, ...], unit: tuple[int, ...]) -> Layout:
    """Blocks of what is written at once, without what lies around it."""
    rows, columns = (spans_of_chunks(length, side, 0) for length, side in zip(shape[-2:], unit[-2:], strict=True))
    return Layout(shape[:-2], unit[:-2], Grid(rows, columns))


def whole_planes(shape: tuple[int, ...], unit: tuple[int, ...]) -> Layout:
    """Blocks of whole planes; unit: what is written at once, along every axis."""
    return chunks(shape, (*unit[:-2], *shape[-2:]))


def below(
    max_memory: float, shape: tuple[int, ...], unit: tuple[int, ...], itemsize: int, read: int, solver: Solver
) -> Layout:
    """The layout with least work whose blocks take at most so many bytes each.

    unit: what is written at once, along every axis. read: bytes of a chunk of the source. Raises InputError where no
    block is small enough.
    """
    planes = prod(min(side, length) for side, length in zip(unit[:-2], shape[:-2], strict=True))
    halo, (height, width), (rows, columns) = halo_of(solver.model), shape[-2:], unit[-2:]

    def needed(grid: Grid) -> int:
        core = max(s.last - s.first for s in grid.rows) * max(s.last - s.first for s in grid.columns)
        coded = AT_ONCE * (read + prod(unit) * itemsize)
        held = planes * (prod(grid.window) + 2 * core) * itemsize
        return coded + held + solver.estimate_memory(grid.window, dtype=np.float32)

    found = grid_of_chunks((height, width), (rows, columns), halo, lambda grid: needed(grid) <= max_memory)
    if found is None:
        least = Grid(spans_of_chunks(height, rows, halo), spans_of_chunks(width, columns, halo))
        raise InputError(
            f"max_memory is {max_memory:.4g} bytes, but a block of one chunk, {unit}, with {halo} pixels around it "
            f"needs {needed(least):.4g}; allow more, or store the array in smaller chunks"
        )
    return Layout(shape[:-2], unit[:-2], found)
