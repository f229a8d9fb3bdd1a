"""Whether a GPU can run the kernels here: one sentence that says what is missing and the command that mends it.

CuPy, its libraries and the driver fail in many ways, with exceptions of many kinds, so whatever a question to them
raises is an answer.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
import warnings
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

WHEELS = ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy")  # one of them may be installed
LEAST_CAPABILITY = (8, 0)  # cp.async and the tensor-core instructions of kernels/cuda
INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100  # status of a CUDARuntimeError


class Finding(NamedTuple):
    """Whether kernels can run on a GPU, and why in one sentence."""

    usable: bool
    sentence: str


def driver_version() -> int | None:
    """The newest CUDA that the NVIDIA driver supports, 13000 for 13.0; None without a driver.

    Starts nothing on the GPU.
    """
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version = ctypes.c_int()
        return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None
    except (OSError, AttributeError):
        return None


def examine() -> Finding:
    """Look at the current GPU. Imports CuPy; raises nothing and warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Finding(True, _describe(_working_cupy()))
        except _Missing as missing:
            return Finding(False, str(missing))


class _Missing(Exception):  # noqa: N818 - an answer, not an error
    """What is missing, in one sentence."""


def _working_cupy() -> Any:
    """CuPy, after everything between here and a running kernel was tried. Raises _Missing."""
    cupy = _import_cupy()
    _check_driver(cupy)
    _check_capability(cupy)
    _check_compiler(cupy)
    _check_launch(cupy)
    return cupy


def _import_cupy() -> Any:
    wheels = _installed_wheels()
    if len(wheels) > 1:
        raise _Missing(
            f"Several CuPy packages are installed ({', '.join(wheels)}), which overwrite each other; "
            f"run: pip uninstall -y {' '.join(wheels)} && {_install()}"
        )
    if not _is_installed("cupy"):
        where = "" if driver_version() else ", nor is an NVIDIA driver; on a machine with an NVIDIA GPU"
        raise _Missing(f"CuPy is not installed{where or ';'} run: {_install()}")
    try:
        return importlib.import_module("cupy")
    except Exception as error:
        wheel = "cupy-cuda12x" if _generation() == 12 else "cupy-cuda13x"
        again = f'pip install --force-reinstall "{wheel}[ctk]"'
        raise _Missing(f"CuPy cannot be imported ({_reason(error)}); run: {again}") from error


def _is_installed(name: str) -> bool:
    try:
        return sys.modules.get(name) is not None or find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _installed_wheels() -> list[str]:
    found = []
    for wheel in WHEELS:
        try:
            metadata.version(wheel)
        except metadata.PackageNotFoundError:
            continue
        found.append(wheel)
    return found


def _check_driver(cupy: Any) -> None:
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        status = getattr(error, "status", None)
        if status == INSUFFICIENT_DRIVER:
            raise _Missing(_driver_problem(cupy)) from error
        if status != NO_DEVICE:
            raise _Missing(f"CUDA does not start ({_reason(error)}); `nvidia-smi` may say why") from error
        count = 0
    if count == 0:
        raise _Missing("The NVIDIA driver finds no GPU; see `nvidia-smi` and the variable CUDA_VISIBLE_DEVICES")


def _driver_problem(cupy: Any) -> str:
    driver = driver_version()
    if driver is None:
        return (
            "No NVIDIA driver was found; the CUDA backend needs an NVIDIA GPU with its driver, which pip cannot install"
        )
    needed = cupy.cuda.runtime.runtimeGetVersion()
    problem = f"The NVIDIA driver supports CUDA {_dotted(driver)} and CuPy was made for CUDA {_dotted(needed)}"
    if driver < 12000:
        return f"{problem}; install a newer driver, which pip cannot"
    return f"{problem}; run: pip uninstall -y {' '.join(_installed_wheels()) or 'cupy'} && {_install()}"


def _check_capability(cupy: Any) -> None:
    try:
        properties = _properties(cupy)
    except Exception as error:
        raise _Missing(f"The GPU cannot be asked for its properties ({_reason(error)})") from error
    capability = properties["major"], properties["minor"]
    if capability < LEAST_CAPABILITY:
        raise _Missing(
            f"{_name(properties)} has compute capability {capability[0]}.{capability[1]}; "
            f"the kernels need {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]} or more (Ampere, 2020)"
        )


def _check_compiler(cupy: Any) -> None:
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        raise _Missing(
            f"NVRTC, the compiler of CUDA, cannot be loaded ({_reason(error)}); run: {_install()}"
        ) from error


def _check_launch(cupy: Any) -> None:
    """One addition, which CuPy compiles with the headers of CUDA; it keeps the machine code on disk."""
    try:
        cupy.asnumpy(cupy.zeros(1) + 1)
    except Exception as error:
        if any(sign in str(error) for sign in ("cannot open source file", "could not open source file", "CUDA_PATH")):
            raise _Missing(f"The header files of CUDA are missing; run: {_install()}") from error
        raise _Missing(f"A first kernel does not run on the GPU ({_reason(error)})") from error


def _describe(cupy: Any) -> str:
    properties = _properties(cupy)
    return (
        f"{_name(properties)}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, "
        f"compute capability {properties['major']}.{properties['minor']}, CuPy {cupy.__version__}."
    )


def _properties(cupy: Any) -> Any:
    return cupy.cuda.runtime.getDeviceProperties(int(cupy.cuda.Device().id))


def _name(properties: Any) -> str:
    name = properties["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _install() -> str:
    """The pip command for this driver; ctk brings NVRTC and the headers along."""
    return f'pip install "cupy-cuda{_generation()}x[ctk]>=14"'


def _generation() -> int:
    """The CUDA that suits this driver; the newest where there is none."""
    driver = driver_version()
    return 12 if driver and driver < 13000 else 13


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _reason(error: BaseException) -> str:
    """Its kind and the first line of what it says; CuPy wraps import errors in banners, so the one that caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =")]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
