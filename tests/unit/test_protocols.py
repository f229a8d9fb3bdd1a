"""Both backends keep what safi_fast/backend.py promises, as far as members and signatures show; no GPU is needed."""

import inspect

import pytest

from safi_fast import backend
from safi_fast.bindings.cpu import CpuBackend, CpuEngine
from safi_fast.bindings.cpu_workspace import CpuWorkspace
from safi_fast.bindings.cuda import CudaBackend, CudaEngine
from safi_fast.bindings.cuda_reconstruction import CudaReconstructionWorkspace
from safi_fast.bindings.cuda_workspace import CudaWorkspace
from safi_fast.bindings.device import CupyDevice, Device

KEPT = [
    (CpuWorkspace, backend.DualWorkspace),
    (CpuWorkspace, backend.ReconstructionWorkspace),
    (CudaWorkspace, backend.DualWorkspace),
    (CudaReconstructionWorkspace, backend.ReconstructionWorkspace),
    (CpuEngine, backend.Engine),
    (CudaEngine, backend.Engine),
    (CpuBackend, backend.Backend),
    (CudaBackend, backend.Backend),
    (CupyDevice, backend.Device),
    (CupyDevice, Device),
]


def members(protocol):
    """What a protocol and those that it extends ask for: functions by name, and None for values."""
    own = {}
    for kind in reversed(protocol.__mro__):
        if getattr(kind, "_is_protocol", False):
            values = dict.fromkeys(getattr(kind, "__annotations__", ())) | vars(kind)
            own |= {k: v if inspect.isfunction(v) else None for k, v in values.items() if not k.startswith("_")}
    return own


def parameters(function):
    """Names, kinds and defaults; the annotations are the type checker's."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def values_of(kind):
    """Names of values that instances have: of the class, or set in __init__."""
    return {*dir(kind), *(kind.__init__.__code__.co_names if inspect.isfunction(kind.__init__) else ())}


@pytest.mark.parametrize(("kind", "protocol"), KEPT, ids=lambda value: value.__name__)
def test_promises_are_kept(kind, protocol):
    asked = members(protocol)
    assert asked
    for name, function in asked.items():
        if function is None:
            assert name in values_of(kind), f"{kind.__name__} has no {name}"
        else:
            assert inspect.isfunction(getattr(kind, name, None)), f"{kind.__name__} has no method {name}"
            assert parameters(getattr(kind, name)) == parameters(function), f"{kind.__name__}.{name}"


def test_what_the_protocols_ask_for():
    """An empty protocol would be kept by anything."""
    dual, more = members(backend.DualWorkspace), members(backend.ReconstructionWorkspace)
    assert {"load", "step", "steps", "measure", "put_image", "masks"} <= set(dual)
    assert set(more) - set(dual) == {
        "place", "iteration", "set_step", "set_bound", "anchored_step", "adjoint_of_dual", "penalty", "hold_bounded",
        "held_responses", "from_held",
    }  # fmt: skip
    assert set(members(backend.Backend)) == {
        "name", "device", "prepare", "to_host", "fetch", "send", "on_threads"
    }  # fmt: skip


def test_a_backend_of_host_memory_has_no_device():
    cpu, array = CpuBackend(), object()
    assert backend.gpu_of(cpu) is None
    assert cpu.to_host(array) is array
    with cpu.on_threads(1) as count:
        assert count == 1
    with CudaBackend(None).on_threads(None) as count:
        assert count is None
