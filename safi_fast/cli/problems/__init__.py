"""The kinds of measurements that `safi-fast reconstruct` knows, one module each.

A module is a `Problem`; its docstring is the help of its command.
"""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...types import MaskOf
from ...values import UNIT_BOX, Box, DefaultBox, Range
from ..options import ScaleOptions, box_option

if TYPE_CHECKING:
    from ...operators import Operator

Array = NDArray[Any]

QUANTILE = 0.999
ESTIMATED_BOX = DefaultBox((0.0, 2.0))  # where white is a quantile, brighter pixels must not be cut off


@dataclass(frozen=True, eq=False)
class Slice:
    """One problem to solve, in the units of the file. measurement: (*shape_out), or (channels, *shape_out) of a colour
    image.

    start: what a classical method makes of it, drawn beside the result. x0: where the solver starts, None: its own
        choice.
    """

    measurement: Array
    operator: "Operator"
    start: Array
    x0: Array | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Study:
    """What one file holds: slices that share a data range, and how results are written.

    write(path, results): stores (slices, ...), returns facts for the report. facts: of all slices, for the report.
    """

    count: int
    slice: Callable[[int], Slice]
    range: Range
    box: Box | None
    start_name: str
    write: Callable[[Path, Array], dict[str, Any]]
    eight_bit: float  # what 255 on the scale of the command line's noise is
    noise_unit: float  # what 1 of --noise-std is, in the units of the measurements
    mask_of: MaskOf | None = None  # of complex images
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CaseOptions(ScaleOptions, ABC):
    """What the measurements are; each problem has options of its own."""

    @property
    def files(self) -> tuple[str | None, ...]:
        """What may name files that are read beside the inputs."""
        return ()

    @abstractmethod
    def open_study(self, path: Path) -> Study:
        """Read what is asked of one input. Raises SafiError, UsageError."""


class Problem(Protocol):
    """A module of this package."""

    @property
    def __doc__(self) -> str | None: ...  # type: ignore[override]

    @property
    def INPUT(self) -> str: ...  # noqa: N802

    @property
    def INPUT_HELP(self) -> str: ...  # noqa: N802

    @property
    def OPTIONS(self) -> type[CaseOptions]: ...  # noqa: N802

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What only this problem needs."""

    def list_inputs(self, paths: Iterable[str]) -> list[Path]:
        """The files of measurements or images."""


def measured_study(
    count: int, make: Callable[[int], Slice], meaning: Range, options: CaseOptions, facts: dict[str, Any], *,
    start_name: str, image: str = "real", mask_of: MaskOf | None = None,
) -> Study:  # fmt: skip
    """Of a scan, whose results are images of any scale: no box for complex ones, else one of the range, stated or
    estimated.
    """
    box = UNIT_BOX if options.data_range else ESTIMATED_BOX
    return Study(
        count=count,
        slice=make,
        range=meaning,
        box=box_option(options).get("box", box) if image == "real" else None,
        start_name=start_name,
        write=lambda file, results: write_magnitude(file, results, meaning.high if options.data_range else None),
        eight_bit=meaning.scale,
        noise_unit=1.0,
        mask_of=mask_of,
        facts=facts,
    )


def quantile_range(path: Path, what: str, values: list[Array], hint: str = "") -> Range:
    """The data range of measurements of arbitrary scale. hint: why it may not be positive. Raises InputError."""
    value = float(np.quantile(np.concatenate([one.ravel() for one in values]), QUANTILE))
    if not (np.isfinite(value) and value > 0):
        raise InputError(
            f"{path}: the {100 * QUANTILE:g} % quantile of the {what} is {value:g}; {hint}pass --data-range R"
        )
    return Range(0.0, value, f"{100 * QUANTILE:g} % quantile of the {what}")


def write_magnitude(path: Path, results: Array, white: float | None) -> dict[str, Any]:
    """Write MRI and CT results; see `safi_fast.io.results`."""
    from ...io import write_result

    used = write_result(path, results[0] if len(results) == 1 else results, white)
    return {} if used is None else {"white": used}
