"""Arguments that several commands share, and the checks argparse runs on their values."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..noise_level import ESTIMATE
from ..values import EXPECTED, DataRange, stated_range
from .parser import Rare

SCHEDULES = ("unrolled", "converged", "gap")
BACKENDS = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "tf32", "bf16x3")


class UsageError(Exception):
    """The command line asks for something that cannot be meant; reported on one line, exit status 2."""


def local(text: str) -> str:
    """The name of a file or folder, which no URL is."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is a URL; expected a path (safi_fast.distributed reads from URLs in Python)"
        )
    return text


def local_path(text: str) -> Path:
    """`local`, as a path."""
    return Path(local(text))


def positive(text: str) -> float:
    """A finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def sigma(text: str) -> float | str:
    """A finite number above zero, or "estimate"."""
    if text == ESTIMATE:
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error} or {ESTIMATE!r}") from None


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
        "--strength", type=positive, metavar="L", help=Rare("lambda for images in [0, 1] (default: the model's own)")
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="where it runs (default: auto, a GPU if one can be used)"
    )
    add_precision_argument(parser)


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """--precision."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help=Rare("of the large sums on a GPU (default: float32)")
    )


def add_devices_argument(parser: argparse.ArgumentParser) -> None:
    """--devices."""
    parser.add_argument(
        "--devices",
        nargs="+",
        type=gpu,
        metavar="all|N",
        help=Rare("all, or the numbers of the GPUs that take the files in turn; name the inputs before it"),
    )


def gpu(text: str) -> int | str:
    """The number of a GPU, or "all" of them."""
    return text if text == "all" else _whole(text, 0, "'all' or the number of a GPU")


def devices_of(given: Sequence[int | str] | None) -> Any:
    """What `add_devices_argument` asks for, as Solver takes it."""
    return "all" if given is not None and list(given) == ["all"] else given and list(given)


def data_range(text: str) -> DataRange:
    """R, or LOW and HIGH as `join_ranges` leaves them."""
    try:
        numbers = [float(part) for part in text.split()]
        return stated_range(numbers[0] if len(numbers) == 1 else numbers)
    except ValueError:  # also InputError
        raise argparse.ArgumentTypeError(f"{text!r} is not {EXPECTED}") from None


def join_ranges(argv: Sequence[str]) -> list[str]:
    """The arguments with the one or two numbers after --data-range as one, which argparse cannot tell from the inputs
    that may follow.

    Raises UsageError where the second may be an input.
    """
    joined: list[str] = []
    for word in argv:
        if joined[-1:] == ["--data-range"] and _is_number(word):
            joined[-1] = f"--data-range={word}"
        elif joined and joined[-1].startswith("--data-range=") and " " not in joined[-1] and _is_number(word):
            low = joined[-1].removeprefix("--data-range=")
            if Path(word).exists():
                raise UsageError(
                    f"--data-range {low} {word}: is {word} the value of white, or the file or folder of that name? "
                    f"Write "
                    f"'--data-range={low} {word}' in quotes for the first, ./{word} for the second"
                )
            joined[-1] = f"{joined[-1]} {word}"
        else:
            joined.append(word)
    return joined


def add_range_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """What is white, or black and white."""
    parser.add_argument(
        "--data-range",
        type=data_range,
        metavar="R|LOW HIGH",
        help=f"value of white, or values of black and white (default: {default})",
    )


def add_box_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Bounds of the solution."""
    box = parser.add_mutually_exclusive_group()
    box.add_argument(
        "--box",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help=Rare(
            f"cut the image to these, 0 for black and 1 for white (default: {default}; what that would cut is refused)"
        ),
    )
    box.add_argument("--no-box", action="store_true", help=Rare("no bounds"))


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """The switch to output for machines."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else to standard output")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _whole(text: str, least: int, expected: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value
