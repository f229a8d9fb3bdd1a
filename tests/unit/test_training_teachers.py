"""Teachers, the optimisers, models made larger, and training without Numba."""

import copy
import dataclasses
import itertools

import numpy as np
import oracle
import pytest
from safetensors.numpy import save_file

from safi_fast import Solver, load_model
from safi_fast.errors import InputError, ModelError
from safi_fast.model import Schedule
from safi_fast.weights import save_model

torch = pytest.importorskip("torch", reason="training needs PyTorch (extra 'train')")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from safi_fast.training import spline as splines  # noqa: E402
from safi_fast.training.data import NoiseRange  # noqa: E402
from safi_fast.training.fitting import fit_steps  # noqa: E402
from safi_fast.training.growth import deepened, widened, with_levels  # noqa: E402
from safi_fast.training.network import fresh_network, level_table, network_of  # noqa: E402
from safi_fast.training.optimizers import Optimizer, orthogonal  # noqa: E402
from safi_fast.training.settings import Settings  # noqa: E402
from safi_fast.training.teachers import Guide, Share, Teacher, load_teacher  # noqa: E402
from safi_fast.training.trainer import Trainer  # noqa: E402
from safi_fast.training.validation import Validation  # noqa: E402

SMALL = Settings(
    NoiseRange(2, 50), steps=4, outer=2, inner=4, trained=3, batch=2, side=24, crop=4, pool=6, log_every=1, warm_up=2
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def images(rng):
    return [rng.random((40, 48), dtype=np.float32) for _ in range(3)]


def write(path, kind, channels, *, sigma="0-75", planes="1", **other):
    """A teacher with small random layers through these channels."""
    rng = np.random.default_rng(1)
    tensors = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        tensors[f"layers.{i}.weight"] = 0.1 * rng.standard_normal((outputs, inputs, 3, 3), dtype=np.float32)
        tensors[f"layers.{i}.bias"] = 0.1 * rng.standard_normal(outputs, dtype=np.float32)
    tensors.update(other)
    save_file(tensors, path, {"kind": kind, "sigma": sigma, "planes": planes})
    return path


# ------------------------------------------------------------------------------------------------------------ teachers


@pytest.mark.parametrize(
    ("kind", "planes", "channels"),
    [("dncnn", 1, (1, 4, 1)), ("fdncnn", 1, (2, 4, 1)), ("ffdnet", 1, (5, 4, 4)), ("ffdnet", 3, (13, 4, 12))],
)
def test_a_teacher_keeps_the_shape(tmp_path, kind, planes, channels):
    teacher = load_teacher(write(tmp_path / "t.safetensors", kind, channels, planes=str(planes)))
    noisy = torch.rand(2, planes, 9, 11)
    out = teacher.denoise(noisy, torch.tensor([0.1, 0.2]))
    assert out.shape == noisy.shape
    assert (teacher.planes, teacher.low, teacher.high) == (planes, 0, 75 / 255)
    assert torch.isfinite(out).all()


def test_ffdnet_takes_the_pixels_of_a_cell_column_by_column(tmp_path):
    """A network that hands on the first of the four phases must read the upper left pixel, the second the lower left
    one.
    """
    for phase, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        weight = np.zeros((4, 5, 3, 3), np.float32)
        weight[:, phase, 1, 1] = 1
        tensors = {"layers.0.weight": weight, "layers.0.bias": np.zeros(4, np.float32)}
        path = tmp_path / f"{phase}.safetensors"
        save_file(tensors, path, {"kind": "ffdnet", "sigma": "0-75", "planes": "1"})
        noisy = torch.rand(1, 1, 6, 8)
        out = load_teacher(path).denoise(noisy, torch.tensor([0.1]))
        expected = noisy[..., row::2, column::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "unet"}, "kind is 'unet'; expected one of dncnn, fdncnn, ffdnet, or a weights file of this package"),
        ({"planes": "many"}, "planes is 'many'; expected a number"),
        ({"sigma": "high"}, "sigma is 'high'; expected a number"),
        ({"planes": "3"}, "its layers lead from 2 to 1 channels; kind 'fdncnn' with planes 3 leads from 4 to 3"),
        ({"layers.1.bias": np.zeros(7, np.float32)}, r"tensor layers\.1 has shape \(1, 4, 3, 3\)"),
        ({"layers.0.bias": np.full(4, np.nan, np.float32)}, r"tensor layers\.0 has values that are not finite"),
        ({"other": np.zeros(1, np.float32)}, "expected tensors layers.0.weight, .* and no others"),
    ],
)
def test_what_is_no_teacher_is_refused(tmp_path, change, words):
    path = write(tmp_path / "t.safetensors", **{"kind": "fdncnn", "channels": (2, 4, 1), **change})
    with pytest.raises(ModelError, match=rf"t\.safetensors: {words}"):
        load_teacher(path)


def test_a_damaged_or_missing_teacher_is_refused(tmp_path):
    with pytest.raises(ModelError, match="there is no such teacher"):
        load_teacher(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(ModelError, match="is truncated, damaged or not a safetensors file"):
        load_teacher(tmp_path / "bad.safetensors")


def test_a_model_of_ours_teaches(tmp_path):
    model = network_of_four().to_model("small", load_model("safi-gray").schedule, {})
    save_model(model, tmp_path / "small.safetensors")
    teacher = load_teacher(tmp_path / "small.safetensors")
    noisy = torch.rand(1, 1, 32, 32)
    expected = Solver(model, threads=1).denoise(noisy.numpy()[0, 0], 0.1)
    out = teacher.denoise(noisy, torch.tensor([0.1]))[0, 0].numpy()
    assert abs(out - expected)[12:-12, 12:-12].max() < 0.05, "but for the border, which is continued differently"


def test_real_teachers_denoise(data_folder):
    """FDnCNN and FFDNet on a photograph: several decibels above the noise, as published within 0.3 dB of each other."""
    folder = data_folder / "teachers"
    from skimage import data

    clean = torch.from_numpy((data.camera()[100:260, 200:360] / 255).astype(np.float32))[None, None]
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    psnr = []
    for name in ("fdncnn_gray", "ffdnet_gray"):
        out = load_teacher(folder / f"{name}.safetensors").denoise(noisy, torch.tensor([25 / 255]))
        psnr.append(float(-10 * torch.log10((out - clean).square().mean())))
    assert min(psnr) > 28
    assert abs(psnr[0] - psnr[1]) < 0.3


def network_of_four(family="safi"):
    return fresh_network(family, 4, level_table(2, 50), seed=1)


def test_the_share_depends_on_level_and_progress():
    share = Share(0.8, none_below=5, full_above=15, until=0.5)
    sigma = torch.tensor([5.0, 10.0, 15.0, 50.0]) / 255
    torch.testing.assert_close(share.at(sigma, 0.5), torch.tensor([0, 0.4, 0.8, 0.8]))
    torch.testing.assert_close(share.at(sigma, 0.75), torch.tensor([0, 0.2, 0.4, 0.4]))
    assert share.at(sigma, 1.0).abs().max() == 0
    for wrong, words in (
        ({"most": 2}, "teacher share is 2; expected 0 to 1"),
        ({"none_below": 20}, "rises from sigma 20 to 12; expected ascending levels"),
        ({"until": -1}, "falls from -1 of the run on"),
    ):
        with pytest.raises(InputError, match=words):
            Share(**wrong)


def test_the_guide_is_the_mean_of_those_that_know_the_level():
    low = Teacher("low", 1, 0.0, 0.1, lambda noisy, sigma: noisy + 1)
    high = Teacher("high", 1, 0.05, 0.3, lambda noisy, sigma: noisy + 3)
    noisy, clean = torch.zeros(4, 1, 2, 2), torch.full((4, 1, 2, 2), 9.0)
    out = Guide([low, high])(noisy, clean, torch.tensor([0.01, 0.08, 0.2, 0.5]))
    assert out[:, 0, 0, 0].tolist() == [1, 2, 3, 9]
    with pytest.raises(InputError, match="teacher 'rgb' is for 3 planes; the network has 1"):
        Guide([Teacher("rgb", 3, 0, 1, low.denoise)])


def test_targets_are_mixed_and_survive_a_resume(images):
    ones = Teacher("ones", 1, 0.0, 1.0, lambda noisy, sigma: torch.ones_like(noisy))
    settings = dataclasses.replace(SMALL, share=Share(0.75, none_below=0, full_above=1))
    one = Trainer(network_of_four(), images, settings, teachers=[ones])
    one.step(0.0)
    places = (one.pool.visits >= 0).nonzero()[:, 0]
    torch.testing.assert_close(one._target(places, 0.0), 0.25 * one.pool.clean[places] + 0.75)
    again = Trainer.resume(one.state_dict(), images, settings, teachers=[ones])
    torch.testing.assert_close(again._target(places, 0.0), one._target(places, 0.0), rtol=0, atol=0)
    with pytest.raises(InputError, match="the run to resume had teachers"):
        Trainer.resume(one.state_dict(), images, settings)


# ---------------------------------------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("shape", [(8, 72), (72, 8)])
def test_orthogonal_keeps_the_directions_and_levels_the_sizes(rng, shape):
    matrix = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    left, _, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    values = np.diag(left.T @ orthogonal(matrix).numpy() @ right.T)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_takes_the_large_mask_layers_and_adam_the_rest(images):
    settings = dataclasses.replace(SMALL, optimizer="muon")
    one = Trainer(network_of_four(), images, settings)
    adam, muon = one.optimizer.parts
    matrices = {id(p) for group in muon.param_groups for p in group["params"]}
    assert matrices == {id(layer) for layer in list(one.network.convolutions)[1:]}
    assert not matrices & {id(p) for group in adam.param_groups for p in group["params"]}
    before = one.network.convolutions[1].clone()
    one.step(0.0)
    moved = (one.network.convolutions[1] - before).square().mean().sqrt()
    rate = settings.mask_rate * 0.5  # the first of two steps of warm-up
    assert 0.1 * rate < moved < 0.3 * rate
    for step in range(1, 3):
        one.step(step / 4)
    state = copy.deepcopy(one.state_dict())
    again = Trainer.resume(state, images, settings)
    one.step(0.75)
    again.step(0.75)
    torch.testing.assert_close(again.network.state_dict(), one.network.state_dict(), rtol=0, atol=0)


def test_an_optimizer_without_matrices_is_adam_alone():
    parameter = torch.nn.Parameter(torch.ones(3))
    group = {"params": [parameter], "lr": 1.0, "highest_rate": 1.0, "matrices": False}
    assert [type(part) for part in Optimizer("muon", [group]).parts] == [torch.optim.Adam]


# -------------------------------------------------------------------------------------------------------- larger models


def test_a_deeper_model_computes_the_same(rng):
    model = load_model("safi-gray")
    first = model.mask.dilations[0]
    deeper = deepened(model, (first, 1, *model.mask.dilations[1:-1], 2, model.mask.dilations[-1]))
    assert len(deeper.mask.convolutions) == len(model.mask.convolutions) + 2
    noisy = rng.random((32, 40), dtype=np.float32)
    expected = Solver(model, threads=1).denoise(noisy, 0.1, max_outer=2)
    assert abs(Solver(deeper, threads=1).denoise(noisy, 0.1, max_outer=2) - expected).max() < 1e-5


@pytest.mark.parametrize("dilations", [(1, 3), (2, 1, 3, 3), (3, 3, 1)])
def test_layers_of_the_model_must_be_found(dilations):
    with pytest.raises(InputError, match=r"expected those of the model, \(1, 3, 3\)"):
        deepened(three_layers(), dilations)
    with pytest.raises(InputError, match="only a SAFI mask has layers to add to"):
        deepened(network_of_four("mmr").to_model("m", load_model("safi-gray").schedule, {}), (1, 3))


def test_a_wider_model_keeps_what_it_had(rng):
    model = three_layers()
    wider = widened(model, 6, seed=3)
    np.testing.assert_array_equal(wider.filters.layers[0][:4], model.filters.layers[0])
    clean = rng.random((32, 40))
    masks = []
    for mask in (model.mask, wider.mask):
        layers = list(zip(mask.convolutions, mask.dilations, strict=True))
        masks.append(oracle.safi_mask(clean, layers, mask.splines, mask.gain[0], mask.bias[0], mask.boundary))
    np.testing.assert_allclose(masks[1][:4], masks[0], atol=1e-6)
    parents = np.argsort(-(model.filters.layers[0] ** 2).sum((1, 2, 3)))[:2]
    assert 0 < abs(masks[1][4:] - masks[0][parents]).max() < 0.2  # the new ones are told from their parents


@pytest.mark.parametrize("channels", [3, 4])
def test_a_wider_model_has_more_filters(channels):
    with pytest.raises(InputError, match=f"channels is {channels}; expected more than the 4 filters"):
        widened(three_layers(), channels, seed=0)
    with pytest.raises(InputError, match="expected a SAFI model"):
        widened(network_of_four("mmr").to_model("m", load_model("safi-gray").schedule, {}), 6, seed=0)


def three_layers():
    return network_of_four().to_model("three", load_model("safi-gray").schedule, {})


def test_tables_reach_further(rng):
    model = three_layers()
    wide = with_levels(model, 1, 75)
    levels = 255 * wide.noise_levels
    assert (levels[0], levels[-1]) == pytest.approx((1, 75))
    assert set(np.round(255 * model.noise_levels, 6)) <= set(np.round(levels, 6))
    for sigma in model.noise_levels:
        ours, theirs = wide.at(float(sigma), strength_given=False), model.at(float(sigma), strength_given=False)
        assert ours.strength_unrolled == pytest.approx(theirs.strength_unrolled)
        np.testing.assert_allclose(ours.gain, theirs.gain, rtol=1e-6)
    last = model.at(50 / 255, strength_given=False).strength_unrolled
    assert wide.at(75 / 255, strength_given=False).strength_unrolled == pytest.approx(1.5 * last)
    shipped = load_model("safi-gray")  # whose levels are rounded
    np.testing.assert_allclose(
        255 * with_levels(shipped, 1, 75).noise_levels, [1, 2, 5, 10, 15, 25, 35, 50, 75], rtol=1e-4
    )
    with pytest.raises(InputError, match="is for one level"):
        with_levels(fresh_network("safi", 4, [0.1], 0).to_model("one", model.schedule, {}), 1, 75)


def test_an_mmr_model_of_one_level_gets_a_table():
    """The profile meets the same argument at every level where the responses are noise."""
    schedule = load_model("mmr-gray").schedule
    model = fresh_network("mmr", 8, [25 / 255], seed=1).to_model("one", schedule, {})
    wide = with_levels(model, 5, 50)
    np.testing.assert_allclose(255 * wide.noise_levels, [5, 10, 15, 25, 35, 50], rtol=1e-5)
    np.testing.assert_array_equal(wide.mask.scale[3], np.atleast_2d(model.mask.scale)[0])
    np.testing.assert_allclose(wide.mask.scale[0], 5 * wide.mask.scale[3], rtol=1e-5)
    np.testing.assert_allclose(wide.strength.unrolled[5], 2 * wide.strength.unrolled[3], rtol=1e-5)
    noisy = np.random.default_rng(0).random((24, 24), dtype=np.float32)
    np.testing.assert_allclose(
        Solver(wide).denoise(noisy, 25 / 255), Solver(model).denoise(noisy, 25 / 255), rtol=0, atol=1e-5
    )


# --------------------------------------------------------------------------------------------------- without Numba


def test_the_spline_of_torch_is_that_of_numba(rng):
    x = torch.from_numpy(1.5 * rng.standard_normal((2, 3, 5, 7))).requires_grad_()
    values = torch.from_numpy(rng.standard_normal((3, 6))).requires_grad_()
    results = []
    for enter in (True, False):
        with splines.use_torch() if enter else torch.enable_grad():
            out = splines.spline(x, values)
            results.append((out, *torch.autograd.grad(out.square().sum(), (x, values))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", ["safi", "mmr"])
@pytest.mark.parametrize("autocast", [False, True])
def test_training_by_torch_alone(images, monkeypatch, family, autocast):
    """What runs on a GPU: no kernel of Numba, and no engine to validate with."""

    def refuse(*args, **kwargs):
        raise AssertionError("Numba was needed")

    monkeypatch.setattr(splines, "kernels", refuse)
    monkeypatch.setattr("safi_fast.training.trainer.kernels", refuse)
    monkeypatch.setattr("safi_fast.training.validation.Solver", refuse)
    settings = dataclasses.replace(SMALL, autocast=autocast)
    with splines.use_torch():
        one = Trainer(network_of_four(family), images, settings)
        losses = [one.step(step / 4)[0] for step in range(3)]
        scores = Validation(images, [25], side=32).measure(one.averaged, 2, 4)
    assert np.isfinite(losses).all()
    assert 5 < scores["25"] < 40


class NoWaiting(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: values read by the host or made from it, and shapes that depend on
    values.
    """

    REFUSED = ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        lists = [one for argument in args if isinstance(argument, (list, tuple)) for one in argument]
        by_mask = name.startswith("index") and any(getattr(one, "dtype", None) == torch.bool for one in lists)
        if name in self.REFUSED or by_mask:
            raise AssertionError(f"a step needs {name}")
        return function(*args, **(kwargs or {}))


def test_what_a_gpu_records_never_waits(images, tmp_path):
    """Both computations of a step, on the CPU by the path of a GPU."""
    files = [tmp_path / "fdncnn.safetensors", tmp_path / "ffdnet.safetensors"]
    for path, kind, channels in zip(files, ("fdncnn", "ffdnet"), ((2, 3, 1), (5, 3, 4)), strict=True):
        write(path, kind, channels)
    with splines.use_torch():
        network = network_of_four("safi")
        network.learned_steps = torch.tensor([[1.0, 1.1, 1.0, 1.0], [0.0, 0.2, 0.4, 0.5]], dtype=torch.float64)
        one = Trainer(network, images, SMALL, teachers=[load_teacher(path) for path in files])
        one.step(0.0)
        places = torch.arange(2)
        pool = one.pool
        y, clean, sigma, x = pool.noisy[places], pool.clean[places], pool.sigma[places], pool.x[places]
        expected, dual = torch.full((2,), 1e-3), pool.dual[places]
        with NoWaiting():
            with torch.no_grad():
                one._begin(y, clean, sigma)
            loss, norm, *_ = one.differentiate(y, clean, sigma, expected, x, dual)
    assert np.isfinite([float(loss), float(norm)]).all()
    with pytest.raises(AssertionError, match="a step needs _local_scalar_dense"), NoWaiting():
        float(loss)


def test_both_ways_of_validation_agree(images):
    network = network_of(three_layers())
    validation = Validation(images, [15, 25], side=32)
    engine = validation.measure(network, 2, 4)
    with splines.use_torch():
        by_torch = validation.measure(network, 2, 4)
    assert engine == pytest.approx(by_torch, abs=1e-3)


# ------------------------------------------------------------------------------------------------------- learned steps


def test_fitted_steps_end_further(rng):
    """Three inner steps, fitted, come nearer to the clean image than three of FISTA; the
    network itself stays as it is.
    """
    rows, columns = np.mgrid[:64, :64]
    smooth = [(0.5 + 0.4 * np.sin(rows / period) * (columns > 30)).astype(np.float32) for period in (5, 7, 9)]
    network = network_of(load_model("safi-gray")).requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    losses = []
    noise = NoiseRange(25, 25)
    fit_steps(
        network, smooth, noise, outer=2, inner=3, iterations=15, batch=2, report=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < 0.9 * losses[0]
    for name, values in before.items():
        if name != "learned_steps":
            torch.testing.assert_close(network.state_dict()[name], values, rtol=0, atol=0)
    model = network.to_model("steps", Schedule("unrolled", 2, 3), {})
    np.testing.assert_allclose(model.steps.size, network.learned_steps[0].numpy(), rtol=1e-6)
    noisy = rng.random((32, 40), dtype=np.float32)
    expected = network(torch.from_numpy(noisy)[None, None], torch.tensor([0.1]), 2, 3)[0, 0].numpy()
    assert abs(Solver(model, threads=1).denoise(noisy, 0.1) - expected).max() < 2e-5
    assert network_of(model).learned_steps.shape == (2, 3)
    with pytest.raises(InputError, match="inner is 4, but the network has learned 3 steps"):
        network(torch.from_numpy(noisy)[None, None], torch.tensor([0.1]), 2, 4)


def test_training_keeps_learned_steps(images, tmp_path):
    network = network_of_four()
    network.learned_steps = torch.tensor([[1.2, 0.9, 1.1, 0.8], [0.0, 0.2, 0.4, 0.5]], dtype=torch.float64)
    one = Trainer(network, images, SMALL)
    one.step(0.0)
    again = Trainer.resume(copy.deepcopy(one.state_dict()), images, SMALL)
    torch.testing.assert_close(again.network.learned_steps, network.learned_steps)
    with pytest.raises(InputError, match="inner is 3, but the weights have learned 4 dual steps"):
        Trainer(network, images, dataclasses.replace(SMALL, inner=3))


def test_checkpoints_of_other_versions_and_devices_are_refused(images):
    state = copy.deepcopy(Trainer(network_of_four(), images, SMALL).state_dict())
    with pytest.raises(InputError, match="device is 'cuda', but the run to resume has 'cpu'"):
        Trainer.resume(state, images, SMALL, device="cuda")
    del state["version"]
    with pytest.raises(ModelError, match="the checkpoint is of another version of safi_fast; start a new run"):
        Trainer.resume(state, images, SMALL)
