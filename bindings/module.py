"""The text of a kernel file with its own headers inlined, as it is compiled everywhere: by NVRTC on a GPU, by g++ in
tests/emulator.

Inlined, because compilers and their caches then see a change in a header: the text is the key.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "kernels" / "cuda"  # beside bindings/, in a checkout and installed

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)".*$', re.MULTILINE)

_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once\b", re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text of kernels/cuda/<name>.cu as `Device.module` takes it.

    Raises ValueError for a name that is not there.
    """
    path = KERNELS / f"{name}.cu"
    if not path.is_file():
        present = ", ".join(sorted(file.stem for file in KERNELS.glob("*.cu"))) or "none"
        raise ValueError(f"no kernel file {path.name}; there are: {present}")
    return inline_headers(path)


def inline_headers(path: Path, folders: tuple[Path, ...] = ()) -> str:
    """The text of `path`, every `#include "name"` replaced by that file: found beside it or in `folders`, once each.

    `#line` directives keep the places of the originals in messages of compilers and checkers; `#pragma once` is
    dropped.
    """
    return _expand(path, folders, set())


def _expand(path: Path, folders: tuple[Path, ...], seen: set[Path]) -> str:
    seen.add(path.resolve())
    text = _ONCE.sub("", path.read_text(encoding="utf-8"))
    pieces = [f'#line 1 "{path.name}"\n']
    position = 0
    for match in _INCLUDE.finditer(text):
        pieces.append(text[position : match.start()])
        header = _find(match[1], path, folders)
        if header.resolve() not in seen:
            pieces.append(_expand(header, folders, seen))
        next_line = text.count("\n", 0, match.end()) + 2
        pieces.append(f'#line {next_line} "{path.name}"')
        position = match.end()
    pieces.append(text[position:])
    if not text.endswith("\n"):
        pieces.append("\n")
    return "".join(pieces)


def _find(name: str, includer: Path, folders: tuple[Path, ...]) -> Path:
    for folder in (includer.parent, *folders):
        if (folder / name).is_file():
            return folder / name
    searched = ", ".join(str(folder) for folder in (includer.parent, *folders))
    raise FileNotFoundError(f'{includer.name} includes "{name}", which is in none of: {searched}')
