"""Side by side in deepinv: its own algorithms, and SAFI as its reconstructor and as its denoiser.

    .venv-integrations/bin/python -m bench.experiments.deepinv_race [--only MRI|blur] [--output FILE.json]

Wants deepinv, with ptwt for its wavelets (`make .venv-integrations/installed`, pip install ptwt). Two problems of SIDE
x SIDE pixels as deepinv poses them: MRI of one coil from a quarter of the lines, complex images as two channels, and a
blur of Levin et al. with noise of 0.01. The parameters of each method are those that are best on one image, from its
list; PSNR and seconds are means over two others. TV, wavelets and plug-and-play are deepinv's own; WCRR is the
bench's, with the published weights. --only keeps the other rows of the file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import RESULTS
from bench.data.cases import ACCELERATIONS, HEADS, levin, photograph
from bench.data.problems import DATA, head, line_mask
from bench.methods.baselines import Wcrr
from bench.report import measure
from safi_fast.cli.output import print_table

SIDE, NOISE = 96, 0.01
STEPS = 1000  # of deepinv's algorithms, which stop earlier where they have settled
STRENGTHS = np.geomspace(1e-4, 1e-2, 5)
THEIRS = {  # factors of TV, wavelets and WCRR; the ends of a first, wider run are left out
    "MRI": ((3e-3, 1e-2, 3e-2), (3e-5, 1e-4, 3e-4), (3e-3, 1e-2, 3e-2)),
    "blur": ((3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2), (1e-2, 3e-2, 1e-1)),
}

Solve = Callable[..., Any]  # y, physics and the parameters to the image


class Case(NamedTuple):
    """A physics of deepinv, the image (1, C, H, W) and its measurements."""

    physics: Any
    x: Any
    y: Any


def cases() -> dict[str, list[Case]]:
    """The first image of each problem is the one for tuning."""
    import deepinv
    import torch

    def posed(physics: Any, x: Any, seed: int) -> Case:
        physics.noise_model = deepinv.physics.GaussianNoise(NOISE, rng=torch.Generator().manual_seed(seed))
        return Case(physics, x, physics(x))

    found: dict[str, list[Case]] = {"MRI": [], "blur": []}
    for seed, name in enumerate(HEADS):
        mask = torch.from_numpy(line_mask((SIDE, SIDE), *ACCELERATIONS[0], np.random.default_rng(seed))).float()
        image = torch.from_numpy(head(name, SIDE).astype(np.float32))
        x = torch.stack([image, torch.zeros_like(image)])[None]
        found["MRI"].append(posed(deepinv.physics.MRI(mask=mask, img_size=(2, SIDE, SIDE)), x, seed))
    kernel = torch.from_numpy(levin(1))[None, None]
    for seed, name in enumerate(("02", "01", "09")):
        x = torch.from_numpy(np.asarray(photograph(name, SIDE), np.float32))[None, None]
        found["blur"].append(posed(deepinv.physics.BlurFFT((1, SIDE, SIDE), kernel), x, seed))
    return found


def proximal(prior: Any) -> Solve:
    """deepinv's FISTA with a prior of its own."""
    from deepinv import optim

    def solve(y: Any, physics: Any, strength: float) -> Any:
        algorithm = optim.FISTA(
            data_fidelity=optim.L2(), prior=prior, lambda_reg=strength, stepsize=1.0, max_iter=STEPS, early_stop=True,
            crit_conv="residual", thres_conv=1e-5,
        )  # fmt: skip
        return algorithm(y, physics)

    return solve


def wcrr() -> Solve:
    """With the published weights, by the operator that the physics becomes."""
    import torch

    from safi_fast.integrations.physics import bridge

    network = Wcrr(DATA / "weights" / "wcrr.pth")

    def solve(y: Any, physics: Any, strength: float, sigma: float) -> Any:
        found = bridge(physics, y)
        box = None if found.complex else (0.0, 1.0)
        image, _ = network.solve(found.operators[0], np.asarray(found.measured(y))[0], strength, sigma, box=box)
        return found.image(torch.from_numpy(np.ascontiguousarray(image[None])))

    return solve


def plugged() -> Solve:
    """deepinv's half-quadratic splitting with our denoiser."""
    from deepinv import optim

    from safi_fast.integrations.deepinv import SafiDenoiser

    def solve(y: Any, physics: Any, stepsize: float, sigma: float) -> Any:
        algorithm = optim.HQS(
            data_fidelity=optim.L2(), prior=optim.PnP(SafiDenoiser("safi-gray-fast")), stepsize=stepsize,
            sigma_denoiser=sigma, max_iter=12,
        )  # fmt: skip
        return algorithm(y, physics)

    return solve


def dropped_in(schedule: str) -> Solve:
    """Our reconstructor in deepinv."""
    from safi_fast.integrations.deepinv import SafiReconstructor

    return lambda y, physics, strength: SafiReconstructor(strength, schedule=schedule)(y, physics)


def own(problem: str) -> Solve:
    """Our own call, with our own operator from the same mask or kernel."""
    import torch

    import safi_fast
    from safi_fast.operators import Blur, FourierMRI

    def solve(y: Any, physics: Any, strength: float) -> Any:
        if problem == "MRI":
            mask = np.asarray(physics.mask).reshape(-1, SIDE, SIDE)[0] > 0
            operator: Any = FourierMRI(mask, mask_order="centered", image="complex")
            measured, box = np.asarray(y[0, 0] + 1j * y[0, 1]), None
        else:
            operator = Blur(levin(1), (SIDE, SIDE), "circular")
            measured, box = np.asarray(y[0, 0]), (0.0, 1.0)
        found = safi_fast.reconstruct(measured, operator, strength=strength, box=box, schedule="fast").image
        parts = np.stack([found.real, found.imag]) if problem == "MRI" else found[None]
        return torch.from_numpy(np.ascontiguousarray(parts))[None]

    return solve


def methods(problem: str) -> Iterator[tuple[str, Solve, list[tuple[Any, ...]]]]:
    """Name, what solves, and the parameters to try."""
    from deepinv.optim import prior

    one = [(float(value),) for value in STRENGTHS]
    total_variation, wavelets, ridges = THEIRS[problem]
    yield "A^T y", lambda y, physics: physics.A_adjoint(y), [()]
    yield "TV, deepinv", proximal(prior.TVPrior(n_it_max=20)), [(value,) for value in total_variation]
    yield "wavelets, deepinv", proximal(prior.WaveletPrior(level=3, wv="db4", p=1)), [(value,) for value in wavelets]
    yield "WCRR, the bench's", wcrr(), list(product(ridges, (5.0, 15.0, 25.0)))
    yield "PnP (HQS) with SafiDenoiser", plugged(), list(product((25.0, 100.0, 400.0), (0.01, 0.02, 0.05, 0.1)))
    for schedule in ("fast", "gap"):
        yield f"SafiReconstructor, {schedule}", dropped_in(schedule), one
    yield "safi_fast.reconstruct, fast", own(problem), one


def psnr(image: Any, x: Any) -> float:
    """In dB, of magnitudes, white being 1."""
    error = image.square().sum(1).sqrt() - x.square().sum(1).sqrt() if x.shape[1] == 2 else image - x
    return float(-10 * error.square().mean().log10())


def row(problem: str, name: str, solve: Solve, tried: list[tuple[Any, ...]], of: list[Case]) -> tuple[dict, list[Any]]:
    """The best parameters on the first case; means over the others, and their images."""
    tuning, *tests = of
    best = max(tried, key=lambda values: psnr(solve(tuning.y, tuning.physics, *values), tuning.x))
    images, seconds = [], []
    for case in tests:
        start = time.perf_counter()
        images.append(solve(case.y, case.physics, *best))
        seconds.append(time.perf_counter() - start)
    mean = float(np.mean([psnr(image, case.x) for image, case in zip(images, tests, strict=True)]))
    ends = any(len(set(values)) > 1 and value in (min(values), max(values)) for value, values in zip(
        best, zip(*tried, strict=True), strict=True))  # fmt: skip
    found = {
        "problem": problem, "method": name, "parameters": list(best), "edge": ends, "psnr": mean,
        "seconds": float(np.mean(seconds)),
    }  # fmt: skip
    print(f"{problem}: {name} {best}: {mean:.2f} dB, {found['seconds']:.2f} s", flush=True)
    return found, images


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "deepinv_race.json")
    parser.add_argument("--only", choices=tuple(THEIRS))
    args = parser.parse_args()
    import deepinv
    import torch

    before, rows, same = measure.machine(), [], {}
    if args.only:
        kept = measure.read(args.output)
        rows = [row for row in kept["rows"] if row["problem"] != args.only]
        same = kept["drop_in_and_own_call"]
    torch.set_num_threads(measure.THREADS)
    for problem, of in cases().items():
        if args.only not in (None, problem):
            continue
        made = {}
        for name, solve, tried in methods(problem):
            with torch.no_grad():
                found, made[name] = row(problem, name, solve, tried, of)
            rows.append(found)
        pairs = zip(made["SafiReconstructor, fast"], made["safi_fast.reconstruct, fast"], strict=True)
        same[problem] = max(float((a - b).abs().max()) for a, b in pairs)
    print_table(
        ["problem", "method", "PSNR", "seconds"],
        [[r["problem"], r["method"], f"{r['psnr']:.2f}", f"{r['seconds']:.2f}"] for r in rows],
    )
    print(f"largest difference of the drop-in and our own call: {same}")
    versions = {"deepinv": deepinv.__version__, "torch": torch.__version__}
    measure.write(args.output, rows, before, drop_in_and_own_call=same, versions=versions)


if __name__ == "__main__":
    main()
