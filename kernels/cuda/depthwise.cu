// depthwise: one smoothing layer of the MMR mask generator, or its adjoint; each channel with its own kernel.
//
//     output[c] = K_c * source[c]  (cross-correlation, `same` size), or the adjoint of that;
//     with `profiled`, output = clip(phi(scale . (K * source)), 0, 1)
//
// Boundary: zeros outside, or the half-sample symmetric extension, whose adjoint folds the extension back.
// Twin: kernels/cpu/depthwise.py. weights (C, K * K); scale (B, C); source and output (planes, C, H, stride) at their slots.
// Cost per pixel and channel: K^2 multiply-adds, 8 bytes. A block makes 32 x 32 pixels of one channel, a thread 8 of one row.
// Launch: grid (32 x 32 tiles, C, active images), block 128, static shared memory. Options: SUPPORT.
#include "filter_bank.cuh"
#include "spline.cuh"

constexpr int REACH = SUPPORT / 2, TILE = 32, THREADS = 128, PX = 8, THREADS_X = TILE / PX;
constexpr int WINDOW = (PX + SUPPORT + 2) / 4 * 4;
constexpr int SPAN_Y = TILE + SUPPORT - 1, SPAN_X = TILE - PX + WINDOW;
constexpr int SPAN_PITCH = (SPAN_X + 27) / 32 * 32 + 4;

struct alignas(16) Tile {
    float values[SPAN_Y * SPAN_PITCH];
    float taps[SUPPORT * SUPPORT];
};

// What the adjoint of the extension folds onto pixel (y, x): the correlation at the mirror images of it outside the image.
__device__ __noinline__ float folded(const Tile& tile, int y, int x, int top, int left, const Geometry& g) {
    float total = 0.0f;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            const int py = i == 0 ? y : i == 1 ? -1 - y : 2 * g.height - 1 - y;
            const int px = j == 0 ? x : j == 1 ? -1 - x : 2 * g.width - 1 - x;
            const bool near = py >= -REACH && py < g.height + REACH && px >= -REACH && px < g.width + REACH;
            if ((i == 0 && j == 0) || !near) continue;
            for (int ky = 0; ky < SUPPORT; ky++)
                for (int kx = 0; kx < SUPPORT; kx++) {
                    const int row = py + ky - REACH, column = px + kx - REACH;
                    if (row < 0 || row >= g.height || column < 0 || column >= g.width) continue;
                    const float value = tile.values[(row - top + REACH) * SPAN_PITCH + column - left + REACH];
                    total = fmaf(tile.taps[ky * SUPPORT + kx], value, total);
                }
        }
    return total;
}

extern "C" __global__ void __launch_bounds__(THREADS)
depthwise(const int* __restrict__ active, const float* __restrict__ source, const int* __restrict__ source_slot,
          float* __restrict__ output, const int* __restrict__ output_slot, const float* __restrict__ weights, int adjoint,
          int symmetric, int profiled, const float* __restrict__ scale, Spline profile, Geometry g) {
    __shared__ Tile tile;
    const int across = (g.width + TILE - 1) / TILE, c = blockIdx.y, image = active[blockIdx.z];
    const int top = blockIdx.x / across * TILE, left = blockIdx.x % across * TILE;
    const float* plane = source + element(source_slot[image] * g.batch + image, c, 0, 0, g);
    for (int i = threadIdx.x; i < SPAN_Y * SPAN_X; i += THREADS) {
        int y = top + i / SPAN_X - REACH, x = left + i % SPAN_X - REACH;
        if (symmetric && !adjoint) y = mirror(y, g.height), x = mirror(x, g.width);
        const bool valid = y >= 0 && y < g.height && x >= 0 && x < g.width;
        tile.values[i / SPAN_X * SPAN_PITCH + i % SPAN_X] = valid ? plane[(long long)y * g.stride + x] : 0.0f;
    }
    for (int i = threadIdx.x; i < SUPPORT * SUPPORT; i += THREADS)
        tile.taps[i] = __ldg(weights + c * (SUPPORT * SUPPORT) + (adjoint ? SUPPORT * SUPPORT - 1 - i : i));
    __syncthreads();
    const int ty = threadIdx.x / THREADS_X, tx = threadIdx.x % THREADS_X, y = top + ty, x = left + tx * PX;
    if (y >= g.height) return;
    float value[PX] = {};
    for (int ky = 0; ky < SUPPORT; ky++) {
        float window[WINDOW];
        load_row(window, &tile.values[(ty + ky) * SPAN_PITCH + tx * PX]);
#pragma unroll
        for (int kx = 0; kx < SUPPORT; kx++) {
            const float tap = tile.taps[ky * SUPPORT + kx];
#pragma unroll
            for (int p = 0; p < PX; p++) value[p] = fmaf(tap, window[p + kx], value[p]);
        }
    }
    const float factor = profiled ? scale[image * g.channels + c] : 1.0f;
#pragma unroll
    for (int p = 0; p < PX; p++) {
        if (x + p < g.width && adjoint && symmetric && in_band(y, x + p, REACH, g))
            value[p] += folded(tile, y, x + p, top, left, g);
        if (profiled) value[p] = fminf(fmaxf(evaluate(profile, c, value[p] * factor), 0.0f), 1.0f);
    }
    float4* to = reinterpret_cast<float4*>(output + element(output_slot[image] * g.batch + image, c, y, x, g));
    if (x >= g.width) return;
    to[0] = make_float4(value[0], value[1], value[2], value[3]);
    if (x + 4 < g.width) to[1] = make_float4(value[4], value[5], value[6], value[7]);  // else zeros stay zeros in the dual
}
