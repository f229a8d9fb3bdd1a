"""Small random models that are valid, for the tests of everything that takes a model."""

import numpy as np
from scipy.ndimage import gaussian_filter

from safi_fast.masks import MmrMask, SafiMask
from safi_fast.model import FilterBank, Model, Schedule, Strength

KNOTS = 21


def random_filters(rng, channels=4, kernels=(5, 3), boundary="zero", composed=False):
    """Zero-mean layers, scaled so that ||W|| is about 1 on a large image."""
    layers = [zero_mean(rng.standard_normal((channels, 1, kernels[0], kernels[0])))]
    layers += [zero_mean(rng.standard_normal((channels, channels, k, k)) / k) for k in kernels[1:]]
    norm = np.sqrt((abs(np.fft.fft2(FilterBank(tuple(layers), boundary).composed()[:, 0], (64, 64))) ** 2).sum(0).max())
    layers[0] /= norm
    bank = FilterBank(tuple(layers), boundary)
    return FilterBank((bank.composed(),), boundary) if composed else bank


def random_safi_mask(rng, channels=4, kernels=(5, 3, 3), dilations=(1, 2, 1), boundary="zero", levels=1):
    """Masks that spread over (0, 1); gain and bias are ones and zeros for one level, as in the published models."""
    inputs = (1, *[channels] * (len(kernels) - 1))
    convolutions = tuple(
        rng.standard_normal((channels, n, k, k)) / (k * np.sqrt(n)) for n, k in zip(inputs, kernels, strict=True)
    )
    knots = np.linspace(-1, 1, KNOTS)
    slopes = (*[1] * (len(kernels) - 1), 4)
    splines = tuple(slope * knots + 0.1 * rng.standard_normal((channels, KNOTS)) for slope in slopes)
    shape = (levels, channels)
    gain = np.ones(shape) if levels == 1 else rng.uniform(0.5, 2, shape)
    bias = np.zeros(shape) if levels == 1 else rng.standard_normal(shape)
    return SafiMask(convolutions, dilations, splines, gain, bias, boundary)


def random_mmr_mask(rng, channels=4, kernels=(5, 3)):
    """Masks that fall from one as the filter responses grow, well within the range of a denoising step."""
    smoothing = [rng.uniform(0, 1, (channels, 1, k, k)) for k in kernels]
    smoothing = tuple(kernel / kernel.sum((2, 3), keepdims=True) for kernel in smoothing)
    falls = rng.uniform(0, 3 / KNOTS, (channels, KNOTS - 1))
    profile = 1 - np.hstack([np.zeros((channels, 1)), np.cumsum(falls, axis=1)])
    return MmrMask(smoothing, profile, rng.uniform(2, 8, channels))


def random_model(
    family="safi",
    channels=4,
    *,
    kernels=(5, 3),
    composed=False,
    boundary="zero",
    levels=(25 / 255,),
    dilations=(1, 2, 1),
    seed=0,
    **parts,
):
    """A valid random Model, the same for the same arguments; `parts` (name, metadata, ...) replace those made here."""
    rng = np.random.default_rng(seed)
    filters = random_filters(rng, channels, kernels, boundary, composed)
    if family == "safi":
        sides = (5, *[3] * (len(dilations) - 1))
        mask = random_safi_mask(rng, channels, sides, dilations, boundary, len(levels))
    else:
        mask = random_mmr_mask(rng, channels)
    made = {
        "name": f"random-{family}",
        "family": family,
        "filters": filters,
        "mask": mask,
        "strength": Strength(0.3 * np.asarray(levels), 0.25 * np.asarray(levels)),
        "noise_levels": levels,
        "schedule": Schedule("unrolled", 5, 12),
        "metadata": {"training_data": "none", "licence": "MIT", "scores": "not measured"},
    }
    return Model(**(made | parts))


def conditions(model):
    """Gain and bias of the mask generator at the first level of a model, (C,) each."""
    level = model.at(float(model.noise_levels[0]), strength_given=False)
    return level.gain, level.bias


def oracle_form(model):
    """A Model as the dictionary of float64 arrays that `oracle.mask_of` takes, first noise level."""
    mask, form = model.mask, {"family": model.family, "layers": [w.astype(float) for w in model.filters.layers]}
    if model.family == "mmr":
        smoothing = [w.astype(float) for w in mask.smoothing]
        return form | {"smoothing": smoothing, "profile": mask.profile.astype(float), "scale": mask.scale.astype(float)}
    return form | {
        "convolutions": [(w.astype(float), d) for w, d in zip(mask.convolutions, mask.dilations, strict=True)],
        "splines": [spline.astype(float) for spline in mask.splines],
        "gain": mask.gain[0].astype(float),
        "bias": mask.bias[0].astype(float),
    }


def zero_mean(kernels):
    return kernels - kernels.mean((2, 3), keepdims=True)


def coil_maps(count, height, width):
    """Smooth sensitivities (C, H, W) of coils around the image, complex64, whose squares sum to one."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angles = 2 * np.pi * np.arange(count) / count
    maps = np.stack([np.exp(-((x - np.cos(a)) ** 2) - (y - np.sin(a)) ** 2 + 1j * a) for a in angles])
    return (maps / np.sqrt((abs(maps) ** 2).sum(0))).astype(np.complex64)


def phantom(height, width):
    """Two discs, smooth, with edges, inside the inscribed ellipse, on [0, 1], float32."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = 0.4 * (x**2 + y**2 < 0.7) + 0.5 * ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.12)
    return gaussian_filter(image, 0.6).astype(np.float32)


def random_planes_model(planes, channels=6, boundary="symmetric"):
    """A valid SAFI model of several planes with ||W|| = 1 on a periodic grid."""
    rng = np.random.default_rng(planes)
    layer = zero_mean(rng.standard_normal((channels, planes, 5, 5)))
    spectra = np.fft.fft2(layer, (72, 72)).reshape(channels, planes, -1)
    norm = np.sqrt(np.linalg.eigvalsh(np.einsum("cpf,cqf->fpq", spectra.conj(), spectra)).max())
    bank = FilterBank(((layer / norm).astype(np.float32),), boundary)
    grey = random_safi_mask(rng, channels, boundary=boundary)
    first = rng.standard_normal((channels, planes, 5, 5)) / 10
    mask = type(grey)((first, *grey.convolutions[1:]), grey.dilations, grey.splines, grey.gain, grey.bias, boundary)
    return random_model(channels=channels, filters=bank, mask=mask, name=f"random-{planes}", lipschitz=1.0)
