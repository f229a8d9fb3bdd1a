"""What is compiled before the tests: the list of libraries, what of it is missing, and how failures are told."""

import json

import pytest
from emulator import build as building
from emulator import prebuild
from emulator.build import CACHE_VARIABLE, RECORD_VARIABLE, build
from emulator.prebuild import Recipe

TINY = 'extern "C" __global__ void tiny(float* y) { y[threadIdx.x] = 1.0f; }'


def test_what_is_slow_exists():
    """Every line of slow.txt begins the name of a test file or of a test."""
    from conftest import ROOT, SLOW

    for line in SLOW:
        file, *_, name = line.split("::") if "::" in line else (line, "test_")
        (path,) = (ROOT / "tests").glob(f"*/{file}")
        assert f"def {name}" in path.read_text(encoding="utf-8"), line


@pytest.fixture
def listed(monkeypatch, tmp_path):
    """A list of two libraries of one text, for two test files, in an empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    recipes = {
        Recipe("tiny", "plain", ("-DONE_NAME=1",)): frozenset({"test_a", "test_b"}),
        Recipe("tiny", "plain", ("-DONE_NAME=2",)): frozenset({"test_b"}),
    }
    monkeypatch.setattr(prebuild, "manifest", lambda: recipes)
    monkeypatch.setattr(prebuild, "texts", lambda: {"tiny": TINY})
    return recipes


def test_every_library_of_the_list_has_its_text():
    """None is of a kernel or a planted mistake that is gone."""
    assert {recipe.text for recipe in prebuild.manifest()} <= prebuild.texts().keys()
    assert len(prebuild.manifest()) > 200


def test_every_planted_mistake_is_in_the_list():
    """By its text: two mistakes of one header make the same text of a kernel."""
    from test_cuda_bugs import BUGS

    texts = prebuild.texts()
    listed = {texts[recipe.text] for recipe in prebuild.manifest()}
    assert not [name for name, bug in BUGS.items() if texts[f"{bug.file}: {name}"] not in listed]


def test_only_what_the_chosen_tests_need_is_missing(listed):
    both, second = listed
    assert prebuild.missing(["test_a"]) == [both]
    assert prebuild.missing(["test_b", "test_c"]) == [both, second]
    assert prebuild.missing() == [both, second]
    assert prebuild.missing(["test_c"]) == []
    build(TINY, both.options, both.mode)
    assert prebuild.missing() == [second]


def test_what_is_missing_is_built_once(listed, monkeypatch):
    monkeypatch.setattr(prebuild, "MODES", ("plain",))
    said = []
    prebuild.make(["test_a"], said.append)
    assert said[0].startswith("emulator libraries: compiling 1, ")
    assert said[1:] == ["emulator libraries: 1 of 1, about 0 s left"]
    assert prebuild.missing(["test_a"]) == []
    prebuild.make(["test_a"], said.append)
    assert len(said) == 2


def test_a_text_that_does_not_compile_is_left_to_its_test(listed, monkeypatch):
    monkeypatch.setattr(prebuild, "MODES", ("plain",))
    monkeypatch.setattr(prebuild, "texts", lambda: {"tiny": TINY.replace("1.0f", "nothing")})
    said = []
    prebuild.make(["test_a"], said.append)
    assert "emulator libraries: g++ failed:" in said


def test_without_a_compiler_nothing_is_built(listed, monkeypatch):
    building._compiler.cache_clear()
    monkeypatch.setenv("PATH", "")
    said = []
    prebuild.make(["test_a"], said.append)
    assert said[0].startswith("emulator libraries: none built (the CUDA emulator needs g++")


def test_a_record_becomes_the_list(listed, monkeypatch, tmp_path):
    record, manifest = tmp_path / "record", tmp_path / "libraries.json"
    monkeypatch.setenv(RECORD_VARIABLE, str(record))
    monkeypatch.setattr(prebuild, "MANIFEST", manifest)
    build(TINY, ("-DONE_NAME=1", "-DOTHER=2"))
    build(TINY + "// a text of a test's own")
    prebuild.record(record)
    here = "test_prebuild"
    assert json.loads(manifest.read_text()) == [["tiny", "plain", "-DONE_NAME=1 -DOTHER=2", here]]
