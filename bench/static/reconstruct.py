"""A static bound of `reconstruct` for MRI on an H100, without a GPU: 320 x 320, 8 coils, 64 slices, schedule "fast".

    python -m bench.static.reconstruct            # minutes: emulates a step; the results and a table of docs/gpu.md
    python -m bench.static.reconstruct --reuse    # seconds: takes the sectors from the results

A step is the sum of what it launches, each the longest of its instructions, its shared memory and its bytes.
Handwritten kernels: instructions of the machine code, sectors and wavefronts of the emulator, which runs a step of one
slice of 96 x 96 with 8 channels (32 on tensor cores), times what that is less than 320 x 320 (in tiles) and 64. Mask
layers: static_cuda.json, by pixels.
Array functions and transforms: bytes by formula, every array read and written once, a 2-D transform in two passes.
Nothing here was measured.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace

import numpy as np
from cuda_variants import smallest_model
from emulator.device import EmulatedDevice

from bench import RESULTS, ROOT
from bench.report import measure
from bench.report.markdown import with_tables
from bench.static import cuda, paths
from bench.static.profile import Traffic, total
from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.launch import Shape, launch_for
from safi_fast.operators import SenseMRI
from safi_fast.solver.schedules import reconstruct_schedule

SCHEDULE = reconstruct_schedule("fast", paces=[SenseMRI.pace])
RECORD, DOCUMENT = RESULTS / "static_reconstruct.json", ROOT / "docs" / "gpu.md"
SIDE, COILS, SLICES = 320, 8, 64
PIXELS = SIDE * SIDE
EMULATED = 96  # whole tiles
PARTS = 2  # real and imaginary part: images of the workspace for a complex slice
BANDWIDTH, PEAK = 3.35e12, 67e12  # of an H100 SXM: HBM3 in bytes/s, float32 without tensor cores in FLOP/s
CLOCK = PEAK / (cuda.MULTIPROCESSORS * cuda.LANES * 2)
PRECISIONS = ("float32", "tf32")
FILTER_BANK = ("anchored_step", "synthesis")
IMAGE_KERNELS = ("extrapolate", "move_rows", "totals", "restart", "mix_images", "mix_rows")
COMPLEX = 8  # bytes of a value
EVERYONE = np.arange(1)


@dataclass(frozen=True)
class Line:
    """A row of the table: how often in a step, or in the whole solve, and microseconds of 64 slices each time."""

    what: str
    per_step: float
    per_solve: float
    us: float
    limit: str
    arithmetic: str

    @property
    def share(self) -> float:
        """Milliseconds in a solve of 64 slices."""
        schedule = SCHEDULE
        return (self.per_step * schedule.outer * schedule.inner + self.per_solve) * self.us / 1000


# ------------------------------------------------------------------------------------------------------------- emulated
def measure_traffic(precision: str) -> dict[str, dict]:
    """Sectors and wavefronts by kernel of one step of one complex slice with 64 channels."""
    group, side = (8 if precision == "float32" else 32), EMULATED
    device = EmulatedDevice("check", profiled=True, time_limit=600)
    engine = CudaBackend(device, precision).prepare(smallest_model(group))
    workspace = engine.reconstruction_workspace(PARTS, side, side)
    ones = np.ones(PARTS, np.float32)
    workspace.load(np.zeros((PARTS, side, side), np.float32), ones, ones, (-np.inf, np.inf))
    workspace.clear_dual(np.arange(PARTS))
    workspace.mask = device.ones((PARTS, group, side, workspace.shape.stride), np.float32)
    workspace.has_mask = True
    x, rows = np.zeros((1, side, side), np.complex64), np.zeros((1, 2 * COILS * side * side), np.float32)
    iteration = workspace.iteration(x, x, rows, None, None)
    iteration.set_steps(np.ones(1), None, np.ones(1))
    iteration.begin(0.2, 0.4, 3, SCHEDULE.steps.relaxation)
    for _ in range(2):
        device.profile()
        iteration.extrapolate(EVERYONE, x, x)
        iteration.move_rows(EVERYONE, rows, rows)
        iteration.finish(EVERYONE, -1.0)
    rows_of = device.profile(clear=False)
    found = {}
    for kernel in (*FILTER_BANK, *IMAGE_KERNELS):
        more = blocks(kernel, precision, SIDE) / blocks(kernel, precision, side)
        more *= cuda.CHANNELS / group if kernel in FILTER_BANK else 1
        found[kernel] = asdict(total([r for r in rows_of if r.kernel == kernel], lambda _, scale=more: scale))
    summands = shape(precision).splits - workspace.shape.splits  # which a step with fewer channels does not have
    found["mix_images"]["sectors"] += summands * PARTS * PIXELS * 4 / cuda.SECTOR
    return found


def blocks(kernel: str, precision: str, side: int) -> float:
    """Of an image of this side, or its pixels where blocks have as many each."""
    if kernel not in FILTER_BANK:
        return side * side
    return launch_for(kernel, replace(shape(precision), height=side, width=side), 1).grid[0]


# ------------------------------------------------------------------------------------------------------------- the rows
def shape(precision: str) -> Shape:
    """Of an image of the workspace."""
    return Shape(SIDE, SIDE, cuda.CHANNELS, cuda.SUPPORT, 0, precision)


def instructions(kernel: str, precision: str) -> float:
    """Warp instructions of one slice."""
    heavy = kernel in FILTER_BANK
    if heavy:
        row = next(r for r in cuda.table_rows() if (r.kernel, r.precision) == (kernel, precision))
        if kernel == "synthesis" and precision == "float32":
            back = paths.synthesis_plan(cuda.SUPPORT, cuda.CHANNELS // shape(precision).splits)
            row = replace(row, plan=back, working=paths.synthesis_share(shape(precision)))
        elif precision == "float32":
            row = replace(row, working=paths.direct_share(shape(precision)))
    else:
        file = "state" if kernel == "totals" else "halpern"
        row = cuda.Row(kernel, "", "float32", 0, 0, file, (), None)
    code = cuda.code_of(row)
    launch = launch_for(kernel, _launched(kernel, precision), 1 if kernel in ("move_rows", "mix_rows") else PARTS)
    warps = math.prod(launch.grid) * math.prod(launch.block) // 32
    plan = row.plan or tuple(paths.Times("left out", 1) for _ in paths.reachable(code).loops)
    return paths.issue(code, plan, warps, row.working).total


def _launched(kernel: str, precision: str) -> Shape:
    return Shape(1, 2 * COILS * PIXELS, 8, 1) if kernel in ("move_rows", "mix_rows") else shape(precision)


def kernel_line(kernel: str, precision: str, traffic: dict) -> Line:
    """A handwritten kernel of every step."""
    own, issued = Traffic(**traffic[kernel]), instructions(kernel, precision)
    cycle = 1e6 / (cuda.MULTIPROCESSORS * CLOCK)
    limits = {
        "issue": SLICES * issued / cuda.SCHEDULERS * cycle,
        "shared": SLICES * own.wavefronts * cycle,
        "memory": SLICES * own.sectors * cuda.SECTOR / BANDWIDTH * 1e6,
    }
    limit = max(limits, key=lambda name: limits[name])
    arithmetic = (
        f"{issued / PIXELS:.4g} instructions, {own.sectors * cuda.SECTOR / PIXELS:.4g} bytes, "
        f"{own.wavefronts / PIXELS:.3g} wavefronts"
    )
    return Line(kernel, 1, 0, limits[limit], limit, arithmetic)


def bytes_line(what: str, passes: dict[str, float], per_step: float = 1, per_solve: float = 0) -> Line:
    """Array functions: bytes per pixel by what is read and written."""
    moved = sum(passes.values())
    spelled = " + ".join(f"{name} {value:g}" for name, value in passes.items())
    return Line(what, per_step, per_solve, SLICES * PIXELS * moved / BANDWIDTH * 1e6, "memory", f"{spelled} bytes")


def transform(values: int) -> float:
    """Bytes per pixel of so many complex 2-D transforms: two passes, and one more for norm="ortho"."""
    return values * COMPLEX * (2 * 2 + 2)


def step_lines(precision: str, traffic: dict) -> list[Line]:
    """Everything that a step launches: SENSE, complex images, k-space in FFT order."""
    coils = COILS * COMPLEX
    return [
        *(kernel_line(kernel, precision, traffic) for kernel in FILTER_BANK),
        *(kernel_line(kernel, precision, traffic) for kernel in IMAGE_KERNELS),
        bytes_line(
            "metric, 2 transforms",
            {"slope": 3 * COMPLEX, "transforms": transform(2), "division": 2 * COMPLEX + 4, "sign": 2 * COMPLEX},
        ),
        bytes_line(
            "H, 8 coils",
            {"maps x": COMPLEX + 2 * coils, "transforms": transform(COILS), "sampling": 2 * coils + 4},
        ),
        bytes_line(
            "H^T, 8 coils",
            {"sampling": 2 * coils + 4, "transforms": transform(COILS), "maps": 3 * coils, "sum": coils + COMPLEX},
        ),
    ]  # fmt: skip


def mask_lines(precision: str) -> list[Line]:
    """The mask generator of the shipped model, for both parts: one layer 1 -> C, four C -> C; before all masks but the
    first."""
    known = json.loads(cuda.RECORD.read_text(encoding="utf-8"))["kernels"]
    times = SCHEDULE.outer - 1
    lines = []
    for kernel, layout, kind, layers in (
        ("features", "7 x 7", "float32", 1), ("convolution", "3 x 3, dilation 3", precision, 4)
    ):  # fmt: skip
        row = next(r for r in known if (r["kernel"], r["layout"], r["precision"]) == (kernel, layout, kind))
        scale = PARTS * PIXELS / cuda.PIXELS * SLICES / cuda.BATCH
        parts = row["bound_us"][str(cuda.BATCH)]
        rates = {"memory": cuda.BANDWIDTH / BANDWIDTH}
        limits = {name: value * scale * rates.get(name, cuda.CLOCK / CLOCK) for name, value in parts.items()}
        limit = max(limits, key=lambda name: limits[name])
        said = f"{row['instructions_per_pixel']:.4g} instructions a part, layers {layers}, masks {times}"
        lines.append(Line(f"mask: {kernel}", 0, layers * times, limits[limit], limit, said))
    return lines


def bound(precision: str, traffic: dict) -> dict:
    """The rows, and slices a second."""
    schedule = SCHEDULE
    lines = step_lines(precision, traffic)
    certificate = sum(line.us for line in lines)  # about a step: W x, H, H^T, transforms
    lines += [*mask_lines(precision)]
    lines.append(Line("certificate", 0, schedule.outer, certificate, "as a step", "one a mask, counted as a step"))
    whole = sum(line.share for line in lines)
    return {
        "rows": [{**asdict(line), "us": round(line.us, 1), "ms_of_solve": round(line.share, 2)} for line in lines],
        "step_us": round(certificate, 1), "solve_ms": round(whole, 1),
        "slices_per_second": round(SLICES / whole * 1000, 2),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- table
def table(results: dict) -> str:
    """Markdown."""
    lines = [
        "| precision | what | times | each, 64 slices | whole solve | limit | per pixel and slice |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    schedule = SCHEDULE
    for precision, found in results["bounds"].items():
        for row in found["rows"]:
            times = row["per_step"] * schedule.outer * schedule.inner + row["per_solve"]
            lines.append(
                f"| {precision} | {row['what']} | {times:g} | {row['us'] / 1000:.3g} ms | {row['ms_of_solve']:.4g} ms "
                f"| {row['limit']} | {row['arithmetic']} |"
            )
        lines.append(
            f"| {precision} | **all: {found['slices_per_second']:.3g} slices a second** |  |  "
            f"| {found['solve_ms']:.4g} ms |  | 64 slices / {found['solve_ms'] / 1000:.4g} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Everything, written to RECORD and DOCUMENT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reuse", action="store_true", help="take sectors and wavefronts from the results")
    chosen = parser.parse_args()
    if chosen.reuse:
        traffic = json.loads(RECORD.read_text(encoding="utf-8"))["traffic"]
    else:
        traffic = {precision: measure_traffic(precision) for precision in PRECISIONS}
        print("emulated", flush=True)
    results = {
        "about": "static, not measured: an upper bound of slices a second, see docs/gpu.md",
        "command": "python -m bench.static.reconstruct", "image": f"{SIDE} x {SIDE}, {COILS} coils, {SLICES} slices",
        "ceilings": {"bandwidth": BANDWIDTH, "float32": PEAK, "clock": round(CLOCK)}, "traffic": traffic,
        "bounds": {precision: bound(precision, traffic[precision]) for precision in PRECISIONS},
    }  # fmt: skip
    measure.write_json(RECORD, results)
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(with_tables(text, results, {"reconstruct": table}), encoding="utf-8")


if __name__ == "__main__":
    main()
