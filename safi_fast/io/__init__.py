"""Files in and out: images, measurements, reconstructions; written whole or not at all."""

from .bart import read_cfl, write_cfl
from .images import ImageFile, list_images, read_image, write_image
from .measurements import (
    Kspace,
    list_measurements,
    read_array,
    read_kspace,
    read_maps,
    read_mask,
    read_sinogram,
    read_vector,
)
from .results import write_result

__all__ = [
    "ImageFile",
    "Kspace",
    "list_images",
    "list_measurements",
    "read_array",
    "read_cfl",
    "read_image",
    "read_kspace",
    "read_maps",
    "read_mask",
    "read_sinogram",
    "read_vector",
    "write_cfl",
    "write_image",
    "write_result",
]
