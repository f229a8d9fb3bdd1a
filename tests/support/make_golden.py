"""Writes tests/golden: four small random models and what the float64 oracle makes of one synthetic image with them.

    .venv/bin/python tests/support/make_golden.py

A clone without the shared data checks the whole path with them (test_golden.py): reading weights, kernels, schedules.
Both families, a zero-padded cascade and symmetric extension; 13 x 13 filters on an image of more than one tile.
"""

from pathlib import Path

import numpy as np
import oracle
from models import oracle_form, random_model

from safi_fast.weights import save_model

FOLDER = Path(__file__).parents[1] / "golden"
KINDS = [(family, boundary) for family in ("safi", "mmr") for boundary in ("zero", "symmetric")]
SIGMA = 25 / 255
LIPSCHITZ = 1.1  # above ||W||^2 of all four models


def noisy_image():
    """A bright disc on a ramp, with noise that leaves [0, 1] here and there: float32 (24, 28)."""
    rows, columns = np.mgrid[:24, :28]
    clean = np.where((rows - 10) ** 2 + (columns - 17) ** 2 < 36, 0.95, columns / 60)
    return (clean + SIGMA * np.random.default_rng(5).standard_normal(clean.shape)).astype(np.float32)


def model_of(family, boundary):
    return random_model(family, 3, kernels=(7, 7), boundary=boundary, name=f"golden-{family}-{boundary}")


def outputs(model, noisy):
    """The oracle's outputs by name; `counts` are the inner steps of the outer steps of `converged`."""
    form, boundary, counts = oracle_form(model), model.filters.boundary, []

    def mask_fn(x):
        return oracle.mask_of(x, form, boundary)

    problem = (mask_fn, form["layers"], boundary)
    y, trained, tuned = noisy.astype(float), model.strength.unrolled[0], model.strength.converged[0]
    images = {
        "filtered": oracle.analysis(y, form["layers"], boundary),
        "mask_of_noisy": mask_fn(y),
        "unrolled_5x12": oracle.unrolled(y, trained, LIPSCHITZ, *problem),
        "converged_10x100": oracle.converged(y, tuned, LIPSCHITZ, *problem, model.family, counts=counts),
    }
    return {name: values.astype(np.float32) for name, values in images.items()} | {"counts": np.array(counts)}


def main():
    FOLDER.mkdir(exist_ok=True)
    noisy = noisy_image()
    for family, boundary in KINDS:
        model, path = model_of(family, boundary), FOLDER / f"{family}_{boundary}"
        assert oracle.lipschitz(model.filters.layers, boundary, noisy.shape) < LIPSCHITZ
        save_model(model, path.with_suffix(".safetensors"))
        np.savez_compressed(path.with_suffix(".npz"), noisy=noisy, lipschitz=LIPSCHITZ, **outputs(model, noisy))


if __name__ == "__main__":
    main()
