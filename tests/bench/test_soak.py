"""bench/experiments/soak.py: one cycle of its calls gives the same twice and leaves nothing, and growth is noticed."""

import sys

import numpy as np
import pytest

from bench.experiments import soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


def test_two_cycles_are_the_same(tmp_path):
    assert soak.cycle(tmp_path) == soak.cycle(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_of_a_cycle_end_as_they_should(tmp_path):
    statuses, image = soak.commands(tmp_path)
    np.testing.assert_array_equal(statuses, [0, 0, 1, 2, 0])
    assert image.shape == (26, 27)


def run(monkeypatch, cycle, memory):
    """The program, with ten cycles of a second each and this memory after each of them."""
    monkeypatch.setattr(soak, "cycle", cycle)
    monkeypatch.setattr(soak, "resident", iter(memory).__next__)
    monkeypatch.setattr(soak, "clock", iter(np.arange(0, 100, 0.5)).__next__)
    monkeypatch.setattr(sys, "argv", ["soak.py", "--minutes", "0"])
    soak.main()


@pytest.mark.parametrize("per_cycle", [0.001, 0.004])
def test_memory_that_stays_passes(per_cycle, monkeypatch, capsys):
    """The first cycles may take what they want; 0.001 MB a second are 3.6 an hour, 0.004 are 14.4."""
    run(monkeypatch, lambda folder: "same", [50, 90, *(100 + per_cycle * np.arange(8))])
    told = capsys.readouterr().out
    assert '"cycles": 10' in told
    assert f'"slope_mb_per_hour": {3600 * per_cycle:.1f}' in told


def test_growth_fails(monkeypatch):
    with pytest.raises(SystemExit, match=r"failed: slope of 21\.6 MB an hour; allowed is less than 20"):
        run(monkeypatch, lambda folder: "same", 100 + 0.006 * np.arange(10))


def test_other_results_fail(monkeypatch):
    count = iter(range(100))
    with pytest.raises(SystemExit, match="failed: different_results"):
        run(monkeypatch, lambda folder: str(next(count)), [100.0] * 10)
