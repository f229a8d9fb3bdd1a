"""Runs CUDA C++ kernels on a CPU: the same .cu files, launched by the same binding code.

README.md says how and what for.

The modules:

    device      memory, modules and launches, shaped like the part of CuPy that a backend needs
    build       a .cu text compiled with g++: plain, with sanitizers, or with the checker
    sanitized   functions called in a process that can load sanitized builds
    compile     the gate for real GPUs: nvcc or NVRTC to machine code, its registers, no spills
    sass        what that machine code is made of
    occupancy   blocks and warps that fit on a multiprocessor

and for its own tests: samples, bugs.
"""
