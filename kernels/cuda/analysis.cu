// analysis, masked_norm, dual_step, anchored_step: W x with the composed filters, and what is done with it while it is in registers.
//
//     analysis      output = M . W x, or its magnitude
//     masked_norm   l1 = sum |M . W x|
//     dual_step     v = u + carried (u - u_previous)
//                   u_new = clip(v + step M . W x, -bound, bound)     written over u_previous
//                   l1 = sum |M . W x|
//     anchored_step u_hat = clip(u + step W x, -bound M, bound M)
//                   u = weight (2 u_hat - u) + (1 - weight) anchor, the anchor in the other slot; weight 0: u = anchor = u_hat;
//                   weight above 1: u = u + weight (u_hat - u), which is half of it with u itself for an anchor
//                   l1 = sum (u_hat - u)^2
//
// Twin: kernels/cpu/filter_bank.py. Cost per pixel and channel: K^2 multiply-adds; dual_step and
// anchored_step read two duals and M once and write one, 16 bytes. filters (C / 8, P, K * K, 8); l1 (B, blocks of an image) float64, one summand per block.
// Launch: grid (32 x 32 tiles, C / 8, active images), block 128, static shared memory. Options: SUPPORT.
#include "direct.cuh"

__device__ __forceinline__ void load_tile(Tile& tile, const float* __restrict__ image, const float* __restrict__ filters,
                                          int plane, const Place& at, const Geometry& g) {
    const long long first = (long long)plane * g.rows * g.pitch;
    const int corner = g.halo - REACH;
    for (int i = threadIdx.x; i < SPAN_Y * SPAN_X; i += THREADS) {
        const int row = i / SPAN_X, column = i % SPAN_X;
        const int y = at.top + row + corner, x = at.left + column + corner;
        const bool inside = y < g.rows && x < g.pitch;
        tile.pixels[row * SPAN_PITCH + column] = inside ? __ldg(image + first + (long long)y * g.pitch + x) : 0.0f;
    }
    load_weights(tile, filters);
    __syncthreads();
}

// Take the intermediate values that layer-wise zero padding drops off W x, at the thread's pixels that lie in the band.
__device__ __forceinline__ void correct(float (&q)[GROUPS * GROUP][OC], const Tile& tile, int p_image, const Place& at,
                                        const Geometry& g, const Border& border) {
    for (int p = 0; p < GROUPS * GROUP; p++) {
        const int x = at.x + p / GROUP * GAP + p % GROUP;
        if (at.y >= g.height || x >= g.width || !in_band(at.y, x, border.band, g)) continue;
        const int kind = position_class(at.y, x, border.band, g);
        for (int tap = border.first[kind]; tap < border.first[kind + 1]; tap++) {
            const float pixel = tile.pixels[(at.y - at.top + border.row[tap]) * SPAN_PITCH + x - at.left + border.column[tap]];
            const float* weight = border.weights + ((long long)tap * PLANES + p_image) * g.channels + at.channel;
#pragma unroll
            for (int other = 0; other < GROUPS * GROUP; other++)    // q must be indexed by constants to stay in registers
                if (other == p)
#pragma unroll
                    for (int c = 0; c < OC; c++) q[other][c] = fmaf(-pixel, __ldg(weight + c), q[other][c]);
        }
    }
}

// q = W x at the thread's pixels, 0 outside the image.
__device__ __forceinline__ void filter(float (&q)[GROUPS * GROUP][OC], const Place& at, int slot, const float* __restrict__ image,
                                       const float* __restrict__ filters, const Border& border, const Geometry& g) {
    __shared__ Tile tile;
#pragma unroll
    for (int p = 0; p < GROUPS * GROUP; p++)
#pragma unroll
        for (int c = 0; c < OC; c++) q[p][c] = 0.0f;
#pragma unroll 1
    for (int plane = 0; plane < PLANES; plane++) {
        if (plane > 0) __syncthreads();
        load_tile(tile, image, filters + ((long long)blockIdx.y * PLANES + plane) * (TAPS * OC),
                  (slot * g.batch + at.image) * PLANES + plane, at, g);
        if (!warp_inside(at, g)) continue;
        accumulate(q, tile);
        if (border.band > 0) correct(q, tile, plane, at, g, border);
    }
    if (warp_inside(at, g)) clear_outside(q, at, g);
}

// value = M . W x for four pixels of channel c.
__device__ __forceinline__ void masked(float (&value)[GROUP], const float (&q)[GROUPS * GROUP][OC], int group, int c,
                                       const float* __restrict__ mask, const Place& at, const Geometry& g) {
    float four[GROUP] = {1.0f, 1.0f, 1.0f, 1.0f};
    if (mask) load_four(four, mask + element(at.image, at.channel + c, at.y, at.x + group * GAP, g));
#pragma unroll
    for (int i = 0; i < GROUP; i++) value[i] = q[group * GROUP + i][c] * four[i];
}

__device__ __forceinline__ void write_sum(double* __restrict__ l1, double sum, int image) {
    __shared__ double scratch[THREADS / 32];
    sum = block_sum<THREADS>(sum, scratch);
    if (threadIdx.x == 0) l1[((long long)image * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
analysis(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
         const float* __restrict__ mask, int magnitude, float* __restrict__ output, const int* __restrict__ output_slot,
         const float* __restrict__ filters, Border border, Geometry g) {
    const Place at = place(active, g);
    float q[GROUPS * GROUP][OC];
    filter(q, at, slot[at.image], image, filters, border, g);
    if (at.y >= g.height) return;
    const int plane = output_slot[at.image] * g.batch + at.image;
#pragma unroll
    for (int c = 0; c < OC; c++)
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
            if (at.x + group * GAP < g.width) {
                float value[GROUP];
                masked(value, q, group, c, mask, at, g);
                if (magnitude)
#pragma unroll
                    for (int i = 0; i < GROUP; i++) value[i] = fabsf(value[i]);
                store_four(output + element(plane, at.channel + c, at.y, at.x + group * GAP, g), value);
            }
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
masked_norm(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
            const float* __restrict__ mask, double* __restrict__ l1, const float* __restrict__ filters, Border border,
            Geometry g) {
    const Place at = place(active, g);
    float q[GROUPS * GROUP][OC];
    filter(q, at, slot[at.image], image, filters, border, g);
    float sum = 0.0f;
    if (at.y < g.height)
#pragma unroll
        for (int c = 0; c < OC; c++)
#pragma unroll
            for (int group = 0; group < GROUPS; group++)
                if (at.x + group * GAP < g.width) {
                    float value[GROUP];
                    masked(value, q, group, c, mask, at, g);
#pragma unroll
                    for (int i = 0; i < GROUP; i++) sum += fabsf(value[i]);
                }
    write_sum(l1, sum, at.image);
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
dual_step(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
          float* __restrict__ dual, const float* __restrict__ mask, const float* __restrict__ step,
          const float* __restrict__ bound, const float* __restrict__ carried, double* __restrict__ l1,
          const float* __restrict__ filters, Border border, Geometry g) {
    const Place at = place(active, g);
    const int current = slot[at.image];
    float q[GROUPS * GROUP][OC];
    filter(q, at, current, image, filters, border, g);
    float sum = 0.0f;
    if (at.y < g.height) {
        const float length = step[at.image], limit = bound[at.image], momentum = carried[at.image];
        const int now = current * g.batch + at.image, other = (1 - current) * g.batch + at.image;
#pragma unroll
        for (int c = 0; c < OC; c++)
#pragma unroll
            for (int group = 0; group < GROUPS; group++)
                if (at.x + group * GAP < g.width) {
                    float value[GROUP], u[GROUP], u_new[GROUP];
                    masked(value, q, group, c, mask, at, g);
                    load_four(u, dual + element(now, at.channel + c, at.y, at.x + group * GAP, g));
                    float* previous = dual + element(other, at.channel + c, at.y, at.x + group * GAP, g);
                    load_four(u_new, previous);
#pragma unroll
                    for (int i = 0; i < GROUP; i++) {
                        const float v = fmaf(momentum, u[i] - u_new[i], u[i]);
                        u_new[i] = fmaxf(fminf(fmaf(length, value[i], v), limit), -limit);
                        sum += fabsf(value[i]);
                    }
                    store_four(previous, u_new);
                }
    }
    write_sum(l1, sum, at.image);
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
anchored_step(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
              float* __restrict__ dual, const float* __restrict__ mask, const float* __restrict__ step,
              const float* __restrict__ bound, const float* __restrict__ weight, double* __restrict__ l1,
              const float* __restrict__ filters, Border border, Geometry g) {
    const Place at = place(active, g);
    const int current = slot[at.image];
    float q[GROUPS * GROUP][OC];
    filter(q, at, current, image, filters, border, g);
    float sum = 0.0f;
    if (at.y < g.height) {
        const float length = step[at.image], share = weight[at.image], w = share > 1.0f ? 0.5f * share : share;
        const int now = current * g.batch + at.image, spare = share > 1.0f ? now : (1 - current) * g.batch + at.image;
#pragma unroll
        for (int c = 0; c < OC; c++)
#pragma unroll
            for (int group = 0; group < GROUPS; group++)
                if (at.x + group * GAP < g.width) {
                    float limit[GROUP] = {1.0f, 1.0f, 1.0f, 1.0f}, u[GROUP], anchor[GROUP];
                    if (mask) load_four(limit, mask + element(at.image, at.channel + c, at.y, at.x + group * GAP, g));
                    float* iterate = dual + element(now, at.channel + c, at.y, at.x + group * GAP, g);
                    float* start = dual + element(spare, at.channel + c, at.y, at.x + group * GAP, g);
                    load_four(u, iterate);
                    if (w > 0.0f) load_four(anchor, start);
#pragma unroll
                    for (int i = 0; i < GROUP; i++) {
                        const float most = bound[at.image] * fabsf(limit[i]);    // finite beyond the width, of any sign
                        const float hat = fmaxf(fminf(fmaf(length, q[group * GROUP + i][c], u[i]), most), -most);
                        const float change = hat - u[i];
                        sum = fmaf(change, change, sum);
                        u[i] = w > 0.0f ? fmaf(w, hat + change - anchor[i], anchor[i]) : hat;
                    }
                    store_four(iterate, u);
                    if (w == 0.0f) store_four(start, u);
                }
    }
    write_sum(l1, sum, at.image);
}
