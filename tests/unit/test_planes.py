"""Images of several planes under one mask: the training network, the start of a colour model, weights files, memory."""

import numpy as np
import pytest
from models import random_model, random_safi_mask, zero_mean

from safi_fast import ModelError, Solver, load_model
from safi_fast.bindings.cpu import CpuBackend
from safi_fast.kernels.cpu.arguments import GEOMETRIES, Geometry, planes_of
from safi_fast.model import FilterBank, Model
from safi_fast.weights import read_model, save_model

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from safi_fast.training import filters, growth  # noqa: E402
from safi_fast.training.data import draw_patch, stacked  # noqa: E402
from safi_fast.training.network import network_of  # noqa: E402


def model_of(planes: int, channels: int = 6) -> Model:
    rng = np.random.default_rng(planes)
    layer = torch.tensor(zero_mean(rng.standard_normal((channels, planes, 5, 5))))
    bank = FilterBank(((layer / filters.squared_norm(layer).sqrt()).numpy().astype(np.float32),), "symmetric")
    grey = random_safi_mask(rng, channels, boundary="symmetric")
    first = rng.standard_normal((channels, planes, 5, 5)) / 10
    mask = type(grey)((first, *grey.convolutions[1:]), grey.dilations, grey.splines, grey.gain, grey.bias, "symmetric")
    return random_model(channels=channels, filters=bank, mask=mask, name=f"random-{planes}", lipschitz=1.0)


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_the_norm_is_the_largest_eigenvalue_of_any_frequency(planes):
    bank = torch.tensor(np.random.default_rng(1).standard_normal((7, planes, 5, 5)))
    spectra = np.fft.fft2(bank.numpy(), (filters.NORM_GRID, filters.NORM_GRID)).reshape(7, planes, -1)
    matrices = np.einsum("cpf,cqf->fpq", spectra.conj(), spectra)
    assert float(filters.squared_norm(bank)) == pytest.approx(np.linalg.eigvalsh(matrices).max(), rel=2e-6)


@pytest.mark.parametrize("boundary", filters.BOUNDARIES)
@pytest.mark.parametrize("planes", [2, 3])
def test_synthesis_is_the_adjoint_of_analysis(planes, boundary):
    rng = np.random.default_rng(2)
    operator = filters.FilterOperator(torch.tensor(rng.standard_normal((7, planes, 5, 5))), (20, 24), boundary)
    x, u = torch.tensor(rng.standard_normal((2, planes, 20, 24))), torch.tensor(rng.standard_normal((2, 7, 20, 24)))
    there, back = operator.analysis(x), operator.synthesis(u)
    assert back.shape == x.shape
    assert float((there * u).sum()) == pytest.approx(float((x * back).sum()), rel=1e-10)


@pytest.mark.parametrize("planes", [2, 3])
def test_the_network_is_the_engine(planes):
    """An unrolled solve of both, with masks."""
    model, rng = model_of(planes), np.random.default_rng(4)
    y = rng.random((2, planes, 24, 30)).astype(np.float32)
    strength, count = 0.02, len(y)
    network = network_of(model)
    with torch.no_grad():
        network.log_strength.fill_(np.log(strength))
        expected = network(torch.tensor(y), torch.full((count,), 25 / 255), 3, 4).numpy()
    workspace = CpuBackend().prepare(model).workspace(count, 24, 30)
    workspace.load(y, np.full(count, strength, np.float32), np.ones(count, np.float32), (0.0, 1.0))
    level, everyone = model.at(25 / 255, strength_given=False), np.arange(count)
    for outer in range(3):
        if outer:
            workspace.collapse_momentum(everyone)
            workspace.update_mask(everyone, *(np.tile(v, (count, 1)) for v in (level.gain, level.bias)))
        else:
            workspace.start_dual(everyone)
        workspace.refresh(everyone)
        t = 1.0
        for _ in range(4):
            following = (1 + np.sqrt(1 + 4 * t**2)) / 2
            workspace.step(everyone, np.full(count, (t - 1) / following, np.float32))
            t = following
        workspace.accept(everyone, "primal")
    np.testing.assert_allclose(workspace.image(), expected, rtol=0, atol=2e-5)


def test_a_weights_file_of_three_planes(tmp_path):
    model = model_of(3)
    save_model(model, tmp_path / "colour.safetensors")
    back = read_model(tmp_path / "colour.safetensors")
    assert (back.filters.planes, back.mask.planes) == (3, 3)
    np.testing.assert_array_equal(back.filters.composed(), model.filters.composed())
    with pytest.raises(ModelError, match="is for images of 3 planes together"):
        Solver(back)


def test_planes_that_do_not_fit():
    colour, grey = model_of(3), model_of(1)
    with pytest.raises(ModelError, match="the mask is for 1 planes and the filter bank for 3"):
        random_model(channels=6, filters=colour.filters, mask=grey.mask)
    with pytest.raises(ModelError, match="is for 4 planes; at most 3"):
        FilterBank((np.zeros((6, 4, 5, 5), np.float32),), "symmetric")


def test_a_grey_model_as_the_start_of_a_colour_one():
    """It sees the mean of the planes as the grey one sees an image, and its filters read orthonormal planes."""
    grey = load_model("safi-gray")
    start = growth.with_planes(grey, 3)
    directions = growth.plane_directions(3)
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-12)
    assert start.filters.planes == 3
    lengths = np.sqrt((start.filters.layers[0] ** 2).sum(1))
    np.testing.assert_allclose(lengths, np.abs(grey.filters.layers[0][:, 0]), atol=1e-6)
    np.testing.assert_allclose(start.mask.convolutions[0].sum(1), grey.mask.convolutions[0][:, 0], atol=1e-6)


def test_patches_have_all_planes():
    image = np.random.default_rng(0).random((3, 40, 50)).astype(np.float32)
    patch = draw_patch([stacked(image, 3)], 16, np.random.default_rng(1))
    assert patch.shape == (3, 16, 16)
    with pytest.raises(ValueError, match="an image has 3 planes; the network has 1"):
        stacked(image, 1)


def test_planes_are_a_constant_of_the_type():
    sizes = (1, 8, 9, 1, 5, 2, 12, 16, True)
    assert [planes_of(kind(*sizes)) for kind in GEOMETRIES.values()] == [1, 2, 3]
    assert type(Geometry(*GEOMETRIES[3](*sizes))) is Geometry
