"""Arrays of the CPU kernels begin on a cache line."""

import os
import subprocess
import sys

import numpy as np
import pytest
from models import random_model
from patience import PROCESS

from safi_fast.bindings import aligned
from safi_fast.bindings.cpu import CpuEngine
from safi_fast.kernels.cpu.arguments import Place


@pytest.mark.parametrize("shape", [3, (5, 7), (2, 3, 300, 300)])
@pytest.mark.parametrize("make", [aligned.zeros, aligned.empty])
def test_arrays_begin_on_a_cache_line(make, shape):
    for _ in range(5):
        values = make(shape)
        assert values.ctypes.data % aligned.LINE == 0
        assert values.dtype == np.float32
        assert values.shape == (shape if isinstance(shape, tuple) else (shape,))
    assert not aligned.zeros(shape).any()


def test_copies_are_made_where_needed():
    values = aligned.empty(64)
    values[:] = np.arange(64)
    assert aligned.aligned(values) is values
    moved = aligned.aligned(values[1:])
    assert aligned.is_aligned(moved)
    np.testing.assert_array_equal(moved, values[1:])
    assert aligned.is_aligned(aligned.aligned(values.reshape(8, 8).T))


@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_whatever_a_workspace_launches_on_is_aligned(family, monkeypatch):
    """All launches of masks and steps pass the check, and one that does not is named."""
    from safi_fast.bindings import cpu_masks, cpu_workspace

    for module in (cpu_workspace, cpu_masks):
        for name, kernel in list(vars(module).items()):
            if aligned.is_kernel(kernel):
                monkeypatch.setattr(module, name, aligned.checked(kernel))
    workspace, one = CpuEngine(random_model(family)).workspace(1, 20, 20), np.ones(1, np.float32)
    workspace.load(np.zeros((1, 20, 20), np.float32), one, one, (0.0, 1.0))
    channels = workspace.weights.model.filters.channels
    workspace.update_mask(np.arange(1), *np.ones((2, 1, channels), np.float32))
    workspace.start_dual(np.arange(1))
    workspace.refresh(np.arange(1))
    workspace.step(np.arange(1), one)
    workspace.dual = np.zeros(workspace.dual.size + 1, np.float32)[1:].reshape(workspace.dual.shape)
    with pytest.raises(AssertionError, match="values of Place lies"):
        workspace.collapse_momentum(np.arange(1))


def test_debugging_checks_every_launch():
    code = "from safi_fast.bindings import cpu_kernels; print(type(cpu_kernels.dual_step).__name__)"
    for setting, expected in (("1", "function"), ("0", "CPUDispatcher")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"SAFI_FAST_DEBUG": setting}, capture_output=True, text=True,
            check=True, timeout=PROCESS,
        )  # fmt: skip
        assert done.stdout.strip() == expected
    with pytest.raises(AssertionError, match="of Place lies"):
        aligned.check("one", (Place(aligned.zeros(65)[1:], np.zeros(1, np.int64)),))
