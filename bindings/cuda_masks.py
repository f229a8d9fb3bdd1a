"""The mask generators on a device: launches of one workspace, from its accepted images to its M."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .cuda_weights import MmrWeights, SafiWeights

if TYPE_CHECKING:
    from .cuda_workspace import CudaWorkspace

Active = NDArray[np.int64]


def make(workspace: CudaWorkspace, active: Active) -> None:
    """M of these images, with the conditioning that is there; the spare slot of u is scratch."""
    mask = workspace.weights.mask
    if isinstance(mask, SafiWeights):
        _safi(workspace, active, mask)
    else:
        _mmr(workspace, active, mask)


def _safi(workspace: CudaWorkspace, active: Active, mask: SafiWeights) -> None:
    first, *others = mask.layers
    scratch = workspace.dual, workspace._numbers(1 - workspace.host_slot)
    places = [(workspace.mask, workspace.first_slot), scratch] * (len(others) + 1)
    places = places[len(others) % 2 :]  # so that the last layer writes the mask
    workspace._launch(
        "features", "features", active, workspace._accepted(), workspace.image_slots, first.weights, workspace.gains,
        mask.splines[0].struct, *places[0], options=first.options,
    )  # fmt: skip
    for i, layer in enumerate(others):
        workspace._launch(
            "convolution", "convolution", active, *places[i], *places[i + 1], mask.symmetric, layer.weights,
            mask.splines[i + 1].struct, workspace.biases, options=layer.options, size=layer.size,
        )  # fmt: skip


def _mmr(workspace: CudaWorkspace, active: Active, mask: MmrWeights) -> None:
    workspace._analyse(active, workspace.mask, workspace.first_slot, magnitude=True)
    places = [(workspace.mask, workspace.first_slot), (workspace.dual, workspace._numbers(1 - workspace.host_slot))]
    chain = [(*layer, False) for layer in mask.layers] + [(*layer, True) for layer in reversed(mask.layers)]
    for number, (taps, option, adjoint) in enumerate(chain):
        profiled = number == len(mask.layers) - 1
        workspace._launch(
            "depthwise", "depthwise", active, *places[0], *places[1], taps, np.int32(adjoint), mask.symmetric,
            np.int32(profiled), workspace.gains, mask.profile.struct, options=(option,),
        )  # fmt: skip
        places.reverse()
