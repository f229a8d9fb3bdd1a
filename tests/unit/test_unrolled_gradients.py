"""Derivatives of schedule="unrolled" by the kernels, against torch's graph of the same steps in float64."""

import numpy as np
import pytest
from models import random_model, random_planes_model

from safi_fast import Solver, Unrolled
from safi_fast.bindings import cpu_recording
from safi_fast.errors import InputError
from safi_fast.model import StepFactors

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.nn import functional  # noqa: E402

from safi_fast.integrations.autograd import denoise  # noqa: E402
from safi_fast.solver.momentum import fista  # noqa: E402
from safi_fast.training.network import network_of  # noqa: E402
from safi_fast.training.spline import spline, use_torch  # noqa: E402

LEVELS = (5 / 255, 25 / 255, 50 / 255)
SHAPE, SIGMAS = (24, 30), (0.05, 0.11)
OUTER, INNER = 3, 5
NEAR = 2e-6  # relative; torch's own float32 graph is 1e-7 to 2e-7 from float64


def model_of(boundary="symmetric", **parts):
    return random_model("safi", 6, boundary=boundary, levels=LEVELS, lipschitz=1.0, **parts)


def pictures(planes=1, count=2):
    """Noisy images with pixels beyond [0, 1]: (B, H, W) or (B, P, H, W)."""
    shape = (count, *SHAPE) if planes == 1 else (count, planes, *SHAPE)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    smooth = 0.5 + 0.5 * np.sin(rows / 5) * np.cos(columns / 7)
    return (smooth + 0.08 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def weights(like):
    return np.random.default_rng(1).standard_normal(like.shape)


def zero_padded(model, network, y, sigma):
    """The unrolled schedule with zeros outside of every layer, which the training network does not know."""
    layers = [torch.tensor(layer, dtype=torch.float64) for layer in model.filters.layers]
    at, mask = network.at(sigma), None

    def analysis(x):
        for layer in layers:
            x = functional.conv2d(x, layer, padding=layer.shape[-1] // 2)
        return x

    def image(u, mask):
        z = u if mask is None else mask * u
        for layer in reversed(layers):
            z = functional.conv_transpose2d(z, layer, padding=layer.shape[-1] // 2)
        return (y - z).clamp(0, 1)

    u = v = analysis(y)
    for outer in range(OUTER):
        if outer:
            z = image(u, mask)
            for i, (kernel, dilation) in enumerate(zip(network.convolutions, network.dilations, strict=True)):
                reach = dilation * (kernel.shape[-1] // 2)
                z = functional.conv2d(z, kernel, padding=reach, dilation=dilation)
                z = spline(z if i else z * at.gain, network.splines[i])
            mask, u = torch.sigmoid(z + at.bias), v
        for momentum, _ in zip(fista(), range(INNER), strict=False):
            seen = analysis(image(v, mask))
            moved = v + (seen if mask is None else mask * seen)
            u, before = torch.minimum(torch.maximum(moved, -at.strength), at.strength), u
            v = u + momentum * (u - before)
    return image(u, mask)


def by_torch(model, y, sigmas):
    """Result and gradients of y and sigma in float64."""
    network = network_of(model).double().requires_grad_(False)
    image = torch.tensor(y, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(sigmas, dtype=torch.float64, requires_grad=True)
    batch = image.reshape(len(y), -1, *SHAPE)
    symmetric = model.filters.boundary == "symmetric"
    with use_torch():
        made = network(batch, sigma, OUTER, INNER) if symmetric else zero_padded(model, network, batch, sigma)
        made = made.reshape(y.shape)
        found = torch.autograd.grad((made * torch.tensor(weights(y))).sum(), (image, sigma), allow_unused=True)
    return made.detach().numpy(), *(None if part is None else part.numpy() for part in found)


def by_kernels(model, y, sigmas, **options):
    return Solver(model).denoise_vjp(
        y, sigmas, schedule="unrolled", **({"max_outer": OUTER, "max_inner": INNER} | options)
    )


def assert_near(found, wanted):
    assert np.linalg.norm(found - wanted) <= NEAR * np.linalg.norm(wanted)


def assert_same(first, second):
    for name in ("image", "sigma", "strength"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


LEARNED = StepFactors(np.linspace(1.2, 0.6, 12), np.linspace(0.3, 0.7, 12))


@pytest.mark.parametrize(
    "model",
    [model_of(), model_of("zero"), model_of(composed=True, steps=LEARNED, dilations=(2, 1, 3))],
    ids=["symmetric", "zero", "learned"],
)
def test_gradients_are_those_of_float64(model):
    y = pictures()
    x, to_y, to_sigma = by_torch(model, y, SIGMAS)
    assert 0.01 < np.isin(x, [0, 1]).mean() < 0.5
    solution, vjp = by_kernels(model, y, SIGMAS)
    np.testing.assert_allclose(solution.image, x, rtol=0, atol=2e-6)
    found = vjp(weights(y))
    for number in range(len(y)):
        assert_near(found.image[number], to_y[number])
        assert found.sigma[number] == pytest.approx(to_sigma[number], rel=1e-5)
    assert found.steps == OUTER * INNER


def test_gradients_of_several_planes():
    model, y = random_planes_model(2), pictures(2)
    x, to_y, _ = by_torch(model, y, (25 / 255,) * 2)
    solution, vjp = by_kernels(model, y, 25 / 255, channel_axis=1)
    np.testing.assert_allclose(solution.image, x, rtol=0, atol=2e-6)
    found = vjp(weights(y))
    assert_near(found.image, to_y)
    assert (found.sigma == 0).all()


def test_strength_is_differentiated_where_it_is_given():
    """sigma then acts through the masks alone; L changes with lambda as the derivative says."""
    model, y = model_of(), pictures()[:1]
    lambdas = [model.at(sigma, strength_given=False).strength_unrolled for sigma in SIGMAS[:1]]
    free, held = (by_kernels(model, y, SIGMAS[:1], strength=s)[1](weights(y)) for s in (None, lambdas))
    np.testing.assert_array_equal(free.image, held.image)
    np.testing.assert_array_equal(free.strength, held.strength)
    assert abs(held.sigma - free.sigma) > 1e-2 * abs(free.sigma)
    low, high = ((by_kernels(model, y, SIGMAS[:1], strength=[s * lambdas[0]])[0].image) for s in (0.999, 1.001))
    slope = np.vdot(weights(y), high.astype(float) - low) / (0.002 * lambdas[0])
    assert free.strength == pytest.approx(slope, rel=0.02)


def test_the_result_is_that_of_denoise():
    model, y = model_of(), pictures()
    solution, vjp = Solver(model).denoise_vjp(y, SIGMAS, schedule=Unrolled(2, 3))
    plain = Solver(model).denoise(y, SIGMAS, schedule=Unrolled(2, 3), return_solution=True)
    np.testing.assert_array_equal(solution.image, plain.image)
    np.testing.assert_array_equal(solution.gap, plain.gap)
    assert_same(vjp(weights(y)), vjp(weights(y)))


def test_a_batch_is_its_images_and_units_are_the_callers():
    model, y = model_of(), pictures()
    whole = by_kernels(model, y, SIGMAS)[1](weights(y))
    for number, sigma in enumerate(SIGMAS):
        alone = by_kernels(model, y[number], sigma)[1](weights(y)[number])
        assert_same(alone, type(alone)(*(part[number] for part in (whole.image, whole.sigma, whole.strength)), 0))
    eight = by_kernels(model, 255 * y, 255 * np.array(SIGMAS), data_range=255)[1](weights(y))
    np.testing.assert_allclose(eight.image, whole.image, rtol=0, atol=1e-3)
    np.testing.assert_allclose(eight.sigma, whole.sigma, rtol=1e-3)


@pytest.mark.parametrize("model", [model_of(), model_of("zero", steps=LEARNED)], ids=["symmetric", "zero"])
def test_steps_that_are_made_again_give_the_same(model, monkeypatch):
    """Bit for bit, and twice; and on any number of threads."""
    y = pictures()
    kept = by_kernels(model, y, SIGMAS)[1](weights(y))
    with monkeypatch.context() as patch:
        patch.setattr(cpu_recording, "MOST", 0)
        vjp = by_kernels(model, y, SIGMAS)[1]
    assert all(segment.record is None for segment in vjp._workspace.segments)
    assert_same(vjp(weights(y)), kept)
    assert_same(vjp(weights(y)), kept)
    options = {"schedule": "unrolled", "max_outer": OUTER, "max_inner": INNER}
    assert_same(Solver(model, threads=1).denoise_vjp(y, SIGMAS, **options)[1](weights(y)), kept)


def test_what_has_no_derivative():
    with pytest.raises(InputError, match="derivatives of 'unrolled' are for the family 'safi'; 'random-mmr' is 'mmr'"):
        by_kernels(random_model("mmr", boundary="symmetric"), pictures()[0], 25 / 255)


def test_torch_takes_channels_boxes_and_strengths():
    """Channels that are solved alone have the gradients of grey images."""
    model, planes = model_of(), pictures(3, 1)[0]
    options = {"model": model, "schedule": "unrolled", "box": (0.2, 0.8), "max_outer": 2, "max_inner": 3}
    color = torch.tensor(np.moveaxis(planes, 0, -1)).requires_grad_()
    grey = torch.tensor(planes).requires_grad_()
    strengths = [torch.tensor(0.05, requires_grad=True) for _ in range(2)]
    x = denoise(color, 25 / 255, strength=strengths[0], channel_axis=-1, color="separate", **options)
    assert 0.05 < ((x == 0.2) | (x == 0.8)).float().mean() < 0.9
    x.sum().backward()
    denoise(grey, 25 / 255, strength=strengths[1], **options).sum().backward()
    torch.testing.assert_close(color.grad, grey.grad.movedim(0, -1), rtol=0, atol=0)
    assert strengths[0].grad == pytest.approx(strengths[1].grad.item(), rel=1e-5)
    assert strengths[0].grad != 0
