"""A model made larger without changing what it computes, or hardly: where the training of a deeper or wider one, or one
for more levels, starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..masks import MmrMask, SafiMask
from ..model import FilterBank, Model, Strength
from .network import level_table

NEW_SIDE = 3  # taps a side of a new mask layer
NEW_AMPLITUDE = 0.2  # of a new filter, of the parent's
NEW_NOISE = 0.1  # of a new channel's first mask kernel, of the parent's
PLANES_GROWTH = 4.0  # of lambda where filters are shared out among three planes; tried 1 to 7 (docs/training.md)
DIFFERENCE_BIAS = 4.0  # added to the mask's bias for filters that read a difference of planes: those are smoother
SAME = 1e-3  # relative; levels of weights files are rounded to float32 and better


def deepened(model: Model, dilations: Sequence[int]) -> Model:
    """The SAFI model with as many mask layers as `dilations`; the new ones, 3 x 3, hand on what they get.

    The layers of the model keep their order and their dilations, which must be found in `dilations`, the first as the
    first and the last as the last. Raises InputError.
    """
    mask = model.mask
    if not isinstance(mask, SafiMask):
        raise InputError(f"model {model.name!r} is of the family {model.family}; only a SAFI mask has layers to add to")
    kept = _places(mask.dilations, tuple(dilations))
    convolutions, splines = [], []
    knots = np.linspace(-1, 1, mask.splines[0].shape[1], dtype=np.float32)
    for old in kept:
        convolutions.append(_handing_on(mask.channels) if old is None else mask.convolutions[old])
        splines.append(np.tile(knots, (mask.channels, 1)) if old is None else mask.splines[old])
    deeper = SafiMask(tuple(convolutions), tuple(dilations), tuple(splines), mask.gain, mask.bias, mask.boundary)
    return replace(model, mask=deeper, metadata=dict(model.metadata))


def _places(old: tuple[int, ...], new: tuple[int, ...]) -> list[int | None]:
    """For each layer of the new mask the number of the layer that it takes over, or None; the last one is the last."""
    places: list[int | None] = []
    following = 0
    for i, dilation in enumerate(new):
        last = following == len(old) - 1
        takes = following < len(old) and dilation == old[following] and (not last or i == len(new) - 1)
        places.append(following if takes else None)
        following += takes
    if following < len(old) or places[0] is None:
        raise InputError(
            f"dilations are {new}; expected those of the model, {old}, with others between the first and last"
        )
    return places


def _handing_on(channels: int) -> NDArray[np.float32]:
    """(C, C, 3, 3): every channel as it is."""
    layer = np.zeros((channels, channels, NEW_SIDE, NEW_SIDE), np.float32)
    layer[range(channels), range(channels), NEW_SIDE // 2, NEW_SIDE // 2] = 1
    return layer


def widened(model: Model, channels: int, seed: int) -> Model:
    """The SAFI model with more filters: each new one is a parent turned by 90 degrees, weak, under the parent's mask.

    Parents are the strongest filters, in turn. What the old channels compute is unchanged but for the new filters' part
    in it; the new mask channels differ from their parents' by noise, so that training tells them apart. Raises
    InputError.
    """
    mask, old = model.mask, model.filters.channels
    if not isinstance(mask, SafiMask) or len(model.filters.layers) != 1:
        raise InputError(f"model {model.name!r} cannot be widened; expected a SAFI model whose filters are one layer")
    if channels <= old:
        raise InputError(f"channels is {channels}; expected more than the {old} filters of model {model.name!r}")
    rng = np.random.default_rng(seed)
    filters = model.filters.layers[0]
    parents = np.resize(np.argsort(-(filters**2).sum((1, 2, 3))), channels - old)
    turned = NEW_AMPLITUDE * np.rot90(filters[parents], axes=(2, 3))
    convolutions = [np.concatenate([layer, layer[parents]]) for layer in mask.convolutions]
    first = convolutions[0]
    noise = rng.standard_normal(first[old:].shape) * first[old:].std(axis=(1, 2, 3), keepdims=True)
    first[old:] += (NEW_NOISE * noise).astype(np.float32)
    wide = [first, *(_with_inputs(layer, parents) for layer in convolutions[1:])]
    splines = [np.concatenate([spline, spline[parents]]) for spline in mask.splines]
    gain, bias = (np.concatenate([table, table[..., parents]], axis=-1) for table in (mask.gain, mask.bias))
    wider = SafiMask(tuple(wide), mask.dilations, tuple(splines), gain, bias, mask.boundary)
    bank = FilterBank((np.concatenate([filters, turned]),), model.filters.boundary)
    return replace(model, filters=bank, mask=wider, metadata=dict(model.metadata))


def _with_inputs(layer: NDArray[np.float32], parents: NDArray[np.intp]) -> NDArray[np.float32]:
    """(C + N, C, k, k) to (C + N, C + N, k, k): of the new channels each reads itself where its parent reads itself."""
    wide = np.pad(layer, ((0, 0), (0, len(parents)), (0, 0), (0, 0)))
    new = np.arange(layer.shape[1], layer.shape[0])
    wide[new, new] = layer[new, parents]
    wide[new, parents] = 0
    return wide


def with_planes(model: Model, planes: int) -> Model:
    """The grey SAFI model as the start of one for so many planes.

    The planes are turned by an orthonormal matrix whose first row is their mean (`plane_directions`). Each filter reads
    one of the new planes, in turn from the strongest on, with a larger lambda, since each plane has fewer of them. All
    masks are those of the grey model on the mean of the planes, whose noise is weaker by sqrt(P): tables are read at
    sigma / sqrt(P); for differences they are raised. Raises InputError.
    """
    mask, bank = model.mask, model.filters
    if not isinstance(mask, SafiMask) or len(bank.layers) != 1 or bank.planes != 1:
        raise InputError(
            f"model {model.name!r} is no start for {planes} planes; expected a grey SAFI model of one layer"
        )
    directions = plane_directions(planes)
    levels = model.noise_levels
    rows = [model.at(float(max(level / np.sqrt(planes), levels[0])), strength_given=False) for level in levels]
    order = np.argsort(-(bank.layers[0] ** 2).sum((1, 2, 3)))
    reads = np.empty(bank.channels, int)
    reads[order] = np.arange(bank.channels) % planes
    filters = (bank.layers[0] * directions[reads][:, :, None, None]).astype(np.float32)
    first = np.repeat(mask.convolutions[0] / planes, planes, axis=1).astype(np.float32)
    growth = PLANES_GROWTH * levels / np.array([max(level / np.sqrt(planes), levels[0]) for level in levels])
    strength = Strength(
        np.array([row.strength_unrolled for row in rows]) * growth,
        np.array([row.strength_converged for row in rows]) * growth,
    )
    gain, bias = (np.stack([getattr(row, name) for row in rows]) for name in ("gain", "bias"))
    bias = (bias + DIFFERENCE_BIAS * (reads > 0)).astype(np.float32)
    seeing = replace(mask, convolutions=(first, *mask.convolutions[1:]), gain=gain, bias=bias)
    return replace(
        model, filters=FilterBank((filters,), bank.boundary), mask=seeing, strength=strength, lipschitz=None,
        metadata=dict(model.metadata),
    )  # fmt: skip


def plane_directions(planes: int) -> NDArray[np.float64]:
    """An orthonormal matrix (P, P): the mean of the planes, then differences of one plane to those before it."""
    rows = [np.full(planes, 1 / np.sqrt(planes))]
    for last in range(1, planes):
        row = np.concatenate([np.full(last, 1.0), [-last], np.zeros(planes - last - 1)])
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


def with_levels(model: Model, low: float, high: float) -> Model:
    """The model with tables from sigma low to high (of 255): rows between as it has them, rows beyond its ends like the
    nearest.

    lambda grows in proportion to sigma beyond the ends, and the scale of an MMR mask of one level falls with it, as
    its input, the response to noise, grows. Raises InputError for a SAFI model of one level.
    """
    levels = model.noise_levels
    if len(levels) == 1 and isinstance(model.mask, MmrMask):
        return _of_one_level(model, model.mask, low, high)
    if len(levels) == 1:
        raise InputError(f"model {model.name!r} is for one level; it has no tables to extend")
    own = [float(level) for level in levels if low <= 255 * level * (1 + SAME) and 255 * level * (1 - SAME) <= high]
    more = [level for level in level_table(low, high) if all(abs(level / known - 1) > SAME for known in own)]
    wanted = np.array(sorted([*own, *more]))
    inside = wanted.clip(levels[0], levels[-1])
    rows = [model.at(float(sigma), strength_given=False) for sigma in inside]

    def column(read: Any) -> NDArray[Any]:
        return np.stack([read(row) for row in rows])

    beyond = wanted / inside
    strength = Strength(
        column(lambda row: row.strength_unrolled) * beyond, column(lambda row: row.strength_converged) * beyond
    )
    mask = model.mask
    if isinstance(mask, SafiMask):
        mask = replace(mask, gain=column(lambda row: row.gain), bias=column(lambda row: row.bias))
    elif isinstance(mask, MmrMask) and mask.scale.ndim == 2:
        mask = replace(mask, scale=column(lambda row: row.gain))
    return replace(model, mask=mask, strength=strength, noise_levels=wanted, metadata=dict(model.metadata))


def _of_one_level(model: Model, mask: MmrMask, low: float, high: float) -> Model:
    own = float(model.noise_levels[0])
    levels = np.array(sorted({own, *(level for level in level_table(low, high) if abs(level / own - 1) > SAME)}))
    strength = Strength(*(part[0] * levels / own for part in (model.strength.unrolled, model.strength.converged)))
    scale = (np.atleast_2d(mask.scale) * (own / levels)[:, None]).astype(np.float32)
    return replace(
        model, mask=replace(mask, scale=scale), strength=strength, noise_levels=levels, metadata=dict(model.metadata)
    )
