"""The gate for real GPUs: compiles a .cu text to machine code, reads what each kernel needs, and refuses spills.

Two compilers, neither of which needs a GPU: "nvcc" (from PATH, or the pip package nvidia-cuda-nvcc), and "nvrtc", the
library that CuPy uses (pip package nvidia-cuda-nvrtc). The options are those that CuPy's RawModule adds to the
caller's, which have to name -std=c++17.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .build import cache_folder, key_of, scratch, use
from .tools import find_tool, pip_files

Compiler = Literal["nvcc", "nvrtc"]

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
RAW_MODULE_OPTIONS = ("-ftz=true",)
RAW_MODULE_NVRTC_OPTIONS = ("--device-as-default-execution-space",)


class CompileError(RuntimeError):
    """The text does not compile for this architecture, or no compiler is here."""


class SpillError(CompileError):
    """A kernel keeps values in local memory: spilled registers, or arrays indexed by variables."""


@dataclass(frozen=True)
class Resources:
    """What one thread (registers, stack, spills) or block (shared) of a kernel needs, in bytes
    but for the registers.
    """

    registers: int = 0
    static_shared: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    barriers: int = 0

    @property
    def spills(self) -> bool:
        return bool(self.stack or self.spill_stores or self.spill_loads)


@dataclass(frozen=True)
class Cubin:
    """Machine code for one architecture."""

    architecture: str
    compiler: Compiler
    code: bytes
    kernels: dict[str, Resources]


def compilers() -> tuple[Compiler, ...]:
    """Those that are here, the one of CuPy first."""
    found: list[Compiler] = []
    if _nvrtc() is not None:
        found.append("nvrtc")
    if find_tool("nvcc"):
        found.append("nvcc")
    return tuple(found)


def compile_cubin(
    source: str,
    options: Sequence[str] = (),
    *,
    architecture: str = "sm_90",
    compiler: Compiler | None = None,
    spills_allowed: bool = False,
) -> Cubin:
    """Compiles a text whose headers are inlined, as CuPy's RawModule(code=source, options=options) would."""
    here = compilers()
    if not here or (compiler and compiler not in here):
        raise CompileError(
            f"compiler={compiler!r}: {', '.join(here) or 'none'} of nvcc and nvrtc is here; "
            "put nvcc on PATH or `pip install nvidia-cuda-nvrtc`"
        )
    chosen = compiler or here[0]
    all_options = (*options, *RAW_MODULE_OPTIONS, f"-arch={architecture}")
    code, log = _compiled(chosen, source, all_options)
    cubin = Cubin(architecture, chosen, code, parse_resources(log))
    spilled = [f"{name}: {needs}" for name, needs in cubin.kernels.items() if needs.spills]
    if spilled and not spills_allowed:
        raise SpillError(f"local memory is used on {architecture} by " + "; ".join(spilled))
    return cubin


def is_compiled(source: str, options: Sequence[str], architecture: str) -> bool:
    """Whether `compile_cubin` with the first compiler would compile nothing."""
    return _cached(compilers()[0], source, (*options, *RAW_MODULE_OPTIONS, f"-arch={architecture}")).is_file()


# ------------------------------------------------------------------------------------------------------------ the cache
def _compiled(compiler: Compiler, source: str, options: tuple[str, ...]) -> tuple[bytes, str]:
    """Machine code and log, once per text, options and compiler; kept beside the emulator's libraries."""
    target = _cached(compiler, source, options)
    if use(target):
        content = target.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        return content[end:], content[8:end].decode()
    code, log = (_run_nvcc if compiler == "nvcc" else _run_nvrtc)(source, options)
    with scratch() as folder:
        (folder / "cubin").write_bytes(len(log.encode()).to_bytes(8, "little") + log.encode() + code)
        (folder / "cubin").replace(target)
    return code, log


def _cached(compiler: Compiler, source: str, options: tuple[str, ...]) -> Path:
    return cache_folder() / f"cubin-{key_of(compiler, _version(compiler), source, *options)}.bin"


@functools.cache
def _version(compiler: Compiler) -> str:
    if compiler == "nvcc":
        command = [find_tool("nvcc") or "nvcc", "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    library, major, minor = _nvrtc(), ctypes.c_int(), ctypes.c_int()
    assert library is not None
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value} {library._name}"


# ----------------------------------------------------------------------------------------------------- the log of ptxas
_FUNCTION = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_BARRIERS = re.compile(r"used (\d+) barriers")
_SHARED = re.compile(r"(\d+) bytes smem")


def parse_resources(log: str) -> dict[str, Resources]:
    """What `ptxas -v` says of each kernel."""
    kernels: dict[str, Resources] = {}
    name = None
    for line in log.splitlines():
        if match := _FUNCTION.search(line):
            name = match[1]
            kernels[name] = Resources()
        if name is None:
            continue
        if match := _STACK.search(line):
            stack, stores, loads = map(int, match.groups())
            kernels[name] = replace(kernels[name], stack=stack, spill_stores=stores, spill_loads=loads)
        if match := _REGISTERS.search(line):
            kernels[name] = replace(
                kernels[name],
                registers=int(match[1]),
                static_shared=_number(_SHARED, line),
                barriers=_number(_BARRIERS, line),
            )
    return kernels


def _number(pattern: re.Pattern[str], line: str) -> int:
    match = pattern.search(line)
    return int(match[1]) if match else 0


# ----------------------------------------------------------------------------------------------------------------- nvcc
def _run_nvcc(source: str, options: Sequence[str]) -> tuple[bytes, str]:
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "kernels.cu"
        unit.write_text(source, encoding="utf-8")
        result = unit.with_suffix(".cubin")
        command = [find_tool("nvcc") or "nvcc", "-cubin", "-Xptxas", "-v", *options, "-o", str(result), str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(f"nvcc failed ({' '.join(options)}):\n{(done.stdout + done.stderr).strip()}")
        return result.read_bytes(), done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------------------- NVRTC
def _nvrtc_candidates() -> Iterator[Path]:
    for pattern in ("cu*/lib/libnvrtc.so.*", "cuda_nvrtc/lib/libnvrtc.so.*"):
        yield from (path for path in pip_files(pattern) if ".alt." not in path.name)
    if system := ctypes.util.find_library("nvrtc"):
        yield Path(system)


@functools.cache
def _nvrtc() -> ctypes.CDLL | None:
    for candidate in _nvrtc_candidates():
        try:
            for builtins in candidate.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))  # it looks for them by name, in no folder of pip's
            return ctypes.CDLL(str(candidate))
        except OSError:
            continue
    return None


def _run_nvrtc(source: str, options: Sequence[str]) -> tuple[bytes, str]:
    library = _nvrtc()
    assert library is not None
    program = ctypes.c_void_p()
    created = library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    if created:
        raise CompileError(f"nvrtcCreateProgram failed with status {created}")
    try:
        texts = [option.encode() for option in (*options, *RAW_MODULE_NVRTC_OPTIONS, "--ptxas-options=-v")]
        status = library.nvrtcCompileProgram(program, len(texts), (ctypes.c_char_p * len(texts))(*texts))
        log = _get(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program).rstrip(b"\0").decode()
        if status:
            raise CompileError(f"NVRTC failed ({' '.join(options)}):\n{log.strip()}")
        return _get(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _get(get_size: ctypes._NamedFuncPointer, get: ctypes._NamedFuncPointer, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    get_size(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.raw
