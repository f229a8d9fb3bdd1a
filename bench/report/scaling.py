"""The scaling plot and its short record, from what pytest-benchmark wrote.

pytest bench --benchmark-only --benchmark-json=FILE
python -m bench.report.scaling FILE --output FILE.json --plot FILE.png
python -m bench.report.scaling --output FILE.json --plot FILE.png --plot-only
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.report import measure
from bench.report.pictures import plot_of

PREFIXES = ("test_size", "test_batch")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Nanoseconds per pixel over pixels, one line for sizes and one for batches."""
    figure, axes = plot_of(6.5, 4)
    for prefix, label in zip(PREFIXES, ("one image, square", "batch of 128 x 128"), strict=True):
        line = sorted((row["pixels"], row["ns_per_pixel"] / 1e3) for row in rows if row["test"].startswith(prefix))
        if line:
            axes.plot(*zip(*line, strict=True), "o-", label=label)
    axes.set(xscale="log", xlabel="pixels", ylabel="microseconds per pixel, 5 x 12 steps")
    axes.set_ylim(0, 1.1 * max(row["ns_per_pixel"] / 1e3 for row in rows if row["test"].startswith(PREFIXES)))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path)


def main() -> None:
    """Shorten and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--plot-only", action="store_true", help="draw what --output holds")
    arguments = parser.parse_args()
    if arguments.plot_only:
        return plot(measure.read(arguments.output)["rows"], arguments.plot)
    if arguments.source is None:
        parser.error("FILE is missing; expected what pytest-benchmark wrote")
    made = json.loads(arguments.source.read_text(encoding="utf-8"))
    rows = [
        {"test": entry["name"], "seconds": entry["stats"]["min"], **entry["extra_info"]} for entry in made["benchmarks"]
    ]
    measure.write(arguments.output, rows, measure.machine(), seconds_taken=made["seconds_taken"])
    if arguments.plot:
        plot(rows, arguments.plot)
    return None


if __name__ == "__main__":
    main()
