"""What the commands print: JSON, tables, and a progress bar that only a terminal sees."""

import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

SHOWN_FAILURES, SHOWN_NAMES = 20, 5  # lines of errors, inputs on one of them
LONGEST_LINE = 2000  # characters of an error: one line stays one that can be read


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on standard output; NaN and infinity, which JSON has not, become null."""
    print(json_text(values))


def json_text(values: dict[str, Any]) -> str:
    """One JSON object, as `print_json` prints it."""
    return json.dumps(_finite(values), indent=2)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned columns, two blanks apart, as wide as they need to be; bold headers on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # names of files may have brackets
    most = sum(max(len(line[i]) for line in [header, *rows]) + 4 for i in range(len(header)))
    console = Console(file=sys.stdout, highlight=False, width=most)  # a narrow terminal wraps, a pipe need not
    console.print(table)


OPTIONS = {
    r"\bcheck_mask=False": "--no-mask-check",
    r"\bdata_range=\.\.\.": "--data-range R",
    r"\bdata_range=\(low, high\)": "--data-range LOW HIGH",
    r"\bdata_range=(\d+)": r"--data-range \1",
    r"\bbox=None": "--no-box",
    r"\bstrength=\.\.\.": "--strength L",
    r"\bmax_memory(?= is )": "--max-memory",
    r"\bdevices(?= is )": "--devices",
    r"\bcheck_order=False": "--no-order-check",
    r"\bimage='(\w+)'": r"--image \1",
    r"\bkspace_order='(\w+)'": r"--kspace-order \1",
    r"\bmask_order='(\w+)'": r"--mask-order \1",
    r"\bschedule='(\w+)'": r"--schedule \1",
    r"\bbackend='(\w+)'": r"--backend \1",
    r"\bprecision='(\w+)'": r"--precision \1",
}


def first_sentence(documentation: str | None) -> str:
    """The first line of the help of a command; python -OO leaves no documentation."""
    return (documentation or "").strip().partition("\n")[0]


def message_of(error: BaseException | str) -> str:
    """What an error or a warning of the library says, its arguments named as on the command line."""
    message = str(error) or "not enough memory"
    for argument, option in OPTIONS.items():
        message = re.sub(argument, option, message)
    return message


def print_error(message: str) -> None:
    """One line on standard error."""
    _print_line(f"safi-fast: error: {message}")


def _print_line(message: str) -> None:
    """On standard error, which may be closed or full: then there is nobody to tell."""
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr)


def print_failures(failed: Sequence[dict[str, Any]]) -> None:
    """The `input` and `error` of each record, those that failed alike on one line."""
    inputs: dict[str, list[str]] = {}
    for record in failed:
        names = inputs.setdefault(record["error"], [])
        if record["input"] not in names[-1:]:  # slices of one input that fail alike
            names.append(record["input"])
    for error, names in list(inputs.items())[:SHOWN_FAILURES]:
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        print_error(f"{', '.join(names[:SHOWN_NAMES])}{more}: {error}")
    if len(inputs) > SHOWN_FAILURES:
        print_error(f"and {sum(map(len, list(inputs.values())[SHOWN_FAILURES:]))} more inputs failed")


def print_note(message: str) -> None:
    """One line on standard error."""
    _print_line(f"safi-fast: {message}")


def lost_names(records: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The entry `lost` of a report: what inputs said and outputs do not hold, each name once; none where nothing is
    lost.
    """
    names = sorted({name for record in records for name in record.get("lost", [])})
    return {"lost": names} if names else {}


def print_lost(records: Sequence[dict[str, Any]]) -> None:
    """What outputs do not hold that their inputs did: a line for each kind, with the first file it was lost from."""
    for name in lost_names(records).get("lost", []):
        files = [record["input"] for record in records if name in record.get("lost", [])]
        more = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
        print_warning(f"not carried over: {name}, of {files[0]}{more}")


def print_warning(message: str) -> None:
    """One line on standard error."""
    _print_line(f"safi-fast: warning: {message}")


@contextmanager
def warnings_as_lines(*, silent: bool = False) -> Iterator[None]:
    """Warnings of the library as `print_warning` prints them, not with a line of source code; not at all where
    `silent`.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in () if silent else caught:
        print_warning(message_of(str(warning.message)))


def print_warnings(warned: Sequence[tuple[Any, str]]) -> None:
    """The sentence of the first of these inputs, and how many others have one."""
    if warned:
        others = f" (and {len(warned) - 1} more)" if len(warned) > 1 else ""
        print_warning(f"{warned[0][0]}{others}: {warned[0][1]}")


class Warned:
    """Warnings of inputs, the first one printed before its work begins, so that nobody waits for it; the number of
    others at the end.
    """

    def __init__(self) -> None:
        self.others: list[Any] = []
        self._said = False

    def say(self, name: Any, sentence: str) -> None:
        """Print it, or count it."""
        if self._said:
            self.others.append(name)
        else:
            self._said = True
            print_warning(f"{name}: {sentence}")

    def finish(self) -> None:
        """How many others there were."""
        if self.others:
            more = f" and {len(self.others) - 1} more" if len(self.others) > 1 else ""
            print_warning(f"a warning like the first one is due to {self.others[0]}{more}; --json has them all")


def scientific(value: float | None) -> str:
    """A gap as people read it."""
    return "not reported" if value is None or math.isnan(value) else f"{value:.1e}"


@contextmanager
def progress(description: str, total: int, unit: str = "image") -> Iterator[Callable[..., None]]:
    """A bar with rate and remaining time on standard error; yields the function that counts one more image, or as many
    as it is told. It takes what there is to say of the present one, `note`, and a `total` that is known better.
    """
    if total == 0 or not sys.stderr.isatty():
        yield lambda count=1, note=None, total=None: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),  # names of files may have brackets
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, rate="", note="")
        current = bar.tasks[0]

        def advance(count: float = 1, note: str | None = None, total: float | None = None) -> None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            done = current.completed + count
            if current.elapsed and done:
                fields["rate"] = _rate(done / current.elapsed, unit)
            bar.update(task, advance=count, total=total, **fields)

        yield advance


def _rate(per_second: float, unit: str) -> str:
    return f"{per_second:.1f} {unit}s/s" if per_second >= 1 else f"{1 / per_second:.1f} s/{unit}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
