"""Linear splines per channel as one torch function: forward and backward each read their input once.

Indexing in torch does the same with a dozen temporaries of the size of the input.
"""

from importlib import import_module
from typing import Any

import torch

kernels = import_module("safi_fast.bindings.training")


def spline(x: torch.Tensor, values: torch.Tensor, low: float = -1.0) -> torch.Tensor:
    """s_c(x) for x (B, C, H, W) and values (C, n) at uniform knots on [low, 1], both of one dtype; the ends go on linearly."""
    result: torch.Tensor = _Spline.apply(x, values, low)
    return result


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, values: torch.Tensor, low: float) -> torch.Tensor:
        x, values = x.contiguous(), values.contiguous()
        ctx.save_for_backward(x, values)
        ctx.low = low
        return torch.from_numpy(kernels.spline(_planes(x), values.detach().numpy(), low)).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, values = ctx.saved_tensors
        to_x, to_values = kernels.spline_gradient(
            _planes(x), values.detach().numpy(), ctx.low, _planes(gradient.contiguous())
        )
        return torch.from_numpy(to_x).view_as(x), torch.from_numpy(to_values), None


def _planes(x: torch.Tensor) -> Any:
    """(B, C, H, W) -> NumPy (B, C, H W) on the same memory."""
    return x.detach().view(*x.shape[:2], -1).numpy()
