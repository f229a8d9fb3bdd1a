"""SAFI against classical reconstructions on real data: the tables of docs/results.

    python bench/inverse.py mri | siat | ct | blur | inpaint | superres [--outer 6] [--inner 120] [--wcrr] [--full]
    python bench/inverse.py tables

Every method has its parameters chosen on one other image of the same kind, from a short list, by mean squared error; SAFI and MMR share
one budget of outer and inner steps. Results go to bench/results/inverse_<command>.json row by row; `tables` writes docs/results/*.md from them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mri_real
import numpy as np
from baselines import Wcrr, bicubic, cg, tv, wiener
from pictures import panels
from PIL import Image
from problems import DATA, brain_kspace, given_mask, head, line_mask, middle

import safi_fast
from safi_fast.metrics import psnr, ssim
from safi_fast.operators import (
    Blur,
    Downsample,
    FourierMRI,
    Mask,
    ParallelBeamCT,
    SenseMRI,
    estimate_maps,
)
from safi_fast.training.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
IMAGES = ROOT / "docs" / "images"
BOX = (0.0, 1.0)


@dataclass
class Case:
    """One problem: measurements of the reference, and what is shown as its first row."""

    operator: Any
    y: Any
    reference: Any
    first: tuple[str, Any]
    kernel: Any = None
    inside: Any = ...  # pixels that count

    @property
    def box(self):
        return None if self.operator.image == "complex" else BOX


@dataclass
class Lists:
    """Strengths tried for each method; for WCRR with each of its noise levels, on the 8-bit scale."""

    tv: Any
    cg: Any
    safi: Any
    mmr: Any
    wcrr: Any = ()
    levels: Any = (None,)
    wcrr_levels: Any = (10.0,)


def scores(case: Case, image) -> dict[str, float]:
    """PSNR and SSIM of the magnitude, on [0, 1]."""
    a, b = (np.abs(v).astype(np.float64)[case.inside] for v in (case.reference, image))
    return {"psnr": round(psnr(a, b), 2), "ssim": round(ssim(a, b), 4)}


def best(case: Case, candidates, solve):
    """The candidate with the smallest error; nothing is solved where there is one only."""
    if len(candidates) == 1:
        return candidates[0]
    errors = [float(np.mean(np.abs(solve(c) - case.reference)[case.inside] ** 2)) for c in candidates]
    return candidates[int(np.argmin(errors))]


def measure(
    name: str, tuning: Case, tests: dict[str, Case], lists: Lists, solvers, args, done: set[str]
) -> Iterator[tuple[dict, list[np.ndarray]]]:
    """The rows of one table entry that are not done, a mean over the tests where there are several, each with the images of the tests."""

    def wanted(method):
        return method not in done and method.split(",")[0] not in args.skip

    def row(method, outputs, start, **more):
        times = {
            key: round((end - begin) / len(tests), 2) for (key, begin), (_, end) in zip(start, clocks(), strict=True)
        }
        values = [scores(case, image) for case, image in zip(tests.values(), outputs, strict=True)]
        means = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
        return {"case": name, "method": method, **means, "images": list(tests), **times, **more}, outputs

    def classical(method, candidates, solve):
        chosen = best(tuning, candidates, lambda c: solve(tuning, c)[0])
        start = clocks()
        found = [solve(case, chosen) for case in tests.values()]
        more = {"change": max(f[1] for f in found)} if found[0][1] is not None else {}
        if method == "WCRR":
            chosen, more["noise_level"] = chosen
        return row(method, [f[0] for f in found], start, strength=float(chosen), **more)

    label = "CG-SENSE" if isinstance(tuning.operator, SenseMRI) else "Tikhonov (CG)"
    if wanted(tuning.first[0]):
        yield row(tuning.first[0], [case.first[1] for case in tests.values()], clocks())
    if tuning.kernel is not None and wanted("Wiener"):
        yield classical("Wiener", lists.cg, lambda case, c: (wiener(case.kernel, case.y, c), None))
    elif lists.cg is not None and wanted(label):
        yield classical(label, lists.cg, lambda case, c: (cg(case.operator, case.y, c, box=case.box), None))
    if wanted("TV"):
        yield classical("TV", lists.tv, lambda case, c: tv(case.operator, case.y, c, box=case.box, steps=args.tv_steps))
    if args.wcrr and len(lists.wcrr) and wanted("WCRR"):
        wcrr = Wcrr(DATA / "weights" / "wcrr.pth")
        yield classical(
            "WCRR",
            list(itertools.product(lists.wcrr, lists.wcrr_levels)),
            lambda case, c: wcrr.solve(
                case.operator, case.y, *c, box=case.box, steps=100 if case is tuning else args.wcrr_steps
            ),
        )
    for method, solver, strengths in (
        ("MMR, published weights", solvers["mmr"], lists.mmr),
        ("SAFI, safi-gray", solvers["safi"], lists.safi),
    ):
        if not wanted(method):
            continue
        levels = lists.levels if method.startswith("SAFI") else (None,)
        found = [(0.0, strengths[0], levels[0])]
        if len(strengths) * len(levels) > 1:
            found = []
            for level in levels:
                tuned = solver.tune_strength(
                    tuning.y, tuning.operator, strengths, reference=tuning.reference, box=tuning.box, noise_level=level,
                    max_outer=args.tune_outer, max_iter=150,
                )  # fmt: skip
                found.append((float(tuned.scores.min()), tuned.strength, level))
        _, strength, level = min(found, key=lambda f: f[0])
        start = clocks()
        solutions = [
            solver.reconstruct(
                case.y,
                case.operator,
                strength=strength,
                box=case.box,
                noise_level=level,
                max_outer=args.outer,
                max_iter=args.inner,
            )
            for case in tests.values()
        ]
        yield row(
            method, [s.image for s in solutions], start, strength=strength,
            noise_level=None if level is None else round(level * 255, 1), status=sorted({s.status for s in solutions}),
            certificate=max(s.relative_gap for s in solutions), certificate_kind="residual" if case_complex(tuning) else "gap",
            outer_change=max(s.outer_residual for s in solutions), steps=int(np.mean([s.inner_iterations for s in solutions])),
            outer=max(s.outer_iterations for s in solutions),
        )  # fmt: skip


def clocks() -> list[tuple[str, float]]:
    return [("seconds", time.perf_counter()), ("cpu_seconds", time.process_time())]


def case_complex(case: Case) -> bool:
    return case.operator.image == "complex"


# ---------------------------------------------------------------------------------------------------- problems


def noise(shape, rng, complex_: bool):
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape)).astype(np.complex64) if complex_ else values.astype(np.float32)


def single_coil(image, mask, rng, order="centered") -> Case:
    """A real image, as the paper has it."""
    op = FourierMRI(mask, mask_order=order)
    y = op.check_measurement(op.apply(image) + np.float32(0.002) * noise(image.shape, rng, True) * op.mask)
    return Case(op, y, image, ("zero-filled", np.clip(op.adjoint(y), 0, 1)))


def random_lines(image, acceleration, centre, seed) -> Case:
    """`single_coil` with a mask of its own."""
    rng = np.random.default_rng(seed)
    return single_coil(image, line_mask(image.shape, acceleration, centre, rng), rng)


def several_coils(kspace, maps, reference, acceleration, centre, seed, level=0.002) -> Case:
    """Complex image, eight coils; level: the noise added to each real number."""
    rng = np.random.default_rng(seed)
    op = SenseMRI(maps, line_mask(maps.shape[1:], acceleration, centre, rng), mask_order="centered")
    y = op.check_measurement((kspace + np.float32(level) * noise(kspace.shape, rng, True)) * op.mask)
    return Case(op, y, reference, ("zero-filled", op.adjoint(y)))


def brain(shape):
    """espirit_full: k-space (8, *shape), low frequencies only where that is smaller; maps; combined image, peak 1; its noise per real number."""
    measured = brain_kspace("espirit_full")
    kspace = middle(measured, shape)
    maps = estimate_maps(kspace, kspace_order="centered", calibration=24, crop=0.0)
    full = SenseMRI(maps, np.ones(shape, bool), mask_order="centered", check_order=False)
    image = full.adjoint(kspace)
    peak = np.abs(image).max()
    level = (
        np.sqrt((np.abs(measured[:, :20, :20]) ** 2).mean() / 2) / peak
    )  # a corner of k-space, where there is little else
    return (kspace / peak).astype(np.complex64), maps, (image / peak).astype(np.complex64), float(level)


ACCELERATIONS = ((4, 0.08), (8, 0.04))


def mri(args):
    square = (args.size, args.size)
    kspace, maps, image, level = brain((230, 180) if args.full else square)
    small = brain(square)[1]
    other = head("lsq21", args.size).astype(np.complex64)
    full = SenseMRI(small, np.ones(square, bool), mask_order="centered", check_order=False)
    for acceleration, centre in ACCELERATIONS:
        tuning = random_lines(head("lsq21", args.size), acceleration, centre, 1)
        test = random_lines(np.abs(image), acceleration, centre, 2)
        yield f"one coil, {acceleration}x", tuning, {"brain": test}, one_coil_lists(acceleration, args.full)
    args.tv_steps = min(args.tv_steps, 1000 if args.full else 500)
    lists = Lists(
        tv=[3e-4, 1e-3, 3e-3], cg=[1e-3, 1e-2, 1e-1], safi=[4e-4, 1.6e-3, 6.4e-3], mmr=[1e-5, 4e-5, 1.6e-4],
        wcrr=[1e-2, 3e-2, 1e-1], levels=(5 / 255, 15 / 255), wcrr_levels=(10.0, 20.0),
    )  # fmt: skip
    for acceleration, centre in ACCELERATIONS:
        seen, total = full.apply(other), np.hypot(0.002, level)
        tuning = several_coils(seen, small, full.adjoint(seen), acceleration, centre, 1, total)
        test = several_coils(kspace, maps, image, acceleration, centre, 2)
        yield f"8 coils, {acceleration}x", tuning, {"brain": test}, lists


def one_coil_lists(acceleration, narrow) -> Lists:
    """narrow: what was best with the long lists at 128 x 128 (inverse_mri.json), and a neighbour beyond where that was the last of its list."""
    lists = Lists(
        tv=[1e-4, 3e-4, 1e-3, 3e-3], cg=[1e-4, 1e-3, 1e-2, 1e-1], safi=[1e-4, 4e-4, 1.6e-3], mmr=[1e-5, 4e-5, 1.6e-4],
        wcrr=[1e-2, 3e-2], levels=(5 / 255, 15 / 255), wcrr_levels=(10.0, 20.0),
    )  # fmt: skip
    if not narrow:
        return lists
    safi = [4e-4] if acceleration == 4 else [1.6e-3, 6.4e-3]
    return replace(lists, cg=[1e-6, 1e-5, 1e-4], safi=safi, mmr=[2.5e-6, 1e-5], levels=(15 / 255,))


def siat(args):
    """Heads, 256 x 256, with the mask given for that size; parameters as for the brain with 4x."""
    tuning = random_lines(head("lsq21", args.size), 4, 0.08, 1)
    mask = given_mask("Q_Cartesian30")
    tests = {
        name: single_coil(middle(head(name), mask.shape), mask, np.random.default_rng(2), "fft")
        for name in ("lsq61", "lsq121", "lsq181")
    }
    yield f"Q_Cartesian30, {mask.mean():.1%} sampled", tuning, tests, one_coil_lists(4, True)


def gray(path, side=None):
    image = np.asarray(Image.open(path).convert("L"), np.float32) / 255
    return image if side is None else middle(image, (side, side))


def half(image):
    """Means of 2 x 2 pixels."""
    h, w = image.shape
    return image.reshape(h // 2, 2, w // 2, 2).mean((1, 3), dtype=np.float64).astype(np.float32)


def abdomen(name, views, size, seed) -> Case:
    """Simulated on a grid twice as fine; noise 0.05 in line integrals measured in pixels of the reconstruction."""
    fine = gray(DATA / "ct" / "abdomen" / f"{name}.png")
    while fine.shape[0] > 2 * size:
        fine = half(fine)
    angles, detectors = np.linspace(0, np.pi, views, endpoint=False), int(np.ceil(size * 1.45))
    simulate = ParallelBeamCT(fine.shape, angles, detectors, pixel_size=0.5)
    op = ParallelBeamCT((size, size), angles, detectors)
    y = simulate.apply(fine) + np.float32(0.05) * noise(op.shape_out, np.random.default_rng(seed), False)
    return Case(op, y, half(fine), ("FBP", np.clip(op.fbp(y), 0, 1)))


def tooth(step, offset, size) -> Case:
    """Every step-th view (4-fold for 45), detector cells joined in pairs; the reference is the FBP of all 181."""
    sinogram = np.asarray(Image.open(DATA / "ct" / "tooth.tiff"), np.float32)
    sinogram = sinogram.reshape(181, 200, 2).mean(2)
    angles, spacing = np.linspace(0, np.pi, 181), size / 200
    full = ParallelBeamCT((size, size), angles, 200, spacing)
    reference = full.fbp(sinogram)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    inside = rows**2 + columns**2 < (size / 2 - 2) ** 2
    peak = np.percentile(reference[inside], 99.9)
    reference = np.clip(reference / peak, 0, 1) * inside
    chosen = np.arange(offset, 180, step)
    op = ParallelBeamCT((size, size), angles[chosen], 200, spacing)
    y = np.ascontiguousarray(sinogram[chosen] / peak, np.float32)
    return Case(op, y, reference.astype(np.float32), ("FBP", np.clip(op.fbp(y), 0, 1) * inside.astype(np.float32)))


def ct(args):
    size = args.size
    args.tv_steps = min(args.tv_steps, 600)

    def lists(op, levels):
        factors = np.array([3e-5, 1e-4, 2e-4, 4e-4, 1e-3])
        scale = op.norm**2 * factors
        return Lists(tv=scale / 3, cg=scale * 10, safi=scale, mmr=scale / 40, levels=levels)

    for views in (60, 200):
        tuning, test = abdomen("phantom_49", views, size, 1), abdomen("phantom_149", views, size, 2)
        yield (
            f"abdomen, {views} views",
            tuning,
            {"phantom_149": test},
            lists(tuning.operator, (5 / 255, 15 / 255, 25 / 255, 50 / 255)),
        )
        for step in (3,) if views == 60 else (2, 4):
            tuning, test = tooth(step, 1, size), tooth(step, 0, size)
            yield (
                f"tooth, {len(test.y)} of 181 views",
                tuning,
                {"tooth": test},
                lists(tuning.operator, (5 / 255, 15 / 255, 25 / 255, 50 / 255)),
            )


def photographs(size, build):
    """Tuning on 02.png, tests on 01.png and 06.png of set12."""
    return build(gray(DATA / "set12" / "02.png", size), 1), {
        name: build(gray(DATA / "set12" / f"{name}.png", size), 2) for name in ("01", "06")
    }


def levin(index):
    import h5py

    with h5py.File(DATA / "blur" / "Levin09.mat") as file:
        kernel = np.asarray(file[file["kernels"][index - 1, 0]]).T
    return (kernel / kernel.sum()).astype(np.float32)


def blur(args):
    for index in args.kernels:
        kernel = levin(index)
        for level in (2.55, 7.65):

            def build(image, seed, kernel=kernel, level=level):
                op = Blur(kernel, image.shape)
                y = op.apply(image) + np.float32(level / 255) * noise(image.shape, np.random.default_rng(seed), False)
                return Case(op, y, image, ("blurred", np.clip(y, 0, 1)), kernel=kernel)

            scale = (level / 2.55) ** 1.5
            lists = Lists(
                tv=scale * np.array([1e-4, 3e-4, 1e-3, 3e-3]), cg=scale * np.array([1e-4, 1e-3, 1e-2]),
                safi=scale * np.array([6e-4, 2e-3, 6e-3, 2e-2]), mmr=scale * np.array([4e-6, 1.2e-5, 4e-5]),
                levels=(5 / 255, 15 / 255),
            )  # fmt: skip
            yield f"Levin kernel {index}, noise {level}/255", *photographs(args.size, build), lists


def inpaint(args):
    for missing in (0.5, 0.8):

        def build(image, seed, missing=missing):
            rng = np.random.default_rng(seed)
            op = Mask(rng.random(image.shape) >= missing)
            y = op.check_measurement(op.apply(image + np.float32(2.55 / 255) * noise(image.shape, rng, False)))
            return Case(op, y, image, ("known pixels", np.clip(y, 0, 1)))

        lists = Lists(tv=[1e-3, 3e-3, 1e-2, 3e-2], cg=None, safi=[1e-3, 3e-3, 9e-3], mmr=[2.4e-5, 8e-5, 2.4e-4])
        yield f"{missing:.0%} of the pixels missing", *photographs(args.size, build), lists


def superres(args):
    def build(image, seed):
        op = Downsample(2, image.shape)
        y = op.apply(image) + np.float32(2.55 / 255) * noise(op.shape_out, np.random.default_rng(seed), False)
        return Case(op, y, image, ("bicubic", bicubic(y, 2, image.shape)))

    lists = Lists(
        tv=[1e-4, 3e-4, 1e-3, 3e-3], cg=[1e-4, 1e-3, 1e-2], safi=[1e-4, 3e-4, 1e-3], mmr=[2.4e-6, 8e-6, 2.4e-5]
    )
    yield "2x", *photographs(args.size, build), lists


COMMANDS = {"mri": mri, "siat": siat, "ct": ct, "blur": blur, "inpaint": inpaint, "superres": superres}


# ------------------------------------------------------------------------------------------------------ tables

PAGES = {
    "mri": ("MRI", ["mri_full", "siat", "mri"], (
        "One coil: the magnitude of a coil-combined image, transformed again: a synthetic measurement, as in the paper; real image, box [0, 1]. 8 coils: the "
        "measured k-space, complex image, no box, maps by ESPIRiT from the 24 x 24 centre of full k-space. Random lines, 8 % (4x) or 4 % (8x) of them in the "
        "middle. Noise 0.002 per real number at image peak 1 was added; the measured k-space holds 0.008 of its own (the level in its corners), so the "
        "reference of 8 coils is noisy too. PSNR and SSIM of magnitudes.\n\n"
        "Parameters of every method were chosen on one siat head (lsq21) at 128 x 128: for one coil with the same kind of lines and noise, for 8 coils seen "
        "through the maps of the brain, with as much noise as its k-space has. SAFI and MMR were tuned with 6 masks of at most 150 steps, WCRR with 100 steps. TV ran to a change of 1e-4 in "
        "50 steps, or 3000 steps (8 coils: 1000); WCRR for 400 steps, for complex images on real and imaginary part each by itself: its column "
        "`change` is that of the last step."
    )),
    "ct": ("CT", ["ct"], (
        "abdomen: simulated from a grid twice as fine as the reconstruction ({size} x {size}), Gaussian noise 0.05 in line integrals measured in "
        "pixels; tuned on another slice. tooth: a real parallel-beam sinogram, detector cells joined in pairs, {size} x {size}, every second, third, fourth "
        "view against the FBP of all 181, itself noisy: it limits every PSNR. There is one slice only: parameters were tuned on the views beside, of the "
        "same slice, for every method."
    )),
    "restoration": ("Deblurring, inpainting, super-resolution", ["blur", "inpaint", "superres"], (
        "set12 images 01 and 06 (means), the middle as large as each command says; tuned on 02. Blur with symmetric boundary; inpainting and super-resolution "
        "with noise 2.55/255."
    )),
}  # fmt: skip

ABOUT = {
    "mri_full": "espirit_full (8-coil brain, real k-space), all of it: 230 x 180. WCRR is ahead of SAFI in PSNR with one coil, 8x, and in SSIM with 8 coils, 4x.",
    "siat": "siat heads lsq61, lsq121, lsq181 (means): the magnitude of their middle 256 x 256 pixels, one coil, with the mask Q_Cartesian30, which is given "
    "for that size (FFT order) and samples 29.7 % of the lines. Parameters as for one coil, 4x.",
    "mri": "espirit_full again, its 128 x 128 low frequencies, of an earlier run: parameters from longer lists, on two threads; those for 8 coils were chosen without the noise "
    "of the k-space in the tuning image, TV with 8 coils ran for 500 steps.",
}

PICTURES = {"mri_full": "![The reference, zero-filled, TV and SAFI, one coil, 4x](../images/mri.png)"}

LEFT_OUT = {
    "mri": (
        "MMR at full resolution but for one coil, 4x, and on the siat heads (the table at 128 x 128 has it in every case); MMR and WCRR for the k-space as measured; the other masks given with the siat images (Q_Radial30, Q_Random30, also 256 x 256; the 320 x 320 one of "
        "MMR and SAFI is larger than these images) and its other heads. Where the status is max_iterations, the image still changed by more than 3e-3 "
        "from one mask to the next when the masks ran out; the certificate is that of the last mask. Some parameters lie at the end of their lists "
        "(see the JSON files)."
    ),
    "ct": (
        "htc2022; full resolution; WCRR. TV is ahead of SAFI where a line above says so: the slice of the tooth and the phantom with many views are "
        "nearly piecewise constant."
    ),
    "restoration": "Levin kernels 2 to 8; the other images of set12; WCRR. Some strengths lie at the end of their list (see the JSON files). Strengths of all pages but deblurring were "
        "tuned with 6 masks, and results made with 12.",
}  # fmt: skip


def tables():
    """docs/results/*.md from the JSON files."""
    for name, (_, data, _) in PAGES.items():
        if any((RESULTS / f"inverse_{n}.json").exists() for n in data):
            target = ROOT / "docs" / "results" / f"{name}.md"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page(name), encoding="utf-8")


def page(name: str) -> str:
    """docs/results/<name>.md."""
    title, names, text = PAGES[name]
    data = {n: json.loads(p.read_text()) for n in names if (p := RESULTS / f"inverse_{n}.json").exists()}
    lines = [f"# {title}", "", text.format(size=next(iter(data.values()))["size"]), ""]
    lines += [
        "Certificate: relative duality gap where there is a box, relative optimality residual where not (8 coils), the worst of the images; "
        "change: between the last two outer steps. Seconds are per image, on a busy machine, and include no tuning.",
        "",
    ]
    for n, one in data.items():
        clock = "cpu_seconds" if "cpu_seconds" in one["rows"][0] else "seconds"
        lines += [ABOUT[n], ""] if n in ABOUT else []
        lines += [
            f"Command: `{one['command']}`, load average {one['load_average']:.1f}, {one['threads']} thread(s).",
            "",
        ]
        lines += [
            f"| case | method | PSNR | SSIM | {clock.replace('cpu_', 'CPU ')} | certificate | change | status |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in one["rows"]:
            certificate = f"{row['certificate']:.1e}" if "certificate" in row else ""
            change = row.get("outer_change", row.get("change"))
            status = ", ".join(row.get("status", []))
            lines.append(
                f"| {row['case']} | {row['method']} | {row['psnr']:.2f} | {row['ssim']:.4f} | {row[clock]:.1f} | {certificate} | "
                f"{'' if change is None else f'{change:.0e}'} | {status} |"
            )
        lines.append("")
        lines += verdict(one["rows"])
        lines += [PICTURES[n], ""] if n in PICTURES else []
    if name == "mri" and mri_real.RESULT.exists():
        record = json.loads(mri_real.RESULT.read_text())
        lines += ["## As measured", "", *mri_real.section(record), ""]
    lines += ["Left out: " + LEFT_OUT[name], ""]
    return "\n".join(lines).rstrip() + "\n"


def verdict(rows) -> list[str]:
    """SAFI minus TV, and minus WCRR where that was run, of every case."""
    lines = []
    for other in ("TV", "WCRR"):
        parts = []
        for case in dict.fromkeys(row["case"] for row in rows):
            of = {row["method"].split(",")[0]: row["psnr"] for row in rows if row["case"] == case}
            if {"SAFI", other} <= set(of):
                parts.append(f"{case} {of['SAFI'] - of[other]:+.2f} dB")
        lines += [f"SAFI minus {other}: " + "; ".join(parts) + ".", ""] if parts else []
    return lines


def in_order(rows):
    """Rows of a case together, and of its methods the learned ones last."""
    cases, learned = list(dict.fromkeys(row["case"] for row in rows)), ("WCRR", "MMR", "SAFI")
    return sorted(
        rows,
        key=lambda row: (
            cases.index(row["case"]),
            1 + learned.index(method) if (method := row["method"].split(",")[0]) in learned else 0,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*COMMANDS, "tables"])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--outer", type=int, default=12)
    parser.add_argument("--inner", type=int, default=2000)
    parser.add_argument("--tv-steps", type=int, default=3000)
    parser.add_argument("--kernels", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--tune-outer", type=int, default=6)
    parser.add_argument("--wcrr", action="store_true")
    parser.add_argument("--wcrr-steps", type=int, default=400)
    parser.add_argument("--skip", nargs="+", default=[], choices=["WCRR", "MMR", "SAFI"], help="methods to leave out")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows of the results file, and add those that it lacks"
    )
    parser.add_argument("--full", action="store_true", help="mri: 230 x 180; --size is that of the tuning image")
    args = parser.parse_args()
    if args.command == "tables":
        tables()
        return
    solvers = {
        "safi": safi_fast.Solver(backend="cpu"),
        "mmr": safi_fast.Solver(
            read_checkpoint(DATA / "weights" / "mmr_sigma15.pth", converged_strength=0.00058899), backend="cpu"
        ),
    }
    shown = f"python bench/inverse.py {args.command} --size {args.size} --outer {args.outer} --inner {args.inner}"
    shown += "".join(f" --{name}" for name in ("wcrr", "full") if getattr(args, name))
    shown += f" --kernels {' '.join(map(str, args.kernels))}" if args.command == "blur" else ""
    target = RESULTS / f"inverse_{args.command}{'_full' if args.full else ''}.json"
    rows: list[dict] = json.loads(target.read_text())["rows"] if args.resume and target.exists() else []
    for case in COMMANDS[args.command](args):
        images = {"reference": next(iter(case[2].values())).reference}
        for row, outputs in measure(*case, solvers, args, {row["method"] for row in rows if row["case"] == case[0]}):
            rows = in_order([*rows, row])
            print(row, flush=True)
            images[f"{row['method'].split(',')[0]}, {row['psnr']:.2f} dB"] = outputs[0]
            result = {
                "command": shown, "size": args.size, "load_average": os.getloadavg()[0],
                "threads": os.environ.get("NUMBA_NUM_THREADS", str(os.cpu_count())), "rows": rows,
            }  # fmt: skip
            target.write_text(json.dumps(result, indent=1) + "\n")
        chosen = [item for item in images.items() if item[0].startswith(("reference", "zero", "TV", "SAFI"))]
        if args.full and case[0] == "one coil, 4x" and len(chosen) == 4:
            panels(IMAGES / "mri.png", [chosen], white=0.75)


if __name__ == "__main__":
    main()
