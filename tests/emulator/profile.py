"""How well the memory accesses of kernels fall on sectors and banks, summed over launches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .library import Place, RawProfileRow


@dataclass(frozen=True)
class ProfileRow:
    """One access in the source of a kernel.

    `moved` counts 32-byte sectors of global memory, or wavefronts (one word per bank) of shared memory; `ideal` is the
    fewest that could hold the same bytes. Caches are not looked at: every request counts.
    """

    kernel: str
    place: Place
    memory: str  # "global" or "shared"
    kind: str  # "load" or "store"
    bytes: int  # per lane
    requests: int  # of a warp
    moved: int
    ideal: int

    @property
    def per_request(self) -> float:
        return self.moved / self.requests

    @property
    def excess(self) -> float:
        """1.0 is perfect."""
        return self.moved / self.ideal


class Profile:
    """Rows of many launches, added up by kernel, place, memory, kind and width."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, Place, str, str, int], tuple[int, int, int]] = {}

    def add(self, kernel: str, rows: Iterable[RawProfileRow]) -> None:
        for row in rows:
            memory = "shared" if row.is_shared else "global"
            kind = "store" if row.is_write else "load"
            key = (kernel, row.place, memory, kind, row.bytes)
            requests, moved, ideal = self._sums.get(key, (0, 0, 0))
            self._sums[key] = (requests + row.requests, moved + row.moved, ideal + row.ideal)

    def rows(self) -> list[ProfileRow]:
        """In the order of the source."""
        order = sorted(self._sums, key=lambda key: (key[0], key[1].file, key[1].line, *key[2:]))
        return [ProfileRow(*key, *self._sums[key]) for key in order]

    def clear(self) -> None:
        self._sums.clear()


def format_profile(rows: Sequence[ProfileRow]) -> str:
    """A table for people."""
    lines = [f"{'kernel':24} {'place':22} {'access':14} {'B/lane':>6} {'requests':>9} {'per request':>11} {'ideal':>6}"]
    for row in rows:
        unit = "sectors" if row.memory == "global" else "waves"
        lines.append(
            f"{row.kernel:24} {row.place!s:22} {row.memory + ' ' + row.kind:14} {row.bytes:6} {row.requests:9} "
            f"{row.per_request:11.2f} {row.ideal / row.requests:6.2f} {unit}"
        )
    return "\n".join(lines)
