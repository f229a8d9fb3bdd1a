"""docs/results/*.md, written from the JSON files of bench/results."""

from __future__ import annotations

import json
from pathlib import Path

import mri_real
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


PAGES = {
    "mri": ("MRI", ["mri", "siat"], (
        "One coil: the magnitude of a coil-combined image, transformed again: a synthetic measurement, as in the paper; real image, box [0, 1]. 8 coils: the "
        "measured k-space, complex image, no box, maps by ESPIRiT from the 24 x 24 centre of full k-space. Random lines, 8 % (4x) or 4 % (8x) of them in the "
        "middle. Noise 0.002 per real number at image peak 1 was added; the measured k-space holds 0.008 of its own (the level in its corners), so the "
        "reference of 8 coils is noisy too. PSNR and SSIM of magnitudes.\n\n"
        "Parameters of every method were chosen on one siat head (lsq21). {search} The lists of MMR are not refined: with one coil, 4x, a strength of 2e-8 gave the 30.89 dB "
        "of 2.5e-6, and was not solved within the limits. SAFI and MMR were tuned with 6 masks of at most 150 steps, WCRR with 100 steps. TV ran "
        "to a change of 1e-4 in 50 steps, or 3000 steps; WCRR for 400 steps, for complex images on real and imaginary part each by itself: its column "
        "`change` is that of the last step."
    )),
    "ct": ("CT", ["ct", "ct_grid"], (
        "abdomen: simulated from the grid of the file, 512 x 512, reconstructed on {size} x {size}, Gaussian noise 0.05 in line integrals measured in "
        "pixels; tuned on another slice. tooth: a real parallel-beam sinogram, detector cells joined in pairs, 200 x 200, every second, third, fourth "
        "view against the FBP of all 181. There is one slice only: parameters were tuned on the views beside, of the same slice, for every method. {search} "
        "SAFI and MMR were tuned with 4 masks of at most 200 steps."
    )),
    "restoration": ("Deblurring, inpainting, super-resolution", ["blur", "inpaint", "superres"], (
        "Means over the images of set12 but the one that parameters were chosen on, 02: the middle {size} x {size} pixels of each. {search} Blur with symmetric boundary, "
        "its parameters chosen once for each noise level, with kernel 1. Inpainting and super-resolution with noise 2.55/255. SAFI and MMR were tuned with masks "
        "of at most 150 steps: 12 for deblurring, 6 for the rest."
    )),
}  # fmt: skip

SEARCH = (
    "Lists of strengths have two or three entries, go on where their end is best, and are refined by half a step to either side; the noise level of the mask of "
    "SAFI is the best of {levels} of 255 on the same tuning image."
)
LEVELS = {
    "mri": "5, 15, 25 and 50",
    "ct": "5, 15 and 50 (tooth: 15 and 50)",
    "restoration": "5, 15, 25 and 50",
}

ABOUT = {
    "mri": "espirit_full (8-coil brain, real k-space), all of it: 230 x 180; tuned at 128 x 128: for one coil with the same kind of lines and noise, for 8 coils seen "
    "through the maps of the brain, with as much noise as its k-space has.",
    "siat": "siat heads lsq61, lsq121, lsq181 (means): the magnitude of their middle 256 x 256 pixels, one coil, with the masks that are given for that size (FFT "
    "order); parameters as for one coil, 4x, above.",
    "ct_grid": "What a coarse grid costs: the abdomen with 200 views on {size} x {size}, from data of the grid twice as fine, and of the same grid. The misfit is the root mean square "
    "of the data of the fine grid minus those of the reference, on the coarse one; the noise has 0.05.",
}

PICTURES = {"mri": "![The reference, zero-filled, TV and SAFI, one coil, 4x](../images/mri.png)"}

LEFT_OUT = {
    "mri": "the other siat heads; the mask of 320 x 320 of MMR and SAFI, which is larger than these images. MMR on the siat heads had 6 masks of 1000 steps (the command with `--outer 6 --inner 1000 --resume`), "
    "a minute per image; within the limits of the others the first image had not ended after seven masks of 2000. Its rows for 8 coils are of slightly other step sizes ([ADR 9](../adr/0009-reconstruction.md)). Where the status is max_iterations, the gap is above 1e-3, or the image still changed by more than "
    "3e-3 from one mask to the next when the masks ran out; the certificate is that of the last mask.",
    "ct": "512 x 512 and 400 x 400; WCRR (`--wcrr`); MMR for the limited angle. The abdomen is not solved to the tolerance within "
    "12 masks of 2000 steps: its gaps are in the table; the image no longer changes.\n\n"
    "Where TV is near SAFI or ahead of it, the score has another part than noise. On 128 x 128 data of the finer grid fit no image of the coarse one, and the misfit, which lies along "
    "edges, is stronger than the noise; from data of the same grid SAFI is ahead. The reference of the tooth is an FBP that shares noise and streaks with the views used; that of the views that were not used "
    "has noise of its own.",
    "restoration": "whole images; WCRR; a noise level of the mask for each kernel.",
}  # fmt: skip


def write():
    """docs/results/*.md from the JSON files."""
    for name, (_, data, _) in PAGES.items():
        if any((RESULTS / f"inverse_{n}.json").exists() for n in data):
            target = ROOT / "docs" / "results" / f"{name}.md"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page(name), encoding="utf-8")


def page(name: str) -> str:
    """docs/results/<name>.md."""
    title, names, text = PAGES[name]
    data = {n: json.loads(p.read_text()) for n in names if (p := RESULTS / f"inverse_{n}.json").exists()}
    first = next(iter(data.values()))
    lines = [f"# {title}", "", text.format(size=first["size"], search=SEARCH.format(levels=LEVELS[name])), ""]
    lines += [
        "Certificate: relative duality gap, over the box or where there is none (8 coils) over a ball (docs/adr/0009), the worst of the images; "
        "change: between the last two outer steps. Seconds are per image, on a busy machine, and include no tuning.",
        "",
    ]
    for n, one in data.items():
        clock = "cpu_seconds" if all("cpu_seconds" in row for row in one["rows"]) else "seconds"
        lines += [ABOUT[n].format(size=one["size"]), ""] if n in ABOUT else []
        lines += [
            f"Command: `{one['command']}`, load average {one['load_average']:.1f}, {one['threads']} thread(s).",
            "",
        ]
        lines += kernels(one["rows"]) if n == "blur" else every_row(one["rows"], clock)
        lines += [PICTURES[n], ""] if n in PICTURES else []
    if name == "mri" and mri_real.RESULT.exists():
        record = json.loads(mri_real.RESULT.read_text())
        lines += ["## As measured", "", *mri_real.section(record), ""]
    if name == "ct" and (found := RESULTS / "htc2022.json").exists():
        lines += ["## A limited angle", "", *limited_angle(json.loads(found.read_text())), ""]
    lines += ["Left out: " + LEFT_OUT[name].format(size=first["size"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def every_row(rows, clock) -> list[str]:
    """A table with one line for each row, and by how much SAFI is ahead of the others."""
    lines = [
        f"| case | method | PSNR | SSIM | {clock.replace('cpu_', 'CPU ')} | certificate | change | status |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        certificate = f"{row['certificate']:.1e}" if "certificate" in row else ""
        change = row.get("outer_change", row.get("change"))
        status = ", ".join(row.get("status", []))
        lines.append(
            f"| {row['case']} | {row['method']} | {row['psnr']:.2f} | {row['ssim']:.4f} | {row[clock]:.1f} | {certificate} | "
            f"{'' if change is None else f'{change:.0e}'} | {status} |"
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
                lines += [
                    f"{name}: {solved} of {total} converged, largest certificate {max(row['certificate'] for row in one):.1e}, "
                    f"{np.mean([row['seconds'] for row in one]):.1f} s per image.",
                    "",
                ]
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


def limited_angle(record) -> list[str]:
    """What bench/limited_angle.py found."""
    tv_, safi = record["tv"], record["safi"]
    return [
        f"htc2022, a real fan-beam sinogram (plastic disc with holes): {record['views']} views over {record['degrees']:.0f} degrees, detector cells joined "
        f"in pairs, {record['size']} x {record['size']}, box [0, 1] with 1 at 0.045 / mm. There is no reference. Strengths were chosen by the prediction of views "
        "left out (one of five), on a grid half as fine.",
        "",
        "![Filtered back projection, TV and SAFI from 90 degrees](../images/htc2022.png)",
        "",
        f"TV: {tv_['seconds']:.0f} s, last change {tv_['change']:.0e}. SAFI: {safi['seconds']:.0f} s, {safi['status']} after {safi['steps']} steps, relative gap {safi['certificate']:.1e}, change "
        f"{safi['outer_change']:.0e}. Load average {record['load_average']:.1f}, {record['threads']} thread(s). Command: `{record['command']}`.",
    ]


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
