"""The CUDA backend: handwritten kernels of kernels/cuda on one device, CuPy's or the emulator's.

CudaBackend(device).prepare(model) -> CudaEngine     weights in the layout of the kernels, made once
engine.workspace(batch, height, width)               arrays of one batch of dual problems, allocated once
workspace.steps(...)                                 inner steps; see safi_fast/backend.py for the protocols
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from numpy.typing import NDArray

from ..model import Model
from .cuda_reconstruction import CudaReconstructionWorkspace
from .cuda_weights import CudaWeights
from .cuda_workspace import CudaWorkspace
from .device import Device


class CudaEngine:
    """One model on one device. Read-only after construction, so threads may share it."""

    def __init__(self, model: Model, device: Device, precision: str):
        self.model, self.weights = model, CudaWeights(model, device, precision)

    def workspace(self, batch: int, height: int, width: int) -> CudaWorkspace:
        """Arrays for `batch` images of height x width."""
        return CudaWorkspace(self.weights, batch, height, width)

    def reconstruction_workspace(self, batch: int, height: int, width: int) -> CudaReconstructionWorkspace:
        """Arrays for `batch` images of height x width, for a solver that keeps the images."""
        return CudaReconstructionWorkspace(self.weights, batch, height, width)

    def bytes_per_pixel(self) -> int:
        """u twice and M for every channel, and about thirty images."""
        return 4 * (3 * self.weights.channels + 30)

    def workspace_bytes(self, batch: int, height: int, width: int) -> int:
        """Memory of `workspace(batch, height, width)`, roughly."""
        return batch * height * width * self.bytes_per_pixel()


class CudaBackend:
    """Handwritten CUDA kernels, compiled when first used."""

    name = "cuda"

    def __init__(self, device: Device, precision: str = "float32"):
        """precision: "float32", or "tf32" or "bf16x3" for the filter bank and the mask layers C -> C on tensor cores
        (docs/gpu.md).
        """
        self.device = device
        self.precision = precision

    def prepare(self, model: Model) -> CudaEngine:
        """Weights in the layout of the kernels, on the device."""
        return CudaEngine(model, self.device, self.precision)

    def to_host(self, array: Any) -> NDArray[Any]:
        """A copy of an array of the device as NumPy array."""
        return self.device.download(array)

    def on_threads(self, count: int | None) -> AbstractContextManager[None]:
        """A context without effect: the kernels need no threads of the host."""
        return nullcontext()
