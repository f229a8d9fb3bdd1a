"""The widget of napari; with a stand-in for napari and magicgui, and in napari itself where it is installed."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from models import random_model

import safi_fast
from safi_fast import InputError, Solver

MODEL = random_model(levels=(1 / 255, 75 / 255))
ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(4)


class Signal:
    def __init__(self):
        self.slots = []

    def connect(self, slot):
        self.slots.append(slot)


def thread_worker(function, progress):
    """One whose worker runs at once, in `start`."""

    def made(*arguments, **keywords):
        worker = SimpleNamespace(returned=Signal(), finished=Signal(), yielded=[], progress=progress)

        def start():
            steps = function(*arguments, **keywords)
            try:
                while True:
                    worker.yielded.append(next(steps))
            except StopIteration as end:
                for slot in worker.returned.slots:
                    slot(end.value)
            finally:
                for slot in worker.finished.slots:
                    slot()

        worker.start = start
        made.last = worker
        return worker

    thread_worker.last = made
    return made


def magicgui(function, **options):
    class Widget:
        call_button = SimpleNamespace(enabled=True)

        def __call__(self, *arguments, **keywords):
            return function(*arguments, **keywords)

    widget = Widget()
    widget.options = options
    return widget


@pytest.fixture
def module(monkeypatch):
    """safi_fast.integrations.napari on stand-ins, whether napari is installed or not."""
    for path, names in {
        "magicgui": {"magicgui": magicgui},
        "magicgui.widgets": {"FunctionGui": object},
        "napari": {},
        "napari.layers": {"Image": object},
        "napari.qt": {},
        "napari.qt.threading": {"thread_worker": thread_worker},
        "napari.viewer": {"Viewer": object},
    }.items():
        made = ModuleType(path)
        vars(made).update(names)
        monkeypatch.setitem(sys.modules, path, made)
    name = "safi_fast.integrations.napari"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def all_of(steps):
    """What a generator yields and what it returns."""
    yielded = []
    while True:
        try:
            yielded.append(next(steps))
        except StopIteration as end:
            return yielded, end.value


def noisy(*shape):
    return 0.5 + 0.1 * RNG.standard_normal(shape)


def test_planes_are_those_of_denoise(module):
    values = noisy(2, 3, 33, 40) * 1000
    yielded, (result, levels) = all_of(module.solved_planes(values, 100.0, model=MODEL))
    assert (yielded, levels, result.dtype, result.shape) == (list(range(1, 7)), [100.0] * 6, np.float32, values.shape)
    plane = values[1, 2]
    alone = Solver(MODEL).denoise(plane, 100.0, data_range=(plane.min(), plane.max()), box=None)
    np.testing.assert_array_equal(result[1, 2], alone.astype(np.float32))


def test_dtypes_ranges_and_sigma(module):
    bytes_ = np.clip(255 * noisy(40, 40), 0, 255).astype(np.uint8)
    result, levels = all_of(module.solved_planes(bytes_, "estimate", model=MODEL))[1]
    found = Solver(MODEL).denoise(bytes_, "estimate", return_solution=True)
    assert (result.dtype, levels) == (np.uint8, [found.sigma])
    np.testing.assert_array_equal(result, np.rint(found.image))
    assert all_of(module.solved_planes(np.full((20, 20), 7, np.int16), 1.0))[1][0].max() == 7
    values = np.clip(noisy(20, 20), 0, 1)
    np.testing.assert_array_equal(
        all_of(module.solved_planes(values, 0.1, model=MODEL, schedule="gap"))[1][0],
        Solver(MODEL).denoise(values, 0.1, schedule="gap").astype(np.float32),
    )
    with pytest.raises(InputError, match="the layer has values that are NaN or infinite"):
        all_of(module.solved_planes(np.where(values > 0.5, np.nan, values), 0.1, model=MODEL))


def test_colour_with_alpha_and_lazy_stacks(module):
    da = pytest.importorskip("dask.array")
    colour = np.clip(255 * noisy(2, 20, 22, 4), 0, 255).astype(np.uint8)
    lazy = da.from_array(colour, chunks=(1, 20, 22, 4))
    result, _ = all_of(module.solved_planes(lazy, 25.0, rgb=True, model=MODEL))[1]
    alone = Solver(MODEL).denoise(colour[1, ..., :3], 25.0, channel_axis=-1)
    np.testing.assert_array_equal(result[1, ..., :3], np.rint(alone))
    np.testing.assert_array_equal(result[..., 3], colour[..., 3])
    with pytest.raises(InputError, match="data has 2 samples per pixel; expected 3 or 4"):
        all_of(module.solved_planes(colour[..., :2], 25.0, rgb=True))


class Layer:
    def __init__(self, data, **settings):
        self.data, self.settings, self.name, self.rgb = data, settings, "cells", False
        self.multiscale = isinstance(data, list)

    def as_layer_data_tuple(self):
        return self.data, {"name": self.name, "visible": True, "multiscale": self.multiscale, **self.settings}, "image"


@pytest.mark.parametrize("multiscale", [False, True])
def test_the_widget_adds_a_layer(module, multiscale):
    values = np.clip(noisy(2, 33, 40), 0, 1)
    own = {"scale": (2.0, 0.5, 0.5), "translate": (0.0, 1.0, 2.0), "metadata": {"by": "us"}, "colormap": "green"}
    layer = Layer([values, values[:, ::2, ::2]] if multiscale else values, **own)
    added = []
    viewer = SimpleNamespace(add_image=lambda data, **settings: added.append((data, settings)))
    widget = module.denoise_widget()
    assert widget.options["model"]["choices"] == ["default", *safi_fast.list_models()]
    widget(viewer, layer, estimate=False, sigma=0.1, model="safi-gray-fast")
    ((data, settings),) = added
    expected = np.stack([Solver("safi-gray-fast").denoise(plane, 0.1) for plane in values])
    np.testing.assert_array_equal(data, expected.astype(np.float32))
    metadata = {"by": "us", "safi_fast": {"model": "safi-gray-fast", "schedule": "default", "sigma": [0.1, 0.1]}}
    assert settings == {**own, "metadata": metadata, "name": "cells denoised"}
    assert own["metadata"] == {"by": "us"}
    worker = thread_worker.last.last
    assert (worker.yielded, worker.progress) == ([1, 2], {"total": 2})
    assert widget.call_button.enabled
    with pytest.raises(InputError):
        widget(viewer, layer, estimate=False, sigma=0.0)
    assert widget.call_button.enabled  # again


def test_the_manifest_leads_to_the_widget(module):
    """npe2 reads it; that it does was tried with `npe2 validate`."""
    manifest = Path(module.__file__).with_name("napari.yaml").read_text()
    (place,) = re.findall(r"python_name: (\S+)", manifest)
    name, _, function = place.partition(":")
    assert getattr(importlib.import_module(name), function) is module.denoise_widget
    commands = re.findall(r"(?:- id|command): (\S+)", manifest)
    assert commands == [commands[0]] * 2
    project = (ROOT / "pyproject.toml").read_text()
    assert f'name = "{re.findall(r"^name: (.+)$", manifest, re.MULTILINE)[0]}"' in project
    assert 'safi-fast = "safi_fast.integrations:napari.yaml"' in project
    assert '"safi_fast.integrations" = ["napari.yaml"]' in project


def test_in_napari(request):
    """The widget that napari's plugins find, in a viewer that is not shown. The layer is added to a viewer without a
    window, for which OpenGL is not needed.
    """
    napari = pytest.importorskip("napari")
    pytest.importorskip("pytestqt")
    from napari.components import ViewerModel

    qtbot, model = request.getfixturevalue("qtbot"), ViewerModel()
    values = np.clip(noisy(2, 33, 40), 0, 1).astype(np.float32)
    layer = model.add_image(values, name="cells", scale=(2, 0.5, 0.5), colormap="green", metadata={"by": "us"})
    window = napari.Viewer(show=False)
    try:
        _, widget = window.window.add_plugin_dock_widget("safi-fast", "SAFI denoise")
        names = ["viewer", "layer", "estimate", "sigma", "model", "schedule"]
        assert [part.name for part in widget][: len(names)] == names
        widget(model, layer, estimate=False, sigma=0.1, model="safi-gray-fast")
        assert not widget.call_button.enabled
        qtbot.waitUntil(lambda: len(model.layers) == 2, timeout=120_000)
        made = model.layers["cells denoised"]
        np.testing.assert_array_equal(made.data[1], Solver("safi-gray-fast").denoise(values[1], 0.1))
        np.testing.assert_array_equal(made.scale, (2, 0.5, 0.5))
        assert made.colormap.name == "green"
        assert made.metadata["by"] == "us"
        assert made.metadata["safi_fast"]["sigma"] == [0.1, 0.1]
        qtbot.waitUntil(lambda: widget.call_button.enabled, timeout=10_000)
    finally:
        window.close()
