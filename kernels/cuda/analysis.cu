// analysis, masked_norm, dual_step: W x with the composed filters, and what is done with it while it is in registers.
//
//     analysis      output = M . W x, or its magnitude
//     masked_norm   l1 = sum |M . W x|
//     dual_step     v = u + momentum (u - u_previous)
//                   u_new = clip(v + step M . W x, -bound, bound)     written over u_previous
//                   l1 = sum |M . W x|
//
// Twin: kernels/cpu/filter_bank.py, same names. Cost per pixel and channel: K^2 multiply-adds; dual_step reads u, u_previous and M
// once and writes u_new once, 16 bytes.
//
// A block makes TILE_X x TILE_Y pixels of 8 channels from one image tile in shared memory; a thread makes 8 neighbouring pixels of
// 8 channels: per tap 64 multiply-adds for two 16-byte loads of weights and a share of a sliding row of pixels.
// Launch: grid (tiles, C / 8, active images), block 128, static shared memory.
#include "filter_bank.cuh"

constexpr int PX = 8;                                  // pixels of a thread, along x
constexpr int OC = 8;                                  // channels of a block
constexpr int THREADS_X = 4, THREADS_Y = 32;
constexpr int TILE_X = THREADS_X * PX, TILE_Y = THREADS_Y;
constexpr int THREADS = THREADS_X * THREADS_Y;
constexpr int WINDOW = PX + SUPPORT - 1;               // pixels of a row that a thread needs
constexpr int WINDOW4 = (WINDOW + 3) / 4;              // the same in groups of four
constexpr int SPAN_Y = TILE_Y + SUPPORT - 1;
constexpr int SPAN_X = TILE_X - PX + 4 * WINDOW4;
// Rows start 4 banks apart (mod 32): the eight threads of a quarter warp, 4 along x and 2 along y, then read without conflicts.
constexpr int SPAN_PITCH = (SPAN_X + 27) / 32 * 32 + 4;

struct Tile {
    float pixels[SPAN_Y * SPAN_PITCH];
    float weights[TAPS * OC];
};

__device__ __forceinline__ void load_tile(Tile& tile, const float* __restrict__ image, const float* __restrict__ filters,
                                          int plane, int top, int left, int channel, const Geometry& g) {
    const long long first = (long long)plane * g.rows * g.pitch;
    const int corner = g.halo - REACH;
    for (int i = threadIdx.x; i < SPAN_Y * SPAN_X; i += THREADS) {
        const int row = i / SPAN_X, column = i % SPAN_X;
        const int y = top + row + corner, x = left + column + corner;
        const bool inside = y < g.rows && x < g.pitch;
        tile.pixels[row * SPAN_PITCH + column] = inside ? __ldg(image + first + (long long)y * g.pitch + x) : 0.0f;
    }
    for (int i = threadIdx.x; i < TAPS * OC; i += THREADS)
        tile.weights[i] = __ldg(filters + (i / OC) * CHANNELS + channel + i % OC);
    __syncthreads();
}

// q[pixel][channel] = W x for the thread's 8 x 8 outputs.
__device__ __forceinline__ void filter(float (&q)[PX][OC], const Tile& tile, int ty, int tx) {
#pragma unroll
    for (int p = 0; p < PX; p++)
#pragma unroll
        for (int c = 0; c < OC; c++) q[p][c] = 0.0f;
    for (int ky = 0; ky < SUPPORT; ky++) {
        float window[4 * WINDOW4];
        load_row<WINDOW4>(window, &tile.pixels[(ty + ky) * SPAN_PITCH + tx * PX]);
#pragma unroll
        for (int kx = 0; kx < SUPPORT; kx++) {
            const float4* taps = reinterpret_cast<const float4*>(&tile.weights[(ky * SUPPORT + kx) * OC]);
            const float4 low = taps[0], high = taps[1];
#pragma unroll
            for (int p = 0; p < PX; p++) {
                const float x = window[p + kx];
                q[p][0] = fmaf(low.x, x, q[p][0]);
                q[p][1] = fmaf(low.y, x, q[p][1]);
                q[p][2] = fmaf(low.z, x, q[p][2]);
                q[p][3] = fmaf(low.w, x, q[p][3]);
                q[p][4] = fmaf(high.x, x, q[p][4]);
                q[p][5] = fmaf(high.y, x, q[p][5]);
                q[p][6] = fmaf(high.z, x, q[p][6]);
                q[p][7] = fmaf(high.w, x, q[p][7]);
            }
        }
    }
}

// Take the intermediate values that layer-wise zero padding drops off W x, at the thread's pixels that lie in the band.
__device__ __forceinline__ void correct(float (&q)[PX][OC], const Tile& tile, int ty, int tx, int y, int x, int channel,
                                        const Geometry& g, const Border& border) {
    for (int p = 0; p < PX; p++) {
        if (y >= g.height || x + p >= g.width || !in_band(y, x + p, g, border.band)) continue;
        const int kind = position_class(y, x + p, g, border.band);
        for (int tap = border.first[kind]; tap < border.first[kind + 1]; tap++) {
            const float pixel = tile.pixels[(ty + border.row[tap]) * SPAN_PITCH + tx * PX + p + border.column[tap]];
            const float* weight = border.weights + (long long)tap * CHANNELS + channel;
#pragma unroll
            for (int other = 0; other < PX; other++)    // q must be indexed by constants to stay in registers
                if (other == p)
#pragma unroll
                    for (int c = 0; c < OC; c++) q[other][c] = fmaf(-pixel, __ldg(weight + c), q[other][c]);
        }
    }
}

// Sum over the block in double precision, in a fixed order; thread 0 has the result.
__device__ __forceinline__ double block_sum(double value) {
    __shared__ double sums[THREADS / 32];
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < THREADS / 32; warp++) value += sums[warp];
    return value;
}

// What a thread works on.
struct Place {
    int image, channel, top, left, ty, tx, y, x;
};

__device__ __forceinline__ Place place(const int* __restrict__ active, const Geometry& g) {
    Place at;
    const int across = (g.width + TILE_X - 1) / TILE_X;
    at.image = active[blockIdx.z];
    at.channel = blockIdx.y * OC;
    at.top = blockIdx.x / across * TILE_Y;
    at.left = blockIdx.x % across * TILE_X;
    at.ty = threadIdx.x / THREADS_X;
    at.tx = threadIdx.x % THREADS_X;
    at.y = at.top + at.ty;
    at.x = at.left + at.tx * PX;
    return at;
}

__device__ __forceinline__ void filter_here(float (&q)[PX][OC], const Place& at, int slot, const float* __restrict__ image,
                                            const float* __restrict__ filters, const Geometry& g, const Border& border) {
    __shared__ Tile tile;
    load_tile(tile, image, filters, slot * g.batch + at.image, at.top, at.left, at.channel, g);
    filter(q, tile, at.ty, at.tx);
    if (border.band > 0) correct(q, tile, at.ty, at.tx, at.y, at.x, at.channel, g, border);
}

// Element (channel c of the thread, its first pixel) of a (planes, C, H, W) array.
__device__ __forceinline__ long long element(int plane, const Place& at, int c, const Geometry& g) {
    return (((long long)plane * CHANNELS + at.channel + c) * g.height + at.y) * g.width + at.x;
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
analysis(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
         const float* __restrict__ mask, int magnitude, float* __restrict__ output, const int* __restrict__ output_slot,
         const float* __restrict__ filters, Border border, Geometry g) {
    const Place at = place(active, g);
    float q[PX][OC];
    filter_here(q, at, slot[at.image], image, filters, g, border);
    if (at.y >= g.height) return;
#pragma unroll
    for (int c = 0; c < OC; c++) {
        const long long from = element(at.image, at, c, g);
        const long long to = element(output_slot[at.image] * g.batch + at.image, at, c, g);
#pragma unroll
        for (int p = 0; p < PX; p++)
            if (at.x + p < g.width) {
                const float value = mask ? q[p][c] * __ldg(mask + from + p) : q[p][c];
                output[to + p] = magnitude ? fabsf(value) : value;
            }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
masked_norm(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
            const float* __restrict__ mask, double* __restrict__ l1, const float* __restrict__ filters, Border border,
            Geometry g) {
    const Place at = place(active, g);
    float q[PX][OC];
    filter_here(q, at, slot[at.image], image, filters, g, border);
    double sum = 0.0;
    if (at.y < g.height)
#pragma unroll
        for (int c = 0; c < OC; c++) {
            const long long from = element(at.image, at, c, g);
            float part = 0.0f;
#pragma unroll
            for (int p = 0; p < PX; p++)
                if (at.x + p < g.width) part += fabsf(mask ? q[p][c] * __ldg(mask + from + p) : q[p][c]);
            sum += part;
        }
    sum = block_sum(sum);
    if (threadIdx.x == 0) l1[((long long)at.image * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
dual_step(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
          float* __restrict__ dual, const float* __restrict__ mask, const float* __restrict__ step,
          const float* __restrict__ bound, const float* __restrict__ momentum, double* __restrict__ l1,
          const float* __restrict__ filters, Border border, Geometry g) {
    const Place at = place(active, g);
    const int current = slot[at.image];
    float q[PX][OC];
    filter_here(q, at, current, image, filters, g, border);
    double sum = 0.0;
    if (at.y < g.height) {
        const float length = step[at.image], limit = bound[at.image], carried = momentum[at.image];
#pragma unroll
        for (int c = 0; c < OC; c++) {
            const long long m = element(at.image, at, c, g);
            const float* u = dual + element(current * g.batch + at.image, at, c, g);
            float* previous = dual + element((1 - current) * g.batch + at.image, at, c, g);
            float part = 0.0f;
#pragma unroll
            for (int p = 0; p < PX; p++)
                if (at.x + p < g.width) {
                    const float value = mask ? q[p][c] * __ldg(mask + m + p) : q[p][c];
                    const float v = fmaf(carried, u[p] - previous[p], u[p]);
                    previous[p] = fmaxf(fminf(fmaf(length, value, v), limit), -limit);
                    part += fabsf(value);
                }
            sum += part;
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) l1[((long long)at.image * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = sum;
}
