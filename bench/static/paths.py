"""How many instructions the kernels issue: the loops of their machine code, with the trips that their sources give.

A plan lists the loops of a kernel in the order of the machine code. Instructions of a loop say how much one trip of it
does: a loop of copies with four stores makes four elements per thread, and the loop before it with one store makes
those that are left over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from emulator.path import longest_path, reachable
from emulator.sass import KernelCode, Loop, count_instructions

from safi_fast.bindings.launch import Shape, ceil_div

PRODUCTS = ("FFMA", "HMMA")
STORES = ("STS", "LDGSTS", "STG")


@dataclass(frozen=True)
class Copy:
    """`elements` per block, dealt out to `threads`; `turns`: the share of the visits to this loop that copy at all."""

    what: str
    elements: int
    threads: int
    per_element: int = 1  # stores
    turns: float = 1.0


@dataclass(frozen=True)
class Rows:
    """`products` FFMA or HMMA of a warp in each of `rows` rows."""

    what: str
    rows: int
    products: int


@dataclass(frozen=True)
class Times:
    """A loop with others in it, or one without stores and products."""

    what: str
    trips: float


Part = Copy | Rows | Times


def loop_trips(kernel: KernelCode, plan: tuple[Part, ...]) -> list[tuple[str, Loop, float]]:
    """(what, loop, mean trips of a warp) in the order of the code. Raises ValueError where code and plan do not fit."""
    loops = sorted(reachable(kernel).loops, key=lambda loop: (loop.first, -loop.last))
    waiting, found = list(loops), []
    for part in plan:
        if not waiting:
            raise ValueError(f"{kernel.name}: no loop is left for {part}")
        loop = waiting.pop(0)
        if isinstance(part, Times):
            found.append((part.what, loop, part.trips))
        elif isinstance(part, Rows):
            products = sum(count_instructions(loop.instructions)[kind] for kind in PRODUCTS)
            if not products or products % part.products:
                raise ValueError(f"{kernel.name}: a loop with {products} products; expected {part}")
            found.append((part.what, loop, part.rows * part.products // products))
        else:
            found += _copies(kernel, part, loop, waiting)
    if waiting:
        raise ValueError(f"{kernel.name}: {len(waiting)} loops that the plan does not name")
    return found


def _copies(kernel: KernelCode, part: Copy, loop: Loop, waiting: list[Loop]) -> list[tuple[str, Loop, float]]:
    """A loop of copies and, where the compiler made one, the loop for the rest before it."""
    unroll = _stores(loop) // part.per_element
    if not unroll:
        raise ValueError(f"{kernel.name}: a loop without stores; expected {part}")
    found = []
    if waiting and unroll == 1 and _kind(waiting[0]) == _kind(loop) and _stores(waiting[0]) >= 4 * _stores(loop):
        found.append((part.what + ", rest", loop, None))
        loop = waiting.pop(0)
        unroll = _stores(loop) // part.per_element
    warps = part.threads // 32
    each = [max(0, ceil_div(part.elements - 32 * warp, part.threads)) for warp in range(warps)]
    trips = part.turns * sum(n // unroll for n in each) / warps
    rest = part.turns * sum(n % unroll for n in each) / warps
    return [(what, first, rest) for what, first, _ in found] + [(part.what, loop, trips)]


def _kind(loop: Loop) -> str:
    counts = count_instructions(loop.instructions)
    return max(STORES, key=lambda kind: counts[kind])


def _stores(loop: Loop) -> int:
    return count_instructions(loop.instructions)[_kind(loop)]


@dataclass(frozen=True)
class Issue:
    """Instructions that the warps of one image issue, by class, and what they are made of."""

    by_class: Counter[str]
    loops: list[dict[str, object]]
    outside: float  # instructions of a warp outside all loops
    warp: float  # instructions of a warp that works
    idle_warp: float  # of one that lies outside the image
    working: float  # share of the warps that work

    @property
    def total(self) -> float:
        return float(self.by_class.total())


def issue(kernel: KernelCode, plan: tuple[Part, ...], warps: int, working: float) -> Issue:
    """Of `warps` warps of a grid, a share `working` of which lies inside the image."""
    named = loop_trips(kernel, plan)
    trips = {(loop.first, loop.last): count for _, loop, count in named}

    def count_of(loop: Loop) -> float:
        return trips[loop.first, loop.last]

    full = longest_path(kernel, count_of)
    idle = full
    if working < 1:
        idle = longest_path(kernel, count_of, lambda instruction: instruction.kind in PRODUCTS)
    total: Counter[str] = Counter()
    for mix, share in ((full, working), (idle, 1 - working)):
        for kind, number in mix.items():
            total[kind] += number * share * warps
    rows = [
        {"loop": what, "instructions": len(loop.instructions), "trips": round(count, 3)} for what, loop, count in named
    ]
    outside = longest_path(kernel, lambda loop: 0.0).total()
    return Issue(total, rows, outside, full.total(), idle.total(), working)


# ------------------------------------------------------------------------------------------------------------ the plans
def direct_share(shape: Shape) -> float:
    """Warps of the direct kernels (8 rows of a tile of 32) that have a row inside."""
    return ceil_div(shape.height, 8) / (4 * ceil_div(shape.height, 32))


def synthesis_share(shape: Shape) -> float:
    """Warps of synthesis (16 rows of a tile of 64 of the extended image) that have a row inside."""
    height = shape.height + shape.support - 1
    return ceil_div(height, 16) / (4 * ceil_div(height, 64))


def _loop(what: str, trips: int) -> tuple[Part, ...]:
    """None around a single trip, which is compiled without one."""
    return (Times(what, trips),) if trips > 1 else ()


def direct_plan(support: int, dilation: int = 1, planes: int = 1) -> tuple[Part, ...]:
    """features; with BORDER after it analysis, masked_norm, dual_step, anchored_step."""
    spread = (support - 1) * dilation
    span_y, span_x = 32 + spread, 28 + (4 + spread + 3) // 4 * 4
    return (
        *_loop("planes", planes),
        Copy("pixels to shared memory", span_y * span_x, 128),
        Copy("weights to shared memory", support**2 * 8, 128),
        Rows("rows of the filters", support, 64 * support),
    )


BORDER = (Times("border correction, pixels", 0), Times("border correction, taps", 0))


def synthesis_plan(support: int, channels: int) -> tuple[Part, ...]:
    """`channels` of one summand."""
    lead = (support + 2) // 4 * 4
    fours = (64 + support - 1) * (32 + lead) // 4
    return (
        Times("channels", channels),
        Copy("M . u to shared memory", fours, 128),
        Copy("the same without mask", fours, 128),
        Copy("taps to shared memory", support * ((support + 3) // 4 * 4), 128),
        Rows("rows of the filters but the first and the last", support - 1, 16 * support),
    )


def convolution_plan(support: int, dilation: int, channels: int) -> tuple[Part, ...]:
    spread = (support - 1) * dilation
    span = (32 + spread) * (28 + (4 + spread + 3) // 4 * 4)
    return (
        Times("input channels", channels),
        Copy("pixels to shared memory, symmetric", span, 128),
        Copy("the same with zero padding", span, 128),
        Copy("weights to shared memory", support**2 * 8, 128),
        Rows("rows of the kernel", support, 64 * support),
    )


def depthwise_plan(support: int) -> tuple[Part, ...]:
    window = (8 + support + 2) // 4 * 4
    values = (32 + support - 1) * (24 + window)
    return (
        Copy("values to shared memory, mirrored", values, 128),
        Copy("the same, not mirrored", values, 128),
        Copy("taps to shared memory, reversed", support**2, 128),
        Copy("the same, as they are", support**2, 128),
        Rows("rows of the kernel", support, 8 * support),
    )


def analysis_tensor_plan(support: int, block: int, precision: str, planes: int = 1) -> tuple[Part, ...]:
    """block: CHANNEL_BLOCK."""
    slabs, m, rows = ceil_div(support, 16), block // 16, planes * support
    half = (rows + 1) // 2
    products = slabs * m * 4 * (3 if precision == "bf16x3" else 2)
    pixels = Copy(
        "pixels to shared memory", (16 + support - 1) * (32 + 16 * slabs), 256, 2 if precision == "bf16x3" else 1
    )
    further = (*_loop("further planes", planes - 1), replace(pixels, what="their pixels to shared memory"))
    return (
        Copy("weights to shared memory, first half", half * slabs * m * 64, 256),
        Copy("weights to shared memory, second half", (rows - half) * slabs * m * 64, 256),
        pixels,
        *(further if planes > 1 else ()),
        Times("rows of pixels of a warp", 2),
        Rows("rows of the filters, first half", half, products),
        Rows("rows of the filters, second half", rows - half, products),
        *(Times("border correction", 0) for _ in range(8 if planes == 1 else 16)),
    )


def synthesis_tensor_plan(support: int, block: int, planes: int = 1) -> tuple[Part, ...]:
    """block: CHANNEL_BLOCK."""
    pieces = ceil_div(support, 16) * block // 16 * 64
    taps = 56 * (8 * support + 8 + support - 1)
    rows = planes * support
    output = Copy("output to global memory", (8 + support - 1) * (32 + support - 1), 256)
    return (
        Copy("weights to shared memory, first row", pieces, 256),
        Copy("zeros to shared memory", taps, 256),
        *_loop("planes", planes),
        Times("rows of the filters", support),
        Copy("weights to shared memory, next row", pieces, 256, turns=(rows - 1) / rows),
        output,
        *((replace(output, what="the same, cleared for the next plane"),) if planes > 1 else ()),
    )


def convolution_tensor_plan(support: int, dilation: int, block: int, channels: int, precision: str) -> tuple[Part, ...]:
    spread, m, rows = (support - 1) * dilation, block // 16, channels // 16 * support
    pixels = (8 + spread) * (32 + spread) * 4
    return (
        Copy("weights to shared memory, first row", support * m * 64, 256),
        Times("rows of the kernel, every 16 inputs", rows),
        Copy("pixels to shared memory, symmetric", pixels, 256, turns=1 / support),
        Copy("the same with zero padding", pixels, 256, turns=1 / support),
        Copy("weights to shared memory, next row", support * m * 64, 256, turns=(rows - 1) / rows),
        Rows("taps of a row", support, 4 * m * (3 if precision == "bf16x3" else 2)),
    )
