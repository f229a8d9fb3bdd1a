"""Images of several planes under one mask: the training network, the start of a colour model, weights files, memory."""

import json
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
from models import random_model, random_planes_model
from skimage.io import imsave

import safi_fast
from safi_fast import InputError, ModelError, Solver, api, load_model, memory, models, startup, warmup
from safi_fast.bindings import cache
from safi_fast.bindings.cpu import CpuBackend
from safi_fast.cli.main import main
from safi_fast.cli.noise import add_noise
from safi_fast.kernels.cpu.arguments import GEOMETRIES, Geometry, planes_of
from safi_fast.metrics import psnr
from safi_fast.model import FilterBank, Model
from safi_fast.operators import Blur, Downsample, FourierMRI, Identity, Mask, ParallelBeamCT
from safi_fast.weights import read_model, save_model

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from safi_fast.training import filters, growth  # noqa: E402
from safi_fast.training.data import draw_patch, stacked  # noqa: E402
from safi_fast.training.network import network_of  # noqa: E402

SIGMA = 25 / 255


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
    model, rng = random_planes_model(planes), np.random.default_rng(4)
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
    model = random_planes_model(3)
    save_model(model, tmp_path / "colour.safetensors")
    back = read_model(tmp_path / "colour.safetensors")
    assert (back.filters.planes, back.mask.planes) == (3, 3)
    np.testing.assert_array_equal(back.filters.composed(), model.filters.composed())


def test_planes_that_do_not_fit():
    colour, grey = random_planes_model(3), random_planes_model(1)
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
    in_directions = np.abs(np.einsum("dp,cpij->dcij", directions, start.filters.layers[0])).sum((2, 3))
    read = in_directions > 1e-5 * in_directions.max()
    assert (read.sum(0) == 1).all()
    assert read.sum(1).tolist() == [22, 21, 21]
    lengths = np.sqrt((start.filters.layers[0] ** 2).sum(1))
    np.testing.assert_allclose(lengths, np.abs(grey.filters.layers[0][:, 0]), atol=1e-6)
    np.testing.assert_allclose(start.mask.convolutions[0].sum(1), grey.mask.convolutions[0][:, 0], atol=1e-6)


def test_the_start_of_a_colour_model_denoises_already():
    rows, columns = np.mgrid[:64, :64] / 64
    clean = np.stack([0.5 + 0.3 * np.sin(4 * rows), 0.4 + 0.4 * columns * rows, 0.3 + 0.5 * (columns > rows)], -1)
    noisy = clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape)
    made = Solver(growth.with_planes(load_model("safi-gray"), 3)).denoise(noisy, 25 / 255, channel_axis=-1)
    assert np.mean((made - clean) ** 2) < 0.1 * np.mean((noisy - clean) ** 2)


def pictures(count: int, planes: int, shape=(22, 27)):
    return np.random.default_rng(7).random((count, planes, *shape)).astype(np.float32)


def plain_mask(model: Model):
    """The float64 mask of an image."""
    mask = model.mask
    generator = list(zip(mask.convolutions, mask.dilations, strict=True))
    return lambda x: oracle.safi_mask(x, generator, mask.splines, mask.gain[0], mask.bias[0], mask.boundary)


@pytest.mark.parametrize("boundary", ["symmetric", "zero"])
@pytest.mark.parametrize("planes", [2, 3])
def test_images_of_a_batch_are_the_oracles(planes, boundary):
    model, images = random_planes_model(planes, boundary=boundary), pictures(2, planes)
    found = Solver(model).denoise(images, SIGMA, channel_axis=1, strength=0.05, max_outer=3, max_inner=5)
    layers = model.filters.layers
    for image, result in zip(images, found, strict=True):
        expected = oracle.unrolled(image, 0.05, 1.0, plain_mask(model), layers, boundary, 3, 5)
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("planes", [2, 3])
def test_the_gap_holds_against_a_long_float64_run(planes):
    """The box acts on each plane, and some of its pixels are at it."""
    model, box, strength = random_planes_model(planes), (0.2, 0.8), 0.05
    image = pictures(1, planes)[0]
    solution = Solver(model).denoise(
        image, SIGMA, channel_axis=0, strength=strength, schedule="gap", tol=1e-3, box=box, max_outer=3,
        return_masks=True, return_solution=True,
    )  # fmt: skip
    problem = (image.astype(float), strength, solution.masks.astype(float), model.filters.layers, "symmetric")
    best, _ = oracle.solve_dual(*problem, steps=600, box=box)
    x = solution.image.astype(float)
    lead = oracle.objective(x, *problem) - oracle.objective(best, *problem)
    assert ((best == 0.2) | (best == 0.8)).mean(axis=(1, 2)).min() > 0.05
    assert -1e-6 < lead < float(solution.gap)
    assert float(solution.gap) < 1.1e-3 * oracle.objective(x, *problem)
    assert np.shape(solution.gap) == ()


@pytest.mark.parametrize("schedule", ["unrolled", "gap", "converged"])
def test_a_batch_is_its_images_bit_for_bit(schedule):
    model, images = random_planes_model(3), pictures(3, 3)
    options = {"schedule": schedule, "max_outer": 3, "max_inner": 20, "channel_axis": -1}
    moved = np.moveaxis(images, 1, -1)
    solver, strength, sigma = Solver(model), [0.02, 0.05, 0.1], [SIGMA] * 3
    whole = solver.denoise(moved, sigma, strength=strength, return_solution=True, **options)
    for number, image in enumerate(moved):
        alone = solver.denoise(image, SIGMA, strength=strength[number], return_solution=True, **options)
        np.testing.assert_array_equal(whole.image[number], alone.image)
        assert (whole.gap[number], whole.inner_iterations[number]) == (alone.gap, alone.inner_iterations)
        assert np.shape(alone.sigma) == ()
    streamed = list(solver.denoise_batch(moved, SIGMA, strength=strength, **options))
    np.testing.assert_array_equal(np.stack(streamed), whole.image)


def test_parts_and_tiles_of_a_batch():
    """A batch that does not fit is solved image by image, an image in tiles."""
    model, images = random_planes_model(3), pictures(2, 3, (160, 170))
    solver, options = Solver(model), {"channel_axis": 1, "strength": 0.05, "max_outer": 2, "max_inner": 4}
    whole = solver.denoise(images, SIGMA, **options)
    needs = [solver.estimate_memory(shape, channel_axis=1) for shape in (images.shape, (1, *images.shape[1:]))]
    assert needs[0] > needs[1] > images[0].nbytes
    parts = solver.denoise(images, SIGMA, max_memory=0.9 * needs[0], **options)
    np.testing.assert_array_equal(parts, whole)
    tiled = solver.denoise(images[:1], SIGMA, max_memory=0.6 * needs[1], **options)
    np.testing.assert_allclose(tiled, whole[:1], rtol=0, atol=1e-5)
    assert not np.array_equal(tiled, whole[:1])


def test_ranges_kinds_and_values_in_doubt():
    solver, image = Solver(random_planes_model(3)), pictures(1, 3)[0]
    eight = np.moveaxis((255 * image).round().astype(np.uint8), 0, -1)
    found = solver.denoise(eight, 25.0, strength=0.05 * 255, channel_axis=-1, max_outer=2)
    assert (found.dtype, found.shape) == (np.float32, eight.shape)
    wanted = solver.denoise((eight / 255).astype(np.float32), SIGMA, strength=0.05, channel_axis=-1, max_outer=2)
    np.testing.assert_allclose(found, 255 * wanted, rtol=0, atol=2e-3)
    image[1, 3, 4] = np.nan
    with pytest.raises(InputError, match="image has 1 values that are NaN"):
        solver.denoise(image, SIGMA, channel_axis=0)
    with pytest.raises(InputError, match=r"image has values from 0.* to 3"):
        solver.denoise(np.where(pictures(1, 3)[0] > 0.5, 3, 0).astype(np.float32), SIGMA, channel_axis=0, data_range=1)


def test_counts_of_several_planes():
    """What the variance is divided by is of the image, not of a plane, or planes would no longer be one image."""
    model = random_planes_model(3)
    counts = np.random.default_rng(1).poisson(20 * (0.2 + pictures(1, 3, (40, 40))[0])).astype(np.float32)
    found = Solver(model).denoise(counts, 0.0, noise="poisson", strength=0.5, channel_axis=0, return_solution=True)
    assert found.image.shape == counts.shape
    assert found.image.mean() == pytest.approx(counts.mean(), rel=0.1)


@pytest.mark.parametrize(
    ("shape", "axis", "options", "message"),
    [
        ((22, 27), None, {}, "channel_axis is None; expected the axis of 3 channels, which model 'random-3' takes"),
        ((3, 22, 27), None, {}, "channel_axis is None; expected the axis of 3 channels"),
        ((4, 22, 27), 0, {}, "image has 4 channels; expected the axis of 3 channels"),
        ((3, 22, 27), 0, {"color": "separate"}, "color is 'separate', but model 'random-3' takes 3 planes"),
    ],
)
def test_images_that_are_not_for_the_model(shape, axis, options, message):
    solver = Solver(random_planes_model(3))
    with pytest.raises(InputError, match=message):
        solver.denoise(np.zeros(shape, np.float32), SIGMA, channel_axis=axis, **options)
    if not options:
        with pytest.raises(InputError, match=message):
            solver.estimate_memory(shape, channel_axis=axis)


KERNEL = np.outer([1, 2, 1], [1, 2, 1]) / 16
OPERATORS = {
    "circular blur": Blur(KERNEL, (24, 26), "circular"),  # H^T H is diagonal in Fourier
    "blur": Blur(KERNEL, (24, 26)),
    "super-resolution": Downsample(2, (24, 26)),
    "CT": ParallelBeamCT((24, 26), np.linspace(0, np.pi, 16, endpoint=False), 37),
}


def apart_model(planes):
    """Filters of one plane each: without a mask an image is as many problems as it has planes."""
    grey = random_model("safi", channels=3, kernels=(5,), composed=True, boundary="symmetric")
    (layer,) = grey.filters.layers
    whole = np.zeros((3 * planes, planes, 5, 5), np.float32)
    for plane in range(planes):
        whole[3 * plane : 3 * plane + 3, plane] = layer[:, 0]
    bank = FilterBank((whole,), "symmetric")
    return grey, random_model("safi", channels=3 * planes, filters=bank, mask=planes_mask(planes), name="apart")


def planes_mask(planes):
    return random_planes_model(planes, channels=3 * planes).mask


@pytest.mark.parametrize("name", OPERATORS)
def test_planes_that_do_not_meet_are_reconstructed_like_images_of_their_own(name):
    """Without a mask. The certificate is one for all: a gap of the whole bounds the sum of the others."""
    operator = OPERATORS[name]
    grey, model = apart_model(3)
    x = pictures(1, 3, (24, 26))[0]
    y = operator.apply(x) + np.float32(0.01) * operator.apply(pictures(2, 3, (24, 26))[1])
    options = {"strength": 0.3 if name == "CT" else 0.02, "max_outer": 1, "max_iter": 4000, "tol": 1e-4}
    whole = Solver(model).reconstruct(y, operator, **options)
    alone = Solver(grey).reconstruct(y, operator, **options)
    assert whole.image.shape == (3, 24, 26)
    assert whole.relative_gap <= 1e-4
    assert np.abs(whole.image - alone.image).max() < 5e-3
    assert whole.history[-1].objective == pytest.approx(sum(alone.history[-1].objective), rel=3e-4)


@pytest.mark.parametrize("planes", [2, 3])
def test_reconstruct_of_the_image_itself_is_denoising(planes):
    """With masks, by another algorithm; and a batch is its images, bit for bit."""
    solver, shape = Solver(random_planes_model(planes)), (24, 26)
    y = pictures(2, planes, shape)
    options = {"max_outer": 4, "tol": 1e-5}
    found = solver.reconstruct(y, Identity(shape), strength=0.03, noise_level=SIGMA, max_iter=4000, **options)
    expected = solver.denoise(
        y, SIGMA, strength=0.03, schedule="gap", channel_axis=1, max_inner=4000, return_solution=True, **options
    )
    assert found.image.shape == y.shape
    assert np.abs(found.image - expected.image).max() < 2e-3
    for one, image in zip(y, found.image, strict=True):
        alone = solver.reconstruct(one, Identity(shape), strength=0.03, noise_level=SIGMA, max_iter=4000, **options)
        np.testing.assert_array_equal(alone.image, image)


def test_measurements_that_are_not_of_the_planes():
    solver, operator = Solver(random_planes_model(3)), Identity((22, 27))
    message = r"measurement has shape \(22, 27\); expected \(3, 22, 27\).*the model takes 3 planes of an image together"
    with pytest.raises(InputError, match=message):
        solver.reconstruct(np.zeros((22, 27), np.float32), operator, strength=0.1)
    with pytest.raises(InputError, match=r"shape is .* the model takes 3 planes"):
        solver.estimate_memory((22, 27), operator=operator)
    with pytest.raises(InputError, match=r"measurement has shape \(22, 27\); expected \(3, 22, 27\)"):
        solver.tune_strength(np.ones((22, 27), np.float32), operator, [0.1], noise_std=0.1)
    complex_images = FourierMRI(np.ones((22, 27), bool), mask_order="fft", image="complex", check_order=False)
    with pytest.raises(ModelError, match="takes 3 planes of real images together, but FourierMRI has complex images"):
        solver.reconstruct(np.zeros((3, 22, 27), np.complex64), complex_images, strength=0.1, box=None)


def test_a_strength_for_planes():
    """By the true image, by the noise and by pixels that are left out; and the memory of such a solve."""
    solver, shape = Solver(random_planes_model(3)), (24, 26)
    operator, x = Mask(np.random.default_rng(0).random(shape) < 0.7), pictures(1, 3, (24, 26))[0]
    y = operator.apply(x)
    limits = {"max_outer": 1, "max_iter": 60}
    for by, best in (({"reference": x}, 1e-3), ({"noise_std": 0.01}, 1e-3), ({"holdout": 0.1}, 0.5)):
        found = solver.tune_strength(y, operator, [1e-3, 0.5], **by, **limits)  # pixels are independent: no telling
        assert found.strength == best
    three = solver.estimate_memory((2, *y.shape), operator=operator)
    one = Solver(random_model(channels=6)).estimate_memory((2, *shape), operator=operator)
    assert one < three


def test_a_warm_up_compiles_for_the_planes_of_a_model():
    warmup(random_planes_model(3), backend="cpu")
    startup.compile_ahead(
        Solver(random_planes_model(3), backend="cpu"), lambda count: pytest.fail(f"{count} are missing")
    )
    missing = cache.missing_kernels({("dual_step", "Geometry3"), ("dual_step", "Geometry4"), ("back_step", "Geometry")})
    assert sorted(missing) == ["back_step", "dual_step"]


def test_the_command_line_with_a_colour_model(tmp_path, capsys):
    """`denoise` gives what the library does, `evaluate` counts all channels; a grey file is refused by its name."""
    save_model(random_planes_model(3), tmp_path / "colour.safetensors")
    eight = (255 * np.moveaxis(pictures(1, 3, (40, 44))[0], 0, -1)).astype(np.uint8)
    imsave(tmp_path / "in.png", eight, check_contrast=False)
    words = ["--model", str(tmp_path / "colour.safetensors"), "--sigma", "25", "--strength", "0.05"]
    assert main(["denoise", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.npy"), *words]) == 0
    expected = Solver(random_planes_model(3)).denoise(eight, 25.0, strength=0.05 * 255, channel_axis=-1)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=0.51)
    capsys.readouterr()
    assert main(["evaluate", "--data", str(tmp_path / "in.png"), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images_from_colour"] == 0
    assert told["psnr_noisy"] == pytest.approx(20.2, abs=0.3)
    clean = np.moveaxis(eight, -1, 0).astype(np.float32) / 255
    found = Solver(random_planes_model(3)).denoise(add_noise(clean, SIGMA, 0, 0), SIGMA, strength=0.05, channel_axis=0)
    assert told["psnr"] == pytest.approx(psnr(clean, found.clip(0, 1)), abs=1e-4)
    imsave(tmp_path / "grey.png", eight[..., 0], check_contrast=False)
    assert main(["evaluate", "--data", str(tmp_path / "grey.png"), *words]) == 1
    assert "grey.png: the image has 1 planes; the model has 3" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "colour.safetensors")]) == 0
    assert "6 of 5 x 5 for 3 planes together" in capsys.readouterr().out


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


def test_a_launch_has_room_for_all_planes():
    """They are the z of a grid, of which CUDA takes 65,535."""
    engine = SimpleNamespace(batch_bytes=lambda: 2**40, bytes_per_pixel=lambda: 1)
    assert memory.divide(engine, memory.Extent(4, 70000, 16, 16)).batch == 65535
    assert memory.divide(engine, memory.Extent(4, 70000, 16, 16, planes=3)).batch == 21845


# ------------------------------------------------------------------------------------- the model of colours by default


@pytest.fixture
def color_model(monkeypatch):
    """A shipped model of three planes."""
    model = random_planes_model(3)
    names, load = models.list_models(), models.load_model
    known = {models.DEFAULT_COLOR_MODEL: model}
    monkeypatch.setattr(api, "list_models", lambda: sorted({*names, *known}))
    monkeypatch.setattr(api, "load_model", lambda name: known.get(name) or load(name))
    api._solver.cache_clear()
    yield model
    api._solver.cache_clear()


def test_colours_go_through_the_model_for_them(color_model):
    image, options = np.moveaxis(pictures(1, 3)[0], 0, -1), {"channel_axis": -1, "max_outer": 2, "max_inner": 3}
    own, solver = Solver(color_model).denoise(image, SIGMA, **options), Solver()
    grey = Solver("safi-gray").denoise(image, SIGMA, **options)
    assert np.abs(own - grey).max() > 1e-3
    np.testing.assert_array_equal(solver.denoise(image, SIGMA, **options), own)
    np.testing.assert_array_equal(next(solver.denoise_batch([image], SIGMA, **options)), own)
    np.testing.assert_array_equal(safi_fast.denoise(image, SIGMA, **options), own)
    assert solver.estimate_memory(image.shape, channel_axis=-1) == Solver(color_model).estimate_memory(
        image.shape, channel_axis=-1
    )
    assert solver.model_for(image.shape, -1) is color_model
    solver.release_memory()


@pytest.mark.parametrize("color", ["luma-chroma", "separate"])
def test_the_grey_model_stays_for_all_else(color_model, color):
    solver, grey = Solver(), load_model()
    assert solver.model is grey
    assert solver.model_for((22, 27)) is grey
    assert solver.model_for((2, 22, 27), 0) is grey
    assert solver.model_for((3, 22, 27), 0, color) is grey
    assert solver.model_for((3, 22, 27), 7) is grey
    assert Solver("safi-gray").model_for((3, 22, 27), 0) is grey
    image, options = pictures(1, 3)[0], {"channel_axis": 0, "color": color, "max_outer": 1, "max_inner": 2}
    np.testing.assert_array_equal(
        solver.denoise(image, SIGMA, **options), Solver("safi-gray").denoise(image, SIGMA, **options)
    )


def test_files_of_colours_on_the_command_line(color_model, tmp_path, capsys):
    for name, image in (("grey.png", pictures(1, 3)[0, 0]), ("colour.png", np.moveaxis(pictures(1, 3)[0], 0, -1))):
        imsave(tmp_path / name, (255 * image).astype(np.uint8), check_contrast=False)
    steps = ["--sigma", "25", "--max-outer", "1", "--max-inner", "2", "--json"]
    files = [str(tmp_path / name) for name in ("grey.png", "colour.png")]
    assert main(["denoise", *files, "-o", str(tmp_path / "out"), *steps]) == 0
    found = {record["input"]: record["model"] for record in json.loads(capsys.readouterr().out)["files"]}
    assert found == dict(zip(files, ("safi-gray", color_model.name), strict=True))
    assert main(["denoise", *files, "-o", str(tmp_path / "asked"), "--model", "safi-gray", *steps]) == 0
    assert {record["model"] for record in json.loads(capsys.readouterr().out)["files"]} == {"safi-gray"}
