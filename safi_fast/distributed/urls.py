"""Files and Zarr stores that lie elsewhere, by the URLs of fsspec, such as s3://bucket/name or memory://name.

They are read, never written: blocks and claims need a file system. How to reach a store, as by which account, fsspec
reads from its own configuration and from the environment.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import BackendError, ImageFileError, InputError, shown
from ..io import list_images
from ..io.images import is_image_name
from .packages import require

OF_THE_WEB = ("http", "https")


def located(name: str, place: Any) -> Path | str:
    """A path for a path and for a file:// URL, another URL as it is. Raises InputError, which names the argument."""
    if isinstance(place, Path):
        return place
    if not isinstance(place, str):
        raise InputError(f"{name} has {shown(place)}; expected paths or URLs")
    if "://" not in place:
        return Path(place)
    parts = urlsplit(place)
    if parts.scheme != "file":
        return place
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{name} has {shown(place)}, which is on another machine; expected a path that this one sees")
    return Path(unquote(parts.path))


def local_path(name: str, place: Any) -> Path:
    """A path for a path or a file:// URL. Raises InputError for other URLs."""
    found = located(name, place)
    if isinstance(found, Path):
        return found
    raise InputError(f"{name} is {shown(place)}; expected a folder of a file system: results and the claims of those "
                     "who make them are not written to other stores")  # fmt: skip


def sources(name: str, places: Iterable[Any]) -> list[Path | str]:
    """Every file of paths, folders and URLs, in their order. Raises InputError, ImageFileError, BackendError."""
    found: dict[Path | str, None] = {}
    for is_path, group in groupby([located(name, place) for place in places], lambda place: isinstance(place, Path)):
        some = list(group)
        found.update(dict.fromkeys(list_images(some) if is_path else [f for url in some for f in _files_at(str(url))]))
    return list(found)


def name_of(source: Path | str) -> str:
    """The last part of a path or URL, without a query."""
    if isinstance(source, Path):
        return source.name
    first = source.partition("::")[0]  # of the parts of a chain, as of a file in an archive
    parts = urlsplit(first)
    return (unquote(parts.path) if parts.scheme in OF_THE_WEB else first).rstrip("/").rpartition("/")[2]


@contextmanager
def here(source: Path | str) -> Iterator[Path]:
    """A file of this machine: the path itself, or a copy for a while. Errors name the URL. Raises ImageFileError."""
    if isinstance(source, Path):
        yield source
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / name_of(source)
        _fetch(source, copy)
        try:
            yield copy
        except ImageFileError as error:
            raise ImageFileError(str(error).replace(str(copy), source)) from error


def copier(source: Path | str) -> Callable[[Path], object]:
    """What copies a folder, or what lies below a URL, to a folder that is not there yet."""
    if isinstance(source, Path):
        return lambda target: shutil.copytree(source, target)
    return lambda target: _fetch_below(source, target)


def _fetch_below(url: str, folder: Path) -> None:
    system, root = file_system(url)
    with reaching(url):
        for path in system.find(root):
            target = folder / path[len(root) :].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(target))


def _fetch(url: str, copy: Path) -> None:
    system, path = file_system(url)
    with reaching(url):
        system.get_file(path, str(copy))


def _files_at(url: str) -> list[str]:
    """The URL of a file, or of the images of a folder, sorted, without its sub-folders."""
    system, path = file_system(url)  # which says at once what is missing to reach it
    if is_image_name(Path(name_of(url))):
        return [url]
    with reaching(url):
        names = sorted(system.ls(path, detail=False))
    images = [name for name in names if is_image_name(Path(name)) and name_of(name)[0] != "."]
    if not images:
        raise ImageFileError(f"{url}: there are no images")
    archive = url.partition("::")[2]  # which a folder of files in one lies in
    return [str(system.unstrip_protocol(name)) + (f"::{archive}" if archive else "") for name in images]


def file_system(url: str) -> tuple[Any, str]:
    """Of fsspec, and the path in it. Raises BackendError where a package is missing, InputError for an unknown one,
    ImageFileError where it cannot be reached: some connect, or open an archive, at once.
    """
    core = require("fsspec.core", f"{url.partition('://')[0]}://")
    try:
        with reaching(url, but=(ImportError, ValueError)):
            system, path = core.url_to_fs(url)
    except ImportError as error:
        raise BackendError(f"{url}: {error}") from error
    except ValueError as error:
        raise InputError(f"{url}: {str(error)[:1].lower()}{str(error)[1:]}") from error
    return system, path


@contextmanager
def reaching(url: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """In which what a store raises, of whatever type but those, is an ImageFileError."""
    try:
        yield
    except but:
        raise
    except FileNotFoundError as error:
        raise ImageFileError(f"{url}: there is no such file or folder") from error
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageFileError(f"{url}: cannot be read ({detail})") from error
