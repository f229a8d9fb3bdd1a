"""Packages of the extra `distributed`, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import BackendError


def require(module: str, purpose: str) -> Any:
    """The module of that name. Raises BackendError, which says what to install."""
    if find_spec(module.partition(".")[0]) is None:
        raise BackendError(f'{purpose} needs {module}; install it with pip install "safi-fast[distributed]"')
    return import_module(module)
