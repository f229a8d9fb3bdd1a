"""Where kernels run: what a backend may ask of a device, and a GPU through CuPy.

    device = CupyDevice()                                       # the current one; CuPy is imported here, not before
    kernel = device.module(source("analysis"), ("-DCHANNELS=64",)).get_function("analysis")
    x, y = device.upload(image), device.empty(image.shape, np.float32)
    kernel((grid,), (block,), (x, y, np.int32(n)), shared_mem=1024)
    result = device.download(y)

tests/emulator/device.py has the second device, on which the same code runs without a GPU and under checkers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import BackendError
from ..warn import warn

STANDARD = "-std=c++17"


# --------------------------------------------------------------------------------------------- what a backend relies on
class Kernel(Protocol):
    """A function of a module. `max_dynamic_shared_size_bytes` is set before launches with more than 48 KiB.

    Arguments are arrays of the device (or None for a null pointer), NumPy scalars of the kernel's types, and structs:
    NumPy arrays of size one with a dtype of fields. A launch returns at once; launches run one after the other.
    """

    max_dynamic_shared_size_bytes: int

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None: ...


class Module(Protocol):
    """Compiled kernels."""

    def get_function(self, name: str) -> Kernel: ...


class Device(Protocol):
    """One GPU, or the emulator."""

    @property
    def multiprocessors(self) -> int: ...

    @property
    def number(self) -> int | None:
        """Of the GPU; None for the emulator."""

    captures_arrays: bool  # whether `capture` also takes functions of an array library

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Any:
        """An array of undefined values."""

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Any: ...

    def ones(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Any: ...

    def upload(self, array: NDArray[Any]) -> Any:
        """A C-contiguous copy on the device."""

    def write(self, array: Any, values: NDArray[Any]) -> None:
        """Copy values of the same shape and dtype from host memory into an array of the device."""

    def fill(self, array: Any, values: Any) -> None:
        """Copy values of the same shape, of the host or the device and of any kind of number, into a float32 array of
        the device.
        """

    def adopt(self, array: Any) -> Any:
        """The values as C-contiguous float32 on the device, in the caller's own memory where that is so already: only
        read it.
        """

    def download(self, array: Any) -> NDArray[Any]:
        """A copy in host memory; waits for the launches before it."""

    def fetch(self, array: Any) -> Callable[[], NDArray[Any]]:
        """The copy of `download`, begun after what was launched before and beside what is launched later; the function
        waits for it, and gives the same array each time.
        """

    def send(self, values: NDArray[Any]) -> Callable[[], Any]:
        """A float32 copy on the device, begun after what was launched before and beside what is launched later; the
        function gives it, whole.
        """

    def current_stream(self) -> int:
        """A number of the stream to which launches go, its own as long as the stream exists."""

    def address(self, array: Any) -> int:
        """Where the array begins in device memory: a pointer for a field of a struct. Does not keep the array alive."""

    def module(self, source: str, options: Sequence[str] = ()) -> Module:
        """The kernels of a text whose headers are inlined (bindings/module.py).

        Raises BackendError if it does not compile.
        """

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        """A function that makes the kernel launches of `launch` again, all at once and with the same arguments.

        `launch` is called here, but nothing runs yet. It may only launch kernels: no allocation, upload, write or
        download. What changes between replays has to be read from arrays; those that are arguments stay alive as long
        as the returned function.
        """

    def synchronize(self) -> None:
        """Wait for all launches."""

    def free_bytes(self) -> int:
        """Memory that arrays could have now, roughly."""

    def release_memory(self) -> None:
        """Give the memory of arrays that are gone back to the system."""


# ------------------------------------------------------------------------------------------------------------- the GPU
class CupyDevice:
    """A GPU through CuPy: memory from its pool, kernels compiled by NVRTC, launches on the caller's current stream."""

    captures_arrays = True

    def __init__(self, number: int | None = None):
        """number: of the GPU, by default the current one. Imports CuPy."""
        import cupy

        self._cupy = cupy
        self.number = int(cupy.cuda.Device(number).id)

    @property
    def cupy(self) -> Any:
        """The module."""
        return self._cupy

    @property
    def multiprocessors(self) -> int:
        return int(self._here().attributes["MultiProcessorCount"])

    @property
    def clock_rate(self) -> float:
        """The highest of its multiprocessors, in Hz."""
        return 1000.0 * int(self._here().attributes["ClockRate"])

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Any:
        with self._here():
            return self._cupy.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Any:
        with self._here():
            return self._cupy.zeros(shape, dtype)

    def ones(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Any:
        with self._here():
            return self._cupy.ones(shape, dtype)

    def upload(self, array: NDArray[Any]) -> Any:
        """See Device."""
        with self._here():
            return self._cupy.array(array, order="C")

    def write(self, array: Any, values: NDArray[Any]) -> None:
        """See Device."""
        with self._here():
            array.set(np.ascontiguousarray(values, array.dtype))

    def fill(self, array: Any, values: Any) -> None:
        """See Device."""
        if isinstance(values, np.ndarray):
            self.write(array, values)
            return
        with self._here():
            array[...] = self.adopt(values)

    def adopt(self, array: Any) -> Any:
        """See Device: NumPy arrays are copied, CuPy's and those with __cuda_array_interface__ are not."""
        with self._here():
            adopted = self._cupy.asarray(array)
            if adopted.device.id != self.number:
                raise BackendError(f"the array lies on GPU {adopted.device.id}; expected one on GPU {self.number}")
            return self._cupy.ascontiguousarray(adopted, np.float32)

    def download(self, array: Any) -> NDArray[Any]:
        """See Device."""
        with self._here():
            values: NDArray[Any] = self._cupy.asnumpy(array)
            return values

    def fetch(self, array: Any) -> Callable[[], NDArray[Any]]:
        """See Device: through pinned memory, on a stream of its own."""
        cuda = self._cupy.cuda
        with self._here():
            stream, host = self._copying(), self._pinned(array.shape, array.dtype)
            with stream:
                array.get(out=host, blocking=False)
            return _Copy(stream.record(cuda.Event(disable_timing=True)), (array, host), host.copy)

    def send(self, values: NDArray[Any]) -> Callable[[], Any]:
        """See Device: through pinned memory, on a stream of its own."""
        cuda = self._cupy.cuda
        with self._here():
            host = self._pinned(values.shape, np.float32)
            host[...] = values
            array, stream = self._cupy.empty(values.shape, np.float32), self._copying()
            with stream:
                array.set(host)
            return _Copy(stream.record(cuda.Event(disable_timing=True)), (array, host), lambda: array)

    def _copying(self) -> Any:
        """A stream for copies beside the current one, which begin after what was launched there."""
        cuda = self._cupy.cuda
        stream = cuda.Stream(non_blocking=True)
        stream.wait_event(cuda.get_current_stream().record(cuda.Event(disable_timing=True)))
        return stream

    def _pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of the host whose pages stay, so that a copy of it needs no processor."""
        count = int(np.prod(shape))
        memory = self._cupy.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def current_stream(self) -> int:
        """See Device."""
        with self._here():
            return int(self._cupy.cuda.get_current_stream().ptr)

    def address(self, array: Any) -> int:
        """See Device."""
        return int(array.data.ptr)

    def module(self, source: str, options: Sequence[str] = ()) -> CupyModule:
        """See Device. Compiled once per process, GPU, text and options; CuPy also keeps the machine code on disk."""
        key = (self.number, source, tuple(options))
        with _modules_lock:
            if key not in _modules:
                _modules[key] = CupyModule(self, source, tuple(options))
            return _modules[key]

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        """See Device: a CUDA graph, replayed on the stream that is current then.

        Where CUDA refuses it, `launch` itself. Functions of CuPy are captured too, if they were called before: what
        they allocate comes from a pool of the graph's own, and plans of transforms stay with it; their arguments are
        the caller's to keep.
        """
        cuda, pool = self._cupy.cuda, self._cupy.cuda.MemoryPool()
        launched: list[tuple[CupyKernel, tuple[Any, ...]]] = []
        _capture.launched = launched
        try:
            with self._here(), cuda.using_allocator(pool.malloc):
                graph = self._record(launch)
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            self._say_once(error)
            return launch
        finally:
            del _capture.launched
        plans = tuple(self._cupy.fft.config.get_plan_cache())
        return _Replay(self, graph, (launched, pool, plans))

    def _say_once(self, error: Exception) -> None:
        """That a capture was refused; what may be slower should not be so in silence."""
        if self.number not in _refused:
            _refused.add(self.number)
            warn(
                f"CUDA does not record kernels on GPU {self.number} ({type(error).__name__}: {error}): they are "
                f"launched one by one, with the same results, but small images take longer"
            )

    def _record(self, launch: Callable[[], None]) -> Any:
        stream = self._cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                launch()
            finally:
                graph = stream.end_capture()
        return graph

    @contextmanager
    def on_stream(self, address: int) -> Iterator[None]:
        """In which launches go to the stream of another library, by its address (a cudaStream_t)."""
        with self._here(), self._cupy.cuda.ExternalStream(address, self.number):
            yield

    def synchronize(self) -> None:
        """See Device: waits for the current stream."""
        with self._here():
            self._cupy.cuda.get_current_stream().synchronize()

    def free_bytes(self) -> int:
        """See Device: what the driver has, and free blocks of CuPy's pool."""
        with self._here():
            free, _ = self._cupy.cuda.runtime.memGetInfo()
            return int(free) + int(self._cupy.get_default_memory_pool().free_bytes())

    def release_memory(self) -> None:
        """See Device: empties CuPy's pools, other users' free blocks included."""
        with self._here():
            self._cupy.get_default_memory_pool().free_all_blocks()
            self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def _here(self) -> Any:
        """A new object each time: CuPy's remember the GPU to return to, for all threads at once."""
        return self._cupy.cuda.Device(self.number)


def device_count() -> int:
    """How many GPUs CuPy sees."""
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


class _Copy:
    """A copy that is on its way: called, it gives what has arrived. Until then it keeps both ends of the way, and one
    that is dropped is waited for, since their memory would be used again.
    """

    def __init__(self, done: Any, ends: tuple[Any, ...], arrived: Callable[[], Any]):
        self._done, self._ends, self._arrived, self._values = done, ends, arrived, None

    def __call__(self) -> Any:
        if self._done is not None:
            self._done.synchronize()
            self._values, self._done, self._ends, self._arrived = self._arrived(), None, (), _nothing
        return self._values

    def __del__(self) -> None:
        if self._done is not None:
            with suppress(Exception):  # the process ends, and CUDA with it
                self._done.synchronize()


def _nothing() -> None:
    """In place of a function that keeps an array."""


class CupyModule:
    """The kernels of one text, compiled for one GPU."""

    def __init__(self, device: CupyDevice, source: str, options: tuple[str, ...]):
        cupy = device._cupy
        self._device = device
        self._kernels: dict[str, CupyKernel] = {}
        self._module = cupy.RawModule(code=source, options=(STANDARD, *options), backend="nvrtc")
        try:
            with device._here():
                self._module.compile()
        except cupy.cuda.compiler.CompileException as error:
            raise BackendError(f"a kernel does not compile ({' '.join(options)}): {error}") from error

    def get_function(self, name: str) -> CupyKernel:
        with _modules_lock, self._device._here():
            if name not in self._kernels:
                self._kernels[name] = CupyKernel(self._device, self._module.get_function(name))
            return self._kernels[name]


class CupyKernel:
    """One kernel: call it to launch it."""

    def __init__(self, device: CupyDevice, function: Any):
        self._device, self._function = device, function
        _ = function.kernel  # loads it, which a capture must not have to do

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        with self._device._here():
            return int(self._function.max_dynamic_shared_size_bytes)

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, nbytes: int) -> None:
        with self._device._here():
            self._function.max_dynamic_shared_size_bytes = nbytes

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        launched = getattr(_capture, "launched", None)
        if launched is not None:
            launched.append((self, args))
        # CuPy takes None for the address of the argument, not for its value
        values = tuple(np.uint64(0) if value is None else value for value in args)
        with self._device._here():
            self._function(grid, block, values, shared_mem=shared_mem)


class _Replay:
    """Launches a CUDA graph.

    The graph knows addresses only, so this keeps what it was made with: kernels and arrays, memory and plans.
    """

    def __init__(self, device: CupyDevice, graph: Any, owned: tuple[Any, ...]):
        self._device, self._graph, self._owned = device, graph, owned

    def __call__(self) -> None:
        with self._device._here():
            self._graph.launch()


_modules: dict[tuple[int, str, tuple[str, ...]], CupyModule] = {}
_modules_lock = threading.RLock()
_refused: set[int] = set()  # GPUs on which a capture has failed, as the caller was told
_capture = threading.local()  # .launched: what the capture of this thread has launched
