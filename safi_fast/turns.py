"""Which outputs of a run are this process's to make, where others may work on the same folder."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from .atomic import prepare_folder, reason, sweep
from .claims import Claims, clear, holder
from .errors import ImageFileError

if TYPE_CHECKING:
    from typing_extensions import Self

Item = TypeVar("Item")

EXISTS, BY_OTHERS = "the output exists", "solved by another process"
FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0  # seconds between two looks at outputs of others


class Skipped(Exception):  # noqa: N818 - no error: it takes the place of a result
    """An output that this run need not make, and why."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


Turn = Skipped | bool  # True: make it now. False: another process is making it
State = tuple[int, int, int] | None  # of an output of before a run; None: it was made since


@dataclass(frozen=True)
class Begun:
    """What a run has found when it began, for the other processes of it: the time in its folders, and the outputs."""

    since: dict[Path, float]
    seen: dict[Path, State]


class Turns:
    """The claims of a run on its outputs. Closing lets go of them."""

    def __init__(
        self, *, overwrite: bool, say: Callable[[str], None] | None = None, begun: Begun | None = None,
        folders: Collection[Path] = (),
    ):  # fmt: skip
        """overwrite: replace outputs of before this run. say: where it is told that the run waits; None: nowhere.
        begun: of a run that this process is a part of, whose folders others have prepared. folders: the outputs that
        are folders, each there as a whole; an empty one is none.
        """
        self.overwrite = overwrite
        self._folders = frozenset(folders)
        self._say = say
        self._claims = Claims()
        self._since: dict[Path, float] = dict(begun.since) if begun else {}
        self._seen: dict[Path, State] = dict(begun.seen) if begun else {}
        self._prepared: list[Path] = []
        self._announced = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claims.close()
        for folder in self._prepared:  # what an interruption in the middle of a clean-up left
            sweep(folder, own=True)

    def prepare(self, folders: Iterable[Path]) -> None:
        """Make the folders, and remove what processes that have ended left there. Raises ImageFileError."""
        for folder in folders:
            self._since[folder] = prepare_folder(folder)
            self._prepared.append(folder)
            clear(folder)

    @property
    def begun(self) -> Begun:
        """For `Turns` of other processes, and of threads of this one."""
        return Begun(dict(self._since), dict(self._seen))

    def tidy(self, folders: Iterable[Path]) -> None:
        """As `prepare`, of folders that nothing will be written into."""
        for folder in folders:
            sweep(folder)
            clear(folder)

    def skipped(self, target: Path) -> Skipped | None:
        """Why `target` need not be made; None where it must. Raises ImageFileError where it cannot."""
        try:
            found = target.stat()
            is_empty = target in self._folders and stat.S_ISDIR(found.st_mode) and not any(target.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ImageFileError(f"{target}: cannot be written ({reason(error)})") from error
        if is_empty:
            return None
        if stat.S_ISDIR(found.st_mode) and target not in self._folders:
            raise ImageFileError(f"{target}: cannot be written (is a directory)")
        now = (found.st_mtime_ns, found.st_size, found.st_ino)
        made_since = self._since.get(target.parent, float("inf")) < found.st_mtime <= time.time()
        first = self._seen.setdefault(target, None if made_since else now)
        if now != first:
            return Skipped(BY_OTHERS)
        return None if self.overwrite else Skipped(EXISTS)

    def look(self, target: Path) -> Turn:
        """What `take` would say now. Raises ImageFileError."""
        return self.skipped(target) or holder(target) is None

    def take(self, target: Path) -> Turn:
        """Whether `target` is this process's to make, until it is let go. Raises ImageFileError."""
        if found := self.skipped(target):
            return found
        if not self._claims.take(target):
            return False
        if found := self.skipped(target):  # another process made it between the two lines above
            self.let_go(target)
            return found
        return True

    def let_go(self, target: Path) -> None:
        """After the output is there, or has failed."""
        self._claims.release(target)

    def wait(self, targets: list[Path]) -> bool:
        """Until one of the outputs that others make is there, or free because they failed or ended.

        False: this run ends before.

        Says so, once a run.
        """
        if self._say and not self._announced and not self._claims.closed:
            self._say(_waiting(targets))
            self._announced = True
        pause = FIRST_PAUSE
        while not self._claims.closed:
            if not all(holder(target) for target in targets):
                return True
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
        return False


def in_turn(
    items: Iterable[Item], target_of: Callable[[Item], Path], turns: Turns
) -> Iterator[tuple[Item, Skipped | ImageFileError | None]]:
    """All items: None with those that are to be made now.

    What other processes are making comes last, when they are done with it.
    """
    waiting = list(items)
    while waiting:
        busy = []
        for item in waiting:
            try:
                found = turns.take(target_of(item))
            except ImageFileError as error:
                yield item, error
                continue
            if found is False:
                busy.append(item)
            else:
                yield item, None if found is True else found
        waiting = busy
        if waiting and not turns.wait([target_of(item) for item in waiting]):
            return


def _waiting(targets: list[Path]) -> str:
    by = next(filter(None, map(holder, targets)), "another process")
    rest = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
    return f"waiting for {targets[0]}{rest}, which {by} is solving"
