"""The plain PyTorch computation that safi_fast is raced against: float32, layer by layer, both published schedules.

Images y, x (B, 1, H, W); responses, masks and dual variables (B, C, H, W). Every layer pads with zeros. No batch-wise
stopping: as in the published code, one rule decides for the whole batch.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
from torch.nn import functional

from safi_fast.masks import MmrMask
from safi_fast.model import Model


def load(tensors, device="cpu"):
    """The parameters as float32 tensors on the device, from a dictionary of arrays or tensors with these keys.

    "family", "layers": [(C, 1, k, k), (C, C, k, k), ...], and for "safi" "convolutions": [(weight, dilation)] * 3,
    "splines": [(C, n)] * 3 on [-1, 1], "gain", "bias": (C,); for "mmr" "smoothing": [(C, 1, k, k), ...],
    "profile": (C, n) on [0, 1], "scale": (C,). Anything else is left out.
    """

    def tensor(values):
        return torch.as_tensor(values, dtype=torch.float32, device=device).contiguous()

    params = {"family": tensors["family"], "layers": [tensor(w) for w in tensors["layers"]]}
    if params["family"] == "safi":
        params["convolutions"] = [(tensor(w), dilation) for w, dilation in tensors["convolutions"]]
        params["splines"] = [tensor(c) for c in tensors["splines"]]
        return params | {key: tensor(tensors[key]).view(1, -1, 1, 1) for key in ("gain", "bias")}
    params["smoothing"] = [tensor(w) for w in tensors["smoothing"]]
    return params | {"profile": tensor(tensors["profile"]), "scale": tensor(tensors["scale"]).view(1, -1, 1, 1)}


def parameters_of(model: Model) -> dict[str, object]:
    """The model as the baseline reads it."""
    mask = model.mask
    common = {"family": model.family, "layers": [np.array(layer) for layer in model.filters.layers]}
    if isinstance(mask, MmrMask):
        smoothing = [np.array(layer) for layer in mask.smoothing]
        return load({**common, "smoothing": smoothing, "profile": mask.profile.copy(), "scale": mask.scale.copy()})
    convolutions = [(np.array(w), d) for w, d in zip(mask.convolutions, mask.dilations, strict=True)]
    splines = [np.array(values) for values in mask.splines]
    return load(
        {
            **common,
            "convolutions": convolutions,
            "splines": splines,
            "gain": mask.gain[0].copy(),
            "bias": mask.bias[0].copy(),
        }
    )


def analysis(x, layers, groups=1):
    """W x, or G x with groups = C."""
    for weight in layers:
        x = functional.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    return x


def synthesis(u, layers, groups=1):
    """W^T u, or G^T u with groups = C."""
    for weight in reversed(layers):
        u = functional.conv_transpose2d(u, weight, padding=weight.shape[-1] // 2, groups=groups)
    return u


def spline(x, coefficients, low, high):
    """Linear spline per channel with uniform knots on [low, high], linearly extrapolated."""
    channels, knots = coefficients.shape
    position = (x - low) * ((knots - 1) / (high - low))
    left = position.floor().clamp(0, knots - 2)
    index = left.long() + torch.arange(0, channels * knots, knots, device=x.device).view(1, -1, 1, 1)
    values = coefficients.view(-1)
    return torch.lerp(values[index], values[index + 1], position - left)


def mask_of(x, params):
    """The mask of the image x: (B, 1, H, W) -> (B, C, H, W) in [0, 1]."""
    if params["family"] == "mmr":
        channels = len(params["profile"])
        activity = analysis(analysis(x, params["layers"]).abs(), params["smoothing"], channels)
        weight = spline(params["scale"] * activity, params["profile"], 0, 1).clamp(0, 1)
        return synthesis(weight, params["smoothing"], channels)
    gain = params["gain"]
    for (weight, dilation), coefficients in zip(params["convolutions"], params["splines"], strict=True):
        x = functional.conv2d(x, weight, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)
        x = spline(gain * x, coefficients, -1, 1)
        gain = 1  # it scales the first layer only
    return torch.sigmoid(x + params["bias"])


def _masked(mask, z):
    return z if mask is None else mask * z


def _primal(u, y, mask, layers):
    return (y - synthesis(_masked(mask, u), layers)).clamp(0, 1)


def _dual_step(v, y, lam, lipschitz, mask, layers):
    gradient = _masked(mask, analysis(_primal(v, y, mask, layers), layers))
    return (v + gradient / lipschitz).clamp(-lam, lam)


def _objective(x, y, lam, mask, layers):
    return (x - y).square().sum() / 2 + lam * _masked(mask, analysis(x, layers)).abs().sum()


@torch.inference_mode()
def unrolled(y, params, lam, lipschitz, outer=5, inner=12):
    """The schedule of training: (B, 1, H, W) -> (B, 1, H, W)."""
    layers = params["layers"]
    u = v = analysis(y, layers)
    mask = None
    for step in range(outer):
        t = 1.0
        for _ in range(inner):
            u_new = _dual_step(v, y, lam, lipschitz, mask, layers)
            t_new = (1 + sqrt(1 + 4 * t * t)) / 2
            v = u_new + (t - 1) / t_new * (u_new - u)
            u, t = u_new, t_new
        x = _primal(u, y, mask, layers)
        if step < outer - 1:
            mask = mask_of(x, params)
    return x


@torch.inference_mode()
def converged(y, params, lam, lipschitz, outer=10, inner=100, counts=None, last=None):
    """The schedule of testing: (B, 1, H, W) -> (B, 1, H, W).

    The list `counts` receives the dual steps of each outer step, the dictionary `last` the mask of the last one and its
    u.
    """
    x, mask = y, None
    for step in range(outer):
        if step:
            mask = mask_of(x, params)
        tolerance = 1e-3 * 1e-2 ** (min(step, 5) / 5)
        fista = params["family"] == "mmr" and step > 0
        x, u, made = converged_inner(x, y, lam, lipschitz, mask, params["layers"], fista, tolerance, inner)
        if counts is not None:
            counts.append(made)
    if last is not None:
        last.update(mask=mask, u=u)
    return x


def converged_inner(x, y, lam, lipschitz, mask, layers, fista, tolerance, inner):
    """One outer step from u = M . W x: the image before the last, its u, and how many dual steps were made."""
    u = v = _masked(mask, analysis(x, layers))
    t = 1.0 if fista else 5 / 3
    x_old = _primal(u, y, mask, layers)
    f_old = _objective(x_old, y, lam, mask, layers) if fista else None
    for i in range(inner):
        u_new = _dual_step(v, y, lam, lipschitz, mask, layers)
        x_new = _primal(u_new, y, mask, layers)
        if fista:
            f_new = _objective(x_new, y, lam, mask, layers)
            stop = (f_old - f_new).abs() / f_old < tolerance
            f_old, t_new = f_new, (1 + sqrt(1 + 4 * t * t)) / 2
        else:
            stop = i > 5 and torch.norm(x_new - x_old) / torch.norm(x_old) < tolerance
            t_new = (i + 6) / 3
        if stop:
            return x_old, u, i + 1
        v = u_new + (t - 1) / t_new * (u_new - u)
        u, t, x_old = u_new, t_new, x_new
    return x_old, u, inner
