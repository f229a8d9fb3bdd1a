"""Files that appear whole or not at all: written beside their place under another name, then moved."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ImageFileError, SafiError
from .owners import new_owner, owner_in

PREFIX, SCRATCH = ".safi-fast.", ".part"  # of hidden files that are gone when a process ends in order
DAY = 86400.0

_swept: set[Path] = set()  # a folder is listed once a process, not once a file


def write_atomically(path: Path, data: bytes, error_type: type[SafiError] = ImageFileError) -> None:
    """Write `data` to `path`; on any failure the folder is as it was, an older file of that name included.

    A file that is replaced keeps its permissions; a link is followed. Raises `error_type` where the system refuses, and
    where `path` is a folder, a device or a pipe.

    A process that is killed so hard that it cannot clean up (SIGKILL, power) leaves at most a hidden scratch file,
    whose name says whose it is; the next process that writes into the folder removes it.
    """
    try:
        target, mode = _place(path)
        _sweep_once(target.parent)
        with scratch_file(target.parent, data, durable=True) as scratch:
            if mode is not None:
                with suppress(OSError):  # a file system without permissions
                    scratch.chmod(mode)
            scratch.replace(target)
    except OSError as error:
        raise error_type(f"{path}: cannot be written ({reason(error)})") from error


def write_folder(
    folder: Path, names: Sequence[str], contents: Iterable[bytes], error_type: type[SafiError] = ImageFileError
) -> None:
    """Write a folder of files, which is there whole or not at all; its parent exists. What is replaced is empty, or
    holds no other files than these.

    On any failure all is as it was. A process that is killed leaves the older folder, or none: its own is hidden, and
    removed as the scratch files of `write_atomically` are. Raises `error_type`.
    """
    try:
        target = Path(os.path.realpath(folder))
        others = sorted({path.name for path in target.iterdir()} - set(names)) if target.exists() else []
        if others:
            raise error_type(f"{folder}: holds {others[0]}, which is not of this result; choose another folder")
        _sweep_once(target.parent)
        with _scratch_folder(target.parent) as scratch, _scratch_folder(target.parent) as aside:
            for name, data in zip(names, contents, strict=True):
                _write_new(scratch / name, data, durable=True)
            older = aside / target.name
            try:
                if target.exists():
                    target.rename(older)
                scratch.rename(target)
            except BaseException:
                if older.exists() and not target.exists():
                    older.rename(target)
                raise
    except OSError as error:
        if isinstance(error, SafiError):
            raise
        raise error_type(f"{folder}: cannot be written ({reason(error)})") from error


def copy_folder(copy: Callable[[Path], object], target: Path, error_type: type[SafiError] = ImageFileError) -> None:
    """What `copy(folder)` writes to a new folder, there whole or not at all. A folder that is there stays as it is.

    What is made of it until then lies beside the folder that `target` is in, on its file system. Raises `error_type`.
    """
    if target.exists():
        return
    try:
        with _scratch_folder(_beside(target.parent)) as scratch:
            copy(scratch / target.name)
            try:
                (scratch / target.name).rename(target)
            except OSError:
                if not target.exists():  # made by another process meanwhile
                    raise
    except OSError as error:
        if isinstance(error, SafiError):
            raise
        raise error_type(f"{target}: cannot be copied ({reason(error)})") from error


def _beside(folder: Path) -> Path:
    """The folder around it, or itself where that is another file system, which nothing can be moved from."""
    around = folder.resolve().parent
    return around if around.stat().st_dev == folder.stat().st_dev else folder


@contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder of this process alone; gone at the end, unless it was moved. Raises OSError."""
    scratch = parent / f"{PREFIX}{new_owner()}{SCRATCH}"
    try:
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def append_line(path: Path, line: str, error_type: type[SafiError] = ImageFileError) -> None:
    """Add a line to a log. A process that is killed may leave a part of it. Raises `error_type`."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")
    except OSError as error:
        raise error_type(f"{path}: cannot be written ({reason(error)})") from error


def prepare_folder(folder: Path) -> float:
    """Make `folder` if it is missing and find out now, not after the work, whether it can be written; the time there.

    Removes what processes that have ended left in it. Raises ImageFileError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        return time_of(folder)
    except OSError as error:
        raise ImageFileError(f"{folder}: the output folder cannot be written ({reason(error)})") from error


@contextmanager
def scratch_file(folder: Path, data: bytes, *, durable: bool) -> Iterator[Path]:
    """A file of this process alone that holds `data`; gone at the end, unless it was moved. durable: it has reached the
    disk.

    Raises OSError.
    """
    scratch = folder / f"{PREFIX}{new_owner()}{SCRATCH}"
    try:
        _write_new(scratch, data, durable=durable)
        yield scratch
    finally:  # also for KeyboardInterrupt and SystemExit; after a success there is nothing to remove
        remove_quietly(scratch)


def time_of(folder: Path) -> float:
    """The time now in the clock of the file system, which may be another machine's. Raises OSError."""
    with scratch_file(folder, b"", durable=False) as probe:
        return probe.stat().st_mtime


def sweep(folder: Path, *, own: bool = False) -> None:
    """Remove scratch files of processes that have ended, never those of one that runs; of other hosts, those of a day
    ago.

    own: those of this process too, where it has nothing more to write.
    """
    for path in hidden_files(folder, SCRATCH):
        owner = owner_in(path.name[len(PREFIX) :])
        runs = owner.runs() if owner else None
        if own and owner and owner.is_own():
            runs = False
        with suppress(OSError):
            if runs is False or (runs is None and time.time() - path.stat().st_mtime > DAY):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_new(path: Path, data: bytes, *, durable: bool) -> None:
    """A file that is not there yet. Raises OSError."""
    with path.open("xb") as stream:
        stream.write(data)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def _sweep_once(folder: Path) -> None:
    if folder not in _swept:
        sweep(folder)
        _swept.add(folder)


def hidden_files(folder: Path, *suffixes: str) -> list[Path]:
    """The files of this package in `folder` that end so; none where it cannot be listed."""
    with suppress(OSError), os.scandir(folder) as entries:
        return [
            Path(entry.path) for entry in entries if entry.name.startswith(PREFIX) and entry.name.endswith(suffixes)
        ]
    return []


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name; False too where the name itself is impossible, which its use will say."""
    try:
        return path.is_dir()
    except OSError:
        return False


def remove_quietly(path: Path) -> None:
    """Remove a file if that can be done: where it cannot, the folder itself is the problem, which is reported
    elsewhere.
    """
    with suppress(OSError):
        path.unlink()


def real(path: Path) -> Path:
    """Where the links of a path lead; a loop of them leads nowhere, and is no error before it is opened."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError


def reason(error: OSError) -> str:
    """What the system said, in lower case as part of a sentence."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def _place(path: Path) -> tuple[Path, int | None]:
    """Where `path` leads through links, and the permissions of the file there.

    Raises OSError where no file can be put.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not an ordinary file")
    return target, stat.S_IMODE(mode)
