"""Small problems of `reconstruct`, one for each kind of operator."""

import numpy as np

from safi_fast.operators import Blur, Downsample, FourierMRI, Mask, ParallelBeamCT, SenseMRI

HEIGHT, WIDTH = 48, 40


def lines(rng):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, rng.permutation(WIDTH)[:14]] = mask[:, 18:22] = True
    return mask


def coils(rng):
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / HEIGHT
    places = rng.random((3, 2))
    maps = np.exp(-2 * ((y - places[:, :1, None]) ** 2 + (x - places[:, 1:, None]) ** 2)) * np.exp(1j * y)
    return (maps / np.sqrt((abs(maps) ** 2).sum(0))).astype(np.complex64)


def operators(rng):
    kernel = np.outer(np.hanning(7), np.hanning(5))
    angles = np.linspace(0, np.pi, 24, endpoint=False)
    size = (HEIGHT, WIDTH)
    return {
        "MRI, one coil": FourierMRI(lines(rng), mask_order="centered"),
        "MRI, one coil, complex": FourierMRI(lines(rng), mask_order="fft", image="complex", check_order=False),
        "SENSE": SenseMRI(coils(rng), lines(rng), mask_order="centered"),
        "blur": Blur(kernel / kernel.sum(), size),
        "circular blur": Blur(kernel / kernel.sum(), size, "circular"),
        "inpainting": Mask(rng.random(size) < 0.5),
        "super-resolution": Downsample(2, size),
        "CT": ParallelBeamCT(size, angles, 72),
    }


def problem(name, count=None):
    """An operator and its measurements of `count` images, or of one alone."""
    rng = np.random.default_rng(7)
    operator = operators(rng)[name]
    front = () if count is None else (count,)
    image = np.cumsum(rng.random((*front, HEIGHT, WIDTH)), axis=-1).astype(np.float32) / WIDTH
    if operator.image == "complex":
        image = image * np.exp(0.3j * image)
    return operator, operator.apply(image) + np.float32(0.01) * operator.apply(rng.random(image.shape)).real
