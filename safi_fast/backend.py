"""What a device must be able to do, and how one is chosen. Imports no GPU library and no kernel.

The solver owns the loops and talks to a Workspace: a batch of dual problems of one shape, with every array on the
device. Images of a batch are numbered 0 .. B - 1; `active` (int64) lists those that a call concerns, the others stay
untouched.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import BackendError, InputError, shown

if TYPE_CHECKING:
    from .model import Model

Active = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Accept = Literal["primal", "previous", "extrapolated"]

BACKENDS = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "tf32", "bf16x3")  # of the products in the two heavy convolutions; all else is float32


class Workspace(Protocol):
    """The state u, v, z = W^T(M . u), x(u) = clip(y - z), x(v) of B dual problems (design: denoising)."""

    def load(self, y: FloatArray, strength: FloatArray, step: FloatArray, box: tuple[float, float]) -> None:
        """The problems: y (B, H, W), lambda (B,), step size of u (B,), box limits (may be infinite). x = y, no mask.

        y comes as NumPy array, or as array of the device; the others are NumPy arrays.
        """

    def clear_dual(self, active: Active) -> None:
        """u = v = 0."""

    def start_dual(self, active: Active) -> None:
        """u = v = M . W x of the accepted image, not clipped."""

    def collapse_momentum(self, active: Active) -> None:
        """u = v. Must precede `update_mask`, which uses the spare slot of u, unless `start_dual` follows it."""

    def refresh(self, active: Active) -> None:
        """z, x(u) and x(v) = x(u), after u or M has changed."""

    def step(self, active: Active, momentum: FloatArray) -> NDArray[np.float64]:
        """One dual step; (active, 6) sums of the x0 = x(v) it started from and the new u, see
        `solver.certificate.StepSums`.
        """

    def steps(self, active: Active, momenta: FloatArray, sizes: FloatArray | None = None) -> None:
        """As many dual steps as `momenta` (steps, B) has rows, without their sums: one launch where the device can.

        sizes: (steps, B), times the step size of `load`; None for ones.
        """

    def measure(self, active: Active, previous: bool = False) -> NDArray[np.float64]:
        """(active, 3): ||M . W x(u)||_1, <z, x(u)>, 1/2 ||x(u) - y||^2, for this u or the one before."""

    def accept(self, active: Active, which: Accept) -> None:
        """Choose the image that counts: x(u), x(u) of the step before, or the x0 of the last step."""

    def set_step(self, step: FloatArray) -> None:
        """The step size of u (B,) from now on."""

    def anchored_step(
        self, active: Active, x: FloatArray, weight: FloatArray
    ) -> tuple[FloatArray, NDArray[np.float64]]:
        """A Halpern step of u at the image x (B, H, W); W^T u (B, H, W) and ||u_hat - u||^2 (active,).

        u_hat = clip(u + step W x, -lambda M, lambda M);  u = w (2 u_hat - u) + (1 - w) anchor, or u = anchor = u_hat
        where w is 0.
        Needs collapsed momentum and begins with w = 0, since the anchor lies in the spare slot of u.
        """

    def adjoint_of_dual(self, active: Active) -> FloatArray:
        """W^T u (B, H, W); zero for the other images."""

    def penalty(self, active: Active, x: FloatArray) -> NDArray[np.float64]:
        """||M . W x||_1 (active,) of any image x (B, H, W)."""

    def put_image(self, active: Active, x: FloatArray) -> None:
        """The accepted image becomes x (B, H, W)."""

    def outer_change(self, active: Active) -> NDArray[np.float64]:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call; first since y."""

    def update_mask(self, active: Active, gain: FloatArray, bias: FloatArray) -> None:
        """M = mask(x) of the accepted images; gain, bias (B, C) condition the generator on the noise level, see
        `model.Conditioned`.
        """

    def image(self) -> FloatArray:
        """A copy of the accepted images (B, H, W), as array of the device."""

    def masks(self) -> FloatArray:
        """A copy of M (B, C, H, W) in host memory; ones before the first mask."""

    def normal_operator(self, x: FloatArray) -> FloatArray:
        """W^T W x (B, H, W), without mask; overwrites the state. NumPy in and out."""


class Engine(Protocol):
    """One model, its weights on one device. Threads may share it."""

    def workspace(self, batch: int, height: int, width: int) -> Workspace:
        """Arrays for a batch of one shape."""

    def bytes_per_pixel(self) -> int:
        """Memory of a workspace per pixel of an image."""

    def workspace_bytes(self, batch: int, height: int, width: int) -> int:
        """Memory of a workspace of this size once it has a mask."""


class Backend(Protocol):
    """A device that can run the kernels.

    Where arrays of the device are not NumPy's, a backend also has `device` (bindings/device.py; its `number`, if it has
    one, is that of the GPU whose arrays the workspaces take and give) and `to_host(array)`, a copy of an array of the
    device as NumPy array. A backend that computes on threads of the host has `on_threads(count or None)`, a context in
    which the calling thread does so (bindings/threads.py).
    """

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
    return [_describe_cpu(), _describe_cuda()]


def _describe_cpu() -> BackendReport:
    try:
        importlib.import_module("safi_fast.bindings.cache").let_threads_sleep()
        importlib.import_module("safi_fast.bindings.threads").check_environment()
        numba = importlib.import_module("numba")
        threads = importlib.import_module("safi_fast.bindings.threads").threads_here()
    except BackendError as error:
        return BackendReport("cpu", False, str(error))
    except ImportError as error:
        return BackendReport("cpu", False, f"Numba cannot be imported ({error}); run: pip install numba")
    return BackendReport("cpu", True, f"Numba {numba.__version__} on {threads} threads.")


def _describe_cuda() -> BackendReport:
    return BackendReport("cuda", *importlib.import_module("safi_fast.bindings.gpu").examine())


@cache
def _known_cuda(process: int) -> BackendReport:
    """`_describe_cuda`, once per process: CUDA does not survive a fork."""
    return _describe_cuda()


def cuda_report() -> BackendReport:
    """Whether the CUDA backend can run here, looked up once."""
    return _known_cuda(os.getpid())


def gpu_of(backend: Backend) -> int | None:
    """The number of the GPU whose arrays the backend takes and gives; None where those are NumPy arrays."""
    number: int | None = getattr(getattr(backend, "device", None), "number", None)
    return number


def select(name: str | Backend, precision: str = "float32") -> Backend:
    """The backend by name: "cpu", "cuda" on CuPy's current GPU, or "auto": CUDA where a GPU can run the kernels, else
    the CPU.

    A Backend that is there already, such as one on another device, is returned as it is; it has its own precision.
    precision: one of PRECISIONS; the CPU has float32 alone.
    Raises InputError for an unknown name or precision and BackendError for a backend that cannot run here.
    """
    if not isinstance(name, (str, type)) and hasattr(name, "prepare"):
        if precision != "float32":
            raise InputError(
                f"precision is {shown(precision)}, but backend is a Backend and has its own; leave precision out"
            )
        return name
    if name not in BACKENDS:
        raise InputError(f"backend is {shown(name)}; expected 'auto', 'cpu' or 'cuda'")
    if precision not in PRECISIONS:
        raise InputError(f"precision is {shown(precision)}; expected 'float32', 'tf32' or 'bf16x3'")
    if name == "cuda" or (name == "auto" and _driver_is_here() and cuda_report().available):
        return _cuda(precision)
    if precision != "float32":
        raise InputError(f"precision is {precision!r}, but the CPU computes in float32 only; use precision='float32'")
    return _cpu(name)


def _driver_is_here() -> bool:
    """Without it there is no need to import CuPy, which takes longer than all the rest."""
    return importlib.import_module("safi_fast.bindings.gpu").driver_version() is not None


def _cuda(precision: str) -> Backend:
    report = cuda_report()
    if not report.available:
        raise BackendError(f"backend='cuda' cannot run: {report.sentence}; or use backend='cpu'")
    device: Any = importlib.import_module("safi_fast.bindings.device").CupyDevice()
    backend: Backend = importlib.import_module("safi_fast.bindings.cuda").CudaBackend(device, precision=precision)
    return backend


def _cpu(name: str) -> Backend:
    report = _describe_cpu()
    if not report.available:
        raise BackendError(f"backend={name!r} cannot run: {report.sentence}")
    backend: Backend = importlib.import_module("safi_fast.bindings.cpu").CpuBackend()
    return backend
