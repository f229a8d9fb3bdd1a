"""Coil maps: exact maps are found again, and on real data what they leave over is the noise."""

import numpy as np
import pytest
from test_operators import smooth_maps

from safi_fast.errors import InputError
from safi_fast.operators import SenseMRI, check_operator, estimate_maps

SHAPE, COILS = (48, 40), 4


def to_kspace(images):
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, (-2, -1)), norm="ortho"), (-2, -1))


def to_images(kspace):
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))


def phantom(seed=0):
    """Coil images of a textured disc, its mask, and the maps: (C, H, W), (H, W), (C, H, W)."""
    rows, columns = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    disc = np.hypot(rows, columns) < 0.7
    image = disc * (1 + 0.3 * np.random.default_rng(seed).random(SHAPE)) * np.exp(0.5j * rows)
    maps = smooth_maps(COILS, *SHAPE)
    return maps * image, disc, maps


def shares(images, maps, where):
    """||S (S^H images) - images|| / ||images|| over the pixels `where`."""
    rest = maps * (maps.conj() * images).sum(0) - images
    return np.linalg.norm(rest[:, where]) / np.linalg.norm(images[:, where])


@pytest.mark.parametrize(("method", "bound"), [("espirit", 0.02), ("low_resolution", 0.06)])
@pytest.mark.parametrize("order", ["centered", "fft"])
def test_maps_of_a_phantom(method, bound, order):
    images, disc, _ = phantom()
    if order == "fft":  # the origin of the image moves with the order
        images, disc = np.fft.ifftshift(images, (-2, -1)), np.fft.ifftshift(disc)
        kspace = np.fft.fft2(images, norm="ortho")
    else:
        kspace = to_kspace(images)
    maps = estimate_maps(kspace, kspace_order=order, method=method, calibration=24)
    assert (maps.shape, maps.dtype) == (images.shape, np.complex64)
    assert shares(images, maps, disc) < bound
    energy = (np.abs(maps) ** 2).sum(0)
    assert ((np.abs(energy - 1) < 1e-5) | (energy == 0)).all()
    assert (energy[disc] > 0).all()
    operator = SenseMRI(maps, np.ones(SHAPE), mask_order=order)
    assert operator.norm <= 1 + 1e-5
    check_operator(operator)
    combined = (maps.conj() * images).sum(0)
    assert np.linalg.norm(combined.imag) < 0.25 * np.linalg.norm(combined)


def test_the_calibration_region_is_found():
    images, disc, _ = phantom()
    full = to_kspace(images)
    undersampled = np.zeros_like(full)
    undersampled[:, ::2, ::2] = full[:, ::2, ::2]
    undersampled[:, 14:34, 10:30] = full[:, 14:34, 10:30]
    maps = estimate_maps(undersampled, kspace_order="centered")
    np.testing.assert_array_equal(maps, estimate_maps(full, kspace_order="centered", calibration=20))
    assert shares(images, maps, disc) < 0.03


def without_middle():
    kspace = to_kspace(phantom()[0])
    kspace[:, ::3] = 0
    return kspace


FULL = to_kspace(phantom()[0])
SILENT, BROKEN = FULL.copy(), FULL.copy()
SILENT[2] = 0
BROKEN[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("kspace", "options", "message"),
    [
        (FULL[0], {}, r"kspace has shape \(48, 40\); expected \(C, H, W\)"),
        (BROKEN, {}, r"kspace has 1 values that are not finite, the first at \(1, 2, 3\)"),
        (SILENT, {}, r"kspace\[2\] is zero everywhere; leave this coil out"),
        (FULL, {"kspace_order": "fft"}, "kspace has its energy in the middle, but kspace_order='fft'"),
        (FULL, {"method": "jsense"}, "method is 'jsense'; expected one of 'espirit', 'low_resolution'"),
        (FULL, {"calibration": 64}, r"calibration is 64; expected sides from 2 to those of k-space, \(48, 40\)"),
        (FULL, {"calibration": (7, 30)}, "kernel is 6; expected 2 to 5, for a region of"),
        (without_middle(), {"calibration": 12}, "calibration is 12, but 48 of 144 samples of that region are zero"),
        (without_middle(), {}, "kspace has no fully sampled 8 x 8 centre"),
    ],
)
def test_refusals(kspace, options, message):
    with pytest.raises(InputError, match=message):
        estimate_maps(kspace, **{"kspace_order": "centered"} | options)


def test_what_maps_leave_over_of_real_coils_is_noise(data_folder):
    """A map keeps one of C dimensions per pixel.

    White noise loses (C - 1) / C of its energy, signal nothing: the rest is the noise.

    The noise is measured in the corners of the field of view, without signal. Over the whole image the rest is within 5
    % of what the noise predicts (0.107 of the norm); low-resolution maps, which see the image through a wide window,
    leave a little more.
    """
    flat = np.fromfile(data_folder / "mri" / "espirit_full.cfl", np.complex64)
    kspace = flat.reshape((230, 180, 8), order="F").transpose(2, 0, 1)
    images = to_images(kspace)
    corners = np.concatenate([images[:, :12, :12], images[:, -12:, :12], images[:, :12, -12:], images[:, -12:, -12:]])
    energy, everywhere = np.mean(np.abs(images) ** 2), np.ones(images.shape[1:], bool)
    noise = np.sqrt(7 / 8 * np.mean(np.abs(corners) ** 2) / energy)
    low = estimate_maps(kspace, kspace_order="centered", method="low_resolution")
    sharp = estimate_maps(kspace, kspace_order="centered", calibration=20)
    signal = (np.abs(images) ** 2).sum(0) > 0.05**2 * (np.abs(images) ** 2).sum(0).max()
    assert (sharp[0][signal] == 0).mean() < 0.005
    assert shares(images, sharp, everywhere) == pytest.approx(noise, rel=0.05)
    assert shares(images, sharp, signal) < shares(images, low, signal) < 1.05 * shares(images, sharp, signal)
    combined = (sharp.conj() * images).sum(0)
    assert np.linalg.norm(combined.imag) < 0.2 * np.linalg.norm(combined)
