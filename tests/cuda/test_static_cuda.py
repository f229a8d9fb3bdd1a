"""The static figures of the CUDA kernels: the counting of instructions, the committed results, the bars; and the bench
for a GPU.
"""

import json
import subprocess
import sys
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import test_cuda_backend as agreed
from emulator.compile import compilers
from emulator.device import EmulatedDevice
from emulator.path import longest_path, reachable
from emulator.sass import parse_sass
from emulator.tools import find_tool
from patience import PROCESS

from bench import RESULTS, ROOT
from bench.experiments import gpu
from bench.report import gpu as report
from bench.report.markdown import with_tables
from bench.static import cuda as static
from bench.static import profile, reconstruct, tables
from safi_fast import api
from safi_fast.bindings.clock import LAUNCHES, event_timer
from safi_fast.bindings.cpu import CpuBackend

needs_machine_code = pytest.mark.skipif(
    not (compilers() and find_tool("nvdisasm")), reason="needs nvcc or NVRTC, and nvidia-cuda-nvdisasm"
)


@pytest.fixture(scope="module")
def results():
    return json.loads((RESULTS / "static_cuda.json").read_text())


# --------------------------------------------------------------------------------------------------- counting
def sass(*lines):
    """A kernel of these lines; labels end with a colon."""
    text, address = [".text.k:"], 0
    for line in lines:
        if line.endswith(":"):
            text.append(line)
        else:
            text.append(f"        /*{address:04x}*/ {line} ;")
            address += 16
    return parse_sass("\n".join(text))["k"]


def test_longest_path_takes_the_longer_side():
    kernel = sass("@P0 BRA `(.L_x_1)", "MOV R0, R1", "MOV R0, R1", "BRA `(.L_x_2)", ".L_x_1:", "FADD R0, R1, R2",
        ".L_x_2:", "EXIT")  # fmt: skip
    assert longest_path(kernel, lambda loop: 0) == {"CONTROL": 3, "OTHER": 2}
    without_moves = longest_path(kernel, lambda loop: 0, lambda instruction: instruction.name == "MOV")
    assert without_moves == {"CONTROL": 2, "FLOAT": 1}
    with pytest.raises(ValueError, match="k: every way meets a forbidden instruction"):
        longest_path(kernel, lambda loop: 0, lambda instruction: instruction.name == "EXIT")


def test_longest_path_repeats_loops():
    kernel = sass(
        "MOV R0, R1", ".L_x_1:", "FADD R0, R1, R2", ".L_x_2:", "FFMA R0, R1, R2, R3", "@P0 BRA `(.L_x_2)",
        "@P1 BRA `(.L_x_1)", "EXIT",
    )  # fmt: skip
    outer = max(kernel.loops, key=lambda loop: len(loop.instructions))
    mix = longest_path(kernel, lambda loop: 3 if loop == outer else 5)
    assert mix == {"OTHER": 1, "FLOAT": 3, "FFMA": 15, "CONTROL": 3 + 15 + 1}


def test_detours_of_scattered_lanes_are_left_out():
    kernel = sass("BRA.DIV UR4, `(.L_x_1)", ".L_x_2:", "MOV R0, R1", "EXIT", ".L_x_1:", "FADD R0, R1, R2",
        "BRA `(.L_x_2)")  # fmt: skip
    assert len(kernel.loops) == 1
    assert not reachable(kernel).loops
    assert longest_path(kernel, lambda loop: 9) == {"OTHER": 1, "CONTROL": 2}


def test_copies_are_dealt_out():
    """836 elements over 128 threads: 7 for three of the four warps and 6 for the last; four at a time, and the rest."""
    one = [".L_x_1:", "LDG R0, [R2]", "STS [R1], R0", "@P0 BRA `(.L_x_1)"]
    four = [".L_x_2:", *4 * ["STS [R1], R0"], "@P0 BRA `(.L_x_2)", "EXIT"]
    plan = (static.paths.Copy("values", 836, 128),)
    rest, main = static.paths.loop_trips(sass(*one, *four), plan)
    assert (rest[0], rest[2]) == ("values, rest", (3 + 3 + 3 + 2) / 4)
    assert (main[0], main[2]) == ("values", 1)
    with pytest.raises(ValueError, match="2 loops that the plan does not name"):
        static.paths.loop_trips(sass(*one, *four), ())
    with pytest.raises(ValueError, match="no loop is left for"):
        static.paths.loop_trips(sass("EXIT"), plan)
    with pytest.raises(ValueError, match=r"a loop with 0 products; expected Rows"):
        static.paths.loop_trips(sass(*one, "EXIT"), (static.paths.Rows("rows", 13, 64),))


# --------------------------------------------------------------------------------------------------------- results
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16x3"])
def test_fused_iteration_holds_the_bar(results, precision):
    for images, figures in results["fused"][precision].items():
        assert figures["ratio"] <= tables.BARS[precision], f"{images} images: {figures}"


@needs_machine_code
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16x3"])
def test_results_are_those_of_the_kernels(results, precision):
    """Compiled and counted again: what the bars stand on. Another compiler may need a few instructions more or less."""
    for kernel in ("dual_step", "synthesis"):
        row = next(r for r in static.table_rows() if (r.kernel, r.precision) == (kernel, precision))
        stored = next(r for r in results["kernels"] if (r["kernel"], r["precision"]) == (kernel, precision))
        fresh = static.figures(row, stored["traffic"])
        assert fresh["instructions"] == pytest.approx(stored["instructions"], rel=0.02), "python -m bench.static.cuda"
        assert fresh["grid"] == stored["grid"]
        bounds = max(fresh["bound_us"]["1"].values()), max(stored["bound_us"]["1"].values())
        assert bounds[0] == pytest.approx(bounds[1], rel=0.02)


@needs_machine_code
@pytest.mark.parametrize(
    ("kernel", "precision"), [("dual_step", "float32"), ("dual_step", "tf32"), ("synthesis", "tf32")]
)
def test_results_of_three_planes_are_those_of_the_kernels(results, kernel, precision):
    """From code that test_cuda_budget.py compiles as well; a plan that misses a loop over planes does not fit."""
    row = next(r for r in static.planes_rows(3) if (r.kernel, r.precision) == (kernel, precision))
    stored = of_planes(results, kernel, precision)[2]
    fresh = static.figures(row, stored["traffic"])
    assert fresh["instructions"] == pytest.approx(stored["instructions"], rel=0.02), "python -m bench.static.cuda"
    assert (fresh["grid"], fresh["shared_bytes"]) == (stored["grid"], stored["shared_bytes"])


def of_planes(results, kernel, precision):
    """The rows of one, two and three planes."""
    found = [r for r in results["planes"]["kernels"] if (r["kernel"], r["precision"]) == (kernel, precision)]
    assert [r["planes"] for r in found] == [1, 2, 3]
    return found


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16x3"])
def test_planes_add_to_what_one_plane_takes(results, precision):
    """One plane is the kernel of the large table, counted from a few tiles; every further one costs about the same."""
    for kernel in ("dual_step", "synthesis"):
        alone = next(r for r in results["kernels"] if (r["kernel"], r["precision"]) == (kernel, precision))
        one, two, three = of_planes(results, kernel, precision)
        assert one["instructions"] == alone["instructions"]
        for what in ("sectors", "wavefronts"):
            assert one["traffic"][what] == pytest.approx(alone["traffic"][what], rel=1e-5)
            if (kernel, precision) != ("dual_step", "bf16x3"):  # blocks of fewer channels for three planes
                more = two["traffic"][what] - one["traffic"][what]
                assert three["traffic"][what] - two["traffic"][what] == pytest.approx(more, rel=5e-3)
    times = {planes: max(of_planes(results, "dual_step", precision)[planes - 1]["bound_us"]["64"].values())
             for planes in (1, 3)}  # fmt: skip
    shown = results["planes"]["fused"][precision]
    assert shown["3"]["64"]["dual_step_us"] == pytest.approx(times[3], abs=0.1)
    assert shown["1"] == results["fused"][precision]
    assert 1 < times[3] / times[1] < 3.3


def test_loops_over_planes_are_counted(results):
    for kernel, precision, loop, trips in (
        ("dual_step", "float32", "planes", 3), ("anchored_step", "tf32", "further planes", 2),
        ("synthesis", "bf16x3", "planes", 3),
    ):  # fmt: skip
        names = {row["loop"]: row["trips"] for row in of_planes(results, kernel, precision)[2]["loops"]}
        assert names[loop] == trips
        assert loop not in {row["loop"] for row in of_planes(results, kernel, precision)[0]["loops"]}


def test_counts_of_a_few_tiles_are_those_of_the_whole_image():
    def of_tiles(size):
        """Tiles of 16 x 32 and of 64 x 32 of the extended image, and a constant."""
        height, width = size
        tiles = -(-height // 16) * -(-width // 32), -(-(height + 12) // 64) * -(-(width + 12) // 32)
        return {"k": profile.Traffic(7 * tiles[0] + height, 5, 3 * tiles[1])}

    assert profile.by_tiles(of_tiles) == of_tiles((profile.HEIGHT, profile.WIDTH))


def test_arithmetic_of_the_bound(results):
    """The numbers of docs/gpu.md, by hand: dual_step in float32 on one image."""
    row = next(r for r in results["kernels"] if (r["kernel"], r["precision"]) == ("dual_step", "float32"))
    assert row["grid"] == [16 * 11, 8, 1]
    warps = 16 * 11 * 8 * 4
    instructions = warps * (41 / 44 * row["warp_instructions"] + 3 / 44 * row["idle_warp_instructions"])
    assert row["instructions"] == pytest.approx(instructions, rel=1e-4)
    blocks = 11 * 132 / 1408  # the busiest multiprocessor has 11 of 1408
    us = blocks * instructions / (132 * 4 * 60e12 / (132 * 128 * 2)) * 1e6
    assert row["bound_us"]["1"]["issue"] == pytest.approx(us, abs=0.01)
    assert row["bound_us"]["1"]["memory"] == pytest.approx(row["traffic"]["sectors"] * 32 / 3e6, abs=0.01)
    assert static.floor_us("float32", 1) == pytest.approx(481 * 321 * 4 * 169 * 64 / 60e6)
    assert static.floor_us("tf32", 1) == pytest.approx(481 * 321 * 1536 / 3e6)


def test_the_document_shows_the_results(results):
    document = (ROOT / "docs" / "gpu.md").read_text()
    assert with_tables(document, results, static.TABLES) == document, "run: python -m bench.static.cuda --reuse"
    with pytest.raises(ValueError, match="the document has no <!-- kernels -->"):
        with_tables("nothing", results, static.TABLES)


def test_precisions_are_ordered(results):
    errors = results["errors"]
    assert errors["float32"]["analysis"] < errors["bf16x3"]["analysis"] < errors["tf32"]["analysis"] < 2e-3
    assert all(abs(error["psnr_difference_db"]) < 0.01 for error in errors.values())


# ------------------------------------------------------------------------------------------------------ a real GPU
def test_bench_says_that_there_is_no_gpu():
    done = subprocess.run(
        [sys.executable, "-m", "bench.experiments.gpu"], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=PROCESS,
    )  # fmt: skip
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("No GPU was found: ")
    assert done.stdout.count("\n") == 1
    assert not done.stderr


def test_bench_times_every_kernel():
    """On the emulator, with a clock that only counts; the launches are those of a GPU."""
    called = []

    def timer(call):
        call()
        called.append(call)
        return 1e-6 * len(called)

    times = gpu.time_kernels(EmulatedDevice(), timer, "tf32", 1, (21, 24))
    assert list(times) == ["dual_step", "synthesis", "image_step", "analysis", "convolution", "iteration"]
    assert np.isclose(times["dual_step"], 1)
    assert np.isclose(times["iteration"], 6 / 12)


def test_bench_knows_the_bounds():
    bounds = gpu.static_bounds()
    assert 0 < bounds["dual_step", "tf32", 1] < bounds["dual_step", "float32", 1] < bounds["dual_step", "float32", 64]


class Clock:
    """What a timer of kernels uses of cupy.cuda: every call between two events takes `seconds`."""

    def __init__(self, seconds):
        self.calls, self.now = 0, 0.0
        clock = self

        class Event:
            def record(self):
                self.at = clock.now

            def synchronize(self):
                pass

        def elapsed(begin, end):
            return 1000 * (end.at - begin.at)

        def call():
            self.calls += 1
            self.now += seconds

        self.call, self.cupy = call, SimpleNamespace(cuda=SimpleNamespace(Event=Event, get_elapsed_time=elapsed))


@pytest.mark.parametrize(("seconds", "rounds"), [(1e-5, 4), (0.06, 2), (0.04, 3)])
def test_slow_kernels_are_timed_in_fewer_rounds(seconds, rounds):
    clock = Clock(seconds)
    assert event_timer(clock.cupy)(clock.call) == pytest.approx(seconds)
    assert clock.calls == rounds * LAUNCHES


class OnCpu(CpuBackend):
    """The CPU's kernels as a backend with a device; that the CUDA kernels agree with them is test_cuda_backend.py's."""

    def __init__(self):
        super().__init__()
        self.waited = 0
        self.device = SimpleNamespace(number=None, synchronize=self.wait)

    def wait(self):
        self.waited += 1

    def to_host(self, array):
        return array


@pytest.fixture
def solvers(monkeypatch):
    """Images of a few pixels, and what solvers compute with: by backend and precision."""
    made = {}
    monkeypatch.setattr(gpu, "HEIGHT", 21)
    monkeypatch.setattr(gpu, "WIDTH", 24)
    monkeypatch.setattr(api, "select", lambda *how: made.setdefault(how, CpuBackend() if how[0] == "cpu" else OnCpu()))
    gpu.solved_on_cpu.cache_clear()
    yield made
    gpu.solved_on_cpu.cache_clear()


def test_bench_times_whole_solves(monkeypatch, solvers):
    """From host memory and on the device, where each call is waited for; what warms up are fewer images."""
    uploaded, solved, denoise = [], [], api.Solver.denoise

    def noted(solver, images, *rest, **options):
        solved.append(len(images))
        return denoise(solver, images, *rest, **options)

    def upload(array):
        uploaded.append(array.shape)
        return array

    monkeypatch.setattr(gpu, "WARM", 1)
    monkeypatch.setattr(gpu, "RUNS", 1)
    monkeypatch.setattr(api.Solver, "denoise", noted)
    rows = [*gpu.denoising_rows("tf32", 2, None), *gpu.denoising_rows("tf32", 2, upload)]
    assert [(row["arrays"], row["images"]) for row in rows] == [("host", 2), ("GPU", 2)]
    assert all(row["images_per_second"] == pytest.approx(2e6 / row["us"], rel=0.01) for row in rows)
    assert uploaded == [(2, 21, 24)]
    assert solved == [1, *[2] * gpu.RUNS] * 2
    assert solvers["cuda", "tf32"].waited == 1 + gpu.RUNS


def test_bench_times_reconstruction(monkeypatch, solvers):
    """Of small slices, by the CPU's kernels; BM3D by what is installed."""
    for name, value in (("SIDE", 28), ("COILS", 2), ("RUNS", 1)):
        monkeypatch.setattr(gpu, name, value)
    (row,) = gpu.reconstruction_rows("float32", 2)
    assert (row["what"], row["arrays"], row["images"]) == ("reconstruct", "host", 2)
    assert row["images_per_second"] == pytest.approx(2e6 / row["us"], rel=0.01)
    operator, measured = gpu.slices(3, 28, 2)
    assert measured.shape == (3, 2, 28, 28)
    assert np.abs(operator.adjoint(measured)).max() > 0.1
    monkeypatch.setattr(gpu, "BM3D", {"numpy": lambda batch: 0.5})
    (row,) = gpu.bm3d_rows(4)
    assert (row["what"], row["images_per_second"]) == ("numpy", 8)


def test_the_bound_of_reconstruct_adds_up():
    """The rows make the sum, the document shows it, and it is within the ceilings that it names."""
    results = json.loads(reconstruct.RECORD.read_text())
    document = (ROOT / "docs" / "gpu.md").read_text()
    shown = with_tables(document, results, {"reconstruct": reconstruct.table})
    assert shown == document, "run: python -m bench.static.reconstruct --reuse"
    for precision in reconstruct.PRECISIONS:
        found = results["bounds"][precision]
        whole = sum(row["ms_of_solve"] for row in found["rows"])
        assert whole == pytest.approx(found["solve_ms"], rel=1e-3)
        assert found["slices_per_second"] == pytest.approx(64e3 / whole, rel=1e-3)
        for kernel in reconstruct.FILTER_BANK:  # no less than u, M and the new u once
            (row,) = (row for row in found["rows"] if row["what"] == kernel)
            least = {"anchored_step": 12, "synthesis": 8 - 4}[kernel] * 64 * 2 * 64 * 320**2 / 3.35e6
            assert row["us"] > least
            assert results["traffic"][precision][kernel]["sectors"] * 32 >= least / 64 * 3.35e6


def test_bench_compares_with_the_cpu(monkeypatch, solvers):
    assert set(gpu.AGREEMENT) == {"float32", *agreed.TENSOR_AGREEMENT}
    (row,) = gpu.parity_rows("bf16x3")
    assert (row["largest"], row["bar"]) == (0, 5e-3)
    assert set(solvers) == {("cpu", "float32"), ("cuda", "bf16x3")}
    monkeypatch.setattr(gpu, "difference_from_cpu", lambda precision: 6e-3)
    found = list(gpu.measured(gpu.Part("parity", lambda: gpu.parity_rows("bf16x3")), EmulatedDevice()))
    assert found[0]["largest"] == 6e-3
    assert found[1]["error"] == "ValueError: the largest difference from the CPU is 0.006, above 0.005"


def test_bench_times_a_network(monkeypatch, tmp_path):
    """Of the teachers' format, on the CPU."""
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    monkeypatch.setattr(gpu, "HEIGHT", 9)
    monkeypatch.setattr(gpu, "WIDTH", 8)
    path, rng = tmp_path / "small.safetensors", np.random.default_rng(0)
    tensors = {"layers.0.weight": rng.random((3, 1, 3, 3)), "layers.1.weight": rng.random((1, 3, 3, 3))}
    tensors |= {"layers.0.bias": np.zeros(3), "layers.1.bias": np.zeros(1)}
    save_file(
        {name: value.astype(np.float32) for name, value in tensors.items()}, path,
        {"kind": "dncnn", "sigma": "25", "planes": "1"},
    )  # fmt: skip
    for precision in gpu.NETWORK_PRECISIONS:
        assert 0 < gpu.time_network(path, 2, precision, "cpu") < 10


def part_that_fails():
    yield {"what": "denoise", "us": 1.0}
    raise MemoryError("none\n left")


def test_a_part_that_fails_is_a_row():
    rows = list(gpu.measured(gpu.Part("denoise 4 tf32", part_that_fails), EmulatedDevice()))
    assert rows == [{"what": "denoise", "us": 1.0}, {"what": "denoise 4 tf32", "error": "MemoryError: none left"}]
    assert [gpu.described(row) for row in rows] == [
        "denoise                      us 1.0",
        "denoise 4 tf32               error MemoryError: none left",
    ]


def test_a_median_of_a_few_calls(monkeypatch):
    called = []
    monkeypatch.setattr(gpu, "RUNS", 3)
    assert 0 <= gpu.median_of(lambda: called.append(1)) < 1
    gpu.median_of(lambda: called.append(2), warm=lambda: called.append(0))
    assert called == [1, 1, 1, 1, 0, 2, 2, 2]


def test_whole_report(monkeypatch, tmp_path, capsys):
    """Every part is written as it ends, one that fails and those that come too late are rows, parity is never late."""
    written, ticks, path = [], count(0, 20), tmp_path / "gpu.json"
    runtime = SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"Fake GPU"}, driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
    )  # fmt: skip
    fake = SimpleNamespace(__version__="14", asarray=np.asarray, cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(gpu, "find_device", EmulatedDevice)
    monkeypatch.setattr(gpu, "time", SimpleNamespace(perf_counter=lambda: next(ticks), strftime=lambda _: "today"))
    monkeypatch.setattr(gpu, "time_kernels", lambda *_: {"dual_step": 100.0, "iteration": 300.0})
    monkeypatch.setattr(gpu, "denoising_rows", lambda *_: part_that_fails())
    monkeypatch.setattr(gpu, "reconstruction_rows", lambda *_: part_that_fails())
    monkeypatch.setattr(gpu, "difference_from_cpu", lambda precision: 1e-5)
    monkeypatch.setattr(gpu.measure, "write_json", lambda where, record: written.append((where, len(record["rows"]))))
    words = ["gpu", "--output", str(path), "--parity", "--seconds", "130", "--teacher", "net.safetensors"]
    monkeypatch.setattr(sys, "argv", words)
    assert gpu.main() == 0
    # six parts of kernels are in time, and nothing else but parity
    parts = 6 + (2 * 3 + 3 + 3 + 1) * len(gpu.BATCHES) + 3
    assert len(written) == parts
    assert written[0] == (path, 2)
    said = capsys.readouterr().out
    assert said.startswith("Fake GPU; static bound")
    assert "| tf32 | dual_step | 100.0 us | 60.9 us | 1.64 |" in said
    assert "| net 256 float16 | 1340 s were over; --seconds is 130 |" in said
    assert "| difference from the CPU, bf16x3 | 1e-05, at most 0.005 |" in said
    monkeypatch.setattr(sys, "argv", ["gpu", "--seconds", "1e9"])
    assert gpu.main() == 1
    said = capsys.readouterr().out
    assert "No network beside it" in said
    assert "| denoise 256 tf32 GPU | MemoryError: none left |" in said
    assert "| reconstruct 256 tf32 | MemoryError: none left |" in said
    assert "| BM3D 256 | none of bm3d-cupy, bm3d-triton is installed |" in said
    assert "net" not in said.partition("\n\n\n")[2]


def test_tables_of_a_report_with_gaps():
    kernel = {"what": "dual_step", "precision": "tf32", "us": 5.0, "static_bound_us": None}
    rows = [{**kernel, "images": 1}, {**kernel, "what": "synthesis", "images": 64}, {"what": "a", "error": "c|d"}]
    assert report.kernel_table({"rows": rows}).splitlines()[2:] == [
        "| tf32 | dual_step | 5.0 us |  |  |  |  |  |",
        "| tf32 | synthesis |  |  |  | 5.0 us |  |  |",
    ]
    assert report.other_table({"rows": rows}).splitlines()[2:] == ["| a | c/d |"]
    assert not report.other_table({"rows": rows[:2]})


def test_the_document_shows_what_was_measured():
    document, measured = report.DOCUMENT.read_text(), json.loads(report.RECORD.read_text())
    assert with_tables(document, measured, report.TABLES) == document, "run: python -m bench.report.gpu"
    assert measured["gpu"] in document.replace("Measured on an ", "NVIDIA ")
