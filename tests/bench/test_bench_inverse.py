"""What the benchmarks of CT and restoration compute: the search for strengths, who is ahead, and the pages written from
the results.
"""

import math

import pytest

pytest.importorskip("torch", reason="bench/data/problems.py reads checkpoints with it")
pytest.importorskip("skimage", reason="bench/data/problems.py takes a photograph from it")

import numpy as np

from bench import ROOT
from bench.data import cases
from bench.experiments import sensitivity
from bench.methods.search import search
from bench.report import pages


def valley(best, best_level=None):
    """Errors with their smallest at one strength and level, and a list of what was asked."""
    asked = []

    def errors_of(strengths, level):
        asked.extend((level, s) for s in strengths)
        return [abs(math.log(s / best)) + (level != best_level) for s in strengths]

    return errors_of, asked


def test_search_takes_the_best_of_the_list():
    errors_of, asked = valley(2.0, best_level=5)
    assert search([1.0, 3.0, 9.0], errors_of, (5, 15)) == (3.0, 5)
    assert len(asked) == 6
    errors_of, asked = valley(2.0)
    assert search([7.0], errors_of, (5,)) == (7.0, 5)
    assert not asked


@pytest.mark.parametrize("best", [0.05, 0.4, 2.0, 60.0])
def test_refined_search_leaves_the_list_and_ends_within_a_quarter_of_a_step(best):
    """A step is a factor of 3; half steps leave at most a quarter of one."""
    errors_of, _ = valley(best)
    strength, level = search([1.0, 3.0, 9.0], errors_of, refined=True)
    assert level is None
    assert abs(math.log(strength / best)) <= math.log(3) / 4 + 1e-9


def test_refined_search_does_not_go_on_for_ever():
    errors_of, asked = valley(1e-9)
    search([1.0, 3.0, 9.0], errors_of, refined=True)
    assert len(asked) == 3 + 4 + 2


def test_data_of_the_same_grid_are_its_projections_and_noise(data_folder):
    assert data_folder
    fine, same = (cases.abdomen("phantom_49", 20, 32, 1, grid) for grid in (False, True))
    np.testing.assert_array_equal(fine.reference, same.reference)
    noise = same.y - same.operator.apply(same.reference)
    assert 0.045 < np.std(noise) < 0.055
    assert 0.01 < np.sqrt(np.mean((fine.y - same.y) ** 2)) < 0.5
    with pytest.raises(SystemExit, match="expected 256"):
        cases.abdomen("phantom_49", 20, 40, 1)


def test_problems_of_the_sensitivity_study(data_folder):
    assert data_folder
    shapes = [(name, reference.shape, y.shape) for name, _, y, reference, *_ in sensitivity.problems(32)]
    assert shapes == [
        ("denoising", (32, 32), (32, 32)), ("MRI 4x", (32, 32), (32, 32)), ("CT 60 views", (32, 32), (60, 47)),
    ]  # fmt: skip


def test_who_is_ahead():
    def row(method, *values):
        return {"case": "a", "method": method, "psnr": sum(values) / 2, "psnr_of": list(values), "images": ["01", "04"]}

    rows = [row("TV", 20.0, 30.0), row("SAFI, safi-gray", 21.0, 29.5)]
    assert pages.verdict(rows) == ["SAFI minus TV: a +0.25 dB.", ""]
    assert pages.wins(rows)[0] == "SAFI is ahead of TV in 1 of 2 images; the worst: -0.50 dB (a, image 04)."
    assert pages.wins(rows[:1]) == []


def test_who_is_ahead_in_ssim_and_of_mmr():
    values = {"TV": (20.0, 0.5), "MMR, published weights": (23.0, 0.7), "SAFI, safi-gray": (22.5, 0.6)}
    rows = [{"case": "a", "method": m, "psnr": p, "ssim": s} for m, (p, s) in values.items()]
    unfinished = [{**row, "case": "b"} for row in rows[:2]]
    assert pages.verdict(rows + unfinished)[2] == "SAFI minus MMR: a -0.50 dB."
    assert pages.behind(rows + unfinished) == ["Ahead of SAFI in SSIM: MMR (a).", ""]
    assert pages.behind(unfinished) == []


def test_kernels_without_all_rows():
    """A table is drawn while the rows are coming in."""

    def row(kernel, method):
        return {
            "case": f"Levin kernel {kernel}, noise 1/255",
            "method": method,
            "psnr": 20.0 + kernel,
            "ssim": 0.5,
            "images": ["01"],
        }

    lines = pages.kernels([row(1, "TV"), row(1, "SAFI, safi-gray"), row(2, "TV")])
    assert "| 1 | 21.00 | 21.00 | +0.00 |" in lines
    assert "| 2 | 22.00 |  |  |" in lines
    assert "| mean | 21.50 |  |  |" in lines


@pytest.mark.parametrize("name", ["ct", "restoration"])
def test_pages_are_those_of_the_results(name):
    page = (ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert page == pages.page(name), (
        f"docs/results/{name}.md is out of date: python -m bench.experiments.inverse tables"
    )
