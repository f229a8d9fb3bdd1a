"""Keyword arguments that several public functions share: written once as a TypedDict, with their defaults, and shown
in every signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def defaults_of(options: Any, **others: Any) -> dict[str, Any]:
    """The default of every key of a TypedDict: None where `others` have no other value."""
    return {**dict.fromkeys(options.__annotations__), **others}


def filled(function: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """The options of a call with their defaults. Raises TypeError for a keyword that is none, as Python does."""
    for name in given:
        if name not in defaults:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    return {**defaults, **given}


def shows(options: Any, defaults: Mapping[str, Any]) -> Callable[[Function], Function]:
    """A decorator for a function of **options: its signature has them one by one."""

    def decorate(function: Function) -> Function:
        plain = inspect.signature(function)
        own = [p for p in plain.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=options.__annotations__[name]
            )
            for name, default in defaults.items()
        ]
        function.__signature__ = plain.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return function

    return decorate
