// features: the first layer of the SAFI mask generator, s(gain . (V x)), the planes of an image in, C channels out.
//
// Twin: kernels/cpu/features.py. weights (C / 8, P, K * K, 8); gain (B, C); output (planes, C, H, stride) at output_slot.
// Launch: grid (32 x 32 tiles, C / 8, active images), block 128, static shared memory. Options: SUPPORT, DILATION.
#include "direct.cuh"
#include "spline.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 3)
features(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
         const float* __restrict__ weights, const float* __restrict__ gain, Spline spline, float* __restrict__ output,
         const int* __restrict__ output_slot, Geometry g) {
    __shared__ Tile tile;
    const Place at = place(active, g);
    const int corner = g.halo - REACH;
    float q[GROUPS * GROUP][OC] = {};
#pragma unroll 1
    for (int source = 0; source < PLANES; source++) {
        if (source > 0) __syncthreads();
        const long long first = ((long long)(slot[at.image] * g.batch + at.image) * PLANES + source) * g.rows * g.pitch;
        for (int i = threadIdx.x; i < SPAN_Y * SPAN_X; i += THREADS) {
            const int y = at.top + i / SPAN_X + corner, x = at.left + i % SPAN_X + corner;
            const bool inside = y < g.rows && x < g.pitch;
            tile.pixels[i / SPAN_X * SPAN_PITCH + i % SPAN_X] = inside ? __ldg(image + first + (long long)y * g.pitch + x) : 0.0f;
        }
        load_weights(tile, weights + ((long long)blockIdx.y * PLANES + source) * (TAPS * OC));
        __syncthreads();
        if (at.y < g.height) accumulate(q, tile);
    }
    if (at.y >= g.height) return;
    const int plane = output_slot[at.image] * g.batch + at.image;
#pragma unroll
    for (int c = 0; c < OC; c++) {
        const float scale = gain[at.image * g.channels + at.channel + c];
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
            if (at.x + group * GAP < g.width) {
                float value[GROUP];
#pragma unroll
                for (int i = 0; i < GROUP; i++) value[i] = evaluate(spline, at.channel + c, q[group * GROUP + i][c] * scale);
                store_four(output + element(plane, at.channel + c, at.y, at.x + group * GAP, g), value);
            }
    }
}
