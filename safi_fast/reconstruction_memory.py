"""How much memory `reconstruct` takes, and how many images it solves at once so that it stays below a limit.

Counted is what a call adds to a solver that is ready, in images (4 bytes a pixel, 8 where they are complex) and in
measurements (as float32 or complex64), beside the work space of the filter bank (`Engine.workspace_bytes`; complex
images take two):

    of all images        measurements on [0, 1]; the start and one least-squares step; results
    of those at once     x, z, their anchors and hats, means of z, the accepted image, three of `Mixing`, the metric;
                         p (the size of a measurement) or H^T y; with a box v (an image): iterate, anchor, hat, means
    during a step        what the update of each makes

The caller's measurements and the arrays of an operator are there before; what an operator keeps from its first use on
(`Operator.kept_bytes`) is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .backend import Engine
from .errors import InputError
from .memory import Extent, divide
from .operators import Operator

IMAGES = 18  # of those at once: held, and the most that a step makes
BOUNDED = 8  # of them with a box: v and what its update makes
UNIFORM = 2  # H^T y and its product, where H^T H is diagonal in Fourier
RESIDUALS = 8  # measurements of those at once: p, its anchor, hat and means, and what its update makes
DIAGONAL_RESIDUALS = 3  # where p is made for the certificate alone
SHARED = 3  # images of all: start, step, result
FINISHED = 6  # of all, when results are put together and compared with the measurements
PREPARED = 4  # measurements of all, when they are checked


@dataclass(frozen=True)
class Unknowns:
    """What is to be reconstructed.

    parts: of an image, 2 where it is complex. planes: of an image. measured: bytes of the measurements of one image.
    kept: bytes that the operators keep. channels: of the masks that are handed over, 0 where none are.
    """

    count: int
    height: int
    width: int
    parts: int
    measured: int
    kept: int
    diagonal: bool
    bounded: bool
    channels: int = 0
    planes: int = 1

    @staticmethod
    def of(operators: list[Operator], count: int, bounded: bool, channels: int = 0, planes: int = 1) -> Unknowns:
        """`count` images of one operator, or one of each; bounded: with a box."""
        first = operators[0]
        numbers = planes * int(np.prod(first.shape_out)) * (2 if first.complex else 1)
        diagonal = all(op.spectrum is not None for op in operators)
        kept = sum(op.kept_bytes for op in dict.fromkeys(operators))
        parts = 2 if first.image == "complex" else 1
        return Unknowns(count, *first.shape_in, parts, 4 * numbers, kept, diagonal, bounded, channels, planes)

    @property
    def image(self) -> int:
        """Bytes of one."""
        return 4 * self.parts * self.planes * self.height * self.width

    @property
    def masks(self) -> int:
        """Bytes of those of one image that are handed over."""
        return self.channels * self.image // self.planes


def images_at_once(engine: Engine, unknowns: Unknowns, max_memory: float | None, at_once: bool) -> int:
    """As many as the engine has a work space for, or all `at_once`, and keep the peak below `max_memory` bytes. Raises
    InputError where not even one does.
    """
    extent = Extent(4, unknowns.count, unknowns.height, unknowns.width * unknowns.parts, unknowns.planes)
    most = divide(engine, extent, at_once).batch
    if max_memory is None:
        return most
    for batch in [most] if at_once else range(most, 0, -1):
        if peak_bytes(engine, unknowns, batch) <= max_memory:
            return batch
    raise InputError(_too_large(engine, unknowns, max_memory, at_once))


def peak_bytes(engine: Engine, unknowns: Unknowns, batch: int) -> int:
    """Most memory in use at once, with `batch` images solved together: when measurements are checked, during a solve,
    or when results are put together.
    """
    u, everyone = unknowns, unknowns.count
    preparing = everyone * (PREPARED * u.measured + SHARED * u.image)
    solving = everyone * (u.measured + SHARED * u.image + u.masks) + batch * _solving_bytes(u)
    solving += engine.workspace_bytes(batch * u.parts, u.height, u.width)
    finishing = everyone * (u.measured + FINISHED * u.image + 2 * u.masks)
    return u.kept + max(preparing, solving, finishing)


def _solving_bytes(u: Unknowns) -> int:
    """Of one image while it is solved, beside the work space."""
    images = IMAGES + BOUNDED * u.bounded + UNIFORM * u.diagonal
    return images * u.image + (DIAGONAL_RESIDUALS if u.diagonal else RESIDUALS) * u.measured


def _too_large(engine: Engine, unknowns: Unknowns, max_memory: float, at_once: bool) -> str:
    u, alone = unknowns, peak_bytes(engine, unknowns, 1)
    least = peak_bytes(engine, unknowns, u.count) if at_once else alone
    if at_once and alone <= max_memory:
        advice = "leave callback out, which sees all at once, or pass fewer at once"
    elif u.count > 1:
        advice = "pass fewer at once"
    else:
        advice = "a reconstruction cannot be cut into tiles: allow that much, or make a smaller image"
    return (
        f"max_memory is {max_memory:.4g} bytes, but {u.count} image(s) of {u.height} x {u.width} pixels need at least "
        f"{least:.4g}; {advice}"
    )
