"""A picture of the Helsinki Tomography Challenge 2022: filtered back projection, TV and SAFI from 90 degrees, measured.

    python -m bench.experiments.limited_angle

There is no reference: each method's strength is the one whose image predicts best the views that were left out (one of
five), on a grid half as fine; then all views are used. Writes docs/images/htc2022.png and bench/results/htc2022.json.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.io import loadmat

import safi_fast
from bench import IMAGES, RESULTS
from bench.data.cases import BOX
from bench.data.problems import DATA
from bench.methods.baselines import tv
from bench.methods.search import search
from bench.report import measure
from bench.report.pictures import panels
from safi_fast.operators import FanBeamCT

PICTURE = IMAGES / "htc2022.png"
FIELD = 560 * 0.2 * 410.66 / 553.74  # mm that the detector sees at the axis of rotation
PEAK = 0.045  # 1/mm, shown white; above the attenuation of the disc
LEFT_OUT = 5


def sinogram(name: str, views: int):
    """Every views-th view: angles in radians, line integrals (views, 280) in mm PEAK, cells joined in pairs."""
    data = loadmat(DATA / "ct" / "htc2022" / f"{name}.mat", squeeze_me=True)["CtDataLimited"]
    values = np.asarray(data["sinogram"][()], np.float64)
    values = values.reshape(len(values), 280, 2).mean(2) / PEAK
    angles = np.deg2rad(np.asarray(data["parameters"][()]["angles"][()], np.float64))
    return angles[::views], values[::views].astype(np.float32)


def fan(angles, size: int) -> FanBeamCT:
    return FanBeamCT((size, size), angles, 280, 0.4, 410.66, 553.74, pixel_size=FIELD / size)


def chosen_strengths(solver: safi_fast.Solver, angles: np.ndarray, y: np.ndarray, size: int):
    """(strength of TV, strength of SAFI, noise level of its mask) for all views at twice the size.

    Each predicts best the views that are left out of a reconstruction of size x size pixels.
    """
    out = np.arange(len(y)) % LEFT_OUT == LEFT_OUT // 2
    part, rest, known = fan(angles[~out], size), fan(angles[out], size), y[~out]

    def prediction(images):
        return [float(np.linalg.norm(rest.apply(image) - y[out]) / np.linalg.norm(y[out])) for image in images]

    def safi(strength, level):
        limits = {"noise_level": level, "max_outer": 3, "max_iter": 200}
        return solver.reconstruct(known, part, strength=strength, **limits).image

    factors = np.array([1 / 3, 1, 3]) * part.norm**2
    smooth, _ = search(
        3e-5 * factors, lambda cs, _: prediction(tv(part, known, c, steps=400)[0] for c in cs), refined=True
    )
    strength, level = search(
        1e-4 * factors, lambda cs, level: prediction(safi(c, level) for c in cs), (15 / 255, 50 / 255), refined=True
    )
    share = len(y) / np.sum(~out) / 2  # more views, larger data term; the same edge has twice the length in pixels
    return share * smooth, share * strength, level


def main() -> None:
    """Reconstruct, draw and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="tb_subsample_90")
    parser.add_argument("--views", type=int, default=4, help="every so many views")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--outer", type=int, default=12)
    parser.add_argument("--inner", type=int, default=2000)
    args = parser.parse_args()
    angles, y = sinogram(args.name, args.views)
    solver, full = safi_fast.Solver(backend="cpu"), fan(angles, args.size)
    tv_strength, strength, level = chosen_strengths(solver, angles, y, args.size // 2)
    smooth = measure.timed(lambda: tv(full, y, tv_strength, steps=3000))
    limits = {"noise_level": level, "max_outer": args.outer, "max_iter": args.inner}
    found = measure.timed(lambda: solver.reconstruct(y, full, strength=strength, **limits))
    solution = found.result
    words = [word for name, value in vars(args).items() for word in (f"--{name}", str(value))]
    result = {
        "command": measure.command(words),
        "size": args.size, "views": len(y), "degrees": float(np.rad2deg(np.ptp(angles))), "box": BOX,
        "tv": {"strength": tv_strength, "change": smooth.result[1], "seconds": round(smooth.wall, 1)},
        "safi": {
            "strength": strength, "noise_level": level * 255, "seconds": round(found.wall, 1),
            "status": solution.status, "certificate": float(solution.relative_gap),
            "outer_change": float(solution.outer_residual),
            "steps": int(solution.inner_iterations),
        },
        **measure.load(),
    }  # fmt: skip
    measure.write_json(RESULTS / "htc2022.json", result)
    back = np.clip(full.fbp(y), *BOX)
    panels(PICTURE, [[("filtered back projection", back), ("TV", smooth.result[0]), ("SAFI", solution.image)]])


if __name__ == "__main__":
    main()
