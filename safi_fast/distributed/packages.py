"""Packages of the extra `distributed`, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import BackendError

INSTALLED_AS = {"dask": '"dask[array]"', "zarr": '"zarr>=3"', "dask_jobqueue": "dask-jobqueue"}


def require(module: str, purpose: str) -> Any:
    """The module of that name. Raises BackendError, which says what to install."""
    package = module.partition(".")[0]
    if find_spec(package) is None:
        raise BackendError(
            f"{purpose} needs {module}; install it with pip install {INSTALLED_AS.get(package, package)}"
        )
    return import_module(module)
