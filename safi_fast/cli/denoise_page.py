"""What `safi-fast denoise --html` shows of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..solver.result import worst_status
from ..values import Range
from . import session as sessions
from .output import scientific
from .page import Entry, view

if TYPE_CHECKING:
    from ..io import ImageFile
    from .denoise import Options, Solved

MASK_PIXELS = 2**21  # of a file; with 64 filters its masks take half a GB
BRIGHTEST = 0.999  # share of the pixels of counts that are not brighter than what is shown as white


def masks_of(file: ImageFile, options: Options) -> dict[str, bool]:
    """The argument of `Solver.denoise` that keeps masks, where a page wants them and they have room."""
    return {"return_masks": True} if options.html and _why_without(file, options) is None else {}


def facts_of(options: Options, session: sessions.Session | None) -> dict[str, str]:
    """What all images have in common."""
    schedule = options.schedule or (session.model.schedule.name if session else None)
    return {"noise": options.noise, "sigma": _sigma(options)} | ({"schedule": schedule} if schedule else {})


def entry_of(file: ImageFile, result: Solved, options: Options) -> Entry:
    """The first image of a file, as it was and as it became."""
    solution = result.solution
    before, after = (_first(values, file.channel_axis) for values in (file.array, solution.image))
    meaning, notes = result.meaning, []
    if meaning is None:
        meaning = Range(min(0.0, float(after.min())), float(np.quantile(after, BRIGHTEST)) or 1.0)
        notes.append(f"shown from {meaning.low:.4g} to {meaning.high:.4g}")
    count = file.array.size // before.size
    if count > 1:
        notes.insert(0, f"image 1 of {count}")
    masks, without = solution.masks, _why_without(file, options)
    if masks is not None:
        masks = masks.reshape(count, -1, *masks.shape[-2:])[0]
    elif without:
        notes.append(without)
    facts = sessions.summary(solution)
    return Entry(
        part="",
        view=view(
            meaning.to_unit(before.astype(np.float32)),
            meaning.to_unit(after),
            masks,
            notes=notes,
            after_name="denoised",
        ),
        history=[(float(np.max(row.relative_gap)), float(np.max(row.outer_residual))) for row in solution.history],
        certificate="relative duality gap",
        facts={
            "model": result.model,
            "sigma": _sigma(options, result.estimate),
            "status": worst_status(solution.status),
            "relative gap": scientific(facts["relative_gap"]),
            "steps": f"{facts['outer_iterations']} outer, {facts['inner_iterations']} inner",
            "seconds": f"{result.seconds:.2f}",
        }
        | ({"warning": result.warning} if result.warning else {}),
    )


def _why_without(file: ImageFile, options: Options) -> str | None:
    """Why the masks of a file are not kept; None where they are."""
    if options.max_memory is not None:
        return "no mask, for --max-memory leaves no room for it"
    planes = 1 if file.channel_axis is None else file.array.shape[file.channel_axis]
    pixels = file.array.size // planes
    return f"no mask, for {pixels / 1e6:.1f} million pixels have too many" if pixels > MASK_PIXELS else None


def _sigma(options: Options, estimate: list[float] | None = None) -> str:
    if estimate:
        return f"{max(estimate):.3g} of 255, estimated"
    if options.noise == "poisson":
        return f"{options.sigma or 0:g} in the values of the file"
    if options.sigma_map is not None:
        return f"map {options.sigma_map.name}"
    return options.sigma if isinstance(options.sigma, str) else f"{options.sigma:g} of 255"


def _first(images: Any, channel_axis: int | None) -> NDArray[Any]:
    """(H, W), or (H, W, 3): the first of a stack."""
    sides = 2 if channel_axis is None else 3
    first: NDArray[Any] = np.asarray(images).reshape(-1, *images.shape[-sides:])[0]
    return first
