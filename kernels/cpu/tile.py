"""The composed filter bank on one 32 x 32 tile, in Fourier space: the two halves of every filter-bank kernel.

Channels travel in groups of 32: lanes 0..15 of a group are the real part of a complex image, lanes 16..31 its imaginary
part. With P = conj(K_a) + i conj(K_b) for two real filters K_a, K_b, one complex product serves two channels:

    analysis   F^-1(X P)          = W_a x + i W_b x          (x real: nothing to unpack)
    synthesis  Re F^-1(conj(P) V) = W_a^T v_a + W_b^T v_b    for V = F(v_a + i v_b)

A tile sees 32 x 32 pixels of the image and yields the inner = 33 - support outputs per side that no wrap-around
touches: overlap-save in the analysis, overlap-add in the synthesis.

Border of layer-wise zero padding: the composed filter is exact but within `band` pixels of the border, where the
cascade drops intermediate values that lie outside the image. `BorderTaps` (bindings) lists, for each of the (2 band +
1)^2 positions relative to the border, the taps that have to be taken off again.

Work space of one thread: `re`, `im` (WORK floats each) and `extra` (EXTRA floats), at the offsets below.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import get_thread_id, njit

from .arguments import Bank, Floats, Geometry, Numbers, Work
from .fft import TILE, fft32
from .simd import fma, lane_sum, load, splat, store

GROUP = 32  # channels in a group
PIXELS = TILE * TILE
PITCH = (TILE + 1) * 16  # floats in a row of lanes; an odd number of lines keeps columns out of one cache set

IMAGE = 0  # in re, im: the tile of the image
SPECTRUM = IMAGE + PIXELS  # its spectrum, transposed [kx, ky]
TOTAL = SPECTRUM + PIXELS  # lane by lane, the sum over groups of conj(P) V [ky, kx]
LANES_AT = TOTAL + PIXELS * 16  # the current group, in pixels or frequencies
WORK = LANES_AT + TILE * PITCH

SCRATCH = 0  # in extra: one line of the transform
PATCH = SCRATCH + 2 * TILE * 16  # the tile of the image in pixels
BORDER_TOTAL = PATCH + PIXELS  # lane by lane, the border part of the synthesis, in pixels
EXTRA = BORDER_TOTAL + PIXELS * 16

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


class Tile(NamedTuple):
    """One tile of one image: its number in the batch, its corner, its valid rows and columns, and whether taps are
    dropped there.

    work, more: where the work space of the thread begins, in re and im and in extra.
    """

    image: int
    number: int
    top: int
    left: int
    rows: int
    columns: int
    on_border: bool
    work: int
    more: int


@njit(**_OPTIONS)
def tiles_of(geometry: Geometry) -> int:
    """Tiles of an image."""
    inner = TILE + 1 - geometry.support
    return ((geometry.width + inner - 1) // inner) * ((geometry.height + inner - 1) // inner)


@njit(**_OPTIONS)
def locate(item: int, active: Numbers, geometry: Geometry, band: int) -> Tile:
    """The tile of a work item, for the thread that asks."""
    inner = TILE + 1 - geometry.support
    across = (geometry.width + inner - 1) // inner
    per_image = across * ((geometry.height + inner - 1) // inner)
    image, tile, thread = active[item // per_image], item % per_image, get_thread_id()
    top, left = tile // across * inner, tile % across * inner
    near = top < band or left < band or top + inner > geometry.height - band or left + inner > geometry.width - band
    rows, columns = min(inner, geometry.height - top), min(inner, geometry.width - left)
    number = image * per_image + tile
    return Tile(image, number, top, left, rows, columns, band > 0 and near, thread * WORK, thread * EXTRA)


@njit(**_OPTIONS)
def _transform_image(re: Floats, im: Floats, source: int, target: int, scratch: Floats, line: int) -> None:
    """2-D transform of one 32 x 32 image at `source`; the result lies transposed at `target`."""
    fft32(re, im, source, TILE, scratch, line)
    fft32(re, im, source + 16, TILE, scratch, line)
    for row in range(TILE):
        for column in range(TILE):
            re[target + column * TILE + row] = re[source + row * TILE + column]
            im[target + column * TILE + row] = im[source + row * TILE + column]
    fft32(re, im, target, TILE, scratch, line)
    fft32(re, im, target + 16, TILE, scratch, line)


@njit(**_OPTIONS)
def load_image(image: Floats, first: int, pitch: int, tile: Tile, work: Work) -> None:
    """Read the 32 x 32 tile whose corner is image[first] and transform it."""
    re, im, extra = work.re, work.im, work.extra
    at, patch = tile.work + IMAGE, tile.more + PATCH
    for row in range(TILE):
        for column in range(TILE):
            value = image[first + row * pitch + column]
            re[at + row * TILE + column] = value
            im[at + row * TILE + column] = 0
            extra[patch + row * TILE + column] = value
    _transform_image(re, im, at, tile.work + SPECTRUM, extra, tile.more + SCRATCH)


@njit(**_OPTIONS)
def _analyse(group: int, inner: int, tile: Tile, bank: Bank, work: Work) -> None:
    """Filter the loaded tile with the 32 filters of a group; outputs [row, column] < inner lie at LANES_AT."""
    re, im, extra, filters_re, filters_im = work.re, work.im, work.extra, bank.re, bank.im
    lanes, spectrum, line = tile.work + LANES_AT, tile.work + SPECTRUM, tile.more + SCRATCH
    for ky in range(TILE):
        for kx in range(TILE):
            at = (group * PIXELS + ky * TILE + kx) * 16
            pr, pi = load(filters_re, at), load(filters_im, at)
            xr = splat(re[spectrum + kx * TILE + ky])
            xi = splat(im[spectrum + kx * TILE + ky])
            to = lanes + ky * PITCH + kx * 16
            store(re, to, pr * xr - pi * xi)
            store(im, to, fma(pr, xi, pi * xr))
    for kx in range(TILE):
        fft32(im, re, lanes + kx * 16, PITCH, extra, line)
    for row in range(inner):
        fft32(im, re, lanes + row * PITCH, 16, extra, line)


@njit(**_OPTIONS)
def _synthesise(group: int, inner: int, tile: Tile, bank: Bank, work: Work) -> None:
    """Add conj(P) V of the group at LANES_AT to TOTAL. Rows and columns from `inner` on must be zero."""
    re, im, extra, filters_re, filters_im = work.re, work.im, work.extra, bank.re, bank.im
    lanes, total, line = tile.work + LANES_AT, tile.work + TOTAL, tile.more + SCRATCH
    for row in range(inner):
        fft32(re, im, lanes + row * PITCH, 16, extra, line)
    for kx in range(TILE):
        fft32(re, im, lanes + kx * 16, PITCH, extra, line)
    for ky in range(TILE):
        for kx in range(TILE):
            at = (group * PIXELS + ky * TILE + kx) * 16
            pr, pi = load(filters_re, at), load(filters_im, at)
            source = lanes + ky * PITCH + kx * 16
            vr, vi = load(re, source), load(im, source)
            to = total + (ky * TILE + kx) * 16
            if group == 0:
                store(re, to, fma(pi, vi, pr * vr))
                store(im, to, pr * vi - pi * vr)
            else:
                store(re, to, fma(pi, vi, fma(pr, vr, load(re, to))))
                store(im, to, fma(pr, vi, load(im, to)) - pi * vr)


@njit(**_OPTIONS)
def analyse_group(group: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """W x of the loaded tile and 32 channels at LANES_AT: valid rows and columns count."""
    _analyse(group, TILE + 1 - geometry.support, tile, bank, work)
    if tile.on_border:
        _correct_analysis(group, tile, geometry, bank, work)


@njit(**_OPTIONS)
def begin_synthesis(tile: Tile, work: Work) -> None:
    """Forget the border part of the tile before."""
    if tile.on_border:
        extra, total = work.extra, tile.more + BORDER_TOTAL
        for i in range(PIXELS * 16):
            extra[total + i] = 0


@njit(**_OPTIONS)
def synthesise_group(group: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """Add what the 32 channels at LANES_AT give to W^T v; lanes outside the valid rows and columns must be zero."""
    if tile.on_border:
        _correct_synthesis(group, tile, geometry, bank, work)
    _synthesise(group, TILE + 1 - geometry.support, tile, bank, work)


@njit(**_OPTIONS)
def finish_synthesis(tiles: Floats, tile: Tile, work: Work) -> None:
    """The 32 x 32 pixels of `tiles` that the tile adds to W^T v, corner `reach` pixels up and left of the tile."""
    re, im, extra, first = work.re, work.im, work.extra, tile.number * PIXELS
    total, spectrum, image = tile.work + TOTAL, tile.work + SPECTRUM, tile.work + IMAGE
    for ky in range(TILE):
        for kx in range(TILE):
            at = total + (ky * TILE + kx) * 16
            re[spectrum + kx * TILE + ky] = lane_sum(load(re, at))
            im[spectrum + kx * TILE + ky] = lane_sum(load(im, at))
    _transform_image(im, re, spectrum, image, extra, tile.more + SCRATCH)
    for pixel in range(PIXELS):
        tiles[first + pixel] = re[image + pixel]
    if tile.on_border:
        for pixel in range(PIXELS):
            tiles[first + pixel] -= lane_sum(load(extra, tile.more + BORDER_TOTAL + pixel * 16))


@njit(**_OPTIONS)
def clear_outside(tile: Tile, work: Work) -> None:
    """Zero the lanes of the tile outside its valid rows and columns."""
    re, im, lanes = work.re, work.im, tile.work + LANES_AT
    zero = splat(0.0)
    for row in range(TILE):
        for column in range(tile.columns if row < tile.rows else 0, TILE):
            store(re, lanes + row * PITCH + column * 16, zero)
            store(im, lanes + row * PITCH + column * 16, zero)


@njit(**_OPTIONS)
def _position(index: int, length: int, band: int) -> int:
    """0 .. band - 1 from the near border on, `band` in the middle, band + 1 .. 2 band up to the far border."""
    if index < band:
        return index
    return max(band, 2 * band + 1 + index - length)


@njit(**_OPTIONS)
def _position_class(y: int, x: int, geometry: Geometry, band: int) -> int:
    return _position(y, geometry.height, band) * (2 * band + 1) + _position(x, geometry.width, band)


@njit(**_OPTIONS)
def _correct_analysis(group: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """Take the dropped intermediate values off W x at the pixels of the tile that lie in the band."""
    re, im, extra = work.re, work.im, work.extra
    tap_first, tap_at, tap_weights = bank.tap_first, bank.tap_at, bank.tap_weights
    for row in range(tile.rows):
        for column in range(tile.columns):
            kind = _position_class(tile.top + row, tile.left + column, geometry, bank.band)
            at = tile.work + LANES_AT + row * PITCH + column * 16
            qr, qi = load(re, at), load(im, at)
            for tap in range(tap_first[kind], tap_first[kind + 1]):
                x = splat(-extra[tile.more + PATCH + row * TILE + column + tap_at[tap]])
                weight = (tap * geometry.groups + group) * GROUP
                qr = fma(load(tap_weights, weight), x, qr)
                qi = fma(load(tap_weights, weight + 16), x, qi)
            store(re, at, qr)
            store(im, at, qi)


@njit(**_OPTIONS)
def _correct_synthesis(group: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """The adjoint of `_correct_analysis`: add up at BORDER_TOTAL what W^T v has too much."""
    re, im, extra = work.re, work.im, work.extra
    tap_first, tap_at, tap_weights = bank.tap_first, bank.tap_at, bank.tap_weights
    for row in range(tile.rows):
        for column in range(tile.columns):
            kind = _position_class(tile.top + row, tile.left + column, geometry, bank.band)
            at = tile.work + LANES_AT + row * PITCH + column * 16
            vr, vi = load(re, at), load(im, at)
            for tap in range(tap_first[kind], tap_first[kind + 1]):
                weight = (tap * geometry.groups + group) * GROUP
                to = tile.more + BORDER_TOTAL + (row * TILE + column + tap_at[tap]) * 16
                total = fma(load(tap_weights, weight), vr, load(extra, to))
                store(extra, to, fma(load(tap_weights, weight + 16), vi, total))
