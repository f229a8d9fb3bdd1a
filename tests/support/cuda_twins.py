"""The CPU backend on the inputs of cuda_cases.py: one image, channels first, the same names."""

from functools import lru_cache

import numpy as np
from cpu_layout import GROUP, channels_first, convolve, lanes, smooth
from models import random_model

from safi_fast.bindings.cpu import CpuEngine
from safi_fast.bindings.cpu_weights import flat, per_image, spline_bank
from safi_fast.kernels.cpu import features as cpu_features
from safi_fast.kernels.cpu import filter_bank, image
from safi_fast.kernels.cpu.arguments import Box, Data, WeightedData

EVERYONE = np.array([0])
SLOT = np.array([0])


@lru_cache(maxsize=64)
def _engine(model):
    return CpuEngine(model)


def _workspace(model, x, mask=None, *, step=1.0, bound=1.0, box=(-np.inf, np.inf)):
    """Of one image that starts at x."""
    workspace = _engine(model).workspace(1, *x.shape)
    workspace.load(x[None], np.float32([bound]), np.float32([step]), box)
    if mask is not None:
        workspace.mask, workspace.has_mask = lanes(mask[None]), True
    return workspace


def _channels(model, values):
    return channels_first(values, model.filters.channels)


def analysis(model, x, mask, magnitude):
    workspace = _workspace(model, x, mask)
    workspace._analyse(EVERYONE, workspace._dual(SLOT), magnitude=magnitude)
    return _channels(model, workspace.dual[0, 0])


def masked_norm(model, x, mask):
    workspace = _workspace(model, x, mask)
    filter_bank.masked_norm(
        EVERYONE, workspace._image(SLOT), workspace._mask, workspace.l1.reshape(-1), workspace.geometry,
        workspace.weights.bank, workspace.work,
    )  # fmt: skip
    return workspace.l1.sum()


def dual_step(model, x, mask, u, before, step, bound, carried):
    workspace = _workspace(model, x, mask, step=step, bound=bound)
    workspace.dual[:, 0] = lanes(np.stack([u, before]))
    workspace.carried[:] = carried
    workspace.step(EVERYONE, np.zeros(1, np.float32))
    return _channels(model, workspace.dual[1, 0])


def anchored_step(model, x, mask, u, anchor, step, bound, weight, change):
    """u of the step, or what it changed."""
    workspace = _workspace(model, x, mask, step=step, bound=bound)
    workspace.dual[:, 0] = lanes(np.stack([u, anchor]))
    _, sums = workspace.anchored_step(EVERYONE, x[None], np.float32([weight]))
    return sums[0] if change else _channels(model, workspace.dual[0, 0])


def synthesis(model, u, mask):
    workspace = _workspace(model, np.zeros(u.shape[1:], np.float32), mask)
    workspace.dual[0, 0] = lanes(u)
    workspace.refresh(EVERYONE)
    return workspace.z[0, 0]


def image_step(what, model, tiles, y, x0, u_old, z_old, variance, momentum, low, high):
    """From tiles (n, 32, 32): "z", "x(v)" and "x(u)" with their halos, or one of the five sums by its number."""
    workspace = _workspace(model, x0)
    halo = workspace.weights.halo
    workspace.image_slots[2, 0, halo : halo + y.shape[0], halo : halo + y.shape[1]] = u_old
    workspace.z[0, 0] = z_old
    image.image_step(
        EVERYONE, SLOT, 1 - SLOT, tiles.reshape(-1), _data(y, variance), workspace.z.reshape(-1),
            workspace.image_slots.reshape(-1),
        Box(low, high), np.float32([momentum]), workspace.sums.reshape(-1), workspace.geometry,
    )  # fmt: skip
    return _seen(what, model, workspace)


def _seen(what, model, workspace):
    """What a step wrote to slot 1."""
    if what == "z":
        return workspace.z[1, 0]
    if isinstance(what, int):
        return workspace.sums[0].sum(0)[what]
    return workspace.image_slots[({"x(v)": 1, "x(u)": 3}[what], 0, *_framed(model, workspace))]


def primal_sums(number, model, y, x, z, variance):
    workspace = _workspace(model, x)
    workspace.image_slots[2] = workspace.image_slots[0]
    workspace.z[0, 0] = z
    image.primal_sums(
        EVERYONE, SLOT, _data(y, variance), workspace.z.reshape(-1), workspace.image_slots.reshape(-1),
        workspace.sums.reshape(-1), workspace.geometry,
    )  # fmt: skip
    return workspace.sums[0, :, number].sum()


def _data(y, variance):
    """What the kernels take for y and the variance of its noise."""
    return WeightedData(flat(y), flat(np.broadcast_to(variance, y.shape))) if np.any(variance != 1) else Data(flat(y))


def set_image(model, x):
    """With its halo."""
    workspace = _workspace(model, x)
    return workspace.image_slots[(0, 0, *_framed(model, workspace))]


def _framed(model, workspace):
    """Rows and columns of an image with the halo that the filters need; that of the engine may be wider, for the
    mask.
    """
    halo, extra = model.filters.support // 2, workspace.weights.halo - model.filters.support // 2
    return tuple(slice(extra, extra + size + 2 * halo) for size in (workspace.height, workspace.width))


def collapse_momentum(model, u, before, carried):
    workspace = _workspace(model, np.zeros(u.shape[1:], np.float32))
    workspace.dual[:, 0] = lanes(np.stack([u, before]))
    workspace.carried[:] = carried
    workspace.collapse_momentum(EVERYONE)
    return _channels(model, workspace.dual[0, 0])


def features(x, weight, dilation, boundary, gain, knots):
    channels, kernel = len(weight), weight.shape[-1]
    model = random_model(channels=channels, kernels=(3,), boundary=boundary, dilations=(dilation, 1, 1))
    mask = model.mask
    layers = (weight.astype(np.float32), *mask.convolutions[1:])
    splines = (knots, *mask.splines[1:])
    own = type(mask)(layers, mask.dilations, splines, mask.gain, mask.bias, boundary)
    engine = CpuEngine(type(model)(**{**vars(model), "mask": own}))
    weights = engine.weights
    assert weights.mask.taps.kernel == dilation * (kernel - 1) + 1
    workspace = engine.workspace(1, *x.shape)
    workspace.load(x[None], np.ones(1), np.ones(1), (0, 1))
    cpu_features.features(
        EVERYONE, workspace._image(SLOT), weights.mask.taps, per_image(gain[None], weights.channels),
        weights.mask.splines[0], workspace._dual(SLOT), workspace.geometry,
    )  # fmt: skip
    return channels_first(workspace.dual[0, 0], channels)


def convolution(x, weight, dilation, boundary, knots, bias):
    bank = spline_bank(knots, -1.0, -(-len(x) // GROUP) * GROUP)
    return convolve(x[None], weight, dilation, boundary, bank, None if bias is None else bias[None])[0]


def depthwise(x, weight, boundary, adjoint, profiled):
    profile = None
    if profiled:
        scale, values = profiled
        profile = scale, spline_bank(values, 0.0, -(-len(scale) // GROUP) * GROUP)
    return smooth(x[None], weight, boundary, adjoint=adjoint, profile=profile)[0]
