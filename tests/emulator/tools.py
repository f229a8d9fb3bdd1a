"""Where NVIDIA's command-line tools and libraries are: on PATH, or in the packages that pip installs below `nvidia`."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path


def find_tool(name: str) -> str | None:
    """The path of a program such as nvcc."""
    if on_path := shutil.which(name):
        return on_path
    return next((str(path) for path in pip_files(f"*/bin/{name}")), None)


def pip_files(pattern: str) -> Iterator[Path]:
    """Files of pip's packages, the folder of the newest CUDA first."""
    spec = importlib.util.find_spec("nvidia")
    for location in spec.submodule_search_locations or () if spec else ():
        yield from sorted(Path(location).glob(pattern), reverse=True)
