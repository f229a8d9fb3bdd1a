"""Which outputs of a command are this process's to make; see `safi_fast.turns`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .. import turns
from ..turns import BY_OTHERS, EXISTS, Skipped, Turn, in_turn
from .output import print_note

__all__ = ["BY_OTHERS", "EXISTS", "Skipped", "Turn", "Turns", "in_turn", "skipped_words"]


class Turns(turns.Turns):
    """The claims of a command, which says when it waits."""

    def __init__(self, *, overwrite: bool, folders: Collection[Path] = ()):
        super().__init__(overwrite=overwrite, say=print_note, folders=folders)


def skipped_words(reasons: list[str]) -> list[str]:
    """How many outputs were skipped, and why, as parts of a sentence."""
    existing, others = reasons.count(EXISTS), reasons.count(BY_OTHERS)
    parts = [f"{existing} skipped because {EXISTS} (--overwrite replaces it)"] if existing else []
    return [*parts, f"{others} {BY_OTHERS}"] if others else parts
