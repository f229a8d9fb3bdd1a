"""Workers with their share of the threads, or one for each GPU."""

from __future__ import annotations

from collections.abc import Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

from ..backend import gpu_count
from ..bindings.threads import usable_cpus
from ..errors import BackendError, InputError, shown
from ..solver.schedules import count
from .packages import require

QUIET = {  # what takes a tenth of a processor for small files: samples of the stack, beats of the loops, statistics
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.system-monitor.interval": "10s",
}
WAIT = "PASSIVE"  # waiting threads of OpenMP sleep, see bindings/threads.py


def environment(threads: int, gpu: int | str | None = None) -> dict[str, str]:
    """What a worker process finds in its environment when it starts."""
    found = {"NUMBA_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": WAIT}
    return found if gpu is None else {**found, "CUDA_VISIBLE_DEVICES": str(gpu)}


def local_cluster(
    workers: int | None = None, *, threads: int | None = None, gpus: str | Sequence[int | str] | None = None,
    memory_limit: Any = None, folder: str | Path | None = None,
) -> Any:  # fmt: skip
    """Workers on this machine for `process_files` and `denoise_array`, as a cluster: `distributed.Client(cluster)`.

    Each is a process of its own, started anew (spawn), that does one task at a time with its share of the threads.
    Call it below `if __name__ == "__main__":`, since a worker imports the script that starts it.

    Parameters
    ----------
    workers : int
        None: one for each CPU that this process may use, or for each GPU.
    threads : int
        Of the kernels of each worker; None: the CPUs by the number of workers, at least 1.
    gpus : "all" or list
        GPUs, one worker for each, which sees that one alone (CUDA_VISIBLE_DEVICES); None: workers on the CPU.
    memory_limit : str or int
        Of each worker, as Dask has it: a worker that grows beyond it is ended and started again. None: no limit.
    folder : path
        For files of the workers; None: the system's temporary folder.

    Returns
    -------
    distributed.SpecCluster
        To be closed, as by `with`.

    Raises
    ------
    InputError
        For a wrong number, and more workers than GPUs.
    BackendError
        Without the package distributed, and for "all" GPUs where there is none.
    """
    distributed = require("distributed", "local_cluster")
    specs = worker_specs(workers, threads, gpus, usable_cpus())
    web = "127.0.0.1:0"  # any port: a fixed one may be taken
    scheduler = {
        "host": "127.0.0.1", "protocol": "tcp://", "port": 0, "dashboard": False, "dashboard_address": web,
    }  # fmt: skip
    common = {
        "host": "127.0.0.1", "protocol": "tcp://", "nthreads": 1, "memory_limit": memory_limit or 0,
        "dashboard": False, "silence_logs": WARNING,
        "local_directory": None if folder is None else str(folder),
    }  # fmt: skip
    nannies = {n: {"cls": distributed.Nanny, "options": {**common, "env": env}} for n, env in enumerate(specs)}
    with require("dask", "local_cluster").config.set(QUIET):
        return distributed.SpecCluster(
            workers=nannies, scheduler={"cls": distributed.Scheduler, "options": scheduler}, silence_logs=WARNING
        )


def worker_specs(
    workers: int | None, threads: int | None, gpus: str | Sequence[int | str] | None, cpus: int
) -> list[dict[str, str]]:
    """The environment of each worker. Raises InputError and BackendError."""
    cards: list[int | str] | None = None
    if isinstance(gpus, str):
        if gpus != "all":
            raise InputError(f"gpus is {shown(gpus)}; expected 'all', or a list of numbers or names of GPUs")
        cards = list(range(gpu_count()))
        if not cards:
            raise BackendError("gpus is 'all', but there is none that can be used here; safi-fast doctor says why")
    elif gpus is not None:
        cards = list(gpus)
        if not cards or len(set(cards)) < len(cards):
            raise InputError(f"gpus is {shown(gpus)}; expected different numbers or names of GPUs")
    number = len(cards) if cards else cpus
    if workers is not None:
        number = count("workers", workers)
        if cards and number > len(cards):
            raise InputError(f"workers is {number}, but gpus has {len(cards)}; expected one worker for each GPU")
    each = max(1, cpus // number) if threads is None else count("threads", threads)
    return [environment(each, cards[n] if cards else None) for n in range(number)]


def slurm_options(threads: int) -> dict[str, Any]:
    """Keywords of `dask_jobqueue.SLURMCluster` for workers like those of `local_cluster`: jobs of `threads` CPUs, one
    process and one task at a time. Memory, time and queue are the caller's to add.

    Raises InputError for a wrong number.
    """
    number = count("threads", threads)
    lines = [f"export {name}={value}" for name, value in environment(number).items()]
    return {"cores": 1, "processes": 1, "job_cpu": number, "job_script_prologue": lines}
