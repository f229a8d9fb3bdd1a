"""A CuPy that is not there, over the emulator: what bindings/ and safi_fast/ use of it, and as strict.

    cupy = install(monkeypatch, gpus=2)
    cupy.failures["getDeviceCount"] = cupy.error(35)

Arrays refuse to become NumPy arrays except through asnumpy, so a silent round trip through host memory fails. Each
knows its GPU, and only arrays of the current GPU may be computed with. Kernels run in the emulator. `cupy.world` has
streams and memory (fake_streams.py): `cupy.world.lazy = True` makes every missing wait a wrong result.
"""

from __future__ import annotations

import operator
import sys
import weakref
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from emulator.device import EmulatedDevice
from fake_streams import CUDARuntimeError, FakeEvent, FakeStream, FakeWorld, OutOfMemoryError, Pinned, is_pinned

from safi_fast.bindings import device

POINTER = np.uint64


def install(monkeypatch, gpus: int = 2) -> FakeCupy:
    """A new one in place of CuPy until the test ends; nothing is remembered of another."""
    fake = FakeCupy(gpus=gpus)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(device, "_modules", {})
    monkeypatch.setattr(device, "_refused", set())
    return fake


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
        self.cupy.world.wait()
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
        self.cupy.world.counts["uploads"] += 1
        emulator, values = self.cupy.emulator, values if is_pinned(values) else values.copy()
        self.cupy.run(lambda: emulator.write(self.host, values))

    def get(self, out, blocking):
        self.cupy.refuse_in_capture()
        self.cupy.require_current(self)
        assert is_pinned(out)
        assert not blocking
        self.cupy.downloads += 1
        self.cupy.world.counts["downloads"] += 1
        self.cupy.run(lambda: out.__setitem__(..., self.host))

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
        self.world = FakeWorld()
        self.failures, self.answer, self.replays = self.world.failures, self.world.answer, self.world.replays
        self.downloads = 0
        self.freed: list[str] = []
        self.compiled: list[tuple[str, tuple[str, ...], int]] = []
        self.allocator: Any = None  # what a capture takes its memory from
        self.properties = {"name": b"Fake GPU", "totalGlobalMem": 80 * 2**30, "major": 9, "minor": 0}
        self.float32 = np.float32
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=lambda: self.answer("getDeviceCount", gpus),
            getDeviceProperties=lambda number: self.answer("getDeviceProperties", self.properties),
            runtimeGetVersion=lambda: 13000,
            memGetInfo=lambda: (self.world.limit - self.used, self.world.limit),
        )
        self.cuda = SimpleNamespace(
            Device=lambda number=None: FakeGpu(self, number),
            Stream=lambda non_blocking=False: FakeStream(self.world, non_blocking=non_blocking),
            get_current_stream=lambda: self.world.stream,
            alloc_pinned_memory=Pinned,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
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

    @property
    def current(self) -> int:
        """The GPU that is current in this thread."""
        return self.world.gpu

    @current.setter
    def current(self, number: int) -> None:
        self.world.gpu = number

    @property
    def used(self) -> int:
        """Bytes of the arrays on the current GPU."""
        return self.emulator.live_bytes

    @property
    def emulator(self) -> EmulatedDevice:
        return self.emulators[self.current]

    def require_current(self, array: FakeArray) -> None:
        if array.gpu != self.current:
            raise ValueError(f"array on GPU {array.gpu}, but the current one is GPU {self.current}")

    # -- captures: what is computed on arrays is done again at every replay, in the same memory
    @property
    def captured(self) -> list[Any] | None:
        return self.world.stream.captured

    def refuse_in_capture(self) -> None:
        if self.captured is not None:
            raise CUDARuntimeError(900)  # cudaErrorStreamCaptureUnsupported

    def run(self, action) -> None:
        self.world.stream.enqueue(action)

    def allocated(self, values: np.ndarray) -> FakeArray:
        """A new array on the current GPU with these values, if there is room."""
        if self.used + values.nbytes > self.world.limit:
            raise OutOfMemoryError(values.nbytes, self.used)
        self.world.counts["allocations"] += 1
        return FakeArray(self, self.emulator.upload(values), self.current)

    def computed(self, compute) -> FakeArray:
        """A new array of what `compute` gives, when its turn comes; in a capture of memory that nobody else gets."""
        self.world.counts["operations"] += 1
        with np.errstate(all="ignore"):  # of values that are still to come
            array = self.allocated(np.asarray(compute()))
        if self.captured is not None:
            assert self.allocator is not None, "memory of a graph from the pool of all"
        elif not self.world.lazy:
            return array
        else:
            array.host.view(np.uint8).fill(0xFF) if array.host.ndim else array.host.fill(-1)
        self.run(lambda: array.host.__setitem__(..., compute()))
        return array

    @contextmanager
    def using_allocator(self, allocator):
        before, self.allocator = self.allocator, allocator
        yield
        self.allocator = before

    # -- arrays
    def array(self, values, dtype=None, order="C"):
        self.refuse_in_capture()
        if isinstance(values, FakeArray):
            return values._new(lambda: np.array(values.host, dtype))
        self.world.counts["uploads"] += 1
        host = np.array(values, dtype, order="C")
        return self.computed(lambda: host)

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
        self.world.counts["downloads"] += 1
        self.require_current(values)
        self.world.wait()
        return self.emulator.download(values.host)

    def empty(self, shape, dtype=float):
        array = self.allocated(np.zeros(shape, dtype))
        array.host.view(np.uint8).fill(0xFF) if array.host.ndim else None
        return array

    def zeros(self, shape, dtype=float):
        self.answer("zeros", None)
        return self.computed(lambda: np.zeros(shape, dtype))

    def ones(self, shape, dtype=float):
        self.answer("ones", None)
        return self.computed(lambda: np.ones(shape, dtype))

    def isfinite(self, values):
        return values._new(lambda: np.isfinite(values.host))

    def moveaxis(self, values, source, target):
        return values._view(np.moveaxis(values.host, source, target))

    def maximum(self, one, other):
        return one._new(lambda: np.maximum(one.host, _host(other)))

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
        if name in ("where", "stack", "zeros_like", "roll", "sqrt", "interp"):
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
        return SimpleNamespace(free_all_blocks=lambda: self.freed.append("device"), free_bytes=lambda: 0)

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
        recorded = self.cupy.captured is not None
        values = []
        for value, parameter in zip(args, self._kernel._types, strict=True):
            null = parameter.is_pointer and isinstance(value, POINTER) and value == 0
            if isinstance(value, FakeArray):  # a graph knows addresses and keeps no array
                self.cupy.require_current(value)
                values.append(weakref.ref(value) if recorded else lambda value=value: value)
            else:
                values.append(None if null else value)

        def run():
            there = tuple(value().host if callable(value) else value for value in values)
            self._kernel(grid, block, there, shared_mem=shared_mem)

        self.cupy.world.counts["recorded" if recorded else "launches"] += 1
        self.cupy.run(run)
