"""The recipes of the shipped models: two steps of each stage, on small images."""

import re

import numpy as np
import pytest
from PIL import Image

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
    for folder in ("set12", "photographs", *train.IMAGES):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(tmp_path / folder / "0.png")
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
    small = "--batch 32 --pool 64" if name == "safi-gray" else "--batch 4 --pool 16"
    monkeypatch.setattr(train, "COMMON", train.COMMON.replace("--batch 32 --pool 1024", small))
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
