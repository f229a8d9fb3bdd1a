"""Turn a published checkpoint (.pth) into a weights file of this package.

Needs PyTorch: pip install torch.
"""

import argparse
from pathlib import Path

from .arguments import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast convert`."""
    parser.add_argument("source", type=Path, metavar="IN.pth", help="checkpoint of the published code")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors", help="weights file to write")
    parser.add_argument(
        "--converged-strength",
        type=positive,
        metavar="L",
        help="lambda for the converged schedule, tuned after training and therefore not in the checkpoint",
    )
    parser.add_argument("--name", metavar="N", help="name of the model (default: taken from the file)")
    parser.add_argument("--overwrite", action="store_true", help="replace the weights file if it exists")


def run(args: argparse.Namespace) -> int:
    """Convert and say what was found."""
    from ..training.checkpoint import convert

    model = convert(
        args.source,
        args.target,
        converged_strength=args.converged_strength,
        name=args.name,
        overwrite=args.overwrite,
    )
    family, channels = model.family.upper(), model.filters.channels
    print(f"{args.target}: {family} {model.name}, {channels} filters, sha256 {model.fingerprint}")
    return 0
