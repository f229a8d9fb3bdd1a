"""Memory as Linux counts it, and measurements that need a process of their own.

    python -m bench.report.memory peak MODEL HEIGHT WIDTH LIMIT      estimate and measured peak above a ready solver
    python -m bench.report.memory race MODEL HEIGHT WIDTH            resident after the import, when ready, at the peak
    python -m bench.report.memory first [warmup]                     seconds to the first result and to the next

Each prints JSON. Nothing is imported before it is asked for, since that is what they measure.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import ROOT


def status(key: str) -> int:
    """Bytes of a line of /proc/self/status, such as VmRSS (resident now) or VmHWM (the peak)."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{key}:\s+(\d+)", text)
    assert found
    return int(found[1]) * 1024


def forget_peak() -> None:
    """VmHWM begins again at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def give_back() -> None:
    """What is free in the allocator goes back to the system."""
    import ctypes

    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


def fresh(module: str, *arguments: object, **environment: str) -> dict[str, Any]:
    """What `python -m module` prints as the last line, JSON, in a new process."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak(model: str, height: str, width: str, limit: str) -> dict[str, int]:
    """The estimate for an image, and what its denoising takes above a ready solver; limit: bytes, 0 for none."""
    import numpy as np

    import safi_fast

    most = float(limit) or None
    solver, rng = safi_fast.Solver(model), np.random.default_rng(0)
    solver.denoise(rng.random((64, 64), np.float32), 25 / 255)
    image = rng.random((int(height), int(width)), np.float32)
    estimate = solver.estimate_memory(image.shape, max_memory=most)
    give_back()
    ready = status("VmRSS")
    forget_peak()
    solver.denoise(image, 25 / 255, max_outer=2, max_inner=1, max_memory=most)  # more steps take no more
    highest = status("VmHWM")
    return {"estimate": estimate, "measured": highest - ready, "resident_ready": ready, "peak": highest}


def race(model: str, height: str, width: str) -> dict[str, int]:
    """Resident memory of unrolled steps, without torch."""
    import safi_fast
    from bench.data.problems import SIGMA, noisy_photograph

    imported = status("VmRSS")
    solver = safi_fast.Solver(model)
    solver.denoise(noisy_photograph(64, 64), SIGMA, schedule="unrolled")
    image = noisy_photograph(int(height), int(width))
    ready = status("VmRSS")
    forget_peak()
    solver.denoise(image, SIGMA, schedule="unrolled")
    return {"imported": imported, "ready": ready, "peak": status("VmHWM")}


def first(before: str = "") -> dict[str, float]:
    """Seconds from the start of the import to the result for 64 x 64 pixels, and of the next; before: "warmup"."""
    start = time.perf_counter()
    import numpy as np

    import safi_fast

    image = np.random.default_rng(0).random((64, 64))
    if before:
        safi_fast.warmup()
    safi_fast.denoise(image, 25 / 255)
    done = time.perf_counter()
    safi_fast.denoise(image, 25 / 255)
    return {"first_result": done - start, "next_result": time.perf_counter() - done}


if __name__ == "__main__":
    print(json.dumps({"peak": peak, "race": race, "first": first}[sys.argv[1]](*sys.argv[2:])))
