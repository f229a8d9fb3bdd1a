"""Static figures of the CUDA kernels, without a GPU: what compiled code and emulator say about their cost on an H100.

    python -m bench.static.cuda            # ten minutes: compile, emulate, write the results and tables of docs/gpu.md
    python -m bench.static.cuda --reuse    # seconds: compile again, take sectors and errors from the results

Static bounds, not measured: docs/gpu.md shows the arithmetic. Image of 481 x 321, 64 channels, filters of 13 x 13,
symmetric boundary.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cache

from cuda_variants import Variant, variants
from emulator.compile import compilers
from emulator.occupancy import GPUS, occupancy
from emulator.sass import KernelCode, Loop, count_instructions, read_sass

from bench import RESULTS, ROOT
from bench.report import measure
from bench.report.markdown import with_tables
from bench.static import paths
from bench.static.paths import Issue, Part, issue
from bench.static.tables import TABLES, fused_table
from safi_fast.bindings.cuda_weights import planes_option, tensor_options
from safi_fast.bindings.launch import PRECISIONS, Kernel, Launch, Shape, channel_block, launch_for

RECORD = RESULTS / "static_cuda.json"
DOCUMENT = ROOT / "docs" / "gpu.md"
ARCHITECTURE = "sm_90"
HEIGHT, WIDTH, CHANNELS, SUPPORT = 321, 481, 64, 13
PIXELS = HEIGHT * WIDTH
BATCH = 64
PLANES = (1, 2, 3)  # of an image

# Assumed ceilings of an H100, not measured. bfloat16 is taken for twice as fast as TF32.
MULTIPROCESSORS, SCHEDULERS, LANES = 132, 4, 128
BANDWIDTH = 3.0e12  # bytes per second
PEAK = {"float32": 60e12, "tf32": 400e12, "bf16x3": 800e12}  # FLOP/s
CLOCK = PEAK["float32"] / (MULTIPROCESSORS * LANES * 2)
SECTOR = 32
HMMA_FLOPS = {"tf32": 2 * 16 * 8 * 8, "bf16x3": 2 * 16 * 8 * 16}


@dataclass(frozen=True)
class Row:
    """A kernel of the table. Costs per pixel: FLOPs of the formula, bytes that no implementation can do without."""

    kernel: str
    layout: str
    precision: str
    flops: int
    bytes: int
    file: str
    options: tuple[str, ...]
    plan: tuple[Part, ...] | None  # None: loops are left out
    working: float = 1.0  # share of warps inside the image
    size: Kernel | None = None
    planes: int = 1


def shape(precision: str, planes: int = 1) -> Shape:
    return Shape(HEIGHT, WIDTH, CHANNELS, SUPPORT, 0, precision, planes)


def table_rows() -> list[Row]:
    """All kernels in all precisions that have a version of their own."""
    rows = []
    for precision in PRECISIONS:
        rows += _filter_bank(precision) + _mask_layers(precision)
    return rows + _image_rows()


def planes_rows(planes: int) -> list[Row]:
    """Kernels whose code or launch knows the planes of an image; for one plane the filter bank alone."""
    rows = [row for precision in PRECISIONS for row in _filter_bank(precision, planes)]
    if planes == 1:
        return rows
    step = Row("image_step", "", "float32", 20 * planes, 28 * planes, "image", planes_option(planes), None)
    return [*rows, _features(planes), replace(step, planes=planes)]


def _filter_bank(precision: str, planes: int = 1) -> list[Row]:
    products, plane = 2 * SUPPORT**2 * CHANNELS * planes, 4 * CHANNELS
    costs = {"analysis": 2 * plane, "masked_norm": plane, "dual_step": 4 * plane, "anchored_step": 4 * plane}
    support, made = (f"-DSUPPORT={SUPPORT}", *planes_option(planes)), shape(precision, planes)
    if precision == "float32":
        file, plan = "", paths.direct_plan(SUPPORT, planes=planes) + paths.BORDER
        back = paths.synthesis_plan(SUPPORT, CHANNELS // made.splits)
        options = back_options = support
        share, back_share = paths.direct_share(made), paths.synthesis_share(made)
    else:
        file, share, back_share = "_tensor", 1.0, 1.0
        block, back_block = (channel_block(kernel, made) for kernel in ("analysis", "synthesis"))
        plan = paths.analysis_tensor_plan(SUPPORT, block, precision, planes)
        back = paths.synthesis_tensor_plan(SUPPORT, back_block, planes)
        options = support + tensor_options(precision, block)
        back_options = support + tensor_options(precision, back_block)
    rows = [
        Row(name, "13 x 13", precision, products, n, f"analysis{file}", options, plan, share)
        for name, n in costs.items()
    ]
    synthesis = "synthesis", "13 x 13", precision, products, 2 * plane, f"synthesis{file}", back_options
    return [replace(row, planes=planes) for row in (*rows, Row(*synthesis, back, back_share))]


def _mask_layers(precision: str) -> list[Row]:
    rows, direct = [], paths.direct_share(shape(precision))
    for layout, side, dilation in (("3 x 3, dilation 3", 3, 3), ("7 x 7", 7, 1)):
        options: tuple[str, ...] = (f"-DSUPPORT={side}", f"-DDILATION={dilation}")
        cost = (2 * side**2 * CHANNELS**2, 8 * CHANNELS)
        size = Kernel(side, dilation)
        if precision == "float32":
            plan = paths.convolution_plan(side, dilation, CHANNELS)
            rows.append(Row("convolution", layout, precision, *cost, "convolution", options, plan, direct, size))
        else:
            options += ("-DCHANNEL_BLOCK=64", *(("-DBF16X3",) if precision == "bf16x3" else ()))
            plan = paths.convolution_tensor_plan(side, dilation, 64, CHANNELS, precision)
            rows.append(Row("convolution", layout, precision, *cost, "convolution_tensor", options, plan, 1.0, size))
    if precision == "float32":
        rows.append(_features())
        cost = (2 * 49 * CHANNELS, 8 * CHANNELS)
        plan = paths.depthwise_plan(7)
        rows.append(Row("depthwise", "7 x 7", precision, *cost, "depthwise", ("-DSUPPORT=7",), plan, direct))
    return rows


def _features(planes: int = 1) -> Row:
    cost = (2 * 49 * CHANNELS * planes, 4 * CHANNELS + 4 * planes)
    options = ("-DSUPPORT=7", "-DDILATION=1", *planes_option(planes))
    plan, share = paths.direct_plan(7, planes=planes), paths.direct_share(shape("float32"))
    return Row("features", "7 x 7", "float32", *cost, "features", options, plan, share, planes=planes)


def _image_rows() -> list[Row]:
    costs = {
        "image_step": (20, 28),
        "set_image": (0, 8),
        "get_image": (0, 8),
        "gather_image": (2, 8),
        "outer_sums": (5, 12),
    }
    rows = [Row(name, "", "float32", *cost, "image", (), None) for name, cost in costs.items()]
    plane = 4 * CHANNELS
    costs = {"clear_dual": (0, plane), "collapse_momentum": (3 * CHANNELS, 3 * plane), "advance": (0, 0)}
    return rows + [Row(name, "", "float32", *cost, "state", (), None) for name, cost in costs.items()]


# -------------------------------------------------------------------------------------------------------- one kernel
def find_variant(row: Row) -> Variant:
    return next(v for v in variants() if (v.file, v.options) == (row.file, row.options))


@cache
def _disassembled(code: bytes) -> dict[str, KernelCode]:
    return read_sass(code)


def code_of(row: Row) -> KernelCode:
    return _disassembled(find_variant(row).compile(ARCHITECTURE).code)[row.kernel]


def launch_of(row: Row, images: int = 1) -> Launch:
    return launch_for(row.kernel, shape(row.precision, row.planes), images, row.size)


def issue_of(row: Row, code: KernelCode) -> Issue:
    """Of one image."""
    launch = launch_of(row)
    warps = math.prod(launch.grid) * math.prod(launch.block) // 32
    plan = row.plan
    if plan is None:
        plan = tuple(paths.Times("left out", 0) for _ in paths.reachable(code).loops)
    return issue(code, plan, warps, row.working)


def unevenness(launch: Launch) -> float:
    """Blocks of the busiest multiprocessor by the mean."""
    blocks = math.prod(launch.grid)
    return math.ceil(blocks / MULTIPROCESSORS) * MULTIPROCESSORS / blocks


def bound(row: dict, images: int, uneven: float) -> dict[str, float]:
    """Microseconds by what limits, from the entries of a row of the results."""
    cycle = 1e6 / (MULTIPROCESSORS * CLOCK)
    return {
        "issue": images * uneven * row["instructions"] / SCHEDULERS * cycle,
        "shared": images * uneven * row["traffic"]["wavefronts"] * cycle,
        "memory": images * row["traffic"]["sectors"] * SECTOR / BANDWIDTH * 1e6,
        "tensor": images * uneven * row["hmma_flops"] / PEAK[row["precision"]] * 1e6,
    }


def figures(row: Row, traffic: dict) -> dict:
    """Everything that is known of a kernel."""
    variant, code = find_variant(row), code_of(row)
    needs = variant.compile(ARCHITECTURE).kernels[row.kernel]
    found, launch = issue_of(row, code), launch_of(row)
    shared = needs.static_shared + launch.shared_bytes
    h100 = next(gpu for gpu in GPUS if gpu.name == "H100")
    fits = occupancy(h100, threads=math.prod(launch.block), registers=needs.registers, shared=shared)
    record = {
        "kernel": row.kernel, "layout": row.layout, "precision": row.precision, "options": " ".join(row.options),
        "flops_per_pixel": row.flops, "ideal_bytes_per_pixel": row.bytes,
        "flops_per_byte": round(row.flops / row.bytes, 2) if row.bytes else 0.0, "registers": needs.registers,
        "shared_bytes": shared, "occupancy": round(fits.share, 3), "blocks_per_multiprocessor": fits.blocks,
        "occupancy_limit": fits.limit, "inner_loop_products": round(inner_share(code), 3), "grid": list(launch.grid),
        "warp_instructions": round(found.warp, 2), "idle_warp_instructions": round(found.idle_warp, 2),
        "working_warps": round(found.working, 4), "instructions_outside_loops": found.outside, "loops": found.loops,
        "instructions": round(found.total), "instructions_per_pixel": round(found.total / PIXELS, 2),
        "instructions_by_class": {k: round(v) for k, v in sorted(found.by_class.items())},
        "hmma_flops": round(found.by_class["HMMA"] * HMMA_FLOPS.get(row.precision, 0)), "traffic": traffic,
        "sectors_per_request": _ratio(traffic["sectors"], traffic["global_requests"]),
        "sectors_by_ideal": _ratio(traffic["sectors"], traffic["ideal_sectors"]),
        "wavefronts_by_ideal": _ratio(traffic["wavefronts"], traffic["ideal_wavefronts"]),
    }  # fmt: skip
    record["bound_us"] = {}
    for images in (1, BATCH):
        parts = bound(record, images, unevenness(launch_of(row, images)))
        record["bound_us"][str(images)] = {name: round(value, 2) for name, value in parts.items()}
    return record


def inner_share(code: KernelCode) -> float:
    """FFMA and HMMA among the instructions of the loop that has most of them to itself."""
    loops = paths.reachable(code).loops
    kind = "HMMA" if count_instructions(code.instructions)["HMMA"] else "FFMA"

    def products(loop: Loop) -> int:
        return count_instructions(loop.instructions)[kind]

    def own(loop: Loop) -> int:
        within = [o for o in loops if o != loop and loop.first <= o.first and o.last <= loop.last]
        mine = [i for i in loop.instructions if not any(o.first <= i.address <= o.last for o in within)]
        return count_instructions(mine)[kind]

    best = max(loops, key=lambda loop: (own(loop), -len(loop.instructions)), default=None)
    return products(best) / len(best.instructions) if best else 0.0


def _ratio(one: float, other: float) -> float:
    return round(one / other, 2) if other else 0.0


# ------------------------------------------------------------------------------------------------- the fused iteration
def floor_us(precision: str, images: int, planes: int = 1) -> float:
    """The composed algorithm: analysis and synthesis, each value of u and M moved once."""
    flops = 2 * 2 * SUPPORT**2 * CHANNELS * planes
    moved = (4 + 2) * 4 * CHANNELS
    return images * PIXELS * max(flops / PEAK[precision], moved / BANDWIDTH) * 1e6


def fused(kernels: list[dict], precision: str, planes: int = 1) -> dict:
    """dual_step and synthesis against the floor, for one image and for a batch."""
    result = {}
    for images in (1, BATCH):
        parts = [
            next(r for r in kernels if (r["kernel"], r["precision"]) == (name, precision))
            for name in ("dual_step", "synthesis")
        ]
        times = [max(part["bound_us"][str(images)].values()) for part in parts]
        floor = floor_us(precision, images, planes)
        result[str(images)] = {
            "dual_step_us": round(times[0], 1), "synthesis_us": round(times[1], 1), "floor_us": round(floor, 1),
            "ratio": round(sum(times) / floor, 3),
        }  # fmt: skip
    return result


# ------------------------------------------------------------------------------------------------------------- traffic
def measure_traffic() -> dict[str, dict]:
    """{"precision kernel layout": sectors, wavefronts and what was run}; the keys of several planes end with them."""
    from bench.static import profile

    found = {}
    for precision in PRECISIONS:
        parts = {"13 x 13": profile.filter_bank(precision)}
        parts["3 x 3, dilation 3"] = profile.mask_layer("shipped", precision)
        parts["7 x 7"] = profile.mask_layer("published SAFI", precision)
        if precision == "float32":
            parts["7 x 7"] |= profile.mask_layer("published MMR", precision)
        for layout, kernels in parts.items():
            for kernel, (traffic, run) in kernels.items():
                found[traffic_key(precision, kernel, layout)] = {"run": run, **asdict(traffic)}
        for planes in PLANES:
            for kernel, (traffic, run) in profile.of_planes(precision, planes).items():
                key = traffic_key(precision, kernel, "7 x 7" if kernel == "features" else "13 x 13", planes)
                found[key] = {"run": run, **asdict(traffic)}
    return found


NOTHING = dict.fromkeys(
    ("global_requests", "sectors", "ideal_sectors", "shared_requests", "wavefronts", "ideal_wavefronts"), 0.0
)


def traffic_key(precision: str, kernel: str, layout: str, planes: int | None = None) -> str:
    return f"{precision} {kernel} {layout or '13 x 13'}" + (f" {planes} planes" if planes else "")


def traffic_of(row: Row, traffic: dict[str, dict], planes: int | None = None) -> dict:
    key = traffic_key(row.precision, row.kernel, row.layout, planes)
    return traffic.get(key, {"run": "not run", **NOTHING})


def stored_traffic(results: dict) -> dict[str, dict]:
    """What `measure_traffic` gave, from the results that were written of it."""
    rows = results["kernels"] + results["planes"]["kernels"]
    return {traffic_key(r["precision"], r["kernel"], r["layout"], r.get("planes")): r["traffic"] for r in rows}


def collect(traffic: dict[str, dict], errors: dict) -> dict:
    """All results."""
    kernels = [figures(row, traffic_of(row, traffic)) for row in table_rows()]
    return {
        "about": "static bound, not measured: docs/gpu.md",
        "command": "python -m bench.static.cuda",
        "compiler": compilers()[0],
        "ceilings": {"bytes_per_s": BANDWIDTH, "flops_per_s": PEAK, "clock_hz": CLOCK},
        "image": [WIDTH, HEIGHT],
        "fused": {precision: fused(kernels, precision) for precision in PRECISIONS},
        "errors": errors,
        "kernels": kernels,
        "planes": collect_planes(traffic),
    }


LEFT_OUT = {"ideal_bytes_per_pixel", "flops_per_byte", "inner_loop_products", "instructions_by_class"}  # of planes


def collect_planes(traffic: dict[str, dict]) -> dict:
    """The kernels by planes of an image, and their iterations."""
    kernels, iterations = [], {}
    for planes in PLANES:
        known = [figures(row, traffic_of(row, traffic, planes)) for row in planes_rows(planes)]
        for precision in PRECISIONS:
            iterations.setdefault(precision, {})[str(planes)] = fused(known, precision, planes)
        for row in known:
            row["loops"] = [loop for loop in row["loops"] if loop["trips"]]
            kernels.append({"planes": planes, **{name: row[name] for name in row if name not in LEFT_OUT}})
    return {"fused": iterations, "kernels": kernels}


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reuse", action="store_true", help="sectors and errors from the results that are there")
    arguments = parser.parse_args()
    if arguments.reuse:
        before = json.loads(RECORD.read_text())
        traffic, errors = stored_traffic(before), before["errors"]
    else:
        from bench.static.errors import measure_errors

        traffic, errors = measure_traffic(), measure_errors()
    results = collect(traffic, errors)
    measure.write_json(RECORD, results)
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), results, TABLES))
    print(fused_table(results))


if __name__ == "__main__":
    main()
