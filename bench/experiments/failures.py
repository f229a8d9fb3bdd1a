"""Pictures of what the model does badly, from photographs that come with scikit-image: noisy, denoised, original.

python -m bench.experiments.failures --output docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.io import imsave

from bench.data.images import centre
from safi_fast import Solver
from safi_fast.cli.noise import add_noise
from safi_fast.cli.output import print_table
from safi_fast.metrics import psnr

SIDE, GAP, ZOOM = 128, 4, 2


class Failure(NamedTuple):
    """A clean image, the image to denoise, and the sigma that the model is told (8-bit scale)."""

    name: str
    clean: np.ndarray
    noisy: np.ndarray
    sigma: float


def cases() -> list[Failure]:
    """Texture that looks like noise; noise that is not white; a sigma that is too low."""
    grass, camera, coins = (
        np.ascontiguousarray(centre(image / np.float32(255), SIDE).astype(np.float32))
        for image in (data.grass(), data.camera(), data.coins())
    )
    white = add_noise(np.zeros_like(camera), 1.0, 0)
    smooth = gaussian_filter(white, 1.0)
    correlated = camera + np.float32(25 / 255) * smooth / smooth.std()
    return [
        Failure("texture", grass, add_noise(grass, 50 / 255, 0), 50),
        Failure("correlated-noise", camera, correlated, 25),
        Failure("sigma-too-low", coins, add_noise(coins, 25 / 255, 0), 15),
    ]


def main(words: list[str] | None = None) -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, metavar="NAME|PATH")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(words)
    solver, rows = Solver(args.model, backend="cpu"), []
    for case in cases():
        result = solver.denoise(case.noisy, case.sigma / 255)
        before, after = psnr(case.clean, case.noisy), psnr(case.clean, result.clip(0, 1))
        rows.append((case.name, f"{case.sigma:g}", f"{before:.2f}", f"{after:.2f}"))
        white = np.ones((SIDE, GAP), np.float32)
        panel = np.hstack([case.noisy, white, result, white, case.clean]).clip(0, 1)
        pixels = np.round(255 * panel).astype(np.uint8).repeat(ZOOM, 0).repeat(ZOOM, 1)
        imsave(args.output / f"failure-{case.name}.png", pixels, check_contrast=False)
    print_table(("case", "sigma told", "noisy dB", "denoised dB"), rows)


if __name__ == "__main__":
    main()
