"""Items made ahead of their use, in a thread of their own: two of these in a row overlap
reading, solving and writing.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from functools import partial
from itertools import count, repeat
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import numpy as np

from .arrays import positive, positive_per_image
from .errors import InputError, OutOfMemoryError, SolverError

Item = TypeVar("Item")
Made = TypeVar("Made")

MAPPED = "sigma"  # the setting that may be a map of its image
PATIENCE = 0.2  # seconds after which a thread that waits for an item looks around


class _Thread(threading.Thread):
    """One that fills a queue until it is told to stop."""

    def __init__(self, source: Iterable[Any], depth: int, stopped: threading.Event):
        self.results: Queue[tuple[bool, Any]] = Queue(depth)
        self.stopped = stopped
        super().__init__(target=_fill, args=(source, self.results, self.stopped), name="safi_fast.ahead", daemon=True)

    def stop(self) -> None:
        """After the item that it is at; one that waits for room has some."""
        self.stopped.set()
        with suppress(Empty):
            while True:
                self.results.get_nowait()


_solving: WeakSet[_Thread] = WeakSet()  # they launch kernels, and must end before the interpreter does


def ahead(
    source: Iterable[Item], depth: int, *, solves: bool = False, stopped: threading.Event | None = None
) -> Generator[Item, None, None]:
    """The items of `source` in order, taken from it in a thread of their own, which starts at the first `next`.

    depth: items that may wait. With the one that the thread holds and the one that the caller has, depth + 2 are alive
        at most.
    solves: the thread launches kernels. At the end of the process, which they would not survive, it is interrupted and
        waited for.
    stopped: once set, it is as if the generator were closed, from any thread.

    An exception in `source` comes out where the item would have. Closing or dropping the generator stops the thread
    after the item that it is at; it is not waited for.
    """
    thread = _Thread(source, depth, stopped or threading.Event())
    if solves:
        _solving.add(thread)
    thread.start()
    del source
    try:
        while True:
            try:  # without a limit no exception could reach a thread that waits here
                good, value = thread.results.get(timeout=PATIENCE)
            except Empty:
                if thread.stopped.is_set():
                    return
                continue
            if not good:
                if value is None:
                    return
                try:
                    raise value
                finally:
                    del value  # which knows this frame
            yield value
            del value
    finally:
        thread.stop()


def stream(
    images: Iterable[Any],
    per_image: dict[str, Any],
    solvers: Sequence[Callable[..., Item]],
    read_ahead: int,
    complete: Callable[[Any], None] | None = None,
) -> Generator[Item, None, None]:
    """solve(image, **settings) of every image, in order; images are read and solved ahead of the caller, in one thread
    that reads and one for each solver, which take turns.

    per_image: a positive number, or an iterable with one for each image, by name; "sigma" may also be a map (H, W), or
    have maps among its values. complete: waits until its argument is
    whole for other threads; asked of `images` where the caller is, of each image and of each result where they are
    made. Raises InputError, at once where that is possible.
    """
    if not isinstance(images, Iterable):
        raise InputError(f"images is a {type(images).__name__}; expected an iterable of images")
    settings = {name: _values(name, value, images) for name, value in per_image.items()}
    return _streamed(images, settings, solvers, read_ahead, complete or _nothing)


def _streamed(
    images: Iterable[Any],
    settings: dict[str, Iterator[Any]],
    solvers: Sequence[Callable[..., Item]],
    read_ahead: int,
    complete: Callable[[Any], None],
) -> Generator[Item, None, None]:
    complete(images)
    items = _with_settings(images, settings, complete)
    del images
    results = lanes(items, read_ahead, [partial(_solved, solve=solve, complete=complete) for solve in solvers])
    del items
    yield from results


def lanes(
    items: Iterable[Item], read_ahead: int, solvers: Sequence[Callable[[Iterator[tuple[int, Item]]], Iterator[Made]]]
) -> Generator[Made, None, None]:
    """The results of `items`, in order. They are taken in a thread, `read_ahead` of them ahead, and dealt out in turn
    to the solvers, each in a thread of its own: what turns its numbered items into as many results.
    """
    stopped = threading.Event()  # of what reads, which lives as long as an exception knows it
    source = ahead(items, read_ahead + len(solvers) - 1, stopped=stopped)
    dealt = _Dealt(source, len(solvers))
    del items, source
    made = [ahead(solve(dealt.hand(number)), 1, solves=True) for number, solve in enumerate(solvers)]
    try:
        while True:
            for lane in made:
                try:
                    result = next(lane)
                except StopIteration:
                    return
                yield result
                del result
    finally:
        stopped.set()
        for lane in made:
            lane.close()


class _Dealt(Generic[Item]):
    """The items of a source, numbered and dealt out to `count` takers in turn, each in a thread of its own."""

    def __init__(self, source: Iterator[Item], count: int):
        self._source = enumerate(source)
        self._hands: list[deque[tuple[int, Item]]] = [deque() for _ in range(count)]
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def hand(self, taker: int) -> Iterator[tuple[int, Item]]:
        """The items number taker, taker + count, ..."""
        own = self._hands[taker]
        while True:
            if own or self._draw(own):
                yield own.popleft()
            else:
                return

    def _draw(self, hand: deque[tuple[int, Item]]) -> bool:
        """Deal until there is something in this hand; False where nothing is left. An exception of the source is raised
        in every hand, where its next item would be.
        """
        while True:
            with self._lock:
                if hand:
                    return True
                if self._error is not None:
                    raise self._error
                try:
                    drawn = next(self._source, None)
                except BaseException as error:
                    self._error = error
                    raise
                if drawn is None:
                    return False
                self._hands[drawn[0] % len(self._hands)].append(drawn)
                del drawn


def _nothing(_: Any) -> None:
    """Whole at once."""


def _solved(
    images: Iterator[tuple[int, tuple[Any, dict[str, Any]]]],
    solve: Callable[..., Item],
    complete: Callable[[Any], None],
) -> Iterator[Item]:
    for number, (image, own) in images:
        try:
            result = solve(image, **own)
        except (InputError, SolverError, OutOfMemoryError) as error:
            raise type(error)(f"images[{number}]: {error}") from error
        del image
        complete(result)
        yield result
        del result


def _with_settings(
    images: Iterable[Any], settings: dict[str, Iterator[Any]], complete: Callable[[Any], None]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every image with its values, which are read after it, in the thread that reads images."""
    number = 0
    for image in images:
        try:
            own = {name: _next(name, values) for name, values in settings.items()}
        except InputError as error:
            raise InputError(f"images[{number}]: {error}") from error
        complete(image)
        yield image, own
        del image
        number += 1
    for name, values in settings.items():
        if not isinstance(values, repeat) and next(values, None) is not None:
            raise InputError(f"{name} has more values than there are images, which are {number}")


def _values(name: str, value: Any, images: Iterable[Any]) -> Iterator[Any]:
    """One number or map per image, numbers checked now if the number of images is known; maps are by the solver."""
    try:
        iterator = iter(value)
    except TypeError:
        return repeat(positive(name, value))
    if name == MAPPED and isinstance(value, Collection):
        if _dimensions(value) == 2:
            return repeat(value)
        if len(value) and any(_dimensions(item) for item in value):
            if isinstance(images, Sized) and len(value) != len(images):
                raise InputError(f"{name} has {len(value)} values; expected {len(images)} of them, one per image")
            return (_value(f"{name}[{number}]", item) for number, item in zip(count(), iterator))
    if isinstance(images, Sized) and isinstance(value, Sized):
        return iter(positive_per_image(name, value, len(images)).tolist()) if len(images) else iter(())
    return (_value(f"{name}[{number}]", item, name == MAPPED) for number, item in zip(count(), iterator))


def _value(name: str, item: Any, may_be_map: bool = True) -> Any:
    """A positive number, or a map as it is."""
    return item if may_be_map and _dimensions(item) in (2, 3) else positive(name, item)


def _dimensions(value: Any) -> int:
    """Of an array or what NumPy makes one of; 0 where it makes none, as of maps of several shapes."""
    try:
        return int(value.ndim) if hasattr(value, "ndim") else np.ndim(value)
    except ValueError:
        return 0


def _next(name: str, values: Iterator[Any]) -> Any:
    value = next(values, None)
    if value is None:
        raise InputError(f"{name} has no value left; expected one for each image")
    return value


def _fill(source: Iterable[Any], results: Queue[tuple[bool, Any]], stopped: threading.Event) -> None:
    """Puts (True, item) for every item, then (False, None) or (False, exception)."""
    try:
        for item in source:
            _put(results, (True, item), stopped)
            del item
            if stopped.is_set():
                return
        _put(results, (False, None), stopped)
    except BaseException as error:  # also KeyboardInterrupt and SystemExit, which are meant for the caller's thread
        _put(results, (False, error), stopped)


def _put(results: Queue[tuple[bool, Any]], result: tuple[bool, Any], stopped: threading.Event) -> None:
    while not stopped.is_set():
        with suppress(Full):
            results.put(result, timeout=PATIENCE)
            return


@atexit.register
def _end_solving_threads() -> None:
    """Stop them between two launches, as Ctrl-C would in the main thread, or where they wait for room."""
    for thread in list(_solving):
        if thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        while thread.is_alive():
            thread.stop()
            thread.join(0.05)
