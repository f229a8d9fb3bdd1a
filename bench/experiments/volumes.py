"""What passes along three axes gain over slices of one axis: `safi_fast.denoise_volume` on real volumes.

    python -m bench.experiments.volumes [--model NAME] [--output FILE.json]

Two heads by MRI that nibabel (pip install nibabel) ships for its tests: anatomical.nii, 33 x 41 x 25 voxels of 2 mm,
and the first of example4d.nii.gz, of 2 x 2 x 2.2 mm, its middle 48 x 48 x 24. Both have noise of their own, which
counts as signal here. As a control a stack that is no volume: 24 unrelated photographs, the middle 48 x 48 of the first
of BSD68. White is the 99.9 % quantile; noise is added, sigma in units of 255. PSNR of slices along each axis, of the
mean of the three passes, and what the mean gains over axis 0 (of the control: the photographs) and over the best axis.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import safi_fast
from bench import RESULTS
from bench.data.images import load
from bench.data.problems import DATA
from bench.report import measure
from safi_fast.cli.output import print_table
from safi_fast.metrics import psnr

SIGMAS = (5, 15, 25)
DEPTH, SIDE = 24, 48


def middle(volume: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """The middle of each axis."""
    starts = [(have - side) // 2 for have, side in zip(volume.shape, sides, strict=True)]
    return volume[tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))]


def volumes() -> dict[str, np.ndarray]:
    """By name, slices first, white 1."""
    import nibabel

    folder = Path(nibabel.__file__).parent / "tests" / "data"
    head = np.asarray(nibabel.load(folder / "anatomical.nii").dataobj, np.float32)
    echo = np.asarray(nibabel.load(folder / "example4d.nii.gz").dataobj, np.float32)[..., 0]
    photographs = np.stack(load(DATA / "bsd68", DEPTH, SIDE))
    found = {
        "head, 2 mm": np.moveaxis(head, -1, 0),
        "head, 2 x 2 x 2.2 mm": middle(np.moveaxis(echo, -1, 0), (DEPTH, SIDE, SIDE)),
        "unrelated photographs": photographs,
    }
    return {name: (one / np.quantile(one, 0.999)).clip(0, 1).astype(np.float32) for name, one in found.items()}


def row(solver: safi_fast.Solver, name: str, clean: np.ndarray, sigma: float) -> dict[str, Any]:
    """PSNR of every pass and of their mean."""
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    noisy = (clean + sigma / 255 * noise).astype(np.float32)
    found = solver.denoise_volume(noisy, sigma / 255, return_solution=True)
    alone = [float(psnr(one.image, clean)) for one in found.passes]
    mean = float(psnr(found.image, clean))
    return {
        "volume": name, "shape": " x ".join(map(str, clean.shape)), "sigma": sigma, "noisy": float(psnr(noisy, clean)),
        **{f"axis {axis}": value for axis, value in zip(found.axes, alone, strict=True)},
        "three": mean, "over axis 0": mean - alone[0], "over the best": mean - max(alone),
    }  # fmt: skip


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="safi-gray-fast")
    parser.add_argument("--output", type=Path, default=RESULTS / "volumes.json")
    args = parser.parse_args()
    before, solver = measure.machine(), safi_fast.Solver(args.model, backend="cpu")
    rows = [row(solver, name, clean, sigma) for name, clean in volumes().items() for sigma in SIGMAS]
    measure.write(args.output, rows, before)
    print_table(
        tuple(rows[0]), [tuple(f"{v:.2f}" if isinstance(v, float) else str(v) for v in r.values()) for r in rows]
    )


if __name__ == "__main__":
    main()
