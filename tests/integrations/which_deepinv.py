"""The real deepinv where it is installed (`make test-integrations`), else a stand-in with its signatures."""

import importlib.util
import sys

import pytest

OURS = "safi_fast.integrations"


def forget_ours():
    """Modules that were imported with another deepinv."""
    for name in [name for name in sys.modules if name.startswith(f"{OURS}.")]:
        del sys.modules[name]


def the_package():
    """A generator of it, as of a fixture."""
    torch = pytest.importorskip("torch", reason="deepinv is of torch")
    patch = pytest.MonkeyPatch()
    if importlib.util.find_spec("deepinv") is None:
        import stand_in

        forget_ours()
        yield stand_in.install(patch)
        patch.undo()
        forget_ours()
        return
    make_torchvision_importable(torch)
    import deepinv

    yield deepinv


def make_torchvision_importable(torch):
    """deepinv imports torchvision, whose compiled operators may want a CUDA that torch for the CPU has not: they are
    declared without code.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        make_torchvision_importable.kept = library
        import torchvision  # noqa: F401
