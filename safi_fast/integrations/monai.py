"""SAFI as transforms of MONAI, for images and volumes whose channels come first.

    from monai.transforms import Compose, LoadImaged, EnsureChannelFirstd
    from safi_fast.integrations.monai import SafiDenoised

    Compose([LoadImaged("image"), EnsureChannelFirstd("image"), SafiDenoised("image")])

(C, H, W), or (C, H, W, D), whose slices along the last axis are denoised as one batch. Every channel is an image of its
own. What comes back is float32, of the kind that came: an array, a tensor, or a MetaTensor with its metadata. Written
for MONAI 1.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type
from monai.utils.enums import TransformBackends

from .. import api
from ..errors import InputError, shown
from ..model import Model
from ..noise_level import ESTIMATE, SMALLEST, noise_level
from ..tensors import plain

__all__ = ["SafiDenoise", "SafiDenoised"]


class SafiDenoise(Transform):
    """Remove white Gaussian noise of one strength.

    sigma: its standard deviation in the units of the image, or "estimate": the median of what is found in the slices
    that show any. model, options: as for `safi_fast.denoise`; `data_range` is from the least to the greatest value of
    an image and `box` None, unless they are passed.
    """

    backend = [TransformBackends.NUMPY, TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self, sigma: float | str = ESTIMATE, *, model: Model | str | PathLike[str] | None = None, **options: Any
    ):
        """Raises InputError for a text other than "estimate"."""
        if isinstance(sigma, str) and sigma != ESTIMATE:
            raise InputError(f"sigma is {shown(sigma)}; expected a number or {ESTIMATE!r}")
        self.sigma, self.model, self.options = sigma, model, options

    def __call__(self, img: Any) -> Any:
        """img: array, tensor or MetaTensor, (C, H, W) or (C, H, W, D). Raises InputError."""
        values = np.asarray(plain(img).cpu() if hasattr(img, "cpu") else img, np.float32)
        if values.ndim not in (3, 4):
            raise InputError(f"img has shape {values.shape}; expected (C, H, W) or (C, H, W, D)")
        if not values.size or not np.isfinite(values).all():
            raise InputError(f"img of shape {values.shape} is empty or has values that are not finite")
        slices = values if values.ndim == 3 else np.moveaxis(values, -1, 1)
        stack = np.ascontiguousarray(slices).reshape(-1, *values.shape[1:3])
        low, high = float(stack.min()), float(stack.max())
        if low == high:
            return convert_to_dst_type(values, dst=img, dtype=np.float32)[0]
        options = {"data_range": (low, high), "box": None, **self.options}
        sigma = _estimated(stack) if isinstance(self.sigma, str) else self.sigma
        made = api.denoise(stack, sigma, model=self.model, **options).reshape(slices.shape)
        result = made if values.ndim == 3 else np.ascontiguousarray(np.moveaxis(made, 1, -1))
        return convert_to_dst_type(result, dst=img, dtype=np.float32)[0]


class SafiDenoised(MapTransform):
    """`SafiDenoise` of the named entries of a dictionary."""

    backend = SafiDenoise.backend

    def __init__(self, keys: Any, sigma: float | str = ESTIMATE, *, allow_missing_keys: bool = False, **options: Any):
        """keys, allow_missing_keys: as everywhere in MONAI; the others as for `SafiDenoise`."""
        super().__init__(keys, allow_missing_keys)
        self.denoise = SafiDenoise(sigma, **options)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """A copy of `data` with the entries denoised."""
        made = dict(data)
        for key in self.key_iterator(made):
            made[key] = self.denoise(made[key])
        return made


def _estimated(stack: Any) -> float:
    """The median over slices (N, H, W) that show noise. Raises InputError where none does."""
    if min(stack.shape[1:]) < SMALLEST:
        raise InputError(
            f"sigma is 'estimate', but slices are {stack.shape[1]} x {stack.shape[2]}; expected {SMALLEST} x "
            f"{SMALLEST} or more, or sigma as a number"
        )
    found = np.array([noise_level(np, image) for image in stack])
    if not found.any():
        raise InputError("sigma is 'estimate', but no slice shows noise; pass sigma as a number")
    return float(np.median(found[found > 0]))
