"""Cartesian magnetic resonance imaging: FourierMRI with one coil, SenseMRI with several.

    one coil      y   = M . F x               coils      y_c = M . F (S_c . x),   c = 1 .. C

F is the orthonormal discrete Fourier transform, M the sampling mask (0 or 1), S_c the sensitivity of coil c.
Measurements lie on the full grid, zero where nothing was sampled. The order of k-space fixes the transform as well:

    kspace_order="fft"        y = fft2(x, norm="ortho"): frequency zero and the origin of the image at index (0, 0)
    kspace_order="centered"   y = fftshift(fft2(ifftshift(x), norm="ortho")): both at (H // 2, W // 2), as
                              BART, sigpy and fastMRI

H^T H = F^-1 M F does not depend on the order; along an axis on which the mask is constant F and F^-1 cancel, so that
lines of Cartesian sampling need one-dimensional transforms only. For real images the adjoint is Re(F^-1 M y), and the
Fourier multiplier of H^T H is (M(k) + M(-k)) / 2. Sensitivity encoding: Pruessmann et al., Magn. Reson. Med. 42, 1999.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..namespaces import on_host
from .base import Image, Operator, Pace, finite, numbers
from .fourier import centered_order, fft_order, forward, inverse, opposite, real_forward, real_inverse
from .sampling import (
    Order,
    check_energy,
    check_samples,
    in_fft_order,
    known_order,
    sampled_centre,
    sampling_mask,
    varied_axes,
)


class _CartesianMRI(Operator):
    """What one coil and several have in common: the mask, its order, and transforms of (..., H, W)."""

    on_devices = True
    recordable = True
    pace = Pace(4, 37)

    def __init__(
        self,
        mask: Any,
        coils: tuple[int, ...],
        mask_order: Order,
        kspace_order: Order | None,
        shape: tuple[int, int] | None,
        image: Image,
        norm: float | None,
        check_order: bool,
        check_mask: bool,
    ):
        self.mask_order = known_order("mask_order", mask_order)
        self.kspace_order = known_order("kspace_order", mask_order if kspace_order is None else kspace_order)
        self._check_order, self._check_mask = check_order, check_mask
        mask = sampling_mask(mask, self.mask_order, shape, check_order)
        super().__init__(mask.shape, (*coils, *mask.shape), image=image, complex=True, norm=norm)
        self._mask = mask.astype(np.float32)
        self._axes = varied_axes(mask)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) boolean, in the order of k-space."""
        mask = self._mask > 0
        return centered_order(mask) if self.kspace_order == "centered" else mask

    @property
    def likely_causes(self) -> str:  # type: ignore[override]
        """See `Operator`."""
        return "has the image a phase? then pass image='complex'" if self.image == "real" else Operator.likely_causes

    def check_measurement(self, y: Any) -> NDArray[Any]:
        """y (..., *shape_out) complex64, zero where the mask is.

        Raises InputError for a wrong shape, NaN or infinity, and k-space in the other order than said. `reconstruct`
        also refuses what does not fit the mask.
        """
        kspace = super().check_measurement(y)
        if self._check_order:
            check_energy("measurement", kspace, self.kspace_order)
        return kspace * self.mask

    def _check_own(self, y: Any) -> None:
        if not self._check_mask:
            return
        kspace = super().check_measurement(y)
        for one in kspace.reshape(-1, *self.shape_out):
            check_samples(
                "measurement", one, self.mask, leaves_out=False, advice="pass check_mask=False if it is meant so"
            )

    def _lots(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Of samples, in the order of k-space. Those of frequencies k and -k tell the same of a real image."""
        lots = rng.random(self.shape_in)
        if self.image == "real":
            lots = np.minimum(lots, opposite(lots))
        lots[(self._mask == 0) | sampled_centre(self._mask > 0)] = np.inf
        return self._origin_back(lots)

    def _origin_first(self, x: NDArray[Any]) -> NDArray[Any]:
        return fft_order(x) if self.kspace_order == "centered" else x

    def _origin_back(self, x: NDArray[Any]) -> NDArray[Any]:
        return centered_order(x) if self.kspace_order == "centered" else x

    def _sampled(self, x: NDArray[Any]) -> NDArray[Any]:
        """M F x; x with its origin first, k-space in its order."""
        kspace = forward(x)
        kspace *= self._here("_mask", x)
        return self._origin_back(kspace)

    def _back(self, y: NDArray[Any]) -> NDArray[Any]:
        """F^-1 M y, with the origin first."""
        return inverse(in_fft_order(y, self.kspace_order) * self._here("_mask", y), overwrite=True)

    def _projected(self, x: NDArray[Any]) -> NDArray[Any]:
        """F^-1 M F x."""
        if not self._axes:
            return x
        kspace = forward(x, self._axes)
        kspace *= self._here("_mask", x)
        return inverse(kspace, self._axes, overwrite=True)


class FourierMRI(_CartesianMRI):
    """y = M . F x. Images (H, W), real or complex; measurements (H, W), complex, zero where nothing was sampled."""

    def __init__(
        self,
        mask: Any,
        *,
        mask_order: Order,
        kspace_order: Order | None = None,
        shape: tuple[int, int] | None = None,
        image: Image = "real",
        norm: float | None = None,
        check_order: bool = True,
        check_mask: bool = True,
    ):
        """mask: (H, W), boolean or of 0 and 1; with `shape` also (H, 1) or (1, W). mask_order: "centered" or "fft".
        kspace_order: that of the measurements, and so of the transform; None: the mask's. check_order: refuse a mask
        whose densely sampled region, or k-space whose energy, lies where the other order has its low frequencies.
        check_mask: have `reconstruct` refuse measurements that are not zero where the mask is, or exactly zero in more
        than 2 % of the samples that it keeps.

        Raises InputError, OperatorError for a mask without a sample.
        """
        super().__init__(mask, (), mask_order, kspace_order, shape, image, norm, check_order, check_mask)
        if self.image == "real":
            self._half = self.spectrum[:, : self.shape_in[1] // 2 + 1]

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._sampled(self._origin_first(x))

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._origin_back(self._back(y))

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        if self.image == "complex":
            return self._projected(x)
        product = real_forward(x)
        product *= self._here("_half", x)
        return real_inverse(product, self.shape_in, overwrite=True)

    def _without(self, lost: NDArray[np.bool_]) -> Operator:
        return FourierMRI(
            self.mask & ~lost, mask_order=self.kspace_order, image=self.image, norm=self.norm, check_order=False,
            check_mask=False
        )  # fmt: skip

    @cached_property
    def spectrum(self) -> NDArray[np.float32]:
        """(H, W) in FFT order: M(k), or (M(k) + M(-k)) / 2 for real images."""
        mask: NDArray[np.float32] = self._mask
        if self.image == "complex":
            return mask
        return np.asarray((mask + opposite(mask)) / 2, np.float32)

    @cached_property
    def norm(self) -> float:
        """||H||, the root of the largest value of `spectrum`."""
        return float(np.sqrt(self.spectrum.max()))


class SenseMRI(_CartesianMRI):
    """y_c = M . F (S_c . x).

    Images (H, W), complex or real; measurements (C, H, W), complex, zero where nothing was sampled.
    """

    def __init__(
        self,
        maps: Any,
        mask: Any,
        *,
        mask_order: Order,
        kspace_order: Order | None = None,
        image: Image = "complex",
        norm: float | None = None,
        check_order: bool = True,
        check_mask: bool = True,
    ):
        """maps: (C, H, W) coil sensitivities as images, see `estimate_maps`.

        Others as in FourierMRI; the mask also (H, 1) or (1, W).

        Raises InputError, also for a coil whose map is zero; OperatorError for a mask without a sample.
        """
        maps = coil_maps(maps)
        super().__init__(
            mask, maps.shape[:1], mask_order, kspace_order, maps.shape[1:], image, norm, check_order, check_mask
        )
        self.maps = maps
        self._maps = np.ascontiguousarray(self._origin_first(maps))
        self._conjugate = self._maps.conj()

    @property
    def likely_causes(self) -> str:  # type: ignore[override]
        """See `Operator`."""
        maps = (
            "are the maps of this scan, in the order of the coils, in that of k-space (centered or fft), "
            "and not conjugated?"
        )
        return f"{maps} Or {super().likely_causes}" if self.image == "real" else maps

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        x = self._origin_first(x)
        maps = self._here("_maps", x)
        if not on_host(x):
            return self._sampled(maps * x[:, None])
        return np.stack([self._sampled(maps * image) for image in x])

    def _adjoint(self, y: NDArray[Any]) -> NDArray[Any]:
        if not on_host(y):
            return self._origin_back(self._combined(self._back(y)))
        return self._origin_back(np.stack([self._combined(self._back(coils)) for coils in y]))

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        x = self._origin_first(x)
        if not on_host(x):
            return self._origin_back(self._combined(self._projected(self._here("_maps", x) * x[:, None])))
        return self._origin_back(np.stack([self._combined(self._projected(self._maps * image)) for image in x]))

    def _without(self, lost: NDArray[np.bool_]) -> Operator:
        return SenseMRI(
            self.maps, self.mask & ~lost[0], mask_order=self.kspace_order, image=self.image, norm=self.norm,
            check_order=False,
            check_mask=False,
        )  # fmt: skip

    def _combined(self, coils: NDArray[Any]) -> NDArray[Any]:
        """(C, H, W) to (H, W), also (B, C, H, W) to (B, H, W) on a device."""
        if not on_host(coils):
            return (self._here("_conjugate", coils) * coils).sum(axis=-3)  # type: ignore[no-any-return]
        return np.asarray(np.einsum("chw,chw->hw", self._conjugate, coils))

    def _norm_bound(self) -> float:
        """max over pixels of sqrt(sum over c |S_c|^2): 1 for normalised maps, reached where the mask lets a smooth
        image through.
        """
        return float(np.sqrt((np.abs(self.maps.astype(np.complex128)) ** 2).sum(0).max()))


def coil_maps(maps: Any) -> NDArray[np.complex64]:
    """The argument `maps` as complex64 (C, H, W). Raises InputError."""
    array = numbers("maps", maps)
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"maps has shape {array.shape}; expected (C, H, W), one map per coil")
    finite("maps", array)
    for coil, one in enumerate(array):
        if not one.any():
            raise InputError(f"maps[{coil}] is zero everywhere; leave this coil out of maps and measurements")
    return array.astype(np.complex64)
