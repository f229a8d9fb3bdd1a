"""Machine code of the CPU kernels for processors that are not at hand: vectors, no calls, few of them on the stack."""

import pytest

from bench.static import cpu


@pytest.fixture(scope="module")
def counts():
    found = {(row["function"], row["processor"]): row for row in cpu.rows()}
    assert len(found) == 3 * len(cpu.PROCESSORS)
    return found


@pytest.mark.parametrize("processor", cpu.PROCESSORS)
def test_a_transform_is_vectors_without_calls_that_stay_in_registers(counts, processor):
    """68 additions, of as many lanes as a register has."""
    row = counts["transform of a line", processor]
    assert row["call"] == 0
    assert row["add"] == 68
    assert row["spilled"] <= 0.2 * row["vector"]


@pytest.mark.parametrize("processor", cpu.PROCESSORS)
def test_the_register_tile_of_a_processor_stays_in_its_registers(counts, processor):
    wide = processor in ("znver4", "sapphirerapids")
    row = counts[f"{'six' if wide else 'two'} pairs of a mask layer", processor]
    assert row["call"] == 0
    assert row["spilled"] <= 0.1 * row["vector"]
    if not wide:  # which six pairs do not
        six = counts["six pairs of a mask layer", processor]
        assert six["spilled"] > 0.3 * six["vector"]
