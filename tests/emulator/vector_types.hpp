// float2, int4, ... with CUDA's alignment, and make_float2(), ...
#pragma once
#include <cstdint>

#define CUDA_EMULATOR_VECTORS(scalar, name, align2, align4)                           \
    struct alignas(align2) name##2 {                                                  \
        using cuda_emulator_scalar = scalar;                                          \
        scalar x, y;                                                                  \
    };                                                                                \
    struct name##3 {                                                                  \
        using cuda_emulator_scalar = scalar;                                          \
        scalar x, y, z;                                                               \
    };                                                                                \
    struct alignas(align4) name##4 {                                                  \
        using cuda_emulator_scalar = scalar;                                          \
        scalar x, y, z, w;                                                            \
    };                                                                                \
    inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }              \
    inline name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; } \
    inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

CUDA_EMULATOR_VECTORS(unsigned, uint, 8, 16)
CUDA_EMULATOR_VECTORS(float, float, 8, 16)
CUDA_EMULATOR_VECTORS(int, int, 8, 16)
CUDA_EMULATOR_VECTORS(double, double, 16, 16)
CUDA_EMULATOR_VECTORS(uint16_t, ushort, 4, 8)
CUDA_EMULATOR_VECTORS(uint8_t, uchar, 2, 4)
#undef CUDA_EMULATOR_VECTORS
