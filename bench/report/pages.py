"""docs/results/*.md, from the JSON files of bench/results and the texts of bench/report/templates.

A template is a page with fields of `str.format`: {ct[table]} is the table of inverse_ct.json with its command,
{ct[size]} an entry of that file; {certificate} and {search} are the templates of these names, which pages share.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, ROOT
from bench.report.markdown import tidy

TEMPLATES = Path(__file__).with_name("templates")
PAGES = {"mri": ("mri", "siat"), "ct": ("ct", "ct_grid"), "restoration": ("blur", "inpaint", "superres")}
SHARED = ("certificate", "search")


def write() -> None:
    """docs/results/*.md from the JSON files."""
    for name in PAGES:
        (ROOT / "docs" / "results" / f"{name}.md").write_text(page(name), encoding="utf-8")


def page(name: str) -> str:
    """docs/results/<name>.md. Raises SystemExit where a measurement of it is not there."""
    fields: dict[str, Any] = {part: template(part).rstrip() for part in SHARED}
    for data in PAGES[name]:
        record = recorded(f"inverse_{data}")
        table = kernels(record["rows"]) if data == "blur" else every_row(record["rows"])
        fields[data] = {**record, "table": with_command(record, table)}
    if name == "mri":
        fields["measured"] = measured(recorded("mri_real"))
    if name == "ct":
        fields["htc"] = recorded("htc2022")
    return tidy(template(name).format(**fields))


def template(name: str) -> str:
    """A text of bench/report/templates."""
    return (TEMPLATES / f"{name}.md").read_text(encoding="utf-8")


def recorded(name: str) -> dict[str, Any]:
    """A file of bench/results."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"{path.name} is not there; run the experiment that makes it first (bench/results/README.md)")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def with_command(record: dict[str, Any], table: list[str]) -> str:
    """The table below the command that it comes from."""
    load = f"load average {record['load_average']:.1f}, {record['threads']} thread(s)"
    return "\n".join([f"Command: `{record['command']}`, {load}.", "", *table]).rstrip()


def measured(record: dict[str, Any]) -> dict[str, str]:
    """What mri_real found: "noise" of its scans, and "table"."""
    columns = (
        ("error", ".4f"), ("psnr", ".2f"), ("ssim", ".4f"), ("seconds", ".1f"), ("certificate", ".1e"),
        ("change", ".0e"), ("status", ""),
    )  # fmt: skip
    lines = [
        "| k-space | method | error of samples left out | PSNR | SSIM | seconds | certificate | change | status |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        cells = [format(row[key], style) if key in row else "" for key, style in columns]
        lines.append(f"| {row['case']} | {row['method']} | {' | '.join(cells)} |")
    noise = {row["case"]: f"{row['noise']:.2f} ({row['case']})" for row in record["rows"]}
    return {"noise": " and ".join(noise.values()), "table": with_command(record, lines)}


def every_row(rows) -> list[str]:
    """A table with one line for each row, and by how much SAFI is ahead of the others."""
    clock = "cpu_seconds" if all("cpu_seconds" in row for row in rows) else "seconds"
    lines = [
        f"| case | method | PSNR | SSIM | {clock.replace('cpu_', 'CPU ')} | certificate | change | status |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        certificate = f"{row['certificate']:.1e}" if "certificate" in row else ""
        change = row.get("outer_change", row.get("change"))
        status = ", ".join(row.get("status", []))
        lines.append(
            f"| {row['case']} | {row['method']} | {row['psnr']:.2f} | {row['ssim']:.4f} | {row[clock]:.1f} | "
            f"{certificate} | {'' if change is None else f'{change:.0e}'} | {status} |"
        )
    other = [row for row in rows if "psnr_other" in row]
    lines += ["", *verdict(rows), *verdict(other, "psnr_other", " against the FBP of the views that were not used")]
    return lines + behind(rows) + wins(rows)


def verdict(rows, score="psnr", against="") -> list[str]:
    """SAFI minus TV, WCRR and MMR, where they were run, of every case."""
    lines = []
    for other in ("TV", "WCRR", "MMR"):
        parts = []
        for case, of in by_case(rows, score):
            if {"SAFI", other} <= set(of):
                parts.append(f"{case} {of['SAFI'] - of[other]:+.2f} dB")
        lines += [f"SAFI minus {other}{against}: " + "; ".join(parts) + ".", ""] if parts else []
    return lines


def behind(rows) -> list[str]:
    """What is ahead of SAFI in SSIM."""
    parts = []
    for case, of in by_case(rows, "ssim"):
        ahead = [method for method, value in of.items() if value > of.get("SAFI", np.inf)]
        parts += [f"{', '.join(ahead)} ({case})"] if ahead else []
    return [f"Ahead of SAFI in SSIM: {'; '.join(parts)}.", ""] if parts else []


def by_case(rows, score):
    """(case, {method: score})."""
    for case in dict.fromkeys(row["case"] for row in rows):
        yield case, {row["method"].split(",")[0]: row[score] for row in rows if row["case"] == case}


def wins(rows) -> list[str]:
    """In how many images SAFI is ahead of TV, and the worst of them, where there are several."""
    of = {(row["case"], row["method"].split(",")[0]): row for row in rows if "psnr_of" in row}
    ahead = [
        (round(safi - tv, 2), case, image)
        for (case, method), row in of.items()
        if method == "SAFI" and (case, "TV") in of
        for safi, tv, image in zip(row["psnr_of"], of[case, "TV"]["psnr_of"], row["images"], strict=True)
    ]
    if not ahead:
        return []
    worst, case, image = min(ahead)
    count = sum(difference > 0 for difference, _, _ in ahead)
    return [
        f"SAFI is ahead of TV in {count} of {len(ahead)} images; the worst: {worst:+.2f} dB ({case}, image {image}).",
        "",
    ]


def kernels(rows) -> list[str]:
    """A table for each noise level: PSNR of each kernel and method; empty where a row is not there yet."""
    lines = []
    for level in dict.fromkeys(row["case"].split(", ")[1] for row in rows):
        own = [row for row in rows if row["case"].endswith(f", {level}")]
        names = list(dict.fromkeys(row["method"].split(",")[0] for row in own))
        by_kernel = dict(by_case(own, "psnr"))
        lines += [f"Mean PSNR, {level}:", "", f"| Levin kernel | {' | '.join(names)} | SAFI minus TV |"]
        lines += ["| --- " * (len(names) + 2) + "|"]
        for case, values in by_kernel.items():
            lines.append(kernel_line(case.split(",")[0].split()[-1], names, values))
        complete = [name for name in names if all(name in values for values in by_kernel.values())]
        means, similarity = (
            {name: float(np.mean([values[name] for _, values in by_case(own, score)])) for name in complete}
            for score in ("psnr", "ssim")
        )
        lines += [kernel_line("mean", names, means), kernel_line("mean SSIM", names, similarity, "{:.4f}"), ""]
        for name in names:
            one = [row for row in own if row["method"].split(",")[0] == name and "certificate" in row]
            if one:
                solved, total = sum(row["converged"] for row in one), sum(len(row["images"]) for row in one)
                worst, seconds = max(row["certificate"] for row in one), np.mean([row["seconds"] for row in one])
                found = f"{solved} of {total} converged, largest certificate {worst:.1e}, {seconds:.1f} s per image"
                lines += [f"{name}: {found}.", ""]
    return lines + wins(rows)


def kernel_line(label, names, values, style="{:.2f}") -> str:
    """One line of `kernels`; with the difference in PSNR."""
    cells = [style.format(values[name]) if name in values else "" for name in names]
    known = {"SAFI", "TV"} <= set(values) and style == "{:.2f}"
    return (
        f"| {label} | {' | '.join(cells)} | {values['SAFI'] - values['TV']:+.2f} |"
        if known
        else f"| {label} | {' | '.join(cells)} |  |"
    )


def in_order(rows):
    """Rows of a case together, and of its methods the learned ones last."""
    cases, learned = list(dict.fromkeys(row["case"] for row in rows)), ("WCRR", "MMR", "SAFI")
    return sorted(
        rows,
        key=lambda row: (
            cases.index(row["case"]),
            1 + learned.index(method) if (method := row["method"].split(",")[0]) in learned else 0,
        ),
    )
