"""How the benchmarks time and record: seconds on the clock and of the processor, the machine, its load, JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import ROOT

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


def shipped(*names: str) -> dict[str, str]:
    """Fingerprints of shipped models: the weights that a record is of."""
    from safi_fast import load_model

    return {name: load_model(name).fingerprint for name in names}


class Neighbours:
    """How many CPUs other processes kept busy since this was made, the sum of all CPUs (Linux)."""

    def __init__(self) -> None:
        self.start = self.now()

    @staticmethod
    def now() -> tuple[float, float]:
        """Seconds on the clock, and those of the processor that were not this process's nor its children's that have
        ended.
        """
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle = fields[3] + fields[4]
        return time.perf_counter(), (sum(fields) - idle) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])

    def cpus(self) -> float:
        """The mean."""
        (begin, before), (end, after) = self.start, self.now()
        return (after - before) / (end - begin)


def load() -> dict[str, Any]:
    """Load average and number of threads of a run that is not raced."""
    return {
        "load_average": os.getloadavg()[0],
        "threads": os.environ.get("NUMBA_NUM_THREADS", str(os.cpu_count())),
    }


def command(words: Sequence[str] | None = None) -> str:
    """This run as a command of the repository; folders are left out, they say nothing about a result.

    words: instead of the arguments that were given, where those left out matter.
    """
    program = Path(sys.argv[0]).resolve()
    module = ".".join(program.relative_to(ROOT).with_suffix("").parts) if program.is_relative_to(ROOT) else program.name
    words = sys.argv[1:] if words is None else words
    return " ".join(["python", "-m", module, *(Path(word).name if "/" in word else word for word in words)])


def write(path: Path | None, rows: Sequence[dict[str, Any]], before: dict[str, Any], **facts: Any) -> None:
    """The rows, the command, how long it took since this was imported, and the machine as it was before and after."""
    taken = {"seconds_taken": round(time.perf_counter() - STARTED, 1)}
    record = {"command": command(), "machine": before, "load_after": machine()["load_average"], **taken, **facts}
    write_json(path, {**record, "rows": list(rows)})


def read(path: Path) -> dict[str, Any]:
    """A record of `write`."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Where a path was given."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
