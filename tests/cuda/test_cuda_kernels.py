"""Every CUDA kernel alone in the emulator, against float64 and the CPU backend, in every mode.

The cases are those of cuda_cases.py.

"plain" sees wrong numbers; "check" races, uninitialised reads and wrong bounds; "sanitize" wrong bounds and undefined
arithmetic.
"""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cuda_bench import SETTINGS, SMALL, Bench, bench_of, model_of
from cuda_cases import CASES, KERNELS, back, forth
from emulator import sanitized
from emulator.device import EmulatedDevice, LaunchError
from plain import EPS

from safi_fast.bindings.module import KERNELS as FOLDER
from safi_fast.bindings.module import source

ACTIVE = {"two of three": (3, (2, 0)), "all": (2, (0, 1)), "one of two": (2, (1,))}
SEEDS = (0, 1, 2)


def failures_of_small_cases(mode):
    """Cases and settings that go wrong, with the reason. A sanitized process calls this."""
    failures = {}
    for name, run in CASES.items():
        for setting, values in SMALL.items():
            try:
                for result in run(bench_of(EmulatedDevice(mode), values)):
                    result.check()
            except (AssertionError, LaunchError) as error:
                failures[name, setting] = str(error)
    return failures


@pytest.fixture(scope="module", autouse=True)
def sanitized_failures(request):
    """Computed beside the other tests, if it is asked for."""
    if not any("under_sanitizers" in item.name for item in request.session.items):
        yield None
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(sanitized.call, failures_of_small_cases, "sanitize")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", CASES)
def test_kernel(name, setting):
    for result in CASES[name](bench_of(EmulatedDevice(), SETTINGS[setting])):
        result.check()
        if result.twin:
            result.check_twin()


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_gpu(name, gpu):
    for setting in SETTINGS.values():
        for result in CASES[name](bench_of(gpu, setting)):
            result.check()


@pytest.mark.parametrize("active", ["all", "one of two"])
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_some_images_of_a_batch(name, active):
    batch, images = ACTIVE[active]
    for result in CASES[name](bench_of(EmulatedDevice(), SMALL["band"], batch=batch, active=images)):
        result.check()


@pytest.mark.parametrize("setting", SMALL)
@pytest.mark.parametrize("name", CASES)
def test_kernel_in_check_mode(name, setting):
    for result in CASES[name](bench_of(EmulatedDevice("check"), SMALL[setting])):
        result.check()


@pytest.mark.parametrize("setting", SMALL)
@pytest.mark.parametrize("name", CASES)
def test_kernel_under_sanitizers(name, setting, sanitized_failures):
    assert sanitized_failures.result().get((name, setting)) is None


@pytest.mark.parametrize("setting", ["band", "symmetric"])
@pytest.mark.parametrize("name", CASES)
def test_order_of_blocks_and_threads_changes_nothing(name, setting):
    runs = []
    for seed in SEEDS:
        bench = bench_of(EmulatedDevice(seed=seed), SMALL[setting])
        for _ in CASES[name](bench):
            pass
        runs.append([values.tobytes() for values in bench.outputs])
    assert runs[0] == runs[1] == runs[2]
    assert runs[0] or name.startswith("synthesis border")  # which has nothing to do without a band


@pytest.mark.parametrize("name", ["advance", "stop"])
def test_more_images_than_threads_of_a_block(name):
    bench = Bench(EmulatedDevice(), model_of(5, (3,), "zero"), (3, 3), batch=301, active=range(1, 301))
    assert list(CASES[name](bench)) == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_synthesis_is_the_adjoint_of_analysis(setting):
    """<W x, u> = <x, W^T u>: each side is off by roundings of its norms at most, as errors of
    pixels are independent.
    """
    bench = bench_of(EmulatedDevice(), SETTINGS[setting])
    x, u, slot = bench.images() - np.float32(0.5), bench.responses(), bench.slots()
    for b, response, image in zip(bench.active, forth(bench, x, slot), back(bench, u, slot), strict=True):
        left, right = np.vdot(response.astype(float), u[b]), np.vdot(x[b], image.astype(float))
        assert abs(left - right) <= EPS * np.linalg.norm(response) * np.linalg.norm(u[b])


@pytest.mark.parametrize("boundary", ["zero", "symmetric"])
def test_adjoint_of_depthwise(boundary):
    """From the results of both directions with the same weights: the seed of the bench decides them."""
    forward, adjoint = (
        [result.actual.astype(float) for result in run(bench_of(EmulatedDevice(), (5, (3,), boundary, (21, 44))))]
        for run in (CASES["depthwise"], CASES["depthwise, adjoint"])
    )
    bench = bench_of(EmulatedDevice(), (5, (3,), boundary, (21, 44)))
    x = 0.2 * bench.images_of_channels()
    for b, there, back_again in zip(bench.active, forward, adjoint, strict=True):
        bound = EPS * np.linalg.norm(there) * np.linalg.norm(x[b])
        assert abs(np.vdot(there, x[b]) - np.vdot(x[b], back_again)) <= bound


def test_every_kernel_has_a_case():
    """The names of cuda_cases.KERNELS are those of the files, apart from the tensor-core variants, the projectors
    (test_ct.py) and training (test_training_gpu.py).
    """
    files = {path.stem for path in FOLDER.glob("*.cu") if not path.stem.endswith("_tensor")} - {"projector", "training"}
    assert files == set(KERNELS)
    for file, names in KERNELS.items():
        found = re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(.*\))?\s*(\w+)\(', source(file))
        assert tuple(found) == names
