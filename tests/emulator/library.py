"""A built library in this process: its kernels, their parameters, launches, and places in the source of what it
reports.
"""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .build import BuildError, Library
from .memory import Allocation, sanitizer_is_loaded

LIBRARIES_WITH_STACKS = 16
_with_stacks: dict[int, ctypes.CDLL] = {}  # those that launched last, by identity, the latest at the end
_LAUNCHING = threading.Lock()  # the run time of a library knows one launch at a time


class LaunchError(RuntimeError):
    """A launch that CUDA would refuse, or in which a checker found something."""


class _Launch(ctypes.Structure):
    """As in runtime.cpp."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("seed", ctypes.c_uint64),
        ("time_limit", ctypes.c_double),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("dynamic_shared_bytes", ctypes.c_uint32),
    )


class ParameterType(ctypes.Structure):
    """As in interface.hpp."""

    _fields_ = (
        ("kind", ctypes.c_char),
        ("is_pointer", ctypes.c_bool),
        ("is_const", ctypes.c_bool),
        ("bytes", ctypes.c_uint32),
    )

    def __str__(self) -> str:
        names = {
            b"f": f"float{8 * self.bytes}",
            b"i": f"int{8 * self.bytes}",
            b"u": f"uint{8 * self.bytes}",
            b"?": "void",
        }
        name = names.get(self.kind, f"struct of {self.bytes} bytes")
        return ("const " if self.is_const else "") + name + ("*" if self.is_pointer else "")

    @property
    def is_struct(self) -> bool:
        """Passed by value."""
        return bool(self.kind == b"s" and not self.is_pointer)

    def accepts(self, dtype: np.dtype) -> bool:
        """Whether the elements of an array, or a scalar, may have this dtype. A sign makes no difference."""
        if self.kind == b"?":
            return True
        if self.kind == b"s":
            return bool(dtype.itemsize == self.bytes)
        if dtype.kind == "c":
            return bool(self.is_pointer and self.kind == b"f" and dtype.itemsize == 2 * self.bytes)
        return bool(
            (dtype.kind == "f") == (self.kind == b"f") and dtype.kind in "fiub" and dtype.itemsize == self.bytes
        )


@dataclass(frozen=True)
class Buffer:
    """An argument that is memory."""

    allocation: Allocation
    name: str


@dataclass(frozen=True)
class Place:
    """Where in the text of a kernel something happens."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class _ProfileRow(ctypes.Structure):
    """As in profile.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("code", "is_shared", "is_write", "bytes", "requests", "moved", "ideal")
    )


@dataclass(frozen=True)
class RawProfileRow:
    """One access in the code of a kernel, over a launch."""

    place: Place
    is_shared: bool
    is_write: bool
    bytes: int
    requests: int
    moved: int
    ideal: int


def _keep_stacks_of(handle: ctypes.CDLL) -> None:
    """Let the library that has rested longest give its stacks back."""
    _with_stacks[id(handle)] = _with_stacks.pop(id(handle), handle)
    if len(_with_stacks) > LIBRARIES_WITH_STACKS:
        _with_stacks.pop(next(iter(_with_stacks))).emulator_release_stacks()


class LoadedLibrary:
    """Calls into the run time. One launch at a time in the whole process."""

    def __init__(self, library: Library):
        if library.mode == "sanitize" and not sanitizer_is_loaded():
            raise BuildError("a build for mode='sanitize' must be loaded by a process of sanitized.py")
        self.library = library
        self._handle = ctypes.CDLL(str(library.path))
        self._handle.emulator_message.restype = ctypes.c_char_p
        self._handle.emulator_code.restype = ctypes.c_size_t
        self._has_checker = library.mode == "check"

    def parameter_types(self, kernel: str) -> list[ParameterType]:
        describe = getattr(self._handle, f"emulated_{kernel}_types")
        describe.restype = ctypes.POINTER(ParameterType)
        types = describe()
        count = 0
        while types[count].kind != b"\0":
            count += 1
        return [types[i] for i in range(count)]

    def launch_bounds(self, kernel: str) -> int:
        """The most threads of a block by __launch_bounds__; 0 without."""
        bounds: int = getattr(self._handle, f"emulated_{kernel}_bounds")()
        return bounds

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],  # C values
        *,
        shared_bytes: int,
        seed: int,
        time_limit: float,
        buffers: Sequence[Buffer],
        profiled: bool,
    ) -> list[RawProfileRow]:
        """Runs a kernel to its end; the rows of its profile, if that was asked for."""
        pointers = (ctypes.c_void_p * max(len(arguments), 1))(*(ctypes.addressof(value) for value in arguments))
        entry = ctypes.cast(getattr(self._handle, f"emulated_{kernel}"), ctypes.c_void_p)
        request = _Launch(
            entry.value,
            ctypes.addressof(pointers),
            seed,
            time_limit,
            (ctypes.c_uint32 * 3)(*grid),
            (ctypes.c_uint32 * 3)(*block),
            shared_bytes,
        )
        with _LAUNCHING:
            _keep_stacks_of(self._handle)
            if self._has_checker:
                self._tell_checker(buffers, profiled)
            failed = self._handle.emulator_launch(ctypes.byref(request))
            if failed:
                raise LaunchError(self._describe_failure(kernel))
            return self._profile_rows() if profiled and self._has_checker else []

    def _tell_checker(self, buffers: Sequence[Buffer], profiled: bool) -> None:
        self._handle.emulator_forget_buffers()
        for buffer in buffers:
            allocation = buffer.allocation
            self._handle.emulator_add_buffer(
                ctypes.c_void_p(allocation.address),
                ctypes.c_size_t(allocation.nbytes),
                ctypes.c_void_p(allocation.written.ctypes.data),
                buffer.name.encode(),
            )
        self._handle.emulator_enable_profile(int(profiled))

    def _describe_failure(self, kernel: str) -> str:
        message = self._handle.emulator_message().decode(errors="replace")
        code = self._handle.emulator_code()
        place = f"{self._places([code])[0]}: " if code else ""
        return f"{kernel}: {place}{_STATIC_SHARED.sub(self._name_variable, message)}"

    def _name_variable(self, match: re.Match[str]) -> str:
        """Names the shared variable at an offset in all shared memory of the library."""
        symbols = _shared_variables(self.library.path)
        address = symbols.begin + int(match[1])
        for start, nbytes, name in symbols.variables:
            if start <= address < start + nbytes:
                return f"shared {name} + {address - start} bytes"
        return match[0]

    def _profile_rows(self) -> list[RawProfileRow]:
        get = self._handle.emulator_profile
        get.restype = ctypes.c_size_t
        count = get(None, ctypes.c_size_t(0))
        rows = (_ProfileRow * count)()
        get(rows, ctypes.c_size_t(count))
        places = self._places([row.code for row in rows])
        return [
            RawProfileRow(place, bool(row.is_shared), bool(row.is_write), row.bytes, row.requests, row.moved, row.ideal)
            for place, row in zip(places, rows, strict=True)
        ]

    def _places(self, codes: Sequence[int]) -> list[Place]:
        """The places of return addresses, given as offsets in the library; a call lies one byte before."""
        return list(_find_places(self.library.path, tuple(code - 1 for code in codes)))


# ------------------------------------------------------------------------------------------------------ symbols, places
_STATIC_SHARED = re.compile(r"static shared memory \+ (\d+) bytes")


@dataclass(frozen=True)
class _SharedSymbols:
    begin: int
    variables: tuple[tuple[int, int, str], ...]  # address, bytes, name


@functools.lru_cache(maxsize=16)
def _shared_variables(path: Path) -> _SharedSymbols:
    """By nm: the variables between the marks that shared.ld sets."""
    command = ["nm", "--demangle", "--print-size", "--defined-only", str(path)]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return _SharedSymbols(0, ())
    begin = 0
    variables = []
    for line in output.splitlines():
        address, *rest = line.split(maxsplit=3)
        if rest[-1] == "cuda_emulator_shared_begin":
            begin = int(address, 16)
        if len(rest) == 3 and rest[1] in "bBdD":
            variables.append((int(address, 16), int(rest[0], 16), rest[2].replace("(anonymous namespace)::", "")))
    return _SharedSymbols(begin, tuple(variables))


@functools.lru_cache(maxsize=256)
def _find_places(path: Path, offsets: tuple[int, ...]) -> tuple[Place, ...]:
    """By addr2line; of the functions inlined into each other, the innermost one that is not the emulator's."""
    if not offsets:
        return ()
    command = ["addr2line", "--addresses", "--inlines", "--exe", str(path), *map(hex, offsets)]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return (Place("?", 0),) * len(offsets)
    frames_of_offset: list[list[str]] = []
    for line in output.splitlines():
        if line.startswith("0x"):
            frames_of_offset.append([])
        else:
            frames_of_offset[-1].append(line)
    return tuple(_choose_place(frames) for frames in frames_of_offset)


def _choose_place(frames: Sequence[str]) -> Place:
    for frame in frames:
        file, _, line = frame.split(" ")[0].rpartition(":")
        name = Path(file).name
        if line.isdigit() and not name.endswith((".hpp", ".h", "?")) and "/include/" not in file:
            return Place(name, int(line))
    return Place("?", 0)
