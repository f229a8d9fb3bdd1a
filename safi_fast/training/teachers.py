"""Denoisers to learn from: their output, mixed with the clean image, is the target of training.

A clean target is noisy: E|f(y) - x|^2 = E|f(y) - E[x|y]|^2 + const. A good denoiser's output is nearer to E[x|y] than x
is, so most of that noise leaves the gradient of a small batch, and the minimiser stays nearly where it was.

A teacher's file is a safetensors file of convolutions, `layers.I.weight` (out, in, 3, 3) and `layers.I.bias`, ReLU
between them, zero padding, with the metadata
    kind     "dncnn"   noisy -> residual (Zhang et al. 2017)
             "fdncnn"  noisy and a plane of sigma -> clean
             "ffdnet"  the four phases of noisy and a plane of sigma at half the size -> the phases of clean
                       (Zhang et al. 2018)
    sigma    the levels it is for, of 255: "25", or "0-75"
    planes   image planes: "1" grey, "3" red, green and blue
Any weights file of this package is a teacher too: its unrolled solution.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from ..errors import InputError, ModelError
from ..weights import read_model
from .network import network_of
from .spline import by_kernels

LEVEL_TOLERANCE = 0.01  # relative; how far from its levels a teacher is asked
PHASES = (0, 2, 1, 3)  # FFDNet numbers the pixels of a 2 x 2 cell column by column

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Layer(NamedTuple):
    """One 3 x 3 convolution: weight (out, in, 3, 3), bias (out,)."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True)
class Teacher:
    """A denoiser for `planes` planes and sigma in low .. high (on [0, 1]); call it with noisy (B, P, H, W) and sigma
    (B,).
    """

    name: str
    planes: int
    low: float
    high: float
    denoise: Denoise

    def knows(self, sigma: torch.Tensor) -> torch.Tensor:
        """(B,), whether it is for these levels."""
        return (sigma >= self.low * (1 - LEVEL_TOLERANCE)) & (sigma <= self.high * (1 + LEVEL_TOLERANCE))


def load_teacher(path: str | os.PathLike[str], device: str = "cpu") -> Teacher:
    """The teacher in a file, on `device`. Raises ModelError for a file that is none, naming what is wrong."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such teacher")
    try:
        with safe_open(path, "pt", device=device) as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: is truncated, damaged or not a safetensors file ({error})") from error
    if "family" in facts:
        return _own(path, device)
    try:
        return _foreign(path.stem, facts, tensors)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _own(path: Path, device: str) -> Teacher:
    """A model of this package: its unrolled schedule on a periodic patch, as training has it."""
    model = read_model(path)
    network = network_of(model).requires_grad_(False).to(device)
    outer, inner = model.schedule.outer, model.schedule.inner

    def denoise(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = network(noisy, sigma, outer, inner, "circular")
        return result

    return Teacher(path.stem, network.planes, float(model.noise_levels[0]), float(model.noise_levels[-1]), denoise)


def _foreign(name: str, facts: dict[str, str], tensors: dict[str, torch.Tensor]) -> Teacher:
    kind = facts.get("kind", "")
    if kind not in KINDS:
        raise ModelError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}, or a weights file of this package")
    planes = _number("planes", facts, int)
    low, _, high = facts.get("sigma", "").partition("-")
    first, last = (_number("sigma", {"sigma": text}, float) / 255 for text in (low, high or low))
    layers = _layers(tensors)
    inputs, outputs = KINDS[kind].channels(planes)
    found = layers[0].weight.shape[1], layers[-1].weight.shape[0]
    if found != (inputs, outputs):
        raise ModelError(
            f"its layers lead from {found[0]} to {found[1]} channels; "
            f"kind {kind!r} with planes {planes} leads from {inputs} to {outputs}"
        )
    return Teacher(name, planes, first, last, KINDS[kind].build(layers, planes))


def _layers(tensors: dict[str, torch.Tensor]) -> list[Layer]:
    count = len(tensors) // 2
    layers: list[Layer] = []
    for i in range(count):
        weight, bias = tensors.get(f"layers.{i}.weight"), tensors.get(f"layers.{i}.bias")
        if weight is None or bias is None:
            raise ModelError(f"tensor layers.{i}.{'weight' if weight is None else 'bias'} is missing")
        inputs = layers[-1].weight.shape[0] if layers else weight.shape[1]
        if weight.ndim != 4 or tuple(weight.shape[1:]) != (inputs, 3, 3) or tuple(bias.shape) != weight.shape[:1]:
            raise ModelError(f"tensor layers.{i} has shape {tuple(weight.shape)}; expected (out, {inputs}, 3, 3)")
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise ModelError(f"tensor layers.{i} has values that are not finite")
        layers.append(Layer(weight.float(), bias.float()))
    if not layers or len(tensors) != 2 * count:
        raise ModelError("expected tensors layers.0.weight, layers.0.bias, layers.1.weight, ... and no others")
    return layers


def _number(name: str, facts: dict[str, str], kind: Callable[[str], Any]) -> Any:
    try:
        value = kind(facts.get(name, ""))
    except ValueError:
        value = -1
    if value < 0 or (name == "planes" and value == 0):
        raise ModelError(f"{name} is {facts.get(name)!r}; expected a number")
    return value


def _chain(layers: Sequence[Layer], x: torch.Tensor) -> torch.Tensor:
    for layer in layers[:-1]:
        x = functional.relu_(functional.conv2d(x, layer.weight, layer.bias, padding=1))
    return functional.conv2d(x, layers[-1].weight, layers[-1].bias, padding=1)


def _plane(sigma: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return sigma.view(-1, 1, 1, 1).expand(len(like), 1, *like.shape[2:])


def _dncnn(layers: Sequence[Layer], planes: int) -> Denoise:
    return lambda noisy, sigma: noisy - _chain(layers, noisy)


def _fdncnn(layers: Sequence[Layer], planes: int) -> Denoise:
    return lambda noisy, sigma: _chain(layers, torch.cat([noisy, _plane(sigma, noisy)], 1))


def _ffdnet(layers: Sequence[Layer], planes: int) -> Denoise:
    order = [4 * plane + phase for plane in range(planes) for phase in PHASES]  # its own inverse

    def ordered(phases: torch.Tensor) -> torch.Tensor:
        return torch.cat([phases[:, i : i + 1] for i in order], 1)

    def denoise(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        height, width = noisy.shape[2:]
        even = functional.pad(noisy, (0, width % 2, 0, height % 2), mode="replicate")
        halves = ordered(functional.pixel_unshuffle(even, 2))
        clean = _chain(layers, torch.cat([halves, _plane(sigma, halves)], 1))
        return functional.pixel_shuffle(ordered(clean), 2)[..., :height, :width]

    return denoise


@dataclass(frozen=True)
class _Kind:
    """How a network of this kind is built, and its channels in and out for a number of planes."""

    build: Callable[[Sequence[Layer], int], Denoise]
    channels: Callable[[int], tuple[int, int]]


KINDS = {
    "dncnn": _Kind(_dncnn, lambda planes: (planes, planes)),
    "fdncnn": _Kind(_fdncnn, lambda planes: (planes + 1, planes)),
    "ffdnet": _Kind(_ffdnet, lambda planes: (4 * planes + 1, 4 * planes)),
}


@dataclass(frozen=True)
class Share:
    """How much of the target is the teachers': nothing up to sigma `none_below` (of 255), `most` from `full_above` on,
    linear between; the same until the share `until` of the run is done, then falling to nothing at its end. Raises
    InputError.
    """

    most: float = 0.85
    none_below: float = 3.0
    full_above: float = 12.0
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.most <= 1:
            raise InputError(f"teacher share is {self.most:g}; expected 0 to 1")
        if not 0 <= self.none_below < self.full_above:
            raise InputError(
                f"the teachers' share rises from sigma {self.none_below:g} to {self.full_above:g}; "
                f"expected ascending levels"
            )
        if not 0 <= self.until <= 1:
            raise InputError(f"the teachers' share falls from {self.until:g} of the run on; expected 0 to 1")

    def at(self, sigma: torch.Tensor, progress: float) -> torch.Tensor:
        """(B,) for sigma (B,) on [0, 1] at this share of the run."""
        rise = (255 * sigma - self.none_below) / (self.full_above - self.none_below)
        late = 1.0 if progress <= self.until else (1 - progress) / (1 - self.until)
        return self.most * late * rise.clamp(0, 1)


DEFAULT_SHARE = Share()


class Guide:
    """What several teachers say together: the mean of those that know the level."""

    def __init__(self, teachers: Sequence[Teacher], planes: int = 1):
        """Raises InputError for a teacher of other planes."""
        for teacher in teachers:
            if teacher.planes != planes:
                raise InputError(f"teacher {teacher.name!r} is for {teacher.planes} planes; the network has {planes}")
        self.teachers = tuple(teachers)

    def __call__(self, noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """(B, P, H, W) from noisy and clean of that shape, sigma (B,); clean where no teacher knows the level."""
        total, count = torch.zeros_like(noisy), torch.zeros_like(sigma)
        with torch.no_grad():
            for teacher in self.teachers:
                known = teacher.knows(sigma)
                if not by_kernels(noisy.device):  # all of them: to choose some would be to wait for the GPU
                    made = teacher.denoise(noisy, sigma)
                    total += torch.where(known.view(-1, 1, 1, 1), made, 0.0)
                elif known.any():
                    total[known] += teacher.denoise(noisy[known], sigma[known])
                count += known
        weight = count.view(-1, 1, 1, 1)
        return torch.where(weight > 0, total / weight.clamp(min=1), clean)
