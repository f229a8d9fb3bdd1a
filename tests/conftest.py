"""Fixtures shared by all tests."""

import os
from pathlib import Path

# Tests work on small images on machines that do other things as well. Threads that wait by spinning then take the cores from those
# that have work: four times slower in OpenMP (the kernels), twenty times in the oracle's small matrix products.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real images, checkpoints and golden outputs; tests that need it are skipped without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SAFI_FAST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data is not here: set SAFI_FAST_DATA to its folder (looked at {folder})")
    return folder
