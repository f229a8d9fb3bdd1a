"""A device that is not there: memory, modules and launches shaped like the part of CuPy that a backend needs.

    device = EmulatedDevice(mode="check")
    kernel = device.module(source, ("-DCHANNELS=64",)).get_function("analysis")
    x, y = device.upload(image), device.empty(image.shape, np.float32)
    kernel((grid,), (block,), (x, y, np.int32(n)), shared_mem=1024)
    result = device.download(y)

Arrays are NumPy arrays, but only those that the device made may go to a kernel as pointers. A struct goes by value as
an array of size one with a dtype of fields, in host memory. What is stricter than CuPy: arrays must be C-contiguous,
the number and types of the arguments must be those of the kernel, and mode "check" refuses to download what was never
written.
"""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .build import Mode, build
from .library import Buffer, LaunchError, LoadedLibrary, ParameterType
from .memory import Memory
from .profile import Profile, ProfileRow

# CUDA's limits, the same for all devices from compute capability 8.0 on.
MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2**31 - 1, 65535, 65535)
DEFAULT_SHARED_BYTES = 48 * 1024  # of dynamic shared memory, unless max_dynamic_shared_size_bytes asks for more


class EmulatedDevice:
    """Runs kernels in this process.

    Seed 0 runs blocks, warps and lanes in order, each other seed in an order of its own. A launch that takes more than
    `time_limit` seconds of the processor fails.
    """

    number = None  # it is no GPU
    captures_arrays = False  # its arrays are NumPy's, whose functions run at once

    def __init__(
        self,
        mode: Mode = "plain",
        *,
        seed: int = 0,
        multiprocessors: int = 4,
        shared_bytes_per_block: int = 99 * 1024,
        profiled: bool = False,
        time_limit: float = 120.0,
    ):
        if profiled and mode != "check":
            raise ValueError(f"mode={mode!r} has no profile; expected mode='check'")
        self.mode = mode
        self.seed = seed
        self.multiprocessors = multiprocessors
        self.shared_bytes_per_block = shared_bytes_per_block
        self.time_limit = time_limit
        self.launches = 0
        self._memory = Memory(tracked=mode == "check")
        self._captured: list[Callable[[], None]] | None = None  # the launches of a capture that is going on
        self._profile = Profile() if profiled else None

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An array of NaN (or -1): in mode "check" reading an element before it was written fails."""
        self._refuse_in_capture("empty")
        return self._memory.allocate(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        return self.upload(np.zeros(shape, dtype))

    def ones(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        return self.upload(np.ones(shape, dtype))

    def upload(self, array: np.ndarray) -> np.ndarray:
        """A C-contiguous copy in device memory."""
        self._refuse_in_capture("upload")
        copy = self._memory.allocate(array.shape, array.dtype)
        copy[...] = array
        self._memory.mark_written(copy)
        return copy

    def write(self, array: np.ndarray, values: np.ndarray) -> None:
        """Copy values of the same shape and dtype into an array of this device."""
        self._refuse_in_capture("write")
        self._require_own(array, "write")
        if values.shape != array.shape or values.dtype != array.dtype:
            raise TypeError(
                f"write: got {values.dtype} of shape {values.shape}; expected {array.dtype} of shape {array.shape}"
            )
        array[...] = values
        self._memory.mark_written(array)

    def fill(self, array: np.ndarray, values: np.ndarray) -> None:
        """Copy values of the same shape into a float32 array of this device."""
        self.write(array, np.asarray(values, array.dtype))

    def free_bytes(self) -> int:
        """Room for a work space of 1 GiB."""
        return 2**31

    def adopt(self, array: np.ndarray) -> np.ndarray:
        """C-contiguous float32 in device memory: the array itself if it is that already, else a copy."""
        own = isinstance(array, np.ndarray) and self._memory.find(array) is not None
        if own and array.dtype == np.float32 and array.flags.c_contiguous:
            return array
        return self.upload(np.asarray(array, np.float32))

    def download(self, array: np.ndarray) -> np.ndarray:
        """A copy in host memory. Mode "check": all of it must have been written."""
        self._refuse_in_capture("download")
        self._require_own(array, "download")
        if self.mode == "check":
            unwritten = self._memory.unwritten(array)
            if unwritten.any():
                first = tuple(int(i) for i in np.argwhere(unwritten)[0])
                raise LaunchError(
                    f"uninitialised: download of {int(unwritten.sum())} of {array.size} elements that no kernel wrote, "
                    f"the first at {first}"
                )
        return array.copy()

    def fetch(self, array: np.ndarray) -> Callable[[], np.ndarray]:
        """`download`, at once."""
        values = self.download(array)
        return lambda: values

    def send(self, values: np.ndarray) -> Callable[[], np.ndarray]:
        """`upload`, at once."""
        there = self.upload(np.asarray(values, np.float32))
        return lambda: there

    def current_stream(self) -> int:
        """The only one."""
        return 0

    def address(self, array: np.ndarray) -> int:
        """Where the array begins in device memory: a pointer for a field of a struct."""
        self._require_own(array, "address")
        return array.ctypes.data

    def module(self, source: str, options: Sequence[str] = ()) -> EmulatedModule:
        return EmulatedModule(source, options, self)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        """A function that makes the launches of `launch`, which are checked but not run here; nothing else is allowed
        in it.
        """
        if self._captured is not None:
            raise LaunchError("capture within capture")
        self._captured = captured = []
        try:
            launch()
        finally:
            self._captured = None

        def replay() -> None:
            for run in captured:
                run()

        return replay

    def synchronize(self) -> None:
        """Launches are synchronous."""
        self._refuse_in_capture("synchronize")

    def release_memory(self) -> None:
        """Arrays that are gone leave nothing behind."""

    @property
    def live_bytes(self) -> int:
        """Of arrays of this device that something still refers to."""
        return self._memory.live_bytes

    @property
    def live_arrays(self) -> int:
        """Arrays of this device that something still refers to."""
        return len(self._memory)

    def profile(self, *, clear: bool = True) -> list[ProfileRow]:
        """The memory accesses of all launches since the last call, one row per kernel, line, memory, kind and width."""
        if self._profile is None:
            raise ValueError("this device does not profile; expected EmulatedDevice('check', profiled=True)")
        rows = self._profile.rows()
        if clear:
            self._profile.clear()
        return rows

    def _require_own(self, array: np.ndarray, use: str) -> None:
        if not isinstance(array, np.ndarray) or self._memory.find(array) is None:
            raise TypeError(
                f"{use}: got {type(array).__name__} in host memory; expected an array that this device made "
                "(upload, empty, zeros) or a view of one"
            )

    def _refuse_in_capture(self, use: str) -> None:
        if self._captured is not None:
            raise LaunchError(f"{use} within capture, which may only launch kernels")

    def _next_seed(self) -> int:
        self.launches += 1
        return self.seed * 1_000_003 + self.launches if self.seed else 0


class EmulatedModule:
    """The kernels of a .cu text, whose headers are inlined, compiled for the mode of a device."""

    def __init__(self, source: str, options: Sequence[str], device: EmulatedDevice):
        self._device = device
        self._library = LoadedLibrary(build(source, tuple(options), device.mode))

    @property
    def names(self) -> tuple[str, ...]:
        return self._library.library.kernels

    def get_function(self, name: str) -> EmulatedKernel:
        if name not in self.names:
            raise LaunchError(f"no kernel {name!r} in this module; it has {', '.join(self.names)}")
        return EmulatedKernel(name, self._library, self._device)


class EmulatedKernel:
    """One kernel: call it to launch it."""

    def __init__(self, name: str, library: LoadedLibrary, device: EmulatedDevice):
        self.name = name
        self.max_dynamic_shared_size_bytes = DEFAULT_SHARED_BYTES
        self._library = library
        self._device = device
        self._types = library.parameter_types(name)
        self._bounds = library.launch_bounds(name)

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        grid = _three(grid, f"{self.name}: grid")
        block = _three(block, f"{self.name}: block")
        self._check_geometry(grid, block)
        self._check_shared_memory(shared_mem)
        values, buffers = self._convert(args)
        if self._device._captured is None:
            self._run(grid, block, values, buffers, shared_mem)
        else:  # `args` keeps the arrays alive
            self._device._captured.append(lambda args=args: self._run(grid, block, values, buffers, shared_mem))

    def _run(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        values: list[Any],
        buffers: list[Buffer],
        shared_mem: int,
    ) -> None:
        if self._device.mode == "check":
            for buffer in buffers:
                buffer.allocation.refresh()
        profile = self._device._profile
        rows = self._library.launch(
            self.name,
            grid,
            block,
            values,
            shared_bytes=shared_mem,
            seed=self._device._next_seed(),
            time_limit=self._device.time_limit,
            buffers=buffers,
            profiled=profile is not None,
        )
        if profile is not None:
            profile.add(self.name, rows)
        if self._device.mode == "plain":
            self._check_guards(buffers)

    def _check_geometry(self, grid: tuple[int, int, int], block: tuple[int, int, int]) -> None:
        for what, sizes, limits in (("grid", grid, MAX_GRID), ("block", block, MAX_BLOCK)):
            if not all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
                raise LaunchError(
                    f"{self.name}: invalid launch configuration: {what} {sizes}; expected 1 to {limits} in each "
                    "direction"
                )
        threads = math.prod(block)
        limit = min(self._bounds or MAX_THREADS, MAX_THREADS)
        if threads > limit:
            source = "__launch_bounds__" if self._bounds else "CUDA"
            raise LaunchError(
                f"{self.name}: invalid launch configuration: {threads} threads in block {block}; "
                f"expected at most {limit} by {source}"
            )

    def _check_shared_memory(self, nbytes: int) -> None:
        limit = min(self.max_dynamic_shared_size_bytes, self._device.shared_bytes_per_block)
        if not 0 <= nbytes <= limit:
            raise LaunchError(
                f"{self.name}: invalid launch configuration: shared_mem={nbytes}; expected 0 to {limit} "
                f"(max_dynamic_shared_size_bytes={self.max_dynamic_shared_size_bytes}, "
                f"the device has {self._device.shared_bytes_per_block})"
            )

    def _convert(self, args: tuple[Any, ...]) -> tuple[list[Any], list[Buffer]]:
        """The arguments as C values, and those of them that are memory."""
        if len(args) != len(self._types):
            expected = ", ".join(str(parameter) for parameter in self._types)
            raise LaunchError(f"{self.name}: {len(args)} arguments; expected {len(self._types)}: {expected}")
        values: list[Any] = []
        buffers: list[Buffer] = []
        for number, (value, parameter) in enumerate(zip(args, self._types, strict=True)):
            what = f"{self.name}: argument {number}"
            if parameter.is_pointer and isinstance(value, np.ndarray):
                buffers.append(self._convert_array(value, parameter, number, what))
                values.append(ctypes.c_void_p(value.ctypes.data))
            elif parameter.is_pointer and value is None:
                values.append(ctypes.c_void_p(0))
            elif parameter.is_struct and isinstance(value, np.ndarray):
                values.append(_convert_struct(value, parameter, what))
                buffers.extend(self._buffers_in_struct(value, number))
            elif not parameter.is_pointer and not parameter.is_struct and isinstance(value, np.generic):
                values.append(_convert_scalar(value, parameter, what))
            else:
                raise TypeError(f"{what} ({parameter}) is {type(value).__name__}; expected {_expected(parameter)}")
        return values, buffers

    def _convert_array(self, array: np.ndarray, parameter: ParameterType, number: int, what: str) -> Buffer:
        self._device._require_own(array, what)
        if not array.flags.c_contiguous:
            raise ValueError(
                f"{what} has strides {array.strides}; expected a C-contiguous array of shape {array.shape}"
            )
        if not parameter.accepts(array.dtype):
            raise TypeError(f"{what} has dtype {array.dtype}; expected one for {parameter}")
        allocation = self._device._memory.find(array)
        assert allocation is not None
        return Buffer(allocation, f"argument {number}")

    def _buffers_in_struct(self, struct: np.ndarray, number: int) -> Iterator[Buffer]:
        """The arrays of the device that fields of 8 bytes point to."""
        for name in struct.dtype.names or ():
            if struct.dtype[name] in (np.int64, np.uint64):
                allocation = self._device._memory.find_address(int(struct[name].item()))
                if allocation is not None:
                    yield Buffer(allocation, f"argument {number}.{name}")

    def _check_guards(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            offset = buffer.allocation.damaged_guard()
            if offset is not None:
                raise LaunchError(f"{self.name}: out of bounds: a byte of {buffer.name} + {offset} was written to")


# ------------------------------------------------------------------------------------------------------------ arguments
def _three(sizes: Sequence[int], what: str) -> tuple[int, int, int]:
    if not 1 <= len(sizes) <= 3:
        raise LaunchError(f"{what} {tuple(sizes)}; expected one to three sizes")
    x, y, z = (*(operator.index(size) for size in sizes), 1, 1)[:3]
    return x, y, z


def _expected(parameter: ParameterType) -> str:
    if parameter.is_pointer:
        return "an array of the device"
    if parameter.is_struct:
        return "a NumPy array of size one with a dtype of fields"
    return "a NumPy scalar such as np.int32(...)"


def _convert_struct(struct: np.ndarray, parameter: ParameterType, what: str) -> Any:
    """CuPy, too, passes arrays of size one in host memory by value."""
    if struct.size != 1 or struct.dtype.names is None or not parameter.accepts(struct.dtype):
        raise TypeError(
            f"{what} has shape {struct.shape} and {struct.dtype.itemsize} bytes per element; expected size one and a "
            f"dtype of fields for a {parameter}"
        )
    return (ctypes.c_char * struct.dtype.itemsize).from_buffer_copy(struct.tobytes())


_SCALARS = {
    ("f", 4): ctypes.c_float,
    ("f", 8): ctypes.c_double,
    ("i", 1): ctypes.c_int8,
    ("i", 2): ctypes.c_int16,
    ("i", 4): ctypes.c_int32,
    ("i", 8): ctypes.c_int64,
    ("u", 1): ctypes.c_uint8,
    ("u", 2): ctypes.c_uint16,
    ("u", 4): ctypes.c_uint32,
    ("u", 8): ctypes.c_uint64,
}


def _convert_scalar(value: np.generic, parameter: ParameterType, what: str) -> Any:
    if not parameter.accepts(value.dtype):
        raise TypeError(f"{what} is {type(value).__name__}; expected one for {parameter}")
    return _SCALARS[parameter.kind.decode(), parameter.bytes](value.item())
