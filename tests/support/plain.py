"""The method's building blocks in plain float32 NumPy: the measure of what rounding alone does.

A kernel passes where its error against the float64 oracle is at most twice the error of the same thing here. Same
shapes and names as in oracle.py; every product is one float32 matrix product.
"""

import numpy as np
import oracle
from scipy.special import expit

EPS = float(np.finfo(np.float32).eps)


def correlate(image, weight, boundary, dilation=1):
    """(C_in, H, W), (C_out, C_in, k, k) -> (C_out, H, W)."""
    image, weight = np.asarray(image, np.float32), np.asarray(weight, np.float32)
    reach = dilation * (weight.shape[-1] // 2)
    extended = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode=oracle.PAD_MODE[boundary])
    return _valid(extended, weight, dilation)


def correlate_adjoint(image, weight, boundary):
    """The adjoint of `correlate` (dilation 1): correlate the zero-extended responses with the turned kernels, then
    fold.
    """
    reach = weight.shape[-1] // 2
    turned = np.ascontiguousarray(np.asarray(weight, np.float32).transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    wide = np.pad(np.asarray(image, np.float32), ((0, 0), (2 * reach,) * 2, (2 * reach,) * 2))
    return oracle._pad_adjoint(_valid(wide, turned, 1), reach, boundary).astype(np.float32)


def _valid(extended, weight, dilation):
    span = dilation * (weight.shape[-1] - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(extended, (span, span), axis=(1, 2))[..., ::dilation, ::dilation]
    _, height, width = windows.shape[:3]
    rows = np.ascontiguousarray(windows.transpose(1, 2, 0, 3, 4)).reshape(height * width, -1)
    return (rows @ weight.reshape(len(weight), -1).T).T.reshape(-1, height, width)


def depthwise(image, weight, boundary, *, adjoint=False):
    """Every channel with its own kernel: (C, H, W), (C, 1, k, k) -> (C, H, W)."""
    apply = correlate_adjoint if adjoint else correlate
    return np.concatenate([apply(plane[None], w[None], boundary) for plane, w in zip(image, weight, strict=True)])


def _layers(bank):
    return bank.layers if bank.boundary == "zero" else (bank.composed(),)


def analysis(x, bank):
    """W x: (H, W) -> (C, H, W)."""
    response = x[None]
    for weight in _layers(bank):
        response = correlate(response, weight, bank.boundary)
    return response


def synthesis(u, bank):
    """W^T u: (C, H, W) -> (H, W)."""
    for weight in reversed(_layers(bank)):
        u = correlate_adjoint(u, weight, bank.boundary)
    return u[0]


def safi_mask(x, mask, gain, bias):
    """The SAFI mask generator: (H, W) -> (C, H, W)."""
    z = x[None]
    for number, (weight, dilation) in enumerate(zip(mask.convolutions, mask.dilations, strict=True)):
        z = correlate(z, weight, mask.boundary, dilation)
        z = z * gain[:, None, None] if number == 0 else z
        z = oracle.spline(z, mask.splines[number], -1, 1).astype(np.float32)
    return expit(z + bias[:, None, None])


def mmr_mask(x, mask, bank):
    """The MMR mask generator: (H, W) -> (C, H, W)."""
    activity = np.abs(analysis(x, bank))
    for weight in mask.smoothing:
        activity = depthwise(activity, weight, bank.boundary)
    weights = oracle.spline(mask.scale[:, None, None] * activity, mask.profile, 0, 1)
    weights = np.clip(weights, 0, 1).astype(np.float32)
    for weight in reversed(mask.smoothing):
        weights = depthwise(weights, weight, bank.boundary, adjoint=True)
    return weights


def assert_as_good(actual, exact, plain, ulps=4):
    """Error at most twice that of plain float32.

    `ulps` roundings of the largest value are always allowed: a tile's transform rounds every pixel to the scale of the
    whole tile, while a direct sum of few terms can be luckier than that.
    """
    assert actual.dtype == np.float32
    error, allowed = (np.abs(np.asarray(values, float) - exact).max() for values in (actual, plain))
    assert error <= max(2 * allowed, ulps * EPS * np.abs(exact).max())
