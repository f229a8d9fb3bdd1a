"""List the models that ship with the package."""

import argparse
from typing import TYPE_CHECKING, Any

from .arguments import add_json_argument
from .output import print_json, print_table
from .session import EIGHT_BIT

if TYPE_CHECKING:
    from ..model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast models`."""
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line per model."""
    from ..models import DEFAULT_COLOR_MODEL, DEFAULT_MODEL, list_models, load_model

    marks = {DEFAULT_COLOR_MODEL: " (default of colour)", DEFAULT_MODEL: " (default)"}
    found = [facts_of(load_model(name)) for name in list_models()]
    if args.json:
        print_json({"default": DEFAULT_MODEL, "models": found})
        return 0
    rows = [
        (
            facts["name"] + marks.get(facts["name"], ""),
            facts["family"].upper(),
            " to ".join(f"{level:g}" for level in sorted({facts["noise_levels"][0], facts["noise_levels"][-1]})),
            str(facts["channels"]),
            facts["metadata"].get("scores") or "not measured",
        )
        for facts in found
    ]
    print_table(("model", "family", "sigma (0-255)", "channels", "score"), rows)
    return 0


def facts_of(model: "Model") -> dict[str, Any]:
    """The facts of a model in plain types; noise levels on the 8-bit scale."""
    return {
        "name": model.name,
        "family": model.family,
        "noise_levels": [round(float(level) * EIGHT_BIT, 4) for level in model.noise_levels],
        "channels": model.filters.channels,
        "support": model.filters.support,
        "layers": len(model.filters.layers),
        "boundary": model.filters.boundary,
        "schedule": {"name": model.schedule.name, "outer": model.schedule.outer, "inner": model.schedule.inner},
        "strength": {
            "unrolled": model.strength.unrolled.tolist(),
            "converged": model.strength.converged.tolist(),
        },
        "sha256": model.fingerprint,
        "metadata": dict(model.metadata),
    }
