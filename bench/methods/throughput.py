"""What reconstructs slices of MRI in bench/experiments/mri_throughput.py, and how its parameters are chosen.

A way to solve takes cases and settings, and returns an Outcome for each setting: the images, and how long all of them
took without any start of a library.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import safi_fast
from bench.data.cases import Case
from bench.data.problems import DATA
from bench.methods import mri_rivals
from bench.methods.baselines import Wcrr
from bench.methods.mfoe import Mfoe
from bench.methods.search import search
from bench.report import measure
from safi_fast.metrics import psnr

NEAR = 0.05  # dB that fewer steps may cost


class Setting(NamedTuple):
    """What a method is run with; level: of the noise, on the 8-bit scale, or None."""

    strength: float
    level: float | None
    steps: int


class Outcome(NamedTuple):
    """Images in the order of the cases, and seconds for all."""

    images: Sequence[Any]
    seconds: float


Solve = Callable[[Sequence[Case], Sequence[Setting]], list[Outcome]]


@dataclass(frozen=True)
class Method:
    """Lists that are tried: strengths, levels, steps. `default` are the steps that users get who ask for none."""

    name: str
    strengths: tuple[float, ...]
    steps: tuple[int, ...]
    searched: int  # steps while strengths are compared
    default: int | None = None
    levels: tuple[float | None, ...] = (None,)


METHODS = {
    "safi": Method("safi-gray, fast", (4e-4, 8e-4, 1.6e-3), (148,), 148, levels=(5, 15, 25)),
    "bart-wavelet": Method("BART pics, l1-wavelets", (1e-3, 3e-3, 9e-3), (10, 20, 30, 50, 100, 200, 400), 200, 30),
    "sigpy-wavelet": Method("sigpy L1WaveletRecon", (3e-4, 1e-3, 3e-3), (30, 50, 100, 200, 400), 200, 100),
    "sigpy-tv": Method("sigpy TotalVariationRecon", (3e-4, 1e-3, 3e-3), (50, 100, 200, 400, 800, 1600, 3200), 800, 100),
    "wcrr": Method("WCRR", (1e-2, 3e-2, 9e-2), (25, 50, 100, 200, 400), 100, levels=(10, 20)),
    "mfoe": Method("MFoE", (1e-2, 3e-2, 9e-2), (25, 50, 100, 200, 400), 100, levels=(5, 15, 25)),
}


@cache
def solver_of(threads: int) -> safi_fast.Solver:
    """Of this process."""
    return safi_fast.Solver("safi-gray", backend="cpu", threads=threads)


def fast(cases: Sequence[Case], setting: Setting, threads: int = measure.THREADS) -> list[Any]:
    """The model of this package: images of all cases as one batch."""
    level = None if setting.level is None else setting.level / 255
    solution = solver_of(threads).reconstruct_batch(
        [case.y for case in cases], [case.operator for case in cases], strength=setting.strength, noise_level=level,
        box=None, schedule="fast",
    )  # fmt: skip
    return list(solution.image)


def safi() -> Solve:
    """All slices of a setting as one batch."""

    def solve(cases: Sequence[Case], settings: Sequence[Setting]) -> list[Outcome]:
        fast(cases[:1], settings[0])
        timings = [measure.timed(lambda setting=setting: fast(cases, setting)) for setting in settings]
        return [Outcome(timing.result, timing.wall) for timing in timings]

    return solve


def apart(cases: Sequence[Case], settings: Sequence[Setting]) -> list[Outcome]:
    """Slice by slice in processes of one thread, which share the slices: a way to solve."""
    count, found = measure.THREADS, []
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        pool.map(one_by_one, [(cases[:1], settings[0])] * count, chunksize=1)
        for setting in settings:
            parts = [(cases[n::count], setting) for n in range(count)]
            timing = measure.timed(lambda parts=parts: pool.map(one_by_one, parts, chunksize=1))
            images = [timing.result[n % count][n // count] for n in range(len(cases))]
            found.append(Outcome(images, timing.wall))
        pool.close()
        pool.join()
    return found


def one_by_one(part: tuple[Sequence[Case], Setting]) -> list[Any]:
    """What a process of `apart` does."""
    cases, setting = part
    return [fast([case], setting, threads=1)[0] for case in cases]


def network(kind: type[Wcrr] | type[Mfoe], weights: Path) -> Solve:
    """A learned regulariser, in torch, one slice after the other."""
    model = kind(weights)
    measure.use_threads()

    def one(case: Case, setting: Setting) -> Any:
        return model.solve(case.operator, case.y, setting.strength, setting.level, box=None, steps=setting.steps)[0]

    def solve(cases: Sequence[Case], settings: Sequence[Setting]) -> list[Outcome]:
        one(cases[0], settings[0]._replace(steps=2))
        found = []
        for setting in settings:
            timing = measure.timed(lambda setting=setting: [one(case, setting) for case in cases])
            found.append(Outcome(timing.result, timing.wall))
        return found

    return solve


def rival(python: str, method: str, processes: int = 1) -> Solve:
    """A method of mri_rivals, the slices shared by processes, which share the threads."""

    def solve(cases: Sequence[Case], settings: Sequence[Setting]) -> list[Outcome]:
        with tempfile.TemporaryDirectory() as folder:
            files = [(Path(folder) / f"problem{n}.npz", Path(folder) / f"answer{n}.npz") for n in range(processes)]
            threads = measure.THREADS // processes
            environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
            environment.pop("PYTHONPATH", None)
            for n, (problem, _) in enumerate(files):
                save(problem, cases[n::processes], settings, threads)
            command = [python, mri_rivals.__file__]
            started = [subprocess.Popen([*command, *pair, method], env=environment) for pair in files]
            codes = [process.wait() for process in started]
            if any(codes):
                raise SystemExit(f"{method}: {python} failed, see above")
            answers = []
            for _, answer in files:
                with np.load(answer) as file:
                    answers.append((file["images"], file["times"]))
        return joined(answers)

    return solve


def save(path: Path, cases: Sequence[Case], settings: Sequence[Setting], threads: int) -> None:
    """A problem of mri_rivals."""
    np.savez(
        path, kspace=np.stack([case.y for case in cases]), mask=np.stack([case.operator.mask for case in cases]),
        maps=cases[0].operator.maps, strengths=[setting.strength for setting in settings],
        steps=[setting.steps for setting in settings], threads=threads,
    )  # fmt: skip


def joined(answers: Sequence[tuple[Any, Any]]) -> list[Outcome]:
    """Of processes that had every n-th slice each: from the first start to the last end."""
    found = []
    for setting in range(len(answers[0][0])):
        total = sum(len(images[setting]) for images, _ in answers)
        images = [answers[n % len(answers)][0][setting][n // len(answers)] for n in range(total)]
        begun, done = min(t[setting][0] for _, t in answers), max(t[setting][1] for _, t in answers)
        found.append(Outcome(images, float(done - begun)))
    return found


def ready(name: str, python: str) -> tuple[Solve | None, str]:
    """A way to solve and its version, or None and the reason why there is none."""
    if name == "safi":
        return safi(), f"safi_fast {safi_fast.__version__}"
    if name in mri_rivals.METHODS:
        asked = subprocess.run([python, mri_rivals.__file__, name], capture_output=True, text=True)
        if asked.returncode:
            return None, f"{mri_rivals.METHODS[name][0]} is not installed for {Path(python).name} (--rivals PYTHON)"
        return rival(python, name), asked.stdout.splitlines()[-1]
    weights = DATA / "weights" / f"{name}.pth"
    if not weights.exists():
        return None, f"weights/{name}.pth of the shared data is missing (set SAFI_FAST_DATA)"
    try:
        import torch  # noqa: F401
    except ImportError:
        return None, "torch is not installed"
    return network(Wcrr if name == "wcrr" else Mfoe, weights), "weights as published"


def quality(cases: Sequence[Case], images: Sequence[Any]) -> list[float]:
    """PSNR of magnitudes."""
    return [round(psnr(np.abs(c.reference), np.abs(x)), 3) for c, x in zip(cases, images, strict=True)]


def chosen(method: Method, solve: Solve, tunings: Sequence[Case]) -> list[Setting]:
    """The settings to run: strength and level with the smallest mean squared error, then the fewest of the steps tried
    that keep the PSNR within NEAR; before it the default steps with a strength of their own, where they are fewer.
    """

    def best(steps: int) -> tuple[float, float | None]:
        def errors_of(strengths: Sequence[float], level: float | None) -> list[float]:
            outcomes = solve(tunings, [Setting(strength, level, steps) for strength in strengths])
            return [mean_error(tunings, outcome.images) for outcome in outcomes]

        return search(method.strengths, errors_of, method.levels, refined=True)

    strength, level = best(method.searched)
    tried = [Setting(strength, level, steps) for steps in method.steps]
    outcomes = solve(tunings, tried) if len(tried) > 1 else []
    scores = [np.mean(quality(tunings, outcome.images)) for outcome in outcomes] or [0.0]
    enough = next(s for s, score in zip(tried, scores, strict=True) if score >= max(scores) - NEAR)
    if method.default is None or method.default >= enough.steps:
        return [enough]
    return [Setting(*best(method.default), method.default), enough]


def mean_error(cases: Sequence[Case], images: Sequence[Any]) -> float:
    """Squared, of complex images."""
    return float(np.mean([np.mean(np.abs(x - c.reference) ** 2) for c, x in zip(cases, images, strict=True)]))
