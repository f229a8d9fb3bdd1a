"""Whatever is passed to the API: a result that is finite and has the shape of its input, or one error of ours on one
line; and the arguments are as they were. SAFI_FAST_FUZZ says how many calls are tried of each kind.
"""

import copy
import os
import re
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from models import random_model

from fuzz.strategies import (
    SHAPE,
    arrays,
    boxes,
    counts,
    denoise_options,
    images,
    mostly,
    numbers,
    operators,
    reconstruct_options,
    shapes,
)
from safi_fast import SafiError, Solver, estimate_memory, metrics
from safi_fast.operators import FourierMRI, Identity, Mask, SenseMRI, estimate_maps

CALLS = int(os.environ.get("SAFI_FAST_FUZZ", "25"))
ADDRESS = re.compile("0x[0-9a-f]{6}")
fuzz = settings(
    max_examples=CALLS, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def solver():
    return Solver(random_model(levels=(10 / 255, 40 / 255), lipschitz=1.2, boundary="symmetric"), backend="cpu")


def host(value):
    """A NumPy copy of an array of any library, None for what is none."""
    value = value.detach().numpy() if hasattr(value, "detach") else value
    return np.array(value, copy=True) if isinstance(value, np.ndarray) else None


def ends_well(call, *watched):
    """What the call gives, None where it raises an error of ours; warnings of ours are no error, those of NumPy are."""
    before = [host(value) for value in watched]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = call()
    except SafiError as error:
        message = str(error)
        event(type(error).__name__)
        assert message
        assert "\n" not in message
        assert not ADDRESS.search(message), message
        result = None
    else:
        event("a result")
    for value, kept in zip(watched, before, strict=True):
        if kept is not None and kept.dtype.kind != "O":
            np.testing.assert_array_equal(host(value), kept)
    return result


@fuzz
@given(image=images(), sigma=numbers(), inner=counts(), options=denoise_options())
def test_denoise(solver, image, sigma, inner, options):
    given_options = copy.copy(options)
    result = ends_well(
        lambda: solver.denoise(image, sigma, max_outer=2, max_inner=inner, **given_options), image, sigma
    )
    if result is not None:
        values = result.image if options.get("return_solution") else result
        assert np.isfinite(host(values) if host(values) is not None else values).all()
        assert tuple(values.shape) == np.shape(image.detach() if hasattr(image, "detach") else image)


@fuzz
@given(
    operator=operators(), strength=numbers(), own=mostly(st.just(True), st.just(False)), any_measurement=arrays(),
    steps=counts(),
    options=reconstruct_options(),
)  # fmt: skip
def test_reconstruct(solver, operator, strength, own, any_measurement, steps, options):
    measurement = any_measurement
    if own:  # one that belongs to the operator, where it has any
        measurement = ends_well(lambda: operator.apply(np.linspace(0.1, 0.9, 504, dtype=np.float32).reshape(SHAPE)))
    solution = ends_well(
        lambda: solver.reconstruct(
            measurement, operator, strength=strength, max_outer=2, **{"max_iter": steps, "box": None, **options}
        ),
        measurement,
        strength,
    )
    if solution is not None:
        assert np.isfinite(solution.image).all()
        assert solution.image.shape[-2:] == operator.shape_in
        assert np.isfinite(np.asarray(solution.gap)).all()


@fuzz
@given(
    candidates=numbers(), noise=numbers(), holdout=st.one_of(st.none(), numbers()), seed=counts(),
    reference=st.one_of(st.none(), arrays())
)  # fmt: skip
def test_tune_strength(solver, candidates, noise, holdout, seed, reference):
    y = np.linspace(0.1, 0.9, 504, dtype=np.float32).reshape(SHAPE)
    tuning = ends_well(
        lambda: solver.tune_strength(
            y,
            Identity(SHAPE),
            candidates,
            noise_std=noise,
            holdout=holdout,
            reference=reference,
            seed=seed,
            max_outer=1,
            max_iter=2,
        )
    )
    assert tuning is None or (np.isfinite(tuning.scores).all() and tuning.strength in tuning.candidates)


@fuzz
@given(images=st.lists(images(), max_size=3), sigma=numbers(), ahead=counts())
def test_denoise_batch(solver, images, sigma, ahead):
    results = ends_well(lambda: list(solver.denoise_batch(images, sigma, read_ahead=ahead, max_outer=1, max_inner=1)))
    assert results is None or len(results) == len(images)


@fuzz
@given(
    mask=arrays(),
    maps=arrays(),
    shape=st.one_of(st.none(), shapes()),
    order=st.sampled_from(["fft", "centered", "x", None, 3]),
)
def test_makers_of_operators(mask, maps, shape, order):
    for make in (
        lambda: FourierMRI(mask, mask_order=order, shape=shape),
        lambda: SenseMRI(maps, mask, mask_order=order),
        lambda: Mask(mask),
        lambda: Identity(shape),
        lambda: estimate_maps(maps, kspace_order=order),
    ):
        made = ends_well(make, mask, maps)
        assert made is None or isinstance(made, np.ndarray) or np.isfinite(made.norm)


@fuzz
@given(first=arrays(), second=arrays(), data_range=numbers(), shape=shapes(), box=boxes())
def test_scores_and_sizes(first, second, data_range, shape, box):
    model = random_model()
    for score in (metrics.psnr, metrics.ssim):
        value = ends_well(lambda score=score: score(first, second, data_range), first, second)
        assert value is None or not np.isnan(value)
    size = ends_well(lambda: estimate_memory(shape, model=model, backend="cpu", max_memory=data_range, dtype=box))
    assert size is None or size > 0
