"""The composed filter bank on one 32 x 32 tile, in Fourier space: the two halves of every filter-bank kernel.

Channels travel in groups of 32: lanes 0..15 of a group are the real part of a complex image, lanes 16..31 its imaginary
part. With P = conj(K_a) + i conj(K_b) for two real filters K_a, K_b, one complex product serves two channels:

    analysis   F^-1(X P)          = W_a x + i W_b x          (x real: nothing to unpack)
    synthesis  Re F^-1(conj(P) V) = W_a^T v_a + W_b^T v_b    for V = F(v_a + i v_b)

A tile sees 32 x 32 pixels of the image and yields the inner = 33 - support outputs per side that no wrap-around touches:
overlap-save in the analysis, overlap-add in the synthesis.

Border of layer-wise zero padding: the composed filter is exact but within `band` pixels of the border, where the cascade
drops intermediate values that lie outside the image. `Border` (bindings) lists, for each of the (2 band + 1)^2 positions
relative to the border, the taps that have to be taken off again.

Work space of one thread: `re`, `im` (WORK floats each) and `extra` (EXTRA floats), at the offsets below.
"""

from numba import njit

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


@njit(**_OPTIONS)
def _transform_image(re, im, source, target, scratch, line):
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
def load_image(image, first, pitch, re, im, work, extra, more):
    """Read the 32 x 32 tile whose corner is image[first] and transform it."""
    for row in range(TILE):
        for column in range(TILE):
            value = image[first + row * pitch + column]
            re[work + IMAGE + row * TILE + column] = value
            im[work + IMAGE + row * TILE + column] = 0
            extra[more + PATCH + row * TILE + column] = value
    _transform_image(re, im, work + IMAGE, work + SPECTRUM, extra, more + SCRATCH)


@njit(**_OPTIONS)
def analyse_group(group, filters_re, filters_im, inner, re, im, work, extra, more):
    """Filter the loaded tile with the 32 filters of a group; outputs [row, column] < inner lie at LANES_AT."""
    lanes = work + LANES_AT
    for ky in range(TILE):
        for kx in range(TILE):
            at = (group * PIXELS + ky * TILE + kx) * 16
            pr, pi = load(filters_re, at), load(filters_im, at)
            xr = splat(re[work + SPECTRUM + kx * TILE + ky])
            xi = splat(im[work + SPECTRUM + kx * TILE + ky])
            to = lanes + ky * PITCH + kx * 16
            store(re, to, pr * xr - pi * xi)
            store(im, to, fma(pr, xi, pi * xr))
    for kx in range(TILE):
        fft32(im, re, lanes + kx * 16, PITCH, extra, more + SCRATCH)
    for row in range(inner):
        fft32(im, re, lanes + row * PITCH, 16, extra, more + SCRATCH)


@njit(**_OPTIONS)
def synthesise_group(group, first_group, filters_re, filters_im, inner, re, im, work, extra, more):
    """Add conj(P) V of the group at LANES_AT to TOTAL. Rows and columns from `inner` on must be zero."""
    lanes = work + LANES_AT
    for row in range(inner):
        fft32(re, im, lanes + row * PITCH, 16, extra, more + SCRATCH)
    for kx in range(TILE):
        fft32(re, im, lanes + kx * 16, PITCH, extra, more + SCRATCH)
    for ky in range(TILE):
        for kx in range(TILE):
            at = (group * PIXELS + ky * TILE + kx) * 16
            pr, pi = load(filters_re, at), load(filters_im, at)
            source = lanes + ky * PITCH + kx * 16
            vr, vi = load(re, source), load(im, source)
            to = work + TOTAL + (ky * TILE + kx) * 16
            if first_group:
                store(re, to, fma(pi, vi, pr * vr))
                store(im, to, pr * vi - pi * vr)
            else:
                store(re, to, fma(pi, vi, fma(pr, vr, load(re, to))))
                store(im, to, fma(pr, vi, load(im, to)) - pi * vr)


@njit(**_OPTIONS)
def finish_synthesis(tiles, first, has_border, re, im, work, extra, more):
    """tiles[first :] = the 32 x 32 pixels that the tile adds to W^T v, corner `reach` pixels up and left of the tile."""
    for ky in range(TILE):
        for kx in range(TILE):
            at = work + TOTAL + (ky * TILE + kx) * 16
            re[work + SPECTRUM + kx * TILE + ky] = lane_sum(load(re, at))
            im[work + SPECTRUM + kx * TILE + ky] = lane_sum(load(im, at))
    _transform_image(im, re, work + SPECTRUM, work + IMAGE, extra, more + SCRATCH)
    for pixel in range(PIXELS):
        tiles[first + pixel] = re[work + IMAGE + pixel]
    if has_border:
        for pixel in range(PIXELS):
            tiles[first + pixel] -= lane_sum(load(extra, more + BORDER_TOTAL + pixel * 16))


@njit(**_OPTIONS)
def touches_band(top, left, inner, height, width, band):
    """Whether the tile with corner (top, left) holds pixels within `band` of the border."""
    return band > 0 and (top < band or left < band or top + inner > height - band or left + inner > width - band)


@njit(**_OPTIONS)
def _position(index, length, band):
    """0 .. band - 1 from the near border on, `band` in the middle, band + 1 .. 2 band up to the far border."""
    if index < band:
        return index
    return max(band, 2 * band + 1 + index - length)


@njit(**_OPTIONS)
def _position_class(y, x, height, width, band):
    return _position(y, height, band) * (2 * band + 1) + _position(x, width, band)


@njit(**_OPTIONS)
def clear_border(extra, more):
    """Forget the border part of the synthesis."""
    for i in range(PIXELS * 16):
        extra[more + BORDER_TOTAL + i] = 0


@njit(**_OPTIONS)
def correct_analysis(
    group,
    groups,
    top,
    left,
    rows,
    columns,
    height,
    width,
    band,
    tap_first,
    tap_at,
    tap_weights,
    re,
    im,
    work,
    extra,
    more,
):
    """Take the dropped intermediate values off W x at the pixels of the tile that lie in the band."""
    for row in range(rows):
        for column in range(columns):
            kind = _position_class(top + row, left + column, height, width, band)
            at = work + LANES_AT + row * PITCH + column * 16
            qr, qi = load(re, at), load(im, at)
            for tap in range(tap_first[kind], tap_first[kind + 1]):
                x = splat(-extra[more + PATCH + row * TILE + column + tap_at[tap]])
                weight = (tap * groups + group) * GROUP
                qr = fma(load(tap_weights, weight), x, qr)
                qi = fma(load(tap_weights, weight + 16), x, qi)
            store(re, at, qr)
            store(im, at, qi)


@njit(**_OPTIONS)
def correct_synthesis(
    group,
    groups,
    top,
    left,
    rows,
    columns,
    height,
    width,
    band,
    tap_first,
    tap_at,
    tap_weights,
    re,
    im,
    work,
    extra,
    more,
):
    """The adjoint of `correct_analysis`: add up at BORDER_TOTAL what W^T v has too much."""
    for row in range(rows):
        for column in range(columns):
            kind = _position_class(top + row, left + column, height, width, band)
            at = work + LANES_AT + row * PITCH + column * 16
            vr, vi = load(re, at), load(im, at)
            for tap in range(tap_first[kind], tap_first[kind + 1]):
                weight = (tap * groups + group) * GROUP
                to = more + BORDER_TOTAL + (row * TILE + column + tap_at[tap]) * 16
                total = fma(load(tap_weights, weight), vr, load(extra, to))
                store(extra, to, fma(load(tap_weights, weight + 16), vi, total))
