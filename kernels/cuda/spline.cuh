// Per-channel linear splines on uniform knots, linearly extrapolated.
//
//     s(t) = left_k + difference_k (p - k),   p = t stretch + shift,   k = p rounded down, from the first piece to the last
//
// Twin: kernels/cpu/spline.py. table (C, pieces) of (left_k, difference_k).
#pragma once
#include "device.cuh"

struct Spline {
    int pieces;
    int last;                            // of a mask generator: its output goes through a sigmoid
    float shift, stretch;
    const float2* __restrict__ table;
};

__device__ __forceinline__ float evaluate(const Spline& spline, int channel, float t) {
    const float p = fmaf(t, spline.stretch, spline.shift);
    const int k = static_cast<int>(fminf(fmaxf(p, 0.0f), static_cast<float>(spline.pieces - 1)));
    const float2 piece = __ldg(spline.table + channel * spline.pieces + k);
    return fmaf(piece.y, p - static_cast<float>(k), piece.x);
}

// 1 / (1 + exp(-t)), level beyond +-30 so that no mask is a denormal number.
__device__ __forceinline__ float sigmoid(float t) { return 1.0f / (1.0f + expf(-fminf(fmaxf(t, -30.0f), 30.0f))); }
