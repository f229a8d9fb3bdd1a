"""Undersampled k-space as it was measured, without a reference: how well samples that were left out are predicted.

    python bench/mri_real.py [--outer 20] [--inner 2000]

sigpy_cartesian_ksp and espirit_und2x2, 8 coils each, maps by ESPIRiT from the sampled centre. 5 % of the sampled positions outside of that centre
are left out of every reconstruction, in all coils, and the error is ||P (F S x - y)|| / ||P y|| with P these positions. Strengths are chosen by another
5 %, left out as well for that. espirit_und2x2 is espirit_full with zeros, so its images are compared with the full ones too. Writes
bench/results/mri_real.json row by row, and docs/images/mri-real.png; `python bench/inverse.py tables` makes the table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from baselines import Wcrr, cg, tv
from cases import MMR, SAFI
from pictures import panels
from problems import DATA, brain_kspace

from safi_fast import Solver
from safi_fast.metrics import psnr, ssim
from safi_fast.operators import SenseMRI, estimate_maps
from safi_fast.training.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench" / "results" / "mri_real.json"
PICTURE = ROOT / "docs" / "images" / "mri-real.png"
SHARE = 0.05  # of the samples, left out for the score and again for the choice of strengths
MIDDLE = 32  # side of the centre that loses no sample

ABOUT = (
    "sigpy_cartesian_ksp (12.4 % sampled) and espirit_und2x2 (25.7 %: every second sample of every second line, and the centre), 8 coils, as they come: no "
    "noise added, no reference. Maps by ESPIRiT from the sampled centre; complex image, no box. 5 % of the sampled positions outside of the middle 32 x 32 were "
    "left out of every reconstruction, in all coils: the error is that of predicting them, relative to their norm. Their noise alone makes an error of about "
    "{noise} (its power taken from the outermost samples). Strengths were chosen by another 5 %. espirit_und2x2 is espirit_full with zeros, "
    "so PSNR and SSIM are those against the image of all samples, itself noisy.\n\n"
    "![Zero-filled, CG-SENSE, TV and SAFI; above sigpy_cartesian_ksp, below espirit_und2x2](../images/mri-real.png)"
)


@dataclass(frozen=True)
class Scan:
    """Measured k-space (C, H, W), centered, scaled to images of peak about 1; maps; positions of the samples (H, W)."""

    name: str
    kspace: np.ndarray
    maps: np.ndarray
    sampled: np.ndarray
    reference: np.ndarray | None = None

    def operator(self) -> SenseMRI:
        return SenseMRI(self.maps, self.sampled, mask_order="centered")

    def without(self, positions: np.ndarray) -> Scan:
        return replace(self, sampled=self.sampled & ~positions)

    def error(self, image: np.ndarray, positions: np.ndarray) -> float:
        """Of the samples predicted there, relative to them."""
        predicted = SenseMRI(self.maps, positions, mask_order="centered", check_order=False).apply(image)
        measured = self.kspace * positions
        return float(np.linalg.norm(predicted - measured) / np.linalg.norm(measured))


def hold_out(sampled: np.ndarray, share: float, side: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W) boolean: that share of the samples (H, W) outside of the middle side x side, at random."""
    outside = sampled.copy()
    top, left = (n // 2 - side // 2 for n in sampled.shape)
    outside[top : top + side, left : left + side] = False
    candidates = np.flatnonzero(outside)
    chosen = np.zeros_like(sampled)
    chosen.flat[rng.choice(candidates, round(share * len(candidates)), replace=False)] = True
    return chosen


def scans() -> Iterator[Scan]:
    full = brain_kspace("espirit_full")
    for name, kspace, complete in (
        ("sigpy_cartesian_ksp", np.load(DATA / "mri" / "sigpy_cartesian_ksp.npy"), None),
        ("espirit_und2x2", brain_kspace("espirit_und2x2"), full),
    ):
        maps = estimate_maps(kspace, kspace_order="centered", crop=0.0)
        scan = Scan(name, kspace, maps, (kspace != 0).any(0))
        peak = np.abs(cg(scan.operator(), kspace, 1e-2, box=None)).max()
        everything = np.ones_like(scan.sampled)
        reference = None
        if complete is not None:
            reference = replace(scan, sampled=everything).operator().adjoint(complete / peak)
        yield replace(scan, kspace=(kspace / peak).astype(np.complex64), reference=reference)


def noise_share(scan: Scan, positions: np.ndarray) -> float:
    """What noise alone makes of `error`: its power is taken from the outermost 5 % of the samples, which hold little else."""
    distance = np.linalg.norm(
        [(np.arange(n) / n - 0.5)[i] for n, i in zip(positions.shape, np.indices(positions.shape), strict=True)], axis=0
    )
    far = scan.sampled & (distance > np.quantile(distance[scan.sampled], 0.95))
    power = (np.abs(scan.kspace[:, far]) ** 2).mean()
    return float(np.sqrt(power / (np.abs(scan.kspace[:, positions]) ** 2).mean()))


Solve = Callable[[Scan, Any], tuple[np.ndarray, dict[str, Any]]]


def methods(args) -> dict[str, tuple[list[Any], Solve]]:
    """Candidates and solver of each method."""
    published = read_checkpoint(DATA / "weights" / "mmr_sigma15.pth", converged_strength=0.00058899)
    wcrr = Wcrr(DATA / "weights" / "wcrr.pth")

    def masked(solver):
        """A solve with masks; a setting is a strength, or a strength and a noise level of 255."""

        def solve(scan, setting):
            strength, level = setting if isinstance(setting, tuple) else (setting, None)
            found = solver.reconstruct(
                scan.kspace * scan.sampled, scan.operator(), strength=strength, box=None,
                noise_level=None if level is None else level / 255, max_outer=args.outer, max_iter=args.inner,
            )  # fmt: skip
            facts = {"certificate": found.relative_gap, "change": found.outer_residual, "status": found.status}
            return found.image, {**facts, "steps": found.inner_iterations}

        return solve

    def smooth(scan, setting):
        strength, level = setting
        image, change = wcrr.solve(
            scan.operator(), scan.kspace * scan.sampled, strength, level, box=None, steps=args.wcrr_steps
        )
        return image, {"change": change}

    def variation(scan, strength):
        image, change = tv(scan.operator(), scan.kspace * scan.sampled, strength, box=None, steps=args.tv_steps)
        return image, {"change": change}

    return {
        "zero-filled": ([None], lambda scan, _: (scan.operator().adjoint(scan.kspace * scan.sampled), {})),
        "CG-SENSE": (
            [1e-3, 1e-2, 1e-1],
            lambda scan, c: (cg(scan.operator(), scan.kspace * scan.sampled, c, box=None), {}),
        ),
        "TV": ([3e-4, 1e-3, 3e-3, 1e-2], variation),
        "WCRR": ([(1e-2, 10.0), (3e-2, 10.0), (3e-2, 20.0), (9e-2, 20.0)], smooth),
        MMR: ([1e-5, 4e-5, 1.6e-4], masked(Solver(published, backend="cpu"))),
        SAFI: (
            [(4e-4, 5), (1.6e-3, 5), (1.6e-3, 15), (6.4e-3, 15)],
            masked(Solver(backend="cpu")),
        ),
    }


def measure(scan: Scan, args) -> Iterator[tuple[dict, np.ndarray]]:
    """Rows, each with its image."""
    rng = np.random.default_rng(1)
    test = hold_out(scan.sampled, SHARE, MIDDLE, rng)
    train = scan.without(test)
    choice = hold_out(train.sampled, SHARE, MIDDLE, rng)
    for method, (candidates, solve) in methods(args).items():
        tuned = [scan.error(solve(train.without(choice), c)[0], choice) for c in candidates] if candidates[1:] else [0]
        chosen = candidates[int(np.argmin(tuned))]
        start = time.perf_counter()
        image, facts = solve(train, chosen)
        row = {
            "case": scan.name, "method": method, "error": scan.error(image, test), "noise": noise_share(scan, test),
            "seconds": round(time.perf_counter() - start, 2), "setting": chosen, "tuning": tuned, **facts,
        }  # fmt: skip
        if scan.reference is not None:
            a, b = (np.abs(v).astype(np.float64) / np.abs(scan.reference).max() for v in (scan.reference, image))
            row |= {"psnr": round(psnr(a, b), 2), "ssim": round(ssim(a, b), 4)}
        yield row, image


def section(record: dict) -> list[str]:
    """The text and the rows in Markdown."""
    noise = {row["case"]: f"{row['noise']:.2f} ({row['case']})" for row in record["rows"]}
    lines = [
        ABOUT.format(noise=" and ".join(noise.values())),
        "",
        f"Command: `{record['command']}`, load average {record['load_average']:.1f}, {record['threads']} thread(s).",
        "",
        "| k-space | method | error of samples left out | PSNR | SSIM | seconds | certificate | change | status |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        cells = [
            format(row[key], style) if key in row else ""
            for key, style in (
                ("error", ".4f"), ("psnr", ".2f"), ("ssim", ".4f"), ("seconds", ".1f"), ("certificate", ".1e"),
                ("change", ".0e"), ("status", ""),
            )
        ]  # fmt: skip
        lines.append(f"| {row['case']} | {row['method']} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outer", type=int, default=12)
    parser.add_argument("--inner", type=int, default=1000)
    parser.add_argument("--tv-steps", type=int, default=1000)
    parser.add_argument("--wcrr-steps", type=int, default=400)
    args = parser.parse_args()
    rows: list[dict] = []
    pictures = []
    for scan in scans():
        pictures.append([])
        for row, image in measure(scan, args):
            rows.append(row)
            print(row, flush=True)
            if row["method"] not in ("WCRR", MMR):
                pictures[-1].append((f"{row['method'].split(',')[0]}, error {row['error']:.3f}", image))
            record = {
                "command": f"python bench/mri_real.py --outer {args.outer} --inner {args.inner} --tv-steps {args.tv_steps} --wcrr-steps {args.wcrr_steps}",
                "load_average": os.getloadavg()[0],
                "threads": os.environ.get("NUMBA_NUM_THREADS", str(os.cpu_count())),
                "rows": rows,
            }
            RESULT.write_text(json.dumps(record, indent=1) + "\n")
        panels(PICTURE, pictures, white=0.7)


if __name__ == "__main__":
    main()
