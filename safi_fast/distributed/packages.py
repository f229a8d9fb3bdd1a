"""Packages of the extra `distributed`, imported where they are used."""

from __future__ import annotations

from typing import Any

from ..io import packages

INSTALLED_AS = {"dask": '"dask[array]"', "zarr": '"zarr>=3"', "dask_jobqueue": "dask-jobqueue"}


def require(module: str, purpose: str) -> Any:
    """The module of that name. Raises BackendError, which says what to install."""
    return packages.require(module, purpose, INSTALLED_AS.get(module.partition(".")[0]))
