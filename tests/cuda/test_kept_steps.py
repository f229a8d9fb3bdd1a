"""`reconstruct` again on CUDA: the work space, its arrays and its graphs serve the next call of their shape."""

from functools import partial

import numpy as np
import pytest
from fake_cupy import install
from models import random_model

from safi_fast import OutOfMemoryError, Solver
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.cuda_iteration import CudaIteration
from safi_fast.bindings.device import CupyDevice
from safi_fast.operators import Blur, ParallelBeamCT, SenseMRI
from safi_fast.solver import halpern
from safi_fast.solver.halpern import DeviceSteps, Halpern
from safi_fast.solver.schedules import Fast, Reconstruct

SAFI = random_model("safi", channels=8, kernels=(5,), composed=True, boundary="symmetric", lipschitz=1.1)
HEIGHT, WIDTH = 18, 20
FAST = {"schedule": Fast(outer=2, inner=3), "noise_level": 15 / 255, "return_masks": True}
ONE_MASK = FAST | {"schedule": Fast(outer=1, inner=3)}


@pytest.fixture(scope="module")
def only():
    """A solver for all of these tests: what it finds out about its model takes as long as they do."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        yield Solver(SAFI, backend=CudaBackend(CupyDevice(0)))


@pytest.fixture
def solver(only):
    """It keeps nothing."""
    only.release_memory()
    yield only
    only.backend.device.cupy.world.limit = 80 * 2**30


@pytest.fixture
def cupy(solver):
    return solver.backend.device.cupy


def problem(name, count=2):
    """A small operator, and its measurements of `count` images."""
    rng, kernel = np.random.default_rng(7), np.outer(np.hanning(7), np.hanning(5))
    maps = np.exp(1j * rng.random((2, 1, 1)) * np.linspace(0, 2, WIDTH)) * np.ones((HEIGHT, 1)) / 2**0.5
    lines = np.arange(WIDTH)[None] % 3 < 2
    operator = {
        "SENSE": lambda: SenseMRI(maps.astype(np.complex64), lines, mask_order="fft", check_order=False),
        "circular blur": lambda: Blur(kernel / kernel.sum(), (HEIGHT, WIDTH), "circular"),
        "CT": lambda: ParallelBeamCT((HEIGHT, WIDTH), np.linspace(0, np.pi, 5, endpoint=False), 26),
    }[name]()
    image = np.cumsum(rng.random((count, HEIGHT, WIDTH)), axis=-1).astype(np.float32) / WIDTH
    return operator, operator.apply(image * np.exp(0.3j * image) if operator.image == "complex" else image)


def blurs():
    """Two operators that differ in nothing but their numbers, and measurements of two images."""
    rng, kernels = np.random.default_rng(7), (np.outer(np.hanning(7), end) for end in (np.hanning(5), np.arange(5.0)))
    one, other = (Blur(kernel / kernel.sum(), (HEIGHT, WIDTH)) for kernel in kernels)
    return one, other, one.apply(rng.random((2, HEIGHT, WIDTH)).astype(np.float32))


def box_of(operator):
    return None if getattr(operator, "image", "real") == "complex" else (0.0, 1.0)


def assert_as_fresh(solver, y, operator, **options):
    """The call gives what it gives on a new work space, bit for bit; what it asked of CUDA."""
    world = solver.backend.device.cupy.world
    options = {"box": box_of(operator), **FAST, **options}
    world.counts.clear()
    found = solver.reconstruct(y, operator, **options)
    asked = dict(world.counts)
    solver._engine.release()
    fresh = solver.reconstruct(y, operator, **options)
    for name in ("image", "masks", "gap", "inner_iterations", "status"):
        np.testing.assert_array_equal(getattr(found, name), getattr(fresh, name), name)
    return asked


def others(y):
    """Other measurements of the same shape."""
    return np.ascontiguousarray(y[::-1] * np.float32(0.7))


@pytest.mark.parametrize("name", ["SENSE", "circular blur", "CT"])
def test_a_second_problem_knows_nothing_of_the_first(name, solver):
    operator, y = problem(name)
    options = {"strength": [0.01, 0.03], "box": box_of(operator), **FAST}
    first = solver.reconstruct(y, operator, **options)
    again = assert_as_fresh(solver, others(y), operator, strength=[0.05, 0.002], noise_level=0.1)
    assert "recorded" not in again
    assert np.abs(solver.reconstruct(y, operator, **options).image - first.image).max() == 0


def test_the_second_call_of_a_shape_records_nothing(solver, cupy):
    """What CUDA is asked for on a new work space, and on one that is kept."""
    operator, y = problem("SENSE")
    asked = []
    for _ in range(3):  # the first one copies what the operator keeps
        cupy.world.counts.clear()
        solver.reconstruct(y, operator, strength=0.01, box=None, **FAST)
        asked.append(cupy.world.counts.copy())
        if len(asked) == 1:
            solver.release_memory()
    _, first, second = asked
    assert first["recorded"] == 2 * 20  # two steps of each mask
    assert "recorded" not in second
    assert second["graphs"] == first["graphs"] == 2
    assert second["launches"] == first["launches"]
    # the work space and the variables are there; what remains is made by array functions
    assert second["allocations"] <= first["allocations"] - 90
    assert second["uploads"] <= first["uploads"] - 8


def test_what_lies_between_two_graphs(solver, cupy):
    """Under "fast": what a further mask asks of CUDA. docs/gpu.md has these numbers."""
    operator, y = problem("SENSE")
    asked = []
    for outer in (3, 2, 3):  # the first one copies what the operator keeps
        cupy.world.counts.clear()
        options = FAST | {"schedule": Fast(outer=outer, inner=3), "return_masks": False}
        solver.reconstruct(y, operator, strength=0.01, box=None, **options)
        asked.append(cupy.world.counts.copy())
    _, fewer, more = asked
    # waits: for the step that saw no finite value, 9 sums of the certificate, 2 of the change of the image
    assert more - fewer == {
        "graphs": 1, "launches": 19, "operations": 56, "allocations": 57, "uploads": 2, "downloads": 12, "syncs": 12,
    }  # fmt: skip


def test_another_operator_has_recordings_of_its_own(solver):
    one, other, y = blurs()
    solver.reconstruct(y, one, strength=0.01, **FAST)
    assert assert_as_fresh(solver, y, other, strength=0.01)["recorded"]
    assert_as_fresh(solver, y, [one, other], strength=0.01)


def test_other_options_one_after_the_other(solver):
    operator, _, y = blurs()
    for options in (
        {"box": (0.1, 0.9)}, {"box": None},
        {"schedule": Fast(outer=2, inner=3, steps=Halpern(restart_fall=0.9, least_run=0))},
    ):  # fmt: skip
        assert_as_fresh(solver, y, operator, strength=0.01, **options)


def no_values(self, x, z, rows):
    """The variables of the first problem stay."""


def no_constants(self):
    """Those of the steps of the first problem stay; what is not in them is set."""
    box, rows = self.state.term.step_sizes
    self.iteration.set_steps(self.state.sigma, box, rows)


BUGS = {
    "the variables stay": (CudaIteration, "start", no_values),
    "the constants stay": (DeviceSteps, "set_steps", no_constants),
    "the measurements stay": (DeviceSteps, "_measure", lambda self, state: None),
    "the recordings of another operator": (DeviceSteps, "_fit", lambda self, state, rows: True),
}


@pytest.mark.parametrize("bug", BUGS)
def test_what_survives_from_the_first_problem_is_caught(bug, solver, monkeypatch):
    """Each planted once."""
    monkeypatch.setattr(*BUGS[bug])
    one, other, y = blurs()
    solver.reconstruct(y, one, strength=0.01, **ONE_MASK)
    with pytest.raises(AssertionError):
        assert_as_fresh(solver, others(y), other if bug.startswith("the rec") else one, strength=0.05, **ONE_MASK)


def test_what_is_recorded_of_some_images_goes_with_their_problem(solver):
    """Under "gap", where images end one by one, there would be a graph for each set of them."""
    operator, y = problem("circular blur", 3)
    y = y * np.float32([1, 0.1, 0.5])[:, None, None]
    found = solver.reconstruct(
        y, operator, strength=0.01, schedule=Reconstruct(outer=2, inner=20, tol=0.3, check_every=5)
    )
    assert len(set(found.inner_iterations.tolist())) > 1
    (steps,) = [steps for workspace, steps in halpern._kept.items() if workspace.batch == 3]
    everyone = np.arange(3).tobytes()
    assert set(steps.selections) == {everyone}
    assert {key[0] for key in steps.replays} == {everyone}


def test_work_spaces_make_room(solver, cupy):
    """For another shape, even where images cannot be divided; and when asked to, without a collection of circles."""
    operator, _, y = blurs()
    options = {"strength": 0.01, "callback": lambda state: None, **FAST}
    solver.reconstruct(y[:1], operator, **options)
    solver._engine.release()
    empty = cupy.used
    solver.reconstruct(y[:1], operator, **options)
    kept = cupy.used - empty
    assert kept > 8 * 3 * 4 * HEIGHT * WIDTH
    cupy.world.limit = empty + int(2.6 * kept)
    solver.reconstruct(y, operator, **options)
    solver.release_memory()
    assert cupy.used <= empty
    cupy.world.limit = empty + kept // 2
    with pytest.raises(OutOfMemoryError):
        solver.reconstruct(y[:1], operator, **options)


def test_kinds_of_work_spaces_are_not_mixed(solver):
    operator, _, y = blurs()
    denoised = partial(solver.denoise, y[0], 25 / 255, max_outer=1, max_inner=2)
    wanted = denoised()
    assert_as_fresh(solver, y[:1], operator, strength=0.01, **ONE_MASK)
    np.testing.assert_array_equal(denoised(), wanted)
    assert {type(kept).__name__ for _, kept in solver._engine._kept} == {"CudaWorkspace", "CudaReconstructionWorkspace"}
