"""Sizes of caches, what follows from them, and that no result does."""

import numpy as np
import pytest
from models import conditions, random_model

from safi_fast.bindings import blocking
from safi_fast.bindings.cpu import CpuEngine
from safi_fast.errors import BackendError


@pytest.fixture(autouse=True)
def free(monkeypatch):
    monkeypatch.delenv(blocking.VARIABLE, raising=False)
    blocking.pairs_of.cache_clear()
    yield
    blocking.pairs_of.cache_clear()


def folder_of(tmp_path, entries):
    for number, (level, kind, size, shared) in enumerate(entries):
        index = tmp_path / "cache" / f"index{number}"
        index.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (index / name).write_text(f"{value}\n")
    return tmp_path


def test_caches_are_those_of_the_system(tmp_path):
    entries = [(1, "Data", "48K", "0"), (1, "Instruction", "32K", "0"), (2, "Unified", "2048K", "0,8")]
    found = blocking.caches(folder_of(tmp_path, [*entries, (3, "Unified", "32768K", "0-3,8-11")]))
    assert found == (48 << 10, 2 << 20, 4 << 20, str(tmp_path))


def test_without_a_word_from_the_system_they_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(blocking, "_from_sysconf", lambda _: (0, 0, 0))
    assert blocking.caches(tmp_path / "none").source == "default"
    monkeypatch.setattr(blocking, "_from_sysconf", lambda _: (1024, 4096, 0))
    assert blocking.caches(tmp_path / "nowhere") == (1024, 4096, 0, "sysconf")


def test_a_larger_cache_takes_larger_sets():
    chosen = [blocking.best_pairs(64, size << 20) for size in (1, 2, 3, 64)]
    assert chosen == [6, 12, 18, 24]


def test_the_variable_replaces_the_choice(monkeypatch):
    monkeypatch.setenv(blocking.VARIABLE, "18")
    assert blocking.pairs_of(64) == 18
    blocking.pairs_of.cache_clear()
    for value in ("7", "0", "many"):
        monkeypatch.setenv(blocking.VARIABLE, value)
        with pytest.raises(BackendError, match="expected a multiple of 6, or leave it unset"):
            blocking.pairs_of(64)


def test_masks_do_not_depend_on_it(monkeypatch):
    """Bit for bit."""
    image = np.random.default_rng(3).random((1, 70, 90), np.float32)
    model, masks = random_model("safi", 5), []
    gain, bias = (values[None] for values in conditions(model))
    for pairs in ("6", "12", "48"):
        monkeypatch.setenv(blocking.VARIABLE, pairs)
        blocking.pairs_of.cache_clear()
        workspace, one = CpuEngine(model).workspace(1, 70, 90), np.ones(1, np.float32)
        workspace.load(image, one, one, (0.0, 1.0))
        workspace.update_mask(np.arange(1), gain, bias)
        masks.append(workspace.masks())
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])
