"""How far `safi-fast reconstruct` is with an input, within a slice too."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .output import scientific
from .reconstruct_options import Options

if TYPE_CHECKING:
    from ..solver.result import InnerState


def words(state: "InnerState") -> str:
    """The mask that is solved, its inner steps, and the largest relative gap of the last certificate."""
    gap = float(np.max(state.relative_gap))
    reached = f", gap {scientific(gap)}" if np.isfinite(gap) else ""
    return f"mask {state.outer + 1}, step {state.step} of {state.steps}{reached}"


class Meter:
    """What the bar of one input shows: inner steps where their number is fixed, else masks; and in words the mask that
    is solved, its steps and gap.
    """

    def __init__(self, options: Options, slices: int):
        self.fixed = options.schedule == "fast"
        self.masks, self.slices = options.outer, slices
        self.steps = options.inner if self.fixed else 1  # that count, of one mask
        self.advance: Callable[..., None] = lambda *_, **__: None
        self.images, self.counted = 1, 0.0

    @property
    def unit(self) -> str:
        """Of what is counted."""
        return "step" if self.fixed else "mask"

    @property
    def total(self) -> int:
        """That will be counted, at most."""
        return self.slices * self.masks * self.steps

    def begin(self, images: int) -> None:
        """A slice of so many images, the channels of one in colour."""
        self.images, self.counted = images, 0.0

    def watch(self, state: "InnerState") -> None:
        """After each inner step of some images of the slice."""
        done = len(state.active) / self.images
        if self.fixed and state.steps != self.steps:
            self.steps = state.steps
            self.advance(0, total=self.total)
        if not self.fixed and (state.step > 1 or state.outer == 0):  # counted is the mask before this one
            done = 0.0
        self.counted += done
        self.advance(done, note=words(state))

    def end(self) -> None:
        """Of a slice, whose masks may be fewer than there could be."""
        self.advance(self.masks * self.steps - self.counted, note="")

    def skip(self, slices: int) -> None:
        """Slices that are not solved here."""
        self.advance(slices * self.masks * self.steps)
