"""The public functions and Solver: signatures and documentation over `denoising`, `reconstructing` and `tuning`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, lru_cache
from operator import index
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import denoising, memory, reconstructing, tuning
from .arrays import ArrayKind, as_array, finish_launches, lies_on_gpu, to_and_fro
from .backend import Backend, Engine, cuda_report, gpu_count, gpu_of, select
from .differentiating import Vjp, denoise_vjp
from .errors import BackendError, InputError, shown
from .images import extent_of, is_color
from .model import Model
from .models import DEFAULT_COLOR_MODEL, list_models, load_model, resolve
from .noise_level import ESTIMATE
from .options import filled, shows
from .reconstruction_gradients import ReconstructionVjp, reconstruct_vjp
from .solver.result import Solution
from .solver.schedules import count
from .stream import stream
from .tuning import Tuning
from .values import stated_range
from .volumes import AXES, VolumeSolution, check_volume, passes_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Solver", "denoise", "denoise_volume", "estimate_memory", "reconstruct", "tune_strength"]


@shows(denoising.Options, denoising.DEFAULTS)
def denoise(
    image: Any,
    sigma: Any,
    *,
    model: Model | str | PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "float32",
    return_solution: bool = False,
    **options: Unpack[denoising.Options],
) -> Any:
    """Remove white Gaussian noise with a learned, structure-adaptive regulariser (SAFI, arXiv 2407.06608).

    Parameters
    ----------
    image : array, (H, W), (B, H, W) or (B, 1, H, W)
        Or with `channel_axis` (..., channels, ...) of one image or a batch. A NumPy array, torch tensor, CuPy array,
        other array on a GPU (`__cuda_array_interface__`) or array-like; integers or floating point, finite, at least
        as large as the filters (13 pixels for the shipped models).
    sigma : float, (B,), (H, W), (B, H, W) or "estimate"
        Standard deviation of the noise, in the units of the image; one number, one per image, or a map of them where
        the noise varies (on the CPU; docs/denoising.md). "estimate": measured in each image of 32 x 32 pixels or more;
        the Solution says what was found. With noise="poisson", one number, 0 or more: that of the Gaussian part.
    model : Model, str or path
        A Model, the name of a shipped one (`list_models`) or a weights file. None: "safi-color" for three channels
        where `color` is None, else "safi-gray".
    backend : {"auto", "cpu", "cuda"}
        "cuda": on the GPU of the image, else the current one. "auto": CUDA where a GPU can run it, else the CPU.
    precision : {"float32", "tf32", "bf16x3"}
        Of the products in the heavy convolutions on a GPU; the last two run on tensor cores (docs/gpu.md).
    return_solution : bool
        Return a Solution (image, status, gap, ...) instead of the image.
    data_range : float or (low, high)
        The value of white, or of black and white, as for CT numbers or images on [-1, 1]. By default 255 for uint8,
        65535 for uint16, with a warning where the values use fewer bits, 1.0 for floating point.
    channel_axis : int
        Axis of colour channels; None for grey.
    color : {"luma-chroma", "separate"}
        "luma-chroma": three channels, taken for red, green and blue, are denoised as one plane of luma and two of
        chroma: over 1 dB better for photographs, over 1 dB worse for channels that have little to do with each other
        (stains, spectra). "separate": each channel for itself. None: three channels together by a colour model, or,
        where a grey one was asked for, the first. Steps, gaps and masks are those of the planes.
    schedule : str or Schedule
        "unrolled" (fixed counts, as trained), "converged" (the published test procedure) or "gap" (to a relative
        duality gap of `tol`), or a value of `safi_fast.Unrolled`, `Converged` or `Gap` with constants of its own.
        None: what the model was trained for.
    box : (low, high)
        Bounds of the solution, black being 0 and white 1; None for none. Where it is left out, an image is refused of
        which (0.0, 1.0) would cut off more than the noise explains; where it is passed, that is cut off. Luma and
        chroma have none; the colours are clipped in the end.
    strength : float or (B,)
        lambda in the units of the image, instead of the model's.
    lipschitz : float
        ||W||^2 instead of the model's, or of the value computed at the size of the image; less than that is refused.
    max_outer, max_inner, tol : int, int, float
        Limits of the schedule (unrolled 5 x 12, converged 10 x 100 to 1e-5, gap 30 x 1000 to 1e-4). `tol` is the
        relative gap and the relative change between outer steps for "gap", the last tolerance for "converged".
    max_memory : float
        Bytes that this call may add to a solver that is ready (`estimate_memory`). Batches are solved in parts that
        fit. An image that does not is solved in overlapping tiles, by schedule "unrolled" alone, without a
        certificate: gap and residual of its Solution are NaN. None: images are never cut.
    callback : callable
        Called with an OuterState after every outer step; may raise StopIteration. A large batch, which is otherwise
        solved in parts of about 1 GB (of half of a GPU's free memory, 8 GiB at most), is then solved as one. Where
        memory of a GPU that is kept for later calls has to be given back first, the steps begin anew, from outer 0.
    return_masks : bool
        Put the last masks into the Solution, (C, H, W) or (B, C, H, W), always NumPy.
    noise : {"gaussian", "poisson"}
        "poisson": each pixel is gain * count + offset + Gaussian noise of `sigma`, as from a camera or a detector of
        photons. It is solved after the generalised Anscombe transform, and transformed back without bias.
        `data_range` says only where `box` lies: without it the result is bounded below alone, by no counts. Gaps,
        strength and what a callback sees are those of the transformed image.
    gain, offset : float
        Of "poisson": units of the image per count (None: 1), and the value of no counts (None: 0).

    Returns
    -------
    array or Solution
        In the caller's library, device, shape and range (a CuPy array for other arrays on a GPU); float64 for float64
        input, else float32.

    Raises
    ------
    InputError
        For a wrong argument.
    ModelError
        For an unusable model.
    BackendError
        Where the backend cannot run; OutOfMemoryError where it has no memory for a single image.
    SolverError
        Where values stop being finite in mid-run.

    Examples
    --------
    >>> import numpy as np, safi_fast
    >>> noisy = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((32, 32))
    >>> clean = safi_fast.denoise(noisy, sigma=0.1, max_outer=1)
    >>> bool(clean.std() < noisy.std() / 2)
    True
    """
    solver = _solver(
        None if model is None else resolve(model), backend, precision, _gpu_to_use(image, backend), os.getpid()
    )
    return solver.denoise(image, sigma, return_solution=return_solution, **options)


@shows(denoising.Options, denoising.DEFAULTS)
def denoise_volume(
    volume: Any,
    sigma: Any,
    *,
    axes: Sequence[int] = AXES,
    weights: Any = None,
    model: Model | str | PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "float32",
    return_solution: bool = False,
    **options: Unpack[denoising.Options],
) -> Any:
    """Denoise a volume as slices along several axes and average the results (2.5-D).

    Parameters
    ----------
    volume : array, (D, H, W)
        Grey; as the image of `denoise`, of which every slice is one.
    sigma : float, (D, H, W), "estimate", or (D,) with axes=(0,)
        Standard deviation of the noise, as for `denoise`. "estimate" measures every slice of every pass.
    axes : sequence of int
        Along which the volume is cut into slices, one pass each. (0,) is `denoise` of the stack. Where voxels are much
        longer along an axis than along the others, slices along the others are stretched: leave these out.
    weights : sequence of float
        How much each pass counts, > 0; they are divided by their sum. None: all the same.
    model, backend, precision, **options
        As for `denoise`, without colour; strength is one number. A callback sees the passes one after the other.
    return_solution : bool
        Return a VolumeSolution (image, passes, axes, weights): the Solution of each pass, with values per slice. The
        mean of certified images is not certified.

    Returns
    -------
    array or VolumeSolution
        (D, H, W), in the caller's library, device and range; float64 for float64 input, else float32.

    Raises
    ------
    InputError, ModelError, BackendError, SolverError
        As `denoise`; InputError also for slices that are smaller than the filters, with the axes that do.

    Examples
    --------
    >>> import numpy as np, safi_fast
    >>> noisy = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((16, 16, 16))
    >>> clean = safi_fast.denoise_volume(noisy, sigma=0.1, model="safi-gray-fast", max_outer=1)
    >>> bool(clean.std() < noisy.std() / 2)
    True
    """
    solver = _solver(
        None if model is None else resolve(model), backend, precision, _gpu_to_use(volume, backend), os.getpid()
    )
    return solver.denoise_volume(volume, sigma, axes=axes, weights=weights, return_solution=return_solution, **options)


def estimate_memory(
    shape: tuple[int, ...],
    *,
    model: Model | str | PathLike[str] | None = None,
    channel_axis: int | None = None,
    dtype: Any = np.float32,
    max_memory: float | None = None,
    operator: Any = None,
    backend: str = "auto",
    precision: str = "float32",
) -> int:
    """Bytes that `denoise`, or `reconstruct` with an operator, takes at its peak, beside a solver that is ready.

    On the CPU the estimate lies within 15 % of what is measured, on a GPU it is rough. What is there before, Numba
    and the weights, is 140 to 220 MB. Memory that an earlier call has freed and the allocator has kept is used again,
    so that a process may grow by less.

    Parameters
    ----------
    shape : tuple of int
        Of the image or batch, with an operator of the measurement or batch of them. It is not counted, the result is.
    dtype : dtype
        Of the image.
    operator : Operator or list of B
        That of `reconstruct`. It is not counted, but for what it makes at its first use; nor is what a step of an
        operator of your own allocates inside. Counted is a real image with a box, and no masks in the Solution.
    model, channel_axis, max_memory, backend, precision
        As for `denoise`; `channel_axis` and `dtype` do not go with an operator.

    Returns
    -------
    int

    Raises
    ------
    InputError, ModelError, BackendError

    Examples
    --------
    >>> import safi_fast
    >>> safi_fast.estimate_memory((512, 512)) > 100e6
    True
    """
    solver = _solver(None if model is None else resolve(model), backend, precision, None, os.getpid())
    return solver.estimate_memory(
        shape, channel_axis=channel_axis, dtype=dtype, max_memory=max_memory, operator=operator
    )


@shows(reconstructing.Options, reconstructing.DEFAULTS)
def reconstruct(
    measurement: Any,
    operator: Any,
    *,
    strength: Any,
    model: Model | str | PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "float32",
    **options: Unpack[reconstructing.Options],
) -> Solution:
    """Reconstruct an image from measurements y = H x + noise with a learned, structure-adaptive regulariser (SAFI).

    Each outer step solves min over the box of 1/2 ||H x - y||^2 + strength ||M . W x||_1 to a certified accuracy,
    then takes the next mask M from its solution (arXiv 2407.06608, eq. 5 with a data term).

    Parameters
    ----------
    measurement : array, operator.shape_out or (B, *operator.shape_out)
        y, finite; for FourierMRI and SenseMRI zero where not sampled. The image comes back as an array of the same
        library, on the same device. A model of P planes, such as one of colour, takes (P, *operator.shape_out) or
        (B, P, *operator.shape_out), each plane seen through H, and gives (P, H, W) or (B, P, H, W).
    operator : Operator or list of B
        H, of `safi_fast.operators` (adapters make one of other libraries'); checked before the first solve.
    strength : float or (B,)
        lambda > 0 for images on [0, 1]; `tune_strength` finds it.
    model : Model, str or path
        As for `denoise`.
    backend : {"auto", "cpu", "cuda"}
        Where it runs; auto: on a GPU where one can be used. Operators that are no operators of this package, and
        those of its adapters, compute on the CPU there as well, between two copies.
    precision : {"float32", "tf32", "bf16x3"}
        As for `denoise`.
    noise_level : float
        Standard deviation, in the units of the image, of the noise that a noise-conditioned mask generator should
        expect. None: the middle of the model's levels.
    data_range : float or (low, high)
        The value of white, or for real images of black and white: the solver sees (y - H(low)) / (high - low) and
        images from 0 to 1, the result is in the units of the caller again.
    box : (low, high)
        Bounds of the solution, black being 0 and white 1; None for none, as complex images need it. Where it is left
        out, measurements are refused that images in (0.0, 1.0) do not fit: negative ones, too large ones, raw
        transmission instead of line integrals.
    x0 : array, (H, W) or (B, H, W)
        Where to start. None: one gradient step from zero, of tomography ten steps of conjugate gradients.
    schedule : {"gap", "fast"}, Reconstruct or Fast
        "gap": until the certificate says that the image is solved. "fast": a fixed number of steps, to look at it in a
        fifth of the time or less, usually within half a decibel; the certificate that it reached is reported. A value
        of `safi_fast.Reconstruct` or `safi_fast.Fast` has constants of its own. None: "gap".
    max_outer, max_iter, tol : int, int, float
        Outer steps, one mask each, and inner steps of each (20 of 1000; "fast": 10 of 30), and for "gap" the relative
        gap (1e-3; without a box over a ball, see Solution) at which an image is converged, once it changes by no more
        than three times that from mask to mask.
    mask_of : {"magnitude", "parts"}
        For complex images, one mask of the magnitude, or one for each of real and imaginary part.
    max_memory : float
        Bytes that this call may add to a solver that is ready (`estimate_memory(y.shape, operator=...)`). A batch is
        solved in parts that fit, with the same result; what does not fit alone is refused. None: parts of about 1 GB,
        on a GPU of half of the memory that is free, 8 GiB at most.
    callback : callable
        Called with an OuterState after every outer step; may raise StopIteration. It sees all images at once, so that
        a batch is not solved in parts.
    watch : callable
        Called with an InnerState (outer, active, step, steps, relative_gap) after every inner step, in each part.
    return_masks : bool
        Put the last masks into the Solution.

    Returns
    -------
    Solution
        image (H, W) or (B, H, W), status, relative_gap, ...

    Warns
    -----
    UserWarning
        Where no image explains the measurement, as with coil maps in another order (docs/adr/0011-values.md).

    Raises
    ------
    InputError, ModelError, BackendError
        As `denoise`.
    OperatorError
        For an operator whose adjoint or norm is wrong, or that turns NaN or infinite or changes in mid-run.
    SolverError
        Where the solver turns NaN or infinite. `error.image` of both is what the last complete outer step gave, or
        None.

    Examples
    --------
    >>> import numpy as np, safi_fast
    >>> from safi_fast.operators import Mask
    >>> image = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    >>> operator = Mask(np.random.default_rng(0).random(image.shape) > 0.5)
    >>> y = operator.apply(image)
    >>> found = safi_fast.reconstruct(y, operator, strength=1e-3, max_outer=2, max_iter=100)
    >>> bool(abs(found.image - image).mean() < 0.02)
    True
    """
    solver = _solver(None if model is None else resolve(model), backend, precision, None, os.getpid())
    return solver.reconstruct(measurement, operator, strength=strength, **options)


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
    **options: Unpack[reconstructing.Options],
) -> Tuning:
    """The strength among `candidates` that fits best: by a known image, the noise, or measurements that are left out.

    Parameters
    ----------
    measurement, operator
        Of one image; as for `reconstruct`.
    candidates : (n,)
        Strengths > 0; all are solved as one batch.
    reference : array, (H, W)
        The true image of this or of a similar measurement: the reconstruction nearest to it.
    noise_std : float
        Standard deviation of the noise of each real number measured: the residual that fits it (discrepancy principle).
    holdout : float
        Share of the measurements, between 0 and 1, such as 0.1, that is left out of the reconstructions: the one that
        predicts them best, in mean squared error. Nothing need be known, but the noise of what is left out must be
        independent of the rest, and from a few hundred numbers the score is uncertain. Left out are whole views of
        CT, samples of FourierMRI and SenseMRI in all coils at once (outside of the fully sampled square in the
        middle, up to a quarter of the smaller side; for real images with the sample of the opposite frequency), known
        pixels of Mask, and single numbers of other operators.
    seed : int
        Of that draw.
    **options
        As for `reconstruct`; with `holdout`, x0 should not come from what is left out.

    Returns
    -------
    Tuning
        strength, and the score of each candidate.

    Raises
    ------
    As `reconstruct`.
    """
    solver = _solver(None if model is None else resolve(model), backend, "float32", None, os.getpid())
    return solver.tune_strength(
        measurement,
        operator,
        candidates,
        reference=reference,
        noise_std=noise_std,
        holdout=holdout,
        seed=seed,
        **options,
    )


class Solver:
    """One model made ready on one backend, for many images. Holds no state of a solve; threads may share it."""

    def __init__(
        self,
        model: Model | str | PathLike[str] | None = None,
        *,
        backend: str | Backend = "auto",
        precision: str = "float32",
        threads: int | None = None,
        devices: Literal["all"] | Sequence[int] | None = None,
    ):
        """Make a model ready.

        Parameters
        ----------
        model, backend
            As in `denoise`, except that the GPU is CuPy's current one; or a Backend (safi_fast/backend.py) of your own.
        precision : {"float32", "tf32", "bf16x3"}
            Of the products in the heavy convolutions on a GPU; the last two run on tensor cores.
        threads : int
            Of the CPU kernels and of the operators' Fourier transforms. None: NUMBA_NUM_THREADS, else OMP_NUM_THREADS,
            else the CPUs that this process may use (docs/large-images.md). No effect on a GPU.
        devices : "all" or list of int
            GPUs on which `denoise_batch` solves images in turn, each image on one of them; all else runs on the first.
            "all": as many as there are, none for the CPU. None: CuPy's current one.

        Raises
        ------
        ModelError, InputError, BackendError
        """
        self.model = resolve(model)
        # then photographs go through another model, made ready when one comes
        self._takes_color = model is None and DEFAULT_COLOR_MODEL in list_models()
        numbers = _devices(devices, backend)
        with ArrayKind("cupy", numbers[0]).place():
            self.backend = select(backend, precision)
        self._engine = self.backend.prepare(self.model)
        self._asked_for = backend if isinstance(backend, str) else backend.name
        self._gpu = gpu_of(self.backend)
        self._device = None if self.backend.device is None else self.backend
        self._threads = threads
        with self._on_threads():
            pass  # refuses a wrong number now
        self._others = [
            Solver(model, backend="cuda", precision=precision, devices=[number or 0]) for number in numbers[1:]
        ]

    @property
    def each_gpu(self) -> tuple[Solver, ...]:
        """This solver, and one for each further GPU of `devices`, which computes there alone; each may be called from a
        thread of its own.
        """
        return self, *self._others

    @shows(denoising.Options, denoising.DEFAULTS)
    def denoise(
        self, image: Any, sigma: Any, *, return_solution: bool = False, **options: Unpack[denoising.Options]
    ) -> Any:
        """See `safi_fast.denoise`."""
        every = filled("denoise", denoising.DEFAULTS, options)
        self._require_reachable(image)
        array, kind = as_array("image", image)
        self._require_same_gpu(kind)
        with kind.place(), self._on_threads(), memory.explained("image"):
            model, engine = self._for(array.shape, every["channel_axis"], every["color"])
            solution = denoising.solve(model, engine, array, kind, sigma, every, self._device, account=return_solution)
        return solution if return_solution else solution.image

    @shows(denoising.Options, denoising.DEFAULTS)
    def denoise_volume(
        self,
        volume: Any,
        sigma: Any,
        *,
        axes: Sequence[int] = AXES,
        weights: Any = None,
        return_solution: bool = False,
        **options: Unpack[denoising.Options],
    ) -> Any:
        """See `safi_fast.denoise_volume`."""
        passes = passes_of(axes, weights)
        self._require_reachable(volume)
        array, kind = as_array("volume", volume)
        level = check_volume(array.shape, sigma, passes.axes, self.model.smallest_side, options)

        def one_pass(slices: Any, noise: Any) -> Any:
            return self.denoise(slices, noise, return_solution=return_solution, **options)

        with kind.place():
            mean, found = passes.solve(one_pass, kind.module, array, level)
            image = kind.wrap(mean)
        if not return_solution:
            return image
        wrapped = tuple(replace(one, image=kind.wrap(one.image)) for one in found)
        return VolumeSolution(image, wrapped, passes.axes, passes.weights)

    @shows(denoising.Options, denoising.DEFAULTS)
    def denoise_vjp(self, image: Any, sigma: Any, **options: Unpack[denoising.Options]) -> tuple[Solution, Vjp]:
        """`denoise` with the schedule "gap" or "unrolled", and its derivative: the Solution, and a function that turns
        the gradient of a number with respect to the image of the Solution into those with respect to image, sigma and
        strength.

        "gap", the default: masks are held fixed; the derivative is that of the last convex problem, by implicit
        differentiation. A smaller tol tells better which responses are zero. "unrolled", for models of the family
        "safi": through every step and every mask; the steps are kept until the function is gone, up to a gigabyte,
        beyond which it makes them again. safi_fast/differentiating.py has the formulas. On the CPU. Arguments as for
        `denoise`. safi_fast.integrations.autograd brings it to torch.

        Raises InputError for schedules, models, tiles and noise that it is not for, and as `denoise`.

        >>> import numpy as np, safi_fast
        >>> noisy = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((32, 32))
        >>> solution, vjp = safi_fast.Solver("safi-gray-fast", backend="cpu").denoise_vjp(noisy, 0.1, max_outer=2)
        >>> vjp(np.ones((32, 32))).image.shape
        (32, 32)
        """
        every = filled("denoise_vjp", denoising.DEFAULTS, options)
        self._require_reachable(image)
        array, kind = as_array("image", image)
        self._require_same_gpu(kind)
        with kind.place(), self._on_threads() as count, memory.explained("image"):
            model, engine = self._for(array.shape, every["channel_axis"], every["color"])
            return denoise_vjp(model, engine, array, kind, sigma, every, self._device, lambda: self._on_threads(count))

    def estimate_memory(
        self,
        shape: tuple[int, ...],
        *,
        channel_axis: int | None = None,
        dtype: Any = np.float32,
        max_memory: float | None = None,
        operator: Any = None,
    ) -> int:
        """See `safi_fast.estimate_memory`."""
        if operator is not None:
            if channel_axis is not None:
                raise InputError(
                    f"channel_axis is {shown(channel_axis)}, but with an operator shape is that of measurements; leave "
                    f"it out"
                )
            with self._on_threads():
                return reconstructing.estimate(self.model, self._engine, shape, operator, max_memory)
        model, engine = self._for(shape, channel_axis, None)
        extent = extent_of(shape, dtype, channel_axis, model)
        with self._on_threads():
            division = denoising.divide(model, engine, extent, max_memory, at_once=False)
            return memory.peak_bytes(engine, extent, division)

    @shows(reconstructing.Options, reconstructing.DEFAULTS)
    def reconstruct(
        self, measurement: Any, operator: Any, *, strength: Any, **options: Unpack[reconstructing.Options]
    ) -> Solution:
        """See `safi_fast.reconstruct`."""
        every = filled("reconstruct", reconstructing.DEFAULTS, options)
        measured, back = to_and_fro("measurement", measurement)
        with ArrayKind("cupy", self._gpu).place(), self._on_threads(), memory.explained("measurement"):
            found = reconstructing.solve(self.model, self._engine, measured, operator, strength, every)
        return replace(found, image=back(found.image))

    @shows(reconstructing.Options, reconstructing.DEFAULTS)
    def reconstruct_vjp(
        self, measurement: Any, operator: Any, *, strength: Any, **options: Unpack[reconstructing.Options]
    ) -> tuple[Solution, ReconstructionVjp]:
        """`reconstruct` with the schedule "gap", and its derivative: the Solution, and a function that turns the
        gradient of a number with respect to the image of the Solution into those with respect to measurement and
        strength.

        Masks are held fixed; the derivative is that of the last convex problem, by implicit differentiation. A smaller
        tol tells better which responses are zero. safi_fast/reconstruction_gradients.py has the formulas. On the CPU,
        for all operators. Arguments as for `reconstruct`, without callback and max_memory.
        safi_fast.integrations.autograd brings it to torch.

        Raises BackendError on a GPU, InputError for the schedule "fast", and as `reconstruct`.

        >>> import numpy as np, safi_fast
        >>> operator = safi_fast.operators.Mask(np.random.default_rng(0).random((32, 32)) > 0.5)
        >>> y = operator.apply(np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1)))
        >>> solver = safi_fast.Solver("safi-gray-fast", backend="cpu")
        >>> solution, vjp = solver.reconstruct_vjp(y, operator, strength=1e-3, max_outer=2, max_iter=100)
        >>> vjp(np.ones((32, 32))).measurement.shape == y.shape
        True
        """
        every = filled("reconstruct_vjp", reconstructing.DEFAULTS, options)
        measured, back = to_and_fro("measurement", measurement)
        with self._on_threads() as count, memory.explained("measurement"):
            found, vjp = reconstruct_vjp(
                self.model, self._engine, measured, operator, strength, every, self._device, back,
                lambda: self._on_threads(count),
            )  # fmt: skip
        return replace(found, image=back(found.image)), vjp

    def reconstruct_batch(
        self, measurements: Sequence[Any], operators: Any, *, strength: Any, **options: Unpack[reconstructing.Options]
    ) -> Solution:
        """`reconstruct` of many slices at once: measurements (B, *shape_out) or a list, one operator for all or one
        each.

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
        **options: Unpack[reconstructing.Options],
    ) -> Tuning:
        """The strength among `candidates` that fits best; all are solved as one batch. See
        `safi_fast.tune_strength`.
        """
        task = tuning.make_task(
            measurement, operator, candidates, reference=reference, noise_std=noise_std, holdout=holdout, seed=seed,
            planes=self.model.filters.planes,
        )  # fmt: skip
        found = self.reconstruct(task.measurements, task.fitted, strength=task.candidates, **options)
        black = stated_range(options.get("data_range", reconstructing.DEFAULTS["data_range"])).low
        return tuning.tuned(task, found.image, black)

    def denoise_batch(
        self, images: Iterable[Any], sigma: Any, *, strength: Any = None, read_ahead: int = 2, **options: Any
    ) -> Iterator[Any]:
        """`denoise` for a stream of images of any shapes: an iterator over the results, in the order of the images.

        Images, each with its values of `sigma` and `strength`, are taken in one thread and solved in another (one for
        each GPU), while the caller uses the result before: reading, solving and writing overlap, and a callback is
        called in the second thread. The threads start with the first `next` and stop when the iterator is closed or
        dropped. At most read_ahead + 2 images and 3 results are alive at once, and 4 more for each further GPU. Every
        result is the one of `denoise`, bit for bit.

        On a GPU, images are whole before they are solved and results before they are given out, whatever stream they
        come from or go to; what makes images in another thread of the caller's has to wait for its own streams.

        sigma, strength: a number, or an iterable with one for each image; or sigma="estimate". sigma may also be a map
        (H, W) for all images, or an iterable with a number or a map for each. With noise="poisson" sigma is one number.
        read_ahead: images that wait to be solved.
        options: as for `denoise`; return_solution=True gives Solutions.
        Raises InputError, naming the image, and whatever `images` raises, when the result is due.
        """
        per_image = {"sigma": sigma} if strength is None else {"sigma": sigma, "strength": strength}
        if options.get("noise") == "poisson" or (isinstance(sigma, str) and sigma == ESTIMATE):
            options["sigma"] = per_image.pop("sigma")
        with self._on_threads() as threads:
            pass  # those of the thread that calls

        def on(solver: Solver) -> Callable[..., Any]:
            def solve(image: Any, **settings: Any) -> Any:
                with ArrayKind("cupy", solver._gpu).place(), solver._on_threads(threads):
                    return solver.denoise(image, **settings, **options)

            return solve

        solvers = [on(solver) for solver in self.each_gpu]
        return stream(images, per_image, solvers, count("read_ahead", read_ahead), self._complete)

    def _complete(self, value: Any) -> None:
        """Where a value may lie on the GPU, wait for what the calling thread has launched there: what takes it works on
        another stream.
        """
        if self._gpu is not None and not isinstance(value, np.ndarray):
            for solver in self.each_gpu:
                finish_launches(solver._gpu)  # type: ignore[arg-type]

    def release_memory(self) -> None:
        """Give back the GPU memory that is kept for the next call: work spaces with their graphs, and all free blocks
        of CuPy's, on every GPU of `devices`. Does nothing on the CPU.
        """
        for solver in self.each_gpu:
            for engine in (solver._engine, *solver.__dict__.get("_color", ())[1:]):
                engine.release()
            if solver.backend.device is not None:
                solver.backend.device.release_memory()

    def model_for(self, shape: tuple[int, ...], channel_axis: int | None = None, color: str | None = None) -> Model:
        """The model that solves images of this shape: `model`, or where none was asked for and there are three
        channels, the one for colours.
        """
        return self._for(shape, channel_axis, color)[0]

    def _for(self, shape: tuple[int, ...], channel_axis: Any, color: Any) -> tuple[Model, Engine]:
        if self._takes_color and color is None and is_color(shape, channel_axis):
            return self._color
        return self.model, self._engine

    @cached_property
    def _color(self) -> tuple[Model, Engine]:
        model = load_model(DEFAULT_COLOR_MODEL)
        with ArrayKind("cupy", self._gpu).place():
            return model, self.backend.prepare(model)

    def _on_threads(self, count: int | None = None) -> AbstractContextManager[Any]:
        """In which kernels run on `count` threads, else on those of this solver."""
        return self.backend.on_threads(count or self._threads)

    def _require_reachable(self, image: Any) -> None:
        if self._gpu is not None or not lies_on_gpu(image):
            return
        host = "image.cpu()" if hasattr(image, "cpu") else "it as NumPy array, with cupy.asnumpy(image)"
        if self._asked_for == "auto":
            raise BackendError(f"image lies on a GPU that cannot be used: {cuda_report().sentence}; or pass {host}")
        raise BackendError(
            f"image lies on a GPU, but backend={self._asked_for!r} computes in host memory; use backend='cuda', or "
            f"pass {host}"
        )

    def _require_same_gpu(self, kind: ArrayKind) -> None:
        if kind.gpu not in (None, self._gpu):
            raise BackendError(
                f"image lies on GPU {kind.gpu}, but this solver computes on GPU {self._gpu}; "
                f"make one for it: with cupy.cuda.Device({kind.gpu}): solver = Solver(...)"
            )


@lru_cache(maxsize=4)
def _solver(model: Model | None, backend: str, precision: str, gpu: int | None, process: int) -> Solver:
    """One Solver per model and GPU; a forked child cannot use the CUDA of its parent and gets its own."""
    with ArrayKind("cupy", gpu).place():
        return Solver(model, backend=backend, precision=precision)


def _gpu_to_use(image: Any, backend: str) -> int | None:
    """The GPU that the image lies on, if the backend may go there; None where that is left to the backend."""
    if backend == "cpu" or not lies_on_gpu(image) or not cuda_report().available:
        return None
    return as_array("image", image)[1].gpu


def _devices(devices: Any, backend: Any) -> Sequence[int | None]:
    """The GPUs of a Solver, the first of them None where that is CuPy's current one or there is none. Raises
    InputError.
    """
    if devices is None:
        return [None]
    if not isinstance(backend, str) or backend == "cpu":
        raise InputError(f"devices is {shown(devices)}, but backend is {shown(backend)}; expected 'auto' or 'cuda'")
    there = gpu_count()
    if isinstance(devices, str) and devices == "all":
        return list(range(there)) or [None]
    try:
        numbers = [index(number) for number in devices]
    except TypeError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= number < there for number in numbers):
        raise InputError(
            f"devices is {shown(devices)}; expected 'all' or different numbers of GPUs, of which there are {there}"
        )
    return list(numbers)
