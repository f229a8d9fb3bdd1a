"""A deepinv physics as operators of this package: one of ours where it is the same map, else through A and A_adjoint.

Images are (B, C, H, W). C = 2 of MRI and MultiCoilMRI are real and imaginary part of one complex image; other channels
are images of their own. Masks, coil maps and filters may be one for all or one per image, as deepinv has them.

An operator of ours is taken where it gives what A gives for a random image, to float32 rounding. That is so for MRI and
MultiCoilMRI (2D), Inpainting, BlurFFT, and for Blur and Downsampling with circular or zero padding; other padding, and
the rotations of Tomography, go through A and A_adjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import deepinv
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError, OperatorError
from ..operators import Blur, Downsample, FourierMRI, Mask, Operator, SenseMRI, from_functions
from ..operators.base import Image

ZEROS = ("circular", "constant", "zeros")
CLOSE = 3e-5  # relative, of float32 transforms


@dataclass(frozen=True)
class Bridge:
    """Operators, one for all images or one each, and tensors there and back.

    shape: (B, C, H, W) of the images. complex: whether C = 2 planes are one complex image.
    """

    operators: list[Operator]
    shape: tuple[int, int, int, int]
    complex: bool
    ours: bool

    def measured(self, y: Any) -> Any:
        """Measurements of deepinv (B, ...) as a tensor (items, *shape_out)."""
        if self.operators[0].complex:
            return torch.view_as_complex(y.moveaxis(1, -1).contiguous())
        return y if self.complex else y.reshape(-1, *self.operators[0].shape_out)

    def image(self, x: Any) -> Any:
        """Images (items, H, W) as deepinv has them, (B, C, H, W)."""
        return torch.view_as_real(x).moveaxis(-1, 1).contiguous() if self.complex else x.reshape(self.shape)


def bridge(physics: Any, y: Any) -> Bridge:
    """How measurements y of `physics` are reconstructed. Raises InputError for what is not linear or not of images."""
    if not isinstance(physics, deepinv.physics.LinearPhysics):
        raise InputError(f"physics is {type(physics).__name__}; expected a LinearPhysics of deepinv")
    with torch.no_grad():
        x = physics.A_adjoint(y)
    if not isinstance(x, torch.Tensor) or x.ndim != 4 or x.is_complex():
        given = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise InputError(f"physics is {type(physics).__name__}, whose A_adjoint gives {given}; expected (B, C, H, W)")
    shape = (int(x.shape[0]), int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
    is_complex = isinstance(physics, (deepinv.physics.MRI, deepinv.physics.MultiCoilMRI)) and shape[1] == 2
    makers = {deepinv.physics.__dict__[name]: maker for name, maker in MAKERS.items()}
    maker = makers.get(type(physics))
    if maker is not None:
        with suppress(InputError, OperatorError):  # masks that are not of zeros and ones, large kernels, ...
            ours = Bridge(maker(physics, shape), shape, is_complex, True)
            if _same(physics, ours, y):
                return ours
    return Bridge(_adapted(physics, shape, is_complex), shape, is_complex, False)


def _same(physics: Any, made: Bridge, y: Any) -> bool:
    """Whether the operators give what A gives, for random images."""
    x = torch.tensor(np.random.default_rng(0).standard_normal(made.shape), dtype=y.dtype, device=y.device)
    with torch.no_grad():
        expected = physics.A(x)
    if expected.shape != y.shape:
        return False
    images = torch.view_as_complex(x.moveaxis(1, -1).contiguous()) if made.complex else x.reshape(-1, *made.shape[2:])
    several = len(made.operators) > 1
    found = [made.operators[number if several else 0].apply(one) for number, one in enumerate(images.cpu().numpy())]
    wanted = np.asarray(expected.cpu().numpy())
    if made.complex:
        wanted = wanted[:, 0] + 1j * wanted[:, 1]
    if np.size(found) != wanted.size:
        return False
    wanted = wanted.reshape(np.shape(found))
    return bool(np.linalg.norm(np.subtract(found, wanted)) <= CLOSE * np.linalg.norm(wanted))


# ------------------------------------------------------------------------------------------------ operators of our own


def _one_or_each(values: Any, shape: tuple[int, int, int, int], make: Callable[[NDArray[Any]], Operator]) -> Any:
    """make(plane) of a parameter (b, c, ...) for each channel of each image; b and c may be one for all."""
    array = values.detach().cpu().numpy()
    if array.shape[:2] == (1, 1) or (array[:1, :1] == array).all():
        return [make(array[0, 0])]
    wide = np.broadcast_to(array, (*shape[:2], *array.shape[2:]))
    return [make(plane) for image in wide for plane in image]


def _sampling(physics: Any, count: int) -> list[NDArray[Any]]:
    """(H, W) masks of MRI, one for all or one for each of `count` images. Raises InputError."""
    mask = physics.mask.detach().cpu().numpy()
    if mask.ndim != 4 or mask.shape[1] != 2 or (mask[:, 0] != mask[:, 1]).any() or len(mask) not in (1, count):
        raise InputError("mask differs between real and imaginary part")
    return list(mask[:, 0])


def _mri(physics: Any, shape: tuple[int, int, int, int]) -> list[Operator]:
    return [
        FourierMRI(mask, mask_order="centered", image="complex", check_order=False, check_mask=False)
        for mask in _sampling(physics, shape[0])
    ]


def _coils(physics: Any, shape: tuple[int, int, int, int]) -> list[Operator]:
    masks, maps = _sampling(physics, shape[0]), physics.coil_maps.detach().cpu().numpy()
    count = max(len(masks), len(maps))
    return [
        SenseMRI(
            maps[number % len(maps)], masks[number % len(masks)], mask_order="centered", check_order=False,
            check_mask=False
        )
        for number in range(count)
    ]  # fmt: skip


def _inpainting(physics: Any, shape: tuple[int, int, int, int]) -> list[Operator]:
    mask = torch.broadcast_to(physics.mask, (physics.mask.shape[0], shape[1], *shape[2:]))
    return _one_or_each(mask, shape, Mask)  # type: ignore[no-any-return]


def _blur(physics: Any, shape: tuple[int, int, int, int]) -> list[Operator]:
    padding = getattr(physics, "padding", "circular")  # that of BlurFFT
    if padding not in ZEROS:
        raise InputError(f"padding is {padding!r}")
    boundary: Any = "circular" if padding == "circular" else "zero"
    return _one_or_each(physics.filter, shape, lambda kernel: Blur(kernel, shape[2:], boundary))  # type: ignore[no-any-return]


def _downsampling(physics: Any, shape: tuple[int, int, int, int]) -> list[Operator]:
    """Ours keeps pixels from (factor - 1) // 2 on, deepinv's from 0: the kernel is shifted."""
    factor, padding = int(physics.factor), physics.padding
    if padding not in ZEROS:
        raise InputError(f"padding is {padding!r}")
    boundary: Any = "circular" if padding == "circular" else "zero"
    shift = 2 * ((factor - 1) // 2)

    def make(kernel: NDArray[Any]) -> Operator:
        return Downsample(factor, shape[2:], np.pad(kernel, ((shift, 0), (shift, 0))), boundary)

    kernels = torch.ones(1, 1, 1, 1) if physics.filter is None else physics.filter
    return _one_or_each(kernels, shape, make)  # type: ignore[no-any-return]


MAKERS: dict[str, Callable[[Any, tuple[int, int, int, int]], list[Operator]]] = {
    "MRI": _mri,
    "MultiCoilMRI": _coils,
    "Inpainting": _inpainting,
    "Blur": _blur,
    "BlurFFT": _blur,
    "Downsampling": _downsampling,
}


# ---------------------------------------------------------------------------------------------- through A and A_adjoint


def _adapted(physics: Any, shape: tuple[int, int, int, int], is_complex: bool) -> list[Operator]:
    """One operator for all items where A does the same to all of them, else one each, which sees the others as zero.

    Raises InputError for a physics that mixes channels.
    """
    count, channels, together = shape[0], 1 if is_complex else shape[1], _takes_one(physics, shape)
    if channels > 1:
        _require_separate_channels(physics, shape)
    alike = together and (channels == 1 or _same_channels(physics, shape))
    items = [(0, 0)] if alike else [(b, c) for b in range(count) for c in range(channels)]
    return [_item(physics, shape, is_complex, None if together else image, channel) for image, channel in items]


def _takes_one(physics: Any, shape: tuple[int, int, int, int]) -> bool:
    """Whether A takes one image of the batch: it has no parameters of each."""
    try:
        with torch.no_grad():
            return len(physics.A(_zeros(physics, (1, *shape[1:])))) == 1
    except (AssertionError, RuntimeError, ValueError):
        return False


def _item(
    physics: Any, shape: tuple[int, int, int, int], is_complex: bool, image: int | None, channel: int
) -> Operator:
    """`physics` on one channel, the others zero, of any image or of number `image` alone."""
    planes = slice(None) if is_complex else slice(channel, channel + 1)

    def through(function: Callable[[Any], Any], parts: NDArray[Any], other: tuple[int, ...]) -> NDArray[Any]:
        whole = _zeros(physics, (len(parts) if image is None else shape[0], *other))
        whole[:, planes] = torch.tensor(parts).to(whole) if image is None else 0
        if image is not None:
            whole[image, planes] = torch.tensor(parts[0]).to(whole)
        with torch.no_grad():
            found = function(whole)[:, planes].cpu().numpy()
        return np.asarray(found if image is None else found[image : image + 1])

    with torch.no_grad():
        out = tuple(
            int(n) for n in physics.A(_zeros(physics, (1 if image is None else shape[0], *shape[1:]))).shape[1:]
        )

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        return through(physics.A, np.stack([x.real, x.imag], 1) if is_complex else x[:, None], shape[1:])

    def adjoint(y: NDArray[Any]) -> NDArray[Any]:
        found = through(physics.A_adjoint, y, out)
        return np.asarray(found[:, 0] + 1j * found[:, 1] if is_complex else found[:, 0])

    def each(function: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[NDArray[Any]], NDArray[Any]]:
        return function if image is None else lambda batch: np.concatenate([function(one[None]) for one in batch])

    kind: Image = "complex" if is_complex else "real"
    seen = out if is_complex else (1, *out[1:])
    made = from_functions(each(apply), each(adjoint), shape[2:], seen, image=kind, complex=False, batched=True)
    made._name = f"from_deepinv({type(physics).__name__})"  # type: ignore[attr-defined]
    return made


def _zeros(physics: Any, shape: tuple[int, ...]) -> Any:
    """Where the physics lies."""
    tensors = [value for kind in (physics.parameters, physics.buffers) for value in kind() if value is not None]
    return torch.zeros(shape, device=tensors[0].device if tensors else "cpu")


def _probe(physics: Any, shape: tuple[int, int, int, int], channel: int) -> Any:
    """What A makes of a random channel, the others zero."""
    x = _zeros(physics, shape)
    plane = torch.tensor(np.random.default_rng(0).standard_normal(shape[2:]))
    x[:, channel] = plane.to(x)
    with torch.no_grad():
        return physics.A(x)


def _require_separate_channels(physics: Any, shape: tuple[int, int, int, int]) -> None:
    """Raises InputError where a channel of the image reaches another one of the measurement."""
    for channel in range(shape[1]):
        y = _probe(physics, shape, channel).clone()
        mixes = y.ndim < 3 or y.shape[1] != shape[1]
        if not mixes:
            y[:, channel] = 0
            mixes = bool((y != 0).any())
        if mixes:
            raise InputError(
                f"physics is {type(physics).__name__}, which mixes the {shape[1]} channels of an image; expected one "
                "that treats each for itself"
            )


def _same_channels(physics: Any, shape: tuple[int, int, int, int]) -> bool:
    """Whether A does the same to all channels."""
    first = _probe(physics, shape, 0)[:, 0]
    return all(bool((_probe(physics, shape, c)[:, c] == first).all()) for c in range(1, shape[1]))
