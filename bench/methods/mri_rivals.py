"""BART's pics and sigpy's reconstructions for several coils, run by an interpreter that has them (no package of ours).

    PYTHON bench/methods/mri_rivals.py PROBLEM.npz ANSWER.npz METHOD      solve
    PYTHON bench/methods/mri_rivals.py METHOD                             print the version of its library

PROBLEM has kspace (n, C, H, W) and mask (n, H, W) with frequency zero in the middle, maps (C, H, W),
strengths (m,), steps (m,) and threads. ANSWER gets images (m, n, H, W) and times (m, 2): when the slices of a setting
were begun and done, by the clock that all processes share. A slice is solved once before, to warm up; reading and
writing files is not timed.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Slice = Callable[[Any, Any, Any, float, int], Any]  # kspace, mask, maps, strength, steps


def bart(threads: int) -> Slice:
    """pics with an l1 penalty of wavelets: FISTA, random shifts, Daubechies of length 4, the defaults."""
    import bartorch
    import torch

    torch.set_num_threads(threads)
    bartorch.set_num_threads(threads)

    def solve(kspace: Any, mask: Any, maps: Any, strength: float, steps: int) -> Any:
        penalty = bartorch.priors.Wavelet((-1, -2), strength)
        measured, coils = (torch.from_numpy(a[:, None]) for a in (kspace, maps))
        image = bartorch.apps.pics(measured, coils, regularizers=penalty, maxiter=steps)
        return image.numpy().reshape(kspace.shape[1:])

    return solve


def sigpy_app(name: str) -> Callable[[int], Slice]:
    """One of sigpy's apps, with its own algorithm and step sizes."""

    def method(threads: int) -> Slice:
        from sigpy.mri import app

        def solve(kspace: Any, mask: Any, maps: Any, strength: float, steps: int) -> Any:
            weights = mask.astype(np.float32)
            return getattr(app, name)(kspace, maps, strength, weights=weights, max_iter=steps, show_pbar=False).run()

        return solve

    return method


METHODS = {
    "bart-wavelet": ("bartorch", bart),
    "sigpy-wavelet": ("sigpy", sigpy_app("L1WaveletRecon")),
    "sigpy-tv": ("sigpy", sigpy_app("TotalVariationRecon")),
}


def version(method: str) -> str:
    """Of the library, and of the BART inside of bartorch."""
    name = METHODS[method][0]
    library = importlib.import_module(name)
    inside = f" (BART {library.bart_version()})" if name == "bartorch" else ""
    return f"{name} {library.__version__}{inside}"


def main() -> None:
    """Solve slice by slice, for every setting."""
    if len(sys.argv) == 2:
        print(version(sys.argv[1]))
        return
    problem, answer, method = sys.argv[1:]
    with np.load(problem) as file:
        kspace, masks, maps = file["kspace"], file["mask"], file["maps"]
        settings = list(zip(file["strengths"].tolist(), file["steps"].tolist(), strict=True))
        threads = int(file["threads"])
    solve = METHODS[method][1](threads)
    slices = [(one, mask, maps) for one, mask in zip(kspace, masks, strict=True)]
    solve(*slices[0], settings[0][0], 5)
    images, times = [], []
    for strength, steps in settings:
        start = time.time()
        images.append(np.stack([solve(*one, strength, steps) for one in slices]))
        times.append((start, time.time()))
    np.savez(answer, images=np.stack(images), times=np.array(times))


if __name__ == "__main__":
    main()
