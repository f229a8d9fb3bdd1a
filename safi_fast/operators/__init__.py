"""Forward operators H: images in, measurements out, each with its exact adjoint and its norm.

    operator = FourierMRI(mask, mask_order="centered")
    zero_filled = operator.adjoint(kspace)

Operators of other libraries come in through `from_scipy`, `from_sigpy`, `from_pylops`, `from_deepinv`, `from_mrpro`,
plain functions through `from_functions`; `check_operator` tells whether adjoint and norm are right.
"""

from __future__ import annotations

from .adapters import from_deepinv, from_functions, from_mrpro, from_pylops, from_scipy, from_sigpy
from .base import Operator, Pace
from .blur import Blur
from .checks import check_adjoint, check_norm, check_operator
from .ct import FanBeamCT, ParallelBeamCT, astra_parallel
from .downsample import Downsample
from .identity import Identity
from .maps import estimate_maps
from .mask import Mask
from .mri import FourierMRI, SenseMRI
from .noncartesian import NonCartesianMRI, density_weights
from .trajectories import radial, spiral
from .weighted import Weighted, emission, transmission

__all__ = [
    "Blur",
    "Downsample",
    "FanBeamCT",
    "FourierMRI",
    "Identity",
    "Mask",
    "NonCartesianMRI",
    "Operator",
    "Pace",
    "ParallelBeamCT",
    "SenseMRI",
    "Weighted",
    "astra_parallel",
    "check_adjoint",
    "check_norm",
    "check_operator",
    "density_weights",
    "emission",
    "estimate_maps",
    "from_deepinv",
    "from_functions",
    "from_mrpro",
    "from_pylops",
    "from_scipy",
    "from_sigpy",
    "radial",
    "spiral",
    "transmission",
]
