"""What is done to each plane or file: a value that goes to workers, and the solver that a worker makes of it once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..api import Solver
from ..arrays import positive
from ..bindings.threads import usable_cpus
from ..errors import InputError, SafiError, shown
from ..model import Model
from ..models import list_models, resolve
from ..noise_level import ESTIMATE
from ..options import defaults_of, filled
from ..solver.schedules import Schedule, schedule_for
from ..tiling import Slices
from ..types import Box
from ..values import UNIT_BOX, DataRange, Range, range_of

MOST_SOLVERS = 4  # that a process keeps
OF_A_SOLVER = ("model", "backend", "precision", "threads")
OF_A_SCHEDULE = ("schedule", "max_outer", "max_inner", "tol")
OPEN_RANGES = ("f", "uint8")  # of which white is known without a look at all values


class Options(TypedDict, total=False):
    """Keywords that the functions of this package share; see `safi_fast.denoise` and `Solver`."""

    model: Model | str | os.PathLike[str] | None
    backend: str
    precision: str
    threads: int | None
    data_range: DataRange | None
    schedule: str | Schedule | None
    box: Box | None
    strength: float | None
    lipschitz: float | None
    max_outer: int | None
    max_inner: int | None
    tol: float | None


DEFAULTS = defaults_of(Options, backend="auto", precision="float32", box=UNIT_BOX)

_lock = threading.Lock()
_solvers: dict[Any, Solver] = {}


@dataclass(frozen=True)
class Recipe:
    """How every plane is solved. model: a name or an absolute path, which workers see as well, or the model itself.
    options: those of `Solver.denoise` that were given.
    """

    model: Model | str | None
    backend: str
    precision: str
    threads: int | None
    options: Mapping[str, Any]

    @classmethod
    def of(cls, function: str, given: Mapping[str, Any]) -> Recipe:
        """The keywords of a call. Raises TypeError for one that is none, and ModelError."""
        every = filled(function, DEFAULTS, given)
        model = every["model"]
        if model is not None:
            resolve(model)
            if not isinstance(model, Model) and str(model) not in list_models():
                model = str(Path(model).absolute())
        options = {name: value for name, value in given.items() if name not in OF_A_SOLVER}
        return cls(model, every["backend"], every["precision"], every["threads"], options)

    def known_model(self) -> Model:
        """Raises ModelError."""
        return resolve(self.model)

    def solver(self) -> Solver:
        """Made once in a process."""
        name = self.model.fingerprint if isinstance(self.model, Model) else self.model
        threads = self.threads or share_of_worker()
        key = (name, self.backend, self.precision, threads, os.getpid())
        with _lock:
            if key not in _solvers:
                if len(_solvers) >= MOST_SOLVERS:
                    _solvers.clear()
                _solvers[key] = Solver(self.model, backend=self.backend, precision=self.precision, threads=threads)
            return _solvers[key]

    def facts(self) -> dict[str, str]:
        """What decides the result, as texts."""
        options = {name: shown(value) for name, value in sorted(self.options.items()) if value is not None}
        return {"model": self.known_model().fingerprint, "precision": self.precision, **options}


def share_of_worker() -> int | None:
    """Threads of the kernels in a worker of Dask, which sets OMP_NUM_THREADS=1 whatever threads it has: as many as it
    has. None elsewhere, and where NUMBA_NUM_THREADS says it.
    """
    if os.environ.get("NUMBA_NUM_THREADS") or "distributed" not in sys.modules:
        return None
    try:
        return min(int(sys.modules["distributed"].get_worker().state.nthreads), usable_cpus())
    except ValueError:
        return None


@dataclass(frozen=True)
class Planes:
    """Planes (H, W) of an array (*leading, H, W), each an image: their noise, dtype, and the recipe."""

    recipe: Recipe
    dtype: np.dtype[Any]
    sigma: NDArray[np.float64] | str  # (*leading), or "estimate"

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], dtype: Any, sigma: Any, recipe: Recipe) -> Planes:
        """Raises InputError for what no plane could be solved with."""
        dtype, model = np.dtype(dtype), recipe.known_model()
        if len(shape) < 2 or 0 in shape:
            raise InputError(f"{name} has shape {shape}; expected (..., H, W) with planes of {model.smallest_side} x "
                             f"{model.smallest_side} pixels or more")  # fmt: skip
        if min(shape[-2:]) < model.smallest_side:
            raise InputError(f"{name} has planes of {shape[-2]} x {shape[-1]} pixels; expected {model.smallest_side} x "
                             f"{model.smallest_side} or more")  # fmt: skip
        if model.filters.planes > 1:
            raise InputError(f"model {model.name!r} takes {model.filters.planes} planes of an image together; expected "
                             "one for grey images, since planes are solved one by one")  # fmt: skip
        meaning = range_of_planes(name, dtype, recipe.options.get("data_range"))
        schedule_for(model, *(recipe.options.get(option) for option in OF_A_SCHEDULE))
        strength = recipe.options.get("strength")
        if strength is not None:
            positive("strength", strength)
        return cls(recipe, dtype, _noise(sigma, shape[:-2], meaning, model, strength is not None))

    def check_cut(self, name: str, halo: int) -> None:
        """Refuse what windows, which are problems of their own, cannot give. Raises InputError."""
        options = self.recipe.options
        schedule = schedule_for(self.recipe.known_model(), *(options.get(option) for option in OF_A_SCHEDULE)).name
        beyond = f"planes of {name} are cut into windows that overlap by {halo} pixels"
        if schedule != "unrolled":
            raise InputError(
                f"schedule is {schedule!r}, but {beyond}, which have no common stopping rule; use schedule='unrolled', "
                "or whole planes"
            )
        if isinstance(self.sigma, str):
            raise InputError(f"sigma is {self.sigma!r}, but {beyond}; pass a number, or whole planes")

    def solve(self, window: NDArray[Any], planes: tuple[slice, ...], inside: Slices, fill: Any) -> NDArray[Any]:
        """Of a window (*some, h, w) of these planes, what is `inside` of it, (*some, H, W) in the array's dtype.

        A plane of the window that has nothing but `fill` stays so: for black that is the solution, bit for bit.
        Raises InputError and SolverError, which name the plane.
        """
        solver = self.recipe.solver()
        core = window[(..., *inside)]
        result = np.empty(core.shape, self.dtype)
        noise = None if isinstance(self.sigma, str) else self.sigma[planes]
        for index in np.ndindex(window.shape[:-2]):
            plane = np.ascontiguousarray(window[index])
            if is_fill(plane, fill):
                result[index] = fill
                continue
            try:
                level: Any = self.sigma if noise is None else float(noise[index])
                solved = solver.denoise(plane, level, **self.recipe.options)
            except (InputError, ArithmeticError) as error:
                raise type(error)(f"plane {index} of it: {error}" if index else str(error)) from error
            result[index] = stored(solved[inside], self.dtype)
        return result


def is_fill(values: NDArray[Any], fill: Any) -> bool:
    """Whether there is nothing but the fill value; None: there is none."""
    if fill is None:
        return False
    return bool((np.isnan(values) if fill != fill else values == fill).all())


def stored(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Results in the dtype of an array: integers rounded and clipped to their type."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max).astype(dtype)


def range_of_planes(name: str, dtype: np.dtype[Any], data_range: Any) -> Range:
    """Black and white of an array of this dtype. Raises InputError where only its values would tell."""
    if dtype.kind not in "fiu" or dtype.itemsize > (8 if dtype.kind == "f" else 4):
        raise InputError(f"{name} has dtype {dtype}; expected float16 to float64, or integers of 8 to 32 bits")
    if data_range is None and not (dtype.kind == "f" or dtype.name in OPEN_RANGES):
        raise InputError(
            f"{name} has dtype {dtype}, and its values are not looked at beforehand; pass data_range=..., the value of "
            "white (4095 for 12-bit data, 65535 for 16-bit data), or data_range=(low, high), black and white"
        )
    return range_of(name, np.zeros(1, dtype), data_range)


def _noise(
    sigma: Any, leading: tuple[int, ...], meaning: Range, model: Model, strength_given: bool
) -> NDArray[np.float64] | str:
    """One number for each plane, or "estimate". Raises InputError."""
    if isinstance(sigma, str) and sigma == ESTIMATE:
        return sigma
    expected = f"a positive number, or one for each plane, of shape {leading} or one that is spread over it"
    try:
        levels = np.broadcast_to(np.asarray(sigma, np.float64), leading)
    except (TypeError, ValueError):
        raise InputError(f"sigma is {shown(sigma)}; expected {expected}, or {ESTIMATE!r}") from None
    if not (np.isfinite(levels).all() and (levels > 0).all()):
        raise InputError(f"sigma is {shown(sigma)}; expected {expected}")
    for level in np.unique(levels):
        model.at(float(level) / meaning.scale, strength_given=strength_given)
    return levels


Failure = (SafiError, MemoryError, OSError)  # what concerns one item of a run
