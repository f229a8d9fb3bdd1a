"""Fixtures of the benchmarks. Nothing here is imported by the library."""

import time

import pytest

import safi_fast
from bench.data import problems
from bench.report import measure


@pytest.fixture(scope="session")
def solvers():
    """The models that are timed, ready: ours, and random weights in the published SAFI layout."""
    return {
        "safi-gray": safi_fast.Solver("safi-gray"),
        "published-safi-layout": safi_fast.Solver(problems.published_safi_layout()),
    }


def pytest_addoption(parser):
    """`--full` for `make bench-full`."""
    parser.addoption("--full", action="store_true", help="sizes and batches that take minutes")


def pytest_collection_modifyitems(config, items):
    """Leave out what takes minutes."""
    if not config.getoption("--full"):
        skip = pytest.mark.skip(reason="takes minutes; pass --full")
        for item in items:
            if "full" in item.keywords:
                item.add_marker(skip)


def pytest_benchmark_update_json(output_json):
    """How long it all took, for bench/report/scaling.py."""
    output_json["seconds_taken"] = round(time.perf_counter() - measure.STARTED, 1)
