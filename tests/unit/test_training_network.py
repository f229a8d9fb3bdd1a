"""The torch networks compute what the engine does, and the gradients written by hand are those of torch."""

import subprocess
import sys

import numpy as np
import pytest
from models import random_model

from safi_fast import Solver, load_model
from safi_fast.errors import InputError

torch = pytest.importorskip("torch", reason="training needs PyTorch (extra 'train')")

from safi_fast.training import filters, inner  # noqa: E402
from safi_fast.training.network import fresh_network, level_table, network_of, network_of_state  # noqa: E402
from safi_fast.training.spectral import SpectralSum  # noqa: E402
from safi_fast.training.spline import spline  # noqa: E402

LEVELS = (5 / 255, 25 / 255, 50 / 255)
SIGMAS = (12 / 255, 30 / 255)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def noisy():
    """Two images (2, 40, 33), values beyond both ends of the box."""
    return np.random.default_rng(0).uniform(-0.2, 1.2, (2, 40, 33)).astype(np.float32)


def denoised(network, noisy, sigmas, schedule):
    with torch.no_grad():
        out = network(torch.from_numpy(noisy)[:, None], torch.tensor(sigmas), schedule.outer, schedule.inner)
    return out[:, 0].numpy()


# ------------------------------------------------------------------------------------------------- network and engine


@pytest.mark.parametrize("composed", [True, False])
@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_network_equals_engine(family, composed, noisy):
    """Unrolled schedule, symmetric boundary, between the rows of the tables; rounding is far below the 1e-4 that is
    asked.
    """
    model = random_model(family, 4, composed=composed, boundary="symmetric", levels=LEVELS, lipschitz=1.0)
    expected = Solver(model).denoise(noisy, np.array(SIGMAS))
    assert np.abs(expected - noisy.clip(0, 1)).max() > 0.02, "the solver has something to do"
    np.testing.assert_allclose(denoised(network_of(model), noisy, SIGMAS, model.schedule), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_exported_model_equals_network(family, noisy):
    """For weights that have been trained: none of the scales that a model comes with holds any more."""
    network = network_of(random_model(family, 4, boundary="symmetric", levels=LEVELS, lipschitz=1.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    model = network.to_model("trained", random_model().schedule, {"licence": "MIT"})
    assert (model.lipschitz, model.filters.boundary, model.metadata["licence"]) == (1.0, "symmetric", "MIT")
    expected = Solver(model).denoise(noisy, np.array(SIGMAS))
    np.testing.assert_allclose(denoised(network, noisy, SIGMAS, model.schedule), expected, rtol=0, atol=2e-6)


def test_shipped_model_survives_the_way_to_torch_and_back():
    model = load_model("safi-gray")
    back = network_of(model).to_model(model.name, model.schedule, {})
    np.testing.assert_allclose(back.filters.composed(), model.filters.composed(), rtol=0, atol=1e-7)
    for name, values in back.tensors().items():
        np.testing.assert_allclose(
            values, model.tensors()[name].reshape(values.shape), rtol=1e-5, atol=1e-7, err_msg=name
        )


def test_other_step_sizes_are_divided_out(noisy):
    """lipschitz L: W / sqrt(L) and lambda sqrt(L) pose the same problem, so many steps end at the same image."""
    model = random_model("mmr", 4, boundary="symmetric", levels=(25 / 255,), lipschitz=1.7)
    network = network_of(model)
    schedule = type(model.schedule)("unrolled", 5, 300)
    expected = Solver(model).denoise(noisy, 25 / 255, schedule="unrolled", max_inner=300)
    np.testing.assert_allclose(denoised(network, noisy, (25 / 255,) * 2, schedule), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_a_fresh_network_is_a_valid_model(family):
    network = fresh_network(family, 3, level_table(0, 25), seed=4)
    model = network.to_model("fresh", random_model().schedule, {})
    np.testing.assert_allclose(255 * model.noise_levels, [1, 2, 5, 10, 15, 25])
    assert model.filters.support == 13
    assert filters.squared_norm(network.composed()).item() == pytest.approx(1, rel=1e-5)
    again = network_of_state(family, network.state_dict())
    assert again.to_model("fresh", model.schedule, {}).fingerprint == model.fingerprint


def test_levels_of_a_new_model():
    np.testing.assert_allclose(255 * np.array(level_table(3, 20)), [3, 5, 10, 15, 20])
    np.testing.assert_allclose(255 * np.array(level_table(25, 25)), [25])
    for wrong in ((30, 20), (0, 0.5), (5, 300)):
        with pytest.raises(InputError, match=r"sigma range is .*; expected an ascending range within 1 to 255"):
            level_table(*wrong)
    with pytest.raises(InputError, match=r"family is 'tv'; expected one of safi, mmr"):
        fresh_network("tv", 3, (0.1,), 0)


# ---------------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("boundary", filters.BOUNDARIES)
def test_synthesis_is_the_adjoint_of_analysis(boundary, generator):
    kernels = torch.randn((3, 1, 5, 5), generator=generator, dtype=torch.float64)
    operator = filters.FilterOperator(kernels, (11, 14), boundary)
    x = torch.randn((2, 1, 11, 14), generator=generator, dtype=torch.float64)
    w = torch.randn((2, 3, 11, 14), generator=generator, dtype=torch.float64)
    torch.testing.assert_close((operator.analysis(x) * w).sum(), (x * operator.synthesis(w)).sum())


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_sums_of_spectra_by_kernels_are_those_of_torch(planes, generator):
    """In float32 on the CPU without gradients, Numba's kernels; an odd number of frequencies, more than one piece."""
    filters_ = torch.randn((5, planes, 5, 5), generator=generator)
    x, w = torch.randn((2, planes, 27, 40), generator=generator), torch.randn((2, 5, 27, 40), generator=generator)

    def of(kind):
        operator = filters.FilterOperator(filters_.to(kind), (27, 40))
        total = SpectralSum(operator.spectra, 5)
        total.add(torch.fft.rfft2(w.to(kind)), x.to(kind))
        total.add(torch.fft.rfft2(w.to(kind)), 2 * x.to(kind))
        return operator.analysis(x.to(kind)), operator.synthesis(w.to(kind)), total.result()

    with torch.no_grad():
        found, expected = of(torch.float32), of(torch.float64)
    recorded = of(torch.float32)
    for ours, theirs, torchs in zip(found, expected, recorded, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-5 * theirs.abs().max().item())
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=2e-5 * theirs.abs().max().item())


def test_norm_is_that_of_the_circular_operator(generator):
    kernels = torch.randn((3, 1, 5, 5), generator=generator, dtype=torch.float64)
    operator = filters.FilterOperator(kernels, (filters.NORM_GRID, filters.NORM_GRID))
    x = torch.randn((1, 1, filters.NORM_GRID, filters.NORM_GRID), generator=generator, dtype=torch.float64)
    for _ in range(300):
        x = operator.synthesis(operator.analysis(x / x.norm()))
    assert x.norm().item() == pytest.approx(filters.squared_norm(kernels).item(), rel=1e-3)


def test_operator_refuses(generator):
    kernels = torch.randn((3, 1, 5, 5), generator=generator)
    with pytest.raises(InputError, match=r"boundary is 'zero'; expected one of circular, symmetric"):
        filters.FilterOperator(kernels, (8, 8), "zero")
    with pytest.raises(InputError, match=r"shape is \(4, 8\); expected at least 5 x 5"):
        filters.FilterOperator(kernels, (4, 8))


# ---------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("learned", [False, True])
def test_gradient_of_the_steps_is_that_of_torch(generator, learned):
    """Mask, filters and strength, in float64; the noisy image leaves the box so that every clip takes part."""

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    kernels = random(4, 1, 5, 5) - 0.5
    kernels = (kernels / filters.squared_norm(kernels).sqrt()).requires_grad_()
    y, target, mask = 1.4 * random(2, 1, 14, 17) - 0.2, random(2, 1, 14, 17), random(2, 4, 14, 17).requires_grad_()
    strength = torch.tensor([0.03, 0.1], dtype=torch.float64).view(-1, 1, 1, 1).requires_grad_()
    factors = inner.fista_steps(2, 8)
    if learned:
        factors = [inner.Step(0.7 + 0.2 * i, 0.9 - 0.1 * i) for i in range(6)]

    def gradients(steps):
        operator = filters.FilterOperator(kernels, (14, 17))
        with torch.no_grad():
            begun = inner.start(operator, y, strength)
            state = inner.dual_steps(operator, y, begun, None, strength, inner.fista_steps(0, 4))
        x = steps(operator, state)
        return [x, *torch.autograd.grad((x - target).square().sum(), [mask, kernels, strength])]

    def by_torch(operator, state):
        end = inner.dual_steps(operator, y, state, mask, strength, factors)
        return inner.primal(operator, y, end.u, mask, strength)

    def by_hand(operator, state):
        return inner.trained_steps(operator, y, state, mask, strength, factors)[0]

    for ours, expected in zip(gradients(by_hand), gradients(by_torch), strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


def test_steps_want_a_circular_boundary(generator):
    operator = filters.FilterOperator(torch.randn((3, 1, 5, 5), generator=generator), (8, 8), "symmetric")
    zeros = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="operator has a symmetric boundary"):
        inner.trained_steps(
            operator,
            zeros[:, :1],
            inner.DualState(zeros, zeros),
            zeros,
            torch.ones(1, 1, 1, 1),
            inner.fista_steps(0, 1),
        )


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_spline_and_its_gradient(low, generator):
    """Against interpolation by NumPy inside, linear continuation outside, and finite differences."""
    x = (4 * torch.rand((2, 3, 4, 5), generator=generator, dtype=torch.float64) - 2).requires_grad_()
    values = torch.rand((3, 7), generator=generator, dtype=torch.float64).requires_grad_()
    knots = np.linspace(low, 1, 7)
    out = spline(x, values, low).detach().numpy()
    for c in range(3):
        t, table = x.detach().numpy()[:, c], values.detach().numpy()[c]
        inside = np.interp(t, knots, table)
        slopes = np.diff(table)[[0, -1]] / (knots[1] - knots[0])
        expected = np.where(t < low, table[0] + slopes[0] * (t - low), inside)
        expected = np.where(t > 1, table[-1] + slopes[1] * (t - 1), expected)
        np.testing.assert_allclose(out[:, c], expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, v: spline(x, v, low), (x, values))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_spline_reads_no_value_beyond_its_table(value):
    """A diverging run is to end with an error, not with the process."""
    x = torch.full((1, 2, 3, 3), value, requires_grad=True)
    out = spline(x, torch.ones(2, 5, requires_grad=True))
    assert (out.isnan() | (out == 1)).all()
    out.sum().backward()


def test_gradient_of_the_mask_reaches_every_parameter(generator):
    """Nothing of a network is left untrained by mistake, in either family."""
    for family in ("safi", "mmr"):
        network = fresh_network(family, 4, (5 / 255, 25 / 255), seed=0)
        operator = filters.FilterOperator(network.composed(), (24, 24))
        y = torch.rand((2, 1, 24, 24), generator=generator)
        conditions = network.at(torch.tensor([10 / 255, 20 / 255]))
        mask = network.mask(y, conditions, operator)
        state = inner.start(operator, y, conditions.strength.detach())
        x, _ = inner.trained_steps(operator, y, state, mask, conditions.strength, inner.fista_steps(0, 3))
        x.square().sum().backward()
        for name, parameter in network.named_parameters():
            assert not parameter.requires_grad or parameter.grad.abs().max() > 0, f"{family} {name}"


def test_a_fresh_process_may_begin_with_a_kernel_that_another_one_compiled():
    """Its threads have to be started, which compiling did by the way."""
    words = (
        "import torch; torch.set_grad_enabled(False); from safi_fast.training.filters import FilterOperator; "
        "operator = FilterOperator(torch.ones(4, 2, 5, 5), (20, 20)); "
        "print(float(operator.synthesis(torch.ones(1, 4, 20, 20)).mean()))"
    )
    with torch.no_grad():  # compiles, if nobody did
        filters.FilterOperator(torch.ones(4, 2, 5, 5), (20, 20)).synthesis(torch.ones(1, 4, 20, 20))
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(100)
