"""docs/models/*.md, one form for all: scores from bench/results, the curve from a training log, the rest in words.

    python -m bench.report.cards                                       # writes the cards of all models of the package
    python -m bench.report.cards --log run/log.jsonl --model NAME      # first keeps the curve of a training run

The words of a model, on data, teachers, time and failures, stand in bench/report/templates/cards/NAME.md, under the
headings of the card; a heading that has nothing says "None." Scores are bench/results/bsd68_NAME_sigma*.json, of colour
models cbsd68_NAME_sigma*.json, as `safi-fast evaluate --json` prints them; the curve is bench/results/curve_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from bench import RESULTS, ROOT
from bench.data.images import operations, scored_on
from bench.report import measure
from bench.report.markdown import table, tidy
from safi_fast import list_models, load_model
from safi_fast.models import describe

TEMPLATES = Path(__file__).with_name("templates")
CARDS = ROOT / "docs" / "models"
WORDS = ("use", "data", "teachers", "time", "studies", "failures")
PUBLISHED = {
    "BSD68": {"published SAFI": {5: 37.92, 15: 31.61, 25: 29.11}, "BM3D": {5: 37.54, 15: 31.11, 25: 28.60}},
    "CBSD68": {
        "published DEAL": {5: 40.33, 15: 33.95, 25: 31.31},
        "CBM3D, published": {5: 40.24, 15: 33.52, 25: 30.71},
    },
}
CURVE_ROWS = 10  # at most, of those that were logged


def write() -> None:
    """The cards of all models that come with the package."""
    for name in list_models():
        (CARDS / f"{name}.md").write_text(card(name), encoding="utf-8")


def card(name: str) -> str:
    """docs/models/<name>.md. Raises SystemExit where words or scores of it are not there."""
    text = (TEMPLATES / "card.md").read_text(encoding="utf-8")
    fields = {**words(name), "name": name, "facts": facts(name), "scores": scores(name), "curve": curve(name)}
    fields["images"] = scored_on(load_model(name))
    return tidy(text.format(**fields))


def words(name: str) -> dict[str, str]:
    """What is said of a model in its own words, by heading."""
    path = TEMPLATES / "cards" / f"{name}.md"
    if not path.exists():
        raise SystemExit(f"{path.relative_to(ROOT)} is not there; write what the card says: {', '.join(WORDS)}")
    parts = re.split(r"^# (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {heading: body.strip() for heading, body in zip(parts[::2], parts[1::2], strict=True)}
    if set(found) != set(WORDS):
        wrong = sorted(set(found) ^ set(WORDS))
        raise SystemExit(f"{path.relative_to(ROOT)}: heading {wrong[0]!r}; expected {', '.join(WORDS)}, once each")
    return found


def facts(name: str) -> str:
    """What the weights file says of itself."""
    model = load_model(name)
    said, schedule = describe(model), model.schedule
    cost = operations(model, schedule.outer, schedule.inner)
    rows = [[key, said[key]] for key in ("family", "noise levels", "filters", "schedule", "licence")]
    rows[1][0] = "noise levels, of 255"
    return table(
        ["", ""], [*rows, ["multiply-adds per pixel", f"{cost:,}"], ["fingerprint", f"`{said['fingerprint'][:16]}`"]]
    )


def scores(name: str) -> str:
    """PSNR on the test images beside that of others."""
    images = scored_on(load_model(name))
    start = f"{images.lower()}_{name.replace('-', '_')}"
    paths = RESULTS.glob(f"{start}_sigma*.json")
    found = {round(record["sigma"]): record["psnr"] for record in map(measure.read, paths)}
    if not found:
        raise SystemExit(f"bench/results holds no {start}_sigma*.json; run safi-fast evaluate --json")
    levels = sorted(found)
    rows = [[who, *(f"{of[level]:.2f}" if level in of else "" for level in levels)]
            for who, of in ({f"`{name}`": found} | PUBLISHED[images]).items()]  # fmt: skip
    return table(["sigma", *map(str, levels)], rows)


def curve(name: str) -> str:
    """Validation PSNR over the training run."""
    path = RESULTS / f"curve_{name.replace('-', '_')}.json"
    if not path.exists():
        return "The log of the training was not kept."
    record = measure.read(path)
    levels = list(record["rows"][0]["psnr"])
    rows = [
        [row["step"], f"{row['seconds'] / 60:.0f}", *(f"{row['psnr'][level]:.3f}" for level in levels)]
        for row in thinned(record["rows"])
    ]
    return f"{record['about']}\n\n{table(['steps', 'minutes', *levels], rows)}"


def thinned(rows: list[Any]) -> list[Any]:
    """At most CURVE_ROWS of them, evenly, the first and the last among them."""
    count = min(len(rows), CURVE_ROWS)
    return [rows[round(place * (len(rows) - 1) / max(1, count - 1))] for place in range(count)]


def keep_curve(log: Path, name: str) -> None:
    """Copy the validations of a training log to bench/results."""
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    rows = [{key: line[key] for key in ("step", "seconds", "psnr")} for line in lines if line["kind"] == "validation"]
    if not rows:
        raise SystemExit(f"{log} holds no validation; expected the log.jsonl of safi-fast train")
    about = "Mean PSNR in dB on the validation crops of `safi-fast train`, sigma of 255."
    record = {"command": measure.command(), "about": about, "rows": rows}
    measure.write_json(RESULTS / f"curve_{name.replace('-', '_')}.json", record)


def main() -> None:
    """Keep a curve where a log is given, then write all cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--model", choices=list_models())
    arguments = parser.parse_args()
    if (arguments.log is None) != (arguments.model is None):
        parser.error("--log and --model go together; expected both or none")
    if arguments.log is not None:
        keep_curve(arguments.log, arguments.model)
    write()


if __name__ == "__main__":
    main()
