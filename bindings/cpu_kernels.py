"""The CPU kernels, made ready before Numba is imported: whoever launches one gets it from here."""

from __future__ import annotations

from .cache import prepare_kernels

prepare_kernels()

# ruff: noqa: E402 - the first import of a kernel settles where its compiled form is kept
from numba import get_num_threads

from ..kernels.cpu import projector
from ..kernels.cpu.arguments import GEOMETRIES, Geometry
from ..kernels.cpu.convolution import BINS, convolution, small_floats
from ..kernels.cpu.depthwise import depthwise
from ..kernels.cpu.features import features
from ..kernels.cpu.features_gradient import features_gradient
from ..kernels.cpu.fft import SMALL_TILE, TILE
from ..kernels.cpu.filter_bank import analysis, anchored_step, dual_step, masked_norm, recorded_step, synthesis
from ..kernels.cpu.filter_bank_gradient import start_gradient, step_gradient
from ..kernels.cpu.image import SUMS, gather_image, image_step, outer_sums, primal_sums, set_image
from ..kernels.cpu.image_gradient import image_gradient
from ..kernels.cpu.spline_layer import spline_layer, spline_layer_gradient
from ..kernels.cpu.state import collapse_momentum
from ..kernels.cpu.tile import GROUP, extra_floats, work_floats
from .aligned import checked, debugging, is_kernel

__all__ = [
    "BINS",
    "GROUP",
    "SMALL_TILE",
    "SUMS",
    "TILE",
    "analysis",
    "anchored_step",
    "collapse_momentum",
    "convolution",
    "depthwise",
    "dual_step",
    "extra_floats",
    "features",
    "features_gradient",
    "gather_image",
    "get_num_threads",
    "image_gradient",
    "image_step",
    "masked_norm",
    "outer_sums",
    "primal_sums",
    "projector",
    "recorded_step",
    "set_image",
    "small_floats",
    "spline_layer",
    "spline_layer_gradient",
    "start_gradient",
    "step_gradient",
    "synthesis",
    "work_floats",
]

if debugging():
    globals().update({name: checked(kernel) for name, kernel in globals().items() if is_kernel(kernel)})


DENOISING = {
    "analysis", "dual_step", "image_step", "masked_norm", "outer_sums", "primal_sums", "set_image",
    "synthesis",
}  # fmt: skip
FEATURES = {"safi": {"features"}}
MASKS = {"safi": {"convolution"}, "mmr": {"depthwise"}}  # which do not see the image
RECONSTRUCTION = {"anchored_step", "gather_image"}
PROJECTION = {"line_sums", "project", "view_sums", "back_project"}

# A kernel by its name, and of the class of Geometry that it is compiled for; "" where it takes none.
Kind = tuple[str, str]


def kernels_of(family: str, planes: int) -> set[Kind]:
    """The kernels that denoise images of so many planes with a mask of this family, with the default schedule."""
    own = GEOMETRIES[planes].__name__
    found = {(name, own) for name in DENOISING | FEATURES.get(family, set())}
    return found | {(name, Geometry.__name__) for name in MASKS.get(family, set()) | {"collapse_momentum"}}


def other_kernels(planes: int) -> set[Kind]:
    """Those of reconstruction of so many planes and of computed tomography beside them."""
    return {(name, GEOMETRIES[planes].__name__) for name in RECONSTRUCTION} | {(name, "") for name in PROJECTION}
