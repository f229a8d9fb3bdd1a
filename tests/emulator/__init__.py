"""Runs CUDA C++ kernels on a CPU: the same .cu files, launched by the same binding code. README.md says how and what for.

    device.EmulatedDevice       memory, modules and launches, shaped like the part of CuPy that a backend needs
    build.build                 compiles a .cu text with g++: plain, with sanitizers, or with the checker
    sanitized.call              calls a function in a process that can load sanitized builds
    compile.compile_cubin       the gate for real GPUs: nvcc or NVRTC to a cubin, its registers, no spills
    sass.count_instructions     what the machine code is made of
    occupancy.occupancy         blocks and warps that fit on a multiprocessor
"""
