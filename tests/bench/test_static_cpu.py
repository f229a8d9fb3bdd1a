"""Machine code of the CPU kernels for processors that are not at hand: vectors, no calls, few of them on the stack."""

import pytest

from bench.static import cpu


@pytest.fixture(scope="module")
def counts():
    found = {(row["function"], row["processor"]): row for row in cpu.rows()}
    assert len(found) == 3 * len(cpu.PROCESSORS)
    return found


@pytest.mark.parametrize("processor", cpu.PROCESSORS)
def test_a_transform_is_vectors_without_calls(counts, processor):
    """68 additions, times the registers that a vector of 16 lanes takes."""
    row, parts = counts["transform of a line", processor], {"znver4": 1, "sapphirerapids": 1, "haswell": 2, "znver2": 2}
    assert row["call"] == 0
    assert row["add"] == 68 * parts.get(processor, 4)


@pytest.mark.parametrize("processor", cpu.PROCESSORS)
def test_the_register_tile_of_a_processor_stays_in_its_registers(counts, processor):
    wide = processor in ("znver4", "sapphirerapids")
    row = counts[f"{'six' if wide else 'two'} pairs of a mask layer", processor]
    assert row["call"] == 0
    assert row["spilled"] <= 0.1 * row["vector"]
    if not wide:  # which six pairs do not
        six = counts["six pairs of a mask layer", processor]
        assert six["spilled"] > 0.3 * six["vector"]
