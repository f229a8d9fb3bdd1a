"""warmup(): everything that the first result would wait for."""

from __future__ import annotations

import importlib
from collections import Counter
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


def missing_kernels(solver: api.Solver, model: Model) -> int:
    """How many kernels for `model` the CPU would compile in this process first."""
    return 0 if solver.backend.name != "cpu" else len(_missing(model))


def compile_ahead(solver: api.Solver, begin: Callable[[int], AbstractContextManager[Callable[[], None]]]) -> None:
    """Compile what `solver` denoises with, where it does not lie compiled.

    Then, and only then, `begin` is called with the number of kernels; it gives a context of the function that is called
    after each of them.
    """
    if solver.backend.name != "cpu":
        return
    missing = _missing(solver.model)
    if missing:
        image, sigma = _picture(solver.model)
        with begin(len(missing)) as advance, _told(lambda done, total: advance(), missing):
            solver.denoise(image, sigma, channel_axis=_channel_axis(image), max_outer=2, max_inner=2)


def _missing(model: Model) -> list[str]:
    """The kernels for a model that do not lie compiled."""
    wanted = _binding("cpu_kernels").kernels_of(model.family, model.filters.planes)
    missing: list[str] = _binding("cache").missing_kernels(wanted)
    return missing


def _binding(name: str) -> ModuleType:
    """Imports Numba."""
    return importlib.import_module(f"safi_fast.bindings.{name}")


def _kernels(models: list[Model], projector: bool) -> list[str]:
    """What a warm-up compiles and does not find compiled."""
    cpu, cache = _binding("cpu_kernels"), _binding("cache")
    kinds = set()
    for model in models:
        planes = model.filters.planes
        kinds |= cpu.kernels_of(model.family, planes)
        kinds |= {(name, kind) for name, kind in cpu.other_kernels(planes) if kind or projector}
    missing: list[str] = cache.missing_kernels(kinds)
    return missing


@contextmanager
def _told(progress: Callable[[int, int], None], missing: list[str]) -> Iterator[None]:
    """Call progress(done, total) after each of the missing kernels that is compiled in this context."""
    left = Counter(missing)

    def compiled(name: str) -> None:
        if left[name]:
            left[name] -= 1
            progress(len(missing) - left.total(), len(missing))

    with _binding("cache").watch_compiler(compiled):
        yield


def _picture(model: Model) -> tuple[np.ndarray, float]:
    """A small image, of several planes where the model is for such, and a noise level."""
    side, planes = max(SIDE, model.smallest_side), model.filters.planes
    image, sigma = np.full((planes, side, side), 0.5, np.float32), float(model.noise_levels[0])
    image[:, side // 2 :] = 0.6
    return image[0] if planes == 1 else image, sigma


def _channel_axis(image: np.ndarray) -> int | None:
    return None if image.ndim == 2 else 0


def _run(model: Model, backend: str) -> None:
    """Every schedule and a reconstruction of a small image."""
    image, sigma = _picture(model)
    axis = _channel_axis(image)
    for schedule in SCHEDULES:
        api.denoise(
            image, sigma, model=model, backend=backend, channel_axis=axis, schedule=schedule, max_outer=2, max_inner=2
        )
    if backend != "cuda":
        identity = operators.Identity(image.shape[-2:])
        api.reconstruct(image, identity, strength=0.01, model=model, max_outer=2, max_iter=2, backend=backend)
