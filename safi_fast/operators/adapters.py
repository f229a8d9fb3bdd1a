"""Operators of other libraries, and plain functions, as operators of this package.

None of those libraries is imported here.

    from_functions   a pair of functions                      from_sigpy     sigpy.linop.Linop
    from_scipy       scipy.sparse.linalg.LinearOperator,      from_pylops    pylops.LinearOperator
                     sparse or dense matrices                 from_deepinv   deepinv.physics.LinearPhysics
    from_mrpro       mrpro.operators.LinearOperator

Each takes `norm`, the largest singular value where it is known; else it is computed when first asked for. Run
`check_operator` on what comes out: it names a wrong adjoint or norm.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OperatorError, shown
from .base import Image, Operator, image_shape


class AdaptedOperator(Operator):
    """An operator whose apply and adjoint are functions of batches."""

    def __init__(
        self,
        name: str,
        apply: Callable[[NDArray[Any]], Any],
        adjoint: Callable[[NDArray[Any]], Any],
        shape_in: tuple[int, int],
        shape_out: tuple[int, ...],
        *,
        image: Image,
        complex: bool,
        norm: float | None,
    ):
        """apply: (B, H, W) to (B, *shape_out); adjoint: back. Arrays are float32 or complex64."""
        super().__init__(shape_in, shape_out, image=image, complex=complex, norm=norm)
        self._name, self._forward, self._backward = name, apply, adjoint

    @property
    def name(self) -> str:
        """What it was made from."""
        return self._name

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        result = self._run("apply", self._forward, x, self.shape_out)
        if np.iscomplexobj(result) and not self.complex:
            raise OperatorError(
                f"{self.name}: apply returned complex numbers ({result.dtype}); expected real ones, or pass "
                "complex=True"
            )
        return result

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._run("adjoint", self._backward, y, self.shape_in)

    def _run(
        self, what: str, function: Callable[[Any], Any], argument: NDArray[Any], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        result = np.asarray(function(argument.copy()))  # which may write to it
        if result.shape != (len(argument), *shape):
            raise OperatorError(f"{self.name}: {what} returned shape {result.shape[1:]}; expected {shape}")
        return result


def from_functions(
    apply: Callable[[Any], Any],
    adjoint: Callable[[Any], Any],
    shape_in: tuple[int, int],
    shape_out: tuple[int, ...],
    *,
    image: Image = "real",
    complex: bool | None = None,
    norm: float | None = None,
    batched: bool = False,
) -> Operator:
    """An operator from two functions: apply (H, W) to shape_out, adjoint shape_out to (H, W); NumPy arrays.

    image: "real" or "complex". complex: whether measurements are complex; None: as images are. batched: the functions
    take and give (B, ...). Raises InputError.
    """
    for name, function in (("apply", apply), ("adjoint", adjoint)):
        if not callable(function):
            raise InputError(f"{name} is {shown(function)}; expected a function of an array")

    def each(function: Callable[[Any], Any]) -> Callable[[NDArray[Any]], Any]:
        return function if batched else lambda batch: np.stack([np.asarray(function(one)) for one in batch])

    return AdaptedOperator(
        f"from_functions({getattr(apply, '__name__', type(apply).__name__)})", each(apply), each(adjoint), shape_in,
        shape_out,
        image=image, complex=image == "complex" if complex is None else complex, norm=norm,
    )  # fmt: skip


def from_scipy(
    operator: Any,
    shape_in: tuple[int, int],
    shape_out: tuple[int, ...] | None = None,
    *,
    image: Image | None = None,
    norm: float | None = None,
) -> Operator:
    """An operator from a scipy.sparse.linalg.LinearOperator with matvec and rmatvec, a sparse or a dense matrix, m x (H
    W).

    It works on images in C order, flattened. shape_out: of a measurement, m numbers in all; None: (m,). image: None:
    "real", or "complex" for an operator of complex dtype. Raises InputError, also for a LinearOperator without rmatvec.
    """
    from scipy.sparse.linalg import aslinearoperator

    try:
        linear = aslinearoperator(operator)
    except TypeError as error:
        raise InputError(
            f"operator is {type(operator).__name__}; expected a LinearOperator or a matrix: {error}"
        ) from error
    name, shape_in = f"from_scipy({type(operator).__name__})", image_shape("shape_in", shape_in)
    rows, columns = map(int, linear.shape)
    shape_out = (rows,) if shape_out is None else tuple(map(int, shape_out))
    if columns != shape_in[0] * shape_in[1]:
        raise InputError(f"shape_in is {shape_in}, {shape_in[0] * shape_in[1]} pixels; {name} takes {columns}")
    if rows != int(np.prod(shape_out)):
        raise InputError(f"shape_out is {shape_out}, {int(np.prod(shape_out))} numbers; {name} gives {rows}")
    is_complex = np.dtype(linear.dtype if linear.dtype is not None else float).kind == "c"

    try:
        linear.rmatvec(np.zeros(rows, linear.dtype))
    except NotImplementedError as error:
        raise InputError(f"operator is a {type(operator).__name__} without adjoint; give it an rmatvec") from error

    def adjoint(y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(linear.rmatmat(y.reshape(len(y), rows).T).T.reshape(len(y), *shape_in))

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(linear.matmat(x.reshape(len(x), columns).T).T.reshape(len(x), *shape_out))

    kind: Image = image or ("complex" if is_complex else "real")
    return AdaptedOperator(
        name, apply, adjoint, shape_in, shape_out, image=kind, complex=is_complex or kind == "complex", norm=norm
    )


def from_pylops(operator: Any, *, image: Image | None = None, norm: float | None = None) -> Operator:
    """An operator from a pylops.LinearOperator: images have its `dims` (H, W), measurements its `dimsd`.

    Otherwise as from_scipy.

    Raises InputError.
    """
    dims, dimsd = getattr(operator, "dims", None), getattr(operator, "dimsd", None)
    if dims is None or dimsd is None or len(dims) != 2:
        raise InputError(
            f"operator is {type(operator).__name__} with dims {dims}; expected a pylops operator with dims=(H, W)"
        )
    made = from_scipy(operator, tuple(dims), tuple(dimsd), image=image, norm=norm)
    made._name = f"from_pylops({type(operator).__name__})"  # type: ignore[attr-defined]
    return made


def from_sigpy(linop: Any, *, image: Image = "complex", complex: bool = True, norm: float | None = None) -> Operator:
    """An operator from a sigpy Linop: images have its `ishape`, (H, W) or with sides of 1 before; measurements its
    `oshape`.

    image: "complex" or "real". complex: whether measurements are complex. Runs on the CPU. Raises InputError.
    """
    if not all(hasattr(linop, name) for name in ("ishape", "oshape", "H")):
        raise InputError(f"linop is {type(linop).__name__}; expected a sigpy Linop with ishape, oshape and H")
    ishape = tuple(map(int, linop.ishape))
    if len(ishape) < 2 or int(np.prod(ishape[:-2])) != 1:
        raise InputError(f"linop.ishape is {ishape}; expected (H, W), or (1, ..., H, W)")
    transposed = linop.H

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        return np.stack([linop(one.reshape(ishape)) for one in x])

    def adjoint(y: NDArray[Any]) -> NDArray[Any]:
        return np.stack([transposed(one).reshape(ishape[-2:]) for one in y])

    return AdaptedOperator(
        f"from_sigpy({type(linop).__name__})", apply, adjoint, (ishape[-2], ishape[-1]), tuple(linop.oshape),
        image=image, complex=complex, norm=norm,
    )  # fmt: skip


def from_deepinv(
    physics: Any, shape_in: tuple[int, int], *, image: Image = "real", norm: float | None = None
) -> Operator:
    """An operator from a deepinv LinearPhysics, with A and A_adjoint on torch tensors.

    Real images go in as (B, 1, H, W), complex ones as (B, 2, H, W), real and imaginary part, as deepinv has them.
    Measurements have the shape that A gives without its batch axis, for example (1, h, w), found by one application to
    zeros. Tensors are made on the device of the physics' parameters and buffers, the CPU if it has none; results come
    back to the CPU. NumPy arrays go in and out. Raises InputError.
    """
    if not (hasattr(physics, "A") and hasattr(physics, "A_adjoint")):
        raise InputError(f"physics is {type(physics).__name__}; expected a linear physics with A and A_adjoint")
    torch = sys.modules.get("torch")  # whoever holds a physics has imported it
    if torch is None:
        raise InputError(f"physics is {type(physics).__name__}, but torch is not imported; expected a deepinv physics")
    height, width = shape_in = image_shape("shape_in", shape_in)
    tensors = [value for kind in ("parameters", "buffers") for value in getattr(physics, kind, lambda: ())()]
    device = tensors[0].device if tensors else torch.device("cpu")

    def through(function: Callable[[Any], Any], array: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            result = function(torch.tensor(array, device=device))
        return np.asarray(result.cpu().numpy())

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        return through(physics.A, np.stack([x.real, x.imag], 1) if image == "complex" else x[:, None])

    def adjoint(y: NDArray[Any]) -> NDArray[Any]:
        x = through(physics.A_adjoint, y)
        if image != "complex":
            return x.reshape(len(y), height, width)
        return x[:, 0] + 1j * x[:, 1]

    sample = apply(np.zeros((1, *shape_in), np.complex64 if image == "complex" else np.float32))
    return AdaptedOperator(
        f"from_deepinv({type(physics).__name__})", apply, adjoint, shape_in, sample.shape[1:],
        image=image, complex=np.iscomplexobj(sample), norm=norm,
    )  # fmt: skip


def from_mrpro(
    linear_operator: Any, shape_in: tuple[int, int], *, image: Image = "complex", norm: float | None = None
) -> Operator:
    """An operator from a LinearOperator of mrpro, such as `fourier_op @ csm_op`, with its adjoint `H`.

    Images go in as complex tensors (1, 1, 1, H, W), its (other, coils, z, y, x). Measurements have the shape that comes
    out, without the first axis where that is 1, such as (coils, k2, k1, k0). Several images go in together, along
    `other`, where a random pair comes out as each of it alone. Tensors are made on the device of the operator's
    parameters and buffers, the CPU if it has none; results come back to the CPU. image: "complex" or "real". Raises
    InputError.
    """
    torch = sys.modules.get("torch")  # whoever holds such an operator has imported it
    if torch is None or not callable(linear_operator) or not hasattr(linear_operator, "H"):
        raise InputError(f"linear_operator is {type(linear_operator).__name__}; expected a LinearOperator of mrpro")
    size, transposed = image_shape("shape_in", shape_in), linear_operator.H
    tensors = [v for kind in ("parameters", "buffers") for v in getattr(linear_operator, kind, lambda: ())()]
    device = tensors[0].device if tensors else torch.device("cpu")

    def through(function: Callable[[Any], Any], array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        with torch.no_grad():
            (result,) = function(torch.tensor(array.reshape(shape), dtype=torch.complex64, device=device))
        return np.asarray(result.cpu().numpy())

    pair = np.random.default_rng(0).standard_normal((2, *size))
    alone = np.stack([through(linear_operator, one, (1, 1, 1, *size)) for one in pair])
    outer = alone.shape[1:]
    shape_out, together = outer[outer[0] == 1 :], False
    if outer[0] == 1:
        with suppress(RuntimeError, ValueError):  # which refuse a pair
            both = through(linear_operator, pair, (2, 1, 1, *size))
            together = both.shape == (2, *shape_out) and np.allclose(both, alone[:, 0], rtol=1e-4, atol=1e-5)

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        return through(linear_operator, x, (len(x), 1, 1, *size)).reshape(len(x), *shape_out)

    def adjoint(y: NDArray[Any]) -> NDArray[Any]:
        found = through(transposed, y, (len(y), *outer[1:]) if together else outer)
        return found.reshape(len(y), *size) if found.size == len(y) * size[0] * size[1] else found

    made = from_functions(
        apply if together else lambda x: apply(x[None])[0], adjoint if together else lambda y: adjoint(y[None])[0],
        size, shape_out,
        image=image, complex=np.iscomplexobj(alone), norm=norm, batched=together,
    )  # fmt: skip
    made._name = f"from_mrpro({type(linear_operator).__name__})"  # type: ignore[attr-defined]
    return made
