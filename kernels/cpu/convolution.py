"""convolution: the later layers of the SAFI mask generator, C -> C channels, spline (and sigmoid) fused, by tiled
Fourier products.

    output = s(V * input)            or, in the last layer,   sigmoid(s(V * input) + bias)

Two 16 x 16 tiles a, b travel as one complex image a + i b: the kernels are real, so the product keeps them apart. At
each of the 256 frequencies the channels of many tile pairs are mixed by one complex C x C matrix, six pairs to a
register tile.

Shapes: input, output (2, B, G, H, W, 32); C = 32 G; bias (B, G, 32); `pairs` tile pairs share one pass over the
spectra. Support (size of the dilated kernel) at most 15: inner = 17 - support. Work space per thread: re, im (256,
pairs * C + 16) each, small (SMALL floats each).
"""

from __future__ import annotations

from typing import NamedTuple

from numba import get_thread_id, njit

from .arguments import Floats, Geometry, Mixing, MixWork, Numbers, Place, Spline
from .fft import SMALL_TILE, fft16
from .parallel import PART, Share, kernel, shared
from .simd import WIDE, Vector, fma, load, negative, sigmoid, splat, spread, store
from .spline import spline
from .tile import GROUP

BLOCK = 6  # tile pairs in a register tile
BINS = SMALL_TILE * SMALL_TILE
SMALL_PITCH = (SMALL_TILE + 1) * 16
SMALL_SCRATCH = SMALL_TILE * SMALL_PITCH
MIXED = SMALL_SCRATCH + 2 * SMALL_TILE * 16  # one frequency of a block after mixing

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


class Pairs(NamedTuple):
    """The tile pairs that one thread has in work: those of tiles `start` and up of image b, `held` pairs.

    base, at: where the work space of the thread begins, in re, im and in small_re, small_im; pitch: floats of one
    frequency.
    """

    image: int
    start: int
    held: int
    base: int
    at: int
    pitch: int


@njit(**_OPTIONS)
def small_floats(groups: int) -> int:
    """Floats of the small work space of one thread."""
    return MIXED + BLOCK * groups * GROUP


@njit(**PART)
def mirror(index: int, length: int) -> int:
    """The half-sample symmetric extension."""
    if index < 0:
        return -1 - index
    if index >= length:
        return 2 * length - 1 - index
    return index


@njit(**PART)
def _load_tile(
    source: Floats,
    plane: int,
    top: int,
    left: int,
    lane: int,
    geometry: Geometry,
    symmetric: bool,
    small: Floats,
    at: int,
) -> None:
    """small[at :] = 16 x 16 pixels with corner (top, left), 16 channels of `plane`."""
    height, width = geometry.height, geometry.width
    for row in range(SMALL_TILE):
        y = mirror(top + row, height) if symmetric else top + row
        for column in range(SMALL_TILE):
            x = mirror(left + column, width) if symmetric else left + column
            value = splat(0.0)
            if 0 <= y < height and 0 <= x < width:
                value = load(source, ((plane * height + y) * width + x) * GROUP + lane)
            store(small, at + row * SMALL_PITCH + column * 16, value)


@njit(**PART)
def _transform(re: Floats, im: Floats, at: int, scratch: Floats) -> None:
    for row in range(SMALL_TILE):
        fft16(re, im, at + row * SMALL_PITCH, 16, scratch, at + SMALL_SCRATCH)
    for column in range(SMALL_TILE):
        fft16(re, im, at + column * 16, SMALL_PITCH, scratch, at + SMALL_SCRATCH)


@njit(**PART)
def _multiply_add(kr: Vector, ki: Vector, xr: Vector, xi: Vector, re: Vector, im: Vector) -> tuple[Vector, Vector]:
    """(re, im) + (kr + i ki) (xr + i xi)."""
    return fma(negative(ki), xi, fma(kr, xr, re)), fma(kr, xi, fma(ki, xr, im))


@njit(**PART)
def mix_six(first: int, channels: int, layer: Mixing, matrix: int, lanes: int, work: MixWork, target: int) -> None:
    """Mix the channels of six pairs at one frequency into the 16 outputs that start at `lanes`."""
    re, im, spectra_re, spectra_im = work.re, work.im, layer.re, layer.im
    z = splat(0.0)
    ar, ai, br, bi, cr, ci, dr, di, er, ei, fr, fi = z, z, z, z, z, z, z, z, z, z, z, z
    for channel in range(channels):
        at = matrix + channel * channels + lanes
        kr, ki = load(spectra_re, at), load(spectra_im, at)
        x = first + channel
        ar, ai = _multiply_add(kr, ki, spread(re, x), spread(im, x), ar, ai)
        x += channels
        br, bi = _multiply_add(kr, ki, spread(re, x), spread(im, x), br, bi)
        x += channels
        cr, ci = _multiply_add(kr, ki, spread(re, x), spread(im, x), cr, ci)
        x += channels
        dr, di = _multiply_add(kr, ki, spread(re, x), spread(im, x), dr, di)
        x += channels
        er, ei = _multiply_add(kr, ki, spread(re, x), spread(im, x), er, ei)
        x += channels
        fr, fi = _multiply_add(kr, ki, spread(re, x), spread(im, x), fr, fi)
    to = target + lanes
    for vr, vi in ((ar, ai), (br, bi), (cr, ci), (dr, di), (er, ei), (fr, fi)):
        store(work.small_re, to, vr)
        store(work.small_im, to, vi)
        to += channels


@njit(**PART)
def mix_two(first: int, channels: int, layer: Mixing, matrix: int, lanes: int, work: MixWork, target: int) -> None:
    """The same for two pairs: as much as fits where a vector of 16 lanes takes two or four registers."""
    re, im, spectra_re, spectra_im = work.re, work.im, layer.re, layer.im
    z = splat(0.0)
    ar, ai, br, bi = z, z, z, z
    for channel in range(channels):
        at = matrix + channel * channels + lanes
        kr, ki = load(spectra_re, at), load(spectra_im, at)
        x = first + channel
        ar, ai = _multiply_add(kr, ki, spread(re, x), spread(im, x), ar, ai)
        x += channels
        br, bi = _multiply_add(kr, ki, spread(re, x), spread(im, x), br, bi)
    to = target + lanes
    for vr, vi in ((ar, ai), (br, bi)):
        store(work.small_re, to, vr)
        store(work.small_im, to, vi)
        to += channels


@njit(**PART)
def _mix_block(first: int, channels: int, layer: Mixing, matrix: int, lanes: int, work: MixWork, target: int) -> None:
    """Mix a block of pairs in register tiles. The sums are the same either way, bit for bit."""
    if WIDE:
        mix_six(first, channels, layer, matrix, lanes, work, target)
    else:
        for pair in range(0, BLOCK * channels, 2 * channels):
            mix_two(first + pair, channels, layer, matrix, lanes, work, target + pair)


@njit(**PART)
def _mix_frequency(frequency: int, matrix: int, pairs: Pairs, channels: int, layer: Mixing, work: MixWork) -> None:
    """Replace the channels of the pairs at one frequency by the matrix that begins at `matrix` times them."""
    mixed = pairs.at + MIXED
    for start in range(0, pairs.held, BLOCK):
        first = pairs.base + frequency * pairs.pitch + start * channels
        for lanes in range(0, channels, 16):
            _mix_block(first, channels, layer, matrix, lanes, work, mixed)
        for i in range(0, BLOCK * channels, 16):
            store(work.re, first + i, load(work.small_re, mixed + i))
            store(work.im, first + i, load(work.small_im, mixed + i))


@njit(**PART)
def _mix(pairs: Pairs, channels: int, layer: Mixing, work: MixWork) -> None:
    """Replace the channels of the pairs at every frequency by V times them.

    The kernels are real, so the matrix at -f is the conjugate of that at f, which is still at hand: conj(K) X is K
    times X with real and imaginary parts swapped, swapped again.
    """
    swapped = MixWork(work.im, work.re, work.small_im, work.small_re)
    for frequency in range(BINS):
        ky, kx = frequency // SMALL_TILE, frequency % SMALL_TILE
        opposite = (SMALL_TILE - ky) % SMALL_TILE * SMALL_TILE + (SMALL_TILE - kx) % SMALL_TILE
        if opposite >= frequency:
            matrix = frequency * channels * channels
            _mix_frequency(frequency, matrix, pairs, channels, layer, work)
            if opposite > frequency:
                _mix_frequency(opposite, matrix, pairs, channels, layer, swapped)


@njit(**PART)
def _load_pairs(source: Place, pairs: Pairs, layer: Mixing, geometry: Geometry, work: MixWork) -> None:
    """The spectra of the tile pairs, frequency by frequency, all channels of a pair side by side."""
    re, im, small_re, small_im, at = work.re, work.im, work.small_re, work.small_im, pairs.at
    channels, inner, reach = geometry.groups * GROUP, SMALL_TILE + 1 - layer.support, layer.support // 2
    across = (geometry.width + inner - 1) // inner
    tiles = across * ((geometry.height + inner - 1) // inner)
    for pair in range(pairs.held):
        tile_a = pairs.start + 2 * pair
        tile_b = min(tile_a + 1, tiles - 1)  # an odd one out keeps itself company
        for lanes in range(0, channels, 16):
            plane = (source.slot[pairs.image] * geometry.batch + pairs.image) * geometry.groups + lanes // GROUP
            for tile, part in ((tile_a, small_re), (tile_b, small_im)):
                top, left = tile // across * inner - reach, tile % across * inner - reach
                _load_tile(source.values, plane, top, left, lanes % GROUP, geometry, layer.symmetric, part, at)
            _transform(small_re, small_im, at, small_re)
            for frequency in range(BINS):
                to = pairs.base + frequency * pairs.pitch + pair * channels + lanes
                where = at + frequency // SMALL_TILE * SMALL_PITCH + frequency % SMALL_TILE * 16
                store(re, to, load(small_re, where))
                store(im, to, load(small_im, where))


@njit(**PART)
def _store_pairs(
    output: Place,
    pairs: Pairs,
    layer: Mixing,
    bank: Spline,
    bias: Floats,
    last: bool,
    geometry: Geometry,
    work: MixWork,
) -> None:
    """Back from the spectra, through the splines, into the image."""
    re, im, small_re, small_im, at, to = work.re, work.im, work.small_re, work.small_im, pairs.at, output.values
    height, width, groups = geometry.height, geometry.width, geometry.groups
    channels, inner = groups * GROUP, SMALL_TILE + 1 - layer.support
    across = (width + inner - 1) // inner
    tiles = across * ((height + inner - 1) // inner)
    for pair in range(pairs.held):
        tile_a = pairs.start + 2 * pair
        tile_b = min(tile_a + 1, tiles - 1)
        for lanes in range(0, channels, 16):
            for frequency in range(BINS):
                where = at + frequency // SMALL_TILE * SMALL_PITCH + frequency % SMALL_TILE * 16
                mixed = pairs.base + frequency * pairs.pitch + pair * channels + lanes
                store(small_re, where, load(re, mixed))
                store(small_im, where, load(im, mixed))
            _transform(small_im, small_re, at, small_re)
            plane = (output.slot[pairs.image] * geometry.batch + pairs.image) * groups + lanes // GROUP
            offset = load(bias, pairs.image * channels + lanes)
            for tile, part in ((tile_a, small_re), (tile_b, small_im)):
                top, left = tile // across * inner, tile % across * inner
                for row in range(min(inner, height - top)):
                    for column in range(min(inner, width - left)):
                        value = load(part, at + row * SMALL_PITCH + column * 16)
                        value = spline(value, bank, groups, lanes)
                        if last:
                            value = sigmoid(value + offset)
                        target = (plane * height + top + row) * width + left + column
                        store(to, target * GROUP + lanes % GROUP, value)


@kernel
def convolution(
    share: Share,
    active: Numbers, source: Place, output: Place, layer: Mixing, bank: Spline, bias: Floats, last: bool, pairs: int,
    geometry: Geometry, work: MixWork,
) -> None:  # fmt: skip
    """A set of `pairs` tile pairs of one image at a time."""
    inner = SMALL_TILE + 1 - layer.support
    tiles = ((geometry.width + inner - 1) // inner) * ((geometry.height + inner - 1) // inner)
    sets = (tiles + 2 * pairs - 1) // (2 * pairs)
    for item in shared(share, len(active) * sets):
        start, thread = item % sets * 2 * pairs, get_thread_id()
        held, pitch = min(pairs, (tiles - start + 1) // 2), pairs * geometry.groups * GROUP + 16
        at = thread * small_floats(geometry.groups)
        mine = Pairs(active[item // sets], start, held, thread * BINS * pitch, at, pitch)
        _load_pairs(source, mine, layer, geometry, work)
        _mix(mine, geometry.groups * GROUP, layer, work)
        _store_pairs(output, mine, layer, bank, bias, last, geometry, work)
