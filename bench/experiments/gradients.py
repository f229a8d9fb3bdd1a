"""What a backward pass costs beside the forward one: `safi_fast.integrations.autograd.denoise`.

    python -m bench.experiments.gradients [--output FILE.json]

A photograph, noise of 25; medians of ROUNDS, in turn: denoising without a gradient, forward, backward. gap: to 1e-4 and
to 1e-5 under its masks, the backward pass at the last of them. unrolled: the model's own schedule. At 288 x 288
`safi-gray` keeps the start of each outer step alone and makes its steps again; `safi-gray-fast` keeps all.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS
from bench.data.images import load
from bench.data.problems import DATA
from bench.report import measure
from safi_fast.cli.output import print_table

ROUNDS = {"gap": 2, "unrolled": 7}
CASES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("gap, 1e-4", 128, {"schedule": "gap", "tol": 1e-4}),
    ("gap, 1e-5", 128, {"schedule": "gap", "tol": 1e-5}),
    ("unrolled", 128, {"schedule": "unrolled"}),
    ("unrolled", 288, {"schedule": "unrolled"}),
)


def row(model: str, name: str, side: int, options: dict[str, Any], images: Any) -> dict[str, Any]:
    """Seconds of denoising alone, forward and backward, and the ratio of the last two."""
    import torch

    from safi_fast import Solver
    from safi_fast.integrations.autograd import denoise

    image = next(image for image in images if min(image.shape) >= side)
    noise, solver = np.random.default_rng(0).standard_normal((side, side)), Solver(model, backend="cpu")
    noisy = torch.from_numpy((image[:side, :side] + 25 / 255 * noise).astype(np.float32))
    times: list[tuple[float, ...]] = []
    for _ in range(ROUNDS[options["schedule"]] + 1):
        y = noisy.clone().requires_grad_()
        marks = [time.perf_counter()]
        solver.denoise(noisy.numpy(), 25 / 255, **options)
        marks.append(time.perf_counter())
        x = denoise(y, 25 / 255, model=model, **options)
        marks.append(time.perf_counter())
        x.square().sum().backward()
        marks.append(time.perf_counter())
        times.append(tuple(np.diff(marks)))
        del x  # and with it the steps that it kept
    alone, forward, backward = (float(value) for value in np.median(np.array(times[1:]), axis=0))
    return {"model": model, "schedule": name, "side": side, "alone": alone, "forward": forward, "backward": backward,
            "ratio": backward / forward}  # fmt: skip


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "gradients.json")
    args = parser.parse_args()
    before, images = measure.machine(), load(DATA / "set12")
    rows = [row(model, *case, images) for model in ("safi-gray", "safi-gray-fast") for case in CASES]
    print_table(tuple(rows[0]), [tuple(f"{v:.3g}" if isinstance(v, float) else v for v in r.values()) for r in rows])
    measure.write(args.output, rows, before)


if __name__ == "__main__":
    main()
