"""The CPU kernels compiled for a processor without AVX-512, by NUMBA_CPU_NAME."""

import os
import subprocess
import sys

import numpy as np
import pytest
from llvmlite import binding
from patience import PROCESS

import safi_fast
from bench.experiments.widths import AVX2

KERNELS = 13  # of safi-gray
SOLVE = """
import sys, numpy as np, safi_fast
from safi_fast.kernels.cpu.filter_bank import dual_step
from safi_fast.kernels.cpu.simd import WIDE
told = []
safi_fast.warmup("safi-gray", backend="cpu", progress=lambda *numbers: told.append(numbers))
print(told)
for model in ("safi-gray", "mmr-gray"):
    noisy = np.load(sys.argv[1])
    image = safi_fast.denoise(noisy, 25 / 255, model=model, max_outer=2, max_inner=3, backend="cpu")
    np.save(f"{sys.argv[2]}/{model}.npy", image)
code = "".join(dual_step.inspect_asm().values())
print(WIDE, "zmm" in code, "ymm" in code)
"""


@pytest.mark.skipif(not binding.get_host_cpu_features().get("avx2"), reason="needs a processor with AVX2")
def test_kernels_for_avx2_give_the_same_images(tmp_path):
    """Bit for bit: both round every product and sum in the same order. No register is wider than those of AVX2. And the
    warm-up, which finds nothing compiled, counts all the kernels that it announced.
    """
    noisy = np.random.default_rng(0).random((45, 61), np.float32)
    np.save(tmp_path / "noisy.npy", noisy)
    environment = os.environ | AVX2 | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", SOLVE, str(tmp_path / "noisy.npy"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PROCESS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{[(number, KERNELS) for number in range(1, KERNELS + 1)]}\nFalse False True\n"
    for model in ("safi-gray", "mmr-gray"):
        here = safi_fast.denoise(noisy, 25 / 255, model=model, max_outer=2, max_inner=3, backend="cpu")
        assert np.array_equal(here, np.load(tmp_path / f"{model}.npy"))
