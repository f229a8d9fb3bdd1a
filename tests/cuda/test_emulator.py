"""The emulator of tests/emulator: it runs right kernels right, finds each planted mistake, and keeps quiet about their
twins.
"""

import gc
import os
import platform
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from emulator import build as building
from emulator import sanitized
from emulator.bugs import BUGS, RIGHT, SILENT, all_outcomes
from emulator.build import CACHE_VARIABLE, MODES, BuildError, build, cache_folder
from emulator.device import EmulatedDevice, LaunchError
from emulator.profile import format_profile
from emulator.samples import HERE, SAMPLES, run, sample_source

from safi_fast.bindings.module import KERNELS, inline_headers

SEEDS = (0, 1, 2)
HEAD = 'extern "C" __global__ void '


# -------------------------------------------------------------------------------------------------------- right kernels
def sample_failures(mode, seeds):
    """What each sample kernel got wrong. A sanitized process calls this."""
    failures = {}
    for seed in seeds:
        device = EmulatedDevice(mode, seed=seed)
        for name, check in SAMPLES.items():
            try:
                check(device, np.random.default_rng(seed))
            except (AssertionError, LaunchError) as error:
                failures[name] = f"seed {seed}: {error}"
    return failures


@pytest.fixture(scope="module")
def sanitized_samples():
    return sanitized.call(sample_failures, "sanitize", SEEDS)


@pytest.mark.parametrize("mode", ["plain", "check"])
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_sample_kernels_agree_with_numpy(name, mode, seed):
    SAMPLES[name](EmulatedDevice(mode, seed=seed), np.random.default_rng(seed))


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_kernels_agree_with_numpy_under_sanitizers(name, sanitized_samples):
    assert name not in sanitized_samples


def test_every_sample_kernel_is_tested():
    tested = set(SAMPLES) | {"scale_float32", "scale_float64", "scale_int32", "scale_int64", "scale_uint8"}
    assert set(build(sample_source()).kernels) == tested - {"scale"}


def test_a_seed_changes_the_order_and_nothing_else():
    orders = []
    for seed in (0, 1, 1, 2):
        device = EmulatedDevice(seed=seed)
        y = device.empty(5 * 96, np.int32)
        run(device, "arrival", (5,), (96,), (device.zeros(1, np.int32), y))
        orders.append(device.download(y).tolist())
    assert orders[0] == list(range(5 * 96))
    assert orders[1] == orders[2]
    assert len({tuple(order) for order in orders}) == 3


# ------------------------------------------------------------------------------------------------------------- mistakes
@pytest.fixture(scope="module")
def outcomes():
    """What every kernel of bugs.cu leads to, by mode, name and seed."""
    return {
        "plain": all_outcomes("plain", SEEDS),
        "check": all_outcomes("check", SEEDS),
        "sanitize": sanitized.call(all_outcomes, "sanitize", SEEDS),
    }


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, bug in BUGS.items() for mode in bug.caught])
def test_mistake_is_caught(name, mode, outcomes):
    for seed in SEEDS:
        assert re.search(BUGS[name].caught[mode], outcomes[mode][name, seed]), f"seed {seed}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RIGHT)
def test_right_twin_is_silent(name, mode, outcomes):
    assert {outcomes[mode][name, seed] for seed in SEEDS} == {SILENT}


def test_every_kernel_of_the_mistakes_is_tested():
    source = inline_headers(HERE / "bugs.cu", (KERNELS,))
    assert set(build(source).kernels) == BUGS.keys() | RIGHT.keys()


def test_messages_name_kernel_line_variable_and_thread(outcomes):
    lines = (HERE / "bugs.cu").read_text().splitlines()
    message = outcomes["check"]["shuffle_as_barrier", 0]
    pattern = (
        r"shuffle_as_barrier: bugs.cu:(\d+): race: .* by thread \(30, 0, 0\) at shared "
        r"shuffle_as_barrier::part \+ 120 bytes \[block \(0, 0, 0\), thread \(31, 0, 0\)\]"
    )
    match = re.fullmatch(pattern, message)
    assert match
    assert "part[t ^ 1]" in lines[int(match[1]) - 1]


# ------------------------------------------------------------------------------------------------------------- launches
def launch_copy(device, grid=(1,), block=(32,), args=None, name="copy", **keywords):
    if args is None:
        args = (device.zeros(32, np.float32), device.empty(32, np.float32), np.int32(32))
    device.module(sample_source()).get_function(name)(grid, block, args, **keywords)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "match"),
    [
        ((0,), (32,), 0, r"grid \(0, 1, 1\); expected 1 to"),
        ((1, 65536), (32,), 0, r"grid \(1, 65536, 1\)"),
        ((1, 1, 65536), (32,), 0, r"grid \(1, 1, 65536\)"),
        ((1,), (0,), 0, r"block \(0, 1, 1\)"),
        ((1,), (1025,), 0, r"block \(1025, 1, 1\)"),
        ((1,), (1, 1, 65), 0, r"block \(1, 1, 65\)"),
        ((1,), (33, 32), 0, "1056 threads in block .* at most 1024 by CUDA"),
        ((1,), (32,), -1, "shared_mem=-1"),
        ((1,), (32,), 48 * 1024 + 1, "shared_mem=49153; expected 0 to 49152"),
        ((), (32,), 0, "expected one to three sizes"),
        ((1, 1, 1, 1), (32,), 0, "expected one to three sizes"),
    ],
)
def test_invalid_launch_configuration_is_refused(grid, block, shared, match):
    with pytest.raises(LaunchError, match=match):
        launch_copy(EmulatedDevice(), grid, block, shared_mem=shared)


def test_launch_bounds_are_kept():
    device = EmulatedDevice()
    args = (device.zeros(300, np.float32), device.empty(300, np.float32), np.int32(300))
    with pytest.raises(LaunchError, match=r"257 threads .* at most 256 by __launch_bounds__"):
        launch_copy(device, block=(257,), args=args, name="reverse")


def test_more_shared_memory_has_to_be_asked_for():
    device = EmulatedDevice(shared_bytes_per_block=64 * 1024)
    kernel = device.module(sample_source()).get_function("reverse_dynamic")
    args = (device.zeros(32, np.float32), device.empty(32, np.float32), np.int32(32))
    with pytest.raises(LaunchError, match="max_dynamic_shared_size_bytes=49152"):
        kernel((1,), (32,), args, shared_mem=60_000)
    kernel.max_dynamic_shared_size_bytes = 60_000
    kernel((1,), (32,), args, shared_mem=60_000)
    kernel.max_dynamic_shared_size_bytes = 70_000
    with pytest.raises(LaunchError, match="the device has 65536"):
        kernel((1,), (32,), args, shared_mem=70_000)


def test_wrong_arguments_are_refused():
    device = EmulatedDevice()
    x, y, n = device.zeros((4, 8), np.float32), device.empty((4, 8), np.float32), np.int32(32)
    with pytest.raises(LaunchError, match=r"2 arguments; expected 3: const float32\*, float32\*, int32"):
        launch_copy(device, args=(x, y))
    with pytest.raises(TypeError, match=r"argument 2 \(int32\) is int; expected a NumPy scalar"):
        launch_copy(device, args=(x, y, 32))
    with pytest.raises(TypeError, match="argument 2 is int64; expected one for int32"):
        launch_copy(device, args=(x, y, np.int64(32)))
    with pytest.raises(TypeError, match="argument 2 is float32; expected one for int32"):
        launch_copy(device, args=(x, y, np.float32(32)))
    with pytest.raises(TypeError, match=r"argument 0 has dtype float64; expected one for const float32\*"):
        launch_copy(device, args=(device.zeros(32, np.float64), y, n))
    with pytest.raises(
        TypeError, match="argument 0: got ndarray in host memory; expected an array that this device made"
    ):
        launch_copy(device, args=(np.zeros(32, np.float32), y, n))
    with pytest.raises(TypeError, match="host memory"):
        launch_copy(device, args=(EmulatedDevice().zeros(32, np.float32), y, n))
    with pytest.raises(ValueError, match=r"argument 1 has strides \(4, 32\); expected a C-contiguous array"):
        launch_copy(device, args=(x, y.T, n))
    with pytest.raises(TypeError, match=r"argument 0 \(const float32\*\) is float32; expected an array"):
        launch_copy(device, args=(np.float32(1), y, n))


STRUCT = np.dtype([("scale", np.float32), ("count", np.int32), ("weights", np.uint64)])


@pytest.mark.parametrize("mode", ["plain", "check"])
def test_structs_go_by_value_with_the_arrays_they_point_to(mode):
    device = EmulatedDevice(mode)
    source = f"""
        struct Filter {{ float scale; int count; const float* weights; }};
        {HEAD} use(float* y, Filter f) {{
            for (int i = 0; i < f.count; i++) y[i] = f.scale * f.weights[i];
        }}
    """
    kernel = device.module(source).get_function("use")
    weights, y = device.upload(np.arange(5, dtype=np.float32)), device.empty(5, np.float32)
    kernel((1,), (1,), (y, np.array((3, 5, device.address(weights)), STRUCT)))
    np.testing.assert_array_equal(device.download(y), 3 * np.arange(5))
    with pytest.raises(
        TypeError, match=r"argument 1 \(struct of 16 bytes\) is int32; expected a NumPy array of size one"
    ):
        kernel((1,), (1,), (y, np.int32(3)))
    with pytest.raises(TypeError, match=r"argument 1 has shape \(2,\) and 16 bytes per element; expected size one"):
        kernel((1,), (1,), (y, np.zeros(2, STRUCT)))
    with pytest.raises(TypeError, match="4 bytes per element"):
        kernel((1,), (1,), (y, np.zeros(1, np.float32)))
    with pytest.raises(TypeError, match=r"argument 0: .*host memory"):
        kernel((1,), (1,), (np.zeros(1, np.float32), np.zeros(1, STRUCT)))
    if mode == "check":
        with pytest.raises(LaunchError, match=r"4-byte read, 0 bytes past the end of argument 1\.weights"):
            kernel((1,), (1,), (device.empty(9, np.float32), np.array((3, 9, device.address(weights)), STRUCT)))


def test_unknown_kernel_is_refused():
    with pytest.raises(LaunchError, match="no kernel 'nothing' in this module; it has copy, "):
        EmulatedDevice().module(sample_source()).get_function("nothing")


def test_null_is_passed_on():
    device = EmulatedDevice("check")
    source = HEAD + "is_null(const float* x, int* y) { y[0] = x == nullptr; }"
    y = device.empty(1, np.int32)
    device.module(source).get_function("is_null")((1,), (1,), (None, y))
    assert device.download(y)[0] == 1


def test_a_failed_launch_leaves_the_device_usable():
    device = EmulatedDevice("check")
    x, y = device.zeros(32, np.float32), device.empty(32, np.float32)
    for _ in range(3):
        with pytest.raises(LaunchError, match="out of bounds"):
            launch_copy(device, block=(64,), args=(x, y, np.int32(64)))
        launch_copy(device, args=(x, y, np.int32(32)))
    np.testing.assert_array_equal(device.download(y), np.zeros(32))


def test_endless_loops_end():
    """A block waits for a flag that only a later block would set."""
    source = HEAD + "spin(volatile int* flag) { if (blockIdx.x == 0) { while (*flag == 0) {} } else { *flag = 1; } }"
    for mode in ("plain", "check"):
        device = EmulatedDevice(mode, time_limit=0.2)
        spin = device.module(source).get_function("spin")
        with pytest.raises(LaunchError, match=r"spin: .*time limit: an endless loop, or a wait for another block\?"):
            spin((2,), (1,), (device.zeros(1, np.int32),))


# --------------------------------------------------------------------------------------------------------------- memory
def test_arrays_are_aligned_and_go_with_their_last_view():
    device = EmulatedDevice()
    arrays = [device.empty(n, dtype) for n in (1, 7, 1000) for dtype in (np.uint8, np.float64)]
    assert all(array.ctypes.data % 512 == 0 for array in arrays)
    view = arrays[-1][10:]
    del arrays
    gc.collect()
    assert device.live_arrays == 1
    del view
    gc.collect()
    assert device.live_arrays == 0


def test_upload_makes_a_contiguous_copy():
    device = EmulatedDevice()
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    uploaded = device.upload(host.T)
    np.testing.assert_array_equal(uploaded, host.T)
    assert uploaded.flags.c_contiguous
    host[...] = 0
    assert uploaded[1, 1] == 5
    assert device.upload(np.float32(3)).shape == ()
    assert device.download(device.upload(np.zeros((0, 3)))).shape == (0, 3)


def test_views_of_arrays_may_be_passed():
    device = EmulatedDevice("check")
    x, y = device.upload(np.arange(64, dtype=np.float32)), device.empty((2, 32), np.float32)
    launch_copy(device, args=(x[32:], y[1], np.int32(32)))
    np.testing.assert_array_equal(device.download(y[1]), np.arange(32, 64))
    with pytest.raises(LaunchError, match=r"download of 32 of 64 elements that no kernel wrote, the first at \(0, 0\)"):
        device.download(y)


def test_what_kernels_and_numpy_wrote_is_remembered():
    device = EmulatedDevice("check")
    x, y = device.empty(32, np.float32), device.empty(32, np.float32)
    with pytest.raises(LaunchError, match="uninitialised: read of argument 0"):
        launch_copy(device, args=(x, y, np.int32(32)))
    x[...] = 1
    launch_copy(device, args=(x, y, np.int32(32)))
    launch_copy(device, args=(y, x, np.int32(32)))
    half = device.empty(32, np.float32)
    launch_copy(device, block=(16,), args=(x, half, np.int32(32)))
    with pytest.raises(LaunchError, match=r"uninitialised: read of argument 0 \+ 64 bytes"):
        launch_copy(device, args=(half, y, np.int32(32)))


def test_downloads_of_other_arrays_are_refused():
    with pytest.raises(TypeError, match="download: got ndarray in host memory"):
        EmulatedDevice().download(np.zeros(3))


# -------------------------------------------------------------------------------------------------------------- profile
def profile_of(name, options=(), shape=(64, 64)):
    device = EmulatedDevice("check", profiled=True)
    x, y = device.zeros(shape, np.float32), device.empty(shape[::-1], np.float32)
    sizes = (np.int32(shape[0]), np.int32(shape[1]))
    run(device, name, (shape[1] // 32, shape[0] // 32), (32, 8), (x, y, *sizes), options=options)
    rows = device.profile()
    assert device.profile() == []
    return {(row.memory, row.kind): row for row in rows}, rows


@pytest.mark.parametrize(("padding", "wavefronts"), [(0, 32), (1, 1)])
def test_profile_counts_bank_conflicts(padding, wavefronts):
    by_access, rows = profile_of("transpose", (f"-DPADDING={padding}",))
    requests = 64 * 64 // 32
    assert {row.requests for row in rows} == {requests}
    assert by_access["shared", "load"].per_request == wavefronts
    assert by_access["shared", "load"].excess == wavefronts
    assert by_access["shared", "store"].per_request == 1
    assert by_access["global", "load"].moved == by_access["global", "load"].ideal == 4 * requests
    lines = (HERE / "samples.cu").read_text().splitlines()
    assert "tile[threadIdx.x]" in lines[by_access["shared", "load"].place.line - 1]
    assert f"{wavefronts:.2f}   1.00 waves" in format_profile(rows)


def test_profile_counts_sectors():
    device = EmulatedDevice("check", profiled=True)
    source = HEAD + "strided(const float* x, float* y, int step) { y[threadIdx.x] = x[threadIdx.x * step]; }"
    kernel = device.module(source).get_function("strided")
    x, y = device.zeros(32 * 32, np.float32), device.empty(32, np.float32)
    for step, sectors in ((0, 1), (1, 4), (2, 8), (8, 32), (32, 32)):
        kernel((1,), (32,), (x, y, np.int32(step)))
        loads = [row for row in device.profile() if row.kind == "load"]
        assert [row.moved for row in loads] == [sectors]


def test_profile_has_to_be_asked_for():
    with pytest.raises(ValueError, match="mode='plain' has no profile"):
        EmulatedDevice("plain", profiled=True)
    with pytest.raises(ValueError, match="this device does not profile"):
        EmulatedDevice("check").profile()


# --------------------------------------------------------------------------------------------------------------- builds
@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache but for the run time, which takes a while to build."""
    build(TINY, ("-DVALUE=0",))
    target = tmp_path / "emulator"
    target.mkdir()
    for path in cache_folder().glob("runtime-plain-*.o"):
        shutil.copy2(path, target)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return target


TINY = HEAD + "tiny(float* y) { y[threadIdx.x] = VALUE; }"


def test_libraries_are_built_once_even_by_many_threads(own_cache):
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: build(TINY, ("-DVALUE=1",)), range(4)))
    assert len({library.path for library in built}) == 1
    before = built[0].path.stat().st_ino
    assert build(TINY, ("-DVALUE=1",)).path.stat().st_ino == before
    assert build(TINY, ("-DVALUE=2",)).path != built[0].path
    assert sorted(path.suffix for path in own_cache.glob("plain-*")) == [".so", ".so", ".txt", ".txt"]
    assert list(own_cache.glob("build-*")) == []


def test_unused_libraries_are_dropped(own_cache):
    old = build(TINY, ("-DVALUE=1",))
    long_ago = time.time() - (building.UNUSED_DAYS + 1) * 24 * 3600
    os.utime(old.path, (long_ago, long_ago))
    new = build(TINY, ("-DVALUE=2",))
    assert not old.path.exists()
    assert new.path.exists()


def test_kernels_are_found_as_the_compiler_sees_them():
    source = f"""
        // {HEAD} in_a_comment(float* y) {{}}
        #if CHANNELS == 64
        {HEAD} only_64(float* y) {{}}
        #endif
        constexpr int THREADS = 64;
        extern "C" __global__ void __launch_bounds__(THREADS * (2 + CHANNELS / 64), 2) bounded(float* y) {{}}
        extern "C" __launch_bounds__(32) __global__ void bounds_first(float* y) {{}}
        #define MAKE(name) {HEAD} name(float* y) {{}}
        MAKE(made)
    """
    assert build(source, ("-DCHANNELS=64",)).kernels == ("only_64", "bounded", "bounds_first", "made")
    assert build(source, ("-DCHANNELS=32",)).kernels == ("bounded", "bounds_first", "made")
    device = EmulatedDevice()
    kernel = device.module(source, ("-DCHANNELS=64",)).get_function("bounded")
    kernel((1,), (192,), (None,))
    with pytest.raises(LaunchError, match="at most 192 by __launch_bounds__"):
        kernel((1,), (193,), (None,))


def test_messages_of_the_compiler_name_the_line(tmp_path):
    (tmp_path / "used.cuh").write_text("#ifndef USED\n#define USED\nconstexpr int TWO = 2;\n#endif\n")
    kernel = tmp_path / "broken.cu"
    kernel.write_text(
        f'// One.\n#include "used.cuh"\n#include "used.cuh"\n{HEAD} f(int* y) {{\n    y[0] = THREE;\n}}\n'
    )
    with pytest.raises(BuildError, match=r"broken.cu:5:.*THREE"):
        build(inline_headers(kernel))


def test_headers_are_inlined_once_from_the_folders_given(tmp_path):
    folder = tmp_path / "headers"
    folder.mkdir()
    (folder / "a.cuh").write_text('#include "b.cuh"\nint a;')
    (folder / "b.cuh").write_text("#pragma once\nint b;\n")
    main = tmp_path / "main.cu"
    main.write_text('#include "b.cuh"\n#include "a.cuh"\nint c;\n')
    text = inline_headers(main, (folder,))
    assert [line for line in text.splitlines() if line.startswith("int")] == ["int b;", "int a;", "int c;"]
    assert '#line 3 "main.cu"\nint c;' in text
    assert "once" not in text
    with pytest.raises(FileNotFoundError, match=r'main.cu includes "b.cuh", which is in none of'):
        inline_headers(main)


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        (TINY, (), "VALUE"),
        (
            TINY,
            ("-DVALUE=1", "--use_fast_math"),
            "option '--use_fast_math' has no meaning for the emulator; expected -D",
        ),
        ("__device__ int f() { return 1; }", (), "the text has no kernel"),
        (HEAD + "f(int* y) { int x; y[0] = x; }", (), "uninitialized"),
    ],
)
def test_what_cannot_be_built_is_explained(source, options, match):
    with pytest.raises(BuildError, match=match):
        build(source, options)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode='fast'; expected one of plain, sanitize, check"):
        build(TINY, mode="fast")


def test_missing_compiler_is_explained(monkeypatch):
    building._compiler.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="needs g\\+\\+ 11 or newer, and there is no g\\+\\+ on PATH"):
        build(TINY, ("-DVALUE=1",))


@pytest.mark.parametrize(("system", "machine"), [("darwin", "x86_64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_machines_are_refused(system, machine, monkeypatch):
    building._compiler.cache_clear()
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(BuildError, match=f"runs on Linux on x86-64; this is {system} on {machine}"):
        build(TINY, ("-DVALUE=1",))


def test_cache_that_cannot_be_made_is_explained(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "folder"))
    with pytest.raises(BuildError, match="cannot be written to"):
        build(TINY, ("-DVALUE=1",))


# -------------------------------------------------------------------------------------------------- sanitized processes
def half_of(value):
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value // 2


def die(status):
    os._exit(status)


def test_sanitized_calls_return_raise_and_die():
    assert sanitized.call(half_of, 4) == 2
    with pytest.raises(sanitized.SanitizedError, match="half_of: ValueError: 3 is odd"):
        sanitized.call(half_of, 3)
    with pytest.raises(sanitized.SanitizedError, match="die: the process ended with 7"):
        sanitized.call(die, 7)


def test_tests_run_in_sanitized_processes():
    done = sanitized.run_tests("--version")
    assert done.returncode == 0
    assert "pytest" in done.stdout + done.stderr


def test_sanitized_builds_need_such_a_process():
    with pytest.raises(BuildError, match=r"must be loaded by a process of sanitized.py"):
        EmulatedDevice("sanitize").module(TINY, ("-DVALUE=1",))


# ------------------------------------------------------------------------------------------------------------- the rest
def test_device_header_and_its_twin_have_the_same_names():
    """Every function that a kernel may call on a GPU exists for the emulator, with the same parameters."""
    header = (KERNELS / "device.cuh").read_text()
    for_gpu = header[header.index("#ifndef CUDA_EMULATOR") : header.index("#endif  // CUDA_EMULATOR")]
    twin = (HERE / "device_twin.hpp").read_text()
    function = r"{} (?:void|float|uint32_t) (\w+)\(([^)]*(?:\([^)]*\)[^)]*)*)\) {{"
    declared = dict(re.findall(function.format("__device__ __forceinline__"), for_gpu))
    twins = dict(re.findall(function.format("inline"), twin.replace(", CUDA_EMULATOR_HERE", "")))
    declared.pop("shared_address")
    twins.pop("bf16_bits")
    assert len(declared) == 12
    assert declared == twins


def test_launches_of_two_threads_wait_for_each_other():
    device = EmulatedDevice(seed=1)
    module = device.module(sample_source())
    results = []

    def work(offset):
        x = device.upload(np.arange(1000, dtype=np.float32) + offset)
        y = device.empty(1000, np.float32)
        for _ in range(20):
            module.get_function("reverse")((4,), (256,), (x, y, np.int32(1000)))
        results.append(device.download(y)[0] == 255 + offset)

    workers = [threading.Thread(target=work, args=(offset,)) for offset in (0, 1000)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [True, True]
