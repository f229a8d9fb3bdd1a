"""The tables of docs/gpu.md that were measured, from bench/results/gpu.json.

python -m bench.report.gpu
"""

from __future__ import annotations

import json
from typing import Any

from bench import RESULTS, ROOT
from bench.report.markdown import with_tables

RECORD, DOCUMENT = RESULTS / "gpu.json", ROOT / "docs" / "gpu.md"
Row = dict[str, Any]


def kernel_table(results: Row) -> str:
    """Markdown: every kernel, one image and a batch, beside its bound."""
    rows = [row for row in results["rows"] if "static_bound_us" in row]
    batches = sorted({row["images"] for row in rows})
    cells = {(row["precision"], row["what"], row["images"]): row for row in rows}
    head = "".join(f" | {n} image{'s' if n > 1 else ''} | bound | ratio" for n in batches)
    lines = [f"| precision | kernel{head} |", "| --- | --- |" + " ---: |" * 3 * len(batches)]
    for precision, kernel in dict.fromkeys((row["precision"], row["what"]) for row in rows):
        line = f"| {precision} | {kernel} |"
        for n in batches:
            row = cells.get((precision, kernel, n))
            if row is None:  # the part failed, or was left out
                line += "  |  |  |"
                continue
            bound = row["static_bound_us"]
            line += f" {_time(row['us'])} | {_time(bound) if bound else ''} |"
            line += f" {row['us'] / bound:.2f} |" if bound else "  |"
        lines.append(line)
    return "\n".join(lines)


def throughput_table(results: Row) -> str:
    """Markdown: images a second by batch."""
    rows = [row for row in results["rows"] if "images_per_second" in row]
    batches = sorted({row["images"] for row in rows})
    cells = {(row["what"], row["precision"], row["arrays"], row["images"]): row["images_per_second"] for row in rows}
    lines = [
        "| method | precision | arrays in |" + "".join(f" batch {n} |" for n in batches),
        "| --- | --- | --- |" + " ---: |" * len(batches),
    ]
    for key in dict.fromkeys((row["what"], row["precision"], row["arrays"]) for row in rows):
        found = [cells.get((*key, n)) for n in batches]
        lines.append(f"| {' | '.join(key)} |" + "".join(f" {value:.1f} |" if value else "  |" for value in found))
    return "\n".join(lines)


def other_table(results: Row) -> str:
    """Markdown: differences from the CPU, and what failed or was left out."""
    lines = ["| what | found |", "| --- | --- |"]
    for row in results["rows"]:
        if "largest" in row:
            lines.append(f"| {row['what']}, {row['precision']} | {row['largest']:.2g}, at most {row['bar']:.2g} |")
        elif "error" in row or "left_out" in row:
            said = row["error"] if "error" in row else row["left_out"]
            lines.append(f"| {row['what']} | {said.replace('|', '/')} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _time(us: float) -> str:
    return f"{us:.1f} us" if us < 1000 else f"{us / 1000:.2f} ms"


TABLES = {"measured kernels": kernel_table, "measured throughput": throughput_table}  # of the document
ALL_TABLES = (*TABLES.values(), other_table)


def main() -> None:
    """Write the document again."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(with_tables(text, json.loads(RECORD.read_text()), TABLES), encoding="utf-8")


if __name__ == "__main__":
    main()
