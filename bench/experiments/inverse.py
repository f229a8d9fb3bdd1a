"""SAFI against classical reconstructions on real data: the tables of docs/results.

    python bench/inverse.py mri | siat | ct | ct_grid | blur | inpaint | superres [--outer 12] [--inner 2000] [--wcrr]
    python bench/inverse.py tables

Every method has its parameters chosen on one other image of the same kind, from a short list, by mean squared error; SAFI and MMR share
one budget of outer and inner steps. Results go to bench/results/inverse_<command>.json row by row; `tables` writes docs/results/*.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator

import numpy as np
import pages
from baselines import Wcrr, cg, tv, wiener
from cases import COMMANDS, MMR, SAFI, TESTS, Case, Lists
from pages import RESULTS, ROOT, in_order
from pictures import panels
from problems import DATA

import safi_fast
from safi_fast.metrics import psnr, ssim
from safi_fast.operators import SenseMRI
from safi_fast.training.checkpoint import read_checkpoint

IMAGES = ROOT / "docs" / "images"


def scores(case: Case, image) -> dict[str, float]:
    """PSNR and SSIM of the magnitude, on [0, 1]."""
    a, b = (np.abs(v).astype(np.float64) for v in (case.reference, image))
    more = {} if case.other is None else {"psnr_other": round(psnr(case.other.astype(np.float64), b), 2)}
    return {"psnr": round(psnr(a, b), 2), "ssim": round(ssim(a, b), 4), **more}


def error(case: Case, image) -> float:
    return float(np.mean(np.abs(image - case.reference) ** 2))


def search(candidates, errors_of, levels=(None,), refined=False):
    """The strength and the noise level with the smallest error, errors_of(strengths, level) being those of a list.

    refined: lists whose end is best go on there, at most four strengths, and half a step to either side of the best is tried at its level.
    Nothing is solved where there is one only.
    """
    if len(candidates) * len(levels) == 1:
        return float(candidates[0]), levels[0]
    found, ratio = {}, candidates[-1] / candidates[-2] if refined else None

    def attempt(strengths, level):
        found.update({(level, c): e for c, e in zip(strengths, errors_of(strengths, level), strict=True)})

    for level in levels:
        attempt(candidates, level)
        for _ in range(4 if refined else 0):
            own = {c: e for (at, c), e in found.items() if at == level}
            centre = min(own, key=own.__getitem__)
            if min(own) < centre < max(own):
                break
            attempt([centre / ratio if centre == min(own) else centre * ratio], level)
    level, centre = min(found, key=found.__getitem__)
    if refined:
        attempt([centre / ratio**0.5, centre * ratio**0.5], level)
        level, centre = min(found, key=found.__getitem__)
    return float(centre), level


def measure(
    name: str, tuning: Case, tests: dict[str, Case], lists: Lists, solvers, args, done: set[str]
) -> Iterator[tuple[dict, list[np.ndarray]]]:
    """The rows of one table entry that are not done, a mean over the tests where there are several, each with the images of the tests."""

    def wanted(method):
        return method not in done and method.split(",")[0] not in args.skip

    def row(method, outputs, start, **more):
        times = {
            key: round((end - begin) / len(tests), 2) for (key, begin), (_, end) in zip(start, clocks(), strict=True)
        }
        values = [scores(case, image) for case, image in zip(tests.values(), outputs, strict=True)]
        means = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
        if len(tests) > 1:
            means["psnr_of"] = [v["psnr"] for v in values]
        return {"case": name, "method": method, **means, "images": list(tests), **times, **more}, outputs

    def chosen(method, candidates, errors_of, levels=(None,)):
        if method not in lists.chosen:
            lists.chosen[method] = search(candidates, errors_of, levels, lists.refined and method not in lists.coarse)
        return lists.chosen[method]

    def classical(method, candidates, solve, levels=(None,)):
        """solve(case, strength, level): the image, and its last change or None."""

        def errors_of(strengths, level):
            return [error(tuning, solve(tuning, c, level)[0]) for c in strengths]

        strength, level = chosen(method, candidates, errors_of, levels)
        start = clocks()
        found = [solve(case, strength, level) for case in tests.values()]
        more = {} if found[0][1] is None else {"change": max(f[1] for f in found)}
        more |= {} if level is None else {"noise_level": level}
        return row(method, [f[0] for f in found], start, strength=strength, **more)

    if wanted(tuning.first[0]):
        yield row(tuning.first[0], [case.first[1] for case in tests.values()], clocks())
    label = "CG-SENSE" if isinstance(tuning.operator, SenseMRI) else "Tikhonov (CG)"
    if tuning.kernel is not None:
        if wanted("Wiener"):
            yield classical("Wiener", lists.cg, lambda case, c, _: (wiener(case.kernel, case.y, c), None))
    elif lists.cg is not None and wanted(label):
        yield classical(label, lists.cg, lambda case, c, _: (cg(case.operator, case.y, c, box=case.box), None))
    if wanted("TV"):
        yield classical(
            "TV", lists.tv, lambda case, c, _: tv(case.operator, case.y, c, box=case.box, steps=args.tv_steps)
        )
    if args.wcrr and len(lists.wcrr) and wanted("WCRR"):
        wcrr = Wcrr(DATA / "weights" / "wcrr.pth")

        def smooth(case, strength, level):
            steps = 100 if case is tuning else args.wcrr_steps
            return wcrr.solve(case.operator, case.y, strength, level, box=case.box, steps=steps)

        yield classical("WCRR", lists.wcrr, smooth, lists.wcrr_levels)
    for method, solver, strengths, levels in (
        (MMR, solvers["mmr"], lists.mmr, (None,)),
        (SAFI, solvers["safi"], lists.safi, lists.levels),
    ):
        if not len(strengths) or not wanted(method):
            continue

        def errors_of(strengths, level, solver=solver):
            return solver.tune_strength(
                tuning.y, tuning.operator, strengths, reference=tuning.reference, box=tuning.box, noise_level=level,
                max_outer=lists.tune_outer or args.tune_outer, max_iter=lists.tune_inner,
            ).scores.tolist()  # fmt: skip

        strength, level = chosen(method, strengths, errors_of, levels)
        start = clocks()
        solutions = [
            solver.reconstruct(
                case.y,
                case.operator,
                strength=strength,
                box=case.box,
                noise_level=level,
                max_outer=args.outer,
                max_iter=args.inner,
            )
            for case in tests.values()
        ]
        yield row(
            method, [s.image for s in solutions], start, strength=strength,
            noise_level=None if level is None else round(level * 255, 1), status=sorted({s.status for s in solutions}),
            converged=sum(bool(s.converged) for s in solutions),
            certificate=max(s.relative_gap for s in solutions), certificate_kind="ball" if case_complex(tuning) else "gap",
            outer_change=max(s.outer_residual for s in solutions), steps=int(np.mean([s.inner_iterations for s in solutions])),
            outer=max(s.outer_iterations for s in solutions),
        )  # fmt: skip


def clocks() -> list[tuple[str, float]]:
    return [("seconds", time.perf_counter()), ("cpu_seconds", time.process_time())]


def case_complex(case: Case) -> bool:
    return case.operator.image == "complex"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*COMMANDS, "tables"])
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
    args = parser.parse_args()
    if args.command == "tables":
        pages.write()
        return
    solvers = {
        "safi": safi_fast.Solver(backend="cpu"),
        "mmr": safi_fast.Solver(
            read_checkpoint(DATA / "weights" / "mmr_sigma15.pth", converged_strength=0.00058899), backend="cpu"
        ),
    }
    shown = f"python bench/inverse.py {args.command} --size {args.size} --outer {args.outer} --inner {args.inner}"
    shown += " --wcrr" if args.wcrr else ""
    shown += f" --kernels {' '.join(map(str, args.kernels))}" if args.command == "blur" else ""
    shown += "" if args.tune_outer == 6 else f" --tune-outer {args.tune_outer}"
    shown += f" --images {' '.join(args.images)}" if args.images != TESTS else ""
    target = RESULTS / f"inverse_{args.command}.json"
    rows: list[dict] = []
    if args.resume and target.exists():
        before = json.loads(target.read_text())
        if before["size"] != args.size:
            parser.error(f"--resume: {target.name} has rows of --size {before['size']}, not {args.size}")
        rows = before["rows"]
    for case in COMMANDS[args.command](args):
        images = {"reference": next(iter(case[2].values())).reference}
        for row, outputs in measure(*case, solvers, args, {row["method"] for row in rows if row["case"] == case[0]}):
            rows = in_order([*rows, row])
            print(row, flush=True)
            images[f"{row['method'].split(',')[0]}, {row['psnr']:.2f} dB"] = outputs[0]
            result = {
                "command": shown, "size": args.size, "load_average": os.getloadavg()[0],
                "threads": os.environ.get("NUMBA_NUM_THREADS", str(os.cpu_count())), "rows": rows,
            }  # fmt: skip
            target.write_text(json.dumps(result, indent=1) + "\n")
        chosen = [item for item in images.items() if item[0].startswith(("reference", "zero", "TV", "SAFI"))]
        if case[0] == "one coil, 4x" and len(chosen) == 4:
            panels(IMAGES / "mri.png", [chosen], white=0.75)


if __name__ == "__main__":
    main()
