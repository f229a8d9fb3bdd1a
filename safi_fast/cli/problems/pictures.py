"""What deblurring, inpainting and super-resolution share: image files in, images of the same kind out."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ...values import UNIT_BOX, DataRange
from ..options import ScaleOptions, box_option
from ..output import message_of
from . import Array, Slice, Study

if TYPE_CHECKING:
    from ...io import ImageFile
    from ...operators import Operator

INPUT, INPUT_HELP = "IMAGE", "image files or folders of them: PNG, JPEG, TIFF (stacks too), NPY; grey or colour"
Boundary = Literal["symmetric", "zero", "circular"]
BOUNDARIES = get_args(Boundary)


def list_inputs(paths: Iterable[str]) -> list[Path]:
    """Image files."""
    from ...io import list_images

    return list_images(paths)


def open_images(
    path: Path,
    options: ScaleOptions,
    prepare: Callable[[tuple[int, int]], tuple["Operator", dict[str, Any]]],
    start_name: str,
    start: Callable[[Array], Array],
) -> Study:
    """Read an image file, ready to be solved slice by slice; colour channels are images that share a slice.

    prepare(shape): the operator of measurements of that shape, and facts. start: the first picture, of (..., h, w).
    """
    from ...io import read_image

    file = read_image(path)
    meaning = file.meaning(options.data_range)
    planes = file.array if file.channel_axis is None else np.moveaxis(file.array, -1, -3)
    shape: tuple[int, int] = planes.shape[-2:]
    per_slice = planes.ndim if planes.ndim == 2 else 2 + (file.channel_axis is not None)
    stack = planes.reshape(-1, *planes.shape[planes.ndim - per_slice :])
    operator, facts = prepare(shape)
    if meaning.warning is not None:
        facts["warnings"] = [message_of(meaning.warning)]

    def make(number: int) -> Slice:
        y = operator.check_measurement(stack[number])
        return Slice(y, operator, start(y))

    def write(target: Path, results: Array) -> dict[str, Any]:
        whole = results.reshape(*planes.shape[:-2], *results.shape[-2:])
        lost = _write(target, whole, file, meaning.argument)
        return {"lost": list(lost)} if lost else {}

    return Study(
        count=len(stack),
        slice=make,
        range=meaning,
        box=box_option(options).get("box", UNIT_BOX),
        start_name=start_name,
        write=write,
        eight_bit=meaning.scale,
        noise_unit=meaning.scale / 255,
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


def _write(target: Path, planes: Array, file: "ImageFile", data_range: DataRange) -> tuple[str, ...]:
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
