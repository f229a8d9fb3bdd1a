"""What the benchmarks compute beside times: the float64 judge of the converged race, and the tables."""

# ruff: noqa: E402 - without torch there is nothing to import
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the benchmarks race against torch")

from bench import RESULTS
from bench.experiments import roofline
from bench.methods import judge, torch_baseline
from bench.report import tables


@pytest.fixture
def layers():
    generator = torch.Generator().manual_seed(3)
    shapes = ((4, 1, 7, 7), (4, 4, 7, 7))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) / 10 for shape in shapes]


def test_composed_bank_is_the_cascade_up_to_the_border(layers):
    bank = judge.Bank(layers)
    x = torch.rand(1, 1, 23, 31, dtype=torch.float64)
    expected = torch_baseline.analysis(x, layers)
    torch.testing.assert_close(bank.analysis(x), expected)
    u = torch.rand_like(expected)
    torch.testing.assert_close(bank.synthesis(u), torch_baseline.synthesis(u, layers))


def test_long_run_ends_at_the_minimum(layers):
    """The gap bounds what is left, and no nearby image is better."""
    y = torch.rand(1, 1, 20, 22, dtype=torch.float64)
    mask = torch.rand(1, 4, 20, 22, dtype=torch.float64)
    convex = judge.Convex(judge.Bank(layers), y, mask, 0.02, 30.0)
    x, u, gap, _ = convex.solve(torch.zeros_like(mask))
    assert 0 <= gap <= judge.LONG_GAP
    assert u.abs().max() <= 0.02
    nearby = (x + 1e-3 * torch.randn_like(x)).clamp(0, 1)
    assert convex.objective(nearby) > convex.dual(u)[0]


def test_direct_work_is_that_of_the_plain_bank():
    counted = roofline.work(100, 64, 7)
    assert counted["analysis"][2] == 10816 * 100**2
    assert counted["convolution"][2] == 200704 * 100**2
    assert all(operations > 0 and moved > 0 for operations, moved, _ in counted.values())


def test_tables_are_those_of_the_results():
    """docs/performance.md shows what lies in bench/results."""
    page = tables.PAGE.read_text(encoding="utf-8")
    for name, make in tables.TABLES.items():
        record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        assert make(record) in page, f"{name} is out of date: python -m bench.report.tables"
        assert np.isfinite(record["machine"]["load_average"]).all()
