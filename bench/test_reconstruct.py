"""pytest-benchmark: reconstruct, two masks of at most 60 inner steps: time per pixel and step, by operator."""

import numpy as np
import pytest

from bench.data import problems
from bench.test_denoise import describe
from safi_fast import operators

CASES = {
    "blur": lambda size: operators.Blur(np.full((5, 5), 1 / 25, "float32"), (size, size)),
    "mri": lambda size: operators.FourierMRI(
        problems.line_mask((size, size), 4, 0.08, np.random.default_rng(0)), mask_order="centered", image="real"
    ),
}


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("case", CASES)
def test_reconstruct(benchmark, solvers, case, size):
    operator = CASES[case](size)
    y = operator.apply(problems.photograph(size, size))
    options = {"strength": 1e-3, "max_outer": 2, "max_iter": 60}
    found = []
    benchmark.pedantic(
        lambda: found.append(solvers["safi-gray"].reconstruct(y, operator, **options)), rounds=1, warmup_rounds=1
    )
    describe(benchmark, size * size, size=size, operator=case, inner_steps=int(found[-1].inner_iterations))
