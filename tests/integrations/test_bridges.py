"""denoise_safi beside scikit-image's denoisers, and the apps of sigpy."""

import inspect

import numpy as np
import pytest
from models import random_model
from skimage import restoration
from skimage.util import img_as_float

import safi_fast
from safi_fast import InputError
from safi_fast.integrations.skimage import denoise_safi
from safi_fast.operators import SenseMRI

MODEL = random_model(levels=(1 / 255, 75 / 255))
FEW = {"max_outer": 1, "max_inner": 3, "model": MODEL}
STEPS = {"max_outer": 2, "max_iter": 10, "schedule": "fast", "model": MODEL}


# -------------------------------------------------------------------------------------------------------- scikit-image


def picture(*shape, dtype=np.float64):
    return (0.5 + 0.1 * np.random.default_rng(0).standard_normal(shape)).clip(0, 1).astype(dtype)


def test_denoise_safi_is_denoise():
    image = picture(40, 44)
    np.testing.assert_array_equal(denoise_safi(image, 0.1, **FEW), safi_fast.denoise(image, 0.1, **FEW))
    np.testing.assert_array_equal(denoise_safi(image, **FEW), safi_fast.denoise(image, "estimate", **FEW))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_become_floats_from_0_to_1_as_in_scikit_image(dtype):
    image = (picture(40, 44, 3) * np.iinfo(dtype).max).astype(dtype)
    found = denoise_safi(image, 0.1, channel_axis=-1, **FEW)
    theirs = restoration.denoise_tv_chambolle(image, channel_axis=-1)
    assert (found.shape, found.dtype) == (theirs.shape, theirs.dtype)
    expected = safi_fast.denoise(img_as_float(image), 0.1, channel_axis=-1, **FEW)
    np.testing.assert_array_equal(found, expected)
    assert 0 <= found.min() <= found.max() <= 1
    assert denoise_safi(picture(40, 44, dtype=np.float32), 0.1, **FEW).dtype == np.float32


def test_arguments_have_the_names_of_scikit_image():
    ours = inspect.signature(denoise_safi).parameters
    for function, shared in (
        (restoration.denoise_tv_chambolle, ("image", "channel_axis")),
        (restoration.denoise_wavelet, ("image", "sigma", "channel_axis")),
    ):
        theirs = inspect.signature(function).parameters
        for name in shared:
            assert (ours[name].kind, ours[name].default) == (theirs[name].kind, theirs[name].default)


# --------------------------------------------------------------------------------------------------------------- sigpy


@pytest.fixture
def sigpy():
    return pytest.importorskip("sigpy", reason="its apps")


@pytest.fixture
def apps(sigpy):
    from safi_fast.integrations import sigpy as module

    return module


@pytest.fixture
def scan(sigpy):
    """k-space of four coils, every second line of it, maps, and the mask."""
    import sigpy.mri

    image, mask = picture(32, 36).astype(np.complex64), np.zeros((32, 36), bool)
    mask[::2] = mask[12:20] = True
    maps = sigpy.mri.birdcage_maps((4, 32, 36)).astype(np.complex64)
    return mask * sigpy.fft(maps * image, axes=(-2, -1)), maps, mask


def test_sense_recon_is_reconstruct(apps, scan):
    kspace, maps, mask = scan
    app = apps.SafiSenseRecon(kspace, maps, 1e-3, show_pbar=False, **STEPS)
    found = app.run()
    operator = SenseMRI(maps, mask, mask_order="centered")
    expected = safi_fast.reconstruct(kspace, operator, strength=1e-3, box=None, **STEPS)
    np.testing.assert_array_equal(found, expected.image)
    assert app.solution.relative_gap == expected.relative_gap
    assert app.time > 0
    weighted = apps.SafiSenseRecon(kspace, maps, 1e-3, mask, show_pbar=False, **STEPS).run()
    np.testing.assert_array_equal(weighted, found)


def test_a_linop_gives_the_same(sigpy, apps, scan):
    """To the accuracy of one convex problem: norms, and so steps, differ by a safety factor."""
    kspace, maps, mask = scan
    steps = {"max_outer": 1, "max_iter": 1000, "tol": 1e-5, "model": MODEL, "show_pbar": False}
    linop = sigpy.linop.Multiply((4, 32, 36), mask) * sigpy.mri.linop.Sense(maps)
    found = apps.SafiRecon(linop, kspace, 1e-2, **steps).run()
    own = apps.SafiSenseRecon(kspace, maps, 1e-2, **steps).run()
    np.testing.assert_allclose(found, own, atol=2e-3)


def test_they_are_apps(sigpy, apps, scan):
    kspace, maps, _ = scan
    assert issubclass(apps.SafiSenseRecon, sigpy.app.App)
    theirs = list(inspect.signature(sigpy.mri.app.SenseRecon.__init__).parameters)
    assert list(inspect.signature(apps.SafiSenseRecon.__init__).parameters)[:4] == theirs[:4]
    with pytest.raises(InputError, match=r"y has shape \(32, 36\); expected \(C, H, W\)"):
        apps.SafiSenseRecon(kspace[0], maps, 1e-3)
