"""Fixtures shared by all tests."""

import hashlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Numba's cache does not notice a change in a function of another file, so tests keep one cache per state of the kernels.
STATE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ROOT.glob("kernels/**/*.py")))).hexdigest()
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "numba" / STATE[:12]))
# Tests work on small images on machines that do other things as well. Threads that wait by spinning then take the cores from those
# that have work, in OpenMP (the kernels) and in the oracle's small matrix products.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real images, checkpoints and golden outputs; tests that need it are skipped without it."""
    default = ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("SAFI_FAST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data is not here: set SAFI_FAST_DATA to its folder (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def gpu():
    """The current GPU; skips where there is none."""
    cupy = pytest.importorskip("cupy")
    try:
        found = cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        found = False
    if not found:
        pytest.skip("CuPy finds no GPU")
    from safi_fast.bindings.device import CupyDevice

    return CupyDevice()
