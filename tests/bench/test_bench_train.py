"""The recipes of the shipped models: two steps of each stage, on small images."""

import re

import numpy as np
import pytest
from PIL import Image

from bench.data import held_out
from bench.experiments import train
from safi_fast import load_model

pytest.importorskip("torch", reason="training needs PyTorch (extra 'train')")
SIDE = 96


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with noise for images, and the teachers of the shared one."""
    teachers = train.DATA / "teachers"
    if not teachers.is_dir():
        pytest.skip("the shared data folder is missing (SAFI_FAST_DATA)")
    rng = np.random.default_rng(0)
    for folder, count in {"set12": 1, "photographs": 1, "bsds500/train": 1, "bsds500/test": 7}.items():
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):  # the sixth of test is held out of colour
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{folder[-4:]}{number}.png")
    (tmp_path / "teachers").symlink_to(teachers)
    monkeypatch.setattr(train, "DATA", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", train.RECIPES)
def test_two_steps_of_a_recipe(name, data, monkeypatch):
    """The recipe but for the number of steps and the size of the pool, and smaller batches for all but `safi-gray`; the
    second call goes on from its checkpoint.
    """
    short = tuple(re.sub(r"--steps \d+", "--steps 2", stage) for stage in train.RECIPES[name])
    monkeypatch.setitem(train.RECIPES, name, short)
    small = "--batch 32 --pool 32" if name == "safi-gray" else "--batch 4 --pool 16"
    monkeypatch.setattr(train, "COMMON", train.COMMON.replace("--batch 32 --pool 1024", small))
    monkeypatch.setattr(train, "COLOR", train.COLOR.replace("--batch 8 --pool 256", "--batch 2 --pool 4"))
    words = [name, "--photographs", str(data / "photographs"), "--out", str(data / "run")]
    assert train.main(words) == 0
    shipped = load_model(name)
    trained = load_model(data / "run" / str(len(short)) / "model.safetensors")
    assert trained.name == name
    assert trained.schedule == shipped.schedule
    np.testing.assert_allclose(trained.noise_levels, shipped.noise_levels, rtol=1e-4)
    assert [v.shape for v in trained.tensors().values()] == [v.shape for v in shipped.tensors().values()]
    assert train.main(words) == 0


def test_a_stage_goes_on_from_the_one_before(tmp_path):
    first, second = train.stages("safi-gray-fast", tmp_path, [])
    assert first[first.index("--init") + 1] == str(train.RUNS / "safi-gray-fast" / "start.safetensors")
    assert second[second.index("--init") + 1] == str(tmp_path / "1" / "raw.safetensors")


def test_what_is_validated_on_is_not_trained_on(data, tmp_path):
    trained, crops = held_out.split(data / "bsds500", tmp_path / "out")
    assert {path.stem for path in crops.iterdir()} == {"test5"}
    assert {path.stem for path in trained.iterdir()} == {"rain0", *(f"test{n}" for n in (0, 1, 2, 3, 4, 6))}
    with Image.open(crops / "test5.png") as crop:
        assert crop.size == (held_out.SIDE, held_out.SIDE)
