"""Clean images, seeded noise and mean PSNR, as `safi-fast evaluate` has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import measure
from safi_fast import Solver
from safi_fast.cli.evaluate import clean_image
from safi_fast.cli.noise import add_noise
from safi_fast.cli.output import print_table
from safi_fast.io import list_images, read_image
from safi_fast.masks import SafiMask
from safi_fast.metrics import psnr
from safi_fast.model import Model


def load(folder: Path, limit: int | None = None, crop: int | None = None, planes: int = 1) -> list[np.ndarray]:
    """Grey images on [0, 1] by name, those of several planes (P, H, W), or their centres of crop x crop pixels."""
    images = [clean_image(path, read_image(path), planes=planes)[0] for path in list_images([folder])[:limit]]
    return images if crop is None else [centre(image, crop) for image in images]


def centre(image: np.ndarray, side: int) -> np.ndarray:
    """The middle side x side pixels, of all planes."""
    row, column = ((size - side) // 2 for size in image.shape[-2:])
    return np.ascontiguousarray(image[..., row : row + side, column : column + side])


def noisy(images: Sequence[np.ndarray], sigma: float, seed: int = 0) -> list[np.ndarray]:
    """The same with the noise of `safi-fast evaluate`; sigma on the 8-bit scale."""
    return [add_noise(image, sigma / 255, seed, index) for index, image in enumerate(images)]


def score(
    solver: Solver, clean: Sequence[np.ndarray], observed: Sequence[np.ndarray], sigma: float, **options: Any
) -> float:
    """Mean PSNR in dB; options as for `Solver.denoise`."""
    return float(np.mean(scores(solver, clean, observed, sigma, **options)))


def scores(
    solver: Solver, clean: Sequence[np.ndarray], observed: Sequence[np.ndarray], sigma: float, **options: Any
) -> list[float]:
    """PSNR in dB of every image."""
    axis = None if solver.model.filters.planes == 1 else 0
    found = [solver.denoise(y, sigma / 255, channel_axis=axis, **options) for y in observed]
    return [psnr(x, image.clip(0, 1)) for x, image in zip(clean, found, strict=True)]


def scored_on(model: Model) -> str:
    """What a model is scored on: BSD68, and the same in colour."""
    return "BSD68" if model.filters.planes == 1 else "CBSD68"


def operations(model: Model, outer: int, inner: int) -> int:
    """Multiply-adds per pixel of outer x inner unrolled steps, every convolution counted directly.

    An inner step is W^T and W; the start is one W, each outer step begins with one W^T; every outer step but the first
    has a mask. All planes of an image are counted.
    """
    product = model.filters.planes * model.filters.channels * model.filters.support**2
    if isinstance(model.mask, SafiMask):
        mask = sum(layer.size for layer in model.mask.convolutions)
    else:
        mask = product + 2 * sum(layer.size for layer in model.mask.smoothing)
    return product * (2 * outer * inner + 1 + outer) + mask * (outer - 1)


def report(rows: Sequence[dict[str, Any]], output: Path | None, **facts: Any) -> None:
    """Print rows of equal keys as a table; with `output`, write them and what was run as JSON."""
    header = list(rows[0])
    print_table(header, [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows])
    measure.write_json(output, {"command": measure.command(), **facts, "rows": list(rows)})


def identity(model: Model) -> dict[str, str]:
    """Which weights were measured."""
    return {"model": model.name, "model_sha256": model.fingerprint}
