"""analysis, masked_norm, synthesis and the fused dual step: W x, W^T u and one projected gradient step on the dual.

Shapes (flat, C order), for a batch of B images of H x W pixels and G groups of 32 channels:
    image   (4, B, rows, pitch)   x with its halo, see image.py for the slots
    dual    (2, B, G, H, W, 32)   u, two slots
    mask    (B, G, H, W, 32)      M in [0, 1]; not read where has_mask is False
    tiles   (B, tiles, 32, 32)    what each tile adds to W^T (M . u)
`active` lists the images to work on; `slot[b]` says which slot holds the current u (and x) of image b.
`geometry` is (batch, height, width, groups, support, halo, rows, pitch), see bindings/cpu.py.
"""

from numba import get_thread_id, njit, prange

from .fft import TILE
from .simd import absolute, fma, lane_sum, load, maximum, minimum, splat, store
from .tile import (
    EXTRA,
    GROUP,
    LANES_AT,
    PITCH,
    PIXELS,
    WORK,
    analyse_group,
    clear_border,
    correct_analysis,
    correct_synthesis,
    finish_synthesis,
    load_image,
    synthesise_group,
    touches_band,
)

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def _locate(item, active, height, width, inner):
    """Image, tile number and tile corner (top, left) of a work item."""
    across = (width + inner - 1) // inner
    per_image = across * ((height + inner - 1) // inner)
    tile = item % per_image
    return active[item // per_image], tile, tile // across * inner, tile % across * inner


@njit(**_OPTIONS)
def _load_tile(image, plane, top, left, geometry, re, im, work, extra, more):
    support, halo, rows, pitch = geometry[4], geometry[5], geometry[6], geometry[7]
    corner = halo - support // 2
    first = plane * rows * pitch + (top + corner) * pitch + left + corner
    load_image(image, first, pitch, re, im, work, extra, more)


@njit(**_OPTIONS)
def _clear_outside(rows, columns, inner, re, im, lanes):
    """Zero the lanes of the tile outside its valid rows and columns."""
    zero = splat(0.0)
    for row in range(TILE):
        for column in range(columns if row < rows else 0, TILE):
            store(re, lanes + row * PITCH + column * 16, zero)
            store(im, lanes + row * PITCH + column * 16, zero)


@njit(parallel=True, **_OPTIONS)
def analysis(
    active, slot, image, mask, has_mask, magnitude, output, output_slot, geometry,
    filters_re, filters_im, band, tap_first, tap_at, tap_weights, re, im, extra,
):  # fmt: skip
    """output[output_slot[b], b] = M . W x, or its magnitude."""
    batch, height, width, groups, support = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]
    inner = TILE + 1 - support
    per_image = ((width + inner - 1) // inner) * ((height + inner - 1) // inner)
    for item in prange(len(active) * per_image):
        b, _, top, left = _locate(item, active, height, width, inner)
        thread = get_thread_id()
        work, more = thread * WORK, thread * EXTRA
        rows, columns = min(inner, height - top), min(inner, width - left)
        _load_tile(image, slot[b] * batch + b, top, left, geometry, re, im, work, extra, more)
        for group in range(groups):
            analyse_group(group, filters_re, filters_im, inner, re, im, work, extra, more)
            if touches_band(top, left, inner, height, width, band):
                correct_analysis(
                    group, groups, top, left, rows, columns, height, width, band,
                    tap_first, tap_at, tap_weights, re, im, work, extra, more,
                )  # fmt: skip
            for row in range(rows):
                pixel = ((b * groups + group) * height + top + row) * width + left
                target = (((output_slot[b] * batch + b) * groups + group) * height + top + row) * width + left
                for column in range(columns):
                    at = work + LANES_AT + row * PITCH + column * 16
                    for half in range(2):
                        q = load(re, at) if half == 0 else load(im, at)
                        if has_mask:
                            q = q * load(mask, (pixel + column) * GROUP + half * 16)
                        store(output, (target + column) * GROUP + half * 16, absolute(q) if magnitude else q)


@njit(parallel=True, **_OPTIONS)
def masked_norm(
    active, slot, image, mask, has_mask, l1, geometry,
    filters_re, filters_im, band, tap_first, tap_at, tap_weights, re, im, extra,
):  # fmt: skip
    """l1[b, tile] = sum |M . W x| of the image in slot[b]."""
    batch, height, width, groups, support = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]
    inner = TILE + 1 - support
    per_image = ((width + inner - 1) // inner) * ((height + inner - 1) // inner)
    for item in prange(len(active) * per_image):
        b, tile, top, left = _locate(item, active, height, width, inner)
        thread = get_thread_id()
        work, more = thread * WORK, thread * EXTRA
        rows, columns = min(inner, height - top), min(inner, width - left)
        _load_tile(image, slot[b] * batch + b, top, left, geometry, re, im, work, extra, more)
        total = 0.0
        for group in range(groups):
            analyse_group(group, filters_re, filters_im, inner, re, im, work, extra, more)
            if touches_band(top, left, inner, height, width, band):
                correct_analysis(
                    group, groups, top, left, rows, columns, height, width, band,
                    tap_first, tap_at, tap_weights, re, im, work, extra, more,
                )  # fmt: skip
            for row in range(rows):
                pixel = (((b * groups + group) * height + top + row) * width + left) * GROUP
                row_sum = splat(0.0)
                for column in range(columns):
                    at = work + LANES_AT + row * PITCH + column * 16
                    qr, qi = absolute(load(re, at)), absolute(load(im, at))
                    if has_mask:
                        qr = qr * load(mask, pixel + column * GROUP)
                        qi = qi * load(mask, pixel + column * GROUP + 16)
                    row_sum = row_sum + qr + qi
                total += lane_sum(row_sum)
        l1[b * per_image + tile] = total


@njit(parallel=True, **_OPTIONS)
def synthesis(
    active, slot, dual, mask, has_mask, tiles, geometry,
    filters_re, filters_im, band, tap_first, tap_at, tap_weights, re, im, extra,
):  # fmt: skip
    """tiles[b] = the parts of W^T (M . u); `image_step` adds them up."""
    batch, height, width, groups, support = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]
    inner = TILE + 1 - support
    per_image = ((width + inner - 1) // inner) * ((height + inner - 1) // inner)
    for item in prange(len(active) * per_image):
        b, tile, top, left = _locate(item, active, height, width, inner)
        thread = get_thread_id()
        work, more = thread * WORK, thread * EXTRA
        rows, columns = min(inner, height - top), min(inner, width - left)
        on_border = touches_band(top, left, inner, height, width, band)
        if on_border:
            clear_border(extra, more)
        for group in range(groups):
            _clear_outside(rows, columns, inner, re, im, work + LANES_AT)
            for row in range(rows):
                pixel = ((b * groups + group) * height + top + row) * width + left
                source = (((slot[b] * batch + b) * groups + group) * height + top + row) * width + left
                for column in range(columns):
                    at = work + LANES_AT + row * PITCH + column * 16
                    ur = load(dual, (source + column) * GROUP)
                    ui = load(dual, (source + column) * GROUP + 16)
                    if has_mask:
                        ur = ur * load(mask, (pixel + column) * GROUP)
                        ui = ui * load(mask, (pixel + column) * GROUP + 16)
                    store(re, at, ur)
                    store(im, at, ui)
            if on_border:
                correct_synthesis(
                    group, groups, top, left, rows, columns, height, width, band,
                    tap_first, tap_at, tap_weights, re, im, work, extra, more,
                )  # fmt: skip
            synthesise_group(group, group == 0, filters_re, filters_im, inner, re, im, work, extra, more)
        finish_synthesis(tiles, (b * per_image + tile) * PIXELS, on_border, re, im, work, extra, more)


@njit(**_OPTIONS)
def _update_lanes(q, dual, current, previous, mask, pixel, has_mask, step, bound, momentum):
    """u_new = clip(v + step M . q, -bound, bound) over the previous u; returns M . u_new and |M . q|."""
    u = load(dual, current)
    v = fma(splat(momentum), u - load(dual, previous), u)
    if has_mask:
        q = q * load(mask, pixel)
    u = maximum(minimum(fma(splat(step), q, v), splat(bound)), splat(-bound))
    store(dual, previous, u)
    if has_mask:
        u = u * load(mask, pixel)
    return u, absolute(q)


@njit(**_OPTIONS)
def _anchor_lanes(q, dual, current, anchor, mask, pixel, has_mask, step, bound, weight):
    """u = weight (2 u_hat - u) + (1 - weight) anchor, or u = anchor = u_hat for weight 0; returns u and (u_hat - u_old)^2."""
    u = load(dual, current)
    limit = splat(bound)
    if has_mask:
        limit = limit * load(mask, pixel)
    moved = maximum(minimum(fma(splat(step), q, u), limit), splat(0.0) - limit)
    difference = moved - u
    if weight == 0:
        u = moved
        store(dual, anchor, u)
    else:
        start = load(dual, anchor)
        u = fma(splat(weight), (moved + difference) - start, start)
    store(dual, current, u)
    return u, difference * difference


@njit(parallel=True, **_OPTIONS)
def dual_step(
    active, slot, image, dual, mask, has_mask, step, bound, momentum, anchored, tiles, l1, geometry,
    filters_re, filters_im, band, tap_first, tap_at, tap_weights, re, im, extra,
):  # fmt: skip
    """One projected gradient step on the dual and the parts of W^T (M . u_new), tile by tile.

        v = u + momentum (u - u_previous)
        u_new = clip(v + step M . W x, -bound, bound)       written over u_previous
        l1[b, tile] = sum |M . W x|

    With `anchored` a Halpern step instead, for the primal-dual iteration (safi_fast/solver/primal_dual.py): the other slot of u holds
    the anchor, and momentum is the weight w of

        u_hat = clip(u + step W x, -bound M, bound M)
        u = w (2 u_hat - u) + (1 - w) anchor       for w > 0, else u = anchor = u_hat; in its own slot
        l1[b, tile] = sum (u_hat - u)^2

    There the mask bounds u instead of weighting W x, and the tiles are parts of W^T u.

    step, bound and momentum are float32 (B,). A value read and written in one pass: u, u_previous and M once per step.
    """
    batch, height, width, groups, support = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]
    inner = TILE + 1 - support
    per_image = ((width + inner - 1) // inner) * ((height + inner - 1) // inner)
    for item in prange(len(active) * per_image):
        b, tile, top, left = _locate(item, active, height, width, inner)
        thread = get_thread_id()
        work, more = thread * WORK, thread * EXTRA
        rows, columns = min(inner, height - top), min(inner, width - left)
        on_border = touches_band(top, left, inner, height, width, band)
        if on_border:
            clear_border(extra, more)
        _load_tile(image, slot[b] * batch + b, top, left, geometry, re, im, work, extra, more)
        total = 0.0
        for group in range(groups):
            analyse_group(group, filters_re, filters_im, inner, re, im, work, extra, more)
            if on_border:
                correct_analysis(
                    group, groups, top, left, rows, columns, height, width, band,
                    tap_first, tap_at, tap_weights, re, im, work, extra, more,
                )  # fmt: skip
            for row in range(rows):
                pixel = (((b * groups + group) * height + top + row) * width + left) * GROUP
                current = (((slot[b] * batch + b) * groups + group) * height + top + row) * width + left
                previous = ((((1 - slot[b]) * batch + b) * groups + group) * height + top + row) * width + left
                current, previous = current * GROUP, previous * GROUP
                row_sum = splat(0.0)
                for column in range(columns):
                    at = work + LANES_AT + row * PITCH + column * 16
                    shift = column * GROUP
                    if anchored:
                        ur, size_r = _anchor_lanes(
                            load(re, at), dual, current + shift, previous + shift, mask, pixel + shift,
                            has_mask, step[b], bound[b], momentum[b],
                        )  # fmt: skip
                        shift += 16
                        ui, size_i = _anchor_lanes(
                            load(im, at), dual, current + shift, previous + shift, mask, pixel + shift,
                            has_mask, step[b], bound[b], momentum[b],
                        )  # fmt: skip
                    else:
                        ur, size_r = _update_lanes(
                            load(re, at), dual, current + shift, previous + shift, mask, pixel + shift,
                            has_mask, step[b], bound[b], momentum[b],
                        )  # fmt: skip
                        shift += 16
                        ui, size_i = _update_lanes(
                            load(im, at), dual, current + shift, previous + shift, mask, pixel + shift,
                            has_mask, step[b], bound[b], momentum[b],
                        )  # fmt: skip
                    store(re, at, ur)
                    store(im, at, ui)
                    row_sum = row_sum + size_r + size_i
                total += lane_sum(row_sum)
            _clear_outside(rows, columns, inner, re, im, work + LANES_AT)
            if on_border:
                correct_synthesis(
                    group, groups, top, left, rows, columns, height, width, band,
                    tap_first, tap_at, tap_weights, re, im, work, extra, more,
                )  # fmt: skip
            synthesise_group(group, group == 0, filters_re, filters_im, inner, re, im, work, extra, more)
        finish_synthesis(tiles, (b * per_image + tile) * PIXELS, on_border, re, im, work, extra, more)
        l1[b * per_image + tile] = total
