"""The table and the plot of slices per minute in docs/reconstruction.md, from bench/results/mri_throughput.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import IMAGES, ROOT
from bench.report import labels, measure
from bench.report.markdown import table, with_tables
from bench.report.pictures import plot_of

PAGE, PLOT = ROOT / "docs" / "reconstruction.md", IMAGES / "mri-throughput.png"
MARK = "slices per minute"
Row = dict[str, Any]


def placed(rows: Sequence[Row], row: Row) -> list[Row]:
    """The rows with this one at the place of the one of the same run, or at the end."""

    def key(one: Row) -> tuple[Any, ...]:
        return one["size"], one["method"], one["default"], one["workers"] if one["method"] == "safi" else ""

    kept = [row if key(one) == key(row) else one for one in rows]
    return kept if any(one is row for one in kept) else [*kept, row]


def beside(row: Row, rows: Sequence[Row]) -> float:
    """Mean PSNR minus that of SAFI, of the slices that both have."""
    ours = next(one["psnr_of"] for one in rows if one["method"] == "safi" and one["size"] == row["size"])
    return float(np.mean([theirs - own for theirs, own in zip(row["psnr_of"], ours, strict=False)]))


def title(row: Row) -> str:
    """The method with its steps, and what sets it apart from another row of the same."""
    more = f", {row['workers']}" if row["method"] == "safi" else " (default)" if row["default"] else ""
    return f"{row['name']}, {row['steps']} steps{more}"


def as_table(record: Row) -> str:
    """Markdown: sizes in their order, the fastest method first."""
    sizes = list(dict.fromkeys(row["size"] for row in record["rows"]))
    cells = [
        (
            row["size"], title(row), f"{row['per_minute']:.1f}", f"{np.mean(row['psnr_of']):.2f} dB",
            f"{beside(row, record['rows']):+.2f} dB", row["slices"],
            f"{row['strength']:.2g}", "" if row["level"] is None else f"{row['level']:g}", row["workers"],
            f"{row['others']:.2f}",
        )
        for row in sorted(record["rows"], key=lambda row: (sizes.index(row["size"]), -row["per_minute"]))
    ]  # fmt: skip
    header = ("size", "method", "slices per minute", "PSNR", "minus SAFI", "slices", "strength", "noise level of 255",
              "two cores as", "CPUs of others")  # fmt: skip
    return table(header, cells)


def page(text: str, record: Row) -> str:
    """The document with its table written again."""
    return with_tables(text, record, {MARK: as_table})


def plot(rows: Sequence[Row], path: Path) -> list[Any]:
    """PSNR beside SAFI over slices per minute, a panel per size; returns the labels."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    figure, panels = plot_of(6.5 * len(sizes), 5.5, len(sizes))
    panels = panels if len(sizes) > 1 else [panels]
    named = []
    for axes, size in zip(panels, sizes, strict=True):
        names = []
        for row in (row for row in rows if row["size"] == size):
            color = "tab:red" if row["method"] == "safi" else "tab:blue"
            axes.plot(
                row["per_minute"], beside(row, rows), "o" if row["method"] == "safi" else "s", color=color, markersize=8
            )
            names.append((title(row), row["per_minute"], beside(row, rows), color))
        axes.set(
            xscale="log", xlabel="slices per minute, 2 CPU cores", ylabel="PSNR minus that of SAFI, the same slices, dB"
        )
        axes.set_title(f"8 coils, 4x, {size}", fontsize=10)
        axes.grid(which="both", alpha=0.2)
        axes.margins(x=0.2, y=0.12)
        named.append(names)
    texts = [text for axes, names in zip(panels, named, strict=True) for text in labels.label(axes, names)]
    figure.savefig(path)
    return texts


def write(path: Path) -> None:
    """Table and plot."""
    record = measure.read(path)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    plot(record["rows"], PLOT)
