"""Arrays of other libraries in and out, without importing a library that the caller does not use.

A caller's array is recognised by the library it comes from: NumPy and anything that NumPy understands, torch tensors on
the CPU or on a CUDA GPU, CuPy arrays, and whatever else has `__cuda_array_interface__`. Arrays on a GPU are handled as
CuPy arrays and stay there. The way in shares memory where dtype and layout allow it; nothing here writes to the
caller's array.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BackendError, InputError, shown
from .tensors import plain

PILLOW_MODES = (  # those whose numbers are grey, or red, green and blue
    "L", "RGB", "F", "I", "I;16", "I;16L", "I;16B", "I;16N",
)  # fmt: skip


@dataclass(frozen=True)
class ArrayKind:
    """The library of a caller's array, "numpy", "torch" or "cupy", and the GPU it lies on (None: host memory)."""

    library: str
    gpu: int | None = None

    @property
    def module(self) -> Any:
        """The array module that computes where the array lies: NumPy or CuPy."""
        return np if self.gpu is None else importlib.import_module("cupy")

    def place(self) -> AbstractContextManager[Any]:
        """In which `module` computes on that GPU."""
        return nullcontext() if self.gpu is None else self.module.cuda.Device(self.gpu)

    def wrap(self, values: Any) -> Any:
        """`values`, of `module`, as an array of the caller's library, sharing memory."""
        if self.library == "torch":
            torch = sys.modules["torch"]
            return torch.from_numpy(values) if self.gpu is None else torch.from_dlpack(values)
        return values

    def beside(self, values: Any) -> Any:
        """`values` as what goes with the caller's array: a NumPy array in host memory, an array of the same library on
        a GPU.
        """
        return values if self.gpu is None else self.wrap(values)


def lies_on_gpu(value: Any) -> bool:
    """Whether a caller's array lies on a CUDA GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return bool(value.device.type == "cuda")
    return hasattr(value, "__cuda_array_interface__")


def finish_launches(gpu: int) -> None:
    """Wait for what this thread has launched on its current streams of a GPU, CuPy's and torch's: other threads, and
    other streams, may then use its results.
    """
    cupy, torch = importlib.import_module("cupy"), sys.modules.get("torch")
    with cupy.cuda.Device(gpu):
        cupy.cuda.get_current_stream().synchronize()
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.current_stream(gpu).synchronize()


def as_array(name: str, value: Any) -> tuple[Any, ArrayKind]:
    """The argument `name` as a NumPy array, or a CuPy array where it lies on a GPU, and the kind to give results back
    in.

    For what is neither NumPy's, torch's nor CuPy's that is NumPy or CuPy. Arrays on a GPU need a CuPy that works.
    Raises InputError for what is no array of real numbers, and BackendError for an array on a device that is neither
    the CPU nor a CUDA GPU.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(name, value)
    if hasattr(value, "__cuda_array_interface__"):
        try:
            on_gpu = importlib.import_module("cupy").asarray(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} cannot be read as a CuPy array: {error}") from error
        return _checked(name, on_gpu), ArrayKind("cupy", int(on_gpu.device.id))
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array, whose mask would be lost; fill it: {name}.filled(...)")
    check_pillow(name, value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name} is no array of numbers: {error}") from error
    return _checked(name, array), ArrayKind("numpy")


def to_and_fro(name: str, value: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The argument `name`, an array or a list of arrays, in host memory, and a function that takes a result in NumPy
    back to its library and device.

    Raises InputError for what cannot be copied.
    """
    if isinstance(value, (list, tuple)):
        parts = [to_and_fro(name, one) for one in value]
        return [host for host, _ in parts], parts[0][1] if parts else np.asarray
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor = plain(value)
        _check_tensor(name, tensor)
        try:
            return tensor.cpu().numpy(), lambda image: torch.from_numpy(image).to(tensor.device)
        except (TypeError, RuntimeError) as error:
            raise InputError(f"{name} cannot be read as a NumPy array: {error}") from error
    if not lies_on_gpu(value):
        return value, lambda image: image
    cupy = importlib.import_module("cupy")
    array = cupy.asarray(value)

    def back(image: Any) -> Any:
        with cupy.cuda.Device(array.device.id):
            return cupy.asarray(image)

    with cupy.cuda.Device(array.device.id):
        return cupy.asnumpy(array), back


def check_pillow(name: str, value: Any, *more_modes: str) -> None:
    """Refuse a Pillow image whose numbers mean something else than brightness, or that has more frames than would be
    read.

    more_modes: others that are taken. Raises InputError.
    """
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(value, pillow.Image):
        return
    if value.mode not in (*PILLOW_MODES, *more_modes):
        meaning = {"P": " (numbers of colours in a palette)", "RGBA": " (with alpha)", "LA": " (with alpha)"}
        raise InputError(
            f"{name} is a Pillow image of mode {value.mode!r}{meaning.get(value.mode, '')}; expected grey or red, "
            "green and blue: "
            f'pass {name}.convert("RGB") or {name}.convert("L")'
        )
    if (frames := getattr(value, "n_frames", 1)) > 1:
        raise InputError(
            f"{name} is a Pillow image of {frames} frames; expected one: go to it with seek and pass {name}.copy()"
        )


def _from_torch(name: str, tensor: Any) -> tuple[Any, ArrayKind]:
    place = tensor.device
    if place.type not in ("cpu", "cuda"):
        raise BackendError(f"{name} lies on {place}; expected the CPU or a CUDA GPU: pass {name}.cpu()")
    _check_tensor(name, tensor)
    try:
        tensor = plain(tensor)
        if place.type == "cpu":
            return _checked(name, tensor.numpy()), ArrayKind("torch")
        cupy = importlib.import_module("cupy")
        with cupy.cuda.Device(place.index):
            return _checked(name, cupy.from_dlpack(tensor)), ArrayKind("torch", int(place.index))
    except (TypeError, BufferError, NotImplementedError, RuntimeError) as error:
        library = "NumPy" if place.type == "cpu" else "CuPy"
        raise InputError(f"{name} cannot be read as a {library} array: {error}") from error


def _check_tensor(name: str, tensor: Any) -> None:
    """Refuse a tensor that NumPy and CuPy have no form of, with what makes one of it. Raises InputError."""
    kind, layout = str(tensor.dtype), str(tensor.layout)
    if layout != "torch.strided":
        raise InputError(f"{name} is a tensor of layout {layout}; expected a dense one: pass {name}.to_dense()")
    if tensor.is_quantized:
        raise InputError(f"{name} is a quantised tensor ({kind}); pass {name}.dequantize()")
    if kind == "torch.bfloat16" or kind.startswith("torch.float8"):
        raise InputError(f"{name} has dtype {kind}, which NumPy and CuPy do not have; pass {name}.float()")


def _checked(name: str, array: Any) -> Any:
    if array.dtype.kind == "c":
        raise InputError(
            f"{name} is complex ({array.dtype}); expected real numbers: denoise its real and imaginary part or "
            "its magnitude"
        )
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} has dtype {array.dtype}; expected integers or floating-point numbers")
    return array


def positive(name: str, value: Any) -> float:
    """`value` as a positive finite number. Raises InputError."""
    numbers = positive_per_image(name, value, 1)
    return float(numbers[0])


def positive_per_image(name: str, value: Any, count: int | None) -> NDArray[np.float64]:
    """A number or one per image as float64 (count,); count None: as many as there are. Raises InputError."""
    expected = {None: "a positive number or several", 1: "a positive number"}.get(
        count, f"a positive number or {count} of them, one per image"
    )
    try:
        array = np.asarray(plain(value))
        if array.dtype.kind == "c":
            raise TypeError
        numbers = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: what torch has no NumPy form of
        raise InputError(f"{name} is {shown(value)}; expected {expected}") from None
    if count is None:
        count = max(1, numbers.size)
    if numbers.ndim > 1 or numbers.size not in (1, count):
        raise InputError(f"{name} has shape {numbers.shape}; expected {expected}")
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise InputError(f"{name} is {shown(value)}; expected {expected}")
    return np.broadcast_to(numbers.reshape(-1), (count,)).copy()
