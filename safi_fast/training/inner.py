"""The accelerated dual steps of one outer step, and their gradient written by hand.

In the dual variable divided by lambda, |u| <= 1, with ||W|| = 1 and therefore step size 1:

    x(v) = clip(y - lambda W^T(M . v), 0, 1)
    u   <- clip(v + size M . W x(v) / lambda, -1, 1),      v <- u + momentum (u - u_old)

Shapes: y, x (B, P, H, W), P planes; u, v, M (B, C, H, W); lambda (B, 1, 1, 1); filters (C, P, K, K).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch

from ..solver.momentum import fista
from .filters import FilterOperator
from .gpu import fused_for
from .spectral import SpectralSum


@dataclass(frozen=True)
class DualState:
    """The iterate u and the extrapolated point v, both divided by lambda."""

    u: torch.Tensor
    v: torch.Tensor


class Step(NamedTuple):
    """One dual step: its size, times 1 / ||W||^2, and the extrapolation after it.

    Numbers, or scalar tensors to be fitted.
    """

    size: Any
    momentum: Any


def fista_steps(start: int, stop: int) -> list[Step]:
    """FISTA's steps start .. stop - 1 of an outer step."""
    return [Step(1.0, factor) for factor in islice(fista(), start, stop)]


def start(operator: FilterOperator, y: torch.Tensor, strength: torch.Tensor) -> DualState:
    """u = v = W y, not clipped: where the unrolled schedule starts."""
    u = operator.analysis(y / strength)
    return DualState(u, u)


def dual_steps(
    operator: FilterOperator,
    y: torch.Tensor,
    state: DualState,
    mask: torch.Tensor | None,
    strength: torch.Tensor,
    factors: Sequence[Step],
) -> DualState:
    """One step per factor; a mask of None is one of ones. Differentiable by torch, at torch's price."""
    u, v = state.u, state.v
    masked = v if mask is None else v * mask
    for size, factor in factors:
        x = _image(operator, y, masked, strength)
        u, v, masked = _extrapolated(v, operator.analysis(x * (size / strength)), mask, u, factor)
    return DualState(u, v)


def primal(
    operator: FilterOperator, y: torch.Tensor, u: torch.Tensor, mask: torch.Tensor | None, strength: torch.Tensor
) -> torch.Tensor:
    """x(u)."""
    return _image(operator, y, u if mask is None else u * mask, strength)


def _image(operator: FilterOperator, y: torch.Tensor, masked: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """clip(y - lambda W^T masked, 0, 1)."""
    return (y - strength * operator.synthesis(masked)).clamp(0, 1)


def trained_steps(
    operator: FilterOperator,
    y: torch.Tensor,
    state: DualState,
    mask: torch.Tensor,
    strength: torch.Tensor,
    factors: Sequence[Step],
) -> tuple[torch.Tensor, DualState]:
    """x(u) after the steps of `dual_steps`, and where they end.

    Only x is differentiable, with respect to mask, strength and operator.filters; the operator must be circular.
    """
    if operator.boundary != "circular":
        raise ValueError(f"operator has a {operator.boundary} boundary; the gradient is written for a circular one")
    x, u, v = _TrainedSteps.apply(operator, y, state.u, state.v, mask, operator.filters, strength, factors)
    return x, DualState(u, v)


class _TrainedSteps(torch.autograd.Function):
    """The chain rule backwards through every step.

    Kept of a step: v, u, W x / lambda, the spectra of M . v, and image-sized things.

    The gradient for the filters is a correlation of a response with an image, so it is summed as spectra, where both
    lie ready.
    """

    @staticmethod
    def forward(
        ctx: Any,
        operator: FilterOperator,
        y: torch.Tensor,
        u: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor,
        filters: torch.Tensor,
        strength: torch.Tensor,
        factors: Sequence[Step],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        steps = []
        masked = v * mask
        for size, factor in factors:
            spectra = torch.fft.rfft2(masked)
            image = operator.synthesis_of(spectra)
            x = torch.addcmul(y, strength, image, value=-1).clamp_(0, 1)
            response = operator.analysis(x * (size / strength))
            made, following, masked = _extrapolated(v, response, mask, u, factor)
            steps.append((size, factor, v, spectra, image, x, response, made))
            u, v = made, following
        spectra = torch.fft.rfft2(u * mask)
        image = operator.synthesis_of(spectra)
        x = torch.addcmul(y, strength, image, value=-1).clamp_(0, 1)
        ctx.steps, ctx.last, ctx.operator = steps, (u, spectra, image, x), operator
        ctx.mask, ctx.strength = mask, strength
        ctx.mark_non_differentiable(u, v)
        return x, u, v

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        operator, mask, strength = ctx.operator, ctx.mask, ctx.strength
        u, spectra, image, x = ctx.last
        to_filters = SpectralSum(operator.spectra, operator.filters.shape[-1])
        to_strength = torch.zeros_like(strength)

        def through_image(
            gradient: torch.Tensor, spectra: torch.Tensor, image: torch.Tensor, x: torch.Tensor
        ) -> torch.Tensor:
            """From x = clip(y - lambda W^T w) back to w (B, C, H, W)."""
            gradient = gradient * ((x > 0) & (x < 1))
            to_strength.sub_((gradient * image).sum((1, 2, 3), keepdim=True))
            gradient = -strength * gradient
            to_filters.add(spectra, gradient)
            return operator.analysis(gradient)

        to_w = through_image(gradients[0], spectra, image, x)
        to_mask = to_w * u
        to_u, to_v, carried = to_w.mul_(mask), None, None
        for size, factor, v, spectra, image, x, response, made in reversed(ctx.steps):
            first = (to_u, 1.0) if to_v is None else (to_v, 1 + factor)
            to_sum, product = _through_clip(first, carried, made, response, mask, to_mask)  # of v + M . W x / lambda
            carried = (to_v, -factor) if to_v is not None and factor else None
            response_spectra = torch.fft.rfft2(product)
            scaled = x * (size / strength)
            to_filters.add(response_spectra, scaled)
            to_scaled = operator.synthesis_of(response_spectra)
            to_strength.sub_((to_scaled * scaled).sum((1, 2, 3), keepdim=True) / strength)
            to_w = through_image(to_scaled * (size / strength), spectra, image, x)
            to_v = _through_mask(to_w, v, mask, to_sum, to_mask)
        ctx.steps = ctx.last = None
        return None, None, None, None, to_mask, to_filters.result(), to_strength, None


def _extrapolated(
    v: torch.Tensor, response: torch.Tensor, mask: torch.Tensor | None, u: torch.Tensor, factor: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """clip(v + M response), where the next step starts, and M times that; a mask of None is one of ones."""
    if mask is not None and (kernels := fused_for(v)) is not None:
        return kernels.extrapolate(v, response, mask, u, float(factor))
    made = (v + response if mask is None else torch.addcmul(v, mask, response)).clamp(-1, 1)
    following = torch.lerp(u, made, 1 + factor)
    return made, following, following if mask is None else following * mask


def _through_clip(
    first: tuple[torch.Tensor, float],
    second: tuple[torch.Tensor, float] | None,
    made: torch.Tensor,
    response: torch.Tensor,
    mask: torch.Tensor,
    to_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the gradient of `made`, a sum of tensors times numbers, to that of v + M response, and M times it; its share
    in the gradient of M is added to to_mask.
    """
    if (kernels := fused_for(made)) is not None:
        return kernels.through_clip(first, second, made, response, mask, to_mask)
    to_sum = first[0] * first[1] if second is None else torch.add(first[0] * first[1], second[0], alpha=second[1])
    to_sum.mul_(made.abs() < 1)
    to_mask.addcmul_(to_sum, response)
    return to_sum, to_sum * mask


def _through_mask(
    to_w: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, to_sum: torch.Tensor, to_mask: torch.Tensor
) -> torch.Tensor:
    """From the gradients of M v and of v + M response to that of v; to_mask grows."""
    if (kernels := fused_for(to_w)) is not None:
        return kernels.through_mask(to_w, v, mask, to_sum, to_mask)
    to_mask.addcmul_(to_w, v)
    return to_sum.addcmul_(to_w, mask)
