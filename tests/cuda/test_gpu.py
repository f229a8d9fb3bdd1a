"""The edges of the CUDA backend: which backend is chosen and why, arrays that lie on a GPU, and machines where
something is missing.

There is no GPU: CuPy is a fake over the emulator (fake_cupy.py), and the backend beneath the API is the CPU's, which
takes and gives arrays of that CuPy. What a real CuPy does without a driver is asked in processes of their own.
"""

import os
import subprocess
import sys
import textwrap
import warnings
from contextlib import nullcontext
from importlib import metadata
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_cupy import CompileException, FakeArray, FakeCupy, install
from models import random_model
from patience import PROCESS
from reconstructions import problem

import safi_fast
from safi_fast import BackendError, InputError, Solver, api, backend, denoise
from safi_fast.bindings import gpu
from safi_fast.bindings.cpu import BATCH_BYTES
from safi_fast.solver.schedules import Fast
from safi_fast.weights import save_model

SIGMA = 25 / 255
NO_DRIVER = "No NVIDIA driver was found; the CUDA backend needs an NVIDIA GPU with its driver, which pip cannot install"


@pytest.fixture(scope="module")
def model():
    return random_model(lipschitz=1.1)


@pytest.fixture
def picture():
    return np.random.default_rng(0).random((20, 22)).astype(np.float32)


# -------------------------------------------------------------------------------------------------- the fakes, in place
class CudaBackend:
    """The CPU backend with arrays of the fake CuPy: y on the way in, images on the way out."""

    name = "cuda"

    def __init__(self, device, precision="float32"):
        self.device, self.precision = device, precision

    def to_host(self, array):
        return self.device.download(array)

    def fetch(self, array):
        return self.device.fetch(array)

    def send(self, values):
        return self.device.send(values)

    def on_threads(self, count):
        return nullcontext()

    def prepare(self, model):
        from safi_fast.bindings.cpu import CpuBackend

        return Engine(self, CpuBackend().prepare(model))


class Engine:
    def __init__(self, owner, inner):
        self.owner, self.inner = owner, inner

    def workspace(self, *shape):
        return Workspace(self.owner, self.inner.workspace(*shape))

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def bytes_per_pixel(self):
        return self.inner.bytes_per_pixel()


class Workspace:
    def __init__(self, owner, inner):
        self.owner, self.inner = owner, inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def load(self, y, *rest):
        adopted = self.owner.device.adopt(y)
        if isinstance(y, FakeArray):
            assert adopted is y
        self.inner.load(adopted.host, *rest)

    def image(self):
        return self.owner.device.upload(self.inner.image())


class Tensor:
    """A torch tensor on a GPU (or elsewhere)."""

    def __init__(self, array, place="cuda"):
        self.array, self.dtype, self.layout, self.is_quantized = array, f"torch.{array.dtype}", "torch.strided", False
        self.device = SimpleNamespace(type=place, index=getattr(array, "gpu", None))

    def detach(self):
        return Tensor(self.array)

    def resolve_conj(self):
        return self

    def resolve_neg(self):
        return self

    def cpu(self):
        raise AssertionError("a silent copy to the host")

    def on_gpu(self, cupy):
        assert cupy.current == self.array.gpu
        if self.array.dtype == np.complex128:  # stands for sparse
            raise BufferError("Can't export tensors with layout other than torch.strided")
        return self.array


class Foreign:
    """An array of a library that only has __cuda_array_interface__."""

    __cuda_array_interface__ = property(lambda self: self.array.__cuda_array_interface__)

    def __init__(self, array):
        self.array = array

    def on_gpu(self, cupy):
        return self.array


@pytest.fixture
def fresh():
    """Nothing is remembered of another machine."""

    def forget():
        backend._known_cuda.cache_clear()
        api._solver.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def cupy(monkeypatch, fresh):
    """A machine with two GPUs and a CuPy."""
    fake, bindings, torch = install(monkeypatch), ModuleType("safi_fast.bindings.cuda"), ModuleType("torch")
    bindings.CudaBackend = CudaBackend
    torch.Tensor, torch.from_dlpack = Tensor, Tensor
    for module in (bindings, torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(gpu, "driver_version", lambda: 13000)
    monkeypatch.setattr(gpu, "_installed_wheels", lambda: ["cupy-cuda13x"])
    return fake


@pytest.fixture
def broken_gpu(cupy):
    cupy.properties |= {"name": "Tesla T4", "major": 7, "minor": 5}
    return cupy


# ------------------------------------------------------------------------------------------------------ what is missing
def sentence(available=False):
    report = backend.describe_backends()[1]
    assert report[:2] == ("cuda", available)
    assert "\n" not in report.sentence
    return report.sentence


def test_a_gpu_that_works(cupy):
    assert sentence(available=True) == "Fake GPU, 80 GiB, compute capability 9.0, CuPy 14.0.0."


@pytest.mark.parametrize(
    ("failures", "driver", "expected"),
    [
        ({"getDeviceCount": FakeCupy.error(35)}, None, NO_DRIVER),
        (
            {"getDeviceCount": FakeCupy.error(35)},
            12040,
            "The NVIDIA driver supports CUDA 12.4 and CuPy was made for CUDA 13.0; "
            'run: pip uninstall -y cupy-cuda13x && pip install "cupy-cuda12x[ctk]>=14"',
        ),
        (
            {"getDeviceCount": FakeCupy.error(35)},
            11080,
            "The NVIDIA driver supports CUDA 11.8 and CuPy was made for CUDA 13.0; install a newer driver, which "
            "pip cannot",
        ),
        (
            {"getDeviceCount": FakeCupy.error(100)},
            13000,
            "The NVIDIA driver finds no GPU; see `nvidia-smi` and the variable CUDA_VISIBLE_DEVICES",
        ),
        (
            {"getDeviceCount": FakeCupy.error(3)},
            13000,
            "CUDA does not start (CUDARuntimeError: cudaError: 3); `nvidia-smi` may say why",
        ),
        (
            {"getDeviceProperties": FakeCupy.error(101)},
            13000,
            "The GPU cannot be asked for its properties (CUDARuntimeError: cudaError: 101)",
        ),
        (
            {"nvrtc": RuntimeError('Failure finding "libnvrtc.so.13"\n  listdir(...)')},
            13000,
            'NVRTC, the compiler of CUDA, cannot be loaded (RuntimeError: Failure finding "libnvrtc.so.13"); '
            'run: pip install "cupy-cuda13x[ctk]>=14"',
        ),
        (
            {"zeros": CompileException('a.cu(19): catastrophic error: cannot open source file "cuda_fp16.h"')},
            12080,
            'The header files of CUDA are missing; run: pip install "cupy-cuda12x[ctk]>=14"',
        ),
        ({"zeros": MemoryError()}, 13000, "A first kernel does not run on the GPU (MemoryError)"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(cupy, monkeypatch, failures, driver, expected):
    monkeypatch.setattr(gpu, "driver_version", lambda: driver)
    cupy.failures |= failures
    assert sentence() == expected


def test_no_gpu_at_all(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    assert sentence().startswith("The NVIDIA driver finds no GPU")


@pytest.mark.parametrize(("capability", "enough"), [((7, 5), False), ((8, 0), True), ((12, 1), True)])
def test_compute_capability(cupy, capability, enough):
    cupy.properties |= {"name": "Some GPU", "major": capability[0], "minor": capability[1]}
    expected = f"Some GPU, 80 GiB, compute capability {capability[0]}.{capability[1]}, CuPy 14.0.0."
    if not enough:
        expected = "Some GPU has compute capability 7.5; the kernels need 8.0 or more (Ampere, 2020)"
    assert sentence(available=enough) == expected


def test_several_cupy_packages(cupy, monkeypatch):
    monkeypatch.setattr(gpu, "_installed_wheels", lambda: ["cupy-cuda13x", "cupy-cuda12x"])
    assert sentence() == (
        "Several CuPy packages are installed (cupy-cuda13x, cupy-cuda12x), which overwrite each other; "
        'run: pip uninstall -y cupy-cuda13x cupy-cuda12x && pip install "cupy-cuda13x[ctk]>=14"'
    )


def test_installed_packages_are_found(monkeypatch):
    def version(name):
        if name not in ("cupy", "cupy-cuda12x"):
            raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert gpu._installed_wheels() == ["cupy-cuda12x", "cupy"]


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (13000, 'CuPy is not installed; run: pip install "cupy-cuda13x[ctk]>=14"'),
        (12080, 'CuPy is not installed; run: pip install "cupy-cuda12x[ctk]>=14"'),
        (
            None,
            "CuPy is not installed, nor is an NVIDIA driver; "
            'on a machine with an NVIDIA GPU run: pip install "cupy-cuda13x[ctk]>=14"',
        ),
    ],
)
def test_cupy_is_not_installed(cupy, monkeypatch, driver, expected):
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu, "driver_version", lambda: driver)
    assert sentence() == expected


def test_warnings_of_cupy_stay_inside(cupy, monkeypatch):
    def count():
        warnings.warn("CuPy may not function correctly", stacklevel=1)
        return 1

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", count)
    assert "Fake GPU" in sentence(available=True)


def test_the_driver_is_asked_for_its_version(monkeypatch):
    library = SimpleNamespace(cuDriverGetVersion=lambda pointer: setattr(pointer._obj, "value", 12040) or 0)
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: library)
    assert gpu.driver_version() == 12040
    monkeypatch.setattr(library, "cuDriverGetVersion", lambda pointer: 999)
    assert gpu.driver_version() is None
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert gpu.driver_version() is None


# ------------------------------------------------------------------------------------------------- choosing a backend
def test_auto_is_cuda_where_a_gpu_works(cupy):
    assert backend.select("auto").name == backend.select("cuda").name == "cuda"
    assert backend.select("cpu").name == "cpu"
    assert backend.select("auto").device.number == 0
    for precision in ("float32", "tf32", "bf16x3"):
        assert backend.select("auto", precision).precision == precision


def test_auto_is_the_cpu_where_the_gpu_does_not_work(broken_gpu):
    assert backend.select("auto").name == "cpu"
    with pytest.raises(
        BackendError, match=r"backend='cuda' cannot run: Tesla T4 has .* 7\.5; .*; or use backend='cpu'"
    ):
        backend.select("cuda")


def test_the_gpu_is_looked_at_once(cupy, monkeypatch):
    calls = []
    monkeypatch.setattr(gpu, "examine", lambda: calls.append(1) or gpu.Finding(True, "It works."))
    for _ in range(3):
        backend.select("auto")
    assert len(calls) == 1
    monkeypatch.setattr(os, "getpid", lambda: -1)  # after a fork
    backend.select("auto")
    assert len(calls) == 2


def test_without_a_driver_auto_does_not_even_import_cupy(cupy, monkeypatch):
    monkeypatch.setattr(gpu, "driver_version", lambda: None)
    monkeypatch.setattr(gpu, "examine", lambda: pytest.fail("looked for CuPy"))
    assert backend.select("auto").name == "cpu"


def test_precisions(cupy, broken_gpu):
    with pytest.raises(InputError, match="precision is 'float64'; expected 'float32', 'tf32' or 'bf16x3'"):
        backend.select("auto", "float64")
    for name in ("auto", "cpu"):
        with pytest.raises(
            InputError, match=r"precision is 'tf32', but the CPU computes in float32 only; use precision="
        ):
            backend.select(name, "tf32")


def test_solver_passes_the_precision_on(cupy, model):
    assert Solver(model, precision="bf16x3").backend.precision == "bf16x3"
    assert Solver(model).backend.precision == "float32"


# ------------------------------------------------------------------------------------------------------------- arrays
def arrays_on_gpu(cupy, image, number=0):
    """(array, what the result is, its memory): one per library."""
    with cupy.cuda.Device(number):
        values = cupy.array(image)
    return [(values, FakeArray), (Tensor(values), Tensor), (Foreign(values), FakeArray)]


def memory(result):
    return result.array if isinstance(result, Tensor) else result


def test_results_stay_on_the_gpu_in_the_callers_library(cupy, model, picture):
    expected = denoise(picture, SIGMA, model=model, backend="cpu")
    for number in (0, 1):
        for image, library in arrays_on_gpu(cupy, picture, number):
            before, cupy.downloads = memory_of(image).copy(), 0
            for name in ("auto", "cuda"):
                result = denoise(image, SIGMA, model=model, backend=name)
                assert type(result) is library
                assert memory(result).gpu == number
                assert memory(result).dtype == np.float32
                np.testing.assert_array_equal(memory(result).host, expected)
            assert cupy.downloads <= 1  # of the look at the GPU, never of an image
            np.testing.assert_array_equal(memory_of(image), before)


def memory_of(image):
    return (image if isinstance(image, FakeArray) else image.array).host


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 20, 22), None), ((2, 1, 20, 22), None), ((20, 22, 3), -1), ((2, 3, 20, 22), 1)]
)
def test_every_shape_and_dtype_as_on_the_cpu(cupy, model, dtype, shape, axis):
    scale = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    image = (np.random.default_rng(1).random(shape) * scale).astype(dtype)
    options = {"model": model, "channel_axis": axis, "max_outer": 1}
    expected = denoise(image, SIGMA * scale, backend="cpu", **options)
    result = denoise(cupy.array(image), SIGMA * scale, **options)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result.host, expected)


def test_arrays_in_host_memory_come_back_there(cupy, model, picture):
    expected = denoise(picture, SIGMA, model=model, backend="cpu")
    for name in ("auto", "cuda"):
        result = denoise(picture, SIGMA, model=model, backend=name)
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, expected)


def test_torch_tensors_in_host_memory_come_back_there(request, model, picture, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    request.getfixturevalue("cupy")
    monkeypatch.setitem(sys.modules, "torch", torch)
    result = denoise(torch.from_numpy(picture), SIGMA, model=model, backend="cuda")
    assert result.device.type == "cpu"
    np.testing.assert_array_equal(result.numpy(), denoise(picture, SIGMA, model=model, backend="cpu"))


def test_callbacks_see_arrays_of_the_caller(cupy, model, picture):
    solver, seen = Solver(model, backend="cuda"), []
    options = {
        "return_solution": True,
        "return_masks": True,
        "max_outer": 2,
        "callback": lambda s: seen.append(s.image()),
    }
    expected = Solver(model, backend="cpu").denoise(picture, SIGMA, **options)
    for image, kind in ((picture, np.ndarray), (cupy.array(picture), FakeArray), (Tensor(cupy.array(picture)), Tensor)):
        solution = solver.denoise(image, SIGMA, **options)
        assert type(seen[-1]) is type(solution.image) is kind
        last = memory(seen[-1])
        np.testing.assert_array_equal(getattr(last, "host", last), seen[1])
        np.testing.assert_array_equal(solution.masks, expected.masks)
        assert solution.relative_gap == expected.relative_gap
    assert len(seen) == 8


def test_a_callback_may_stop_a_solve_on_the_gpu(cupy, model, picture):
    def callback(state):
        raise StopIteration

    solution = denoise(picture, SIGMA, model=model, backend="cuda", callback=callback, return_solution=True)
    assert (solution.status, solution.outer_iterations) == ("stopped", 1)


def test_large_batches_are_cut_on_the_gpu_too(cupy, model, monkeypatch):
    images = np.random.default_rng(2).random((3, 20, 22)).astype(np.float32)
    expected = denoise(images, SIGMA, model=model, backend="cpu", max_outer=1)
    monkeypatch.setattr(Engine, "bytes_per_pixel", lambda _: BATCH_BYTES)  # one at a time
    result = denoise(cupy.array(images), SIGMA, model=model, max_outer=1)
    np.testing.assert_array_equal(result.host, expected)


def test_a_gap_schedule_needs_the_norm_on_the_gpu(cupy, model, picture):
    expected = denoise(picture, SIGMA, model=model, schedule="gap", backend="cpu", max_outer=1, return_solution=True)
    solution = denoise(cupy.array(picture), SIGMA, model=model, schedule="gap", max_outer=1, return_solution=True)
    assert solution.inner_iterations == expected.inner_iterations
    np.testing.assert_array_equal(solution.image.host, expected.image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.__setitem__((3, 4), np.nan), "image has 1 values that are NaN or infinite"),
        (lambda a: a.__setitem__((3, 4), 50), r"image has values from .* to 50, but floating-point images"),
        (lambda a: a[:5], "image is 5 x 22 pixels; the filters"),
        (lambda a: a[:, :0], "image is empty"),
        (lambda a: a.astype(np.complex64), "image is complex"),
        (lambda a: a.astype(bool), "image has dtype bool"),
    ],
)
def test_wrong_images_on_the_gpu_are_refused(cupy, model, picture, change, message):
    image = cupy.array(picture)
    changed = change(image)
    with pytest.raises(InputError, match=message):
        denoise(image if changed is None else changed, SIGMA, model=model)


def test_black_and_white_on_the_gpu(cupy, model, picture):
    image, options = 2500 * picture - 1000, {"data_range": (-1000, 1500), "model": model, "max_outer": 2}
    expected = denoise(image, 2500 * SIGMA, backend="cpu", **options)
    np.testing.assert_array_equal(denoise(cupy.array(image), 2500 * SIGMA, **options).host, expected)
    with pytest.raises(InputError, match=r"image has values from -0\.9.* to 0\.9.*% of them lie outside"):
        denoise(cupy.array(2 * picture - 1), SIGMA, model=model)
    denoise(cupy.array(2 * picture - 1), SIGMA, model=model, box=(0.0, 1.0), max_outer=1)


def test_values_beyond_float32_are_refused_on_the_gpu(cupy, model, picture):
    image = cupy.array(picture.astype(np.float64))
    image[3, 4] = 1e39
    with pytest.raises(InputError, match=r"image has values up to 1e\+39, which float32 cannot hold"):
        denoise(image, SIGMA, model=model, data_range=1.0)


def test_tensors_that_cupy_cannot_read_are_refused(cupy, model, picture):
    with pytest.raises(InputError, match="image cannot be read as a CuPy array: Can't export tensors"):
        denoise(Tensor(cupy.array(picture.astype(complex))), SIGMA, model=model)
    with pytest.raises(BackendError, match=r"image lies on .*; expected the CPU or a CUDA GPU: pass image\.cpu\(\)"):
        denoise(Tensor(cupy.array(picture), place="mps"), SIGMA, model=model)


def test_the_cpu_refuses_arrays_on_a_gpu(cupy, model, picture):
    advice = (r"it as NumPy array, with cupy\.asnumpy\(image\)", r"image\.cpu\(\)", "it as NumPy array")
    for (image, _), host in zip(arrays_on_gpu(cupy, picture), advice, strict=True):
        message = f"image lies on a GPU, but backend='cpu' computes in host memory; use backend='cuda', or pass {host}"
        with pytest.raises(BackendError, match=message):
            denoise(image, SIGMA, model=model, backend="cpu")
        with pytest.raises(BackendError, match=message):
            Solver(model, backend="cpu").denoise(image, SIGMA)


def test_auto_says_why_an_array_on_a_gpu_cannot_be_denoised(broken_gpu, model, picture):
    for image, _ in arrays_on_gpu(broken_gpu, picture):
        with pytest.raises(BackendError, match=r"image lies on a GPU that cannot be used: Tesla T4 .*; or pass i"):
            denoise(image, SIGMA, model=model)
        with pytest.raises(BackendError, match=r"backend='cuda' cannot run: Tesla T4"):
            denoise(image, SIGMA, model=model, backend="cuda")


def test_a_tensor_on_a_gpu_without_cupy(cupy, model, picture, monkeypatch):
    image = Tensor(cupy.array(picture))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        BackendError, match=r"image lies on a GPU that cannot be used: CuPy is not installed; run: .*; or pass i"
    ):
        denoise(image, SIGMA, model=model)


def test_a_solver_stays_on_its_gpu(cupy, model, picture):
    image = arrays_on_gpu(cupy, picture, number=1)[0][0]
    with pytest.raises(BackendError, match=r"image lies on GPU 1, but this solver computes on GPU 0; make one for it"):
        Solver(model).denoise(image, SIGMA)
    with cupy.cuda.Device(1):
        solver = Solver(model)
    assert solver.denoise(image, SIGMA).gpu == 1
    assert type(solver.denoise(picture, SIGMA)) is np.ndarray


def test_denoise_keeps_one_solver_per_gpu(cupy, model, picture):
    for number in (0, 1, 0, 1):
        denoise(arrays_on_gpu(cupy, picture, number)[0][0], SIGMA, model=model, max_outer=1)
    assert api._solver.cache_info().misses == 2


def test_release_memory(cupy, model):
    Solver(model, backend="cuda").release_memory()
    assert cupy.freed == ["device", "pinned"]
    Solver(model, backend="cpu").release_memory()
    assert cupy.freed == ["device", "pinned"]


@pytest.mark.parametrize(("precision", "agreement"), [("tf32", 1e-3), ("bf16x3", 2e-5)])
def test_tensor_cores_through_cupy(cupy, monkeypatch, precision, agreement):
    """As the next test; options and shared memory reach the kernels."""
    monkeypatch.delitem(sys.modules, "safi_fast.bindings.cuda")
    model = random_model("safi", boundary="symmetric", lipschitz=1.1)
    image = np.random.default_rng(3).random((20, 22)).astype(np.float32)
    options = {"max_outer": 2, "max_inner": 3}
    expected = Solver(model, backend="cpu").denoise(image, SIGMA, **options)
    result = Solver(model, backend="cuda", precision=precision).denoise(image, SIGMA, **options)
    np.testing.assert_allclose(result, expected, rtol=0, atol=agreement)
    assert np.abs(result - expected).max() > 1e-7, "as exact as float32: not on tensor cores"
    on_tensor_cores = [options for _, options, _ in cupy.compiled if "-DCHANNEL_BLOCK=16" in options]
    assert len(on_tensor_cores) == 4  # the filter bank, its adjoint, two layers of the mask
    assert all(("-DBF16X3" in options) == (precision == "bf16x3") for options in on_tensor_cores)


@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_the_cuda_backend_through_cupy(cupy, monkeypatch, family):
    """The kernels and launches themselves, in the emulator behind the fake CuPy; on the second GPU, while the first is
    current.
    """
    monkeypatch.delitem(sys.modules, "safi_fast.bindings.cuda")
    model = random_model(family, lipschitz=1.1)
    images = np.random.default_rng(3).random((2, 20, 22)).astype(np.float32)
    options = {"model": model, "max_outer": 2, "max_inner": 3}
    expected = denoise(images, SIGMA, backend="cpu", **options)
    for image, library in arrays_on_gpu(cupy, images, number=1):
        result = denoise(image, SIGMA, backend="cuda", **options)
        assert type(result) is library
        assert memory(result).gpu == 1
        np.testing.assert_allclose(memory(result).host, expected, atol=1e-5)
    np.testing.assert_allclose(denoise(images, SIGMA, **options), expected, atol=1e-5)
    assert cupy.compiled
    assert all(options[0] == "-std=c++17" for _, options, _ in cupy.compiled)


# ---------------------------------------------------------------------------------------------- whole reconstructions
@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["MRI, one coil", "SENSE", "CT", "blur"])
def test_reconstruct_on_a_gpu(name, count, gpu):
    """The shipped model, schedule "fast", against the CPU; with and without graphs."""
    operator, y = problem(name, count)
    box = None if operator.image == "complex" else (0.0, 1.0)
    options = {"strength": 0.01, "box": box, "schedule": Fast(outer=3, inner=20)}
    cpu = Solver(backend="cpu").reconstruct(y, operator, **options)
    solver = Solver(backend="cuda")
    recorded = solver.reconstruct(y, operator, **options)
    assert np.abs(recorded.image - cpu.image).max() < 1e-4
    assert recorded.relative_gap == pytest.approx(cpu.relative_gap, rel=0.02, abs=1e-5)
    again = solver.reconstruct(y, operator, **options)
    np.testing.assert_array_equal(again.image, recorded.image)
    operator.recordable = False
    np.testing.assert_allclose(solver.reconstruct(y, operator, **options).image, recorded.image, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------- real processes without a GPU
needs_no_driver = pytest.mark.skipif(gpu.driver_version() is not None, reason="this machine has an NVIDIA driver")
BLOCK_CUPY = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cupy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""
USE = """
import sys, warnings
import numpy as np
import safi_fast
from safi_fast.backend import describe_backends, select
image = np.full((20, 22), 0.5)
result = safi_fast.denoise(image, 25 / 255, model="random.safetensors", max_outer=1)
assert type(result) is np.ndarray and select("auto").name == "cpu"
print("cupy" in sys.modules)
print(describe_backends()[1].sentence)
try:
    safi_fast.Solver("random.safetensors", backend="cuda")
except safi_fast.BackendError as error:
    print(error)
from safi_fast.cli.main import main
print(main(["doctor"]))
"""


@pytest.fixture
def here(tmp_path, model):
    save_model(model, tmp_path / "random.safetensors")
    return tmp_path


def use(folder, before=""):
    """What a process prints that denoises and asks about CUDA, warnings being errors; nothing may go to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", before + USE],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
        timeout=PROCESS,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    imported, missing, refused, *doctor, status = done.stdout.splitlines()
    assert imported == "False"
    assert refused == f"backend='cuda' cannot run: {missing}; or use backend='cpu'"
    assert f"backend cuda   no: {missing}" in doctor
    assert any(line.startswith("self-check     passed") and " on cpu in " in line for line in doctor)
    assert status == "0"
    return missing


@needs_no_driver
def test_with_cupy_and_without_a_driver(here):
    pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    assert use(here) == NO_DRIVER


@needs_no_driver
def test_without_cupy(here):
    assert use(here, BLOCK_CUPY).startswith("CuPy is not installed, nor is an NVIDIA driver;")


@needs_no_driver
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ('raise ImportError("=====\\nlibcudart.so.13 is missing\\n=====")', "ImportError: libcudart.so.13 is missing"),
        ('raise ValueError("numpy.dtype size changed")', "ValueError: numpy.dtype size changed"),
        (
            """
            try:
                raise OSError("libnvrtc.so: no such file")
            except OSError as error:
                raise ImportError("=====\\nFailed to import CuPy.\\n=====") from error
            """,
            "OSError: libnvrtc.so: no such file",
        ),
    ],
)
def test_with_a_cupy_that_cannot_be_imported(here, code, reason):
    (here / "cupy").mkdir()
    (here / "cupy" / "__init__.py").write_text("import warnings\nwarnings.warn('odd')\n" + textwrap.dedent(code))
    missing = use(here)
    assert missing == (f'CuPy cannot be imported ({reason}); run: pip install --force-reinstall "cupy-cuda13x[ctk]"')


@needs_no_driver
def test_real_cupy_agrees_with_what_is_used_of_it():
    """Names that the fake has and CuPy might not."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)
    assert issubclass(cupy.cuda.driver.CUDADriverError, RuntimeError)
    assert issubclass(cupy.cuda.compiler.CompileException, Exception)
    assert callable(cupy.fft.config.get_plan_cache)
    for owner, names in {
        cupy: "RawModule abs array asarray asnumpy ascontiguousarray concatenate empty from_dlpack isfinite "
        "maximum median moveaxis zeros",
        cupy.cuda: "Device Event MemoryPool Stream get_current_stream get_elapsed_time nvrtc using_allocator",
        cupy.cuda.runtime: "getDeviceCount getDeviceProperties runtimeGetVersion",
        cupy.cuda.Stream: "begin_capture end_capture synchronize",
        cupy.cuda.Device: "attributes id",
        cupy.RawModule: "compile get_function",
        cupy.RawKernel: "kernel max_dynamic_shared_size_bytes",
        cupy.ndarray: "__cuda_array_interface__ __dlpack__ astype reshape all mean min max sum data device",
        cupy.get_default_memory_pool(): "free_all_blocks",
        cupy.get_default_pinned_memory_pool(): "free_all_blocks",
    }.items():
        assert not [name for name in names.split() if not hasattr(owner, name)]
    assert cupy.cuda.nvrtc.getVersion() >= (12, 0)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError) as raised:
        cupy.cuda.runtime.getDeviceCount()
    assert raised.value.status == gpu.INSUFFICIENT_DRIVER


def test_public_docstrings_name_the_backends():
    assert '"cuda"' in safi_fast.denoise.__doc__


def test_noise_is_estimated_where_the_image_lies(cupy, model):
    image = (0.5 + 0.1 * np.random.default_rng(0).standard_normal((40, 44))).astype(np.float32)
    solver = Solver(model, backend="cuda")
    options = {"strength": 0.1, "return_solution": True, "max_outer": 1}
    found = solver.denoise(cupy.asarray(image), "estimate", **options)
    assert isinstance(found.image, FakeArray)
    assert found.sigma == Solver(model, backend="cpu").denoise(image, "estimate", **options).sigma


def test_counts_are_transformed_where_they_lie(cupy, model):
    image = np.random.default_rng(0).poisson(5.0, (40, 44)).astype(np.float32)
    options = {"noise": "poisson", "max_outer": 1}
    found = Solver(model, backend="cuda").denoise(cupy.asarray(image), 0.5, **options)
    assert isinstance(found, FakeArray)
    expected = Solver(model, backend="cpu").denoise(image, 0.5, **options)
    np.testing.assert_allclose(found.host, expected, atol=1e-4)
