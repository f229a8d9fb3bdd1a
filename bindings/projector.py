"""How the projector is launched: the tables of a scan geometry (NumPy, float64 inside), its CPU binding, its CUDA
launches.

    tables = fan_tables(shape, angles, detectors, spacing=..., centre=..., pixel=..., source_origin=...,
    source_detector=...)
    projector = CpuProjector(tables)              # or CudaProjector(tables, device), whose arrays are the device's
    y = projector.project(x);   x = projector.back_project(y);   x = projector.smear(y)

The tables are described in kernels/cpu/projector.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import Device
from .launch import Launch, ceil_div
from .module import source
from .threads import on_threads

FloatArray = NDArray[np.float32]

COEFFICIENTS = 8
LANES = 16  # that the CPU kernels read at once
WARPS = 4  # of a block of line_sums, view_sums and project
CELLS_PER_WARP = 31  # whose 32 edges are one warp's
PIXEL_BLOCK = (32, 8)
SCAN = np.dtype([(name, np.int32) for name in ("batch", "height", "width", "views", "detectors")])


@dataclass(frozen=True)
class Tables:
    """One scan of images of (height, width) pixels by (views, detectors) cells; arrays as the kernels read them."""

    shape: tuple[int, int]
    views: int
    detectors: int
    edges: FloatArray
    coefficients: FloatArray
    gains: FloatArray
    weights: FloatArray
    major: NDArray[np.int64]
    obliquity: float  # the largest angle between a ray and the direction across the lines of its view, in radians
    clearance: float  # the least distance, in pixels, of the source from the lines; infinite for parallel rays

    def geometry(self, batch: int) -> NDArray[np.int64]:
        """Sizes as the kernels get them."""
        return np.array([batch, *self.shape, self.views, self.detectors], np.int64)


def parallel_tables(
    shape: tuple[int, int], angles: NDArray[np.float64], detectors: int, *, spacing: float, centre: float, pixel: float
) -> Tables:
    """Rays along (-sin, cos) of the angle (x to the right, y up); detector cell k lies (k - centre) spacing along (cos,
    sin).
    """
    return _tables(shape, angles, detectors, spacing / pixel, centre, pixel, None, None)


def fan_tables(
    shape: tuple[int, int], angles: NDArray[np.float64], detectors: int, *, spacing: float, centre: float, pixel: float,
    source_origin: float, source_detector: float,
) -> Tables:  # fmt: skip
    """The source lies source_origin along (sin, -cos) of the angle, the flat detector along (cos, sin) across the ray
    to the origin.
    """
    return _tables(
        shape, angles, detectors, spacing / pixel, centre, pixel, source_origin / pixel, source_detector / pixel
    )


def _tables(
    shape: tuple[int, int], angles: NDArray[np.float64], detectors: int, spacing: float, centre: float, pixel: float,
    origin: float | None, distance: float | None,
) -> Tables:  # fmt: skip
    """Lengths in pixels, but for the pixel itself."""
    cos, sin = _exact_at_quarters(np.cos(angles)), _exact_at_quarters(np.sin(angles))
    lean = np.abs(cos) - np.abs(sin)
    # diagonals such that a quarter turn swaps rows and columns
    by_rows = np.where(np.abs(lean) < 1e-9, cos * sin > 0, lean > 0)
    major = np.where(by_rows, 0, 1).astype(np.int64)
    # Along and across the lines: e, the direction of the detector, and n, that of the middle ray.
    e_along, e_across = np.where(by_rows, cos, -sin), np.where(by_rows, -sin, cos)
    n_along, n_across = np.where(by_rows, -sin, -cos), np.where(by_rows, -cos, -sin)
    height, width = shape
    half = np.where(by_rows, width, height) / 2
    zero_edge = centre + 0.5
    place = (np.arange(detectors + 1) - zero_edge) * spacing
    middle = (np.arange(detectors) - centre) * spacing
    coefficients = np.zeros((len(angles), COEFFICIENTS))
    coefficients[:, 0] = zero_edge
    if origin is None or distance is None:
        across = np.broadcast_to(n_across[:, None], (len(angles), detectors + 1))
        slope = np.broadcast_to((n_along / n_across)[:, None], across.shape)
        # On a ray xi = place e_along + r n_along and rho = place e_across + r n_across; without r:
        start = place * (e_along - e_across * n_along / n_across)[:, None]
        scale = np.full(len(angles), 1 / spacing)
        cosine = np.broadcast_to(np.abs(n_across)[:, None], (len(angles), detectors))
        clearance = np.inf
    else:
        along = place * e_along[:, None] + distance * n_along[:, None]
        across = place * e_across[:, None] + distance * n_across[:, None]
        source_along, source_across = -origin * n_along, -origin * n_across
        with np.errstate(divide="ignore", invalid="ignore"):  # rays along the lines, which the obliquity tells of
            slope = along / across
            start = source_along[:, None] - slope * source_across[:, None]
        scale = np.full(len(angles), distance / (origin * spacing))
        coefficients[:, 3], coefficients[:, 4] = n_along / origin, n_across / origin
        coefficients[:, 5] = spacing * e_across / (distance * n_across)
        coefficients[:, 6] = -1 / source_across
        cosine = np.abs(middle * e_across[:, None] + distance * n_across[:, None]) / np.hypot(middle, distance)
        clearance = float(np.min(np.abs(source_across) - np.where(by_rows, height, width) / 2))
    coefficients[:, 1], coefficients[:, 2] = scale * e_along, scale * e_across
    same_side = np.all(across * n_across[:, None] > 0)
    obliquity = float(np.max(np.arctan(np.abs(slope)))) if same_side else np.pi / 2
    positions = start + half[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        cells = np.diff(positions, axis=1)
        weights = pixel / cosine * np.sign(cells)
        gains = pixel / cosine / cells
    edges = np.append(_flat(np.stack([positions, slope], axis=1)), np.zeros(2 * LANES, np.float32))
    return Tables(
        shape, len(angles), detectors, edges, _flat(coefficients), _flat(gains), _flat(weights), major, obliquity,
        clearance
    )  # fmt: skip


def _exact_at_quarters(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sines and cosines of multiples of a quarter turn without their rounding error, so that rays lie exactly along
    pixels.
    """
    return np.where(np.abs(values) < 1e-13, 0.0, np.where(1 - np.abs(values) < 1e-15, np.sign(values), values))


def _flat(values: NDArray[Any]) -> FloatArray:
    return np.ascontiguousarray(values, np.float32).reshape(-1)


class CpuProjector:
    """The Numba kernels on one geometry.

    Numba is imported here. Read-only after construction, so threads may share it.
    """

    def __init__(self, tables: Tables):
        from . import cpu  # first: it settles threads and cached kernels before Numba is loaded
        from ..kernels.cpu import projector as kernels  # isort: skip

        self.tables, self._kernels, self._lock = tables, kernels, cpu._LAUNCH

    def project(self, x: NDArray[Any]) -> FloatArray:
        """(B, H, W) to (B, V, K)."""
        t, batch = self.tables, len(x)
        (height, width), geometry = t.shape, t.geometry(batch)
        rows = np.empty(batch * height * (width + 2), np.float32)
        columns = np.empty(batch * width * (height + 2), np.float32)
        y = np.empty((batch, t.views, t.detectors), np.float32)
        with self._lock, on_threads(None):
            self._kernels.line_sums(_flat(x), rows, columns, geometry)
            self._kernels.project(
                rows, columns, t.edges, t.coefficients, t.gains, t.major, y.reshape(-1), geometry
            )  # fmt: skip
        return y

    def back_project(self, y: NDArray[Any]) -> FloatArray:
        """(B, V, K) to (B, H, W): the adjoint."""
        t, batch = self.tables, len(y)
        geometry = t.geometry(batch)
        sums = np.empty(batch * t.views * (t.detectors + 2), np.float32)
        x = np.empty((batch, *t.shape), np.float32)
        with self._lock, on_threads(None):
            self._kernels.view_sums(_flat(y), t.weights, sums, geometry)
            self._kernels.back_project(sums, t.coefficients, t.major, x.reshape(-1), geometry)
        return x

    def smear(self, y: NDArray[Any]) -> FloatArray:
        """(B, V, K) to (B, H, W): for filtered back projection."""
        t, geometry = self.tables, self.tables.geometry(len(y))
        x = np.empty((len(y), *t.shape), np.float32)
        with self._lock, on_threads(None):
            self._kernels.smear(
                _flat(np.pad(y, ((0, 0), (0, 0), (1, 2)))), t.coefficients, t.major, x.reshape(-1), geometry
            )
        return x


def launch_for(kernel: str, tables: Tables, batch: int) -> Launch:
    """The launch of a kernel of kernels/cuda/projector.cu for a batch of images.

    Raises KeyError for an unknown kernel.
    """
    height, width = tables.shape
    by_warps, pixels = (32 * WARPS, 1, 1), (*PIXEL_BLOCK, 1)
    tiles = (ceil_div(width, PIXEL_BLOCK[0]), ceil_div(height, PIXEL_BLOCK[1]), batch)
    return {
        "line_sums": Launch((ceil_div(height + width, WARPS), 1, batch), by_warps),
        "project": Launch((ceil_div(tables.detectors, CELLS_PER_WARP * WARPS), tables.views, batch), by_warps),
        "view_sums": Launch((ceil_div(tables.views, WARPS), 1, batch), by_warps),
        "back_project": Launch(tiles, pixels),
        "smear": Launch(tiles, pixels),
    }[kernel]


class CudaProjector:
    """The CUDA kernels on one geometry and one device; images and measurements are arrays of the device."""

    def __init__(self, tables: Tables, device: Device):
        self.tables, self.device = tables, device
        self._module = device.module(source("projector"))
        self._edges, self._views, self._gains, self._weights, self._major = map(
            device.upload,
            (tables.edges, tables.coefficients, tables.gains, tables.weights, tables.major.astype(np.int32)),
        )

    def project(self, x: Any) -> Any:
        """(B, H, W) to (B, V, K)."""
        t, batch = self.tables, x.shape[0]
        height, width = t.shape
        rows = self.device.empty((batch, height, width + 2), np.float32)
        columns = self.device.empty((batch, width, height + 2), np.float32)
        y = self.device.empty((batch, t.views, t.detectors), np.float32)
        self._launch("line_sums", batch, x, rows, columns)
        self._launch("project", batch, rows, columns, self._edges, self._views, self._gains, self._major, y)
        return y

    def back_project(self, y: Any) -> Any:
        """(B, V, K) to (B, H, W): the adjoint."""
        t, batch = self.tables, y.shape[0]
        sums = self.device.empty((batch, t.views, t.detectors + 2), np.float32)
        x = self.device.empty((batch, *t.shape), np.float32)
        self._launch("view_sums", batch, y, self._weights, sums)
        self._launch("back_project", batch, sums, self._views, self._major, x)
        return x

    def smear(self, cells: Any) -> Any:
        """(B, V, K + 3), padded with one zero before and two after, to (B, H, W): for filtered back projection."""
        batch = cells.shape[0]
        x = self.device.empty((batch, *self.tables.shape), np.float32)
        self._launch("smear", batch, cells, self._views, self._major, x)
        return x

    def _launch(self, kernel: str, batch: int, *args: Any) -> None:
        t, launch = self.tables, launch_for(kernel, self.tables, batch)
        scan = np.array([(batch, *t.shape, t.views, t.detectors)], SCAN)
        self._module.get_function(kernel)(launch.grid, launch.block, (*args, scan))
