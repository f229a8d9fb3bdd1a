"""SAFI for deepinv: a denoiser for its algorithms (plug-and-play), and a reconstructor for its physics.

    from safi_fast.integrations.deepinv import SafiDenoiser, SafiReconstructor

    x = SafiDenoiser()(y, sigma)                            tensors (B, C, H, W), sigma a number or (B,)
    x = SafiReconstructor(strength=3e-4)(y, physics)        y = physics(x)

Results lie where the input does and have no gradient. Written for deepinv 0.5.
"""

from __future__ import annotations

from collections.abc import Hashable
from os import PathLike
from typing import Any
from weakref import WeakKeyDictionary

import torch
from deepinv.models import Denoiser, Reconstructor

from .. import api
from ..arrays import positive
from ..errors import InputError, shown
from ..model import Model
from ..models import resolve
from .physics import Bridge, bridge

__all__ = ["SafiDenoiser", "SafiReconstructor"]


class SafiDenoiser(Denoiser):
    """`safi_fast.denoise` as a Denoiser of deepinv.

    Two channels, such as real and imaginary part, and more than three are denoised each for itself, three as red, green
    and blue. Nothing is refused for its values or clipped unless `box` is passed: iterates leave [0, 1].

    A sigma beyond the levels of the model is brought to them: more noise by less contrast, less noise by going
    sigma / least of the way to the image that the least level gives.
    """

    def __init__(self, model: Model | str | PathLike[str] | None = None, *, backend: str = "auto", **options: Any):
        """model, backend, options: as for `safi_fast.denoise`; box is None unless it is passed. Raises ModelError."""
        super().__init__()
        self.model = resolve(model)
        self.asked_for = model  # None: the default, which is another model for colour
        self.backend = backend
        self.options = {"box": None, **options}

    def forward(self, x: Any, sigma: Any, **kwargs: Any) -> Any:
        """Remove white Gaussian noise.

        Parameters
        ----------
        x : tensor, (B, C, H, W)
            Floating point, black 0 and white 1, but for noise.
        sigma : float or tensor, (B,), (1,), () or (B, 1, 1, 1)
            Standard deviation of the noise, from 0.

        Returns
        -------
        tensor, (B, C, H, W)
            On the device of x, of its dtype.

        Raises
        ------
        InputError
            For another shape or sigma.
        """
        if not isinstance(x, torch.Tensor) or x.ndim != 4 or not x.is_floating_point():
            found = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise InputError(f"x is {found}; expected a tensor of floating-point numbers, (B, C, H, W)")
        levels = _levels(sigma, x)
        least, most = (float(level) for level in self.model.noise_levels[[0, -1]])
        contrast = (most / levels.clamp(min=most)).view(-1, 1, 1, 1)
        way = (levels / least).clamp(max=1).view(-1, 1, 1, 1)
        options = self.options if x.shape[1] == 1 else {"channel_axis": 1, **self.options}
        model = self.asked_for if x.shape[1] == 3 else self.model
        with torch.no_grad():
            clean = api.denoise(
                x * contrast.to(x), levels.clamp(least, most).cpu().numpy(), model=model, backend=self.backend,
                **options,
            )  # fmt: skip
            return (x + way * (clean / contrast - x)).to(x.dtype)


class SafiReconstructor(Reconstructor):
    """`safi_fast.reconstruct` as a Reconstructor of deepinv.

    The physics becomes an operator of safi_fast where it is the same map, and otherwise is called (see
    safi_fast/integrations/physics.py). Every image ends by its own certificate. `solution` is the Solution of the last
    call, `operators` what it was solved with.
    """

    def __init__(
        self,
        strength: Any,
        model: Model | str | PathLike[str] | None = None,
        *,
        backend: str = "auto",
        **options: Any,
    ):
        """strength: lambda > 0 for images on [0, 1], of one physics. Others as for `safi_fast.reconstruct`.

        Raises ModelError, InputError.
        """
        super().__init__()
        self.strength = positive("strength", strength)
        self.model = resolve(model)
        self.backend, self.options = backend, options
        self.solution: Any = None
        self.operators: list[Any] = []

    def forward(self, y: Any, physics: Any, **kwargs: Any) -> Any:
        """Reconstruct images from y = physics(x).

        Parameters
        ----------
        y : tensor, (B, ...)
            As the physics gives it.
        physics : deepinv.physics.LinearPhysics
            Of 2D images; complex ones, of MRI and MultiCoilMRI, as two channels.

        Returns
        -------
        tensor, (B, C, H, W)
            On the device of y.

        Raises
        ------
        InputError, OperatorError, SolverError
            As `safi_fast.reconstruct`; InputError also for a physics that is not linear or mixes channels.
        """
        if not isinstance(y, torch.Tensor):
            raise InputError(f"y is a {type(y).__name__}; expected a tensor of measurements of the physics")
        found = _bridge(physics, y)
        options = dict(self.options)
        if found.complex:
            options.setdefault("box", None)
        operators = found.operators[0] if len(found.operators) == 1 else found.operators
        self.operators = found.operators
        with torch.no_grad():
            self.solution = api.reconstruct(
                found.measured(y.detach().float()), operators, strength=self.strength, model=self.model,
                backend=self.backend, **options,
            )  # fmt: skip
            return found.image(self.solution.image).to(y.device)


_made: WeakKeyDictionary[Any, tuple[Hashable, Bridge]] = WeakKeyDictionary()


def _bridge(physics: Any, y: Any) -> Bridge:
    """That of an earlier call where neither physics nor the shape of y has changed. Raises InputError."""
    if not isinstance(physics, torch.nn.Module):
        return bridge(physics, y)  # which refuses it
    state, known = (tuple(y.shape), *_state(physics)), _made.get(physics)
    if known is None or known[0] != state:
        known = _made[physics] = state, bridge(physics, y.detach().float())
    return known[1]


def _state(physics: Any) -> list[Hashable]:
    """What tells whether tensors and settings of a physics are still those that they were."""
    tensors = [*physics.named_buffers(), *physics.named_parameters()]
    found: list[Hashable] = [(name, t.data_ptr(), t._version, tuple(t.shape)) for name, t in tensors]
    return found + [(name, value) for name, value in vars(physics).items() if _plain(value)]


def _plain(value: Any) -> bool:
    """Whether a setting may be compared: a number, a text, a tuple of such."""
    return all(map(_plain, value)) if isinstance(value, tuple) else isinstance(value, int | float | str)


def _levels(sigma: Any, x: Any) -> Any:
    """sigma as a tensor (B,) where x lies. Raises InputError."""
    expected = f"a number of at least 0, or {len(x)} of them, one per image"
    try:
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).detach().reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"sigma is {shown(sigma)}; expected {expected}") from None
    if levels.numel() not in (1, len(x)) or not bool((torch.isfinite(levels) & (levels >= 0)).all()):
        raise InputError(f"sigma is {shown(sigma)}; expected {expected}")
    return levels.expand(len(x))
