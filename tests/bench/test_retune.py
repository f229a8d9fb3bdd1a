"""What is made again after weights changed."""

import json
import subprocess

import pytest

from bench.experiments import retune
from bench.experiments.retune import Job

MADE = "{python} -c \"print('[1]')\" > {out}"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder instead of bench/results, all models tuned, and no pages."""
    monkeypatch.setattr(retune, "RESULTS", tmp_path)
    monkeypatch.setattr(retune, "LEDGER", tmp_path / "weights.json")
    monkeypatch.setattr(retune, "PAGES", ())
    for name in retune.list_models():
        retune.noted(f"tuned {name}", retune.as_trained(name))
    return tmp_path


def test_every_job_makes_a_file_that_is_there():
    jobs = list(retune.jobs())
    assert len({job.record for job in jobs}) == len(jobs)
    for job in jobs:
        assert (retune.RESULTS / job.record).exists(), job.record
        assert set(job.models) <= set(retune.list_models())
    assert set(retune.ledger()) <= {
        *(job.record for job in jobs), *(f"begun {job.record}" for job in jobs),
        *(f"tuned {name}" for name in retune.list_models()),
    }  # fmt: skip


def test_a_file_is_made_once_for_weights(results, monkeypatch, capsys):
    monkeypatch.setattr(retune, "jobs", lambda: iter([Job("a.json", MADE), Job("b.json", MADE, ("mmr-gray",))]))
    retune.main(["--list"])
    assert capsys.readouterr().out.split() == ["a.json", "b.json"]
    retune.main(["--only", "a.json"])
    assert [path.name for path in sorted(results.glob("*.json"))] == ["a.json", "weights.json"]
    assert json.loads((results / "a.json").read_text()) == [1]
    retune.main([])
    capsys.readouterr()
    retune.main(["--list"])
    assert capsys.readouterr().out.split() == []
    retune.noted("a.json", {"safi-gray": "0" * 12})
    retune.main(["--list"])
    assert capsys.readouterr().out.split() == ["a.json"]


def test_what_failed_leaves_what_was_there(results, monkeypatch):
    (results / "a.json").write_text("before")
    broken = "{python} -c \"print('half'); raise SystemExit(1)\" > {out}"
    monkeypatch.setattr(retune, "jobs", lambda: iter([Job("a.json", broken)]))
    with pytest.raises(subprocess.CalledProcessError):
        retune.main([])
    assert (results / "a.json").read_text() == "before"
    assert "a.json" not in retune.ledger()


def test_rows_of_other_weights_are_not_gone_on_from(results, monkeypatch):
    target = results / "a.json"
    target.write_text("rows of other weights")
    adds = f"{{python}} -c \"print('row', file=open('{target}', 'a'))\" --resume"
    monkeypatch.setattr(retune, "jobs", lambda: iter([Job("a.json", adds)]))
    retune.main([])
    assert target.read_text() == "row\n"
    retune.noted("a.json", {})  # as after a run that was cut: begun by these weights, not ended
    retune.main([])
    assert target.read_text() == "row\nrow\n"


def test_a_model_is_tuned_once(results, monkeypatch):
    calls = []
    monkeypatch.setattr(retune, "jobs", lambda: iter(()))
    monkeypatch.setattr(retune.tune, "main", calls.append)
    retune.main([])
    assert calls == []
    retune.noted("tuned mmr-gray", {"mmr-gray": "0" * 12})
    retune.main([])
    assert [words[1].endswith("mmr-gray.safetensors") for words in calls] == [True]
    retune.main([])
    assert len(calls) == 1
