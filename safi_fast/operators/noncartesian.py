"""Magnetic resonance imaging off the Cartesian grid: spokes, spirals, any trajectory; one coil or several.

    y_cj = sum over pixels r of S_c(r) x(r) exp(-2 pi i k_j . r / (H, W)) / sqrt(H W)

k_j is the trajectory in cycles per field of view (trajectories.py), r counts from pixel (H // 2, W // 2), S_c is the
sensitivity of coil c, 1 where there are no maps. At whole k_j this is FourierMRI and SenseMRI in "centered" order.

Noise of k-space is white, so that ||H x - y||^2 is its likelihood and the solver needs no density compensation. It is
an option: `Weighted(operator, density_weights(...))` solves 1/2 sum w |H x - y|^2, and H^T w y is the gridded image.
Weights change what is solved: dense samples count for less than they know.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from .base import Image, Operator, Pace, image_shape
from .mri import coil_maps
from .nufft import Toeplitz, require_finufft, sampled, spread
from .trajectories import trajectory_of

STEPS = 30  # of Pipe and Menon's iteration


class NonCartesianMRI(Operator):
    """y_c = F (S_c . x), F the Fourier transform at the frequencies of a trajectory.

    Images (H, W), complex or real; measurements complex, (*trajectory.shape[:-1]), with maps (C, ...). On the CPU, by
    finufft; H^T H by transforms on a grid of twice the size.
    """

    residual_step = 0.03
    pace = Pace(4, 37)
    start_steps = 10

    def __init__(
        self,
        trajectory: Any,
        shape: tuple[int, int],
        maps: Any = None,
        *,
        image: Image = "complex",
        norm: float | None = None,
    ):
        """trajectory: (..., 2) in cycles per field of view, such as (spokes, samples, 2); the last axis is (along rows'
        axis 0, along columns' axis 1), up to (H / 2, W / 2). shape: (H, W). maps: (C, H, W) coil sensitivities as
        images. image: "complex", for which `reconstruct` has box=None, or "real".

        Raises InputError, also for a trajectory in other units; BackendError without finufft.
        """
        require_finufft()
        size = image_shape("shape", shape)
        places = trajectory_of(trajectory, size)
        self.maps = None if maps is None else coil_maps(maps)
        if self.maps is not None and self.maps.shape[1:] != size:
            raise InputError(f"maps has shape {self.maps.shape}; expected (C, {size[0]}, {size[1]}), as shape")
        coils = () if self.maps is None else self.maps.shape[:1]
        super().__init__(size, (*coils, *places.shape[:-1]), image=image, complex=True, norm=norm)
        self.trajectory = places
        self._phases = np.ascontiguousarray((2 * np.pi * places.reshape(-1, 2) / size).T)

    @property
    def likely_causes(self) -> str:  # type: ignore[override]
        """See `Operator`."""
        causes = "is the trajectory that of these samples, in their order, with rows first, and not turned or mirrored?"
        return f"{causes} Or has the image a phase? then pass image='complex'" if self.image == "real" else causes

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        seen = x[:, None] if self.maps is None else x[:, None] * self.maps
        flat = sampled(seen.reshape(-1, *self.shape_in), self._phases).astype(np.complex64)
        return flat.reshape(len(x), *self.shape_out)

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        images = spread(y.reshape(-1, self._phases.shape[1]), self._phases, self.shape_in)
        return self._combined(images.astype(np.complex64), len(y))

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._through(self._gram, x)

    def _weighted_normal(self, weights: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        if self.maps is not None and (weights != weights[:1]).any():
            return None
        of_samples = weights if self.maps is None else weights[0]
        gram = Toeplitz.of(self._phases, of_samples.ravel().astype(np.float64), self.shape_in)
        return partial(self._through, gram)

    def _through(self, gram: Toeplitz, x: NDArray[Any]) -> NDArray[Any]:
        if self.maps is None:
            return gram(x)
        return self._combined(gram((x[:, None] * self.maps).reshape(-1, *self.shape_in)), len(x))

    def _combined(self, images: NDArray[Any], count: int) -> NDArray[Any]:
        """(B C, H, W) of the coils to (B, H, W)."""
        if self.maps is None:
            return images
        coils = images.reshape(count, *self.maps.shape)
        return np.asarray(np.einsum("chw,bchw->bhw", self.maps.conj(), coils))

    @cached_property
    def _gram(self) -> Toeplitz:
        return Toeplitz.of(self._phases, np.ones(self._phases.shape[1]), self.shape_in)

    @property
    def kept_bytes(self) -> int:
        """The multiplier of H^T H."""
        return 16 * int(np.prod(self.shape_in))

    def _lots(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Of samples, in all coils at once."""
        return rng.random(self.trajectory.shape[:-1])


def density_weights(
    trajectory: Any, shape: tuple[int, int], *, method: str = "pipe-menon", steps: int = STEPS
) -> NDArray[np.float32]:
    """Weights of mean one, (*trajectory.shape[:-1]), that make up for the density of the samples.

    "pipe-menon": w <- w / |K w|, `steps` times from one (Pipe and Menon, Magn. Reson. Med. 41, 1999), K_ij the
    transform of a triangle of twice the field of view at k_i - k_j, which is nowhere negative: for any trajectory.
    "ramp": |k|, and a quarter of a sample in the middle, the areas that samples of full spokes have: for spokes through
    the middle, evenly spread. Raises InputError, BackendError.
    """
    size = image_shape("shape", shape)
    places = trajectory_of(trajectory, size)
    if method not in ("pipe-menon", "ramp"):
        raise InputError(f"method is {shown(method)}; expected 'pipe-menon' or 'ramp'")
    weights = _ramp(places) if method == "ramp" else _pipe_menon(places, size, steps)
    return np.asarray(weights / weights.mean(), np.float32).reshape(places.shape[:-1])


def _ramp(places: NDArray[np.float64]) -> NDArray[np.float64]:
    radius = np.linalg.norm(places, axis=-1)
    apart = np.linalg.norm(np.diff(places, axis=-2), axis=-1)
    if not (apart > 0).any():
        raise InputError(f"trajectory has shape {places.shape}, without two samples of a spoke; expected (..., n, 2)")
    return np.asarray(np.maximum(radius, apart[apart > 0].min() / 4))


def _pipe_menon(places: NDArray[np.float64], size: tuple[int, int], steps: int) -> NDArray[np.float64]:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise InputError(f"steps is {shown(steps)}; expected a whole number of at least 1")
    phases = np.ascontiguousarray((2 * np.pi * places.reshape(-1, 2) / size).T)
    twice = (2 * size[0], 2 * size[1])
    triangles = [1 - np.abs(np.arange(side) - side // 2) / (side // 2) for side in twice]
    window = np.outer(*triangles)
    weights = np.ones(phases.shape[1])
    for _ in range(steps):
        blurred = sampled(spread(weights[None], phases, twice) * window, phases)[0]
        weights /= np.abs(blurred)
    return weights
