"""Fill missing pixels of images: --mask says which are known.

The mask is an image or array of the size of the image: 0 is missing, the other value (1, 255, True) known;
--invert-mask for the opposite. What the image holds at missing pixels does not matter. Known pixels are fitted, not
copied: they may be noisy.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ImageFileError
from . import Array, CaseOptions, Study
from .pictures import INPUT, INPUT_HELP, list_inputs, open_images

if TYPE_CHECKING:
    from ...operators import Operator

__all__ = ["INPUT", "INPUT_HELP", "OPTIONS", "add_arguments", "list_inputs", "open_study"]


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(CaseOptions):
    """The arguments of `safi-fast reconstruct inpaint` that say what the measurements are."""

    mask: str
    invert_mask: bool

    @property
    def files(self) -> tuple[str | None, ...]:
        """What may name files that are read beside the inputs."""
        return (self.mask,)

    def open_study(self, path: Path) -> Study:
        """What one input holds."""
        return open_study(path, self)


OPTIONS = InpaintOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only inpainting needs."""
    parser.add_argument("--mask", required=True, metavar="FILE", help="0 where a pixel is missing")
    parser.add_argument("--invert-mask", action="store_true", help="the mask is 0 where a pixel is known")


def open_study(path: Path, options: InpaintOptions) -> Study:
    """Read an image and the mask."""
    from ...io import read_mask

    mask = read_mask(options.mask)
    if options.invert_mask:
        mask = ~mask

    def prepare(shape: tuple[int, int]) -> tuple["Operator", dict[str, Any]]:
        from ...operators import Mask

        if mask.shape != shape:
            raise ImageFileError(f"{options.mask}: the mask has shape {mask.shape}; expected {shape}, as {path}")
        return Mask(mask), {"mask": options.mask, "known_share": float(mask.mean())}

    study = open_images(path, options, prepare, "Known pixels", lambda y: y)

    def pixels(number: int) -> Array:
        return np.asarray(study.slice(number).measurement[..., mask])

    if mask.sum() > 1 and not any(np.ptp(pixels(number), axis=-1).any() for number in range(study.count)):
        found = np.unique([pixels(number)[..., 0] for number in range(study.count)])
        values = ", ".join(f"{value:g}" for value in found)
        raise ImageFileError(f"{path}: all known pixels are {values}; is the mask inverted (--invert-mask)?")
    return study
