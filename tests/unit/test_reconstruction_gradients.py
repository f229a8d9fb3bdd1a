"""Derivatives of `reconstruct` at fixed masks against dense float64 problems, and torch's view of them."""

import numpy as np
import pytest
from emulator.device import EmulatedDevice
from models import random_model, random_planes_model

from safi_fast import Solver
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.errors import BackendError, InputError
from safi_fast.operators import Blur, Downsample, FourierMRI, Mask, ParallelBeamCT, SenseMRI, from_scipy
from safi_fast.solver.saddle import Saddle, minres

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from dense_problem import Dense, analysis_matrix, real  # noqa: E402

from safi_fast.integrations.autograd import reconstruct  # noqa: E402

SHAPE = (14, 16)
STRENGTH = 0.001
BOX = (0.3, 0.75)
NAMES = ("blur", "inpainting", "downsampling", "CT", "MRI", "SENSE", "a matrix")


def model_of(planes=1):
    return random_planes_model(planes) if planes > 1 else random_model("safi", 6, boundary="symmetric")


def picture(shape=SHAPE):
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    smooth = 0.5 + 0.3 * np.sin(rows / 5) * np.cos(columns / 7)
    return (smooth + 0.05 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def operator_of(name):
    rng = np.random.default_rng(3)
    lines = np.zeros(SHAPE, bool)
    lines[:, rng.permutation(SHAPE[1])[:6]] = lines[:, 6:9] = True
    maps = (rng.random((2, 1, 1)) + np.exp(1j * np.arange(SHAPE[1]) * rng.random((2, 1, 1)))).astype(np.complex64)
    kernel = np.outer([1, 3, 1], [1, 2, 1])
    made = {
        "blur": lambda: Blur(kernel / kernel.sum(), SHAPE, "circular"),
        "inpainting": lambda: Mask(rng.random(SHAPE) < 0.6),
        "downsampling": lambda: Downsample(2, SHAPE),
        "CT": lambda: ParallelBeamCT(SHAPE, np.linspace(0, np.pi, 12, endpoint=False), 24),
        "MRI": lambda: FourierMRI(lines, mask_order="centered"),
        "complex MRI": lambda: FourierMRI(lines, mask_order="centered", image="complex"),
        "SENSE": lambda: SenseMRI(np.broadcast_to(maps, (2, *SHAPE)), lines, mask_order="centered"),
        "a matrix": lambda: from_scipy(rng.standard_normal((150, 14 * 16)) / 15, SHAPE),
    }
    return made[name]()


def dense_problem(model, operator, solution, vjp, planes=1):
    """What `solved` solved last."""
    is_complex, workspace = operator.image == "complex", vjp._state.workspace
    size = (planes, *SHAPE) if planes > 1 else SHAPE
    units = np.eye(int(np.prod(size)), dtype=np.float32).reshape(-1, *size)
    a, w = np.stack([real(one) for one in operator.apply(units)], 1), analysis_matrix(model, size)
    if is_complex:
        a = np.hstack([a, np.stack([real(one) for one in operator.apply(np.complex64(1j) * units)], 1)])
        w = np.kron(np.eye(2), w)
    twice, lanes = 2 if is_complex else 1, np.zeros(workspace.dual[0].shape)
    lanes.reshape(-1)[workspace._places] = 1
    inside = np.broadcast_to(vjp._inside, (1, *solution.image.shape)).ravel() > 0
    return Dense(
        a, w, mask=np.tile(real(solution.masks), twice), free=workspace._channels_first(lanes).ravel() > 0,
        inside=np.tile(inside, twice), x=real(solution.image), box=None if is_complex else BOX,
    )  # fmt: skip


def solved(name, model=None, strength=STRENGTH, **options):
    """An operator, its measurement, and the Solution and its derivative."""
    operator = operator_of(name)
    rng, image = np.random.default_rng(1), picture()
    if operator.image == "complex":
        image = (image * np.exp(0.5j * picture()[::-1])).astype(np.complex64)
        options["box"] = None
    noise = rng.standard_normal(operator.shape_out)
    y = operator.check_measurement(operator.apply(image) + np.float32(0.01) * noise)
    limits = {"max_outer": 2, "max_iter": 200, "tol": 1e-5, "box": BOX} | options
    found = Solver(model or model_of()).reconstruct_vjp(y, operator, strength=strength, return_masks=True, **limits)
    return operator, y, *found


def weights_of(image, seed=5):
    parts = np.random.default_rng(seed).standard_normal((2, *image.shape)).astype(np.float32)
    return parts[0] + 1j * parts[1] if np.iscomplexobj(image) else parts[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_a_dense_float64_problem(name):
    strength = 2e-4 if name in ("blur", "downsampling") else STRENGTH  # more leaves them next to nothing
    operator, y, solution, vjp = solved(name, strength=strength)
    dense = dense_problem(model_of(), operator, solution, vjp)
    weights = weights_of(solution.image)
    found = vjp(weights)
    assert dense.free.sum() > 0
    assert 0 < len(dense.basis.T) < len(dense.x)
    passed = dense.a @ dense.inverse() @ real(weights)
    made = real(found.measurement)
    assert np.linalg.norm(made - passed) < 1e-3 * np.linalg.norm(passed)
    misfit = real(y) - dense.a @ dense.x
    scale = np.linalg.norm(passed) * np.linalg.norm(misfit) / strength
    assert abs(found.strength + passed @ misfit / strength) < 1e-3 * scale


def test_it_is_the_derivative_of_the_float64_solution():
    """The sets that float32 found are those of the exact solution, which is linear in y and lambda as long as they are:
    torch checks its derivative by finite differences, and the kernels' is near it.
    """
    operator, y, solution, vjp = solved("a matrix", strength=0.02, max_iter=2000)
    dense = dense_problem(model_of(), operator, solution, vjp)
    workspace = vjp._state.workspace
    u = workspace._channels_first(workspace.dual[0]).astype(float).ravel()
    measured = torch.tensor(real(y), requires_grad=True)
    strength = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    x = dense.exact(measured, strength)
    rest, wrong = dense.slack(x.detach().numpy(), measured.detach().numpy(), 0.02, u)
    assert rest < 1e-9
    assert wrong < 1e-12
    assert np.abs(x.detach().numpy() - dense.x).max() < 1e-4
    weights = weights_of(solution.image)
    loss = torch.from_numpy(real(weights))
    assert torch.autograd.gradcheck(lambda *given: dense.exact(*given) @ loss, (measured, strength), atol=1e-6)
    (x @ loss).backward()
    found = vjp(weights)
    wanted = measured.grad.numpy()
    distance = np.linalg.norm(real(found.measurement) - wanted)
    assert distance < 1e-3 * np.linalg.norm(wanted)
    scale = np.linalg.norm(wanted) * np.linalg.norm(real(y) - dense.a @ dense.x) / 0.02
    assert abs(found.strength - strength.grad.item()) < 1e-3 * scale


def test_images_of_several_planes():
    model, operator = model_of(2), operator_of("blur")
    y = operator.apply(picture((2, *SHAPE)))
    solution, vjp = Solver(model).reconstruct_vjp(
        y, operator, strength=2e-4, box=BOX, max_outer=2, max_iter=60, return_masks=True
    )
    dense = dense_problem(model, operator, solution, vjp, planes=2)
    weights = weights_of(solution.image)
    found = vjp(weights)
    passed = (operator.apply((dense.inverse() @ weights.ravel()).reshape(2, *SHAPE).astype(np.float32))).ravel()
    assert found.measurement.shape == y.shape
    assert np.linalg.norm(found.measurement.ravel() - passed) < 1e-3 * np.linalg.norm(passed)


def test_a_batch_is_its_images(monkeypatch):
    monkeypatch.setattr("safi_fast.reconstruction_gradients.STEPS", 200)
    operators = [operator_of("inpainting"), Mask(np.random.default_rng(9).random(SHAPE) < 0.7)]
    images, options = np.stack([picture(), picture()[::-1]]), {"max_outer": 2, "max_iter": 100}
    y = np.stack([op.apply(image) for op, image in zip(operators, images, strict=True)])
    solver, weights, strengths = Solver(model_of()), weights_of(images), np.array([0.01, 0.02])
    whole = solver.reconstruct_vjp(y, operators, strength=strengths, **options)[1](weights)
    assert whole.measurement.shape == y.shape
    assert whole.strength.shape == whole.residual.shape == (2,)
    for number, operator in enumerate(operators):
        _, vjp = solver.reconstruct_vjp(y[number], operator, strength=strengths[number], **options)
        alone = vjp(weights[number])
        np.testing.assert_allclose(whole.measurement[number], alone.measurement, rtol=0, atol=1e-3)
        assert whole.strength[number] == pytest.approx(alone.strength, rel=1e-3)
        assert whole.steps >= alone.steps
    same = solver.reconstruct_vjp(y[[0, 0]], operators[0], strength=0.01, **options)[1](weights[[0, 0]])
    np.testing.assert_allclose(same.measurement[0], whole.measurement[0], rtol=0, atol=1e-3)


def test_units(monkeypatch):
    """Images from 10 to 260 instead of 0 to 1: measurements pass alike, lambda moves them 250 times as far."""
    monkeypatch.setattr("safi_fast.reconstruction_gradients.STEPS", 200)
    operator, solver, options = operator_of("blur"), Solver(model_of()), {"max_outer": 2, "max_iter": 100}
    image, weights = picture(), weights_of(picture())
    unit = solver.reconstruct_vjp(operator.apply(image), operator, strength=0.01, **options)[1](weights)
    other = solver.reconstruct_vjp(
        operator.apply(250 * image + 10), operator, strength=0.01, data_range=(10, 260), **options
    )[1](weights)
    np.testing.assert_allclose(other.measurement, unit.measurement, rtol=0, atol=0.01 * np.abs(unit.measurement).max())
    assert other.strength == pytest.approx(250 * unit.strength, rel=0.02)


def test_minres_of_matrices():
    rng = np.random.default_rng(0)
    root, n = rng.standard_normal((2, 9, 12)), rng.standard_normal((2, 12, 5))
    quadratic = root.transpose(0, 2, 1) @ root

    def product(matrix):
        return lambda x: np.einsum("bij,bj->bi", matrix, x)

    def system(sigma):
        return Saddle(
            product(quadratic), lambda x: product(n.transpose(0, 2, 1))(x).ravel(),
            lambda p: product(n)(p.reshape(2, 5)), lambda x: x, sigma, np.repeat([0, 1], 5),
        )  # fmt: skip

    b = rng.standard_normal((2, 12))
    found = minres(system(np.array([1.0, 2.0])), b, 100, 1e-12)
    for number in range(2):
        basis = np.linalg.svd(n[number].T)[2][5:].T
        wanted = basis @ np.linalg.solve(basis.T @ quadratic[number] @ basis, basis.T @ b[number])
        np.testing.assert_allclose(found.x[number], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert found.steps < 60
    assert (found.residual <= 1e-12).all()
    nothing = minres(system(np.ones(2)), 0 * b, 100, 1e-6)
    assert nothing.steps == 0
    assert not nothing.x.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "fast"}, "schedule is 'fast'; derivatives are those of 'gap'"),
        ({"callback": print}, "leave out callback and max_memory"),
        ({"max_memory": 1e9}, "leave out callback and max_memory"),
    ],
)
def test_what_has_no_derivative(arguments, message):
    operator = operator_of("blur")
    with pytest.raises(InputError, match=message):
        Solver(model_of()).reconstruct_vjp(operator.apply(picture()), operator, strength=0.01, **arguments)


def test_gradients_that_do_not_fit():
    operator = operator_of("inpainting")
    y, options = operator.apply(picture()), {"strength": 0.01, "max_outer": 1, "max_iter": 20}
    vjp = Solver(model_of()).reconstruct_vjp(y, operator, **options)[1]
    with pytest.raises(InputError, match=r"gradient has shape \(4, 4\); expected \(14, 16\)"):
        vjp(np.ones((4, 4)))
    for bad in (np.full(SHAPE, np.nan), np.full(SHAPE, 1j)):
        with pytest.raises(InputError, match="gradient has values that are no finite real numbers"):
            vjp(bad)
    assert not vjp(np.zeros(SHAPE)).measurement.any()
    with pytest.raises(BackendError, match="derivatives are computed on the CPU alone"):
        Solver(model_of(), backend=CudaBackend(EmulatedDevice())).reconstruct_vjp(y, operator, **options)


# ---------------------------------------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("name", ["inpainting", "complex MRI"])
def test_torch_differentiates_it(name, monkeypatch):
    monkeypatch.setattr("safi_fast.reconstruction_gradients.STEPS", 60)
    monkeypatch.setattr("safi_fast.integrations.autograd.DOUBTFUL", np.inf)
    operator, options = operator_of(name), {"max_outer": 2, "max_iter": 40}
    if operator.image == "complex":
        options["box"] = None
    given = operator.apply(np.stack([picture(), picture()[::-1]]).astype(operator._imaged))
    y, strength = torch.from_numpy(given).requires_grad_(), torch.tensor([0.01, 0.02], requires_grad=True)
    x = reconstruct(y, operator, strength=strength, model=model_of(), **options)
    weights = torch.from_numpy(weights_of(x.detach().numpy()))
    (x * weights.conj()).real.sum().backward()
    solution, vjp = Solver(model_of()).reconstruct_vjp(given, operator, strength=[0.01, 0.02], **options)
    wanted = vjp(weights.numpy())
    np.testing.assert_array_equal(x.detach().numpy(), solution.image)
    np.testing.assert_allclose(y.grad.numpy(), wanted.measurement, rtol=0, atol=1e-5)
    np.testing.assert_allclose(strength.grad.numpy(), wanted.strength, rtol=1e-4)
    put_off = y.detach()[0].conj().to(torch.promote_types(y.dtype, torch.float64))
    for one in (torch.tensor(0.01, requires_grad=True), torch.tensor([0.01], requires_grad=True)):
        reconstruct(put_off, operator, strength=one, model=model_of(), **options).abs().sum().backward()
        assert one.grad.shape == one.shape
    monkeypatch.setattr("safi_fast.integrations.autograd.DOUBTFUL", 0.0)
    with pytest.warns(UserWarning, match="the gradient of the reconstruction is not exact"):
        reconstruct(y, operator, strength=0.01, model=model_of(), **options).abs().sum().backward()


@pytest.mark.parametrize(
    ("measurement", "strength", "message"),
    [
        (np.zeros(SHAPE), 0.01, "measurement is ndarray; expected a tensor"),
        (torch.zeros(SHAPE, dtype=torch.int32), 0.01, r"measurement is torch\.int32"),
        (torch.zeros(SHAPE), "weak", "strength is 'weak'; expected a number or a tensor"),
    ],
)
def test_what_torch_may_not_pass(measurement, strength, message):
    with pytest.raises(InputError, match=message):
        reconstruct(measurement, operator_of("blur"), strength=strength, model=model_of())
