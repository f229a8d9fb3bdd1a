"""One step of training, and all that has to be kept to go on exactly where it stopped.

A step takes a batch from the pool, makes one outer step of the unrolled schedule (mask of the stored x, then the inner
steps, of which the last are differentiated) or a chain of them, takes the loss on the result, and stores the new state.
Patches are continued periodically: W is diagonal in Fourier then and ||W|| exact; the loss leaves their border out. The
model that is exported has symmetric boundary, and so has the validation.
"""

import copy
import ctypes
import json
import math
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import torch

from ..errors import InputError, ModelError, SolverError, shown
from .capture import Captured, InGroups
from .data import Image, draw_patch, stacked
from .filters import FilterOperator
from .inner import DualState, dual_steps, primal, start, trained_steps
from .network import Network, network_of_state
from .optimizers import Optimizer
from .pool import Pool, on_device
from .settings import Settings
from .spline import by_kernels, kernels
from .teachers import Guide, Teacher

# PSNR in dB to be expected at sigma (of 255): the loss of a patch is its squared error over that of this line, so that
# a tenth of a decibel counts alike at every level.
EXPECTED = (
    (1.0, 49.0),
    (2.0, 44.0),
    (5.0, 37.9),
    (10.0, 33.8),
    (15.0, 31.6),
    (25.0, 29.1),
    (35.0, 27.6),
    (50.0, 26.2),
    (75.0, 24.5),
)

STATE_VERSION = 2  # of what `state_dict` gives


class Trainer:
    """A network in training on `images` ((H, W), or (P, H, W) for P planes, on [0, 1]); `averaged` is the network with
    the averaged weights.

    teachers: what the targets come from, mixed with the images by settings.share. device: where torch computes;
    everything that a step needs lies there, and elsewhere than on the CPU no step needs Numba.
    """

    def __init__(
        self,
        network: Network,
        images: Sequence[Image],
        settings: Settings,
        *,
        teachers: Sequence[Teacher] = (),
        device: str = "cpu",
    ):
        self.device = device
        if by_kernels(device):
            _keep_freed_memory()
            kernels().use_threads(torch.get_num_threads())
        if torch.device(device).type == "cuda":
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
        learned = network.learned_steps.shape[1]
        if learned not in (0, settings.inner):
            raise InputError(
                f"inner is {settings.inner}, but the weights have learned {learned} dual steps; train with as many, "
                f"or from weights without learned steps"
            )
        self.factors = network.steps(0, settings.inner)  # numbers, which a CUDA graph may hold
        self.network, self.settings = network.to(device), settings
        self.images = [stacked(image, network.planes).to(device) for image in images]
        _fix(network, settings.fixed)
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        for teacher in teachers:
            if teacher.high < settings.noise.low / 255 or teacher.low > settings.noise.high / 255:
                raise InputError(
                    f"teacher {teacher.name!r} knows sigma {255 * teacher.low:g} to {255 * teacher.high:g}, "
                    f"none of {settings.noise.low:g} to {settings.noise.high:g}"
                )
        self.guide = Guide(teachers, network.planes) if teachers else None
        where: dict[str, Any] = {"planes": network.planes, "device": device}
        self.pool = Pool(settings.pool, network.channels, settings.side, guided=bool(teachers), **where)
        self.rng = np.random.default_rng(settings.seed)
        self.noise = torch.Generator(device).manual_seed(settings.seed)
        self.optimizer = Optimizer(settings.optimizer, _parameter_groups(network, settings))
        self.step_number = 0
        self._begun: Any = self._begin
        self._differentiated: Any = self.differentiate
        if torch.device(device).type == "cuda":
            self._begun = InGroups(Captured(self._begin), max(1, settings.batch // 4))
            self._differentiated = Captured(self.differentiate)

    def step(self, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One step at this share of the run; the loss (1 where the expected PSNR is met) and the gradient's norm, as
        scalar tensors: reading them waits for the device.
        """
        settings, pool = self.settings, self.pool
        self._set_rates(progress)
        places = pool.draw(settings.batch, self.rng)
        self.renew(places)
        there = on_device(places, self.device)
        sigma = pool.sigma[there]
        inputs = (pool.noisy[there], self._target(there, progress), sigma, expected_error(sigma), pool.x[there])
        loss, norm, x, v = self._differentiated(*inputs, pool.dual[there])
        if self.device == "cpu":  # elsewhere whoever reads the norm asks
            self.check(float(norm))
        self.optimizer.step()
        pool.store(places, x, v, settings.chain)
        self.step_number += 1
        self._average()
        return loss, norm

    def renew(self, places: torch.Tensor) -> None:
        """New patches at those of `places` that are empty or done, after the first outer step, which has no mask."""
        with torch.no_grad():
            self.pool.renew(places, self.settings.visits, self._new_patch, self._begun)

    def check(self, norm: float) -> None:
        """Raise SolverError where the norm of a gradient is not finite: the weights are spoilt from there on."""
        if not math.isfinite(norm):
            raise SolverError(f"the gradient of step {self.step_number} is not finite; try lower learning rates")

    def differentiate(
        self,
        noisy: torch.Tensor,
        target: torch.Tensor,
        sigma: torch.Tensor,
        expected: torch.Tensor,
        x: torch.Tensor,
        dual: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Loss and norm of the gradient, which is left in the parameters, and where the outer steps end: x, v."""
        settings, network = self.settings, self.network
        self.optimizer.zero_grad()
        operator = FilterOperator(network.composed(), (settings.side, settings.side))
        conditions = network.at(sigma)
        made, v = x, dual.float()
        for _ in range(settings.chain):
            with self._autocast():
                mask = network.mask(made, conditions, operator)
            made, v = self._outer_step(operator, noisy, v, mask.float(), conditions.strength)
        inside = slice(settings.crop, settings.side - settings.crop)
        error = (made - target)[..., inside, inside].square().mean((1, 2, 3))
        loss = (error / expected).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        return loss.detach(), norm.detach(), made.detach(), v

    def _outer_step(
        self, operator: FilterOperator, y: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, strength: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The inner steps from v under one mask, of which the last are differentiated: x, v."""
        first, last = self.factors[: -self.settings.trained], self.factors[-self.settings.trained :]
        with torch.no_grad():
            state = dual_steps(operator, y, DualState(v, v), mask, strength, first)
        made, state = trained_steps(operator, y, state, mask, strength, last)
        return made, state.v

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on."""
        return {
            "family": self.network.family,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pool": self.pool.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "noise": self.noise.get_state(),
            "step": self.step_number,
            "settings": self.settings.record(),
            "device": self.device,
            "version": STATE_VERSION,
        }

    @classmethod
    def resume(
        cls,
        state: dict[str, Any],
        images: Sequence[Image],
        settings: Settings,
        *,
        teachers: Sequence[Teacher] = (),
        device: str = "cpu",
    ) -> "Trainer":
        """The trainer whose `state_dict` this is. Raises InputError where the settings are others."""
        if state.get("version") != STATE_VERSION:
            raise ModelError(
                "the checkpoint is of another version of safi_fast; start a new run from its weights (raw.safetensors)"
            )
        settings.check_resumable(state["settings"])
        if state["device"] != device:
            raise InputError(f"device is {shown(device)}, but the run to resume has {state['device']!r}")
        if bool(teachers) != ("guided" in state["pool"]):
            raise InputError(
                f"the run to resume {'had no' if teachers else 'had'} teachers; pass what it was started with"
            )
        network = network_of_state(state["family"], state["network"])
        trainer = cls(network, images, settings, teachers=teachers, device=device)
        trainer.averaged.take_over_state(state["averaged"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.pool.load_state_dict(state["pool"])
        trainer.rng.bit_generator.state = json.loads(state["rng"])
        trainer.noise.set_state(state["noise"].cpu())
        trainer.step_number = int(state["step"])
        return trainer

    def _new_patch(self) -> tuple[torch.Tensor, float, torch.Tensor]:
        side = self.settings.side
        clean = draw_patch(self.images, side, self.rng)
        sigma = self.settings.noise.draw(self.rng)
        return clean, sigma, torch.randn(clean.shape, generator=self.noise, device=self.device)

    def _target(self, places: torch.Tensor, progress: float) -> torch.Tensor:
        """What the result of these patches is compared with, (B, P, H, W): the clean image, or a mixture with what
        teachers make.
        """
        pool = self.pool
        if pool.guided is None:
            return pool.clean[places]
        share = self.settings.share.at(pool.sigma[places], progress).view(-1, 1, 1, 1)
        return torch.lerp(pool.clean[places], pool.guided[places], share)

    def _autocast(self) -> AbstractContextManager[Any]:
        """In which convolutions take bfloat16, where the settings ask for it."""
        device = self.device.split(":")[0]
        enabled = self.settings.autocast
        return torch.autocast(device, torch.bfloat16, enabled=enabled, cache_enabled=False)  # type: ignore[no-any-return]

    def _begin(self, y: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the teachers make of new patches, and the first outer step, without mask."""
        operator = FilterOperator(self.network.composed(), (self.settings.side, self.settings.side))
        strength = self.network.at(sigma).strength
        state = dual_steps(operator, y, start(operator, y, strength), None, strength, self.factors)
        guided = clean if self.guide is None else self.guide(y, clean, sigma)
        return guided, primal(operator, y, state.u, None, strength), state.v

    def _set_rates(self, progress: float) -> None:
        self.optimizer.set_rates(self.settings.rate(self.step_number, progress))

    def _average(self) -> None:
        """The share that is kept grows from the start, so that the first weights do not stay in the average."""
        keep = min(self.settings.average, self.step_number / (self.step_number + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), 1 - keep)


def _fix(network: Network, names: Sequence[str]) -> None:
    """Leave these parameters out of the training. Raises InputError for one that the network has not."""
    parameters = dict(network.named_parameters())
    for name in names:
        if name not in parameters:
            raise InputError(f"fixed has {shown(name)}; expected names among {', '.join(parameters)}")
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise InputError("fixed names every parameter; nothing is left to train")


def _parameter_groups(network: Network, settings: Settings) -> list[dict[str, Any]]:
    """Parameters of one learning rate together, and layers of the mask with as many inputs as outputs, `matrices`,
    apart.
    """
    rates = {"layers": settings.filter_rate, "log_strength": settings.strength_rate}
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part = name.split(".")[0]
            square = part == "convolutions" and parameter.shape[0] == parameter.shape[1] > 1
            groups.setdefault((rates.get(part, settings.mask_rate), square), []).append(parameter)
    return [
        {"params": members, "lr": rate, "highest_rate": rate, "matrices": square}
        for (rate, square), members in groups.items()
    ]


def expected_error(sigma: torch.Tensor) -> torch.Tensor:
    """Mean squared error at sigma (B,) that corresponds to EXPECTED."""
    levels, decibels = _expected(sigma.device)
    place = 255 * sigma.clamp(EXPECTED[0][0] / 255, EXPECTED[-1][0] / 255)
    above = torch.searchsorted(levels, place.contiguous()).clamp(1, len(levels) - 1)
    share = (place - levels[above - 1]) / (levels[above] - levels[above - 1])
    return 10 ** (-torch.lerp(decibels[above - 1], decibels[above], share) / 10)


@cache
def _expected(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    levels, decibels = torch.tensor(EXPECTED, device=device).T.contiguous()
    return levels, decibels


def _keep_freed_memory() -> None:
    """Ask glibc to reuse freed arrays instead of giving them back to the system, which costs a page fault per 4 kB next
    time.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((-3, 32 << 20), (-1, 2**31 - 1), (-2, 64 << 20)):  # mmap and trim threshold, top pad
            mallopt(parameter, value)
