"""What a forward operator is: a linear map H from images to measurements, with its adjoint and its norm.

    shape_in      (H, W) of an image                image     "real" or "complex": what x is
    shape_out     of the measurements of one image  complex   whether measurements are complex
    apply(x)      H x,    x (..., H, W)      to (..., *shape_out)
    adjoint(y)    H^T y,  y (..., *shape_out) to (..., H, W);  real images: the adjoint for Re <., .>
    normal(x)     H^T H x
    norm          an upper estimate of the largest singular value, never its square
    spectrum      (H, W) multiplier of H^T H in Fourier space where it is one, else None

Leading axes are a batch. float32 and complex64; other dtypes are converted, arguments are not changed. Arrays on a GPU
(CuPy) give such arrays: the operators of this package compute there, others through host memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal

from ..arrays import check_pillow, positive
from ..errors import InputError, OperatorError, shown
from ..namespaces import like, namespace, on_device, on_host, to_host
from ..tensors import plain

Image = Literal["real", "complex"]

LANCZOS_STEPS = 24
SAFETY = 1.02
CONVERGED = 1e-5  # a coupling below this share of the largest eigenvalue is float32 rounding


class Pace(NamedTuple):
    """How `schedule="fast"` solves with an operator (solver/schedules.py): so many masks, steps of each, and what the
    step size of the filters' dual variable falls to from one mask to the next.
    """

    masks: int = 4
    steps: int = 75
    fall: float = 1.0


class _Missing:
    """A shape that `Operator.__init__` has not set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, operator: Operator | None, owner: type) -> Any:
        if operator is None:
            return self
        raise OperatorError(
            f"{owner.__name__} has no {self.name} yet: its __init__ first calls super().__init__(shape_in, shape_out)"
        )


class Operator(ABC):
    """A forward operator.

    A subclass gives `_apply` and `_adjoint` for a batch (B, ...). It may give `_normal` where H^T H has a cheaper way,
    `spectrum` where H^T H is diagonal in Fourier space, `norm` where it is known in closed form, and `_norm_bound`
    where only a bound of it is known; `_lots` and `_without` where measurements belong together or some are none.
    """

    shape_in: tuple[int, int] = _Missing()  # type: ignore[assignment]
    shape_out: tuple[int, ...] = _Missing()  # type: ignore[assignment]

    def __init__(
        self,
        shape_in: tuple[int, int],
        shape_out: tuple[int, ...],
        *,
        image: Image = "real",
        complex: bool = False,
        norm: float | None = None,
    ):
        """norm: overrides the computed one. Raises InputError."""
        if image not in ("real", "complex"):
            raise InputError(f"image is {shown(image)}; expected 'real' or 'complex'")
        self.image, self.complex = image, complex
        self.shape_in = image_shape("shape_in", shape_in)
        self.shape_out = tuple(map(int, shape_out))
        if norm is not None:
            self.norm = positive("norm", norm)

    averages: bool = False  # whether no weight of H is negative, so that y / H 1 are means of image values
    below_black: str = "are they negated?"  # of real measurements that only images below black fit

    likely_causes: str = (
        "is it the operator of these measurements, and are they in its order?"  # where they do not fit any image
    )

    residual_step: float | None = None  # step size of the dual variable of H x - y, in units of its own, where H^T H
    # is nearly a convolution whose power falls with frequency; None where it is not, and for all that is not known

    start_steps: int = 1  # of conjugate gradients that make the first image; more where coarse structure is slow

    pace: Pace = Pace()  # of an operator that nothing is known about

    on_devices: bool = False  # whether `_apply` and `_adjoint` take arrays of a GPU as well

    recordable: bool = False  # whether those only launch kernels on a GPU, so that a CUDA graph can repeat them: no
    # value comes to the host, none from there after the first call, and their arrays are never replaced (graphs serve
    # later calls with the same operator)

    _passed: float | None = None  # the norm with which `check_operator` found this operator right

    def first_image(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """Images (B, H, W) that `schedule="fast"` starts from for measurements (B, *shape_out), where something is
        better than a least-squares step or `start_steps` of conjugate gradients; None where nothing is.
        """
        return None

    @property
    def name(self) -> str:
        """What error messages call this operator."""
        return type(self).__name__

    def __repr__(self) -> str:
        measured = "complex" if self.complex else "real"
        return f"<{self.name}: {self.image} {self.shape_in} to {measured} {self.shape_out}>"

    @abstractmethod
    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """(B, H, W) to (B, *shape_out)."""

    @abstractmethod
    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        """(B, *shape_out) to (B, H, W); a complex result is made real by the caller for real images."""

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        """(B, H, W) to (B, H, W)."""
        y = self._fitting("_apply", x, self._apply(x), self.shape_out)
        measured: NDArray[Any] = y.astype(self._measured, copy=False)
        return self._fitting("_adjoint", measured, self._adjoint(measured), self.shape_in)

    def _weighted_normal(self, weights: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        """x -> H^T (weights . H x) for batches, weights (*shape_out), where there is a way around the measurements."""
        return None

    def _norm_bound(self) -> float:
        """An upper bound of the norm."""
        return float("inf")

    def _lots(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Random numbers, of a shape that broadcasts to shape_out: measurements with the smallest are left out first,
        those that share one
        together, never those with infinity. For `hold_out`."""
        return rng.random(self.shape_out)

    def _without(self, lost: NDArray[np.bool_]) -> Operator | None:
        """This operator without the measurements `lost` (*shape_out), where there is a better way than to set them to
        zero.
        """
        return None

    def doubt(self, y: NDArray[Any]) -> str | None:
        """What y (*shape_out) looks like that is no measurement of H, as the rest of a sentence; None where nothing
        speaks against it.
        """
        return None

    def apply(self, x: Any) -> NDArray[Any]:
        """H x for x (..., H, W). Raises InputError for a wrong shape or a complex x where images are real."""
        array = self._checked("x", x, self.shape_in, self._imaged)
        result = self._batch("_apply", array.reshape(-1, *self.shape_in), self.shape_out)
        return result.astype(self._measured, copy=False).reshape(*array.shape[:-2], *self.shape_out)

    def adjoint(self, y: Any) -> NDArray[Any]:
        """H^T y for y (..., *shape_out). Raises InputError."""
        array = self._checked("y", y, self.shape_out, self._measured)
        front = array.shape[: array.ndim - len(self.shape_out)]
        return self._as_image(self._batch("_adjoint", array.reshape(-1, *self.shape_out), self.shape_in), front)

    def normal(self, x: Any) -> NDArray[Any]:
        """H^T H x for x (..., H, W), often cheaper than adjoint(apply(x)). Raises InputError."""
        array = self._checked("x", x, self.shape_in, self._imaged)
        return self._as_image(
            self._batch("_normal", array.reshape(-1, *self.shape_in), self.shape_in), array.shape[:-2]
        )

    def check_measurement(self, y: Any) -> NDArray[Any]:
        """y (..., *shape_out) in the form that a solve uses: float32 or complex64, finite; `y` itself where it has it.

        Raises InputError for a wrong shape, complex values where measurements are real, NaN or infinity.
        """
        array = self._checked("measurement", y, self.shape_out, self._measured)
        finite("measurement", array)
        return array

    def _check_own(self, y: Any) -> None:
        """Refuse measurements (..., *shape_out) that cannot come from this operator, but that `check_measurement` would
        make fit.

        Raises InputError.
        """
        return

    @property
    def kept_bytes(self) -> int:
        """Memory that it keeps from its first use on, beside what it was made with."""
        return 0

    @property
    def spectrum(self) -> NDArray[np.float32] | None:
        """(H, W) in FFT order: H^T H x = ifft2(spectrum * fft2(x)), or None where H^T H is not of this form."""
        return None

    @cached_property
    def norm(self) -> float:
        """||H||: Lanczos iteration on H^T H times a safety factor, or a known bound where this is smaller; computed
        once.

        After k steps from a random start the largest eigenvalue of an n x n matrix is under-estimated by 0.1 (ln n / (k
        - 1))^2 on average (Kuczynski and Wozniakowski, SIAM J. Matrix Anal. Appl. 13, 1992): 4 % of it, 2 % of the
        norm, in the worst case of a million pixels. Raises OperatorError for an operator that measures nothing.
        """
        return self._estimated_norm()

    def _estimated_norm(self) -> float:
        value = largest_singular_value(self, LANCZOS_STEPS)
        if value == 0:
            raise OperatorError(f"{self.name}: H^T H maps a random image to zero; it has no measurements")
        return min(SAFETY * value, self._norm_bound())

    def _batch(self, method: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """What a method of the subclass gives for a batch. Raises OperatorError."""
        return self._fitting(method, array, self._where(getattr(self, method), array), shape)

    def _fitting(self, method: str, array: NDArray[Any], result: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """`result`, which `method` gave for `array`. Raises OperatorError unless it is (B, *shape)."""
        found = getattr(result, "shape", None)
        if found != (len(array), *shape):
            given = type(result).__name__ if found is None else f"shape {tuple(found)}"
            raise OperatorError(
                f"{self.name}: {method} of a batch {array.shape} gave {given}; expected {(len(array), *shape)}"
            )
        return result  # type: ignore[no-any-return]

    def _where(self, function: Callable[[Any], Any], array: Any) -> Any:
        """function(array) on the device of the array, by way of the host where this operator knows no other."""
        if self.on_devices or on_host(array):
            return function(array)
        return like(function(to_host(array)), array)

    def _here(self, name: str, array: Any) -> Any:
        """The attribute `name`, an array, where `array` lies: itself, or a copy that is kept."""
        if on_host(array):
            return getattr(self, name)
        copies = self.__dict__.setdefault("_copies", {})
        key = name, array.device.id
        if key not in copies:
            copies[key] = like(getattr(self, name), array)
        return copies[key]

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without what belongs to this one."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_copies", "_projector")}

    @property
    def _imaged(self) -> type:
        return np.complex64 if self.image == "complex" else np.float32

    @property
    def _measured(self) -> type:
        return np.complex64 if self.complex else np.float32

    def _as_image(self, image: NDArray[Any], front: tuple[int, ...]) -> NDArray[Any]:
        if self.image == "real" and np.iscomplexobj(image):
            image = image.real
        return namespace(image).ascontiguousarray(image, self._imaged).reshape(*front, *self.shape_in)  # type: ignore[no-any-return]

    def _checked(self, name: str, value: Any, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        array = value if on_device(value) else numbers(name, value)
        if array.shape[max(0, array.ndim - len(shape)) :] != shape:
            raise InputError(f"{name} has shape {array.shape}; {self.name} expects (..., {', '.join(map(str, shape))})")
        if np.iscomplexobj(array) and dtype is np.float32:
            raise InputError(f"{name} is complex ({array.dtype}); {self.name} expects real numbers")
        return array.astype(dtype, copy=False)


def largest_singular_value(operator: Operator, steps: int, seed: int = 0) -> float:
    """An estimate of ||H|| from below: Lanczos iteration on H^T H from a seeded random image, without
    reorthogonalisation.

    0.0 where H^T H maps that image to zero.
    """
    rng = np.random.default_rng(seed)
    vector = rng.standard_normal(operator.shape_in)
    if operator.image == "complex":
        vector = vector + 1j * rng.standard_normal(operator.shape_in)
    vector /= np.linalg.norm(vector)
    before, coupling = np.zeros_like(vector), 0.0
    diagonal: list[float] = []
    couplings: list[float] = []
    for _ in range(steps):
        product = operator.normal(vector) - coupling * before
        diagonal.append(float(np.vdot(vector, product).real))
        product -= diagonal[-1] * vector
        coupling = float(np.linalg.norm(product))
        if not coupling > CONVERGED * max(diagonal):  # the start spans an invariant space, or a NaN came
            break
        couplings.append(coupling)
        before, vector = vector, product / coupling
    if not np.isfinite([*diagonal, coupling]).all():
        raise OperatorError(f"{operator.name}: H^T H of a random image has values that are not finite")
    eigenvalues = eigvalsh_tridiagonal(diagonal, couplings[: len(diagonal) - 1])
    return float(np.sqrt(max(0.0, eigenvalues[-1])))


# ------------------------------------------------------------------------------------------ arguments of constructors


def numbers(name: str, value: Any) -> NDArray[Any]:
    """The argument `name` as an array of numbers. Raises InputError."""
    check_pillow(name, value, "1")  # masks have two levels
    try:
        array = np.asarray(plain(value))
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        raise InputError(f"{name} cannot be read as a NumPy array: {error}") from error
    if array.dtype.kind not in "buifc":
        raise InputError(f"{name} has dtype {array.dtype}; expected numbers")
    return array


def real_numbers(name: str, value: Any) -> NDArray[np.float64]:
    """The argument `name` as finite real float64. Raises InputError."""
    array = numbers(name, value)
    if array.dtype.kind == "c":
        raise InputError(f"{name} is complex ({array.dtype}); expected real numbers")
    finite(name, array)
    return array.astype(np.float64)


def finite(name: str, array: NDArray[Any]) -> None:
    """Raise InputError where an array has NaN or infinity, with their number and the first place."""
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{name} has {int(bad.sum())} values that are not finite, the first at {first}; expected numbers"
        )


def image_shape(name: str, shape: Any) -> tuple[int, int]:
    """(H, W) as two positive ints. Raises InputError."""
    try:
        height, width = (int(side) for side in shape)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise InputError(f"{name} is {shown(shape)}; expected two positive numbers (H, W)")
    return height, width


def boolean(name: str, value: Any) -> NDArray[np.bool_]:
    """A mask of True and False, or of 1 and 0 in any dtype, at least one of them True.

    Raises InputError, OperatorError.
    """
    array = numbers(name, value)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise InputError(
            f"{name} has other values than 0 and 1; expected True or 1 where there is a measurement, else False or 0"
        )
    mask = array.astype(bool)
    if not mask.any():
        raise OperatorError(f"{name} is zero everywhere: nothing is measured")
    return mask
