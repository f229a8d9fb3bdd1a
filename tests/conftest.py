"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real images, checkpoints and golden outputs; tests that need it are skipped without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SAFI_FAST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data is not here: set SAFI_FAST_DATA to its folder (looked at {folder})")
    return folder
