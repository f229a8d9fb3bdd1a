"""Static figures of the CUDA kernels, without a GPU: what compiled code and emulator say about their cost on an H100.

    python -m bench.static.cuda            # five minutes: compile, emulate, write the results and tables of docs/gpu.md
    python -m bench.static.cuda --reuse    # seconds: compile again, take sectors and errors from the results

Static bounds, not measured: docs/gpu.md shows the arithmetic. Image of 481 x 321, 64 channels, filters of 13 x 13,
symmetric boundary.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass

from cuda_variants import Variant, variants
from emulator.compile import compilers
from emulator.occupancy import GPUS, occupancy
from emulator.sass import KernelCode, Loop, count_instructions, read_sass

from bench import RESULTS, ROOT
from bench.report import measure
from bench.report.markdown import with_tables
from bench.static import paths
from bench.static.paths import Issue, Part, issue
from safi_fast.bindings.launch import PRECISIONS, Kernel, Launch, Shape, launch_for

RECORD = RESULTS / "static_cuda.json"
DOCUMENT = ROOT / "docs" / "gpu.md"
ARCHITECTURE = "sm_90"
HEIGHT, WIDTH, CHANNELS, SUPPORT = 321, 481, 64, 13
PIXELS = HEIGHT * WIDTH
BATCH = 64

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


def shape(precision: str) -> Shape:
    return Shape(HEIGHT, WIDTH, CHANNELS, SUPPORT, 0, precision)


def table_rows() -> list[Row]:
    """All kernels in all precisions that have a version of their own."""
    rows = []
    for precision in PRECISIONS:
        rows += _filter_bank(precision) + _mask_layers(precision)
    return rows + _image_rows()


def _filter_bank(precision: str) -> list[Row]:
    products, plane = 2 * SUPPORT**2 * CHANNELS, 4 * CHANNELS
    costs = {"analysis": 2 * plane, "masked_norm": plane, "dual_step": 4 * plane, "anchored_step": 4 * plane}
    support = f"-DSUPPORT={SUPPORT}"
    if precision == "float32":
        splits = shape(precision).splits
        plan = paths.direct_plan(SUPPORT) + paths.BORDER
        share = paths.direct_share(shape(precision))
        rows = [
            Row(name, "13 x 13", precision, products, n, "analysis", (support,), plan, share)
            for name, n in costs.items()
        ]
        back = paths.synthesis_plan(SUPPORT, CHANNELS // splits)
        share = paths.synthesis_share(shape(precision))
        return [
            *rows, Row("synthesis", "13 x 13", precision, products, 2 * plane, "synthesis", (support,), back, share)
        ]  # fmt: skip
    last = ("-DBF16X3",) if precision == "bf16x3" else ()
    plan = paths.analysis_tensor_plan(SUPPORT, 32, precision)
    options = (support, "-DCHANNEL_BLOCK=32", *last)
    rows = [Row(name, "13 x 13", precision, products, n, "analysis_tensor", options, plan) for name, n in costs.items()]
    options = (support, "-DCHANNEL_BLOCK=64", *last)
    back = paths.synthesis_tensor_plan(SUPPORT, 64)
    return [*rows, Row("synthesis", "13 x 13", precision, products, 2 * plane, "synthesis_tensor", options, back)]


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
        cost = (2 * 49 * CHANNELS, 4 * CHANNELS + 4)
        options = ("-DSUPPORT=7", "-DDILATION=1")
        rows.append(Row("features", "7 x 7", precision, *cost, "features", options, paths.direct_plan(7), direct))
        cost = (2 * 49 * CHANNELS, 8 * CHANNELS)
        plan = paths.depthwise_plan(7)
        rows.append(Row("depthwise", "7 x 7", precision, *cost, "depthwise", ("-DSUPPORT=7",), plan, direct))
    return rows


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


def code_of(row: Row) -> KernelCode:
    return read_sass(find_variant(row).compile(ARCHITECTURE).code)[row.kernel]


def launch_of(row: Row, images: int = 1) -> Launch:
    return launch_for(row.kernel, shape(row.precision), images, row.size)


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
def floor_us(precision: str, images: int) -> float:
    """The composed algorithm: analysis and synthesis, each value of u and M moved once."""
    flops = 2 * 2 * SUPPORT**2 * CHANNELS
    moved = (4 + 2) * 4 * CHANNELS
    return images * PIXELS * max(flops / PEAK[precision], moved / BANDWIDTH) * 1e6


def fused(kernels: list[dict], precision: str) -> dict:
    """dual_step and synthesis against the floor, for one image and for a batch."""
    result = {}
    for images in (1, BATCH):
        parts = [
            next(r for r in kernels if (r["kernel"], r["precision"]) == (name, precision))
            for name in ("dual_step", "synthesis")
        ]
        times = [max(part["bound_us"][str(images)].values()) for part in parts]
        floor = floor_us(precision, images)
        result[str(images)] = {
            "dual_step_us": round(times[0], 1), "synthesis_us": round(times[1], 1), "floor_us": round(floor, 1),
            "ratio": round(sum(times) / floor, 3),
        }  # fmt: skip
    return result


# ------------------------------------------------------------------------------------------------------------- traffic
def measure_traffic() -> dict[str, dict]:
    """{"precision kernel layout": sectors, wavefronts and what was run}."""
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
    return found


NOTHING = dict.fromkeys(
    ("global_requests", "sectors", "ideal_sectors", "shared_requests", "wavefronts", "ideal_wavefronts"), 0.0
)


def traffic_key(precision: str, kernel: str, layout: str) -> str:
    return f"{precision} {kernel} {layout}"


def traffic_of(row: Row, traffic: dict[str, dict]) -> dict:
    layout = row.layout or "13 x 13"
    return traffic.get(traffic_key(row.precision, row.kernel, layout), {"run": "not run", **NOTHING})


# --------------------------------------------------------------------------------------------------------------- tables
def kernel_table(results: dict) -> str:
    """Markdown."""
    lines = [
        "| kernel | precision | FLOPs / pixel | bytes / pixel | FLOPs / byte | registers | shared | occupancy "
        "| products | sectors | conflicts | instr. / pixel | 1 image | 64 images | limit |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for r in results["kernels"]:
        one, many = (r["bound_us"][str(n)] for n in (1, BATCH))
        limit = max(many, key=lambda name: many[name])
        name = " ".join(x for x in (r["kernel"], r["layout"] if "convolution" in r["kernel"] else "") if x)
        run, each = r["traffic"]["run"] != "not run", r["instructions_per_pixel"]
        cells = [
            name, r["precision"], r["flops_per_pixel"], r["ideal_bytes_per_pixel"], f"{r['flops_per_byte']:.3g}",
            r["registers"], f"{r['shared_bytes'] / 1024:.1f} KiB", f"{100 * r['occupancy']:.0f} %",
            f"{100 * r['inner_loop_products']:.0f} %",
            f"{r['sectors_per_request']:.1f} ({r['sectors_by_ideal']:.2f})" if run else "",
            f"{r['wavefronts_by_ideal']:.2f}" if r["wavefronts_by_ideal"] else "",
            f"{each:.3g}" if each < 1000 else f"{each:.0f}",
            f"{max(one.values()):.3g} us", f"{max(many.values()) / 1000:.3g} ms", limit,
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def fused_table(results: dict) -> str:
    """Markdown."""
    lines = [
        "| precision | images | dual_step | synthesis | both | floor | ratio | bar |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for precision, sizes in results["fused"].items():
        for images, r in sizes.items():
            both = r["dual_step_us"] + r["synthesis_us"]
            lines.append(
                f"| {precision} | {images} | {r['dual_step_us']:.1f} us | {r['synthesis_us']:.1f} us | {both:.1f} us | "
                f"{r['floor_us']:.1f} us | {r['ratio']:.2f} | {BARS[precision]} |"
            )
    return "\n".join(lines)


BARS = {"float32": 1.5, "tf32": 2.0, "bf16x3": 2.0}


def error_table(results: dict) -> str:
    """Markdown."""
    lines = [
        "| precision | analysis | synthesis | denoised, largest | denoised, rms | PSNR |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for precision, e in results["errors"].items():
        lines.append(
            f"| {precision} | {e['analysis']:.1e} | {e['synthesis']:.1e} | {e['denoise_largest']:.1e} | "
            f"{e['denoise_rms']:.1e} | {e['psnr_difference_db']:+.1e} dB |"
        )
    return "\n".join(lines)


TABLES = {"kernels": kernel_table, "iteration": fused_table, "precisions": error_table}


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
    }


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reuse", action="store_true", help="sectors and errors from the results that are there")
    arguments = parser.parse_args()
    if arguments.reuse:
        before = json.loads(RECORD.read_text())
        traffic = {
            traffic_key(r["precision"], r["kernel"], r["layout"] or "13 x 13"): r["traffic"] for r in before["kernels"]
        }
        errors = before["errors"]
    else:
        from bench.static.errors import measure_errors

        traffic, errors = measure_traffic(), measure_errors()
    results = collect(traffic, errors)
    measure.write_json(RECORD, results)
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), results, TABLES))
    print(fused_table(results))


if __name__ == "__main__":
    main()
