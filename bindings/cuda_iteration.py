"""The variables of a Halpern iteration on a device, and the launches of its steps: kernels/cuda/halpern.cu.

The solver makes the Fourier transforms, and calls the operator, between `extrapolate`, `move_rows` and `finish`. No
launch needs anything from the host, so that many steps can be recorded once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import proxy

import numpy as np
from numpy.typing import NDArray

from .launch import Shape, analysis_blocks, image_blocks, launch_for

if TYPE_CHECKING:
    from .cuda_reconstruction import CudaReconstructionWorkspace

Active = NDArray[np.int64]
TOTALS = 4  # of an image: ||u_hat - u||^2, <moved, slope>, and of the rows the box and p


class CudaIteration:
    """Of `count` images; complex ones are two images of the workspace each.

    x, z (B, H, W), rows (B, N) or None: as in the solver; where the iterates start. `box_first`:
    the place in a row at which the box's dual variable begins, None without a box.
    """

    def __init__(
        self,
        workspace: CudaReconstructionWorkspace,
        x: Any,
        z: Any,
        rows: Any | None,
        box: tuple[float, float] | None,
        box_first: int | None,
    ):
        # the workspace may own this: memory of a device should not wait for a collection of circles
        self.workspace: CudaReconstructionWorkspace = proxy(workspace)
        self.device = workspace.device
        self.count, self.box_first = len(x), box_first
        self.low, self.high = (np.float32(limit) for limit in (box or (0.0, 0.0)))
        self.x, self.x_hat, self.x_anchor, self.ahead = (self._copy(x) for _ in range(4))
        self.z, self.z_hat, self.z_anchor = (self._copy(z) for _ in range(3))
        self.rows, self.rows_hat, self.rows_anchor = (None if rows is None else self._copy(rows) for _ in range(3))
        device, shape, length = self.device, workspace.shape, 0 if rows is None else rows.size // self.count
        self.row = Shape(1, max(length, 1), 8, 1)
        self.sums = device.empty((workspace.batch, image_blocks(shape), 2), np.float64)
        blocks = launch_for("move_rows", self.row, 1).grid[0]
        self.row_sums = device.empty((self.count, blocks, 1), np.float64)
        self.totals = device.zeros((workspace.batch, TOTALS), np.float64)
        self.mixing = device.zeros(workspace.batch, np.float32)
        self.residuals = device.zeros((self.count, 2), np.float64)
        self.counts = device.zeros((self.count, 3), np.int32)
        self.sigma = device.zeros(self.count, np.float64)
        self.box_step, self.row_step = (device.zeros(self.count, np.float32) for _ in range(2))

    def start(self, x: Any, z: Any, rows: Any | None) -> None:
        """From these values, in the arrays that are there: what was recorded stays right. Anchors and `ahead` are
        written before they are read.
        """
        pairs = ((self.x, x), (self.x_hat, x), (self.z, z), (self.z_hat, z), (self.rows, rows), (self.rows_hat, rows))
        for array, values in pairs:
            if array is not None and values is not None:
                self.device.fill(self._floats(array), values.view(np.float32))

    @property
    def records(self) -> bool:
        """Whether steps with array functions in them can be recorded."""
        return self.device.captures_arrays

    def set_steps(self, sigma: NDArray[np.float64], box: NDArray[Any] | None, rows: NDArray[Any] | None) -> None:
        """Step sizes (B,) of u, and of the dual variables in the rows."""
        self.device.write(self.sigma, np.asarray(sigma, np.float64))
        for array, values in ((self.box_step, box), (self.row_step, rows)):
            if values is not None:
                self.device.write(array, np.asarray(values, np.float32))

    def begin(self, fall: float, share: float, least: int, relaxation: float = 0.0) -> None:
        """A run: every image starts anew, and restarts by this rule; or makes relaxed steps, by a factor above 1."""
        self.rule = np.float64(fall), np.float64(share), np.int32(least)
        self.device.write(self.counts, np.zeros(self.counts.shape, np.int32))
        self.device.write(self.workspace.weight, np.full(self.workspace.batch, relaxation, np.float32))

    def key(self, active: Active) -> tuple[bytes, bool]:
        """What a recorded step depends on."""
        return active.tobytes(), self.workspace.has_mask

    def record(self, steps: Callable[[], None]) -> Callable[[], None]:
        """`steps`, made before, as something to replay."""
        return self.device.capture(steps)

    def extrapolate(self, active: Active, moved: Any, slope: Any) -> None:
        """x_hat, `ahead` and v_hat from the change `moved` of x; both (B, H, W)."""
        first = 0 if self.box_first is None else self.box_first
        rows = (None, None, None) if self.box_first is None else (self.rows, self.rows_hat, self.box_step)
        self.workspace._launch(
            "halpern", "extrapolate", self._parts(active), self.workspace.slot, self.workspace.image_slots,
            np.int32(self.count), self._floats(moved), self._floats(slope), self._floats(self.x),
            self._floats(self.x_hat), self._floats(self.ahead), *rows[:2], np.int64(self.row.width), np.int64(first),
            rows[2], self.low, self.high, self.workspace.weights.symmetric, self.counts, self.sums,
        )  # fmt: skip

    def move_rows(self, active: Active, seen: Any, y: Any) -> None:
        """p_hat, where the operator sees `seen` (B, *shape_out) in `ahead`; y is the measurement."""
        seen, y = self._floats(seen), self._floats(y)
        how = launch_for("move_rows", Shape(1, seen.size // self.count, 8, 1), len(active))
        lengths = np.int64(self.row.width), np.int64(seen.size // self.count)
        arguments = (seen, y, self.rows, self.rows_hat, *lengths, self.row_step, self.counts, self.row_sums)
        self._launch("move_rows", how, active, *arguments)
        self._total(active, self.row_sums, how.grid[0], 1, 3)

    def finish(self, active: Active, sign: float) -> None:
        """u, the weight of the step, and all variables mixed with their anchors. sign: of <moved, slope>."""
        parts, workspace = self._parts(active), self.workspace
        workspace._anchored_step(parts)
        self._total(parts, workspace.l1, analysis_blocks(workspace.shape), 1, 0)
        self._total(parts, self.sums, image_blocks(workspace.shape), 2, 1)
        self._launch(
            "restart", launch_for("restart", workspace.shape, len(active)), active, np.int32(len(active)),
            np.int32(self.count), self.totals, np.int32(TOTALS), np.float64(sign), self.sigma, *self.rule,
            workspace.weight, self.mixing, self.residuals, self.counts, workspace.geometry,
        )  # fmt: skip
        workspace._synthesise(parts, other=False, masked=False)
        workspace._launch(
            "halpern", "mix_images", parts, workspace.parts_struct, np.int32(workspace.shape.band), workspace.dropped,
            workspace.weights.symmetric, np.int32(self.count), self.mixing, self.counts, self._floats(self.x_hat),
            self._floats(self.x), self._floats(self.x_anchor), self._floats(self.z), self._floats(self.z_hat),
            self._floats(self.z_anchor),
        )  # fmt: skip
        if self.rows is not None:
            arguments = (self.mixing, self.counts, self.rows_hat, self.rows, self.rows_anchor)
            how = launch_for("mix_rows", self.row, len(active))
            self._launch("mix_rows", how, active, np.int64(self.row.width), *arguments)

    def lost(self) -> NDArray[np.int64]:
        """(B,) the step of this run, from 1, whose residual was not finite; 0: none. Waits for the device."""
        return np.asarray(self.device.download(self.counts)[:, 2], np.int64)

    # -- private ------------------------------------------------------------------------------------------------------

    def _parts(self, active: Active) -> Active:
        """The images of the workspace."""
        return np.concatenate([active + first for first in range(0, self.workspace.batch, self.count)])

    def _floats(self, array: Any) -> Any:
        """Without a copy, where it is of the device."""
        return self.device.adopt(array.view(np.float32))

    def _copy(self, array: Any) -> Any:
        return self.device.upload(array) if isinstance(array, np.ndarray) else array.copy()

    def _launch(self, name: str, how: Any, active: Active, *arguments: Any) -> None:
        kernel = self.workspace.weights.kernel("halpern", name)
        kernel(how.grid, how.block, (self.workspace._list(active), *arguments))

    def _total(self, active: Active, partials: Any, blocks: int, columns: int, first: int) -> None:
        """Columns first .. of `totals`: the partial sums of every block added up."""
        how = launch_for("totals", self.workspace.shape, len(active))
        counts = np.int32(blocks), np.int32(columns)
        kernel = self.workspace.weights.kernel("state", "totals")
        arguments = (partials, *counts, self.totals, np.int32(first), np.int32(TOTALS))
        kernel(how.grid, how.block, (self.workspace._list(active), *arguments))
