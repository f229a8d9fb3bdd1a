"""Memory of `reconstruct`: the estimate, batches in parts, what is refused, and what `watch` sees."""

import os
import subprocess
import sys

import numpy as np
import pytest
from models import random_model
from patience import PROCESS

from safi_fast import InputError, Solver, estimate_memory
from safi_fast.operators import Blur, FourierMRI, Mask, ParallelBeamCT, SenseMRI

H, W = 36, 32
STEPS = {"max_outer": 2, "max_iter": 5}

PEAK = """
import ctypes, re, sys
import numpy as np, safi_fast
from safi_fast.operators import Blur, FourierMRI, ParallelBeamCT, SenseMRI
trim = getattr(ctypes.CDLL(None), "malloc_trim", int)  # what a solve before has freed goes back to the system
rng = np.random.default_rng(0)
def status(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
def operators(side):
    mask = np.zeros((1, side), bool)
    mask[:, ::3] = mask[:, side // 2 - 8 : side // 2 + 8] = True
    order = {"mask_order": "centered", "check_order": False}
    yield "one coil", FourierMRI(mask, shape=(side, side), image="complex", **order)
    yield "coils", SenseMRI(rng.random((8, side, side)) + 1j * rng.random((8, side, side)), mask, **order)
    yield "ct", ParallelBeamCT((side, side), np.linspace(0, np.pi, 90, endpoint=False), 3 * side // 2)
    yield "blur", Blur(np.ones((9, 9)) / 81, (side, side))
def solve(operator, count, limit=None):
    options = {"strength": 1e-3 * operator.norm**2, "max_outer": 2, "max_iter": 2}
    images = 0.2 + rng.random((count, *operator.shape_in), np.float32) / 2
    if operator.image == "complex":
        options["box"], images = None, images.astype(np.complex64)
    y = operator.apply(images)
    limit = limit and limit * solver.estimate_memory(y.shape[1:], operator=operator)
    estimate = solver.estimate_memory(y.shape, operator=operator, max_memory=limit)
    trim(0)
    ready = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    solver.reconstruct(y, operator, max_memory=limit, **options)
    return estimate, status("VmHWM") - ready
solver = safi_fast.Solver(backend="cpu")
for name, operator in operators(64):
    solve(operator, 1)  # loads the kernels
for side, count, limit in ((96, 1, None), (96, 3, None), (128, 4, 1.5)):
    for name, operator in operators(side):
        print(*solve(operator, count, limit), name, side, count, limit, sep=";")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_the_estimate_is_within_10_percent_of_the_measured_peak():
    command = [sys.executable, "-W", "ignore", "-c", PEAK]
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed arrays go back to the system at once
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROCESS, env=returned)
    assert done.returncode == 0, done.stderr
    found = [line.split(";", 2) for line in done.stdout.splitlines()]
    assert len(found) == 12
    ratios = {case: int(estimate) / int(measured) for estimate, measured, case in found}
    assert all(0.9 < ratio < 1.1 for ratio in ratios.values()), str(ratios)


@pytest.fixture(scope="module")
def solver():
    return Solver(random_model(lipschitz=1.1), backend="cpu")


def lines():
    mask = np.zeros((1, W), bool)
    mask[:, ::3] = mask[:, W // 2 - 4 : W // 2 + 4] = True
    return mask


def sense():
    rng = np.random.default_rng(1)
    maps = rng.random((3, H, W)) + 1j * rng.random((3, H, W))
    return SenseMRI(maps, lines(), mask_order="centered", check_order=False)


OPERATORS = {
    "one coil": lambda: FourierMRI(lines(), shape=(H, W), mask_order="centered", image="complex", check_order=False),
    "coils": sense,
    "ct": lambda: ParallelBeamCT((H, W), np.linspace(0, np.pi, 20, endpoint=False), 49),
    "blur": lambda: Blur(np.ones((3, 3)) / 9, (H, W)),
    "inpainting": lambda: Mask(np.random.default_rng(2).random((H, W)) > 0.3),
}


def problem(name, count=5):
    operator = OPERATORS[name]()
    images = 0.2 + np.random.default_rng(3).random((count, H, W)) / 2
    is_complex = operator.image == "complex"
    y = operator.apply(images.astype(np.complex64 if is_complex else np.float32))
    options = {"strength": 1e-3 * operator.norm**2, **STEPS, **({"box": None} if is_complex else {})}
    return y, operator, options


def sizes_of(solver, monkeypatch):
    """How many images each part has; complex ones count twice."""
    seen, make = [], solver._engine.reconstruction_workspace

    def counted(batch, height, width):
        seen.append(batch)
        return make(batch, height, width)

    monkeypatch.setattr(solver._engine, "reconstruction_workspace", counted)
    return seen


@pytest.mark.parametrize("schedule", ["gap", "fast"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_batch_in_parts_is_the_batch(name, schedule, solver, monkeypatch):
    y, operator, options = problem(name)
    whole = solver.reconstruct_batch(y, operator, schedule=schedule, return_masks=True, **options)
    seen = sizes_of(solver, monkeypatch)
    options["max_memory"] = 1.7 * solver.estimate_memory(y.shape[1:], operator=operator)
    parts = solver.reconstruct_batch(y, operator, schedule=schedule, **options)
    assert len(seen) > 1
    assert sum(seen) == 5 * (2 if operator.image == "complex" else 1)
    np.testing.assert_array_equal(parts.image, whole.image)
    np.testing.assert_array_equal(parts.relative_gap, whole.relative_gap)
    np.testing.assert_array_equal(parts.inner_iterations, whole.inner_iterations)
    assert parts.masks is None
    assert whole.masks.shape[:1] == (5,)


def test_masks_that_are_handed_over_count(solver, monkeypatch):
    y, operator, options = problem("blur")
    seen = sizes_of(solver, monkeypatch)
    limit = solver.estimate_memory(y.shape, operator=operator)
    for return_masks in (False, True):
        solver.reconstruct(y, operator, max_memory=limit, return_masks=return_masks, **options)
    assert seen[0] == 5
    assert len(seen) > 2


def test_what_does_not_fit_is_refused_with_the_figure(solver):
    y, operator, options = problem("ct")
    alone, five = (solver.estimate_memory(shape, operator=operator) for shape in (y.shape[1:], y.shape))
    for measured, limit, given, message in (
        (y[0], 1e5, {}, rf"1 image\(s\) of 36 x 32 pixels need at least {alone:.4g}; a reconstruction cannot be cut"),
        (y, 1e5, {}, r"max_memory is 1e\+05 bytes, but 5 image\(s\) .* pass fewer at once"),
        (y, 0.9 * five, {"callback": print}, f"need at least {five:.4g}; leave callback out"),
        (y, -1, {}, "max_memory is -1; expected a positive number"),
    ):
        with pytest.raises(InputError, match=message.replace("+06", r"\+06")):
            solver.reconstruct(measured, operator, max_memory=limit, **given, **options)


def test_a_limit_that_is_the_estimate_is_enough(solver):
    y, operator, options = problem("coils", 1)
    limit = solver.estimate_memory(y.shape, operator=operator)
    solver.reconstruct(y, operator, max_memory=limit, **options)
    with pytest.raises(InputError, match="need at least"):
        solver.reconstruct(y, operator, max_memory=limit - 1, **options)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((H, W + 1), {}, r"shape is \(36, 33\); expected that of measurements, \(36, 32\) or \(B, 36, 32\)"),
        ((0, H, W), {}, r"shape is \(0, 36, 32\)"),
        ((2, 2, H, W), {}, r"shape is \(2, 2, 36, 32\)"),
        ("abc", {}, "shape is 'abc'"),
        ((H, W), {"channel_axis": 0}, "channel_axis is 0, but with an operator"),
    ],
)
def test_shapes_that_have_no_estimate(shape, options, message, solver):
    with pytest.raises(InputError, match=message):
        solver.estimate_memory(shape, operator=OPERATORS["blur"](), **options)


def test_one_operator_each(solver):
    operators = [OPERATORS["ct"](), OPERATORS["ct"]()]
    both = solver.estimate_memory((2, *operators[0].shape_out), operator=operators)
    assert both == solver.estimate_memory((2, *operators[0].shape_out), operator=operators[0]) + operators[1].kept_bytes
    with pytest.raises(InputError, match=r"expected that of measurements, \(2, 20, 49\)"):
        solver.estimate_memory(operators[0].shape_out, operator=operators)


def test_the_function_is_the_method():
    operator, model = OPERATORS["blur"](), random_model(lipschitz=1.1)
    solver = Solver(model, backend="cpu")
    found = estimate_memory((3, H, W), operator=operator, model=model, backend="cpu")
    assert found == solver.estimate_memory((3, H, W), operator=operator)


# ------------------------------------------------------------------------------------------------------------- progress


def test_watch_sees_every_inner_step(solver):
    y, operator, options = problem("blur", 1)
    seen = []
    found = solver.reconstruct(y[0], operator, schedule="fast", watch=seen.append, **options)
    assert [(state.outer, state.step) for state in seen] == [(outer, step) for outer in (0, 1) for step in range(1, 6)]
    assert {state.steps for state in seen} == {5}
    gaps = [float(state.relative_gap[0]) for state in seen]
    assert gaps[:4] == [np.inf] * 4  # "fast" takes a certificate at the end of each mask
    assert gaps[4:9] == [found.history[0].relative_gap] * 5
    assert gaps[9] == found.relative_gap
    unseen = solver.reconstruct(y[0], operator, schedule="fast", **options)
    np.testing.assert_array_equal(unseen.image, found.image)


def test_watch_sees_certificates_on_the_way_and_images_of_all_parts(solver):
    y, operator, options = problem("one coil", 3)
    options |= {"max_iter": 60, "tol": 1e-9}
    limit = solver.estimate_memory(y.shape, operator=operator) - 1
    seen = []
    found = solver.reconstruct(y, operator, watch=seen.append, max_memory=limit, **options)
    assert sorted({int(image) for state in seen for image in state.active}) == [0, 1, 2]
    assert max(len(state.active) for state in seen) < 3
    last = [state for state in seen if 2 in state.active]
    assert len(last) == found.inner_iterations[2]
    gaps = [float(state.relative_gap[list(state.active).index(2)]) for state in last]
    assert len(set(gaps)) == 1 + len(last) // 20  # infinite, then one every 20 steps
    assert gaps[-1] == found.relative_gap[2]
    assert last[0].steps == 60


def test_what_watch_raises_comes_out(solver):
    y, operator, options = problem("blur", 1)

    def fail(state):
        raise KeyError(state.step)

    with pytest.raises(KeyError):
        solver.reconstruct(y[0], operator, watch=fail, **options)
