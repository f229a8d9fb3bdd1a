"""Linear splines per channel, s_c(x), with their gradient, in two ways with the same values.

As one torch function over a kernel, Numba's on the CPU and CUDA's on a GPU with CuPy: forward and backward each read
their input once. Elsewhere, and where `use_torch` asks for it, by torch alone: a gather of the slopes, with a dozen
temporaries of the size of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .gpu import kernels_for

_ONLY_TORCH = [False]


def spline(x: torch.Tensor, values: torch.Tensor, low: float = -1.0) -> torch.Tensor:
    """s_c(x) for x (B, C, H, W) and values (C, n) at uniform knots on [low, 1]; the ends go on linearly."""
    on_gpu = kernels_for(values) is not None
    if not on_gpu and not by_kernels(x.device):
        return _by_torch(x, values, low)
    function = _GpuSpline if on_gpu else _Spline
    result: torch.Tensor = function.apply(x.to(values.dtype), values, low)
    return result


@contextmanager
def use_torch() -> Iterator[None]:
    """In which no spline needs Numba: what a GPU runs, tried on a CPU."""
    before = _ONLY_TORCH[0]
    _ONLY_TORCH[0] = True
    try:
        yield
    finally:
        _ONLY_TORCH[0] = before


def by_kernels(device: torch.device | str) -> bool:
    """Whether what lies on this device goes through the Numba kernels."""
    return torch.device(device).type == "cpu" and not _ONLY_TORCH[0]


def kernels() -> Any:
    """The launches of the Numba kernels, imported when they are first needed."""
    from ..bindings import training

    return training


def _by_torch(x: torch.Tensor, values: torch.Tensor, low: float) -> torch.Tensor:
    channels, knots = values.shape
    place = (x.to(values.dtype) - low) * ((knots - 1) / (1 - low))
    below = place.detach().floor().clamp(0, knots - 2)
    first = torch.arange(channels, device=x.device).view(-1, 1, 1) * knots
    index = below.long() + first
    flat = values.reshape(-1)
    left = flat[index]
    return left + (place - below) * (flat[index + 1] - left)


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, values: torch.Tensor, low: float) -> torch.Tensor:
        x, values = x.contiguous(), values.contiguous()
        ctx.save_for_backward(x, values)
        ctx.low = low
        return torch.from_numpy(kernels().spline(_planes(x), values.detach().numpy(), low)).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, values = ctx.saved_tensors
        to_x, to_values = kernels().spline_gradient(
            _planes(x), values.detach().numpy(), ctx.low, _planes(gradient.contiguous())
        )
        return torch.from_numpy(to_x).view_as(x), torch.from_numpy(to_values), None


class _GpuSpline(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, values: torch.Tensor, low: float) -> torch.Tensor:
        ctx.save_for_backward(x, values)
        ctx.low, ctx.kernels = low, kernels_for(values)
        result: torch.Tensor = ctx.kernels.spline(x, values.detach(), low)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, values = ctx.saved_tensors
        to_x, to_values = ctx.kernels.spline_gradient(x, values.detach(), ctx.low, gradient)
        return to_x, to_values, None


def _planes(x: torch.Tensor) -> Any:
    """(B, C, H, W) -> NumPy (B, C, H W) on the same memory."""
    return x.detach().view(*x.shape[:2], -1).numpy()
