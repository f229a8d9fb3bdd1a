"""Start-up: warmup(), where compiled kernels are kept, and that the first result compiles nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PROCESS

import safi_fast
from safi_fast.bindings import cache


def python(code, *arguments, **environment):
    """What a process of its own prints, which must be silent otherwise."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=PROCESS
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


FIRST_RESULT = """
import json, sys, numpy as np, safi_fast
safi_fast.denoise(np.full((64, 64), 0.5), 25 / 255, max_outer=2)
hits, misses = [], []
for name, module in list(sys.modules.items()):
    if name.startswith("safi_fast.kernels.cpu."):
        for value in vars(module).values():
            if hasattr(value, "stats"):
                hits += value.stats.cache_hits.values()
                misses += value.stats.cache_misses.values()
print(json.dumps([sum(hits), sum(misses)]))
"""


def test_the_first_result_of_a_process_compiles_nothing_after_a_warmup():
    safi_fast.warmup("safi-gray", backend="cpu")
    loaded, compiled = json.loads(python(FIRST_RESULT))
    assert compiled == 0
    assert loaded > 5


def test_commands_say_that_kernels_are_compiled_first(monkeypatch, capsys):
    """Without a terminal too, and only where none was kept."""
    from safi_fast.cli import session

    safi_fast.warmup("safi-gray", backend="cpu")
    session.make_session(backend="cpu")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cache, "COMPILED", ("*.nothing", "*.nbc"))
    session.make_session(backend="cpu")
    assert capsys.readouterr().err == (
        "safi-fast: the first run on a machine compiles 11 kernels, which takes about a quarter of a minute\n"
    )


COLD = """
import sys, safi_fast
told = []
safi_fast.warmup(sys.argv[1], backend="cpu", progress=lambda *numbers: told.append(numbers))
print(told)
"""


def test_a_warmup_compiles_nothing_where_all_lies_compiled():
    """Where nothing does: tests/kernels/test_avx2.py."""
    safi_fast.warmup("safi-gray", backend="cpu")
    assert python(COLD, "safi-gray") == "[]\n"


START = """
import time, numpy as np, safi_fast
safi_fast.denoise(np.full((64, 64), 0.5), 25 / 255, max_outer=1, max_inner=1)
print(time.process_time())
"""


def test_import_and_first_result_take_two_seconds_once_kernels_lie_compiled():
    """Of the processor, which other work on the machine does not add to; three times as much on a slow machine."""
    safi_fast.warmup("safi-gray", backend="cpu")
    assert float(python(START, NUMBA_NUM_THREADS="1")) < 3 * 2


def test_warmup_leaves_nothing_to_compile_for_any_schedule():
    code = """
import numpy as np, safi_fast
safi_fast.warmup(backend="cpu")
from safi_fast.kernels.cpu import convolution, depthwise, features, filter_bank, image, projector
kernels = [value for module in (convolution, depthwise, features, filter_bank, image, projector)
           for value in vars(module).values() if hasattr(value, "signatures")]
before = [len(kernel.signatures) for kernel in kernels]
blur = safi_fast.operators.Blur(np.ones((3, 3)) / 9, (40, 40))
for model in safi_fast.list_models():
    planes = safi_fast.load_model(model).filters.planes
    noisy = np.random.default_rng(0).random((40, 40) if planes == 1 else (planes, 40, 40))
    steps = {"model": model, "max_outer": 3, "max_inner": 5, "channel_axis": None if planes == 1 else 0}
    for schedule in ("unrolled", "gap", "converged"):
        safi_fast.denoise(noisy, 25 / 255, schedule=schedule, backend="cpu", **steps)
    safi_fast.reconstruct(noisy, blur, strength=0.01, model=model, max_outer=2, max_iter=3)
print(sum(before) > 10, before == [len(kernel.signatures) for kernel in kernels])
"""
    assert python("import safi_fast.operators\n" + code) == "True True\n"


# ----------------------------------------------------------------------------------------------- where kernels are kept

LOCATION = """
import sys
from pathlib import Path
import safi_fast.bindings.cache as cache
beside = Path(sys.argv[1])
writable = cache.can_write
cache.can_write = lambda folder: folder != cache.KERNELS / "__pycache__" and writable(folder)
cache.prepare_kernels()
from safi_fast.kernels.cpu import fft
import numba
print(fft.fft32.stats.cache_path)
print(numba.config.CACHE_DIR)
"""


@pytest.fixture
def free(monkeypatch):
    """Without a folder of the caller's own choice."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)


def test_a_read_only_installation_keeps_kernels_in_the_users_cache(tmp_path, free):
    printed = python(LOCATION, tmp_path, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache")).splitlines()
    folder = Path(printed[0])
    assert folder.is_relative_to(tmp_path / "cache" / "safi_fast" / cache.source_hash()[:16])
    assert printed[1:] in ([""], [])  # other packages' kernels stay where they were


def test_without_a_home_kernels_go_to_a_private_temporary_folder(tmp_path, free):
    """/dev/null is a home in which nobody, root included, can make a folder."""
    environment = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache", "TMPDIR": str(tmp_path)}
    folder = Path(python(LOCATION, tmp_path, **environment).splitlines()[0])
    own = tmp_path / f"safi_fast-{os.getuid()}"
    assert folder.is_relative_to(own)
    assert own.stat().st_mode & 0o077 == 0


def test_a_folder_that_others_can_write_to_is_not_trusted(tmp_path, monkeypatch):
    """Compiled kernels are code: whoever can write them can run anything as this user."""
    mine, open_to_all, link = tmp_path / "mine", tmp_path / "open", tmp_path / "link"
    mine.mkdir(mode=0o700)
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link.symlink_to(mine)
    assert [cache.is_private(folder) for folder in (mine, open_to_all, link)] == [True, False, False]
    monkeypatch.setattr(cache, "_user_folders", lambda: [open_to_all, link, mine])
    assert cache.fallback_folder("f" * 64).parent == mine
    monkeypatch.setattr(cache, "_user_folders", lambda: [open_to_all])
    passing = cache.fallback_folder("f" * 64)
    assert passing.stat().st_mode & 0o077 == 0
    shutil.rmtree(passing)


def test_kernels_that_came_with_the_installation_are_taken_over(tmp_path):
    beside, target = tmp_path / "beside", tmp_path / "target"
    beside.mkdir()
    for name in ("a.nbi", "a.1.nbc"):
        (beside / name).write_text(name)
    (beside / cache.STAMP).write_text("of other sources")
    cache.seed(target, beside)
    assert not target.exists()
    (beside / cache.STAMP).write_text(cache.source_hash())
    cache.seed(target, beside)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a.nbi": "a.nbi", "a.1.nbc": "a.1.nbc"}
    (beside / "a.nbi").write_text("newer")
    cache.seed(target, beside)
    assert (target / "a.nbi").read_text() == "a.nbi"


def test_warmup_takes_a_model(tmp_path):
    from models import random_model

    assert safi_fast.warmup(random_model(), backend="cpu") is None
    with pytest.raises(safi_fast.ModelError, match="there is no model"):
        safi_fast.warmup("no-such")


def test_importing_still_loads_nothing():
    code = "import sys, safi_fast; print([name for name in ('numba', 'numpy', 'scipy') if name in sys.modules])"
    assert python(code) == "[]\n"
