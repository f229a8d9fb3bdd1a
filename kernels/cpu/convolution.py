"""convolution: the later layers of the SAFI mask generator, C -> C channels, spline (and sigmoid) fused, by tiled Fourier products.

    output = s(V * input)            or, in the last layer,   sigmoid(s(V * input) + bias)

Two 16 x 16 tiles a, b travel as one complex image a + i b: the kernels are real, so the product keeps them apart. At each of the
256 frequencies the channels of many tile pairs are mixed by one complex C x C matrix, six pairs to a register tile.

Shapes: input, output (2, B, G, H, W, 32); spectra re, im (256, C, C) [frequency, in, out] with C = 32 G; bias (B, G, 32);
`pairs` tile pairs share one pass over the spectra. Support (size of the dilated kernel) at most 15: inner = 17 - support.
Work space per thread: re, im (256, pairs * C + 16) each, small (SMALL floats each).
"""

from numba import get_thread_id, njit, prange

from .fft import SMALL_TILE, fft16
from .simd import fma, load, sigmoid, splat, store
from .spline import spline
from .tile import GROUP

BLOCK = 6  # tile pairs in a register tile
BINS = SMALL_TILE * SMALL_TILE
SMALL_PITCH = (SMALL_TILE + 1) * 16
SMALL_SCRATCH = SMALL_TILE * SMALL_PITCH
MIXED = SMALL_SCRATCH + 2 * SMALL_TILE * 16  # one frequency of a block after mixing

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def small_floats(groups):
    """Floats of the small work space of one thread."""
    return MIXED + BLOCK * groups * GROUP


@njit(**_OPTIONS)
def _mirror(index, length):
    if index < 0:
        return -1 - index
    if index >= length:
        return 2 * length - 1 - index
    return index


@njit(**_OPTIONS)
def _load_tile(source, plane, top, left, height, width, lane, symmetric, small, at):
    """small[at :] = 16 x 16 pixels with corner (top, left), 16 channels of `plane`."""
    for row in range(SMALL_TILE):
        y = _mirror(top + row, height) if symmetric else top + row
        for column in range(SMALL_TILE):
            x = _mirror(left + column, width) if symmetric else left + column
            value = splat(0.0)
            if 0 <= y < height and 0 <= x < width:
                value = load(source, ((plane * height + y) * width + x) * GROUP + lane)
            store(small, at + row * SMALL_PITCH + column * 16, value)


@njit(**_OPTIONS)
def _transform(re, im, at, scratch):
    for row in range(SMALL_TILE):
        fft16(re, im, at + row * SMALL_PITCH, 16, scratch, at + SMALL_SCRATCH)
    for column in range(SMALL_TILE):
        fft16(re, im, at + column * 16, SMALL_PITCH, scratch, at + SMALL_SCRATCH)


@njit(**_OPTIONS)
def _multiply_add(kr, ki, xr, xi, re, im):
    """(re, im) + (kr + i ki) (xr + i xi)."""
    return fma(kr, xr, re) - ki * xi, fma(kr, xi, fma(ki, xr, im))


@njit(**_OPTIONS)
def _mix_block(re, im, first, channels, spectra_re, spectra_im, matrix, lanes, small_re, small_im, target):
    """Mix the channels of six pairs at one frequency into the 16 outputs that start at `lanes`."""
    z = splat(0.0)
    ar, ai, br, bi, cr, ci, dr, di, er, ei, fr, fi = z, z, z, z, z, z, z, z, z, z, z, z
    for channel in range(channels):
        at = matrix + channel * channels + lanes
        kr, ki = load(spectra_re, at), load(spectra_im, at)
        x = first + channel
        ar, ai = _multiply_add(kr, ki, splat(re[x]), splat(im[x]), ar, ai)
        x += channels
        br, bi = _multiply_add(kr, ki, splat(re[x]), splat(im[x]), br, bi)
        x += channels
        cr, ci = _multiply_add(kr, ki, splat(re[x]), splat(im[x]), cr, ci)
        x += channels
        dr, di = _multiply_add(kr, ki, splat(re[x]), splat(im[x]), dr, di)
        x += channels
        er, ei = _multiply_add(kr, ki, splat(re[x]), splat(im[x]), er, ei)
        x += channels
        fr, fi = _multiply_add(kr, ki, splat(re[x]), splat(im[x]), fr, fi)
    to = target + lanes
    for vr, vi in ((ar, ai), (br, bi), (cr, ci), (dr, di), (er, ei), (fr, fi)):
        store(small_re, to, vr)
        store(small_im, to, vi)
        to += channels


@njit(**_OPTIONS)
def _mix(re, im, base, count, pitch, channels, spectra_re, spectra_im, small_re, small_im, at):
    """Replace the channels of `count` pairs at every frequency by V times them."""
    for frequency in range(BINS):
        for start in range(0, count, BLOCK):
            first = base + frequency * pitch + start * channels
            for lanes in range(0, channels, 16):
                _mix_block(
                    re, im, first, channels, spectra_re, spectra_im, frequency * channels * channels, lanes,
                    small_re, small_im, at + MIXED,
                )  # fmt: skip
            for i in range(0, BLOCK * channels, 16):
                store(re, first + i, load(small_re, at + MIXED + i))
                store(im, first + i, load(small_im, at + MIXED + i))


@njit(parallel=True, **_OPTIONS)
def convolution(
    active, source, source_slot, output, output_slot, support, symmetric, spectra_re, spectra_im,
    table, knots, shift, stretch, bias, last, pairs, re, im, small_re, small_im, geometry,
):  # fmt: skip
    """A set of `pairs` tile pairs of one image at a time."""
    batch, height, width, groups = geometry[0], geometry[1], geometry[2], geometry[3]
    channels = groups * GROUP
    inner, reach = SMALL_TILE + 1 - support, support // 2
    across = (width + inner - 1) // inner
    tiles = across * ((height + inner - 1) // inner)
    sets = (tiles + 2 * pairs - 1) // (2 * pairs)
    pitch = pairs * channels + 16
    for item in prange(len(active) * sets):
        b = active[item // sets]
        start = item % sets * 2 * pairs
        count = min(pairs, (tiles - start + 1) // 2)
        thread = get_thread_id()
        base, at = thread * BINS * pitch, thread * small_floats(groups)
        for pair in range(count):
            tile_a = start + 2 * pair
            tile_b = min(tile_a + 1, tiles - 1)  # an odd one out keeps itself company
            for lanes in range(0, channels, 16):
                plane, lane = (source_slot[b] * batch + b) * groups + lanes // GROUP, lanes % GROUP
                for tile, part in ((tile_a, small_re), (tile_b, small_im)):
                    top, left = tile // across * inner - reach, tile % across * inner - reach
                    _load_tile(source, plane, top, left, height, width, lane, symmetric, part, at)
                _transform(small_re, small_im, at, small_re)
                for frequency in range(BINS):
                    to = base + frequency * pitch + pair * channels + lanes
                    where = at + frequency // SMALL_TILE * SMALL_PITCH + frequency % SMALL_TILE * 16
                    store(re, to, load(small_re, where))
                    store(im, to, load(small_im, where))
        _mix(re, im, base, count, pitch, channels, spectra_re, spectra_im, small_re, small_im, at)
        for pair in range(count):
            tile_a = start + 2 * pair
            tile_b = min(tile_a + 1, tiles - 1)
            for lanes in range(0, channels, 16):
                for frequency in range(BINS):
                    where = at + frequency // SMALL_TILE * SMALL_PITCH + frequency % SMALL_TILE * 16
                    mixed = base + frequency * pitch + pair * channels + lanes
                    store(small_re, where, load(re, mixed))
                    store(small_im, where, load(im, mixed))
                _transform(small_im, small_re, at, small_re)
                plane, lane = (output_slot[b] * batch + b) * groups + lanes // GROUP, lanes % GROUP
                offset = load(bias, b * channels + lanes)
                for tile, part in ((tile_a, small_re), (tile_b, small_im)):
                    top, left = tile // across * inner, tile % across * inner
                    for row in range(min(inner, height - top)):
                        for column in range(min(inner, width - left)):
                            value = load(part, at + row * SMALL_PITCH + column * 16)
                            value = spline(value, table, groups, lanes, knots, shift, stretch)
                            if last:
                                value = sigmoid(value + offset)
                            to = ((plane * height + top + row) * width + left + column) * GROUP + lane
                            store(output, to, value)
