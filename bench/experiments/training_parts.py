"""What a step of training is made of: times on a GPU, and what differentiating half of the inner steps loses.

    python -m bench.experiments.training_parts gpu         # needs a GPU and CuPy
    python -m bench.experiments.training_parts gradients   # minutes on a CPU; DATA/bsds500/train
    python -m bench.experiments.training_parts chain       # the same

gpu: microseconds by CUDA events, a batch of 32, 64 filters of 72 x 72, and for each sum of spectra how far it is from
torch's. gradients: the cosine between the gradient through the last 6 inner steps and that through all 12, for every
tensor of the shipped model, summed over 16 batches of 16 patches. chain: the gradient of the result alone, through
three outer steps and the masks between them, against that of each of them by itself, as the training adds them up, and
against that of the last.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import images
from bench.data.problems import DATA
from bench.report import measure

BATCH, CHANNELS, SIDE, SUPPORT, KNOTS = 32, 64, 72, 13, 21
CALLS, WARM_UPS = 20, 3
TRAINED, INNER, OUTER = 6, 12, 4
BATCHES, FIRST, PATCHES, PICTURES = 16, 8, 16, 60  # FIRST: steps before, so that patches are under way


def parts(torch: Any) -> dict[str, Callable[[], Any]]:
    """Calls by name, on random tensors of the GPU."""
    from torch.nn import functional

    from safi_fast.training.gpu import kernels_for

    there = {"device": "cuda"}
    x = torch.rand(BATCH, 1, SIDE, SIDE, **there)
    filters = torch.randn(CHANNELS, 1, SUPPORT, SUPPORT, **there)
    u, v, mask, total = (torch.randn(BATCH, CHANNELS, SIDE, SIDE, **there) for _ in range(4))
    layer = torch.randn(CHANNELS, CHANNELS, 3, 3, requires_grad=True, **there)
    spectra, bank = torch.fft.rfft2(v), torch.fft.rfft2(filters[:, 0], s=(SIDE, SIDE))
    image, sums, values = torch.fft.rfft2(x), torch.zeros_like(bank), torch.randn(CHANNELS, KNOTS, **there)
    wide, leaf = functional.pad(x, (SUPPORT // 2,) * 4, mode="circular"), v.clone().requires_grad_()
    kernels = kernels_for(v)
    if kernels is None:
        raise SystemExit("the kernels of training need CuPy")
    return {
        "spline": lambda: kernels.spline(v, values, -1.0),
        "spline, gradient": lambda: kernels.spline_gradient(v, values, -1.0, u),
        "rfft2": lambda: torch.fft.rfft2(v),
        "sum of spectra over channels": lambda: kernels.contract(spectra, bank),
        "sum of spectra over the batch": lambda: kernels.correlate(spectra, image, sums),
        "extrapolate": lambda: kernels.extrapolate(v, u, mask, u, 0.5),
        "through_clip": lambda: kernels.through_clip((u, 1.0), (v, 0.5), v, u, mask, total),
        "through_mask": lambda: kernels.through_mask(u, v, mask, u, total),
        "W as convolution": lambda: functional.conv2d(wide, filters),
        "W by FFT": lambda: torch.fft.irfft2(image * bank.conj(), s=(SIDE, SIDE)),
        "mask layer": lambda: functional.conv2d(v, layer.detach(), padding=3, dilation=3),
        "mask layer, with backward": lambda: functional.conv2d(leaf, layer, padding=3, dilation=3).backward(v),
        "copy": v.clone,
    }


def gpu() -> Iterator[dict[str, Any]]:
    """Microseconds of every part, with and without TF32 in convolutions."""
    import torch

    torch.backends.cudnn.benchmark = True
    for tf32 in (True, False):
        torch.backends.cudnn.allow_tf32 = tf32
        for name, call in parts(torch).items():
            if not tf32 and "conv" not in name and "layer" not in name:
                continue
            for _ in range(WARM_UPS):
                call()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(CALLS):
                call()
            end.record()
            end.synchronize()
            yield {"part": name, "tf32": tf32, "us": round(1e3 * begin.elapsed_time(end) / CALLS, 1)}


def trainer_of(trained: int) -> Any:
    """Of the shipped model at rest, and its settings."""
    from safi_fast import load_model
    from safi_fast.training.data import NoiseRange
    from safi_fast.training.network import network_of
    from safi_fast.training.settings import Settings
    from safi_fast.training.trainer import Trainer

    noise = NoiseRange(1, 75, (5, 5, 15, 25, 25, 50))
    settings = Settings(
        noise, steps=1, outer=OUTER, inner=INNER, trained=trained, batch=PATCHES, pool=4 * PATCHES, clip=1e9
    )
    pictures = [np.float32(picture) for picture in images.load(DATA / "bsds500" / "train", PICTURES)]
    trainer = Trainer(network_of(load_model()), pictures, settings)
    for group in trainer.optimizer.param_groups:
        group["highest_rate"] = 0.0
    return trainer


def gradients() -> Iterator[dict[str, Any]]:
    """Cosine of half against whole for every tensor, and both norms."""
    import torch

    from safi_fast.training.trainer import expected_error

    trainer = trainer_of(TRAINED)
    half = trainer.settings
    sums: dict[tuple[str, int], Any] = {}
    for number in range(FIRST + BATCHES):
        trainer.step(0.0)
        if number < FIRST:
            continue
        pool = trainer.pool
        places = pool.draw(PATCHES, trainer.rng)
        places = places[pool.visits[places] >= 0]
        sigma = pool.sigma[places]
        given = pool.noisy[places], pool.clean[places], sigma, expected_error(sigma), pool.x[places], pool.dual[places]
        for trained in (TRAINED, INNER):
            trainer.settings = replace(half, trained=trained)
            trainer.differentiate(*given)
            for name, parameter in trainer.network.named_parameters():
                sums[name, trained] = sums.get((name, trained), 0) + parameter.grad
        trainer.settings = half
    for name, _ in trainer.network.named_parameters():
        some, whole = sums[name, TRAINED], sums[name, INNER]
        cosine = torch.nn.functional.cosine_similarity(some.flatten(), whole.flatten(), dim=0)
        yield {
            "tensor": name, "cosine": float(cosine), "norm": float(some.norm()), "norm_of_all": float(whole.norm()),
        }  # fmt: skip


def chain() -> Iterator[dict[str, Any]]:
    """Cosines for every tensor, from patches that have made the first outer step, which has no mask."""
    import torch

    from safi_fast.training.trainer import expected_error

    trainer, sums, ways = trainer_of(TRAINED), {}, ("chain", "each", "last")
    alone = trainer.settings
    places, names = torch.arange(PATCHES), [name for name, _ in trainer.network.named_parameters()]

    def gradient(settings: Any, *given: Any) -> tuple[Any, list[Any]]:
        trainer.settings = settings
        _, _, x, v = trainer.differentiate(*given)
        return (x, v), [parameter.grad.clone() for _, parameter in trainer.network.named_parameters()]

    for _ in range(BATCHES):
        pool = trainer.pool
        pool.visits[:] = -1
        trainer.renew(places)
        sigma = pool.sigma[places]
        given, state = (pool.noisy[places], pool.clean[places], sigma, expected_error(sigma)), (
            pool.x[places], pool.dual[places].float(),
        )  # fmt: skip
        _, whole = gradient(replace(alone, chain=OUTER - 1), *given, *state)
        found = {"chain": whole, "each": [0 * part for part in whole]}
        for _ in range(OUTER - 1):
            state, found["last"] = gradient(alone, *given, *state)
            found["each"] = [a + b for a, b in zip(found["each"], found["last"], strict=True)]
        for way in ways:
            for name, part in zip(names, found[way], strict=True):
                sums[name, way] = sums.get((name, way), 0) + part
    for name in names:
        whole, each, last = (sums[name, way].flatten() for way in ways)
        cosine = torch.nn.functional.cosine_similarity
        yield {
            "tensor": name, "cosine_each": float(cosine(whole, each, dim=0)),
            "cosine_last": float(cosine(whole, last, dim=0)), "norm": float(whole.norm()),
            "norm_each": float(each.norm()), "norm_last": float(last.norm()),
        }  # fmt: skip


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("gpu", "gradients", "chain"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    for row in {"gpu": gpu, "gradients": gradients, "chain": chain}[args.mode]():
        print(row, flush=True)
        rows.append(row)
    measure.write_json(args.output, {"command": measure.command([]), "machine": measure.machine(), "rows": rows})


if __name__ == "__main__":
    main()
