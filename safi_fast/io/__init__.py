"""Image files: read, write whole or not at all, list."""

from .images import ImageFile, list_images, read_image, write_image

__all__ = ["ImageFile", "list_images", "read_image", "write_image"]
