"""Undersampled k-space as it was measured, without a reference: how well samples that were left out are predicted.

    python -m bench.experiments.mri_real [--outer 20] [--inner 2000]

sigpy_cartesian_ksp and espirit_und2x2, 8 coils each, maps by ESPIRiT from the sampled centre. 5 % of the sampled
positions outside of that centre are left out of every reconstruction, in all coils, and the error is ||P (F S x - y)||
/ ||P y|| with P these positions. Strengths are chosen by another 5 %, left out as well for that. espirit_und2x2 is
espirit_full with zeros, so its images are compared with the full ones too. Writes bench/results/mri_real.json row by
row, and docs/images/mri-real.png; `python -m bench.experiments.inverse tables` makes the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench import IMAGES, RESULTS
from bench.data.cases import MMR, SAFI
from bench.data.problems import DATA, brain_kspace, published_mmr
from bench.methods.baselines import Wcrr, cg, tv
from bench.report import measure
from bench.report.pages import in_order
from bench.report.pictures import panels
from safi_fast import Solver
from safi_fast.metrics import psnr, ssim
from safi_fast.operators import SenseMRI, estimate_maps

RESULT, PICTURE = RESULTS / "mri_real.json", IMAGES / "mri-real.png"
SHARE = 0.05  # of the samples, left out for the score and again for the choice of strengths
MIDDLE = 32  # side of the centre that loses no sample


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

    @property
    def seen(self) -> np.ndarray:
        """k-space with zeros where it is not sampled."""
        return self.kspace * self.sampled

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
    """What noise alone makes of `error`; its power is that of the outermost 5 % of the samples."""
    distance = np.linalg.norm(
        [(np.arange(n) / n - 0.5)[i] for n, i in zip(positions.shape, np.indices(positions.shape), strict=True)], axis=0
    )
    far = scan.sampled & (distance > np.quantile(distance[scan.sampled], 0.95))
    power = (np.abs(scan.kspace[:, far]) ** 2).mean()
    return float(np.sqrt(power / (np.abs(scan.kspace[:, positions]) ** 2).mean()))


Solve = Callable[[Scan, Any], tuple[np.ndarray, dict[str, Any]]]


def masked(solver: Solver, args: argparse.Namespace) -> Solve:
    """A solve with masks; a setting is a strength, or a strength and a noise level of 255."""

    def solve(scan, setting):
        strength, level = setting if isinstance(setting, tuple) else (setting, None)
        found = solver.reconstruct(
            scan.seen, scan.operator(), strength=strength, box=None, noise_level=None if level is None else level / 255,
            max_outer=args.outer, max_iter=args.inner,
        )  # fmt: skip
        facts = {"certificate": found.relative_gap, "change": found.outer_residual, "status": found.status}
        return found.image, {**facts, "steps": found.inner_iterations}

    return solve


def methods(args: argparse.Namespace) -> dict[str, tuple[list[Any], Solve]]:
    """Candidates and solver of each method."""
    wcrr = Wcrr(DATA / "weights" / "wcrr.pth")

    def smooth(scan, setting):
        strength, level = setting
        image, change = wcrr.solve(scan.operator(), scan.seen, strength, level, box=None, steps=args.wcrr_steps)
        return image, {"change": change}

    def variation(scan, strength):
        image, change = tv(scan.operator(), scan.seen, strength, box=None, steps=args.tv_steps)
        return image, {"change": change}

    return {
        "zero-filled": ([None], lambda scan, _: (scan.operator().adjoint(scan.seen), {})),
        "CG-SENSE": ([1e-3, 1e-2, 1e-1], lambda scan, c: (cg(scan.operator(), scan.seen, c, box=None), {})),
        "TV": ([3e-4, 1e-3, 3e-3, 1e-2], variation),
        "WCRR": ([(1e-2, 10.0), (3e-2, 10.0), (3e-2, 20.0), (9e-2, 20.0)], smooth),
        MMR: ([1e-5, 4e-5, 1.6e-4], masked(Solver(published_mmr(15), backend="cpu"), args)),
        SAFI: ([(4e-4, 5), (1.6e-3, 5), (1.6e-3, 15), (6.4e-3, 15)], masked(Solver(backend="cpu"), args)),
    }


def scored(scan: Scan, args: argparse.Namespace) -> Iterator[tuple[dict, np.ndarray]]:
    """Rows, each with its image."""
    rng = np.random.default_rng(1)
    test = hold_out(scan.sampled, SHARE, MIDDLE, rng)
    train = scan.without(test)
    choice = hold_out(train.sampled, SHARE, MIDDLE, rng)
    for method, (candidates, solve) in methods(args).items():
        if method.split(",")[0] in args.skip:
            continue
        tuned = [scan.error(solve(train.without(choice), c)[0], choice) for c in candidates] if candidates[1:] else [0]
        chosen = candidates[int(np.argmin(tuned))]
        wall, _, (image, facts) = measure.timed(lambda solve=solve, chosen=chosen: solve(train, chosen))
        row = {
            "case": scan.name, "method": method, "error": scan.error(image, test), "noise": noise_share(scan, test),
            "seconds": round(wall, 2), "setting": chosen, "tuning": tuned, **facts,
        }  # fmt: skip
        if scan.reference is not None:
            a, b = (np.abs(v).astype(np.float64) / np.abs(scan.reference).max() for v in (scan.reference, image))
            row |= {"psnr": round(psnr(a, b), 2), "ssim": round(ssim(a, b), 4)}
        yield row, image


def main() -> None:
    """Score, print, draw and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outer", type=int, default=12)
    parser.add_argument("--inner", type=int, default=1000)
    parser.add_argument("--tv-steps", type=int, default=1000)
    parser.add_argument("--wcrr-steps", type=int, default=400)
    parser.add_argument("--skip", nargs="+", default=[], choices=["WCRR", "MMR"], help="keep the rows that are there")
    args = parser.parse_args()
    limits = {name: value for name, value in vars(args).items() if name != "skip"}
    words = [word for name, value in limits.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    before = measure.read(RESULT)["rows"] if args.skip else []
    rows = [row for row in before if row["method"].split(",")[0] in args.skip]
    pictures = []
    for scan in scans():
        pictures.append([])
        for row, image in scored(scan, args):
            rows = in_order([*rows, row])
            print(row, flush=True)
            if row["method"] not in ("WCRR", MMR):
                pictures[-1].append((f"{row['method'].split(',')[0]}, error {row['error']:.3f}", image))
            measure.write_json(RESULT, {"command": measure.command(words), **measure.load(), "rows": rows})
        panels(PICTURE, pictures, white=0.7)


if __name__ == "__main__":
    main()
