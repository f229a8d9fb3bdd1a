"""What a device must be able to do, and how one is chosen. Imports no GPU library and no kernel.

The solver owns the loops and talks to a Workspace: a batch of dual problems of one shape, with every array on the device.
Images of a batch are numbered 0 .. B - 1; `active` (int64) lists those that a call concerns, the others stay untouched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import BackendError, InputError

if TYPE_CHECKING:
    from .model import Model

Active = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Accept = Literal["primal", "previous", "extrapolated"]


class Workspace(Protocol):
    """The state u, v, z = W^T(M . u), x(u) = clip(y - z), x(v) of B dual problems (design: denoising)."""

    def load(self, y: FloatArray, strength: FloatArray, step: FloatArray, box: tuple[float, float]) -> None:
        """The problems: y (B, H, W), lambda (B,), step size 1 / ||W||^2 (B,), box limits (may be infinite). x = y, no mask."""

    def clear_dual(self, active: Active) -> None:
        """u = v = 0."""

    def start_dual(self, active: Active) -> None:
        """u = v = M . W x of the accepted image, not clipped."""

    def collapse_momentum(self, active: Active) -> None:
        """u = v. Must precede `update_mask`, which uses the spare slot of u, unless `start_dual` follows it."""

    def refresh(self, active: Active) -> None:
        """z, x(u) and x(v) = x(u), after u or M has changed."""

    def step(self, active: Active, momentum: FloatArray) -> NDArray[np.float64]:
        """One dual step; (active, 6) sums of the x0 = x(v) it started from and the new u, see `solver.certificate.StepSums`."""

    def steps(self, active: Active, momenta: FloatArray) -> None:
        """As many dual steps as `momenta` (steps, B) has rows, without their sums: one launch where the device can."""

    def measure(self, active: Active, previous: bool = False) -> NDArray[np.float64]:
        """(active, 3): ||M . W x(u)||_1, <z, x(u)>, 1/2 ||x(u) - y||^2, for this u or the one before."""

    def accept(self, active: Active, which: Accept) -> None:
        """Choose the image that counts: x(u), x(u) of the step before, or the x0 of the last step."""

    def outer_change(self, active: Active) -> NDArray[np.float64]:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call; first since y."""

    def update_mask(self, active: Active, gain: FloatArray, bias: FloatArray) -> None:
        """M = mask(x) of the accepted images; gain, bias (B, C) condition a SAFI generator on the noise level."""

    def image(self) -> FloatArray:
        """A copy of the accepted images (B, H, W)."""

    def masks(self) -> FloatArray:
        """A copy of M (B, C, H, W); ones before the first mask."""

    def normal_operator(self, x: FloatArray) -> FloatArray:
        """W^T W x (B, H, W), without mask; overwrites the state."""


class Engine(Protocol):
    """One model, its weights on one device. Threads may share it."""

    def workspace(self, batch: int, height: int, width: int) -> Workspace:
        """Arrays for a batch of one shape."""

    def bytes_per_pixel(self) -> int:
        """Memory of a workspace per pixel of an image."""


class Backend(Protocol):
    """A device that can run the kernels."""

    name: str

    def prepare(self, model: Model) -> Engine:
        """Bring the weights into the layout of the kernels."""


class BackendReport(NamedTuple):
    """Whether a backend can run here, and why in one sentence."""

    name: str
    available: bool
    sentence: str


def describe_backends() -> list[BackendReport]:
    """Every backend with its state on this machine; imports what it reports on."""
    return [_describe_cpu(), BackendReport("cuda", False, "The CUDA backend is not part of this version.")]


def _describe_cpu() -> BackendReport:
    try:
        importlib.import_module("safi_fast.bindings.cache").let_threads_sleep()
        numba = importlib.import_module("numba")
    except ImportError as error:
        return BackendReport("cpu", False, f"Numba cannot be imported ({error}); run: pip install numba")
    return BackendReport("cpu", True, f"Numba {numba.__version__} on {numba.get_num_threads()} threads.")


def select(name: str) -> Backend:
    """The backend by name: "auto" (today always the CPU) or "cpu".

    Raises InputError for an unknown name and BackendError for one that cannot run here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"backend is {name!r}; expected 'auto', 'cpu' or 'cuda'")
    if name == "cuda":
        raise BackendError("backend='cuda' cannot run: the CUDA backend is not part of this version; use backend='cpu'")
    report = _describe_cpu()
    if not report.available:
        raise BackendError(f"backend={name!r} cannot run: {report.sentence}")
    try:
        backend: Backend = importlib.import_module("safi_fast.bindings.cpu").CpuBackend()
    except RuntimeError as error:  # Numba finds neither the package nor the home folder writable
        if "cannot cache" not in str(error):
            raise
        raise BackendError(
            "compiled kernels cannot be stored; set NUMBA_CACHE_DIR to a folder that can be written"
        ) from error
    return backend
