"""Streams, events and memory of a CuPy that is not there (fake_cupy.py), as unkind as CUDA may be.

Work on a lazy stream is not done before somebody waits for it; then it is done in the order of that stream, with what
it was told to wait for and nothing else. So whoever reads on one stream what another has not finished reads NaN, every
time, where a GPU would give the right value on most days. The null stream and streams that are not non_blocking wait
for each other, as CUDA's do.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from types import SimpleNamespace
from typing import Any

import numpy as np


class CUDARuntimeError(RuntimeError):
    """As CuPy's: knows its status."""

    def __init__(self, status: int):
        super().__init__(f"cudaError: {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    """As CuPy's."""

    def __init__(self, size: int, total: int):
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class Pinned(bytearray):
    """Memory of the host whose pages stay: copies read it when they are made, not when they are asked for."""


def is_pinned(values: np.ndarray) -> bool:
    """Whether an array of the host lies in pinned memory."""
    owner: Any = values
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner.obj if isinstance(owner, memoryview) else owner, Pinned)


class FakeStream:
    """cupy.cuda.Stream: work is done at once, or when somebody waits for it (lazy), or goes into a graph."""

    numbers = itertools.count(1)

    def __init__(self, world: FakeWorld, number: int | None = None, non_blocking: bool = False):
        self.world = world
        self.number = next(self.numbers) if number is None else number
        self.ptr, self.non_blocking = self.number, non_blocking
        self.captured: list[Any] | None = None
        self.waiting: deque[Any] = deque()
        world.every.append(self)

    def __enter__(self):
        self.world.entered.append(self)
        return self

    def __exit__(self, *_error):
        assert self.world.entered.pop() is self

    def enqueue(self, action) -> None:
        """After what this stream has to do, and what streams that block it have."""
        with self.world.lock:
            if self.captured is not None:
                self.captured.append(action)
            elif not self.world.lazy:
                action()
            else:
                for other in self.world.every:
                    if other is not self and other.waiting and self._waits_for(other):
                        self.waiting.append(other.record().wait)
                self.waiting.append(action)
                if self.world.hasty and self.non_blocking:
                    self.drain()

    def _waits_for(self, other: FakeStream) -> bool:
        null = 0 in (self.number, other.number)
        return null and not (self.non_blocking or other.non_blocking)

    def drain(self, until: Any = None) -> None:
        """Do all of it, or all up to an action."""
        with self.world.lock:
            while self.waiting:
                action = self.waiting.popleft()
                action()
                if action is until:
                    return

    def begin_capture(self):
        self.world.answer("begin_capture", None)
        self.captured = []

    def end_capture(self):
        captured, self.captured = self.captured, None
        self.world.answer("end_capture", None)

        def launch():
            stream = self.world.stream
            self.world.replays.append(stream.number)
            self.world.counts["graphs"] += 1
            stream.enqueue(lambda: [run() for run in captured])

        return SimpleNamespace(launch=launch)

    def record(self, event=None):
        event = FakeEvent() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event):
        self.enqueue(event.wait)

    def synchronize(self):
        self.world.answer("synchronize", None)
        self.world.counts["syncs"] += 1
        self.enqueue(_nothing)  # which comes after what blocks this stream
        self.drain()


class FakeEvent:
    """cupy.cuda.Event: by the clock of the host; recorded on a lazy stream it has a place there."""

    world: FakeWorld | None = None

    def __init__(self, disable_timing: bool = False):
        self.stream = self.place = None

    def record(self, stream=None):
        self.time = time.perf_counter()
        self.stream, self.place = stream, lambda: None
        if stream is not None and stream.world.lazy:
            stream.waiting.append(self.place)

    def wait(self):
        """In the order of another stream, without the host."""
        if self.stream is not None and any(action is self.place for action in self.stream.waiting):
            self.stream.drain(self.place)

    def synchronize(self):
        if self.stream is not None:
            self.stream.world.counts["syncs"] += 1
        self.wait()


class FakeWorld:
    """Streams and memory of all GPUs; each thread has its own current GPU and stream.

    lazy: see above. hasty: streams that wait for nobody do their work at once instead, before that of others is done.
    limit: bytes of a GPU that arrays may have. counts: what was asked of CUDA.
    """

    def __init__(self):
        self.lazy, self.hasty, self.limit = False, False, 80 * 2**30
        self.lock = threading.RLock()
        self.failures: dict[str, Exception] = {}
        self.counts: Counter[str] = Counter()
        self.replays: list[int] = []  # the stream of each
        self.every: list[FakeStream] = []
        self._thread = threading.local()
        self.null = FakeStream(self, number=0)

    def answer(self, name: str, value: Any) -> Any:
        if name in self.failures:
            raise self.failures[name]
        return value

    @property
    def entered(self) -> list[FakeStream]:
        """The streams that this thread has entered, the current one last."""
        if not hasattr(self._thread, "streams"):
            self._thread.streams = [self.null]
        return self._thread.streams

    @property
    def stream(self) -> FakeStream:
        """The current one of this thread."""
        return self.entered[-1]

    @property
    def gpu(self) -> int:
        """The current one of this thread."""
        return getattr(self._thread, "gpu", 0)

    @gpu.setter
    def gpu(self, number: int) -> None:
        self._thread.gpu = number

    def wait(self) -> None:
        """The host looks at a value: it waits for the current stream."""
        self.counts["syncs"] += 1
        self.stream.enqueue(_nothing)
        self.stream.drain()


def _nothing() -> None:
    """No work."""
