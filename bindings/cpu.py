"""The CPU backend: Numba kernels over tiles, all cores, no state on the model.

CpuBackend().prepare(model) -> CpuEngine      weights in the layout of the kernels, made once
engine.workspace(batch, height, width)        arrays of one batch of problems, allocated once
workspace.step(...)                           one inner step; see safi_fast/backend.py for the protocols
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from numpy.typing import NDArray

from ..model import Model
from . import threads
from .blocking import pairs_of
from .cpu_kernels import SMALL_TILE, SUMS, TILE, get_num_threads
from .cpu_masks import work_floats
from .cpu_recording import RecordingWorkspace
from .cpu_weights import CpuWeights, SafiWeights
from .cpu_workspace import CpuWorkspace, bank_floats

BATCH_BYTES = 2**30  # work space of images that are solved at once


class CpuEngine:
    """One model on the CPU. Read-only after construction, so threads may share it."""

    def __init__(self, model: Model):
        self.model, self.weights = model, CpuWeights(model)

    def workspace(self, batch: int, height: int, width: int) -> CpuWorkspace:
        """Arrays for `batch` images of height x width."""
        return CpuWorkspace(self.weights, batch, height, width)

    def reconstruction_workspace(self, batch: int, height: int, width: int) -> CpuWorkspace:
        """The same, which does both."""
        return self.workspace(batch, height, width)

    def recording_workspace(self, batch: int, height: int, width: int, outer: int, inner: int) -> RecordingWorkspace:
        """The same, which remembers so many steps."""
        return RecordingWorkspace(self.weights, (batch, height, width), (outer, inner))

    def keep(self, workspace: CpuWorkspace) -> None:
        """Nothing is kept: memory of the host is soon had again."""

    def release(self) -> bool:
        """Nothing is kept."""
        return False

    def batch_bytes(self) -> int:
        """Enough to keep all cores busy."""
        return BATCH_BYTES

    def bytes_per_pixel(self) -> int:
        """u twice and M for every channel, a dozen planes of images, and the tiles that overlap."""
        inner = TILE + 1 - self.weights.support
        return 4 * (3 * self.weights.channels + self.weights.planes * (12 + (TILE / inner) ** 2)).__ceil__()

    def workspace_bytes(self, batch: int, height: int, width: int) -> int:
        """Memory of `workspace(batch, height, width)` once it has a mask, on the threads that kernels would use now."""
        rows, pitch, tiles = self.weights.padded_size(height, width)
        planes = self.weights.planes
        floats = 4 * planes * rows * pitch + 3 * height * width * (planes + self.weights.channels)
        floats += tiles * (planes * TILE * TILE + 2) + 2 * planes * height * SUMS
        return 4 * (batch * floats + self._work_floats(batch, height, width))

    def _work_floats(self, batch: int, height: int, width: int) -> int:
        """Work space of the threads that find work; that of the others is never written."""
        count, tiles = get_num_threads(), self.weights.padded_size(height, width)[2]
        floats = min(count, batch * tiles) * sum(bank_floats(self.weights.groups, self.weights.planes))
        if isinstance(self.weights.mask, SafiWeights):
            inner = SMALL_TILE + 1 - max(layer.support for layer in self.weights.mask.layers)
            pairs = -(-(-(-height // inner) * -(-width // inner)) // 2)
            sets = -(-pairs // pairs_of(self.weights.channels))
            floats += min(count, batch * sets) * sum(work_floats(self.weights.groups))
        return floats


class CpuBackend:
    """Numba on all cores. Its arrays are NumPy's, so it has no device."""

    name = "cpu"
    device = None

    def prepare(self, model: Model) -> CpuEngine:
        """Weights in the layout of the kernels."""
        return CpuEngine(model)

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def fetch(self, array: NDArray[Any]) -> Callable[[], NDArray[Any]]:
        """A function that gives the array itself."""
        return lambda: array

    def send(self, values: NDArray[Any]) -> Callable[[], NDArray[Any]]:
        """A function that gives the images themselves."""
        return lambda: values

    def on_threads(self, count: int | None) -> AbstractContextManager[int]:
        """A context in which the calling thread launches on `count` threads, see bindings/threads.py."""
        return threads.on_threads(count)
