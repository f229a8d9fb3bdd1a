"""Tables of docs/gpu.md from the results of bench.static.cuda, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

SIZES = ("1", "64")  # images
BARS = {"float32": 1.5, "tf32": 2.0, "bf16x3": 2.0}


def kernel_table(results: dict) -> str:
    """Markdown."""
    lines = [
        "| kernel | precision | FLOPs / pixel | bytes / pixel | FLOPs / byte | registers | shared | occupancy "
        "| products | sectors | conflicts | instr. / pixel | 1 image | 64 images | limit |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for r in results["kernels"]:
        one, many = (r["bound_us"][size] for size in SIZES)
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


def planes_table(results: dict) -> str:
    """Markdown: of each kernel one line, its figures for 1, 2 and 3 planes beside each other."""
    lines = [
        "| kernel | precision | registers | shared, KiB | occupancy, % | instr. / pixel | sectors / pixel "
        "| 1 image, us | 64 images, ms | limit | 3 by 1 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | ---: |",
    ]
    found: dict[tuple[str, str], list[dict]] = {}
    alone = [r for r in results["kernels"] if r["kernel"] in ("features", "image_step")]  # their rows of one plane
    for r in alone + results["planes"]["kernels"]:
        found.setdefault((r["kernel"], r["precision"]), []).append(r)
    pixels = results["image"][0] * results["image"][1]
    for (kernel, precision), each in sorted(found.items(), key=lambda item: item[1][0] in alone):
        one, many = ([max(r["bound_us"][size].values()) for r in each] for size in SIZES)
        limits = [max(r["bound_us"]["64"], key=r["bound_us"]["64"].get) for r in each]
        cells = [
            _list(r["registers"] for r in each), _list(f"{r['shared_bytes'] / 1024:.1f}" for r in each),
            _list(f"{100 * r['occupancy']:.0f}" for r in each),
            _list(f"{r['instructions_per_pixel']:.3g}" for r in each),
            _list(f"{r['traffic']['sectors'] / pixels:.3g}" for r in each), _list(f"{us:.3g}" for us in one),
            _list(f"{us / 1000:.3g}" for us in many), limits[0] if len(set(limits)) == 1 else _list(limits),
            f"{many[-1] / many[0]:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join([kernel, precision, *cells]) + " |")
    return "\n".join(lines)


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def planes_fused_table(results: dict) -> str:
    """Markdown."""
    lines = [
        "| precision | images | 1 plane | 2 planes | 3 planes | 2 by 1 | 3 by 1 | by their floor |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for precision, iterations in results["planes"]["fused"].items():
        for size in SIZES:
            each = [r[size] for r in iterations.values()]
            times = [r["dual_step_us"] + r["synthesis_us"] for r in each]
            cells = [precision, size, *(f"{us:.1f} us" for us in times)]
            cells += [f"{us / times[0]:.2f}" for us in times[1:]]
            lines.append("| " + " | ".join([*cells, _list(f"{r['ratio']:.2f}" for r in each)]) + " |")
    return "\n".join(lines)


TABLES = {
    "kernels": kernel_table,
    "iteration": fused_table,
    "planes": planes_table,
    "iteration of planes": planes_fused_table,
    "precisions": error_table,
}
