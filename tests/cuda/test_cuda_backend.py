"""The CUDA backend in the emulator: whole solves equal those of the CPU backend, and its launches depend on nothing
they should not.
"""

from functools import cache

import numpy as np
import pytest
from emulator.device import EmulatedDevice
from models import conditions, random_mmr_mask, random_model, random_safi_mask

import safi_fast.api as api
from safi_fast import Solver, load_model
from safi_fast.bindings.cpu import CpuBackend
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.cuda_workspace import CudaWorkspace
from safi_fast.solver.lipschitz import squared_norm

SIZE = (48, 40)
SIGMA = 25 / 255
AGREEMENT = 1e-4  # in any pixel: float32 rounding grows over the steps of a whole solve
# On tensor cores: about what one product of two numbers near 1 is off at most, 2^-10 in TF32 and 3 * 2^-16 in bf16x3,
# which is 4.6e-5 (cuda_bench.py). Sums of products are off by less than that in relation to their terms, and a dual
# step does not magnify it.
TENSOR_AGREEMENT = {"tf32": 1e-3, "bf16x3": 2e-5}
# root mean square of a whole solve: three times what the emulator has (docs/gpu.md, precisions against float64)
SHIPPED_AGREEMENT = {"float32": 2e-5, "tf32": 2e-3, "bf16x3": 2e-4}


@cache
def model_of(name):
    """Models by what matters to the kernels: family, border, layout."""
    rng = np.random.default_rng(3)
    if name == "shipped":
        return load_model("safi-gray")
    if name == "safi, published layout":  # three layers of 7 x 7, zeros around each of them
        mask = random_safi_mask(rng, 8, kernels=(7, 7, 7), dilations=(1, 1, 1))
        return random_model(channels=8, kernels=(7, 7), mask=mask)
    if name == "mmr, published layout":
        return random_model("mmr", 8, kernels=(7, 7), mask=random_mmr_mask(rng, 8, (7, 7)))
    if name == "mmr, one smoothing layer":
        return random_model("mmr", 5, kernels=(5,), boundary="symmetric", mask=random_mmr_mask(rng, 5, (9,)))
    if name == "safi, two mask layers":
        return random_model(channels=5, kernels=(5,), boundary="symmetric", dilations=(1, 3))
    return random_model(channels=5, kernels=(5, 3), boundary="symmetric", dilations=(1, 3, 3))


MODELS = (
    "safi, published layout",
    "mmr, published layout",
    "mmr, one smoothing layer",
    "safi, symmetric",
    "safi, two mask layers",
)


def noisy(count, size=SIZE, seed=1):
    """(B, H, W): a disc and a grating of its own per image, with noise."""
    rng, (height, width) = np.random.default_rng(seed), size
    y, x = np.mgrid[:height, :width] / max(size)
    clean = [0.3 + 0.4 * ((y - 0.5) ** 2 + (x - 0.4) ** 2 < 0.1) + 0.2 * np.sin((9 + 4 * i) * x) for i in range(count)]
    return np.clip(clean + SIGMA * rng.standard_normal((count, *size)), 0, 1).astype(np.float32)


def solver_of(monkeypatch, model, mode=None, precision="float32"):
    """On the CPU, with a mode on the emulator, or on a device."""

    def select(_, precision):
        if mode is None:
            return CpuBackend()
        return CudaBackend(EmulatedDevice(mode) if isinstance(mode, str) else mode, precision)

    monkeypatch.setattr(api, "select", select)
    return Solver(model, precision=precision)


def both(monkeypatch, model, y, mode="plain", *, precision="float32", **options):
    """The solutions of the CPU and of the emulator."""
    return [
        solver_of(monkeypatch, model, on, precision).denoise(
            y, SIGMA, return_solution=True, return_masks=True, **options
        )
        for on in (None, mode)
    ]


@pytest.mark.parametrize(("name", "count"), [(MODELS[0], 3), (MODELS[1], 1), (MODELS[2], 3), (MODELS[3], 1)], ids=str)
def test_unrolled_solve_equals_the_cpu(monkeypatch, name, count):
    cpu, cuda = both(monkeypatch, model_of(name), noisy(count), schedule="unrolled")
    np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=AGREEMENT)
    np.testing.assert_allclose(cuda.masks, cpu.masks, rtol=0, atol=10 * AGREEMENT)  # the slopes of the splines
    np.testing.assert_allclose(cuda.gap, cpu.gap, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(cuda.inner_iterations, cpu.inner_iterations)
    assert np.abs(cpu.image - noisy(count)).mean() > 0.005, "an image that does not change tests nothing"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", *TENSOR_AGREEMENT])
@pytest.mark.parametrize("name", ["shipped", *MODELS])
def test_unrolled_solve_on_a_gpu_equals_the_cpu(monkeypatch, gpu, name, precision):
    cpu, cuda = both(monkeypatch, model_of(name), noisy(3), gpu, precision=precision, schedule="unrolled")
    if name == "shipped":  # its five mask layers enlarge rounding in single pixels
        assert np.sqrt(np.mean((cuda.image - cpu.image) ** 2)) <= SHIPPED_AGREEMENT[precision]
    else:
        np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=TENSOR_AGREEMENT.get(precision, AGREEMENT))


@pytest.mark.gpu
def test_arrays_on_a_gpu_come_back_there(gpu):
    cupy = pytest.importorskip("cupy")
    y = noisy(1)[0]
    result = Solver("safi-gray", backend="cuda").denoise(cupy.asarray(y), SIGMA)
    assert isinstance(result, cupy.ndarray)
    np.testing.assert_allclose(
        cupy.asnumpy(result), Solver("safi-gray", backend="cpu").denoise(y, SIGMA), rtol=0, atol=AGREEMENT
    )


def test_shipped_model_equals_the_cpu(monkeypatch):
    cpu, cuda = both(monkeypatch, model_of("shipped"), noisy(1)[0], schedule="unrolled")
    np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=AGREEMENT)


@pytest.mark.parametrize("precision", TENSOR_AGREEMENT)
@pytest.mark.parametrize("name", ["safi, published layout", "mmr, one smoothing layer"])
def test_unrolled_solve_on_tensor_cores_equals_the_cpu(monkeypatch, name, precision):
    """A whole solve. A thirtieth of the bound is exceeded: a kernel of another precision would not."""
    cpu, cuda = both(monkeypatch, model_of(name), noisy(1, (16, 33)), schedule="unrolled", precision=precision)
    np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=TENSOR_AGREEMENT[precision])
    np.testing.assert_allclose(cuda.masks, cpu.masks, rtol=0, atol=10 * TENSOR_AGREEMENT[precision])
    assert np.abs(cuda.image - cpu.image).max() > TENSOR_AGREEMENT[precision] / 30
    np.testing.assert_array_equal(cuda.inner_iterations, cpu.inner_iterations)


@pytest.mark.parametrize("width", [33, 35, 37])
def test_remainders_of_the_width_on_tensor_cores(monkeypatch, width):
    """Tensor kernels write pairs of columns, the others fours: what only one of them writes is never seen."""
    for name in ("mmr, one smoothing layer", "safi, symmetric"):
        options = {"schedule": "unrolled", "max_outer": 2, "max_inner": 2, "precision": "bf16x3"}
        cpu, cuda = both(monkeypatch, model_of(name), noisy(1, (9, width)), **options)
        np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=TENSOR_AGREEMENT["bf16x3"])


def test_whole_solve_on_tensor_cores_in_check_mode(monkeypatch):
    options = {"schedule": "unrolled", "max_outer": 2, "max_inner": 2}
    for name, precision in (("safi, symmetric", "tf32"), ("mmr, one smoothing layer", "bf16x3")):
        cpu, cuda = both(monkeypatch, model_of(name), noisy(1, (14, 18)), "check", precision=precision, **options)
        np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=TENSOR_AGREEMENT[precision])


@pytest.mark.parametrize("precision", TENSOR_AGREEMENT)
def test_an_image_alone_equals_the_same_in_a_batch_on_tensor_cores(monkeypatch, precision):
    y = noisy(2, (9, 33))
    solver = solver_of(monkeypatch, model_of("safi, symmetric"), "plain", precision)
    options = {"schedule": "unrolled", "max_outer": 2, "max_inner": 3}
    batch = solver.denoise(y, SIGMA, **options)
    for image, together in zip(y, batch, strict=True):
        np.testing.assert_array_equal(solver.denoise(image, SIGMA, **options), together)


@pytest.mark.parametrize("width", range(41, 49))
def test_every_remainder_of_the_width(monkeypatch, width):
    """Columns that only fill up the last eight are never seen: two outer steps, whose masks pass through the spare slot
    of u.
    """
    model = model_of("mmr, one smoothing layer")
    cpu, cuda = both(monkeypatch, model, noisy(1, (20, width)), schedule="unrolled", max_outer=2, max_inner=3)
    np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["safi, symmetric", "mmr, published layout"])
def test_gap_schedule_equals_the_cpu_in_image_and_certificate(monkeypatch, name):
    """Where it looks at every step."""
    monkeypatch.setattr(CudaWorkspace, "check_every", 1)
    options = {"schedule": "gap", "tol": 1e-3, "max_outer": 4, "max_inner": 60}
    cpu, cuda = both(monkeypatch, model_of(name), noisy(2), **options)
    np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=AGREEMENT)
    np.testing.assert_allclose(cuda.relative_gap, cpu.relative_gap, rtol=1e-2, atol=1e-6)
    for here, there in zip(cpu.history, cuda.history, strict=True):
        np.testing.assert_allclose(there.objective, here.objective, rtol=1e-5)
        np.testing.assert_allclose(there.outer_residual, here.outer_residual, rtol=1e-2, atol=1e-6)
    np.testing.assert_array_equal(cuda.status, cpu.status)


def test_gap_schedule_looks_at_every_fourth_step(monkeypatch):
    """The same certificate, after a few more steps at most for each mask; limits are kept."""
    options = {"schedule": "gap", "tol": 1e-3}
    cpu, cuda = both(monkeypatch, model_of("safi, symmetric"), noisy(2), **options)
    assert set(cuda.status) == {"converged"}
    assert (cuda.relative_gap <= 1e-3).all()
    assert (cuda.inner_iterations % CudaWorkspace.check_every == 0).all()
    assert (cuda.inner_iterations <= cpu.inner_iterations + 8 * cpu.outer_iterations).all()
    assert np.abs(cuda.image - cpu.image).max() < 0.01
    _, limited = both(monkeypatch, model_of("safi, symmetric"), noisy(2), max_inner=6, max_outer=2, **options)
    assert (limited.inner_iterations <= 12).all()


def test_converged_schedule_equals_the_cpu(monkeypatch):
    """A fixed number of steps per outer step: the tolerance is never met, so both make the same."""
    options = {"schedule": "converged", "tol": 1e-12, "max_outer": 3, "max_inner": 8}
    for name in ("safi, symmetric", "mmr, published layout"):
        cpu, cuda = both(monkeypatch, model_of(name), noisy(1), **options)
        np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=AGREEMENT)


def test_whole_solve_in_check_mode(monkeypatch):
    """No race between the kernels of a step, and nothing read that no kernel wrote."""
    for name in ("safi, symmetric", "mmr, one smoothing layer"):
        options = {"schedule": "unrolled", "max_outer": 2, "max_inner": 2}
        cpu, cuda = both(monkeypatch, model_of(name), noisy(2, (18, 20)), "check", **options)
        np.testing.assert_allclose(cuda.image, cpu.image, rtol=0, atol=AGREEMENT)


@pytest.mark.parametrize("name", ["safi, symmetric", "mmr, one smoothing layer"])
def test_an_image_alone_equals_the_same_in_a_batch(monkeypatch, name):
    y = noisy(3)
    solver = solver_of(monkeypatch, model_of(name), "plain")
    options = {"schedule": "unrolled", "max_outer": 3, "max_inner": 5}
    batch = solver.denoise(y, SIGMA, **options)
    for image, together in zip(y, batch, strict=True):
        np.testing.assert_array_equal(solver.denoise(image, SIGMA, **options), together)


@pytest.mark.parametrize("name", ["safi, symmetric", "mmr, one smoothing layer"])
def test_images_that_are_done_do_not_change_the_others(monkeypatch, name):
    monkeypatch.setattr(CudaWorkspace, "check_every", 1)
    """The gap schedule drops images as they finish; the last one must not notice."""
    y, strength = noisy(3), np.array([0.001, 0.02, 0.06])
    solver = solver_of(monkeypatch, model_of(name), "plain")
    options = {"schedule": "gap", "tol": 1e-2, "max_outer": 5, "max_inner": 40, "return_solution": True}
    batch = solver.denoise(y, SIGMA, strength=strength, **options)
    alone = [solver.denoise(y[i], SIGMA, strength=strength[i], **options) for i in range(3)]
    assert len(set(batch.inner_iterations)) > 1
    for i in range(3):
        np.testing.assert_array_equal(batch.image[i], alone[i].image)
        assert batch.gap[i] == alone[i].gap


# ---------------------------------------------------------------------------------------------------------- workspaces
def workspaces(name, y, mode="plain"):
    """Loaded, of the CPU and of the emulator."""
    made = []
    for backend in (CpuBackend(), CudaBackend(EmulatedDevice(mode))):
        workspace = backend.prepare(model_of(name)).workspace(*y.shape)
        load(workspace, y)
        made.append(workspace)
    return made


def load(workspace, y):
    count = len(y)
    workspace.load(y, np.full(count, 0.05, np.float32), np.full(count, 0.8, np.float32), (0.0, 1.0))


def solve(workspace, momenta, *, together, sizes=None):
    """Four outer steps of some dual steps each, as one call or one by one; everything that can be seen of them."""
    everyone = np.arange(workspace.batch)
    gain = np.tile(conditions(workspace.weights.model)[0], (workspace.batch, 1))
    workspace.start_dual(everyone)
    for outer in range(4):
        if outer:
            workspace.collapse_momentum(everyone)
            workspace.update_mask(everyone, gain, 0 * gain)
        workspace.refresh(everyone)
        if together:
            workspace.steps(everyone, momenta, sizes)
        else:
            for momentum in momenta:
                workspace.step(everyone, momentum)
        workspace.accept(everyone, "primal")
    seen = [
        np.array(workspace.image()),
        workspace.masks(),
        workspace.measure(everyone),
        workspace.outer_change(everyone),
    ]
    workspace.accept(everyone, "previous")
    return [*seen, np.array(workspace.image()), workspace.measure(everyone, previous=True)]


MOMENTA = np.float32([[0, 0], [0.28, 0.3], [0.43, 0.2], [0.5, 0.6]])


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", MODELS)
def test_replayed_steps_equal_single_steps(name, count):
    """Steps without and with a mask are recorded; those of later outer steps are replayed with other masks."""
    y = noisy(2, (20, 36))
    single, replayed = (solve(workspaces(name, y)[1], MOMENTA[:count], together=together) for together in (False, True))
    for one, other in zip(single, replayed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_of_other_sizes():
    """Learned step sizes: the same on both backends, and the usual size for the steps that follow."""
    y, sizes = noisy(2, (20, 36)), np.float32([[0.5, 1.5], [1.2, 0.7], [0.9, 1.1], [2.0, 0.4]])
    seen = [solve(w, MOMENTA, together=True, sizes=sizes) for w in workspaces("safi, symmetric", y)]
    usual = solve(workspaces("safi, symmetric", y)[0], MOMENTA, together=True)
    assert abs(seen[0][0] - usual[0]).max() > 1e-3
    for ours, expected in zip(seen[1], seen[0], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=200 * np.finfo(np.float32).eps * np.abs(expected).max())
    for workspace in workspaces("safi, symmetric", y):
        solve(workspace, MOMENTA, together=True, sizes=sizes)
        load(workspace, y)
        np.testing.assert_allclose(solve(workspace, MOMENTA, together=True)[0], usual[0], rtol=0, atol=1e-5)


def test_steps_are_recorded_once():
    workspace = workspaces("safi, symmetric", noisy(2, (20, 36)))[1]
    everyone, captures = np.arange(2), []
    capture = workspace.device.capture
    workspace.device.capture = lambda launch: captures.append(launch) or capture(launch)
    workspace.start_dual(everyone)
    workspace.refresh(everyone)
    for momenta in (MOMENTA, 0.5 * MOMENTA, MOMENTA):
        workspace.steps(everyone, momenta)
    assert len(captures) == 1


@pytest.mark.parametrize("name", MODELS)
def test_a_workspace_used_again_gives_the_same_as_a_new_one(name):
    y, other = noisy(2, (20, 36)), noisy(2, (20, 36), seed=9)
    used, new = workspaces(name, other)[1], workspaces(name, y)[1]
    solve(used, MOMENTA[::-1], together=True)
    load(used, y)
    for one, two in zip(solve(used, MOMENTA, together=True), solve(new, MOMENTA, together=True), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "plain") for name in MODELS), *((name, "check") for name in MODELS[2:])]
)
def test_every_operation_equals_the_cpu(name, mode):
    """filtered, masks, normal_operator, the sums of a step and of measure, all images that can be accepted."""
    y = noisy(2, (21, 36))
    everyone, seen = np.arange(2), []
    for workspace in workspaces(name, y, mode):
        gain = np.float32([[1.2], [0.9]]) * conditions(workspace.weights.model)[0]
        bias = np.full_like(gain, 0.1)
        values = {"ones": workspace.masks(), "normal": np.array(workspace.normal_operator(y))}
        load(workspace, y)
        workspace.start_dual(everyone)
        workspace.refresh(everyone)
        values["sums"] = np.array([workspace.step(everyone, momentum) for momentum in MOMENTA])
        for which in ("extrapolated", "previous", "primal"):
            workspace.accept(everyone, which)
            values[which] = np.array(workspace.image())
        values["change"] = workspace.outer_change(everyone)
        workspace.collapse_momentum(everyone)
        workspace.update_mask(everyone, gain, bias.astype(np.float32))
        values["masks"] = workspace.masks()
        workspace.clear_dual(everyone)
        workspace.refresh(everyone)
        values["sums with masks"] = workspace.step(everyone, MOMENTA[1])
        values["filtered"] = workspace.filtered()
        seen.append(values)
    for what, expected in seen[0].items():
        # a solve of four steps: some ten roundings of the largest value, times the slopes of the splines in the masks
        bound = (200 if what == "masks" else 40) * np.finfo(np.float32).eps * np.abs(expected).max()
        np.testing.assert_allclose(seen[1][what], expected, rtol=0, atol=bound, err_msg=what)


def test_inactive_images_stay_as_they_are():
    """Every operation on images 0 and 2 leaves what can be seen of image 1 untouched, bit for bit."""
    y = noisy(3, (20, 36))
    for name in ("safi, symmetric", "mmr, published layout"):
        workspace = workspaces(name, y)[1]
        everyone, some = np.arange(3), np.array([0, 2])
        gains = np.tile(conditions(workspace.weights.model)[0], (3, 1))
        workspace.start_dual(everyone)
        workspace.refresh(everyone)
        workspace.step(everyone, np.full(3, 0.3, np.float32))
        workspace.accept(everyone, "primal")
        workspace.collapse_momentum(everyone)
        workspace.update_mask(everyone, gains, 0 * gains)

        def arrays(workspace=workspace):
            device = workspace.device
            slots = [device.download(array)[:, 1] for array in (workspace.dual, workspace.z, workspace.image_slots)]
            single = (workspace.mask, workspace.slot, workspace._accepted(), workspace.carried, workspace.reference)
            return [*slots, *(device.download(array)[1] for array in single)]

        before = arrays()
        workspace.start_dual(some)
        workspace.refresh(some)
        workspace.step(some, np.full(3, 0.2, np.float32))
        workspace.steps(some, np.full((3, 3), 0.3, np.float32))
        workspace.measure(some)
        workspace.accept(some, "previous")
        workspace.outer_change(some)
        workspace.collapse_momentum(some)
        workspace.update_mask(some, 2 * gains, gains)
        workspace.clear_dual(some)
        workspace.put_image(some, np.zeros_like(y))
        for then, now in zip(before, arrays(), strict=True):
            np.testing.assert_array_equal(now, then)


def test_nothing_to_do_launches_nothing():
    workspace = workspaces("safi, symmetric", noisy(2, (20, 36)))[1]
    nobody, before = np.arange(0), workspace.device.launches
    workspace.refresh(nobody)
    assert workspace.device.launches == before


def test_squared_norm_equals_the_cpu():
    for name in MODELS:
        norms = [squared_norm(b.prepare(model_of(name)), 21, 36) for b in (CpuBackend(), CudaBackend(EmulatedDevice()))]
        assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_arrays_of_the_device_are_taken():
    y = noisy(2, (20, 36))
    backend = CudaBackend(EmulatedDevice())
    workspace = backend.prepare(model_of("safi, symmetric")).workspace(*y.shape)
    there = backend.device.upload(y)
    load(workspace, there)
    np.testing.assert_array_equal(backend.to_host(workspace.image()), y)
    np.testing.assert_array_equal(backend.to_host(there), y)


def test_memory_is_given_back():
    backend = CudaBackend(EmulatedDevice())
    engine = backend.prepare(model_of("safi, symmetric"))
    before = backend.device.live_arrays
    workspace = engine.workspace(1, 20, 36)
    load(workspace, noisy(1, (20, 36)))
    solve(workspace, MOMENTA[:, :1], together=True)
    assert backend.device.live_arrays > before
    del workspace
    assert backend.device.live_arrays == before
