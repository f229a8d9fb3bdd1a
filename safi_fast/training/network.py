"""The trainable models in torch, and their way from and to `safi_fast.model.Model`.

Shapes: image (B, P, H, W) on [0, 1], P planes; dual variable and mask (B, C, H, W); sigma (B,), standard deviation for
images on [0, 1]. The dual variable is divided by lambda, and W is scaled to a fixed norm in every forward pass, so the
step size is 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ..errors import InputError, shown
from ..masks import MmrMask, SafiMask
from ..model import FilterBank, Model, Schedule, StepFactors, Strength
from .filters import FilterOperator, compose, extend, fold, squared_norm
from .inner import Step, dual_steps, fista_steps, primal, start
from .spline import spline

KNOTS = 21
LEVELS = (1, 2, 5, 10, 15, 25, 35, 50, 75)  # of 255; where the tables of a new model may have rows
FIRST_STRENGTH = 0.03  # lambda of a new model at sigma = 25 / 255, with ||W|| = 1
SMALLEST_GAIN = 1e-3  # of an MMR mask, whose scale may not be negative
COMPOSED_SCALE = 0.1  # rms of the weights of a layer of W that is taken over; W is normalised, so it sets their rate


@dataclass(frozen=True)
class Conditions:
    """What the network is at the noise levels of a batch: lambda (B, 1, 1, 1); gain and bias (B, C, 1, 1)."""

    strength: torch.Tensor
    gain: torch.Tensor
    bias: torch.Tensor


class Network(nn.Module):
    """What both families share: W and the tables over sigma. A subclass has `mask`, `mask_part` and a `family`.

    layers: W as a cascade, zero-mean when used. log_strength (K,), gain and bias (K, C): one row per noise level.
    learned_steps (2, n): sizes and momenta of the dual steps; none for FISTA's. Not trained here (`fitting.py`).
    """

    family: str
    learned_steps: torch.Tensor

    def __init__(self, layers: Sequence[torch.Tensor], levels: torch.Tensor):
        super().__init__()
        channels, rows = layers[0].shape[0], len(levels)
        self.layers = nn.ParameterList([nn.Parameter(layer.clone()) for layer in layers])
        self.log_strength = nn.Parameter(torch.log(FIRST_STRENGTH * levels * 255 / 25).float())
        self.gain = nn.Parameter(torch.ones(rows, channels))
        self.bias = nn.Parameter(torch.zeros(rows, channels))
        self.register_buffer("levels", levels.double())
        self.register_buffer("norm", torch.ones(()))
        self.register_buffer("converged_ratio", torch.ones(rows, dtype=torch.float64))
        self.register_buffer("learned_steps", torch.zeros(2, 0, dtype=torch.float64))

    @property
    def channels(self) -> int:
        """C, the number of filters."""
        return int(self.gain.shape[1])

    @property
    def planes(self) -> int:
        """P, the planes of an image."""
        return int(self.layers[0].shape[1])

    def steps(self, start: int, stop: int) -> list[Step]:
        """The dual steps start .. stop - 1 of an outer step. Raises InputError beyond those that were learned."""
        learned = self.learned_steps
        if not learned.shape[1]:
            return fista_steps(start, stop)
        if stop > learned.shape[1]:
            raise InputError(f"inner is {stop}, but the network has learned {learned.shape[1]} steps")
        return [Step(*pair) for pair in learned[:, start:stop].T.tolist()]

    def composed(self) -> torch.Tensor:
        """W as one kernel per channel and plane, (C, P, K, K), zero-mean, of the norm that the network keeps."""
        filters = compose([layer - layer.mean((2, 3), keepdim=True) for layer in self.layers])
        return filters * (self.norm / squared_norm(filters).detach().sqrt())

    def at(self, sigma: torch.Tensor) -> Conditions:
        """The tables at sigma (B,), as the engine reads them: linear in sigma, lambda in its logarithm."""
        if len(self.levels) == 1:
            below = above = torch.zeros(len(sigma), dtype=torch.long, device=sigma.device)
            share = torch.zeros_like(sigma)
        else:
            below = (torch.searchsorted(self.levels, sigma.double().contiguous()) - 1).clamp(0, len(self.levels) - 2)
            above = below + 1
            share = ((sigma - self.levels[below]) / (self.levels[above] - self.levels[below])).float()

        def between(table: torch.Tensor) -> torch.Tensor:
            part = share.view(-1, *[1] * (table.ndim - 1))
            return (1 - part) * table[below] + part * table[above]

        strength = between(self.log_strength).exp()[:, None, None, None]
        return Conditions(strength, between(self.gain)[..., None, None], between(self.bias)[..., None, None])

    def mask(self, x: torch.Tensor, conditions: Conditions, operator: FilterOperator) -> torch.Tensor:
        """M(x) (B, C, H, W); the operator's boundary is that of the mask."""
        raise NotImplementedError

    def mask_part(self) -> SafiMask | MmrMask:
        """The mask generator of a Model."""
        raise NotImplementedError

    def forward(
        self, y: torch.Tensor, sigma: torch.Tensor, outer: int, inner: int, boundary: str = "symmetric"
    ) -> torch.Tensor:
        """The unrolled schedule, outer x inner steps: noisy (B, P, H, W) -> denoised, as the engine does it."""
        operator = FilterOperator(self.composed(), tuple(y.shape[-2:]), boundary)
        conditions = self.at(sigma)
        strength = conditions.strength
        state, mask = start(operator, y, strength), None
        for step in range(outer):
            if step:
                mask = self.mask(primal(operator, y, state.u, mask, strength), conditions, operator)
                state = type(state)(state.v, state.v)
            state = dual_steps(operator, y, state, mask, strength, self.steps(0, inner))
        return primal(operator, y, state.u, mask, strength)

    def to_model(self, name: str, schedule: Schedule, metadata: dict[str, str]) -> Model:
        """The weights as a Model with symmetric boundary and composed filters."""
        with torch.no_grad():
            bank = FilterBank((_array(self.composed()),), "symmetric")
            unrolled = self.log_strength.double().exp().cpu().numpy()
            converged = unrolled * self.converged_ratio.cpu().numpy()
            part, levels = self.mask_part(), self.levels.cpu().numpy()
        strength = Strength(unrolled, converged)
        sizes, factors = self.learned_steps.cpu().numpy().astype(np.float32)
        steps = StepFactors(sizes, factors) if len(sizes) else None
        return Model(name, self.family, bank, part, strength, levels, schedule, metadata, 1.0, steps)

    def take_over_state(self, state: dict[str, torch.Tensor]) -> None:
        """What `state_dict` gave, with as many learned steps as it has."""
        self.learned_steps = state["learned_steps"]
        self.load_state_dict(state)

    def _take_over(self, model: Model) -> float:
        """Strength and norm of `model`; gives sqrt(||W||^2), by which its filters were divided."""
        scale = math.sqrt(model.lipschitz or float(squared_norm(torch.tensor(model.filters.composed()))))
        unrolled, converged = model.strength.unrolled, model.strength.converged
        with torch.no_grad():
            self.log_strength.copy_(torch.log(torch.tensor(unrolled) * scale))
            self.converged_ratio.copy_(torch.tensor(converged / unrolled))
            if model.steps is not None:
                self.learned_steps = torch.tensor(
                    np.stack([model.steps.size, model.steps.momentum]), dtype=torch.float64
                )
            self.norm.copy_(squared_norm(torch.tensor(model.filters.composed())).sqrt() / scale)
        return scale


class SafiNetwork(Network):
    """M(x) = sigmoid(s3(V3 s2(V2 s1(gain . V1 x))) + bias)."""

    family = "safi"

    def __init__(
        self,
        layers: Sequence[torch.Tensor],
        levels: torch.Tensor,
        convolutions: Sequence[torch.Tensor],
        dilations: Sequence[int],
        splines: Sequence[torch.Tensor],
    ):
        super().__init__(layers, levels)
        self.convolutions = nn.ParameterList([nn.Parameter(v.clone()) for v in convolutions])
        self.splines = nn.ParameterList([nn.Parameter(s.clone()) for s in splines])
        self.dilations = tuple(dilations)
        self.register_buffer("spacing", torch.tensor(self.dilations))

    @classmethod
    def of_state(cls, state: dict[str, torch.Tensor]) -> "SafiNetwork":
        """The network whose `state_dict` this is."""
        convolutions, splines = _listed(state, "convolutions"), _listed(state, "splines")
        network = cls(_listed(state, "layers"), state["levels"], convolutions, state["spacing"].tolist(), splines)
        network.take_over_state(state)
        return network

    def mask(self, x: torch.Tensor, conditions: Conditions, operator: FilterOperator) -> torch.Tensor:
        """M(x) (B, C, H, W) in (0, 1)."""
        z = x
        for i, (weight, dilation) in enumerate(zip(self.convolutions, self.dilations, strict=True)):
            z = functional.conv2d(
                extend(z, dilation * (weight.shape[-1] // 2), operator.boundary), weight, dilation=dilation
            )
            z = spline(z * conditions.gain if i == 0 else z, self.splines[i])
        return torch.sigmoid(z + conditions.bias)

    def mask_part(self) -> SafiMask:
        """The mask generator of a Model."""
        convolutions, splines = (tuple(_array(v) for v in group) for group in (self.convolutions, self.splines))
        return SafiMask(convolutions, self.dilations, splines, _array(self.gain), _array(self.bias), "symmetric")

    @classmethod
    def of_model(cls, model: Model, mask: SafiMask) -> "SafiNetwork":
        """The network that computes what `model` does."""
        convolutions, splines = ([_tensor(v) for v in group] for group in (mask.convolutions, mask.splines))
        network = cls(_layers(model), torch.tensor(model.noise_levels), convolutions, mask.dilations, splines)
        network._take_over(model)
        with torch.no_grad():
            network.gain.copy_(_tensor(mask.gain))
            network.bias.copy_(_tensor(mask.bias))
        return network

    @classmethod
    def fresh(
        cls,
        channels: int,
        levels: torch.Tensor,
        generator: torch.Generator,
        dilations: Sequence[int] = (1, 3, 3),
        planes: int = 1,
    ) -> "SafiNetwork":
        """Random filters; a mask layer of 7x7, then 3x3 with these dilations."""
        later = len(dilations) - 1
        inputs, sides = (planes, *[channels] * later), (7, *[3] * later)
        convolutions = [_uniform((channels, n, k, k), generator) for n, k in zip(inputs, sides, strict=True)]
        knots = torch.linspace(-1, 1, KNOTS)
        shapes = (knots - knots.clamp(-0.1, 0.1), *[knots.clamp(min=0)] * (later - 1), knots)
        splines = [shape.repeat(channels, 1) for shape in shapes]
        network = cls(_random_layers(channels, planes, generator), levels, convolutions, dilations, splines)
        with torch.no_grad():  # the same first features at every level
            network.gain.copy_((25 / 255 / levels).sqrt()[:, None].expand_as(network.gain))
        return network


class MmrNetwork(Network):
    """M(x) = G^T clip(phi(scale . G |W x|), 0, 1), with the signs that make the iteration converge.

    smoothing: raw kernels of G, used as |.| with sum one; falls (C, n - 1): phi falls by softplus of them from knot to
    knot. scale is exp(log_scale) times the table of gains, which is trained where there are several levels; the table
    of biases stays zeros.
    """

    family = "mmr"

    def __init__(
        self,
        layers: Sequence[torch.Tensor],
        levels: torch.Tensor,
        smoothing: Sequence[torch.Tensor],
        falls: torch.Tensor,
        scale: torch.Tensor,
    ):
        super().__init__(layers, levels)
        self.smoothing = nn.ParameterList([nn.Parameter(layer.clone()) for layer in smoothing])
        self.falls = nn.Parameter(falls.clone())
        self.log_scale = nn.Parameter(scale.log())
        self.gain.requires_grad_(len(levels) > 1)
        self.bias.requires_grad_(False)

    @classmethod
    def of_state(cls, state: dict[str, torch.Tensor]) -> "MmrNetwork":
        """The network whose `state_dict` this is."""
        scale = state["log_scale"].exp()
        network = cls(_listed(state, "layers"), state["levels"], _listed(state, "smoothing"), state["falls"], scale)
        network.take_over_state(state)
        return network

    def kernels(self) -> list[torch.Tensor]:
        """The layers of G, (C, 1, k, k) each, non-negative with sum one."""
        return [layer.abs() / layer.abs().sum((2, 3), keepdim=True) for layer in self.smoothing]

    def profile(self) -> torch.Tensor:
        """phi at its knots on [0, 1], (C, n): from one, not increasing."""
        falls = functional.softplus(self.falls)
        return torch.cat([torch.ones_like(falls[:, :1]), 1 - falls.cumsum(1)], dim=1)

    def mask(self, x: torch.Tensor, conditions: Conditions, operator: FilterOperator) -> torch.Tensor:
        """M(x) (B, C, H, W) in [0, 1]."""
        kernels = self.kernels()
        z = operator.analysis(x).abs()
        for kernel in kernels:
            z = functional.conv2d(extend(z, kernel.shape[-1] // 2, operator.boundary), kernel, groups=self.channels)
        scale = self.log_scale.exp()[:, None, None] * conditions.gain.clamp(min=SMALLEST_GAIN)
        z = spline(z * scale, self.profile(), 0.0).clamp(0, 1)
        for kernel in reversed(kernels):
            z = self._adjoint(z, kernel, operator.boundary)
        return z

    def _adjoint(self, z: torch.Tensor, kernel: torch.Tensor, boundary: str) -> torch.Tensor:
        reach = kernel.shape[-1] // 2
        if boundary == "circular":
            return functional.conv2d(extend(z, reach, boundary), kernel.flip(2, 3), groups=self.channels)
        wide = functional.pad(z, (2 * reach,) * 4)
        return fold(functional.conv2d(wide, kernel.flip(2, 3), groups=self.channels), reach)

    def mask_part(self) -> MmrMask:
        """The mask generator of a Model."""
        scale = self.log_scale.exp() * self.gain.clamp(min=SMALLEST_GAIN)
        scale = scale[0] if len(scale) == 1 else scale
        return MmrMask(tuple(_array(k) for k in self.kernels()), _array(self.profile()), _array(scale))

    @classmethod
    def of_model(cls, model: Model, mask: MmrMask) -> "MmrNetwork":
        """The network that computes what `model` does, to the smallest fall that softplus gives."""
        falls = torch.tensor(-np.diff(mask.profile.astype(np.float64), axis=1)).clamp(min=1e-8)
        raw = torch.where(falls > 20, falls, falls + torch.log(-torch.expm1(-falls)))
        smoothing = [_tensor(layer) for layer in mask.smoothing]
        rows = _tensor(np.atleast_2d(mask.scale)).clamp(min=1e-6)
        scale = rows.mean(0)
        network = cls(_layers(model), torch.tensor(model.noise_levels), smoothing, raw.float(), scale)
        divided = network._take_over(model)
        with torch.no_grad():
            network.log_scale.add_(math.log(divided))
            network.gain.copy_(rows / scale)
        return network

    @classmethod
    def fresh(cls, channels: int, levels: torch.Tensor, generator: torch.Generator, planes: int = 1) -> "MmrNetwork":
        """Random filters; G of two 7x7 layers near the mean, phi falling to 0 at its last knot."""
        smoothing = [1 + 0.1 * torch.rand((channels, 1, 7, 7), generator=generator) for _ in range(2)]
        fall = math.log(math.expm1(1 / (KNOTS - 1)))
        falls = torch.full((channels, KNOTS - 1), fall)
        return cls(_random_layers(channels, planes, generator), levels, smoothing, falls, torch.full((channels,), 20.0))


FAMILIES: dict[str, Any] = {"safi": SafiNetwork, "mmr": MmrNetwork}


def network_of(model: Model) -> Network:
    """The network of a Model, for going on with its training; boundary and step size become those of training.

    Exact for symmetric boundary and lipschitz 1, as all models made here have. Otherwise W is divided by
    sqrt(lipschitz), which changes where the unrolled schedule starts, and zero padding becomes symmetric extension.
    """
    network: Network = FAMILIES[model.family].of_model(model, model.mask)
    return network


def fresh_network(
    family: str,
    channels: int,
    levels: Sequence[float],
    seed: int,
    dilations: Sequence[int] | None = None,
    planes: int = 1,
) -> Network:
    """A network to train from scratch, for these noise levels (on [0, 1], ascending).

    dilations: of the mask layers of a SAFI network. Raises InputError.
    """
    if family not in FAMILIES:
        raise InputError(f"family is {shown(family)}; expected one of {', '.join(FAMILIES)}")
    if channels < 1:
        raise InputError(f"channels is {channels}; expected at least 1")
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {} if dilations is None else {"dilations": tuple(dilations)}
    if options and family != "safi":
        raise InputError(f"dilations are {tuple(dilations or ())}, but a mask of the family {family} has none")
    if options and len(options["dilations"]) < 2:
        raise InputError(f"dilations are {options['dilations']}; a SAFI mask has at least two layers")
    rows = torch.tensor(levels, dtype=torch.float64)
    network: Network = FAMILIES[family].fresh(channels, rows, generator, planes=planes, **options)
    return network


def level_table(low: float, high: float) -> tuple[float, ...]:
    """The noise levels of a new model for sigma in low .. high (8-bit scale): both ends and those of LEVELS between,
    over 255.

    A table cannot begin at 0, where nothing is to be done: a range from 0 begins at the first of LEVELS.
    """
    low = max(low, LEVELS[0])
    if not low <= high <= 255:
        raise InputError(f"sigma range is {low:g} to {high:g}; expected an ascending range within {LEVELS[0]} to 255")
    return tuple(level / 255 for level in sorted({low, high, *(level for level in LEVELS if low < level < high)}))


def network_of_state(family: str, state: dict[str, torch.Tensor]) -> Network:
    """The network of this family whose `state_dict` this is."""
    network: Network = FAMILIES[family].of_state(state)
    return network


def _listed(state: dict[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    return [state[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in state))]


def _layers(model: Model) -> list[torch.Tensor]:
    """The layers of W, zero-mean composed bank and all, each scaled to COMPOSED_SCALE; the norm is kept apart."""
    layers = model.filters.layers if model.filters.boundary == "zero" else (model.filters.composed(),)
    return [
        _tensor(layer) * (COMPOSED_SCALE / float(np.sqrt(np.mean(layer.astype(np.float64) ** 2)))) for layer in layers
    ]


def _random_layers(channels: int, planes: int, generator: torch.Generator) -> list[torch.Tensor]:
    first = torch.randn((channels, planes, 7, 7), generator=generator) / 7
    return [first, torch.randn((channels, channels, 7, 7), generator=generator) / (7 * math.sqrt(channels))]


def _uniform(shape: tuple[int, int, int, int], generator: torch.Generator) -> torch.Tensor:
    bound = 1 / math.sqrt(shape[1] * shape[2] * shape[3])
    return bound * (2 * torch.rand(shape, generator=generator) - 1)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.tensor(np.asarray(array, np.float32))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = tensor.detach().float().cpu().numpy().copy()
    return values
