"""Weights files: a model comes back as it was, damage is refused in words, and models are found by name."""

import dataclasses
import hashlib
import os
import stat
import struct

import numpy as np
import pytest
from models import random_model
from safetensors import safe_open
from safetensors.numpy import save_file

from safi_fast import models
from safi_fast.errors import InputError, ModelError
from safi_fast.model import Schedule, StepFactors, fingerprint_of
from safi_fast.models import DEFAULT_MODEL, describe, list_models, load_model
from safi_fast.weights import read_model, save_model

LEVELS = (5 / 255, 15 / 255, 50 / 255)


def content(path):
    """(tensors, metadata) of a safetensors file."""
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture
def rewritten(tmp_path):
    """Saves a model, changes its tensors or metadata, writes it again with the hash corrected; gives the path."""

    def rewrite(change, family="safi", rehash=True, **arguments):
        path = tmp_path / "changed.safetensors"
        save_model(random_model(family, **arguments), path)
        tensors, metadata = content(path)
        change(tensors, metadata)
        if rehash and "sha256" in metadata:
            metadata["sha256"] = fingerprint_of(tensors)
        save_file(tensors, path, metadata)
        return path

    return rewrite


# --------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("family", ["safi", "mmr"])
@pytest.mark.parametrize("composed", [False, True], ids=["cascade", "composed"])
@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
@pytest.mark.parametrize("levels", [LEVELS[1:2], LEVELS], ids=["one-level", "levels"])
def test_a_model_comes_back_as_it_was(tmp_path, family, composed, boundary, levels):
    model = random_model(
        family, composed=composed, boundary=boundary, levels=levels, lipschitz=1.25, schedule=Schedule("gap", 4, 30)
    )
    save_model(model, tmp_path / "model.safetensors")
    read = read_model(tmp_path / "model.safetensors")
    assert read.fingerprint == model.fingerprint
    assert read.tensors().keys() == model.tensors().keys()
    for name, array in model.tensors().items():
        np.testing.assert_array_equal(read.tensors()[name], array)
        assert read.tensors()[name].dtype == array.dtype
    for entry in ("name", "family", "schedule", "metadata", "lipschitz"):
        assert getattr(read, entry) == getattr(model, entry)
    assert read.filters.boundary == boundary
    if family == "safi":
        assert (read.mask.dilations, read.mask.boundary) == ((1, 2, 1), boundary)


def test_the_mask_has_the_boundary_of_the_filters():
    model = random_model(boundary="symmetric")
    with pytest.raises(ModelError, match=r"mask_boundary is 'zero' and boundary 'symmetric'; they must be the same"):
        dataclasses.replace(model, mask=dataclasses.replace(model.mask, boundary="zero"))


def test_the_file_says_what_it_is(tmp_path):
    model = random_model(kernels=(3, 5, 3), levels=LEVELS, metadata={"scores": "29.1 dB", "grant": "none"})
    save_model(model, tmp_path / "model.safetensors")
    tensors, metadata = content(tmp_path / "model.safetensors")
    layers = [f"filters.{i}" for i in range(3)]
    mask = [f"mask.{kind}.{i}" for kind in ("convolution", "spline") for i in range(3)] + ["mask.gain", "mask.bias"]
    assert sorted(tensors) == sorted([*layers, *mask, "strength.unrolled", "strength.converged", "noise_levels"])
    assert metadata == {
        "format": "safi_fast",
        "format_version": "1",
        "name": "random-safi",
        "family": "safi",
        "boundary": "zero",
        "mask_boundary": "zero",
        "mask_dilations": "1,2,1",
        "schedule": "unrolled 5 12",
        "noise_range": "0.0196078 to 0.196078",
        "sha256": model.fingerprint,
        "scores": "29.1 dB",
        "grant": "none",
    }
    assert sorted(content_of_mmr(tmp_path)) == [
        "filters",
        "mask.profile",
        "mask.scale",
        "mask.smoothing.0",
        "mask.smoothing.1",
        "noise_levels",
        "strength.converged",
        "strength.unrolled",
    ]


def content_of_mmr(folder):
    save_model(random_model("mmr", composed=True), folder / "mmr.safetensors")
    return content(folder / "mmr.safetensors")[0]


STEPS = StepFactors(np.linspace(0.5, 2, 12), np.linspace(0, 0.9, 12))


def by_level(mask):
    return dataclasses.replace(mask, scale=np.stack([mask.scale * factor for factor in (1, 2, 3)]))


@pytest.mark.parametrize("what", ["steps", "scale"])
def test_version_2_holds_what_version_1_cannot(tmp_path, what):
    if what == "steps":
        model = random_model(steps=STEPS)
    else:
        model = random_model("mmr", levels=LEVELS)
        model = dataclasses.replace(model, mask=by_level(model.mask))
    save_model(model, tmp_path / "model.safetensors")
    assert content(tmp_path / "model.safetensors")[1]["format_version"] == "2"
    read = read_model(tmp_path / "model.safetensors")
    assert read.fingerprint == model.fingerprint
    if what == "steps":
        np.testing.assert_array_equal(read.steps.size, STEPS.size)
        np.testing.assert_array_equal(read.steps.momentum, STEPS.momentum)
    else:
        assert read.mask.scale.shape == (3, 4)


def test_version_1_with_what_only_version_2_has_is_refused(rewritten):
    def add_steps(tensors, metadata):
        tensors.update({"steps.size": STEPS.size, "steps.momentum": STEPS.momentum})

    with pytest.raises(ModelError, match=r"tensor steps\.momentum is unknown in a model of this kind"):
        read_model(rewritten(add_steps))


# ------------------------------------------------------------------------------------------------------------- saving


def test_saving_replaces_a_file_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(random_model(seed=1), path)
    save_model(random_model(seed=2), str(path))
    assert read_model(path).fingerprint == random_model(seed=2).fingerprint
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_saved_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    save_model(random_model(), tmp_path / "model.safetensors")
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(random_model(seed=1), path)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be written \(no space left on device\)"):
        save_model(random_model(seed=2), path)
    monkeypatch.undo()
    assert read_model(path).fingerprint == random_model(seed=1).fingerprint
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_saving_refuses(tmp_path):
    with pytest.raises(ModelError, match=r"a weights file is written as \.safetensors"):
        save_model(random_model(), tmp_path / "model.pth")
    with pytest.raises(
        ModelError, match=r"the model's metadata has format, sha256, which the weights file sets itself"
    ):
        save_model(random_model(metadata={"sha256": "", "format": ""}), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"cannot be written \(no such file or directory\)"):
        save_model(random_model(), tmp_path / "nowhere" / "model.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written"):
        save_model(random_model(), tmp_path / "file" / "model.safetensors")


# ------------------------------------------------------------------------------------------------- refused: the file


def test_reading_refuses_what_is_no_file(tmp_path):
    with pytest.raises(ModelError, match=r"none\.safetensors: there is no such weights file"):
        read_model(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="is a folder; expected a weights file"):
        read_model(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, 3000, -1])
def test_reading_refuses_a_truncated_file(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_model(random_model(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: is truncated, damaged or not a safetensors file"):
        read_model(path)


def test_reading_refuses_any_flipped_byte(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(random_model(channels=1, kernels=(3,)), path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for i in range(start, len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x01]) + whole[i + 1 :])
        with pytest.raises(ModelError, match=r"model\.safetensors: "):
            read_model(path)


@pytest.mark.parametrize(
    ("name", "start"), [("model.pth", b"PK\x03\x04"), ("model.pt", b"anything"), ("model.safetensors", b"\x80\x02}q")]
)
def test_reading_a_pytorch_checkpoint_tells_to_convert_it(tmp_path, name, start):
    (tmp_path / name).write_bytes(start + bytes(100))
    with pytest.raises(ModelError, match="is a PyTorch checkpoint; convert it with `safi-fast convert`"):
        read_model(tmp_path / name)


def test_reading_refuses_a_foreign_safetensors_file(tmp_path):
    save_file({"weight": np.ones(3, np.int64)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match=r"foreign\.safetensors: is a safetensors file, but not one of safi_fast"):
        read_model(tmp_path / "foreign.safetensors")


def test_reading_refuses_an_unknown_version(rewritten):
    path = rewritten(lambda tensors, metadata: metadata.update(format_version="3"))
    with pytest.raises(ModelError, match=r"has format_version '3'; this version of safi_fast reads 1 and 2"):
        read_model(path)


def test_reading_refuses_tensors_that_were_changed(rewritten):
    path = rewritten(lambda tensors, metadata: tensors["mask.gain"].__imul__(1.01), rehash=False)
    with pytest.raises(ModelError, match=r"the tensors do not match the SHA-256 in the file"):
        read_model(path)


# ---------------------------------------------------------------------------------------- refused: tensors and texts

SAFI_TENSORS = sorted(random_model("safi").tensors())
MMR_TENSORS = sorted(random_model("mmr").tensors())


@pytest.mark.parametrize(
    ("family", "name"), [("safi", name) for name in SAFI_TENSORS] + [("mmr", name) for name in MMR_TENSORS]
)
def test_reading_names_the_tensor_that_is_missing(rewritten, family, name):
    path = rewritten(lambda tensors, metadata: tensors.pop(name), family)
    missing = "mask.smoothing.0" if name == "mask.smoothing.1" else name  # one layer of G fewer is a model as well
    if missing != name:
        assert len(read_model(path).mask.smoothing) == 1
        return
    with pytest.raises(ModelError, match=rf"changed\.safetensors: tensor {name} is missing"):
        read_model(path)


@pytest.mark.parametrize("name", SAFI_TENSORS)
def test_reading_names_the_tensor_that_is_not_finite(rewritten, name):
    path = rewritten(lambda tensors, metadata: tensors[name].flat.__setitem__(0, np.nan))
    with pytest.raises(ModelError, match=rf"tensor {name} has values that are not finite"):
        read_model(path)


@pytest.mark.parametrize("name", SAFI_TENSORS)
def test_reading_names_the_tensor_of_a_wrong_shape(rewritten, name):
    path = rewritten(lambda tensors, metadata: tensors.update({name: tensors[name][None]}))
    with pytest.raises(ModelError, match=rf"tensor {name} has shape \(1, "):
        read_model(path)


@pytest.mark.parametrize("name", SAFI_TENSORS)
def test_reading_names_the_tensor_of_a_wrong_dtype(rewritten, name):
    swap = {"float32": np.float64, "float64": np.float32}
    path = rewritten(
        lambda tensors, metadata: tensors.update({name: tensors[name].astype(swap[tensors[name].dtype.name])})
    )
    with pytest.raises(ModelError, match=rf"tensor {name} has dtype float(32|64); expected float(32|64)"):
        read_model(path)


def test_reading_refuses_dtypes_of_other_libraries(rewritten):
    path = rewritten(lambda tensors, metadata: tensors.update({"mask.gain": np.ones((1, 4), np.float16)}))
    with pytest.raises(ModelError, match=r"tensor mask\.gain has dtype F16; expected F32 or F64"):
        read_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.update({"filters.3": t["filters.1"]}), r"tensor filters\.2 is missing"),
        (lambda t, m: t.update(filters=t["filters.0"]), r"tensor filters\.0 is unknown"),
        (
            lambda t, m: t.update({"mask.extra": t["mask.gain"]}),
            r"tensor mask\.extra is unknown in a model of this kind",
        ),
        (lambda t, m: t.update({"mask.spline.3": t["mask.spline.0"]}), r"mask\.spline comes 4 times"),
        (lambda t, m: t.update(lipschitz=np.ones(2)), r"tensor lipschitz has shape \(2,\); expected \(\)"),
        (lambda t, m: m.pop("family"), "the metadata has no family"),
        (lambda t, m: m.pop("boundary"), "the metadata has no boundary"),
        (lambda t, m: m.pop("mask_boundary"), "the metadata has no mask_boundary"),
        (lambda t, m: m.pop("mask_dilations"), "the metadata has no mask_dilations"),
        (lambda t, m: m.pop("schedule"), "the metadata has no schedule"),
        (lambda t, m: m.pop("name"), "the metadata has no name"),
        (lambda t, m: m.pop("sha256"), "the metadata has no sha256"),
        (lambda t, m: m.update(family="wcrr"), "family is 'wcrr'; expected safi or mmr"),
        (lambda t, m: m.update(family="mmr"), r"tensor mask\.smoothing\.0 is missing"),
        (lambda t, m: m.update(boundary="circular"), "boundary is 'circular'; expected one of zero, symmetric"),
        (lambda t, m: m.update(mask_dilations="1,3"), "mask.dilation comes 2 times"),
        (lambda t, m: m.update(mask_dilations="1,a,3"), "the metadata's mask_dilations is '1,a,3'; expected integers"),
        (lambda t, m: m.update(schedule=""), "the metadata's schedule is ''; expected for example"),
        (lambda t, m: m.update(schedule="unrolled 5"), "the metadata's schedule is 'unrolled 5'"),
        (
            lambda t, m: m.update(schedule="unrolled 5 x"),
            "the metadata's schedule is 'unrolled 5 x'; expected integers",
        ),
        (lambda t, m: m.update(schedule="fast 5 12"), "schedule is 'fast'; expected one of unrolled"),
    ],
)
def test_reading_refuses(rewritten, change, message):
    with pytest.raises(ModelError, match=rf"changed\.safetensors: {message}"):
        read_model(rewritten(change))


# ------------------------------------------------------------------------------------------------------------ by name


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package folder with two models in it."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name in ("safi-gray", "mmr-gray"):
        save_model(random_model(name[:-5].split("-")[0], name=name), folder / f"{name}.safetensors")
    (folder / "notes.txt").touch()
    monkeypatch.setattr(models, "files", lambda package: folder)
    models._shipped.cache_clear()
    yield folder
    models._shipped.cache_clear()


@pytest.mark.usefixtures("shipped")
def test_models_are_found_by_name_and_read_once():
    assert list_models() == ["mmr-gray", "safi-gray"]
    assert load_model("mmr-gray").name == "mmr-gray"
    assert load_model("mmr-gray") is load_model("mmr-gray")
    assert load_model().name == DEFAULT_MODEL


def test_models_are_read_from_paths(shipped, tmp_path, monkeypatch):
    path = shipped / "mmr-gray.safetensors"
    assert load_model(path).name == load_model(str(path)).name == "mmr-gray"
    monkeypatch.chdir(tmp_path)
    path.rename(tmp_path / "mine")
    assert load_model("mine").name == "mmr-gray"
    with pytest.raises(ModelError, match=r"^none\.safetensors: there is no such weights file"):
        load_model("none.safetensors")
    with pytest.raises(ModelError, match=r"nowhere.mine: there is no such weights file"):
        load_model("nowhere/mine")


@pytest.mark.usefixtures("shipped")
def test_an_unknown_name_is_answered_with_the_nearest():
    expected = r"there is no model 'safi-grey'; did you mean 'safi-gray'\? \(available: mmr-gray, safi-gray\)"
    with pytest.raises(ModelError, match=expected):
        load_model("safi-grey")
    with pytest.raises(ModelError, match=r"there is no model 'xyz' \(available: mmr-gray, safi-gray\)"):
        load_model("xyz")
    with pytest.raises(InputError, match=r"name_or_path is a int; expected a model's name or the path of a file"):
        load_model(3)


def test_without_shipped_models_the_answer_is_none(shipped):
    for path in shipped.iterdir():
        path.unlink()
    with pytest.raises(ModelError, match=r"there is no model 'safi-gray' \(available: none\)"):
        load_model()


def test_the_shipped_models_are_valid():
    for name in list_models():
        assert load_model(name).name == name


def test_a_description_is_for_people():
    told = describe(random_model(levels=LEVELS, metadata={"scores": "29.1 dB"}))
    assert told["filters"] == "4 of 7 x 7, 2 layers, zero boundary"
    assert told["noise levels"] == "5, 15, 50"
    assert (told["scores"], told["licence"]) == ("29.1 dB", "not stated")
    assert describe(random_model(composed=True))["filters"] == "4 of 7 x 7, composed, zero boundary"


def test_the_fingerprint_is_the_same_everywhere():
    """The recipe, spelled out: any tool can recompute it."""
    recipe = b"a float64 \n" + struct.pack("<d", 2) + b"b float32 1,2\n" + struct.pack("<2f", 1, 3)
    big_endian = np.array([[1, 3]], ">f4")
    assert fingerprint_of({"b": big_endian, "a": np.array(2.0)}) == hashlib.sha256(recipe).hexdigest()
