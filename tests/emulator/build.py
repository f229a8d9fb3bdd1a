"""Compiles the text of a .cu file with g++ into a library of emulated kernels, once per text, options, mode and
compiler.

    plain      optimised: wrong numbers, deadlocks, wrong masks, writes just outside of a buffer, wild pointers
    sanitize   AddressSanitizer and UndefinedBehaviorSanitizer; must be loaded by a process of sanitized.py
    check      bounds, alignment, uninitialised reads, races, undefined behaviour; profile of memory accesses

Libraries lie in the folder $SAFI_FAST_TEST_CACHE/emulator, by default .cache/emulator of the checkout, and are dropped
there when unused for a month. Builds may run in parallel: each writes under a name of its own and renames. prebuild.py
builds ahead of the tests.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Mode = Literal["plain", "sanitize", "check"]
MODES: tuple[Mode, ...] = get_args(Mode)

CACHE_VARIABLE = "SAFI_FAST_TEST_CACHE"
RECORD_VARIABLE = (
    "SAFI_FAST_EMULATOR_RECORD"  # a file that gets a line for every library that is asked for: see prebuild.py
)
UNUSED_DAYS = 30

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[1]
_HEADERS = sorted(_HERE.glob("*.hpp"))
_ALWAYS = (
    "runtime.cpp",
    "fiber.cpp",
    "warp.cpp",
    "async_copy.cpp",
    "tensor_core.cpp",
    "faults.cpp",
    "sanitizer_reports.cpp",
    "undefined.cpp",
)
_RUNTIME: dict[Mode, tuple[str, ...]] = {
    "plain": (*_ALWAYS, "unchecked.cpp"),
    "sanitize": (*_ALWAYS, "unchecked.cpp"),
    "check": (*_ALWAYS, "check.cpp", "order.cpp", "profile.cpp"),
}

_COMMON_FLAGS = (
    "-std=c++17",
    "-fmax-errors=20",
    "-gdwarf-4",  # addr2line of older binutils takes the wrong file from version 5
    "-g1",  # after -gdwarf-4, which asks for 2; lines and names of functions are enough
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # the same numbers in every mode; kernels ask for fmaf where they want it
    "-fno-strict-aliasing",  # as nvcc: float4 loads from float arrays
)
_KERNEL_FLAGS = (
    "-fdata-sections",  # for shared.ld
    "-fno-ipa-reference-addressable",  # keep writes to shared memory that nothing reads: they may be out of bounds
    "-ftrivial-auto-var-init=pattern",  # uninitialised local variables give wrong numbers, the same ones every time
    "-fstack-clash-protection",  # a large frame reaches the guard page instead of jumping over it
    "-Wno-unknown-pragmas",
    "-Werror=return-type",
    "-Werror=uninitialized",
)
_SANITIZE_FLAGS = ("-fsanitize=address", "-fsanitize-recover=address", "-fno-omit-frame-pointer")
_UNDEFINED_FLAGS = ("-fsanitize=undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined")
_MODE_KERNEL_FLAGS: dict[Mode, tuple[str, ...]] = {
    "plain": ("-O3",),
    "sanitize": ("-O1", *_SANITIZE_FLAGS, *_UNDEFINED_FLAGS),
    "check": (
        "-O1",
        "-fsanitize=thread",
        "--param=tsan-instrument-func-entry-exit=0",
        *_UNDEFINED_FLAGS,
        # One access in the source stays one access of the same width.
        "-fno-tree-sra",
        "-fno-ipa-sra",
        "-fno-tree-loop-distribute-patterns",
        "-fno-tree-vectorize",
        "-fno-tree-slp-vectorize",
    ),
}
_MODE_RUNTIME_FLAGS: dict[Mode, tuple[str, ...]] = {
    "plain": ("-O2",),
    "sanitize": ("-O1", *_SANITIZE_FLAGS),
    "check": ("-O2",),
}
_LINKER_SCRIPT = _HERE / "shared.ld"
_MODE_LINK_FLAGS: dict[Mode, tuple[str, ...]] = {"plain": (), "sanitize": ("-fsanitize=address",), "check": ()}

# Without a name for the namespace all functions are local, and so are the shared variables in them: AddressSanitizer
# leaves variables of inline functions and templates unchecked when other files could have them too.
_UNIT = '#include "runtime.hpp"\nnamespace {{\n#line 1 "kernels.cu"\n{source}\n}}\n#line 1 "exports"\n{exports}'

_IGNORED_OPTIONS = ("-std=c++17", "--std=c++17", "-ftz=true", "--ftz=true", "-lineinfo", "--generate-line-info")
_KERNEL = re.compile(r'extern\s+"C"\s+([^;{}()]*?\b__global__\b[^;{}()]*?)\(')
_BOUNDS = re.compile(r"emulator_bounds<<(.*?)>>emulator_bounds", re.DOTALL)


class BuildError(RuntimeError):
    """The emulator cannot run here, or the text of a kernel does not compile."""


@dataclass(frozen=True)
class Library:
    """A built library. `kernels` names those that are `extern "C" __global__`."""

    path: Path
    mode: Mode
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class _Kernel:
    name: str
    bounds: str  # the arguments of __launch_bounds__, "0" without

    @property
    def export(self) -> str:
        return f"CUDA_EMULATOR_EXPORT({self.name}, {self.bounds})\n"


def build(source: str, options: Sequence[str] = (), mode: Mode = "plain") -> Library:
    """The library for a .cu text whose headers are inlined. `options` are those of NVRTC: -D and -U are used."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; expected one of {', '.join(MODES)}")
    _record(source, options, mode)
    target = _target(source, options, mode)
    names = target.with_suffix(".txt")
    if not (use(target) and use(names)):
        defines = _defines(options)
        runtime_object = _build_runtime(mode)
        with scratch() as folder:
            kernels = _find_kernels(source, defines, folder)
            libraries = (*_link_flags(mode), str(runtime_object))
            library = _build_library(source, kernels, _flags(defines, mode), libraries, folder)
            listing = folder / "kernels.txt"
            listing.write_text("\n".join(kernel.name for kernel in kernels), encoding="utf-8")
            listing.replace(names)
            library.replace(target)
        _drop_unused()
    return Library(target, mode, tuple(names.read_text(encoding="utf-8").split()))


def is_built(source: str, options: Sequence[str], mode: Mode) -> bool:
    """Whether `build` would compile nothing."""
    target = _target(source, options, mode)
    return target.is_file() and target.with_suffix(".txt").is_file()


def _target(source: str, options: Sequence[str], mode: Mode) -> Path:
    """Where the library lies once it is built: its name tells texts, options, flags and compiler apart."""
    flags = (*_flags(_defines(options), mode), *_link_flags(mode))
    script = _LINKER_SCRIPT.read_text(encoding="utf-8")
    key = key_of(source, _UNIT, script, *flags, _runtime_object(mode).name, _compiler().version)
    return cache_folder() / f"{mode}-{key}.so"


def _flags(defines: Sequence[str], mode: Mode) -> tuple[str, ...]:
    return (*_COMMON_FLAGS, *_machine_flags(mode), *_KERNEL_FLAGS, *_MODE_KERNEL_FLAGS[mode], *defines)


def _link_flags(mode: Mode) -> tuple[str, ...]:
    return ("-shared", *_MODE_LINK_FLAGS[mode])


def _record(source: str, options: Sequence[str], mode: Mode) -> None:
    """One line, in one write, as many processes may do so at once."""
    if path := os.environ.get(RECORD_VARIABLE):
        test = os.environ.get("PYTEST_CURRENT_TEST", "")
        entry = {"text": key_of(source), "options": list(options), "mode": mode, "test": test}
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def _build_library(
    source: str, kernels: Sequence[_Kernel], flags: Sequence[str], link_flags: Sequence[str], folder: Path
) -> Path:
    unit = folder / "kernels.cpp"
    unit.write_text(_UNIT.format(source=source, exports="".join(k.export for k in kernels)), encoding="utf-8")
    object_file = folder / "kernels.o"
    _run([*flags, "-I", str(_HERE), "-c", str(unit), "-o", str(object_file)])
    library = folder / "kernels.so"
    _run([str(object_file), *link_flags, f"-Wl,-T,{_LINKER_SCRIPT}", "-o", str(library)])
    return library


def cache_folder() -> Path:
    """Where libraries are kept; made if it is not there.

    A folder for this user alone in the temporary one as a last resort.
    """
    named = os.environ.get(CACHE_VARIABLE)
    folder = (Path(named).expanduser() if named else _CHECKOUT / ".cache") / "emulator"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    if named:
        raise BuildError(f"{CACHE_VARIABLE}={named}: this folder cannot be written to")
    fallback = Path(tempfile.gettempdir()) / f"safi_fast_emulator-{os.getuid()}"
    fallback.mkdir(mode=0o700, exist_ok=True)
    if fallback.stat().st_uid != os.getuid():
        raise BuildError(f"{fallback} belongs to another user; set {CACHE_VARIABLE} to a folder of yours")
    return fallback


def _defines(options: Iterable[str]) -> tuple[str, ...]:
    defines = []
    for option in options:
        if option.startswith(("-D", "-U")) and len(option) > 2:
            defines.append(option)
        elif option not in _IGNORED_OPTIONS:
            known = ", ".join(("-DNAME=VALUE", "-UNAME", *_IGNORED_OPTIONS))
            raise BuildError(f"option {option!r} has no meaning for the emulator; expected {known}")
    return tuple(defines)


# ------------------------------------------------------------------------------------------------------------- compiler
@dataclass(frozen=True)
class _Compiler:
    path: str
    version: str


@functools.cache
def _compiler() -> _Compiler:
    _check_machine(sys.platform, platform.machine())
    path = shutil.which("g++")
    if not path:
        raise BuildError(
            "the CUDA emulator needs g++ 11 or newer, and there is no g++ on PATH (Debian: apt install g++)"
        )
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return _Compiler(path, version)


def _check_machine(system: str, machine: str) -> None:
    if system != "linux" or machine not in ("x86_64", "AMD64"):
        raise BuildError(f"the CUDA emulator runs on Linux on x86-64; this is {system} on {machine}")


def _machine_flags(mode: Mode) -> tuple[str, ...]:
    """Fused multiply-add and AVX2 where this processor has them: fmaf is slow without."""
    return ("-march=x86-64-v3",) if {"avx2", "fma", "bmi2"} <= processor_features() and mode == "plain" else ()


@functools.cache
def processor_features() -> frozenset[str]:
    """Flags of this processor; none where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def _run(arguments: Sequence[str]) -> str:
    """Runs g++, whatever this process has preloaded."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [_compiler().path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise BuildError(f"g++ failed:\n{done.stderr.strip()}\nThe command was: {' '.join(command)}")
    return done.stdout


# --------------------------------------------------------------------------------------------------------------- pieces
def _runtime_object(mode: Mode) -> Path:
    """Where the run time lies once it is built."""
    return cache_folder() / _runtime_name(mode)


@functools.cache
def _runtime_name(mode: Mode) -> str:
    flags = (*_COMMON_FLAGS, *_MODE_RUNTIME_FLAGS[mode])
    texts = [path.read_text(encoding="utf-8") for path in (*_HEADERS, *(_HERE / name for name in _RUNTIME[mode]))]
    return f"runtime-{mode}-{key_of(*texts, *flags, _compiler().version)}.o"


def _build_runtime(mode: Mode) -> Path:
    """The run time as one relocatable object, the same for all libraries of a mode."""
    target = _runtime_object(mode)
    if not use(target):
        with scratch() as folder:
            unit = folder / "all_of_it.cpp"
            unit.write_text("".join(f'#include "{name}"\n' for name in _RUNTIME[mode]), encoding="utf-8")
            result = folder / "runtime.o"
            _run([*_COMMON_FLAGS, *_MODE_RUNTIME_FLAGS[mode], "-I", str(_HERE), "-c", str(unit), "-o", str(result)])
            result.replace(target)
    return target


def _find_kernels(source: str, defines: Sequence[str], folder: Path) -> list[_Kernel]:
    """The kernels that these defines leave in the text."""
    unit = folder / "find.cpp"
    unit.write_text(source, encoding="utf-8")
    marker = "-D__launch_bounds__(...)=emulator_bounds<<__VA_ARGS__>>emulator_bounds"
    text = _run(["-E", "-P", "-DCUDA_EMULATOR=1", marker, *defines, str(unit)])
    kernels = []
    for match in _KERNEL.finditer(_hide_parentheses(text)):
        head = _show_parentheses(match[1])
        bounds = _BOUNDS.search(head)
        name = _BOUNDS.sub(" ", head).split()[-1]
        kernels.append(_Kernel(name, bounds[1].strip() if bounds else "0"))
    if not kernels:
        raise BuildError('the text has no kernel: expected `extern "C" __global__ void name(...)`')
    return kernels


def _hide_parentheses(text: str) -> str:
    """Launch bounds may hold parentheses, which would look like the parameters of the kernel."""
    return _BOUNDS.sub(lambda match: match[0].replace("(", "\x01").replace(")", "\x02"), text)


def _show_parentheses(text: str) -> str:
    return text.replace("\x01", "(").replace("\x02", ")")


# ---------------------------------------------------------------------------------------------------------------- cache
def key_of(*parts: str) -> str:
    """A name for these texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:24]


def use(path: Path) -> bool:
    """Whether the file is there; marks it as used."""
    try:
        os.utime(path)
    except OSError:
        return path.is_file()
    return True


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder inside the cache, on the same disk, so that a rename is atomic."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache_folder(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _drop_unused() -> None:
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for path in cache_folder().glob("*-*.*"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()
