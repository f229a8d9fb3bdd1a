"""The inverse problems of bench/experiments/inverse.py: measurements, tuning problems, what is tried for each method.

`COMMANDS` has a generator for each command: (name, tuning case or cases, test cases by image, lists).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.data
from PIL import Image

from bench.data.problems import DATA, brain_kspace, given_mask, head, line_mask, middle
from safi_fast.operators import (
    Blur,
    Downsample,
    FourierMRI,
    Mask,
    ParallelBeamCT,
    SenseMRI,
    estimate_maps,
)

BOX = (0.0, 1.0)
LEVELS = (5 / 255, 15 / 255, 25 / 255, 50 / 255)  # of the mask of SAFI
MMR, SAFI = "MMR, published weights", "SAFI, safi-gray"
TUNING, TESTS = "02", ["01", *(f"{n:02}" for n in range(3, 13))]  # of set12
MORE_TUNINGS = ("astronaut", "chelsea", "coffee")  # of scikit-image


@dataclass
class Case:
    """One problem: measurements of the reference, and what is shown as its first row."""

    operator: Any
    y: Any
    reference: Any
    first: tuple[str, Any]
    kernel: Any = None
    other: Any = None  # a second reference to score against

    @property
    def box(self):
        return None if self.operator.image == "complex" else BOX


@dataclass
class Lists:
    """Strengths tried for each method, for WCRR with each of its levels (8-bit scale); none for MMR: no row."""

    tv: Any
    cg: Any
    safi: Any
    mmr: Any = ()
    wcrr: Any = ()
    levels: Any = (None,)
    wcrr_levels: Any = (10.0,)
    refined: bool = False  # by `search`
    coarse: tuple[str, ...] = ()  # methods whose lists are not refined
    tune_outer: int | None = None  # args.tune_outer by default
    tune_inner: int = 150
    chosen: dict[str, Any] = field(default_factory=dict)  # by method: kept for further tests of the same kind


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
    """espirit_full: k-space (8, *shape), maps, the combined image of peak 1, and its noise per real number.

    Of k-space the low frequencies only, where the shape is smaller.
    """
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
TUNED_MASKS, TESTED_MASKS = (1, 2, 3), (4, 5, 6)  # their seeds
HEADS = ("lsq61", "lsq121", "lsq181")


def mri(args):
    """The brain and three heads, each with three masks; tuned on another head of args.size, with three others."""
    square = (args.size, args.size)
    kspace, maps, image, level = brain((230, 180))
    heads = {name: middle(head(name), (230, 180)) for name in HEADS}
    for acceleration, centre in ACCELERATIONS:
        tuning = [random_lines(head("lsq21", args.size), acceleration, centre, seed) for seed in TUNED_MASKS]
        tests = {
            f"{name} {seed}": random_lines(reference, acceleration, centre, seed)
            for name, reference in {"brain": np.abs(image), **heads}.items()
            for seed in TESTED_MASKS
        }
        yield f"one coil, {acceleration}x", tuning, tests, mri_lists(cg=[1e-6, 1e-5, 1e-4], mmr=[2.5e-6, 1e-5])
    total = np.hypot(0.002, level)
    for acceleration, centre in ACCELERATIONS:
        tuning = [
            simulated_coils(head("lsq21", args.size), brain(square)[1], acceleration, centre, seed, total)
            for seed in TUNED_MASKS
        ]
        lists = mri_lists(cg=[1e-3, 1e-2, 1e-1], mmr=[1e-5, 4e-5, 1.6e-4])
        tests = {
            f"brain {seed}": several_coils(kspace, maps, image, acceleration, centre, seed) for seed in TESTED_MASKS
        }
        yield f"8 coils, {acceleration}x", tuning, tests, lists
        tests = {
            f"{name} {seed}": simulated_coils(reference, maps, acceleration, centre, seed, total)
            for name, reference in heads.items()
            for seed in TESTED_MASKS
        }
        yield f"8 simulated coils, {acceleration}x", tuning, tests, lists


def simulated_coils(image, maps, acceleration, centre, seed, level) -> Case:
    """The image seen through the coils of another head, with noise of `level` on each real number."""
    full = SenseMRI(maps, np.ones(image.shape, bool), mask_order="centered", check_order=False)
    seen = full.apply(image.astype(np.complex64))
    return several_coils(seen, maps, full.adjoint(seen), acceleration, centre, seed, level)


def mri_lists(cg, mmr) -> Lists:
    """MMR as it stands: with one coil ever smaller strengths score alike, and are not solved within the limits."""
    return Lists(
        tv=[3e-4, 1e-3, 3e-3], cg=cg, safi=[4e-4, 1.6e-3, 6.4e-3], mmr=mmr, wcrr=[1e-2, 3e-2, 9e-2],
        levels=LEVELS, wcrr_levels=(10.0, 20.0), refined=True, coarse=(MMR,),
    )  # fmt: skip


GIVEN = ("Q_Cartesian30", "Q_Radial30", "Q_Random30")


def siat(args):
    """Heads, 256 x 256, with the masks given for that size; parameters as chosen by `mri` for one coil, 4x."""
    tuning = random_lines(head("lsq21", args.size), 4, 0.08, 1)
    lists = Lists(
        tv=[5.2e-4], cg=[1e-8], safi=[2e-4], mmr=[2.5e-6], wcrr=[1e-2], levels=(25 / 255,), wcrr_levels=(20.0,)
    )
    for name in GIVEN:
        mask = given_mask(name)
        tests = {
            image: single_coil(middle(head(image), mask.shape), mask, np.random.default_rng(2), "fft")
            for image in HEADS
        }
        yield f"{name}, {mask.mean():.1%} sampled", tuning, tests, lists


def gray(path, side=None):
    image = np.asarray(Image.open(path).convert("L"), np.float32) / 255
    return image if side is None else middle(image, (side, side))


def half(image):
    """Means of 2 x 2 pixels."""
    h, w = image.shape
    return image.reshape(h // 2, 2, w // 2, 2).mean((1, 3), dtype=np.float64).astype(np.float32)


def abdomen(name, views, size, seed, same_grid=False) -> Case:
    """Simulated on a grid twice as fine, or on that of the reconstruction; noise 0.05 in line integrals, in pixels."""
    fine = gray(DATA / "ct" / "abdomen" / f"{name}.png")
    while fine.shape[0] > 2 * size:
        fine = half(fine)
    reference = half(fine)
    if reference.shape[0] != size:
        raise SystemExit(f"--size {size}: the slices have 512 x 512 pixels; expected 256, 128, 64 or 32")
    angles, detectors = np.linspace(0, np.pi, views, endpoint=False), int(np.ceil(size * 1.45))
    op = ParallelBeamCT((size, size), angles, detectors)
    seen = (
        op.apply(reference) if same_grid else ParallelBeamCT(fine.shape, angles, detectors, pixel_size=0.5).apply(fine)
    )
    y = seen + np.float32(0.05) * noise(op.shape_out, np.random.default_rng(seed), False)
    return Case(op, y, reference, ("FBP", np.clip(op.fbp(y), 0, 1)))


def tooth(step, offset, size) -> Case:
    """Every step-th view, detector cells joined in pairs.

    The reference is the FBP of all 181, the other one that of the views not used.
    """
    sinogram = np.asarray(Image.open(DATA / "ct" / "tooth.tiff"), np.float32)
    sinogram = sinogram.reshape(181, 200, 2).mean(2)
    angles, spacing = np.linspace(0, np.pi, 181), size / 200
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    inside = rows**2 + columns**2 < (size / 2 - 2) ** 2

    def views(chosen):
        return ParallelBeamCT((size, size), angles[chosen], 200, spacing)

    peak = np.percentile(views(slice(None)).fbp(sinogram)[inside], 99.9)

    def shown(chosen):
        """FBP, white at `peak`."""
        return (np.clip(views(chosen).fbp(sinogram[chosen]) / peak, 0, 1) * inside).astype(np.float32)

    chosen = np.arange(offset, 180, step)
    y = np.ascontiguousarray(sinogram[chosen] / peak, np.float32)
    unused = np.setdiff1d(np.arange(180), chosen)
    return Case(views(chosen), y, shown(slice(None)), ("FBP", shown(chosen)), other=shown(unused))


def ct_lists(op, centre, levels, **more) -> Lists:
    """Around `centre`, times norm^2; levels of 255."""
    scale = op.norm**2 * centre * np.array([1 / 3, 1, 3])
    return Lists(
        tv=scale / 3, cg=scale * 10, safi=scale, wcrr=scale * 30, levels=tuple(level / 255 for level in levels),
        refined=True, tune_outer=4, tune_inner=200, **more,
    )  # fmt: skip


def ct(args):
    """The abdomen at args.size, the tooth on the grid of its detector."""
    args.tv_steps = min(args.tv_steps, 1000)
    for views, centre in ((60, 3e-5), (200, 3e-5)):
        tuning, test = abdomen("phantom_49", views, args.size, 1), abdomen("phantom_149", views, args.size, 2)
        lists = ct_lists(tuning.operator, centre, (5, 15, 50))
        lists.mmr = lists.safi / 40
        yield f"abdomen, {views} views", tuning, {"phantom_149": test}, lists
    for step in (2, 3, 4):
        tuning, test = tooth(step, 1, 200), tooth(step, 0, 200)
        lists = ct_lists(tuning.operator, 1e-4, (15, 50))
        lists.mmr = lists.safi / 40
        yield f"tooth, {len(test.y)} of 181 views", tuning, {"tooth": test}, lists


def ct_grid(args):
    """What the coarse grid costs: the abdomen with 200 views, data from a grid twice as fine and from the same one."""
    args.tv_steps = min(args.tv_steps, 1000)
    tuning, test = (
        [abdomen(name, 200, args.size, seed, same) for same in (False, True)]
        for name, seed in (("phantom_49", 1), ("phantom_149", 2))
    )
    misfit = np.sqrt(np.mean((test[0].y - test[1].y) ** 2, dtype=np.float64))
    for i, name in enumerate((f"data from the fine grid, misfit {misfit:.3f}", "data from the same grid")):
        lists = ct_lists(tuning[i].operator, 3e-5, (5, 15, 50))
        yield name, tuning[i], {"phantom_149": test[i]}, lists


def photograph(name, size):
    """The middle of an image of set12."""
    return gray(DATA / "set12" / f"{name}.png", size)


def photographs(args, build):
    return {name: build(photograph(name, args.size), 2) for name in args.images}


def tunings(args, build):
    """The image of set12 that is not tested on, a smooth one, and three photographs of scikit-image: for one alone the
    best strength is that of its own texture.
    """
    middles = [photograph(TUNING, args.size)]
    for name in MORE_TUNINGS:
        grey = Image.fromarray(getattr(skimage.data, name)()).convert("L")
        middles.append(middle(np.asarray(grey, np.float32) / 255, (args.size, args.size)))
    return [build(image, seed) for seed, image in zip((1, 3, 4, 5), middles, strict=True)]


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
            levels=LEVELS, refined=True,
        )  # fmt: skip
        tuning = tunings(args, partial(build, kernel=levin(1)))
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
            levels=LEVELS, refined=True,
        )  # fmt: skip
        tuning = tunings(args, build)
        yield f"{missing:.0%} of the pixels missing", tuning, photographs(args, build), lists


def bicubic(y, factor, shape):
    """Cubic spline interpolation at the pixels of the fine grid."""
    axes = [(np.arange(n) - (factor - 1) / 2) / factor for n in shape]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.clip(scipy.ndimage.map_coordinates(y, grid, order=3, mode="reflect"), 0, 1).astype(np.float32)


def superres(args):
    def build(image, seed):
        op = Downsample(2, image.shape)
        y = op.apply(image) + np.float32(2.55 / 255) * noise(op.shape_out, np.random.default_rng(seed), False)
        return Case(op, y, image, ("bicubic", bicubic(y, 2, image.shape)))

    lists = Lists(
        tv=[3e-4, 1e-3, 3e-3], cg=[1e-4, 1e-3, 1e-2], safi=[3e-4, 1e-3, 3e-3], mmr=[8e-6, 2.4e-5, 8e-5],
        levels=LEVELS, refined=True,
    )  # fmt: skip
    yield "2x", tunings(args, build), photographs(args, build), lists


COMMANDS = {
    "mri": mri, "siat": siat, "ct": ct, "ct_grid": ct_grid, "blur": blur, "inpaint": inpaint, "superres": superres,
}  # fmt: skip
