// synthesis: parts = W^T (M . u) on the extended image, in SPLITS summands over groups of channels; `image_step` adds and folds them.
//
//     parts[b, s, y, x] = sum over the channels c of summand s and the taps t of filters[t, c] (M . u)[c, y - t_y, x - t_x]
//
// Twin: kernels/cpu/filter_bank.py. No atomics: every output is one thread's sum in a fixed order. Cost per pixel and channel: K^2
// multiply-adds, 8 bytes read (times the overlap of the tiles).
//
// A block makes TILE_X x TILE_Y outputs; one channel of M . u at a time lies in shared memory with its surroundings. A thread makes
// 8 x 2 neighbouring outputs: every row of the window that it reads feeds both rows of its outputs.
// Options (-D): SPLITS, how many blocks share the channels of an output, a divisor of CHANNELS.
// Launch: grid (tiles of the extended image, SPLITS, active images), block 128, static shared memory.
#include "filter_bank.cuh"

constexpr int PX = 8, PY = 2;
constexpr int THREADS_X = 4, THREADS_Y = 32, THREADS = THREADS_X * THREADS_Y;
constexpr int TILE_X = THREADS_X * PX, TILE_Y = THREADS_Y * PY;
constexpr int WINDOW = PX + SUPPORT - 1;
constexpr int WINDOW4 = (WINDOW + 3) / 4;
constexpr int SPAN_Y = TILE_Y + SUPPORT - 1;
constexpr int SPAN_X = TILE_X - PX + 4 * WINDOW4;
// A multiple of 4, for 16-byte reads, that is 4 (mod 16).
constexpr int SPAN_PITCH = (SPAN_X + 11) / 16 * 16 + 4;
constexpr int TAP_PITCH = (SUPPORT + 3) / 4 * 4;
constexpr int PER_SPLIT = CHANNELS / SPLITS;

struct Tile {
    float values[SPAN_Y * SPAN_PITCH];
    float taps[SUPPORT * TAP_PITCH];   // of one channel, rows and columns reversed
};

// One channel of M . u around the block's outputs; zero outside the image.
__device__ __forceinline__ void load_channel(Tile& tile, const float* __restrict__ dual, const float* __restrict__ mask,
                                             const float* __restrict__ filters, int top, int left, int channel,
                                             const Geometry& g) {
    for (int i = threadIdx.x; i < SPAN_Y * SPAN_X; i += THREADS) {
        const int row = i / SPAN_X, column = i % SPAN_X;
        const int y = top + row - (SUPPORT - 1), x = left + column - (SUPPORT - 1);
        float value = 0.0f;
        if (y >= 0 && y < g.height && x >= 0 && x < g.width) {
            const long long at = (long long)y * g.width + x;
            value = __ldg(dual + at);
            if (mask) value *= __ldg(mask + at);
        }
        tile.values[row * SPAN_PITCH + column] = value;
    }
    for (int i = threadIdx.x; i < SUPPORT * TAP_PITCH; i += THREADS) {
        const int ky = i / TAP_PITCH, kx = i % TAP_PITCH;
        const int tap = (SUPPORT - 1 - ky) * SUPPORT + SUPPORT - 1 - kx;
        tile.taps[i] = kx < SUPPORT ? __ldg(filters + (long long)tap * CHANNELS + channel) : 0.0f;
    }
}

// Add the channel in the tile to the thread's 2 x 8 outputs.
__device__ __forceinline__ void add_channel(float (&z)[PY][PX], const Tile& tile, int ty, int tx) {
    float above[TAP_PITCH], here[TAP_PITCH];
#pragma unroll
    for (int i = 0; i < TAP_PITCH; i++) above[i] = 0.0f;
    for (int row = 0; row < SUPPORT + PY - 1; row++) {
        float window[4 * WINDOW4];
        load_row<WINDOW4>(window, &tile.values[(ty * PY + row) * SPAN_PITCH + tx * PX]);
        const bool inside = row < SUPPORT;
        const float4* taps = reinterpret_cast<const float4*>(&tile.taps[(inside ? row : 0) * TAP_PITCH]);
#pragma unroll
        for (int i = 0; i < TAP_PITCH / 4; i++) {
            const float4 four = taps[i];
            here[4 * i] = inside ? four.x : 0.0f;
            here[4 * i + 1] = inside ? four.y : 0.0f;
            here[4 * i + 2] = inside ? four.z : 0.0f;
            here[4 * i + 3] = inside ? four.w : 0.0f;
        }
#pragma unroll
        for (int kx = 0; kx < SUPPORT; kx++)
#pragma unroll
            for (int p = 0; p < PX; p++) {
                z[0][p] = fmaf(here[kx], window[p + kx], z[0][p]);
                z[1][p] = fmaf(above[kx], window[p + kx], z[1][p]);
            }
#pragma unroll
        for (int i = 0; i < TAP_PITCH; i++) above[i] = here[i];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
synthesis(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ dual,
          const float* __restrict__ mask, float* __restrict__ parts, const float* __restrict__ filters, Geometry g) {
    __shared__ Tile tile;
    const int height = g.height + SUPPORT - 1, width = g.width + SUPPORT - 1;
    const int across = (width + TILE_X - 1) / TILE_X;
    const int top = blockIdx.x / across * TILE_Y, left = blockIdx.x % across * TILE_X;
    const int image = active[blockIdx.z], ty = threadIdx.x / THREADS_X, tx = threadIdx.x % THREADS_X;
    const long long pixels = (long long)g.height * g.width;
    float z[PY][PX] = {};
    for (int c = blockIdx.y * PER_SPLIT; c < (blockIdx.y + 1) * PER_SPLIT; c++) {
        const float* u = dual + ((long long)(slot[image] * g.batch + image) * CHANNELS + c) * pixels;
        const float* m = mask ? mask + ((long long)image * CHANNELS + c) * pixels : nullptr;
        load_channel(tile, u, m, filters, top, left, c, g);
        __syncthreads();
        add_channel(z, tile, ty, tx);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < PY; r++)
#pragma unroll
        for (int p = 0; p < PX; p++) {
            const int y = top + ty * PY + r, x = left + tx * PX + p;
            if (y < height && x < width) parts[(((long long)image * SPLITS + blockIdx.y) * height + y) * width + x] = z[r][p];
        }
}
