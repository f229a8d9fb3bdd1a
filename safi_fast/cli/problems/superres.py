"""Enlarge images by a whole factor: the image whose anti-aliased reduction is the one given.

--kernel bicubic takes the image as reduced by anti-aliased bicubic interpolation (MATLAB's imresize), box as block
means, FILE as filtered by a kernel of your own, which is divided by its sum. An alpha channel is enlarged by bicubic
interpolation.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import count
from . import Study
from .deblur import read_kernel
from .pictures import BOUNDARIES, INPUT, INPUT_HELP, enlarged, list_inputs, open_images

if TYPE_CHECKING:
    from ...operators import Operator

__all__ = ["INPUT", "INPUT_HELP", "add_arguments", "list_inputs", "open_study"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only super-resolution needs."""
    parser.add_argument("--factor", type=count, required=True, metavar="N", help="at least 2")
    parser.add_argument(
        "--kernel", default="bicubic", metavar="bicubic|box|FILE", help="of the reduction (default: bicubic)"
    )
    parser.add_argument(
        "--boundary", choices=BOUNDARIES, default="symmetric", help="how the image goes on outside (default: symmetric)"
    )


def open_study(path: Path, args: argparse.Namespace) -> Study:
    """Read an image."""
    kernel: Any = args.kernel if args.kernel in ("bicubic", "box") else read_kernel(args.kernel)[0]

    def prepare(shape: tuple[int, int]) -> tuple["Operator", dict[str, Any]]:
        from ...operators import Downsample

        large = (args.factor * shape[0], args.factor * shape[1])
        return Downsample(args.factor, large, kernel, args.boundary), {"factor": args.factor, "kernel": args.kernel}

    return open_images(path, args, prepare, "Bicubic", lambda y: enlarged(y, args.factor))
