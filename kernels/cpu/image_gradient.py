"""image_gradient: back through x = clip(y - z), low and high its limits.

    e = scale (sum of tiles) where low < x < high, else 0;     y' += e

Shapes, P planes: tiles (B, P, tiles, 32, 32); x, total, which is y', (B, P, H, W); scale (B,); image (1, B, P, rows,
pitch), where e goes with its halo.
"""

from __future__ import annotations

import numpy as np

from .arguments import Box, Floats, Geometry, Numbers, planes_of
from .fft import TILE
from .image import extend_row, gather_row, plane_of, row_at
from .parallel import Share, kernel, shared


@kernel
def image_gradient(
    share: Share,
    active: Numbers, tiles: Floats, x: Floats, box: Box, scale: Floats, total: Floats, image: Floats,
    geometry: Geometry,
) -> None:  # fmt: skip
    """One row at a time."""
    line = np.empty(geometry.pitch + 2 * TILE, np.float32)
    for item in shared(share, len(active) * planes_of(geometry) * geometry.height):
        owner, b, row = plane_of(item, active, geometry)
        gather_row(tiles, b, row, geometry, line)
        width, reach, low, high, size = geometry.width, geometry.support // 2, box.low, box.high, scale[owner]
        first, to = (b * geometry.height + row) * width, row_at(b, row, geometry)
        for column in range(width):
            here = x[first + column]
            slope = size * line[reach + column] if low < here < high else np.float32(0)
            total[first + column] += slope
            image[to + column] = slope
        extend_row(image, b, row, geometry)
