"""Devices as the CUDA backend sees them (bindings/device.py), and the text of the kernels (bindings/module.py)."""

import gc
import threading
import weakref
from functools import partial

import numpy as np
import pytest
from emulator.device import EmulatedDevice, LaunchError
from fake_cupy import CompileException, CUDADriverError, FakeCupy, install

from safi_fast import BackendError
from safi_fast.bindings.device import CupyDevice
from safi_fast.bindings.module import KERNELS, source

SCALE = """
extern "C" __global__ void scale(float* values, const float* offset, float factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] = values[i] * factor + (offset ? offset[i] : 0);
}
"""


def scale(kernel, values, factor, offset=None):
    kernel((1,), (32,), (values, offset, np.float32(factor), np.int32(values.size)))


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy with two GPUs."""
    return install(monkeypatch)


@pytest.fixture(params=["emulated", "cupy"])
def device(request):
    """Each kind of device."""
    if request.param == "emulated":
        return EmulatedDevice()
    request.getfixturevalue("cupy")
    return CupyDevice()


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


# ------------------------------------------------------------------------------------------------------- every device
def test_arrays_go_there_and_back(device):
    image = np.arange(12.0).reshape(3, 4)
    there = device.upload(image.T)
    assert there.flags.c_contiguous
    assert there.dtype == np.float64
    np.testing.assert_array_equal(device.download(there), image.T)
    image[:] = 0
    assert device.download(there)[3, 2] == 11
    assert (device.download(device.zeros((2, 3), np.int32)) == 0).all()
    assert device.empty(5, np.int64).shape == (5,)
    device.write(there, image.T)
    np.testing.assert_array_equal(device.download(there), image.T)
    assert device.multiprocessors == 4
    device.synchronize()
    device.release_memory()


def test_adopted_arrays_are_shared_where_that_is_possible(device):
    image = np.arange(12.0).reshape(3, 4)
    own = device.upload(image.astype(np.float32))
    assert device.address(device.adopt(own)) == device.address(own)
    for other, expected in (
        (image, image),
        (own.reshape(4, 3)[:, 1:], image.reshape(4, 3)[:, 1:]),
        (device.upload(image), image),
    ):
        adopted = device.adopt(other)
        assert adopted.dtype == np.float32
        assert adopted.flags.c_contiguous
        np.testing.assert_array_equal(device.download(adopted), expected)


def test_launches(device):
    kernel = device.module(SCALE).get_function("scale")
    values, offset = device.upload(np.ones(20, np.float32)), device.upload(np.arange(20, dtype=np.float32))
    scale(kernel, values, 2, offset)
    scale(kernel, values, 3)
    np.testing.assert_array_equal(device.download(values), 3 * (2 + np.arange(20)))
    kernel.max_dynamic_shared_size_bytes = 64 * 1024
    assert kernel.max_dynamic_shared_size_bytes == 64 * 1024


def test_captured_launches_are_replayed(device):
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
    scale(kernel, values, 2)  # no longer captured
    np.testing.assert_array_equal(device.download(values), np.full(20, 72))


def test_a_capture_keeps_its_arrays(device):
    kernel = device.module(SCALE).get_function("scale")
    values = device.upload(np.ones(20, np.float32))
    alive = weakref.ref(getattr(values, "host", values).base)
    replay = device.capture(partial(scale, kernel, values, 2))
    del values
    gc.collect()
    assert alive() is not None
    replay()
    del replay
    gc.collect()
    assert alive() is None


def test_an_error_ends_a_capture(device):
    kernel = device.module(SCALE).get_function("scale")
    values = device.upload(np.ones(4, np.float32))

    def launch():
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        device.capture(launch)
    scale(kernel, values, 2)
    np.testing.assert_array_equal(device.download(values), np.full(4, 2))


# -------------------------------------------------------------------------------------------------------- the emulator
@pytest.mark.parametrize("use", ["empty", "upload", "write", "download", "synchronize"])
def test_emulator_refuses_all_but_launches_in_a_capture(use):
    device = EmulatedDevice()
    values = device.upload(np.ones(4, np.float32))
    uses = {
        "empty": lambda: device.empty(3, np.float32),
        "upload": lambda: device.zeros(3, np.float32),
        "write": lambda: device.write(values, np.zeros(4, np.float32)),
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


# ---------------------------------------------------------------------------------------------------------------- CuPy
def test_kernels_are_compiled_once_per_gpu_and_options(cupy):
    first = CupyDevice().module(SCALE, ("-DWIDTH=1",))
    assert CupyDevice().module(SCALE, ["-DWIDTH=1"]) is first
    assert first.get_function("scale") is first.get_function("scale")
    CupyDevice().module(SCALE, ("-DWIDTH=2",))
    CupyDevice(1).module(SCALE, ("-DWIDTH=1",))
    assert [(options, gpu) for _, options, gpu in cupy.compiled] == [
        (("-std=c++17", "-DWIDTH=1"), 0),
        (("-std=c++17", "-DWIDTH=2"), 0),
        (("-std=c++17", "-DWIDTH=1"), 1),
    ]


def test_a_kernel_that_does_not_compile(cupy):
    cupy.failures["compile"] = CompileException("line 3: expected a ;")
    with pytest.raises(BackendError, match=r"a kernel does not compile \(-DWIDTH=1\): line 3: expected a ;"):
        CupyDevice().module(SCALE, ("-DWIDTH=1",))


def test_everything_happens_on_the_gpu_of_the_device(cupy):
    """Also where another is current, as in a thread of the caller's."""
    with cupy.cuda.Device(1):
        device = CupyDevice()
    assert (device.number, device.multiprocessors, cupy.current) == (1, 5, 0)
    values = device.upload(np.ones(4, np.float32))
    assert {array.gpu for array in (values, device.empty(3, np.int32), device.zeros(3, np.int32))} == {1}
    kernel = device.module(SCALE).get_function("scale")
    kernel.max_dynamic_shared_size_bytes = 50_000
    scale(kernel, values, 2)
    device.capture(partial(scale, kernel, values, 2))()
    np.testing.assert_array_equal(device.download(values), np.full(4, 4))
    assert cupy.current == 0
    with pytest.raises(BackendError, match="the array lies on GPU 1; expected one on GPU 0"):
        CupyDevice(0).adopt(values)


def test_a_graph_is_replayed_on_the_current_stream(cupy):
    device = CupyDevice()
    kernel, values = device.module(SCALE).get_function("scale"), device.upload(np.ones(4, np.float32))
    replay = device.capture(partial(scale, kernel, values, 2))
    stream = cupy.cuda.Stream()
    with stream:
        replay()
    replay()
    assert cupy.replays == [stream.number, 0]


@pytest.mark.parametrize("failure", [FakeCupy.error(900), CUDADriverError("not permitted")])
@pytest.mark.parametrize("step", ["begin_capture", "end_capture"])
def test_where_cuda_refuses_a_capture_launches_are_made_one_by_one(cupy, step, failure):
    device = CupyDevice()
    kernel, values = device.module(SCALE).get_function("scale"), device.upload(np.ones(4, np.float32))
    cupy.failures[step] = failure
    with pytest.warns(UserWarning, match="CUDA does not record kernels on GPU 0"):
        replay = device.capture(partial(scale, kernel, values, 2))
    replay()
    replay()
    device.capture(partial(scale, kernel, values, 2))  # told once
    assert cupy.replays == []
    np.testing.assert_array_equal(device.download(values), np.full(4, 4))


def test_a_capture_keeps_nothing_of_other_threads(cupy):
    device = CupyDevice()
    kernel, values = device.module(SCALE).get_function("scale"), device.upload(np.ones(4, np.float32))
    other = device.upload(np.ones(4, np.float32))
    alive = weakref.ref(other)

    def launch(others):
        thread = threading.Thread(target=scale, args=(kernel, others, 2))
        thread.start()
        thread.join()
        scale(kernel, values, 2)

    replay = device.capture(partial(launch, other))
    del other
    gc.collect()
    assert alive() is None
    replay()


def test_release_memory_empties_the_pools(cupy):
    CupyDevice().release_memory()
    assert cupy.freed == ["device", "pinned"]
