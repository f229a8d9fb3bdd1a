"""Everything that depends on shipped weights, made again where they changed: `make retune`. Hours.

    python -m bench.experiments.retune [--list] [--only NAME ...]

First lambda of `converged` of every model whose other weights changed since it was tuned; then every file of
bench/results that names a shipped model, and at last the pages that are written from them. bench/results/weights.json
says by which weights each was made, and is written after each: a run that was cut goes on where it was. Files with
times want an idle machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import RESULTS, ROOT
from bench.data.problems import DATA
from bench.experiments import tune
from bench.report import measure
from safi_fast import list_models, load_model
from safi_fast.model import Strength

LEDGER = RESULTS / "weights.json"
MODELS = ROOT / "safi_fast" / "models"
GRAY, FAST, MMR, COLOR, COLOR_FAST = "safi-gray", "safi-gray-fast", "mmr-gray", "safi-color", "safi-color-fast"
EXPERIMENT = "{python} -m bench.experiments."
EVALUATE = "{safi_fast} evaluate --json --data {data}/bsd68 --model "
STUDY = EXPERIMENT + "study {study} --model safi-gray --output {out}"
SET12 = " --data {data}/set12"


class Job(NamedTuple):
    """A file of bench/results: the command that makes it, and the models in it."""

    record: str
    command: str
    models: tuple[str, ...] = (GRAY,)


def studies() -> Iterator[Job]:
    """docs/models."""
    rest = {
        "bm3d": SET12, "seeds": f"{SET12} --crop 128", "schedules": f"{SET12} --crop 128",
        "convergence": f"{SET12} --crop 128 --sigma 25", "updates": f"{SET12} --crop 96 --limit 4",
        "starts": f"{SET12} --crop 96 --limit 3 --outer 25", "real": " --data {data}/micro",
    }  # fmt: skip
    for study, words in rest.items():
        yield Job(f"safi_gray_{study}.json", STUDY.replace("{study}", study) + words)
    for sigma in (15, 25, 50):
        yield Job(f"safi_gray_color_sigma{sigma}.json", STUDY.replace("{study}", "color") + f" --sigma {sigma}")


def jobs() -> Iterator[Job]:
    """All of them, the quick ones first."""
    for name in (GRAY, FAST, MMR):
        for sigma in (5, 15, 25):
            record = f"bsd68_{name.replace('-', '_')}_sigma{sigma}.json"
            yield Job(record, f"{EVALUATE}{name} --sigma {sigma} > {{out}}", (name,))
    for name in (COLOR, COLOR_FAST):
        for sigma in (5, 15, 25):
            record = f"cbsd68_{name.replace('-', '_')}_sigma{sigma}.json"
            yield Job(record, f"{EVALUATE.replace('bsd68', 'cbsd68')}{name} --sigma {sigma} > {{out}}", (name,))
    yield from studies()
    for sigma in (2, 5, 15, 25):
        study = STUDY.replace("{study}", "color").replace(GRAY, COLOR)
        words = f" --data {{data}}/cbsd68 --limit 6 --sigma {sigma}"
        yield Job(f"safi_color_color_sigma{sigma}.json", study + words, (COLOR, GRAY))
    yield Job("fast.json", EXPERIMENT + "fast tuning --output {out}")
    yield Job("fast_test.json", EXPERIMENT + "fast test --output {out}")
    yield Job("large_halo.json", EXPERIMENT + "large halo --output {out}")
    yield Job("large_tiles.json", EXPERIMENT + "large tiles --output {out}")
    plot = "--plot docs/images/rivals.png"
    yield Job("rivals.json", EXPERIMENT + f"rivals --output {{out}} {plot}", (GRAY, FAST))
    yield Job("steps.json", EXPERIMENT + "steps --output {out}")
    yield Job("sensitivity.json", EXPERIMENT + "sensitivity --size 64")
    yield Job("htc2022.json", EXPERIMENT + "limited_angle")
    yield Job("mri_real.json", EXPERIMENT + "mri_real --outer 12 --inner 1000")
    limits = "--outer 12 --inner 1000"
    inverse = {
        "inpaint": f"--size 96 {limits}", "superres": f"--size 96 {limits}", "siat": f"--size 128 {limits} --wcrr",
        "ct_grid": f"--size 128 {limits}", "blur": f"--size 96 {limits} --tune-outer 12",
        "mri": "--size 128 --outer 6 --inner 500 --wcrr", "ct": f"--size 256 {limits}",
    }  # fmt: skip
    for name, words in inverse.items():
        yield Job(f"inverse_{name}.json", EXPERIMENT + f"inverse {name} {words} --resume")


PAGES = tuple(
    f"{{python}} -m bench.{words}" for words in ("experiments.inverse tables", "report.cards", "report.tables")
)


def ledger() -> dict[str, dict[str, str]]:
    """By file, and by "tuned NAME": the first twelve digits of the fingerprint of each model."""
    return measure.read(LEDGER) if LEDGER.exists() else {}


def noted(key: str, marks: dict[str, str]) -> None:
    """Into the ledger."""
    measure.write_json(LEDGER, dict(sorted({**ledger(), key: marks}.items())))


def marks_of(job: Job) -> dict[str, str]:
    """Of the weights as they are."""
    return {name: load_model(name).fingerprint[:12] for name in job.models}


def as_trained(name: str) -> dict[str, str]:
    """The fingerprint without what `tune` changes."""
    model = load_model(name)
    unrolled = model.strength.unrolled
    return {name: dataclasses.replace(model, strength=Strength(unrolled, unrolled)).fingerprint[:12]}


def tuned(name: str) -> None:
    """Lambda of `converged`, in the shipped file; of colour models on the first images of BSDS500/test."""
    path = str(MODELS / f"{name}.safetensors")
    colour = ["--data", str(DATA / "bsds500" / "test"), "--limit", "4"]
    data = ["--data", str(DATA / "set12")] if load_model(name).filters.planes == 1 else colour
    tune.main(["--model", path, *data, "--output", path])


def run(command: str, out: Path | None = None) -> None:
    """With what belongs between its braces. Raises CalledProcessError."""
    python = Path(sys.executable)
    places = {"python": python, "safi_fast": python.with_name("safi-fast"), "data": DATA, "out": out or ""}
    filled = command.format(**{name: shlex.quote(str(place)) for name, place in places.items()})
    print(f"$ {filled}", flush=True)
    subprocess.run(filled, shell=True, check=True, cwd=ROOT)


def make(job: Job) -> None:
    """The file whole or not at all; one that its command writes itself loses the rows of other weights before."""
    out, fresh = RESULTS / job.record, RESULTS / f".{job.record}"
    if "{out}" in job.command:
        run(job.command, fresh)
        fresh.replace(out)
    else:
        if "--resume" in job.command and ledger().get(f"begun {job.record}") != marks_of(job):
            out.unlink(missing_ok=True)
            noted(f"begun {job.record}", marks_of(job))
        run(job.command)
    noted(job.record, marks_of(job))


def main(words: list[str] | None = None) -> None:
    """Say what is due, or do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print what is due, and do nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models to tune or files to make, no others")
    args = parser.parse_args(words)
    known = ledger()
    models = [name for name in list_models() if known.get(f"tuned {name}") != as_trained(name)]
    due = [job for job in jobs() if known.get(job.record) != marks_of(job)]
    if args.only:
        models = [name for name in models if name in args.only]
        due = [job for job in due if job.record in args.only]
    if args.list:
        print("\n".join([*(f"lambda of converged, {name}" for name in models), *(job.record for job in due)]))
        return
    for name in models:
        tuned(name)
        noted(f"tuned {name}", as_trained(name))
    for job in due:
        make(job)
    for page in PAGES:
        run(page)


if __name__ == "__main__":
    main()
