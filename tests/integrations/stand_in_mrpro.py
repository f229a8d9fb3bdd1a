"""As much of MRpro as the bridge uses, for where it is not installed: its signatures are those of the real package.

`test_mrpro.py` holds both to signatures_mrpro.json. The Fourier operator is its definition, sums over pixels.
"""

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch


@dataclass
class SpatialDimension:
    z: Any
    y: Any
    x: Any


@dataclass
class KTrajectory:
    kz: Any
    ky: Any
    kx: Any
    grid_detection_tolerance: float = 1e-3
    repeat_detection_tolerance: Any = 1e-3


@dataclass
class KHeader:
    recon_matrix: SpatialDimension
    encoding_matrix: SpatialDimension
    recon_fov: SpatialDimension
    encoding_fov: SpatialDimension


@dataclass
class KData:
    header: KHeader
    data: Any
    traj: KTrajectory


@dataclass
class KNoise:
    data: Any


@dataclass
class IData:
    data: Any
    header: Any

    @classmethod
    def from_tensor_and_kheader(cls, data, header):
        return cls(data, header)


class CsmData(IData):
    @classmethod
    def from_idata_walsh(cls, idata, smoothing_width=5, chunk_size_otherdim=None, downsampled_size=None):
        """Of images whose coils differ slowly."""
        return cls(torch.nn.functional.normalize(idata.data, dim=-4), idata.header)

    def as_operator(self):
        return SensitivityOp(self)


class LinearOperator(torch.nn.Module):
    @property
    def H(self):  # noqa: N802
        return Adjoint(self)

    def __matmul__(self, other):
        return Product(self, other)


class Adjoint(LinearOperator):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, x):
        return self.operator.adjoint(x)


class Product(LinearOperator):
    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return self.left(*self.right(x))

    def adjoint(self, x):
        return self.right.adjoint(*self.left.adjoint(x))


class SensitivityOp(LinearOperator):
    def __init__(self, csm):
        super().__init__()
        self.register_buffer("csm_tensor", csm.data if isinstance(csm, CsmData) else csm)

    def forward(self, img):
        return (self.csm_tensor * img,)

    def adjoint(self, img):
        return ((self.csm_tensor.conj() * img).sum(-4, keepdim=True),)


class DensityCompensationOp(LinearOperator):
    def __init__(self, dcf):
        super().__init__()
        self.register_buffer("weights", dcf)

    def forward(self, x):
        return (self.weights * x,)

    adjoint = forward


class FourierOp(LinearOperator):
    """exp(-2 pi i k . r / encoding) / sqrt(encoding), r from the middle of the image, planes along z left alone."""

    def __init__(self, recon_matrix, encoding_matrix, traj):
        super().__init__()
        shape = torch.broadcast_shapes(traj.ky.shape, traj.kx.shape)
        angles = 0
        for k, side, encoded, spare in (
            (traj.ky, recon_matrix.y, encoding_matrix.y, (slice(None), None)),
            (traj.kx, recon_matrix.x, encoding_matrix.x, (None, slice(None))),
        ):
            places = (torch.arange(side) - side // 2)[spare]
            angles = angles + k.expand(shape)[..., None, None] * places / encoded
        self.register_buffer(
            "matrix", torch.exp(-2j * torch.pi * angles) / (encoding_matrix.y * encoding_matrix.x) ** 0.5
        )

    @classmethod
    def from_kdata(cls, kdata, recon_shape=None):
        return cls(recon_shape or kdata.header.recon_matrix, kdata.header.encoding_matrix, kdata.traj)

    def forward(self, x):
        self._fits(x)
        return (torch.einsum("...zkjyx,...zyx->...zkj", self.matrix, x),)

    def adjoint(self, x):
        self._fits(x)
        return (torch.einsum("...zkjyx,...zkj->...zyx", self.matrix.conj(), x),)

    def _fits(self, x):
        own = self.matrix.shape[0]
        if own > 1 and x.shape[0] != own:
            raise ValueError(f"{own} trajectories, {x.shape[0]} images")


class DirectReconstruction(torch.nn.Module):
    def __init__(self, kdata=None, fourier_op=None, csm=CsmData.from_idata_walsh, noise=None, dcf=None):
        super().__init__()
        if fourier_op is None and kdata is None:
            raise ValueError("Either kdata or fourier_op needs to be defined.")
        self.fourier_op = FourierOp.from_kdata(kdata) if fourier_op is None else fourier_op
        self.noise, self.dcf_op, self.csm_op = noise, dcf, None
        if isinstance(csm, CsmData | SensitivityOp) or csm is None:
            self.csm_op = csm.as_operator() if isinstance(csm, CsmData) else csm
        else:
            kdata = kdata if noise is None else prewhiten_kspace(kdata, noise)
            self.csm_op = csm(IData(self.fourier_op.adjoint(kdata.data)[0], kdata.header)).as_operator()


def prewhiten_kspace(kdata, knoise, scale_factor=1.0):
    """With the inverse of the Cholesky factor of the noise's covariance."""
    noise = knoise.data.movedim(-4, 0).flatten(1)
    factor = torch.linalg.cholesky(noise @ noise.conj().T / noise.shape[1])
    white = torch.linalg.solve_triangular(factor, kdata.data.flatten(-3), upper=False)
    return KData(kdata.header, white.reshape(kdata.data.shape), kdata.traj)


MODULES = {
    "mrpro": {},
    "mrpro.algorithms": {"prewhiten_kspace": prewhiten_kspace},
    "mrpro.algorithms.reconstruction": {"DirectReconstruction": DirectReconstruction},
    "mrpro.data": {
        "CsmData": CsmData, "IData": IData, "KData": KData, "KHeader": KHeader, "KNoise": KNoise,
        "KTrajectory": KTrajectory, "SpatialDimension": SpatialDimension,
    },
    "mrpro.operators": {
        "DensityCompensationOp": DensityCompensationOp, "FourierOp": FourierOp, "LinearOperator": LinearOperator,
        "SensitivityOp": SensitivityOp,
    },
}  # fmt: skip


def install(monkeypatch):
    """As the package mrpro."""
    for name, content in MODULES.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
    return sys.modules["mrpro"]
