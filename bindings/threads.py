"""How many threads the CPU kernels, and the Fourier transforms of operators, use. Numba is imported on first use.

Without a request: what NUMBA_NUM_THREADS says, else OMP_NUM_THREADS (which Dask sets for its workers), else the CPUs
that this process may use: those of its affinity mask, at most the quota of its control group. joblib's
inner_max_num_threads sets these variables. A count set with numba.set_num_threads in the calling thread goes before all
of that, unless it is Numba's whole pool: Numba does not tell whether that was set or is what a thread begins with.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BackendError, InputError, shown

CONTROL_GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

_entered = threading.local()  # count: of the innermost `on_threads` that the thread is in


def usable_cpus() -> int:
    """CPUs of the affinity mask, at most the quota of the control group rounded up."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


@cache
def cpu_quota(root: Path = CONTROL_GROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """CPUs that the control groups of this process grant, the strictest of its ancestors; None without a limit.

    Version 2 (cpu.max) and version 1 (cpu.cfs_quota_us, cpu.cfs_period_us).
    """
    quotas = []
    for group in _own_groups(root, membership):
        for read in (_quota_of_version_2, _quota_of_version_1):
            with suppress(OSError, ValueError):
                quotas.append(read(group))
    return min((quota for quota in quotas if quota > 0), default=None)


def _own_groups(root: Path, membership: Path) -> list[Path]:
    """The folders of this process's groups and of all above them; in a container they are mounted at the root."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    groups = {root, root / "cpu", root / "cpu,cpuacct"}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        own = top / path.lstrip("/")
        groups |= {own, *(folder for folder in own.parents if folder.is_relative_to(top))}
    return sorted(groups)


def _quota_of_version_2(group: Path) -> float:
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)  # "max" is no number: no limit


def _quota_of_version_1(group: Path) -> float:
    quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return quota / period  # -1: no limit


def default_threads(environment: Mapping[str, str] | None = None) -> int:
    """The count without a request, see above; at least 1."""
    environment = os.environ if environment is None else environment
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        asked = environment.get(name, "").split(",")[0].strip()
        if asked.isdigit() and int(asked) > 0:
            return int(asked)
    return usable_cpus()


def check_environment() -> None:
    """Refuse settings that Numba would trip over, now or later. Raises BackendError."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0"):
        raise BackendError("NUMBA_DISABLE_JIT is set, but the kernels exist in compiled form only; leave it unset")
    asked = os.environ.get("NUMBA_NUM_THREADS")
    if asked is not None and "numba" not in sys.modules and not (asked.strip().isdigit() and int(asked) > 0):
        raise BackendError(
            f"NUMBA_NUM_THREADS is {shown(asked)}; expected a whole number of at least 1, or leave it unset"
        )


def _running_numba() -> Any:
    """Numba, its threads started. Raises BackendError where it finds none of the libraries that could run them."""
    check_environment()
    import numba

    try:
        numba.get_num_threads()
    except ValueError as error:
        asked = numba.config.THREADING_LAYER
        raise BackendError(
            f"Numba cannot start threads with the layer {shown(asked)}: {str(error).splitlines()[0]}; leave "
            "NUMBA_THREADING_LAYER unset, "
            f"or pass 'workqueue', which is always there"
        ) from error
    return numba


def threads_to_use(asked: int | None) -> int:
    """The count for kernels that the calling thread launches.

    Raises InputError for more than Numba's pool has, BackendError where Numba
    cannot start threads."""
    numba = _running_numba()
    pool = int(numba.config.NUMBA_NUM_THREADS)
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= pool:
            raise InputError(
                f"threads is {shown(asked)}; expected a whole number from 1 to {pool}, the CPUs that this "
                "process may use "
                f"(NUMBA_NUM_THREADS, set before Numba is imported, raises that)"
            )
        return asked
    current = int(numba.get_num_threads())
    chosen = current != pool or current == getattr(_entered, "count", None)
    return current if chosen else min(pool, default_threads())


def threads_here() -> int:
    """`threads_to_use(None)`, and the same without Numba where that is not loaded: for what is no kernel but computes
    beside them.
    """
    return threads_to_use(None) if "numba" in sys.modules else default_threads()


@contextmanager
def on_threads(asked: int | None) -> Iterator[int]:
    """In this context the calling thread launches its kernels on `threads_to_use(asked)` threads; nested, without a
    request, on those it had.
    """
    numba = _running_numba()
    count, before, outside = threads_to_use(asked), numba.get_num_threads(), getattr(_entered, "count", None)
    numba.set_num_threads(count)
    _entered.count = count
    try:
        yield count
    finally:
        _entered.count = outside
        numba.set_num_threads(before)
