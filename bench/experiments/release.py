"""Give trained weights the metadata that they ship with, scores of `safi-fast evaluate --json` among them.

Scores of the unrolled schedule may be those of the weights before `tune`, which changes nothing that this schedule
reads: with lambda of `converged` as that of `unrolled`, or as in the file --as-trained.

    python -m bench.experiments.release --model tuned.safetensors --name safi-gray --licence MIT \\
        --training-data "..." --training "..." --evaluations bench/results/bsd68_safi_gray_sigma*.json \\
        --output safi_fast/models/safi-gray.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.data.images import scored_on
from safi_fast import load_model
from safi_fast.errors import ModelError
from safi_fast.model import Model, Strength
from safi_fast.weights import save_model


def released(
    model: Model,
    name: str,
    *,
    licence: str,
    training_data: str,
    training: str,
    evaluations: Sequence[dict[str, Any]],
    as_trained: Model | None = None,
) -> Model:
    """The model under its name with its metadata. Raises ModelError where a score is that of other weights."""
    for result in evaluations:
        if result["model_sha256"] not in _fingerprints(model, result["schedule"], as_trained):
            raise ModelError(f"the score at sigma {result['sigma']:g} is that of other weights; evaluate these")
    metadata = {
        "licence": licence,
        "training_data": training_data,
        "training": training,
        "scores": _scores(model, sorted(evaluations, key=lambda result: result["sigma"])),
    }
    return dataclasses.replace(model, name=name, metadata=metadata)


def _fingerprints(model: Model, schedule: str, as_trained: Model | None) -> set[str]:
    """Of the model, and for the unrolled schedule of the model as it was trained."""
    if schedule != "unrolled":
        return {model.fingerprint}
    unrolled = model.strength.unrolled
    converged = unrolled if as_trained is None else as_trained.strength.converged
    before = dataclasses.replace(model, strength=Strength(unrolled, converged))
    return {model.fingerprint, before.fingerprint}


def _scores(model: Model, evaluations: Sequence[dict[str, Any]]) -> str:
    if not evaluations:
        return "not measured"
    count = evaluations[0]["images"]
    values = ", ".join(f"{result['psnr']:.2f} dB at sigma {result['sigma']:g}" for result in evaluations)
    steps = f"{evaluations[0]['schedule']} {model.schedule.outer} x {model.schedule.inner}"
    images = scored_on(model)
    return f"{images} ({count} images), {steps}: {values} (safi-fast evaluate --data {images} --sigma S)"


def main(words: list[str] | None = None) -> None:
    """Read, name, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "name", "licence", "training-data", "training"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--evaluations", type=Path, nargs="*", default=[], metavar="FILE.json")
    parser.add_argument("--as-trained", metavar="NAME|PATH", help="the weights before `tune`, which were evaluated")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.safetensors")
    args = parser.parse_args(words)
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in args.evaluations]
    model = released(
        load_model(args.model), args.name, licence=args.licence, training_data=args.training_data,
        training=args.training, evaluations=evaluations,
        as_trained=load_model(args.as_trained) if args.as_trained else None,
    )  # fmt: skip
    save_model(model, args.output)
    print(f"{args.output.name}: {model.metadata['scores']}")


if __name__ == "__main__":
    main()
