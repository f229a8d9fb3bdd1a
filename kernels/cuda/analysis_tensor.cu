// analysis, masked_norm, dual_step, anchored_step on tensor cores: the same names, arguments and meaning as in analysis.cu; see tensor.cuh for the
// precisions.
//
// A block makes 16 x 32 pixels of CHANNEL_BLOCK channels: its weights come by asynchronous copies in two halves, so that the first
// rows of the filters are used while the last ones still arrive. A warp makes 2 rows, one after the other; a product takes 16 taps
// of a row of the filter (zeros from SUPPORT on) from neighbouring pixels of one row of the image.
// The tiles of all planes lie in shared memory at once.
// filters (C / CHANNEL_BLOCK, P, SUPPORT, row slabs, CHANNEL_BLOCK / 16, 2, 32, 4) words; l1 as in analysis.cu.
// Launch: grid (16 x 32 tiles, C / CHANNEL_BLOCK, active images), block 256, dynamic shared memory of the slabs and the image tile.
// Options: SUPPORT, CHANNEL_BLOCK (16, 32, 48 or 64), BF16X3.
#include "filter_bank.cuh"
#include "tensor.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, TILE_Y = 16, TILE_X = 32;
constexpr int M = CHANNEL_BLOCK / DEPTH, N = TILE_X / 8, REACH = SUPPORT / 2;
constexpr int ROW_SLABS = (SUPPORT + DEPTH - 1) / DEPTH, ROW_WORDS = ROW_SLABS * M * SLAB, HALF = (PLANES * SUPPORT + 1) / 2;
constexpr int SPAN_Y = TILE_Y + SUPPORT - 1, SPAN_X = TILE_X + ROW_SLABS * DEPTH;

#ifdef BF16X3
constexpr int TILE_WORDS = 2 * SPAN_Y * SPAN_X;
#else
constexpr int TILE_WORDS = SPAN_Y * SPAN_X;
#endif
constexpr int ROWS = PLANES * SUPPORT;                 // of the filters, plane after plane

struct Place {
    int image, channel, top, left;
};

__device__ __forceinline__ Place place(const int* __restrict__ active, const Geometry& g) {
    const int across = (g.width + TILE_X - 1) / TILE_X;
    return {active[blockIdx.z], static_cast<int>(blockIdx.y) * CHANNEL_BLOCK, static_cast<int>(blockIdx.x) / across * TILE_Y,
            static_cast<int>(blockIdx.x) % across * TILE_X};
}

// The image tile as words of `Values`: TF32 numbers, or pairs of a pixel and its right neighbour, high parts then low parts.
__device__ __forceinline__ void load_tile(uint32_t* tile, const float* __restrict__ image, int plane, const Place& at,
                                          const Geometry& g) {
    const int corner = g.halo - REACH;
    const float* from = image + (long long)plane * g.rows * g.pitch;
    for (int i = threadIdx.x; i < SPAN_Y * SPAN_X; i += THREADS) {
        const int y = at.top + i / SPAN_X + corner, x = at.left + i % SPAN_X + corner;
        const float pixel = y < g.rows && x < g.pitch ? __ldg(from + (long long)y * g.pitch + x) : 0.0f;
#ifdef BF16X3
        const float next = y < g.rows && x + 1 < g.pitch ? __ldg(from + (long long)y * g.pitch + x + 1) : 0.0f;
        tile[i] = high_pair(pixel, next);
        tile[SPAN_Y * SPAN_X + i] = low_pair(pixel, next);
#else
        tile[i] = to_tf32(pixel);
#endif
    }
}

// Taps 16 slab + 4 quad .. + 3 of the filters' row at pixels x + group; `row` is a row of the tile.
__device__ __forceinline__ Values neighbours(const uint32_t* row, int x, int slab) {
    const int lane = threadIdx.x % 32, at = x + lane / 4 + slab * DEPTH + lane % 4 * 4;
#ifdef BF16X3
    const uint32_t* low = row + SPAN_Y * SPAN_X;
    return {{row[at], row[at + 2], low[at], low[at + 2]}};
#else
    return {{row[at], row[at + 1], row[at + 2], row[at + 3]}};
#endif
}

// q += rows first .. last - 1 of the filters of all planes for row `row` of the tiles.
__device__ __forceinline__ void accumulate(float (&q)[M][N][4], const uint32_t* slabs, const uint32_t* tile, int row, int first,
                                           int last) {
#pragma unroll 1
    for (int i = first; i < last; i++) {
        const int plane = PLANES == 1 ? 0 : i / SUPPORT;
        const uint32_t* at = tile + plane * TILE_WORDS + (row + i - plane * SUPPORT) * SPAN_X;
#pragma unroll
        for (int slab = 0; slab < ROW_SLABS; slab++) {
            Values values[N];
#pragma unroll
            for (int n = 0; n < N; n++) values[n] = neighbours(at, 8 * n, slab);
#pragma unroll
            for (int m = 0; m < M; m++) multiply(q[m], slabs + i * ROW_WORDS + (slab * M + m) * SLAB, values);
        }
    }
}

// Take the intermediate values that layer-wise zero padding drops, and clear what lies outside the image.
__device__ __forceinline__ void finish(float (&q)[M][N][4], const float* __restrict__ image, int plane, int y, const Place& at,
                                       const Border& border, const Geometry& g) {
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int x = at.left + 8 * n + 2 * quad + i;
            if (x >= g.width || y >= g.height) {
#pragma unroll
                for (int m = 0; m < M; m++) q[m][n][i] = 0.0f, q[m][n][i + 2] = 0.0f;
            } else if (in_band(y, x, border.band, g)) {
                const int kind = position_class(y, x, border.band, g);
                for (int tap = border.first[kind]; tap < border.first[kind + 1]; tap++)
#pragma unroll 1
                    for (int p = 0; p < PLANES; p++) {
                        const float pixel =
                            __ldg(image + image_element(plane + p, y + border.row[tap] - REACH, x + border.column[tap] - REACH, g));
                        const float* weight = border.weights + ((long long)tap * PLANES + p) * g.channels + at.channel + group;
#pragma unroll
                        for (int m = 0; m < M; m++) {
                            q[m][n][i] = fmaf(-pixel, __ldg(weight + m * DEPTH), q[m][n][i]);
                            q[m][n][i + 2] = fmaf(-pixel, __ldg(weight + m * DEPTH + 8), q[m][n][i + 2]);
                        }
                    }
            }
        }
}

// Calls use(where, W x, W x one pixel on) for everything the block makes; `where` counts from the first element of an image's plane.
template <class Use>
__device__ __forceinline__ void filter(const Place& at, int slot, const float* __restrict__ image,
                                       const uint32_t* __restrict__ filters, const Border& border, const Geometry& g, Use use) {
    DYNAMIC_SHARED(uint32_t, slabs);
    uint32_t* tile = slabs + ROWS * ROW_WORDS;
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    const int plane = (slot * g.batch + at.image) * PLANES;
    const uint32_t* from = filters + (long long)blockIdx.y * ROWS * ROW_WORDS;
    copy_slabs<THREADS>(slabs, from, HALF * ROW_SLABS * M);
    cp_async_commit();
    copy_slabs<THREADS>(slabs + HALF * ROW_WORDS, from + HALF * ROW_WORDS, (ROWS - HALF) * ROW_SLABS * M);
    cp_async_commit();
    load_tile(tile, image, plane, at, g);
#if PLANES > 1    // a loop of one turn costs the compiler registers
#pragma unroll 1
    for (int p = 1; p < PLANES; p++) load_tile(tile + p * TILE_WORDS, image, plane + p, at, g);
#endif
    for (int row = warp; row < TILE_Y; row += WARPS) {
        float q[M][N][4] = {};
        if (row == warp) {
            cp_async_wait<1>();
            __syncthreads();
        }
        accumulate(q, slabs, tile, row, 0, HALF);
        if (row == warp) {
            cp_async_wait<0>();
            __syncthreads();
        }
        if (at.top + row >= g.height) continue;
        accumulate(q, slabs, tile, row, HALF, ROWS);
        finish(q, image, plane, at.top + row, at, border, g);
        const long long step = 8LL * g.height * g.stride, first = element(0, at.channel + group, at.top + row, at.left + 2 * quad, g);
#pragma unroll
        for (int n = 0; n < N; n++) {
            if (at.left + 8 * n + 2 * quad >= g.width) break;
#pragma unroll
            for (int m = 0; m < M; m++) {
                use(first + 8 * n + 2 * m * step, q[m][n][0], q[m][n][1]);
                use(first + 8 * n + (2 * m + 1) * step, q[m][n][2], q[m][n][3]);
            }
        }
    }
}

__device__ __forceinline__ float2 two(const float* from) { return *reinterpret_cast<const float2*>(from); }

__device__ __forceinline__ float2 mask_at(const float* __restrict__ mask, long long where) {
    return mask ? two(mask + where) : make_float2(1.0f, 1.0f);
}

__device__ __forceinline__ void write_sum(double* __restrict__ l1, double sum, int image) {
    __shared__ double scratch[WARPS];
    sum = block_sum<THREADS>(sum, scratch);
    if (threadIdx.x == 0) l1[((long long)image * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
analysis(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
         const float* __restrict__ mask, int magnitude, float* __restrict__ output, const int* __restrict__ output_slot,
         const uint32_t* __restrict__ filters, Border border, Geometry g) {
    const Place at = place(active, g);
    const float* m = mask ? mask + element(at.image, 0, 0, 0, g) : nullptr;
    float* to = output + element(output_slot[at.image] * g.batch + at.image, 0, 0, 0, g);
    filter(at, slot[at.image], image, filters, border, g, [&](long long where, float a, float b) {
        const float2 weight = mask_at(m, where);
        a *= weight.x, b *= weight.y;
        if (magnitude) a = fabsf(a), b = fabsf(b);
        *reinterpret_cast<float2*>(to + where) = make_float2(a, b);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
masked_norm(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
            const float* __restrict__ mask, double* __restrict__ l1, const uint32_t* __restrict__ filters, Border border,
            Geometry g) {
    const Place at = place(active, g);
    const float* m = mask ? mask + element(at.image, 0, 0, 0, g) : nullptr;
    float sum = 0.0f;
    filter(at, slot[at.image], image, filters, border, g, [&](long long where, float a, float b) {
        const float2 weight = mask_at(m, where);
        sum += fabsf(a * weight.x) + fabsf(b * weight.y);
    });
    write_sum(l1, sum, at.image);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
dual_step(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
          float* __restrict__ dual, const float* __restrict__ mask, const float* __restrict__ step,
          const float* __restrict__ bound, const float* __restrict__ carried, double* __restrict__ l1,
          const uint32_t* __restrict__ filters, Border border, Geometry g) {
    const Place at = place(active, g);
    const int current = slot[at.image];
    const float* m = mask ? mask + element(at.image, 0, 0, 0, g) : nullptr;
    const float* now = dual + element(current * g.batch + at.image, 0, 0, 0, g);
    float* other = dual + element((1 - current) * g.batch + at.image, 0, 0, 0, g);
    const float length = step[at.image], limit = bound[at.image], momentum = carried[at.image];
    float sum = 0.0f;
    filter(at, current, image, filters, border, g, [&](long long where, float a, float b) {
        const float2 weight = mask_at(m, where);
        const float2 u = two(now + where), old = two(other + where);
        a *= weight.x, b *= weight.y;
        sum += fabsf(a) + fabsf(b);
        a = fmaf(length, a, fmaf(momentum, u.x - old.x, u.x));
        b = fmaf(length, b, fmaf(momentum, u.y - old.y, u.y));
        *reinterpret_cast<float2*>(other + where) =
            make_float2(fmaxf(fminf(a, limit), -limit), fmaxf(fminf(b, limit), -limit));
    });
    write_sum(l1, sum, at.image);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
anchored_step(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
              float* __restrict__ dual, const float* __restrict__ mask, const float* __restrict__ step,
              const float* __restrict__ bound, const float* __restrict__ weight, double* __restrict__ l1,
              const uint32_t* __restrict__ filters, Border border, Geometry g) {
    const Place at = place(active, g);
    const int current = slot[at.image];
    const float* m = mask ? mask + element(at.image, 0, 0, 0, g) : nullptr;
    float* iterate = dual + element(current * g.batch + at.image, 0, 0, 0, g);
    const float length = step[at.image], limit = bound[at.image], share = weight[at.image], w = share > 1.0f ? 0.5f * share : share;
    float* start = share > 1.0f ? iterate : dual + element((1 - current) * g.batch + at.image, 0, 0, 0, g);
    float sum = 0.0f;
    filter(at, current, image, filters, border, g, [&](long long where, float a, float b) {
        const float2 here = mask_at(m, where), u = two(iterate + where);
        const float2 most = make_float2(limit * fabsf(here.x), limit * fabsf(here.y));    // finite beyond the width, of any sign
        a = fmaxf(fminf(fmaf(length, a, u.x), most.x), -most.x);
        b = fmaxf(fminf(fmaf(length, b, u.y), most.y), -most.y);
        const float dx = a - u.x, dy = b - u.y;
        sum += fmaf(dx, dx, dy * dy);
        if (w > 0.0f) {
            const float2 anchor = two(start + where);
            a = fmaf(w, a + dx - anchor.x, anchor.x), b = fmaf(w, b + dy - anchor.y, anchor.y);
        } else {
            *reinterpret_cast<float2*>(start + where) = make_float2(a, b);
        }
        *reinterpret_cast<float2*>(iterate + where) = make_float2(a, b);
    });
    write_sum(l1, sum, at.image);
}
