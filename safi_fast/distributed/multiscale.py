"""A Zarr array or an OME-Zarr image by its path: the full size is denoised, smaller ones are made anew from it.

Of an OME-Zarr image (OME-NGFF 0.1 to 0.5, ngff.openmicroscopy.org) a group names in `multiscales` its axes and its
sizes, `datasets`, the largest first. A smaller one whose sides are those of the one before by whole factors, rounded up
or down, is made of means over blocks of so many pixels; others are left out of the metadata. Labels, which say what
the pixels show, are copied as they are.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import copy_folder
from ..errors import ImageFileError
from ..options import shows
from ..values import DataRange, Range
from .arrays import Progress, denoise_zarr
from .layout import Block, chunks
from .packages import require
from .recipe import DEFAULTS, Options, Recipe, range_of_planes, stored
from .urls import copier, file_system, local_path, located, reaching
from .volumes import Blocks, Place, Say, copy_blocks

if TYPE_CHECKING:
    from typing_extensions import Unpack


LABELS = "labels"  # the group of images of integers that say what the pixels show


@shows(Options, DEFAULTS)
def denoise_volume(
    path: Any, out: Any, sigma: Any, *, client: Any = None, max_memory: float | None = None, overwrite: bool = False,
    say: Say | None = None, progress: Progress | None = None, **options: Unpack[Options],
) -> None:  # fmt: skip
    """`denoise_array` of a Zarr array, or of the image of an OME-Zarr group with all its sizes, from path to path.

    Parameters
    ----------
    path, out : path
        Folders; path may also be a URL of fsspec, such as s3://bucket/name. The last two axes are y and x; all before
        them are solved plane by plane.
    sigma, client, max_memory, overwrite, and options
        As of `denoise_array`.
    say : callable
        Called with a sentence where something is left out, and where the run waits for another process.
    progress : callable
        Called with the number of blocks of the largest array; what it returns is called after each of them.

    Raises
    ------
    ImageFileError
        For what is no Zarr array and no OME-Zarr image; and as `denoise_array`.
    """
    source, target = located("path", path), Place(local_path("out", out).absolute())
    source = source.absolute() if isinstance(source, Path) else source.rstrip("/")
    recipe, tell = Recipe.of("denoise_volume", options), say or (lambda sentence: None)
    node = _opened(source)
    if not hasattr(node, "members"):
        denoise_zarr(node, sigma, target, recipe, max_memory, overwrite=overwrite, client=client, say=say,
                     progress=progress)  # fmt: skip
        return
    image = Image.of(source, node)
    kept = image.kept()
    _make_group(target.root, image, kept, tell)
    if image.has_labels:
        copy = copier(source / LABELS if isinstance(source, Path) else f"{source}/{LABELS}")
        copy_folder(copy, target.root / LABELS)
    first = Place(target.root, kept[0])
    denoise_zarr(node[kept[0]], sigma, first, recipe, max_memory, overwrite=overwrite, client=client, say=say,
                 progress=progress)  # fmt: skip
    for larger, smaller in pairwise(kept):
        like, above = node[smaller], Place(target.root, larger).open("r")
        factors = factors_between(above.shape, like.shape)
        facts = {**above.attrs["safi_fast"], "factors": list(factors or ())}
        facts = {name: value for name, value in facts.items() if name not in ("complete", "blocks")}
        layout = chunks(like.shape, like.shards or like.chunks)
        work = Blocks(above, Place(target.root, smaller), layout, Shrink(tuple(factors or ()), like.dtype))
        copy_blocks(work, like, facts, overwrite=overwrite, client=client, say=say)


@dataclass(frozen=True)
class Image:
    """A group with `multiscales`."""

    path: Path | str
    group: Any
    attributes: dict[str, Any]

    @classmethod
    def of(cls, path: Path | str, group: Any) -> Image:
        """Raises ImageFileError for a group that is no image, or one whose last axes are not y and x."""
        attributes = group.attrs.asdict()
        image = cls(path, group, attributes)
        if not image.scales or not image.paths:
            arrays, groups = sorted(group.array_keys()), sorted(group.group_keys())
            inside = f"arrays: {', '.join(arrays)}" if arrays else f"groups: {', '.join(groups) or 'it has none'}"
            raise ImageFileError(f"{path}: a Zarr group without multiscales; name one of its {inside}")
        axes = image.scales[0].get("axes", ["y", "x"])
        names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
        if names[-2:] != ["y", "x"]:
            raise ImageFileError(f"{path}: its axes are {', '.join(names)}; expected y and x as the last two")
        return image

    @property
    def scales(self) -> list[dict[str, Any]]:
        """The images of the group."""
        found: list[dict[str, Any]] = self.attributes.get("ome", self.attributes).get("multiscales", [])
        return found

    @property
    def paths(self) -> list[str]:
        """Of the arrays of the first image, the largest first."""
        return [entry["path"] for entry in self.scales[0].get("datasets", [])]

    @property
    def has_labels(self) -> bool:
        """Whether there is a group of labels beside the sizes."""
        return LABELS in self.group and hasattr(self.group[LABELS], "members")

    def kept(self) -> list[str]:
        """Those that can be made from the one before."""
        paths = self.paths
        kept = paths[:1]
        for path in paths[1:]:
            if factors_between(self.group[kept[-1]].shape, self.group[path].shape) is None:
                break
            kept.append(path)
        return kept

    def metadata(self, kept: list[str]) -> dict[str, Any]:
        """The attributes with the datasets that are kept, of one image."""
        attributes = copy.deepcopy(self.attributes)
        holder = attributes.get("ome", attributes)
        scale = holder["multiscales"][0]
        scale["datasets"] = [entry for entry in scale["datasets"] if entry["path"] in kept]
        holder["multiscales"] = [scale]
        return attributes


@dataclass(frozen=True)
class Shrink:
    """Means over blocks of so many pixels along each axis; those that reach beyond the border repeat its pixels."""

    factors: tuple[int, ...]
    dtype: np.dtype[Any]

    def block(self, source: Any, block: Block) -> NDArray[Any]:
        """What the core is the mean of, at once."""
        wanted = [(part.start * f, part.stop * f) for part, f in zip(block.core, self.factors, strict=True)]
        region = tuple(slice(first, min(last, side)) for (first, last), side in zip(wanted, source.shape, strict=True))
        values = np.asarray(source[region])
        beyond = [(0, last - part.stop) for (_, last), part in zip(wanted, region, strict=True)]
        values = np.pad(values, beyond, mode="edge")
        split = [n for side, f in zip(values.shape, self.factors, strict=True) for n in (side // f, f)]
        return stored(values.reshape(split).mean(axis=tuple(range(1, len(split), 2)), dtype=np.float64), self.dtype)


def factors_between(larger: tuple[int, ...], smaller: tuple[int, ...]) -> tuple[int, ...] | None:
    """Whole factors along each axis; None where there are none."""
    if len(larger) != len(smaller):
        return None
    factors = tuple(max(1, round(n / m)) for n, m in zip(larger, smaller, strict=True))
    fit = all(m in (n // f, -(-n // f)) for n, m, f in zip(larger, smaller, factors, strict=True))
    return factors if fit else None


def range_of_volume(path: Path, data_range: DataRange | None) -> Range:
    """Black and white of the array that `denoise_volume` would denoise. Raises as that does."""
    node = _opened(path)
    if hasattr(node, "members"):
        node = node[Image.of(path, node).paths[0]]
    return range_of_planes("array", node.dtype, data_range)


def _opened(path: Path | str) -> Any:
    """The array or group. Raises ImageFileError, and BackendError without Zarr."""
    zarr = require("zarr", "a Zarr array")
    if isinstance(path, str):
        file_system(path)  # which says what is missing to reach it
    try:
        with reaching(path, but=(FileNotFoundError, ValueError)) if isinstance(path, str) else nullcontext():
            return zarr.open(path, mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise ImageFileError(f"{path}: no Zarr array or group ({str(error).strip() or 'not found'})") from error


def _make_group(root: Path, image: Image, kept: list[str], tell: Say) -> None:
    """The group of the result with the metadata of the source, unless it is there. Raises ImageFileError."""
    zarr = require("zarr", "a Zarr array")
    if isinstance(image.path, Path) and root.resolve() == image.path.resolve():
        raise ImageFileError(f"{root}: is the input; choose another output")
    dropped = [path for path in image.paths if path not in kept]
    known = {path.split("/")[0] for path in image.paths} | ({LABELS} if image.has_labels else set())
    others = sorted({name for name, _ in image.group.members()} - known)
    others += [f"image {number} of the group" for number in range(1, len(image.scales))]
    if dropped:
        tell(f"{image.path}: left out, since no whole factors lead to them: {', '.join(dropped)}")
    if others:
        tell(f"{image.path}: left out, since they are no part of the image: {', '.join(others)}")
    if root.exists() and any(root.iterdir()):
        try:
            zarr.open_group(root, mode="r")
            return
        except (FileNotFoundError, ValueError):
            raise ImageFileError(f"{root}: the output exists and is no Zarr group; choose another") from None
    zarr.create_group(root, zarr_format=image.group.metadata.zarr_format, attributes=image.metadata(kept))
