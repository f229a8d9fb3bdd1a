"""Fixtures shared by all tests, and what is compiled before the first of them: no test waits for a compiler."""

import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from emulator.build import processor_features

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.setdefault("SAFI_FAST_TEST_CACHE", str(ROOT / ".cache"))).expanduser()

# Numba's cache does not notice a change in a function of another file, so tests keep one cache per state of the
# kernels. It compiles again where a file is newer, which a fresh checkout is, and for another Numba or processor.
KERNELS = sorted(ROOT.glob("kernels/**/*.py"))
STATE = hashlib.sha256(b"".join(path.read_bytes() for path in KERNELS)).hexdigest()
MADE_FOR = [path.stat().st_mtime_ns for path in KERNELS], sys.version, version("numba"), sorted(processor_features())
WARM = hashlib.sha256(repr(MADE_FOR).encode()).hexdigest()
os.environ.setdefault("NUMBA_CACHE_DIR", str(CACHE / "numba" / STATE[:12]))
TRIED = "SAFI_FAST_TESTS_WARM"  # set once kernels are compiled, or cannot be
READY = "SAFI_FAST_TESTS_READY"  # set once everything is compiled, for workers and other processes of the tests
# Tests work on small images on machines that do other things as well. Threads that wait by spinning then take the cores
# from those that have work, in OpenMP (the kernels) and in the oracle's small matrix products.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: one thread each, where a test does not ask for more
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What `make test-fast` leaves out, by the beginning of its name: files and tests of more than a second or two, one a
# line.
SLOW = tuple((Path(__file__).with_name("slow.txt")).read_text(encoding="utf-8").split())


def pytest_ignore_collect(collection_path, config):
    """Files of slow tests alone are not even imported where no slow test is asked for."""
    return True if collection_path.name in SLOW and config.option.markexpr.startswith("not slow") else None


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.nodeid.rsplit("/", 1)[-1]
        if name.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session):
    """Without pytest-xdist, and in its workers, which find everything ready."""
    if not session.config.option.collectonly:
        _compile_ahead(session.config, {item.path.stem for item in session.items})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    """In the process that gives tests to the workers, which wait for it."""
    _compile_ahead(node.config, {Path(name.split("::")[0]).stem for name in ids})


def _compile_ahead(config, tests):
    """What these test files need, while no test's time runs."""
    if hasattr(config, "workerinput"):
        os.environ[READY] = "1"
    if not tests or os.environ.get(READY):
        return
    from emulator import prebuild

    terminal = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")

    def say(text):
        with capture.global_and_fixture_disabled():
            terminal.write_line(text)

    _warm_kernels(say)
    prebuild.make(tests, say)
    if not hasattr(config.option, "dist") or config.option.dist == "no":
        os.environ[READY] = "1"


def _warm_kernels(say):
    """The CPU kernels, by tests/support/warm.py."""
    stamp = Path(os.environ["NUMBA_CACHE_DIR"]) / f"warm-{WARM[:12]}"
    if stamp.exists() or os.environ.get(TRIED):
        return
    os.environ[TRIED] = "1"
    say("CPU kernels: compiling, a quarter of a minute on two idle cores")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "warm.py")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        say(f"CPU kernels: not all are compiled ahead\n{done.stderr}")
        return
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real images, checkpoints and golden outputs; tests that need it are skipped without it."""
    default = ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("SAFI_FAST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data is not here: set SAFI_FAST_DATA to its folder (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def gpu():
    """The current GPU; skips where there is none."""
    cupy = pytest.importorskip("cupy")
    try:
        found = cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        found = False
    if not found:
        pytest.skip("CuPy finds no GPU")
    from safi_fast.bindings.device import CupyDevice

    return CupyDevice()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A weights file of a small random model, for commands."""
    from models import random_model

    from safi_fast.weights import save_model

    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_model(random_model(lipschitz=1.1), path)
    return path
