"""What deblurring, inpainting and super-resolution share: image files in, images of the same kind out."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ImageFileError
from . import IMAGE_BOX, Array, Slice, Study

if TYPE_CHECKING:
    from ...io import ImageFile
    from ...operators import Operator

INPUT, INPUT_HELP = "IMAGE", "image files or folders of them: PNG, JPEG, TIFF (stacks too), NPY; grey or colour"
BOUNDARIES = ("symmetric", "zero", "circular")
PLAUSIBLE_NOISE = 50 / 255


def list_inputs(paths: list[str]) -> list[Path]:
    """Image files."""
    from ...io import list_images

    return list_images(paths)


def open_images(
    path: Path,
    args: argparse.Namespace,
    prepare: Callable[[tuple[int, int]], tuple["Operator", dict[str, Any]]],
    start_name: str,
    start: Callable[[Array], Array],
    known: Callable[[Array], Array] = lambda values: values,
) -> Study:
    """Read an image file, ready to be solved slice by slice; colour channels are images that share a slice.

    prepare(shape): the operator of measurements of that shape, and facts. start: the first picture, of (..., h, w). known: the
    values that count.
    """
    from ...arrays import check_unit_range
    from ...io import read_image

    file = read_image(path)
    data_range = args.data_range or file.data_range
    if data_range is None:
        raise ImageFileError(f"{path}: {file.array.dtype} pixels have no known range; pass --data-range")
    planes = file.array if file.channel_axis is None else np.moveaxis(file.array, -1, -3)
    shape: tuple[int, int] = planes.shape[-2:]
    per_slice = planes.ndim if planes.ndim == 2 else 2 + (file.channel_axis is not None)
    stack = planes.reshape(-1, *planes.shape[planes.ndim - per_slice :])
    operator, facts = prepare(shape)
    if not args.data_range and file.array.dtype.kind == "f":
        check_unit_range("image", known(stack), PLAUSIBLE_NOISE)

    def make(number: int) -> Slice:
        y = operator.check_measurement(stack[number])
        return Slice(y, operator, start(y))

    def write(target: Path, results: Array) -> dict[str, Any]:
        lost = _write(target, results.reshape(*planes.shape[:-2], *results.shape[-2:]), file, data_range)
        return {"lost": list(lost)} if lost else {}

    return Study(
        count=len(stack),
        slice=make,
        data_range=data_range,
        range_rule="given" if args.data_range else f"of {file.array.dtype}",
        box=None if args.no_box else args.box or IMAGE_BOX,
        start_name=start_name,
        write=write,
        eight_bit=data_range,
        noise_unit=data_range / 255,
        facts=facts,
    )


def enlarged(y: Array, factor: int) -> Array:
    """(..., h, w) by bicubic interpolation, pixels covering the same area."""
    from skimage.transform import resize

    planes = y.reshape(-1, *y.shape[-2:])
    shape = (factor * y.shape[-2], factor * y.shape[-1])
    large = [
        resize(plane, shape, order=3, mode="symmetric", anti_aliasing=False, preserve_range=True) for plane in planes
    ]
    return np.asarray(large, np.float32).reshape(*y.shape[:-2], *shape)


def _write(target: Path, planes: Array, file: "ImageFile", data_range: float) -> tuple[str, ...]:
    """As `file` was stored, but for the size; alpha of an enlarged image is enlarged too. Returns what is lost."""
    from ...io import write_image

    images = planes if file.channel_axis is None else np.moveaxis(planes, -3, -1)
    like = file
    if images.shape != file.array.shape:
        alpha = file.alpha
        if alpha is not None:
            large = enlarged(alpha.astype(np.float32), planes.shape[-1] // alpha.shape[-1])
            alpha = np.clip(large, alpha.min(), alpha.max())
        like = file.resized(images.shape, alpha)
    return write_image(target, images, replace(like, data_range=data_range))
