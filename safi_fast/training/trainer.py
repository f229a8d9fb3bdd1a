"""One step of training, and all that has to be kept to go on exactly where it stopped.

A step takes a batch from the pool, makes one outer step of the unrolled schedule (mask of the stored x, then the inner steps, of
which the last are differentiated), takes the loss on the result, and stores the new state. Patches are continued periodically:
W is diagonal in Fourier then and ||W|| exact; the loss leaves their border out. The model that is exported has symmetric
boundary, and so has the validation.
"""

import copy
import ctypes
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import InputError, shown
from .data import Image, draw_patch
from .filters import FilterOperator
from .inner import DualState, dual_steps, momenta, primal, start, trained_steps
from .network import Network, network_of_state
from .pool import Pool
from .settings import Settings
from .spline import kernels

# PSNR in dB to be expected at sigma (of 255): the loss of a patch is its squared error over that of this line, so that
# a tenth of a decibel counts alike at every level.
EXPECTED = ((1, 49.0), (2, 44.0), (5, 37.9), (10, 33.8), (15, 31.6), (25, 29.1), (35, 27.6), (50, 26.2), (75, 24.5))


class Trainer:
    """A network in training on `images` (grey, on [0, 1]); `averaged` is the network with the averaged weights."""

    def __init__(self, network: Network, images: Sequence[Image], settings: Settings):
        _keep_freed_memory()
        kernels.use_threads(torch.get_num_threads())
        self.network, self.images, self.settings = network, images, settings
        _fix(network, settings.fixed)
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self.pool = Pool(settings.pool, network.channels, settings.side)
        self.rng = np.random.default_rng(settings.seed)
        self.optimizer = torch.optim.Adam(_parameter_groups(network, settings), betas=(0.9, 0.99), foreach=True)
        self.step_number = 0

    def step(self, progress: float) -> tuple[float, float]:
        """One step at this share of the run; the loss (1 where the expected PSNR is met) and the gradient's norm."""
        settings, network, pool = self.settings, self.network, self.pool
        self._set_rates(progress)
        filters = network.composed()
        operator = FilterOperator(filters, (settings.side, settings.side))
        places = pool.draw(settings.batch, self.rng)
        with torch.no_grad():
            pool.renew(places, settings.visits, self._new_patch, lambda y, sigma: self._begin(operator, y, sigma))
        noisy, clean, sigma = pool.noisy[places], pool.clean[places], pool.sigma[places]
        conditions = network.at(sigma)
        mask = network.mask(pool.x[places], conditions, operator)
        with torch.no_grad():
            dual = pool.dual[places].float()
            free = momenta(0, settings.inner - settings.trained)
            state = dual_steps(operator, noisy, DualState(dual, dual), mask, conditions.strength, free)
        factors = momenta(settings.inner - settings.trained, settings.inner)
        x, state = trained_steps(operator, noisy, state, mask, conditions.strength, factors)
        inside = slice(settings.crop, settings.side - settings.crop)
        error = (x - clean)[..., inside, inside].square().mean((1, 2, 3))
        loss = (error / _expected_error(sigma)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"the gradient of step {self.step_number} is not finite; try lower learning rates")
        self.optimizer.step()
        pool.store(places, x, state.v)
        self.step_number += 1
        self._average()
        return float(loss.detach()), float(norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on."""
        return {
            "family": self.network.family,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pool": self.pool.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "step": self.step_number,
            "settings": self.settings.record(),
        }

    @classmethod
    def resume(cls, state: dict[str, Any], images: Sequence[Image], settings: Settings) -> "Trainer":
        """The trainer whose `state_dict` this is. Raises InputError where the settings are others."""
        settings.check_resumable(state["settings"])
        trainer = cls(network_of_state(state["family"], state["network"]), images, settings)
        trainer.averaged.load_state_dict(state["averaged"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.pool.load_state_dict(state["pool"])
        trainer.rng.bit_generator.state = json.loads(state["rng"])
        trainer.step_number = int(state["step"])
        return trainer

    def _new_patch(self) -> tuple[Image, float, Image]:
        side = self.settings.side
        clean = draw_patch(self.images, side, self.rng)
        sigma = self.settings.noise.draw(self.rng)
        return clean, sigma, self.rng.standard_normal((side, side), dtype=np.float32)

    def _begin(
        self, operator: FilterOperator, y: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first outer step, without mask."""
        strength = self.network.at(sigma).strength
        state = dual_steps(operator, y, start(operator, y, strength), None, strength, momenta(0, self.settings.inner))
        return primal(operator, y, state.u, None, strength), state.v

    def _set_rates(self, progress: float) -> None:
        settings = self.settings
        factor = max(settings.last_rate, (1 + math.cos(math.pi * progress)) / 2)
        factor *= min(1.0, (self.step_number + 1) / settings.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_rate"] * factor

    def _average(self) -> None:
        """The share that is kept grows from the start, so that the first weights do not stay in the average."""
        keep = min(self.settings.average, self.step_number / (self.step_number + 10))
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)


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
    rates = {"layers": settings.filter_rate, "log_strength": settings.strength_rate}
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(rates.get(name.split(".")[0], settings.mask_rate), []).append(parameter)
    return [{"params": members, "lr": rate, "highest_rate": rate} for rate, members in groups.items()]


def _expected_error(sigma: torch.Tensor) -> torch.Tensor:
    """Mean squared error at sigma (B,) that corresponds to EXPECTED."""
    levels, decibels = zip(*EXPECTED, strict=True)
    values = np.interp(255 * sigma.numpy(), levels, decibels)
    return torch.from_numpy(10 ** (-values / 10)).float()


def _keep_freed_memory() -> None:
    """Ask glibc to reuse freed arrays instead of giving them back to the system, which costs a page fault per 4 kB next time."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((-3, 32 << 20), (-1, 2**31 - 1), (-2, 64 << 20)):  # mmap and trim threshold, top pad
            mallopt(parameter, value)
