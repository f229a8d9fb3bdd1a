// The language of a .cu file for g++: include this before its text. C++17, g++ 11 or newer, x86-64 Linux.
//
// Not here: cooperative groups, textures, wgmma and TMA, inline assembly, `extern __shared__` (use DYNAMIC_SHARED of
// device.cuh), half and bfloat16 types (device.cuh packs bits).
#pragma once

#include "device_twin.hpp"
#include "export.hpp"
#include "interface.hpp"
#include "intrinsics.hpp"
#include "vector_types.hpp"
#include "warp.hpp"

#define CUDA_EMULATOR 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static  // shared.ld says where they lie
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __noinline__ __attribute__((noinline))
#define __forceinline__ inline __attribute__((always_inline))
