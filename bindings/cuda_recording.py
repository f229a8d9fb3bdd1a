"""Launches of a workspace that are recorded once and replayed: the steps under one mask, or a whole unrolled solve.

A recording knows the addresses of the workspace's arrays, the images it is for and the limits of the box. All else that
changes from call to call (images, momenta, step sizes, lambda, conditioning) is read from those arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import proxy

import numpy as np
from numpy.typing import NDArray

from .cuda_weights import CudaWeights, SafiWeights

if TYPE_CHECKING:
    from .cuda_workspace import CudaWorkspace

Active = NDArray[np.int64]

STEP_KERNELS = (
    ("analysis", "dual_step"), ("synthesis", "synthesis"), ("border", "synthesis_border"), ("image", "image_step"),
    ("state", "advance"),
)  # fmt: skip
SOLVE_KERNELS = (*STEP_KERNELS, ("analysis", "analysis"), ("state", "stop"), ("state", "collapse_momentum"))


class Recordings:
    """Of one workspace, which owns it."""

    def __init__(self, workspace: CudaWorkspace):
        # the workspace owns this: memory of a device should not wait for a collection of circles
        self.workspace: CudaWorkspace = proxy(workspace)
        self.replays: dict[tuple[Any, ...], Callable[[], None]] = {}

    def clear(self) -> None:
        """Arrays have moved."""
        self.replays.clear()

    def steps(self, active: Active, count: int) -> None:
        """So many dual steps."""
        workspace = self.workspace
        key = ("steps", active.tobytes(), count, workspace.has_mask, workspace.noise.options)
        self._replay(key, partial(_steps, workspace, active, count))

    def solve(self, outer: int, inner: int) -> None:
        """The unrolled schedule from u = M . W y on, of a workspace as `load` leaves it; x(u) is accepted."""
        workspace, everyone = self.workspace, np.arange(self.workspace.batch)
        before = workspace.host_state()
        self._replay(("solve", outer, inner), partial(_solve, workspace, everyone, outer, inner))
        workspace.set_host_state(before)  # a capture has called it, a replay has not
        for step in range(outer):
            workspace.has_mask = step > 0
            workspace.turned(everyone, inner)
            workspace.accept(everyone, "primal")

    def _replay(self, key: tuple[Any, ...], launch: Callable[[], None]) -> None:
        workspace = self.workspace
        key = (*key, float(workspace.low), float(workspace.high))
        if key not in self.replays:
            before = workspace.host_state()
            self.replays[key] = self._record(launch)
            workspace.set_host_state(before)
        self.replays[key]()

    def _record(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What may not happen in a capture, compiling and uploading, happens before."""
        workspace = self.workspace
        for file, name, options in kernels(workspace.weights):
            workspace.weights.kernel(file, name, options)
        workspace.weights.kernel("image", "image_step", workspace.image_options())
        return workspace.device.capture(launch)


def kernels(weights: CudaWeights) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """File, name and options of the kernels of a solve."""
    for file, name in SOLVE_KERNELS:
        if file != "border" or weights.model.filters.band:
            yield file, name, ()
    mask = weights.mask
    if isinstance(mask, SafiWeights):
        for file, layer in zip(("features", *("convolution",) * len(mask.layers)), mask.layers, strict=False):
            yield file, file, layer.options
    else:
        for _, option in mask.layers:
            yield "depthwise", "depthwise", (option,)


def _steps(workspace: CudaWorkspace, active: Active, count: int) -> None:
    workspace._list(active)
    for _ in range(count):
        workspace._step(active)


def _solve(workspace: CudaWorkspace, everyone: Active, outer: int, inner: int) -> None:
    for step in range(outer):
        if step:
            workspace.collapse_momentum(everyone)
            workspace.make_mask(everyone)
        else:
            workspace.start_dual(everyone)
        workspace.refresh(everyone)
        _steps(workspace, everyone, inner)
        workspace.turned(everyone, inner)
        workspace.accept(everyone, "primal")
