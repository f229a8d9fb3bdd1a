"""A batch of dual problems on a device for a general forward operator: u and M here, images with the solver.

Twin: the methods of the same names in cpu_workspace.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from .cuda_iteration import CudaIteration
from .cuda_weights import CudaWeights
from .cuda_workspace import Active, CudaWorkspace, FloatArray, Sums
from .launch import analysis_blocks

ON_CPU = "derivatives are computed on the CPU alone; pass backend='cpu'"


class CudaReconstructionWorkspace(CudaWorkspace):
    """`CudaWorkspace` with the steps of safi_fast/solver/primal_dual.py; images come and go as arrays of the device."""

    def __init__(self, weights: CudaWeights, batch: int, height: int, width: int):
        super().__init__(weights, batch, height, width)
        self.weight = self.device.zeros(batch, np.float32)

    def place(self, array: NDArray[Any]) -> Any:
        """A copy of an array of the host on the device."""
        return self.device.upload(array)

    def iteration(
        self, x: Any, z: Any, rows: Any | None, box: tuple[float, float] | None, box_first: int | None
    ) -> CudaIteration:
        """What the steps of a solver launch beside the operator and the Fourier transforms."""
        return CudaIteration(self, x, z, rows, box, box_first)

    def set_step(self, step: FloatArray) -> None:
        """The step size of u (B,) from now on."""
        self.usual_size = np.array(step, np.float32)
        self.device.write(self.step_size, self.usual_size)

    def set_bound(self, strength: FloatArray) -> None:
        """lambda (B,) from now on."""
        self.device.write(self.bound, np.ascontiguousarray(strength, np.float32))

    def anchored_step(self, active: Active, x: Any, weight: FloatArray) -> tuple[Any, Sums]:
        """A Halpern step of u at the image x (B, H, W) of the device: see kernels/cuda/analysis.cu.

        Returns W^T u (B, H, W), zero for the other images, and ||u_hat - u||^2 (active,). Needs collapsed momentum;
        overwrites x(v).
        """
        self._set(active, x)
        self.device.write(self.weight, np.ascontiguousarray(weight, np.float32))
        self._anchored_step(active)
        z = self.adjoint_of_dual(active)
        return z, self._l1(active)

    def adjoint_of_dual(self, active: Active) -> Any:
        """W^T u (B, H, W); zero for the other images."""
        self._synthesise(active, other=False, masked=False)
        make = self.device.empty if len(active) == self.batch else self.device.zeros
        z = make(self.images, np.float32)
        self._launch(
            "image", "gather_image", active, self.parts_struct, np.int32(self.shape.band), self.dropped,
            self.weights.symmetric, z,
        )  # fmt: skip
        return z

    def hold_bounded(self) -> NDArray[np.int64]:
        """Raises BackendError: derivatives are computed on the CPU."""
        raise BackendError(ON_CPU)

    def held_responses(self, x: FloatArray) -> FloatArray:
        """Raises BackendError."""
        raise BackendError(ON_CPU)

    def from_held(self, values: FloatArray) -> FloatArray:
        """Raises BackendError."""
        raise BackendError(ON_CPU)

    def penalty(self, active: Active, x: Any) -> Sums:
        """||M . W x||_1 (active,) of any image x (B, H, W); overwrites x(v)."""
        self._set(active, x)
        self._launch(
            "analysis", "masked_norm", active, self.slot, self.image_slots, self._mask(), self.l1,
            self.weights.filters, self.weights.border.struct,
        )  # fmt: skip
        return self._l1(active)

    def launches(self, active: Active) -> dict[str, Callable[[], None]]:
        """Those of a workspace, and "anchored_step" with the weight that is there."""
        return super().launches(active) | {"anchored_step": lambda: self._anchored_step(active)}

    def _anchored_step(self, active: Active) -> None:
        self._launch(
            "analysis", "anchored_step", active, self.slot, self.image_slots, self.dual, self._mask(), self.step_size,
            self.bound, self.weight, self.l1, self.weights.filters, self.weights.border.struct,
        )  # fmt: skip

    def _set(self, active: Active, x: Any) -> None:
        self._set_image(active, self.device.adopt(x))

    def _l1(self, active: Active) -> Sums:
        self._total(active, self.l1, analysis_blocks(self.shape), 1, 0)
        sums: Sums = self.device.download(self.totals)[active, 0]
        return sums
