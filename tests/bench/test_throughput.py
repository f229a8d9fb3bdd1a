"""What the comparison of slices per minute computes: MFoE, choice of settings, order of slices, tables."""

import multiprocessing.pool
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("skimage", reason="bench/data/problems.py takes a photograph from it")

from bench.methods import throughput as methods
from bench.methods.throughput import Method, Outcome, Setting
from bench.report import measure, throughput
from safi_fast.operators import Identity

ROW = {
    "size": "s", "method": "a", "name": "A", "default": False, "steps": 10, "workers": "2 threads", "slices": 2,
    "per_minute": 3.0, "psnr_of": [30.0, 31.0], "strength": 0.1, "level": None, "others": 0.0,
}  # fmt: skip


def test_projection_onto_the_ball_of_the_l1_norm():
    torch = pytest.importorskip("torch")
    from bench.methods.mfoe import onto_ball

    z = 2 * np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    found = onto_ball(torch, torch.from_numpy(z)).numpy()
    assert abs(found).sum(1).max() <= 1 + 1e-6
    inside = abs(z).sum(1, keepdims=True) <= 1
    np.testing.assert_array_equal(np.where(inside, found, 0), np.where(inside, z, 0))
    for point, nearest in zip(
        np.moveaxis(z, 1, -1).reshape(-1, 4), np.moveaxis(found, 1, -1).reshape(-1, 4), strict=True
    ):
        corners = np.concatenate([np.eye(4), -np.eye(4)])
        assert ((corners - nearest) @ (point - nearest)).max() <= 1e-5  # of a projection onto a convex set


@pytest.fixture
def mfoe(data_folder):
    pytest.importorskip("torch")
    from bench.methods.mfoe import Mfoe

    return Mfoe(data_folder / "weights" / "mfoe.pth")


def test_mfoe_descends_along_a_gradient_no_steeper_than_stated(mfoe):
    """Its integral around a triangle vanishes, and it changes by no more than the curvature allows."""
    rng = np.random.default_rng(1)
    corners = [(0.5 + 0.02 * rng.standard_normal((16, 18))).astype(np.float32) for _ in range(3)]

    def work(begin, end, parts=64):
        places = (begin + (end - begin) * np.float32((k + 0.5) / parts) for k in range(parts))
        return sum(float(np.vdot(mfoe.gradient(x, 15), end - begin)) for x in places) / parts

    sides = [work(corners[k - 1], corners[k]) for k in range(3)]
    assert abs(sum(sides)) < 2e-3 * max(map(abs, sides))
    step = corners[1] - corners[0]
    change = mfoe.gradient(corners[1], 15) - mfoe.gradient(corners[0], 15)
    assert np.linalg.norm(change) <= mfoe.curvature * np.linalg.norm(step)


def test_mfoe_denoises(mfoe):
    from bench.data.cases import photograph

    clean = photograph("01", 96)
    noisy = clean + np.float32(25 / 255) * np.random.default_rng(2).standard_normal(clean.shape).astype(np.float32)
    denoised, _ = mfoe.solve(Identity(clean.shape), noisy, 1.0, 25, steps=60)
    error = [np.mean((image - clean) ** 2) for image in (noisy, denoised)]
    assert error[1] < error[0] / 5


def test_slices_of_processes_are_put_in_order():
    answers = [(np.array([[0, 2, 4]]), np.array([[1.0, 5.0]])), (np.array([[1, 3]]), np.array([[1.5, 5.5]]))]
    (outcome,) = methods.joined(answers)
    assert (outcome.images, outcome.seconds) == ([0, 1, 2, 3, 4], 4.5)


def test_slices_of_a_pool_are_put_in_order(monkeypatch):
    context = SimpleNamespace(Pool=multiprocessing.pool.ThreadPool)
    monkeypatch.setattr(methods.multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(methods, "one_by_one", lambda part: [10 * case for case in part[0]])
    (outcome,) = methods.apart(range(5), [Setting(1, None, 1)])
    assert outcome.images == [0, 10, 20, 30, 40]


def test_fewest_steps_that_are_near_the_best(monkeypatch):
    """And before them the default, where that is fewer."""
    reached = {10: 25.0, 30: 29.0, 100: 29.98, 400: 30.0}
    monkeypatch.setattr(methods, "quality", lambda cases, images: [images])
    monkeypatch.setattr(methods, "mean_error", lambda cases, images: -images)

    def solve(cases, settings):
        return [Outcome(reached[s.steps] - abs(np.log(s.strength)), 1.0) for s in settings]

    method = Method("a", (1 / 3, 1.0, 3.0), tuple(reached), 100, default=30)
    assert methods.chosen(method, solve, []) == [Setting(1.0, None, 30), Setting(1.0, None, 100)]


def test_a_row_takes_the_place_of_its_last_run():
    rows = throughput.placed([ROW, {**ROW, "default": True}], {**ROW, "per_minute": 4.0})
    assert [(row["default"], row["per_minute"]) for row in rows] == [(False, 4.0), (True, 3.0)]
    batch = {**ROW, "method": "safi", "workers": "one batch"}
    assert len(throughput.placed([batch], {**batch, "workers": "2 processes"})) == 2


def test_psnr_is_compared_on_slices_that_both_have():
    ours = {**ROW, "method": "safi", "name": "SAFI", "psnr_of": [33.0, 33.0, 10.0], "slices": 3}
    text = throughput.as_table({"rows": [ROW, ours]})
    assert "| s | A, 10 steps | 3.0 | 30.50 dB | -2.50 dB | 2 |" in text


def test_own_work_is_not_that_of_neighbours(monkeypatch):
    """With the counts of all processes standing still, what this one spends comes out below zero."""
    standing = measure.Path("/proc/stat").read_text()
    monkeypatch.setattr(measure.Path, "read_text", lambda _: standing)
    neighbours, (begin, spent) = measure.Neighbours(), (time.perf_counter(), time.process_time())
    while time.process_time() < spent + 0.3:
        pass
    assert neighbours.cpus() == pytest.approx(-0.3 / (time.perf_counter() - begin), rel=0.2)
