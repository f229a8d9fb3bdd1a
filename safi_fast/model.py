"""A model as data: filter bank, mask generator, strength and the noise levels they hold for.

Everything here is frozen, owns read-only NumPy arrays and is checked when it is made: what exists is valid. A wrong
tensor is refused with ModelError under the name that it has in a weights file. Nothing here computes an image.

A model may hold for several noise levels (K of them): strength, gain and bias then have one row per level.
The formulas are those of arXiv 2407.06608.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, ModelError, shown
from .masks import FAMILIES, Mask, SafiMask, check_levels, check_members
from .parts import BOUNDARIES, Rebuilt, check_planes, kernels_of, one_of, tensor_of

SCHEDULES = ("unrolled", "converged", "gap")
MAX_SUPPORT = 17  # the widest composed filter that the kernels are built for
LEVEL_TOLERANCE = 0.01  # relative; how far sigma may lie outside the noise levels of a model


@dataclass(frozen=True, eq=False)
class FilterBank(Rebuilt):
    """W, an image of P planes to C channels: a cascade of cross-correlations without anything in between.

    (W x)_c = sum over p of w_cp * x_p; P = 1 is a grey image.

    layers: float32, (C, P, k, k) then (C, C, k, k) each; one layer is a composed bank. k is odd and may differ.
    boundary: "zero" pads every layer with zeros to the size of the image (the published rule); "symmetric" applies
    the composed filters to the image extended by half-sample reflection. Raises ModelError.
    """

    layers: tuple[NDArray[np.float32], ...] = field(repr=False)
    boundary: str

    def __post_init__(self) -> None:
        if not self.layers:
            raise ModelError("tensor filters is missing: a filter bank needs at least one layer")
        names = _layer_names(len(self.layers))
        first = kernels_of(names[0], self.layers[0], ("C", "P", "k", "k"))
        check_planes(names[0], first.shape[1])
        channels = first.shape[0]
        rest = [
            kernels_of(n, v, (channels, channels, "k", "k")) for n, v in zip(names[1:], self.layers[1:], strict=True)
        ]
        object.__setattr__(self, "layers", (first, *rest))
        one_of("boundary", self.boundary, BOUNDARIES)
        if self.support > MAX_SUPPORT:
            raise ModelError(
                f"the filters span {self.support} x {self.support} pixels; at most {MAX_SUPPORT} can be used"
            )

    @property
    def channels(self) -> int:
        """C, the number of filters."""
        return int(self.layers[0].shape[0])

    @property
    def planes(self) -> int:
        """P, the planes of an image."""
        return int(self.layers[0].shape[1])

    @property
    def support(self) -> int:
        """K, the odd side in pixels of a composed filter: the sum of k - 1 over the layers, plus 1."""
        return 1 + sum(int(layer.shape[-1]) - 1 for layer in self.layers)

    @property
    def band(self) -> int:
        """Width in pixels of the border where the zero-padded cascade differs from its composed filters.

        A padded layer drops what the layer before it would have put outside the image, so it is the sum of
        (k - 1) // 2 over all layers but the first; 0 for one layer and for symmetric extension.
        """
        if self.boundary == "symmetric":
            return 0
        return sum(int(layer.shape[-1]) // 2 for layer in self.layers[1:])

    def composed(self) -> NDArray[np.float32]:
        """The filters as one cross-correlation for each plane: float32 (C, P, K, K), summed in float64."""
        filters = self.layers[0].astype(np.float64)
        for layer in self.layers[1:]:
            k, side = layer.shape[-1], filters.shape[-1]
            wider = np.zeros((self.channels, self.planes, side + k - 1, side + k - 1))
            for i, j in np.ndindex(k, k):
                wider[..., i : i + side, j : j + side] += np.tensordot(layer[:, :, i, j].astype(np.float64), filters, 1)
            filters = wider
        return filters.astype(np.float32)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The layers under their names in a weights file."""
        return dict(zip(_layer_names(len(self.layers)), self.layers, strict=True))


@dataclass(frozen=True, eq=False)
class Strength(Rebuilt):
    """lambda for images on [0, 1], positive, float64 (K,): as trained (unrolled) and as tuned for convergence."""

    unrolled: NDArray[np.float64]
    converged: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("unrolled", "converged"):
            values = tensor_of(f"strength.{name}", getattr(self, name), np.float64, ("K",))
            if (values <= 0).any():
                raise ModelError(f"tensor strength.{name} has values that are not positive")
            object.__setattr__(self, name, values)
        if self.unrolled.shape != self.converged.shape:
            raise ModelError(
                f"tensor strength.converged has shape {self.converged.shape}; expected {self.unrolled.shape}"
            )


@dataclass(frozen=True, eq=False)
class StepFactors(Rebuilt):
    """Learned dual steps of `unrolled`, the same in every outer step, for its inner steps one after the other.

    size: float32 (n,), positive, times the step size 1 / ||W||^2. momentum: float32 (n,), extrapolation factors,
    instead of FISTA's. Raises ModelError.
    """

    size: NDArray[np.float32] = field(repr=False)
    momentum: NDArray[np.float32] = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("size", "momentum"):
            object.__setattr__(self, name, tensor_of(f"steps.{name}", getattr(self, name), np.float32, ("n",)))
        if (self.size <= 0).any():
            raise ModelError("tensor steps.size has values that are not positive")
        if self.momentum.shape != self.size.shape:
            raise ModelError(f"tensor steps.momentum has shape {self.momentum.shape}; expected {self.size.shape}")

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Both under their names in a weights file."""
        return {"steps.size": self.size, "steps.momentum": self.momentum}


@dataclass(frozen=True)
class Schedule:
    """The steps that a model was trained for: name ("unrolled", "converged" or "gap"), outer and inner, both >= 1."""

    name: str
    outer: int
    inner: int

    def __post_init__(self) -> None:
        one_of("schedule", self.name, SCHEDULES)
        if self.outer < 1 or self.inner < 1:
            raise ModelError(
                f"schedule has {self.outer} outer and {self.inner} inner steps; expected at least 1 of each"
            )


@dataclass(frozen=True, eq=False)
class Conditioned:
    """What a model is at one noise level: two strengths, and gain and bias of the mask, float32 (C,); of an MMR mask,
    gain is its scale.
    """

    strength_unrolled: float
    strength_converged: float
    gain: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Model(Rebuilt):
    """A complete denoiser; see the module's docstring.

    name: any text without line breaks; family: a key of masks.FAMILIES ("safi", "mmr"), the kind of `mask`.
    noise_levels: float64 (K,), ascending, standard deviations for images on [0, 1].
    metadata: further texts of the weights file (training_data, licence, scores, ...), read-only.
    lipschitz: ||W||^2 that the model was trained with, or None.
    steps: factors for as many dual steps as `schedule` has inner ones, which must be unrolled; None for those of FISTA.
    Raises ModelError where the parts do not fit together.
    """

    name: str
    family: str
    filters: FilterBank
    mask: Mask
    strength: Strength
    noise_levels: NDArray[np.float64]
    schedule: Schedule
    metadata: Mapping[str, str] = field(default_factory=dict)
    lipschitz: float | None = None
    steps: StepFactors | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or not self.name.isprintable():
            raise ModelError(f"the model's name is {self.name!r}; expected a line of text")
        if self.family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ModelError(
                f"family is {shown(self.family)}; expected one of {known} (another has its entry in masks.FAMILIES)"
            )
        if not isinstance(self.mask, FAMILIES[self.family]):
            raise ModelError(f"family is {self.family!r}, but the mask is a {type(self.mask).__name__}")
        check_members(self.mask)
        if self.mask.channels != self.filters.channels:
            raise ModelError(f"the mask has {self.mask.channels} channels and the filter bank {self.filters.channels}")
        if isinstance(self.mask, SafiMask) and self.mask.planes != self.filters.planes:
            raise ModelError(f"the mask is for {self.mask.planes} planes and the filter bank for {self.filters.planes}")
        levels = tensor_of("noise_levels", self.noise_levels, np.float64, ("K",))
        if levels[0] <= 0 or levels[-1] > 1 or (np.diff(levels) <= 0).any():
            raise ModelError(f"tensor noise_levels is {levels.tolist()}; expected ascending levels above 0, at most 1")
        object.__setattr__(self, "noise_levels", levels)
        check_levels("strength.unrolled", self.strength.unrolled, len(levels))
        self.mask.check(self.filters.boundary, len(levels))
        if self.steps is not None and (self.schedule.name, self.schedule.inner) != ("unrolled", len(self.steps.size)):
            raise ModelError(
                f"tensor steps.size is for {len(self.steps.size)} steps of schedule unrolled, "
                f"but the schedule is {self.schedule.name} with {self.schedule.inner}"
            )
        if self.lipschitz is not None:
            object.__setattr__(self, "lipschitz", float(self.lipschitz))
            if not (math.isfinite(self.lipschitz) and self.lipschitz > 0):
                raise ModelError(f"tensor lipschitz is {self.lipschitz}; expected a positive finite number")
        if not all(isinstance(text, str) for item in self.metadata.items() for text in item):
            raise ModelError("the metadata has entries that are not text")
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __repr__(self) -> str:
        levels = ", ".join(f"{255 * level:.4g}" for level in self.noise_levels)
        filters = f"{self.filters.channels} filters of {self.filters.support} x {self.filters.support}"
        return f"<Model {self.name!r}: {self.family}, {filters}, sigma {levels} / 255>"

    @property
    def smallest_side(self) -> int:
        """The side in pixels of the smallest image: filters fit into it, and one reflection of it
        covers every kernel.
        """
        return max(self.filters.support, self.mask.reach)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All tensors under their names in a weights file; `lipschitz` only where it is known."""
        known = {} if self.lipschitz is None else {"lipschitz": np.asarray(self.lipschitz, np.float64)}
        strength = {"strength.unrolled": self.strength.unrolled, "strength.converged": self.strength.converged}
        steps = {} if self.steps is None else self.steps.tensors()
        levels = {"noise_levels": self.noise_levels}
        return {**self.filters.tensors(), **self.mask.tensors(), **strength, **levels, **known, **steps}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the tensors: what the weights file records, see `fingerprint_of`."""
        return fingerprint_of(self.tensors())

    def at(self, sigma: float | None, *, strength_given: bool, argument: str = "sigma") -> Conditioned:
        """The model at one noise level: rows interpolated linearly in sigma, strength linearly in its logarithm.

        sigma: standard deviation of the noise for images on [0, 1]. A model for one level takes that level (to 1 %),
        None, or anything positive where the caller has a strength of its own (`strength_given`); a model for several
        levels takes what lies between the first and the last (to 1 %).
        argument: what the caller calls sigma. Raises InputError.
        """
        if sigma is not None:
            sigma = _positive(argument, sigma)
        levels = self.noise_levels
        t = self._position(sigma, strength_given, argument)
        row = min(int(t), max(len(levels) - 2, 0))
        above, t = min(row + 1, len(levels) - 1), t - row
        unrolled, converged = (
            s[row] ** (1 - t) * s[above] ** t for s in (self.strength.unrolled, self.strength.converged)
        )
        weights = np.array([1 - t, t], np.float32)
        return Conditioned(float(unrolled), float(converged), *self._mask_at([row, above], weights))

    def _mask_at(
        self, rows: list[int], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """gain and bias of the mask, read-only. Raises ModelError where they are none."""
        found, channels = self.mask.at(rows, weights), self.filters.channels
        if not isinstance(found, tuple) or [np.shape(part) for part in found] != 2 * [(channels,)]:
            what = [np.shape(part) for part in found] if isinstance(found, tuple) else type(found).__name__
            raise ModelError(
                f"at of the {self.family!r} mask gave {what}; expected gain and bias, two arrays (C,) = ({channels},)"
            )
        gain, bias = found
        return tensor_of("mask.gain", gain, np.float32, ("C",)), tensor_of("mask.bias", bias, np.float32, ("C",))

    def _position(self, sigma: float | None, strength_given: bool, argument: str) -> float:
        """Where sigma lies among the noise levels: 0 at the first, K - 1 at the last."""
        levels = self.noise_levels
        low, high = levels[0] * (1 - LEVEL_TOLERANCE), levels[-1] * (1 + LEVEL_TOLERANCE)
        if len(levels) == 1:
            if sigma is None or strength_given or low <= sigma <= high:
                return 0.0
            raise InputError(
                f"{argument} is {_both_scales(sigma)}, but model {self.name!r} is for {_both_scales(levels[0])} only; "
                f"pass that level (to 1 %), choose another model, or set the strength yourself (strength=...)"
            )
        accepted = f"model {self.name!r} accepts {_both_scales(levels[0])} to {_both_scales(levels[-1])}"
        if sigma is None:
            raise InputError(f"{argument} is missing: {accepted}")
        if not low <= sigma <= high:
            raise InputError(
                f"{argument} is {_both_scales(sigma)}, but {accepted}; it counts in the units of the image "
                f"(25 / 255 for floats on [0, 1], 25 for 8-bit values)"
            )
        return float(np.interp(sigma, levels, np.arange(len(levels))))


def fingerprint_of(tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) over the tensors in the order of their names.

    Each adds one line "name dtype shape" (UTF-8, as "mask.gain float32 1,64") and its values, little-endian, C order.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.name} {','.join(map(str, array.shape))}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _layer_names(count: int) -> list[str]:
    return ["filters"] if count == 1 else [f"filters.{i}" for i in range(count)]


def _positive(argument: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{argument} is {shown(value)}; expected a positive finite number")
    return number


def _both_scales(sigma: float) -> str:
    return f"{sigma:.4g} ({255 * sigma:.4g} on the 8-bit scale)"
