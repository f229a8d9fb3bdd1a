// convolution: a layer C -> C of the SAFI mask generator with its spline, and for the last layer the sigmoid.
//
//     output[o] = s_o(sum_c V[o, c] * source[c]),   or sigmoid(bias_o + s_o(...))
//
// Boundary: zeros outside, or the half-sample symmetric extension. Twin: kernels/cpu/convolution.py. Cost per pixel: K^2 C^2
// multiply-adds. weights (C / 8, C, K * K, 8): per eight outputs and one input; bias (B, C); source and output
// (planes, C, H, stride) at their slots; source and output must not be the same plane.
// Launch: grid (32 x 32 tiles, C / 8, active images), block 128, static shared memory. Options: SUPPORT, DILATION.
#include "direct.cuh"
#include "spline.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 3)
convolution(const int* __restrict__ active, const float* __restrict__ source, const int* __restrict__ source_slot,
            float* __restrict__ output, const int* __restrict__ output_slot, int symmetric, const float* __restrict__ weights,
            Spline spline, const float* __restrict__ bias, Geometry g) {
    __shared__ Tile tile;
    const Place at = place(active, g);
    const int from = source_slot[at.image] * g.batch + at.image, to = output_slot[at.image] * g.batch + at.image;
    const bool inside = warp_inside(at, g);
    float q[GROUPS * GROUP][OC] = {};
    for (int c = 0; c < g.channels; c++) {
        const float* plane = source + element(from, c, 0, 0, g);
        for (int i = threadIdx.x; i < SPAN_Y * SPAN_X; i += THREADS) {
            int y = at.top + i / SPAN_X - REACH, x = at.left + i % SPAN_X - REACH;
            if (symmetric) y = mirror(y, g.height), x = mirror(x, g.width);
            const bool valid = y >= 0 && y < g.height && x >= 0 && x < g.width;
            tile.pixels[i / SPAN_X * SPAN_PITCH + i % SPAN_X] = valid ? plane[(long long)y * g.stride + x] : 0.0f;
        }
        load_weights(tile, weights + ((long long)blockIdx.y * g.channels + c) * (TAPS * OC));
        __syncthreads();
        if (inside) accumulate(q, tile);
        __syncthreads();
    }
    if (at.y >= g.height) return;
#pragma unroll
    for (int o = 0; o < OC; o++) {
        const float offset = bias[at.image * g.channels + at.channel + o];
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
            if (at.x + group * GAP < g.width) {
                float value[GROUP];
#pragma unroll
                for (int i = 0; i < GROUP; i++) {
                    value[i] = evaluate(spline, at.channel + o, q[group * GROUP + i][o]);
                    if (spline.last) value[i] = sigmoid(value[i] + offset);
                }
                store_four(output + element(to, at.channel + o, at.y, at.x + group * GAP, g), value);
            }
    }
}
