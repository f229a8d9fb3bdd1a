"""warmup(): everything that the first result would wait for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike
from types import ModuleType

import numpy as np

from . import api, operators
from .model import SCHEDULES, Model
from .models import list_models, load_model

SIDE = 32


def warmup(
    model: Model | str | PathLike[str] | None = None,
    *,
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compile what is not compiled yet and load it, so that the first result of this process takes no longer than the
    next.

    model: what to make ready, as for `denoise`; None: all shipped models, whose families need different kernels, and
        computed tomography. backend: as for `denoise`. progress: called as progress(done, total) after each kernel that
        had to be compiled for the CPU, `total` of them; never where all lie compiled.

    Compiled kernels are kept (docs/large-images.md says where), so that in later processes this takes about a second.
    Raises ModelError, BackendError.
    """
    models = [
        chosen if isinstance(chosen, Model) else load_model(chosen)
        for chosen in (list_models() if model is None else [model])
    ]
    with nullcontext() if progress is None else _told(progress, _kernels(models, model is None)):
        for chosen in models:
            _run(chosen, backend)
        if model is None:
            scan = operators.ParallelBeamCT((SIDE, SIDE), np.arange(4.0), 2 * SIDE)
            scan.adjoint(scan.apply(np.zeros(scan.shape_in, np.float32)))


def compile_ahead(solver: api.Solver, begin: Callable[[int], AbstractContextManager[Callable[[], None]]]) -> None:
    """Compile what `solver` denoises with, where it does not lie compiled.

    Then, and only then, `begin` is called with the number of kernels; it gives a context of the function that is called
    after each of them.
    """
    if solver.backend.name != "cpu":
        return
    cpu, cache = _binding("cpu_kernels"), _binding("cache")
    missing = cache.missing_kernels(cpu.kernels_of(solver.model.family))
    if missing:
        image, sigma = _picture(solver.model)
        with begin(len(missing)) as advance, _told(lambda done, total: advance(), missing):
            solver.denoise(image, sigma, max_outer=2, max_inner=2)


def _binding(name: str) -> ModuleType:
    """Imports Numba."""
    return importlib.import_module(f"safi_fast.bindings.{name}")


def _kernels(models: list[Model], projector: bool) -> set[str]:
    """What a warm-up compiles and does not find compiled."""
    cpu, cache = _binding("cpu_kernels"), _binding("cache")
    names = cpu.RECONSTRUCTION.union(*(cpu.kernels_of(model.family) for model in models))
    missing: set[str] = cache.missing_kernels(names | cpu.PROJECTION if projector else names)
    return missing


@contextmanager
def _told(progress: Callable[[int, int], None], missing: set[str]) -> Iterator[None]:
    """Call progress(done, total) after each of the missing kernels that is compiled in this context."""
    done: set[str] = set()

    def compiled(name: str) -> None:
        if name in missing - done:
            done.add(name)
            progress(len(done), len(missing))

    with _binding("cache").watch_compiler(compiled):
        yield


def _picture(model: Model) -> tuple[np.ndarray, float]:
    """A small image and a noise level."""
    side = max(SIDE, model.smallest_side)
    image, sigma = np.full((side, side), 0.5, np.float32), float(model.noise_levels[0])
    image[side // 2 :] = 0.6
    return image, sigma


def _run(model: Model, backend: str) -> None:
    """Every schedule and a reconstruction of a small image."""
    image, sigma = _picture(model)
    for schedule in SCHEDULES:
        api.denoise(image, sigma, model=model, backend=backend, schedule=schedule, max_outer=2, max_inner=2)
    if backend != "cuda":
        identity = operators.Identity(image.shape)
        api.reconstruct(image, identity, strength=0.01, model=model, max_outer=2, max_iter=2, backend=backend)
