"""Fixtures of the benchmarks. Nothing here is imported by the library."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import problems

import safi_fast


@pytest.fixture(scope="session")
def solvers():
    """The models that are timed, ready: ours, and random weights in the published SAFI layout."""
    return {
        "safi-gray": safi_fast.Solver("safi-gray"),
        "published-safi-layout": safi_fast.Solver(problems.published_safi_layout()),
    }
