// What the kernels share: sizes, where an element lies, the border of layer-wise zero padding, sums of a block.
//
// Shapes (float32, C order), B images of height x width pixels in P planes under one mask:
//     image    (4, B, P, rows, pitch)  x with a halo of `halo` pixels: slots 0, 1 hold x(v), slots 2, 3 hold x(u)
//     dual     (2, B, C, H, stride)  u, two slots; stride is the width rounded up to a multiple of 8, the columns from the
//                                    width on are zero
//     mask     (B, C, H, stride)     M in [0, 1]; null where there is none; the columns from the width on are finite
//     y, z     (B, P, H, W), (2, B, P, H, W)
// `active` lists the images of a launch; slot[b] is the slot that holds the current state of image b.
//
// Option (-D): PLANES, the planes P of an image; 1 unless given.
#pragma once
#include "device.cuh"
#ifndef PLANES
#define PLANES 1
#endif

// One batch, as every kernel gets it.
struct Geometry {
    int batch, height, width, stride, halo, rows, pitch, channels;
};

// Element (y, x) of channel c of plane `plane` of a (planes, C, H, stride) array.
__device__ __forceinline__ long long element(int plane, int c, int y, int x, const Geometry& g) {
    return (((long long)plane * g.channels + c) * g.height + y) * g.stride + x;
}

// Pixel (y, x) of plane `plane` of all in `image`.
__device__ __forceinline__ long long image_element(int plane, int y, int x, const Geometry& g) {
    return ((long long)plane * g.rows + y + g.halo) * g.pitch + x + g.halo;
}

// The pixel that the half-sample symmetric extension puts at `index`.
__device__ __forceinline__ int mirror(int index, int length) {
    if (index < 0) index = -1 - index;
    return index < length ? index : 2 * length - 1 - index;
}

// Where an index lies relative to the border: 0 .. band - 1 from the near end, band in the middle, up to 2 band at the far end.
__device__ __forceinline__ int position(int index, int length, int band) {
    return index < band ? index : max(band, 2 * band + 1 + index - length);
}

__device__ __forceinline__ bool in_band(int y, int x, int band, const Geometry& g) {
    return y < band || x < band || y >= g.height - band || x >= g.width - band;
}

__device__ __forceinline__ int position_class(int y, int x, int band, const Geometry& g) {
    return position(y, g.height, band) * (2 * band + 1) + position(x, g.width, band);
}

// The corrections of BorderTaps (bindings/border.py): taps of class k are first[k] .. first[k + 1] - 1.
struct Border {
    int band;
    int padding;                         // the host writes the layout out
    const int* __restrict__ first;       // (classes + 1)
    const int* __restrict__ row;         // (taps) rows from the upper left corner of the filter
    const int* __restrict__ column;      // (taps)
    const int* __restrict__ tap_of;      // (classes, K * K) the number of a tap, -1 where nothing is corrected
    const float* __restrict__ weights;   // (taps, P, C)
};

// N neighbouring floats of shared memory, N a multiple of 4, read 16 bytes at a time.
template <int N>
__device__ __forceinline__ void load_row(float (&row)[N], const float* shared) {
    const float4* source = reinterpret_cast<const float4*>(shared);
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        const float4 four = source[i];
        row[4 * i] = four.x;
        row[4 * i + 1] = four.y;
        row[4 * i + 2] = four.z;
        row[4 * i + 3] = four.w;
    }
}

// Sum over a block of THREADS threads in double precision, in a fixed order; thread 0 has the result. `scratch` holds a double per warp.
template <int THREADS>
__device__ __forceinline__ double block_sum(double value, double* scratch) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < THREADS / 32; warp++) value += scratch[warp];
    return value;
}
