"""Files that appear whole or not at all: written beside their place under another name, then moved."""

import glob
import os
import secrets
from contextlib import suppress
from pathlib import Path

from .errors import ImageFileError, SafiError


def write_atomically(path: Path, data: bytes, error_type: type[SafiError] = ImageFileError) -> None:
    """Write `data` to `path`; on any failure the folder is as it was, an older file of that name included.

    Raises `error_type` where the system refuses.

    A process that is killed so hard that it cannot clean up (SIGKILL, power) leaves at most a hidden
    `.NAME.xxxxxxxx.part`; the next write of the same file removes it.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        _remove_stale(path)
        with scratch.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except OSError as error:
        raise error_type(f"{path}: cannot be written ({reason(error)})") from error
    finally:  # also for KeyboardInterrupt and SystemExit; after a success there is nothing to remove
        _remove_quietly(scratch)


def prepare_folder(folder: Path) -> None:
    """Make `folder` if it is missing and find out now, not after the work, whether it can be written."""
    probe = folder / f".safi-fast.{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.open("xb").close()
    except OSError as error:
        raise ImageFileError(f"{folder}: the output folder cannot be written ({reason(error)})") from error
    finally:
        _remove_quietly(probe)


def real(path: Path) -> Path:
    """Where the links of a path lead; a loop of them leads nowhere, and is no error before it is opened."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError


def reason(error: OSError) -> str:
    """What the system said, in lower case as part of a sentence."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def _remove_stale(path: Path) -> None:
    for stale in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.part"):
        _remove_quietly(stale)


def _remove_quietly(path: Path) -> None:
    with suppress(OSError):  # not there, or the folder itself is the problem, which is already being reported
        path.unlink()
