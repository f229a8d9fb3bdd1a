"""Builds the libraries that the tests need, before the tests: no test waits for a compiler.

    python -m tests.emulator.prebuild                    all of them, as many at once as there are cores
    python -m tests.emulator.prebuild test_cuda_kernels  those of some test files
    python -m tests.emulator.prebuild --record FILE      write libraries.json anew from the record of a whole run:
                                                         SAFI_FAST_EMULATOR_RECORD=FILE python -m pytest

libraries.json names every library by its text (a kernel file, maybe with a planted mistake of test_cuda_bugs.py), its
options and mode, and the test files that ask for it. What is missing there is compiled by the test that asks, on the
test's time.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from safi_fast.bindings.device import STANDARD
from safi_fast.bindings.module import KERNELS, inline_headers, source

from .build import MODES, BuildError, build, is_built, key_of
from .compile import compile_cubin, compilers, is_compiled

MANIFEST = Path(__file__).with_name("libraries.json")
TESTS = Path(__file__).parents[1]
ROOMS = [str(path) for path in (TESTS, TESTS / "support", TESTS / "cuda")]
REPORT_EVERY = 5.0  # seconds

Say = Callable[[str], None]
Job = Callable[[], Any]

# as pytest does: the test files name what they plant and compile
sys.path[:0] = [room for room in ROOMS if room not in sys.path]


class Recipe(NamedTuple):
    """One library. text: "analysis", or "analysis: NAME" with the planted mistake of this name."""

    text: str
    mode: Any
    options: tuple[str, ...]


@functools.cache
def manifest() -> dict[Recipe, frozenset[str]]:
    """The test files that ask for each library."""
    entries = json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.exists() else []
    return {
        Recipe(text, mode, tuple(options.split())): frozenset(tests.split()) for text, mode, options, tests in entries
    }


@functools.cache
def texts() -> dict[str, str]:
    """Every text by its name in the manifest."""
    from .samples import HERE, sample_source

    files = {path.stem: source(path.stem) for path in sorted(KERNELS.glob("*.cu"))}
    own = {"samples": sample_source(), "bugs": inline_headers(HERE / "bugs.cu", (KERNELS,))}
    return {**files, **own, **dict(_planted(files))}


def _planted(files: dict[str, str]) -> Iterator[tuple[str, str]]:
    from test_cuda_bugs import BUGS

    for name, bug in BUGS.items():
        for file, text in files.items():
            if bug.old in text:
                yield f"{file}: {name}", text.replace(bug.old, bug.new)


def missing(tests: Collection[str] | None = None) -> list[Recipe]:
    """Libraries that these test files need (None: all test files) and that are not built."""
    wanted = [recipe for recipe, users in manifest().items() if tests is None or not users.isdisjoint(tests)]
    return [
        recipe
        for recipe in wanted
        if recipe.text in texts() and not is_built(texts()[recipe.text], recipe.options, recipe.mode)
    ]


def make(tests: Collection[str] | None = None, say: Say = print) -> None:
    """Build what is missing, machine code for GPUs included. Where that cannot be, the tests say why."""
    try:
        todo = missing(tests)
        if todo:
            for mode in MODES:  # the run time once, not by each of the first builds
                build(WARM, (), mode)
    except BuildError as error:
        say(f"emulator libraries: none built ({error})")
        todo = []
    jobs = [functools.partial(build, texts()[recipe.text], recipe.options, recipe.mode) for recipe in todo]
    _at_once("emulator libraries", jobs, say)
    _at_once("machine code of kernels", list(_cubins(tests)), say)


def _cubins(tests: Collection[str] | None) -> Iterator[Job]:
    """What test_cuda_budget.py and test_static_cuda.py look at and is not compiled yet."""
    if not compilers() or not (tests is None or {"test_cuda_budget", "test_static_cuda"} & set(tests)):
        return
    from test_cuda_budget import jobs

    for variant, architecture in jobs():
        if not is_compiled(source(variant.file), (STANDARD, *variant.options), architecture):
            yield functools.partial(
                compile_cubin, source(variant.file), (STANDARD, *variant.options), architecture=architecture
            )


def _at_once(what: str, jobs: list[Job], say: Say) -> None:
    """As many jobs at a time as there are cores. Failures are told and left to the tests."""
    if not jobs:
        return
    cores = len(os.sched_getaffinity(0))
    say(f"{what}: compiling {len(jobs)}, {cores} at a time")
    begun = told = time.monotonic()
    with ThreadPoolExecutor(cores) as pool:
        for number, future in enumerate(as_completed([pool.submit(job) for job in jobs]), 1):
            if error := future.exception():
                say(f"{what}: {str(error).splitlines()[0]}")
            now = time.monotonic()
            if now - told > REPORT_EVERY or number == len(jobs):
                left = (now - begun) / number * (len(jobs) - number)
                say(f"{what}: {number} of {len(jobs)}, about {left:.0f} s left")
                told = now


WARM = 'extern "C" __global__ void nothing(float* y) {}'


def record(path: Path) -> None:
    """Write the manifest from a record. Texts of the tests' own are small and stay out."""
    names = {key_of(text): name for name, text in texts().items()}
    users: dict[Recipe, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["text"] in names and entry["test"]:
            recipe = Recipe(names[entry["text"]], entry["mode"], tuple(entry["options"]))
            users.setdefault(recipe, set()).add(Path(entry["test"].split("::")[0]).stem)
    rows = [[r.text, r.mode, " ".join(r.options), " ".join(sorted(tests))] for r, tests in sorted(users.items())]
    lines = ",\n".join(json.dumps(row) for row in rows)
    MANIFEST.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{MANIFEST.name}: {len(rows)} libraries")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="names of test files (default: all)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write libraries.json from this record")
    args = parser.parse_args()
    if args.record:
        record(args.record)
    else:
        make([Path(name).stem for name in args.tests] or None, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
