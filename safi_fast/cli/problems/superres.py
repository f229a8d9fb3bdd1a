"""Enlarge images by a whole factor: the image whose anti-aliased reduction is the one given.

--kernel bicubic takes the image as reduced by anti-aliased bicubic interpolation (MATLAB's imresize), box as block
means, FILE as filtered by a kernel of your own, which is divided by its sum. An alpha channel is enlarged by bicubic
interpolation.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import count
from . import CaseOptions, Study
from .deblur import read_kernel
from .pictures import BOUNDARIES, INPUT, INPUT_HELP, Boundary, enlarged, list_inputs, open_images

if TYPE_CHECKING:
    from ...operators import Operator

__all__ = ["INPUT", "INPUT_HELP", "OPTIONS", "add_arguments", "list_inputs", "open_study"]


@dataclass(frozen=True, kw_only=True)
class SuperresOptions(CaseOptions):
    """The arguments of `safi-fast reconstruct superres` that say what the measurements are."""

    factor: int
    kernel: str
    boundary: Boundary

    @property
    def files(self) -> tuple[str | None, ...]:
        """What may name files that are read beside the inputs."""
        return (self.kernel,)

    def open_study(self, path: Path) -> Study:
        """What one input holds."""
        return open_study(path, self)


OPTIONS = SuperresOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only super-resolution needs."""
    parser.add_argument("--factor", type=count, required=True, metavar="N", help="at least 2")
    parser.add_argument(
        "--kernel", default="bicubic", metavar="bicubic|box|FILE", help="of the reduction (default: bicubic)"
    )
    parser.add_argument(
        "--boundary", choices=BOUNDARIES, default="symmetric", help="how the image goes on outside (default: symmetric)"
    )


def open_study(path: Path, options: SuperresOptions) -> Study:
    """Read an image."""
    kernel: Any = options.kernel if options.kernel in ("bicubic", "box") else read_kernel(options.kernel)[0]

    def prepare(shape: tuple[int, int]) -> tuple["Operator", dict[str, Any]]:
        from ...operators import Downsample

        large = (options.factor * shape[0], options.factor * shape[1])
        return Downsample(options.factor, large, kernel, options.boundary), {
            "factor": options.factor,
            "kernel": options.kernel,
        }

    return open_images(path, options, prepare, "Bicubic", lambda y: enlarged(y, options.factor))
