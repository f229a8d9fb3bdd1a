"""A CuPy that is not there, over the emulator: what bindings/ and safi_fast/ use of it, and as strict.

    cupy = FakeCupy(gpus=2)                     # put it into sys.modules["cupy"]
    cupy.failures["getDeviceCount"] = cupy.error(35)

Arrays refuse to become NumPy arrays except through asnumpy, so a silent round trip through host memory fails. Each
knows its GPU, and only arrays of the current GPU may be computed with. Kernels run in the emulator.
"""

from __future__ import annotations

import itertools
import operator
import threading
import time
import weakref
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from emulator.device import EmulatedDevice

POINTER = np.uint64


class CUDARuntimeError(RuntimeError):
    """As CuPy's: knows its status."""

    def __init__(self, status: int):
        super().__init__(f"cudaError: {status}")
        self.status = status


class CUDADriverError(RuntimeError):
    """As CuPy's."""


class CompileException(Exception):  # noqa: N818 - CuPy's name
    """As CuPy's."""


def _host(value):
    """The memory of an array, or of the arrays of an index."""
    if isinstance(value, tuple):
        return tuple(map(_host, value))
    return value.host if isinstance(value, FakeArray) else value


class FakeArray:
    """An array on a GPU; `host` is its memory, in the emulator."""

    __array_ufunc__ = None  # scalars of NumPy leave it to the array

    def __init__(self, cupy: FakeCupy, host: np.ndarray, gpu: int):
        self.cupy, self.host, self.gpu = cupy, host, gpu

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    real = property(lambda self: self._view(self.host.real))
    imag = property(lambda self: self._view(self.host.imag))
    size = property(lambda self: self.host.size)
    flags = property(lambda self: self.host.flags)
    device = property(lambda self: SimpleNamespace(id=self.gpu))
    data = property(lambda self: SimpleNamespace(ptr=self.host.ctypes.data))

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.host.ctypes.data, False), "version": 3}

    def __array__(self, *_args, **_options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self._seen())

    def __float__(self):
        return float(self._seen())

    def __int__(self):
        return int(self._seen())

    def _seen(self):
        self.cupy.refuse_in_capture()
        return self.host

    def __getitem__(self, key):
        return self._part(lambda: self.host[_host(key)])

    def __setitem__(self, key, value):
        self._refuse_host(value)
        self.cupy.run(lambda: self.host.__setitem__(_host(key), _host(value)))

    def __invert__(self):
        return self._with(operator.invert, self)

    def __abs__(self):
        return self._with(abs, self)

    def __neg__(self):
        return self._with(operator.neg, self)

    def _with(self, function, *arguments):
        for argument in arguments:
            self._refuse_host(argument)
        return self._new(lambda: function(*map(_host, arguments)))

    def _refuse_host(self, value):
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError(f"Unsupported type {type(value)}")

    def astype(self, dtype, copy=True):
        return self if not copy and self.dtype == dtype else self._new(lambda: self.host.astype(dtype))

    def reshape(self, *shape):
        return self._part(lambda: self.host.reshape(*shape))

    def all(self):
        return self._new(lambda: self.host.all())

    def sum(self, axis=None, dtype=None):
        return self._new(lambda: self.host.sum(axis=axis, dtype=dtype))

    def conj(self):
        return self._new(lambda: self.host.conj())

    def copy(self):
        return self._new(lambda: self.host.copy())

    def view(self, dtype):
        return self._view(self.host.view(dtype))

    def mean(self, axis):
        return self._new(lambda: self.host.mean(axis=axis))

    def min(self):
        return self._new(lambda: self.host.min())

    def max(self):
        return self._new(lambda: self.host.max())

    def set(self, values):
        self.cupy.refuse_in_capture()
        self.cupy.require_current(self)
        assert values.flags.c_contiguous
        self.cupy.emulator.write(self.host, values)

    def _new(self, compute):
        """The result of a computation, which takes place on the current GPU."""
        self.cupy.require_current(self)
        return self.cupy.computed(compute)

    def _part(self, take):
        """A view, or a copy where that is none."""
        values = take()
        return self._view(values) if np.shares_memory(values, self.host) or not values.size else self._new(take)

    def _view(self, values):
        return FakeArray(self.cupy, values, self.gpu)


def _operation(function, swapped=False):
    def method(self, other):
        return self._with(function, *((other, self) if swapped else (self, other)))

    return method


for _name in ("add", "sub", "mul", "truediv", "gt", "pow"):
    setattr(FakeArray, f"__{_name}__", _operation(getattr(operator, _name)))
    setattr(FakeArray, f"__r{_name}__", _operation(getattr(operator, _name), swapped=True))
FakeArray.__module__ = "cupy"


class FakeCupy(ModuleType):
    """The module. `failures` maps the name of a function to the exception that it raises."""

    __version__ = "14.0.0"
    ndarray = FakeArray

    def __init__(self, gpus: int = 1):
        super().__init__("cupy")
        self.emulators = [EmulatedDevice() for _ in range(gpus)]
        self.current = 0
        self.failures: dict[str, Exception] = {}
        self.downloads = 0
        self.freed: list[str] = []
        self.compiled: list[tuple[str, tuple[str, ...], int]] = []
        self.allocator: Any = None  # what a capture takes its memory from
        self.replays: list[int] = []  # the stream of each
        self.properties = {"name": b"Fake GPU", "totalGlobalMem": 80 * 2**30, "major": 9, "minor": 0}
        self.float32 = np.float32
        self._null_stream, self._thread = FakeStream(self, number=0), threading.local()
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=lambda: self.answer("getDeviceCount", gpus),
            getDeviceProperties=lambda number: self.answer("getDeviceProperties", self.properties),
            runtimeGetVersion=lambda: 13000,
        )
        self.cuda = SimpleNamespace(
            Device=lambda number=None: FakeGpu(self, number),
            Stream=lambda non_blocking=False: FakeStream(self),
            get_current_stream=lambda: self.streams[-1],
            Event=FakeEvent,
            get_elapsed_time=lambda begin, end: 1000 * (end.time - begin.time),
            runtime=runtime,
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            MemoryPool=lambda: SimpleNamespace(malloc=object()),
            using_allocator=self.using_allocator,
            compiler=SimpleNamespace(CompileException=CompileException),
            nvrtc=SimpleNamespace(getVersion=lambda: self.answer("nvrtc", (13, 0))),
        )

    error = CUDARuntimeError

    def answer(self, name: str, value: Any) -> Any:
        if name in self.failures:
            raise self.failures[name]
        return value

    @property
    def streams(self) -> list[FakeStream]:
        """The streams that this thread has entered, the current one last."""
        if not hasattr(self._thread, "streams"):
            self._thread.streams = [self._null_stream]
        return self._thread.streams

    @property
    def emulator(self) -> EmulatedDevice:
        return self.emulators[self.current]

    def require_current(self, array: FakeArray) -> None:
        if array.gpu != self.current:
            raise ValueError(f"array on GPU {array.gpu}, but the current one is GPU {self.current}")

    # -- captures: what is computed on arrays is done again at every replay, in the same memory
    @property
    def captured(self) -> list[Any] | None:
        return self.streams[-1].captured

    def refuse_in_capture(self) -> None:
        if self.captured is not None:
            raise CUDARuntimeError(900)  # cudaErrorStreamCaptureUnsupported

    def run(self, action) -> None:
        action() if self.captured is None else self.captured.append(action)

    def computed(self, compute) -> FakeArray:
        """A new array of what `compute` gives; in a capture of memory that nobody else gets."""
        array = FakeArray(self, self.emulator.upload(np.asarray(compute())), self.current)
        if self.captured is not None:
            assert self.allocator is not None, "memory of a graph from the pool of all"
            self.captured.append(lambda: array.host.__setitem__(..., compute()))
        return array

    @contextmanager
    def using_allocator(self, allocator):
        before, self.allocator = self.allocator, allocator
        yield
        self.allocator = before

    # -- arrays
    def array(self, values, dtype=None, order="C"):
        self.refuse_in_capture()
        host = np.asarray(values.host if isinstance(values, FakeArray) else values, dtype)
        return FakeArray(self, self.emulator.upload(host), self.current)

    def asarray(self, values, dtype=None):
        if isinstance(values, FakeArray):
            return values
        if hasattr(values, "__cuda_array_interface__"):
            return values.on_gpu(self)
        return self.array(values, dtype)

    def from_dlpack(self, tensor):
        return tensor.on_gpu(self)

    def ascontiguousarray(self, values, dtype=None):
        if values.flags.c_contiguous and dtype in (None, values.dtype.type):
            return values
        return values._new(lambda: np.ascontiguousarray(values.host, dtype))

    def asnumpy(self, values):
        self.refuse_in_capture()
        self.downloads += 1
        self.require_current(values)
        return self.emulator.download(values.host)

    def empty(self, shape, dtype=float):
        return FakeArray(self, self.emulator.empty(shape, dtype), self.current)

    def zeros(self, shape, dtype=float):
        self.answer("zeros", None)
        return self.computed(lambda: np.zeros(shape, dtype))

    def ones(self, shape, dtype=float):
        self.answer("ones", None)
        return FakeArray(self, self.emulator.ones(shape, dtype), self.current)

    def isfinite(self, values):
        return values._new(lambda: np.isfinite(values.host))

    def moveaxis(self, values, source, target):
        return values._view(np.moveaxis(values.host, source, target))

    def maximum(self, one, other):
        return one._new(lambda: np.maximum(one.host, other.host))

    def abs(self, values):
        return abs(values)

    def median(self, values):
        return values._new(lambda: np.median(values.host))

    def _through(self, name, *arguments, **options):
        """A function of NumPy on what lies on this GPU: no array of the host among its arguments."""
        flat = [value for one in arguments for value in (one if isinstance(one, (list, tuple)) else [one])]
        first = next(value for value in flat if isinstance(value, FakeArray))
        for value in flat:
            first._refuse_host(value)
        function = operator.attrgetter(name)(np)
        single = (np.complex64, np.float32) if name.startswith("fft.") else ()
        kinds = {np.dtype(np.complex128): single[:1], np.dtype(np.float64): single[1:]}

        def compute():
            there = [list(map(_host, one)) if isinstance(one, list) else _host(one) for one in arguments]
            result = function(*there, **options)
            return result.astype(*kinds.get(result.dtype) or (result.dtype,))

        return first._new(compute)

    def __getattr__(self, name):
        if name in ("where", "stack", "zeros_like", "roll"):
            return partial(self._through, name)
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")

    @property
    def fft(self):
        names = ("fftn", "ifftn", "rfft2", "irfft2", "fftshift", "ifftshift")
        config = SimpleNamespace(get_plan_cache=lambda: [])
        return SimpleNamespace(config=config, **{name: partial(self._through, f"fft.{name}") for name in names})

    def empty_like(self, values):
        return values._new(lambda: np.full_like(values.host, np.nan))

    def clip(self, values, low, high, out=None):
        assert out is None or out is values
        return values._new(lambda: np.clip(values.host, low, high))

    def concatenate(self, arrays, axis=0):
        assert all(isinstance(array, FakeArray) for array in arrays)
        return arrays[0]._new(lambda: np.concatenate([array.host for array in arrays], axis=axis))

    # -- kernels and memory
    def RawModule(self, *, code, options, backend):  # noqa: N802 - CuPy's name
        assert backend == "nvrtc"
        return FakeModule(self, code, options)

    def get_default_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: self.freed.append("device"))

    def get_default_pinned_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: self.freed.append("pinned"))


class FakeGpu:
    """cupy.cuda.Device."""

    def __init__(self, cupy: FakeCupy, number: int | None):
        self.cupy = cupy
        self.id = cupy.current if number is None else number
        self.attributes = {"MultiProcessorCount": 4 + self.id, "ClockRate": 1_500_000}

    def __enter__(self):
        self.before, self.cupy.current = self.cupy.current, self.id

    def __exit__(self, *_error):
        self.cupy.current = self.before


class FakeEvent:
    """cupy.cuda.Event: by the clock of the host."""

    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        pass


class FakeStream:
    """cupy.cuda.Stream: launches run at once, or go into a graph."""

    numbers = itertools.count(1)

    def __init__(self, cupy: FakeCupy, number: int | None = None):
        self.cupy = cupy
        self.number = next(self.numbers) if number is None else number
        self.captured: list[Any] | None = None

    def __enter__(self):
        self.cupy.streams.append(self)

    def __exit__(self, *_error):
        assert self.cupy.streams.pop() is self

    def begin_capture(self):
        self.cupy.answer("begin_capture", None)
        self.captured = []

    def end_capture(self):
        captured, self.captured = self.captured, None
        self.cupy.answer("end_capture", None)

        def launch():
            self.cupy.replays.append(self.cupy.streams[-1].number)
            for run in captured:
                run()

        return SimpleNamespace(launch=launch)

    def synchronize(self):
        self.cupy.answer("synchronize", None)


class FakeModule:
    """cupy.RawModule: compiles when asked to, for the current GPU."""

    def __init__(self, cupy: FakeCupy, code: str, options: tuple[str, ...]):
        self.cupy, self.code, self.options = cupy, code, options
        self.module = None

    def compile(self):
        self.cupy.answer("compile", None)
        self.cupy.compiled.append((self.code, self.options, self.cupy.current))
        self.module = self.cupy.emulator.module(self.code, self.options)

    def get_function(self, name: str):
        return FakeKernel(self.cupy, self.module.get_function(name))


class FakeKernel:
    """cupy.RawKernel: takes no None, which CuPy would pass as no argument at all; launches on the GPU that it was
    loaded on.
    """

    def __init__(self, cupy: FakeCupy, kernel: Any):
        self.cupy, self._kernel, self.gpu = cupy, kernel, cupy.current

    @property
    def kernel(self):
        return self._kernel

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, nbytes):
        self._kernel.max_dynamic_shared_size_bytes = nbytes

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert self.gpu == self.cupy.current
        assert not any(value is None for value in args)
        values = []
        for value, parameter in zip(args, self._kernel._types, strict=True):
            null = parameter.is_pointer and isinstance(value, POINTER) and value == 0
            values.append(None if null else weakref.ref(value) if isinstance(value, FakeArray) else value)

        def run():  # as a graph, which knows addresses and keeps no array
            there = tuple(value().host if isinstance(value, weakref.ref) else value for value in values)
            self._kernel(grid, block, there, shared_mem=shared_mem)

        captured = self.cupy.streams[-1].captured
        run() if captured is None else captured.append(run)
