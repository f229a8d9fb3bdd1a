"""What the commands use of the library: one model, one solver, and the numbers they report of a solution."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..values import UNIT_RANGE, Range

if TYPE_CHECKING:
    from ..api import Solver
    from ..model import Model

EIGHT_BIT = 255.0


@dataclass(frozen=True)
class Session:
    """A solver and the model it runs. Noise is given on the 8-bit scale, strength for images on [0, 1]."""

    model: "Model"
    solver: "Solver"
    others: tuple["Session", ...] = ()  # on further GPUs

    def check(
        self,
        sigma: float | None,
        *,
        schedule: str | None = None,
        strength: float | None = None,
        max_outer: int | None = None,
        max_inner: int | None = None,
        tol: float | None = None,
    ) -> None:
        """Refuse settings that no image could be denoised with. sigma: None where it is estimated. Raises
        InputError.
        """
        from ..solver.schedules import schedule_for

        schedule_for(self.model, schedule, max_outer, max_inner, tol)
        if sigma is not None:
            self.check_level("--sigma", sigma, strength_given=strength is not None)

    def check_level(self, option: str, level: float, *, strength_given: bool) -> None:
        """Refuse a noise level that the model is not for. Raises InputError."""
        try:
            self.model.at(level / EIGHT_BIT, strength_given=strength_given)
        except InputError:
            levels = [f"{EIGHT_BIT * known:.4g}" for known in self.model.noise_levels]
            accepted = f"accepts {levels[0]} to {levels[-1]}"
            if len(levels) == 1:
                accepted = (
                    f"is for {levels[0]} only; pass that (to 1 %), choose another --model, or set --strength yourself"
                )
            raise InputError(
                f"{option} is {level:g}, on the scale 0 to 255; model {self.model.name!r} {accepted}"
            ) from None

    def model_for(self, shape: tuple[int, ...], channel_axis: int | None, color: str | None) -> "Model":
        """The model that an image of this shape goes through; says so where it is to be compiled first."""
        model = self.solver.model_for(shape, channel_axis, color)
        if model is not self.model:
            _announce(self.solver, model)
        return model

    def denoise(
        self,
        image: NDArray[Any],
        sigma: Any,
        *,
        data_range: Range = UNIT_RANGE,
        channel_axis: int | None = None,
        strength: float | None = None,
        **options: Any,
    ) -> Any:
        """The Solution for one image or stack of this range; sigma a number, "estimate" or a map, options as for
        `Solver.denoise`.
        """
        return self.solver.denoise(
            image,
            sigma if isinstance(sigma, str) else sigma / EIGHT_BIT * data_range.scale,
            data_range=data_range,
            channel_axis=channel_axis,
            strength=None if strength is None else strength * data_range.scale,
            return_solution=True,
            **options,
        )


def make_session(
    model: str | None = None, backend: str = "auto", precision: str = "float32", devices: Any = None
) -> Session:
    """Load a model (None: the shipped default) and set up its solver, or one for each of the GPUs `devices`."""
    from ..api import Solver
    from ..models import DEFAULT_MODEL, load_model
    from ..startup import compile_ahead

    loaded = load_model(model or DEFAULT_MODEL)
    solver = Solver(None if model is None else loaded, backend=backend, precision=precision, devices=devices)
    compile_ahead(solver, _compiling)
    return Session(loaded, solver, tuple(Session(loaded, other) for other in solver.each_gpu[1:]))


def _announce(solver: "Solver", model: "Model") -> None:
    """Say so, where kernels for this model are yet to be compiled."""
    from ..startup import missing_kernels
    from .output import print_note

    missing = missing_kernels(solver, model)
    if missing:
        print_note(f"the first colour image on a machine compiles {missing} kernels, which takes a quarter of a minute")


def _compiling(kernels: int) -> AbstractContextManager[Callable[..., None]]:
    """Says what takes so long; on a terminal with a bar."""
    from .output import print_note, progress

    print_note(f"the first run on a machine compiles {kernels} kernels, which takes about a quarter of a minute")
    return progress("compiling", kernels, "kernel")


def summary(solution: Any) -> dict[str, Any]:
    """The figures of a Solution; of a batch the worst, because one number must not hide a bad image."""
    from ..solver.result import worst_status

    return {
        "solver_status": worst_status(solution.status),
        "gap": _largest(solution.gap),
        "relative_gap": _largest(solution.relative_gap),
        "outer_iterations": _largest_count(solution.outer_iterations),
        "inner_iterations": _largest_count(solution.inner_iterations),
    }


def _largest(values: Any) -> float | None:
    return None if values is None else float(np.max(values))


def _largest_count(values: Any) -> int:
    return int(np.max(values))
