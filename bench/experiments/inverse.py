"""SAFI against classical reconstructions on real data: the tables of docs/results.

    python -m bench.experiments.inverse mri|siat|ct|ct_grid|blur|inpaint|superres [--outer 12] [--inner 2000] [--wcrr]
    python -m bench.experiments.inverse tables|picture

Every method has its parameters chosen on one other image of the same kind, from a short list, by mean squared error;
SAFI and MMR share one budget of outer and inner steps. Results go to bench/results/inverse_<command>.json row by row;
`tables` writes docs/results/*.md from them, `picture` docs/images/mri.png, with the strengths of inverse_mri.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import safi_fast
from bench import IMAGES, RESULTS
from bench.data.cases import (
    ACCELERATIONS,
    COMMANDS,
    MMR,
    SAFI,
    TESTED_MASKS,
    TESTS,
    Case,
    Lists,
    brain,
    random_lines,
)
from bench.data.problems import DATA, published_mmr
from bench.methods.baselines import Wcrr, cg, tv, wiener
from bench.methods.search import search
from bench.report import measure, pages
from bench.report.pages import in_order
from bench.report.pictures import panels
from safi_fast.metrics import psnr, ssim
from safi_fast.operators import SenseMRI

Outputs = list[np.ndarray]
Row = dict[str, Any]


def scores(case: Case, image) -> dict[str, float]:
    """PSNR and SSIM of the magnitude, on [0, 1]."""
    a, b = (np.abs(v).astype(np.float64) for v in (case.reference, image))
    more = {} if case.other is None else {"psnr_other": round(psnr(case.other.astype(np.float64), b), 2)}
    return {"psnr": round(psnr(a, b), 2), "ssim": round(ssim(a, b), 4), **more}


def error(case: Case, image) -> float:
    """Mean squared."""
    return float(np.mean(np.abs(image - case.reference) ** 2))


def clocks() -> list[tuple[str, float]]:
    """Seconds now, of the wall and of the processor."""
    return [("seconds", time.perf_counter()), ("cpu_seconds", time.process_time())]


@dataclass
class Entry:
    """One entry of a table: what is tuned on, what is tested on, what is tried, and with which limits."""

    name: str
    tunings: Sequence[Case]
    tests: dict[str, Case]
    lists: Lists
    args: argparse.Namespace

    @property
    def tuning(self) -> Case:
        """The first of them: what kind of problem this is."""
        return self.tunings[0]

    def row(self, method: str, outputs: Outputs, start: list[tuple[str, float]], **more: Any) -> tuple[Row, Outputs]:
        """The row of a method, a mean over the tests where there are several; start: `clocks` before them."""
        count = len(self.tests)
        times = {key: round((end - begin) / count, 2) for (key, begin), (_, end) in zip(start, clocks(), strict=True)}
        values = [scores(case, image) for case, image in zip(self.tests.values(), outputs, strict=True)]
        means: Row = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
        if count > 1:
            means["psnr_of"] = [v["psnr"] for v in values]
        return {"case": self.name, "method": method, **means, "images": list(self.tests), **times, **more}, outputs

    def chosen(self, method: str, candidates, errors_of, levels=(None,)):
        """The strength and the level of a method, searched for once for all entries of these lists."""
        lists = self.lists
        if method not in lists.chosen:
            lists.chosen[method] = search(candidates, errors_of, levels, lists.refined and method not in lists.coarse)
        return lists.chosen[method]

    def first(self) -> tuple[Row, Outputs]:
        """What is there without any method."""
        return self.row(self.tuning.first[0], [case.first[1] for case in self.tests.values()], clocks())

    def classical(self, method: str, candidates, solve, levels=(None,)) -> tuple[Row, Outputs]:
        """solve(case, strength, level): the image, and its last change or None."""

        def errors_of(strengths, level):
            return [float(np.mean([error(case, solve(case, c, level)[0]) for case in self.tunings])) for c in strengths]

        strength, level = self.chosen(method, candidates, errors_of, levels)
        start = clocks()
        found = [solve(case, strength, level) for case in self.tests.values()]
        more = {} if found[0][1] is None else {"change": max(f[1] for f in found)}
        more |= {} if level is None else {"noise_level": level}
        return self.row(method, [f[0] for f in found], start, strength=strength, **more)

    def learned(self, method: str, solver: safi_fast.Solver, strengths, levels) -> tuple[Row, Outputs]:
        """A model of ours, or the published one in our solver."""
        tuning, lists, args = self.tuning, self.lists, self.args

        def errors_of(strengths, level):
            found = [
                solver.tune_strength(
                    case.y, case.operator, strengths, reference=case.reference, box=case.box, noise_level=level,
                    max_outer=lists.tune_outer or args.tune_outer, max_iter=lists.tune_inner,
                ).scores
                for case in self.tunings
            ]  # fmt: skip
            return np.mean(found, axis=0).tolist()

        strength, level = self.chosen(method, strengths, errors_of, levels)
        start = clocks()
        limits = {"noise_level": level, "max_outer": args.outer, "max_iter": args.inner}
        solutions = [
            solver.reconstruct(case.y, case.operator, strength=strength, box=case.box, **limits)
            for case in self.tests.values()
        ]
        return self.row(
            method, [s.image for s in solutions], start, strength=strength,
            noise_level=None if level is None else round(level * 255, 1), status=sorted({s.status for s in solutions}),
            converged=sum(bool(s.converged) for s in solutions), certificate=max(s.relative_gap for s in solutions),
            certificate_kind="ball" if tuning.operator.image == "complex" else "gap",
            outer_change=max(s.outer_residual for s in solutions),
            steps=int(np.mean([s.inner_iterations for s in solutions])),
            outer=max(s.outer_iterations for s in solutions),
        )  # fmt: skip

    def rows(self, solvers: dict[str, safi_fast.Solver], done: set[str]) -> Iterator[tuple[Row, Outputs]]:
        """The rows that are not done, each with the images of the tests."""

        def wanted(method: str) -> bool:
            return method not in done and method.split(",")[0] not in self.args.skip

        tuning, lists = self.tuning, self.lists
        if wanted(tuning.first[0]):
            yield self.first()
        label = "CG-SENSE" if isinstance(tuning.operator, SenseMRI) else "Tikhonov (CG)"
        if tuning.kernel is not None:
            if wanted("Wiener"):
                yield self.classical("Wiener", lists.cg, lambda case, c, _: (wiener(case.kernel, case.y, c), None))
        elif lists.cg is not None and wanted(label):
            yield self.classical(label, lists.cg, lambda case, c, _: (cg(case.operator, case.y, c, box=case.box), None))
        if wanted("TV"):
            yield self.classical("TV", lists.tv, self.variation)
        if self.args.wcrr and len(lists.wcrr) and wanted("WCRR"):
            yield self.smooth()
        if len(lists.mmr) and wanted(MMR):
            yield self.learned(MMR, solvers["mmr"], lists.mmr, (None,))
        if len(lists.safi) and wanted(SAFI):
            yield self.learned(SAFI, solvers["safi"], lists.safi, lists.levels)

    def variation(self, case: Case, strength: float, _) -> tuple[np.ndarray, float]:
        """Total variation."""
        return tv(case.operator, case.y, strength, box=case.box, steps=self.args.tv_steps)

    def smooth(self) -> tuple[Row, Outputs]:
        """WCRR."""
        network = Wcrr(DATA / "weights" / "wcrr.pth")

        def solve(case, strength, level):
            steps = 100 if any(case is tuning for tuning in self.tunings) else self.args.wcrr_steps
            return network.solve(case.operator, case.y, strength, level, box=case.box, steps=steps)

        return self.classical("WCRR", self.lists.wcrr, solve, self.lists.wcrr_levels)


def parsed() -> argparse.Namespace:
    """The arguments of this run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*COMMANDS, "tables", "picture"])
    parser.add_argument("--size", type=int, default=128, help="of the images; mri: of the tuning image")
    parser.add_argument("--outer", type=int, default=12)
    parser.add_argument("--inner", type=int, default=2000)
    parser.add_argument("--tv-steps", type=int, default=3000)
    parser.add_argument("--kernels", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--images", nargs="+", default=TESTS, help="of set12, for blur, inpaint, superres")
    parser.add_argument("--tune-outer", type=int, default=6)
    parser.add_argument("--wcrr", action="store_true")
    parser.add_argument("--wcrr-steps", type=int, default=400)
    parser.add_argument("--skip", nargs="+", default=[], choices=["WCRR", "MMR", "SAFI"], help="methods to leave out")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows of the results file, and add those that it lacks"
    )
    return parser.parse_args()


def shown(args: argparse.Namespace) -> list[str]:
    """The command with what decides its results, defaults that may change included."""
    words = [args.command, "--size", args.size, "--outer", args.outer, "--inner", args.inner]
    words += ["--wcrr"] if args.wcrr else []
    words += ["--kernels", *args.kernels] if args.command == "blur" else []
    words += [] if args.tune_outer == 6 else ["--tune-outer", args.tune_outer]
    words += ["--images", *args.images] if args.images != TESTS else []
    return [str(word) for word in words]


def kept(args: argparse.Namespace) -> list[Row]:
    """The rows to go on from. Raises SystemExit where they are of another size."""
    target = RESULTS / f"inverse_{args.command}.json"
    if not (args.resume and target.exists()):
        return []
    before = json.loads(target.read_text())
    if before["size"] != args.size:
        raise SystemExit(f"--resume: {target.name} has rows of --size {before['size']}, not {args.size}")
    return before["rows"]


def picture(solver: safi_fast.Solver) -> None:
    """The first image of one coil, 4x, by the methods that are drawn, with what was chosen for them and the limits of
    that run.
    """
    record = json.loads((RESULTS / "inverse_mri.json").read_text())
    case = random_lines(np.abs(brain((230, 180))[2]), *ACCELERATIONS[0], TESTED_MASKS[0])
    rows = {row["method"]: row for row in record["rows"] if row["case"] == f"one coil, {ACCELERATIONS[0][0]}x"}
    words, safi = record["command"].split(), rows[SAFI]
    outer, inner = (int(words[words.index(name) + 1]) for name in ("--outer", "--inner"))
    images = {
        "zero-filled": case.first[1],
        "TV": tv(case.operator, case.y, rows["TV"]["strength"])[0],
        "SAFI": solver.reconstruct(
            case.y, case.operator, strength=safi["strength"], noise_level=safi["noise_level"] / 255, box=case.box,
            max_outer=outer, max_iter=inner,
        ).image,
    }  # fmt: skip
    captions = [(f"{name}, {scores(case, image)['psnr']:.2f} dB", image) for name, image in images.items()]
    panels(IMAGES / "mri.png", [[("reference", case.reference), *captions]], white=0.75)


def main() -> None:
    """Solve, print, and write row by row; or write the pages."""
    args = parsed()
    if args.command == "tables":
        pages.write()
        return
    if args.command == "picture":
        picture(safi_fast.Solver(backend="cpu"))
        return
    published = published_mmr(15)
    if published is None:
        raise SystemExit("inverse: the shared data folder is missing (set SAFI_FAST_DATA)")
    solvers = {"safi": safi_fast.Solver(backend="cpu"), "mmr": safi_fast.Solver(published, backend="cpu")}
    rows = kept(args)
    for name, tuning, tests, lists in COMMANDS[args.command](args):
        entry = Entry(name, tuning if isinstance(tuning, list) else [tuning], tests, lists, args)
        for row, _ in entry.rows(solvers, {row["method"] for row in rows if row["case"] == entry.name}):
            rows = in_order([*rows, row])
            print(row, flush=True)
            record = {
                "command": measure.command(shown(args)), "size": args.size, "models": measure.shipped("safi-gray"),
                **measure.load(), "rows": rows,
            }  # fmt: skip
            measure.write_json(RESULTS / f"inverse_{args.command}.json", record)


if __name__ == "__main__":
    main()
