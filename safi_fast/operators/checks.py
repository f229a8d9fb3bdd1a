"""Is an operator what it says? Its adjoint and its norm tested with random images, at the
price of a few applications.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OperatorError, shown
from .base import Operator, Pace, largest_singular_value

NORM_STEPS = 8
NORM_TOLERANCE = 1e-4
FEW_PERCENT = 0.02


def check_adjoint(operator: Operator, *, seed: int = 0, tol: float = 1e-5) -> float:
    """The relative error |<H x, y> - <x, H^T y>| / (||H x|| ||y||), for x random and y = H x plus as much noise.

    With y independent of x both products would be chance, about 1 / sqrt(pixels) of the norms; this y makes them as
    large as these. The products are the real part where images or measurements are real. Two applications. Raises
    OperatorError where the error exceeds `tol`, for values that are not finite, for H 0 != 0, and for an `apply` or
    `adjoint` that writes into its argument.
    """
    rng = np.random.default_rng(seed)
    x = _random(rng, operator.shape_in, operator.image == "complex")
    forward = _unchanged(operator, "apply", x)
    size = float(np.linalg.norm(forward))
    if size == 0:
        raise OperatorError(f"{operator.name}: apply maps a random image to zero; it has no measurements")
    noise = _random(rng, operator.shape_out, operator.complex)
    y = (forward / size + noise / np.linalg.norm(noise)).astype(forward.dtype)
    back = _unchanged(operator, "adjoint", y)
    left, right = _inner(forward, y), _inner(x, back)
    if not (operator.complex and operator.image == "complex"):
        left, right = left.real, right.real
    error = float(abs(left - right)) / (size * float(np.linalg.norm(y)))
    if error > tol:
        raise OperatorError(_explanation(operator, left, right, error, tol))
    return error


def check_norm(operator: Operator, *, seed: int = 1, steps: int = NORM_STEPS) -> float:
    """The largest ||H x|| / ||x|| that a short Lanczos iteration finds: a lower estimate of the norm.

    `steps` times normal(x).

    Raises OperatorError where it exceeds `operator.norm`. A norm that is too small by less than a few percent may pass.
    Meaningful where the adjoint is right.
    """
    found, norm = largest_singular_value(operator, steps, seed), operator.norm
    if found > norm * (1 + NORM_TOLERANCE):
        raise OperatorError(
            f"{operator.name}: norm is {norm:.6g}, but ||H x|| / ||x|| reaches {found:.6g}: a solve would "
            "diverge. norm is the "
            "largest singular value, not its square and not that of another size or scale; leave it out to have "
            "it computed"
        )
    return found


def check_operator(operator: Operator) -> None:
    """`check_adjoint` and `check_norm`, once per operator and value of its norm, and its pace. Raises OperatorError."""
    _check_pace(operator)
    if operator._passed == operator.norm:
        return
    check_adjoint(operator)
    check_norm(operator)
    operator._passed = operator.norm


def _check_pace(operator: Operator) -> None:
    pace, whole = operator.pace, (int, np.integer)
    if isinstance(pace, Pace):
        counts = all(isinstance(n, whole) and not isinstance(n, bool) and n >= 1 for n in pace[:2])
        if counts and isinstance(pace.fall, (*whole, float, np.floating)) and 0 < pace.fall <= 1:
            return
    raise OperatorError(
        f"{operator.name}: pace is {shown(pace)}; expected Pace(masks, steps, fall) with whole numbers of at least 1 "
        "and 0 < fall <= 1"
    )


def _random(rng: np.random.Generator, shape: tuple[int, ...], complex: bool) -> NDArray[Any]:
    values = rng.standard_normal(shape).astype(np.float32)
    return values + 1j * rng.standard_normal(shape).astype(np.float32) if complex else values


def _inner(a: NDArray[Any], b: NDArray[Any]) -> complex:
    return complex(np.vdot(a.astype(np.complex128), b.astype(np.complex128)))


def _unchanged(operator: Operator, method: str, argument: NDArray[Any]) -> NDArray[Any]:
    """operator.method(argument), after a look at whether it is finite, zero for zero, and leaves its argument alone."""
    given = argument.copy()
    result: NDArray[Any] = getattr(operator, method)(given)
    if not np.array_equal(given, argument):
        raise OperatorError(f"{operator.name}: {method} writes into its argument; let it work on a copy")
    if not np.isfinite(result).all():
        raise OperatorError(f"{operator.name}: {method} of a random argument has values that are not finite")
    return result


def _explanation(operator: Operator, left: complex, right: complex, error: float, tol: float) -> str:
    if np.abs(operator.apply(np.zeros(operator.shape_in))).max() > 0:
        hint = "apply maps zero to something else: it is affine, not linear; take the constant off"
    elif abs(np.imag(left - right)) > 0.5 * abs(left - right) and abs(np.real(left - right)) < FEW_PERCENT * abs(left):
        hint = "the difference is imaginary: look for a missing complex conjugate"
    else:
        hint = (
            "look for a missing complex conjugate or transpose, a scale that one of the two lacks (orthonormal "
            "FFT, voxel size, "
            "1 / number of views), a pseudo-inverse (FBP, density compensation) in place of the adjoint, or "
            "another boundary, or "
            "an _apply or _adjoint that does not take a batch (B, ...)"
        )
        if left != 0 and right != 0:
            hint += f"; <x, H^T y> is {abs(right) / abs(left):.5g} times <H x, y>"
    return (
        f"{operator.name}: adjoint is not the adjoint of apply: <H x, y> = {left:.6g} but <x, H^T y> = "
        f"{right:.6g}, relative error "
        f"{error:.2g} above {tol:.2g}; {hint}"
    )
