"""Arguments that several commands share, and the checks argparse runs on their values."""

import argparse
import math
from typing import Any

SCHEDULES = ("unrolled", "converged", "gap")
BACKENDS = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "tf32", "bf16x3")


class UsageError(Exception):
    """The command line asks for something that cannot be meant; reported on one line, exit status 2."""


def positive(text: str) -> float:
    """A finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def count(text: str) -> int:
    """A whole number from one."""
    return _whole(text, 1, "a whole number of at least 1")


def size(text: str) -> float:
    """Bytes, as a number with or without KB, MB, GB or TB (powers of 1000)."""
    number = text.strip().upper().removesuffix("B")
    factor = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(number[-1:], 1.0)
    try:
        value = float(number if factor == 1 else number[:-1]) * factor
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 4GB")
    return value


def seed(text: str) -> int:
    """A whole number from zero."""
    return _whole(text, 0, "a whole number of at least 0")


def add_solver_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides how a model is run."""
    parser.add_argument(
        "--model", metavar="NAME|PATH", help="a shipped model or a .safetensors file (default: the shipped one)"
    )
    parser.add_argument(
        "--schedule", choices=SCHEDULES, help="how steps are counted and stopped (default: the model's own)"
    )
    parser.add_argument(
        "--strength", type=positive, metavar="L", help="lambda for images in [0, 1] (default: the model's own)"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="where it runs (default: auto, a GPU if one can be used)"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the large sums on a GPU (default: float32)"
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """The switch to output for machines."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else to standard output")


def solver_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that go to `Solver.denoise` as they are, without those that were not given."""
    names = ("schedule", "strength", "max_outer", "max_inner", "tol")
    given = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def _whole(text: str, least: int, expected: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value
