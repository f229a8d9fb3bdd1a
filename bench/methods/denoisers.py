"""The denoisers of `rivals`: each function makes one ready, which takes a noisy image (H, W) of sigma 25 / 255."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import safi_fast
from bench.data.problems import DATA, published_mmr, squared_norm_of

SIGMA = 25.0
TABLE = {"TV": 0.08, "NLM": 0.6, "WCRR": 1.0}  # weight; h over sigma; strength
SLOW = {"MMR in PyTorch, 5 x 12": "MMR weights, 5 x 12"}  # and the method of equal results
Denoiser = Callable[[np.ndarray], np.ndarray]


def safi(name: str, **options: Any) -> Callable[[], Denoiser]:
    """One of our models, ready; options as for `Solver.denoise`."""

    def make() -> Denoiser:
        solver = safi_fast.Solver(published_mmr() if name == "mmr25" else name, backend="cpu")
        return lambda y: solver.denoise(y, SIGMA / 255, **options)

    return make


def tv(weight: float) -> Denoiser:
    """Total variation, of scikit-image."""
    from skimage.restoration import denoise_tv_chambolle

    return lambda y: denoise_tv_chambolle(y, weight, eps=1e-5, max_num_iter=1000)


def nlm(share: float) -> Denoiser:
    """Non-local means, of scikit-image; h is `share` of sigma."""
    from skimage.restoration import denoise_nl_means

    sigma = SIGMA / 255
    return lambda y: denoise_nl_means(y, patch_size=5, patch_distance=10, h=share * sigma, sigma=sigma, fast_mode=True)


def bm3d() -> Denoiser:
    """BM3D of the package bm3d."""
    from bm3d import bm3d as rival

    return lambda y: rival(y.astype(np.float64), SIGMA / 255)


def wcrr(strength: float) -> Denoiser:
    """The weakly convex ridge regulariser with its published weights."""
    from bench.methods.baselines import Wcrr
    from safi_fast.operators import Identity

    network = Wcrr(DATA / "weights" / "wcrr.pth")
    return lambda y: network.solve(Identity(y.shape), y, strength, SIGMA, tol=1e-3)[0]


def dncnn() -> Denoiser:
    """DnCNN with its published weights for sigma 25."""
    import torch

    state = torch.load(DATA / "weights" / "dncnn_25.pth", weights_only=True, map_location="cpu")
    numbers = sorted({int(key.split(".")[1]) for key in state})
    layers = [(state[f"model.{n}.weight"], state[f"model.{n}.bias"]) for n in numbers]

    def run(y: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = image = torch.from_numpy(y)[None, None]
            for index, (weight, bias) in enumerate(layers):
                x = torch.nn.functional.conv2d(x, weight, bias, padding=1)
                x = x.relu_() if index < len(layers) - 1 else x
            return (image - x)[0, 0].numpy()

    return run


def torch_mmr() -> Denoiser:
    """The published MMR model, layer by layer."""
    import torch

    from bench.methods import torch_baseline

    model = published_mmr()
    assert model
    parameters, strength = torch_baseline.parameters_of(model), float(model.strength.unrolled[0])
    norm = squared_norm_of(model, 128, 128)
    return lambda y: torch_baseline.unrolled(torch.from_numpy(y)[None, None], parameters, strength, norm).numpy()[0, 0]


def methods() -> dict[str, Callable[[], Denoiser]]:
    """A function that makes each ready; those whose weights are at hand."""
    found: dict[str, Callable[[], Denoiser]] = {}
    own = safi_fast.load_model("safi-gray").schedule
    for outer, inner in ((own.outer, own.inner), (4, 8), (3, 7)):
        found[f"safi-gray {outer} x {inner}"] = safi("safi-gray", schedule="unrolled", max_outer=outer, max_inner=inner)
    for name in safi_fast.list_models():
        model = safi_fast.load_model(name)
        if name != "safi-gray" and model.filters.planes == 1:
            schedule = model.schedule
            found[f"{name} {schedule.outer} x {schedule.inner}"] = safi(name, schedule="unrolled")
    found["BM3D"] = bm3d
    found["TV"] = lambda: tv(TABLE["TV"])
    found["NLM"] = lambda: nlm(TABLE["NLM"])
    if (DATA / "weights").is_dir():
        found["DnCNN"] = dncnn
        found["WCRR"] = lambda: wcrr(TABLE["WCRR"])
        found["MMR weights, 5 x 12"] = safi("mmr25", schedule="unrolled")
        found["MMR weights, gap 1e-3"] = safi("mmr25", schedule="gap", tol=1e-3, strength=0.00110945)
        found["MMR in PyTorch, 5 x 12"] = torch_mmr
    return found
