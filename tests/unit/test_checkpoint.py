"""Published checkpoints: their layouts are read, their projections applied, and anything else is refused in words."""

import hashlib
import re
import sys
from types import SimpleNamespace

import numpy as np
import oracle
import pytest

from safi_fast import Solver
from safi_fast.errors import BackendError, InputError, ModelError
from safi_fast.model import Schedule
from safi_fast.training.checkpoint import convert, read_checkpoint
from safi_fast.weights import read_model

torch = pytest.importorskip("torch", reason="reading checkpoints needs PyTorch (extra 'train')")

PUBLISHED = ("mmr_sigma5", "mmr_sigma15", "mmr_sigma25", "safi_random_16")
FAMILIES = ("safi", "mmr")


def published_content(family, channels=3, kernel=5, depth=2, sigma=15, seed=0, planes=1):
    """What torch.save gets in the published code, with random raw parameters: nothing is projected yet."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    def linear_layer(name, groups=1, inputs=1, size=kernel, layers=depth):
        kernels = {f"{name}.W1.weight": random(channels, inputs, size, size)}
        square = (channels, channels // groups, size, size)
        kernels |= {f"{name}.W1s.{i}.weight": random(*square) for i in range(layers - 1)}
        return kernels | {key.replace(".W1", ".W1T").replace(".W1Ts", ".W1sT"): random(2) for key in kernels}

    state = {"lmbda": torch.full((1, 1), 2e-3), "cs": random(1, channels, 1, 1), **linear_layer("W1", inputs=planes)}
    if family == "mmr":
        state["phigrad_spline.coefficients"] = random(channels, 21)
        state |= linear_layer("W2", groups=channels)
    else:
        state |= linear_layer("W4", inputs=planes, size=7, layers=1)
        state |= linear_layer("W2", inputs=channels, size=7, layers=1) | linear_layer(
            "W3", inputs=channels, size=7, layers=1
        )
        state |= {f"phigrad_spline{i}.coefficients": random(channels, 21) for i in (1, 2, 3)}
    parameters = {"kernel_size": kernel, "n_filter": channels, "n_layer": depth}
    return {"epoch": 3, "state_dict": state, "config": {"model_params": parameters, "sigma": sigma}}


@pytest.fixture
def written(tmp_path):
    """Writes a checkpoint of this family, changed by `change(content)`, and gives its path."""

    def write(family="mmr", change=lambda content: None, **arguments):
        content = published_content(family, **arguments)
        change(content)
        torch.save(content, tmp_path / "some.pth")
        return tmp_path / "some.pth"

    return write


def find(folder, name):
    return next(
        path for path in (folder / "weights" / f"{name}.pth", folder / "golden" / f"{name}.pth") if path.exists()
    )


# ------------------------------------------------------------------------------------------------- published layouts


@pytest.mark.parametrize(("channels", "kernel", "depth"), [(3, 5, 2), (2, 3, 1), (4, 3, 4), (1, 7, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_found_in_the_file(written, family, channels, kernel, depth):
    model = read_checkpoint(written(family, channels=channels, kernel=kernel, depth=depth))
    assert (model.family, model.name, model.schedule) == (family, "some", Schedule("unrolled", 5, 12))
    assert (model.filters.channels, len(model.filters.layers)) == (channels, depth)
    assert model.filters.support == depth * (kernel - 1) + 1
    assert model.filters.boundary == "zero"
    assert model.noise_levels == 15 / 255
    if family == "safi":
        assert [v.shape[-1] for v in model.mask.convolutions] == [7, 7, 7]
        assert (model.mask.dilations, model.mask.boundary) == ((1, 1, 1), "zero")
        assert (model.mask.gain == 1).all()
        assert (model.mask.bias == 0).all()
    else:
        assert len(model.mask.smoothing) == depth


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_match_the_oracle(written, family):
    path = written(family)
    model, expected = read_checkpoint(path), oracle.read_published(path)
    close = {"rtol": 2**-23, "atol": 1e-9}  # projected in float64, rounded once to float32
    for ours, theirs in zip(model.filters.layers, expected["layers"], strict=True):
        np.testing.assert_allclose(ours, theirs, **close)
        np.testing.assert_allclose(ours.mean((2, 3)), 0, atol=1e-7)
    if family == "mmr":
        for ours, theirs in zip(model.mask.smoothing, expected["smoothing"], strict=True):
            np.testing.assert_allclose(ours, theirs, **close)
        np.testing.assert_allclose(model.mask.profile, expected["profile"], **close)
        np.testing.assert_allclose(model.mask.scale, expected["scale"], **close)
    else:
        for ours, (theirs, _) in zip(model.mask.convolutions, expected["convolutions"], strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert abs(ours.mean((2, 3))).max() > 0.01, "the kernels of the SAFI mask keep their means"
        for ours, theirs in zip(model.mask.splines, expected["splines"], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoints_of_three_planes(written, family):
    """The first layers of W and of the SAFI mask take red, green and blue."""
    model = read_checkpoint(written(family, planes=3))
    assert (model.filters.planes, model.filters.layers[0].shape) == (3, (3, 3, 5, 5))
    np.testing.assert_allclose(model.filters.layers[0].mean((2, 3)), 0, atol=1e-7)
    assert model.filters.layers[1].shape == (3, 3, 5, 5)
    if family == "safi":
        assert [v.shape[1] for v in model.mask.convolutions] == [3, 3, 3]
    image = np.random.default_rng(0).random((24, 20, 3), np.float32)
    clean = Solver(model).denoise(image, 15 / 255, channel_axis=-1, max_outer=1, max_inner=2)
    assert clean.shape == image.shape
    assert not np.array_equal(clean, image)


def test_layers_for_other_planes_are_refused(written):
    def change(content):
        content["state_dict"]["W4.W1.weight"] = torch.zeros(3, 2, 7, 7)

    with pytest.raises(ModelError, match=re.escape("W4.W1.weight has shape (3, 2, 7, 7); expected (3, 3, any, any)")):
        read_checkpoint(written("safi", change, planes=3))


def test_phi_starts_at_one_whatever_is_stored(written):
    def change(content):
        content["state_dict"]["phigrad_spline.coefficients"] = torch.tensor([[3.0, 2.5, 2.75, 2.25]]).repeat(3, 1)

    profile = read_checkpoint(written("mmr", change)).mask.profile
    np.testing.assert_array_equal(profile, [[1, 0.5, 0.5, 0]] * 3)


def test_strengths(written):
    model = read_checkpoint(written())
    assert model.strength.unrolled == model.strength.converged == pytest.approx(2e-3)
    assert read_checkpoint(written(), converged_strength=0.01).strength.converged == 0.01
    below = read_checkpoint(written("mmr", lambda content: content["state_dict"]["lmbda"].fill_(-1)))
    assert below.strength.unrolled == 1e-12
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match=r"converged_strength is .*; expected a positive finite number"):
            read_checkpoint(written(), converged_strength=wrong)


def test_the_source_is_recorded(written):
    path = written()
    model = read_checkpoint(path, name="chosen")
    assert model.name == "chosen"
    assert model.metadata["source"] == f"checkpoint some.pth, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_files_of_the_old_pytorch_format_are_read(tmp_path):
    torch.save(published_content("mmr"), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pth").family == "mmr"


@pytest.mark.parametrize("family", FAMILIES)
def test_convert_writes_what_it_returns(written, tmp_path, family):
    out = tmp_path / "out.safetensors"
    model = convert(written(family), out, converged_strength=0.01, name="mine")
    read = read_model(out)
    assert (read.name, read.fingerprint, read.metadata) == ("mine", model.fingerprint, model.metadata)
    with pytest.raises(ModelError, match=r"out\.safetensors: exists already"):
        convert(written(family), out)
    assert convert(written(family), out, overwrite=True).name == read_model(out).name == "some"


# ---------------------------------------------------------------------------------------------------------- real files


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_checkpoints_give_the_golden_filters_and_masks(data_folder, name):
    model = read_checkpoint(find(data_folder, name))
    golden = np.load(data_folder / "golden" / f"{name}.npz")
    assert model.noise_levels[0] == pytest.approx(float(golden["sigma"]), rel=1e-12)
    assert model.strength.unrolled[0] == pytest.approx(float(golden["lambda_trained"]), rel=1e-6)
    image = golden["noisy"].astype(float)[:48, :56]  # a corner; what lies within reach of the cut is left out below
    far = (slice(None), slice(0, 24), slice(0, 32))
    filtered = oracle.analysis(image, model.filters.layers, "zero")
    np.testing.assert_allclose(
        filtered[far], golden["filtered"][far], atol=3e-5
    )  # measured: 2.1e-5 for float32 goldens
    if model.family == "safi":
        m = model.mask
        convolutions = list(zip(m.convolutions, m.dilations, strict=True))
        mask = oracle.safi_mask(image, convolutions, m.splines, m.gain[0], m.bias[0], m.boundary)
    else:
        m = model.mask
        mask = oracle.mmr_mask(image, model.filters.layers, "zero", m.smoothing, m.profile, m.scale)
    np.testing.assert_allclose(mask[far], golden["mask_of_noisy"][far], atol=1e-4)  # measured: 7e-5


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_checkpoints_survive_a_conversion(data_folder, tmp_path, name):
    model = convert(find(data_folder, name), tmp_path / "out.safetensors")
    assert read_model(tmp_path / "out.safetensors").fingerprint == model.fingerprint
    assert (model.name, model.filters.support, model.filters.band) == (name, 13, 3)


@pytest.mark.parametrize(
    ("name", "message"), [("dncnn_25", "has no 'state_dict'"), ("wcrr", "has no entry phigrad_spline")]
)
def test_real_checkpoints_of_other_methods_are_refused(data_folder, name, message):
    with pytest.raises(ModelError, match=rf"{name}\.pth: {message}"):
        read_checkpoint(data_folder / "weights" / f"{name}.pth")


# ------------------------------------------------------------------------------------------------------------ refusals


def test_without_pytorch_the_extra_is_named(written, monkeypatch):
    path = written()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"needs PyTorch: pip install torch"):
        read_checkpoint(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"none\.pth: there is no such checkpoint"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="is a folder; expected a checkpoint"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 2000, -1000])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused(tmp_path, keep, zipped):
    path = tmp_path / "short.pth"
    torch.save(published_content("mmr"), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"short\.pth: is truncated, damaged or not a PyTorch checkpoint"):
        read_checkpoint(path)


def test_text_is_refused(tmp_path):
    (tmp_path / "text.pth").write_text("hello world")
    with pytest.raises(ModelError, match="is truncated, damaged or not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "text.pth")


class Trap:
    """Unpickling it would leave a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_objects_are_refused_and_not_run(tmp_path, written):
    path = written("mmr", lambda content: content.update(extra=Trap(tmp_path / "trace")))
    with pytest.raises(ModelError, match="holds Python objects that only running its code could load"):
        read_checkpoint(path)
    assert not (tmp_path / "trace").exists()
    with pytest.raises(ModelError, match="holds Python objects"):
        read_checkpoint(written("mmr", lambda content: content.update(extra=SimpleNamespace())))


@pytest.mark.parametrize("content", [torch.ones(3), [1], {"state_dict": 3}, {"model.0.weight": torch.ones(3)}])
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"other\.pth: has no 'state_dict'; expected a checkpoint of the published"):
        read_checkpoint(tmp_path / "other.pth")


ENTRIES = [
    (family, key)
    for family in FAMILIES
    for key in published_content(family)["state_dict"]
    if "T." not in key and (family, key) != ("safi", "cs")
]
DECIDES_FAMILY = ("phigrad_spline.coefficients", "phigrad_spline1.coefficients")


@pytest.mark.parametrize(("family", "key"), ENTRIES)
def test_a_missing_entry_is_named(written, family, key):
    expected = "has no entry phigrad_spline" if key in DECIDES_FAMILY else f"entry {key} is missing"
    with pytest.raises(ModelError, match=expected):
        read_checkpoint(written(family, lambda content: content["state_dict"].pop(key)))


@pytest.mark.parametrize(("family", "key"), ENTRIES)
def test_an_entry_that_is_not_finite_is_named(written, family, key):
    with pytest.raises(ModelError, match=rf"some\.pth: entry {key} has values that are not finite"):
        read_checkpoint(written(family, lambda content: content["state_dict"][key].view(-1)[0].fill_(np.nan)))


@pytest.mark.parametrize(("family", "key"), ENTRIES)
def test_an_entry_of_a_wrong_shape_is_named(written, family, key):
    def change(content):
        content["state_dict"][key] = content["state_dict"][key][None]

    with pytest.raises(ModelError, match=rf"some\.pth: entry {key} has shape \(1, .*; expected \("):
        read_checkpoint(written(family, change))


@pytest.mark.parametrize("value", [3, "text", torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1).to_sparse()])
def test_an_entry_of_a_wrong_kind_is_named(written, value):
    with pytest.raises(ModelError, match="entry lmbda is not a plain tensor of floating point numbers"):
        read_checkpoint(written("mmr", lambda content: content["state_dict"].update(lmbda=value)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state_dict"].update({"W2.W1.bias": torch.ones(3)}), r"entry W2\.W1\.bias is unknown"),
        (lambda c: c["state_dict"]["W2.W1.weight"].zero_(), r"entries W2\.\* have a kernel of zeros"),
        (lambda c: c.pop("config"), "has no 'config' with 'model_params'"),
        (lambda c: c["config"].pop("model_params"), "has no 'config' with 'model_params'"),
        (
            lambda c: c["config"]["model_params"].pop("n_layer"),
            "config has n_layer = None; expected a positive integer",
        ),
        (lambda c: c["config"]["model_params"].update(n_filter=0), "config has n_filter = 0"),
        (lambda c: c["config"]["model_params"].update(n_filter=4), r"entry W1\.W1\.weight has shape \(3, 1, 5, 5\)"),
        (lambda c: c["config"]["model_params"].update(n_layer=3), r"entry W1\.W1s\.1\.weight is missing"),
        (lambda c: c["config"]["model_params"].update(n_layer=1), r"entry W1\.W1s\.0\.weight is unknown"),
        (lambda c: c["config"].pop("sigma"), "config has sigma = None; expected a noise level on the 8-bit scale"),
        (lambda c: c["config"].update(sigma=0), "config has sigma = 0"),
        (lambda c: c["config"].update(sigma="25"), "config has sigma = '25'"),
    ],
)
def test_other_layouts_are_refused(written, change, message):
    with pytest.raises(ModelError, match=rf"some\.pth: {message}"):
        read_checkpoint(written("mmr", change))


def test_filters_wider_than_the_kernels_are_built_for_are_refused(written):
    with pytest.raises(ModelError, match="the filters span 19 x 19 pixels; at most 17"):
        read_checkpoint(written("mmr", kernel=7, depth=3))
