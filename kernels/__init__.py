"""Handwritten kernels: `cpu/` (Numba, the readable definition) and `cuda/` (their CUDA C++ twins)."""
