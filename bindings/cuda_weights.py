"""A model in the layout of the CUDA kernels, on one device, and the kernels themselves, compiled when first used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from ..masks import MmrMask, SafiMask
from ..model import Model
from . import launch
from . import weights as layout
from .border import border_taps
from .device import Device, Kernel
from .launch import Shape, ceil_to
from .module import source

TENSOR_FILES = ("analysis", "synthesis", "convolution")


def tensor_options(precision: str, block: int) -> tuple[str, ...]:
    """Options of the kernels on tensor cores."""
    return (f"-DCHANNEL_BLOCK={block}", *(("-DBF16X3",) if precision == "bf16x3" else ()))


def planes_option(planes: int) -> tuple[str, ...]:
    """Option of the kernels that read or write images; none for one plane."""
    return (f"-DPLANES={planes}",) if planes > 1 else ()


class Spline:
    """A bank of splines on the device."""

    def __init__(self, device: Device, values: NDArray[Any], low: float, channels: int, *, last: bool = False):
        pieces = values.shape[1] - 1
        scale = pieces / (1.0 - low)
        self.table = device.upload(layout.spline_table(values, channels))
        self.struct = np.array([(pieces, last, -low * scale, scale, device.address(self.table))], layout.SPLINE)


class Border:
    """The corrections of layer-wise zero padding on the device; a band of 0 where there are none."""

    def __init__(self, device: Device, model: Model, channels: int):
        bank = model.filters
        taps = border_taps(bank.layers, bank.band)
        numbers = layout.tap_numbers(taps.first, taps.offset_y, taps.offset_x, bank.support)
        corrections = layout.padded(np.moveaxis(taps.weights, -1, 0), channels)  # (C, taps), (C, taps, P)
        corrections = np.moveaxis(corrections, 0, -1)
        arrays = (taps.first, taps.offset_y, taps.offset_x, numbers, np.ascontiguousarray(corrections, np.float32))
        self.arrays = [device.upload(array if array.size else np.zeros(1, array.dtype)) for array in arrays]
        self.struct = np.array([(taps.band, 0, *map(device.address, self.arrays))], layout.BORDER)


class Convolution:
    """One layer of a SAFI mask generator."""

    def __init__(self, device: Device, weight: NDArray[Any], dilation: int, shape: Shape, *, first: bool):
        """first: from the image."""
        self.size = launch.Kernel(weight.shape[-1], dilation)
        self.reach = (self.size.side - 1) * dilation // 2
        self.options: tuple[str, ...] = (f"-DSUPPORT={self.size.side}", f"-DDILATION={dilation}")
        c_in = shape.planes if first else shape.channels
        filled = np.zeros((shape.channels, c_in, *weight.shape[2:]), np.float32)
        filled[: weight.shape[0], : weight.shape[1]] = weight
        if first:
            self.options += planes_option(shape.planes)
        if shape.tensor and not first:
            block = launch.channel_block("convolution", shape, self.size)
            self.weights = device.upload(layout.convolution_slabs(filled, block, shape.precision))
            self.options += tensor_options(shape.precision, block)
        else:
            self.weights = device.upload(layout.by_eight(filled, shape.channels))


class SafiWeights:
    """The layers of a SAFI mask generator."""

    def __init__(self, device: Device, mask: SafiMask, shape: Shape):
        pairs = zip(mask.convolutions, mask.dilations, strict=True)
        self.layers = [
            Convolution(device, weight, dilation, shape, first=not i) for i, (weight, dilation) in enumerate(pairs)
        ]
        last = len(mask.splines) - 1
        self.splines = [Spline(device, v, -1.0, shape.channels, last=i == last) for i, v in enumerate(mask.splines)]
        self.symmetric = np.int32(mask.boundary == "symmetric")


class MmrWeights:
    """The smoothing layers and the profile of an MMR mask generator."""

    def __init__(self, device: Device, mask: MmrMask, boundary: str, channels: int):
        taps = [np.ascontiguousarray(layout.padded(weight[:, 0], channels), np.float32) for weight in mask.smoothing]
        self.layers = [(device.upload(weights), f"-DSUPPORT={weights.shape[-1]}") for weights in taps]
        self.profile = Spline(device, mask.profile, 0.0, channels)
        self.symmetric = np.int32(boundary == "symmetric")


class CudaWeights:
    """All of a model. Read-only after construction, so threads may share it."""

    def __init__(self, model: Model, device: Device, precision: str):
        self.model, self.device, self.precision = model, device, precision
        bank = model.filters
        self.channels = ceil_to(bank.channels, layout.BLOCK if precision == "float32" else layout.DEPTH)
        self.symmetric = np.int32(bank.boundary == "symmetric")
        self.planes = bank.planes
        shape, composed = self.shape(1, 1), bank.composed()
        planes = planes_option(self.planes)
        support = (f"-DSUPPORT={bank.support}", *planes)
        self.options: dict[str, tuple[str, ...]] = dict.fromkeys(("analysis", "synthesis", "border"), support)
        self.options |= dict.fromkeys(("image", "halpern"), planes)
        if shape.tensor:
            blocks = {file: launch.channel_block(file, shape) for file in ("analysis", "synthesis")}
            self.options |= {file: support + tensor_options(precision, block) for file, block in blocks.items()}
            self.filters = device.upload(layout.analysis_slabs(composed, self.channels, blocks["analysis"], precision))
            self.taps = device.upload(layout.synthesis_slabs(composed, self.channels, blocks["synthesis"], precision))
        else:
            self.filters = device.upload(layout.by_eight(composed, self.channels))
            self.taps = device.upload(layout.synthesis_taps(composed, self.channels))
        self.border = Border(device, model, self.channels)
        self.mask: SafiWeights | MmrWeights
        self.halo = bank.support // 2
        if isinstance(model.mask, SafiMask):
            self.mask = SafiWeights(device, model.mask, shape)
            self.halo = max(self.halo, self.mask.layers[0].reach)
        elif not isinstance(model.mask, MmrMask):
            raise BackendError(f"family {model.family!r} has no kernels for a GPU; use backend='cpu'")
        else:
            self.mask = MmrWeights(device, model.mask, bank.boundary, self.channels)

    def shape(self, height: int, width: int) -> Shape:
        """Sizes of one image for the launches."""
        bank = self.model.filters
        return Shape(height, width, self.channels, bank.support, bank.band, self.precision, self.planes)

    def kernel(self, file: str, name: str, options: tuple[str, ...] = ()) -> Kernel:
        """A kernel of kernels/cuda/<file>.cu, or of <file>_tensor.cu where there is one and the precision asks for
        it.
        """
        variant = f"{file}_tensor" if self.precision != "float32" and file in TENSOR_FILES else file
        return self.device.module(source(variant), options or self.options.get(file, ())).get_function(name)
