"""Packages that are not part of the core install, imported where a file needs them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import BackendError


def require(module: str, purpose: str, package: str | None = None) -> Any:
    """The module of that name. package: what pip knows it as, where that is another name.

    Raises BackendError, which says what to install.
    """
    name = module.partition(".")[0]
    if find_spec(name) is None:
        raise BackendError(f"{purpose} needs {module}; install it with pip install {package or name}")
    return import_module(module)
