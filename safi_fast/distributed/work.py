"""Outputs that are each made once, by this process or by workers of Dask, beside other runs on the same folder.

An item of a run has a target, a file that is there when the item is done. Who makes it has a claim on it (claims.py).
A worker that is killed loses its claims, and what it had not finished goes to others: Dask gives them its tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ..errors import BackendError, InputError, shown
from ..turns import BY_OTHERS, Begun, Skipped, Turns, in_turn
from .packages import require
from .recipe import Failure

MOST_ITEMS = 32  # of one task of Dask
TASKS_EACH = 8  # for each thread of the workers, so that they end together

Item = TypeVar("Item", bound=Any)
Item_ = TypeVar("Item_", bound=Any, contravariant=True)


class Work(Protocol[Item_]):
    """What is to be done with items; it goes to workers as a pickle."""

    @property
    def overwrite(self) -> bool:
        """Whether targets of before the run are made again."""

    def target(self, item: Item_) -> Path:
        """The file that says that the item is done."""

    def make(self, item: Item_) -> str | None:
        """Do it, the target last; a warning, if there is one. Raises SafiError, MemoryError or OSError."""


@dataclass(frozen=True)
class Done(Generic[Item]):
    """status: "made", "skipped" (the target was there before the run) or "failed". seconds: of `make`, None where this
    run did not make it or does not know, as of a worker that was killed after it.
    """

    item: Item
    status: str
    seconds: float | None = None
    error: str | None = None
    warning: str | None = None


def run(
    work: Work[Item], items: Sequence[Item], client: Any = None, say: Callable[[str], None] | None = None
) -> Iterator[Done[Item]]:
    """Every item, in the order in which they end; those that others have claimed come last.

    client: of Dask; None: in this process. say: is told where the run waits for another. Raises ImageFileError where
    the folder of a target cannot be written, InputError for a client that is none.
    """
    if client is not None and not (hasattr(client, "submit") and hasattr(client, "nthreads")):
        raise InputError(f"client is {shown(client)}; expected a distributed.Client, or None for this process")
    with Turns(overwrite=work.overwrite, say=say) as turns:
        turns.prepare(dict.fromkeys(work.target(item).parent for item in items))
        left = []
        for item in items:
            try:
                found: Any = turns.skipped(work.target(item))
            except OSError as error:
                found = error
            if found is None:
                left.append(item)
            else:
                yield _done(work, item, found)
        yield from _here(work, left, turns) if client is None else _spread(work, left, turns.begun, client)


def _here(work: Work[Item], items: Iterable[Item], turns: Turns) -> Iterator[Done[Item]]:
    for item, found in in_turn(items, work.target, turns):
        done = _done(work, item, found)
        turns.let_go(work.target(item))
        yield done


def _done(work: Work[Item], item: Item, found: Any) -> Done[Item]:
    """Make it, where nothing was found in its way."""
    if isinstance(found, Skipped):
        return Done(item, "made" if found.reason == BY_OTHERS else "skipped")
    if found is not None:
        return Done(item, "failed", error=str(found))
    start = time.perf_counter()
    try:
        warning = work.make(item)
    except Failure as error:
        return Done(item, "failed", time.perf_counter() - start, str(error) or type(error).__name__)
    return Done(item, "made", time.perf_counter() - start, warning=warning)


def _task(work: Work[Item], items: Sequence[Item], begun: Begun) -> list[Done[Item]]:
    """What a worker does with some items."""
    with Turns(overwrite=work.overwrite, begun=begun) as turns:
        return list(_here(work, items, turns))


def _spread(work: Work[Item], items: list[Item], begun: Begun, client: Any) -> Iterator[Done[Item]]:
    """By the workers, some items a task. Items whose task has killed its workers are tried once more, each alone."""
    again: list[Item] = []
    for some, outcome in _tasks(work, _shares(items, client), begun, client):
        if outcome is not None:
            yield from outcome
        else:
            again += some
    for (item,), outcome in _tasks(work, [[item] for item in again], begun, client):
        if outcome is not None:
            yield from outcome
        else:
            yield Done(item, "failed", error="its worker was killed, each time that it was tried")


def _shares(items: list[Item], client: Any) -> list[list[Item]]:
    threads = sum(client.nthreads().values())
    size = min(MOST_ITEMS, max(1, len(items) // (TASKS_EACH * max(1, threads))))
    return [items[first : first + size] for first in range(0, len(items), size)]


def _tasks(
    work: Work[Item], shares: list[list[Item]], begun: Begun, client: Any
) -> Iterator[tuple[list[Item], list[Done[Item]] | None]]:
    """Items of each task, and what became of them; None where its workers were killed. Raises BackendError where
    the cluster ends or a worker cannot run tasks.
    """
    distributed = require("distributed", "a client of Dask")
    futures = {}
    try:
        for some in shares:
            targets = {work.target(item) for item in some}
            known = Begun(
                {folder: begun.since[folder] for folder in {target.parent for target in targets}},
                {target: begun.seen[target] for target in targets if target in begun.seen},
            )
            futures[client.submit(_task, work, some, known, pure=False)] = some
        for future in distributed.as_completed(futures, loop=client.loop):
            error = future.exception()
            if error is not None and not isinstance(error, distributed.scheduler.KilledWorker):
                raise BackendError(f"a task of Dask failed ({type(error).__name__}: {error})") from error
            yield futures[future], future.result() if error is None else None
    finally:
        client.cancel([future for future in futures if not future.done()])
