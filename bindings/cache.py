"""What has to be settled before the kernels are imported: above all where Numba keeps compiled kernels.

Compiled kernels lie beside their sources where that folder can be written, or where NUMBA_CACHE_DIR says. Else, as in
an installation of somebody else's, they lie in the user's cache folder, and where that cannot be written either, in a
folder for this user in the system's folder for temporary files. The last two are named after the sources, so that
they never hold kernels of others, and begin with a copy of what lies beside the sources: an image of a container or a
shared installation can be warmed up once for all.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..atomic import write_atomically
from ..errors import BackendError
from .aligned import is_kernel
from .threads import check_environment, let_threads_sleep

KERNELS = Path(__file__).resolve().parent.parent / "kernels" / "cpu"  # beside bindings/, in a checkout and installed
PACKAGE = f"{__package__.rpartition('.')[0]}.kernels.cpu"
STAMP = "sources.sha256"
COMPILED = ("*.nbi", "*.nbc")


@cache
def prepare_kernels() -> None:
    """Import all CPU kernels, ready to be compiled or to be loaded from where they were kept. Imports Numba.

    Raises BackendError where the environment keeps Numba from working, or kernels from being kept.
    """
    check_environment()
    let_threads_sleep()
    beside = KERNELS / "__pycache__"
    if os.environ.get("NUMBA_CACHE_DIR"):
        _import_kernels()
        discard_stale_kernels(compiled=_kept_in())
        return
    if can_write(beside):
        discard_stale_kernels()
        _import_kernels()
        return
    folder = fallback_folder(source_hash())
    with _numba_keeps_in(folder):
        _import_kernels()
    seed(_kept_in(), beside)


def missing_kernels(kinds: Iterable[tuple[str, str]]) -> list[str]:
    """The names of those kernels (name, class of an argument) that do not lie compiled where they are kept; imports
    them.
    """
    prepare_kernels()
    kept = {path.name.split("-")[0].partition(".")[2]: path.read_bytes() for path in _kept_in().glob(COMPILED[0])}
    return [name for name, kind in kinds if not re.search(rb"\b%s\b" % kind.encode(), kept.get(name, b""))]


@contextmanager
def watch_compiler(compiled: Callable[[str], None]) -> Iterator[None]:
    """In this context `compiled` is told the name of every kernel that has just been compiled."""
    event = importlib.import_module("numba.core.event")

    def ended(happened: Any) -> None:
        kernel = happened.data["dispatcher"]
        if happened.is_end and is_kernel(kernel):
            compiled(kernel.py_func.__name__)

    class Listener(event.Listener):  # type: ignore[misc, name-defined]
        on_start = on_end = staticmethod(ended)

    with event.install_listener("numba:compile", Listener()):
        yield


def _kept_in() -> Path:
    """Where Numba keeps the kernels that are imported. It looks there when one is called, not before."""
    return Path(importlib.import_module(f"{PACKAGE}.fft").fft32.stats.cache_path)


def discard_stale_kernels(folder: Path | None = None, compiled: Path | None = None) -> None:
    """Delete compiled kernels that were made from other sources.

    Numba looks at the file of a kernel alone, not at those it imports: after an update of a checkout it would run old
    code without a sign, or trip over the name of an argument that is no longer there. A stamp with the hash of all
    sources lies beside the compiled kernels; where it cannot be written, nothing is done.
    """
    folder = KERNELS if folder is None else folder
    compiled = folder / "__pycache__" if compiled is None else compiled
    stamp, sources = compiled / STAMP, source_hash(folder)
    with suppress(OSError):
        if stamp.is_file() and stamp.read_text() == sources:
            return
        compiled.mkdir(parents=True, exist_ok=True)
        for pattern in COMPILED:
            for path in compiled.glob(pattern):
                path.unlink(missing_ok=True)
        write_atomically(stamp, sources.encode())


def source_hash(folder: Path | None = None) -> str:
    """SHA-256 of all kernel sources."""
    folder = KERNELS if folder is None else folder
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def can_write(folder: Path) -> bool:
    """Whether a file can be made in `folder`, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def fallback_folder(sources: str) -> Path:
    """The first of the user's folders that can be written and that nobody else can write to."""
    for base in _user_folders():
        folder = base / sources[:16]
        with suppress(OSError):
            for made in (base, folder):
                made.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_private(base) and is_private(folder) and can_write(folder):
                return folder
    passing = tempfile.mkdtemp(prefix="safi_fast-")
    atexit.register(shutil.rmtree, passing, ignore_errors=True)
    return Path(passing)


def is_private(folder: Path) -> bool:
    """Whether `folder` is no link, belongs to this user and can be written by no other: compiled kernels are code
    that will be run.
    """
    if not hasattr(os, "getuid"):
        return True
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def seed(target: Path, beside: Path) -> None:
    """Copy kernels compiled from these very sources into an empty `target`."""
    with suppress(OSError):
        if any(target.glob(COMPILED[0])) or (beside / STAMP).read_text() != source_hash():
            return
        target.mkdir(parents=True, exist_ok=True)
        for pattern in reversed(COMPILED):  # the index of a kernel last: what it lists is there
            for path in beside.glob(pattern):
                write_atomically(target / path.name, path.read_bytes())


def _user_folders() -> Iterable[Path]:
    with suppress(RuntimeError):  # no home folder is known
        if sys.platform == "darwin":
            yield Path.home() / "Library" / "Caches" / "safi_fast"
        elif sys.platform == "win32":
            yield Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "safi_fast"
        else:
            yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safi_fast"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    yield Path(tempfile.gettempdir()) / f"safi_fast-{user}"


@contextmanager
def _numba_keeps_in(folder: Path) -> Iterator[None]:
    """Kernels imported in this context are kept in `folder`; those of other packages stay where they are."""
    config = importlib.import_module("numba").config
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def _import_kernels() -> None:
    try:
        for path in sorted(KERNELS.glob("*.py")):
            if path.stem != "__init__":
                importlib.import_module(f"{PACKAGE}.{path.stem}")
    except (RuntimeError, OSError) as error:  # Numba finds no folder, or one that it cannot write to
        if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
            raise
        raise BackendError(
            "compiled kernels cannot be stored; set NUMBA_CACHE_DIR to a folder that can be written"
        ) from error
