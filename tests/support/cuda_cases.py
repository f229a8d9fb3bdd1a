"""Every CUDA kernel alone against float64: CASES[name](bench) launches it and yields a Result per image and output.

What has to be exact (copies, clipping, zeros, slots) is asserted in the case itself. Run on any device:
tests/cuda/test_cuda_kernels.py.
"""

import importlib
from functools import partial

import numpy as np
import oracle
import plain
from cuda_bench import Result
from models import random_mmr_mask
from scipy.special import expit

from safi_fast.bindings import weights as layout
from safi_fast.bindings.cuda_varying import OPTION
from safi_fast.bindings.launch import Kernel, analysis_blocks, ceil_div, image_blocks

CASES = {}
TENSOR_CASES = (  # those whose kernels have a variant on tensor cores
    "analysis", "analysis, mask", "analysis, magnitude", "masked norm", "masked norm, no mask", "dual step",
    "dual step, no mask", "anchored step", "anchored step, no mask",
    "synthesis", "synthesis, other slot, no mask", "convolution", "convolution, dilated", "convolution, last",
    "W^T (M . u)", "W^T u",
)  # fmt: skip
KERNELS = {  # by file
    "analysis": ("analysis", "masked_norm", "dual_step", "anchored_step"),
    "synthesis": ("synthesis",),
    "border": ("synthesis_border",),
    "image": ("set_image", "get_image", "gather_image", "image_step", "primal_sums", "outer_sums"),
    "features": ("features",),
    "convolution": ("convolution",),
    "depthwise": ("depthwise",),
    "state": ("totals", "advance", "stop", "clear_dual", "collapse_momentum", "weigh_mask"),
    "halpern": ("extrapolate", "move_rows", "restart", "mix_images", "mix_rows"),
}
NO_BOX = (-np.inf, np.inf)
VARYING = (OPTION,)


def case(name, **choices):
    """Enter a case under a name, once for each set of choices."""

    def enter(function):
        CASES[name] = partial(function, **choices)
        return function

    return enter


def twin(name, *args):
    """The same by the CPU backend (cuda_twins.py), computed when asked for: a sanitized process never loads Numba."""
    return lambda: getattr(importlib.import_module("cuda_twins"), name)(*args)


# -------------------------------------------------------------------------------------------------------- filter bank
def exact_analysis(bench, x, mask):
    """M . W x in float64 and in plain float32, which adds tap after tap of the composed filters, as the kernels do."""
    exact = oracle.analysis(x, bench.filters.layers, bench.boundary)
    filters, reach = oracle.compose(bench.filters.layers), bench.filters.support // 2
    wide = np.pad(x, reach, mode=oracle.PAD_MODE[bench.boundary])
    rounded = np.zeros(exact.shape, np.float32)
    for row, column in np.ndindex(filters.shape[1:]):
        taps = filters[:, row, column].astype(np.float32)
        rounded += taps[:, None, None] * wide[row : row + bench.height, column : column + bench.width]
    # layer-wise zero padding changes values near the border, but adds no rounding of another size
    rounded = exact + (rounded - oracle.correlate(x[None], filters[:, None], bench.boundary))
    return (exact, rounded) if mask is None else (mask * exact, mask * rounded)


def analysis_rounding(bench, x, mask):
    """What rounded factors change in M . W x at most; what layer-wise zero padding takes off is computed in float32."""
    if not bench.shape.tensor:
        return 0.0
    filters = np.abs(oracle.compose(bench.filters.layers))[:, None]
    rounding = bench.rounding * oracle.correlate(np.abs(x)[None], filters, bench.boundary)
    return rounding if mask is None else mask * rounding


def synthesis_rounding(bench, masked_u):
    """What rounded factors change in W^T (M . u) at most."""
    if not bench.shape.tensor:
        return 0.0
    filters = np.abs(oracle.compose(bench.filters.layers))[:, None]
    return bench.rounding * oracle.correlate_adjoint(np.abs(masked_u), filters, bench.boundary)[0]


def spread_out(u, filters):
    """W^T u before the extension is folded back, in float64 and, adding channel after channel and tap after tap, in
    float32.
    """
    exact = oracle._valid_adjoint(u.astype(float), filters[:, None])[0]
    rounded = np.zeros(exact.shape, np.float32)
    taps, (_, height, width) = filters.astype(np.float32), u.shape
    for c, row, column in np.ndindex(filters.shape):
        rounded[row : row + height, column : column + width] += taps[c, row, column] * u[c]
    return exact, rounded


def exact_synthesis(bench, u, mask):
    """W^T (M . u) in float64 and in plain float32."""
    masked_u = u if mask is None else u * mask
    exact = oracle.synthesis(masked_u.astype(float), bench.filters.layers, bench.boundary)
    whole, rounded = spread_out(masked_u, oracle.compose(bench.filters.layers))
    error = oracle._pad_adjoint((rounded - whole)[None], bench.filters.support // 2, bench.boundary)[0]
    return exact, exact + error


def masks_or_none(bench, masked):
    """Masks by image and the argument of a kernel; twice None for M = 1."""
    if not masked:
        return [None] * bench.batch, None
    mask = bench.uniform(bench.batch, bench.used, bench.height, bench.width)
    return mask, bench.masks(mask)


@case("analysis", masked=False, magnitude=False)
@case("analysis, mask", masked=True, magnitude=False)
@case("analysis, magnitude", masked=False, magnitude=True)
def analysis(bench, masked, magnitude):
    x, slot, output_slot = bench.images(), bench.slots(4), bench.slots()
    mask, masks = masks_or_none(bench, masked)
    output = bench.blank((2, bench.batch, bench.channels, bench.height, bench.shape.stride))
    bench.launch(
        "analysis", "analysis", bench.put(slot), bench.image_planes((slot, x)), masks, np.int32(magnitude), output,
        bench.put(output_slot), bench.analysis_filters(), bench.border(), writes=[(output, bench.rows_of(output_slot))],
        options=bench.support_option,
    )  # fmt: skip
    assert_zero_outside(bench, output, output_slot)
    for b, actual in bench.read_channels(output, output_slot):
        exact, rounded = exact_analysis(bench, x[b], mask[b])
        if magnitude:
            exact, rounded = np.abs(exact), np.abs(rounded)
        same = twin("analysis", bench.model, x[b], mask[b], magnitude)
        yield Result("W x", actual, exact, rounded, twin=same, rounding=analysis_rounding(bench, x[b], mask[b]))


def assert_zero_outside(bench, array, slot):
    """Zeros in the columns from the width on that were written, and in the channels that only
    fill up the last block.
    """
    for b in bench.active:
        written = array[slot[b], b, :, :, : bench.stored]
        assert not bench.device.download(written)[:, :, bench.width :].any()
        assert not bench.device.download(written)[bench.used :].any()


@case("masked norm", masked=True)
@case("masked norm, no mask", masked=False)
def masked_norm(bench, masked):
    x, slot = bench.images(), bench.slots(4)
    mask, masks = masks_or_none(bench, masked)
    l1 = bench.blank((bench.batch, analysis_blocks(bench.shape)), np.float64)
    bench.launch(
        "analysis", "masked_norm", bench.put(slot), bench.image_planes((slot, x)), masks, l1, bench.analysis_filters(),
        bench.border(), writes=[(l1, bench.active)], options=bench.support_option,
    )  # fmt: skip
    for b in bench.active:
        exact, rounded = exact_analysis(bench, x[b], mask[b])
        same = twin("masked_norm", bench.model, x[b], mask[b])
        yield Result(
            "||M . W x||_1", bench.read(l1, b).sum(), np.abs(exact).sum(), np.abs(rounded).sum(), ulps=4, twin=same,
            rounding=np.sum(analysis_rounding(bench, x[b], mask[b])),
        )  # fmt: skip


@case("dual step", masked=True)
@case("dual step, no mask", masked=False)
def dual_step(bench, masked):
    """Every image with its own step, bound and carried momentum; the new u takes the place of the previous one."""
    x, slot, u, before = bench.images(), bench.slots(), 0.1 * bench.responses(), 0.1 * bench.responses()
    mask, masks = masks_or_none(bench, masked)
    step, bound, carried = (0.3 + bench.uniform(3, bench.batch)) * np.float32([[1], [0.1], [0.5]])
    carried[bench.active[0]] = 0
    dual = bench.slotted((slot, u), (1 - slot, before))
    l1 = bench.blank((bench.batch, analysis_blocks(bench.shape)), np.float64)
    bench.launch(
        "analysis", "dual_step", bench.put(slot), bench.image_planes((slot, x)), dual, masks, bench.per_image(step),
        bench.per_image(bound), bench.per_image(carried), l1, bench.analysis_filters(), bench.border(),
        writes=[(dual, bench.rows_of(1 - slot)), (l1, bench.active)], options=bench.support_option,
    )  # fmt: skip
    assert_zero_outside(bench, dual, 1 - slot)
    for b, actual in bench.read_channels(dual, 1 - slot):
        assert np.abs(actual).max() <= bound[b]
        exact, rounded = exact_analysis(bench, x[b], mask[b])
        both = []
        for response, v in ((exact, u[b].astype(float)), (rounded, u[b])):
            v = v + carried[b] * (v - before[b])
            both.append(np.clip(v + step[b] * response, -bound[b], bound[b]))
        same = (bench.model, x[b], mask[b], u[b], before[b], step[b], bound[b], carried[b])
        rounding = analysis_rounding(bench, x[b], mask[b])
        yield Result("u", actual, *both, twin=twin("dual_step", *same), rounding=step[b] * rounding)
        yield Result(
            "||M . W x||_1", bench.read(l1, b).sum(), np.abs(exact).sum(), np.abs(rounded).sum(),
            twin=twin("masked_norm", bench.model, x[b], mask[b]), rounding=np.sum(rounding),
        )  # fmt: skip


@case("anchored step", masked=True)
@case("anchored step, no mask", masked=False)
def anchored_step(bench, masked):
    """With masks the first image starts anew, so that its u goes into both slots, without it makes a relaxed step; the
    others keep their anchor.
    """
    x, slot, u, anchor = bench.images(), bench.slots(), 0.1 * bench.responses(), 0.1 * bench.responses()
    mask, masks = masks_or_none(bench, masked)
    step, bound, weight = (0.3 + bench.uniform(3, bench.batch)) * np.float32([[1], [0.1], [0.5]])
    first = bench.active[0]
    weight[first] = 0 if masked else 1.7
    dual = bench.slotted((slot, u), (1 - slot, anchor))
    l1 = bench.blank((bench.batch, analysis_blocks(bench.shape)), np.float64)
    restarted = (1 - slot[first], first, slice(None), slice(None), slice(0, bench.stored))
    bench.launch(
        "analysis", "anchored_step", bench.put(slot), bench.image_planes((slot, x)), dual, masks, bench.per_image(step),
        bench.per_image(bound), bench.per_image(weight), l1, bench.analysis_filters(), bench.border(),
        writes=[(dual, bench.rows_of(slot)), *[(dual, restarted)][:masked], (l1, bench.active)],
        options=bench.support_option,
    )  # fmt: skip
    assert_zero_outside(bench, dual, slot)
    for b, actual in bench.read_channels(dual, slot):
        most = bound[b] * (np.ones_like(actual) if mask[b] is None else mask[b])
        both, changes = [], []
        for response, start in zip(exact_analysis(bench, x[b], None), (u[b].astype(float), u[b]), strict=True):
            hat = np.clip(start + step[b] * response, -most, most)
            changes.append(np.sum((hat - start) ** 2, dtype=np.float64))
            kept = weight[b] * (2 * hat - start) + (1 - weight[b]) * anchor[b]
            relaxed = start + weight[b] * (hat - start)
            both.append(relaxed if weight[b] > 1 else kept if weight[b] > 0 else hat)
        rounding = step[b] * analysis_rounding(bench, x[b], None)
        same = (bench.model, x[b], mask[b], u[b], anchor[b], step[b], bound[b], weight[b])
        yield Result("u", actual, *both, twin=twin("anchored_step", *same, False), rounding=2 * rounding)
        largest = np.abs(both[0] - u[b]).max()
        yield Result(
            "||u_hat - u||^2", bench.read(l1, b).sum(), *changes, twin=twin("anchored_step", *same, True),
            rounding=2 * largest * np.sum(rounding) if bench.shape.tensor else 0.0,
        )  # fmt: skip
        if weight[b] == 0:
            start = bench.read(dual[1 - slot[b], b][: bench.used, :, : bench.width])
            yield Result("anchor", start, *both, rounding=rounding)


@case("synthesis", masked=True, other=False)
@case("synthesis, other slot, no mask", masked=False, other=True)
def synthesis(bench, masked, other):
    """Each summand: the composed filters of its channels on the extended image, or on an extended tile."""
    u, slot = bench.responses(), bench.slots()
    mask, masks = masks_or_none(bench, masked)
    parts, _ = bench.parts()
    dual = bench.slotted((1 - slot if other else slot, u))
    bench.launch(
        "synthesis", "synthesis", bench.put(slot), np.int32(other), dual, masks, parts, bench.synthesis_filters(),
        writes=[(parts, bench.active)], options=bench.support_option,
    )  # fmt: skip
    filters = np.zeros((bench.channels, *bench.composed.shape[1:]))
    filters[: bench.used] = oracle.compose(bench.filters.layers)
    splits = bench.shape.splits
    for b in bench.active:
        masked_u = np.zeros((bench.channels, bench.height, bench.width), np.float32)
        masked_u[: bench.used] = u[b] if mask[b] is None else u[b] * mask[b]
        for s in range(splits):
            some = slice(s * bench.channels // splits, (s + 1) * bench.channels // splits)
            for tile, piece in enumerate(bench.tiled(masked_u[some])):
                rounding = 0.0
                if bench.shape.tensor:
                    rounding = bench.rounding * oracle._valid_adjoint(np.abs(piece), np.abs(filters[some, None]))[0]
                yield Result(
                    "W^T (M . u)", bench.read(parts, (b, s, tile)), *spread_out(piece, filters[some]), rounding=rounding
                )


@case("synthesis border", masked=True, other=False)
@case("synthesis border, other slot, no mask", masked=False, other=True)
def synthesis_border(bench, masked, other):
    """Composed filters less the cascade, on the ring; W^T u of the composed filters is only its reference here."""
    if not bench.shape.band:
        return
    u, slot = bench.responses(), bench.slots()
    mask, masks = masks_or_none(bench, masked)
    dropped = bench.blank((bench.batch, bench.height, bench.width))
    ring = ring_of(bench)
    writes = np.zeros(dropped.shape, bool)
    writes[bench.active] = ring
    bench.launch(
        "border", "synthesis_border", bench.put(slot), np.int32(other), bench.slotted((1 - slot if other else slot, u)),
        masks, dropped, bench.border(), writes=[(dropped, writes)], options=bench.support_option,
    )  # fmt: skip
    composed = [oracle.compose(bench.filters.layers)[:, None]]
    for b in bench.active:
        masked_u = u[b] if mask[b] is None else u[b] * mask[b]
        whole = oracle.synthesis(masked_u.astype(float), composed, "zero")
        rounded = plain.correlate_adjoint(masked_u, composed[0], "zero")[0]
        by_layers = (
            oracle.synthesis(masked_u.astype(float), bench.filters.layers, "zero"),
            plain.synthesis(masked_u, bench.filters),
        )
        exact, rounded = whole - by_layers[0], rounded - by_layers[1]
        inside = ~ring
        assert np.abs(exact[inside]).max(initial=0) < 1e-12 * np.abs(whole).max()
        actual = bench.peek(dropped)[b]
        assert np.isnan(actual[inside]).all()
        assert not np.isnan(actual[ring]).any()
        yield Result("dropped", actual[ring], exact[ring], rounded[ring])


def ring_of(bench):
    """(H, W): within band + support / 2 of the border."""
    inside = np.zeros((bench.height, bench.width), bool)
    reach = bench.shape.band + bench.filters.support // 2
    inside[reach : bench.height - reach, reach : bench.width - reach] = True
    return ~inside if bench.height > 2 * reach and bench.width > 2 * reach else np.ones_like(inside)


# -------------------------------------------------------------------------------------------------------------- images
@case("set image")
def set_image(bench):
    x, slot = bench.images(), bench.slots()
    image = bench.image_planes((slot, np.zeros_like(x)))
    bench.launch(
        "image", "set_image", bench.put(slot), bench.per_image(x), image, bench.symmetric,
        writes=[(image, bench.region(slot))],
    )  # fmt: skip
    for b in bench.active:
        stored = bench.read(image, (slot[b], b, slice(None), slice(0, bench.width + 2 * bench.halo)))
        same = twin("set_image", bench.model, x[b])
        yield Result("x", stored, bench.extended(x[b]), bench.extended(x[b]), ulps=0, twin=same)


@case("get image")
def get_image(bench):
    x, plane = bench.images(), bench.slots(4)
    values = bench.blank(x.shape)
    bench.launch(
        "image", "get_image", bench.put(plane), bench.image_planes((plane, x)), values, writes=[(values, bench.active)]
    )
    for b in bench.active:
        yield Result("x", bench.read(values, b), x[b], x[b], ulps=0)


@case("gather image", tiled=False)
@case("gather image, tiles", tiled=True)
def gather_image(bench, tiled):
    """From random summands: add, fold, take off what the border drops."""
    values, sizes, summands = random_summands(bench, tiled)
    there = bench.per_image(values)
    parts = np.array([(*sizes, bench.device.address(there))], layout.PARTS)
    nothing = np.zeros((bench.batch, bench.height, bench.width), np.float32)
    off = np.where(ring_of(bench), bench.images(), 0).astype(np.float32) if bench.shape.band else nothing
    dropped = bench.per_image(np.where(ring_of(bench), off, np.nan)) if bench.shape.band else None
    z = bench.blank(nothing.shape)
    bench.launch(
        "image", "gather_image", parts, np.int32(bench.shape.band), dropped, bench.symmetric, z,
        writes=[(z, bench.active)],
    )  # fmt: skip
    for b in bench.active:
        zero = np.zeros_like(off[b])
        inputs = (summands[b], off[b], zero, zero, zero, zero)
        both = [
            moved(bench, [kind(v) for v in inputs], np.float32(0), *np.float32(NO_BOX))["z"]
            for kind in (np.float64, np.float32)
        ]
        yield Result("W^T u", bench.read(z, b), *both)


@case("image step", refresh=False, tiled=False)
@case("image step, refresh", refresh=True, tiled=False)
@case("image step, tiles", refresh=False, tiled=True)
@case("image step, refresh, tiles", refresh=True, tiled=True)
@case("image step, no box", refresh=False, tiled=False, box=NO_BOX)
@case("image step, varying noise", refresh=False, tiled=True, varying=True)
def image_step(bench, refresh, tiled, box=(0.2, 0.8), varying=False):
    """From random summands: add, fold, take off what the border drops; both images with their halos; the five sums."""
    slot, turn = bench.slots(), (np.arange(bench.batch) % 2).astype(np.int32)
    target = slot if refresh else 1 - slot
    y, x0, u_old, z_old = (bench.images() for _ in range(4))
    variance = variances(bench) if varying else None
    momenta, (low, high) = bench.uniform(2, bench.batch), np.float32(box)
    values, sizes, summands = random_summands(bench, tiled)
    values_there = bench.per_image(values)
    parts = np.array([(*sizes, bench.device.address(values_there))], layout.PARTS)
    off = np.where(ring_of(bench), bench.images(), 0).astype(np.float32) if bench.shape.band else np.zeros_like(y)
    hidden = np.where(ring_of(bench), off, np.nan)  # inside the ring it is not to be read
    dropped = bench.per_image(hidden) if bench.shape.band else None
    z, empty = np.full((2, *y.shape), np.nan, np.float32), np.full_like(y, np.nan)
    z[bench.active_of(slot)] = z_old[bench.active]
    planes = [] if refresh else [(target, empty), (2 + target, empty)]
    z, image = bench.put(z), bench.image_planes((slot, x0), (2 + slot, u_old), *planes)
    sums = bench.blank((bench.batch, image_blocks(bench.shape), 5), np.float64)
    bench.launch(
        "image", "image_step", bench.put(slot), np.int32(refresh), parts, np.int32(bench.shape.band), dropped,
        bench.per_image(y), z, image, low, high, bench.put(momenta), bench.put(turn), bench.symmetric, sums,
        bench.per_image(variance) if varying else None, options=VARYING if varying else (),
        writes=[
            (z, bench.active_of(target)), (image, bench.region(target)), (image, bench.region(2 + target)),
            (sums, bench.active),
        ],
    )  # fmt: skip
    for b in bench.active:
        factor = np.float32(0) if refresh else momenta[turn[b], b]
        spread = variance[b] if varying else np.float32(1)
        inputs = (summands[b], off[b], y[b], x0[b], u_old[b], z_old[b], spread)
        exact, rounded = (moved(bench, [t(v) for v in inputs], factor, low, high) for t in (np.float64, np.float32))
        halo = (slice(None), slice(0, bench.width + 2 * bench.halo))
        actual = {
            "z": bench.read(z, (target[b], b)),
            "x(v)": bench.read(image, (target[b], b, *halo)),
            "x(u)": bench.read(image, (2 + target[b], b, *halo)),
            "sums": bench.read(sums, b).sum(0),
        }
        same = None
        if tiled and not bench.shape.band:
            same = (bench.model, values[b, 0], y[b], x0[b], u_old[b], z_old[b], spread, factor, low, high)
        for what in ("z", "x(v)", "x(u)"):
            yield Result(what, actual[what], exact[what], rounded[what], twin=same and twin("image_step", what, *same))
        for i in range(5):  # the terms have both signs, and what they are made of is rounded
            yield Result(
                f"sum {i}", actual["sums"][i], exact["sums"][i], rounded["sums"][i], scale=exact["sizes"][i],
                twin=same and twin("image_step", i, *same),
            )  # fmt: skip


def variances(bench):
    """(B, H, W) of noise that varies, 1 at most."""
    return 0.1 + 0.9 * bench.images()


def random_summands(bench, tiled):
    """(B, n, ...) as in Parts, its four sizes, and every summand at its place in the extended image: (B, n, H + K - 1,
    W + K - 1).
    """
    spread = bench.filters.support - 1
    whole = (bench.height + spread, bench.width + spread)
    if not tiled:
        splits = bench.shape.splits
        values = 0.3 * bench.normal(bench.batch, splits, *whole)
        return values, (splits, bench.filters.support, 0, 0), values
    inner = 32 - spread  # as on the CPU
    down, across = ceil_div(bench.height, inner), ceil_div(bench.width, inner)
    values = 0.3 * bench.normal(bench.batch, 1, down * across, 32, 32)
    placed = np.zeros((bench.batch, down * across, down * inner + spread, across * inner + spread), np.float32)
    for tile in range(down * across):
        top, left = tile // across * inner, tile % across * inner
        placed[:, tile, top : top + 32, left : left + 32] = values[:, 0, tile]
    return values, (1, bench.filters.support, inner, inner), placed[..., : whole[0], : whole[1]]


def moved(bench, inputs, momentum, low, high):
    """What image_step computes, in the type of the inputs; `sizes`: of what the sums are made of."""
    summands, off, y, x0, u_old, z_old, *spread = inputs
    variance = spread[0] if spread else summands.dtype.type(1)
    kind, reach = summands.dtype, bench.filters.support // 2
    folded = oracle._pad_adjoint(summands.sum(0, dtype=kind)[None], reach, bench.boundary)[0].astype(kind)
    z = folded - off
    v, u = (np.clip(y - variance * value, low, high) for value in (z + momentum * (z - z_old), z))
    rest, change = ((x0 + u) / 2 - y) / variance + z, u - u_old
    terms = z * x0, (x0 - y) ** 2 / 2 / variance, (x0 - u) * rest, change**2, u_old**2
    sizes = z * x0, (x0 - y) / variance, np.abs(x0 - u) + np.abs(rest), np.abs(change) + np.abs(z), u_old**2
    return {
        "z": z,
        "x(v)": bench.extended(v),
        "x(u)": bench.extended(u),
        "sums": [term.sum() for term in terms],
        "sizes": [np.abs(size).sum() for size in sizes],
    }


@case("primal sums", varying=False)
@case("primal sums, varying noise", varying=True)
def primal_sums(bench, varying):
    y, x, z_now, slot = bench.images(), bench.images(), bench.images() - 0.5, bench.slots()
    z = np.full((2, *y.shape), np.nan, np.float32)
    z[bench.active_of(slot)] = z_now[bench.active]
    sums = bench.blank((bench.batch, image_blocks(bench.shape), 2), np.float64)
    variance = variances(bench) if varying else np.ones_like(y)
    bench.launch(
        "image", "primal_sums", bench.put(slot), bench.per_image(y), bench.put(z), bench.image_planes((2 + slot, x)),
        sums, bench.per_image(variance) if varying else None, options=VARYING if varying else (),
        writes=[(sums, bench.active)],
    )  # fmt: skip
    for b in bench.active:
        actual = bench.read(sums, b).sum(0)
        exact, rounded = (
            ((t(z_now[b]) * t(x[b])).sum(), ((t(x[b]) - t(y[b])) ** 2 / 2 / t(variance[b])).sum())
            for t in (np.float64, np.float32)
        )
        scales = np.abs(z_now[b] * x[b]).sum(), np.abs((x[b] - y[b]) / variance[b]).sum()
        for i in range(2):
            same = twin("primal_sums", i, bench.model, y[b], x[b], z_now[b], variance[b])
            yield Result(f"sum {i}", actual[i], exact[i], rounded[i], scale=scales[i], twin=same)


@case("outer sums")
def outer_sums(bench):
    """The image takes the place of the reference."""
    x, before, plane = bench.images(), bench.images(), bench.slots(4)
    reference = bench.per_image(before)
    sums = bench.blank((bench.batch, image_blocks(bench.shape), 2), np.float64)
    bench.launch(
        "image", "outer_sums", bench.put(plane), bench.image_planes((plane, x)), reference, sums,
        writes=[(reference, bench.active), (sums, bench.active)],
    )  # fmt: skip
    for b in bench.active:
        np.testing.assert_array_equal(bench.read(reference, b), x[b])
        actual = bench.read(sums, b).sum(0)
        exact, rounded = (
            (((t(x[b]) - t(before[b])) ** 2).sum(), (t(before[b]) ** 2).sum()) for t in (np.float64, np.float32)
        )
        for i in range(2):
            yield Result(f"sum {i}", actual[i], exact[i], rounded[i])


# --------------------------------------------------------------------------------------------------------------- masks
def random_spline(bench, knots=21):
    """(C, knots) around the identity on [-1, 1]: slopes up to about 3."""
    return (np.linspace(-1, 1, knots) + 0.1 * bench.normal(bench.used, knots)).astype(np.float32)


def assert_finite(bench, array, slot):
    """Also where a mask means nothing: in channels that only fill up, and in columns from the width on."""
    for b in bench.active:
        assert np.isfinite(bench.device.download(array[slot[b], b, :, :, : bench.stored])).all()


@case("features", kernel=5, dilation=1)
@case("features, dilated", kernel=3, dilation=3)
def features(bench, kernel, dilation):
    """A kernel wider than the filters needs the wider halo."""
    bench.set_halo(max(bench.halo, dilation * (kernel // 2)))
    x, plane, output_slot = bench.images(), bench.slots(4), bench.slots()
    weight = bench.normal(bench.used, 1, kernel, kernel) / kernel
    gain, knots = 0.5 + bench.uniform(bench.batch, bench.used), random_spline(bench)
    output = bench.blank((2, bench.batch, bench.channels, bench.height, bench.shape.stride))
    bench.launch(
        "features", "features", bench.put(plane), bench.image_planes((plane, x)),
        bench.put(layout.by_eight(weight, bench.channels)), bench.per_channel(gain, axis=1), bench.spline(knots),
        output,
        bench.put(output_slot), writes=[(output, bench.rows_of(output_slot))],
        options=(f"-DSUPPORT={kernel}", f"-DDILATION={dilation}"),
    )  # fmt: skip
    assert_finite(bench, output, output_slot)
    for b, actual in bench.read_channels(output, output_slot):
        exact, rounded = (f(x[b][None], weight, bench.boundary, dilation) for f in (oracle.correlate, plain.correlate))
        exact, rounded = (
            oracle.spline(part * gain[b][:, None, None], knots.astype(part.dtype), -1, 1) for part in (exact, rounded)
        )
        same = twin("features", x[b], weight, dilation, bench.boundary, gain[b], knots)
        yield Result("features", actual, exact, rounded, ulps=16, twin=same)  # slopes and position of the spline


@case("convolution", kernel=7, dilation=1, last=False)
@case("convolution, dilated", kernel=3, dilation=2, last=False)
@case("convolution, last", kernel=3, dilation=2, last=True)
def convolution(bench, kernel, dilation, last):
    x, slot, output_slot = bench.responses(), bench.slots(), bench.slots()
    weight = bench.normal(bench.used, bench.used, kernel, kernel) / np.float32(kernel * bench.used**0.5)
    bias, knots = bench.normal(bench.batch, bench.used), random_spline(bench)
    output = bench.blank((2, bench.batch, bench.channels, bench.height, bench.shape.stride))
    size = Kernel(kernel, dilation)
    bench.launch(
        "convolution", "convolution", bench.slotted((slot, x), outside=np.nan), bench.put(slot), output,
        bench.put(output_slot), bench.symmetric, bench.convolution_weights(weight, size),
        bench.spline(knots, last=last), bench.per_channel(bias, axis=1), writes=[(output, bench.rows_of(output_slot))],
        options=(f"-DSUPPORT={kernel}", f"-DDILATION={dilation}"), size=size,
    )  # fmt: skip
    assert_finite(bench, output, output_slot)
    for b, actual in bench.read_channels(output, output_slot):
        exact, rounded = (
            oracle.spline(f(x[b], weight, bench.boundary, dilation), knots, -1, 1)
            for f in (oracle.correlate, plain.correlate)
        )
        rounding = 0.0
        if bench.shape.tensor:
            slope = np.abs(np.diff(knots)).max(1) * (knots.shape[1] - 1) / 2
            products = oracle.correlate(np.abs(x[b]), np.abs(weight), bench.boundary, dilation)
            rounding = bench.rounding * slope[:, None, None] * products
        if last:
            exact, rounded = (expit(part + bias[b][:, None, None]) for part in (exact, rounded))
            rounding /= 4  # the slope of the sigmoid
        same = (x[b], weight, dilation, bench.boundary, knots, bias[b] if last else None)
        yield Result("convolution", actual, exact, rounded, ulps=16, twin=twin("convolution", *same), rounding=rounding)


@case("depthwise", kernel=7, adjoint=False)
@case("depthwise, adjoint", kernel=7, adjoint=True)
@case("depthwise, profiled", kernel=5, adjoint=False, profiled=True)
@case("depthwise, small, adjoint", kernel=3, adjoint=True)
def depthwise(bench, kernel, adjoint, profiled=False):
    x, slot, output_slot = 0.2 * bench.images_of_channels(), bench.slots(), bench.slots()
    mask = random_mmr_mask(bench.rng, bench.used, (kernel,))
    weight, scale, profile = (np.asarray(v, np.float32) for v in (mask.smoothing[0], mask.scale, mask.profile))
    scales = np.float32(1 + 0.2 * np.arange(bench.batch)[:, None]) * scale
    output = bench.blank((2, bench.batch, bench.channels, bench.height, bench.shape.stride))
    bench.launch(
        "depthwise", "depthwise", bench.slotted((slot, x), outside=np.nan), bench.put(slot), output,
        bench.put(output_slot), bench.per_channel(weight[:, 0]), np.int32(adjoint), bench.symmetric, np.int32(profiled),
        bench.per_channel(scales, axis=1), bench.spline(profile, 0.0), writes=[(output, bench.rows_of(output_slot))],
        options=(f"-DSUPPORT={kernel}",),
    )  # fmt: skip
    assert_finite(bench, output, output_slot)
    for b, actual in bench.read_channels(output, output_slot):
        exact = (oracle.correlate_depthwise_adjoint if adjoint else oracle.correlate_depthwise)(
            x[b].astype(float), weight, bench.boundary
        )
        both = [exact, plain.depthwise(x[b], weight, bench.boundary, adjoint=adjoint)]
        if profiled:
            both = [np.clip(oracle.spline(scales[b][:, None, None] * v, profile, 0, 1), 0, 1) for v in both]
        same = twin("depthwise", x[b], weight, bench.boundary, adjoint, (scales[b], profile) if profiled else None)
        yield Result("depthwise", actual, *both, ulps=16 if profiled else 4, twin=same)


@case("weigh mask, first level", level=0, levels=3)
@case("weigh mask", level=1, levels=3)
@case("weigh mask, last level", level=2, levels=3)
@case("weigh mask, one level", level=0, levels=1)
@case("weigh mask, weight alone", level=0, levels=1, alone=True)
def weigh_mask(bench, level, levels, alone=False):
    """Where noise varies: what goes before the last level is a sum, the last makes the mask."""
    weights = 0.5 + bench.uniform(bench.batch, levels, bench.height, bench.width)
    given, before = bench.images_of_channels(), bench.images_of_channels()
    mask = bench.masks(np.full_like(given, np.nan) if alone else given)
    total = None if alone else bench.masks(before if level else np.full_like(before, np.nan))
    target = mask if level + 1 == levels else total
    inside = (bench.active, slice(None), slice(None), slice(0, bench.width))
    bench.launch(
        "state", "weigh_mask", bench.per_image(weights), np.int32(level), np.int32(levels), mask, total,
        writes=[(target, inside)],
    )  # fmt: skip
    for b, actual in bench.read_channels(target):
        exact, rounded = (
            np.broadcast_to(t(weights[b, level]), given[b].shape)
            if alone
            else t(weights[b, level]) * t(given[b]) + (t(before[b]) if level else 0)
            for t in (np.float64, np.float32)
        )
        yield Result("M", actual, exact, rounded)


# --------------------------------------------------------------------------------------------------------- bookkeeping
@case("totals", blocks=7)
@case("totals, many blocks", blocks=600)
def totals(bench, blocks):
    """Columns 2 .. 4 of six; sums of float64."""
    values = bench.rng.standard_normal((bench.batch, blocks, 3))
    values[np.setdiff1d(np.arange(bench.batch), bench.active)] = np.nan
    output = bench.blank((bench.batch, 6), np.float64)
    bench.launch(
        "state", "totals", bench.put(values), np.int32(blocks), np.int32(3), output, np.int32(2), np.int32(6),
        writes=[(output, (bench.active[:, None], slice(2, 5)))], geometry=False,
    )  # fmt: skip
    for b in bench.active:
        # float64 throughout: nothing of float32 rounding is allowed
        np.testing.assert_allclose(bench.read(output, (b, slice(2, 5))), values[b].sum(0), rtol=0, atol=1e-12)
    yield from ()


@case("advance")
def advance(bench):
    slot, turn = bench.slots(), bench.slots(3)
    carried, momenta = bench.per_image(bench.uniform(bench.batch)), bench.uniform(3, bench.batch)
    step, sizes = bench.per_image(bench.uniform(bench.batch)), bench.uniform(4, bench.batch)
    slot_there, turn_there = bench.put(slot), bench.put(turn)
    bench.launch(
        "state", "advance", np.int32(len(bench.active)), slot_there, carried, bench.put(momenta), step,
        bench.put(sizes),
        turn_there, writes=[(array, bench.active) for array in (slot_there, carried, step, turn_there)],
    )  # fmt: skip
    for b in bench.active:
        assert bench.read(slot_there, slice(b, b + 1)) == 1 - slot[b]
        assert bench.read(turn_there, slice(b, b + 1)) == turn[b] + 1
        assert bench.read(carried, slice(b, b + 1)) == momenta[turn[b], b]
        assert bench.read(step, slice(b, b + 1)) == sizes[turn[b] + 1, b]
    yield from ()


@case("stop")
def stop(bench):
    carried = bench.per_image(bench.uniform(bench.batch))
    bench.launch(
        "state", "stop", np.int32(len(bench.active)), carried, writes=[(carried, bench.active)], geometry=False
    )
    assert not any(bench.read(carried, slice(b, b + 1)) for b in bench.active)
    yield from ()


@case("clear dual")
def clear_dual(bench):
    slot = bench.slots()
    dual = bench.slotted((slot, bench.responses()), outside=np.nan)
    bench.launch("state", "clear_dual", bench.put(slot), dual, writes=[(dual, bench.active_of(slot))])
    assert not any(bench.read(dual, (slot[b], b)).any() for b in bench.active)
    yield from ()


@case("collapse momentum")
def collapse_momentum(bench):
    """Where nothing is carried, u stays as it is and the other slot may hold anything."""
    slot, u, before, carried = bench.slots(), bench.responses(), bench.responses(), bench.uniform(bench.batch)
    carried[bench.active[0]], before[bench.active[0]] = 0, np.nan
    dual = bench.slotted((slot, u), (1 - slot, before))
    bench.launch(
        "state", "collapse_momentum", bench.put(slot), dual, bench.per_image(carried),
        writes=[(dual, bench.active_of(slot))],
    )  # fmt: skip
    assert_zero_outside(bench, dual, slot)
    for b, actual in bench.read_channels(dual, slot):
        old = np.where(np.isnan(before[b]), u[b], before[b])
        exact, rounded = (t(u[b]) + carried[b] * (t(u[b]) - t(old)) for t in (np.float64, np.float32))
        yield Result("u", actual, exact, rounded, twin=twin("collapse_momentum", bench.model, u[b], old, carried[b]))


# ------------------------------------------------------------------------------------------------ steps of reconstruct
def together(bench, values, joined):
    """(B, H, W) as the iteration has it: as it is, or as one image whose pixels have B parts side by side. Those that
    are not active are NaN."""
    values = bench._only_active(values)
    return bench.put(np.ascontiguousarray(np.moveaxis(values, 0, -1)) if joined else values)


def apart(bench, array, b, joined):
    """One image of it."""
    return bench.read(np.moveaxis(array, -1, 0) if joined else array, b)


def places(bench, joined):
    """The index of what belongs to the active images."""
    return (..., bench.active) if joined else bench.active


@case("extrapolate", box=True)
@case("extrapolate, no box", box=False)
@case("extrapolate, parts of one image", box=False, joined=True)
def extrapolate(bench, box, joined=False):
    """x_hat, the image that the filters see with its halo, v in rows after three other values, and both sums."""
    slot, (low, high), first = bench.slots(), np.float32((0.2, 0.8)), 3
    x, slope, v = bench.images(), bench.images() - np.float32(0.5), bench.images() - np.float32(0.5)
    moved, length = 0.3 * bench.normal(*x.shape), np.float32(0.2) + bench.uniform(bench.batch)
    row, pixels = first + bench.height * bench.width, bench.height * bench.width
    rows = np.full((bench.batch, row), np.nan, np.float32)
    rows[:, first:] = v.reshape(bench.batch, -1)
    shape = (*bench.size, bench.batch) if joined else x.shape
    x_hat, ahead, rows_hat = bench.blank(shape), bench.blank(shape), bench.blank((bench.batch, row))
    planes = bench.image_planes((slot, np.zeros_like(x)))
    sums = bench.blank((bench.batch, image_blocks(bench.shape), 2), np.float64)
    boxed = (bench.put(rows), rows_hat, np.int64(row), np.int64(first), bench.per_image(length))
    rowless = (None, None, np.int64(row), np.int64(first), None)
    bench.launch(
        "halpern", "extrapolate", bench.put(slot), planes, np.int32(1 if joined else bench.batch),
        *(together(bench, values, joined) for values in (moved, slope, x)), x_hat, ahead,
        *(boxed if box else rowless), low, high, bench.symmetric, bench.put(np.zeros((bench.batch, 3), np.int32)), sums,
        writes=[
            (x_hat, places(bench, joined)), (ahead, places(bench, joined)), (planes, bench.region(slot)),
            (rows_hat, (bench.active[:, None], np.arange(first, row)) if box else bench.active[:0]),
            (sums, bench.active),
        ],
    )  # fmt: skip
    for b in bench.active:
        exact, rounded = (
            extrapolated(*(kind(values[b]) for values in (x, moved, slope, v)), length[b], (low, high) if box else None)
            for kind in (np.float64, np.float32)
        )
        yield Result("x_hat", apart(bench, x_hat, b, joined), exact["x_hat"], rounded["x_hat"])
        yield Result("ahead", apart(bench, ahead, b, joined), exact["ahead"], rounded["ahead"])
        seen = bench.read(planes, (slot[b], b, slice(None), slice(0, bench.width + 2 * bench.halo)))
        yield Result("x of the filters", seen, *(bench.extended(found["ahead"]) for found in (exact, rounded)))
        if box:
            v_hat = bench.read(rows_hat, (b, slice(first, first + pixels))).reshape(bench.size)
            scale = np.abs(v[b]).max() + length[b] * np.abs(exact["ahead"]).max()  # what cancels in it
            yield Result("v_hat", v_hat, exact["v_hat"], rounded["v_hat"], scale=scale)
        for i in range(2):
            yield Result(
                f"sum {i}", bench.read(sums, b).sum(0)[i], exact["sums"][i], rounded["sums"][i], scale=exact["sizes"][i]
            )


def extrapolated(x, moved, slope, v, length, box):
    """In the type of x."""
    x_hat, ahead = x + moved, x + 2 * moved
    v_hat, change, size = v, np.zeros_like(v), 0.0
    if box is not None:
        t = v + length * ahead
        v_hat = t - length * np.clip(t / length, *box)
        change, size = v_hat - v, np.abs(t).max()
    sums = (moved.astype(float) * slope).sum(), (change.astype(float) ** 2).sum() / length
    sizes = np.abs(moved * slope).sum(), 2 * size * np.abs(change).sum() / length
    return {"x_hat": x_hat, "ahead": ahead, "v_hat": v_hat, "sums": sums, "sizes": sizes}


@case("move rows")
def move_rows(bench):
    """Rows of more floats than measurements, and than a block takes."""
    shorter = bench.height * bench.width - 2
    row, step = shorter + 2, np.float32(0.02) + bench.uniform(bench.batch)
    p, seen, y = bench.normal(bench.batch, row), bench.normal(bench.batch, shorter), bench.normal(bench.batch, shorter)
    p_hat = bench.blank(p.shape)
    sums = bench.blank((bench.batch, ceil_div(row, 1024), 1), np.float64)
    bench.launch(
        "halpern", "move_rows", *(bench.per_image(values) for values in (seen, y, p)), p_hat, np.int64(row),
        np.int64(shorter), bench.per_image(step), bench.put(np.zeros((bench.batch, 3), np.int32)), sums, geometry=False,
        writes=[(p_hat, (bench.active[:, None], np.arange(shorter))), (sums, bench.active)],
    )  # fmt: skip
    for b in bench.active:
        both = []
        for kind in (np.float64, np.float32):
            start, size = kind(p[b, :shorter]), kind(step[b])
            both.append((start + size * (kind(seen[b]) - kind(y[b]))) / (1 + size))
        yield Result("p_hat", bench.read(p_hat, (b, slice(0, shorter))), *both, scale=np.abs(p[b]).max())
        change = [((hat - p[b, :shorter]).astype(float) ** 2).sum() / step[b] for hat in both]
        size = 2 * np.abs(p[b]).max() * np.abs(both[0] - p[b, :shorter]).sum() / step[b]
        yield Result("||p_hat - p||^2 / s", bench.read(sums, b).sum(), *change, scale=size)


RULE = (0.2, 0.4, 3)  # fall, share, least


@case("restart")
@case("restart, parts of one image", joined=True)
@case("restart, relaxed", relaxation=1.7)
def restart(bench, joined=False, relaxation=None):
    """Several steps in a row beside `Restarts` of the solver: runs that fall, that are long, one that is lost. Relaxed
    steps keep their weight.
    """
    from safi_fast.solver.halpern import Halpern, Restarts

    count = 1 if joined else bench.batch
    images = bench.active[:1] * 0 if joined else bench.active
    sigma, width = 0.5 + bench.rng.random(count), 4
    weight, mixing = bench.put(np.full(bench.batch, relaxation or 0, np.float32)), bench.blank(bench.batch)
    residuals, counts = bench.put(np.zeros((count, 2))), bench.put(np.zeros((count, 3), np.int32))
    there = bench.put(np.zeros((bench.batch, width)))
    host = Restarts.__new__(Restarts)
    host.rule = Halpern(restart_fall=RULE[0], restart_length=RULE[1], least_run=RULE[2], relaxation=relaxation)
    host.run_length, host.total = np.zeros(count, np.int64), np.zeros(count, np.int64)
    host.first, host.last, host.fresh = np.full(count, np.inf), np.full(count, np.inf), np.ones(count, bool)
    host.x = host.extra = host.z = host
    listed = bench.active_list
    bench.active_list = bench.put(images.astype(np.int32))
    steps = 90  # the first ones fall quickly, the others not at all
    for number in range(steps):
        sums = (0.5 + bench.rng.random((bench.batch, width))) * 0.2 ** min(number, 12)
        sums[:, 1] *= -1
        sums[:, 1] *= -1 if number % 7 == 0 else 1  # which counts as zero
        if number == steps - 1:
            sums[images[0], 2] = np.nan
        bench.device.write(there, sums)
        expected = host.weights(images)
        bench.launch(
            "halpern", "restart", np.int32(len(images)), np.int32(count), there, np.int32(width), np.float64(-1),
            bench.put(sigma), np.float64(RULE[0]), np.float64(RULE[1]), np.int32(RULE[2]), weight, mixing, residuals,
            counts, writes=[(array, Ellipsis) for array in (weight, mixing, residuals, counts)],
        )  # fmt: skip
        own = sums.reshape(-1, count, width)
        residual = np.sqrt(
            np.maximum(-own[..., 1].sum(0), 0) + own[..., 0].sum(0) / sigma + own[0, :, 2] + own[0, :, 3]
        )[images]
        if number == steps - 1:
            assert bench.read(counts)[images[0], 2] == steps, "wrong: not lost"
            break
        used = bench.peek(mixing)[images]
        np.testing.assert_allclose(used, expected, rtol=1e-6, err_msg=f"wrong weight of step {number}")
        note(host, images, expected, residual)
        np.testing.assert_allclose(
            bench.read(residuals)[images, 1], host.last[images], rtol=1e-12, err_msg="wrong residual"
        )
    bench.active_list = listed
    yield from ()


def note(host, images, weight, residual):
    """`Restarts.note` without images."""
    restarted = weight == 0
    host.last[images] = residual
    host.first[images] = np.where(restarted | (host.run_length[images] == 0), residual, host.first[images])
    host.run_length[images] = np.where(restarted, 0, host.run_length[images] + 1)
    host.fresh[images] = False
    host.total[images] += 1


def weights_and_lost(bench, count, relaxed):
    """mixing (B,) with 0, or a number above 1, for the first active image; counts, of which the last active image, if
    not the only one, is lost."""
    mixing = np.float32(0.1) + np.float32(0.8) * bench.uniform(bench.batch)
    counts = np.zeros((count, 3), np.int32)
    if count > 1 and len(bench.active) > 1:
        counts[bench.active[-1], 2] = 7
    mixing[bench.active[0]] = 1.7 if relaxed else 0
    return mixing, counts


def mixed(w, hat, now, anchor):
    """(state, anchor) in the type of `hat`."""
    kind = hat.dtype.type
    w = kind(w)
    if w > 1:
        return now + w * (hat - now), anchor
    return (hat, hat) if w == 0 else (w * (2 * hat - now) + (1 - w) * anchor, anchor)


@case("mix images", tiled=False)
@case("mix images, tiles", tiled=True)
@case("mix images, parts of one image", tiled=False, joined=True)
@case("mix images, relaxed", tiled=False, relaxed=True)
def mix_images(bench, tiled, joined=False, relaxed=False):
    """From random summands: x, z and their anchors, and z_hat; a lost image stays as it is."""
    values, sizes, summands = random_summands(bench, tiled)
    there = bench.per_image(values)
    parts = np.array([(*sizes, bench.device.address(there))], layout.PARTS)
    nothing = np.zeros((bench.batch, *bench.size), np.float32)
    off = np.where(ring_of(bench), bench.images(), 0).astype(np.float32) if bench.shape.band else nothing
    dropped = bench.per_image(np.where(ring_of(bench), off, np.nan)) if bench.shape.band else None
    count = 1 if joined else bench.batch
    mixing, counts = weights_and_lost(bench, count, relaxed)
    start = {name: bench.images() for name in ("x_hat", "x", "x_anchor", "z", "z_hat", "z_anchor")}
    arrays = {name: together(bench, values, joined) for name, values in start.items()}
    bench.launch(
        "halpern", "mix_images", parts, np.int32(bench.shape.band), dropped, bench.symmetric, np.int32(count),
        bench.per_image(mixing), bench.put(counts), *arrays.values(),
        writes=[(arrays[name], places(bench, joined)) for name in start if name != "x_hat"],
    )  # fmt: skip
    zero = np.zeros(bench.size, np.float32)
    for b in bench.active:
        lost, w = counts[0 if joined else b, 2], mixing[b]
        found = []
        for kind in (np.float64, np.float32):
            inputs = [kind(values) for values in (summands[b], off[b], zero, zero, zero, zero)]
            z_new = moved(bench, inputs, np.float32(0), *np.float32(NO_BOX))["z"]
            own = {name: kind(values[b]) for name, values in start.items()}
            x, x_anchor = mixed(w, own["x_hat"], own["x"], own["x_anchor"])
            weight = kind(w)
            anchored = ((z_new - (1 - weight) * own["z_anchor"]) / max(weight, kind(0.25)) + own["z"]) / 2
            anchored = own["z"] + (z_new - own["z"]) / weight if w > 1 else anchored
            new = {
                "x": x, "x_anchor": x_anchor, "z": z_new, "z_hat": anchored if w else z_new,
                "z_anchor": own["z_anchor"] if w else z_new,
            }  # fmt: skip
            found.append(own if lost else own | new)
        for name in start:
            actual = apart(bench, arrays[name], b, joined)
            yield Result(name, actual, found[0][name], found[1][name], ulps=0 if lost else 8)


@case("mix rows")
@case("mix rows, relaxed", relaxed=True)
def mix_rows(bench, relaxed=False):
    """As mix images."""
    mixing, counts = weights_and_lost(bench, bench.batch, relaxed)
    hat, now, anchor = (bench.normal(bench.batch, bench.height * bench.width) for _ in range(3))
    there = [bench.per_image(values) for values in (hat, now, anchor)]
    bench.launch(
        "halpern", "mix_rows", np.int64(hat.shape[1]), bench.per_image(mixing), bench.put(counts), *there,
        geometry=False, writes=[(array, bench.active) for array in there[1:]],
    )  # fmt: skip
    for b in bench.active:
        both = [mixed(mixing[b], kind(hat[b]), kind(now[b]), kind(anchor[b])) for kind in (np.float64, np.float32)]
        if counts[b, 2]:
            both = [(now[b], anchor[b])] * 2
        for i, name in enumerate(("now", "anchor")):
            yield Result(name, bench.read(there[1 + i], b), both[0][i], both[1][i], ulps=8)


# ---------------------------------------------------------------------------------------------------------- W^T, whole
@case("W^T (M . u)", masked=True)
@case("W^T u", masked=False)
def whole_synthesis(bench, masked):
    """synthesis, synthesis_border and image_step without a box: what refresh makes of u."""
    u, slot = bench.responses(), bench.slots()
    mask, masks = masks_or_none(bench, masked)
    for b, z in zip(bench.active, back(bench, u, slot, masks), strict=True):
        exact, rounded = exact_synthesis(bench, u[b], mask[b])
        rounding = synthesis_rounding(bench, u[b] if mask[b] is None else u[b] * mask[b])
        same = twin("synthesis", bench.model, u[b], mask[b])
        yield Result("W^T (M . u)", z, exact, rounded, twin=same, rounding=rounding)


def back(bench, u, slot, masks=None):
    """W^T (M . u) of the active images, through three launches."""
    shape, zero = bench.shape, np.zeros((bench.batch, *bench.size), np.float32)
    common = (bench.put(slot), np.int32(0), bench.slotted((slot, u)), masks)
    parts, struct = bench.parts()
    bench.launch(
        "synthesis", "synthesis", *common, parts, bench.synthesis_filters(), writes=[(parts, bench.active)],
        options=bench.support_option,
    )  # fmt: skip
    dropped = None
    if shape.band:
        dropped = bench.blank(zero.shape)
        bench.launch(
            "border", "synthesis_border", *common, dropped, bench.border(), writes=[(dropped, bench.active)],
            options=bench.support_option,
        )  # fmt: skip
    z, image = bench.put(np.stack([zero, zero])), bench.image_planes((slot, zero), (2 + slot, zero))
    sums = bench.blank((bench.batch, image_blocks(shape), 5), np.float64)
    nothing = bench.put(np.zeros((1, bench.batch), np.float32))
    bench.launch(
        "image", "image_step", common[0], np.int32(1), struct, np.int32(shape.band), dropped, bench.per_image(zero), z,
        image, *np.float32(NO_BOX), nothing, bench.put(np.zeros(bench.batch, np.int32)), bench.symmetric, sums, None,
        writes=[
            (z, bench.active_of(slot)), (image, bench.region(slot)), (image, bench.region(2 + slot)),
            (sums, bench.active)
        ],
    )  # fmt: skip
    return [bench.read(z, (slot[b], b)) for b in bench.active]


def forth(bench, x, slot):
    """W x of the active images."""
    output = bench.blank((2, bench.batch, bench.channels, bench.height, bench.shape.stride))
    bench.launch(
        "analysis", "analysis", bench.put(slot), bench.image_planes((slot, x)), None, np.int32(0), output,
        bench.put(slot), bench.analysis_filters(), bench.border(), writes=[(output, bench.rows_of(slot))],
        options=bench.support_option,
    )  # fmt: skip
    return [values for _, values in bench.read_channels(output, slot)]
