"""What `safi-fast reconstruct --html` shows of a slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..values import Range
from .output import scientific
from .page import Entry, view
from .problems import Array, Slice, Study

if TYPE_CHECKING:
    from .reconstruct_job import Runner


def facts_of(report: dict[str, Any]) -> dict[str, str]:
    """What all slices have in common, from the report of the run."""
    facts = {"model": report["model"] or "none loaded", "schedule": report["schedule"]}
    if report["strength"] is not None:
        chosen = f", chosen by {report['tuning']['by']}" if report["tuning"] else ""
        facts["strength"] = f"{report['strength']:.4g}{chosen}"
    if report["noise_level"] is not None:
        facts["noise level"] = f"{report['noise_level']:g} of 255"
    return facts


def entry_of(study: Study, made: Slice, solution: Any, facts: dict[str, Any], number: int, runner: Runner) -> Entry:
    """A slice, before by a classical method. facts: as the report has them."""
    start, result = (shown(image, study.range) for image in (made.start, solution.image))
    return Entry(
        part=f"slice {number}" if study.count > 1 else "",
        view=view(start, result, solution.masks, before_name=study.start_name.partition("\n")[0], after_name="result"),
        history=[(step["relative_gap"], step["outer_residual"]) for step in facts["history"]],
        certificate=facts["certificate"],
        facts={
            "model": runner.solver().model.name,
            "strength": f"{facts['strength']:.4g}",
            "schedule": runner.options.schedule,
            "status": facts["solver_status"],
            "certificate": f"{scientific(facts['relative_gap'])}, {facts['certificate']}",
            "change between masks": scientific(facts["outer_residual"]),
            "steps": f"{facts['outer_iterations']} outer, {facts['inner_iterations']} inner",
            "seconds": f"{facts['seconds']:.2f}",
        },
    )


def shown(image: Array, meaning: Range) -> Array:
    """(H, W) or (H, W, 3) on [0, 1] for a picture: magnitudes of complex numbers."""
    values = meaning.to_unit(np.abs(image) if np.iscomplexobj(image) else image)
    return np.moveaxis(values, 0, -1) if values.ndim == 3 else values
