"""Give trained weights the metadata that they ship with; the scores are those of `safi-fast evaluate --json` on these very weights.

Scores of the unrolled schedule may be those of the weights before `tune.py`, which changes nothing that this schedule reads.

    python bench/release.py --model tuned.safetensors --name safi-gray --licence MIT --training-data "..." --training "..." \\
        --evaluations bench/results/bsd68_safi_gray_sigma*.json --output safi_fast/models/safi-gray.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safi_fast import load_model
from safi_fast.errors import ModelError
from safi_fast.model import Model, Strength
from safi_fast.weights import save_model


def released(
    model: Model, name: str, *, licence: str, training_data: str, training: str, evaluations: Sequence[dict[str, Any]]
) -> Model:
    """The model under its name with its metadata. Raises ModelError where a score is that of other weights."""
    for result in evaluations:
        if result["model_sha256"] not in _fingerprints(model, result["schedule"]):
            raise ModelError(f"the score at sigma {result['sigma']:g} is that of other weights; evaluate these")
    metadata = {
        "licence": licence,
        "training_data": training_data,
        "training": training,
        "scores": _scores(model, sorted(evaluations, key=lambda result: result["sigma"])),
    }
    return dataclasses.replace(model, name=name, metadata=metadata)


def _fingerprints(model: Model, schedule: str) -> set[str]:
    """Of the model, and for the unrolled schedule of the model as it was trained."""
    unrolled = model.strength.unrolled
    as_trained = dataclasses.replace(model, strength=Strength(unrolled, unrolled))
    return {model.fingerprint} | ({as_trained.fingerprint} if schedule == "unrolled" else set())


def _scores(model: Model, evaluations: Sequence[dict[str, Any]]) -> str:
    if not evaluations:
        return "not measured"
    count = evaluations[0]["images"]
    values = ", ".join(f"{result['psnr']:.2f} dB at sigma {result['sigma']:g}" for result in evaluations)
    steps = f"{evaluations[0]['schedule']} {model.schedule.outer} x {model.schedule.inner}"
    return f"BSD68 ({count} images), {steps}: {values} (safi-fast evaluate --data BSD68 --sigma S)"


def main(words: list[str] | None = None) -> None:
    """Read, name, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "name", "licence", "training-data", "training"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--evaluations", type=Path, nargs="*", default=[], metavar="FILE.json")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.safetensors")
    args = parser.parse_args(words)
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in args.evaluations]
    model = released(
        load_model(args.model), args.name, licence=args.licence, training_data=args.training_data,
        training=args.training, evaluations=evaluations,
    )  # fmt: skip
    save_model(model, args.output)
    print(f"{args.output.name}: {model.metadata['scores']}")


if __name__ == "__main__":
    main()
