"""warmup(): everything that the first result would wait for."""

from __future__ import annotations

import importlib
from os import PathLike

import numpy as np

from . import api, operators
from .model import SCHEDULES, Model
from .models import list_models, load_model

SIDE = 32


def warmup(model: Model | str | PathLike[str] | None = None, *, backend: str = "auto") -> None:
    """Compile what is not compiled yet and load it, so that the first result of this process takes no longer than the
    next.

    model: what to make ready, as for `denoise`; None: all shipped models, whose families need different kernels, and
        computed tomography. backend: as for `denoise`.

    Compiled kernels are kept (docs/large-images.md says where), so that in later processes this takes about a second.
    Raises ModelError, BackendError.
    """
    for chosen in list_models() if model is None else [model]:
        _run(chosen if isinstance(chosen, Model) else load_model(chosen), backend)
    if model is None:
        scan = operators.ParallelBeamCT((SIDE, SIDE), np.arange(4.0), 2 * SIDE)
        scan.adjoint(scan.apply(np.zeros(scan.shape_in, np.float32)))


def compiled_before(backend: str) -> bool:
    """Whether a solver of this backend, by its name, finds kernels that were compiled before."""
    return backend != "cpu" or bool(importlib.import_module("safi_fast.bindings.cache").compiled_before())


def _run(model: Model, backend: str) -> None:
    """Every schedule and a reconstruction of a small image."""
    side = max(SIDE, model.smallest_side)
    image, sigma = np.full((side, side), 0.5, np.float32), float(model.noise_levels[0])
    image[side // 2 :] = 0.6
    for schedule in SCHEDULES:
        api.denoise(image, sigma, model=model, backend=backend, schedule=schedule, max_outer=2, max_inner=2)
    if backend != "cuda":
        identity = operators.Identity((side, side))
        api.reconstruct(image, identity, strength=0.01, model=model, max_outer=2, max_iter=2, backend=backend)
