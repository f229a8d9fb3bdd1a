// convolution on tensor cores: the same name, arguments and meaning as in convolution.cu; see tensor.cuh for the precisions.
//
// A block makes 8 x 32 pixels of CHANNEL_BLOCK outputs from 16 inputs at a time, whose tile lies in shared memory as words of
// `Values`, 16 per pixel; a warp makes one row. The weights of a row of the kernel arrive by asynchronous copies one row ahead.
// weights (C / CHANNEL_BLOCK, C / 16, SUPPORT, SUPPORT, CHANNEL_BLOCK / 16, 2, 32, 4) words.
// Launch: grid (8 x 32 tiles, C / CHANNEL_BLOCK, active images), block 256, dynamic shared memory.
// Options: SUPPORT, DILATION, CHANNEL_BLOCK, BF16X3.
#include "filter_bank.cuh"
#include "spline.cuh"
#include "tensor.cuh"

constexpr int THREADS = 256, TILE_Y = THREADS / 32, TILE_X = 32, M = CHANNEL_BLOCK / DEPTH, N = TILE_X / 8;
constexpr int SPREAD = (SUPPORT - 1) * DILATION, REACH = SPREAD / 2;
constexpr int SPAN_Y = TILE_Y + SPREAD, SPAN_X = TILE_X + SPREAD, ROW_WORDS = SUPPORT * M * SLAB;

// 16 inputs of the tile as words of `Values`.
__device__ __forceinline__ void load_tile(uint32_t* tile, const float* __restrict__ source, int top, int left, int symmetric,
                                          const Geometry& g) {
    const long long channel = (long long)g.height * g.stride;
    for (int i = threadIdx.x; i < SPAN_Y * SPAN_X * 4; i += THREADS) {
        const int quad = i % 4, pixel = i / 4;
        int y = top + pixel / SPAN_X - REACH, x = left + pixel % SPAN_X - REACH;
        if (symmetric) y = mirror(y, g.height), x = mirror(x, g.width);
        float v[4] = {};
        if (y >= 0 && y < g.height && x >= 0 && x < g.width)
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = source[(4 * quad + j) * channel + (long long)y * g.stride + x];
        const Values values = pack(v);
        *reinterpret_cast<uint4*>(tile + 4 * i) = make_uint4(values.words[0], values.words[1], values.words[2], values.words[3]);
    }
}

// q += row ky of the kernel for 16 inputs.
__device__ __forceinline__ void accumulate(float (&q)[M][N][4], const uint32_t* slabs, const uint32_t* tile, int ky) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 + ky * DILATION;
#pragma unroll 1
    for (int kx = 0; kx < SUPPORT; kx++) {
        Values values[N];
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int pixel = row * SPAN_X + 8 * n + lane / 4 + kx * DILATION;
            const uint4 four = reinterpret_cast<const uint4*>(tile)[pixel * 4 + lane % 4];
            values[n] = {{four.x, four.y, four.z, four.w}};
        }
#pragma unroll
        for (int m = 0; m < M; m++) multiply(q[m], slabs + (kx * M + m) * SLAB, values);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
convolution(const int* __restrict__ active, const float* __restrict__ source, const int* __restrict__ source_slot,
            float* __restrict__ output, const int* __restrict__ output_slot, int symmetric, const uint32_t* __restrict__ weights,
            Spline spline, const float* __restrict__ bias, Geometry g) {
    DYNAMIC_SHARED(uint32_t, shared);
    const int across = (g.width + TILE_X - 1) / TILE_X, image = active[blockIdx.z], deep = g.channels / DEPTH;
    const int top = blockIdx.x / across * TILE_Y, left = blockIdx.x % across * TILE_X;
    const int from = source_slot[image] * g.batch + image, to = output_slot[image] * g.batch + image;
    const int rows = deep * SUPPORT;
    const uint32_t* slabs = weights + (long long)blockIdx.y * rows * ROW_WORDS;
    uint32_t* tile = shared + 2 * ROW_WORDS;
    float q[M][N][4] = {};
    copy_slabs<THREADS>(shared, slabs, SUPPORT * M);
    cp_async_commit();
    for (int row = 0; row < rows; row++) {
        if (row % SUPPORT == 0)
            load_tile(tile, source + element(from, row / SUPPORT * DEPTH, 0, 0, g), top, left, symmetric, g);
        if (row + 1 < rows) copy_slabs<THREADS>(shared + (row + 1) % 2 * ROW_WORDS, slabs + (long long)(row + 1) * ROW_WORDS, SUPPORT * M);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        accumulate(q, shared + row % 2 * ROW_WORDS, tile, row % SUPPORT);
        __syncthreads();
    }
    const int y = top + threadIdx.x / 32, group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    if (y >= g.height) return;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int c = blockIdx.y * CHANNEL_BLOCK + m * DEPTH + half * 8 + group;
            const float offset = bias[image * g.channels + c];
            float* out = output + element(to, c, y, left + 2 * quad, g);
#pragma unroll
            for (int n = 0; n < N; n++) {
                if (left + 8 * n + 2 * quad >= g.width) continue;
                float value[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    value[i] = evaluate(spline, c, q[m][n][2 * half + i]);
                    if (spline.last) value[i] = sigmoid(value[i] + offset);
                }
                *reinterpret_cast<float2*>(out + 8 * n) = make_float2(value[0], value[1]);
            }
        }
}
