"""What the emulator counts: sectors of global memory and wavefronts of shared memory, in mode "check", profiled.

Kernels whose pattern repeats per group of channels run with one group, on the very shape; the rest with 64 channels.
The mask layers C -> C on tensor cores run on a part of the image. What was run and by how much it is scaled is written
beside the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
from cuda_variants import layouts, smallest_model
from emulator.device import EmulatedDevice
from emulator.profile import ProfileRow

from safi_fast.bindings.cuda import CudaBackend
from safi_fast.bindings.cuda_reconstruction import CudaReconstructionWorkspace
from safi_fast.bindings.launch import Shape, ceil_div, channel_block
from safi_fast.masks import MmrMask, SafiMask
from safi_fast.model import FilterBank, Model

HEIGHT, WIDTH, CHANNELS = 321, 481, 64
PART = (64, 96)  # of the image, whole tiles


@dataclass(frozen=True)
class Traffic:
    """Of one image of 481 x 321 and 64 channels: what was moved, and the fewest (`ideal`) for the same bytes."""

    global_requests: float = 0
    sectors: float = 0
    ideal_sectors: float = 0
    shared_requests: float = 0
    wavefronts: float = 0
    ideal_wavefronts: float = 0

    def times(self, factor: float) -> Traffic:
        return Traffic(*(factor * value for value in astuple(self)))

    def plus(self, other: Traffic) -> Traffic:
        return Traffic(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def total(rows: list[ProfileRow], scale: Callable[[ProfileRow], float]) -> Traffic:
    """All rows of a kernel."""
    sums = {"global": [0.0, 0.0, 0.0], "shared": [0.0, 0.0, 0.0]}
    for row in rows:
        factor = scale(row)
        for i, value in enumerate((row.requests, row.moved, row.ideal)):
            sums[row.memory][i] += factor * value
    return Traffic(*sums["global"], *sums["shared"])


def masked_workspace(
    model: Model, precision: str, size: tuple[int, int]
) -> tuple[EmulatedDevice, CudaReconstructionWorkspace]:
    """With a mask of ones; what was launched before is forgotten."""
    device = EmulatedDevice("check", profiled=True, time_limit=600)
    workspace = CudaBackend(device, precision).prepare(model).reconstruction_workspace(1, *size)
    workspace.load(np.zeros(workspace.images, np.float32), np.ones(1), np.ones(1), (0, 1))
    workspace.mask = device.upload(
        np.ones((1, workspace.weights.channels, size[0], workspace.shape.stride), np.float32)
    )
    workspace.has_mask = True
    device.profile()
    return device, workspace


def _rows(device: EmulatedDevice, kernel: str) -> list[ProfileRow]:
    return [row for row in device.profile(clear=False) if row.kernel == kernel]


EVERYONE = np.arange(1)


def filter_bank(precision: str) -> dict[str, tuple[Traffic, str]]:
    """The filter bank and the kernels of image.cu and state.cu: {kernel: (traffic, what was run)}."""
    tensor, size = precision != "float32", (HEIGHT, WIDTH)
    group = 32 if tensor else 8
    device, workspace = masked_workspace(smallest_model(group), precision, size)
    launches = workspace.launches(EVERYONE)
    launches["dual_step"]()
    if not tensor:
        launches["synthesis"]()
    what, more = f"{group} channels, times {CHANNELS // group}", CHANNELS / group
    found = {
        name: (total(_rows(device, name), lambda _: more), what)
        for name in ("dual_step", *(() if tensor else ("synthesis",)))
    }
    found |= _other_analyses(precision, group, PART if tensor else size)
    device, workspace = masked_workspace(smallest_model(CHANNELS), precision, size)
    launches = workspace.launches(EVERYONE)
    if tensor:
        launches["synthesis"]()
        found["synthesis"] = total(_rows(device, "synthesis"), lambda _: 1.0), f"{CHANNELS} channels"
    device.write(workspace.parts, np.zeros(workspace.parts.shape, np.float32))
    device.write(workspace.l1, np.zeros(workspace.l1.shape))
    launches["image_step"]()
    device.write(workspace.carried, np.ones(1, np.float32))
    workspace.collapse_momentum(EVERYONE)
    workspace.clear_dual(EVERYONE)
    launches["totals"]()
    workspace.outer_change(EVERYONE)
    workspace.put_image(EVERYONE, workspace.image())
    for name in (
        "image_step", "collapse_momentum", "clear_dual", "totals", "outer_sums", "get_image", "set_image", "stop"
    ):  # fmt: skip
        found[name] = total(_rows(device, name), lambda _: 1.0), f"{CHANNELS} channels"
    return found


def of_planes(precision: str, planes: int) -> dict[str, tuple[Traffic, str]]:
    """The filter bank for images of so many planes, with `features` and `image_step` in float32 and of several; from
    images of a few tiles.
    """
    whole = layouts()[f"{planes} planes"] if planes > 1 else smallest_model(CHANNELS)
    group = 8
    if precision != "float32":
        group = channel_block("analysis", Shape(HEIGHT, WIDTH, CHANNELS, 13, 0, precision, planes))
    few, what = with_channels(whole, group), f"{group} channels, times {CHANNELS // group}; by tiles"
    by_groups = by_tiles(lambda size: _by_groups(few, precision, size))
    found = {name: (traffic.times(CHANNELS / group), what) for name, traffic in by_groups.items()}
    last = "image_step" if precision == "float32" else "synthesis"
    if planes == 1 and last == "image_step":
        return found

    def launched(size: tuple[int, int]) -> dict[str, Traffic]:
        device, workspace = masked_workspace(whole, precision, size)
        device.write(workspace.parts, np.zeros(workspace.parts.shape, np.float32))
        return _launched(device, workspace, (last,))

    traffic = by_tiles(launched)
    return found | {last: (traffic[last], f"{CHANNELS} channels; by tiles")}


def by_tiles(run: Callable[[tuple[int, int]], dict[str, Traffic]]) -> dict[str, Traffic]:
    """Of the whole image from images with fewer tiles that end as its tiles do: a tile more costs what the last one
    more did.
    """
    found: dict[str, Traffic] = {}
    for height, down in _shares(HEIGHT, 64):
        for width, across in _shares(WIDTH, 32):
            for name, traffic in run((height, width)).items():
                found[name] = found.get(name, Traffic()).plus(traffic.times(down * across))
    return found


def _shares(length: int, unit: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two lengths of one and two whole tiles and the rest, and how often each counts."""
    tiles, rest = divmod(length, unit)
    return (unit + rest, 2 - tiles), (2 * unit + rest, tiles - 1)


def _by_groups(model: Model, precision: str, size: tuple[int, int]) -> dict[str, Traffic]:
    """What a group of channels has a share of."""
    device, workspace = masked_workspace(model, precision, size)
    device.write(workspace.weight, np.full(1, 0.5, np.float32))
    workspace.measure(EVERYONE)
    names = ("analysis", "dual_step", "anchored_step", *(("synthesis",) if precision == "float32" else ()))
    found = _launched(device, workspace, names)
    if precision == "float32" and model.filters.planes > 1:
        level = model.at(float(model.noise_levels[0]), strength_given=False)
        workspace.update_mask(EVERYONE, level.gain[None], level.bias[None])
        found["features"] = total(_rows(device, "features"), lambda _: 1.0)
    return found | {"masked_norm": total(_rows(device, "masked_norm"), lambda _: 1.0)}


def _launched(
    device: EmulatedDevice, workspace: CudaReconstructionWorkspace, names: tuple[str, ...]
) -> dict[str, Traffic]:
    """By kernel, each launched once."""
    launches = workspace.launches(EVERYONE)
    for name in names:
        launches[name]()
    return {name: total(_rows(device, name), lambda _: 1.0) for name in names}


def _other_analyses(precision: str, group: int, size: tuple[int, int]) -> dict[str, tuple[Traffic, str]]:
    """analysis and masked_norm, on a part of the image for tensor cores."""
    device, workspace = masked_workspace(smallest_model(group), precision, size)
    workspace.launches(EVERYONE)["analysis"]()
    workspace.measure(EVERYONE)
    more = CHANNELS / group * _tiles(HEIGHT, WIDTH) / _tiles(*size)
    what = f"{group} channels on {size[1]} x {size[0]}, times {more:.4g}"
    return {name: (total(_rows(device, name), lambda _: more), what) for name in ("analysis", "masked_norm")}


def _tiles(height: int, width: int) -> int:
    """Of 16 x 32 pixels."""
    return ceil_div(height, 16) * ceil_div(width, 32)


def mask_layer(layout: str, precision: str) -> dict[str, tuple[Traffic, str]]:
    """features and convolution of a SAFI layout, or depthwise of an MMR layout."""
    model, tensor = layouts()[layout], precision != "float32"
    channels, size = (CHANNELS, PART) if tensor else (8, (HEIGHT, WIDTH))
    model = with_channels(model, channels)
    device, workspace = masked_workspace(model, precision, size)
    part = 1.0
    if tensor:
        part = ceil_div(HEIGHT, 8) * ceil_div(WIDTH, 32) / (ceil_div(PART[0], 8) * ceil_div(PART[1], 32))
    level = model.at(float(model.noise_levels[0]), strength_given=False)
    workspace.update_mask(EVERYONE, level.gain[None], level.bias[None])
    more = CHANNELS / channels

    def of_convolution(row: ProfileRow) -> float:
        """Per pair of an input and an output channel, or per output channel where an output is made."""
        made = row.place.file == "spline.cuh" or (row.memory, row.kind) == ("global", "store")
        return part * more * (1 if made else more)

    what = f"{channels} channels on {size[1]} x {size[0]}"
    if isinstance(model.mask, MmrMask):
        launches = 2 * len(model.mask.smoothing)
        return {"depthwise": (total(_rows(device, "depthwise"), lambda _: part * more / launches), what)}
    launches = len(model.mask.convolutions) - 1
    convolution = total(_rows(device, "convolution"), lambda row: of_convolution(row) / launches)
    return {
        "convolution": (convolution, what),
        "features": (total(_rows(device, "features"), lambda _: part * more), what),
    }


def with_channels(model: Model, channels: int) -> Model:
    """The same layout with the first channels only."""
    if channels == model.filters.channels:
        return model
    bank = FilterBank((model.filters.composed()[:channels],), model.filters.boundary)
    mask = model.mask
    if isinstance(mask, SafiMask):
        weights = tuple(w[:channels, : min(w.shape[1], channels)] for w in mask.convolutions)
        splines = tuple(s[:channels] for s in mask.splines)
        small = SafiMask(
            weights, mask.dilations, splines, mask.gain[:, :channels], mask.bias[:, :channels], mask.boundary
        )
    else:
        small = MmrMask(tuple(w[:channels] for w in mask.smoothing), mask.profile[:channels], mask.scale[:channels])
    return Model(**{**vars(model), "filters": bank, "mask": small})
