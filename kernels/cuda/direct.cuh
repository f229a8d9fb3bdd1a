// Correlation in registers: a thread makes 8 pixels of 8 channels, so that per tap two 16-byte loads of weights and a share of
// a sliding row of pixels feed 64 multiply-adds.
//
// A block of 128 threads makes 32 x 32 pixels of 8 channels from one plane at a time, which lies in shared memory with its
// surroundings. A warp makes 8 rows of 32 pixels; a thread two groups of four pixels, 16 apart: the four threads of a row read and
// write 64 neighbouring bytes at once.
//
// Options (-D): SUPPORT, the odd side of the kernel; DILATION, the distance of its taps (1 unless given).
#pragma once
#include "filter_bank.cuh"
#ifndef DILATION
#define DILATION 1
#endif

constexpr int SPREAD = (SUPPORT - 1) * DILATION;       // rows that a kernel reaches over, less one
constexpr int REACH = SPREAD / 2;
constexpr int TAPS = SUPPORT * SUPPORT;
constexpr int OC = 8;                                  // channels of a block
constexpr int GROUP = 4, GROUPS = 2, GAP = 16;         // pixels of a thread: GROUPS groups of GROUP, GAP apart
constexpr int TILE = 32;
constexpr int THREADS = 128, THREADS_X = GAP / GROUP, WARP_ROWS = 32 / THREADS_X;
constexpr int WINDOW = (GROUP + SPREAD + 3) / 4 * 4;   // pixels of a row that a group needs, in whole fours
constexpr int SPAN_Y = TILE + SPREAD;
constexpr int SPAN_X = TILE - GROUP + WINDOW;
// 16 (mod 32): the eight threads that share a 16-byte access, 4 along x and 2 along y, then hit different banks.
constexpr int SPAN_PITCH = (SPAN_X + 15) / 32 * 32 + 16;

// Aligned for the 16-byte reads of load_row.
struct alignas(16) Tile {
    float pixels[SPAN_Y * SPAN_PITCH];
    float weights[TAPS * OC];
};

// What a thread works on: pixels x .. x + 3 and x + 16 .. x + 19 of row y, channels channel .. channel + 7.
struct Place {
    int image, channel, top, left, y, x;
};

__device__ __forceinline__ Place place(const int* __restrict__ active, const Geometry& g) {
    const int across = (g.width + TILE - 1) / TILE;
    Place at;
    at.image = active[blockIdx.z];
    at.channel = blockIdx.y * OC;
    at.top = blockIdx.x / across * TILE;
    at.left = blockIdx.x % across * TILE;
    at.y = at.top + threadIdx.x / THREADS_X;
    at.x = at.left + threadIdx.x % THREADS_X * GROUP;
    return at;
}

// Whether the warp has a row inside the image: what it computes otherwise is thrown away.
__device__ __forceinline__ bool warp_inside(const Place& at, const Geometry& g) {
    return at.top + threadIdx.x / 32 * WARP_ROWS < g.height;
}

__device__ __forceinline__ void load_weights(Tile& tile, const float* __restrict__ weights) {
    for (int i = threadIdx.x; i < TAPS * OC; i += THREADS) tile.weights[i] = __ldg(weights + i);
}

// q += the kernel over the tile, for the thread's pixels and channels.
__device__ __forceinline__ void accumulate(float (&q)[GROUPS * GROUP][OC], const Tile& tile) {
    const int row = threadIdx.x / THREADS_X, column = threadIdx.x % THREADS_X * GROUP;
    for (int ky = 0; ky < SUPPORT; ky++) {
        float window[GROUPS][WINDOW];
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
            load_row(window[group], &tile.pixels[(row + ky * DILATION) * SPAN_PITCH + column + group * GAP]);
#pragma unroll
        for (int kx = 0; kx < SUPPORT; kx++) {
            float weight[OC];
            load_row(weight, &tile.weights[(ky * SUPPORT + kx) * OC]);
#pragma unroll
            for (int p = 0; p < GROUPS * GROUP; p++)
#pragma unroll
                for (int c = 0; c < OC; c++)
                    q[p][c] = fmaf(weight[c], window[p / GROUP][p % GROUP + kx * DILATION], q[p][c]);
        }
    }
}

// q = 0 at the thread's pixels from the width on.
__device__ __forceinline__ void clear_outside(float (&q)[GROUPS * GROUP][OC], const Place& at, const Geometry& g) {
    if (at.x + GAP + GROUP <= g.width) return;
#pragma unroll
    for (int p = 0; p < GROUPS * GROUP; p++)
        if (at.x + p / GROUP * GAP + p % GROUP >= g.width)
#pragma unroll
            for (int c = 0; c < OC; c++) q[p][c] = 0.0f;
}

// Four neighbouring floats of global memory, 16-byte aligned.
__device__ __forceinline__ void load_four(float (&four)[GROUP], const float* __restrict__ from) {
    const float4 loaded = *reinterpret_cast<const float4*>(from);
    four[0] = loaded.x, four[1] = loaded.y, four[2] = loaded.z, four[3] = loaded.w;
}

__device__ __forceinline__ void store_four(float* __restrict__ to, const float (&four)[GROUP]) {
    *reinterpret_cast<float4*>(to) = make_float4(four[0], four[1], four[2], four[3]);
}
