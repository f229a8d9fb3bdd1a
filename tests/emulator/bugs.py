"""The mistakes of bugs.cu: how each kernel is launched, what it should compute, and which mode says what about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from safi_fast.bindings.module import KERNELS, inline_headers

from .build import Mode
from .device import EmulatedDevice
from .library import LaunchError
from .samples import HERE

THREADS = 256
WRONG = "wrong numbers"
SILENT = "silent"

Expected = Callable[[np.ndarray], np.ndarray]


def same(x: np.ndarray) -> np.ndarray:
    return x


def reversed_(x: np.ndarray) -> np.ndarray:
    return x[::-1]


def reversed_twice(x: np.ndarray) -> np.ndarray:
    return 2 * x[::-1] + 1


def pairs_swapped(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, 2)[:, ::-1].ravel()


def first_pairs_swapped(x: np.ndarray) -> np.ndarray:
    return np.concatenate([pairs_swapped(x[:16]), x[16:]])


def sum_in_first(x: np.ndarray) -> np.ndarray:
    return np.array([x.sum()])


def sum_in_first_two(x: np.ndarray) -> np.ndarray:
    return np.array([x.sum(), x.sum()])


@dataclass(frozen=True)
class Case:
    """A kernel and its launch. The result is compared as far as `expected` goes, NaN counts as wrong."""

    expected: Expected = same
    blocks: int = 1
    threads: int = THREADS
    zeroed: bool = False  # y starts as zeros, not as uninitialised memory
    compared: int = THREADS


@dataclass(frozen=True)
class Bug(Case):
    """`caught`: a pattern of what each mode that catches it says."""

    caught: dict[Mode, str] = field(default_factory=dict)


_MEETING = "deadlock|barrier"
_ANY_OUT_OF_BOUNDS: dict[Mode, str] = {"sanitize": "out of bounds", "check": "out of bounds"}


def _everywhere(pattern: str) -> dict[Mode, str]:
    return {"plain": pattern, "sanitize": pattern, "check": pattern}


BUGS: dict[str, Bug] = {
    # barriers
    "missing_barrier": Bug(reversed_, caught={"plain": WRONG, "check": "race|uninitialised"}),
    "missing_barrier_before_reuse": Bug(
        reversed_twice, caught={"plain": WRONG, "check": "race: (read after write|write after read)"}
    ),
    "missing_syncwarp": Bug(pairs_swapped, caught={"plain": WRONG, "check": "race|uninitialised"}),
    "shuffle_as_barrier": Bug(pairs_swapped, caught={"check": "race: read after write"}),
    "syncwarp_for_block": Bug(reversed_, caught={"plain": WRONG, "check": "race|uninitialised"}),
    "return_before_barrier": Bug(compared=0, caught=_everywhere("barrier while 3 threads of the block have returned")),
    "barrier_in_two_places": Bug(caught=_everywhere("wait at different barriers")),
    # warp operations
    "lanes_missing": Bug(first_pairs_swapped, caught=_everywhere("deadlock: .* 16 in warp operations")),
    "caller_not_in_mask": Bug(caught=_everywhere("calling lane is not in the mask")),
    "source_not_in_mask": Bug(caught=_everywhere("reads from a lane outside its mask")),
    "different_operations": Bug(caught=_everywhere("meet in different warp operations")),
    "mma_by_half_a_warp": Bug(caught=_everywhere("deadlock")),
    # global memory
    "read_past_end": Bug(caught=_ANY_OUT_OF_BOUNDS),
    "write_past_end": Bug(caught=_everywhere("out of bounds|race")),
    "write_before_begin": Bug(caught=_everywhere("out of bounds")),
    "read_far_away": Bug(caught=_everywhere("out of bounds")),
    "misaligned_float4": Bug(caught={"sanitize": "misaligned", "check": "misaligned"}),
    "tail_not_written": Bug(caught={"plain": WRONG, "sanitize": WRONG, "check": "uninitialised: download of 5 of 256"}),
    "reads_what_it_should_write": Bug(
        caught={"plain": WRONG, "sanitize": WRONG, "check": r"uninitialised: read of argument 1"}
    ),
    # shared memory
    "write_past_shared": Bug(caught=_ANY_OUT_OF_BOUNDS),
    "write_past_shared_row": Bug(caught=_ANY_OUT_OF_BOUNDS),
    "write_past_shared_by_pointer": Bug(caught={"sanitize": "out of bounds"}),
    "write_past_shared_of_template": Bug(caught={"sanitize": "out of bounds"}),
    "read_past_dynamic": Bug(caught=_ANY_OUT_OF_BOUNDS),
    "write_past_dynamic": Bug(caught=_ANY_OUT_OF_BOUNDS),
    "uninitialised_shared": Bug(
        caught={"plain": WRONG, "sanitize": WRONG, "check": "uninitialised: read of shared .*::part"}
    ),
    # asynchronous copies
    "copy_without_wait": Bug(caught={"plain": WRONG, "sanitize": WRONG, "check": "cp.async: read before its target"}),
    "copy_waits_for_the_older_group": Bug(
        caught={"plain": WRONG, "sanitize": WRONG, "check": "cp.async: read before its target"}
    ),
    "copy_without_barrier": Bug(reversed_, caught={"plain": WRONG, "check": "race|uninitialised|cp.async"}),
    "copy_misaligned": Bug(caught=_everywhere("misaligned cp.async")),
    "copy_past_end": Bug(caught=_ANY_OUT_OF_BOUNDS),
    "ldmatrix_misaligned": Bug(caught=_everywhere("misaligned ldmatrix")),
    # blocks and atomics
    "blocks_overlap": Bug(blocks=2, caught={"check": "race: write after write by another block"}),
    "reads_other_block": Bug(blocks=2, threads=128, caught={"check": "race|uninitialised"}),
    "missing_atomic": Bug(sum_in_first, zeroed=True, compared=1, caught={"check": "race: "}),
    "atomic_and_plain": Bug(sum_in_first, zeroed=True, compared=1, caught={"check": "race: (read after )?atomic"}),
    "missing_fence": Bug(
        sum_in_first, blocks=4, threads=64, zeroed=True, compared=1, caught={"check": "race: .* another block"}
    ),
    # arithmetic
    "signed_overflow": Bug(caught={"sanitize": "signed overflow", "check": "signed overflow"}),
    "division_by_zero": Bug(caught=_everywhere("division by zero")),
    "shift_too_far": Bug(caught={"sanitize": "shift by too much", "check": "shift by too much"}),
    "local_array_overflow": Bug(caught={"sanitize": "out of bounds", "check": "out of bounds"}),
    "uninitialised_local": Bug(caught=_everywhere(WRONG)),
    "null_pointer": Bug(caught=_everywhere("out of bounds|null pointer")),
    "stack_overflow": Bug(compared=0, caught={"plain": "stack overflow", "check": "stack overflow"}),
}

RIGHT: dict[str, Case] = {
    "missing_barrier_right": Case(reversed_),
    "missing_barrier_before_reuse_right": Case(reversed_twice),
    "missing_syncwarp_right": Case(pairs_swapped),
    "return_before_barrier_right": Case(compared=THREADS - 3),
    "lanes_missing_right": Case(first_pairs_swapped),
    "write_past_end_right": Case(),
    "misaligned_float4_right": Case(),
    "write_past_dynamic_right": Case(),
    "copy_without_barrier_right": Case(reversed_),
    "copy_past_end_right": Case(),
    "missing_atomic_right": Case(sum_in_first, zeroed=True, compared=1),
    "atomic_and_plain_right": Case(sum_in_first_two, zeroed=True, compared=2),
    "local_array_overflow_right": Case(),
    "missing_fence_right": Case(sum_in_first, blocks=4, threads=64, zeroed=True, compared=1),
}


def outcome(name: str, case: Case, device: EmulatedDevice) -> str:
    """What running this kernel tells: a message of the emulator, WRONG or SILENT."""
    kernel = device.module(inline_headers(HERE / "bugs.cu", (KERNELS,))).get_function(name)
    x = np.arange(1, THREADS + 1, dtype=np.float32)  # small whole numbers: sums are exact in any order
    y = device.zeros(THREADS, np.float32) if case.zeroed else device.empty(THREADS, np.float32)
    args = (device.upload(x), y, np.int32(THREADS))
    try:
        kernel((case.blocks,), (case.threads,), args, shared_mem=4 * THREADS)
        result = device.download(y[: case.compared])
    except LaunchError as error:
        return str(error)
    expected = case.expected(x)[: case.compared].astype(np.float32)
    return SILENT if np.array_equal(result, expected) else WRONG


def all_outcomes(mode: Mode, seeds: tuple[int, ...]) -> dict[tuple[str, int], str]:
    """Of every kernel, mistaken or right. A function on its own so that a sanitized process can call it."""
    cases: dict[str, Case] = {**BUGS, **RIGHT}
    results = {}
    for seed in seeds:
        device = EmulatedDevice(mode, seed=seed)
        for name, case in cases.items():
            results[name, seed] = outcome(name, case, device)
    return results
