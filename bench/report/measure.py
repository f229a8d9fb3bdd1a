"""How the benchmarks time and record: seconds on the clock and of the processor, the machine, its load, JSON.

Import this before torch: it asks OpenMP for sleeping threads, so that seconds of the processor count work and not waiting.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

THREADS = 2  # of every method
STARTED = time.perf_counter()


class Timing(NamedTuple):
    """One call: seconds on the clock, seconds of the processor over all threads, and what it returned."""

    wall: float
    cpu: float
    result: Any


def timed(function: Callable[[], Any]) -> Timing:
    """Call once."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu, result)


def alternately(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Call all in turn, `repeats` times; the least seconds of each, and the last result."""
    runs: dict[str, list[Timing]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            runs[name].append(timed(function))
    return {
        name: Timing(min(run.wall for run in made), min(run.cpu for run in made), made[-1].result)
        for name, made in runs.items()
    }


def use_threads(count: int = THREADS) -> None:
    """The same number for Numba and, where it is loaded, torch."""
    import numba

    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def machine() -> dict[str, Any]:
    """Where this runs and how busy it is."""
    import safi_fast
    from safi_fast.cli.doctor import processor_name

    facts: dict[str, Any] = {
        "processor": processor_name(),
        "threads": THREADS,
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "safi_fast": safi_fast.__version__,
    }
    if "torch" in sys.modules:
        facts["torch"] = sys.modules["torch"].__version__
    return facts


def command() -> str:
    """This run as a command of the repository; folders are left out, they say nothing about a result."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *words])


def write(path: Path | None, rows: Sequence[dict[str, Any]], before: dict[str, Any], **facts: Any) -> None:
    """The rows, the command, how long it took since this was imported, and the machine as it was before and after."""
    if path is not None:
        taken = {"seconds_taken": round(time.perf_counter() - STARTED, 1)}
        record = {"command": command(), "machine": before, "load_after": machine()["load_average"], **taken, **facts}
        path.write_text(json.dumps({**record, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")
