"""Sums of spectra in training: over channels for W^T, over planes for W, over a batch for the gradient of the filters.

On the CPU by Numba kernels, with CuPy on a GPU by those of CUDA, else by torch, which also records what it does for its
own gradients. complex64 goes to kernels; anything else to torch.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from .gpu import fused_for
from .spline import by_kernels, kernels


def _on_cpu(x: torch.Tensor) -> bool:
    return x.dtype == torch.complex64 and by_kernels(x.device) and not torch.is_grad_enabled()


class FilterSpectra:
    """The spectra of W on a periodic grid: whole (P, C, rows, columns), complex."""

    def __init__(self, whole: torch.Tensor, grid: tuple[int, int]):
        self.whole, self.grid = whole, grid

    @cached_property
    def _parts(self) -> Any:
        return _apart(self.whole)

    def adjoint(self, spectra: torch.Tensor) -> torch.Tensor:
        """W^T w from the spectra of w, complex (B, C, rows, columns) -> (B, P, *grid)."""
        if _on_cpu(spectra):
            re, im = torch.from_numpy(kernels().contract(_pairs(spectra), self._parts))
            total = torch.complex(re, im).unflatten(2, spectra.shape[2:])
        else:
            fused = fused_for(spectra)
            planes = [
                (spectra * own).sum(1, keepdim=True) if fused is None else fused.contract(spectra, own)
                for own in self.whole
            ]
            total = planes[0] if len(planes) == 1 else torch.cat(planes, 1)
        return torch.fft.irfft2(total, s=self.grid)

    def analysis(self, x: torch.Tensor) -> torch.Tensor | None:
        """W x (B, C, *grid) of x (B, P, *grid); None where a convolution is faster: with one plane, or without Numba's
        kernels.
        """
        spectra = torch.fft.rfft2(x) if len(self.whole) > 1 else None
        if spectra is None or not _on_cpu(spectra):
            return None
        made = torch.empty((len(x), *self.whole.shape[1:]), dtype=spectra.dtype)
        kernels().spread(_apart(spectra), self._parts, _pairs(made))
        return torch.fft.irfft2(made, s=self.grid)


class SpectralSum:
    """Gradient of <W^T w, image> for the filters, summed over pairs (w, image) and the batch."""

    def __init__(self, bank: FilterSpectra, support: int):
        self.bank, self.support = bank, support
        self._on_cpu = _on_cpu(bank.whole)
        self.total = torch.zeros((2, *bank.whole.shape)) if self._on_cpu else torch.zeros_like(bank.whole)

    def add(self, spectra: torch.Tensor, image: torch.Tensor) -> None:
        """spectra of w (B, C, rows, columns), image (B, P, H, W)."""
        images = torch.fft.rfft2(image)
        if self._on_cpu:
            kernels().correlate(_pairs(spectra), _apart(images), self.total.flatten(3).numpy())
            return
        fused = fused_for(spectra)
        for own, total in zip(images.split(1, 1), self.total, strict=True):
            if fused is not None:
                fused.correlate(spectra, own.contiguous(), total)
            else:
                total += (spectra * own.conj()).sum(0)

    def result(self) -> torch.Tensor:
        """(C, P, K, K)."""
        total = torch.complex(*self.total) if self._on_cpu else self.total
        reach = self.support // 2
        gradient = torch.fft.irfft2(total.conj(), s=self.bank.grid)
        return gradient.roll((reach, reach), (2, 3))[..., : self.support, : self.support].transpose(0, 1)


def _pairs(spectra: torch.Tensor) -> Any:
    """Complex (A, B, rows, columns) -> float32 (A, B, rows columns, 2) in NumPy, on the same memory."""
    return torch.view_as_real(spectra.detach().contiguous()).flatten(2, 3).numpy()


def _apart(spectra: torch.Tensor) -> Any:
    """Complex (A, B, rows, columns) -> float32 (2, A, B, rows columns) in NumPy."""
    return torch.stack([spectra.detach().real, spectra.detach().imag]).flatten(3).numpy()
