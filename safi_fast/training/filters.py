"""The filter bank W and its adjoint in torch, on images of one size, for two ways to continue an image.

"symmetric" is what the engine does with the models of this package: half-sample reflection, whose adjoint folds the
extension back. "circular" is for training on patches: W is diagonal in Fourier there, so ||W|| is exact and nothing is
padded.

Both apply W as a convolution (for several planes on the CPU through FFTs) and W^T through FFTs: the fastest for each on
two cores.
"""

from typing import Any

import torch
from torch.nn import functional

from ..errors import InputError, shown
from .spectral import FilterSpectra

BOUNDARIES = ("circular", "symmetric")
NORM_GRID = 72  # pixels; side of the periodic grid on which ||W|| is taken
SQUARINGS = 18  # of matrices whose largest eigenvalue is sought: relative error at most 1 / (e 2^18)


def compose(layers: Any) -> torch.Tensor:
    """A cascade of cross-correlations (C, P, k, k), (C, C, k, k), ... as one kernel per channel and plane:
    (C, P, K, K).
    """
    first, *rest = layers
    filters: torch.Tensor = first
    for layer in rest:
        reach = layer.shape[-1] - 1
        wide = functional.pad(filters, (reach,) * 4).transpose(0, 1)
        filters = functional.conv2d(wide, layer.flip(2, 3)).transpose(0, 1)
    return filters


def squared_norm(filters: torch.Tensor) -> torch.Tensor:
    """||W||^2 on a periodic grid of NORM_GRID x NORM_GRID, a scalar: the largest eigenvalue, over the frequencies, of
    the P x P matrix with entries sum over c of conj(w_cp) w_cq; for one plane that is the sum of |w_c|^2.
    """
    spectra = torch.fft.rfft2(filters, s=(NORM_GRID, NORM_GRID))
    if filters.shape[1] == 1:
        return (spectra.real.square() + spectra.imag.square())[:, 0].sum(0).amax()
    by_frequency = spectra.flatten(2).permute(2, 1, 0)
    return _largest_eigenvalue(by_frequency.conj() @ by_frequency.transpose(1, 2)).amax()


def _largest_eigenvalue(matrices: torch.Tensor) -> torch.Tensor:
    """Of Hermitian non-negative (N, P, P), by squaring them: to 1e-6, without a wait for the device."""

    def trace(m: torch.Tensor) -> torch.Tensor:
        return m.diagonal(dim1=1, dim2=2).real.sum(1)

    tiny = torch.finfo(matrices.real.dtype).tiny
    power = matrices
    for _ in range(SQUARINGS):
        power = power / trace(power).clamp(min=tiny)[:, None, None]
        power = power @ power
    return trace(matrices @ power) / trace(power).clamp(min=tiny)


class FilterOperator:
    """W for images of `shape` (H, W) with P planes; filters (C, P, K, K), K odd, cross-correlation. Raises InputError.

    spectra: of the filters, on `grid`.
    """

    def __init__(self, filters: torch.Tensor, shape: tuple[int, int], boundary: str = "circular"):
        if boundary not in BOUNDARIES:
            raise InputError(f"boundary is {shown(boundary)}; expected one of {', '.join(BOUNDARIES)}")
        support = filters.shape[-1]
        if min(shape) < support:
            raise InputError(f"shape is {shape}; expected at least {support} x {support}, the support of the filters")
        self.filters, self.shape, self.boundary = filters, shape, boundary
        self.reach = support // 2
        margin = 0 if boundary == "circular" else 2 * self.reach
        self.grid = (shape[0] + margin, shape[1] + margin)
        placed = functional.pad(filters.transpose(0, 1), (0, self.grid[1] - support, 0, self.grid[0] - support))
        if boundary == "circular":
            placed = placed.roll((-self.reach, -self.reach), (2, 3))
        self.spectra = FilterSpectra(torch.fft.rfft2(placed), self.grid)

    def analysis(self, x: torch.Tensor) -> torch.Tensor:
        """W x: (B, P, H, W) -> (B, C, H, W)."""
        made = self.spectra.analysis(x) if self.boundary == "circular" else None
        return functional.conv2d(extend(x, self.reach, self.boundary), self.filters) if made is None else made

    def synthesis(self, w: torch.Tensor) -> torch.Tensor:
        """W^T w: (B, C, H, W) -> (B, P, H, W)."""
        return self.synthesis_of(torch.fft.rfft2(w, s=self.grid))

    def synthesis_of(self, spectra: torch.Tensor) -> torch.Tensor:
        """W^T w from the spectra of w on `grid`: complex (B, C, rows, columns) -> (B, P, H, W)."""
        image = self.spectra.adjoint(spectra)
        return image if self.boundary == "circular" else fold(image, self.reach)


def extend(x: torch.Tensor, reach: int, boundary: str) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, H + 2 reach, W + 2 reach)."""
    if boundary == "circular":
        return functional.pad(x, (reach,) * 4, mode="circular")
    rows, columns = (_reflected(n, reach, x.device) for n in x.shape[-2:])
    return x[..., rows[:, None], columns]


def fold(x: torch.Tensor, reach: int) -> torch.Tensor:
    """The adjoint of the symmetric `extend`: every sample of the frame is added to the one it was copied from."""
    for axis in (-2, -1):
        size = x.shape[axis] - 2 * reach
        shape = list(x.shape)
        shape[axis] = size
        x = x.new_zeros(shape).index_add(axis, _reflected(size, reach, x.device), x)
    return x


def _reflected(size: int, reach: int, device: torch.device) -> torch.Tensor:
    """Which sample stands at -reach .. size + reach - 1 under half-sample reflection; needs reach <= size."""
    place = torch.arange(-reach, size + reach, device=device)
    place = torch.where(place < 0, -1 - place, place)
    return torch.where(place >= size, 2 * size - 1 - place, place)
