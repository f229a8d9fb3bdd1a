"""kernels/cpu/parallel.py: every item once, on any number of threads, and what becomes of an error."""

import numba
import numpy as np
import pytest

from safi_fast.bindings import cache, threads

cache.prepare_kernels()

from safi_fast.kernels.cpu.parallel import Share, kernel, shared  # noqa: E402


@kernel
def count_items(share: Share, seen, total):
    for item in shared(share, total):
        seen[item] += 1 + share.total


@kernel
def fail_at(share: Share, seen, bad):
    for item in shared(share, len(seen)):
        if item == bad:
            raise ValueError("no such item")
        seen[item] = 1


two_threads = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this process may use one CPU")


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=two_threads)])
@pytest.mark.parametrize("items", [0, 1, 2, 7, 100])
def test_every_item_is_done_once(count, items):
    seen = np.zeros(items + 1, np.int64)
    with threads.on_threads(count):
        count_items(seen, items)
    assert seen.tolist() == [1 + count] * items + [0]


@two_threads
def test_an_error_on_a_thread_is_raised_when_all_have_ended():
    seen = np.zeros(10, np.int64)
    with threads.on_threads(2), pytest.raises(MemoryError, match="found no memory"):
        fail_at(seen, 0)
    assert seen.tolist() == [0] * 5 + [1] * 5
    fail_at(seen, -1)
    assert seen.all()


def test_a_kernel_is_marked_and_keeps_its_name():
    assert count_items.py_func.is_kernel
    assert count_items.py_func.__name__ == "count_items"
