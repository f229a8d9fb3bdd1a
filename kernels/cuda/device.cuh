// All that is written one way for a GPU and another way for the emulator in the tests: dynamic shared memory and inline
// PTX (asynchronous copies, tensor cores, conversions). Everything else in kernels/cuda is plain CUDA C++17, for nvcc and
// NVRTC alike. Under CUDA_EMULATOR the same names come from tests/emulator/device_twin.hpp.
//
// Needs compute capability 8.0. Lane l of a warp is described by  group = l / 4  (0..7)  and  quad = l % 4  (0..3).
#ifndef SAFI_FAST_DEVICE_CUH
#define SAFI_FAST_DEVICE_CUH
#ifndef CUDA_EMULATOR

#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef long long int64_t;
#else
#include <cstdint>
#endif

// DYNAMIC_SHARED(float, tile);  declares  float* tile: the shared memory that the launch asked for, 16-byte aligned.
#define DYNAMIC_SHARED(type, name)                               \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type* const name = reinterpret_cast<type*>(name##_bytes)

// ---------------------------------------------------------------------------------------------- asynchronous copies
// Global to shared memory without passing through registers. Both addresses are multiples of the size. With valid = false
// zeros are written and nothing is read; `global` must still be an aligned pointer. The copies of a thread are grouped by
// cp_async_commit(); cp_async_wait<N>() returns when all but the latest N groups of this thread have arrived. Other
// threads see them after a barrier that follows the wait.

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ void cp_async4(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "r"(valid ? 4 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ------------------------------------------------------------------------------------------------------ conversions
// The nearest TF32 number (10 bits of mantissa), ties away from zero, as the bits of a float.
__device__ __forceinline__ uint32_t to_tf32(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

// Two bfloat16 in one register, each rounded to nearest even: `low` in bits 0..15, `high` in bits 16..31.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// ----------------------------------------------------------------------------------------------------- tensor cores
// All 32 lanes call these together. d += a b  with a 16 x K, b K x 8, d 16 x 8 in float:
//     d[i] = D[group + 8 * (i / 2)][2 * quad + i % 2]
// K = 8, TF32:      a[i] = A[group + 8 * (i % 2)][quad + 4 * (i / 2)],     b[i] = B[quad + 4 * i][group]
// K = 16, bfloat16: a[i] = A[group + 8 * (i % 2)][2 * quad + 8 * (i / 2) + {0, 1}],
//                   b[i] = B[2 * quad + 8 * i + {0, 1}][group],   the lower index in the lower half

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// N 8 x 8 matrices of 16-bit elements from shared memory. Lane l points to row l % 8 of matrix l / 8 (eight elements,
// 16-byte aligned; lanes from 8 N on are ignored). r[i] is elements [group][2 * quad + {0, 1}] of matrix i; transposed:
// elements [2 * quad + {0, 1}][group].

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_transposed(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

#endif  // CUDA_EMULATOR

// The two halves of a packed pair as floats (exact).
__device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

#endif  // SAFI_FAST_DEVICE_CUH
