"""The CUDA backend: handwritten kernels of kernels/cuda on one device, CuPy's or the emulator's.

CudaBackend(device).prepare(model) -> CudaEngine     weights in the layout of the kernels, made once
engine.workspace(batch, height, width)               arrays of one batch of dual problems, allocated once
workspace.steps(...)                                 inner steps; see safi_fast/backend.py for the protocols
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, TypeVar

from numpy.typing import NDArray

from ..errors import BackendError
from ..model import Model
from .cuda_reconstruction import CudaReconstructionWorkspace
from .cuda_weights import CudaWeights
from .cuda_workspace import CudaWorkspace
from .device import Device

Use = tuple[int, int]  # a thread and its stream
Kind = TypeVar("Kind", bound=CudaWorkspace)
KEPT = 2  # work spaces that wait for the next call of their shape, with what they have recorded
LARGEST_BATCH = 2**33  # bytes of work space of images that are solved at once: far more than keeps a GPU busy


class CudaEngine:
    """One model on one device. Threads may share it."""

    def __init__(self, model: Model, device: Device, precision: str):
        self.model, self.device, self.weights = model, device, CudaWeights(model, device, precision)
        self._kept: list[tuple[Use, CudaWorkspace]] = []  # the last one used at the end
        self._lock = threading.Lock()

    def workspace(self, batch: int, height: int, width: int) -> CudaWorkspace:
        """Arrays for `batch` images of height x width, which may have served before."""
        return self._found(CudaWorkspace, batch, height, width)

    def reconstruction_workspace(self, batch: int, height: int, width: int) -> CudaReconstructionWorkspace:
        """The same, for a solver that keeps the images."""
        return self._found(CudaReconstructionWorkspace, batch, height, width)

    def keep(self, workspace: CudaWorkspace) -> None:
        """For the next call of its shape in this thread and on this stream, where what was launched is done by then."""
        with self._lock:
            self._kept = [*self._kept, (self._use(), workspace)][-KEPT:]

    def release(self) -> bool:
        """What is kept; whether there was anything."""
        with self._lock:
            dropped, self._kept = self._kept, []
        return bool(dropped)

    def batch_bytes(self) -> int:
        """Half of the memory that is free, what is kept counted as such."""
        with self._lock:
            kept = sum(self.workspace_bytes(one.batch, one.height, one.width) for _, one in self._kept)
        return min((self.device.free_bytes() + kept) // 2, LARGEST_BATCH)

    def _found(self, kind: type[Kind], *shape: int) -> Kind:
        """One of this kind and shape that is kept, else a new one."""
        wanted = self._use(), shape
        with self._lock:
            for number, (use, kept) in enumerate(self._kept):
                if type(kept) is kind and wanted == (use, (kept.batch, kept.height, kept.width)):
                    del self._kept[number]
                    return kept
        return kind(self.weights, *shape)

    def _use(self) -> Use:
        return threading.get_ident(), self.device.current_stream()

    def recording_workspace(self, batch: int, height: int, width: int, outer: int, inner: int) -> NoReturn:
        """Raises BackendError: derivatives are computed on the CPU."""
        raise BackendError("derivatives are computed on the CPU alone; pass backend='cpu'")

    def bytes_per_pixel(self) -> int:
        """u twice and M for every channel, and about thirty planes of images."""
        return 4 * (3 * self.weights.channels + 30 * self.weights.planes)

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
        """Weights in the layout of the kernels, on the device and complete there: threads use them on other streams."""
        engine = CudaEngine(model, self.device, self.precision)
        self.device.synchronize()
        return engine

    def to_host(self, array: Any) -> NDArray[Any]:
        """A copy of an array of the device as NumPy array."""
        return self.device.download(array)

    def fetch(self, array: Any) -> Callable[[], NDArray[Any]]:
        """A copy on its way to the host, beside what is launched from now on: a function that waits for it."""
        return self.device.fetch(array)

    def send(self, values: NDArray[Any]) -> Callable[[], Any]:
        """float32 images on their way to the device, beside what is launched later: a function that gives them."""
        return self.device.send(values)

    def on_threads(self, count: int | None) -> AbstractContextManager[None]:
        """A context without effect: the kernels need no threads of the host."""
        return nullcontext()
