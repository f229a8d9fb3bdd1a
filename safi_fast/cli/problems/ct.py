"""Computed tomography from sinograms (line integrals): TIFF, .npy, .npz, .mat or .h5; parallel or fan beam.

A sinogram is (views, detector cells), a stack (slices, views, cells); others need --layout, one letter per axis: vsd
for projections (views, slices, cells), dv for detector cells first. --angles START:STOP:N are N angles at equal steps,
STOP not among them; or a file, FILE::NAME for one of several arrays. At angle 0 rays of parallel geometry run upwards
through the image and cells count from left to right; the source of a fan is below. Lengths share one unit, in which the
line integrals are too: results are in 1/unit. By default pixels are as wide as a detector cell (seen at the axis of
rotation) and the image is the largest that all views see.

The result is scaled for the solver by --data-range, by default the 99.9 % quantile of the filtered back projection
(FBP) over all slices of the file, and back. The solver starts from the FBP. Data terms have different sizes: strengths
that work lie near 1e-5 to 1e-3 times ||H||^2, which the report states.
"""

import argparse
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ...errors import ImageFileError, InputError
from ...values import stated_range
from ..arguments import UsageError, positive
from ..parser import Rare
from . import Array, CaseOptions, Slice, Study, measured_study, quantile_range

if TYPE_CHECKING:
    from ...operators import FanBeamCT, ParallelBeamCT

INPUT, INPUT_HELP = "SINOGRAM", "sinogram files or folders of them"
Filter = Literal["ramp", "hann"]
TURN_OR_SO = 7.0  # a little more than 2 pi


@dataclass(frozen=True, kw_only=True)
class CtOptions(CaseOptions):
    """The arguments of `safi-fast reconstruct ct` that say what the measurements are."""

    variable: str | None
    layout: str | None
    angles: str
    angle_unit: str | None
    geometry: str
    detector_spacing: float
    centre: float | None
    source_origin: float | None
    source_detector: float | None
    pixel_size: float | None
    size: tuple[int, int] | None
    filter: Filter

    @property
    def files(self) -> tuple[str | None, ...]:
        """What may name files that are read beside the inputs."""
        return (self.angles,)

    def open_study(self, path: Path) -> Study:
        """What one input holds."""
        return open_study(path, self)


OPTIONS = CtOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only CT needs."""
    parser.add_argument(
        "--variable", metavar="NAME", help=Rare("which array of a .mat, .npz or .h5 file (default: the only one)")
    )
    parser.add_argument(
        "--layout", metavar="LETTERS", help=Rare("axes of the file: s slices, v views, d detector cells")
    )
    parser.add_argument("--angles", required=True, metavar="FILE|START:STOP:N", help="one per view, in degrees")
    parser.add_argument("--angle-unit", choices=("degrees", "radians"), help=Rare("of --angles (default: degrees)"))
    parser.add_argument("--geometry", choices=("parallel", "fan"), required=True)
    parser.add_argument(
        "--detector-spacing", type=positive, default=1.0, metavar="D", help=Rare("of cells (default: 1)")
    )
    parser.add_argument(
        "--centre", type=float, metavar="K", help=Rare("cell that faces the axis of rotation (default: the middle)")
    )
    parser.add_argument(
        "--source-origin", type=positive, metavar="D", help="fan: from the source to the axis of rotation"
    )
    parser.add_argument("--source-detector", type=positive, metavar="D", help="fan: from the source to the detector")
    parser.add_argument("--pixel-size", type=positive, metavar="P", help=Rare("of the image (default: a cell)"))
    parser.add_argument(
        "--size", type=size, metavar="N|HxW", help="of the image in pixels (default: what all views see)"
    )
    parser.add_argument("--filter", choices=get_args(Filter), default="ramp", help=Rare("of the FBP (default: ramp)"))


def size(text: str) -> tuple[int, int]:
    """N or HxW."""
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256 or 256x320")
    return sides[0], sides[-1]


def list_inputs(paths: Iterable[str]) -> list[Path]:
    """Files of measurements."""
    from ...io import list_measurements

    return list_measurements(paths, (".tif", ".tiff", ".npy", ".npz", ".mat", ".h5", ".hdf5"))


def open_study(path: Path, options: CtOptions) -> Study:
    """Read a file and its angles, make the operator, settle scale and box."""
    from ...io import read_sinogram

    sinograms, layout = read_sinogram(path, options.variable, options.layout)
    slices, views, cells = sinograms.shape
    angles = read_angles(options.angles, options.angle_unit)
    if len(angles) != views:
        turned = (
            f"; if detector cells come first, pass --layout {'dv' if layout == 'vd' else 'sdv'}"
            if cells == len(angles)
            else ""
        )
        raise ImageFileError(
            f"{path}: has {views} views of {cells} cells, but --angles gives {len(angles)} angles{turned}"
        )
    operator, notes = _operator(angles, cells, options)

    def sinogram(number: int) -> Array:
        return operator.check_measurement(np.asarray(sinograms[number], np.float32))

    if options.data_range:
        meaning = stated_range(options.data_range)
    else:
        backs = [operator.fbp(sinogram(n), options.filter) for n in range(slices)]
        meaning = quantile_range(path, "filtered back projection", backs, f"{operator.below_black} Else ")

    def make(number: int) -> Slice:
        y = sinogram(number)
        start = operator.fbp(y, options.filter)
        return Slice(y, operator, start, start)

    facts = {
        "layout": layout,
        "geometry": options.geometry,
        "views": views,
        "detector_cells": cells,
        "pixel_size": operator.pixel_size,
        "centre": operator.centre,
        "warnings": notes,
    }
    return measured_study(slices, make, meaning, options, facts, start_name="Filtered back projection")


def read_angles(text: str, unit: str | None) -> Array:
    """--angles in radians. Raises UsageError, ImageFileError."""
    from ...io import read_vector

    parts = text.split(":")
    if len(parts) == 3 and all(_is_number(part) for part in parts) and float(parts[2]) >= 1:
        start, stop, number = map(float, parts)
        if number != int(number):
            raise UsageError(f"--angles {text}: N is {parts[2]}; expected a whole number of views")
        values = np.linspace(start, stop, int(number), endpoint=False)
    else:
        values = read_vector(text)
    if unit is None and len(values) > 8 and np.ptp(values) < TURN_OR_SO:
        raise UsageError(
            f"--angles {text}: {len(values)} views within {np.ptp(values):.3g} degrees; for radians pass "
            "--angle-unit radians, else "
            "--angle-unit degrees"
        )
    return values if unit == "radians" else np.deg2rad(values)


def _operator(angles: Array, cells: int, options: CtOptions) -> tuple["ParallelBeamCT | FanBeamCT", list[str]]:
    """The operator, and what it warns of."""
    from ...operators import FanBeamCT, ParallelBeamCT

    source = _source(options)
    spacing = options.detector_spacing
    centre = (cells - 1) / 2 if options.centre is None else options.centre
    reach = min(centre + 0.5, cells - 0.5 - centre) * spacing  # of the detector to both sides of the axis
    if reach <= 0:
        raise InputError(f"--centre {centre:g} lies outside the detector of {cells} cells")
    pixel = options.pixel_size or spacing * (source[0] / source[1] if source else 1)
    radius = source[0] * np.sin(np.arctan(reach / source[1])) if source else reach
    side = max(1, int(2 * radius / pixel + 1e-6))
    shape = options.size or (side, side)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        operator: ParallelBeamCT | FanBeamCT
        if source:
            operator = FanBeamCT(shape, angles, cells, spacing, *source, centre=centre, pixel_size=pixel)
        else:
            operator = ParallelBeamCT(shape, angles, cells, spacing, centre=centre, pixel_size=pixel)
    return operator, [str(warning.message) for warning in caught]


def _source(options: CtOptions) -> tuple[float, float] | None:
    """Distances of a fan's source from the axis of rotation and from the detector; None of parallel rays."""
    origin, detector = options.source_origin, options.source_detector
    if options.geometry == "fan":
        if not (origin and detector):
            raise UsageError("--geometry fan needs --source-origin D and --source-detector D")
        return origin, detector
    if origin or detector:
        raise UsageError("--source-origin and --source-detector belong to --geometry fan")
    return None


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
