"""Devices as the CUDA backend sees them (bindings/device.py), and the text of the kernels (bindings/module.py)."""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
from emulator.device import EmulatedDevice, LaunchError

from safi_fast.bindings.module import KERNELS, source

SCALE = """
extern "C" __global__ void scale(float* values, float factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] *= factor;
}
"""


def scale(kernel, values, factor):
    kernel((1,), (32,), (values, np.float32(factor), np.int32(values.size)))


# ------------------------------------------------------------------------------------------------------ text of kernels
def test_source_has_its_headers_inlined():
    names = sorted(path.stem for path in KERNELS.glob("*.cu"))
    assert "analysis" in names
    for name in names:
        text = source(name)
        assert f'#line 1 "{name}.cu"' in text
        assert '#include "' not in text
    assert source("analysis") is source("analysis")
    with pytest.raises(ValueError, match=r"no kernel file sharpen\.cu; there are: analysis, "):
        source("sharpen")


# -------------------------------------------------------------------------------------------------------- the emulator
def test_emulator_adopts_what_is_on_the_device_without_a_copy():
    device, image = EmulatedDevice(), np.arange(12.0).reshape(3, 4)
    own = device.upload(image.astype(np.float32))
    assert device.adopt(own) is own
    for other in (image, own.T, device.upload(image)):
        adopted = device.adopt(other)
        assert adopted.dtype == np.float32
        assert adopted.flags.c_contiguous
        assert not np.shares_memory(adopted, other)
        np.testing.assert_array_equal(device.download(adopted), other)


def test_emulator_replays_launches():
    device = EmulatedDevice()
    kernel = device.module(SCALE).get_function("scale")
    values = device.upload(np.ones(20, np.float32))

    def launch():
        scale(kernel, values, 2)
        scale(kernel, values, 3)

    replay = device.capture(launch)
    np.testing.assert_array_equal(device.download(values), np.ones(20))
    replay()
    replay()
    np.testing.assert_array_equal(device.download(values), np.full(20, 36))
    assert device.launches == 4


def test_emulator_keeps_the_arrays_of_a_capture():
    device = EmulatedDevice()
    kernel = device.module(SCALE).get_function("scale")
    values = device.upload(np.ones(20, np.float32))
    alive = weakref.ref(values.base)
    replay = device.capture(partial(scale, kernel, values, 2))
    del values
    gc.collect()
    assert alive() is not None
    replay()
    del replay
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("use", ["empty", "upload", "download", "synchronize"])
def test_emulator_refuses_all_but_launches_in_a_capture(use):
    device = EmulatedDevice()
    values = device.upload(np.ones(4, np.float32))
    uses = {
        "empty": lambda: device.empty(3, np.float32),
        "upload": lambda: device.zeros(3, np.float32),
        "download": lambda: device.download(values),
        "synchronize": device.synchronize,
    }
    with pytest.raises(LaunchError, match=f"{use} within capture"):
        device.capture(uses[use])
    uses[use]()


def test_emulator_checks_a_launch_when_it_is_captured():
    device = EmulatedDevice()
    kernel = device.module(SCALE).get_function("scale")
    with pytest.raises(TypeError, match="expected an array that this device made"):
        device.capture(lambda: scale(kernel, np.ones(4, np.float32), 2))
    with pytest.raises(LaunchError, match="capture within capture"):
        device.capture(lambda: device.capture(lambda: None))
