"""The precisions of the CUDA kernels against float64, in the emulator: a crop of a photograph, safi-gray, sigma 25."""

from __future__ import annotations

import numpy as np
import oracle
from emulator.device import EmulatedDevice
from models import oracle_form

import safi_fast
from bench.data.problems import SIGMA, photograph, squared_norm_of
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.launch import PRECISIONS
from safi_fast.model import Model
from safi_fast.models import load_model

HEIGHT, WIDTH = 40, 48
ONE = np.arange(1)


def crop() -> tuple[np.ndarray, np.ndarray]:
    """(clean, noisy), (H, W) float32: the head of the camera man, seeded noise, not clipped."""
    clean = photograph(256, 256)[40 : 40 + HEIGHT, 104 : 104 + WIDTH]
    noise = np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    return clean, clean + np.float32(SIGMA) * noise


def measure_errors() -> dict[str, dict[str, float]]:
    """By precision: errors of the filters, relative to the largest value, and of denoising, in grey values, dB."""
    model = load_model()
    clean, noisy = crop()
    layers, boundary = oracle_form(model)["layers"], model.filters.boundary
    u = np.random.default_rng(1).uniform(-1, 1, (model.filters.channels, HEIGHT, WIDTH)).astype(np.float32)
    exact = {
        "analysis": oracle.analysis(noisy.astype(float), layers, boundary),
        "synthesis": oracle.synthesis(u.astype(float), layers, boundary),
        "denoise": denoised_exactly(model, noisy),
    }
    psnr = oracle.psnr(exact["denoise"], clean)
    found = {}
    for precision in PRECISIONS:
        filtered, back = through_filters(model, precision, noisy, u)
        image = denoised(model, precision, noisy)
        found[precision] = {
            "analysis": relative(filtered, exact["analysis"]),
            "synthesis": relative(back, exact["synthesis"]),
            "denoise_largest": rounded(np.abs(image - exact["denoise"]).max()),
            "denoise_rms": rounded(np.sqrt(np.mean((image - exact["denoise"]) ** 2))),
            "psnr_difference_db": rounded(oracle.psnr(image, clean) - psnr),
        }
    return found


def rounded(value: float) -> float:
    """Two digits."""
    return float(f"{value:.1e}")


def relative(actual: np.ndarray, exact: np.ndarray) -> float:
    return rounded(np.abs(actual - exact).max() / np.abs(exact).max())


def through_filters(model: Model, precision: str, x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(W x, W^T u) by the kernels."""
    device = EmulatedDevice()
    workspace = CudaBackend(device, precision).prepare(model).workspace(1, HEIGHT, WIDTH)
    workspace.load(x[None], np.zeros(1), np.zeros(1), (-np.inf, np.inf))
    filtered = workspace.filtered()[0]
    wide = np.zeros(workspace.dual.shape, np.float32)
    wide[0, 0, :, :, :WIDTH] = u
    device.write(workspace.dual, wide)
    workspace.refresh(ONE)
    return filtered, device.download(workspace.z)[0, 0]


def settings(model: Model) -> tuple[int, float, float]:
    """(number of the noise level, strength, ||W||^2)."""
    level = int(np.argmin(np.abs(np.asarray(model.noise_levels) - SIGMA)))
    norm = squared_norm_of(model, HEIGHT, WIDTH) if model.lipschitz is None else model.lipschitz
    return level, float(model.strength.unrolled[level]), norm


def denoised(model: Model, precision: str, noisy: np.ndarray) -> np.ndarray:
    """The unrolled schedule of the model by the kernels."""
    level, strength, norm = settings(model)
    solver = safi_fast.Solver(model, backend=CudaBackend(EmulatedDevice(), precision))
    sigma = float(model.noise_levels[level])
    return solver.denoise(noisy, sigma, schedule="unrolled", strength=strength, lipschitz=norm)


def denoised_exactly(model: Model, noisy: np.ndarray) -> np.ndarray:
    """The same in float64."""
    level, strength, norm = settings(model)
    form = oracle_form(model)
    gain, bias = model.mask.gain[level].astype(float), model.mask.bias[level].astype(float)

    def mask_of(x: np.ndarray) -> np.ndarray:
        return oracle.safi_mask(x, form["convolutions"], form["splines"], gain, bias, model.mask.boundary)

    y = noisy.astype(np.float64)
    steps = {"outer": model.schedule.outer, "inner": model.schedule.inner}
    return oracle.unrolled(y, strength, norm, mask_of, form["layers"], model.filters.boundary, **steps)
