"""The files that a run will write, known and distinct before it starts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import is_folder
from ..claims import folded
from .arguments import UsageError
from .output import message_of

SLICE = re.compile(r"(.+)_\d{3,}", re.DOTALL)


@dataclass(frozen=True)
class Job:
    """One input and where its results go: a file, or a folder. is_series: both are folders, each a whole."""

    source: Path
    target: Path
    is_folder: bool = False
    is_series: bool = False

    @property
    def folder(self) -> Path:
        """Where its results lie."""
        return self.target if self.is_folder else self.target.parent

    def record(self, status: str, target: Path | None = None, **facts: Any) -> dict[str, Any]:
        """What the report says of one output. target: which one, of several."""
        return {"input": str(self.source), "output": str(target or self.target), "status": status, **facts}

    def failure(self, error: BaseException, target: Path | None = None) -> dict[str, Any]:
        """The record of an output that could not be made."""
        return self.record("failed", target, error=message_of(error).removeprefix(f"{self.source}: "))


@dataclass(frozen=True)
class Output:
    """A file that will be written, and what for, as the user knows it: an input or an option."""

    path: Path
    source: str


def plan(
    sources: Sequence[Path],
    inputs: Sequence[str | Path],
    output: str,
    *,
    noun: str = "inputs",
    is_file_name: Callable[[Path], bool] = lambda _: True,
    in_slices: bool = False,
) -> list[Job]:
    """Which of the sources, found in `inputs`, goes where; `check_outputs` is to follow. Raises UsageError.

    noun: what the sources are. is_file_name: whether a target with an extension can be a file. in_slices: a folder gets
    files of the slices of a source, not one of its name.
    """
    target = Path(output)
    several = len(sources) > 1 or is_folder(Path(inputs[0]))
    as_folder = is_folder(target) or output.endswith("/") or not target.suffix or (several and not is_file_name(target))
    if several and not as_folder:
        raise UsageError(f"several {noun} need a folder to go to, and {target} is named like a file")
    if not as_folder and not is_file_name(target):
        raise UsageError(
            f"{target}: unsupported extension {target.suffix!r}; a folder needs a name without one or a final /"
        )
    if as_folder and not in_slices:
        return [Job(source, target / source.name) for source in sources]
    return [Job(source, target, as_folder) for source in sources]


def check_outputs(outputs: Iterable[Output], inputs: Iterable[Path]) -> None:
    """Refuse outputs that meet, also on a file system that does not tell case, and those that are inputs.

    Raises UsageError.
    """
    real = _RealFolders()
    originals: dict[str, list[Path]] = {}
    for path in inputs:
        originals.setdefault(folded(real.key(path)), []).append(path)
    writers: dict[str, Output] = {}
    for output in outputs:
        first = writers.setdefault(real.key(output.path), output)
        if first is not output:
            alike = f" ({first.path.name} where case does not count)"
            if first.path.name == output.path.name:
                alike = ""
            elif folded(first.path.name) != folded(output.path.name):
                alike = f": {first.path} and that are one file through links"
            raise UsageError(
                f"{first.source} and {output.source} would both be written to {output.path}{alike}; "
                "give one of them a run with another -o, or another name"
            )
        for original in originals.get(folded(real.key(output.path)), ()):
            if _is_same(output.path, original):
                raise UsageError(f"{output.path} is an input and would be overwritten; choose another output")


def slice_name(source: Path, number: int, slices: int, suffix: str) -> str:
    """The name of what slice `number` of an input becomes in a folder: NAME_000 where it has several, else NAME."""
    return f"{source.stem}{f'_{number:03d}' if slices > 1 else ''}{suffix}"


def natural(path: Path | str) -> list[tuple[int, str]]:
    """A key to sort names by in which slice 101 comes before slice 1000."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def slice_outputs(
    folder: Path, sources: Sequence[Path], suffix: str, label: str, numbers: Callable[[Path], tuple[range, int]]
) -> list[Output]:
    """What the slices of all inputs become in `folder`, as far as names can meet. label: of an input, as in "{}".

    numbers(source): which of its slices are solved, and how many it has. Asked only where another input is named like
        one of its slices, because it reads the file.
    """
    bases = {match[1] for source in sources if (match := SLICE.fullmatch(folded(source.stem)))}
    outputs = []
    for source in sources:
        asked, slices = numbers(source) if folded(source.stem) in bases else (range(1), 1)
        names = [slice_name(source, number, slices, suffix) for number in asked]
        outputs += [Output(folder / name, label.format(source)) for name in names]
    return outputs


class _RealFolders:
    """Where folders lie, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def key(self, path: Path) -> str:
        """Equal for names of one folder that may be one file."""
        with suppress(OSError):  # of an impossible name, which its use will say
            path = Path(os.path.realpath(path)) if path.is_symlink() else path
        if path.parent not in self._known:
            self._known[path.parent] = os.path.realpath(path.parent)
        return f"{self._known[path.parent]}/{folded(path.name)}"


def _is_same(output: Path, original: Path) -> bool:
    """Whether two paths that differ in case at most are one file."""
    if os.path.realpath(output) == os.path.realpath(original):
        return True
    try:
        return output.samefile(original)
    except OSError:
        return False
