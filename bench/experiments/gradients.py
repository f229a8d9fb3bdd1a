"""What a backward pass costs beside the forward one: `safi_fast.integrations.autograd.denoise`.

    python -m bench.experiments.gradients [--precision] [--output FILE.json]

A photograph, noise of 25; the least of ROUNDS, in turn, of denoising without a gradient, forward and backward, on the
clock and of the processor over all threads, which other work disturbs less. gap: to 1e-4 and to 1e-5 under its masks,
the backward pass at the last of them. unrolled: the model's own schedule. At 288 x 288 `safi-gray` keeps the start of
each outer step alone and makes its steps again; `safi-gray-fast` keeps all.

--precision: instead, how near the kernels and torch's graph in float32 come to torch's graph in float64, for a squared
error on 40 x 42 pixels, without masks and through all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS
from bench.data.images import load
from bench.data.problems import DATA
from bench.report import measure
from safi_fast.cli.output import print_table

ROUNDS = {"gap": 1, "unrolled": 5}
CASES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("gap, 1e-4", 128, {"schedule": "gap", "tol": 1e-4}),
    ("gap, 1e-5", 128, {"schedule": "gap", "tol": 1e-5}),
    ("unrolled", 128, {"schedule": "unrolled"}),
    ("unrolled", 288, {"schedule": "unrolled"}),
)


def row(model: str, name: str, side: int, options: dict[str, Any], images: Any) -> dict[str, Any]:
    """Seconds of each, and the ratio of the last two."""
    import torch

    from safi_fast import Solver
    from safi_fast.integrations.autograd import denoise

    image = next(image for image in images if min(image.shape) >= side)
    noise, solver = np.random.default_rng(0).standard_normal((side, side)), Solver(model, backend="cpu")
    noisy = torch.from_numpy((image[:side, :side] + 25 / 255 * noise).astype(np.float32))
    made: dict[str, Any] = {}

    def forward() -> None:
        made.clear()  # and with it the steps that were kept
        made["x"] = denoise(noisy.clone().requires_grad_(), 25 / 255, model=model, **options)

    parts = {
        "alone": lambda: solver.denoise(noisy.numpy(), 25 / 255, **options),
        "forward": forward,
        "backward": lambda: made["x"].square().sum().backward(retain_graph=True),
    }
    measure.alternately(parts, 1)
    times = measure.alternately(parts, ROUNDS[options["schedule"]])
    wall, cpu = ({part: getattr(time, kind) for part, time in times.items()} for kind in ("wall", "cpu"))
    return {"model": model, "schedule": name, "side": side, **wall, "ratio": wall["backward"] / wall["forward"],
            **{f"{part}_cpu": seconds for part, seconds in cpu.items()},
            "ratio_cpu": cpu["backward"] / cpu["forward"]}  # fmt: skip


def precision(model: str, outer: int | None, image: np.ndarray) -> dict[str, Any]:
    """Relative distances of gradients with respect to the image from that of float64, and cosines with it."""
    import torch

    from safi_fast import Solver, load_model
    from safi_fast.training.network import network_of

    chosen, noise = load_model(model), np.random.default_rng(0).standard_normal(image.shape)
    noisy = (image + 25 / 255 * noise).astype(np.float32)
    options: dict[str, Any] = {"schedule": "unrolled", "max_outer": outer or chosen.schedule.outer}
    solution, vjp = Solver(chosen, backend="cpu").denoise_vjp(noisy, 25 / 255, **options)
    weights = 2 * (solution.image - image)
    found = {"kernels": vjp(weights).image}
    for name, kind in (("float32", torch.float32), ("float64", torch.float64)):
        y = torch.tensor(noisy[None, None], dtype=kind, requires_grad=True)
        sigma = torch.tensor([25 / 255], dtype=kind)
        x = network_of(chosen).to(kind)(y, sigma, options["max_outer"], chosen.schedule.inner)
        (x * torch.tensor(weights, dtype=kind)).sum().backward()
        found[name] = y.grad.numpy()[0, 0]
    exact = found.pop("float64")
    row: dict[str, Any] = {"model": model, "outer": options["max_outer"]}
    for name, gradient in found.items():
        row[name] = float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))
        lengths = np.linalg.norm(gradient.astype(float)) * np.linalg.norm(exact)
        row[f"{name}_cosine"] = float(np.vdot(gradient.astype(float), exact) / lengths)
    return row


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", action="store_true", help="measure errors instead of times")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    measure.use_threads()
    before, images, models = measure.machine(), load(DATA / "set12"), ("safi-gray", "safi-gray-fast")
    if args.precision:
        image = np.asarray(images[0], np.float64)[100:140, 100:142]
        rows = [precision(model, outer, image) for model in models for outer in (1, None)]
    else:
        rows = [row(model, *case, images) for model in models for case in CASES]
    shown = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    print_table(tuple(rows[0]), [tuple(line) for line in shown])
    usual = "gradients_precision.json" if args.precision else "gradients.json"
    measure.write(args.output or RESULTS / usual, rows, before)


if __name__ == "__main__":
    main()
