"""`denoise` and `reconstruct` as functions that torch differentiates.

    from safi_fast.integrations.autograd import denoise, reconstruct

    x = denoise(y, sigma)           y (H, W), (B, H, W) or (B, 1, H, W); sigma a number, or a tensor () or (B,)
    loss(x).backward()              gradients of y, sigma, and strength where it is a tensor

    x = reconstruct(y, operator, strength=strength)     y (*shape_out) or (B, *shape_out), real or complex
    loss(x).backward()                                  gradients of y, and of strength where it is a tensor

`reconstruct` differentiates the last convex problem at its fixed masks (safi_fast/reconstruction_gradients.py). So does
`denoise` with schedule="gap" (the default), and with schedule="unrolled" every step and every mask, both by the kernels
(safi_fast/differentiating.py). For models of the family "mmr" the gradient of
"unrolled" is torch's own through the training network, which takes dozens of times as long. Second derivatives are not
there. Results and gradients lie where y does; the work is done on the CPU.
"""

from __future__ import annotations

from functools import lru_cache
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import api
from ..errors import InputError, shown
from ..model import Model
from ..models import resolve
from ..tensors import plain
from ..warn import warn

__all__ = ["denoise", "reconstruct"]

DOUBTFUL = 0.05  # residual of the system that a gradient of a reconstruction solves, from which it is told


def denoise(
    image: Tensor,
    sigma: Any,
    *,
    model: Model | str | PathLike[str] | None = None,
    strength: Any = None,
    schedule: str = "gap",
    **options: Any,
) -> Tensor:
    """Remove white Gaussian noise, differentiably.

    Parameters
    ----------
    image : tensor, (H, W), (B, H, W) or (B, 1, H, W), or with `channel_axis` one of channels
        Floating point.
    sigma, strength : float or tensor, () or (B,)
        As for `safi_fast.denoise`; a tensor may ask for its gradient. That of sigma goes through lambda, and with
        "unrolled" through gain and bias of the masks.
    schedule : {"gap", "unrolled"}
        See above.
    model, options
        As for `Solver.denoise_vjp`. "unrolled" with a model of the family "mmr" takes `max_outer` and `max_inner`
        alone, images on [0, 1] and no `strength`.

    Returns
    -------
    tensor
        Like image.

    Raises
    ------
    InputError
        For other arguments, and as `safi_fast.denoise`.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        found = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InputError(f"image is {found}; expected a tensor of floating-point numbers")
    if schedule not in ("gap", "unrolled"):
        raise InputError(f"schedule is {shown(schedule)}; expected 'gap' or 'unrolled'")
    chosen = resolve(model)
    level = _numbers("sigma", sigma)
    result: Tensor
    if schedule == "unrolled" and chosen.family == "mmr":
        names = (["strength"] if strength is not None else []) + sorted({*options} - {"max_outer", "max_inner"})
        if names:
            raise InputError(
                f"{names[0]} was passed, but schedule is 'unrolled' and the model of the family 'mmr', which takes "
                f"max_outer and max_inner alone"
            )
        result = _ByTorch.apply(image, level, chosen, options)
    else:
        told = None if strength is None else _numbers("strength", strength)
        result = _ByKernels.apply(image, level, told, chosen, {**options, "schedule": schedule})
    return result


def reconstruct(
    measurement: Tensor,
    operator: Any,
    *,
    strength: Any,
    model: Model | str | PathLike[str] | None = None,
    **options: Any,
) -> Tensor:
    """Reconstruct an image, differentiably with respect to measurement and strength, at the masks of the last problem.

    Parameters
    ----------
    measurement : tensor, operator.shape_out or (B, *operator.shape_out)
        Floating point, complex where the measurements are. Its gradient is zero where nothing is measured.
    operator : Operator or list of B
        H, as for `safi_fast.reconstruct`; it has no gradient.
    strength : float or tensor, () or (B,)
        lambda; a tensor may ask for its gradient.
    model, options
        As for `Solver.reconstruct_vjp`: schedule "gap" alone.

    Returns
    -------
    tensor
        (H, W) or (B, H, W), where the measurement lies; float32, or complex64 where images are complex.

    Raises
    ------
    InputError, OperatorError, SolverError
        For other arguments, and as `safi_fast.reconstruct`.

    Warns
    -----
    UserWarning
        Where the gradient is far from exact (docs/integrations.md).
    """
    if not isinstance(measurement, Tensor) or not (measurement.is_floating_point() or measurement.is_complex()):
        found = measurement.dtype if isinstance(measurement, Tensor) else type(measurement).__name__
        raise InputError(f"measurement is {found}; expected a tensor of floating-point or complex numbers")
    result: Tensor = _Reconstructed.apply(
        measurement, _numbers("strength", strength), operator, resolve(model), options
    )
    return result


class _Reconstructed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, measurement: Tensor, strength: Tensor, operator: Any, model: Model, options: dict[str, Any]
    ) -> Tensor:
        solution, ctx.vjp = _solver(model).reconstruct_vjp(
            _array(measurement), operator, strength=_array(strength), **options
        )
        ctx.like, ctx.strength = measurement, _Like.of(strength)
        return torch.from_numpy(np.asarray(solution.image)).to(measurement.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.vjp(_array(gradients[0]))
        if (residual := float(np.max(found.residual))) > DOUBTFUL:
            warn(
                f"the gradient of the reconstruction is not exact: its linear system was solved to {residual:.2g} in "
                f"{found.steps} steps (docs/integrations.md)"
            )
        passed = torch.from_numpy(np.asarray(found.measurement))
        if not ctx.like.is_complex():
            passed = passed.real
        return passed.to(ctx.like), ctx.strength.summed(found.strength), None, None, None


class _ByKernels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, sigma: Tensor, strength: Tensor | None, model: Model, options: dict[str, Any]
    ) -> Tensor:
        given = None if strength is None else _array(strength)
        solution, ctx.vjp = _solver(model).denoise_vjp(_array(image), _array(sigma), strength=given, **options)
        ctx.like, ctx.numbers = image, (_Like.of(sigma), None if strength is None else _Like.of(strength))
        return torch.from_numpy(np.asarray(solution.image)).to(image)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.vjp(_array(gradients[0]))
        to_sigma, to_strength = (
            None if like is None else like.summed(values)
            for values, like in zip((found.sigma, found.strength), ctx.numbers, strict=True)
        )
        return torch.from_numpy(np.asarray(found.image)).to(ctx.like), to_sigma, to_strength, None, None


class _ByTorch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, sigma: Tensor, model: Model, options: dict[str, Any]) -> Tensor:
        made = _solver(model).denoise(_array(image), _array(sigma), schedule="unrolled", **options)
        ctx.save_for_backward(image, sigma)
        ctx.model = model
        ctx.counts = options.get("max_outer", model.schedule.outer), options.get("max_inner", model.schedule.inner)
        return torch.from_numpy(made).to(image)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        image, sigma = ctx.saved_tensors
        with torch.enable_grad():
            y, level = (value.detach().cpu().float().requires_grad_() for value in (image, sigma))
            batch = y.reshape(-1, 1, *y.shape[-2:])
            made = _network(ctx.model)(batch, level.expand(len(batch)), *ctx.counts)
            found = torch.autograd.grad(made, (y, level), gradients[0].detach().cpu().float().reshape(made.shape))
        return found[0].to(image), found[1].to(sigma), None, None


def _numbers(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} is {shown(value)}; expected a number or a tensor of one per image") from None


def _array(tensor: Tensor) -> Any:
    """On the host, whatever the tensor has put off."""
    return plain(tensor).cpu().numpy()


class _Like(NamedTuple):
    """What the gradient of a tensor of one number, or of one per image, looks like."""

    shape: torch.Size
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> _Like:
        return cls(tensor.shape, tensor.device)

    def summed(self, values: Any) -> Tensor:
        """From one number per image."""
        each = torch.as_tensor(values, dtype=torch.float64).reshape(-1)
        return each.sum_to_size(self.shape or (1,)).reshape(self.shape).to(self.device)


@lru_cache(maxsize=4)
def _solver(model: Model) -> api.Solver:
    return api.Solver(model, backend="cpu")


@lru_cache(maxsize=4)
def _network(model: Model) -> Any:
    from ..training.network import network_of

    return network_of(model).requires_grad_(False)
