"""Items made ahead of their use, in a thread of their own: two of these in a row overlap
reading, solving and writing.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import suppress
from itertools import count, repeat
from queue import Empty, Queue
from typing import Any, TypeVar
from weakref import WeakSet

from .arrays import positive, positive_per_image
from .errors import InputError, SolverError

Item = TypeVar("Item")

PATIENCE = 0.2  # seconds after which a thread that waits for an item looks around


class _Thread(threading.Thread):
    """One that fills a queue until it is told to stop."""

    def __init__(self, source: Iterable[Any], depth: int):
        self.results: Queue[tuple[bool, Any]] = Queue(depth)
        self.stopped = threading.Event()
        super().__init__(target=_fill, args=(source, self.results, self.stopped), name="safi_fast.ahead", daemon=True)

    def stop(self) -> None:
        """After the item that it is at; one that waits for room puts it and sees then that it is to stop."""
        self.stopped.set()
        with suppress(Empty):
            while True:
                self.results.get_nowait()


_solving: WeakSet[_Thread] = WeakSet()  # they launch kernels, and must end before the interpreter does


def ahead(source: Iterable[Item], depth: int, *, solves: bool = False) -> Generator[Item, None, None]:
    """The items of `source` in order, taken from it in a thread of their own, which starts at the first `next`.

    depth: items that may wait. With the one that the thread holds and the one that the caller has, depth + 2 are alive
        at most.
    solves: the thread launches kernels. At the end of the process, which they would not survive, it is interrupted and
        waited for.

    An exception in `source` comes out where the item would have. Closing or dropping the generator stops the thread
    after the item that it is at; it is not waited for.
    """
    thread = _Thread(source, depth)
    if solves:
        _solving.add(thread)
    thread.start()
    del source
    try:
        while True:
            try:  # without a limit no exception could reach a thread that waits here
                good, value = thread.results.get(timeout=PATIENCE)
            except Empty:
                continue
            if not good:
                if value is None:
                    return
                raise value
            yield value
            del value
    finally:
        thread.stop()


def stream(
    images: Iterable[Any], per_image: dict[str, Any], solve: Callable[..., Item], read_ahead: int
) -> Generator[Item, None, None]:
    """solve(image, **settings) of every image, in order; images are read and solved ahead of the caller, in two
    threads.

    per_image: a positive number, or an iterable with one for each image, by name. Raises InputError, at once where that
        is possible.
    """
    if not isinstance(images, Iterable):
        raise InputError(f"images is a {type(images).__name__}; expected an iterable of images")
    settings = {name: _values(name, value, images) for name, value in per_image.items()}
    return ahead(_solved(images, settings, solve, read_ahead), 1, solves=True)


def _solved(
    images: Iterable[Any], settings: dict[str, Iterator[float]], solve: Callable[..., Item], read_ahead: int
) -> Iterator[Item]:
    for number, (image, own) in enumerate(ahead(_with_settings(images, settings), read_ahead)):
        try:
            result = solve(image, **own)
        except (InputError, SolverError) as error:
            raise type(error)(f"images[{number}]: {error}") from error
        del image
        yield result
        del result


def _with_settings(
    images: Iterable[Any], settings: dict[str, Iterator[float]]
) -> Iterator[tuple[Any, dict[str, float]]]:
    """Every image with its values, which are read after it, in the thread that reads images."""
    number = 0
    for image in images:
        try:
            own = {name: _next(name, values) for name, values in settings.items()}
        except InputError as error:
            raise InputError(f"images[{number}]: {error}") from error
        yield image, own
        del image
        number += 1
    for name, values in settings.items():
        if not isinstance(values, repeat) and next(values, None) is not None:
            raise InputError(f"{name} has more values than there are images, which are {number}")


def _values(name: str, value: Any, images: Iterable[Any]) -> Iterator[float]:
    """One number per image, checked now if the number of images is known."""
    try:
        iterator = iter(value)
    except TypeError:
        return repeat(positive(name, value))
    if isinstance(images, Sized) and isinstance(value, Sized):
        return iter(positive_per_image(name, value, len(images)).tolist()) if len(images) else iter(())
    return (positive(f"{name}[{number}]", item) for number, item in zip(count(), iterator))


def _next(name: str, values: Iterator[float]) -> float:
    value = next(values, None)
    if value is None:
        raise InputError(f"{name} has no value left; expected one for each image")
    return value


def _fill(source: Iterable[Any], results: Queue[tuple[bool, Any]], stopped: threading.Event) -> None:
    """Puts (True, item) for every item, then (False, None) or (False, exception)."""
    try:
        for item in source:
            results.put((True, item))
            del item
            if stopped.is_set():
                return
        results.put((False, None))
    except BaseException as error:  # also KeyboardInterrupt and SystemExit, which are meant for the caller's thread
        if not stopped.is_set():
            results.put((False, error))


@atexit.register
def _end_solving_threads() -> None:
    """Stop them between two launches, as Ctrl-C would in the main thread, or where they wait for room."""
    for thread in list(_solving):
        if thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        while thread.is_alive():
            thread.stop()
            thread.join(0.05)
