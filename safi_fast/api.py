"""denoise() and Solver: validate, pick the backend once, solve, give back the caller's kind of array."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import color as colors
from . import inverse, memory
from .arrays import ArrayKind, as_array, lies_on_gpu, positive, positive_per_image
from .backend import Backend, cuda_report, gpu_of, select
from .errors import BackendError, InputError, shown
from .model import Model
from .models import DEFAULT_MODEL, load_model
from .solver import outer
from .solver.faults import Fault
from .solver.lipschitz import check_squared_norm, squared_norm
from .solver.result import CONVERGED, OuterRecord, OuterState, Solution, joined_history, per_image
from .solver.schedules import Schedule, count, schedule_for
from .stream import stream
from .tensors import plain
from .tiling import Grid
from .values import UNIT_BOX, DataRange, DefaultBox, Range, check_inside, cut_off, range_of, stated_range

__all__ = ["Solver", "denoise", "estimate_memory", "reconstruct", "tune_strength"]

Callback = Callable[[OuterState], None]
_Part = tuple[outer.Account, Any, Any]  # what is left of a solved chunk: account, images, masks or None


def denoise(
    image: Any,
    sigma: Any,
    *,
    model: Model | str | PathLike[str] | None = None,
    data_range: DataRange | None = None,
    channel_axis: int | None = None,
    color: colors.Mode | None = None,
    schedule: str | Schedule | None = None,
    box: tuple[float, float] | None = UNIT_BOX,
    strength: Any = None,
    lipschitz: float | None = None,
    max_outer: int | None = None,
    max_inner: int | None = None,
    tol: float | None = None,
    max_memory: float | None = None,
    backend: str = "auto",
    callback: Callback | None = None,
    return_solution: bool = False,
) -> Any:
    """Remove white Gaussian noise with a learned, structure-adaptive regulariser (SAFI, arXiv 2407.06608).

    image: (H, W), (B, H, W) or (B, 1, H, W), or with `channel_axis` (..., channels, ...) of one image or a batch; NumPy array, torch
        tensor, CuPy array, other array on a GPU (`__cuda_array_interface__`) or array-like; integers or floating point, finite, at
        least as large as the filters (13 pixels for the shipped models).
    sigma: standard deviation of the noise, in the units of the image; a number, or one per image (B,).
    model: a Model, the name of a shipped one (`list_models`) or a path to a weights file; None: "safi-gray".
    data_range: the value of white, or (low, high), the values of black and white, as for CT numbers or images on [-1, 1]; by default 255
        for uint8, 65535 for uint16, with a warning where the values use fewer bits, 1.0 for floating point.
    channel_axis: axis of colour channels; None for grey.
    color: "luma-chroma": three channels, taken for red, green and blue, are denoised as one plane of luma and two of chroma: over 1 dB
        better for photographs, over 1 dB worse for three channels that have little to do with each other (stains, spectra);
        "separate": each channel for itself; None: the first for three channels. Steps, gaps and masks are those of the planes.
    schedule: "unrolled" (fixed counts, as trained), "converged" (the published test procedure) or "gap" (to a relative duality
        gap of `tol`), or a value of `safi_fast.Unrolled`, `Converged` or `Gap` with constants of its own; None: what the model was trained for.
    box: bounds of the solution, black being 0 and white 1; None for none. Where it is left out, an image is refused of which (0.0, 1.0)
        would cut off more than the noise explains; where it is passed, that is cut off. Luma and chroma have none; the colours are
        clipped in the end.
    strength: lambda in the units of the image, a number or one per image, instead of the model's.
    lipschitz: ||W||^2 instead of the model's, or of the value computed at the size of the image; less than that is refused.
    max_outer, max_inner, tol: limits of the schedule (unrolled 5 x 12, converged 10 x 100 to 1e-5, gap 30 x 1000 to 1e-4). `tol` is
        the relative gap and the relative change between outer steps for "gap", the last tolerance for "converged".
    max_memory: bytes that this call may add to a solver that is ready (`estimate_memory`). Batches are solved in parts that fit; an
        image that does not is solved in overlapping tiles, by schedule "unrolled" alone, without a certificate: gap and residual of its
        Solution are NaN. None: images are never cut.
    backend: "cpu", "cuda" (on the GPU of the image, else the current one), or "auto": CUDA where a GPU can run it, else the CPU.
    callback: called with an OuterState after every outer step; may raise StopIteration. A large batch, which is otherwise solved in
        parts that fit into 1 GB, is then solved as one.
    return_solution: return a Solution (image, status, gap, ...) instead of the image.

    Returns the image in the caller's library, device, shape and range (a CuPy array for other arrays on a GPU); float64 for float64 input, else float32.
    Raises InputError for a wrong argument, ModelError for an unusable model, BackendError where the backend cannot run, SolverError
    where values stop being finite in mid-run.
    """
    solver = _solver(_resolve(model), backend, _gpu_to_use(image, backend), os.getpid())
    return solver.denoise(
        image, sigma, data_range=data_range, channel_axis=channel_axis, color=color, schedule=schedule, box=box, strength=strength,
        lipschitz=lipschitz, max_outer=max_outer, max_inner=max_inner, tol=tol, max_memory=max_memory, callback=callback,
        return_solution=return_solution,
    )  # fmt: skip


def estimate_memory(
    shape: tuple[int, ...],
    *,
    model: Model | str | PathLike[str] | None = None,
    channel_axis: int | None = None,
    dtype: Any = np.float32,
    max_memory: float | None = None,
    backend: str = "auto",
) -> int:
    """Bytes that `denoise` of an image of `shape` and `dtype` takes at its peak, in addition to a solver that is ready.

    shape, channel_axis, model, max_memory, backend: as for `denoise`. The image itself is not counted, its result is. On the CPU the
    estimate lies within 15 % of what is measured, on a GPU it is rough. What is there before, Numba and the weights, is 140 to 220 MB.
    Memory that an earlier call has freed and the allocator has kept is used again, so that a process may grow by less.
    Raises InputError, ModelError, BackendError.
    """
    solver = _solver(_resolve(model), backend, None, os.getpid())
    return solver.estimate_memory(shape, channel_axis=channel_axis, dtype=dtype, max_memory=max_memory)


def reconstruct(
    measurement: Any,
    operator: Any,
    *,
    strength: Any,
    model: Model | str | PathLike[str] | None = None,
    noise_level: float | None = None,
    data_range: DataRange = 1.0,
    box: tuple[float, float] | None = UNIT_BOX,
    x0: Any = None,
    max_outer: int = inverse.MAX_OUTER,
    max_iter: int = inverse.MAX_ITER,
    tol: float = inverse.TOLERANCE,
    mask_of: inverse.MaskOf = "magnitude",
    backend: str = "auto",
    callback: Callback | None = None,
    return_masks: bool = False,
) -> Solution:
    """Reconstruct an image from measurements y = H x + noise with a learned, structure-adaptive regulariser (SAFI).

    Each outer step solves min over the box of 1/2 ||H x - y||^2 + strength ||M . W x||_1 to a certified accuracy, then takes the next
    mask M from its solution.

    measurement: y, (*operator.shape_out) or (B, *operator.shape_out), finite; for FourierMRI and SenseMRI zero where not sampled.
    operator: H, one of `safi_fast.operators` (adapters make one of other libraries'); checked before the first solve.
    strength: lambda > 0 for images on [0, 1], a number or one per image; `tune_strength` finds it.
    noise_level: standard deviation, in the units of the image, of the noise that a noise-conditioned mask generator should expect; by
        default the middle of the model's levels.
    data_range: the value of white, or for real images (low, high), the values of black and white: the solver sees
        (y - H(low)) / (high - low) and images from 0 to 1, the result is in the units of the caller again.
    box: bounds of the solution, black being 0 and white 1; None for none, as complex images need it. Where it is left out, measurements
        are refused that images in (0.0, 1.0) do not fit: negative ones, too large ones, raw transmission instead of line integrals.
    x0: where to start, (H, W) or (B, H, W); by default one gradient step from zero.
    max_outer, max_iter: outer steps (masks), and inner steps of each. tol: relative gap (without a box: over a ball, see Solution) at
        which an image is converged, once it changes by no more than three times that from one mask to the next.
    mask_of: for complex images, one mask of the magnitude, or one for each of real and imaginary part.
    callback: called with an OuterState after every outer step; may raise StopIteration.

    Returns a Solution: image (H, W) or (B, H, W), status, relative_gap, ... Raises InputError, ModelError, BackendError, and
    OperatorError for an operator whose adjoint or norm is wrong or that turns NaN or infinite in mid-run (SolverError where the solver
    does); `error.image` then is what the last complete outer step gave, or None.
    """
    solver = _solver(_resolve(model), _for_reconstruct(backend), None, os.getpid())
    return solver.reconstruct(
        measurement, operator, strength=strength, noise_level=noise_level, data_range=data_range, box=box, x0=x0,
        max_outer=max_outer, max_iter=max_iter, tol=tol, mask_of=mask_of, callback=callback, return_masks=return_masks,
    )  # fmt: skip


def tune_strength(
    measurement: Any,
    operator: Any,
    candidates: Any,
    *,
    reference: Any = None,
    noise_std: float | None = None,
    holdout: float | None = None,
    seed: int = 0,
    model: Model | str | PathLike[str] | None = None,
    backend: str = "auto",
    **options: Any,
) -> inverse.Tuning:
    """The strength among `candidates` that fits best: by a known image, by the noise, or by measurements that are left out.

    reference: the true image (H, W) of this or of a similar measurement: the reconstruction nearest to it.
    noise_std: standard deviation of the noise of each real number measured: the residual that fits it (discrepancy principle).
    holdout: share of the measurements, between 0 and 1, such as 0.1, that is left out of the reconstructions: the one that predicts
        them best, in mean squared error. Nothing need be known, but the noise of what is left out must be independent of the rest, and
        from a few hundred numbers the score is uncertain. Left out are whole views of CT, samples of FourierMRI and SenseMRI in all coils
        at once (outside of the fully sampled square in the middle, up to a quarter of the smaller side; for real images with the sample of
        the opposite frequency), known pixels of Mask, and single numbers of other operators. seed: of the draw.
    options: as for `reconstruct`; with `holdout`, x0 should not come from what is left out. All candidates are solved as one batch.
    Returns a Tuning. Raises as `reconstruct`.
    """
    solver = _solver(_resolve(model), _for_reconstruct(backend), None, os.getpid())
    return solver.tune_strength(
        measurement, operator, candidates, reference=reference, noise_std=noise_std, holdout=holdout, seed=seed, **options
    )  # fmt: skip


class Solver:
    """One model made ready on one backend, for many images. Holds no state of a solve; threads may share it."""

    def __init__(
        self,
        model: Model | str | PathLike[str] | None = None,
        *,
        backend: str | Backend = "auto",
        precision: str = "float32",
        threads: int | None = None,
    ):
        """model, backend: as in `denoise`, except that the GPU is CuPy's current one; or a Backend (safi_fast/backend.py) of your own.

        precision: of the products in the heavy convolutions on a GPU: "float32", or on tensor cores "tf32" or "bf16x3".
        threads: of the CPU kernels and of the operators' Fourier transforms; None: NUMBA_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that this process may use
            (docs/large-images.md). No effect on a GPU.
        Raises ModelError, InputError, BackendError.
        """
        self.model = _resolve(model)
        self.backend = select(backend, precision)
        self._engine = self.backend.prepare(self.model)
        self._asked_for = backend if isinstance(backend, str) else backend.name
        self._gpu = gpu_of(self.backend)
        self._to_host: Callable[[Any], Any] | None = getattr(self.backend, "to_host", None)
        self._threads = threads
        with self._on_threads():
            pass  # refuses a wrong number now

    def denoise(
        self,
        image: Any,
        sigma: Any,
        *,
        data_range: DataRange | None = None,
        channel_axis: int | None = None,
        color: colors.Mode | None = None,
        schedule: str | Schedule | None = None,
        box: tuple[float, float] | None = UNIT_BOX,
        strength: Any = None,
        lipschitz: float | None = None,
        max_outer: int | None = None,
        max_inner: int | None = None,
        tol: float | None = None,
        max_memory: float | None = None,
        callback: Callback | None = None,
        return_solution: bool = False,
        return_masks: bool = False,
    ) -> Any:
        """See `safi_fast.denoise`. return_masks: put the last masks into the Solution, (C, H, W) or (B, C, H, W), always NumPy."""
        self._require_reachable(image)
        array, kind = as_array("image", image)
        self._require_same_gpu(kind)
        with kind.place(), self._on_threads():
            images = _Images.of(array, kind, data_range, channel_axis, self.model.smallest_side)
            if images.range.warning and not isinstance(data_range, Range):
                warnings.warn(f"image: {images.range.warning}", stacklevel=3)
            plan = schedule_for(self.model, schedule, max_outer, max_inner, tol)
            limits = (-np.inf, np.inf) if box is None else _box(box)
            sigmas = images.per_plane("sigma", sigma)
            if isinstance(box, DefaultBox):
                xp, channels = kind.module, images.channels or 1
                check_inside("image", xp, images.stack, images.range, sigma=sigmas, box=box, channels=channels)
                cut = (
                    None
                    if isinstance(data_range, Range)
                    else cut_off(xp, images.stack, images.range, float(sigmas.max()), box)
                )
                if cut:
                    warnings.warn(f"image: {cut}", stacklevel=3)
            settings = _Settings(self.model, images, sigmas, strength, plan.name)
            if colors.mixes(color, images.channels):
                images, limits = images.in_luma_chroma(limits), (-np.inf, np.inf)
            whole = callback is not None
            if whole and len(images.stack) > memory.MAX_BATCH:
                raise InputError(
                    f"image holds {len(images.stack)} images; with a callback, which sees all at once, at most {memory.MAX_BATCH} "
                    f"can be solved"
                )
            division = self._divide(images.extent, max_memory, whole)
            if division.grid is not None:
                _check_tiles(max_memory, plan.name, callback, return_masks)
            window = division.grid.window if division.grid else images.stack.shape[1:]
            norm = self._squared_norm(lipschitz, plan.name, *window)

            def solve(workspace: Any, y: Any, chunk: slice) -> outer.Account:
                strength_here = settings.strength[chunk].astype(np.float32)
                workspace.load(y, strength_here, np.full(len(y), plan.step / norm, np.float32), limits)
                problem = outer.Problem(
                    workspace,
                    strength_here.astype(np.float64),
                    settings.gain[chunk],
                    settings.bias[chunk],
                    self.model.family,
                    norm,
                    y.shape[1] * y.shape[2],
                )
                try:
                    return outer.solve(problem, plan, self._in_terms_of_caller(callback, images))
                except Fault as fault:  # planes of colour images are numbered like images
                    raise fault.error("", chunk.start, images.single) from None

            def solve_whole(chunk: slice) -> _Part:
                y = images.stack[chunk]
                workspace = self._engine.workspace(*y.shape)
                account = solve(workspace, y, chunk)
                image = self._deliver(workspace.image(), images.kind)
                return account, image, workspace.masks() if return_masks else None

            def solve_in_tiles(chunk: slice, grid: Grid) -> _Part:
                y = images.stack[chunk]
                image, workspace = images.kind.module.empty_like(y), self._engine.workspace(1, *grid.window)
                for tile in grid:
                    account = solve(workspace, images.kind.module.ascontiguousarray(y[(everyone, *tile.window)]), chunk)
                    solved = self._deliver(workspace.image(), images.kind)
                    image[(everyone, *tile.core)] = solved[(everyone, *tile.inside)]
                return account.uncertified(), image, None

            chunks, grid, everyone = _chunks(len(images.stack), division.batch), division.grid, slice(None)
            parts = [solve_whole(chunk) if grid is None else solve_in_tiles(chunk, grid) for chunk in chunks]
            solution = _solution(parts, images)
        return solution if return_solution else solution.image

    def estimate_memory(
        self,
        shape: tuple[int, ...],
        *,
        channel_axis: int | None = None,
        dtype: Any = np.float32,
        max_memory: float | None = None,
    ) -> int:
        """See `safi_fast.estimate_memory`."""
        try:
            blank = np.broadcast_to(np.zeros((), dtype), shape)
        except (TypeError, ValueError, SyntaxError):  # SyntaxError: NumPy reads some texts as code
            raise InputError(f"shape is {shown(shape)}, dtype is {shown(dtype)}; expected those of an image") from None
        if blank.size == 0:
            raise InputError(f"shape is {shown(shape)}; expected one without a zero")
        extent = memory.Images(_result_type(blank.dtype).itemsize, *_stack(np, blank, channel_axis).shape)
        with self._on_threads():
            return memory.peak_bytes(self._engine, extent, self._divide(extent, max_memory, False))

    def reconstruct(
        self,
        measurement: Any,
        operator: Any,
        *,
        strength: Any,
        noise_level: float | None = None,
        data_range: DataRange = 1.0,
        box: tuple[float, float] | None = UNIT_BOX,
        x0: Any = None,
        max_outer: int = inverse.MAX_OUTER,
        max_iter: int = inverse.MAX_ITER,
        tol: float = inverse.TOLERANCE,
        mask_of: inverse.MaskOf = "magnitude",
        callback: Callback | None = None,
        return_masks: bool = False,
    ) -> Solution:
        """See `safi_fast.reconstruct`."""
        if self.backend.name != "cpu":
            raise BackendError(
                f"reconstruct runs on the CPU in this version, not on backend={self.backend.name!r}; pass backend='cpu'"
            )
        limits = count("max_outer", max_outer), count("max_iter", max_iter), tol
        with self._on_threads():
            task = inverse.make_task(
                self.model, measurement, operator, strength, noise_level, data_range,
                None if box is None else _box(box), x0, *limits,
            )  # fmt: skip
            report, image, masks = inverse.run(self._engine, self.model, task, mask_of=mask_of, callback=callback)
        return inverse.solution(report, image, masks if return_masks else None, task.single)

    def reconstruct_batch(
        self, measurements: Sequence[Any], operators: Any, *, strength: Any, **options: Any
    ) -> Solution:
        """`reconstruct` of many slices at once: measurements (B, *shape_out) or a list, one operator for all or one each.

        Each slice has its own end and gets the result that it would get alone. See `safi_fast.reconstruct`.
        """
        return self.reconstruct(list(measurements), operators, strength=strength, **options)

    def tune_strength(
        self,
        measurement: Any,
        operator: Any,
        candidates: Any,
        *,
        reference: Any = None,
        noise_std: float | None = None,
        holdout: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> inverse.Tuning:
        """The strength among `candidates` that fits best; all are solved as one batch. See `safi_fast.tune_strength`."""
        strengths = positive_per_image("candidates", candidates, None)
        if [reference is None, noise_std is None, holdout is None].count(False) != 1:
            raise InputError(
                "pass one of reference=... (a known image), noise_std=... (of a measurement, per real number) and holdout=... (a share of "
                "the measurements)"
            )
        if noise_std is not None:
            noise_std = positive("noise_std", noise_std)
        only = inverse.one_operator(operator)
        y = inverse.check_single(only, measurement)
        if reference is not None:
            reference = inverse.check_image("reference", reference, only, [only.shape_in])
        fitted, lost = (only, None) if holdout is None else inverse.hold_out(only, holdout, seed)
        found = self.reconstruct(np.stack([y] * len(strengths)), fitted, strength=strengths, **options)
        black = stated_range(options.get("data_range", 1.0)).low
        scores, by = inverse.score(
            found.image, only, y, reference=reference, noise_std=noise_std, lost=lost, black=black
        )
        return inverse.Tuning(float(strengths[np.argmin(scores)]), strengths, scores, by)

    def denoise_batch(
        self, images: Iterable[Any], sigma: Any, *, strength: Any = None, read_ahead: int = 2, **options: Any
    ) -> Iterator[Any]:
        """`denoise` for a stream of images of any shapes: an iterator over the results, in the order of the images.

        Images, each with its values of `sigma` and `strength`, are taken in one thread and solved in another, while the caller uses the
        result before: reading, solving and writing overlap, and a callback is called in the second thread. Both threads start with the
        first `next` and stop when the iterator is closed or dropped. At most read_ahead + 2 images and 3 results are alive at once. Every result is the one of
        `denoise`, bit for bit.

        sigma, strength: a number, or an iterable with one for each image. read_ahead: images that wait to be solved.
        options: as for `denoise`; return_solution=True gives Solutions.
        Raises InputError, naming the image, and whatever `images` raises, when the result is due.
        """
        per_image = {"sigma": sigma} if strength is None else {"sigma": sigma, "strength": strength}
        with self._on_threads() as threads:
            pass  # those of the thread that calls

        def solve(image: Any, **settings: Any) -> Any:
            with ArrayKind("cupy", self._gpu).place(), self._on_threads(threads):
                return self.denoise(image, **settings, **options)

        return stream(images, per_image, solve, count("read_ahead", read_ahead))

    def release_memory(self) -> None:
        """Give back the GPU memory that CuPy keeps for the next call: all its free blocks. Does nothing on the CPU."""
        device = getattr(self.backend, "device", None)
        if device is not None:
            device.release_memory()

    def _on_threads(self, count: int | None = None) -> AbstractContextManager[Any]:
        """In which kernels run on `count` threads, else on those of this solver."""
        enter = getattr(self.backend, "on_threads", None)
        return nullcontext() if enter is None else enter(count or self._threads)

    def _divide(self, extent: memory.Images, max_memory: float | None, whole: bool) -> memory.Division:
        if max_memory is None:
            return memory.divide(self._engine, extent, whole)
        return memory.divide_below(self._engine, self.model, extent, positive("max_memory", max_memory), whole)

    def _require_reachable(self, image: Any) -> None:
        if self._gpu is not None or not lies_on_gpu(image):
            return
        host = "image.cpu()" if hasattr(image, "cpu") else "it as NumPy array, with cupy.asnumpy(image)"
        if self._asked_for == "auto":
            raise BackendError(f"image lies on a GPU that cannot be used: {cuda_report().sentence}; or pass {host}")
        raise BackendError(
            f"image lies on a GPU, but backend={self._asked_for!r} computes in host memory; use backend='cuda', or pass {host}"
        )

    def _require_same_gpu(self, kind: ArrayKind) -> None:
        if kind.gpu not in (None, self._gpu):
            raise BackendError(
                f"image lies on GPU {kind.gpu}, but this solver computes on GPU {self._gpu}; "
                f"make one for it: with cupy.cuda.Device({kind.gpu}): solver = Solver(...)"
            )

    def _deliver(self, values: Any, kind: ArrayKind) -> Any:
        """An array of the backend's, where the caller's arrays of this kind are."""
        return values if self._to_host is None or kind.gpu is not None else self._to_host(values)

    def _in_terms_of_caller(self, callback: Callback | None, images: _Images) -> Callback | None:
        """The callback, which sees colours, and arrays of the caller's library where they lie on a GPU, else NumPy arrays."""
        if callback is None or (self._to_host is None and images.color_limits is None):
            return callback
        kind = images.kind

        def image(state: OuterState) -> Any:
            return kind.beside(images.in_colors(self._deliver(state.image(), kind)))

        return lambda state: callback(replace(state, image=lambda: image(state)))

    def _squared_norm(self, lipschitz: float | None, schedule: str, height: int, width: int) -> float:
        if lipschitz is not None:
            return check_squared_norm(positive("lipschitz", lipschitz), self._engine, height, width)
        if schedule == "unrolled" and self.model.lipschitz is not None:
            return self.model.lipschitz
        return squared_norm(self._engine, height, width)


@lru_cache(maxsize=4)
def _solver(model: Model, backend: str, gpu: int | None, process: int) -> Solver:
    """One Solver per model and GPU; a forked child cannot use the CUDA of its parent and gets its own."""
    with ArrayKind("cupy", gpu).place():
        return Solver(model, backend=backend)


def _for_reconstruct(backend: str) -> str:
    """The backend by name: "auto" is the CPU, where alone the primal-dual iteration runs."""
    return "cpu" if backend == "auto" else backend


def _gpu_to_use(image: Any, backend: str) -> int | None:
    """The GPU that the image lies on, if the backend may go there; None where that is left to the backend."""
    if backend == "cpu" or not lies_on_gpu(image) or not cuda_report().available:
        return None
    return as_array("image", image)[1].gpu


def _resolve(model: Model | str | PathLike[str] | None) -> Model:
    if isinstance(model, Model):
        return model
    return load_model(DEFAULT_MODEL if model is None else model)


@dataclass(frozen=True)
class _Images:
    """The caller's images as one stack on [0, 1], and how to give results back."""

    stack: Any  # float32 (N, H, W) of kind.module
    kind: ArrayKind
    dtype: np.dtype[Any]
    range: Range
    shape: tuple[int, ...]
    channel_axis: int | None
    # where the stack is luma and chroma: what the colours are clipped to
    color_limits: tuple[float, float] | None = None

    @classmethod
    def of(
        cls, array: Any, kind: ArrayKind, data_range: DataRange | None, channel_axis: int | None, smallest: int
    ) -> _Images:
        xp = kind.module
        if array.size == 0:
            raise InputError(f"image is empty: its shape is {array.shape}")
        stack = _stack(xp, array, channel_axis)
        if min(stack.shape[1:]) < smallest:
            colour = channel_axis is None and array.ndim == 3 and array.shape[-1] in (2, 3, 4)
            raise InputError(
                f"image is {stack.shape[1]} x {stack.shape[2]} pixels; the filters of this model need {smallest} x {smallest} or more"
                + (f"; if {array.shape} is a colour image, pass channel_axis=-1" if colour else "")
            )
        if array.dtype.kind == "f" and not xp.isfinite(array).all():
            raise InputError(_not_finite(xp, stack, 1 if channel_axis is None else array.shape[channel_axis]))
        meaning = range_of("image", array, data_range)
        dtype = _result_type(array.dtype)
        wide = np.result_type(array.dtype, np.float32)  # float16 neither holds data_range nor the quotient
        with np.errstate(over="ignore"):
            stack = meaning.to_unit(stack.astype(wide, copy=False)).astype(np.float32)
        if not xp.isfinite(stack).all():
            raise InputError(
                f"image has values up to {float(abs(array).max()):.3g}, which float32 cannot hold; rescale it"
            )
        return cls(stack, kind, dtype, meaning, array.shape, channel_axis)

    @property
    def extent(self) -> memory.Images:
        """Count and size of the images of the stack."""
        return memory.Images(self.dtype.itemsize, *self.stack.shape)

    @property
    def single(self) -> bool:
        """Whether the caller gave one grey image, not a stack."""
        return len(self.shape) == 2

    @property
    def channels(self) -> int | None:
        """Of a colour image; None for grey."""
        return None if self.channel_axis is None else self.shape[self.channel_axis]

    def per_plane(self, name: str, value: Any) -> NDArray[np.float64]:
        """A positive number, or one per image, as one for each plane of the stack on [0, 1]. Raises InputError."""
        channels = self.channels or 1
        return positive_per_image(name, value, len(self.stack) // channels).repeat(channels) / self.range.scale

    def in_luma_chroma(self, limits: tuple[float, float]) -> _Images:
        """These as luma and chroma; `restore` clips the colours to `limits`."""
        return replace(self, stack=colors.to_luma_chroma(self.kind.module, self.stack), color_limits=limits)

    def in_colors(self, stack: Any) -> Any:
        """Results of luma and chroma as red, green and blue, others as they are."""
        if self.color_limits is None:
            return stack
        xp = self.kind.module
        rgb = colors.to_rgb(xp, stack)
        return xp.clip(rgb, *self.color_limits, out=rgb)

    def restore(self, stack: Any) -> Any:
        """A stack of results (of kind.module) in the caller's shape, range and library."""
        stack = self.in_colors(stack)
        values = self.range.from_unit(stack.astype(self.dtype))
        if self.channel_axis is None:
            return self.kind.wrap(values.reshape(self.shape))
        axis = self.channel_axis % len(self.shape)
        front = [n for i, n in enumerate(self.shape) if i != axis]
        moved = values.reshape(*front[:-2], self.shape[axis], *front[-2:])
        xp = self.kind.module
        return self.kind.wrap(xp.ascontiguousarray(xp.moveaxis(moved, len(front) - 2, axis)))


def _not_finite(xp: Any, stack: Any, channels: int) -> str:
    """How many values of (N, H, W) are NaN or infinite, and in which image."""
    bad = (~xp.isfinite(stack)).sum(axis=(1, 2)).reshape(-1, channels).sum(axis=1).tolist()
    first = next(number for number, count in enumerate(bad) if count)
    images = sum(count > 0 for count in bad)
    which = "image" if len(bad) == 1 else f"image[{first}]{f' and {images - 1} more' if images > 1 else ''}"
    have = "has" if images == 1 else "have"
    return f"{which} {have} {sum(bad)} values that are NaN or infinite; expected finite ones"


def _result_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype.newbyteorder("=") == np.float64 else np.float32)


def _stack(xp: Any, array: Any, channel_axis: int | None) -> Any:
    """(N, H, W): images, or the channels of images."""
    if channel_axis is None:
        if array.ndim == 4 and array.shape[1] == 1:
            return array[:, 0]
        if array.ndim not in (2, 3):
            raise InputError(
                f"image has shape {array.shape}; expected (H, W), (B, H, W) or (B, 1, H, W), or channel_axis=... for colour"
            )
        return array if array.ndim == 3 else array[None]
    if array.ndim not in (3, 4):
        raise InputError(
            f"image has shape {array.shape}; with channel_axis={shown(channel_axis)} expected three or four dimensions"
        )
    if (
        isinstance(channel_axis, bool)
        or not isinstance(channel_axis, (int, np.integer))
        or not -array.ndim <= channel_axis < array.ndim
    ):
        raise InputError(f"channel_axis is {shown(channel_axis)}; expected an axis of an image of shape {array.shape}")
    moved = xp.moveaxis(array, channel_axis, -3)
    return moved.reshape(-1, *moved.shape[-2:])


class _Settings:
    """Strength and mask conditioning of every image of the stack."""

    def __init__(self, model: Model, images: _Images, sigma: NDArray[np.float64], strength: Any, schedule: str):
        levels = {value: model.at(value, strength_given=strength is not None) for value in dict.fromkeys(sigma)}
        conditioned = [levels[value] for value in sigma]
        self.gain = np.stack([level.gain for level in conditioned])
        self.bias = np.stack([level.bias for level in conditioned])
        if strength is None:
            own = "strength_unrolled" if schedule == "unrolled" else "strength_converged"
            self.strength = np.array([getattr(level, own) for level in conditioned])
        else:
            self.strength = images.per_plane("strength", strength)


def _box(box: Any) -> tuple[float, float]:
    if isinstance(box, DefaultBox):
        return box
    try:
        if isinstance(box, str):
            raise TypeError
        low, high = (float(plain(limit)) for limit in plain(box))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"box is {shown(box)}; expected two numbers (low, high) or None") from None
    if not low < high:
        raise InputError(f"box is {shown(box)}; expected low < high")
    return low, high


def _check_tiles(max_memory: float | None, schedule: str, callback: Callback | None, return_masks: bool) -> None:
    """Refuse what tiles, which are problems of their own, cannot give."""
    beyond = f"an image does not fit into max_memory={max_memory:.4g} bytes and would be solved in tiles"
    if schedule != "unrolled":
        raise InputError(
            f"schedule is {schedule!r}, but {beyond}, which have no common stopping rule or certificate; "
            f"use schedule='unrolled' or more memory (estimate_memory says how much)"
        )
    for name, given in (("callback", callback is not None), ("return_masks", return_masks)):
        if given:
            raise InputError(f"{name} was passed, but {beyond}; leave it out or allow more memory")


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _solution(parts: list[_Part], images: _Images) -> Solution:
    def joined(read: Callable[[outer.Account], NDArray[Any]]) -> Any:
        return per_image(np.concatenate([read(account) for account, _, _ in parts]), images.single)

    status = joined(lambda account: account.status)
    masks = [mask for _, _, mask in parts if mask is not None]
    return Solution(
        image=images.restore(images.kind.module.concatenate([image for _, image, _ in parts])),
        status=status,
        converged=status == CONVERGED,
        outer_iterations=joined(lambda account: account.outer_iterations),
        inner_iterations=joined(lambda account: account.inner_iterations),
        gap=joined(lambda account: account.certificate.gap),
        relative_gap=joined(lambda account: account.certificate.relative_gap),
        outer_residual=joined(lambda account: account.outer_residual),
        history=_history(parts, images.single),
        masks=per_image(np.concatenate(masks), images.single) if masks else None,
    )


def _history(parts: list[_Part], single: bool) -> tuple[Any, ...]:
    """The records of all parts, image after image."""
    records = joined_history([account.history for account, _, _ in parts])
    return tuple(
        OuterRecord(**{f.name: per_image(getattr(record, f.name), single) for f in fields(OuterRecord)})
        for record in records
    )
