"""Dask arrays lazily, and Zarr arrays block by block."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import positive
from ..errors import InputError
from ..options import shows
from ..tiling import halo_of
from .layout import below, whole_planes
from .packages import require
from .recipe import DEFAULTS, Options, Planes, Recipe
from .volumes import Blocks, Denoise, Place, Say, copy_blocks, place_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

Progress = Callable[[int], Callable[[], None]]


@shows(Options, DEFAULTS)
def denoise_array(
    array: Any, sigma: Any, *, out: Any = None, client: Any = None, max_memory: float | None = None,
    overwrite: bool = False, **options: Unpack[Options],
) -> Any:  # fmt: skip
    """Denoise an array (..., H, W) of grey planes, larger than memory: a Dask array lazily, a Zarr array into another.

    Parameters
    ----------
    array : dask.array.Array or zarr.Array, (..., H, W)
        Leading axes, such as time, channel and slice, are solved plane by plane. Floating point, or integers of 8 to 32
        bits, which come back rounded in their dtype.
    sigma : float, array or "estimate"
        Standard deviation of the noise, in the units of the array; one number, or one for each plane, spread over the
        leading axes as NumPy does. "estimate": measured in each plane, where planes are not cut.
    out : path or zarr.Array
        For a Zarr array: the folder of the result, which gets the chunks, shards, codecs and attributes of the source,
        or an array in a folder, with its own. A run that was stopped or killed goes on where it was, by the same call;
        several processes may make it together.
    client : distributed.Client
        For a Zarr array: whose workers do it; None: this process. A Dask array is computed where Dask is told to.
    max_memory : float
        For a Zarr array: bytes that a block may take beside a solver that is ready; each task of Dask has a block.
        Planes that do not fit are cut into windows of whole chunks that overlap (docs/large-images.md). None: planes
        are never cut. Chunks of a Dask array are windows as they are: along rows and columns they overlap.
    overwrite : bool
        Replace a result that is complete or of other settings. One that was begun with these settings goes on.
    data_range
        As of `safi_fast.denoise`; needed for integers but uint8, since blocks are not looked at together.
    model, backend, precision, threads
        As of `Solver`.
    schedule, box, strength, lipschitz, max_outer, max_inner, tol
        As of `safi_fast.denoise`. Planes that are cut take the schedule "unrolled" alone.

    Returns
    -------
    dask.array.Array or zarr.Array
        Of the same shape, chunks and dtype.

    Notes
    -----
    A plane (of a window) of a Zarr array that holds its fill value alone, as where nothing was stored, stays so. Where
    that is black, it is the solution bit for bit; for another constant it is the solution up to rounding.

    Raises
    ------
    InputError
        For a wrong argument.
    ImageFileError
        For a target that exists with other settings, or cannot be written.
    SafiError
        Where a block failed, as by NaN; the others are made, and the call can be repeated.
    ModelError, BackendError
    """
    recipe = Recipe.of("denoise_array", options)
    if hasattr(array, "dask") and hasattr(array, "map_blocks"):
        for name, value in (("out", out), ("client", client), ("max_memory", max_memory)):
            if value is not None:
                raise InputError(f"{name} was passed, but array is a Dask array, which stays lazy; leave it out")
        return _lazily(array, sigma, recipe)
    if not (hasattr(array, "store") and hasattr(array, "chunks")):
        raise InputError(f"array is a {type(array).__name__}; expected a Dask array or a Zarr array")
    if out is None:
        raise InputError("out is None; expected the folder into which a Zarr array is denoised")
    place, given = place_of(out), out if hasattr(out, "store") else None
    if given is not None and (given.shape, given.dtype) != (array.shape, array.dtype):
        raise InputError(
            f"out has shape {given.shape} and dtype {given.dtype}; expected those of array, {array.shape} and "
            f"{array.dtype}"
        )
    return denoise_zarr(array, sigma, place, recipe, max_memory, overwrite=overwrite, client=client, given=given)


def denoise_zarr(
    source: Any, sigma: Any, place: Place, recipe: Recipe, max_memory: float | None, *, overwrite: bool,
    client: Any = None, given: Any = None, say: Say | None = None, progress: Progress | None = None,
) -> Any:  # fmt: skip
    """`denoise_array` of a Zarr array into a place. given: the array that is there. progress: is told how many blocks
    there are, gives what is called for each.
    """
    planes = Planes.of("array", source.shape, source.dtype, sigma, recipe)
    unit = given.shards or given.chunks if given is not None else source.shards or source.chunks
    if max_memory is None:
        layout = whole_planes(source.shape, unit)
    else:
        read, itemsize = prod(source.chunks) * source.dtype.itemsize, source.dtype.itemsize
        most = positive("max_memory", max_memory)
        layout = below(most, source.shape, unit, itemsize, read, recipe.solver())
    if layout.is_cut:
        planes.check_cut("array", halo_of(recipe.known_model()))
    origin = _origin(source)
    if origin == str(place.folder.resolve()):
        raise InputError(f"out is {place.folder}, which is the array itself; choose another")
    facts = {**recipe.facts(), "sigma": json.loads(json.dumps(_plain(sigma))), "source": origin}
    facts |= {"shape": list(source.shape), "dtype": str(source.dtype)}
    work = Blocks(source, place, layout, Denoise(planes, source.fill_value), given is not None)
    advance = progress(len(layout)) if progress else None
    return copy_blocks(work, source, facts, overwrite=overwrite, client=client, say=say, advance=advance)


def _plain(sigma: Any) -> Any:
    return sigma if isinstance(sigma, str) else np.asarray(sigma, np.float64).tolist()


def _origin(source: Any) -> str:
    """Where a Zarr array lies: its folder, or the address of its store."""
    root = getattr(source.store, "root", None)
    return str(source.store_path) if root is None else str((Path(root) / source.path).resolve())


def _lazily(array: Any, sigma: Any, recipe: Recipe) -> Any:
    """A Dask array: chunks with the halo of the model around them, where there are several along rows or columns."""
    dask = require("dask.array", "a Dask array")
    planes, halo = Planes.of("array", array.shape, array.dtype, sigma, recipe), halo_of(recipe.known_model())
    rows, columns = array.ndim - 2, array.ndim - 1
    depth = {axis: halo if array.numblocks[axis] > 1 else 0 for axis in (rows, columns)}
    if any(depth.values()):
        planes.check_cut("array", halo)
    levels = planes.sigma if isinstance(planes.sigma, str) else planes.sigma[..., None, None]
    known = isinstance(levels, str)
    others = [] if known else [dask.from_array(levels, chunks=(*array.chunks[:-2], 1, 1))]
    result = dask.map_overlap(
        partial(_block, planes), array, *others, depth=[depth, *[{}] * len(others)], boundary="none", trim=True,
        dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype), align_arrays=False,
    )  # fmt: skip
    return result.rechunk(array.chunks)


def _block(planes: Planes, window: NDArray[Any], levels: NDArray[np.float64] | None = None) -> NDArray[Any]:
    """A chunk with what it overlaps, all of whose planes are solved."""
    sigma: Any = planes.sigma if levels is None else levels[..., 0, 0]
    whole = (slice(None), slice(None))
    every = tuple(slice(0, side) for side in window.shape[:-2])
    return replace(planes, sigma=sigma).solve(window, every, whole, None)
