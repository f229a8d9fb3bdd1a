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
        _write(target, results.reshape(*planes.shape[:-2], *results.shape[-2:]), file, data_range)
        return {}

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


def _write(target: Path, planes: Array, file: "ImageFile", data_range: float) -> None:
    """As `file` was stored, but for the size; alpha is kept where the size is."""
    from ...io import write_image

    images = planes if file.channel_axis is None else np.moveaxis(planes, -3, -1)
    same = images.shape == file.array.shape
    like = replace(
        file,
        array=file.array if same else np.empty(images.shape, file.array.dtype),
        data_range=data_range,
        alpha=file.alpha if same else None,
    )
    write_image(target, images, like)
