"""BART's pics and sigpy's reconstructions for 8 coils, run by an interpreter that has them (no package of ours).

    PYTHON bench/methods/mri_rivals.py PROBLEM.npz ANSWER.npz METHOD

PROBLEM has kspace (n, C, H, W) and mask (n, H, W) with frequency zero in the middle, maps (C, H, W), strength, steps,
threads. ANSWER gets images (n, H, W), seconds (without the start of the interpreter, after one slice to warm up) and
the version.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Slice = Callable[[Any, Any], Any]


def bart(maps: Any, strength: float, steps: int, threads: int) -> tuple[Slice, str]:
    """pics with an l1 penalty of wavelets, FISTA."""
    import bartorch
    import torch

    torch.set_num_threads(threads)
    bartorch.set_num_threads(threads)
    penalty = bartorch.priors.Wavelet((-1, -2), strength)
    there = torch.from_numpy(maps[:, None])

    def solve(kspace: Any, mask: Any) -> Any:
        image = bartorch.apps.pics(torch.from_numpy(kspace[:, None]), there, regularizers=penalty, maxiter=steps)
        return image.numpy().reshape(kspace.shape[1:])

    return solve, f"bartorch {bartorch.__version__} (BART {bartorch.bart_version()})"


def sigpy_app(name: str) -> Any:
    """One of sigpy's apps as a method."""

    def method(maps: Any, strength: float, steps: int, threads: int) -> tuple[Slice, str]:
        import sigpy
        from sigpy.mri import app

        def solve(kspace: Any, mask: Any) -> Any:
            made = getattr(app, name)(
                kspace, maps, strength, weights=mask.astype(np.float32), max_iter=steps, show_pbar=False
            )
            return made.run()

        return solve, f"sigpy {sigpy.__version__}"

    return method


METHODS = {
    "bart-wavelet": bart,
    "sigpy-wavelet": sigpy_app("L1WaveletRecon"),
    "sigpy-tv": sigpy_app("TotalVariationRecon"),
}


def main() -> None:
    """Solve slice by slice."""
    problem, answer, method = sys.argv[1:]
    with np.load(problem) as file:
        kspace, masks, maps = file["kspace"], file["mask"], file["maps"]
        strength, steps, threads = float(file["strength"]), int(file["steps"]), int(file["threads"])
    solve, version = METHODS[method](maps, strength, steps, threads)
    solve(kspace[0], masks[0])
    start = time.perf_counter()
    images = [solve(one, mask) for one, mask in zip(kspace, masks, strict=True)]
    seconds = time.perf_counter() - start
    np.savez(answer, images=np.stack(images), seconds=seconds, version=version)


if __name__ == "__main__":
    main()
