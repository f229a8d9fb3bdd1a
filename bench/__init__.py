"""Benchmarks and studies of safi_fast, which imports nothing of it.

    data          photographs, noise, published weights, the inverse problems
    methods       what is compared: classical methods, layer-wise PyTorch, the published nested scheme, a float64 judge
    experiments   commands: python -m bench.experiments.race --help
    static        what the machine code of the kernels says about processors and GPUs that are not at hand
    report        clocks, records of runs, and the tables, pages and pictures made from them
    results       what was measured, with its command

Run from the root of the repository. Imports go data <- methods <- experiments; report is known to all and imports data
alone.

OpenMP is asked for sleeping threads here, before any kernel and torch, so that seconds of the processor count work and
not waiting.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
IMAGES = ROOT / "docs" / "images"
