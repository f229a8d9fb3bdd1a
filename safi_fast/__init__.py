"""SAFI image reconstruction: learned regularisers that adapt to the solution, convex at each step, certified by a
duality gap.

    import safi_fast
    clean = safi_fast.denoise(noisy, sigma=25 / 255)

Nothing is loaded before its first use: importing this package takes milliseconds and imports neither Numba, CuPy nor
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Solver, denoise, denoise_volume, estimate_memory, reconstruct, tune_strength
    from .errors import (
        BackendError,
        ImageFileError,
        InputError,
        ModelError,
        OperatorError,
        OutOfMemoryError,
        SafiError,
        SolverError,
    )
    from .model import Model
    from .models import list_models, load_model
    from .solver.result import Solution
    from .solver.schedules import Converged, Fast, Gap, Reconstruct, Unrolled
    from .startup import warmup

__version__ = "0.1.0"

_HOMES = {
    "denoise": "api",
    "denoise_volume": "api",
    "reconstruct": "api",
    "tune_strength": "api",
    "Solver": "api",
    "estimate_memory": "api",
    "warmup": "startup",
    "Model": "model",
    "load_model": "models",
    "list_models": "models",
    "Solution": "solver.result",
    "Unrolled": "solver.schedules",
    "Converged": "solver.schedules",
    "Fast": "solver.schedules",
    "Gap": "solver.schedules",
    "Reconstruct": "solver.schedules",
    "SafiError": "errors",
    "InputError": "errors",
    "ModelError": "errors",
    "ImageFileError": "errors",
    "BackendError": "errors",
    "OperatorError": "errors",
    "OutOfMemoryError": "errors",
    "SolverError": "errors",
}

__all__ = [
    "BackendError",
    "Converged",
    "Fast",
    "Gap",
    "ImageFileError",
    "InputError",
    "Model",
    "ModelError",
    "OperatorError",
    "OutOfMemoryError",
    "Reconstruct",
    "SafiError",
    "Solution",
    "Solver",
    "SolverError",
    "Unrolled",
    "__version__",
    "denoise",
    "denoise_volume",
    "estimate_memory",
    "list_models",
    "load_model",
    "reconstruct",
    "tune_strength",
    "warmup",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
