"""Transforms of MONAI; where it is not installed, with a stand-in for the four names that the module uses."""

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from models import random_model

import safi_fast
from safi_fast import InputError

torch = pytest.importorskip("torch", reason="MONAI is of torch")

MODEL = random_model(levels=(1 / 255, 75 / 255))
FEW = {"max_outer": 1, "max_inner": 3, "model": MODEL}


class _MapTransform:
    def __init__(self, keys, allow_missing_keys=False):
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        self.allow_missing_keys = allow_missing_keys

    def key_iterator(self, data):
        for key in self.keys:
            if key not in data and not self.allow_missing_keys:
                raise KeyError(key)
            if key in data:
                yield key


def _convert(src, dst, dtype=None):
    made = torch.from_numpy(src).to(dst.device) if isinstance(dst, torch.Tensor) else src.astype(dtype)
    return made, type(dst), None


@pytest.fixture
def module(monkeypatch):
    """safi_fast.integrations.monai with the real MONAI or the stand-in."""
    name = "safi_fast.integrations.monai"
    if importlib.util.find_spec("monai") is None:
        enums = SimpleNamespace(NUMPY="numpy", TORCH="torch")
        for path, names in {
            "monai": {},
            "monai.transforms": {"Transform": object, "MapTransform": _MapTransform},
            "monai.utils": {"convert_to_dst_type": _convert},
            "monai.utils.enums": {"TransformBackends": enums},
        }.items():
            made = ModuleType(path)
            vars(made).update(names)
            monkeypatch.setitem(sys.modules, path, made)
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def volume(*shape):
    return (1000 + 50 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def test_slices_and_channels_are_images(module):
    image = volume(2, 34, 36, 3)
    found = module.SafiDenoise(50.0, **FEW)(image)
    limits = (float(image.min()), float(image.max()))
    for channel in range(2):
        for number in range(3):
            wanted = safi_fast.denoise(image[channel, ..., number], 50.0, data_range=limits, box=None, **FEW)
            np.testing.assert_allclose(found[channel, ..., number], wanted, rtol=1e-6)
    assert found.dtype == np.float32
    flat = module.SafiDenoise(50.0, data_range=limits, **FEW)(image[..., 0])
    np.testing.assert_allclose(flat, found[..., 0], rtol=1e-6)


def test_tensors_come_back_as_tensors_and_the_noise_is_found(module):
    image = torch.from_numpy(volume(1, 64, 64, 2))
    found = module.SafiDenoise(**FEW)(image)
    assert isinstance(found, torch.Tensor)
    assert found.std() < image.std()
    assert module._estimated(image.movedim(-1, 1)[0].numpy()) == pytest.approx(50, rel=0.1)


def test_entries_of_a_dictionary(module):
    image = volume(1, 40, 40)
    transform = module.SafiDenoised(["image", "other"], 50.0, allow_missing_keys=True, **FEW)
    found = transform({"image": image, "label": 3})
    assert found["label"] == 3
    np.testing.assert_array_equal(found["image"], module.SafiDenoise(50.0, **FEW)(image))
    with pytest.raises(KeyError):
        module.SafiDenoised("other", 50.0, **FEW)({"image": image})


@pytest.mark.parametrize("image", [np.zeros((1, 0, 40)), np.full((1, 40, 40), np.nan)])
def test_images_without_numbers(module, image):
    with pytest.raises(InputError, match="is empty or has values that are not finite"):
        module.SafiDenoise(50.0, **FEW)(image)


def test_constant_images_stay(module):
    image = np.full((1, 40, 40), 7, np.int16)
    np.testing.assert_array_equal(module.SafiDenoise(**FEW)(image), image)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"sigma": "guess"}, (1, 40, 40), "sigma is 'guess'; expected a number or 'estimate'"),
        ({"sigma": 1.0}, (40, 40), r"img has shape \(40, 40\); expected \(C, H, W\)"),
        ({}, (1, 20, 40), "slices are 20 x 40; expected 32 x 32"),
    ],
)
def test_what_is_refused(module, options, shape, message):
    with pytest.raises(InputError, match=message):
        module.SafiDenoise(**options, **FEW)(volume(*shape))
