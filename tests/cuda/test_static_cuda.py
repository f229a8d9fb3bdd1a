"""The static figures of the CUDA kernels: the counting of instructions, the committed results, the bars; and the bench
for a GPU.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from emulator.compile import compilers
from emulator.path import longest_path, reachable
from emulator.sass import parse_sass
from emulator.tools import find_tool
from patience import PROCESS

from bench import RESULTS, ROOT
from bench.experiments import gpu
from bench.report import gpu as report
from bench.report.markdown import with_tables
from bench.static import cuda as static

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
        assert figures["ratio"] <= static.BARS[precision], f"{images} images: {figures}"


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
    from emulator.device import EmulatedDevice

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


def test_a_part_that_fails_is_a_row(monkeypatch):
    def fails(precision, batch):
        yield {"what": "denoise", "us": 1.0}
        raise MemoryError("none left")

    rows = list(gpu.measured(gpu.partial(fails, "tf32", 4)))
    assert rows == [{"what": "denoise", "us": 1.0}, {"what": "fails tf32 4", "error": "MemoryError: none left"}]
    assert [gpu.described(row) for row in rows] == [
        "denoise                      us 1.0",
        "fails tf32 4                 error MemoryError: none left",
    ]


def test_a_median_of_a_few_calls():
    called = []
    assert 0 <= gpu.median_of(lambda: called.append(1), runs=3) < 1
    assert len(called) == 4


def test_the_document_shows_what_was_measured():
    document, measured = report.DOCUMENT.read_text(), json.loads(report.RECORD.read_text())
    assert with_tables(document, measured, report.TABLES) == document, "run: python -m bench.report.gpu"
    assert "H100" in measured["gpu"]
