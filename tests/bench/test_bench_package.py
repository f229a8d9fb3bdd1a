"""bench/ as a package: what it may import and touch, its commands, and the parts of them that need no hours."""

import argparse
import ast
import importlib
import json
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="the benchmarks race against torch")
pytest.importorskip("skimage", reason="bench/data/problems.py takes a photograph from it")

from models import random_model

from bench import ROOT
from bench.data.cases import MMR, SAFI, Case, Lists, single_coil
from bench.data.problems import SIGMA, line_mask, published_safi_layout, squared_norm_of
from bench.experiments import inverse, large, nested
from bench.methods.nested import Nested
from bench.report import measure, memory, pages
from safi_fast import Solver
from safi_fast.operators import Identity
from safi_fast.weights import save_model

FILES = sorted((ROOT / "bench").rglob("*.py"))
ROOMS = {"data": {"data", "report"}, "methods": {"data", "methods", "report"}, "report": {"data", "report"}}
PUBLIC = {"_replace", "_asdict"}  # of named tuples
EXPERIMENTS = sorted(path.stem for path in (ROOT / "bench" / "experiments").glob("[!_]*.py"))
COMMANDS = [f"bench.experiments.{name}" for name in EXPERIMENTS]
COMMANDS += ["bench.data.photographs", "bench.report.cards", "bench.report.scaling"]
COMMANDS += ["bench.static.cpu", "bench.static.cuda"]


def named(path):
    return path.relative_to(ROOT).as_posix()


def private(tree):
    """Leading underscores of what a module takes from elsewhere: imported names, and attributes of anything but self
    and cls.
    """
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            words = [word for name in node.names for word in name.name.split(".")]
            words += (getattr(node, "module", None) or "").split(".")
            yield from (word for word in words if word.startswith("_") and not word.startswith("__"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            yield from () if own else (node.attr,)


def test_private_names_are_found():
    code = (
        "from a._b import c\nfrom d import _e\nf._g()\nself._h\nself.i._j\nfrom __future__ import "
        "k\nl.__doc__\nm._replace"
    )
    assert sorted(private(ast.parse(code))) == ["_b", "_e", "_g", "_j", "_replace"]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_module_takes_no_private_names_and_stays_small(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert set(private(tree)) <= PUBLIC
    assert len(text.splitlines()) < 450
    assert ast.get_docstring(tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= 60] == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room):
    for path in (ROOT / "bench" / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bench."):
                assert node.module.split(".")[1] in ROOMS[room], f"{named(path)} imports {node.module}"


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_says_how_it_is_used(module, monkeypatch, capsys):
    main = importlib.import_module(module).main
    monkeypatch.setattr(sys, "argv", ["program", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out
    assert f"python -m {module}" in sys.modules[module].__doc__


def test_a_command_is_recorded_as_it_can_be_run_again(monkeypatch):
    program = str(ROOT / "bench" / "experiments" / "race.py")
    monkeypatch.setattr(sys, "argv", [program, "--repeats", "1", "--output", "/some/folder/race.json"])
    assert measure.command() == "python -m bench.experiments.race --repeats 1 --output race.json"
    assert measure.command(["--size", "3"]) == "python -m bench.experiments.race --size 3"
    monkeypatch.setattr(sys, "argv", ["/elsewhere/pytest", "x"])
    assert measure.command([]) == "python -m pytest"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_the_peak_of_memory_can_be_forgotten():
    memory.give_back()
    memory.forget_peak()
    before = memory.status("VmHWM")
    size = np.ones(8 * 2**20, np.float32).nbytes
    assert memory.status("VmHWM") - before > 0.9 * size
    memory.forget_peak()
    assert memory.status("VmHWM") - before < 0.5 * size


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_process_of_its_own_measures_memory():
    found = memory.fresh("bench.report.memory", "peak", "mmr-gray", 64, 48, 0)
    assert found["estimate"] > 0
    assert found["peak"] == found["measured"] + found["resident_ready"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_of_a_race_is_measured_for_any_model(tmp_path):
    """Also where ||W||^2 is large, as it is with the random filters of the published layout."""
    path = tmp_path / "model.safetensors"
    save_model(published_safi_layout(), path)
    found = memory.fresh("bench.report.memory", "race", path, 64, 48)
    assert 0 < found["imported"] < found["ready"] <= found["peak"]


def test_a_page_without_its_measurement_says_which(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match=r"inverse_ct\.json is not there; run the experiment that makes it"):
        pages.page("ct")


@pytest.fixture(scope="module")
def solver():
    return Solver(random_model("mmr", boundary="symmetric", composed=True), backend="cpu")


def test_the_norm_is_that_of_the_solver(solver):
    y = np.random.default_rng(0).random((20, 22), np.float32)
    options = {"schedule": "gap", "max_outer": 1, "max_inner": 5}
    norm = squared_norm_of(solver.model, 20, 22)
    expected = solver.denoise(y, SIGMA, strength=0.01, **options)
    np.testing.assert_array_equal(solver.denoise(y, SIGMA, strength=0.01, lipschitz=norm, **options), expected)


def test_rows_of_a_table(solver):
    """All methods of one entry, and none that is done."""
    rng = np.random.default_rng(0)
    images = [rng.random((20, 22), np.float32) for _ in range(3)]
    noisy = [image + np.float32(0.1) * rng.standard_normal(image.shape).astype(np.float32) for image in images]
    tuning, *tests = (Case(Identity(x.shape), y, x, ("noisy", y)) for x, y in zip(images, noisy, strict=True))
    lists = Lists(tv=[0.01, 0.1], cg=[0.1], safi=[0.01, 0.02], mmr=[0.01])
    limits = {"tune_outer": 1, "outer": 2, "inner": 5, "tv_steps": 50, "wcrr": False, "skip": ["SAFI"]}
    entry = inverse.Entry("a", [tuning], dict(zip("xy", tests, strict=True)), lists, argparse.Namespace(**limits))
    solvers = {"mmr": solver, "safi": solver}
    rows = [row for row, _ in entry.rows(solvers, {"TV"})]
    assert [row["method"] for row in rows] == ["noisy", "Tikhonov (CG)", MMR]
    entry.args.skip = []
    (tv, images_of_tv), (safi, _) = entry.rows(solvers, {row["method"] for row in rows})
    assert (tv["method"], safi["method"]) == ("TV", SAFI)
    assert tv["psnr"] == pytest.approx(np.mean(tv["psnr_of"]))
    assert tv["psnr"] > rows[0]["psnr"]
    assert [image.shape for image in images_of_tv] == [(20, 22)] * 2
    assert (tv["images"], safi["certificate_kind"]) == (["x", "y"], "gap")
    assert (tv["strength"], None) == lists.chosen["TV"]
    assert set(lists.chosen) == {"Tikhonov (CG)", "TV", MMR, SAFI}
    json.dumps([*rows, tv, safi])


def test_the_shown_command_has_what_decides_the_results():
    words = {
        "command": "blur",
        "size": 96,
        "outer": 20,
        "inner": 2000,
        "wcrr": False,
        "kernels": [1, 2],
        "tune_outer": 12,
    }
    shown = inverse.shown(argparse.Namespace(**words, images=inverse.TESTS))
    assert " ".join(shown) == "blur --size 96 --outer 20 --inner 2000 --kernels 1 2 --tune-outer 12"


def test_the_nested_scheme_and_ours_come_together(solver):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :24]
    image = (0.4 + 0.2 * np.sin(rows / 4) + 0.2 * (columns > 11)).astype(np.float32)
    case = single_coil(image, line_mask(image.shape, 2, 0.3, rng), rng)
    args = argparse.Namespace(
        strength=1e-3, outer=2, inner=300, tol=1e-4, tight=False, only_long=True, tighter=2.0, budget=60.0
    )
    ours, seconds, trace = nested.our_run(solver, case, args)
    runs = nested.nested_runs(solver, case, args)
    assert list(runs) == ["long"]
    assert isinstance(runs["long"], Nested)
    found = nested.compared(image, ours, seconds, trace, runs, 0.1, args.budget)
    assert found["ours"]["distance_to_long"] < 2e-2
    assert found["nested"]["long"]["seconds_layer_wise"] == pytest.approx(0.1 * found["nested"]["long"]["inner_steps"])
    assert found["masks_compared"] == len(found["mask_by_mask"]) == 2


def test_a_backend_that_pauses_does_so_before_each_tile(monkeypatch):
    monkeypatch.setattr(large, "SMALL", 40)
    backend, pauses = large.PausingBackend(), []
    solver = Solver(random_model(boundary="symmetric", composed=True), backend=backend)
    backend.pause = lambda: pauses.append(1)
    noisy = np.random.default_rng(0).random((250, 240), np.float32)
    steps = {"max_outer": 1, "max_inner": 2}
    whole = solver.denoise(noisy[:40, :40], SIGMA, **steps)
    assert not pauses
    np.testing.assert_array_equal(whole, Solver(solver.model, backend="cpu").denoise(noisy[:40, :40], SIGMA, **steps))
    solver.denoise(noisy, SIGMA, max_memory=0.7 * solver.estimate_memory((250, 240)), **steps)
    assert len(pauses) > 1


def test_seconds_of_a_large_image_beside_those_of_small_ones():
    runs = np.array([[1.0, 2, 1], [3, 2, 1], [2, 2, 1]]) * large.SMALL**2 / 1e6
    row = large.ratios(np.array([8.0, 4, 1]), 10**6, runs)
    assert (row["wall_us_per_pixel"], row["wall_us_per_pixel_of_256"], row["wall_ratio"]) == (8.0, [1.0, 2.0, 3.0], 4.0)
    assert (row["cpu_ratio"], row["user_ratio"]) == (2.0, 1.0)
