"""What the benchmarks solve: a photograph with seeded noise, and models in the two published layouts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from skimage.data import camera
from skimage.transform import resize

from bench import ROOT
from safi_fast.backend import select
from safi_fast.masks import SafiMask
from safi_fast.model import FilterBank, Model, Schedule, Strength
from safi_fast.solver.lipschitz import squared_norm

SIGMA = 25 / 255
DATA = Path(os.environ.get("SAFI_FAST_DATA", ROOT.parent / "shared" / "data"))

MMR_STRENGTHS = {5: 0.00053417, 15: 0.00058899, 25: 0.00110945}  # of the converged schedule, by sigma; not in the files


def photograph(height: int, width: int) -> np.ndarray:
    """The camera man on [0, 1], float32, stretched to the size."""
    return resize(camera() / 255.0, (height, width), anti_aliasing=True).astype(np.float32)


def noisy_photograph(height: int, width: int) -> np.ndarray:
    """The same with Gaussian noise of SIGMA, seed 0, not clipped."""
    noise = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
    return photograph(height, width) + np.float32(SIGMA) * noise


def published_mmr(sigma: int = 25) -> Model | None:
    """The published MMR model for sigma on the 8-bit scale, where the shared data is at hand."""
    path = DATA / "weights" / f"mmr_sigma{sigma}.pth"
    if not path.exists():
        return None
    from safi_fast.training.checkpoint import read_checkpoint

    return read_checkpoint(path, converged_strength=MMR_STRENGTHS[sigma])


def published_safi_layout(channels: int = 64) -> Model:
    """Random weights in the layout of the published SAFI network: 7 x 7 filters, 1 -> C -> C, and 7 x 7 mask layers."""
    rng = np.random.default_rng(0)

    def kernels(c_out: int, c_in: int) -> np.ndarray:
        values = rng.standard_normal((c_out, c_in, 7, 7)) / (7 * np.sqrt(c_in))
        return (values - values.mean((2, 3), keepdims=True)).astype(np.float32)

    knots = np.linspace(-1, 1, 21, dtype=np.float32)
    splines = tuple(knots + 0.1 * rng.standard_normal((channels, 21)).astype(np.float32) for _ in range(3))
    convolutions = (kernels(channels, 1), kernels(channels, channels), kernels(channels, channels))
    ones = np.ones((1, channels), np.float32)
    mask = SafiMask(convolutions, (1, 1, 1), splines, ones, 0 * ones, "zero")
    bank = FilterBank((kernels(channels, 1), kernels(channels, channels)), "zero")
    strength = np.array([2e-3])
    levels = np.array([SIGMA])
    return Model(
        "published SAFI layout", "safi", bank, mask, Strength(strength, strength), levels, Schedule("unrolled", 5, 12)
    )


def squared_norm_of(model: Model, height: int, width: int) -> float:
    """||W||^2 as a solver on the CPU computes it for this size."""
    return squared_norm(select("cpu").prepare(model), height, width)


def brain_kspace(name: str) -> np.ndarray:
    """k-space (8, 230, 180) of mri/<name>.cfl, complex64, centered; espirit_und2x2 is the same with zeros."""
    raw = np.fromfile(DATA / "mri" / f"{name}.cfl", np.complex64)
    return raw.reshape((230, 180, 8), order="F").transpose(2, 0, 1)


def given_mask(name: str) -> np.ndarray:
    """The sampling mask mri/masks/<name>.mat, (256, 256) boolean, in FFT order."""
    return loadmat(DATA / "mri" / "masks" / f"{name}.mat")["Q1"] > 0


def head(name: str, size: int | None = None) -> np.ndarray:
    """Magnitude of a siat head image, peak 1, float32; with `size` its middle size x size pixels."""
    image = np.abs(loadmat(DATA / "mri" / "siat" / f"{name}.mat")["Img"])
    image = (image / image.max()).astype(np.float32)
    return image if size is None else middle(image, (size, size))


def middle(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The middle of the last two axes."""
    top, left = ((n - side) // 2 for n, side in zip(image.shape[-2:], shape, strict=True))
    return np.ascontiguousarray(image[..., top : top + shape[0], left : left + shape[1]])


def line_mask(shape: tuple[int, int], acceleration: int, centre: float, rng: np.random.Generator) -> np.ndarray:
    """Random Cartesian lines along axis 0, a share `centre` in the middle, where frequency zero is."""
    width = shape[1]
    count = round(centre * width)
    lines = np.zeros(width, bool)
    lines[width // 2 - count // 2 : width // 2 - count // 2 + count] = True
    lines[rng.choice(np.flatnonzero(~lines), round(width / acceleration) - count, replace=False)] = True
    return np.broadcast_to(lines, shape).copy()
