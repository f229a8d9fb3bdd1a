// Products of depth 16 on tensor cores: d (16 outputs x 8 pixels) += weights (16 x 16) values (16 inputs x 8 pixels).
//
// Two precisions, one register layout. Lane (group, quad) holds inputs 4 quad .. 4 quad + 3 of pixel `group` in four words, and
// the weights of outputs group and group + 8 for the same inputs in eight:
//     TF32 (default)        a word is a number rounded to 10 bits of mantissa; two products of depth 8
//     bf16x3 (-DBF16X3)     words 0, 1 are pairs of bfloat16, words 2, 3 the pairs of what these miss: 16 bits of mantissa;
//                           three products of depth 16, the smallest (low times low) is left out
// d[0], d[1]: output `group`, pixels 2 quad and 2 quad + 1;  d[2], d[3]: output group + 8.
// The host prepares weights as `slabs` (bindings/weights.py): 2 x 32 lanes x 4 words, 1 KiB.
#pragma once
#include "device.cuh"

constexpr int DEPTH = 16, SLAB = 256;                  // inputs of a product; words of a slab of weights

struct Values {
    uint32_t words[4];
};

#ifdef BF16X3
__device__ __forceinline__ uint32_t high_pair(float a, float b) { return pack_bf16(a, b); }

__device__ __forceinline__ uint32_t low_pair(float a, float b) {
    const uint32_t high = pack_bf16(a, b);
    return pack_bf16(a - bf16_low(high), b - bf16_high(high));
}

__device__ __forceinline__ Values pack(const float (&v)[4]) {
    return {{high_pair(v[0], v[1]), high_pair(v[2], v[3]), low_pair(v[0], v[1]), low_pair(v[2], v[3])}};
}
#else
__device__ __forceinline__ Values pack(const float (&v)[4]) {
    return {{to_tf32(v[0]), to_tf32(v[1]), to_tf32(v[2]), to_tf32(v[3])}};
}
#endif

// d += slab values for N groups of eight pixels; `slab` lies in shared memory.
template <int N>
__device__ __forceinline__ void multiply(float (&d)[N][4], const uint32_t* slab, const Values (&values)[N]) {
    const uint4* from = reinterpret_cast<const uint4*>(slab) + threadIdx.x % 32;
    const uint4 one = from[0], two = from[32];
    const uint32_t first[4] = {one.x, one.y, one.z, one.w}, second[4] = {two.x, two.y, two.z, two.w};
#pragma unroll
    for (int n = 0; n < N; n++) {
        const uint32_t front[2] = {values[n].words[0], values[n].words[1]}, back[2] = {values[n].words[2], values[n].words[3]};
#ifdef BF16X3
        mma_m16n8k16_bf16(d[n], second, front);
        mma_m16n8k16_bf16(d[n], first, back);
        mma_m16n8k16_bf16(d[n], first, front);
#else
        mma_m16n8k8_tf32(d[n], first, front);
        mma_m16n8k8_tf32(d[n], second, back);
#endif
    }
}

// Copy `slabs` slabs to shared memory without waiting; the caller commits.
template <int THREADS>
__device__ __forceinline__ void copy_slabs(uint32_t* shared, const uint32_t* __restrict__ global, int slabs) {
    for (int i = threadIdx.x; i < slabs * (SLAB / 4); i += THREADS) cp_async16(shared + 4 * i, global + 4 * i);
}
