"""What `safi-fast reconstruct` says at the end: a JSON report, or a few lines."""

import json
from pathlib import Path
from typing import Any

from . import session as sessions
from .output import json_text, lost_names, print_failures, print_json, print_lost, scientific
from .reconstruct_job import Runner
from .reconstruct_options import Options
from .sharing import skipped_words

RUN_FACTS = (
    "model",
    "model_sha256",
    "strength",
    "tuning",
    "noise_level",
)  # of the earlier run where this one loaded no model


def summary(options: Options, runner: Runner, records: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The report of a run: what was asked, how many outputs, and a record for each."""
    counts = {
        status: sum(record["status"] == status for record in records)
        for status in ("reconstructed", "skipped", "failed")
    }
    solved = [facts for record in records for facts in record.get("solved", [])]
    tuning = runner.tuning
    return {
        "problem": options.problem,
        "schedule": options.schedule,
        "model": runner.session.model.name if runner.session else options.model,
        "model_sha256": runner.session.model.fingerprint if runner.session else None,
        "strength": tuning.strength if tuning else options.strength,
        "tuning": None
        if tuning is None
        else {
            "by": tuning.by,
            "input": str(runner.tuned_on),
            "candidates": tuning.candidates.tolist(),
            "scores": tuning.scores.tolist(),
        },
        "noise_level": _noise_level(options, runner),
        **counts,
        **lost_names(records),
        "slices": len(solved),
        "seconds": seconds,
        "slices_per_minute": 60 * len(solved) / seconds if solved else None,
        "files": records,
    }


def _noise_level(options: Options, runner: Runner) -> float | None:
    """On the scale 0 to 255; None where no model was loaded."""
    from ..reconstructing import middle_level

    if options.noise_level is None and runner.session:
        return round(middle_level(runner.session.model) * sessions.EIGHT_BIT, 2)
    return options.noise_level


def _unfinished(options: Options, solved: list[dict[str, Any]]) -> str | None:
    """How many slices did not reach the tolerance, what is left, and what to raise; None where all did."""
    from ..solver.schedules import Reconstruct

    left = [facts for facts in solved if facts["solver_status"] not in ("converged", "completed")]
    if not left:
        return None
    schedule = Reconstruct(tol=options.tol) if options.tol else Reconstruct()
    tol, most = schedule.tol, schedule.settled * schedule.tol
    gap, change = (max(facts[name] for facts in left) for name in ("relative_gap", "outer_residual"))
    parts = []
    if gap > tol:
        parts.append(f"gap {gap:.1e}, not {tol:.1e}: raise --max-iter")
    if change > most or not parts:
        parts.append(f"change between masks {change:.1e}, not {most:.1e}: raise --max-outer")
    return f"{len(left)} of them without reaching the tolerance ({'; '.join(parts)})"


def deliver(options: Options, report: dict[str, Any]) -> None:
    """Print it, say what failed, and write it. Raises ImageFileError."""
    if options.json:
        print_json(report)
    else:
        _print(options, report)
    print_lost(report["files"])
    print_failures([record for record in report["files"] if record["status"] == "failed"])
    if options.report:
        from ..atomic import write_atomically

        write_atomically(options.report, f"{json_text(_with_earlier(report, options.report))}\n".encode())


def _with_earlier(report: dict[str, Any], path: Path) -> dict[str, Any]:
    """The report with what an earlier one at `path` said of outputs that were skipped now."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        known = {record["output"]: record for record in earlier["files"]}
    except (OSError, ValueError, LookupError, TypeError):  # none, or none of ours
        return report
    files = [
        {**known.get(record["output"], {}), **record} if record["status"] == "skipped" else record
        for record in report["files"]
    ]
    kept = {name: earlier.get(name) for name in RUN_FACTS} if report["model_sha256"] is None else {}
    return {**report, **kept, "files": files}


def _print(options: Options, report: dict[str, Any]) -> None:
    solved = [facts for record in report["files"] for facts in record.get("solved", [])]
    if solved:
        worst = max(facts["relative_gap"] for facts in solved)
        chosen = f" (chosen by {report['tuning']['by']})" if report["tuning"] else ""
        print(f"strength     {report['strength']:.4g}{chosen}")
        print(f"certificate  {scientific(worst)} or less: {solved[0]['certificate']}")
    parts = [f"{report['slices']} slice{'' if report['slices'] == 1 else 's'} in {report['seconds']:.1f} s"]
    if solved:
        parts.append(f"{report['slices_per_minute']:.1f} slices per minute")
    if unfinished := _unfinished(options, solved):
        parts.append(unfinished)
    parts += skipped_words([record["reason"] for record in report["files"] if record["status"] == "skipped"])
    if report["failed"]:
        parts.append(f"{report['failed']} failed")
    print(", ".join(parts))
