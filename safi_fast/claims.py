"""Outputs that one process makes while any number of them share a folder.

A claim is a hidden file `.safi-fast.NAME.lock` beside the output. It is created exclusively, names its process, and is
touched every minute. It is void when that process has ended; where that cannot be seen, on another host, when it was
not touched for ten minutes. A void claim is removed under a guard, a second file that is created exclusively and named
after the content of the claim: of two processes that find the same void claim one removes it, and neither removes what
the other has put in its place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
import unicodedata
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .atomic import PREFIX, hidden_files, reason, remove_quietly, scratch_file, sweep, time_of
from .errors import ImageFileError
from .owners import Owner, new_owner, owner_in

LOCK, GUARD = ".lock", ".guard"
TOUCH_EVERY, PATIENCE = 60.0, 600.0  # seconds
LONGEST_NAME = 200  # bytes; file systems allow 255
WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


def folded(name: str) -> str:
    """What two file names have in common that some file systems take for one: case, and how accents are encoded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class Claims:
    """The outputs that this process is making. Closing lets go of all of them."""

    def __init__(self) -> None:
        self._held: dict[Path, Owner] = {}
        self._mutex = threading.RLock()
        self._ended = threading.Event()
        self._toucher: threading.Thread | None = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether nothing can be claimed any more."""
        return self._ended.is_set()

    def take(self, target: Path) -> bool:
        """Whether `target` is from now on this process's to make; False: another has it. Raises ImageFileError."""
        lock, owner = _lock_of(target), new_owner()
        with self._mutex:
            if self.closed or lock in self._held:
                return False
            self._held[lock] = owner  # before the file is there: an interruption in between leaves none
            try:
                taken = _create(lock, owner) or (_free(lock) and _create(lock, owner))
            except OSError as error:
                del self._held[lock]
                raise ImageFileError(f"{target}: cannot be written ({reason(error)})") from error
            if taken:
                self._keep_touching()
            else:
                del self._held[lock]
            return taken

    def release(self, target: Path) -> None:
        """Let go of `target`, if it is claimed."""
        self._let_go(_lock_of(target))

    def close(self) -> None:
        """Let go of all; nothing can be claimed afterwards."""
        self._ended.set()
        with self._mutex:
            for lock in list(self._held):
                self._let_go(lock)

    def _let_go(self, lock: Path) -> None:
        with self._mutex, suppress(OSError):
            owner = self._held.get(lock)
            if owner is not None and owner_in(_content(lock)) == owner:  # else it was taken over, or never there
                lock.unlink()
            self._held.pop(lock, None)

    def _keep_touching(self) -> None:
        if self._toucher is None:
            self._toucher = threading.Thread(target=self._touch, name="safi_fast.claims", daemon=True)
            self._toucher.start()

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_EVERY):
            for lock in list(self._held):
                with suppress(OSError):
                    os.utime(lock)


def holder(target: Path) -> str | None:
    """Which process makes `target`, in words; None: none that runs."""
    try:
        content = _content(lock := _lock_of(target))
        if not _is_valid(lock, content):
            return None
    except OSError:
        return None
    owner, _, host = content.strip().partition(" ")
    found = owner_in(owner)
    return f"process {found.pid} on {host}" if found else "another process"


def clear(folder: Path) -> None:
    """Remove all void claims and guards in `folder`."""
    for path in hidden_files(folder, LOCK, GUARD):
        with suppress(OSError):
            _free(path)


def _lock_of(target: Path) -> Path:
    name = folded(target.name)
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return target.with_name(f"{PREFIX}{name}{LOCK}")


def _create(path: Path, owner: Owner) -> bool:
    """Make a file that says whose it is, unless there is one already. Raises OSError."""
    content = f"{owner} {socket.gethostname()}\n".encode()
    try:
        with scratch_file(path.parent, content, durable=False) as scratch:
            os.link(scratch, path)  # exclusive as O_EXCL is, but never seen empty, not even after a kill
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
    try:
        with path.open("xb") as stream:
            stream.write(content)
        return True
    except FileExistsError:
        return False
    except OSError:
        remove_quietly(path)
        raise


def _content(path: Path) -> str:
    """What a claim or guard says; nothing where another user keeps it to himself. Raises OSError."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except PermissionError:
        return ""


def _is_valid(path: Path, content: str) -> bool:
    """Whether the process that a claim or guard names may still be at work. Raises OSError."""
    owner = owner_in(content)
    runs = owner.runs() if owner else None
    return time_of(path.parent) - path.stat().st_mtime < PATIENCE if runs is None else runs


def _free(path: Path) -> bool:
    """Remove a void claim or guard. False: it is valid, or another process is just removing it. Raises OSError."""
    try:
        content = _content(path)
        if _is_valid(path, content):
            return False
    except FileNotFoundError:
        return True
    key = hashlib.sha256(f"{path.name}\n{content}".encode()).hexdigest()[:24]
    guard = path.with_name(f"{PREFIX}{key}{GUARD}")
    if not (_create(guard, new_owner()) or (_free(guard) and _create(guard, new_owner()))):
        return False
    try:
        if _content(path) == content:  # nobody else removes it now
            path.unlink()
            sweep(path.parent)
    except FileNotFoundError:
        pass
    finally:
        remove_quietly(guard)
    return True
