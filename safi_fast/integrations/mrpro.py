"""SAFI for MRpro: a reconstruction beside its own, and a denoiser of its images.

    from safi_fast.integrations.mrpro import SafiDenoise, SafiReconstruction

    idata = SafiReconstruction(kdata, csm=csm, strength=1e-3)(kdata)
    idata = SafiDenoise(sigma)(idata)

Images are complex, of 2-D slices: (*other, coils, 1, y, x), each slice for itself. Results lie where the input does and
have no gradient. Written for MRpro 0.26.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from mrpro.algorithms import prewhiten_kspace
from mrpro.algorithms.reconstruction import DirectReconstruction
from mrpro.data import CsmData, IData

from .. import api
from ..arrays import positive
from ..errors import InputError, shown
from ..model import Model
from ..models import resolve
from ..noise_level import ESTIMATE
from .acquisition import acquisition, white

__all__ = ["SafiDenoise", "SafiReconstruction"]


class SafiReconstruction(DirectReconstruction):
    """`safi_fast.reconstruct` as a reconstruction of MRpro.

    Each slice is min over complex x of 1/2 ||A x - y||^2 + strength ||M . W x||_1 with A = fourier_op @ csm_op, and
    ends by its own certificate. Without maps every coil is an image. A becomes an operator of safi_fast where it is the
    same map, and otherwise is called (see safi_fast/integrations/acquisition.py). `solution` is the Solution of the
    last call, a batch of all slices, and `operators` what it was solved with.
    """

    def __init__(
        self,
        kdata: Any = None,
        fourier_op: Any = None,
        csm: Any = CsmData.from_idata_walsh,
        noise: Any = None,
        dcf: Any = None,
        *,
        strength: Any,
        model: Model | str | PathLike[str] | None = None,
        backend: str = "auto",
        **options: Any,
    ):
        """kdata, fourier_op, csm, noise, dcf: as for DirectReconstruction; dcf serves to estimate maps and to find the
        scale, not in ||A x - y||. strength: lambda > 0 for images whose brightest pixels are about 1. Others as for
        `safi_fast.reconstruct`. data_range, the magnitude of these pixels in the units of k-space, is found in every
        call unless it is passed: the 99.9 % quantile of the direct reconstruction, fitted to k-space by one factor. So
        strength does not depend on units.

        Raises InputError, ModelError, and ValueError as MRpro does.
        """
        super().__init__(kdata, fourier_op, csm, noise, dcf)
        self.strength = positive("strength", strength)
        self.model = resolve(model)
        self.backend, self.options = backend, options
        self.solution: Any = None
        self.operators: list[Any] = []

    def forward(self, kdata: Any) -> Any:
        """Reconstruct the slices.

        Parameters
        ----------
        kdata : mrpro.data.KData
            Of 2-D slices in its `other` axes; data (*other, coils, k2, k1, k0).

        Returns
        -------
        mrpro.data.IData
            data (*other, 1, 1, y, x), without maps (*other, coils, 1, y, x), in the units of k-space.

        Raises
        ------
        InputError, OperatorError, SolverError
            As `safi_fast.reconstruct`; InputError also for volumes, and for a fourier_op of each slice that is not that
            of the trajectory of `kdata`.
        """
        if self.noise is not None:
            kdata = prewhiten_kspace(kdata, self.noise)
        with torch.no_grad():
            found = acquisition(self.fourier_op, self.csm_op, self.dcf_op, kdata)
            options = {"box": None, "data_range": found.white, **self.options}
            self.operators = found.operators
            self.solution = api.reconstruct(
                found.measured, found.operators[0] if len(found.operators) == 1 else found.operators,
                strength=self.strength, model=self.model, backend=self.backend, **options,
            )  # fmt: skip
            image = self.solution.image.reshape(found.shape).to(kdata.data.device)
        return IData.from_tensor_and_kheader(image, kdata.header)


class SafiDenoise:
    """Remove white Gaussian noise of one strength from images of MRpro.

    Every plane is an image of its own, and so are real and imaginary part; an imaginary part that is zero stays.
    Nothing is clipped. White is the 99.9 % quantile of the magnitude unless `data_range` is passed.
    """

    def __init__(
        self, sigma: float | str = ESTIMATE, *, model: Model | str | PathLike[str] | None = None, **options: Any
    ):
        """sigma: standard deviation of the noise in each of real and imaginary part, in the units of the image, or
        "estimate", in each plane. model, options: as for `safi_fast.denoise`.

        Raises InputError for a text other than "estimate", ModelError.
        """
        if isinstance(sigma, str) and sigma != ESTIMATE:
            raise InputError(f"sigma is {shown(sigma)}; expected a number or {ESTIMATE!r}")
        self.sigma, self.model, self.options = sigma, resolve(model), options

    def __call__(self, idata: Any) -> Any:
        """An IData with its data (*other, coils, z, y, x) denoised, and its header. Raises InputError."""
        if not isinstance(idata, IData):
            raise InputError(f"idata is {type(idata).__name__}; expected an IData of mrpro")
        image = idata.data.detach()
        shape, is_complex = image.shape, image.is_complex()
        parts = [image.real, image.imag] if is_complex and bool(image.imag.any()) else [image.real]
        options = {"box": None, "data_range": white(image), **self.options}
        planes = torch.stack(parts).float().reshape(-1, *shape[-2:])
        made = api.denoise(planes, self.sigma, model=self.model, **options).reshape(len(parts), *shape)
        if is_complex:
            made = torch.complex(made[0], made[1] if len(parts) == 2 else torch.zeros_like(made[0]))[None]
        return IData(data=made[0].to(image.dtype), header=idata.header)
