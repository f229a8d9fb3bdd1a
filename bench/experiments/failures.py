"""Pictures of what the model does badly, from photographs that come with scikit-image: noisy, denoised, original.

    python -m bench.experiments.failures --output docs/images
    python -m bench.experiments.failures --model safi-color --output docs/images

Of a colour model other cases, and a crop of a photograph as the camera left it, with sigma estimated.
"""

from __future__ import annotations

import argparse
from io import BytesIO
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
    """A clean image, if there is one, the image to denoise, and the sigma that the model is told (8-bit scale).

    Colour images are (H, W, 3). sigma: None where it is to be estimated.
    """

    name: str
    clean: np.ndarray | None
    noisy: np.ndarray
    sigma: float | None


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


def colour_cases() -> list[Failure]:
    """Channels that are no colours; a noisy photograph that was compressed; one as the camera left it."""
    stains, cat, rocket = (
        np.ascontiguousarray(middle(image / np.float32(255)).astype(np.float32))
        for image in (data.immunohistochemistry(), data.chelsea(), data.rocket()[-250:, 150:350])
    )
    apart = np.stack([stains[..., 0], np.rot90(stains[..., 1]), stains[::-1, :, 2]], axis=-1)
    return [
        Failure("color-channels", apart, add_noise(apart, 25 / 255, 0), 25),
        Failure("color-compressed", cat, compressed(add_noise(cat, 15 / 255, 0)), 15),
        Failure("color-camera", None, rocket, None),
    ]


def middle(image: np.ndarray) -> np.ndarray:
    """SIDE x SIDE pixels of (H, W, 3)."""
    return np.moveaxis(centre(np.moveaxis(image, -1, 0), SIDE), 0, -1)


def compressed(image: np.ndarray) -> np.ndarray:
    """As JPEG of quality 60 gives it back."""
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(np.round(255 * image.clip(0, 1)).astype(np.uint8)).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream), np.float32) / 255


def one_by_one(case: Failure) -> np.ndarray:
    """What `safi-gray` makes of the channels of a colour case."""
    solver = Solver("safi-gray", backend="cpu")
    return solver.denoise(case.noisy, case.sigma / 255, channel_axis=-1, color="separate").clip(0, 1)


def drawn(case: Failure, result: np.ndarray) -> np.ndarray:
    """uint8: noisy, denoised, and the original or ten times what was taken away."""
    gray = case.noisy.ndim == 2
    third = case.clean if case.clean is not None else 0.5 + 10 * (case.noisy - result)
    white = np.ones((SIDE, GAP) if gray else (SIDE, GAP, 3), np.float32)
    panel = np.hstack([case.noisy, white, result, white, third]).clip(0, 1)
    return np.round(255 * panel).astype(np.uint8).repeat(ZOOM, 0).repeat(ZOOM, 1)


def main(words: list[str] | None = None) -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, metavar="NAME|PATH")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(words)
    solver, rows = Solver(args.model, backend="cpu"), []
    gray = solver.model.filters.planes == 1
    axis = None if gray else -1
    for case in cases() if gray else colour_cases():
        sigma = "estimate" if case.sigma is None else case.sigma / 255
        found = solver.denoise(case.noisy, sigma, channel_axis=axis, return_solution=True)
        before, after = (
            "" if case.clean is None else f"{psnr(case.clean, image):.2f}"
            for image in (case.noisy, found.image.clip(0, 1))
        )
        alone = "" if gray or case.clean is None else f"{psnr(case.clean, one_by_one(case)):.2f}"
        rows.append((case.name, f"{255 * float(found.sigma):.1f}", before, after, alone))
        imsave(args.output / f"failure-{case.name}.png", drawn(case, found.image), check_contrast=False)
    print_table(("case", "sigma told or estimated", "noisy dB", "denoised dB", "channels one by one, dB"), rows)


if __name__ == "__main__":
    main()
