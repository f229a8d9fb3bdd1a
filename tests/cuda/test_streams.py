"""What CUDA may do out of order, through a CuPy whose streams do nothing before somebody waits for them."""

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from fake_cupy import install
from fake_streams import FakeEvent, FakeStream
from models import random_model
from patience import wait_until
from reconstructions import problem

from safi_fast import BackendError, InputError, OutOfMemoryError, Solver, api, backend, denoise
from safi_fast.backend import BackendReport
from safi_fast.bindings import cuda, cuda_workspace
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.device import CupyDevice
from safi_fast.solver.schedules import Fast

SIGMA = 25 / 255
LIMITS = {"max_outer": 2, "max_inner": 4}
MODEL = random_model("safi", channels=8, kernels=(5,), composed=True, boundary="symmetric", lipschitz=1.1)


@pytest.fixture
def cupy(monkeypatch):
    """Two GPUs; streams are lazy."""
    fake = install(monkeypatch)
    monkeypatch.setattr(backend, "cuda_report", lambda: BackendReport("cuda", True, "a fake"))
    monkeypatch.setattr(backend, "_driver_is_here", lambda: True)
    api._solver.cache_clear()
    yield fake
    assert wait_until(lambda: not any(thread.name == "safi_fast.ahead" for thread in threading.enumerate()))
    api._solver.cache_clear()


@pytest.fixture
def lazy(cupy):
    cupy.world.lazy = True
    return cupy


def pictures(count, shape=(20, 22), seed=3):
    return np.random.default_rng(seed).random((count, *shape)).astype(np.float32)


def expected(images, **options):
    return Solver(MODEL, backend="cpu").denoise(images, SIGMA, **{**LIMITS, **options})


def colour_model():
    """MODEL with filters and first mask layer for three planes."""
    rng = np.random.default_rng(8)
    weights = (1 + rng.random((8, 3, 1, 1)).astype(np.float32)) / 4
    first, *rest = MODEL.mask.convolutions
    mask = replace(MODEL.mask, convolutions=(first * weights, *rest))
    return replace(MODEL, filters=replace(MODEL.filters, layers=(MODEL.filters.layers[0] * weights,)), mask=mask)


def side_stream(cupy):
    """That waits for nobody."""
    return cupy.cuda.Stream(non_blocking=True)


def there(cupy, image):
    """On the GPU, by a copy that is under way on the current stream."""
    array = cupy.array(image)
    assert cupy.world.stream.waiting
    return array


def seen(array):
    """What the host gets of an array that is complete; NaN where a stream still works at it."""
    return array.host.copy()


def assert_close(result, wanted):
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------------------- the fake is unkind
def test_what_nobody_waits_for_is_not_there(lazy):
    one, other = side_stream(lazy), side_stream(lazy)
    with one:
        array = lazy.array(np.ones(3, np.float32))
        double = array + array
    assert np.isnan(seen(double)).all()
    with other:
        copy = double + np.float32(0)
        assert np.isnan(lazy.asnumpy(copy)).all()  # the other stream has not begun
        event = one.record()
        other.wait_event(event)
        assert (lazy.asnumpy(double + np.float32(0)) == 2).all()


def test_the_null_stream_waits_for_blocking_ones(lazy):
    with lazy.cuda.Stream():
        array = lazy.array(np.ones(3, np.float32))
    assert (lazy.asnumpy(array) == 1).all()


# ------------------------------------------------------------------------------------------------------------- ordering
@pytest.mark.parametrize("schedule", ["unrolled", "gap"])
@pytest.mark.parametrize("side", [False, True])
def test_a_solve_follows_the_callers_stream(lazy, monkeypatch, schedule, side):
    monkeypatch.setattr(cuda_workspace.CudaWorkspace, "check_every", 1)
    images = pictures(2)
    options = {"schedule": schedule, **LIMITS}
    with side_stream(lazy) if side else lazy.world.null:
        solver = Solver(MODEL, backend="cuda")
        result = solver.denoise(there(lazy, images), SIGMA, **options)
        assert_close(lazy.asnumpy(result), expected(images, schedule=schedule))
        assert_close(solver.denoise(images, SIGMA, **options), expected(images, schedule=schedule))


def test_images_of_several_planes(lazy):
    """In parts whose copies travel, alone, and on the GPU."""
    model = colour_model()
    images = np.random.default_rng(5).random((5, 3, 20, 22)).astype(np.float32)
    wanted = Solver(model, backend="cpu").denoise(images, SIGMA, channel_axis=1, **LIMITS)
    with side_stream(lazy):
        solver = Solver(model, backend="cuda")
        there_and_back = solver.denoise(there(lazy, images[:2]), SIGMA, channel_axis=1, **LIMITS)
        assert_close(lazy.asnumpy(there_and_back), wanted[:2])
        assert_close(solver.denoise(images[0], SIGMA, channel_axis=0, **LIMITS), wanted[0])
        most = solver.estimate_memory(images[:2].shape, channel_axis=1) + 6 * images.nbytes
        assert_close(solver.denoise(images, SIGMA, channel_axis=1, max_memory=most, **LIMITS), wanted)


def test_weights_are_whole_for_every_stream(lazy):
    """Prepared on one stream, used on another."""
    images = pictures(1)
    with side_stream(lazy):
        solver = Solver(MODEL, backend="cuda")
    with side_stream(lazy):
        assert_close(solver.denoise(images, SIGMA, **LIMITS), expected(images))


def test_weights_that_nobody_waits_for_are_missed(lazy, monkeypatch):
    """The bug planted: `prepare` without its wait."""
    monkeypatch.setattr(CupyDevice, "synchronize", lambda self: None)
    with side_stream(lazy):
        solver = Solver(MODEL, backend="cuda")
    with side_stream(lazy), pytest.raises(Exception, match="finite"):
        solver.denoise(pictures(1), SIGMA, **LIMITS)


@pytest.mark.parametrize("where", ["before", "in the generator", "on a stream of the generator"])
def test_images_of_a_batch_come_from_any_stream(lazy, where):
    images, stream = pictures(3), side_stream(lazy)
    solver = Solver(MODEL, backend="cuda")

    def made():
        own = side_stream(lazy)
        for image in images:
            if where == "in the generator":
                yield lazy.array(image)
            else:
                with own:
                    yield lazy.array(image)

    with stream:
        source = [there(lazy, image) for image in images] if where == "before" else made()
        results = [seen(result) for result in solver.denoise_batch(source, SIGMA, **LIMITS)]
    assert_close(np.stack(results), expected(images))


def test_results_of_a_batch_are_whole_for_every_stream(lazy):
    images = pictures(3)
    solver = Solver(MODEL, backend="cuda")
    for image, result in zip(images, solver.denoise_batch(map(lazy.array, images), SIGMA, **LIMITS), strict=True):
        with side_stream(lazy):
            assert_close(lazy.asnumpy(result + np.float32(0)), expected(image))


@pytest.mark.parametrize("where", ["images", "results"])
def test_a_batch_without_waits_is_caught(lazy, monkeypatch, where):
    """The bugs planted: nobody waits for an image, or for a result, before another thread has it."""
    images, complete = pictures(3), Solver._complete

    def forgetful(self, value):
        image = threading.current_thread() is not threading.main_thread() and value.shape == (20, 22)
        solving = any(stream.waiting and stream.number == 0 for stream in lazy.world.every)
        if where == "images" or not (image and solving):
            return None if where == "images" else complete(self, value)
        return None

    monkeypatch.setattr(Solver, "_complete", forgetful)
    solver, stream = Solver(MODEL, backend="cuda"), side_stream(lazy)
    with stream:
        source = [lazy.array(image) for image in images]
        try:
            results = [seen(result) for result in solver.denoise_batch(source, SIGMA, **LIMITS)]
        except Exception as error:  # NaN that was found
            assert "finite" in str(error) or "NaN" in str(error)  # noqa: PT017
            return
    assert not np.allclose(np.stack(results), expected(images), atol=1e-5)


@pytest.mark.parametrize("hasty", [False, True])
def test_parts_of_a_batch_travel_while_others_are_solved(lazy, monkeypatch, hasty):
    """Copies on streams of their own, in both directions, wait and are waited for."""
    lazy.world.hasty = hasty
    images = pictures(5)
    solver = Solver(MODEL, backend="cuda")
    room = cuda.CudaEngine.workspace_bytes(solver._engine, 2, 20, 22)
    monkeypatch.setattr(cuda.CudaEngine, "batch_bytes", lambda self: room)
    moves, send, fetch = [], CupyDevice.send, CupyDevice.fetch
    monkeypatch.setattr(CupyDevice, "send", lambda self, v: moves.append(("send", len(v))) or send(self, v))
    monkeypatch.setattr(CupyDevice, "fetch", lambda self, v: moves.append(("fetch", len(v))) or fetch(self, v))
    assert_close(solver.denoise(images, SIGMA, **LIMITS), expected(images))
    assert moves == [("send", 2), ("fetch", 2), ("send", 1), ("fetch", 2)]


@pytest.mark.parametrize("bug", ["send", "fetch"])
def test_copies_that_nobody_waits_for_are_caught(lazy, monkeypatch, bug):
    """The bugs planted: `send` gives an array before it has come, `fetch` takes it before it is made."""
    images = pictures(5)
    solver = Solver(MODEL, backend="cuda")
    room = cuda.CudaEngine.workspace_bytes(solver._engine, 2, 20, 22)
    monkeypatch.setattr(cuda.CudaEngine, "batch_bytes", lambda self: room)
    if bug == "fetch":
        lazy.world.hasty = True
        stream = partial(FakeStream, lazy.world, non_blocking=True)
        monkeypatch.setattr(CupyDevice, "_copying", lambda self: stream())
    else:
        monkeypatch.setattr(FakeEvent, "synchronize", lambda self: None)
    try:
        result = solver.denoise(images, SIGMA, **LIMITS)
    except Exception as error:
        assert "finite" in str(error)  # noqa: PT017
        return
    assert not np.allclose(result, expected(images), atol=1e-5)


@pytest.mark.parametrize("way", ["send", "fetch"])
def test_a_copy_that_is_dropped_is_waited_for(lazy, way):
    """Else its memory is used again while it is under way."""
    device = CupyDevice()
    values = device.upload(pictures(1)) if way == "fetch" else pictures(1)
    copy = getattr(device, way)(values)
    assert any(stream.waiting for stream in lazy.world.every)
    waited = lazy.world.counts["syncs"]
    del copy
    assert lazy.world.counts["syncs"] == waited + 1
    assert not any(stream.waiting for stream in lazy.world.every)


@pytest.mark.parametrize("way", ["send", "fetch"])
def test_a_copy_has_arrived_once(lazy, way):
    device, images = CupyDevice(), pictures(1)
    copy = getattr(device, way)(device.upload(images) if way == "fetch" else images)
    values, waited = copy(), lazy.world.counts["syncs"]
    assert copy() is values
    del copy
    assert lazy.world.counts["syncs"] == waited
    np.testing.assert_array_equal(values if way == "fetch" else device.download(values), images)


def test_a_work_space_is_kept_for_its_own_stream(lazy):
    """On another stream the last work on it may not be done."""
    images, used = pictures(1), []
    solver = Solver(MODEL, backend="cuda")
    make = solver._engine.workspace
    solver._engine.workspace = lambda *shape: used.append(make(*shape)) or used[-1]
    streams = [side_stream(lazy), side_stream(lazy)]
    for number in (0, 0, 1, 0, 1):
        with streams[number]:
            assert_close(solver.denoise(images, SIGMA, **LIMITS), expected(images))
    assert [used.index(workspace) for workspace in used] == [0, 0, 2, 0, 2]


def test_reconstruct_follows_the_callers_stream(lazy):
    operator, y = problem("SENSE", 2)
    options = {"strength": 0.01, "box": None, "schedule": Fast(outer=2, inner=8), "noise_level": 0.06}
    with side_stream(lazy):
        found = Solver(MODEL, backend="cuda").reconstruct(y, operator, **options)
    assert np.abs(found.image - Solver(MODEL, backend="cpu").reconstruct(y, operator, **options).image).max() < 1e-4


# --------------------------------------------------------------------------------------------------------- several GPUs
@pytest.mark.parametrize("devices", ["all", [1, 0], [1]])
def test_a_batch_on_several_gpus(lazy, devices):
    images = pictures(7)
    solver = Solver(MODEL, devices=devices)
    results = list(solver.denoise_batch(images, SIGMA, **LIMITS))
    assert_close(np.stack(results), expected(images))
    assert {gpu for *_, gpu in lazy.compiled} == {0, 1} if devices != [1] else {1}
    assert solver._gpu == (0 if devices == "all" else 1)


def test_a_batch_on_several_gpus_names_the_image(cupy):
    images = [*pictures(3), pictures(1)[0] * np.nan, *pictures(2)]
    results = Solver(MODEL, devices="all").denoise_batch(images, SIGMA, **LIMITS)
    for _ in range(3):
        next(results)
    with pytest.raises(InputError, match=r"images\[3\]: image has 440 values that are NaN"):
        next(results)


def test_a_source_that_fails_on_several_gpus(cupy):
    def source():
        yield from pictures(3)
        raise KeyError("the disk")

    results = Solver(MODEL, devices="all").denoise_batch(source(), SIGMA, **LIMITS)
    for _ in range(3):
        next(results)
    with pytest.raises(KeyError, match="the disk"):
        next(results)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([0, 2], r"devices is \[0, 2\]; expected 'all' or different numbers of GPUs, of which there are 2"),
        ([0, 0], "different numbers"),
        ([], "different numbers"),
        ("both", "expected 'all'"),
        (1, "expected 'all'"),
    ],
)
def test_devices_that_are_refused(cupy, devices, message):
    with pytest.raises(InputError, match=message):
        Solver(MODEL, devices=devices)


def test_devices_without_a_gpu(monkeypatch):
    monkeypatch.setattr(backend, "_driver_is_here", lambda: False)
    assert Solver(MODEL, devices="all").backend.name == "cpu"
    with pytest.raises(InputError, match="of which there are 0"):
        Solver(MODEL, devices=[0])
    with pytest.raises(InputError, match="but backend is 'cpu'"):
        Solver(MODEL, backend="cpu", devices="all")


# --------------------------------------------------------------------------------------------------------------- memory
def test_a_batch_is_cut_by_the_memory_that_is_free(cupy):
    images = pictures(8)
    solver = Solver(MODEL, backend="cuda")
    sizes, make = [], solver._engine.workspace
    solver._engine.workspace = lambda *shape: sizes.append(shape[0]) or make(*shape)
    cupy.world.limit = cupy.used + 2 * solver._engine.workspace_bytes(3, 20, 22)
    assert_close(solver.denoise(images, SIGMA, **LIMITS), expected(images))
    assert sizes == [3, 3, 2]


def test_out_of_memory_halves_the_batch(cupy, monkeypatch):
    """Where less was free than it seemed, as another process may bring about."""
    images = pictures(8)
    solver = Solver(MODEL, backend="cuda")
    sizes, make = [], solver._engine.workspace
    solver._engine.workspace = lambda *shape: sizes.append(shape[0]) or make(*shape)
    cupy.world.limit = cupy.used + solver._engine.workspace_bytes(3, 20, 22)
    monkeypatch.setattr(CupyDevice, "free_bytes", lambda self: 2**31)
    assert_close(solver.denoise(images, SIGMA, **LIMITS), expected(images))
    assert sizes[0] == 8
    assert min(sizes) < 8


@pytest.mark.parametrize("call", ["denoise", "reconstruct"])
def test_out_of_memory_says_what_to_do(cupy, call):
    solver = Solver(MODEL, backend="cuda")
    operator, y = problem("blur", 1)
    calls = {
        "denoise": partial(solver.denoise, pictures(1, (48, 40))[0], SIGMA, **LIMITS),
        "reconstruct": partial(solver.reconstruct, y[0], operator, strength=0.1, max_outer=1, max_iter=2),
    }
    cupy.world.limit = cupy.used + 20_000
    with pytest.raises(OutOfMemoryError, match=r"no memory .*\(Out of memory allocating .*\); pass") as caught:
        calls[call]()
    assert isinstance(caught.value, BackendError)
    assert isinstance(caught.value, MemoryError)
    cupy.world.limit = 80 * 2**30
    del caught
    calls[call]()


def test_an_image_on_the_gpu_without_room_for_another(cupy):
    image = cupy.array(pictures(1)[0].astype(np.float64))
    solver = Solver(MODEL, backend="cuda")
    cupy.world.limit = cupy.used + 100
    with pytest.raises(OutOfMemoryError, match=r"no memory for image .*; pass fewer or smaller images"):
        solver.denoise(image, SIGMA, **LIMITS)


def test_kept_work_spaces_make_room(cupy):
    """For an image of another shape, and when asked to."""
    solver = Solver(MODEL, backend="cuda")
    solver.denoise(pictures(1)[0], SIGMA, **LIMITS)
    kept = cupy.used
    cupy.world.limit = kept + 10_000
    with pytest.raises(OutOfMemoryError):
        solver.denoise(pictures(1, (60, 60))[0], SIGMA, **LIMITS)
    assert cupy.used < kept / 4
    cupy.world.limit = 2**30
    solver.denoise(pictures(1)[0], SIGMA, **LIMITS)
    solver.release_memory()
    assert cupy.used < kept / 4


def test_a_batch_without_room_names_the_image(cupy):
    """It is the third of a stream that is larger than the others."""
    images = [*pictures(2), pictures(1, (48, 40))[0]]
    solver = Solver(MODEL, backend="cuda")
    cupy.world.limit = cupy.used + 2 * solver._engine.workspace_bytes(1, 20, 22)
    results = solver.denoise_batch(images, SIGMA, **LIMITS)
    next(results), next(results)
    with pytest.raises(OutOfMemoryError, match=r"^images\[2\]: no memory to solve 1 image"):
        next(results)


def test_release_reaches_every_gpu(cupy):
    solver = Solver(MODEL, devices="all")
    empty = cupy.used
    list(solver.denoise_batch(pictures(2), SIGMA, **LIMITS))
    assert all(one._engine._kept for one in (solver, *solver._others))
    solver.release_memory()
    assert not any(one._engine._kept for one in (solver, *solver._others))
    assert cupy.used <= empty


# ----------------------------------------------------------------------------------------------------- what a call asks
def asked(cupy, call):
    cupy.world.counts.clear()
    call()
    return dict(cupy.world.counts)


def test_the_second_call_of_a_shape_is_one_graph(cupy):
    """An unrolled solve of whose steps nobody asks: what CUDA is asked for, and no more."""
    solver, image = Solver(MODEL, backend="cuda"), pictures(1)[0]
    first, second = (asked(cupy, lambda: solver.denoise(image, SIGMA, **LIMITS)) for _ in range(2))
    assert first["recorded"] > 30
    assert "recorded" not in second
    # launches: set_image, get_image twice; masked_norm, primal_sums and their totals
    # uploads: y, lambda, step size twice, slots, carried, momenta, sizes, turn
    # allocations and downloads: the image and its sums
    assert second == {
        "graphs": 1, "launches": 7, "uploads": 9, "allocations": 1, "downloads": 2, "syncs": 2,
    }  # fmt: skip


def test_the_account_of_every_mask_costs_a_wait_each(cupy):
    solver, image = Solver(MODEL, backend="cuda"), pictures(1)[0]
    options = {"return_solution": True, **LIMITS}
    asked(cupy, lambda: solver.denoise(image, SIGMA, **options))
    second = asked(cupy, lambda: solver.denoise(image, SIGMA, **options))
    assert second["graphs"] == 2
    assert second["syncs"] == second["downloads"] == 5  # certificate and change of each mask, and the image
    assert second["allocations"] == 1


def test_gap_asks_once_for_four_steps(cupy):
    solver, image = Solver(MODEL, backend="cuda"), pictures(1)[0]
    options = {"schedule": "gap", "tol": 1e-3, "return_solution": True}
    solution = solver.denoise(image, SIGMA, **options)
    second = asked(cupy, lambda: solver.denoise(image, SIGMA, **options))
    checks = int(solution.inner_iterations) // cuda_workspace.CudaWorkspace.check_every
    assert second["graphs"] == checks
    assert second["syncs"] <= checks + 5 * int(solution.outer_iterations) + 1


def test_other_options_are_other_recordings(cupy, monkeypatch):
    """A work space that is used again knows nothing of the call before."""
    monkeypatch.setattr(cuda_workspace.CudaWorkspace, "check_every", 1)
    solver, images = Solver(MODEL, backend="cuda"), pictures(2)
    for options in (
        {}, {"box": None}, {"strength": 0.2}, {"max_inner": 3}, {"max_outer": 3}, {"max_inner": 5}, {},
        {"schedule": "gap"}, {"return_masks": True}, {"strength": [0.1, 0.2]},
    ):  # fmt: skip
        assert_close(solver.denoise(images, SIGMA, **{**LIMITS, **options}), expected(images, **options))


def test_a_refused_capture_is_told_once(cupy):
    images = pictures(1)
    solver = Solver(MODEL, backend="cuda")
    cupy.failures["end_capture"] = cupy.error(901)
    with pytest.warns(UserWarning, match=r"CUDA does not record kernels on GPU 0 \(.*901\): they are launched one by"):
        assert_close(solver.denoise(images, SIGMA, **LIMITS), expected(images))
    assert_close(solver.denoise(images, SIGMA, **LIMITS), expected(images))
    assert not cupy.replays


def test_precision_reaches_the_kernels(cupy):
    image = pictures(1)[0]
    wide = random_model("safi", boundary="symmetric", lipschitz=1.1)
    denoise(image, SIGMA, model=wide, backend="cuda", precision="tf32", max_outer=1, max_inner=1)
    assert any("-DCHANNEL_BLOCK=16" in options for _, options, _ in cupy.compiled)
    with pytest.raises(InputError, match="precision is 'half'; expected 'float32', 'tf32' or 'bf16x3'"):
        denoise(image, SIGMA, model=wide, precision="half")
    with pytest.raises(InputError, match="the CPU computes in float32 only"):
        denoise(image, SIGMA, model=wide, backend="cpu", precision="tf32")


def test_a_solver_of_a_backend_of_ones_own(lazy):
    solver = Solver(MODEL, backend=CudaBackend(CupyDevice(1)))
    image = pictures(1)[0]
    assert_close(solver.denoise(image, SIGMA, **LIMITS), expected(image))
    with pytest.raises(InputError, match=r"devices is 'all', but backend is <.*CudaBackend"):
        Solver(MODEL, backend=CudaBackend(CupyDevice(1)), devices="all")
