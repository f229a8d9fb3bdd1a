"""SAFI against classical reconstructions on real data: the tables of docs/results.

    python bench/inverse.py mri | siat | ct | blur | inpaint | superres [--outer 6] [--inner 120] [--wcrr] [--full]
    python bench/inverse.py tables

Every method has its parameters chosen on one other image of the same kind, from a short list, by mean squared error; SAFI and MMR share
one budget of outer and inner steps. Results go to bench/results/inverse_<command>.json row by row; `tables` writes docs/results/*.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
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
TUNING, TESTS = "02", ["01", *(f"{n:02}" for n in range(3, 13))]  # of set12


@dataclass
class Case:
    """One problem: measurements of the reference, and what is shown as its first row."""

    operator: Any
    y: Any
    reference: Any
    first: tuple[str, Any]
    kernel: Any = None
    inside: Any = ...  # pixels that count
    other: Any = None  # a second reference to score against

    @property
    def box(self):
        return None if self.operator.image == "complex" else BOX


@dataclass
class Lists:
    """Strengths tried for each method; for WCRR with each of its noise levels, on the 8-bit scale. No MMR row without strengths."""

    tv: Any
    cg: Any
    safi: Any
    mmr: Any = ()
    wcrr: Any = ()
    levels: Any = (None,)
    wcrr_levels: Any = (10.0,)
    refined: bool = False  # by `search`
    tune_outer: int | None = None  # args.tune_outer by default
    tune_inner: int = 150
    chosen: dict[str, Any] = field(default_factory=dict)  # by method: kept for further tests of the same kind


def scores(case: Case, image) -> dict[str, float]:
    """PSNR and SSIM of the magnitude, on [0, 1]."""
    a, b = (np.abs(v).astype(np.float64)[case.inside] for v in (case.reference, image))
    more = {} if case.other is None else {"psnr_other": round(psnr(case.other.astype(np.float64)[case.inside], b), 2)}
    return {"psnr": round(psnr(a, b), 2), "ssim": round(ssim(a, b), 4), **more}


def error(case: Case, image) -> float:
    return float(np.mean(np.abs(image - case.reference)[case.inside] ** 2))


def search(candidates, errors_of, levels=(None,), refined=False):
    """The strength and the noise level with the smallest error, errors_of(strengths, level) being those of a list.

    refined: lists whose end is best go on there, at most four strengths, and half a step to either side of the best is tried at its level.
    Nothing is solved where there is one only.
    """
    if len(candidates) * len(levels) == 1:
        return float(candidates[0]), levels[0]
    found, ratio = {}, candidates[-1] / candidates[-2] if refined else None

    def attempt(strengths, level):
        found.update({(level, c): e for c, e in zip(strengths, errors_of(strengths, level), strict=True)})

    for level in levels:
        attempt(candidates, level)
        for _ in range(4 if refined else 0):
            own = {c: e for (at, c), e in found.items() if at == level}
            centre = min(own, key=own.__getitem__)
            if min(own) < centre < max(own):
                break
            attempt([centre / ratio if centre == min(own) else centre * ratio], level)
    level, centre = min(found, key=found.__getitem__)
    if refined:
        attempt([centre / ratio**0.5, centre * ratio**0.5], level)
        level, centre = min(found, key=found.__getitem__)
    return float(centre), level


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
        if len(tests) > 1:
            means["psnr_of"] = [v["psnr"] for v in values]
        return {"case": name, "method": method, **means, "images": list(tests), **times, **more}, outputs

    def chosen(method, candidates, errors_of, levels=(None,)):
        if method not in lists.chosen:
            lists.chosen[method] = search(candidates, errors_of, levels, lists.refined)
        return lists.chosen[method]

    def classical(method, candidates, solve, levels=(None,)):
        """solve(case, strength, level): the image, and its last change or None."""

        def errors_of(strengths, level):
            return [error(tuning, solve(tuning, c, level)[0]) for c in strengths]

        strength, level = chosen(method, candidates, errors_of, levels)
        start = clocks()
        found = [solve(case, strength, level) for case in tests.values()]
        more = {} if found[0][1] is None else {"change": max(f[1] for f in found)}
        more |= {} if level is None else {"noise_level": level}
        return row(method, [f[0] for f in found], start, strength=strength, **more)

    if wanted(tuning.first[0]):
        yield row(tuning.first[0], [case.first[1] for case in tests.values()], clocks())
    label = "CG-SENSE" if isinstance(tuning.operator, SenseMRI) else "Tikhonov (CG)"
    if tuning.kernel is not None:
        if wanted("Wiener"):
            yield classical("Wiener", lists.cg, lambda case, c, _: (wiener(case.kernel, case.y, c), None))
    elif lists.cg is not None and wanted(label):
        yield classical(label, lists.cg, lambda case, c, _: (cg(case.operator, case.y, c, box=case.box), None))
    if wanted("TV"):
        yield classical(
            "TV", lists.tv, lambda case, c, _: tv(case.operator, case.y, c, box=case.box, steps=args.tv_steps)
        )
    if args.wcrr and len(lists.wcrr) and wanted("WCRR"):
        wcrr = Wcrr(DATA / "weights" / "wcrr.pth")

        def smooth(case, strength, level):
            steps = 100 if case is tuning else args.wcrr_steps
            return wcrr.solve(case.operator, case.y, strength, level, box=case.box, steps=steps)

        yield classical("WCRR", lists.wcrr, smooth, lists.wcrr_levels)
    for method, solver, strengths, levels in (
        ("MMR, published weights", solvers["mmr"], lists.mmr, (None,)),
        ("SAFI, safi-gray", solvers["safi"], lists.safi, lists.levels),
    ):
        if not len(strengths) or not wanted(method):
            continue

        def errors_of(strengths, level, solver=solver):
            return solver.tune_strength(
                tuning.y, tuning.operator, strengths, reference=tuning.reference, box=tuning.box, noise_level=level,
                max_outer=lists.tune_outer or args.tune_outer, max_iter=lists.tune_inner,
            ).scores.tolist()  # fmt: skip

        strength, level = chosen(method, strengths, errors_of, levels)
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
            converged=sum(bool(s.converged) for s in solutions),
            certificate=max(s.relative_gap for s in solutions), certificate_kind="ball" if case_complex(tuning) else "gap",
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
    """Every step-th view, detector cells joined in pairs; the reference is the FBP of all 181, the other one that of the views not used."""
    sinogram = np.asarray(Image.open(DATA / "ct" / "tooth.tiff"), np.float32)
    sinogram = sinogram.reshape(181, 200, 2).mean(2)
    angles, spacing = np.linspace(0, np.pi, 181), size / 200
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    inside = rows**2 + columns**2 < (size / 2 - 2) ** 2

    def views(chosen):
        return ParallelBeamCT((size, size), angles[chosen], 200, spacing)

    reference = views(slice(None)).fbp(sinogram)
    peak = np.percentile(reference[inside], 99.9)
    chosen = np.arange(offset, 180, step)
    unused = np.setdiff1d(np.arange(180), chosen)
    op = views(chosen)
    y = np.ascontiguousarray(sinogram[chosen] / peak, np.float32)
    shown = [
        (np.clip(image, 0, 1) * inside).astype(np.float32)
        for image in (reference / peak, op.fbp(y), views(unused).fbp(sinogram[unused]) / peak)
    ]
    return Case(op, y, shown[0], ("FBP", shown[1]), other=shown[2])


def ct_lists(op, centre, levels, **more) -> Lists:
    """Around `centre`, times norm^2."""
    scale = op.norm**2 * centre * np.array([1 / 3, 1, 3])
    return Lists(
        tv=scale / 3, cg=scale * 10, safi=scale, wcrr=scale * 30, levels=levels,
        refined=True, tune_outer=4, tune_inner=200, **more,
    )  # fmt: skip


def ct(args):
    """Noise levels: the best of 5, 15, 25 and 50 in an earlier sweep; for 200 views that was the last, so the first is tried again too."""
    size = args.size
    args.tv_steps = min(args.tv_steps, 1000)
    for views, levels in ((60, (5 / 255,)), (200, (5 / 255, 50 / 255))):
        tuning, test = abdomen("phantom_49", views, size, 1), abdomen("phantom_149", views, size, 2)
        lists = ct_lists(tuning.operator, 1e-4, levels)
        lists.mmr = lists.safi / 40
        yield f"abdomen, {views} views", tuning, {"phantom_149": test}, lists
    for step, level in ((2, 50), (3, 25), (4, 50)):
        tuning, test = tooth(step, 1, size), tooth(step, 0, size)
        lists = ct_lists(tuning.operator, 1e-4, (level / 255,))
        lists.mmr, lists.wcrr = lists.safi / 40, ()
        yield f"tooth, {len(test.y)} of 181 views", tuning, {"tooth": test}, lists


def ct_large(args):
    """60 views on finer grids, one noise level each: the one chosen by `ct`."""
    args.tv_steps = min(args.tv_steps, 1000)
    for name, tuning, test, level in (
        ("tooth, 60 of 181 views, 200 x 200", tooth(3, 1, 200), tooth(3, 0, 200), 25),
        ("abdomen, 60 views, 256 x 256", abdomen("phantom_49", 60, 256, 1), abdomen("phantom_149", 60, 256, 2), 5),
    ):
        yield name, tuning, {name.split(",")[0]: test}, ct_lists(tuning.operator, 1e-4, (level / 255,))


def photograph(name, size):
    """The middle of an image of set12."""
    return gray(DATA / "set12" / f"{name}.png", size)


def photographs(args, build):
    return {name: build(photograph(name, args.size), 2) for name in args.images}


def levin(index):
    import h5py

    with h5py.File(DATA / "blur" / "Levin09.mat") as file:
        kernel = np.asarray(file[file["kernels"][index - 1, 0]]).T
    return (kernel / kernel.sum()).astype(np.float32)


def blur(args):
    """Parameters are chosen once for each noise level, with the first kernel."""
    for level in (2.55, 7.65):

        def build(image, seed, kernel, level=level):
            op = Blur(kernel, image.shape)
            y = op.apply(image) + np.float32(level / 255) * noise(image.shape, np.random.default_rng(seed), False)
            return Case(op, y, image, ("blurred", np.clip(y, 0, 1)), kernel=kernel)

        scale = (level / 2.55) ** 1.5
        lists = Lists(
            tv=scale * np.array([3e-4, 1e-3, 3e-3]), cg=scale * np.array([1e-3, 1e-2, 1e-1]),
            safi=scale * np.array([6e-4, 2e-3, 6e-3]), mmr=scale * np.array([4e-6, 1.2e-5, 4e-5]),
            levels=(5 / 255, 15 / 255), refined=True,
        )  # fmt: skip
        tuning = build(photograph(TUNING, args.size), 1, levin(1))
        for index in args.kernels:
            yield (
                f"Levin kernel {index}, noise {level}/255",
                tuning,
                photographs(args, partial(build, kernel=levin(index))),
                lists,
            )


def inpaint(args):
    for missing in (0.5, 0.8):

        def build(image, seed, missing=missing):
            rng = np.random.default_rng(seed)
            op = Mask(rng.random(image.shape) >= missing)
            y = op.check_measurement(op.apply(image + np.float32(2.55 / 255) * noise(image.shape, rng, False)))
            return Case(op, y, image, ("known pixels", np.clip(y, 0, 1)))

        lists = Lists(
            tv=[1e-3, 3e-3, 9e-3], cg=None, safi=[1e-3, 3e-3, 9e-3], mmr=[8e-6, 2.4e-5, 8e-5],
            levels=(5 / 255, 15 / 255), refined=True,
        )  # fmt: skip
        tuning = build(photograph(TUNING, args.size), 1)
        yield f"{missing:.0%} of the pixels missing", tuning, photographs(args, build), lists


def superres(args):
    def build(image, seed):
        op = Downsample(2, image.shape)
        y = op.apply(image) + np.float32(2.55 / 255) * noise(op.shape_out, np.random.default_rng(seed), False)
        return Case(op, y, image, ("bicubic", bicubic(y, 2, image.shape)))

    lists = Lists(
        tv=[3e-4, 1e-3, 3e-3], cg=[1e-4, 1e-3, 1e-2], safi=[3e-4, 1e-3, 3e-3], mmr=[8e-6, 2.4e-5, 8e-5],
        levels=(5 / 255, 15 / 255), refined=True,
    )  # fmt: skip
    yield "2x", build(photograph(TUNING, args.size), 1), photographs(args, build), lists


COMMANDS = {
    "mri": mri, "siat": siat, "ct": ct, "ct_large": ct_large, "blur": blur, "inpaint": inpaint, "superres": superres,
}  # fmt: skip


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
    "ct": ("CT", ["ct", "ct_large"], (
        "abdomen: simulated from a grid twice as fine as the reconstruction ({size} x {size}), Gaussian noise 0.05 in line integrals measured in "
        "pixels; tuned on another slice. tooth: a real parallel-beam sinogram, detector cells joined in pairs, {size} x {size}, every second, third, fourth "
        "view against the FBP of all 181, itself noisy, and with the noise of the views used: it limits every PSNR. There is one slice only: parameters were "
        "tuned on the views beside, of the same slice, for every method. Every list of strengths has three entries, a factor of 3 apart, goes on where its "
        "end is best, and is refined by half a step to either side; the noise level of SAFI is the best of 5, 15, 25 and 50 "
        "of 255 on the same tuning image (in an earlier sweep)."
    )),
    "restoration": ("Deblurring, inpainting, super-resolution", ["blur", "inpaint", "superres"], (
        "Means over the images of set12 that the command names ({images}), the middle {size} x {size} pixels; tuned on 02. Lists of strengths as for CT, noise "
        "levels 5 and 15 for SAFI. Blur with symmetric boundary, its parameters chosen once for each noise level, with kernel 1. Inpainting and "
        "super-resolution with noise 2.55/255."
    )),
}  # fmt: skip

ABOUT = {
    "mri_full": "espirit_full (8-coil brain, real k-space), all of it: 230 x 180. WCRR is ahead of SAFI in PSNR with one coil, 8x, and in SSIM with 8 coils, 4x; MMR in PSNR with one coil, 8x, and a little with 8 coils, 8x, and in SSIM in these and with 8 coils, 4x. The noise level of the mask, which SAFI alone has, was chosen on the tuning head (15 of 255); the brain itself prefers 25 (0.35 dB more at 64 x 64, [sensitivity](sensitivity.md)).",
    "siat": "siat heads lsq61, lsq121, lsq181 (means): the magnitude of their middle 256 x 256 pixels, one coil, with the mask Q_Cartesian30, which is given "
    "for that size (FFT order) and samples 29.7 % of the lines. Parameters as for one coil, 4x.",
    "mri": "espirit_full again, its 128 x 128 low frequencies, of an earlier run: parameters from longer lists, on two threads; those for 8 coils were chosen without the noise "
    "of the k-space in the tuning image, TV with 8 coils ran for 500 steps.",
    "ct_large": "Finer grids, with the noise level that was best at {size} x {size}.",
}

PICTURES = {"mri_full": "![The reference, zero-filled, TV and SAFI, one coil, 4x](../images/mri.png)"}

LEFT_OUT = {
    "mri": (
        "MMR on the siat heads; MMR and WCRR for the k-space as measured; the other masks given with the siat images (Q_Radial30, Q_Random30, also 256 x 256; the 320 x 320 one of "
        "MMR and SAFI is larger than these images) and its other heads. Where the status is max_iterations, the image still changed by more than 3e-3 "
        "from one mask to the next when the masks ran out; the certificate is that of the last mask. Some parameters lie at the end of their lists "
        "(see the JSON files)."
    ),
    "ct": (
        "full resolution (512 x 512, 400 x 400); WCRR (`--wcrr`); MMR on the finer grids and for the limited angle. Rows of MMR are older than the others: five strengths, of which the "
        "smallest was best for the abdomen, tuned with 12 masks of at most 150 steps (SAFI: 4 of 200), and two threads. The abdomen at 256 x 256 "
        "was not solved to the tolerance within 12 masks of 2000 steps.\n\n"
        "TV is ahead of SAFI for the abdomen with 200 views and for the tooth at {size} x {size}; not for the tooth at 200 x 200. Finer lists are not the reason: they moved TV by -0.1 to +0.1 dB and SAFI by at most "
        "0.04 dB against coarser ones. Part of the lead for the tooth is the reference, an FBP that shares noise and streaks with the views used: against the FBP of "
        "the other views, whose noise is independent but stronger, it shrinks as said above, and turns with 45 views. What remains was not explained; the slice and the phantom are nearly piecewise "
        "constant, which is what TV assumes, and SAFI was best with the mask for noise level 50 of 255, the last that safi-gray has, in three of these "
        "four cases."
    ),
    "restoration": (
        "the seven other images of set12; whole images; WCRR. SAFI is behind MMR with 80 % of the pixels missing and for kernel 6 with noise 7.65/255. Not "
        "everything converged: see the table of inpainting and the lines below those of the kernels. SAFI and MMR were tuned with masks of at most 150 steps: 12 for "
        "deblurring, 6 for the rest."
    ),
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
    first = next(iter(data.values()))
    lines = [f"# {title}", "", text.format(size=first["size"], images=", ".join(first["rows"][0]["images"])), ""]
    lines += [
        "Certificate: relative duality gap, over the box or where there is none (8 coils) over a ball (docs/adr/0009), the worst of the images; "
        "change: between the last two outer steps. Seconds are per image, on a busy machine, and include no tuning.",
        "",
    ]
    for n, one in data.items():
        clock = "cpu_seconds" if all("cpu_seconds" in row for row in one["rows"]) else "seconds"
        lines += [ABOUT[n].format(size=first["size"]), ""] if n in ABOUT else []
        lines += [
            f"Command: `{one['command']}`, load average {one['load_average']:.1f}, {one['threads']} thread(s).",
            "",
        ]
        lines += kernels(one["rows"]) if n == "blur" else every_row(one["rows"], clock)
        lines += [PICTURES[n], ""] if n in PICTURES else []
    if name == "mri" and mri_real.RESULT.exists():
        record = json.loads(mri_real.RESULT.read_text())
        lines += ["## As measured", "", *mri_real.section(record), ""]
    if name == "ct" and (found := RESULTS / "htc2022.json").exists():
        lines += ["## A limited angle", "", *limited_angle(json.loads(found.read_text())), ""]
    lines += ["Left out: " + LEFT_OUT[name].format(size=first["size"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def every_row(rows, clock) -> list[str]:
    """A table with one line for each row, and by how much SAFI is ahead of TV."""
    lines = [
        f"| case | method | PSNR | SSIM | {clock.replace('cpu_', 'CPU ')} | certificate | change | status |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        certificate = f"{row['certificate']:.1e}" if "certificate" in row else ""
        change = row.get("outer_change", row.get("change"))
        status = ", ".join(row.get("status", []))
        lines.append(
            f"| {row['case']} | {row['method']} | {row['psnr']:.2f} | {row['ssim']:.4f} | {row[clock]:.1f} | {certificate} | "
            f"{'' if change is None else f'{change:.0e}'} | {status} |"
        )
    other = [row for row in rows if "psnr_other" in row]
    lines += ["", *verdict(rows), *verdict(other, "psnr_other", " against the FBP of the views that were not used")]
    return lines + wins(rows)


def verdict(rows, score="psnr", against="") -> list[str]:
    """SAFI minus TV, and minus WCRR where that was run, of every case."""
    lines = []
    for other in ("TV", "WCRR"):
        parts = []
        for case in dict.fromkeys(row["case"] for row in rows):
            of = {row["method"].split(",")[0]: row[score] for row in rows if row["case"] == case}
            if {"SAFI", other} <= set(of):
                parts.append(f"{case} {of['SAFI'] - of[other]:+.2f} dB")
        lines += [f"SAFI minus {other}{against}: " + "; ".join(parts) + ".", ""] if parts else []
    return lines


def wins(rows) -> list[str]:
    """In how many images SAFI is ahead of TV, and the worst of them, where there are several."""
    of = {(row["case"], row["method"].split(",")[0]): row for row in rows if "psnr_of" in row}
    ahead = [
        (round(safi - tv, 2), case, image)
        for (case, method), row in of.items()
        if method == "SAFI" and (case, "TV") in of
        for safi, tv, image in zip(row["psnr_of"], of[case, "TV"]["psnr_of"], row["images"], strict=True)
    ]
    if not ahead:
        return []
    worst, case, image = min(ahead)
    count = sum(difference > 0 for difference, _, _ in ahead)
    return [
        f"SAFI is ahead of TV in {count} of {len(ahead)} images; the worst: {worst:+.2f} dB ({case}, image {image}).",
        "",
    ]


def kernels(rows) -> list[str]:
    """A table for each noise level: PSNR of each kernel and method."""
    lines = []
    for level in dict.fromkeys(row["case"].split(", ")[1] for row in rows):
        own = [row for row in rows if row["case"].endswith(f", {level}")]
        methods = list(dict.fromkeys(row["method"] for row in own))
        by_method = [[row for row in own if row["method"] == method] for method in methods]
        names = [method.split(",")[0] for method in methods]
        tv, safi = names.index("TV"), names.index("SAFI")

        def line(label, values, difference="", style="{:.2f}"):
            return f"| {label} | " + " | ".join(style.format(v) for v in values) + f" | {difference} |"

        lines += [f"Mean PSNR, {level}:", "", f"| Levin kernel | {' | '.join(names)} | SAFI minus TV |"]
        lines += ["| --- " * (len(names) + 2) + "|"]
        for row in zip(*by_method, strict=True):
            values = [r["psnr"] for r in row]
            lines.append(line(row[0]["case"].split(",")[0].split()[-1], values, f"{values[safi] - values[tv]:+.2f}"))
        means = [float(np.mean([row["psnr"] for row in one])) for one in by_method]
        lines.append(line("mean", means, f"{means[safi] - means[tv]:+.2f}"))
        lines.append(line("mean SSIM", [np.mean([row["ssim"] for row in one]) for one in by_method], style="{:.4f}"))
        lines.append("")
        for name, one in zip(names, by_method, strict=True):
            if "certificate" in one[0]:
                solved, total = sum(row["converged"] for row in one), sum(len(row["images"]) for row in one)
                lines.append(
                    f"{name}: {solved} of {total} converged, largest certificate {max(row['certificate'] for row in one):.1e}, "
                    f"{np.mean([row['seconds'] for row in one]):.1f} s per image."
                )
        lines.append("")
    return lines + wins(rows)


def limited_angle(record) -> list[str]:
    """What bench/limited_angle.py found."""
    tv_, safi = record["tv"], record["safi"]
    return [
        f"htc2022, a real fan-beam sinogram (plastic disc with holes): {record['views']} views over {record['degrees']:.0f} degrees, detector cells joined "
        f"in pairs, {record['size']} x {record['size']}, box [0, 1] with 1 at 0.045 / mm. There is no reference. Strengths were chosen by the prediction of views "
        "left out (one of five), on a grid half as fine.",
        "",
        "![Filtered back projection, TV and SAFI from 90 degrees](../images/htc2022.png)",
        "",
        f"TV: {tv_['seconds']:.0f} s, last change {tv_['change']:.0e}. SAFI: {safi['seconds']:.0f} s, {safi['status']} after {safi['steps']} steps, relative gap {safi['certificate']:.1e}, change "
        f"{safi['outer_change']:.0e}. Load average {record['load_average']:.1f}, {record['threads']} thread(s). Command: `{record['command']}`.",
    ]


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
    parser.add_argument("--kernels", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--images", nargs="+", default=TESTS, help="of set12, for blur, inpaint, superres")
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
    shown += f" --images {' '.join(args.images)}" if args.images != TESTS else ""
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
