"""Compiles the CPU kernels that the tests use, before the tests: python tests/support/warm.py. conftest.py runs it
where it is missing.

Kernels are kept in $NUMBA_CACHE_DIR. Two processes share the work.
"""

import subprocess
import sys

import numpy as np

PARTS = ("masks", "measurements")


def masks():
    """Both families, all schedules."""
    import safi_fast

    for model in ("safi-gray", "mmr-gray"):
        safi_fast.warmup(model, backend="cpu")


def measurements():
    """Projectors, complex images, and the models of the tests."""
    from models import random_model

    import safi_fast
    from safi_fast import operators

    angles = np.arange(4.0)
    parallel = operators.ParallelBeamCT((16, 16), angles, 64)
    for scan in (parallel, operators.FanBeamCT((16, 16), angles, 64, 1.0, 40.0, 80.0)):
        scan.fbp(scan.apply(np.zeros(scan.shape_in, np.float32)))
        scan.adjoint(np.zeros(scan.shape_out, np.float32))
    image = np.random.default_rng(0).random((16, 16), np.float32)  # without exact zeros in its k-space
    for family in ("safi", "mmr"):
        model = random_model(family, 3, boundary="symmetric")
        safi_fast.denoise(image, 25 / 255, model=model, schedule="gap", max_outer=2, max_inner=2, backend="cpu")
        if family == "safi":
            options = {"schedule": "unrolled", "max_outer": 2, "max_inner": 2}
            safi_fast.Solver(model, backend="cpu").denoise_vjp(image, 25 / 255, **options)[1](image)
        kspace = operators.FourierMRI(np.ones((16, 16), bool), mask_order="fft", image="complex")
        y = kspace.apply(image)
        safi_fast.reconstruct(y, kspace, strength=0.01, model=model, box=None, max_outer=2, max_iter=2)


def main():
    chosen = sys.argv[1:]
    if not chosen:
        running = [subprocess.Popen([sys.executable, __file__, part]) for part in PARTS]
        raise SystemExit(max(process.wait() for process in running))
    for part in chosen:
        globals()[part]()


if __name__ == "__main__":
    main()
