"""pytest-benchmark: whole denoising runs and the kernels they are made of. `make bench` runs this after bench/race.py.

Every entry says in extra_info what it did: pixels, steps, threads and, for a kernel, nanoseconds per pixel.
"""

import numba
import numpy as np
import problems
import pytest


def describe(benchmark, size, **facts):
    benchmark.extra_info.update(pixels=size * size, threads=numba.get_num_threads(), dtype="float32", **facts)


@pytest.mark.parametrize("size", [128, 256, 512])
@pytest.mark.parametrize("model", ["safi-gray", "published-safi-layout"])
def test_unrolled(benchmark, solvers, model, size):
    noisy = problems.noisy_photograph(size, size)
    options = {"schedule": "unrolled", "lipschitz": 1.0}
    benchmark.pedantic(lambda: solvers[model].denoise(noisy, problems.SIGMA, **options), rounds=3, warmup_rounds=1)
    describe(benchmark, size, steps="5 x 12")
    benchmark.extra_info["ns_per_pixel"] = round(benchmark.stats["min"] / size**2 * 1e9)


@pytest.fixture(scope="module")
def workspace(solvers):
    """A workspace of 256 x 256 with a mask, in the middle of a solve."""
    space = solvers["safi-gray"]._engine.workspace(1, 256, 256)
    one = np.ones(1, np.float32)
    space.load(problems.noisy_photograph(256, 256)[None], 0.05 * one, one, (0.0, 1.0))
    everyone, channels = np.arange(1), np.ones((1, 64), np.float32)
    space.start_dual(everyone)
    space.refresh(everyone)
    space.update_mask(everyone, channels, 0 * channels)
    space.refresh(everyone)
    return space


KERNELS = {
    "dual step": lambda space, one: space.step(one, np.full(1, 0.5, np.float32)),
    "analysis": lambda space, one: space.measure(one),
    "synthesis": lambda space, one: space.refresh(one),
    "mask": lambda space, one: space.update_mask(one, np.ones((1, 64), np.float32), np.zeros((1, 64), np.float32)),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(benchmark, workspace, kernel):
    everyone = np.arange(1)
    benchmark.pedantic(lambda: KERNELS[kernel](workspace, everyone), rounds=10, warmup_rounds=2)
    describe(benchmark, 256)
    benchmark.extra_info["ns_per_pixel"] = round(benchmark.stats["min"] / 256**2 * 1e9, 1)
