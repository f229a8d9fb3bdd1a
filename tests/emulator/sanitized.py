"""Calls Python functions in a process of its own that has AddressSanitizer preloaded, as mode "sanitize" needs.

    call(function, *args)      the function must be importable, its arguments and result picklable
    run_tests(*arguments)      pytest

UndefinedBehaviorSanitizer needs no library: undefined.cpp answers it.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .build import BuildError

Result = TypeVar("Result")

_OPTIONS = ":".join(
    (
        "halt_on_error=0",  # a report becomes a LaunchError, and the process goes on
        "suppress_equal_pcs=0",  # a second report from the same place as well
        "detect_leaks=0",  # Python frees little at its end
        "detect_stack_use_after_return=0",  # its fake stacks do not go with fibers
        "allocator_may_return_null=1",
    )
)


class SanitizedError(RuntimeError):
    """The function raised, or its process died."""


def call(function: Callable[..., Result], *args: Any, timeout: float = 300) -> Result:
    """function(*args), computed in a sanitized process."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        request = pickle.dumps((function.__module__, function.__qualname__, args))
        command = [sys.executable, "-m", __name__, str(answer)]
        done = subprocess.run(
            command, input=request, capture_output=True, env=environment(), timeout=timeout, check=False
        )
        if not answer.exists():
            output = (done.stdout + done.stderr).decode(errors="replace")
            raise SanitizedError(
                f"{function.__qualname__}: the process ended with {done.returncode}:\n{output[-4000:]}"
            )
        succeeded, result = pickle.loads(answer.read_bytes())
    if not succeeded:
        raise SanitizedError(f"{function.__qualname__}: {result}")
    value: Result = result
    return value


def run_tests(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """`python -m pytest` with these arguments in a sanitized process."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=timeout, check=False)


def environment() -> dict[str, str]:
    """The environment variables of a sanitized process that finds the same modules as this one."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "LD_PRELOAD": _sanitizer_library(), "ASAN_OPTIONS": _OPTIONS, "PYTHONPATH": path}


@functools.cache
def _sanitizer_library() -> str:
    try:
        command = ["g++", "-print-file-name=libasan.so"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"mode='sanitize' needs g++ and its libasan: {error}") from error
    if not Path(found).is_absolute():
        raise BuildError("g++ has no libasan.so (Debian: apt install libasan8 or the one of your g++)")
    return found


def _answer(target: Path) -> None:
    module, name, args = pickle.loads(sys.stdin.buffer.read())
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    try:
        answer = (True, function(*args))
    except BaseException as error:  # a failed assertion, too, is told to the caller
        answer = (False, f"{type(error).__name__}: {error}")
    target.write_bytes(pickle.dumps(answer))


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
