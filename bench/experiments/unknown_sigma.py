"""How well `sigma="estimate"` finds the noise, and what denoising loses by it.

    python -m bench.experiments.unknown_sigma [--crop 128] [--output FILE.json]
    python -m bench.experiments.unknown_sigma --fit

Seeded noise that is not clipped is added to Set12 and BSD68 and estimated in whole images. Those of Set12 are denoised
whole, of BSD68 the middle, with the estimate and with the true sigma. Images of Set12 have noise of their own, which is
estimated with the rest. --fit: the error on BSD400, photographs for training, by the exponent SHARE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import safi_fast
from bench import RESULTS
from bench.data.images import centre, identity, load, noisy, report, scores
from bench.data.problems import DATA
from safi_fast.noise_level import measured, noise_level

SIGMAS = (5, 15, 25, 50)
SHARES = (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)


def row(name, images, sigma, solver, crop):
    """Of one set at one level: errors of the estimates in percent, and PSNR with the true sigma and with them."""
    observed = noisy(images, sigma)
    found = [255 * noise_level(np, y) for y in observed]
    errors = 100 * (np.array(found) / sigma - 1)
    pairs = [
        (x, y) if crop is None else (centre(x, crop), centre(y, crop)) for x, y in zip(images, observed, strict=True)
    ]
    known, estimated = (
        np.array([scores(solver, [x], [y], level)[0] for (x, y), level in zip(pairs, levels, strict=True)])
        for levels in ([sigma] * len(images), np.clip(found, 255 * solver.model.noise_levels[0], None))
    )
    return {
        "images": name, "denoised": "whole" if crop is None else f"middle {crop} x {crop}", "sigma": sigma,
        "error_mean": float(errors.mean()), "error_least": float(errors.min()), "error_most": float(errors.max()),
        "beyond_10_percent": int((abs(errors) > 10).sum()), "count": len(images), "psnr_known": float(known.mean()),
        "psnr_estimated": float(estimated.mean()), "loss_mean": float((known - estimated).mean()),
        "loss_most": float((known - estimated).max()),
    }  # fmt: skip


def fit():
    """The root mean square of the logarithmic error over SIGMAS, by SHARE."""
    images = load(DATA / "bsd400")[::4]
    rows = [np.array(measured(np, y)) * 255 / sigma for sigma in SIGMAS for y in noisy(images, sigma)]
    m, h, b = np.log(rows).T
    for share in SHARES:
        print(f"{share:.1f}  {100 * np.sqrt(np.mean((b + share * (h - m)) ** 2)):.2f} %")


def main() -> None:
    """Measure, or show how the exponent was chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=128, help="side of what is denoised of BSD68")
    parser.add_argument("--output", type=Path, default=RESULTS / "unknown_sigma.json")
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    if args.fit:
        return fit()
    solver = safi_fast.Solver(backend="cpu")
    rows = []
    for name, crop in (("set12", None), ("bsd68", args.crop)):
        images = load(DATA / name)
        for sigma in SIGMAS:
            rows.append(row(name, images, sigma, solver, crop))
            print(rows[-1], flush=True)
    report(rows, args.output, **identity(solver.model))


if __name__ == "__main__":
    main()
