"""The kernels on tensor cores alone in the emulator, against float64, in every mode; and their weights.

The cases are those of cuda_cases.py.

Their precision is seen twice: no result may be further off than its factors explain (cuda_bench.PRODUCT_ROUNDING), and
a kernel that ignores its option is as exact as another one.
"""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cuda_bench import TENSOR_SETTINGS, TENSOR_SMALL, bench_of
from cuda_cases import CASES, KERNELS, TENSOR_CASES, forth
from emulator import sanitized
from emulator.device import EmulatedDevice, LaunchError
from plain import EPS

from safi_fast.bindings import weights as layout
from safi_fast.bindings.cuda_weights import TENSOR_FILES
from safi_fast.bindings.launch import analysis_blocks
from safi_fast.bindings.module import source

PRECISIONS = ("tf32", "bf16x3")
EVERYWHERE = ("analysis, mask", "dual step", "synthesis", "W^T (M . u)")
CHOSEN = dict.fromkeys(TENSOR_SETTINGS, EVERYWHERE) | {
    "3, one tile": TENSOR_CASES,
    "3, five blocks of channels": (*EVERYWHERE, "convolution, dilated"),
    "9, three layers": tuple(name for name in TENSOR_CASES if name != "convolution"),
    "13, published": (*EVERYWHERE, "convolution"),
    "13, published, as small": TENSOR_CASES,
    "13, shipped": (*EVERYWHERE, "convolution, dilated"),
}
SLOW = ("analysis, mask", "masked norm", "dual step", "synthesis", "convolution, dilated", "convolution, last")
SMALL = {"tf32": "tensor, band", "bf16x3": "tensor, symmetric"}  # for the slow modes
SEEDS = (0, 1, 2)


def failures_of_small_cases(mode):
    """Cases and precisions that go wrong, with the reason. A sanitized process calls this."""
    failures = {}
    for name in SLOW:
        for precision, setting in SMALL.items():
            try:
                for result in CASES[name](bench_of(EmulatedDevice(mode), TENSOR_SMALL[setting], precision=precision)):
                    result.check()
            except (AssertionError, LaunchError) as error:
                failures[name, precision] = str(error)
    return failures


@pytest.fixture(scope="module", autouse=True)
def sanitized_failures(request):
    """Computed beside the other tests, if it is asked for."""
    if not any("under_sanitizers" in item.name for item in request.session.items):
        yield None
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(sanitized.call, failures_of_small_cases, "sanitize")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "setting"), [(name, setting) for setting in CHOSEN for name in CHOSEN[setting]])
def test_kernel(name, setting, precision):
    for result in CASES[name](bench_of(EmulatedDevice(), TENSOR_SETTINGS[setting], precision=precision)):
        result.check()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("setting", TENSOR_SETTINGS)
def test_kernels_on_a_gpu(setting, precision, gpu):
    for name in CHOSEN[setting]:
        for result in CASES[name](bench_of(gpu, TENSOR_SETTINGS[setting], precision=precision)):
            result.check()


@pytest.mark.parametrize(("precision", "active"), [("tf32", (0, 1)), ("bf16x3", (1,))])
@pytest.mark.parametrize("name", SLOW)
def test_kernel_on_some_images_of_a_batch(name, precision, active):
    setting = TENSOR_SMALL[SMALL[precision]]
    for result in CASES[name](bench_of(EmulatedDevice(), setting, batch=2, active=active, precision=precision)):
        result.check()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SLOW)
def test_kernel_in_check_mode(name, precision):
    for result in CASES[name](bench_of(EmulatedDevice("check"), TENSOR_SMALL[SMALL[precision]], precision=precision)):
        result.check()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SLOW)
def test_kernel_under_sanitizers(name, precision, sanitized_failures):
    assert sanitized_failures.result().get((name, precision)) is None


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SLOW)
def test_order_of_blocks_and_threads_changes_nothing(name, precision):
    runs = []
    for seed in SEEDS:
        bench = bench_of(EmulatedDevice(seed=seed), TENSOR_SMALL[SMALL[precision]], precision=precision)
        for _ in CASES[name](bench):
            pass
        runs.append([values.tobytes() for values in bench.outputs])
    assert runs[0]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("name", ["analysis, mask", "dual step", "synthesis", "convolution, dilated"])
def test_precision_is_the_one_asked_for(name):
    """Typical errors: 2^-12 of a factor of TF32 and 2^-17 of bf16x3; float32 rounds the growing sums to 2^-25."""
    errors = {}
    for precision in ("float32", *PRECISIONS):
        results = CASES[name](bench_of(EmulatedDevice(), TENSOR_SMALL["tensor, band"], precision=precision))
        off = [(r.actual - r.exact).ravel() for r in results if np.ndim(r.actual)]
        errors[precision] = np.sqrt(np.mean(np.concatenate(off) ** 2))
    assert errors["tf32"] > 16 * errors["bf16x3"]
    assert errors["bf16x3"] > 8 * errors["float32"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("setting", TENSOR_SMALL)
def test_norm_is_that_of_the_responses(setting, precision):
    """Both from the same products: what a norm may be off by float64 is too much to notice a column."""
    bench = bench_of(EmulatedDevice(), TENSOR_SMALL[setting], precision=precision)
    x, slot = bench.images(), bench.slots()
    responses = forth(bench, x, slot)
    l1 = bench.blank((bench.batch, analysis_blocks(bench.shape)), np.float64)
    bench.launch(
        "analysis", "masked_norm", bench.put(slot), bench.image_planes((slot, x)), None, l1, bench.analysis_filters(),
        bench.border(), writes=[(l1, bench.active)], options=bench.support_option,
    )  # fmt: skip
    for b, response in zip(bench.active, responses, strict=True):
        # a thread adds up 2 rows of 4 groups of 2 pixels for 4 channels in float32
        expected = np.abs(response.astype(float)).sum()
        assert abs(bench.read(l1, b).sum() - expected) <= 64 * EPS * expected


def test_every_variant_has_the_kernels_of_its_original():
    for file in TENSOR_FILES:
        found = re.findall(
            r'extern "C" __global__ void (?:__launch_bounds__\(.*\))?\s*(\w+)\(', source(f"{file}_tensor")
        )
        assert tuple(found) == KERNELS[file]


# ------------------------------------------------------------------------------------------------------------- weights
def rounded(value, bits, to_even):
    """To so many bits of mantissa, from the definition; ties to even or away from zero."""
    fraction, exponent = np.frexp(float(value))
    scaled = fraction * 2**bits
    whole = np.round(scaled) if to_even else np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    return np.float32(np.ldexp(whole, exponent - bits))


def bits(value, shift=0):
    return int(np.float32(value).view(np.uint32)) >> shift


def pair(low, high):
    """Of bfloat16 values: the lower index in the lower half."""
    return bits(low, 16) | bits(high, 16) << 16


def expected_words(matrix, m, k, lane, precision):
    """The eight words of a lane, as kernels/cuda/tensor.cuh describes what device.cuh calls a:
    group, then group + 8.
    """
    group, quad = divmod(lane, 4)
    rows = [matrix[16 * m + group + 8 * half, 16 * k + 4 * quad :][:4] for half in range(2)]
    if precision == "tf32":  # product `step` has inputs 4 quad + 2 step + (0, 1) where the manual has quad and quad + 4
        return [bits(rounded(rows[i % 2][2 * step + i // 2], 11, False)) for step in range(2) for i in range(4)]
    large = [[rounded(v, 8, True) for v in row] for row in rows]
    small = [[rounded(v - h, 8, True) for v, h in zip(*both, strict=True)] for both in zip(rows, large, strict=True)]
    return [pair(*part[i % 2][2 * (i // 2) :][:2]) for part in (large, small) for i in range(4)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_slabs_lane_by_lane(precision):
    matrix = np.random.default_rng(1).standard_normal((2, 32, 48)).astype(np.float32)
    matrix[0, :16, :4] = np.float32(
        [1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 2 - 2**-12]
    )  # ties, and a carry into the exponent
    matrix[0, :16, 4:8] = np.float32([1 + 2**-8, 1 + 3 * 2**-8, 0, -(2 - 2**-9)])
    made = layout.slabs(matrix, precision)
    assert made.shape == (2, 2, 3, 2, 32, 4)
    assert made.dtype == np.uint32
    for front, m, k, lane in np.ndindex(2, 2, 3, 32):
        assert made[front, m, k, :, lane].ravel().tolist() == expected_words(matrix[front], m, k, lane, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("support", "row_slabs", "planes"), [(3, 1, 1), (15, 1, 3), (17, 2, 2)])
def test_slabs_of_the_filter_bank(support, row_slabs, planes, precision):
    """Outputs and inputs: channels and taps of a row, or taps and channels; zeros after the last of each."""
    used, channels, block = 20, 32, 16
    composed = np.random.default_rng(2).standard_normal((used, planes, support, support)).astype(np.float32)
    rows = np.zeros((channels, planes, support, 16 * row_slabs), np.float32)
    rows[:used, ..., :support] = composed
    analysis = layout.analysis_slabs(composed, channels, block, precision)
    synthesis = layout.synthesis_slabs(composed, channels, block, precision)
    assert analysis.shape == synthesis.shape == (channels // block, planes, support, row_slabs, block // 16, 2, 32, 4)
    for number, plane, ky in np.ndindex(channels // block, planes, support):
        matrix = rows[number * block : (number + 1) * block, plane, ky]
        for slab in range(row_slabs):
            taps, at = matrix[:, 16 * slab : 16 * slab + 16], (number, plane, ky, slab)
            np.testing.assert_array_equal(analysis[at], layout.slabs(taps, precision)[:, 0])
            np.testing.assert_array_equal(synthesis[at], layout.slabs(taps.T, precision)[0])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block", [16, 32])
def test_slabs_of_a_convolution(block, precision):
    weights = np.random.default_rng(3).standard_normal((32, 32, 3, 3)).astype(np.float32)
    made = layout.convolution_slabs(weights, block, precision)
    assert made.shape == (32 // block, 2, 3, 3, block // 16, 2, 32, 4)
    for number, k, ky, kx in np.ndindex(made.shape[:4]):
        matrix = weights[number * block : (number + 1) * block, 16 * k : 16 * k + 16, ky, kx]
        np.testing.assert_array_equal(made[number, k, ky, kx], layout.slabs(matrix, precision)[:, 0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_slabs_miss_no_more_than_their_precision(precision):
    values = np.random.default_rng(4).standard_normal((16, 16)).astype(np.float32)
    words = layout.slabs(values, precision)[0, 0].swapaxes(0, 1).reshape(32, 8)
    if precision == "tf32":
        parts, unit = words.view(np.float32).reshape(8, 4, 2, 2, 2), 2**-11
        back = parts.transpose(4, 0, 1, 2, 3).reshape(16, 16)
    else:
        low, high = ((half.astype(np.uint32)).view(np.float32) for half in (words << 16, words & 0xFFFF0000))
        parts, unit = np.stack([low, high], -1).reshape(8, 4, 2, 2, 2, 2).astype(float).sum(2), 2**-16
        back = parts.transpose(3, 0, 1, 2, 4).reshape(16, 16)
    assert np.abs(back - values).max() > 0
    assert (np.abs(back - values) <= unit * np.abs(values)).all()
