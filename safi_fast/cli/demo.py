"""Denoise a real photograph with the default model and draw a picture of it.

The photograph is `skimage.data.camera()`, 512 x 512 pixels, CC0.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from . import session as sessions
from .arguments import positive
from .output import print_table, progress, scientific

SEED = 0
DETAIL = (60, 170, 150, 150)  # row, column, height, width of the part that is shown enlarged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast demo`."""
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo_output"), metavar="FOLDER", help="default: demo_output"
    )
    parser.add_argument(
        "--sigma", type=positive, default=25.0, metavar="S", help="noise level on the scale 0 to 255 (default: 25)"
    )


def run(args: argparse.Namespace) -> int:
    """Denoise twice, because the first call loads kernels; print the scores and write the picture."""
    import numpy as np
    from skimage.data import camera

    from ..atomic import prepare_folder
    from ..metrics import psnr, ssim
    from ..plots import before_after, require_matplotlib
    from .noise import add_noise

    require_matplotlib()
    session = sessions.make_session()
    session.check(args.sigma)
    prepare_folder(args.output)
    clean = camera().astype(np.float32) / np.float32(255)
    noisy = add_noise(clean, args.sigma / sessions.EIGHT_BIT, SEED)
    print(f"{session.model.name} on skimage.data.camera(), 512 x 512, sigma {args.sigma:g}, noise seed {SEED}")
    with progress("denoising", 2) as advance:
        _, first = _timed(session, noisy, args.sigma)
        advance()
        solution, second = _timed(session, noisy, args.sigma)
        advance()

    denoised = solution.image.clip(0, 1)
    scores = {
        name: (psnr(clean, image), ssim(clean, image)) for name, image in (("noisy", noisy), ("denoised", denoised))
    }
    print_table(("", "PSNR", "SSIM"), [(name, f"{p:.2f} dB", f"{s:.4f}") for name, (p, s) in scores.items()])
    facts = sessions.summary(solution)
    print(f"time          {second:.2f} s ({first:.2f} s for the first call)")
    masks, steps, status = (facts[key] for key in ("outer_iterations", "inner_iterations", "solver_status"))
    print(f"steps         {masks} outer, {steps} inner ({status})")
    print(f"relative gap  {scientific(facts['relative_gap'])} of the last convex problem")

    picture = args.output / "before_after.png"
    captions = {name: f"{name.capitalize()}\nPSNR {p:.2f} dB, SSIM {s:.3f}" for name, (p, s) in scores.items()}
    captions["clean"] = f"Original\nnoise added: sigma {args.sigma:g} of 255"
    before_after(picture, noisy, denoised, solution.masks.mean(axis=0), clean=clean, captions=captions, detail=DETAIL)
    print(f"picture       {picture}")
    return 0


def _timed(session: sessions.Session, noisy: Any, sigma: float) -> tuple[Any, float]:
    start = time.perf_counter()
    solution = session.denoise(noisy, sigma, return_masks=True)
    return solution, time.perf_counter() - start
