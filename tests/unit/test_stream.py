"""denoise_batch as a stream: order, overlap, errors, an early end, bounded memory; threads; the command line's
pipeline.
"""

import itertools
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from models import random_model
from patience import PROCESS, wait_until

from safi_fast import InputError, Solver, load_model
from safi_fast.stream import ahead, stream

SIGMA = 25 / 255
QUICK = {"max_outer": 2, "max_inner": 3}
SHAPES = [(20, 22), (31, 17), (20, 22), (2, 18, 19)]


@pytest.fixture(scope="module")
def solver():
    return Solver(random_model(lipschitz=1.1), backend="cpu")


def pictures(shapes=SHAPES):
    rng = np.random.default_rng(0)
    return [rng.random(shape) for shape in shapes]


def threads_named():
    return [thread for thread in threading.enumerate() if thread.name == "safi_fast.ahead"]


# ---------------------------------------------------------------------------------------------------------------- ahead


def test_ahead_keeps_order_and_ends():
    assert list(ahead(iter(range(50)), 3)) == list(range(50))
    assert list(ahead([], 1)) == []
    assert wait_until(lambda: not threads_named())


@pytest.mark.parametrize("depth", [1, 3])
def test_ahead_holds_no_more_than_it_says(depth):
    """Items alive: depth waiting, one in the thread's hand, one with the caller."""
    alive, most = weakref.WeakSet(), []

    class Item:
        pass

    def make():
        for _ in range(20):
            item = Item()
            alive.add(item)
            yield item
            del item

    for number, item in enumerate(ahead(make(), depth)):
        if number == 0:
            assert wait_until(lambda: len(alive) > depth)
        time.sleep(0.005)  # the thread runs as far ahead as it may
        most.append(len(alive))
        del item
    assert depth + 1 <= max(most) <= depth + 2


def test_ahead_works_while_the_caller_does():
    made = []
    items = ahead((made.append(number) or number for number in range(9)), 2)
    assert next(items) == 0
    assert wait_until(lambda: len(made) == 4)  # the one that is out, two that wait, one in hand
    items.close()


@pytest.mark.parametrize("end", ["close", "drop"])
def test_an_endless_source_is_left_when_the_caller_leaves(end):
    items = ahead(itertools.count(), 2)
    next(items)
    assert threads_named()
    if end == "close":
        items.close()
    else:
        del items
    assert wait_until(lambda: not threads_named())


@pytest.mark.parametrize("error", [ValueError("disc on fire"), KeyboardInterrupt(), SystemExit(143)])
def test_an_exception_in_the_source_reaches_the_caller_in_its_place(error):
    def failing():
        yield 1
        raise error

    items = ahead(failing(), 2)
    assert next(items) == 1
    with pytest.raises(type(error)) as caught:
        next(items)
    assert caught.value is error
    assert wait_until(lambda: not threads_named())


# -------------------------------------------------------------------------------------------------------- denoise_batch


def test_no_thread_outlives_an_error(solver):
    """Nor does one that waits for room while somebody keeps the exception, and with it all that it passed through."""
    before = set(threading.enumerate())
    images = itertools.chain([np.full((40, 48), np.nan, np.float32)], itertools.repeat(np.ones((40, 48), np.float32)))
    with pytest.raises(InputError, match=r"images\[0\]") as caught:
        next(solver.denoise_batch(images, 0.1))
    assert wait_until(lambda: not set(threading.enumerate()) - before)
    del caught


@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_a_stream_equals_one_by_one(family):
    solver, images = Solver(random_model(family, lipschitz=1.1), backend="cpu"), pictures()
    strengths = [0.01, 0.02, 0.03, 0.04]
    results = solver.denoise_batch(iter(images), SIGMA, strength=iter(strengths), **QUICK)
    assert iter(results) is results
    for image, strength, result in zip(images, strengths, results, strict=True):
        np.testing.assert_array_equal(result, solver.denoise(image, SIGMA, strength=strength, **QUICK))


def test_images_are_read_and_solved_while_the_caller_writes(solver):
    read, solved = [], []

    def images():
        for number in range(8):
            read.append(number)
            yield pictures([(20, 22)])[0]

    results = solver.denoise_batch(
        images(), SIGMA, read_ahead=1, callback=lambda state: solved.append(state.outer), **QUICK
    )
    assert read == []  # nothing begins before the first result is asked for
    next(results)
    # Results: one is out, one waits, one is in hand. Images: one waits, one is in hand.
    assert wait_until(lambda: len(solved) == 3 * QUICK["max_outer"] and len(read) == 5)
    time.sleep(0.05)
    assert (len(solved), len(read)) == (6, 5)
    results.close()
    assert wait_until(lambda: not threads_named())


def test_an_error_of_the_reader_comes_after_the_results_before_it(solver):
    def images():
        yield from pictures([(20, 22)] * 2)
        raise OSError("the disc is gone")

    results = solver.denoise_batch(images(), SIGMA, **QUICK)
    assert [next(results).shape for _ in range(2)] == [(20, 22)] * 2
    with pytest.raises(OSError, match="the disc is gone"):
        next(results)


LEFT_OPEN = """
import time, numpy as np, safi_fast
images = [np.full((32, 32), 0.5, np.float32)] * 6
results = safi_fast.Solver().denoise_batch(images, sigma=0.1)
next(results)
time.sleep({pause})
"""


BLOCKED = """
import threading, numpy as np, safi_fast
def source():
    yield np.full((32, 32), 0.5, np.float32)
    threading.Event().wait()
results = safi_fast.Solver().denoise_batch(source(), sigma=0.1)
next(results)
"""


def test_a_source_that_blocks_does_not_keep_the_process():
    subprocess.run([sys.executable, "-c", BLOCKED], check=True, timeout=PROCESS)


@pytest.mark.parametrize("pause", [0, 1], ids=["while it solves", "while it waits for room"])
def test_a_stream_that_is_left_open_does_not_keep_the_process(pause):
    subprocess.run([sys.executable, "-c", LEFT_OPEN.format(pause=pause)], check=True, timeout=PROCESS)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (7, {}, "images is a int; expected an iterable of images"),
        ([(20, 22)], {"sigma": -1}, "sigma is -1; expected a positive number"),
        ([(20, 22)], {"read_ahead": 0}, "read_ahead is 0; expected a whole number of at least 1"),
    ],
)
def test_what_is_known_to_be_wrong_is_said_at_once(solver, images, options, message):
    given = images if isinstance(images, int) else pictures(images)
    with pytest.raises(InputError, match=message):
        solver.denoise_batch(given, **({"sigma": SIGMA} | options))


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        ([SIGMA], r"images\[1\]: sigma has no value left; expected one for each image"),
        ([SIGMA] * 3, "sigma has more values than there are images, which are 2"),
        ([SIGMA, -1], r"images\[1\]: sigma\[1\] is -1; expected a positive number"),
    ],
)
def test_values_per_image_of_a_stream(solver, sigma, message):
    with pytest.raises(InputError, match=message):
        list(solver.denoise_batch(iter(pictures([(20, 22)] * 2)), iter(sigma), **QUICK))


def test_every_image_has_its_values():
    results = stream(
        [1, 2], {"sigma": [0.5, 0.25], "strength": 3}, [lambda image, sigma, strength: (image, sigma, strength)], 1
    )
    assert list(results) == [(1, 0.5, 3.0), (2, 0.25, 3.0)]


def test_values_are_read_beside_their_images():
    """In the thread that reads images, each after its image: one source may hold both."""
    events = []

    def source(name, values):
        for value in values:
            events.append((name, value, threading.get_ident()))
            yield value

    def solve(image, sigma):
        solved.append(threading.get_ident())
        return image, sigma

    solved = []
    assert list(stream(source("image", [1, 2]), {"sigma": source("sigma", [0.5, 0.25])}, [solve], 1)) == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert [event[:2] for event in events] == [("image", 1), ("sigma", 0.5), ("image", 2), ("sigma", 0.25)]
    (reader,) = {thread for _, _, thread in events}
    assert reader not in {*solved, threading.get_ident()}


# -------------------------------------------------------------------------------------------------------------- threads


def seen_threads(solver, monkeypatch, call):
    """How many threads the kernels had in each solve."""
    counts, engine = [], type(solver._engine)
    make = engine.workspace
    monkeypatch.setattr(engine, "workspace", lambda *a: counts.append(numba.get_num_threads()) or make(*a))
    call()
    return set(counts)


def test_threads_of_a_solver(monkeypatch):
    solver = Solver(random_model(), backend="cpu", threads=1)
    image = pictures([(20, 22)])[0]
    before = numba.get_num_threads()
    assert seen_threads(solver, monkeypatch, lambda: solver.denoise(image, SIGMA, **QUICK)) == {1}
    assert seen_threads(solver, monkeypatch, lambda: list(solver.denoise_batch([image], SIGMA, **QUICK))) == {1}
    assert numba.get_num_threads() == before


def test_the_thread_that_solves_has_as_many_as_the_caller(solver, monkeypatch):
    """numba.set_num_threads concerns the thread that calls it; a stream solves in another."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        call = lambda: list(solver.denoise_batch(pictures([(20, 22)]), SIGMA, **QUICK))  # noqa: E731
        assert seen_threads(solver, monkeypatch, call) == {1}
    finally:
        numba.set_num_threads(before)


def test_operators_follow_the_solver(monkeypatch):
    """Fourier transforms and projectors: in a solve as many threads as its kernels, outside the default."""
    from safi_fast.bindings import threads
    from safi_fast.operators import FourierMRI, ParallelBeamCT, fourier

    seen, pool = [], numba.config.NUMBA_NUM_THREADS
    monkeypatch.setattr(threads, "default_threads", lambda: 1)
    mri = FourierMRI(np.ones((16, 16)), mask_order="fft", check_order=False, check_mask=False)
    ct = ParallelBeamCT((16, 16), np.linspace(0, 3, 5), 23)
    kernel = ct._projector._kernels.line_sums
    look = lambda *a: seen.append(numba.get_num_threads()) or kernel(*a)  # noqa: E731
    monkeypatch.setattr(
        ct._projector, "_kernels", SimpleNamespace(**vars(ct._projector._kernels) | {"line_sums": look})
    )
    transform = fourier.fft.fftn
    monkeypatch.setattr(fourier.fft, "fftn", lambda *a, **k: seen.append(k["workers"]) or transform(*a, **k))
    for operator in (mri, ct):
        image = np.ones(operator.shape_in, np.float32)
        y = operator.apply(image)
        operator.norm  # noqa: B018 - made outside of the solve
        assert set(seen) == {1}
        for count in sorted({1, pool}):
            seen.clear()
            Solver(random_model(), threads=count).reconstruct(y, operator, strength=0.1, max_outer=1, max_iter=2)
            assert set(seen) == {min(count, 8)}
        seen.clear()
    assert numba.get_num_threads() == pool


def test_nested_requests(monkeypatch):
    from safi_fast.bindings import threads

    pool = numba.config.NUMBA_NUM_THREADS
    monkeypatch.setattr(threads, "default_threads", lambda: 1)
    assert threads.threads_here() == 1
    with threads.on_threads(pool):
        with threads.on_threads(None) as count:
            assert count == pool
        with threads.on_threads(1), threads.on_threads(None) as count:
            assert count == threads.threads_here() == 1
        assert threads.threads_here() == pool
    assert threads.threads_here() == 1
    monkeypatch.delitem(sys.modules, "numba")
    assert threads.threads_here() == 1


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, 10**6])
def test_a_wrong_number_of_threads(threads):
    with pytest.raises(InputError, match=r"threads is .*; expected a whole number from 1 to \d+"):
        Solver(random_model(), backend="cpu", threads=threads)


def test_default_threads(monkeypatch):
    from safi_fast.bindings import threads

    monkeypatch.setattr(threads, "usable_cpus", lambda: 6)
    assert threads.default_threads({}) == 6
    assert threads.default_threads({"OMP_NUM_THREADS": "3,2"}) == 3
    assert threads.default_threads({"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "2"}) == 2
    assert threads.default_threads({"OMP_NUM_THREADS": "many"}) == 6


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("3:cpu,cpuacct:/c\n",
         {"cpu,cpuacct/c/cpu.cfs_quota_us": "400000", "cpu,cpuacct/c/cpu.cfs_period_us": "100000"}, 4),
        ("3:cpu:/c\n", {"cpu/c/cpu.cfs_quota_us": "-1", "cpu/c/cpu.cfs_period_us": "100000"}, None),
        ("0::/elsewhere\n", {}, None),
    ],
)  # fmt: skip
def test_the_quota_of_a_control_group(tmp_path, membership, files, quota, monkeypatch):
    from safi_fast.bindings import threads

    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "membership").write_text(membership)
    assert threads.cpu_quota(tmp_path, tmp_path / "membership") == quota
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.usable_cpus() >= 1


def threads_of_a_worker(_):
    """In a worker: threads that a solve uses there."""
    time.sleep(0.5)  # so that both workers get one
    solver = Solver(random_model(), backend="cpu")
    with solver.backend.on_threads(None) as count:
        solver.denoise(pictures([(20, 22)])[0], SIGMA, max_outer=1, max_inner=1)
        return count


def test_worker_processes_keep_to_their_share(monkeypatch):
    """As Dask sets it for its workers; joblib, below, sets NUMBA_NUM_THREADS."""
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        assert list(workers.map(threads_of_a_worker, range(2))) == [1, 1]


def test_joblib_workers_keep_to_their_share():
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        assert joblib.Parallel(2)(joblib.delayed(threads_of_a_worker)(n) for n in range(2)) == [1, 1]


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_reads_solves_and_writes_in_three_threads(tmp_path, monkeypatch):
    import safi_fast.cli.session as sessions
    import safi_fast.io as io
    from safi_fast.cli.main import main

    where = {"read": set(), "solve": set(), "write": set()}

    class Echo:
        backend = SimpleNamespace(name="cpu")

        def model_for(self, *_):
            return load_model()

        def denoise(self, image, _sigma, **_options):
            where["solve"].add(threading.get_ident())
            facts = dict.fromkeys(("gap", "relative_gap"), 0.0) | dict.fromkeys(
                ("outer_iterations", "inner_iterations"), 1
            )
            return SimpleNamespace(image=image, status="completed", **facts)

    def noted(name, function):
        return lambda *arguments, **options: where[name].add(threading.get_ident()) or function(*arguments, **options)

    for number in range(4):
        np.save(tmp_path / f"{number}.npy", pictures([(20, 22)])[0])
    monkeypatch.setattr(sessions, "make_session", lambda *_: sessions.Session(random_model(), Echo()))
    monkeypatch.setattr(io, "read_image", noted("read", io.read_image))
    monkeypatch.setattr(io, "write_image", noted("write", io.write_image))
    assert main(["denoise", str(tmp_path), "-o", str(tmp_path / "out"), "--sigma", "25"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert [len(idents) for idents in where.values()] == [1, 1, 1]
    assert len(set.union(*where.values())) == 3
    assert where["write"] == {threading.get_ident()}
