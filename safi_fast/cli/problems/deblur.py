"""Deblur images whose blur is known: a kernel from an image, .npy, .mat or .npz file.

The kernel is divided by its sum, so that brightness is kept; its middle, side // 2, is the pixel itself. FILE::NAME
picks one of several arrays, FILE::NAME.3 a cell of a MATLAB cell array.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ImageFileError
from . import Array, CaseOptions, Study
from .pictures import BOUNDARIES, INPUT, INPUT_HELP, Boundary, list_inputs, open_images

if TYPE_CHECKING:
    from ...operators import Operator

__all__ = ["INPUT", "INPUT_HELP", "OPTIONS", "add_arguments", "list_inputs", "open_study"]


@dataclass(frozen=True, kw_only=True)
class DeblurOptions(CaseOptions):
    """The arguments of `safi-fast reconstruct deblur` that say what the measurements are."""

    kernel: str
    boundary: Boundary

    @property
    def files(self) -> tuple[str | None, ...]:
        """What may name files that are read beside the inputs."""
        return (self.kernel,)

    def open_study(self, path: Path) -> Study:
        """What one input holds."""
        return open_study(path, self)


OPTIONS = DeblurOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only deblurring needs."""
    parser.add_argument("--kernel", required=True, metavar="FILE", help="the blur's kernel (h, w)")
    parser.add_argument(
        "--boundary", choices=BOUNDARIES, default="symmetric", help="how the image goes on outside (default: symmetric)"
    )


def open_study(path: Path, options: DeblurOptions) -> Study:
    """Read an image and the kernel."""
    kernel, total = read_kernel(options.kernel)

    def prepare(shape: tuple[int, int]) -> tuple["Operator", dict[str, Any]]:
        from ...operators import Blur

        facts = {"kernel": list(kernel.shape), "kernel_sum": total, "boundary": options.boundary}
        return Blur(kernel, shape, options.boundary), facts

    return open_images(path, options, prepare, "Blurred", lambda y: y)


def read_kernel(name: str) -> tuple[Array, float]:
    """The kernel, divided by its sum, and the sum. Raises ImageFileError."""
    from ...io import read_array

    kernel = np.asarray(read_array(name))
    if kernel.ndim != 2 or kernel.dtype.kind == "c":
        raise ImageFileError(f"{name}: holds {kernel.dtype} of shape {kernel.shape}; expected a real kernel (h, w)")
    total = float(kernel.sum(dtype=np.float64))
    if not (np.isfinite(total) and total > 0):
        raise ImageFileError(f"{name}: the kernel sums to {total:g}; expected a positive sum, by which it is divided")
    return kernel.astype(np.float64) / total, total
