"""The arguments of `safi-fast reconstruct` as one value, and the problems that it knows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .problems import CaseOptions, Problem, ct, deblur, inpaint, mri, superres

if TYPE_CHECKING:
    from ..solver.schedules import Reconstruction

PROBLEMS: dict[str, Problem] = {"mri": mri, "ct": ct, "deblur": deblur, "inpaint": inpaint, "superres": superres}
MEASURED = ("mri", "ct")  # whose results have a format of their own, and slices that go into files of their own


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked. case: what the measurements are. format, slices: of measured problems alone."""

    problem: str
    case: CaseOptions
    inputs: tuple[str, ...]
    output: str
    model: str | None
    backend: str
    precision: str
    strength: float | None
    tune_reference: str | None
    noise_std: float | None
    holdout: float | None
    candidates: tuple[float, ...] | None
    noise_level: float | None
    schedule: str
    max_outer: int | None
    max_iter: int | None
    tol: float | None
    max_memory: float | None
    format: str | None
    slices: tuple[int, int] | None
    overwrite: bool
    plot: Path | None
    html: Path | None
    report: Path | None
    json: bool

    @property
    def measured(self) -> bool:
        """Whether the problem is one of `MEASURED`."""
        return self.problem in MEASURED

    @property
    def plot_folder(self) -> Path | None:
        """Where pictures lie."""
        if self.plot is None:
            return None
        return self.plot.parent if self.plot.suffix else self.plot

    @property
    def outer(self) -> int:
        """The most outer steps of a slice."""
        return self._schedule.outer

    @property
    def inner(self) -> int:
        """The most inner steps of a mask."""
        return self._schedule.inner

    @property
    def _schedule(self) -> "Reconstruction":
        """With the counts that the operators of this problem ask for."""
        from ..operators.base import Operator
        from ..operators.blur import Blur
        from ..operators.ct import ParallelBeamCT
        from ..operators.downsample import Downsample
        from ..operators.mask import Mask
        from ..operators.mri import FourierMRI
        from ..solver.schedules import reconstruct_schedule

        kinds: dict[str, type[Operator]] = {
            "mri": FourierMRI, "ct": ParallelBeamCT, "deblur": Blur, "inpaint": Mask, "superres": Downsample,
        }  # fmt: skip
        return reconstruct_schedule(self.schedule, self.max_outer, self.max_iter, paces=[kinds[self.problem].pace])
