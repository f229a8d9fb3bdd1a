"""What a device must be able to do, and how one is chosen. Imports no GPU library and no kernel.

The solver owns the loops and talks to a workspace: a batch of problems of one shape, with every array on the device.
Images of a batch are numbered 0 .. B - 1; `active` (int64) lists those that a call concerns, the others stay untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import BackendError, InputError, shown
from .types import Active, FloatArray

if TYPE_CHECKING:
    from .model import Model
    from .varying import Varying


Sums = NDArray[np.float64]
Accept = Literal["primal", "previous", "extrapolated"]

BACKENDS = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "tf32", "bf16x3")  # of the products in the two heavy convolutions; all else is float32


class DualWorkspace(Protocol):
    """For denoising: the state u, v, z = W^T(M . u), x(u) = clip(y - z), x(v) of B dual problems."""

    def load(self, y: Any, strength: FloatArray, step: FloatArray, box: tuple[float, float]) -> None:
        """The problems: y (B, H, W), lambda (B,), step size of u (B,), box limits (may be infinite). x = y, no mask.

        y comes as NumPy array, or as array of the device; the others are NumPy arrays.
        """

    def vary(self, noise: Varying) -> None:
        """After `load`: sigma changes over the images (varying.py)."""

    def put_image(self, active: Active, x: Any) -> None:
        """The accepted image becomes x (B, H, W)."""

    def clear_dual(self, active: Active) -> None:
        """u = v = 0."""

    def start_dual(self, active: Active) -> None:
        """u = v = M . W x of the accepted image, not clipped."""

    def collapse_momentum(self, active: Active) -> None:
        """u = v. Must precede `update_mask`, which uses the spare slot of u, unless `start_dual` follows it."""

    def refresh(self, active: Active) -> None:
        """z, x(u) and x(v) = x(u), after u or M has changed."""

    def step(self, active: Active, momentum: FloatArray) -> Sums:
        """One dual step, momentum (B,), or several, (steps, B); (active, 6) sums of the x0 = x(v) that the last started
        from and the new u, see `solver.certificate.StepSums`.
        """

    def unrolled(
        self, outer: int, momenta: FloatArray, sizes: FloatArray | None, gain: FloatArray, bias: FloatArray
    ) -> bool:
        """From `load` on, `outer` masks with these steps under each, the first without a mask; x(u) is accepted. False
        where the device has no faster way than one by one, and nothing was done.
        """

    def steps(self, active: Active, momenta: FloatArray, sizes: FloatArray | None = None) -> None:
        """As many dual steps as `momenta` (steps, B) has rows, without their sums: one launch where the device can.

        sizes: (steps, B), times the step size of `load`; None for ones.
        """

    @property
    def check_every(self) -> int:
        """Steps after which to look at the sums of one: asking a device takes as long as a step of a small image."""

    def measure(self, active: Active, previous: bool = False) -> Sums:
        """(active, 3): ||M . W x(u)||_1, <z, x(u)>, 1/2 ||x(u) - y||^2, for this u or the one before."""

    def accept(self, active: Active, which: Accept) -> None:
        """Choose the image that counts: x(u), x(u) of the step before, or the x0 of the last step."""

    def outer_change(self, active: Active) -> Sums:
        """||x - x_before|| / ||x_before|| of the accepted images since the last call; first since y."""

    def update_mask(self, active: Active, gain: FloatArray, bias: FloatArray) -> None:
        """M = mask(x) of the accepted images; gain, bias (B, C) condition the generator on the noise level, see
        `model.Conditioned`.
        """

    def image(self) -> Any:
        """A copy of the accepted images (B, H, W), as array of the device."""

    def masks(self) -> FloatArray:
        """A copy of M (B, C, H, W) in host memory; ones before the first mask."""

    def normal_operator(self, x: FloatArray) -> FloatArray:
        """W^T W x (B, H, W), of a work space without masks; overwrites the state. NumPy in and out."""

    def hold(self) -> None:
        """M becomes zero where u is at its bound, and `normal_operator` is W^T M M W. Raises BackendError where the
        device cannot.
        """


class Iteration(Protocol):
    """The variables of a Halpern iteration of B images on a device, and the launches of its steps.

    x, z (B, H, W) and rows (B, N), dual variables of the data term: iterates; x_hat, z_hat, rows_hat: after the last
    step's map. rows are None where there are none.
    """

    x: Any
    z: Any
    rows: Any
    x_hat: Any
    z_hat: Any
    rows_hat: Any
    ahead: Any

    def start(self, x: Any, z: Any, rows: Any | None) -> None:
        """Begin with these values instead, of the same shapes; the arrays stay where they are."""

    @property
    def records(self) -> bool:
        """Whether steps with array functions in them can be recorded."""

    def set_steps(self, sigma: NDArray[np.float64], box: NDArray[Any] | None, rows: NDArray[Any] | None) -> None:
        """Step sizes (B,) of u, and of the dual variables in the rows."""

    def begin(self, fall: float, share: float, least: int, relaxation: float = 0.0) -> None:
        """A run: every image starts anew, and restarts by this rule, or its steps are relaxed by a factor above 1, see
        `solver.halpern.Halpern`.
        """

    def key(self, active: Active) -> tuple[bytes, bool]:
        """What a recorded step depends on."""

    def record(self, steps: Callable[[], None]) -> Callable[[], None]:
        """`steps`, made before, as something to replay."""

    def extrapolate(self, active: Active, moved: Any, slope: Any) -> None:
        """x_hat = x + moved, ahead = x + 2 moved (B, H, W), and the dual variable of the box."""

    def move_rows(self, active: Active, seen: Any, y: Any) -> None:
        """The dual variable of H x - y, where `seen` (B, *shape_out) is H ahead."""

    def finish(self, active: Active, sign: float) -> None:
        """u, the restart rule with sign <moved, slope> in the residual, and all variables mixed with their anchors."""

    def lost(self) -> NDArray[np.int64]:
        """(B,) the step of this run, from 1, whose residual was not finite; 0: none. Waits for the device."""


class ReconstructionWorkspace(DualWorkspace, Protocol):
    """For a general forward operator: u and M as above, while the solver holds the images."""

    def place(self, array: NDArray[Any]) -> Any:
        """An array of the host where the kernels are: images (B, H, W) go in and out there."""

    def iteration(
        self, x: Any, z: Any, rows: Any | None, box: tuple[float, float] | None, box_first: int | None
    ) -> Iteration | None:
        """The steps as launches on the device, starting from these arrays; None where the solver makes them.

        box_first: the place in a row at which the dual variable of the box begins, None without a box.
        """

    def set_step(self, step: FloatArray) -> None:
        """The step size of u (B,) from now on."""

    def set_bound(self, strength: FloatArray) -> None:
        """lambda (B,) from now on."""

    def anchored_step(self, active: Active, x: Any, weight: FloatArray) -> tuple[Any, Sums]:
        """A Halpern step of u at the image x (B, H, W); W^T u (B, H, W) and ||u_hat - u||^2 (active,).

        u_hat = clip(u + step W x, -lambda M, lambda M);  u = w (2 u_hat - u) + (1 - w) anchor, or u = anchor = u_hat
        where w is 0, or u + w (u_hat - u) where it is above 1.
        Needs collapsed momentum. Anchored steps begin with w = 0, since the anchor lies in the spare slot of u.
        """

    def adjoint_of_dual(self, active: Active) -> Any:
        """W^T u (B, H, W); zero for the other images."""

    def hold_bounded(self) -> NDArray[np.int64]:
        """Remember the responses with |u| < lambda M, which are zero; the image of each, in ascending order. Drops the
        masks. Raises BackendError where the device cannot.
        """

    def held_responses(self, x: FloatArray) -> FloatArray:
        """W x of images (B, H, W) at those responses; overwrites x and u. NumPy in and out."""

    def from_held(self, values: FloatArray) -> FloatArray:
        """The adjoint of that, (B, H, W)."""

    def penalty(self, active: Active, x: Any) -> Sums:
        """||M . W x||_1 (active,) of any image x (B, H, W)."""


class RecordingWorkspace(DualWorkspace, Protocol):
    """A workspace of the schedule "unrolled", all images active in every call, that remembers its steps."""

    def gradients(self, to_image: FloatArray) -> tuple[FloatArray, Sums, Sums, Sums]:
        """Of a number with respect to y (B, H, W), lambda (B,), and gain and bias of the masks (B, C), from its
        gradient with respect to the last accepted x(u), (B, H, W). Can be asked again; nothing else can afterwards.
        """


class Engine(Protocol):
    """One model, its weights on one device. Threads may share it."""

    def workspace(self, batch: int, height: int, width: int) -> DualWorkspace:
        """Arrays for a batch of one shape."""

    def reconstruction_workspace(self, batch: int, height: int, width: int) -> ReconstructionWorkspace:
        """Arrays for a batch of one shape. Raises BackendError where the device cannot reconstruct."""

    def recording_workspace(self, batch: int, height: int, width: int, outer: int, inner: int) -> RecordingWorkspace:
        """Arrays for a batch of one shape and so many steps, of a SAFI model. Raises BackendError where the device
        cannot.
        """

    def keep(self, workspace: Any) -> None:
        """A workspace of `workspace` or `reconstruction_workspace` that is no longer used, for the next call of its
        shape; what was launched there by this thread is done.
        """

    def release(self) -> bool:
        """Drop what is kept; whether there was anything."""

    def batch_bytes(self) -> int:
        """Work space of images that are solved at once, where the caller sets no limit."""

    def bytes_per_pixel(self) -> int:
        """Memory of a workspace per pixel of an image."""

    def workspace_bytes(self, batch: int, height: int, width: int) -> int:
        """Memory of a workspace of this size once it has a mask."""


class Device(Protocol):
    """Where arrays lie that are not NumPy's; bindings/device.py says what the kernels ask of it besides."""

    @property
    def number(self) -> int | None:
        """Of the GPU whose arrays the workspaces take and give; None where it has no number."""

    def release_memory(self) -> None:
        """Give the memory of arrays that are gone back to the system."""


class Backend(Protocol):
    """A device that can run the kernels."""

    @property
    def name(self) -> str:
        """One word for messages and results."""

    @property
    def device(self) -> Device | None:
        """Where its arrays lie; None for host memory."""

    def prepare(self, model: Model) -> Engine:
        """Bring the weights into the layout of the kernels."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """An array of the device as NumPy array: a copy, or the array itself where it is one."""

    def fetch(self, array: Any) -> Callable[[], NDArray[Any]]:
        """`to_host` in two parts: the copy begins here, beside what is launched later, and ends in the function."""

    def send(self, values: NDArray[Any]) -> Callable[[], Any]:
        """float32 images on their way to the device, where the function gives them."""

    def on_threads(self, count: int | None) -> AbstractContextManager[int | None]:
        """A context in which the calling thread launches on so many threads of the host; None for the usual number.

        It gives the number, or None where kernels need no threads of the host. Raises InputError for a number that
        cannot be had.
        """


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
        from .bindings.threads import check_environment, let_threads_sleep, threads_here

        let_threads_sleep()
        check_environment()
        import numba

        threads = threads_here()
    except BackendError as error:
        return BackendReport("cpu", False, str(error))
    except ImportError as error:
        return BackendReport("cpu", False, f"Numba cannot be imported ({error}); run: pip install numba")
    return BackendReport("cpu", True, f"Numba {numba.__version__} on {threads} threads.")


def _describe_cuda() -> BackendReport:
    from .bindings.gpu import examine

    return BackendReport("cuda", *examine())


@cache
def _known_cuda(process: int) -> BackendReport:
    """`_describe_cuda`, once per process: CUDA does not survive a fork."""
    return _describe_cuda()


def cuda_report() -> BackendReport:
    """Whether the CUDA backend can run here, looked up once."""
    return _known_cuda(os.getpid())


def gpu_count() -> int:
    """How many GPUs CuPy sees; 0 where the CUDA backend cannot run."""
    if not (_driver_is_here() and cuda_report().available):
        return 0
    from .bindings.device import device_count

    return device_count()


def gpu_of(backend: Backend) -> int | None:
    """The number of the GPU whose arrays the backend takes and gives; None where those are NumPy arrays."""
    return None if backend.device is None else backend.device.number


def select(name: str | Backend, precision: str = "float32") -> Backend:
    """The backend by name: "cpu", "cuda" on CuPy's current GPU, or "auto": CUDA where a GPU can run the kernels, else
    the CPU.

    A Backend that is there already, such as one on another device, is returned as it is; it has its own precision.
    precision: one of PRECISIONS; the CPU has float32 alone. Raises InputError for an unknown name or precision and
    BackendError for a backend that cannot run here.
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
    from .bindings.gpu import driver_version

    return driver_version() is not None


def _cuda(precision: str) -> Backend:
    report = cuda_report()
    if not report.available:
        raise BackendError(f"backend='cuda' cannot run: {report.sentence}; or use backend='cpu'")
    from .bindings.cuda import CudaBackend
    from .bindings.device import CupyDevice

    return CudaBackend(CupyDevice(), precision=precision)


def _cpu(name: str) -> Backend:
    report = _describe_cpu()
    if not report.available:
        raise BackendError(f"backend={name!r} cannot run: {report.sentence}")
    from .bindings.cpu import CpuBackend

    return CpuBackend()
