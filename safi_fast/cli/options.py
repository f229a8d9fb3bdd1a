"""The arguments of a command as one frozen, typed value, made at the edge; options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..values import Box, DataRange
from .arguments import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """What `add_solver_arguments` asks for."""

    model: str | None
    schedule: str | None
    strength: float | None
    backend: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """What `add_range_argument` and `add_box_arguments` ask for."""

    data_range: DataRange | None
    box: Box | None
    no_box: bool


def made(kind: type[Made], args: argparse.Namespace, **others: Any) -> Made:
    """The dataclass with the arguments of its fields' names, lists as tuples; `others` are fields without an argument.

    Raises AttributeError where a field has neither.
    """
    values = {field.name: getattr(args, field.name) for field in fields(kind) if field.name not in others}
    make: Callable[..., Made] = kind
    return make(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}, **others)


def stated(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def check_box(options: ScaleOptions) -> None:
    """Raise UsageError where --box is upside down."""
    if options.box and not options.box[0] < options.box[1]:
        raise UsageError(f"--box {options.box[0]:g} {options.box[1]:g}: expected LOW below HIGH")


def box_option(options: ScaleOptions) -> dict[str, Box | None]:
    """`box` as it was asked for; nothing where it was not."""
    if options.no_box:
        return {"box": None}
    return {"box": options.box} if options.box else {}
