"""reconstruct through CudaBackend in the emulator: whole solves against the CPU."""

import pickle

import numpy as np
import pytest
from emulator.device import EmulatedDevice, LaunchError
from fake_cupy import install
from models import random_model
from reconstructions import HEIGHT, WIDTH, operators, problem
from test_cuda_planes import model_of

from safi_fast import SafiError, Solver
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.device import CupyDevice
from safi_fast.operators import NonCartesianMRI, Weighted, from_functions, radial
from safi_fast.solver.schedules import Fast

LIMITS = {"schedule": Fast(outer=2, inner=12, fall=0.85), "noise_level": 15 / 255}
NAMES = tuple(operators(np.random.default_rng(0)))


@pytest.fixture(scope="module")
def solvers():
    model = random_model("safi", channels=8, kernels=(5,), composed=True, boundary="symmetric")
    return [Solver(model, backend=backend) for backend in (CudaBackend(EmulatedDevice("plain")), "cpu")]


@pytest.mark.parametrize("name", NAMES)
def test_a_solve_is_that_of_the_cpu(name, solvers):
    operator, y = problem(name)
    box = None if operator.image == "complex" else (0.0, 1.0)
    cuda, cpu = (s.reconstruct(y, operator, strength=0.01, box=box, **LIMITS) for s in solvers)
    assert np.abs(cuda.image - cpu.image).max() < 1e-4
    assert cuda.relative_gap == pytest.approx(cpu.relative_gap, rel=0.02, abs=1e-5)
    assert cuda.status == cpu.status == "completed"


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy with two GPUs, whose arrays refuse to meet those of the host."""
    return install(monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_images_stay_on_the_device(name, cupy, solvers):
    """A batch of two on the second GPU: nothing of the size of an image comes back but the result and the masks."""
    operator, y = problem(name, 2)
    solver = Solver(solvers[1].model, backend=CudaBackend(CupyDevice(1)))
    box = None if operator.image == "complex" else (0.0, 1.0)
    large = []
    download = cupy.asnumpy
    cupy.asnumpy = lambda values: large.append(values.shape) or download(values)
    found = solver.reconstruct(y, operator, strength=[0.01, 0.02], box=box, **LIMITS)
    cpu = solvers[1].reconstruct(y, operator, strength=[0.01, 0.02], box=box, **LIMITS)
    assert np.abs(found.image - cpu.image).max() < 1e-4
    images = [shape for shape in large if np.prod(shape) >= HEIGHT * WIDTH and len(shape) == 3]
    assert images == [(2, HEIGHT, WIDTH)] * len(images)
    assert len(images) <= 2  # the norm of W, which starts in the host, and the result
    assert len(cupy.replays) == LIMITS["schedule"].outer  # a graph for each mask's steps but the first


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_of_a_mask_ask_the_host_nothing(name, cupy, solvers):
    """Four times as many steps make as many copies to the host, and as many graphs."""
    operator, y = problem(name, 2)
    solver = Solver(solvers[1].model, backend=CudaBackend(CupyDevice(0)))
    box = None if operator.image == "complex" else (0.0, 1.0)
    counts = []
    for steps in (3, 3, 12):  # the first makes what is kept
        before = cupy.downloads, len(cupy.replays)
        solver.reconstruct(y, operator, strength=0.01, box=box, noise_level=0.05, schedule=Fast(outer=2, inner=steps))
        counts.append((cupy.downloads - before[0], len(cupy.replays) - before[1]))
    assert counts[1] == counts[2]


def test_without_graphs_the_steps_are_launched_as_they_are(cupy, solvers):
    """CUDA may refuse a capture; an operator that says nothing of graphs is not recorded at all."""
    operator, y = problem("SENSE", 2)
    solver = Solver(solvers[1].model, backend=CudaBackend(CupyDevice(0)))
    options = {"strength": 0.01, "box": None, **LIMITS}
    recorded = solver.reconstruct(y, operator, **options)
    assert cupy.replays
    cupy.replays.clear()
    solver.release_memory()
    cupy.failures["end_capture"] = cupy.error(901)
    with pytest.warns(UserWarning, match="CUDA does not record kernels"):
        solver.reconstruct(y, operator, **options)
    np.testing.assert_array_equal(solver.reconstruct(y, operator, **options).image, recorded.image)
    cupy.failures.clear()
    operator.recordable = False
    np.testing.assert_array_equal(solver.reconstruct(y, operator, **options).image, recorded.image)
    assert not cupy.replays


def test_recorded_steps_of_images_that_are_left(cupy, solvers):
    """Under "gap", where images of a batch end one by one."""
    operator, y = problem("circular blur", 3)
    y = y * np.float32([1, 0.1, 0.5])[:, None, None]
    options = {"strength": 0.01, "tol": 1e-2, "max_outer": 3, "max_iter": 60}
    solver = Solver(solvers[1].model, backend=CudaBackend(CupyDevice(0)))
    cuda, cpu = (s.reconstruct(y, operator, **options) for s in (solver, solvers[1]))
    assert np.abs(cuda.image - cpu.image).max() < 1e-4
    np.testing.assert_array_equal(cuda.inner_iterations, cpu.inner_iterations)
    assert len(set(cuda.inner_iterations.tolist())) > 1
    assert cupy.replays


@pytest.mark.parametrize("share", [0.8, 0.9])
@pytest.mark.parametrize("method", ["apply", "adjoint"])
def test_a_value_that_is_not_finite_is_reported_as_on_the_cpu(method, share, cupy, solvers):
    """The step, the image and the method, although the device is asked only after all steps of a mask."""
    inner, y = problem("blur", 2)
    cuda, cpu = Solver(solvers[1].model, backend=CudaBackend(CupyDevice(0))), solvers[1]

    def solve(solver, damaged_call):
        """How many calls of the method were made."""
        calls = dict.fromkeys(("apply", "adjoint"), 0)

        def function(name):
            def called(array):
                calls[name] += 1
                result = getattr(inner, name)(array)
                if name == method and calls[name] == damaged_call:
                    result[..., 3, 4] = np.nan
                return result

            return called

        operator = from_functions(function("apply"), function("adjoint"), inner.shape_in, inner.shape_out)
        solver.reconstruct(y, operator, strength=0.01, **LIMITS)
        return calls[method]

    number, messages = int(share * solve(cpu, 0)), []
    for solver in (cuda, cpu):
        with pytest.raises(SafiError) as raised:
            solve(solver, number)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert f"{method} gave values that are not finite at outer step" in messages[0]


def test_an_operator_of_the_caller_goes_by_way_of_the_host(cupy, solvers):
    inner, y = problem("blur")
    operator = from_functions(inner.apply, inner.adjoint, inner.shape_in, inner.shape_out)
    solver = Solver(solvers[1].model, backend=CudaBackend(CupyDevice(0)))
    found, cpu = (s.reconstruct(y, operator, strength=0.01, **LIMITS) for s in (solver, solvers[1]))
    assert np.abs(found.image - cpu.image).max() < 1e-4


def test_k_space_off_the_grid_goes_by_way_of_the_host(cupy, solvers):
    pytest.importorskip("finufft", reason="NonCartesianMRI needs finufft (extra 'nufft')")
    spokes, draw = radial(7, 32, reach=min(HEIGHT, WIDTH) / 2), np.random.default_rng(0)
    operator = Weighted(NonCartesianMRI(spokes, (HEIGHT, WIDTH), image="real"), draw.random((7, 32)))
    image = draw.random((HEIGHT, WIDTH)).astype(np.float32)
    y = operator.apply(image)
    solver = Solver(solvers[1].model, backend=CudaBackend(CupyDevice(0)))
    limits = LIMITS | {"schedule": Fast(outer=1, inner=4)}
    found, cpu = (s.reconstruct(y, operator, strength=0.01, **limits) for s in (solver, solvers[1]))
    assert np.abs(found.image - cpu.image).max() < 1e-4
    there = operator.normal(cupy.asarray(image))
    np.testing.assert_array_equal(cupy.asnumpy(there), operator.normal(image))


@pytest.mark.parametrize("name", NAMES)
def test_operators_take_arrays_of_a_gpu(name, cupy):
    """apply, adjoint and normal give there what they give in the host, and copies of constants are made once."""
    operator, y = problem(name, 2)
    x = np.random.default_rng(0).random((2, HEIGHT, WIDTH)).astype(operator._imaged)
    for function, argument in ((operator.apply, x), (operator.adjoint, y), (operator.normal, x)):
        expected, found = function(argument), function(cupy.asarray(np.ascontiguousarray(argument)))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(cupy.asnumpy(found), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    again = pickle.loads(pickle.dumps(operator))
    np.testing.assert_array_equal(again.apply(x), operator.apply(x))


def test_images_that_end_earlier_stay_as_they_are(solvers):
    """Under "gap" each image of a batch has its own end, on a device too."""
    operator, y = problem("circular blur", 3)
    y = y * np.float32([1, 0.1, 0.5])[:, None, None]
    options = {"strength": 0.01, "tol": 1e-2, "max_outer": 3, "max_iter": 60}
    cuda, cpu = (s.reconstruct(y, operator, **options) for s in solvers)
    assert np.abs(cuda.image - cpu.image).max() < 1e-4
    np.testing.assert_array_equal(cuda.inner_iterations, cpu.inner_iterations)
    assert len(set(cuda.inner_iterations.tolist())) > 1


def test_an_array_of_a_gpu_gets_its_image_there(cupy, solvers):
    """The measurement goes through the host once, where it is checked; the image comes back where that was."""
    operator, y = problem("MRI, one coil")
    solver = Solver(solvers[1].model, backend=CudaBackend(CupyDevice(0)))
    with cupy.cuda.Device(1):
        there = cupy.asarray(y)
    found = solver.reconstruct(there, operator, strength=0.01, **LIMITS)
    assert found.image.device.id == 1
    expected = solvers[1].reconstruct(y, operator, strength=0.01, **LIMITS)
    with cupy.cuda.Device(1):
        assert np.abs(cupy.asnumpy(found.image) - expected.image).max() < 1e-4


def deviation(name):
    """The largest difference of a solve of two images of three planes, through CUDA and on the CPU."""
    operator, one = problem(name, 2)
    y = np.stack([one, np.float32(0.8) * one, np.float32(0.6) * one], axis=1)
    model, limits = model_of("symmetric", 3), {"schedule": Fast(outer=2, inner=4)}
    cuda, cpu = (
        Solver(model, backend=backend).reconstruct(y, operator, strength=0.01, **limits)
        for backend in (CudaBackend(EmulatedDevice("plain")), "cpu")
    )
    assert cuda.image.shape == (2, 3, HEIGHT, WIDTH)
    return np.abs(cuda.image - cpu.image).max()


@pytest.mark.parametrize("name", ["circular blur", "CT"])
def test_planes_are_those_of_the_cpu(name):
    assert deviation(name) < 1e-4


BUGS = {
    "v of the first plane": ("at.owner * PLANES * g.height * g.width);", "at.image * (long long)g.height * g.width);"),
    "the first plane for all": ("* pixels + index) *", "* pixels + index % (pixels / PLANES)) *"),
}


@pytest.mark.parametrize("name", BUGS)
def test_bugs_of_planes_are_found(monkeypatch, name):
    """Planted into the kernels of the iteration."""
    old, new = BUGS[name]
    module, planted = EmulatedDevice.module, []

    def replaced(self, text, options=()):
        planted.append(text.count(old))
        return module(self, text.replace(old, new), options)

    monkeypatch.setattr(EmulatedDevice, "module", replaced)
    with pytest.raises((AssertionError, LaunchError)):
        assert deviation("circular blur") < 1e-4
    assert any(planted)
