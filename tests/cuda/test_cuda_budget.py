"""Every kernel, with every set of options that the backend uses, compiles for real GPUs within a committed budget.

    python tests/cuda/test_cuda_budget.py --write     # compile all of it and write cuda_budget.json again

All sets of options are compiled for sm_80 and sm_90; those of the shipped and the published models for the other
architectures too. Local memory (spilled registers, arrays indexed by variables) is refused everywhere.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

if __name__ == "__main__":  # as pytest does
    sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("", "support")]

from cuda_variants import variants
from emulator.compile import ARCHITECTURES, compilers
from emulator.occupancy import GPUS, occupancy
from emulator.tools import find_tool

BUDGET = Path(__file__).with_suffix(".json").with_name("cuda_budget.json")
ALL_OPTIONS = ("sm_80", "sm_90")
COMPILERS = 2  # at a time

pytestmark = [
    pytest.mark.skipif(not compilers(), reason="needs nvcc, or pip install nvidia-cuda-nvrtc"),
    pytest.mark.timeout(1200),  # 140 compilations: a minute on two quiet cores, many on busy ones
]


def jobs():
    """(variant, architecture) of everything that is compiled."""
    return [(v, a) for v in variants() for a in ARCHITECTURES if v.main or a in ALL_OPTIONS]


def measure():
    """{"file options": {kernel: {architecture: [registers, static, dynamic shared memory in bytes]}}}."""
    table = {}
    with ThreadPoolExecutor(COMPILERS) as pool:
        cubins = pool.map(lambda job: job[0].compile(job[1]), jobs())
        for (variant, architecture), cubin in zip(jobs(), cubins, strict=True):
            for kernel, needs in sorted(cubin.kernels.items()):
                row = table.setdefault(variant.title, {}).setdefault(kernel, {})
                row[architecture] = [needs.registers, needs.static_shared, variant.dynamic_shared[kernel]]
    return table


def compiler_name():
    """What the budget was made with."""
    chosen = compilers()[0]
    if chosen == "nvrtc":
        return "NVRTC"
    text = subprocess.run([find_tool("nvcc"), "--version"], capture_output=True, text=True, check=True).stdout
    return "nvcc " + text.split("release ")[1].split(",")[0]


def excesses(measured, budget):
    """What needs more than the budget allows, in words."""
    found = []
    for title, kernels in measured.items():
        for kernel, rows in kernels.items():
            for architecture, needs in rows.items():
                allowed = budget.get(title, {}).get(kernel, {}).get(architecture)
                if allowed is None:
                    found.append(f"{title}: {kernel} on {architecture} is not in the budget")
                    continue
                for what, need, limit in zip(
                    ("registers", "bytes of static", "of dynamic shared memory"), needs, allowed, strict=True
                ):
                    if need > limit:
                        found.append(f"{title}: {kernel} on {architecture} needs {need} {what}, {limit} are allowed")
    return found


@pytest.fixture(scope="module")
def measured():
    return measure()


def test_kernels_keep_within_the_budget(measured):
    budget = json.loads(BUDGET.read_text())
    found = excesses(measured, budget["kernels"])
    assert not found, f"(the budget: {budget['compiler']}, this: {compiler_name()}) " + "; ".join(found)


def test_the_budget_names_nothing_else(measured):
    budget = json.loads(BUDGET.read_text())["kernels"]
    assert set(budget) == set(measured)


def test_blocks_fit_on_every_gpu(measured):
    threads = {variant.title: variant.threads for variant in variants()}
    by_architecture = {gpu.architecture: gpu for gpu in GPUS}
    for title, kernels in measured.items():
        for kernel, rows in kernels.items():
            for architecture, (registers, static, dynamic) in rows.items():
                fits = occupancy(
                    by_architecture[architecture], threads=threads[title][kernel], registers=registers,
                    shared=static + dynamic,
                )  # fmt: skip
                assert fits.blocks >= 1, f"{title}: {kernel} does not fit on {architecture}: {fits.limit}"


def test_every_file_and_precision_is_compiled():
    titles = {variant.title for variant in variants()}
    files = {variant.file for variant in variants()}
    assert files >= {"analysis", "synthesis", "border", "image", "state", "features", "convolution", "depthwise"}
    for precision in ("", " -DBF16X3"):
        assert f"analysis_tensor -DSUPPORT=13 -DCHANNEL_BLOCK=32{precision}" in titles
        assert f"synthesis_tensor -DSUPPORT=17 -DCHANNEL_BLOCK=64{precision}" in titles
        assert f"convolution_tensor -DSUPPORT=3 -DDILATION=2 -DCHANNEL_BLOCK=64{precision}" in titles
    assert {"convolution -DSUPPORT=7 -DDILATION=1", "depthwise -DSUPPORT=7", "border -DSUPPORT=13"} <= titles


def test_excesses_are_found():
    budget = {"image": {"get_image": {"sm_90": [22, 0, 0]}}}
    assert not excesses({"image": {"get_image": {"sm_90": [21, 0, 0]}}}, budget)
    (more,) = excesses({"image": {"get_image": {"sm_90": [23, 0, 0]}}}, budget)
    assert more == "image: get_image on sm_90 needs 23 registers, 22 are allowed"
    (new,) = excesses({"image": {"blur": {"sm_90": [23, 0, 0]}}}, budget)
    assert new == "image: blur on sm_90 is not in the budget"


def write():
    """Write the budget from what the kernels need now: one line per kernel."""
    lines = []
    for title, kernels in sorted(measure().items()):
        rows = ",\n".join(f"   {json.dumps(kernel)}: {json.dumps(needs)}" for kernel, needs in kernels.items())
        lines.append(f"  {json.dumps(title)}: {{\n{rows}\n  }}")
    about = "registers of a thread, static and dynamic shared memory of a block in bytes"
    text = ",\n".join(lines)
    BUDGET.write_text(
        f'{{\n "about": {json.dumps(about)},\n "compiler": {json.dumps(compiler_name())},\n'
        f' "kernels": {{\n{text}\n }}\n}}\n'
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/cuda/test_cuda_budget.py --write")
    write()
