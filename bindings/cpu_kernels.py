"""The CPU kernels, made ready before Numba is imported: whoever launches one gets it from here."""

from __future__ import annotations

from .cache import prepare_kernels

prepare_kernels()

# ruff: noqa: E402 - the first import of a kernel settles where its compiled form is kept
from numba import get_num_threads

from ..kernels.cpu import projector
from ..kernels.cpu.convolution import BINS, convolution, small_floats
from ..kernels.cpu.depthwise import depthwise
from ..kernels.cpu.features import features
from ..kernels.cpu.fft import SMALL_TILE, TILE
from ..kernels.cpu.filter_bank import analysis, anchored_step, dual_step, masked_norm, synthesis
from ..kernels.cpu.image import SUMS, gather_image, image_step, outer_sums, primal_sums, set_image
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
    "gather_image",
    "get_num_threads",
    "image_step",
    "masked_norm",
    "outer_sums",
    "primal_sums",
    "projector",
    "set_image",
    "small_floats",
    "synthesis",
    "work_floats",
]

if debugging():
    globals().update({name: checked(kernel) for name, kernel in globals().items() if is_kernel(kernel)})


DENOISING = {
    "analysis", "collapse_momentum", "dual_step", "image_step", "masked_norm", "outer_sums", "primal_sums", "set_image",
    "synthesis",
}  # fmt: skip
MASKS = {"safi": {"features", "convolution"}, "mmr": {"depthwise"}}
RECONSTRUCTION = {"anchored_step", "gather_image"}
PROJECTION = {"line_sums", "project", "view_sums", "back_project"}


def kernels_of(family: str) -> set[str]:
    """Names of the kernels that denoise with a mask of this family, with the default schedule."""
    return DENOISING | MASKS.get(family, set())
