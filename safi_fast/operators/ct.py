"""Computed tomography: line integrals of an image along parallel rays, or along a fan of rays to a flat detector.

    H = ParallelBeamCT((256, 256), np.linspace(0, np.pi, 200, endpoint=False), detectors=363)
    sinogram = H.apply(image)          (..., views, detectors): image values times length
    image    = H.fbp(sinogram)         filtered back projection

Convention (that of skimage.transform.radon and of ASTRA): x points to the right along rows, y upwards, the origin is
the middle of the image, angles are in radians and turn from x to y. At angle a the detector points along e = (cos a,
sin a) and rays travel along n = (-sin a, cos a). Detector cell k lies at s = (k - centre) detector_spacing along e,
centre = (detectors - 1) / 2 by default.

    parallel   the ray of s is { s e + t n }
    fan        the source lies at -source_origin n; the detector at (source_detector - source_origin) n + s e

Lengths (detector_spacing, pixel_size, the distances) share one unit; line integrals are in image values times that
unit. Projection is distance-driven and averages over the width of a detector cell; adjoint() is its exact transpose
(kernels/cpu/projector.py).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, OperatorError, shown
from ..namespaces import on_host
from ..tensors import plain
from ..warn import warn
from .base import Operator, Pace

FloatArray = NDArray[np.float64]
Filter = Literal["ramp", "hann"]

NORM_STEPS = 30
NORM_CLOSE = 1.004  # the bound from above over that from below, of the squares
NORM_MARGIN = 1.0001  # rounding in float32
STEEPEST = np.deg2rad(80)  # of rays against the direction across the image lines they are summed over
UNMEASURED = 4.0  # a gap between views that many times the median one is not filled by its neighbours
TAPER = np.deg2rad(10)  # at the ends of an arc of a fan, where redundant rays come to count
MOST_TURNS = 3  # of the source; more are degrees taken for radians
GRID = 64  # points along each axis at which the field of view is judged
ENDS = 32  # the ends of the detector are this part of it
RAW_CONTRAST = 1.25  # of raw transmission: what passes beside an object over what passes through it


def _binding() -> Any:
    """The launches of the projector, loaded at the first use: they compile kernels."""
    from ..bindings import projector

    return projector


class Tomography(Operator):
    """What the two geometries share: views, detector, kernels, norm, filtered back projection."""

    on_devices = True
    recordable = True
    residual_step = 0.03
    pace = Pace(6, 25)
    start_steps = 10  # from one, `fast` of 60 views of 256 x 256 ends 0.8 to 3.6 dB lower; from 5 0.03, from 15 equal

    def __init__(
        self, shape: tuple[int, int], angles: ArrayLike, detectors: int, detector_spacing: float, *,
        pixel_size: float, centre: float | None, norm: float | None,
    ):  # fmt: skip
        self.angles = _angles(angles)
        if int(detectors) != detectors or detectors < 1:
            raise InputError(f"detectors is {shown(detectors)}; expected how many cells the detector has, at least 1")
        self.detectors = int(detectors)
        self.detector_spacing = _length("detector_spacing", detector_spacing)
        self.pixel_size = _length("pixel_size", pixel_size)
        self.centre = (self.detectors - 1) / 2 if centre is None else float(centre)
        if not np.isfinite(self.centre):
            raise InputError(
                f"centre is {shown(centre)}; expected the detector cell, counted from 0, that faces the origin"
            )
        super().__init__(shape, (len(self.angles), self.detectors), norm=norm)

    averages = True
    likely_causes = (
        "are the angles those of the views, in the right unit and order, views and cells not exchanged, detector, "
        "centre and pixel size right, and the object within the image?"
    )
    below_black = "are they negated line integrals, or transmission, which needs -log(I / I0)?"

    @abstractmethod
    def _tables(self) -> Any:
        """Tables of bindings/projector.py."""

    @abstractmethod
    def _places(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Detector cells (views, points) at which points of the plane are seen."""

    @abstractmethod
    def _filtered(self, sinogram: FloatArray, filter: Filter) -> FloatArray:
        """A sinogram (B, V, K), filtered and weighted for `smear`."""

    @cached_property
    def _projector(self) -> Any:
        return _binding().CpuProjector(self._tables())

    @property
    def kept_bytes(self) -> int:
        """Tables of the projector: two numbers for each edge of a cell, and two for the cell."""
        return 4 * 4 * len(self.angles) * (self.detectors + 1)

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = self._projector_of(x).project(x)
        return result

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = self._projector_of(y).back_project(y)
        return result

    def _projector_of(self, array: Any) -> Any:
        """The kernels for arrays of the host, or those of the GPU that the array is on."""
        if on_host(array):
            return self._projector
        made = self.__dict__.setdefault("_copies", {})
        key = "projector", array.device.id
        if key not in made:
            from ..bindings.device import CupyDevice

            made[key] = _binding().CudaProjector(self._tables(), CupyDevice(array.device.id))
        return made[key]

    def _lots(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.random((len(self.angles), 1))

    @cached_property
    def norm(self) -> float:
        """||H||, from above: for x > 0 and H >= 0 no eigenvalue of H^T H exceeds max (H^T H x) / x (Collatz and
        Wielandt).
        """
        x, above, below = np.ones(self.shape_in, np.float32), math.inf, 0.0
        for _ in range(NORM_STEPS):
            image = self.normal(x)
            if image.max() <= 0:
                raise OperatorError(
                    f"{type(self).__name__}: no ray meets the image; look at centre, detectors and spacing"
                )
            seen = x > 1e-6 * x.max()
            above = min(above, float(np.max(image[seen] / x[seen])))
            below = max(below, float(np.vdot(x, image) / np.vdot(x, x)))
            if above < NORM_CLOSE * below:
                break
            x = np.maximum(image / image.max(), 0)
        return NORM_MARGIN * math.sqrt(above)

    def doubt(self, y: NDArray[Any]) -> str | None:
        """Raw transmission: rays at the ends of the detector, which objects hardly meet, have the largest values, and
        all about the same.

        Line integrals fall to zero there, also those of a pipe; those of an object that is wider than the detector are
        largest in the middle. Means over the views are compared, in which the noise of few photons is small.
        """
        side, quarter = -(-self.detectors // ENDS), self.detectors // 4
        profile = y.mean(axis=0, dtype=np.float64)
        ends = float(min(profile[:side].mean(), profile[-side:].mean()))
        middle = float(np.median(profile[quarter : self.detectors - quarter]))
        if not (ends > RAW_CONTRAST * max(middle, 0.0) and ends > profile.max() / RAW_CONTRAST > 0):
            return None
        return (
            f"is largest at the ends of the detector ({ends:.3g}; in the middle {middle:.3g}), as raw "
            "transmission is; pass line integrals, "
            "-log(I / I0)"
        )

    def fbp(self, sinogram: Any, filter: Filter = "ramp") -> NDArray[np.float32]:
        """Filtered back projection (..., H, W) of a sinogram (..., views, detectors), in image values.

        Views count by the angle they stand for; where views are missing for more than UNMEASURED times the usual
        distance nothing is made up, so a limited angle gives the partial image. filter: "ramp", or "hann" for less
        noise and less resolution. Raises InputError.
        """
        if filter not in ("ramp", "hann"):
            raise InputError(f"filter is {shown(filter)}; expected 'ramp' or 'hann'")
        array = self._checked("sinogram", sinogram, self.shape_out, np.float32)
        filtered = self._filtered(array.reshape(-1, *self.shape_out).astype(np.float64), filter)
        image: NDArray[np.float32] = self._projector.smear(filtered)
        return image.reshape(*array.shape[:-2], *self.shape_in)

    @cached_property
    def share_outside(self) -> float:
        """How much of the ellipse inscribed in the image lies beside the detector, as a mean over
        the views (0 to 1).
        """
        height, width = self.shape_in
        along = (np.arange(GRID) + 0.5) / GRID * 2 - 1
        x, y = (points.ravel() for points in np.meshgrid(along, along))
        inside = x**2 + y**2 <= 1
        places = self._places(x[inside] * width / 2 * self.pixel_size, y[inside] * height / 2 * self.pixel_size)
        return float(np.mean((places < -0.5) | (places > self.detectors - 0.5)))

    def _warn_if_truncated(self) -> None:
        if self.share_outside > 0.001:
            message = (
                f"the detector is too small to see the whole image: on average {100 * self.share_outside:.1f} % "
                "of the ellipse inscribed in the "
                f"image lies beside the {self.detectors} cells of {self.detector_spacing:g}; use more or wider "
                "detector cells, another "
                f"centre (is {self.centre:g}), or a smaller image (is {self.shape_in}, pixel_size {self.pixel_size:g})"
            )
            warn(message)


class ParallelBeamCT(Tomography):
    """Parallel rays. `detector_spacing` is in the unit of `pixel_size`: in pixels by default."""

    def __init__(
        self, shape: tuple[int, int], angles: ArrayLike, detectors: int, detector_spacing: float = 1.0, *,
        centre: float | None = None, pixel_size: float = 1.0, norm: float | None = None,
    ):  # fmt: skip
        """angles: radians. centre: the cell that faces the middle of the image, may be fractional.

        Raises InputError; warns where
        the detector does not see the ellipse inscribed in the image."""
        super().__init__(
            shape, angles, detectors, detector_spacing, pixel_size=pixel_size, centre=centre, norm=norm
        )  # fmt: skip
        self._warn_if_truncated()

    def _tables(self) -> Any:
        return _binding().parallel_tables(
            self.shape_in, self.angles, self.detectors,
            spacing=self.detector_spacing, centre=self.centre, pixel=self.pixel_size,
        )  # fmt: skip

    def _places(self, x: FloatArray, y: FloatArray) -> FloatArray:
        cos, sin = np.cos(self.angles)[:, None], np.sin(self.angles)[:, None]
        result: FloatArray = self.centre + (x * cos + y * sin) / self.detector_spacing
        return result

    def _filtered(self, sinogram: FloatArray, filter: Filter) -> FloatArray:
        widths, _ = _angular_widths(self.angles, np.pi)
        return widths[:, None] * _ramp_filter(sinogram, self.detector_spacing, filter)


class FanBeamCT(Tomography):
    """A fan of rays from a point source to a flat detector; lengths in the unit of `pixel_size`, such as mm."""

    def __init__(
        self, shape: tuple[int, int], angles: ArrayLike, detectors: int, detector_spacing: float,
        source_origin: float, source_detector: float, *,
        pixel_size: float = 1.0, centre: float | None = None, norm: float | None = None,
    ):  # fmt: skip
        """angles: radians, where the source turns. source_origin, source_detector: distances from the source to the
        axis of rotation and
        to the detector. Raises InputError; warns where the detector does not see the ellipse inscribed in the image."""
        super().__init__(
            shape, angles, detectors, detector_spacing, pixel_size=pixel_size, centre=centre, norm=norm
        )  # fmt: skip
        self.source_origin = _length("source_origin", source_origin)
        self.source_detector = _length("source_detector", source_detector)
        if self.source_detector <= self.source_origin:
            raise InputError(
                f"source_detector is {shown(source_detector)} and source_origin {shown(source_origin)}; expected "
                "the detector behind the axis of "
                "rotation: source_detector > source_origin"
            )
        tables = self._tables()
        if tables.clearance <= 0:
            raise InputError(
                f"source_origin is {shown(source_origin)}; expected a source outside the image at all angles: at least "
                f"{self.source_origin + (1 - tables.clearance) * 2**0.5 * self.pixel_size:.4g} for "
                f"{self.shape_in} pixels of {self.pixel_size:g}"
            )
        if tables.obliquity > STEEPEST:
            half = np.rad2deg(np.max(np.abs(self._fan_angles)))
            raise InputError(
                f"the fan opens {half:.1f} degrees to one side ({self.detectors} cells of {self.detector_spacing:g} at "
                f"{self.source_detector:g}); expected at most {np.rad2deg(STEEPEST) - 45:.0f}: fewer cells or a "
                "larger source_detector"
            )
        self._warn_if_truncated()

    @cached_property
    def _fan_angles(self) -> FloatArray:
        """Of the cells: 0 in the middle ray, positive towards e."""
        places = (np.arange(self.detectors) - self.centre) * self.detector_spacing
        result: FloatArray = np.arctan2(places, self.source_detector)
        return result

    def _tables(self) -> Any:
        return _binding().fan_tables(
            self.shape_in, self.angles, self.detectors,
            spacing=self.detector_spacing, centre=self.centre, pixel=self.pixel_size,
            source_origin=self.source_origin, source_detector=self.source_detector,
        )  # fmt: skip

    def _places(self, x: FloatArray, y: FloatArray) -> FloatArray:
        cos, sin = np.cos(self.angles)[:, None], np.sin(self.angles)[:, None]
        depth = self.source_origin - x * sin + y * cos
        result: FloatArray = self.centre + self.source_detector / self.detector_spacing * (x * cos + y * sin) / depth
        return result

    def _filtered(self, sinogram: FloatArray, filter: Filter) -> FloatArray:
        """As for a detector through the axis of rotation (Kak and Slaney 1988, section 3.4.2), with the weights of Noo,
        Defrise,
        Clackdoyle and Kudo (Physics in Medicine and Biology 47, 2002) for rays measured from both sides."""
        widths, missing = _angular_widths(self.angles, 2 * np.pi)
        cosine = np.cos(self._fan_angles)
        spacing = self.detector_spacing * self.source_origin / self.source_detector
        weighted = sinogram * cosine * self._redundancy(missing)
        return widths[:, None] * _ramp_filter(weighted, spacing, filter)

    def _redundancy(self, missing: list[tuple[float, float]]) -> FloatArray:
        """(V, K) weights that add up to one over the two measurements of a line, where there are two."""
        opposite = self.angles[:, None] + np.pi - 2 * self._fan_angles
        mirrored = 2 * self.centre - np.arange(self.detectors)
        on_detector = (mirrored > -0.5) & (mirrored < self.detectors - 0.5)
        own = np.maximum(_taper(self.angles, missing), 1e-6)[:, None]
        other = _taper(opposite, missing) * on_detector
        result: FloatArray = own / (own + other)
        return result


# ------------------------------------------------------------------------------------------------------------ the parts
def _angles(angles: ArrayLike) -> FloatArray:
    try:
        values = np.asarray(plain(angles), np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"angles is {shown(angles)}; expected a list of numbers, in radians") from error
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"angles has shape {values.shape}; expected a list of at least one angle in radians")
    if not np.all(np.isfinite(values)):
        where = int(np.argmin(np.isfinite(values)))
        raise InputError(f"angles[{where}] is {values[where]}; expected finite numbers, in radians")
    if np.ptp(values) > MOST_TURNS * 2 * np.pi:
        raise InputError(
            f"angles span {np.ptp(values):.4g} radians, {np.ptp(values) / (2 * np.pi):.0f} turns; if they are in "
            "degrees pass np.deg2rad(angles)"
        )
    return values


def _length(name: str, value: float) -> float:
    try:
        length = float(plain(value))
    except (TypeError, ValueError, RuntimeError):
        length = math.nan
    if not (math.isfinite(length) and length > 0):
        raise InputError(f"{name} is {shown(value)}; expected a positive length in the unit of pixel_size")
    return length


def _angular_widths(angles: FloatArray, period: float) -> tuple[FloatArray, list[tuple[float, float]]]:
    """The angle (V,) that each view stands for, half way to its neighbours, and the arcs (start, end) that were not
    measured.
    """
    places, number, count = np.unique(
        np.round(angles % period, 9) % np.round(period, 9), return_inverse=True, return_counts=True
    )
    gaps = np.diff(places, append=places[0] + period)
    usual = float(np.median(gaps))
    large = gaps > UNMEASURED * usual
    missing = [(float(places[i]), float(places[i] + gaps[i])) for i in np.flatnonzero(large)]
    gaps = np.where(large, usual, gaps)
    widths = (gaps + np.roll(gaps, 1)) / 2
    return (widths / count)[number.reshape(-1)], missing


def _taper(angles: FloatArray, missing: list[tuple[float, float]]) -> FloatArray:
    """0 in the arcs that were not measured, 1 away from them, a smooth step between."""
    value = np.ones(np.shape(angles))
    for start, end in missing:
        after, before = (angles - end) % (2 * np.pi), (start - angles) % (2 * np.pi)
        measured = (after + before) < 2 * np.pi - (end - start) + 1e-6  # else inside the arc
        distance = np.where(measured, np.minimum(after, before), 0)
        value *= np.sin(np.pi / 2 * np.minimum(distance / TAPER, 1)) ** 2
    return value


def _ramp_filter(sinogram: FloatArray, spacing: float, filter: Filter) -> FloatArray:
    """The band-limited ramp along the detector (Kak and Slaney, equation 3.61), by FFT with enough zeros."""
    from scipy import fft

    count = sinogram.shape[-1]
    length = fft.next_fast_len(2 * count, real=True)
    index = np.rint(fft.fftfreq(length) * length)
    odd = index % 2 == 1
    kernel = np.zeros(length)
    kernel[odd] = -1 / (np.pi * index[odd] * spacing) ** 2
    kernel[0] = 1 / (4 * spacing**2)
    response = spacing * fft.rfft(kernel).real
    if filter == "hann":
        response = response * (0.5 + 0.5 * np.cos(2 * np.pi * fft.rfftfreq(length)))
    result: FloatArray = fft.irfft(fft.rfft(sinogram, length) * response, length)[..., :count]
    return result


# ---------------------------------------------------------------------------------------------------------------- ASTRA
def astra_parallel(
    shape: tuple[int, int], angles: ArrayLike, detectors: int, detector_spacing: float = 1.0, *,
    centre: float | None = None, projector: str = "strip", norm: float | None = None,
) -> Operator:  # fmt: skip
    """The same geometry as ParallelBeamCT (pixel_size 1) by the ASTRA toolbox on the CPU, which has to be installed.

    projector: "strip", "linear" or "line", whose adjoints are exact.
    """
    return _AstraParallel(shape, angles, detectors, detector_spacing, centre, projector, norm)


class _AstraParallel(Operator):
    """ASTRA's CPU projectors as an operator."""

    def __init__(
        self, shape: tuple[int, int], angles: ArrayLike, detectors: int, spacing: float, centre: float | None,
        projector: str, norm: float | None,
    ):  # fmt: skip
        import astra

        values = _angles(angles)
        super().__init__(shape, (len(values), int(detectors)), norm=norm)
        cos, sin = np.cos(values), np.sin(values)
        middle = 0.0 if centre is None else ((detectors - 1) / 2 - centre) * spacing
        vectors = np.stack([-sin, cos, middle * cos, middle * sin, spacing * cos, spacing * sin], axis=1)
        geometry = astra.create_proj_geom("parallel_vec", int(detectors), vectors)
        self._operator = astra.OpTomo(
            astra.create_projector(projector, geometry, astra.create_vol_geom(*self.shape_in))
        )

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.stack([np.asarray(self._operator.FP(image)) for image in x])

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.stack([np.asarray(self._operator.BP(sinogram)) for sinogram in y])

    def _lots(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.random((self.shape_out[0], 1))
