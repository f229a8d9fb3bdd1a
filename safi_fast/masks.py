"""Mask generators as data: what the regulariser of a model attends to, computed from the last solution.

Frozen and checked like all parts of a model (safi_fast/model.py). The formulas are those of arXiv 2407.06608 (SAFI,
MMR).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError
from .parts import BOUNDARIES, Rebuilt, check_planes, kernels_of, one_of, spline_of, tensor_of

MAX_MASK_SUPPORT = (
    15  # pixels that a later convolution of a SAFI mask may span, dilation included: what kernels are built for
)
SUM_TOLERANCE = 1e-4  # absolute; far above the rounding of a float32 sum, far below a missing projection


@dataclass(frozen=True, eq=False)
class SafiMask(Rebuilt):
    """mask(x) = sigmoid(sn(Vn ... s2(V2 s1(gain * V1 x))) + bias), values in [0, 1], shape (C, H, W); n = 3 in the
    published models.

    convolutions: V1, V2, ..., at least two, float32 (C, P, k, k), (C, C, k, k), ..., k odd, cross-correlation without
    bias; P planes of the image.
    dilations: pixels between the taps of each, 1 for a plain convolution.
    splines: s1, s2, ..., float32 (C, n), values at n uniform knots on [-1, 1], extrapolated linearly, n >= 2.
    gain, bias: float32 (K, C), one row per noise level; ones and zeros in the published models.
    boundary: how every convolution extends its input to keep its size. Raises ModelError.
    """

    family: ClassVar[str] = "safi"

    convolutions: tuple[NDArray[np.float32], ...] = field(repr=False)
    dilations: tuple[int, ...]
    splines: tuple[NDArray[np.float32], ...] = field(repr=False)
    gain: NDArray[np.float32] = field(repr=False)
    bias: NDArray[np.float32] = field(repr=False)
    boundary: str

    def __post_init__(self) -> None:
        count = len(self.convolutions)
        if count < 2:
            raise ModelError(f"mask.convolution comes {count} times; a SAFI mask has at least 2")
        for what, values in (("dilation", self.dilations), ("spline", self.splines)):
            if len(values) != count:
                raise ModelError(f"mask.{what} comes {len(values)} times, but mask.convolution {count} times")
        first = kernels_of("mask.convolution.0", self.convolutions[0], ("C", "P", "k", "k"))
        check_planes("mask.convolution.0", first.shape[1])
        channels = first.shape[0]
        square = (channels, channels, "k", "k")
        rest = [kernels_of(f"mask.convolution.{i}", self.convolutions[i], square) for i in range(1, count)]
        splines = [spline_of(f"mask.spline.{i}", spline, channels) for i, spline in enumerate(self.splines)]
        gain = tensor_of("mask.gain", self.gain, np.float32, ("K", channels))
        if any(isinstance(d, bool) or int(d) != d or d < 1 for d in self.dilations):
            raise ModelError(f"mask_dilations are {tuple(self.dilations)}; expected integers of at least 1")
        for i, (kernels, dilation) in enumerate(zip(rest, self.dilations[1:], strict=True), 1):
            side = int(dilation) * (kernels.shape[-1] - 1) + 1
            if side > MAX_MASK_SUPPORT:
                raise ModelError(
                    f"tensor mask.convolution.{i} spans {side} x {side} pixels with its dilation; "
                    f"at most {MAX_MASK_SUPPORT} can be used"
                )
        object.__setattr__(self, "convolutions", (first, *rest))
        object.__setattr__(self, "dilations", tuple(int(d) for d in self.dilations))
        object.__setattr__(self, "splines", tuple(splines))
        object.__setattr__(self, "gain", gain)
        object.__setattr__(self, "bias", tensor_of("mask.bias", self.bias, np.float32, gain.shape))
        one_of("mask_boundary", self.boundary, BOUNDARIES)

    @property
    def channels(self) -> int:
        """C, the number of masks."""
        return int(self.gain.shape[1])

    @property
    def planes(self) -> int:
        """P, the planes of the image."""
        return int(self.convolutions[0].shape[1])

    @property
    def reach(self) -> int:
        """How many pixels beyond the image its widest convolution reads."""
        return max(d * (int(v.shape[-1]) // 2) for v, d in zip(self.convolutions, self.dilations, strict=True))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything under its name in a weights file."""
        convolutions = {f"mask.convolution.{i}": v for i, v in enumerate(self.convolutions)}
        splines = {f"mask.spline.{i}": s for i, s in enumerate(self.splines)}
        return {**convolutions, **splines, "mask.gain": self.gain, "mask.bias": self.bias}

    def check(self, boundary: str, levels: int) -> None:
        """Raise ModelError where it does not fit a filter bank of this boundary and so many noise levels."""
        if self.boundary != boundary:
            raise ModelError(f"mask_boundary is {self.boundary!r} and boundary {boundary!r}; they must be the same")
        check_levels("mask.gain", self.gain, levels)

    def at(self, rows: list[int], weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """gain and bias (C,) between two noise levels."""
        return weights @ self.gain[rows], weights @ self.bias[rows]

    def header(self) -> dict[str, str]:
        """Its texts in a weights file."""
        return {"mask_boundary": self.boundary, "mask_dilations": ",".join(map(str, self.dilations))}

    @classmethod
    def read(cls, source: MaskSource) -> SafiMask:
        """From a weights file. Raises ModelError."""
        dilations = source.integers("mask_dilations")
        return cls(
            source.numbered("mask.convolution", at_least=len(dilations)), dilations,
            source.numbered("mask.spline", at_least=len(dilations)), source.take("mask.gain"), source.take("mask.bias"),
            source.text("mask_boundary"),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class MmrMask(Rebuilt):
    """mask(x) = G^T clip(phi(scale * G |W x|), 0, 1), values in [0, 1], shape (C, H, W).

    smoothing: G, one or more depthwise layers, float32 (C, 1, k, k), k odd, non-negative, each kernel sums to one;
    G extends its input with the boundary of W and keeps its size.
    profile: phi, float32 (C, n), values at n uniform knots on [0, 1], extrapolated linearly; non-increasing from one.
    scale: float32 (C,), or (K, C) with one row per noise level, non-negative. Convergence to a critical point rests
    on the signs and on phi falling, so they are checked. Raises ModelError.
    """

    family: ClassVar[str] = "mmr"

    smoothing: tuple[NDArray[np.float32], ...] = field(repr=False)
    profile: NDArray[np.float32] = field(repr=False)
    scale: NDArray[np.float32] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.smoothing:
            raise ModelError("tensor mask.smoothing.0 is missing: an MMR mask needs at least one smoothing layer")
        by_level = np.ndim(self.scale) == 2
        scale = tensor_of("mask.scale", self.scale, np.float32, ("K", "C") if by_level else ("C",))
        channels = scale.shape[-1]
        if (scale < 0).any():
            raise ModelError("tensor mask.scale has negative values")
        layers = []
        for i, layer in enumerate(self.smoothing):
            kernels = kernels_of(f"mask.smoothing.{i}", layer, (channels, 1, "k", "k"))
            if (kernels < 0).any() or (abs(kernels.sum((2, 3), dtype=np.float64) - 1) > SUM_TOLERANCE).any():
                raise ModelError(f"tensor mask.smoothing.{i} has kernels that are negative or do not sum to one")
            layers.append(kernels)
        profile = spline_of("mask.profile", self.profile, channels)
        if (abs(profile[:, 0] - 1) > SUM_TOLERANCE).any() or (np.diff(profile, axis=1) > SUM_TOLERANCE).any():
            raise ModelError("tensor mask.profile has a row that does not start at one or that increases")
        object.__setattr__(self, "smoothing", tuple(layers))
        object.__setattr__(self, "profile", profile)
        object.__setattr__(self, "scale", scale)

    @property
    def channels(self) -> int:
        """C, the number of masks."""
        return int(self.scale.shape[-1])

    @property
    def reach(self) -> int:
        """How many pixels beyond the image its widest layer reads."""
        return max(int(layer.shape[-1]) // 2 for layer in self.smoothing)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything under its name in a weights file."""
        smoothing = {f"mask.smoothing.{i}": layer for i, layer in enumerate(self.smoothing)}
        return {**smoothing, "mask.profile": self.profile, "mask.scale": self.scale}

    def check(self, boundary: str, levels: int) -> None:
        """Raise ModelError where it does not fit so many noise levels; it takes the boundary of the filter bank."""
        if self.scale.ndim == 2:
            check_levels("mask.scale", self.scale, levels)

    def at(self, rows: list[int], weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The scale (C,) between two noise levels, and zeros."""
        gain = self.scale.copy() if self.scale.ndim == 1 else weights @ self.scale[rows]
        return gain, np.zeros_like(gain)

    def header(self) -> dict[str, str]:
        """No texts in a weights file."""
        return {}

    @classmethod
    def read(cls, source: MaskSource) -> MmrMask:
        """From a weights file. Raises ModelError."""
        return cls(
            source.numbered("mask.smoothing", at_least=1), source.take("mask.profile"), source.take("mask.scale")
        )


class PlainMask(Protocol):
    """A mask generator that no backend has kernels for: `evaluate` makes its masks in NumPy, on the CPU backend alone.

    A class in FAMILIES under its `family` can be part of a Model and of a weights file; that asks for the classmethod
    `read(source)` as well, which makes one of a MaskSource.
    """

    @property
    def channels(self) -> int:
        """C, the number of masks."""

    @property
    def reach(self) -> int:
        """How many pixels beyond the image it reads."""

    def evaluate(
        self, image: NDArray[np.float32], gain: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Masks (C, H, W) on [0, 1] of an image (H, W); gain, bias (C,) as `at` gives them."""

    def check(self, boundary: str, levels: int) -> None:
        """Raise ModelError where it does not fit a filter bank of this boundary and so many noise levels."""

    def at(self, rows: list[int], weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """gain and bias (C,) between two noise levels: of a table (K, C), `weights @ table[rows]`."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """float32 arrays of a weights file; their names begin with "mask."."""

    def header(self) -> dict[str, str]:
        """Texts of a weights file; their names begin with "mask_"."""


class MaskSource(Protocol):
    """A weights file that is being read; each call takes a tensor or text, or raises ModelError."""

    def take(self, name: str) -> NDArray[Any]: ...

    def numbered(self, prefix: str, at_least: int) -> tuple[NDArray[Any], ...]: ...

    def text(self, key: str) -> str: ...

    def integers(self, key: str) -> tuple[int, ...]: ...


Mask: TypeAlias = SafiMask | MmrMask | PlainMask
FAMILIES: dict[str, Any] = {kind.family: kind for kind in (SafiMask, MmrMask)}


ARGUMENTS = {
    "evaluate": ("image", "gain", "bias"),
    "check": ("boundary", "levels"),
    "at": ("rows", "weights"),
    "tensors": (),
    "header": (),
    "read": ("source",),
}  # of the methods of a PlainMask


def check_members(mask: Any) -> None:
    """Raise ModelError for a mask of a family of the caller's that is no PlainMask: all that it lacks, at once."""
    if isinstance(mask, (SafiMask, MmrMask)):
        return
    wrong = [name for name in ("channels", "reach") if not isinstance(getattr(mask, name, None), (int, np.integer))]
    methods = {name: f"{name}({', '.join(names)})" for name, names in ARGUMENTS.items()}
    wrong += [text for name, text in methods.items() if not _takes(getattr(mask, name, None), ARGUMENTS[name])]
    if wrong:
        raise ModelError(
            f"the mask {type(mask).__name__} has no {', '.join(wrong)}; a mask has the whole numbers channels and "
            f"reach, and {', '.join(methods.values())}"
        )


def _takes(method: Any, arguments: tuple[str, ...]) -> bool:
    try:
        inspect.signature(method).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True


def check_levels(name: str, values: NDArray[Any], levels: int) -> None:
    """Raise ModelError unless there is a row for each noise level."""
    if values.shape[0] != levels:
        raise ModelError(f"tensor {name} is for {values.shape[0]} noise levels and noise_levels has {levels}")
