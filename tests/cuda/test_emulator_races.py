"""The race checker against a plain model with vector clocks, on random programs of two warps that read, write and
synchronise.
"""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from emulator.device import EmulatedDevice, LaunchError

THREADS = 64
CELLS = 2
THREAD = np.arange(THREADS)
LANE = THREAD % 32

# What a thread does in one step. The masks of the three kinds of __syncwarp divide a warp into groups.
NOTHING, READ, WRITE, SYNC_BLOCK, SYNC_WARP, SYNC_HALVES, SYNC_INTERLEAVED = range(7)
GROUPS = {
    SYNC_BLOCK: [THREAD >= 0],
    SYNC_WARP: [warp == THREAD // 32 for warp in range(2)],
    SYNC_HALVES: [half == THREAD // 16 for half in range(4)],
    SYNC_INTERLEAVED: [(warp == THREAD // 32) & (odd == LANE // 8 % 2) for warp in range(2) for odd in range(2)],
}

INTERPRETER = """
extern "C" __global__ void interpret(const int* operations, const int* cells, int steps, float* y) {
    __shared__ float values[2];
    int t = threadIdx.x;
    if (t < 2) values[t] = 0.0f;
    __syncthreads();
    float sum = 0.0f;
    for (int step = 0; step < steps; step++) {
        int cell = cells[step * blockDim.x + t];
        switch (operations[step * blockDim.x + t]) {
            case 1: sum += values[cell]; break;
            case 2: values[cell] = sum; break;
            case 3: __syncthreads(); break;
            case 4: __syncwarp(); break;
            case 5: __syncwarp(t % 32 < 16 ? 0x0000ffffu : 0xffff0000u); break;
            case 6: __syncwarp(t / 8 % 2 == 0 ? 0x00ff00ffu : 0xff00ff00u); break;
        }
    }
    y[t] = sum;
}
"""


@dataclass(frozen=True)
class Access:
    """`known[j]`: how many synchronisations of thread j come before it."""

    thread: int
    cell: int
    writes: bool
    known: np.ndarray


def random_program(rng):
    """Operations and cells, (steps, THREADS) each. The threads of a group synchronise together or not at all."""
    steps = rng.integers(2, 9)
    operations = np.zeros((steps, THREADS), np.int32)
    cells = rng.integers(0, CELLS, (steps, THREADS)).astype(np.int32)
    for operation in operations:
        kind = rng.choice([READ, WRITE, *GROUPS], p=[0.1, 0.4, 0.1, 0.2, 0.1, 0.1])
        if kind in GROUPS:
            for group in GROUPS[kind]:
                operation[group] = kind if kind == SYNC_BLOCK or rng.random() < 0.7 else NOTHING
        elif kind == READ:  # by all lanes of a warp
            operation[rng.integers(2) == THREAD // 32] = READ
        else:
            some = rng.choice(THREADS, rng.integers(1, 5), replace=False)
            operation[some] = rng.choice([READ, WRITE], some.size)
    return operations, cells


def has_race(operations, cells):
    """Whether two threads access one cell, one of them writing, and neither access comes before the other."""
    known = np.eye(THREADS, dtype=int)  # known[i, j]: of thread j by thread i
    accesses = []
    for operation, cell in zip(operations, cells, strict=True):
        accesses.extend(
            Access(thread, cell[thread], operation[thread] == WRITE, known[thread].copy())
            for thread in np.flatnonzero((operation == READ) | (operation == WRITE))
        )
        for kind, groups in GROUPS.items():
            for group in groups:
                if (operation[group] == kind).all():
                    known[group] = known[group].max(axis=0)
                    known[group, group] += 1
    return any(
        first.thread != second.thread
        and first.cell == second.cell
        and (first.writes or second.writes)
        and second.known[first.thread] < first.known[first.thread]
        for i, first in enumerate(accesses)
        for second in accesses[i + 1 :]
    )


def verdict(operations, cells, seed):
    """What the checker says; nothing if it is content."""
    device = EmulatedDevice("check", seed=seed)
    kernel = device.module(INTERPRETER).get_function("interpret")
    y = device.empty(THREADS, np.float32)
    args = (device.upload(operations), device.upload(cells), np.int32(len(operations)), y)
    try:
        kernel((1,), (THREADS,), args)
    except LaunchError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", [0, 1])
def test_races_are_found_exactly(seed):
    rng = np.random.default_rng(seed)
    programs = [random_program(rng) for _ in range(300)]
    truth = [has_race(*program) for program in programs]
    verdicts = [verdict(*program, seed) for program in programs]
    assert set(truth) == {True, False}
    assert [bool(message) for message in verdicts] == truth
    assert all(
        re.search("race: (read|write) after (read|write) by (thread|several)", text) for text in verdicts if text
    )
