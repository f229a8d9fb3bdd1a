"""Mistakes planted in our own kernels, one piece of text each, and who has to notice.

    plain      numbers that differ from float64, or a write to what is not the launch's; not asked where a mistake
               writes so far beyond an array that it would damage this process
    check      races, uninitialised reads, wrong bounds, overflow
    sanitize   wrong bounds, overflow

Every piece occurs exactly once in the text that is compiled, so that no mistake is lost when a kernel changes.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from cuda_bench import SETTINGS, SMALL, TENSOR_SMALL, PlantedDevice, bench_of
from cuda_cases import CASES
from emulator import sanitized
from emulator.device import EmulatedDevice, LaunchError

from safi_fast.bindings.module import source
from safi_fast.bindings.weights import GEOMETRY

WRONG = "off by|elsewhere|wrong"
RACE = "race: "
UNORDERED = "race: |uninitialised: "
OUTSIDE = "out of bounds"
HUGE = "clear dual, huge"  # a case of this file


@dataclass(frozen=True)
class Bug:
    """`old` becomes `new` in kernels/cuda/<file>.cu; `caught`: what each mode that has to notice says about `case` at
    `setting`.
    """

    file: str
    old: str
    new: str
    case: str
    setting: str = "band"
    caught: dict[str, str] = field(default_factory=lambda: {"plain": WRONG})
    precision: str = "float32"


BARRIER = "\n    __syncthreads();"
INNER_BARRIER = "\n        __syncthreads();"


def without(file, before, barrier, case, **options):
    """A Bug: no barrier after this piece."""
    return Bug(file, before + barrier, before, case, **({"caught": {"check": UNORDERED}} | options))


BUGS = {
    # barriers
    "analysis: none after the tile is loaded": without(
        "analysis", "load_weights(tile, filters);", BARRIER, "analysis"
    ),
    "features: none after the tile is loaded": without(
        "features", "* PLANES + source) * (TAPS * OC));", INNER_BARRIER, "features"
    ),
    "synthesis: none after a channel is loaded": without(
        "synthesis", "(c * PLANES + made) * (SUPPORT * TAP_PITCH), top, left, g);", INNER_BARRIER, "synthesis"
    ),
    "synthesis: none before the next channel is loaded": without(
        "synthesis", "add_row<false, true>(z, tile, SUPPORT);\n        }", INNER_BARRIER, "synthesis",
        caught={"check": RACE}
    ),
    "convolution: none after a channel is loaded": without(
        "convolution", "* g.channels + c) * (TAPS * OC));", INNER_BARRIER, "convolution"
    ),
    "convolution: none before the next channel is loaded": without(
        "convolution", "if (inside) accumulate(q, tile);", INNER_BARRIER, "convolution", caught={"check": RACE}
    ),
    "depthwise: none after the tile is loaded": without(
        "depthwise", "(adjoint ? SUPPORT * SUPPORT - 1 - i : i));", BARRIER, "depthwise"
    ),
    "block_sum: none between the sums of the warps and theirs": without(
        "analysis", "if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;", BARRIER, "masked norm"
    ),
    "totals: none before the next column uses the scratch again": without(
        "state", "if (threadIdx.x == 0) output[image * width + first + i] = sum;", INNER_BARRIER, "totals",
        caught={"check": RACE},
    ),
    "features: threads outside the image leave before the barrier": Bug(
        "features", "* PLANES + source) * (TAPS * OC));",
        "* PLANES + source) * (TAPS * OC));\n        if (at.y >= g.height) return;", "features",
        caught=dict.fromkeys(("plain", "check", "sanitize"), "barrier while .* have returned"),
    ),
    # where things lie
    "analysis: halo off by one": Bug("analysis", "corner = g.halo - REACH;", "corner = g.halo - REACH + 1;",
        "analysis"),
    "analysis: taps in columns": Bug(
        "analysis", "(ky * SUPPORT + kx) * OC", "(kx * SUPPORT + ky) * OC", "analysis", "symmetric"
    ),
    "synthesis: filters not shifted to whole fours": Bug(
        "synthesis", "p % GROUP + kx + SHIFT", "p % GROUP + kx", "synthesis", "3, just over one tile"
    ),
    "element: width for stride": Bug("analysis", "* g.height + y) * g.stride + x", "* g.height + y) * g.width + x",
        "analysis",
        caught={"plain": f"{OUTSIDE}|{WRONG}", "check": "misaligned"}),
    "element: channels of the image before": Bug(
        "state", "((long long)plane * g.channels + c)", "((long long)plane * (g.channels - 1) + c)", "clear dual"
    ),
    "image_element: width for pitch": Bug("image", "+ y + g.halo) * g.pitch", "+ y + g.halo) * g.width", "set image"),
    "convolution: weights of the wrong outputs": Bug(
        "convolution", "((long long)blockIdx.y * g.channels + c)", "((long long)c * gridDim.y + blockIdx.y)",
        "convolution"
    ),
    "depthwise: the adjoint's taps not turned": Bug(
        "depthwise", "(adjoint ? SUPPORT * SUPPORT - 1 - i : i)", "i", "depthwise, adjoint"
    ),
    "convolution: bias of the first channels": Bug(
        "convolution", "bias[at.image * g.channels + at.channel + o]", "bias[at.image * g.channels + o]",
        "convolution, last"
    ),
    # steps of reconstruct
    "extrapolate: the filters see x_hat": Bug("halpern", "at.x, beyond, symmetric", "at.x, there, symmetric",
        "extrapolate"),
    "extrapolate: parts one after the other": Bug(
        "halpern", "+ index) * (g.batch / count) + at.owner / count", "+ index) + at.owner / count * pixels",
        "extrapolate, parts of one image"
    ),
    "extrapolate: v where the row begins": Bug("halpern", "* row + first + (at.flat", "* row + (at.flat", "extrapolate",
        caught={"plain": WRONG, "check": "uninitialised|off by|elsewhere"}),
    "move_rows: the sum without its step": Bug("halpern", "total[0] /= step;", "", "move rows"),
    "restart: only the first part of a complex image": Bug(
        "halpern", "primal += sign * totals[part * width + 1];", "primal = sign * totals[part * width + 1];",
        "restart, parts of one image"
    ),
    "restart: longer runs than asked for": Bug("halpern", "steps > least &&", "steps > least + 1 &&", "restart"),
    "restart: runs of any length": Bug("halpern", "|| steps > share * total + 20.0", "", "restart"),
    "restart: a residual that is not finite goes on": Bug("halpern", "residual - residual != 0.0", "false", "restart"),
    "restart: a relaxed step is weighted anew": Bug("halpern", "now > 1.0f ? now : due", "due", "restart, relaxed"),
    "mix_images: z_hat of a relaxed step as of the others": Bug(
        "halpern", "z_hat[i] = z[i] + (z_new - z[i]) / w;", "z_hat[i] = z_new;", "mix images, relaxed"
    ),
    "mix_images: a lost image is mixed": Bug("halpern", "|| counts[at.owner % count * 3 + 2]) return;", ") return;",
        "mix images"),
    "mix_images: the anchor of z is z_hat": Bug("halpern", "z_hat[i] = z_anchor[i] = z_new;", "z_hat[i] = z_new;",
        "mix images"),
    "mix_rows: no guard at the end of a row": Bug(
        "halpern", "if (place >= row) break;", "", "mix rows",
        caught={"check": f"{OUTSIDE}|{RACE}", "sanitize": f"{OUTSIDE}|{WRONG}"},
    ),
    # tails
    "convolution: no guard in x": Bug(
        "convolution", "if (at.x + group * GAP < g.width) {", "{", "convolution",
        caught={"plain": f"{OUTSIDE}|{WRONG}", "check": f"{OUTSIDE}|{RACE}", "sanitize": f"{OUTSIDE}|{WRONG}"},
    ),
    "features: no guard in y": Bug(
        "features", "if (at.y >= g.height) return;", "", "features",
        caught={"check": f"{OUTSIDE}|{RACE}", "sanitize": f"{OUTSIDE}|{WRONG}"},
    ),
    "synthesis: no guard in x": Bug(
        "synthesis", "if (y < height && x < width)", "if (y < height)", "synthesis",
        caught={"plain": f"{OUTSIDE}|{WRONG}", "check": f"{OUTSIDE}|{RACE}", "sanitize": f"{OUTSIDE}|{WRONG}"},
    ),
    "synthesis: reads four columns of the next row": Bug(
        "synthesis", "x < g.stride)", "x < g.stride + 4)", "synthesis",
        caught={"plain": WRONG, "check": f"{OUTSIDE}|{WRONG}", "sanitize": f"{OUTSIDE}|{WRONG}"},
    ),
    "depthwise: no guard in y": Bug(
        "depthwise", "if (y >= g.height) return;", "", "depthwise",
        caught={"check": f"{OUTSIDE}|{RACE}", "sanitize": f"{OUTSIDE}|{WRONG}"},
    ),
    "depthwise: eight columns where four are left": Bug(
        "depthwise", "if (x + 4 < g.width) to[1]", "to[1]", "depthwise", "symmetric"
    ),
    "set_image: no guard": Bug(
        "image", "if (at.inside) store_extended(image, slot", "store_extended(image, slot", "set image",
        caught={"check": OUTSIDE, "sanitize": OUTSIDE},
    ),
    "clear_dual: no guard": Bug(
        "state", "if (i >= fours) return;", "", "clear dual",
        caught={"check": f"{OUTSIDE}|{WRONG}", "sanitize": f"{OUTSIDE}|{WRONG}"},
    ),
    "analysis: columns beyond the image counted": Bug(
        "analysis", "    if (warp_inside(at, g)) clear_outside(q, at, g);\n", "", "masked norm"
    ),
    # the border
    "mirror: about the pixel, not its edge": Bug(
        "convolution", "index = -1 - index;", "index = -index;", "convolution", "symmetric"
    ),
    "set_image: far mirror about the pixel": Bug(
        "image", ": 2 * length - 1 - index);", ": 2 * length - 2 - index);", "set image", "symmetric"
    ),
    "image_step: extension not folded": Bug(
        "image", "if (!symmetric || (y >= reach", "if (symmetric || (y >= reach", "image step", "symmetric"
    ),
    "depthwise: extension not folded": Bug(
        "depthwise", "adjoint && symmetric && in_band", "!adjoint && symmetric && in_band", "depthwise, adjoint",
        "symmetric"
    ),
    "analysis: border class of the neighbour": Bug(
        "analysis", "max(band, 2 * band + 1 + index - length)", "max(band, 2 * band + index - length)", "analysis"
    ),
    "analysis: border not corrected": Bug("analysis", "if (border.band > 0) correct", "if (border.band > 9) correct",
        "analysis"),
    "synthesis_border: class of the target, not of the source": Bug(
        "border", "position_class(py, px, border.band, g)", "position_class(y, x, border.band, g)", "synthesis border"
    ),
    "synthesis_border: taps that are not corrected": Bug(
        "border", "if (tap < 0) continue;", "", "synthesis border",
        caught={"check": OUTSIDE, "sanitize": OUTSIDE},
    ),
    "synthesis_border: half of the lanes forgotten": Bug("border", "int distance = 16;", "int distance = 8;",
        "synthesis border"),
    "image_step: the ring left out": Bug("image", "return band > 0 && in_band", "return band > 9 && in_band",
        "image step"),
    # images and slots
    "place: image 0 for all": Bug("analysis", "at.image = active[blockIdx.z];", "at.image = 0;", "analysis"),
    "pixel: the number in the list for the image": Bug(
        "image", "at.owner = active[blockIdx.z / PLANES];", "at.owner = blockIdx.z / PLANES;", "get image",
        caught={"plain": WRONG, "check": WRONG},
    ),
    "dual_step: bound of image 0": Bug("analysis", "limit = bound[at.image]", "limit = bound[active[0]]", "dual step"),
    "anchored_step: weight of image 0": Bug(
        "analysis", "share = weight[at.image],", "share = weight[active[0]],", "anchored step"
    ),
    "anchored_step: the mask weights W x, not the bound": Bug(
        "analysis", "fmaf(length, q[group * GROUP + i][c], u[i])",
        "fmaf(length, q[group * GROUP + i][c] * limit[i], u[i])", "anchored step"
    ),
    "anchored_step: the anchor of a relaxed step in the other slot": Bug(
        "analysis", "spare = share > 1.0f ? now : (1", "spare = (1", "anchored step, no mask"
    ),
    "anchored_step: no anchor where it starts anew": Bug(
        "analysis", "if (w == 0.0f) store_four(start, u);", "", "anchored step"
    ),
    "anchored_step: the anchor overwritten": Bug(
        "analysis", "if (w == 0.0f) store_four(start, u);", "store_four(start, u);", "anchored step"
    ),
    "gather_image: the ring left out": Bug("image", "return band > 0 && in_band", "return band > 9 && in_band",
        "gather image"),
    "dual_step: the slot that is read is written": Bug(
        "analysis", "other = (1 - current) * g.batch", "other = current * g.batch", "dual step"
    ),
    "image_step: the slot that is read is written": Bug("image", "refresh ? source : 1 - source;", "source;",
        "image step"),
    "image_step: x(u) into the slot of x(v)": Bug(
        "image", "store_extended(image, primal + new_plane", "store_extended(image, new_plane", "image step"
    ),
    "synthesis: the other slot ignored": Bug(
        "synthesis", "(other ? 1 - slot[image] : slot[image])", "slot[image]", "synthesis, other slot, no mask"
    ),
    "synthesis: mask of image 0": Bug("synthesis", "mask + element(image, c", "mask + element(active[0], c",
        "synthesis"),
    # momentum
    "stop: the number in the list for the image": Bug("state", "carried[active[i]] = 0.0f;", "carried[i] = 0.0f;",
        "stop"),
    "advance: always the first row of momenta": Bug("state", "momentum[turn[image] * g.batch + image]",
        "momentum[image]", "advance", caught={"plain": WRONG}),
    "collapse_momentum: u less itself": Bug("state", "other = (1 - slot[image]) * g.batch",
        "other = slot[image] * g.batch", "collapse momentum"),
    "image_step: momentum of z, not of its change": Bug("image", "fmaf(factor, z_new - z_old, z_new)",
        "fmaf(factor, z_new, z_new)", "image step"),
    # noise that varies
    "image_step: variance of the first image": Bug("image", "v = VARYING ? variance[at.flat]",
        "v = VARYING ? variance[at.flat % ((long long)g.height * g.width)]", "image step, varying noise"),
    "image_step: the square not divided": Bug("image", "(x0 - here) * (x0 - here) / v;", "(x0 - here) * (x0 - here);",
        "image step, varying noise"),
    "primal_sums: the square not divided": Bug("image", "/ (VARYING ? variance[at.flat] : 1.0f);", ";",
        "primal sums, varying noise"),
    "weigh_mask: the levels before the last one lost": Bug("state", "level > 0 ? total[at]", "false ? total[at]",
        "weigh mask, last level"),
    "weigh_mask: every level starts from what was there": Bug("state", "level > 0 ? total[at] : 0.0f", "total[at]",
        "weigh mask, first level", caught={"plain": WRONG, "check": "uninitialised|nan"}),
    "weigh_mask: weights of the first level": Bug("state", "((long long)image * levels + level)",
        "((long long)image * levels)", "weigh mask"),
    # shared memory
    "analysis: end of the tile not loaded": Bug(
        "analysis", "i < SPAN_Y * SPAN_X;", "i < SPAN_Y * SPAN_X - THREADS;", "analysis",
        caught={"plain": WRONG, "check": "uninitialised: read of shared"},
    ),
    "convolution: last taps not loaded": Bug(
        "convolution", "i < TAPS * OC;", "i < TAPS * OC - OC;", "convolution",
        caught={"plain": WRONG, "check": "uninitialised: read of shared"},
    ),
    "synthesis: a row too little in the tile": Bug(
        "synthesis", "float values[SPAN_Y * SPAN_PITCH];", "float values[(SPAN_Y - 1) * SPAN_PITCH];", "synthesis",
        caught={"check": f"{OUTSIDE}|{RACE}", "sanitize": OUTSIDE},
    ),
    "depthwise: rows that do not begin at whole fours": Bug(
        "depthwise", "(SPAN_X + 27) / 32 * 32 + 4;", "SPAN_X + 1;", "depthwise",
        caught={"check": "misaligned", "sanitize": "misaligned"},
    ),
    # races
    "synthesis_border: every lane writes": Bug("border", "if (lane == 0) dropped", "dropped", "synthesis border",
        caught={"check": RACE}),
    "masked_norm: all groups of channels add up in one place": Bug(
        "analysis", "((long long)image * gridDim.y + blockIdx.y) * gridDim.x",
        "((long long)image * gridDim.y) * gridDim.x", "masked norm",
        caught={"plain": "off by", "check": "race: write after write by another block"},
    ),
    "advance: two threads for one image": Bug(
        "state", "const int image = active[i];", "const int image = active[i / 2];", "advance",
        caught={"plain": WRONG, "check": RACE}
    ),
    # 32 bits
    "clear_dual: elements of an image counted in 32 bits": Bug(
        "state",
        "const long long fours = (long long)g.channels * g.height * g.stride / 4, "
        "i = (long long)blockIdx.x * THREADS + threadIdx.x;\n    const int image = active[blockIdx.z];",
        "const long long fours = g.channels * g.height * g.stride / 4, "
        "i = (long long)blockIdx.x * THREADS + threadIdx.x;\n    const int image = active[blockIdx.z];",
        HUGE, caught={"plain": WRONG, "check": "signed overflow", "sanitize": "signed overflow"},
    ),
}  # fmt: skip

TENSOR = {"setting": "tensor, band", "precision": "tf32"}
BF16X3 = TENSOR | {"precision": "bf16x3"}
ARRIVING = "cp.async: read before its target has arrived"
LATE = {"plain": WRONG, "check": ARRIVING}  # what arrives is poisoned until the wait
WAIT, LATER, DEEPER = "cp_async_wait<1>();", "\n        ", "\n            "
BUGS |= {
    # asynchronous copies
    "analysis, tensor: first half not waited for": Bug(
        "analysis_tensor", WAIT, "", "analysis", **TENSOR, caught=LATE
    ),
    "analysis, tensor: second half not waited for": Bug(
        "analysis_tensor", "cp_async_wait<0>();", WAIT, "analysis", **TENSOR, caught=LATE
    ),
    "analysis, tensor: both halves in one group": Bug(
        "analysis_tensor", "cp_async_commit();\n    copy_slabs<THREADS>(slabs + HALF",
        "copy_slabs<THREADS>(slabs + HALF", "analysis",
        **TENSOR, caught=LATE,
    ),
    "analysis, tensor: second half not committed": Bug(
        "analysis_tensor", "cp_async_commit();\n    load_tile", "load_tile", "analysis", **TENSOR, caught=LATE
    ),
    "analysis, tensor: no barrier after the wait": Bug(
        "analysis_tensor", "cp_async_wait<0>();" + DEEPER + "__syncthreads();", "cp_async_wait<0>();", "analysis",
        **TENSOR,
        caught={"check": ARRIVING},
    ),
    "synthesis, tensor: rows not waited for": Bug("synthesis_tensor", WAIT, "", "synthesis", **TENSOR, caught=LATE),
    "synthesis, tensor: waits for the row before": Bug(
        "synthesis_tensor", WAIT, "cp_async_wait<2>();", "synthesis", **TENSOR, caught=LATE
    ),
    "synthesis, tensor: rows not committed": Bug(
        "synthesis_tensor", "cp_async_commit();" + DEEPER + WAIT, WAIT, "synthesis", **TENSOR, caught=LATE
    ),
    "synthesis, tensor: the row that still arrives": Bug(
        "synthesis_tensor", "shared + row % 2 * ROW_WORDS", "shared + (row + 1) % 2 * ROW_WORDS", "synthesis", **TENSOR,
        caught=LATE
    ),
    "synthesis, tensor: no barrier after the wait": Bug(
        "synthesis_tensor", WAIT + DEEPER + "__syncthreads();", WAIT, "synthesis", **TENSOR, caught={"check": UNORDERED}
    ),
    "synthesis, tensor: no barrier before the next row arrives": Bug(
        "synthesis_tensor", "PITCH, taps);" + DEEPER + "__syncthreads();", "PITCH, taps);", "synthesis", **TENSOR,
        caught={"check": ARRIVING},
    ),
    "convolution, tensor: rows not waited for": Bug(
        "convolution_tensor", WAIT, "", "convolution, dilated", **TENSOR, caught=LATE
    ),
    "convolution, tensor: the row that still arrives": Bug(
        "convolution_tensor", "shared + row % 2 * ROW_WORDS", "shared + (row + 1) % 2 * ROW_WORDS",
        "convolution, dilated", **TENSOR,
        caught=LATE,
    ),
    "convolution, tensor: no barrier after the wait": Bug(
        "convolution_tensor", WAIT + LATER + "__syncthreads();", WAIT, "convolution, dilated", **TENSOR,
        caught={"check": UNORDERED},
    ),
    "convolution, tensor: no barrier before the next inputs are loaded": Bug(
        "convolution_tensor", "tile, row % SUPPORT);" + LATER + "__syncthreads();", "tile, row % SUPPORT);",
        "convolution, dilated",
        **TENSOR, caught={"check": UNORDERED + "|cp.async: read before"},
    ),
    "slabs: the last ones not copied": Bug(
        "analysis_tensor", "i < slabs * (SLAB / 4);", "i < slabs * (SLAB / 4) - THREADS;", "analysis", **TENSOR,
        caught={"plain": WRONG, "check": UNORDERED}
    ),
    # shared memory within a warp
    "synthesis, tensor: columns added up before all lanes have their taps": Bug(
        "synthesis_tensor", "__syncwarp();", "", "synthesis", **TENSOR, caught={"check": RACE}
    ),
    "synthesis, tensor: output not cleared": Bug(
        "synthesis_tensor", "TILE_Y * WARP_TAPS + SPAN_Y * PITCH; i", "TILE_Y * WARP_TAPS; i", "synthesis", **TENSOR,
        caught={"plain": WRONG, "check": UNORDERED}
    ),
    "synthesis, tensor: taps beyond the filters stored": Bug(
        "synthesis_tensor", "if (kx >= SUPPORT) continue;", "", "synthesis", **TENSOR,
        caught={"check": f"{OUTSIDE}|{RACE}"}
    ),
    # where things lie
    "synthesis, tensor: taps not skewed": Bug(
        "synthesis_tensor", "taps[kx * PITCH + kx + 8 * n", "taps[kx * PITCH + 8 * n", "synthesis", **TENSOR
    ),
    "synthesis, tensor: skewed the other way": Bug(
        "synthesis_tensor", "taps[kx * PITCH + kx + 8 * n", "taps[kx * PITCH + SUPPORT - 1 - kx + 8 * n", "synthesis",
        **TENSOR
    ),
    "analysis, tensor: a row too little in the tile": Bug(
        "analysis_tensor", "SPAN_Y = TILE_Y + SUPPORT - 1,", "SPAN_Y = TILE_Y + SUPPORT - 2,", "analysis", **TENSOR,
        caught={"plain": WRONG, "check": UNORDERED},
    ),
    "analysis, tensor: lanes a pair of taps apart": Bug(
        "analysis_tensor", "slab * DEPTH + lane % 4 * 4", "slab * DEPTH + lane % 4 * 2", "analysis", **TENSOR
    ),
    "slabs: words of lanes 0 to 15 for all": Bug(
        "convolution_tensor", "(slab) + threadIdx.x % 32;", "(slab) + threadIdx.x % 16;", "convolution, dilated",
        **TENSOR
    ),
    "convolution, tensor: inputs of another lane": Bug(
        "convolution_tensor", "[pixel * 4 + lane % 4]", "[pixel * 4 + lane / 8]", "convolution, dilated", **TENSOR
    ),
    "convolution, tensor: taps not dilated": Bug(
        "convolution_tensor", "+ kx * DILATION;", "+ kx;", "convolution, dilated", **TENSOR
    ),
    "convolution, tensor: the first inputs for all": Bug(
        "convolution_tensor", "if (row % SUPPORT == 0)", "if (row == 0)", "convolution, dilated", **TENSOR
    ),
    # tails
    "analysis, tensor: last row of the filters left out": Bug(
        "analysis_tensor", "row, HALF, ROWS);", "row, HALF, ROWS - 1);", "analysis", **TENSOR
    ),
    "analysis, tensor: columns that only fill up not cleared": Bug(
        "analysis_tensor", "q[m][n][i] = 0.0f, q[m][n][i + 2] = 0.0f;", "q[m][n][i] = 0.0f;", "analysis", **TENSOR
    ),
    "analysis, tensor: border of the lower channels for the upper ones": Bug(
        "analysis_tensor", "weight + m * DEPTH + 8)", "weight + m * DEPTH)", "analysis", **TENSOR
    ),
    "synthesis, tensor: no guard in x": Bug(
        "synthesis_tensor", "if (y < g.height && x < g.width)", "if (y < g.height)", "synthesis", **TENSOR,
        caught={"plain": WRONG, "check": f"{OUTSIDE}|{UNORDERED}|{WRONG}"},
    ),
    "convolution, tensor: no guard in x": Bug(
        "convolution_tensor", "if (left + 8 * n + 2 * quad >= g.width) continue;", "", "convolution, dilated", **TENSOR,
        caught={"check": f"{OUTSIDE}|{RACE}", "sanitize": f"{OUTSIDE}|{WRONG}"},
    ),
    # images
    "analysis, tensor: the number in the list for the image": Bug(
        "analysis_tensor", "return {active[blockIdx.z],", "return {static_cast<int>(blockIdx.z),", "dual step", **TENSOR
    ),
    "synthesis, tensor: mask of image 0": Bug(
        "synthesis_tensor", "mask + element(image, channel", "mask + element(active[0], channel", "synthesis", **TENSOR
    ),
    "convolution, tensor: bias of image 0": Bug(
        "convolution_tensor", "bias[image * g.channels + c]", "bias[active[0] * g.channels + c]", "convolution, last",
        **TENSOR
    ),
    # precision
    "analysis, bf16x3: small parts of pixels dropped": Bug(
        "analysis_tensor", "low[at], low[at + 2]}}", "0u, 0u}}", "analysis", **BF16X3
    ),
    "synthesis, bf16x3: small parts of the weights dropped": Bug(
        "synthesis_tensor", "mma_m16n8k16_bf16(d[n], second, front);", "", "synthesis", **BF16X3
    ),
    "convolution, bf16x3: small parts of the values dropped": Bug(
        "convolution_tensor", "mma_m16n8k16_bf16(d[n], first, back);", "", "convolution, dilated", **BF16X3
    ),
    "synthesis, bf16x3: small parts are the large ones": Bug(
        "synthesis_tensor", "pack_bf16(a - bf16_low(high), b - bf16_high(high))", "high", "synthesis", **BF16X3
    ),
}  # fmt: skip


def clear_dual_of_a_huge_image(device):
    """64 channels of 16384 x 16384 are 2^34 floats: the first block of the launch needs no more than 2^10 of them."""
    size = 16384
    geometry = np.array([(1, size, size, size, 0, size, size, 64)], GEOMETRY)
    dual, first = device.empty(2048, np.float32), device.zeros(1, np.int32)
    kernel = device.module(source("state")).get_function("clear_dual")
    kernel((1, 1, 1), (256, 1, 1), (first, first, dual, geometry))
    assert not dual[:1024].any(), "wrong: not cleared"
    assert np.isnan(dual[1024:]).all()


def outcome(device, case, setting, precision):
    """What running a case tells; nothing if it is content."""
    try:
        if case == HUGE:
            clear_dual_of_a_huge_image(device)
        else:
            for result in CASES[case](
                bench_of(device, (SETTINGS | SMALL | TENSOR_SMALL)[setting], precision=precision)
            ):
                result.check()
    except LaunchError as error:
        return str(error)
    except AssertionError as error:
        return str(error) or "wrong"
    return ""


def planted(bug, mode):
    return outcome(PlantedDevice(bug.old, bug.new, mode), bug.case, bug.setting, bug.precision)


def unbroken(case, setting, precision, mode):
    return outcome(EmulatedDevice(mode), case, setting, precision)


DETECTORS = sorted({(bug.case, bug.setting, bug.precision, mode) for bug in BUGS.values() for mode in bug.caught})


def all_outcomes(modes):
    """What every mistake leads to, by name and mode, and every unbroken case, as in DETECTORS. Two at a time: they
    compile.

    A sanitized process calls this, too.
    """
    runs = {(name, mode): (planted, bug, mode) for name, bug in BUGS.items() for mode in bug.caught if mode in modes}
    runs |= {detector: (unbroken, *detector) for detector in DETECTORS if detector[-1] in modes}
    with ThreadPoolExecutor(2) as pool:
        made = {key: pool.submit(*run) for key, run in runs.items()}
        return {key: future.result() for key, future in made.items()}


@pytest.fixture(scope="module")
def outcomes():
    with ThreadPoolExecutor(1) as pool:
        under_sanitizers = pool.submit(sanitized.call, all_outcomes, ("sanitize",))
        return all_outcomes(("plain", "check")) | under_sanitizers.result()


@pytest.mark.parametrize("name", BUGS)
def test_mistake_is_planted_once(name):
    bug = BUGS[name]
    assert source(bug.file).count(bug.old) == 1


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, bug in BUGS.items() for mode in bug.caught])
def test_mistake_is_noticed(name, mode, outcomes):
    assert re.search(BUGS[name].caught[mode], outcomes[name, mode]), f"said: {outcomes[name, mode]!r}"


@pytest.mark.parametrize("detector", DETECTORS, ids=str)
def test_unbroken_kernel_is_passed(detector, outcomes):
    assert outcomes[detector] == ""
