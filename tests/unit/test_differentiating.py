"""Derivatives at fixed masks against finite differences of float64 solves, and torch's view of them."""

import numpy as np
import oracle
import pytest
from emulator.device import EmulatedDevice
from models import random_model, random_planes_model

from safi_fast import Solver
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.differentiating import projected
from safi_fast.errors import BackendError, InputError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from dense_problem import Dense, analysis_matrix, real  # noqa: E402

from safi_fast.integrations.autograd import denoise  # noqa: E402
from safi_fast.training.network import network_of  # noqa: E402

LEVELS = (5 / 255, 25 / 255, 50 / 255)
SIGMA, BOX = 25 / 255, (0.3, 0.7)
STEP = 1e-5  # of finite differences
MMR = random_model("mmr", 6, boundary="symmetric")


def model_of(planes=1):
    if planes > 1:
        return random_planes_model(planes)
    return random_model("safi", 6, boundary="symmetric", levels=LEVELS, lipschitz=1.0)


def picture(shape=(20, 23), seed=0):
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    smooth = 0.5 + 0.3 * np.sin(rows / 5) * np.cos(columns / 7)
    return (smooth + 0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def held(planes=1):
    """A solve whose last problem some pixels end at the box of: model, image, lambda, Solution and its derivative."""
    model, strength = model_of(planes), 0.03
    image = picture((20, 23) if planes == 1 else (planes, 20, 23))
    solution, vjp = Solver(model).denoise_vjp(
        image, SIGMA, strength=strength, box=BOX, max_outer=3, max_inner=3000, tol=1e-7, return_masks=True,
        channel_axis=None if planes == 1 else 0,
    )  # fmt: skip
    assert 0.02 < np.isin(solution.image, np.float32(BOX)).mean() < 0.6
    return model, image, strength, solution, vjp


@pytest.mark.parametrize("planes", [1, 2])
def test_the_projection_is_that_of_float64(planes):
    """J from a dense pseudo-inverse, with the responses that the solve found to be zero."""
    model, image, strength, solution, vjp = held(planes)
    free, inside = np.argwhere(vjp._workspace.masks()[0] > 0), ~np.isin(solution.image, np.float32(BOX))
    assert 20 < len(free) < image.size
    columns, mask = [], solution.masks.astype(float)
    for place in free:
        unit = np.zeros(mask.shape)
        unit[tuple(place)] = mask[tuple(place)]
        columns.append((inside * oracle.synthesis(unit, model.filters.layers, "symmetric")).ravel())
    n = np.stack(columns, 1)
    for seed in range(3):
        weights = np.random.default_rng(seed).standard_normal(image.shape)
        start = (inside * weights).ravel()
        wanted = start - n @ (np.linalg.pinv(n, rcond=1e-9) @ start)
        found = vjp(weights)
        assert np.linalg.norm(found.image.ravel() - wanted) < 1e-3 * np.linalg.norm(wanted)
        moved = (image - solution.image.astype(float)).ravel()
        scale = np.linalg.norm(wanted) * np.linalg.norm(moved) / strength
        assert abs(found.strength + wanted @ moved / strength) < 1e-3 * scale


def test_gradients_are_near_finite_differences_of_float64():
    """Not nearer here: a float32 solve cannot tell a response of 1e-6 from zero, and each such one is a dimension of
    J.
    """
    model, image, strength, solution, vjp = held()
    weights, direction = np.random.default_rng(1).standard_normal((2, *image.shape))
    found = vjp(weights)
    problem = (solution.masks.astype(float), model.filters.layers, "symmetric")

    def slope(move, grow):
        ends = [
            oracle.solve_dual(image + s * move, strength + s * grow, *problem, steps=1000, box=BOX)[0]
            for s in (STEP, -STEP)
        ]
        return (ends[0] - ends[1]) / (2 * STEP)

    for by_hand, made in ((slope(direction, 0.0), np.vdot(found.image, direction)), (slope(0.0, 1.0), found.strength)):
        assert abs(np.vdot(weights, by_hand) - made) < 5e-3 * np.linalg.norm(weights) * np.linalg.norm(by_hand)


def test_it_is_the_derivative_of_the_float64_solution():
    """A problem whose zero responses float32 finds exactly: its solution is linear in y and lambda as long as they are
    the same, and torch checks that derivative by finite differences.
    """
    model, image, strength = model_of(), picture(seed=1), 0.01
    solution, vjp = Solver(model).denoise_vjp(
        image, SIGMA, strength=strength, box=BOX, max_outer=1, max_inner=3000, tol=1e-7
    )
    workspace = vjp._workspace
    u = real(workspace._channels_first(workspace.dual[workspace.slot, np.arange(1)]))
    dense = Dense(
        np.eye(image.size), analysis_matrix(model, image.shape), mask=np.ones(len(u)),
        free=workspace.masks().ravel() > 0, inside=~np.isin(solution.image, np.float32(BOX)).ravel(),
        x=real(solution.image), box=BOX,
    )  # fmt: skip
    y = torch.tensor(real(image), requires_grad=True)
    grow = torch.tensor(strength, dtype=torch.float64, requires_grad=True)
    x = dense.exact(y, grow)
    rest, wrong = dense.slack(x.detach().numpy(), real(image), strength, u)
    assert rest < 1e-9
    assert wrong < 1e-12
    weights = np.random.default_rng(1).standard_normal(image.shape)
    loss = torch.from_numpy(real(weights))
    assert torch.autograd.gradcheck(lambda *given: dense.exact(*given) @ loss, (y, grow), fast_mode=True)
    (x @ loss).backward()
    found, wanted = vjp(weights), y.grad.numpy()
    assert np.linalg.norm(real(found.image) - wanted) < 1e-3 * np.linalg.norm(wanted)
    scale = np.linalg.norm(wanted) * np.linalg.norm(real(image) - dense.x) / strength
    assert abs(found.strength - grow.grad.item()) < 1e-3 * scale


def test_sigma_moves_lambda_along_its_table():
    model, image = model_of(), picture()
    solution, vjp = Solver(model).denoise_vjp(image, SIGMA * 0.7, max_outer=2, return_masks=True)
    weights = np.ones(image.shape)
    found = vjp(weights)
    low, middle = model.strength.converged[:2]
    share = (0.7 * SIGMA - LEVELS[0]) / (LEVELS[1] - LEVELS[0])
    strength = np.exp((1 - share) * np.log(low) + share * np.log(middle))
    slope = strength * np.log(middle / low) / (LEVELS[1] - LEVELS[0])
    assert found.sigma == pytest.approx(found.strength * slope, rel=1e-4)
    assert np.isfinite(solution.gap)


def test_a_batch_colours_and_units():
    solver, images = Solver(model_of()), np.stack([picture(seed=1), picture(seed=2)])
    weights = np.random.default_rng(3).standard_normal(images.shape)
    whole = solver.denoise_vjp(images, [0.05, 0.1], max_outer=2)[1](weights)
    assert whole.strength.shape == (2,)
    for number, sigma in enumerate((0.05, 0.1)):
        alone = solver.denoise_vjp(images[number], sigma, max_outer=2)[1](weights[number])
        np.testing.assert_allclose(whole.image[number], alone.image, rtol=0, atol=0.02 * np.abs(alone.image).max())
        assert whole.strength[number] == pytest.approx(alone.strength, rel=0.02)
    eight = solver.denoise_vjp(255 * images[0], 255 * 0.05, data_range=255, max_outer=2)[1](weights[0])
    np.testing.assert_allclose(eight.image, whole.image[0], rtol=0, atol=0.02 * np.abs(eight.image).max())
    assert eight.strength == pytest.approx(whole.strength[0], rel=0.02)
    colour = np.stack([picture(seed=4), picture(seed=5), picture(seed=6)], -1)
    solution, vjp = solver.denoise_vjp(colour, 0.1, channel_axis=-1, max_outer=2)
    found = vjp(np.ones(colour.shape))
    assert found.image.shape == colour.shape == solution.image.shape
    assert found.image.sum() == pytest.approx((~np.isin(solution.image, [0, 1])).sum(), rel=0.05)


def test_a_constant_passes_on_and_projections_stay():
    """W has zero mean, so a change of the level passes; J J = J."""
    solver, image = Solver(model_of()), picture()
    vjp = solver.denoise_vjp(image, SIGMA, box=None, max_outer=2)[1]
    np.testing.assert_allclose(vjp(np.ones(image.shape)).image, 1, rtol=0, atol=1e-3)
    once = vjp(picture(seed=9)).image
    np.testing.assert_allclose(vjp(once).image, once, rtol=0, atol=5e-3)


def test_conjugate_residuals_of_a_matrix():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    matrix = (basis[:, :5] * np.arange(1, 6)) @ basis[:, :5].T
    start = rng.standard_normal((2, 3, 4))
    found, _ = projected(start, lambda x: (x.reshape(2, 12) @ matrix).reshape(x.shape).astype(np.float32), enough=1e-6)
    wanted = start.reshape(2, 12) @ (np.eye(12) - basis[:, :5] @ basis[:, :5].T)
    np.testing.assert_allclose(found.reshape(2, 12), wanted, rtol=0, atol=1e-4)


def test_the_derivative_keeps_the_threads_of_its_solver():
    """Its work space is made for so many: on more, kernels would write beyond it."""
    image = picture((64, 70))
    one, all_ = (Solver(model_of(), threads=threads).denoise_vjp(image, 0.1, max_outer=1)[1] for threads in (1, None))
    np.testing.assert_allclose(one(image).image, all_(image).image, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "converged"}, "schedule is 'converged'; derivatives are those of 'gap' and 'unrolled'"),
        ({"noise": "poisson"}, "derivatives are for Gaussian noise"),
        ({"sigma": np.full((20, 23), 0.1)}, "sigma as a number or one per image"),
        ({"max_memory": 1e9}, "leave out callback and max_memory"),
    ],
)
def test_what_has_no_derivative(arguments, message):
    with pytest.raises(InputError, match=message):
        Solver(model_of()).denoise_vjp(picture(), **({"sigma": 0.1} | arguments))


def test_gradients_that_do_not_fit():
    vjp = Solver(model_of()).denoise_vjp(picture(), 0.1, max_outer=1)[1]
    with pytest.raises(InputError, match=r"gradient has shape \(4, 4\); expected \(20, 23\)"):
        vjp(np.ones((4, 4)))
    with pytest.raises(InputError, match="gradient has values that are no finite real numbers"):
        vjp(np.full((20, 23), np.nan))
    with pytest.raises(BackendError, match="derivatives are computed on the CPU"):
        Solver(model_of(), backend=CudaBackend(EmulatedDevice())).denoise_vjp(picture(), 0.1, max_outer=1, max_inner=4)


# ---------------------------------------------------------------------------------------------------------------- torch


def test_torch_differentiates_the_gap_schedule():
    model = model_of()
    y = torch.from_numpy(np.stack([picture(seed=1), picture(seed=2)]))[:, None].requires_grad_()
    sigma = torch.tensor([0.05, 0.1], requires_grad=True)
    x = denoise(y, sigma, model=model, max_outer=2)
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal(y.shape)).float()
    (x * weights).sum().backward()
    _, vjp = Solver(model).denoise_vjp(y.detach().numpy(), sigma.tolist(), max_outer=2)
    wanted = vjp(weights.numpy())
    np.testing.assert_array_equal(y.grad.numpy(), wanted.image)
    np.testing.assert_allclose(sigma.grad.numpy(), wanted.sigma, rtol=1e-5)
    one, strength = torch.tensor(0.1, requires_grad=True), torch.tensor(0.03, requires_grad=True)
    denoise(y.detach(), one, strength=strength, model=model, max_outer=2).sum().backward()
    assert one.grad == 0
    assert strength.grad.shape == ()


@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_torch_differentiates_every_step_and_mask(family):
    model = random_model(family, 6, boundary="symmetric", levels=LEVELS, lipschitz=1.0)
    y = torch.from_numpy(picture()).requires_grad_()
    sigma = torch.tensor(0.1, requires_grad=True)
    x = denoise(y, sigma, model=model, schedule="unrolled", max_outer=3, max_inner=5)
    np.testing.assert_array_equal(
        x.detach().numpy(), Solver(model).denoise(y.detach().numpy(), sigma.item(), max_outer=3, max_inner=5)
    )
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal(y.shape)).float()
    (x * weights).sum().backward()
    again, level = y.detach().clone().requires_grad_(), sigma.detach().clone().requires_grad_()
    network = network_of(model)
    made = network(again[None, None], level.expand(1), 3, 5)[0, 0]
    torch.testing.assert_close(made, x.detach(), rtol=0, atol=1e-5)
    (made * weights).sum().backward()
    torch.testing.assert_close(y.grad, again.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(sigma.grad, level.grad, rtol=1e-3, atol=1e-5)


def test_a_denoiser_inside_a_network_trains():
    """A convolution in front of the denoiser learns to undo a change of contrast."""
    model, clean = model_of(), torch.from_numpy(picture()).clamp(0.1, 0.9)
    layer = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.constant_(layer.weight, 0.6)
    torch.nn.init.constant_(layer.bias, 0.1)
    optimizer, losses = torch.optim.Adam(layer.parameters(), 0.05), []
    for _ in range(12):
        optimizer.zero_grad()
        made = denoise(layer(clean[None, None])[:, 0], 0.02, model=model, max_outer=1, max_inner=60)
        loss = (made - clean).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (torch.zeros((20, 23)), {"strength": "weak"}, "strength is 'weak'; expected a number or a tensor"),
        (np.zeros((20, 23)), {}, "image is ndarray; expected a tensor"),
        (torch.zeros((20, 23), dtype=torch.int32), {}, r"image is torch\.int32"),
        (torch.zeros((20, 23)), {"schedule": "converged"}, "schedule is 'converged'; expected 'gap' or 'unrolled'"),
        (torch.zeros((20, 23)), {"model": MMR, "schedule": "unrolled", "box": None}, "box was passed, but schedule is"),
        (torch.zeros((20, 23)), {"model": MMR, "schedule": "unrolled", "strength": 0.1}, "strength was passed"),
    ],
)
def test_what_torch_may_not_pass(image, options, message):
    with pytest.raises(InputError, match=message):
        denoise(image, 0.1, **({"model": model_of()} | options))
