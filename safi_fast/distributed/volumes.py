"""A Zarr array block by block into another, by any number of processes that may be killed at any time.

While a run is under way, the target says so in its attribute `safi_fast` ("complete": false), beside what is computed;
a rerun with other settings is refused. Beside the store lies a hidden folder `.safi-fast.NAME.run` with an empty file
for each block that is done, written after its chunks, and the claims on those that are being made. It goes when all are
done. A block holds whole chunks (shards, where there are some) of the target, so no two processes write one chunk.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..atomic import PREFIX, hidden_files, prepare_folder, write_atomically
from ..claims import LOCK, Claims, clear
from ..errors import ImageFileError, InputError, SafiError
from .layout import Block, Layout
from .packages import require
from .recipe import Planes
from .urls import local_path
from .work import run

ATTRIBUTE = "safi_fast"
PARTIAL = "*.partial"  # what Zarr leaves of a chunk where the process is killed
NAMES = {"blocks": "max_memory"}  # of facts, as the caller knows them
PAUSE = 0.1  # seconds between two tries for what another process is making ready
Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where an array lies: a store in a folder, and a path in it."""

    root: Path
    name: str = ""

    @property
    def folder(self) -> Path:
        """Of the array itself."""
        return self.root / self.name if self.name else self.root

    @property
    def state(self) -> Path:
        """Of what is done."""
        parts = [self.root.name, *filter(None, self.name.split("/"))]
        return self.root.parent / f"{PREFIX}{'.'.join(parts)}.run"

    def open(self, mode: str = "r+") -> Any:
        """The array. Raises FileNotFoundError where there is none."""
        return require("zarr", "a Zarr array").open_array(store=self.root, path=self.name, mode=mode)


class Maker(Protocol):
    """What becomes of a block."""

    def block(self, source: Any, block: Block) -> NDArray[Any]:
        """The values of the target in `block.core`. Raises InputError, SolverError."""


@dataclass(frozen=True)
class Denoise:
    """A block of planes with less noise; fill: the value of what was never stored."""

    planes: Planes
    fill: Any

    def block(self, source: Any, block: Block) -> NDArray[Any]:
        """Reads the window at once."""
        window = np.asarray(source[block.window])
        return self.planes.solve(window, block.planes, block.tile.inside, self.fill)


@dataclass(frozen=True)
class Blocks:
    """The work on blocks, by their numbers; see work.py. given: whether the target is an array of the caller's, whose
    chunks stay as they are.
    """

    source: Any  # zarr.Array
    place: Place
    layout: Layout
    maker: Maker
    given: bool = False
    overwrite = False

    def target(self, number: int) -> Path:
        """A file that is there once the block is written."""
        return self.place.state / f"{number}.done"

    def make(self, number: int) -> str | None:
        """Nothing where another run has just come to its end, whose files are gone already."""
        target, block = self.place.open(), self.layout.block(number)
        if target.attrs[ATTRIBUTE]["complete"]:
            return None
        target[block.core] = self.maker.block(self.source, block)
        write_atomically(self.target(number), b"")
        return None


def copy_blocks(
    work: Blocks, like: Any, facts: dict[str, Any], *, overwrite: bool, client: Any = None, say: Say | None = None,
    advance: Callable[[], None] | None = None,
) -> Any:  # fmt: skip
    """All blocks into the target, which is made where there is none; the target.

    like: an array whose chunks, codecs, fill value and attributes it gets. facts: what decides the result, in JSON.
    advance: called for each block. Raises ImageFileError for a target of another kind, SafiError where blocks failed.
    """
    place, facts = work.place, {**facts, "blocks": list(work.layout.counts)}
    with _alone(place):
        target = _ready(work, like, facts, overwrite)
    if not target.attrs[ATTRIBUTE]["complete"]:
        failed = None
        for done in run(work, range(len(work.layout)), client, say):
            if done.status == "failed":
                failed = failed or done
            if advance:
                advance()
        if failed and not place.open().attrs[ATTRIBUTE]["complete"]:
            region = ", ".join(f"{part.start}:{part.stop}" for part in work.layout.block(failed.item).core)
            raise SafiError(
                f"{place.folder}: block [{region}] could not be made: {failed.error}; what is done is kept, and the "
                "same call goes on there"
            )
        target.attrs[ATTRIBUTE] = {**facts, "complete": True}
        for path in place.folder.rglob(PARTIAL):
            path.unlink(missing_ok=True)
    shutil.rmtree(place.state, ignore_errors=True)
    return place.open("r")


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """In which no other process makes this array ready."""
    try:
        with Claims() as claims:
            _claim(place, claims)
            yield
    finally:
        with suppress(OSError):  # where nothing was made ready, and nothing is under way
            place.state.rmdir()


def _claim(place: Place, claims: Claims) -> None:
    """Wait for the claim on making it ready. Raises ImageFileError."""
    while True:
        prepare_folder(place.state)
        try:
            if claims.take(place.state / "array"):
                return
        except ImageFileError:  # another process has come to its end, and removed the folder
            if place.state.exists():
                raise
        time.sleep(PAUSE)


def _ready(work: Blocks, like: Any, facts: dict[str, Any], overwrite: bool) -> Any:
    """The target, as it is where it was begun with these facts. Raises ImageFileError."""
    place = work.place
    try:
        found = place.open()
    except (FileNotFoundError, KeyError):
        if place.folder.exists() and any(place.folder.iterdir()):
            raise ImageFileError(f"{place.folder}: the output exists and is no Zarr array; choose another") from None
        return _made(place, like, facts)
    known = dict(found.attrs.get(ATTRIBUTE, {}))
    complete = known.pop("complete", None)
    if known == facts and not (complete and overwrite):
        return found
    clear(place.state)
    if len(hidden_files(place.state, LOCK)) > 1:  # beside our own
        raise ImageFileError(f"{place.folder}: another run is writing it, with other settings; wait for its end")
    if not overwrite and (known or not work.given):
        other = ", ".join(NAMES.get(name, name) for name in sorted(facts) if known.get(name) != facts[name])
        which = f"with another {other}" if known else "by another program"
        raise ImageFileError(f"{place.folder}: the output exists, made {which}; choose another, or pass overwrite=True")
    return _begun(place, found, facts) if work.given else _made(place, like, facts)


def _made(place: Place, like: Any, facts: dict[str, Any]) -> Any:
    zarr = require("zarr", "a Zarr array")
    made = zarr.from_array(
        place.root, data=like, write_data=False, name=place.name or None, fill_value=None, overwrite=True,
        attributes={name: value for name, value in like.attrs.asdict().items() if name != ATTRIBUTE},
    )  # fmt: skip
    return _begun(place, made, facts)


def _begun(place: Place, array: Any, facts: dict[str, Any]) -> Any:
    """Marks of an earlier array, which may have been removed, go first."""
    for path in place.state.glob("*.done"):
        path.unlink()
    array.attrs[ATTRIBUTE] = {**facts, "complete": False}
    return array


def place_of(out: Any) -> Place:
    """A path, or an array that lies in a folder. Raises InputError for what is in no folder."""
    if isinstance(out, (str, Path)):
        return Place(local_path("out", out).absolute())
    root = getattr(getattr(out, "store", None), "root", None)
    if root is None:
        raise InputError(f"out is a {type(out).__name__} in {getattr(out, 'store', 'no store')}; expected a path, or a "
                         "Zarr array in a folder")  # fmt: skip
    return Place(Path(root).absolute(), out.path)
