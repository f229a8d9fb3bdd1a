"""A picture of the Helsinki Tomography Challenge 2022: filtered back projection, TV and SAFI from a real sinogram of 90 degrees.

    python bench/limited_angle.py

There is no reference: each method's strength is the one whose image predicts best the views that were left out (one of five), on a grid half
as fine; then all views are used. Writes docs/images/htc2022.png and bench/results/htc2022.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np
from baselines import tv
from cases import BOX
from inverse import search
from pages import RESULTS, ROOT
from pictures import panels
from problems import DATA
from scipy.io import loadmat

import safi_fast
from safi_fast.operators import FanBeamCT

PICTURE = ROOT / "docs" / "images" / "htc2022.png"
FIELD = 560 * 0.2 * 410.66 / 553.74  # mm that the detector sees at the axis of rotation
PEAK = 0.045  # 1/mm, shown white; above the attenuation of the disc
LEFT_OUT = 5


def sinogram(name: str, views: int):
    """Every views-th view: angles in radians, line integrals (views, 280) in mm PEAK, detector cells joined in pairs."""
    data = loadmat(DATA / "ct" / "htc2022" / f"{name}.mat", squeeze_me=True)["CtDataLimited"]
    values = np.asarray(data["sinogram"][()], np.float64)
    values = values.reshape(len(values), 280, 2).mean(2) / PEAK
    angles = np.deg2rad(np.asarray(data["parameters"][()]["angles"][()], np.float64))
    return angles[::views], values[::views].astype(np.float32)


def fan(angles, size: int) -> FanBeamCT:
    return FanBeamCT((size, size), angles, 280, 0.4, 410.66, 553.74, pixel_size=FIELD / size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="tb_subsample_90")
    parser.add_argument("--views", type=int, default=4, help="every so many views")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--outer", type=int, default=12)
    parser.add_argument("--inner", type=int, default=2000)
    args = parser.parse_args()
    angles, y = sinogram(args.name, args.views)
    out = np.arange(len(y)) % LEFT_OUT == LEFT_OUT // 2
    full, part, rest = fan(angles, args.size), fan(angles[~out], args.size // 2), fan(angles[out], args.size // 2)
    solver = safi_fast.Solver(backend="cpu")

    def prediction(images):
        return [float(np.linalg.norm(rest.apply(image) - y[out]) / np.linalg.norm(y[out])) for image in images]

    def total_variation(op, data, strength, steps):
        return tv(op, data, strength, steps=steps)

    def safi(op, data, strength, level, outer, inner):
        return solver.reconstruct(data, op, strength=strength, noise_level=level, max_outer=outer, max_iter=inner)

    factors = np.array([1 / 3, 1, 3]) * part.norm**2
    tv_strength, _ = search(
        3e-5 * factors, lambda cs, _: prediction(total_variation(part, y[~out], c, 400)[0] for c in cs), refined=True
    )
    strength, level = search(
        1e-4 * factors,
        lambda cs, level: prediction(safi(part, y[~out], c, level, 3, 200).image for c in cs),
        (15 / 255, 50 / 255),
        refined=True,
    )
    share = len(y) / np.sum(~out) / 2  # more views, larger data term; the same edge has twice the length in pixels
    start = time.perf_counter()
    smooth, change = total_variation(full, y, share * tv_strength, 3000)
    middle = time.perf_counter()
    solution = safi(full, y, share * strength, level, args.outer, args.inner)
    end = time.perf_counter()
    result = {
        "command": f"python bench/limited_angle.py --name {args.name} --views {args.views} --size {args.size} --outer {args.outer} --inner {args.inner}",
        "size": args.size, "views": len(y), "degrees": float(np.rad2deg(np.ptp(angles))), "box": BOX,
        "tv": {"strength": share * tv_strength, "change": change, "seconds": round(middle - start, 1)},
        "safi": {
            "strength": share * strength, "noise_level": level * 255, "seconds": round(end - middle, 1), "status": solution.status,
            "certificate": float(solution.relative_gap), "outer_change": float(solution.outer_residual), "steps": int(solution.inner_iterations),
        },
        "load_average": os.getloadavg()[0], "threads": os.environ.get("NUMBA_NUM_THREADS", str(os.cpu_count())),
    }  # fmt: skip
    (RESULTS / "htc2022.json").write_text(json.dumps(result, indent=1) + "\n")
    back = np.clip(full.fbp(y), *BOX)
    panels(PICTURE, [[("filtered back projection", back), ("TV", smooth), ("SAFI", solution.image)]])


if __name__ == "__main__":
    main()
