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

Images of P planes have one spectrum each; W x is the sum of P products, and P sums are made of W^T v.

Work space of one thread: `re`, `im` (`work_floats` each) and `extra` (`extra_floats`), at the offsets below; what the
second plane and those after it need follows behind. Only columns
of the tile are kept in it as a whole; a row goes through its transform, what a kernel does with its pixels, and the
transform back while it lies in the first cache.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import get_thread_id, njit

from .arguments import Bank, Floats, Geometry, Numbers, Work, planes_of
from .fft import LINE, TILE, fft32, first_stage, last_stage, radix4, radix8
from .parallel import PART
from .simd import LANES as VECTOR
from .simd import NARROW, Vector, fma, lane_sums, load, load_narrow, splat, spread_narrow, store, transpose

GROUP = 32  # channels in a group
PIXELS = TILE * TILE
PITCH = (TILE + 1) * 16  # floats in a row of lanes; an odd number of lines keeps columns out of one cache set

IMAGE = 0  # in re, im: the tile of the image
SPECTRUM = IMAGE + PIXELS  # its spectrum, transposed [kx, ky]; then that of W^T v
ROW = SPECTRUM + PIXELS  # the row in work, in pixels
TOTAL = ROW + LINE  # lane by lane, a column of the sum over groups of conj(P) V
LANES_AT = TOTAL + LINE  # the groups, rows in pixels or frequencies
LANES = TILE * PITCH  # of one group

SCRATCH = 0  # in extra: one line of the transform
PATCH = SCRATCH + 2 * LINE  # the tile of the image in pixels
BORDER_TOTAL = PATCH + PIXELS  # lane by lane, the border part of the synthesis, in pixels
EXTRA = BORDER_TOTAL + PIXELS * 16  # floats of extra for one plane

MORE_WORK = PIXELS + LINE  # of each further plane: its spectrum, and its TOTAL
MORE_EXTRA = PIXELS + PIXELS * 16  # its PATCH, and its BORDER_TOTAL

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
def work_floats(groups: int, planes: int = 1) -> int:
    """Floats of re, and of im, of one thread's work space."""
    return LANES_AT + groups * LANES + (planes - 1) * MORE_WORK


@njit(**_OPTIONS)
def extra_floats(planes: int = 1) -> int:
    """Floats of extra of one thread's work space."""
    return EXTRA + (planes - 1) * MORE_EXTRA


@njit(**PART, forceinline=True)
def _spectrum_at(plane: int, tile: Tile, geometry: Geometry) -> int:
    """Where the spectrum of a plane lies in re and im."""
    if plane == 0:
        return tile.work + SPECTRUM
    return tile.work + LANES_AT + geometry.groups * LANES + (plane - 1) * MORE_WORK


@njit(**PART, forceinline=True)
def _total_at(plane: int, tile: Tile, geometry: Geometry) -> int:
    """Where the sum over groups of a plane lies in re and im."""
    return tile.work + TOTAL if plane == 0 else _spectrum_at(plane, tile, geometry) + PIXELS


@njit(**PART, forceinline=True)
def _patch_at(plane: int, tile: Tile) -> int:
    """Where the pixels of a plane lie in extra."""
    return tile.more + (PATCH if plane == 0 else EXTRA + (plane - 1) * MORE_EXTRA)


@njit(**PART, forceinline=True)
def _border_at(plane: int, tile: Tile) -> int:
    """Where the border part of the synthesis of a plane lies in extra."""
    return tile.more + BORDER_TOTAL if plane == 0 else _patch_at(plane, tile) + PIXELS


@njit(**PART)
def tiles_of(geometry: Geometry) -> int:
    """Tiles of an image."""
    inner = TILE + 1 - geometry.support
    return ((geometry.width + inner - 1) // inner) * ((geometry.height + inner - 1) // inner)


@njit(**PART)
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
    return Tile(
        image,
        number,
        top,
        left,
        rows,
        columns,
        band > 0 and near,
        thread * work_floats(geometry.groups, planes_of(geometry)),
        thread * extra_floats(planes_of(geometry)),
    )


@njit(**PART)
def _transform_image(re: Floats, im: Floats, source: int, target: int, scratch: Floats, line: int) -> None:
    """2-D transform of one 32 x 32 image at `source`; the result lies transposed at `target`."""
    fft32(re, im, source, TILE, scratch, line)
    fft32(re, im, source + 16, TILE, scratch, line)
    for row in range(0, TILE, 16):
        for column in range(0, TILE, 16):
            first, to = source + row * TILE + column, target + column * TILE + row
            transpose(re, first, re, to, TILE)
            transpose(im, first, im, to, TILE)
    fft32(re, im, target, TILE, scratch, line)
    fft32(re, im, target + 16, TILE, scratch, line)


@njit(**PART)
def load_image(image: Floats, first: int, pitch: int, plane: int, tile: Tile, geometry: Geometry, work: Work) -> None:
    """Read the 32 x 32 tile of a plane whose corner is image[first] and transform it."""
    re, im, extra = work.re, work.im, work.extra
    at, patch = tile.work + IMAGE, _patch_at(plane, tile)
    for row in range(TILE):
        for column in range(0, TILE, 16):
            value, to = load(image, first + row * pitch + column), row * TILE + column
            store(re, at + to, value)
            store(im, at + to, splat(0.0))
            store(extra, patch + to, value)
    _transform_image(re, im, at, _spectrum_at(plane, tile, geometry), extra, tile.more + SCRATCH)


@njit(**PART, forceinline=True)
def _filtered(
    bank: Bank, at: int, column: int, ky: int, tile: Tile, geometry: Geometry, work: Work
) -> tuple[Vector, Vector]:
    """The sum over planes of X P at one frequency, imaginary part first: the transform back is the one forward with its
    parts swapped.
    """
    re, im, x = work.re, work.im, _spectrum_at(0, tile, geometry) + column + ky
    xr, xi = spread_narrow(re, x), spread_narrow(im, x)
    pr, pi = load_narrow(bank.re, at), load_narrow(bank.im, at)
    fi, fr = fma(pr, xi, pi * xr), pr * xr - pi * xi
    for plane in range(1, planes_of(geometry)):
        x, p = _spectrum_at(plane, tile, geometry) + column + ky, at + plane * geometry.groups * TILE * LINE
        xr, xi = spread_narrow(re, x), spread_narrow(im, x)
        pr, pi = load_narrow(bank.re, p), load_narrow(bank.im, p)
        fi, fr = fma(pr, xi, fma(pi, xr, fi)), fma(pr, xr, fr) - pi * xi
    return fi, fr


@njit(**PART, forceinline=True)
def _analyse_column(group: int, kx: int, lane: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """Column kx of the product with the spectra, transformed back; NARROW lanes from `lane` on."""
    re, im, extra, scratch = work.re, work.im, work.extra, tile.more + SCRATCH + lane
    x, p = kx * TILE, (group * TILE + kx) * LINE + lane
    to = tile.work + LANES_AT + group * LANES + kx * 16 + lane
    for j in range(8):
        ai, ar = _filtered(bank, p + j * 16, x, j, tile, geometry, work)
        bi, br = _filtered(bank, p + j * 16 + 128, x, j + 8, tile, geometry, work)
        ci, cr = _filtered(bank, p + j * 16 + 256, x, j + 16, tile, geometry, work)
        di, dr = _filtered(bank, p + j * 16 + 384, x, j + 24, tile, geometry, work)
        radix4(extra, scratch, j, (ai, ar, bi, br, ci, cr, di, dr))
    last_stage(im, re, to, PITCH, TILE + 1 - geometry.support, extra, scratch)


@njit(**PART)
def analyse_columns(group: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """Filter the loaded tile with the 32 filters of a group, up to the transform of its rows."""
    for kx in range(TILE):
        for lane in range(0, VECTOR, NARROW):
            _analyse_column(group, kx, lane, tile, geometry, bank, work)


@njit(**PART)
def analyse_row(group: int, row: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """A row of W x of a group, 32 channels of each pixel: at ROW, of which valid columns count."""
    re, im, extra, scratch = work.re, work.im, work.extra, tile.more + SCRATCH
    line, inner = tile.work + LANES_AT + group * LANES + row * PITCH, TILE + 1 - geometry.support
    for lane in range(0, VECTOR, NARROW):
        first_stage(im, re, line + lane, 16, TILE, extra, scratch + lane)
        last_stage(im, re, tile.work + ROW + lane, 16, inner, extra, scratch + lane)
    if tile.on_border:
        _correct_analysis(group, row, tile, geometry, bank, work)


@njit(**PART)
def begin_synthesis(tile: Tile, geometry: Geometry, work: Work) -> None:
    """Forget the border part of the tile before."""
    if tile.on_border:
        for plane in range(planes_of(geometry)):
            extra, total = work.extra, _border_at(plane, tile)
            for i in range(PIXELS * 16):
                extra[total + i] = 0


@njit(**PART)
def synthesise_row(group: int, row: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """Take the row at ROW, of which valid columns count, for what W^T v is made of."""
    re, im, extra, scratch = work.re, work.im, work.extra, tile.more + SCRATCH
    inner, line = TILE + 1 - geometry.support, tile.work + ROW
    if tile.on_border:
        _correct_synthesis(group, row, tile, geometry, bank, work)
    for column in range(tile.columns, inner):
        store(re, line + column * 16, splat(0.0))
        store(im, line + column * 16, splat(0.0))
    to = tile.work + LANES_AT + group * LANES + row * PITCH
    for lane in range(0, VECTOR, NARROW):
        first_stage(re, im, line + lane, 16, inner, extra, scratch + lane)
        last_stage(re, im, to + lane, 16, TILE, extra, scratch + lane)


@njit(**PART, forceinline=True)
def _add_bin(work: Work, to: int, vr: Vector, vi: Vector, bank: Bank, at: int, group: int) -> None:
    """TOTAL += conj(P) V at one frequency."""
    pr, pi = load_narrow(bank.re, at), load_narrow(bank.im, at)
    if group == 0:
        store(work.re, to, fma(pi, vi, pr * vr))
        store(work.im, to, pr * vi - pi * vr)
    else:
        store(work.re, to, fma(pi, vi, fma(pr, vr, load_narrow(work.re, to))))
        store(work.im, to, fma(pr, vi, load_narrow(work.im, to)) - pi * vr)


@njit(**PART, forceinline=True)
def _synthesise_column(group: int, kx: int, lane: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """Column kx of a group, transformed, times the spectra, onto the TOTAL of each plane; NARROW lanes."""
    re, im, extra, scratch = work.re, work.im, work.extra, tile.more + SCRATCH + lane
    inner = TILE + 1 - geometry.support
    first_stage(re, im, tile.work + LANES_AT + group * LANES + kx * 16 + lane, PITCH, inner, extra, scratch)
    p = (group * TILE + kx) * LINE + lane
    for g in range(4):
        bins = radix8(extra, scratch, g)
        for plane in range(planes_of(geometry)):
            to = _total_at(plane, tile, geometry) + g * 16 + lane
            at = p + g * 16 + plane * geometry.groups * TILE * LINE
            _add_bin(work, to, bins[0], bins[1], bank, at, group)
            _add_bin(work, to + 64, bins[2], bins[3], bank, at + 64, group)
            _add_bin(work, to + 128, bins[4], bins[5], bank, at + 128, group)
            _add_bin(work, to + 192, bins[6], bins[7], bank, at + 192, group)
            _add_bin(work, to + 256, bins[8], bins[9], bank, at + 256, group)
            _add_bin(work, to + 320, bins[10], bins[11], bank, at + 320, group)
            _add_bin(work, to + 384, bins[12], bins[13], bank, at + 384, group)
            _add_bin(work, to + 448, bins[14], bins[15], bank, at + 448, group)


@njit(**PART)
def _synthesise_columns(tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """The sum over groups and lanes of conj(P) V, for each plane at its SPECTRUM."""
    re, im = work.re, work.im
    for kx in range(TILE):
        for group in range(geometry.groups):
            for lane in range(0, VECTOR, NARROW):
                _synthesise_column(group, kx, lane, tile, geometry, bank, work)
        for plane in range(planes_of(geometry)):
            total, spectrum = _total_at(plane, tile, geometry), _spectrum_at(plane, tile, geometry) + kx * TILE
            for ky in range(0, TILE, 16):
                store(re, spectrum + ky, lane_sums(re, total + ky * 16))
                store(im, spectrum + ky, lane_sums(im, total + ky * 16))


@njit(**PART)
def _clear_rows(tile: Tile, geometry: Geometry, work: Work) -> None:
    """Zero the rows of the groups outside the valid ones."""
    re, im, zero = work.re, work.im, splat(0.0)
    for group in range(geometry.groups):
        lanes = tile.work + LANES_AT + group * LANES
        for row in range(tile.rows, TILE + 1 - geometry.support):
            for column in range(TILE):
                store(re, lanes + row * PITCH + column * 16, zero)
                store(im, lanes + row * PITCH + column * 16, zero)


@njit(**PART)
def finish_synthesis(tiles: Floats, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """The 32 x 32 pixels of `tiles` (B, P, tiles, 32, 32) that the rows of all groups add to W^T v, corner `reach`
    pixels up and left of the tile.
    """
    re, im, extra = work.re, work.im, work.extra
    _clear_rows(tile, geometry, work)
    _synthesise_columns(tile, geometry, bank, work)
    image, per_image, count = tile.work + IMAGE, tiles_of(geometry), planes_of(geometry)
    for plane in range(count):
        first = (tile.number + (tile.image * (count - 1) + plane) * per_image) * PIXELS
        _transform_image(im, re, _spectrum_at(plane, tile, geometry), image, extra, tile.more + SCRATCH)
        border = _border_at(plane, tile)
        for pixel in range(0, PIXELS, 16):
            value = load(re, image + pixel)
            if tile.on_border:
                value = value - lane_sums(extra, border + pixel * 16)
            store(tiles, first + pixel, value)


@njit(**PART)
def _position(index: int, length: int, band: int) -> int:
    """0 .. band - 1 from the near border on, `band` in the middle, band + 1 .. 2 band up to the far border."""
    if index < band:
        return index
    return max(band, 2 * band + 1 + index - length)


@njit(**PART)
def _position_class(y: int, x: int, geometry: Geometry, band: int) -> int:
    return _position(y, geometry.height, band) * (2 * band + 1) + _position(x, geometry.width, band)


@njit(**PART)
def _correct_analysis(group: int, row: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """Take the dropped intermediate values off the row of W x, at its pixels that lie in the band."""
    re, im, extra = work.re, work.im, work.extra
    tap_first, tap_at, tap_weights = bank.tap_first, bank.tap_at, bank.tap_weights
    for column in range(tile.columns):
        kind = _position_class(tile.top + row, tile.left + column, geometry, bank.band)
        at = tile.work + ROW + column * 16
        qr, qi = load(re, at), load(im, at)
        for tap in range(tap_first[kind], tap_first[kind + 1]):
            for plane in range(planes_of(geometry)):
                x = splat(-extra[_patch_at(plane, tile) + row * TILE + column + tap_at[tap]])
                weight = ((tap * planes_of(geometry) + plane) * geometry.groups + group) * GROUP
                qr = fma(load(tap_weights, weight), x, qr)
                qi = fma(load(tap_weights, weight + 16), x, qi)
        store(re, at, qr)
        store(im, at, qi)


@njit(**PART)
def _correct_synthesis(group: int, row: int, tile: Tile, geometry: Geometry, bank: Bank, work: Work) -> None:
    """The adjoint of `_correct_analysis`: add up at BORDER_TOTAL what W^T v has too much."""
    re, im, extra = work.re, work.im, work.extra
    tap_first, tap_at, tap_weights = bank.tap_first, bank.tap_at, bank.tap_weights
    for column in range(tile.columns):
        kind = _position_class(tile.top + row, tile.left + column, geometry, bank.band)
        at = tile.work + ROW + column * 16
        vr, vi = load(re, at), load(im, at)
        for tap in range(tap_first[kind], tap_first[kind + 1]):
            for plane in range(planes_of(geometry)):
                weight = ((tap * planes_of(geometry) + plane) * geometry.groups + group) * GROUP
                to = _border_at(plane, tile) + (row * TILE + column + tap_at[tap]) * 16
                total = fma(load(tap_weights, weight), vr, load(extra, to))
                store(extra, to, fma(load(tap_weights, weight + 16), vi, total))
