"""Models: what is accepted, what is refused and in which words, and what they compute about themselves."""

import copy
import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import oracle
import pytest
from models import random_filters, random_mmr_mask, random_model, random_safi_mask

from safi_fast.errors import InputError, ModelError
from safi_fast.model import FilterBank, Schedule, StepFactors, Strength

FAMILIES = ("safi", "mmr")
LEVELS = (5 / 255, 15 / 255, 50 / 255)


def rng():
    return np.random.default_rng(7)


def arrays_of(value):
    """Every array inside a model or a part of one."""
    if isinstance(value, np.ndarray):
        return [value]
    if dataclasses.is_dataclass(value):
        value = tuple(getattr(value, entry.name) for entry in dataclasses.fields(value))
    return [array for part in value for array in arrays_of(part)] if isinstance(value, tuple) else []


def with_value(array, value):
    changed = np.array(array)
    changed.flat[-1] = value
    return changed


# ------------------------------------------------------------------------------------------------------- filter bank


def test_one_layer_is_its_own_composition():
    bank = random_filters(rng(), kernels=(7,))
    assert (bank.channels, bank.support, bank.band) == (4, 7, 0)
    np.testing.assert_array_equal(bank.composed(), bank.layers[0])


def test_support_and_band_of_a_cascade():
    assert random_filters(rng(), kernels=(7, 7)).support == 13
    assert random_filters(rng(), kernels=(7, 7)).band == 3
    assert random_filters(rng(), kernels=(3, 7, 5)).band == 5
    assert random_filters(rng(), kernels=(7, 7), boundary="symmetric").band == 0


@pytest.mark.parametrize("kernels", [(5, 3), (3, 5, 3), (1, 7), (7, 1)])
def test_composed_filters_match_the_oracle(kernels):
    inputs = (1, 4, 4)
    bank = FilterBank([rng().standard_normal((4, n, k, k)) for n, k in zip(inputs, kernels, strict=False)], "zero")
    expected = oracle.compose(bank.layers)
    composed = bank.composed()[:, 0]
    assert composed.dtype == np.float32
    assert composed.shape == (4, bank.support, bank.support)
    # float64 sums, rounded once to float32
    np.testing.assert_allclose(composed, expected, rtol=2**-24, atol=1e-15)


@pytest.mark.parametrize("kernels", [(5, 3), (3, 5, 3)])
def test_the_cascade_differs_from_its_composition_in_the_band_only(kernels):
    bank = random_filters(rng(), kernels=kernels)
    image = rng().uniform(size=(21, 24))
    cascade = oracle.analysis(image, bank.layers, "zero")
    composed = oracle.analysis(image, [bank.composed()], "zero")
    differs = (abs(cascade - composed) > 1e-6).any(0)
    inside = (slice(bank.band, -bank.band),) * 2
    assert not differs[inside].any()
    differs[inside] = True
    assert differs[bank.band - 1].any(), "the band is wider than it needs to be"
    assert differs.mean() > 0.9


def test_float64_input_is_stored_as_an_own_float32_copy():
    weights = rng().standard_normal((4, 1, 3, 3))
    bank = FilterBank([weights], "zero")
    weights[:] = 0
    assert bank.layers[0].dtype == np.float32
    assert bank.layers[0].all()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "tensor filters is missing"),
        ((np.zeros((4, 3, 3)),), r"tensor filters has shape \(4, 3, 3\); expected \(C, P, k, k\)"),
        ((np.zeros((4, 5, 3, 3)),), r"tensor filters is for 5 planes; at most 3"),
        ((np.zeros((0, 1, 3, 3)),), r"tensor filters has shape \(0, 1, 3, 3\)"),
        ((np.zeros((4, 1, 4, 4)),), "tensor filters has kernels of 4 x 4; expected odd squares"),
        ((np.zeros((4, 1, 3, 5)),), "tensor filters has kernels of 3 x 5"),
        ((np.zeros((4, 1, 3, 3)), np.zeros((4, 3, 3, 3))), r"tensor filters\.1 has shape .* expected \(4, 4, k, k\)"),
        ((np.full((4, 1, 3, 3), np.nan),), r"tensor filters has values that are not finite"),
        ((np.zeros((4, 1, 3, 3)), np.full((4, 4, 3, 3), np.inf)), r"tensor filters\.1 has values that are not finite"),
        ((np.full((4, 1, 3, 3), 1e300),), r"tensor filters has values that are not finite"),
        ((np.zeros((4, 1, 3, 3), complex),), "tensor filters has dtype complex128; expected real numbers"),
        ((np.zeros((4, 1, 11, 11)), np.zeros((4, 4, 9, 9))), "the filters span 19 x 19 pixels; at most 17"),
    ],
)
def test_filter_bank_refuses(layers, message):
    with pytest.raises(ModelError, match=message):
        FilterBank(layers, "zero")


def test_filter_bank_refuses_an_unknown_boundary():
    with pytest.raises(ModelError, match="boundary is 'circular'; expected one of zero, symmetric"):
        FilterBank((np.zeros((4, 1, 3, 3)),), "circular")


# ------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"convolutions": m.convolutions[:1]}, "mask.convolution comes 1 times; a SAFI mask has at least 2"),
        (lambda m: {"convolutions": m.convolutions[:2]}, "mask.dilation comes 3 times, but mask.convolution 2 times"),
        (lambda m: {"splines": (*m.splines, m.splines[0])}, "mask.spline comes 4 times"),
        (lambda m: {"dilations": (1, 1)}, "mask.dilation comes 2 times"),
        (lambda m: {"dilations": (1, 0, 1)}, r"mask_dilations are \(1, 0, 1\)"),
        (lambda m: {"dilations": (1, 1.5, 1)}, r"mask_dilations are \(1, 1.5, 1\)"),
        (lambda m: {"dilations": (1, 8, 1)}, r"tensor mask\.convolution\.1 spans 17 x 17 pixels .* at most 15"),
        (
            lambda m: {"convolutions": (m.convolutions[1], *m.convolutions[1:])},
            r"tensor mask\.convolution\.0 is for 4 planes",
        ),
        (
            lambda m: {"convolutions": (*m.convolutions[:2], m.convolutions[0])},
            r"tensor mask\.convolution\.2 has shape",
        ),
        (lambda m: {"splines": (*m.splines[:2], m.splines[2][:3])}, r"tensor mask\.spline\.2 has shape \(3, 21\)"),
        (lambda m: {"splines": (m.splines[0][:, :1], *m.splines[1:])}, r"tensor mask\.spline\.0 has 1 knot"),
        (lambda m: {"gain": m.gain[0]}, r"tensor mask\.gain has shape \(4,\); expected \(K, 4\)"),
        (lambda m: {"bias": m.bias[:, :3]}, r"tensor mask\.bias has shape \(1, 3\); expected \(1, 4\)"),
        (lambda m: {"bias": with_value(m.bias, np.nan)}, r"tensor mask\.bias has values that are not finite"),
        (lambda m: {"boundary": "reflect"}, "mask_boundary is 'reflect'"),
    ],
)
def test_safi_mask_refuses(change, message):
    mask = random_safi_mask(rng())
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(mask, **change(mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"smoothing": ()}, r"tensor mask\.smoothing\.0 is missing"),
        (lambda m: {"smoothing": (m.smoothing[0], m.smoothing[1][:3])}, r"tensor mask\.smoothing\.1 has shape"),
        (lambda m: {"smoothing": (2 * m.smoothing[0],)}, r"mask\.smoothing\.0 has kernels that .* not sum to one"),
        (lambda m: {"smoothing": (0 * m.smoothing[0] - 1 / 25,)}, r"mask\.smoothing\.0 has kernels that are negative"),
        (lambda m: {"profile": m.profile[:3]}, r"tensor mask\.profile has shape \(3, 21\)"),
        (lambda m: {"profile": 0.5 * m.profile}, r"tensor mask\.profile has a row that does not start at one"),
        (lambda m: {"profile": with_value(m.profile, 9)}, r"tensor mask\.profile has a row .* that increases"),
        (lambda m: {"scale": -m.scale}, r"tensor mask\.scale has negative values"),
        (lambda m: {"scale": m.scale[:, None]}, r"tensor mask\.smoothing\.0 has shape"),
        (lambda m: {"scale": m.scale[:, None, None]}, r"tensor mask\.scale has shape \(4, 1, 1\); expected \(C\)"),
    ],
)
def test_mmr_mask_refuses(change, message):
    mask = random_mmr_mask(rng())
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(mask, **change(mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [1, 0]}, r"tensor steps\.size has values that are not positive"),
        ({"size": [1, np.nan]}, r"tensor steps\.size has values that are not finite"),
        ({"momentum": [0.5]}, r"tensor steps\.momentum has shape \(1,\); expected \(2,\)"),
    ],
)
def test_step_factors_refuse(change, message):
    with pytest.raises(ModelError, match=message):
        StepFactors(**({"size": [1, 1], "momentum": [0, 0.3]} | change))


def test_steps_and_scales_must_fit_the_model():
    with pytest.raises(ModelError, match=r"steps\.size is for 2 steps of schedule unrolled, but .* unrolled with 12"):
        random_model(steps=StepFactors([1, 1], [0, 0.3]))
    mask = random_mmr_mask(rng())
    with pytest.raises(ModelError, match=r"tensor mask\.scale is for 2 noise levels and noise_levels has 1"):
        random_model("mmr", mask=dataclasses.replace(mask, scale=np.stack([mask.scale, mask.scale])))


def test_scale_of_an_mmr_mask_between_its_levels():
    mask = random_mmr_mask(rng())
    one, two = random_model("mmr", mask=mask), np.stack([mask.scale, 3 * mask.scale])
    np.testing.assert_array_equal(one.at(25 / 255, strength_given=False).gain, mask.scale)
    model = random_model("mmr", levels=(0.1, 0.2), mask=dataclasses.replace(mask, scale=two))
    np.testing.assert_allclose(model.at(0.15, strength_given=False).gain, 2 * mask.scale, rtol=1e-6)


def test_random_masks_are_between_zero_and_one_and_not_trivial():
    image = rng().uniform(size=(20, 23))
    safi = random_safi_mask(rng())
    made = oracle.safi_mask(
        image,
        list(zip(safi.convolutions, safi.dilations, strict=True)),
        safi.splines,
        safi.gain[0],
        safi.bias[0],
        "zero",
    )
    bank, mmr = random_filters(rng()), random_mmr_mask(rng())
    other = oracle.mmr_mask(image, bank.layers, "zero", mmr.smoothing, mmr.profile, mmr.scale)
    for mask in (made, other):
        assert mask.shape == (4, 20, 23)
        assert mask.min() >= 0
        assert mask.max() <= 1 + 1e-6
        assert mask.std() > 0.01


# ------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": " "}, "the model's name is ' '"),
        ({"name": "two\nlines"}, "the model's name is"),
        ({"family": "wcrr"}, "family is 'wcrr'; expected one of safi, mmr"),
        ({"family": "mmr"}, "family is 'mmr', but the mask is a SafiMask"),
        ({"filters": random_filters(rng(), 5)}, "the mask has 4 channels and the filter bank 5"),
        ({"noise_levels": 0.1}, r"tensor noise_levels has shape \(\); expected \(K\)"),
        ({"noise_levels": [25.0]}, r"tensor noise_levels is \[25.0\]"),
        ({"noise_levels": [0.0]}, r"tensor noise_levels is \[0.0\]"),
        ({"noise_levels": [0.2, 0.1]}, r"tensor noise_levels is \[0.2, 0.1\]; expected ascending"),
        ({"noise_levels": [0.1, 0.2]}, r"tensor strength\.unrolled is for 1 noise levels and noise_levels has 2"),
        (
            {"noise_levels": [0.1, 0.2], "strength": Strength([1, 2], [1, 2])},
            r"tensor mask\.gain is for 1 noise levels and noise_levels has 2",
        ),
        ({"lipschitz": 0.0}, "tensor lipschitz is 0.0; expected a positive finite number"),
        ({"lipschitz": np.nan}, "tensor lipschitz is nan"),
        ({"metadata": {"scores": 29.1}}, "the metadata has entries that are not text"),
    ],
)
def test_model_refuses(change, message):
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(random_model(), **change)


@pytest.mark.parametrize(
    ("unrolled", "converged", "message"),
    [
        ([0.1], [0.0], r"tensor strength\.converged has values that are not positive"),
        ([0.1], [np.nan], r"tensor strength\.converged has values that are not finite"),
        (0.1, [0.1], r"tensor strength\.unrolled has shape \(\)"),
        ([0.1], [0.1, 0.2], r"tensor strength\.converged has shape \(2,\); expected \(1,\)"),
        (["a"], [0.1], r"tensor strength\.unrolled has dtype"),
    ],
)
def test_strength_refuses(unrolled, converged, message):
    with pytest.raises(ModelError, match=message):
        Strength(unrolled, converged)


def test_schedule_refuses():
    with pytest.raises(ModelError, match="schedule is 'fast'; expected one of unrolled, converged, gap"):
        Schedule("fast", 5, 12)
    with pytest.raises(ModelError, match="schedule has 0 outer and 12 inner steps"):
        Schedule("gap", 0, 12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_copy_is_the_same_model_and_frozen_too(family, duplicate):
    model = random_model(family)
    twin = duplicate(model)
    assert twin.fingerprint == model.fingerprint
    assert (twin.name, twin.schedule, dict(twin.metadata)) == (model.name, model.schedule, dict(model.metadata))
    assert not any(array.flags.writeable for array in arrays_of(twin))


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_read_only(family):
    model = random_model(family, levels=LEVELS)
    arrays = arrays_of(model)
    assert len(arrays) >= 8
    assert all(array.flags.c_contiguous and not array.flags.writeable for array in arrays)
    with pytest.raises(ValueError, match="read-only"):
        model.filters.layers[0][:] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"
    with pytest.raises(TypeError, match="item assignment"):
        model.metadata["licence"] = "other"


def test_the_fingerprint_is_of_the_tensors():
    model = random_model()
    assert len(model.fingerprint) == 64
    assert dataclasses.replace(model, name="other", metadata={}).fingerprint == model.fingerprint
    for change in (
        {"noise_levels": model.noise_levels * (1 + 1e-15)},
        {"lipschitz": 3.0},
        {"filters": FilterBank((with_value(model.filters.layers[0], 0), model.filters.layers[1]), "zero")},
        {"filters": FilterBank((model.filters.composed(),), "zero")},
    ):
        assert dataclasses.replace(model, **change).fingerprint != model.fingerprint


def test_a_model_prints_on_one_line():
    assert repr(random_model(levels=LEVELS)) == "<Model 'random-safi': safi, 4 filters of 7 x 7, sigma 5, 15, 50 / 255>"
    assert len(repr(random_model().filters)) < 40


# ------------------------------------------------------------------------------------------------------ conditioning


@pytest.mark.parametrize("family", FAMILIES)
def test_at_a_noise_level_the_rows_are_those_of_the_file(family):
    model = random_model(family, levels=LEVELS)
    for i, level in enumerate(model.noise_levels):
        there = model.at(level, strength_given=False)
        assert there.strength_unrolled == model.strength.unrolled[i]
        assert there.strength_converged == model.strength.converged[i]
        gain = model.mask.gain[i] if family == "safi" else model.mask.scale
        bias = model.mask.bias[i] if family == "safi" else np.zeros(4)
        np.testing.assert_array_equal(there.gain, gain)
        np.testing.assert_array_equal(there.bias, bias)
        assert there.gain.dtype == there.bias.dtype == np.float32
        assert not there.gain.flags.writeable


def test_between_noise_levels_strength_is_interpolated_in_its_logarithm():
    model = random_model(levels=LEVELS)
    there = model.at(10 / 255, strength_given=False)
    assert there.strength_unrolled == pytest.approx(np.sqrt(np.prod(model.strength.unrolled[:2])), rel=1e-12)
    assert there.strength_converged == pytest.approx(np.sqrt(np.prod(model.strength.converged[:2])), rel=1e-12)
    np.testing.assert_allclose(there.gain, model.mask.gain[:2].mean(0), rtol=1e-6)
    np.testing.assert_allclose(there.bias, model.mask.bias[:2].mean(0), rtol=1e-5, atol=1e-6)


def test_a_range_of_levels_is_held_to_one_percent():
    model = random_model(levels=LEVELS)
    assert model.at(50.4 / 255, strength_given=False).strength_unrolled == model.strength.unrolled[-1]
    assert model.at(4.96 / 255, strength_given=False).strength_unrolled == model.strength.unrolled[0]
    expected = r"sigma is 0\.2 \(51 on the 8-bit scale\), but model 'random-safi' accepts 0\.01961 \(5 .*\) to .* \(50 "
    for given in (False, True):
        with pytest.raises(InputError, match=expected):
            model.at(51 / 255, strength_given=given)
    with pytest.raises(InputError, match=r"noise_level is 0\.01569 \(4 on"):
        model.at(4 / 255, strength_given=False, argument="noise_level")
    with pytest.raises(InputError, match=r"sigma is 25 \(6375 on the 8-bit scale\)"):
        model.at(25, strength_given=False)
    with pytest.raises(InputError, match="sigma is missing: model 'random-safi' accepts"):
        model.at(None, strength_given=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_level_accepts_itself_and_others_only_with_a_strength(family):
    model = random_model(family)
    level = float(model.noise_levels[0])
    for sigma, given in ((level, False), (1.009 * level, False), (0.991 * level, False), (None, False), (0.5, True)):
        assert model.at(sigma, strength_given=given).strength_unrolled == model.strength.unrolled[0]
    with pytest.raises(InputError, match=r"sigma is 0\.05882 \(15 .* is for 0\.09804 \(25 .* only; .*strength=\.\.\."):
        model.at(15 / 255, strength_given=False)


@pytest.mark.parametrize("sigma", [0, -0.1, np.nan, np.inf, "a lot", np.ones(2)])
def test_sigma_is_a_positive_number(sigma):
    with pytest.raises(InputError, match=r"sigma is .*; expected a positive finite number"):
        random_model().at(sigma, strength_given=True)


# ----------------------------------------------------------------------------------------------------------- imports


@pytest.mark.parametrize(
    "module", ["safi_fast.model", "safi_fast.models", "safi_fast.weights", "safi_fast.training.checkpoint"]
)
def test_importing_brings_in_neither_torch_nor_numba(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'numba', 'cupy', 'scipy'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
