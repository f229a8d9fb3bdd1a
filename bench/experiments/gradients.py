"""What a backward pass costs beside the forward one: `safi_fast.integrations.autograd.denoise`.

    python -m bench.experiments.gradients [--output FILE.json]

A photograph of 128 x 128, noise of 25; medians of ROUNDS, forward and backward in turn. gap: to 1e-4 and
to 1e-5 under its masks, the backward pass at the last of them. unrolled: the model's own schedule, kernels forward,
torch's graph of the same network backward.
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

ROUNDS, SIDE = 2, 128
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gap, 1e-4", {"schedule": "gap", "tol": 1e-4}),
    ("gap, 1e-5", {"schedule": "gap", "tol": 1e-5}),
    ("unrolled", {"schedule": "unrolled"}),
)


def row(model: str, name: str, options: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
    """Seconds forward and backward, and their ratio."""
    import torch

    from safi_fast.integrations.autograd import denoise

    noise = np.random.default_rng(0).standard_normal(image.shape)
    noisy = torch.from_numpy((image + 25 / 255 * noise).astype(np.float32))
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 1):
        y = noisy.clone().requires_grad_()
        start = time.perf_counter()
        x = denoise(y, 25 / 255, model=model, **options)
        middle = time.perf_counter()
        x.square().sum().backward()
        times.append((middle - start, time.perf_counter() - middle))
    forward, backward = np.median(np.array(times[1:]), axis=0)
    return {"model": model, "schedule": name, "forward": float(forward), "backward": float(backward),
            "ratio": float(backward / forward)}  # fmt: skip


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "gradients.json")
    args = parser.parse_args()
    before, image = measure.machine(), load(DATA / "set12")[0][:SIDE, :SIDE]
    rows = [row(model, *case, image) for model in ("safi-gray", "safi-gray-fast") for case in CASES]
    print_table(tuple(rows[0]), [tuple(f"{v:.3g}" if isinstance(v, float) else v for v in r.values()) for r in rows])
    measure.write(args.output, rows, before)


if __name__ == "__main__":
    main()
