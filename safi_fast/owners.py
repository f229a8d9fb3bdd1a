"""Which process a file belongs to: an owner that fits into a file name, and whether that process still runs."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PATTERN = re.compile(r"([0-9a-f]{12})\.([1-9]\d{0,9})\.(\d{1,20})\.([0-9a-f]{12})")
ENDED = (b"Z", b"X")  # states of a process that has ended but is still listed


@dataclass(frozen=True)
class Owner:
    """The process that made a file. host: a hash of machine, boot and process namespace. start: when the process began,
    in the ticks of its host, 0 where that is not known. token: of this one file.
    """

    host: str
    pid: int
    start: int
    token: str

    def __str__(self) -> str:
        return f"{self.host}.{self.pid}.{self.start}.{self.token}"

    def is_own(self) -> bool:
        """Whether it is this process."""
        me = new_owner()
        return (self.host, self.pid, self.start) == (me.host, me.pid, me.start)

    def runs(self) -> bool | None:
        """Whether the process still runs; None: it is of another host, or this system does not tell."""
        return _runs(self.pid, self.start) if self.host == _host(os.getpid()) else None


def new_owner() -> Owner:
    """This process, with a token that no other file has."""
    pid = os.getpid()
    found = _listed(pid)
    return Owner(_host(pid), pid, found[1] if found else 0, secrets.token_hex(6))


def owner_in(text: str) -> Owner | None:
    """The owner that `text` begins with; None where there is none, as in a file that is damaged."""
    match = PATTERN.match(text)
    return None if match is None else Owner(match[1], int(match[2]), int(match[3]), match[4])


@lru_cache(1)
def _host(pid: int) -> str:
    """Of the process `pid`, which is this one. Process numbers can be compared only where this is equal."""
    facts = [socket.gethostname()]
    try:
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path(f"/proc/{pid}/ns/pid").readlink())]
    except OSError:
        import uuid

        facts.append(str(uuid.getnode()))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _listed(pid: int) -> tuple[bytes, int] | None:
    """(state, start) as Linux lists them."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0], int(fields[19])
    return None


def _runs(pid: int, start: int) -> bool | None:
    found = _listed(pid)
    if found is not None:
        state, began = found
        if state in ENDED or (start and began != start):  # or its number has gone to a later process
            return False
        return True if start else None
    if os.name != "posix":
        return None  # elsewhere os.kill would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user
        return None
    return None  # whether it is the same process cannot be known
