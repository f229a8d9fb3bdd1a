"""Every kernel file with every set of options that the CUDA backend compiles it with, for the layouts that models have.

The options are the engine's own: nothing is named here but the models, and which kernels of a file a layout uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from emulator.compile import Cubin, compile_cubin
from emulator.device import EmulatedDevice
from models import random_mmr_mask, random_model

from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.cuda_varying import OPTION
from safi_fast.bindings.cuda_weights import CudaWeights
from safi_fast.bindings.device import STANDARD
from safi_fast.bindings.launch import PRECISIONS, Kernel, launch_for
from safi_fast.bindings.module import source
from safi_fast.masks import MmrMask, SafiMask
from safi_fast.model import FilterBank, Model
from safi_fast.models import load_model

CHANNELS = 64
HEIGHT, WIDTH = 321, 481  # of a BSD68 image; shared memory does not depend on it


@dataclass(frozen=True)
class Variant:
    """One compilation, and the dynamic shared memory of its kernels in bytes."""

    file: str  # of kernels/cuda, without suffix
    options: tuple[str, ...]
    dynamic_shared: dict[str, int]
    threads: dict[str, int]
    main: bool  # of the shipped model or of a published layout

    @property
    def title(self) -> str:
        return " ".join((self.file, *self.options))

    def compile(self, architecture: str) -> Cubin:
        """As RawModule would. Raises SpillError."""
        return _compile(self.file, self.options, architecture)


@cache
def _compile(file: str, options: tuple[str, ...], architecture: str) -> Cubin:
    return compile_cubin(source(file), (STANDARD, *options), architecture=architecture)


class _Recorder(EmulatedDevice):
    """Notes what would be compiled."""

    def __init__(self):
        super().__init__()
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def module(self, text, options=()):
        self.asked.append((text, tuple(options)))
        return self

    def get_function(self, name):
        return name


@cache
def layouts() -> dict[str, Model]:
    """Models by name: the shipped one, the published layouts, filters of 9 x 9 and 17 x 17, several planes."""
    rng = np.random.default_rng(0)
    mmr_mask = random_mmr_mask(rng, CHANNELS, (7, 7))
    published = random_model("mmr", CHANNELS, kernels=(7, 7), mask=mmr_mask)
    return {
        "shipped": load_model(),
        "published MMR": published,
        "published SAFI": random_model(channels=CHANNELS, kernels=(7, 7), mask=_safi_mask(7, (1, 1, 1), "zero")),
        "9 x 9": random_model(
            channels=CHANNELS, kernels=(9,), boundary="symmetric", mask=_safi_mask(3, (1, 2, 1), "symmetric")
        ),
        "17 x 17": random_model(
            channels=CHANNELS, kernels=(17,), boundary="symmetric", mask=_safi_mask(3, (1, 2, 2), "symmetric")
        ),
        **{f"{planes} planes": _of_planes(planes) for planes in (2, 3)},
    }


MAIN = ("shipped", "published MMR", "published SAFI")


def _of_planes(planes: int) -> Model:
    """Filters of 13 x 13 for so many planes of an image; layers as in the shipped model of three planes."""
    filters = FilterBank((np.zeros((CHANNELS, planes, 13, 13), np.float32),), "symmetric")
    return random_model(filters=filters, mask=_safi_mask(3, (1, 2, 1), "symmetric", planes, first=7))


def _safi_mask(
    kernel: int, dilations: tuple[int, int, int], boundary: str, planes: int = 1, first: int | None = None
) -> SafiMask:
    """Zeros in the layout of a mask generator C -> C: only sizes matter here. first: side of the first layer, else
    `kernel`.
    """
    sizes = ((planes, first or kernel), (CHANNELS, kernel), (CHANNELS, kernel))
    convolutions = tuple(np.zeros((CHANNELS, n, k, k), np.float32) for n, k in sizes)
    splines = tuple(np.zeros((CHANNELS, 21), np.float32) for _ in range(3))
    return SafiMask(convolutions, dilations, splines, np.ones((1, CHANNELS)), np.zeros((1, CHANNELS)), boundary)


def _uses(weights: CudaWeights) -> Iterator[tuple[str, str, tuple[str, ...], Kernel | None]]:
    """(file, kernel, options, size of a convolution) of a model."""
    for name in ("analysis", "dual_step", "anchored_step", "masked_norm"):
        yield "analysis", name, (), None
    yield "synthesis", "synthesis", (), None
    if weights.shape(HEIGHT, WIDTH).band:
        yield "border", "synthesis_border", (), None
    for name in ("set_image", "get_image", "gather_image", "image_step", "primal_sums", "outer_sums"):
        yield "image", name, (), None
        yield "image", name, (*weights.options["image"], OPTION), None
    for name in ("totals", "advance", "stop", "clear_dual", "collapse_momentum", "weigh_mask"):
        yield "state", name, (), None
    for name in ("extrapolate", "move_rows", "restart", "mix_images", "mix_rows"):
        yield "halpern", name, (), None
    if isinstance(weights.model.mask, MmrMask):
        for _, option in weights.mask.layers:
            yield "depthwise", "depthwise", (option,), None
        return
    first, *others = weights.mask.layers
    yield "features", "features", first.options, None
    for layer in others:
        yield "convolution", "convolution", layer.options, layer.size


@cache
def variants() -> tuple[Variant, ...]:
    """Every one once, those of the main layouts first."""
    found: dict[tuple[str, tuple[str, ...]], Variant] = {}
    files = {source(path.stem): path.stem for path in _kernel_files()}
    for name, model in layouts().items():
        for precision in PRECISIONS:
            device = _Recorder()
            weights = CudaBackend(device, precision).prepare(model).weights
            for file, kernel, options, size in _uses(weights):
                device.asked.clear()
                weights.kernel(file, kernel, options)
                text, all_options = device.asked[0]
                key = files[text], all_options
                variant = found.setdefault(key, Variant(*key, {}, {}, name in MAIN))
                launch = launch_for(kernel, weights.shape(HEIGHT, WIDTH), 1, size)
                variant.dynamic_shared[kernel] = launch.shared_bytes
                variant.threads[kernel] = int(np.prod(launch.block))
    return tuple(found.values())


def _kernel_files():
    from safi_fast.bindings.module import KERNELS

    return sorted(KERNELS.glob("*.cu"))


def smallest_model(channels: int, support: int = 13) -> Model:
    """One composed layer with symmetric boundary: the filter bank of the shipped model with fewer channels."""
    return random_model(channels=channels, kernels=(support,), boundary="symmetric")
