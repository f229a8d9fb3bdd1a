"""How much work the kernels take at a time: by the caches of this machine. No result depends on it, bit for bit.

SAFI_FAST_PAIRS, a multiple of 6, replaces the choice; `safi-fast doctor` shows both.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import BackendError

CPU = Path("/sys/devices/system/cpu/cpu0")
VARIABLE = "SAFI_FAST_PAIRS"
BLOCK, BINS = 6, 256  # of kernels/cpu/convolution.py
MOST = 4  # blocks in a set: 3 MB of channels per thread at C = 64
SHARE = 0.9  # of the second cache that the work space of a set may fill


class Caches(NamedTuple):
    """Bytes of the first and second cache of a CPU, of its share of the third, and where that is known from."""

    first: int
    second: int
    third: int
    source: str


@cache
def caches(cpu: Path = CPU) -> Caches:
    """Of this machine: from /sys, else sysconf, else sizes that every processor of today has."""
    for source, read in ((cpu, _from_sys), (None, _from_sysconf)):
        with suppress(OSError, ValueError, AttributeError):
            sizes = read(cpu)
            if sizes[0] > 0 and sizes[1] > 0:
                return Caches(*sizes, "sysconf" if source is None else str(source))
    return Caches(32 << 10, 512 << 10, 1 << 20, "default")


def _from_sys(cpu: Path) -> tuple[int, int, int]:
    found: dict[int, int] = {}
    for index in sorted((cpu / "cache").glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            sharing = _numbers((index / "shared_cpu_list").read_text()) if level == "3" else 1
            found[int(level)] = int(size.rstrip("K")) * 1024 // sharing
    return found.get(1, 0), found.get(2, 0), found.get(3, 0)


def _numbers(text: str) -> int:
    """How many there are in a list like 0-3,8."""
    ends = [[int(end) for end in part.split("-")] for part in text.strip().split(",")]
    return sum(part[-1] - part[0] + 1 for part in ends)


def _from_sysconf(_: Path) -> tuple[int, int, int]:
    first, second, third = (int(os.sysconf(f"SC_LEVEL{name}_SIZE")) for name in ("1_DCACHE", "2_CACHE", "3_CACHE"))
    return first, second, third // (os.cpu_count() or 1)


@cache
def pairs_of(channels: int) -> int:
    """Tile pairs that share one pass over the spectra of a mask layer of so many channels.

    Raises BackendError for a SAFI_FAST_PAIRS that is no multiple of 6.
    """
    asked = os.environ.get(VARIABLE, "").strip()
    if asked:
        if not asked.isdigit() or int(asked) == 0 or int(asked) % BLOCK:
            raise BackendError(f"{VARIABLE} is {asked!r}; expected a multiple of {BLOCK}, or leave it unset")
        return int(asked)
    return best_pairs(channels, caches().second)


def best_pairs(channels: int, second: int) -> int:
    """The set with the fewest bytes per pair from beyond a second cache of so many bytes.

    A set reads half of the spectra (they are symmetric), 4 C^2 bytes at each of 256 frequencies; what a pair has in
    work, 8 C bytes at each, is written and read twice where the set does not fit.
    """

    def moved(pairs: int) -> float:
        work = BINS * 8 * channels
        return BINS * 4 * channels**2 / pairs + (4 * work if pairs * work > SHARE * second else 0)

    return min(range(BLOCK, MOST * BLOCK + 1, BLOCK), key=moved)
