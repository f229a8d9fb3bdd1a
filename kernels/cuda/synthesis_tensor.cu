// synthesis on tensor cores: the same name, arguments and meaning as in synthesis.cu, but `parts` are overlapping tiles.
//
//     parts[b, p, s, tile, y, x] = sum over the channels c of summand s and the taps t of filters[c, p, t] (M . u)[c, y - t_y, x - t_x],
//     over the pixels of the tile; y and x run over the tile and SUPPORT - 1 further rows and columns
//
// A block takes 8 x 32 pixels and reads each of their values once, into registers, for all planes of the image, one after the other.
// For every row of the filters tensor cores turn
// the channels of a pixel into one number per tap of that row; in shared memory tap kx lies kx columns further right, so that
// columns add up to a row of the output. No atomics: at a time every warp adds to a row of its own.
// parts (B, P, C / CHANNEL_BLOCK, tiles, 8 + K - 1, 32 + K - 1); filters (C / CHANNEL_BLOCK, P, SUPPORT, tap slabs, CHANNEL_BLOCK / 16, 2, 32, 4)
// words, which arrive by asynchronous copies one row ahead.
// Launch: grid (8 x 32 tiles, C / CHANNEL_BLOCK, active images), block 256, dynamic shared memory. Options: SUPPORT, CHANNEL_BLOCK, BF16X3.
#include "filter_bank.cuh"
#include "tensor.cuh"

constexpr int THREADS = 256, TILE_Y = THREADS / 32, TILE_X = 32, N = TILE_X / 8;
constexpr int DEEP = CHANNEL_BLOCK / DEPTH, TAP_SLABS = (SUPPORT + DEPTH - 1) / DEPTH, ROW_WORDS = TAP_SLABS * DEEP * SLAB;
constexpr int SPAN_Y = TILE_Y + SUPPORT - 1, SPAN_X = TILE_X + SUPPORT - 1;
constexpr int PITCH = 56;                              // of the skewed taps and of the output, at least SPAN_X rounded up to even

// Words of shared memory: two rows of filters, the taps of each warp, the output.
constexpr int TAPS_AT = 2 * ROW_WORDS, WARP_TAPS = SUPPORT * PITCH, OUTPUT_AT = TAPS_AT + TILE_Y * WARP_TAPS;

// M . u at the lane's pixels of row y: inputs 4 quad .. 4 quad + 3 of every slab of channels; zero outside the image.
__device__ __forceinline__ void load_values(Values (&values)[DEEP][N], const float* __restrict__ u, const float* __restrict__ m,
                                            int y, int left, const Geometry& g) {
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    const long long channel = (long long)g.height * g.stride;
#pragma unroll
    for (int slab = 0; slab < DEEP; slab++)
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int x = left + 8 * n + group;
            float v[4] = {};
            if (y < g.height && x < g.width) {
                const long long at = (slab * DEPTH + 4 * quad) * channel + (long long)y * g.stride + x;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    v[j] = u[at + j * channel];
                    if (m) v[j] *= __ldg(m + at + j * channel);
                }
            }
            values[slab][n] = pack(v);
        }
}

// One number per tap of a row of the filters and pixel of the warp, tap kx shifted kx columns to the right.
__device__ __forceinline__ void apply_row(float* taps, const uint32_t* slabs, const Values (&values)[DEEP][N]) {
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
    for (int slab = 0; slab < TAP_SLABS; slab++) {
        float d[N][4] = {};
#pragma unroll
        for (int k = 0; k < DEEP; k++) multiply(d, slabs + (slab * DEEP + k) * SLAB, values[k]);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int kx = slab * DEPTH + half * 8 + group;
            if (kx >= SUPPORT) continue;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) taps[kx * PITCH + kx + 8 * n + 2 * quad + i] = d[n][2 * half + i];
        }
    }
}

// output += the sum of each column of the skewed taps.
__device__ __forceinline__ void add_columns(float* output, const float* taps) {
    const int lane = threadIdx.x % 32;
    if (2 * lane >= SPAN_X) return;
    float2* to = reinterpret_cast<float2*>(output) + lane;
    float2 total = *to;
#pragma unroll
    for (int kx = 0; kx < SUPPORT; kx++) {
        const float2 two = reinterpret_cast<const float2*>(taps + kx * PITCH)[lane];
        total.x += two.x, total.y += two.y;
    }
    *to = total;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
synthesis(const int* __restrict__ active, const int* __restrict__ slot, int other, const float* __restrict__ dual,
          const float* __restrict__ mask, float* __restrict__ parts, const uint32_t* __restrict__ filters, Geometry g) {
    DYNAMIC_SHARED(uint32_t, shared);
    const int across = (g.width + TILE_X - 1) / TILE_X, image = active[blockIdx.z], warp = threadIdx.x / 32;
    const int top = blockIdx.x / across * TILE_Y, left = blockIdx.x % across * TILE_X, channel = blockIdx.y * CHANNEL_BLOCK;
    const int plane = (other ? 1 - slot[image] : slot[image]) * g.batch + image;
    const uint32_t* rows = filters + (long long)blockIdx.y * (PLANES * SUPPORT) * ROW_WORDS;
    float* taps = reinterpret_cast<float*>(shared + TAPS_AT) + warp * WARP_TAPS;
    float* output = reinterpret_cast<float*>(shared + OUTPUT_AT);
    copy_slabs<THREADS>(shared, rows, TAP_SLABS * DEEP);
    cp_async_commit();
    for (int i = threadIdx.x; i < TILE_Y * WARP_TAPS + SPAN_Y * PITCH; i += THREADS) shared[TAPS_AT + i] = 0;
    Values values[DEEP][N];
    load_values(values, dual + element(plane, channel, 0, 0, g), mask ? mask + element(image, channel, 0, 0, g) : nullptr,
                top + warp, left, g);
#pragma unroll 1
    for (int made = 0; made < PLANES; made++) {
        for (int ky = 0; ky < SUPPORT; ky++) {
            const int row = made * SUPPORT + ky, next = row + 1;
            if (next < PLANES * SUPPORT) copy_slabs<THREADS>(shared + next % 2 * ROW_WORDS, rows + next * ROW_WORDS, TAP_SLABS * DEEP);
            cp_async_commit();
            cp_async_wait<1>();
            __syncthreads();
            apply_row(taps, shared + row % 2 * ROW_WORDS, values);
            __syncwarp();
            add_columns(output + (warp + ky) * PITCH, taps);
            __syncthreads();
        }
        const long long place = (((long long)image * PLANES + made) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        float* to = parts + place * (SPAN_Y * SPAN_X);
        for (int i = threadIdx.x; i < SPAN_Y * SPAN_X; i += THREADS) {
            to[i] = output[i / SPAN_X * PITCH + i % SPAN_X];
            if (made + 1 < PLANES) output[i / SPAN_X * PITCH + i % SPAN_X] = 0.0f;
        }
    }
}
