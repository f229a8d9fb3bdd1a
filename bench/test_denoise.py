"""pytest-benchmark: whole denoising runs over size and batch, and the kernels they are made of.

    pytest bench --benchmark-only [--full]

Sizes up to 1024^2 and batches up to 16; with --full, 4096^2 and 64. Every entry says in extra_info what it did: pixels,
steps, threads and nanoseconds per pixel. bench/report/scaling.py makes the plot.
"""

import numba
import numpy as np
import pytest

from bench.data import problems
from bench.report import measure

FULL = pytest.mark.full
SIZES = [128, 256, 512, 1024, pytest.param(2048, marks=FULL), pytest.param(4096, marks=FULL)]
BATCHES = [1, 4, 16, pytest.param(64, marks=FULL)]


def describe(benchmark, pixels, **facts):
    benchmark.extra_info.update(pixels=pixels, threads=numba.get_num_threads(), dtype="float32", **facts)
    benchmark.extra_info["ns_per_pixel"] = round(benchmark.stats["min"] / pixels * 1e9, 1)
    benchmark.extra_info["load_average"] = measure.machine()["load_average"][0]


def rounds_for(pixels):
    return 3 if pixels <= 2**19 else 1


@pytest.mark.parametrize("size", SIZES)
def test_size(benchmark, solvers, size):
    noisy = problems.noisy_photograph(size, size)
    benchmark.pedantic(
        lambda: solvers["safi-gray"].denoise(noisy, problems.SIGMA, schedule="unrolled"),
        rounds=rounds_for(size**2),
        warmup_rounds=1 if size <= 512 else 0,
    )
    describe(benchmark, size * size, size=size, batch=1, steps="5 x 12")


@pytest.mark.parametrize("batch", BATCHES)
def test_batch(benchmark, solvers, batch):
    noisy = np.stack([problems.noisy_photograph(128, 128)] * batch)
    benchmark.pedantic(
        lambda: solvers["safi-gray"].denoise(noisy, problems.SIGMA, schedule="unrolled"),
        rounds=rounds_for(batch * 128**2),
        warmup_rounds=1,
    )
    describe(benchmark, batch * 128**2, size=128, batch=batch, steps="5 x 12")


@pytest.mark.parametrize("size", [128, 256])
def test_gap(benchmark, solvers, size):
    """To a relative gap and outer change of 1e-3."""
    noisy, found = problems.noisy_photograph(size, size), []

    def run():
        found.append(
            solvers["safi-gray"].denoise(noisy, problems.SIGMA, schedule="gap", tol=1e-3, return_solution=True)
        )

    benchmark.pedantic(run, rounds=2, warmup_rounds=1)
    describe(benchmark, size * size, size=size, inner_steps=found[-1].inner_iterations, gap=found[-1].relative_gap)


@pytest.fixture(scope="module")
def workspace(solvers):
    """A workspace of 256 x 256 with a mask, in the middle of a solve."""
    solver = solvers["safi-gray"]
    space = solver.backend.prepare(solver.model).workspace(1, 256, 256)
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
    describe(benchmark, 256**2, size=256)
