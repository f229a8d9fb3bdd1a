"""Numba kernels. One operation per file; `simd.py` and `fft.py` are the vocabulary they share."""
