"""The CUDA kernels of training (kernels/cuda/training.cu) on torch's tensors.

    kernels = kernels_for(x)        # None where torch alone does the work: on a CPU, in float64, without CuPy
    if kernels is not None:
        y = kernels.spline(x, values, -1.0)

Launches go to torch's current stream, and into its CUDA graph while it captures one. Outputs are torch's own memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bindings.device import CupyDevice, Device
from ..bindings.launch import Launch, ceil_div
from ..bindings.module import source

THREADS, COLUMNS = 256, 128  # as in training.cu
FILL = 1024  # blocks that fill a large GPU

Run = Callable[[str, Launch, tuple[Any, ...]], None]


class Kernels:
    """The kernels by name. `run` launches one; its arguments are tensors and NumPy scalars."""

    def __init__(self, run: Run):
        self._run = run

    def spline(self, x: Tensor, values: Tensor, low: float) -> Tensor:
        """s_c(x): x (B, C, H, W), values (C, n)."""
        x, values, out = x.contiguous(), values.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        grid = (ceil_div(_pixels(x), THREADS), x.shape[1], x.shape[0])
        self._run("spline", Launch(grid, (THREADS, 1, 1)), (x, values, out, np.int32(_pixels(x)), *_knots(values, low)))
        return out

    def spline_gradient(self, x: Tensor, values: Tensor, low: float, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """From the gradient of s(x) to those of x and of the values."""
        x, values, gradient = x.contiguous(), values.contiguous(), gradient.contiguous()
        channels, knots = values.shape
        splits = max(1, min(ceil_div(FILL, channels), ceil_div(_pixels(x), COLUMNS)))
        to_x, partial = torch.empty_like(x), x.new_empty(splits, channels, knots)
        launch = Launch((splits, channels, 1), (COLUMNS, 1, 1), 2 * (knots - 1) * COLUMNS * 4)
        sizes = (np.int32(x.shape[0]), np.int32(_pixels(x)), *_knots(values, low))
        self._run("spline_gradient", launch, (x, values, gradient, to_x, partial, *sizes))
        return to_x, partial.sum(0)

    def contract(self, spectra: Tensor, filters: Tensor) -> Tensor:
        """sum_c spectra[b, c] filters[c]: complex (B, C, rows, columns) and (C, rows, columns) -> (B, 1, rows,
        columns).
        """
        batch, channels, *grid = spectra.shape
        image = spectra.new_empty(batch, 1, *grid)
        launch = Launch((ceil_div(_pixels(spectra), THREADS), batch, 1), (THREADS, 1, 1))
        arguments = (spectra.contiguous(), filters.contiguous(), image, np.int32(channels), np.int32(_pixels(spectra)))
        self._run("contract", launch, arguments)
        return image

    def correlate(self, spectra: Tensor, image: Tensor, total: Tensor) -> None:
        """total[c] += sum_b spectra[b, c] conj(image[b]), in place; image (B, 1, rows, columns)."""
        batch, channels, *_ = spectra.shape
        launch = Launch((ceil_div(_pixels(spectra), THREADS), channels, 1), (THREADS, 1, 1))
        sizes = np.int32(batch), np.int32(_pixels(spectra))
        self._run("correlate", launch, (spectra.contiguous(), image.contiguous(), total, *sizes))

    def extrapolate(
        self, v: Tensor, response: Tensor, mask: Tensor, u: Tensor, factor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """u of the next step, v of the next step, and M v of it."""
        v, response, mask, u = (tensor.contiguous() for tensor in (v, response, mask, u))
        made, following, product = (torch.empty_like(v) for _ in range(3))
        arguments = (v, response, mask, u, made, following, product, np.float32(factor), np.int64(v.numel()))
        self._run("extrapolate", _flat(v), arguments)
        return made, following, product

    def through_clip(
        self,
        first: tuple[Tensor, float],
        second: tuple[Tensor, float] | None,
        made: Tensor,
        response: Tensor,
        mask: Tensor,
        to_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """From the gradient a first + b second of `made` to that of v + M response, and M times it; to_mask grows."""
        made, response, mask = made.contiguous(), response.contiguous(), mask.contiguous()
        to_sum, product = torch.empty_like(made), torch.empty_like(made)
        (one, a), (other, b) = first, second or (None, 0.0)
        factors = (one.contiguous(), np.float32(a), other, np.float32(b))
        self._run(
            "through_clip",
            _flat(made),
            (*factors, made, response, mask, to_mask, to_sum, product, np.int64(made.numel())),
        )
        return to_sum, product

    def through_mask(self, to_w: Tensor, v: Tensor, mask: Tensor, to_sum: Tensor, to_mask: Tensor) -> Tensor:
        """From the gradients of w = M v and of v + M response to that of v; to_mask grows."""
        to_w, v, mask = to_w.contiguous(), v.contiguous(), mask.contiguous()
        to_v = torch.empty_like(to_sum)
        self._run("through_mask", _flat(v), (to_w, v, mask, to_sum, to_mask, to_v, np.int64(v.numel())))
        return to_v


def kernels_for(x: Tensor) -> Kernels | None:
    """Those for the device and dtype of x, or None where torch alone is to work."""
    if x.dtype not in (torch.float32, torch.complex64):
        return None
    given: Kernels | None = getattr(_given, "kernels", None)
    if given is not None:
        return given
    return _on_gpu(x.device.index) if x.device.type == "cuda" else None


def fused_for(x: Tensor) -> Kernels | None:
    """`kernels_for` where torch records nothing: outputs of a kernel have no gradient."""
    return None if torch.is_grad_enabled() else kernels_for(x)


@contextmanager
def use(kernels: Kernels) -> Iterator[None]:
    """In which every float32 tensor goes through these."""
    _given.kernels = kernels
    try:
        yield
    finally:
        del _given.kernels


def launched_by(device: Device, argument: Callable[[Any], Any]) -> Run:
    """A `Run` on a device; `argument` makes of a tensor (or None) what the device's kernels take."""
    module = device.module(source("training"))

    def run(name: str, launch: Launch, arguments: tuple[Any, ...]) -> None:
        values = tuple(value if isinstance(value, np.generic) else argument(value) for value in arguments)
        module.get_function(name)(launch.grid, launch.block, values, shared_mem=launch.shared_bytes)

    return run


@cache
def _on_gpu(number: int) -> Kernels | None:
    try:
        device = CupyDevice(number)
    except ImportError:
        return None
    launch = launched_by(device, lambda tensor: np.uint64(0 if tensor is None else tensor.data_ptr()))

    def run(name: str, shape: Launch, arguments: tuple[Any, ...]) -> None:
        with device.on_stream(torch.cuda.current_stream(number).cuda_stream):
            launch(name, shape, arguments)

    return Kernels(run)


def _pixels(x: Tensor) -> int:
    return int(x.shape[-2] * x.shape[-1])


def _flat(x: Tensor) -> Launch:
    return Launch((ceil_div(x.numel(), THREADS), 1, 1), (THREADS, 1, 1))


def _knots(values: Tensor, low: float) -> tuple[Any, Any, Any]:
    knots = values.shape[1]
    return np.int32(knots), np.float32(low), np.float32((knots - 1) / (1 - low))


_given = threading.local()
