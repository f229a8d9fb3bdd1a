"""What the MRI benchmarks compute: masks, samples left out, pictures, tables."""

import json

import numpy as np
import pytest

pytest.importorskip("skimage", reason="bench/data/problems.py takes a photograph from it")

from bench import ROOT
from bench.data import problems
from bench.experiments import mri_real
from bench.report import pages, pictures
from safi_fast.operators import SenseMRI


def test_random_lines_have_their_share_and_their_middle():
    mask = problems.line_mask((230, 180), 4, 0.08, np.random.default_rng(0))
    lines = mask[0]
    assert (mask == lines).all()
    assert lines.sum() == 45
    assert lines[90 - 7 : 90 + 7].all()


def test_samples_are_left_out_outside_of_the_middle():
    sampled = np.random.default_rng(0).random((51, 40)) < 0.5
    out = mri_real.hold_out(sampled, 0.1, 16, np.random.default_rng(1))
    assert (sampled | ~out).all()
    assert not out[25 - 8 : 25 + 8, 20 - 8 : 20 + 8].any()
    middle = sampled[25 - 8 : 25 + 8, 20 - 8 : 20 + 8].sum()
    assert out.sum() == round(0.1 * (sampled.sum() - middle))
    np.testing.assert_array_equal(out, mri_real.hold_out(sampled, 0.1, 16, np.random.default_rng(1)))


def test_error_of_samples_left_out():
    """Zero for the image that was measured, one for none, and only those positions count."""
    rng = np.random.default_rng(2)
    maps = (rng.standard_normal((3, 20, 18)) + 1j * rng.standard_normal((3, 20, 18))).astype(np.complex64)
    image = rng.standard_normal((20, 18)).astype(np.complex64)
    sampled = rng.random((20, 18)) < 0.6
    kspace = SenseMRI(maps, sampled, mask_order="centered", check_order=False).apply(image)
    out = mri_real.hold_out(sampled, 0.2, 4, rng)
    scan = mri_real.Scan("made", kspace, maps, sampled)
    assert scan.error(image, out) < 1e-6
    assert scan.error(0 * image, out) == pytest.approx(1)
    kspace[:, ~out] = 7
    assert scan.error(image, out) < 1e-6
    np.testing.assert_array_equal(scan.without(out).sampled, sampled & ~out)


def test_given_mask_and_kspace(data_folder):
    mask = problems.given_mask("Q_Cartesian30")
    assert mask.shape == (256, 256)
    assert mask[0, 0]
    assert mask.mean() == pytest.approx(0.297, abs=1e-3)
    full, und = (problems.brain_kspace(f"espirit_{name}") for name in ("full", "und2x2"))
    sampled = und != 0
    assert (full[sampled] == und[sampled]).all()


def test_panels_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    image = np.random.default_rng(0).random((23, 18)) * 1j
    pictures.panels(tmp_path / "a.png", [[("one", image), ("two", image)], [("three", image)]])
    with Image.open(tmp_path / "a.png") as drawn:
        width, height = drawn.size
    assert width > 2 * 200
    assert height > 2 * 200


def test_pages_are_those_of_the_results():
    """docs/results/mri.md shows what lies in bench/results."""

    page = (ROOT / "docs" / "results" / "mri.md").read_text(encoding="utf-8")
    assert page == pages.page("mri"), "docs/results/mri.md is out of date: python -m bench.experiments.inverse tables"
    rows = json.loads(mri_real.RESULT.read_text(encoding="utf-8"))["rows"]
    errors = {(row["case"], row["method"].split(",")[0]): row["error"] for row in rows}
    assert all(errors[case, "SAFI"] < errors[case, "TV"] < errors[case, "CG-SENSE"] for case, _ in errors)


def test_rows_of_a_case_stand_together():

    names = [("a", "TV"), ("a", "SAFI, safi-gray"), ("b", "TV"), ("b", "MMR, x"), ("a", "WCRR"), ("a", "MMR, x")]
    rows = pages.in_order([{"case": case, "method": method} for case, method in names])
    assert [(row["case"], row["method"].split(",")[0]) for row in rows] == [
        ("a", "TV"), ("a", "WCRR"), ("a", "MMR"), ("a", "SAFI"), ("b", "TV"), ("b", "MMR"),
    ]  # fmt: skip
