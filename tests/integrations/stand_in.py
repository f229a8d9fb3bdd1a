"""As much of deepinv as the bridge uses, for where it is not installed: its signatures are those of the real package.

`test_signatures` holds both to signatures.json. The maps are written from their definitions: centred orthonormal
transforms, convolution whose kernel has its centre at side // 2 of what it reads, decimation from pixel 0.
"""

import sys
from types import ModuleType

import numpy as np
import torch


class Denoiser(torch.nn.Module):
    def __init__(self, device="cpu"):
        super().__init__()

    def forward(self, x, sigma, **kwargs):
        raise NotImplementedError


class Reconstructor(torch.nn.Module):
    def __init__(self, device="cpu"):
        super().__init__()

    def forward(self, y, physics, **kwargs):
        raise NotImplementedError


class LinearPhysics(torch.nn.Module):
    """A by subclasses; the adjoint by automatic differentiation, of the sides that `_sides` says."""

    def forward(self, x, **kwargs):
        return self.A(x)

    def _sides(self, y):
        return y.shape[-2:]

    def A_adjoint(self, y, **kwargs):  # noqa: N802
        x = torch.zeros(len(y), self._channels(y), *self._sides(y))
        return torch.func.vjp(self.A, x)[1](y)[0]

    def _channels(self, y):
        return y.shape[1]


def centred(x):
    """(B, 2, ..., H, W), real and imaginary part, to k-space."""
    z = torch.fft.ifftshift(torch.view_as_complex(x.moveaxis(1, -1).contiguous()), dim=(-2, -1))
    y = torch.fft.fftshift(torch.fft.fft2(z, norm="ortho"), dim=(-2, -1))
    return torch.view_as_real(y).moveaxis(-1, 1)


def pairs(mask):
    """As (b, 2, H, W)."""
    mask = mask.reshape(*[1] * (4 - mask.ndim), *mask.shape)
    return mask.expand(-1, 2, -1, -1)


class MRI(LinearPhysics):
    def __init__(self, mask=None, img_size=(320, 320), three_d=False, device="cpu", **kwargs):
        super().__init__()
        self.register_buffer("mask", pairs(mask))

    def A(self, x, mask=None, **kwargs):  # noqa: N802
        return self.mask * centred(x)


class MultiCoilMRI(LinearPhysics):
    def __init__(self, mask=None, coil_maps=None, img_size=(320, 320), three_d=False, device="cpu", **kwargs):
        super().__init__()
        self.register_buffer("mask", pairs(mask))
        self.register_buffer("coil_maps", coil_maps.reshape(*[1] * (4 - coil_maps.ndim), *coil_maps.shape))

    def A(self, x, mask=None, coil_maps=None, **kwargs):  # noqa: N802
        z = self.coil_maps * torch.view_as_complex(x.moveaxis(1, -1).contiguous())[:, None]
        return self.mask[:, :, None] * centred(torch.view_as_real(z).moveaxis(-1, 1))


class Inpainting(LinearPhysics):
    def __init__(self, img_size, mask=None, pixelwise=True, device="cpu", rng=None, **kwargs):
        super().__init__()
        self.register_buffer("mask", mask[None] if mask.ndim == len(img_size) else mask)

    def A(self, x, mask=None, **kwargs):  # noqa: N802
        return self.mask * x


def convolved(x, kernels, padding):
    """(B, C, H, W) with kernels (b, c, h, w), b and c one or as many."""
    h, w = kernels.shape[-2:]
    if padding != "valid":
        pad = (w - 1 - w // 2, w // 2, h - 1 - h // 2, h // 2)
        x = torch.nn.functional.pad(x, pad, mode="constant" if padding == "zeros" else padding)
    count, channels = x.shape[:2]
    flipped = kernels.flip(-2, -1).expand(count, channels, h, w).reshape(count * channels, 1, h, w)
    y = torch.nn.functional.conv2d(x.reshape(1, -1, *x.shape[-2:]), flipped, groups=count * channels)
    return y.reshape(count, channels, *y.shape[-2:])


class Blur(LinearPhysics):
    def __init__(self, filter=None, padding="valid", use_fft=False, device="cpu", **kwargs):
        super().__init__()
        self.padding = padding
        self.register_buffer("filter", filter)

    def A(self, x, filter=None, **kwargs):  # noqa: N802
        return convolved(x, self.filter, self.padding)

    def _sides(self, y):
        more = [0, 0] if self.padding != "valid" else [side - 1 for side in self.filter.shape[-2:]]
        return [side + extra for side, extra in zip(y.shape[-2:], more, strict=True)]


class BlurFFT(LinearPhysics):
    def __init__(self, img_size, filter=None, device="cpu", **kwargs):
        super().__init__()
        self.register_buffer("filter", filter)

    def A(self, x, filter=None, **kwargs):  # noqa: N802
        return convolved(x, self.filter, "circular")


class Downsampling(LinearPhysics):
    def __init__(self, img_size=None, filter="warn", factor=2, device="cpu", padding="circular", **kwargs):
        super().__init__()
        self.factor, self.padding, self.imsize = factor, padding, img_size
        self.register_buffer("filter", filter)

    def A(self, x, filter=None, factor=None, **kwargs):  # noqa: N802
        x = x if self.filter is None else convolved(x, self.filter, self.padding)
        return x[:, :, :: self.factor, :: self.factor]

    def _sides(self, y):
        return self.imsize[-2:]


class Tomography(LinearPhysics):
    """Sums along rows and columns, in place of rotations."""

    def __init__(
        self, angles, img_width, circle=False, parallel_computation=True, adjoint_via_backprop=True,
        fbp_interpolate_boundary=False, normalize=None, fan_beam=False, fan_parameters=None, device="cpu",
        dtype=torch.float, **kwargs,
    ):  # fmt: skip
        super().__init__()
        self.img_width = img_width

    def A(self, x, **kwargs):  # noqa: N802
        return torch.stack([x.sum(-2), x.sum(-1)], -1) / np.sqrt(2 * self.img_width)

    def _sides(self, y):
        return 2 * [self.img_width]


def install(monkeypatch):
    """As the package deepinv."""
    deepinv, physics, models = (ModuleType(name) for name in ("deepinv", "deepinv.physics", "deepinv.models"))
    for public in (
        LinearPhysics, MRI, MultiCoilMRI, Inpainting, Blur, BlurFFT, Downsampling, Tomography,
    ):  # fmt: skip
        setattr(physics, public.__name__, public)
    models.Denoiser, models.Reconstructor = Denoiser, Reconstructor
    deepinv.physics, deepinv.models = physics, models
    for module in (deepinv, physics, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return deepinv
