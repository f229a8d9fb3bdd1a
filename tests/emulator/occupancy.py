"""How many blocks of a kernel fit on a multiprocessor at once, by NVIDIA's rules for
compute capability 8.0 and later.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
REGISTERS_PER_MULTIPROCESSOR = 65536
_REGISTER_UNIT = 256  # registers are given to a warp in multiples of this
_REGISTER_PARTS = 4  # a warp has its registers in one of four parts
_SHARED_UNIT = 128  # bytes
_RESERVED_SHARED = 1024  # bytes that every block loses to the system


@dataclass(frozen=True)
class Gpu:
    """What one multiprocessor has, and how many there are. Shared memory in bytes."""

    name: str
    architecture: str
    multiprocessors: int
    threads: int
    blocks: int
    shared: int
    shared_per_block: int


GPUS = (
    Gpu("A100", "sm_80", 108, 2048, 32, 164 * 1024, 163 * 1024),
    Gpu("RTX 3090", "sm_86", 82, 1536, 16, 100 * 1024, 99 * 1024),
    Gpu("RTX 4090", "sm_89", 128, 1536, 24, 100 * 1024, 99 * 1024),
    Gpu("H100", "sm_90", 132, 2048, 32, 228 * 1024, 227 * 1024),
    Gpu("B200", "sm_100", 148, 2048, 32, 228 * 1024, 227 * 1024),
    Gpu("RTX 5090", "sm_120", 170, 1536, 24, 100 * 1024, 99 * 1024),
)


@dataclass(frozen=True)
class Occupancy:
    """Blocks and warps on one multiprocessor, and what keeps more from fitting: "threads", "blocks", "registers",
    "shared".
    """

    blocks: int
    warps: int
    limit: str
    share: float  # of the warps that a multiprocessor can hold


def occupancy(gpu: Gpu, *, threads: int, registers: int, shared: int) -> Occupancy:
    """For blocks of `threads`, `registers` per thread and `shared` bytes per block, static and dynamic."""
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads}; expected 1 to 1024")
    if not 0 <= shared <= gpu.shared_per_block:
        raise ValueError(f"shared={shared}; expected 0 to {gpu.shared_per_block} on {gpu.name}")
    warps = -(-threads // WARP)
    limits = {
        "threads": gpu.threads // WARP // warps,
        "blocks": gpu.blocks,
        "registers": _blocks_by_registers(warps, registers),
        "shared": gpu.shared // _round_up(shared + _RESERVED_SHARED, _SHARED_UNIT),
    }
    limit = min(limits, key=lambda name: limits[name])
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps, limit, blocks * warps * WARP / gpu.threads)


def _blocks_by_registers(warps: int, registers: int) -> int:
    per_warp = _round_up(max(registers, 1) * WARP, _REGISTER_UNIT)
    warps_in_part = REGISTERS_PER_MULTIPROCESSOR // _REGISTER_PARTS // per_warp
    return warps_in_part * _REGISTER_PARTS // warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
