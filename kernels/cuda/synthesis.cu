// synthesis: parts = W^T (M . u) on the extended image, in `splits` summands over groups of channels; image_step adds and folds them.
// A block makes one plane of the image.
// u is that of the current slot, or with `other` of the other one, where dual_step has put the new u.
//
//     parts[b, p, s, y, x] = sum over the channels c of summand s and the taps t of filters[c, p, t] (M . u)[c, y - t_y, x - t_x]
//
// Twin: kernels/cpu/filter_bank.py. No atomics: every output is one thread's sum in a fixed order. Cost per pixel and channel: K^2
// multiply-adds, 8 bytes read (times the overlap of the tiles). filters (C, P, K, K rounded up to a multiple of 4), rows and
// columns reversed; parts (B, P, splits, H + K - 1, W + K - 1).
//
// A block makes 64 x 32 outputs; one channel of M . u at a time lies in shared memory with its surroundings. A thread makes two
// neighbouring rows of two groups of four pixels, 16 apart: a row of the window that it reads feeds both. A warp makes 16 rows.
// Launch: grid (tiles of the extended image, splits P, active images), block 128, static shared memory. Options: SUPPORT.
#include "filter_bank.cuh"

constexpr int GROUP = 4, GROUPS = 2, GAP = 16, PX = GROUPS * GROUP, PY = 2;
constexpr int THREADS = 128, THREADS_X = GAP / GROUP, THREADS_Y = THREADS / THREADS_X;
constexpr int TILE_X = GAP * GROUPS, TILE_Y = THREADS_Y * PY, WARP_ROWS = 32 / THREADS_X * PY;
constexpr int LEAD = (SUPPORT + 2) / 4 * 4;            // columns to the left of the outputs, whole fours: SUPPORT - 1 at least
constexpr int SHIFT = LEAD - (SUPPORT - 1);            // of them not needed
constexpr int WINDOW = GROUP + LEAD;
constexpr int SPAN_Y = TILE_Y + SUPPORT - 1;
constexpr int SPAN_X = TILE_X + LEAD;
// 8 (mod 16): the eight threads that share a 16-byte access, 4 along x and 2 along y, two rows apart, then hit different banks.
constexpr int SPAN_PITCH = (SPAN_X + 7) / 16 * 16 + 8;
constexpr int TAP_PITCH = (SUPPORT + 3) / 4 * 4;

struct alignas(16) Tile {
    float values[SPAN_Y * SPAN_PITCH];
    float taps[SUPPORT * TAP_PITCH];
};

// One channel of M . u around the block's outputs; zero outside the image.
__device__ __forceinline__ void load_channel(Tile& tile, const float* __restrict__ dual, const float* __restrict__ mask,
                                             const float* __restrict__ filter, int top, int left, const Geometry& g) {
    for (int i = threadIdx.x; i < SPAN_Y * (SPAN_X / 4); i += THREADS) {
        const int row = i / (SPAN_X / 4), column = i % (SPAN_X / 4) * 4;
        const int y = top + row - (SUPPORT - 1), x = left + column - LEAD;
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (y >= 0 && y < g.height && x >= 0 && x < g.stride) {
            const long long at = (long long)y * g.stride + x;
            four = *reinterpret_cast<const float4*>(dual + at);
            if (mask) {
                const float4 m = *reinterpret_cast<const float4*>(mask + at);
                four.x *= m.x, four.y *= m.y, four.z *= m.z, four.w *= m.w;
            }
        }
        *reinterpret_cast<float4*>(&tile.values[row * SPAN_PITCH + column]) = four;
    }
    for (int i = threadIdx.x; i < SUPPORT * TAP_PITCH; i += THREADS) tile.taps[i] = __ldg(filter + i);
}

// z[0] += row `row` of the window times row `row` of the filter, z[1] += the same row times the filter's row before.
template <bool UPPER, bool LOWER>
__device__ __forceinline__ void add_row(float (&z)[PY][PX], const Tile& tile, int row) {
    const int y = threadIdx.x / THREADS_X * PY, x = threadIdx.x % THREADS_X * GROUP;
    float window[GROUPS][WINDOW], upper[TAP_PITCH], lower[TAP_PITCH];
#pragma unroll
    for (int group = 0; group < GROUPS; group++) load_row(window[group], &tile.values[(y + row) * SPAN_PITCH + x + group * GAP]);
    if (UPPER) load_row(upper, &tile.taps[row * TAP_PITCH]);
    if (LOWER) load_row(lower, &tile.taps[(row - 1) * TAP_PITCH]);
#pragma unroll
    for (int kx = 0; kx < SUPPORT; kx++)
#pragma unroll
        for (int p = 0; p < PX; p++) {
            const float value = window[p / GROUP][p % GROUP + kx + SHIFT];
            if (UPPER) z[0][p] = fmaf(upper[kx], value, z[0][p]);
            if (LOWER) z[1][p] = fmaf(lower[kx], value, z[1][p]);
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
synthesis(const int* __restrict__ active, const int* __restrict__ slot, int other, const float* __restrict__ dual,
          const float* __restrict__ mask, float* __restrict__ parts, const float* __restrict__ filters, Geometry g) {
    __shared__ Tile tile;
    const int height = g.height + SUPPORT - 1, width = g.width + SUPPORT - 1;
    const int across = (width + TILE_X - 1) / TILE_X;
    const int top = blockIdx.x / across * TILE_Y, left = blockIdx.x % across * TILE_X, image = active[blockIdx.z];
    const int plane = (other ? 1 - slot[image] : slot[image]) * g.batch + image, splits = gridDim.y / PLANES;
    const int split = blockIdx.y / PLANES, made = blockIdx.y % PLANES;
    const bool inside = top + threadIdx.x / 32 * WARP_ROWS < height;
    float z[PY][PX] = {};
    for (int c = split * g.channels / splits; c < (split + 1) * g.channels / splits; c++) {
        load_channel(tile, dual + element(plane, c, 0, 0, g), mask ? mask + element(image, c, 0, 0, g) : nullptr,
                     filters + (c * PLANES + made) * (SUPPORT * TAP_PITCH), top, left, g);
        __syncthreads();
        if (inside) {
            add_row<true, false>(z, tile, 0);
            for (int row = 1; row < SUPPORT; row++) add_row<true, true>(z, tile, row);
            add_row<false, true>(z, tile, SUPPORT);
        }
        __syncthreads();
    }
    float* out = parts + (((long long)image * PLANES + made) * splits + split) * height * width;
#pragma unroll
    for (int r = 0; r < PY; r++)
#pragma unroll
        for (int p = 0; p < PX; p++) {
            const int y = top + threadIdx.x / THREADS_X * PY + r, x = left + threadIdx.x % THREADS_X * GROUP + p / GROUP * GAP + p % GROUP;
            if (y < height && x < width) out[(long long)y * width + x] = z[r][p];
        }
}
