"""Writes the tables of docs/performance.md from bench/results.

    python -m bench.report.tables

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from bench import RESULTS, ROOT
from bench.report.markdown import table, tidy

PAGE = ROOT / "docs" / "performance.md"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], record: dict[str, Any], note: str = "") -> str:
    text = table(header, rows)
    before, after = record["machine"]["load_average"][0], record["load_after"][0]
    load = f"load average {before:g} before, {after:g} after"
    return tidy(
        f"{text}\n\n`{record['command']}`; {record['machine']['processor']}, two threads, {load}.{note}"
    ).rstrip()


def race(record: dict[str, Any]) -> str:
    """Unrolled steps against PyTorch."""
    rows = [
        (
            row["model"], row["against"], f"{row['height']} x {row['width']}", f"{row['seconds_safi_fast']:.2f} s",
            f"{row['seconds_torch']:.1f} s", f"**{row['times_faster']:.1f}**", f"{row['times_faster_cpu']:.1f}",
            f"{row['max_difference']:.1e}", row["peak_above_ready_bytes_per_pixel"],
        )
        for row in record["rows"]
    ]  # fmt: skip
    header = ("model", "PyTorch computes", "pixels", "safi_fast", "PyTorch", "times faster", "in processor time",
              "largest difference", "bytes per pixel")  # fmt: skip
    return _table(header, rows, record)


def fixed_point(record: dict[str, Any]) -> str:
    """The converged procedure against the gap schedule."""
    names = {"torch": "published procedure, PyTorch", "gap": f'`schedule="gap"`, `tol={record["tol"]:g}`'}
    rows = [
        (
            row["crop"], label, f"{row[key]['seconds']:.2f} s", f"{row[key]['cpu_seconds']:.2f} s",
            f"{row[key]['outer_steps']} / {row[key]['inner_steps']}", f"{row[key]['psnr']:.4f}",
            f"{row[key]['relative_gap']:.2e}", f"{row[key]['excess']:.1e}", f"{row[key]['distance']:.1e}",
        )
        for row in record["rows"]
        for key, label in names.items()
    ]  # fmt: skip
    header = ("crop", "method", "time", "processor time", "outer / inner steps", "PSNR", "own relative gap",
              "excess over the minimum", "distance to `x*`")  # fmt: skip
    ratios = ", ".join(
        f"{row['times_faster']:.0f} ({row['times_faster_cpu']:.0f} in processor time)" for row in record["rows"]
    )
    return _table(header, rows, record, f" Times faster: {ratios}.")


def rivals(record: dict[str, Any]) -> str:
    """PSNR, time, memory."""
    rows = [
        (
            row["method"], f"{row['psnr']:.2f}", f"{row['seconds']:.3f} s",
            f"{row['cpu_seconds']:.2f} s", row["peak_bytes_per_pixel"], row["images"],
        )
        for row in sorted(record["rows"], key=lambda row: -row["psnr"])
    ]  # fmt: skip
    header = ("method", "PSNR, dB", "time", "processor time", "bytes per pixel", "images timed")
    return _table(header, rows, record)


def roofline(record: dict[str, Any]) -> str:
    """Kernels under their ceilings."""
    rows = [
        (
            row["kernel"], row["model"], f"{row['ns_per_pixel']:.1f}", f"{row['flop_per_pixel']:,.0f}",
            f"{row['bytes_per_pixel']:,.0f}", f"{row['gflops']:.0f}", f"{row['gbps']:.1f}", row["bound_by"],
            f"{100 * row['share']:.0f} %", "" if row["against_direct"] is None else f"{row['against_direct']:.1f}",
        )
        for row in record["rows"]
    ]  # fmt: skip
    header = ("kernel", "model", "ns per pixel", "operations per pixel", "bytes per pixel", "GFLOP/s", "GB/s",
              "bound by", "share of the bound", "times faster than direct at 70 % of GEMM")  # fmt: skip
    rates = f" Matrix product {record['gemm_gflops']:.0f} GFLOP/s, copy {record['copy_gbps']:.0f} GB/s."
    return _table(header, rows, record, rates)


def scaling(record: dict[str, Any]) -> str:
    """Time per pixel."""
    rows = [
        (f"`{row['test']}`", f"{row['seconds']:.4f} s", f"{row['ns_per_pixel']:,.0f}", f"{row['load_average']:g}")
        for row in record["rows"]
    ]
    return _table(("benchmark", "least time", "ns per pixel", "load average"), rows, record)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    function.__name__: function for function in (race, fixed_point, rivals, roofline, scaling)
}


def main() -> None:
    """Put every table into its place, and say how long its measurement took."""
    page = PAGE.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        print(f"{name}: {record.get('seconds_taken', '?')} s")
        made = make(record)
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page = pattern.sub(lambda match, made=made: f"{match[1]}\n{made}\n\n{match[2]}", page)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
