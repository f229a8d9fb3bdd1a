"""Volumes as stacks of slices, and as the mean of passes along several axes."""

import numpy as np
import pytest

import safi_fast
from safi_fast.errors import InputError

SHAPE = 16, 18, 20
SOLVER = safi_fast.Solver("safi-gray-fast", backend="cpu")
STEPS = {"max_outer": 1, "max_inner": 4}


def noisy():
    draw = np.random.default_rng(5)
    clean = np.full(SHAPE, 0.3, np.float32)
    clean[4:12, 5:14, 6:15] = 0.7
    return clean, (clean + 0.1 * draw.standard_normal(SHAPE)).astype(np.float32)


def test_it_is_the_weighted_mean_of_three_stacks():
    volume = noisy()[1]
    found = SOLVER.denoise_volume(volume, 0.1, weights=(1, 2, 1), return_solution=True, **STEPS)
    expected = []
    for axis, one in enumerate(found.passes):
        stack = SOLVER.denoise(np.moveaxis(volume, axis, 0), 0.1, return_solution=True, **STEPS)
        expected.append(np.moveaxis(stack.image, 0, axis))
        np.testing.assert_array_equal(one.image, expected[-1])
        np.testing.assert_array_equal(one.relative_gap, stack.relative_gap)
        assert one.relative_gap.shape == (SHAPE[axis],)
    np.testing.assert_allclose(found.image, np.average(expected, axis=0, weights=(1, 2, 1)), atol=1e-6)
    assert (found.axes, found.weights) == ((0, 1, 2), (0.25, 0.5, 0.25))
    assert repr(found) == "VolumeSolution(16 x 18 x 20, axis 0: completed, axis 1: completed, axis 2: completed)"


def test_a_block_loses_more_noise_in_three_passes():
    clean, volume = noisy()
    one, three = (SOLVER.denoise_volume(volume, 0.1, axes=axes) for axes in ((0,), (0, 1, 2)))
    assert np.square(three - clean).mean() < 0.8 * np.square(one - clean).mean()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_one_axis_is_the_stack(dtype):
    volume = (255 * noisy()[1].clip(0, 1)).astype(dtype)
    options = {"data_range": 255, **STEPS}
    levels = np.linspace(20, 30, SHAPE[0])
    found = SOLVER.denoise_volume(volume, levels, axes=(0,), **options)
    stack = SOLVER.denoise(volume, levels, **options)
    assert found.dtype == stack.dtype
    np.testing.assert_array_equal(found, stack)


def test_a_map_of_sigma_is_turned_with_the_volume():
    volume = noisy()[1]
    sigma = np.full(SHAPE, 0.1)
    sigma[:, :9] = 0.05
    found = SOLVER.denoise_volume(volume, sigma, axes=[1], **STEPS)
    expected = SOLVER.denoise(volume.swapaxes(0, 1), sigma.swapaxes(0, 1), **STEPS).swapaxes(0, 1)
    np.testing.assert_array_equal(found, expected)


def test_torch_tensors_come_back():
    torch = pytest.importorskip("torch")
    volume = noisy()[1]
    found = SOLVER.denoise_volume(torch.from_numpy(volume), 0.1, axes=(2,), return_solution=True, **STEPS)
    assert isinstance(found.image, torch.Tensor)
    assert isinstance(found.passes[0].image, torch.Tensor)
    np.testing.assert_array_equal(found.image, SOLVER.denoise_volume(volume, 0.1, axes=(2,), **STEPS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axes": ()}, r"axes is \(\); expected some of \(0, 1, 2\)"),
        ({"axes": (0, 0)}, r"axes is \(0, 0\)"),
        ({"axes": (0, 3)}, r"axes is \(0, 3\)"),
        ({"weights": (1, 2)}, r"weights is \(1, 2\); expected 3 numbers"),
        ({"weights": (1, 0, 1)}, r"weights is \(1, 0, 1\); expected a positive number"),
        ({"sigma": np.ones(16)}, r"sigma has shape \(16,\), one for each slice along axis 0.*pass axes=\(0,\)"),
        ({"sigma": np.ones((18, 20))}, r"sigma has shape \(18, 20\); expected one number"),
        ({"strength": np.ones(16)}, "strength is .*; expected one number for all slices"),
        ({"channel_axis": 0}, "channel_axis is 0, but a volume is grey"),
        ({"volume": np.zeros((32, 32))}, r"volume has shape \(32, 32\); expected \(D, H, W\)"),
        ({"volume": np.zeros((5, 32, 32))}, r"slices along axis 1 are 5 x 32 pixels.*pass axes=\(0,\)"),
        ({"volume": np.zeros((5, 5, 5))}, r"slices along axis 0 are 5 x 5 pixels.*pass a larger volume"),
    ],
)
def test_it_says_what_is_wrong_with_its_arguments(arguments, message):
    given = {"volume": np.zeros(SHAPE), "sigma": 0.1, **arguments}
    with pytest.raises(InputError, match=message):
        SOLVER.denoise_volume(**given)


def test_the_function_is_the_solver():
    volume = noisy()[1]
    found = safi_fast.denoise_volume(volume, 0.1, model="safi-gray-fast", backend="cpu", axes=(1, 2), **STEPS)
    np.testing.assert_array_equal(found, SOLVER.denoise_volume(volume, 0.1, axes=(1, 2), **STEPS))
