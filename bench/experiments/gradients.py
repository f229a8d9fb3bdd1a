"""What a backward pass costs beside the forward one: `denoise` and `reconstruct` of `safi_fast.integrations.autograd`.

    python -m bench.experiments.gradients [--precision | --reconstruct] [--output FILE.json]

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
RECONSTRUCTIONS = (("safi-gray", "blur", 96), ("safi-gray-fast", "blur", 96), ("safi-gray-fast", "MRI", 96))
MASKS = 5  # outer steps of MRI, which a gap of 1e-3 takes a minute to reach
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


def case(name: str, side: int) -> tuple[Any, Any, dict[str, Any]]:
    """A measurement, its operator and the options of `reconstruct`."""
    from bench.data.cases import noise
    from bench.data.problems import head, line_mask
    from safi_fast.operators import Blur, FourierMRI

    rng = np.random.default_rng(0)
    if name == "blur":
        image = next(image for image in load(DATA / "set12") if min(image.shape) >= side)[:side, :side]
        line = np.exp(-(np.arange(-6, 7) ** 2) / (2 * 1.6**2))
        kernel = np.outer(line, line) / line.sum() ** 2
        operator: Any = Blur(kernel, image.shape)
        y = operator.apply(image) + np.float32(0.01) * noise(image.shape, rng, False)
        return y, operator, {"strength": 2e-4}
    image = head("lsq101", side)
    lines = line_mask(image.shape, 4, 0.08, rng)
    operator = FourierMRI(lines, mask_order="centered")
    y = operator.check_measurement(operator.apply(image) + np.float32(0.002) * noise(image.shape, rng, True) * lines)
    return y, operator, {"strength": 1e-4, "max_outer": MASKS}


def reconstruct_row(model: str, name: str, side: int) -> dict[str, Any]:
    """Seconds of each, their ratio, steps of both and the residual of the backward pass."""
    import torch

    from safi_fast import Solver
    from safi_fast.integrations.autograd import reconstruct

    (y, operator, options), solver = case(name, side), Solver(model, backend="cpu")
    measured, made = torch.from_numpy(y), {}

    def forward() -> None:
        made["x"] = reconstruct(measured.clone().requires_grad_(), operator, model=model, **options)

    parts = {
        "alone": lambda: solver.reconstruct(y, operator, **options),
        "forward": forward,
        "backward": lambda: made["x"].abs().square().sum().backward(retain_graph=True),
    }
    solver.reconstruct(y, operator, max_iter=5, **options)  # what is made at the first use
    times = measure.alternately(parts, 1)
    wall, cpu = ({part: getattr(time, kind) for part, time in times.items()} for kind in ("wall", "cpu"))
    solution = times["alone"].result
    found = made["x"].grad_fn.vjp(2 * solution.image)
    return {"model": model, "schedule": f"{name}, gap", "side": side, **wall,
            "ratio": wall["backward"] / wall["forward"], **{f"{part}_cpu": seconds for part, seconds in cpu.items()},
            "ratio_cpu": cpu["backward"] / cpu["forward"], "forward_steps": solution.inner_iterations,
            "backward_steps": found.steps, "residual": found.residual}  # fmt: skip


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
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--precision", action="store_true", help="measure errors instead of times")
    instead.add_argument("--reconstruct", action="store_true", help="measure times of `reconstruct`")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    measure.use_threads()
    before, images, models = measure.machine(), load(DATA / "set12"), ("safi-gray", "safi-gray-fast")
    usual = "gradients.json"
    if args.reconstruct:
        usual = "gradients_reconstruct.json"
        rows = [reconstruct_row(*one) for one in RECONSTRUCTIONS]
    elif args.precision:
        usual = "gradients_precision.json"
        image = np.asarray(images[0], np.float64)[100:140, 100:142]
        rows = [precision(model, outer, image) for model in models for outer in (1, None)]
    else:
        rows = [row(model, *case, images) for model in models for case in CASES]
    shown = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    print_table(tuple(rows[0]), [tuple(line) for line in shown])
    measure.write(args.output or RESULTS / usual, rows, before)


if __name__ == "__main__":
    main()
