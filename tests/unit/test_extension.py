"""What docs/architecture.md says of new parts: its code is run here as it stands there, and what lacks a part of it is
refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from models import random_model

import safi_fast
from safi_fast.masks import FAMILIES
from safi_fast.operators import Operator
from safi_fast.solver.result import COMPLETED, CONVERGED
from safi_fast.solver.schedules import KINDS
from safi_fast.weights import read_model, save_model

RNG = np.random.default_rng(3)
IMAGE = np.clip(0.5 + 0.2 * RNG.standard_normal((20, 24)), 0, 1).astype(np.float32)
SIGMA = 25 / 255
OPTIONS = {"box": (0.0, 1.0)}
PAGE = Path(__file__).parents[2] / "docs/architecture.md"


def parts_of_the_page():
    """The classes that its code makes, without their entries in the registries."""
    code = "\n".join(
        re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8").partition("## Where to add")[2], re.M | re.S)
    )
    made = {"__name__": "architecture"}
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), made)
    assert KINDS.pop("halving") is made["Halving"]
    assert FAMILIES.pop("brightness") is made["Brightness"]
    return made["Halving"], made["Brightness"]


Halving, Brightness = parts_of_the_page()


# ------------------------------------------------------------------------------------------------------- a schedule


def test_a_schedule(monkeypatch):
    monkeypatch.setitem(KINDS, Halving.name, Halving)
    solver = safi_fast.Solver(random_model(), backend="cpu")
    solution = solver.denoise(IMAGE, SIGMA, schedule=Halving(), return_solution=True, **OPTIONS)
    assert [record.inner_iterations for record in solution.history] == [12, 6, 3]
    assert solution.status == COMPLETED
    by_name = solver.denoise(IMAGE, SIGMA, schedule="halving", max_outer=2, return_solution=True, **OPTIONS)
    assert by_name.inner_iterations == 18
    first = solver.denoise(IMAGE, SIGMA, schedule="unrolled", max_outer=1, max_inner=12, strength=0.03, **OPTIONS)
    assert np.array_equal(first, solver.denoise(IMAGE, SIGMA, schedule=Halving(outer=1), strength=0.03, **OPTIONS))


def test_a_schedule_that_ends_images_one_by_one(monkeypatch):
    class Steady(Halving):
        name = "steady"

        def outcome(self, progress, result):
            change = progress.outer_residual[progress.active]
            return np.where(change <= np.median(change), CONVERGED, None)

    monkeypatch.setitem(KINDS, "steady", Steady)
    images = np.stack([IMAGE, IMAGE[::-1] * 0.5, IMAGE * 0.7])
    solution = safi_fast.Solver(random_model(), backend="cpu").denoise(
        images, SIGMA, schedule="steady", return_solution=True, **OPTIONS
    )
    assert sorted(solution.outer_iterations) == [1, 1, 2]
    assert list(solution.status) == [CONVERGED] * 3


def denoise_by(monkeypatch, kind, **limits):
    monkeypatch.setitem(KINDS, "broken", kind)
    return safi_fast.Solver(random_model(), backend="cpu").denoise(IMAGE, SIGMA, schedule="broken", **limits, **OPTIONS)


@dataclass(frozen=True)
class Bare:
    outer: int
    inner: int = 3


def test_a_schedule_is_told_all_that_it_lacks(monkeypatch):
    with pytest.raises(safi_fast.InputError, match="Bare has no step, name, solve, outcome, default of outer; a sched"):
        denoise_by(monkeypatch, Bare)
    with pytest.raises(safi_fast.InputError, match=r"schedule Halving\(.*\) in KINDS is a value; expected its class"):
        denoise_by(monkeypatch, Halving())
    with pytest.raises(safi_fast.InputError, match=r"schedule is Halving\(.*another kind has its entry in .*KINDS"):
        safi_fast.Solver(random_model(), backend="cpu").denoise(IMAGE, SIGMA, schedule=Halving(), **OPTIONS)


def test_constants_of_a_new_schedule_are_checked(monkeypatch):
    monkeypatch.setitem(KINDS, "halving", Halving)
    with pytest.raises(safi_fast.InputError, match="step is -1; expected a positive number"):
        safi_fast.Solver(random_model(), backend="cpu").denoise(IMAGE, SIGMA, schedule=Halving(step=-1), **OPTIONS)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("solve", None, "solve of the schedule gave NoneType; expected the InnerResult"),
        (
            "outcome",
            None,
            "outcome of the schedule gave None; expected for each of 1 active images None or one of conv",
        ),
        ("outcome", np.array([True]), r"outcome of the schedule gave array\(\[ True\]\); expected"),
        ("outcome", ["done"], r"outcome of the schedule gave \['done'\]; expected"),
        ("outcome", [None, None], r"outcome of the schedule gave \[None, None\]; expected"),
    ],
)
def test_a_method_of_a_schedule_that_gives_something_else(monkeypatch, method, given, message):
    broken = type("Broken", (Halving,), {method: lambda self, *arguments: given})
    with pytest.raises(safi_fast.InputError, match=message):
        denoise_by(monkeypatch, broken)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(safi_fast.InputError, match="schedule is 'halving'; expected one of unrolled, converged, gap"):
        safi_fast.Solver(random_model(), backend="cpu").denoise(IMAGE, SIGMA, schedule="halving", **OPTIONS)


# ------------------------------------------------------------------------------------------------------- an operator


class EveryOtherRow(Operator):
    """Rows 0, 2, 4, ..."""

    def __init__(self, shape):
        super().__init__(shape, ((shape[0] + 1) // 2, shape[1]), norm=1.0)

    def _apply(self, x):
        return x[:, ::2]

    def _adjoint(self, y):
        x = np.zeros((len(y), *self.shape_in), y.dtype)
        x[:, ::2] = y
        return x


def test_an_operator():
    operator = EveryOtherRow(IMAGE.shape)
    solver = safi_fast.Solver(random_model(), backend="cpu")
    solution = solver.reconstruct(operator.apply(IMAGE), operator, strength=1e-3, max_outer=3, **OPTIONS)
    assert solution.image.shape == IMAGE.shape
    assert np.abs(operator.apply(solution.image) - operator.apply(IMAGE)).mean() < 0.02
    assert solution.relative_gap < 0.1


def test_an_operator_without_shapes_is_told_so():
    bare = type("Bare", (EveryOtherRow,), {"__init__": lambda self: None})
    with pytest.raises(safi_fast.OperatorError, match=r"Bare has no shape_in yet: its __init__ first calls super"):
        bare().apply(IMAGE)
    with pytest.raises(safi_fast.OperatorError, match=r"Bare has no shape_\w+ yet"):
        safi_fast.Solver(random_model(), backend="cpu").reconstruct(IMAGE, bare(), strength=1e-3, **OPTIONS)


@pytest.mark.parametrize(
    ("method", "made", "message"),
    [
        (
            "_apply",
            lambda self, x: x[::2],
            r"_apply of a batch \(1, 20, 24\) gave shape \(1, 20, 24\); expected \(1, 10, 24",
        ),
        ("_apply", lambda self, x: None, r"_apply of a batch \(1, 20, 24\) gave NoneType; expected \(1, 10, 24\)"),
        (
            "_adjoint",
            lambda self, y: y,
            r"_adjoint of a batch \(1, 10, 24\) gave shape \(1, 10, 24\); expected \(1, 20, 24",
        ),
    ],
)
@pytest.mark.parametrize("norm", [1.0, None])
def test_an_operator_that_gives_another_shape(method, made, message, norm):
    broken = type("Broken", (EveryOtherRow,), {method: made})(IMAGE.shape)
    if norm is None:
        del broken.norm  # it is computed, with H^T H
    with pytest.raises(safi_fast.OperatorError, match=f"Broken: {message}"):
        safi_fast.Solver(random_model(), backend="cpu").reconstruct(IMAGE[::2], broken, strength=1e-3, **OPTIONS)


# ---------------------------------------------------------------------------------------------------- a mask family


def test_a_mask_family(monkeypatch, tmp_path):
    monkeypatch.setitem(FAMILIES, Brightness.family, Brightness)
    base = random_model()
    gains = np.full((len(base.noise_levels), base.filters.channels), 2, np.float32)
    model = replace(base, family="brightness", mask=Brightness(gains))
    save_model(model, tmp_path / "toy.safetensors")
    assert read_model(tmp_path / "toy.safetensors").fingerprint == model.fingerprint
    solution = safi_fast.Solver(tmp_path / "toy.safetensors", backend="cpu").denoise(
        np.stack([IMAGE, IMAGE.T.reshape(IMAGE.shape)]),
        SIGMA,
        max_outer=2,
        return_solution=True,
        return_masks=True,
        schedule="unrolled",
        **OPTIONS,
    )
    unmasked = safi_fast.Solver(base, backend="cpu").denoise(IMAGE, SIGMA, max_outer=1, schedule="unrolled", **OPTIONS)
    expected = np.broadcast_to(1 / (1 + 2 * np.abs(unmasked)), (base.filters.channels, *IMAGE.shape))
    np.testing.assert_allclose(solution.masks[0], expected, rtol=1e-5)


def brightness_model(monkeypatch, kind):
    monkeypatch.setitem(FAMILIES, "brightness", kind)
    base = random_model()
    return replace(base, family="brightness", mask=kind(np.full((1, base.filters.channels), 2, np.float32)))


def test_a_mask_is_told_all_that_it_lacks(monkeypatch):
    lacking = type("Lacking", (Brightness,), {"channels": None, "at": lambda self, sigma: None, "read": None})
    with pytest.raises(
        safi_fast.ModelError, match=r"mask Lacking has no channels, at\(rows, weights\), read\(source\); a mask has"
    ):
        brightness_model(monkeypatch, lacking)
    with pytest.raises(safi_fast.ModelError, match=r"family is 'dark'; .*another has its entry in masks.FAMILIES"):
        replace(random_model(), family="dark")


@pytest.mark.parametrize(
    ("given", "message"), [(None, "NoneType"), ((1.0, 0.0), r"\[\(\), \(\)\]"), ((np.ones(4),), r"\[\(4,\)\]")]
)
def test_levels_of_a_mask_that_are_none(monkeypatch, given, message):
    model = brightness_model(monkeypatch, type("Level", (Brightness,), {"at": lambda self, rows, weights: given}))
    with pytest.raises(
        safi_fast.ModelError, match=f"at of the 'brightness' mask gave {message}; expected gain and bias"
    ):
        model.at(SIGMA, strength_given=False)


def test_what_at_gives_stays_writeable(monkeypatch):
    own = np.ones(4, np.float32)
    model = brightness_model(monkeypatch, type("Own", (Brightness,), {"at": lambda self, rows, weights: (own, own)}))
    assert not model.at(SIGMA, strength_given=False).gain.flags.writeable
    assert own.flags.writeable


def test_a_tensor_that_read_leaves_is_named(monkeypatch, tmp_path):
    def read(cls, source):
        return cls(np.full((1, 4), 2, np.float32))

    model = brightness_model(monkeypatch, type("Leaving", (Brightness,), {"read": classmethod(read)}))
    save_model(model, tmp_path / "toy.safetensors")
    with pytest.raises(
        safi_fast.ModelError, match=r"mask.gains is unknown .*; read of the 'brightness' mask did not take"
    ):
        read_model(tmp_path / "toy.safetensors")


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("tensors", {"gains": np.ones(4, np.float32)}, "tensors of the 'brightness' mask has gains; its tensors begin"),
        ("tensors", {"mask.gains": [1.0]}, "mask.gains of the 'brightness' mask is list; expected ndarray"),
        ("tensors", [1], "tensors of the 'brightness' mask gave list; expected a dict"),
        ("header", {"mask_order": 3}, "mask_order of the 'brightness' mask is int; expected str"),
    ],
)
def test_what_a_file_cannot_hold_of_a_mask_is_refused(monkeypatch, tmp_path, method, given, message):
    model = brightness_model(monkeypatch, type("Broken", (Brightness,), {method: lambda self: given}))
    with pytest.raises(safi_fast.ModelError, match=message):
        save_model(model, tmp_path / "toy.safetensors")


def test_texts_of_a_mask_are_no_metadata_of_the_model(monkeypatch, tmp_path):
    model = brightness_model(monkeypatch, type("Told", (Brightness,), {"header": lambda self: {"mask_order": "3"}}))
    save_model(model, tmp_path / "toy.safetensors")
    assert read_model(tmp_path / "toy.safetensors").metadata == model.metadata


def test_a_file_of_a_family_without_an_entry_is_refused(monkeypatch, tmp_path):
    base = random_model()
    gains = np.full((len(base.noise_levels), base.filters.channels), 2, np.float32)
    with monkeypatch.context() as entry:
        entry.setitem(FAMILIES, Brightness.family, Brightness)
        save_model(replace(base, family="brightness", mask=Brightness(gains)), tmp_path / "toy.safetensors")
    with pytest.raises(safi_fast.ModelError, match=r"family is 'brightness'; .*import the module that adds another"):
        read_model(tmp_path / "toy.safetensors")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda shape: np.ones((2, *shape), np.float32),
            r"gave shape \(2, 20, 24\); expected \(C, H, W\) = \(4, 20, 24\)",
        ),
        (lambda shape: np.full((4, *shape), 2, np.float32), "gave values from 2 to 2; expected 0 to 1"),
        (lambda shape: np.full((4, *shape), np.nan, np.float32), "gave values from nan to nan; expected 0 to 1"),
    ],
)
def test_masks_that_are_none_are_refused(monkeypatch, made, message):
    monkeypatch.setitem(FAMILIES, Brightness.family, Brightness)
    monkeypatch.setattr(Brightness, "evaluate", lambda self, image, gain, bias: made(image.shape))
    base = random_model()
    model = replace(base, family="brightness", mask=Brightness(np.full((1, base.filters.channels), 2, np.float32)))
    with pytest.raises(safi_fast.ModelError, match=f"evaluate of the 'brightness' mask {message}"):
        safi_fast.Solver(model, backend="cpu").denoise(IMAGE, SIGMA, max_outer=2, **OPTIONS)


def test_a_header_that_is_not_the_masks_own_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(FAMILIES, Brightness.family, Brightness)
    monkeypatch.setattr(Brightness, "header", lambda self: {"name": "another"})
    base = random_model()
    model = replace(base, family="brightness", mask=Brightness(np.full((1, base.filters.channels), 2, np.float32)))
    with pytest.raises(
        safi_fast.ModelError, match="header of the 'brightness' mask has name; its texts begin with mask_"
    ):
        save_model(model, tmp_path / "toy.safetensors")


def test_a_tolerance_for_a_schedule_without_one(monkeypatch):
    monkeypatch.setitem(KINDS, Halving.name, Halving)
    with pytest.raises(safi_fast.InputError, match="tol has no meaning for schedule='halving'"):
        safi_fast.Solver(random_model(), backend="cpu").denoise(IMAGE, SIGMA, schedule="halving", tol=1e-3, **OPTIONS)
