// The names of kernels/cuda/device.cuh for the emulator; that header says what each of them does.
#pragma once
#include "interface.hpp"
#include "intrinsics.hpp"

#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(cuda_emulator::dynamic_shared())

inline void cp_async4(void* shared, const void* global, bool valid = true, CUDA_EMULATOR_HERE) {
    cuda_emulator::async_copy(shared, global, 4, valid, where);
}
inline void cp_async16(void* shared, const void* global, bool valid = true, CUDA_EMULATOR_HERE) {
    cuda_emulator::async_copy(shared, global, 16, valid, where);
}
inline void cp_async_commit() { cuda_emulator::async_commit(); }
template <int PENDING>
inline void cp_async_wait() {
    cuda_emulator::async_wait(PENDING);
}

namespace cuda_emulator {
constexpr uint32_t INFINITY_BITS = 0x7f800000u;  // exponent of a float: all ones are infinity and NaN

inline uint32_t bf16_bits(float value) {
    uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > INFINITY_BITS) return 0x7fffu;
    uint32_t is_odd = (bits >> 16) & 1u;
    return (bits + 0x7fffu + is_odd) >> 16;
}
}  // namespace cuda_emulator

inline uint32_t to_tf32(float value) {
    uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > cuda_emulator::INFINITY_BITS) return 0x7fffffffu;
    if ((bits & cuda_emulator::INFINITY_BITS) == cuda_emulator::INFINITY_BITS) return bits;
    return (bits + 0x1000u) & 0xffffe000u;
}

inline uint32_t pack_bf16(float low, float high) {
    return cuda_emulator::bf16_bits(low) | cuda_emulator::bf16_bits(high) << 16;
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_EMULATOR_HERE) {
    cuda_emulator::mma_tf32(d, a, b, where);
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_EMULATOR_HERE) {
    cuda_emulator::mma_bf16(d, a, b, where);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, CUDA_EMULATOR_HERE) {
    cuda_emulator::load_matrices(r, 4, false, row, where);
}
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row, CUDA_EMULATOR_HERE) {
    cuda_emulator::load_matrices(r, 4, true, row, where);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, CUDA_EMULATOR_HERE) {
    cuda_emulator::load_matrices(r, 2, false, row, where);
}
inline void ldmatrix_x2_transposed(uint32_t (&r)[2], const void* row, CUDA_EMULATOR_HERE) {
    cuda_emulator::load_matrices(r, 2, true, row, where);
}
