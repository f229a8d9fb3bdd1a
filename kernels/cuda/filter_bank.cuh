// What the filter-bank kernels share: sizes, the image tile in shared memory, the border of layer-wise zero padding.
//
// Options (-D): SUPPORT, the odd side K of the composed filters (at most 17); CHANNELS, C, a multiple of 8.
//
// Shapes (float32, C order unless said otherwise), B images of height x width pixels:
//     image    (4, B, rows, pitch)   x with a halo of `halo` pixels: slots 0, 1 hold x(v), slots 2, 3 hold x(u)
//     dual     (2, B, C, H, W)       u, two slots
//     mask     (B, C, H, W)          M in [0, 1]; null where there is none
//     filters  (K * K, C)            composed filters, tap by tap
//     parts    (B, SPLITS, H + K - 1, W + K - 1)   W^T (M . u) before the extension is folded back, in SPLITS summands
// `active` lists the images of a launch; slot[b] is the slot that holds the current state of image b.
#pragma once
#include "device.cuh"

constexpr int REACH = SUPPORT / 2;
constexpr int TAPS = SUPPORT * SUPPORT;

// One batch, as every kernel gets it.
struct Geometry {
    int batch, height, width, halo, rows, pitch;
};

// Where pixel (y, x) lies relative to the border: 0 .. band - 1 from the near one, band in the middle, up to 2 band at the far one.
__device__ __forceinline__ int position(int index, int length, int band) {
    return index < band ? index : max(band, 2 * band + 1 + index - length);
}

__device__ __forceinline__ bool in_band(int y, int x, const Geometry& g, int band) {
    return y < band || x < band || y >= g.height - band || x >= g.width - band;
}

__device__ __forceinline__ int position_class(int y, int x, const Geometry& g, int band) {
    return position(y, g.height, band) * (2 * band + 1) + position(x, g.width, band);
}

// The corrections of BorderTaps (bindings/border.py): taps of class k are first[k] .. first[k + 1] - 1.
struct Border {
    int band;
    int padding;                         // the host writes the layout out
    const int* __restrict__ first;       // (classes + 1)
    const int* __restrict__ row;         // (taps) rows from the upper left corner of the filter
    const int* __restrict__ column;      // (taps)
    const float* __restrict__ weights;   // (taps, C)
};

// row = 4 * FOURS neighbouring floats of shared memory, read 16 bytes at a time.
template <int FOURS>
__device__ __forceinline__ void load_row(float (&row)[4 * FOURS], const float* shared) {
    const float4* source = reinterpret_cast<const float4*>(shared);
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
        const float4 four = source[i];
        row[4 * i] = four.x;
        row[4 * i + 1] = four.y;
        row[4 * i + 2] = four.z;
        row[4 * i + 3] = four.w;
    }
}
