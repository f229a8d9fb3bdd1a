"""Show what a model is made of: its facts as text, and with -o its filters and functions as a picture."""

import argparse
from pathlib import Path

from .arguments import add_json_argument
from .models import facts_of
from .output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast inspect`."""
    parser.add_argument("model", metavar="MODEL", help="a shipped model or a .safetensors file")
    parser.add_argument("-o", "--output", type=Path, metavar="PNG", help="write the picture there (needs Matplotlib)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the facts and draw the picture."""
    from ..models import describe, load_model

    model = load_model(args.model)
    picture = {} if args.output is None else {"picture": str(args.output)}
    if args.output is not None:
        from ..plots import inspect_model

        inspect_model(model, args.output)
    if args.json:
        print_json({**facts_of(model), **picture})
        return 0
    lines = {**describe(model), **picture}
    width = max(map(len, lines))
    for label, text in lines.items():
        print(f"{label:{width}}  {text}")
    return 0
