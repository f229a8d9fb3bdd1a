"""Products of spectra for training, where an image has P planes and W as many filters for each of C channels.

    contract:    image[b, p] = sum_c spectra[b, c] bank[p, c]               (W^T)
    spread:      spectra[b, c] = sum_p image[b, p] conj(bank[p, c])         (W)
    correlate:   total[p, c] += sum_b spectra[b, c] conj(image[b, p])       (what the filters' gradient is made of)

Shapes, all float32: spectra (B, C, F, 2), real and imaginary parts side by side as FFTs leave them; image (2, B, P, F),
bank and total (2, P, C, F), the parts apart, so that what is used many times need not be taken apart every time. F
frequencies. The large array, `spectra`, is read or written once: a piece of it stays in the first cache while every
plane takes its part. Not for solving: the engine fuses these sums into its transforms.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arguments import Floats
from .parallel import PART, Share, kernel, shared

PIECE = 256  # frequencies: 1 KB of each array

_LOOSE = PART | {"fastmath": {"nsz", "arcp", "contract", "reassoc"}}
_PLUS, _MINUS = np.float32(1), np.float32(-1)


@njit(**_LOOSE)
def _add_product(re: Floats, im: Floats, a: Floats, b: Floats, c: Floats, d: Floats, sign: np.float32) -> None:
    """re + i im += (a + i b) (c + i sign d), sign 1 or -1."""
    for f in range(len(re)):
        e = sign * d[f]
        re[f] += a[f] * c[f] - b[f] * e
        im[f] += a[f] * e + b[f] * c[f]


@njit(**_LOOSE)
def _take_apart(pairs: Floats, re: Floats, im: Floats) -> None:
    for f in range(len(pairs)):
        re[f], im[f] = pairs[f, 0], pairs[f, 1]


@kernel
def contract(share: Share, spectra: Floats, bank: Floats, image: Floats) -> None:
    """Into `image`."""
    batch, channels, frequencies, _ = spectra.shape
    pieces, planes = (frequencies + PIECE - 1) // PIECE, bank.shape[1]
    parts = np.empty((2, PIECE), np.float32)
    for item in shared(share, batch * pieces):
        b, first = item // pieces, item % pieces * PIECE
        last = min(first + PIECE, frequencies)
        own = parts[:, : last - first]
        image[:, b, :, first:last] = 0
        for c in range(channels):
            _take_apart(spectra[b, c, first:last], own[0], own[1])
            for p in range(planes):
                re, im = image[0, b, p, first:last], image[1, b, p, first:last]
                _add_product(re, im, own[0], own[1], bank[0, p, c, first:last], bank[1, p, c, first:last], _PLUS)


@kernel
def spread(share: Share, image: Floats, bank: Floats, spectra: Floats) -> None:
    """Into `spectra`."""
    batch, channels, frequencies, _ = spectra.shape
    pieces, planes = (frequencies + PIECE - 1) // PIECE, bank.shape[1]
    parts = np.empty((2, PIECE), np.float32)
    for item in shared(share, batch * pieces):
        b, first = item // pieces, item % pieces * PIECE
        last = min(first + PIECE, frequencies)
        own = parts[:, : last - first]
        for c in range(channels):
            own[:] = 0
            for p in range(planes):
                re, im = image[0, b, p, first:last], image[1, b, p, first:last]
                _add_product(own[0], own[1], re, im, bank[0, p, c, first:last], bank[1, p, c, first:last], _MINUS)
            made = spectra[b, c, first:last]
            for f in range(last - first):
                made[f, 0], made[f, 1] = own[0, f], own[1, f]


@kernel
def correlate(share: Share, spectra: Floats, image: Floats, total: Floats) -> None:
    """Added to `total`."""
    batch, channels, frequencies, _ = spectra.shape
    pieces, planes = (frequencies + PIECE - 1) // PIECE, total.shape[1]
    parts = np.empty((2, PIECE), np.float32)
    for item in shared(share, channels * pieces):
        c, first = item // pieces, item % pieces * PIECE
        last = min(first + PIECE, frequencies)
        own = parts[:, : last - first]
        for b in range(batch):
            _take_apart(spectra[b, c, first:last], own[0], own[1])
            for p in range(planes):
                re, im = total[0, p, c, first:last], total[1, p, c, first:last]
                _add_product(re, im, own[0], own[1], image[0, b, p, first:last], image[1, b, p, first:last], _MINUS)
