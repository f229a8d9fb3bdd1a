"""What docs/architecture.md says of new parts: a schedule, an operator and a mask family, each in one piece of code
and one registry entry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from models import random_model

import safi_fast
from safi_fast.masks import FAMILIES
from safi_fast.operators import Operator
from safi_fast.solver.dual import run_fixed
from safi_fast.solver.result import COMPLETED
from safi_fast.solver.schedules import KINDS
from safi_fast.weights import read_model, save_model

RNG = np.random.default_rng(3)
IMAGE = np.clip(0.5 + 0.2 * RNG.standard_normal((20, 24)), 0, 1).astype(np.float32)
SIGMA = 25 / 255
OPTIONS = {"box": (0.0, 1.0)}


# ------------------------------------------------------------------------------------------------------- a schedule


@dataclass(frozen=True)
class Halving:
    """Half as many inner steps in each outer step as in the one before."""

    name: ClassVar[str] = "halving"
    outer: int = 3
    inner: int = 12
    step: float = 1.0

    def solve(self, problem, progress):
        if progress.outer:
            problem.next_mask(progress.active)
        else:
            problem.start(progress.active)
        return run_fixed(problem, progress.active, max(1, self.inner // 2**progress.outer))

    def outcome(self, progress, result):
        last = progress.outer == self.outer - 1
        return np.full(len(result.steps), COMPLETED if last else None, dtype=object)


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


# ---------------------------------------------------------------------------------------------------- a mask family


@dataclass(frozen=True, eq=False)
class Brightness:
    """Every mask is 1 / (1 + gain |x|): bright pixels are smoothed less."""

    family: ClassVar[str] = "brightness"
    gains: np.ndarray

    @property
    def channels(self):
        return self.gains.shape[1]

    reach = 0

    def evaluate(self, image, gain, bias):
        return 1 / (1 + gain[:, None, None] * np.abs(image))

    def check(self, boundary, levels):
        assert len(self.gains) == levels

    def at(self, rows, weights):
        gain = weights @ self.gains[rows]
        return gain, np.zeros_like(gain)

    def tensors(self):
        return {"mask.gains": self.gains}

    def header(self):
        return {}

    @classmethod
    def read(cls, source):
        return cls(source.take("mask.gains"))


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
