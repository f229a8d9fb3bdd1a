"""Images as a page shows them: of a limited size, inside of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...plots import mask_limits
from ...values import block_means

LARGEST_SIDE = 1024  # pixels; a larger image is shown by means of blocks
LARGEST_PNG = 2**18  # pixels; a larger one is shown as JPEG
JPEG_QUALITY = 90


@dataclass(frozen=True)
class View:
    """What is seen of one result: data URIs, pixels of the result, and what differs from the files in words."""

    before: str
    after: str
    mask: str | None
    mask_limits: tuple[float, float]  # what is black and what is white in it
    shape: tuple[int, int]
    notes: tuple[str, ...]
    before_name: str = "before"
    after_name: str = "after"

    @property
    def bytes(self) -> int:
        """That it takes in a page."""
        return len(self.before) + len(self.after) + len(self.mask or "")


def view(
    before: NDArray[Any],
    after: NDArray[Any],
    masks: NDArray[np.float32] | None = None,
    *,
    notes: Sequence[str] = (),
    before_name: str = "before",
    after_name: str = "after",
) -> View:
    """The View of images (H, W) or (H, W, 3) on [0, 1], `before` of any size, and masks (..., H, W), shown by their
    mean.
    """
    shape = after.shape[0], after.shape[1]
    said = list(notes)
    factor = _factor(shape)
    if factor > 1:
        said.append(f"shown at 1/{factor} of its size, each pixel the mean of {factor} x {factor}")
    if _pixels(shape) > LARGEST_PNG:
        said.append(f"shown as JPEG of quality {JPEG_QUALITY}")
    mask, limits = None, (0.0, 1.0)
    if masks is not None:
        mean = masks.reshape(-1, *masks.shape[-2:]).mean(axis=0)
        limits = mask_limits(mean)
        mask = _uri((mean - limits[0]) / (limits[1] - limits[0]))
    return View(_uri(before), _uri(after), mask, limits, shape, tuple(said), before_name, after_name)


def _factor(shape: tuple[int, int]) -> int:
    """How many pixels of a row, and of a column, are shown as one."""
    return -(-max(shape) // LARGEST_SIDE)


def _pixels(shape: tuple[int, int]) -> int:
    factor = _factor(shape)
    return max(1, shape[0] // factor) * max(1, shape[1] // factor)


def _uri(image: NDArray[Any]) -> str:
    """(H, W) or (H, W, 3) on [0, 1] as a data URI; what lies outside is cut off."""
    from PIL import Image

    factor = _factor((image.shape[0], image.shape[1]))
    if factor > 1:
        image = _smaller(image, factor)
    levels = np.rint(255 * np.nan_to_num(image).clip(0, 1)).astype(np.uint8)
    stream = io.BytesIO()
    kind = "png" if levels.shape[0] * levels.shape[1] <= LARGEST_PNG else "jpeg"
    options = {"quality": JPEG_QUALITY} if kind == "jpeg" else {}
    Image.fromarray(levels).save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _smaller(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """Means of blocks; rows and columns that fill no block are left out, but of a side that is shorter than one."""
    sides = tuple(max(side, factor) for side in image.shape[:2])
    padding = [(0, full - side) for full, side in zip(sides, image.shape, strict=False)]
    image = np.pad(image, padding + [(0, 0)] * (image.ndim - 2), mode="edge")
    if image.ndim == 2:
        return np.asarray(block_means(image, factor))
    return np.stack([block_means(image[..., channel], factor) for channel in range(image.shape[2])], axis=-1)
