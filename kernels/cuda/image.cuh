// What kernels with one thread per pixel of a plane share: the summands of synthesis added up and folded, halos, places, sums of an image.
#pragma once
#include "filter_bank.cuh"

constexpr int THREADS = 256;

// The output of synthesis: one extended image per summand (tile_y = 0), or overlapping tiles of (tile + support - 1)^2.
struct Parts {
    int splits, support, tile_y, tile_x;
    const float* __restrict__ values;
};

// W^T (M . u) before the extension is folded back, at (y, x) of the extended image.
__device__ __forceinline__ float extended(const Parts& parts, int image, int y, int x, const Geometry& g) {
    const int spread = parts.support - 1;
    float total = 0.0f;
    if (parts.tile_y == 0) {
        const int height = g.height + spread, width = g.width + spread;
        for (int s = 0; s < parts.splits; s++)
            total += parts.values[(((long long)image * parts.splits + s) * height + y) * width + x];
        return total;
    }
    const int down = (g.height + parts.tile_y - 1) / parts.tile_y, across = (g.width + parts.tile_x - 1) / parts.tile_x;
    const int span_y = parts.tile_y + spread, span_x = parts.tile_x + spread;
    for (int s = 0; s < parts.splits; s++)
        for (int ty = max(0, y - spread) / parts.tile_y; ty <= min(down - 1, y / parts.tile_y); ty++)
            for (int tx = max(0, x - spread) / parts.tile_x; tx <= min(across - 1, x / parts.tile_x); tx++) {
                const long long tile = (((long long)image * parts.splits + s) * down + ty) * across + tx;
                total += parts.values[(tile * span_y + y - ty * parts.tile_y) * span_x + x - tx * parts.tile_x];
            }
    return total;
}

// The places of the extended image that show pixel `index` of a row or column: itself, and up to two mirror images outside.
__device__ __forceinline__ int place(int number, int index, int length, int reach) {
    return reach + (number == 0 ? index : number == 1 ? -1 - index : 2 * length - 1 - index);
}

__device__ __forceinline__ bool has_place(int number, int index, int length, int reach) {
    return number == 0 || (number == 1 ? index < reach : index >= length - reach);
}

// W^T (M . u) at (y, x), the extension of the boundary folded back.
__device__ __forceinline__ float folded(const Parts& parts, int image, int y, int x, bool symmetric, const Geometry& g) {
    const int reach = parts.support / 2;
    if (!symmetric || (y >= reach && y < g.height - reach && x >= reach && x < g.width - reach))
        return extended(parts, image, y + reach, x + reach, g);
    float total = 0.0f;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            if (has_place(i, y, g.height, reach) && has_place(j, x, g.width, reach))
                total += extended(parts, image, place(i, y, g.height, reach), place(j, x, g.width, reach), g);
    return total;
}

// image[plane, y, x] = value, and the mirror images of that pixel in the halo; with zero padding the halo stays zero.
__device__ __forceinline__ void store_extended(float* __restrict__ image, int plane, int y, int x, float value, bool symmetric,
                                               const Geometry& g) {
    image[image_element(plane, y, x, g)] = value;
    if (!symmetric || (y >= g.halo && y < g.height - g.halo && x >= g.halo && x < g.width - g.halo)) return;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            if (has_place(i, y, g.height, g.halo) && has_place(j, x, g.width, g.halo)) {
                const int py = place(i, y, g.height, g.halo), px = place(j, x, g.width, g.halo);
                image[image_element(plane, py - g.halo, px - g.halo, g)] = value;
            }
}

struct Pixel {
    int owner, image, y, x;              // owner: the image; image: the plane of it, among those of all images
    long long flat;                      // in a (B, P, H, W) array
    bool inside;
};

__device__ __forceinline__ Pixel pixel(const int* __restrict__ active, const Geometry& g) {
    const long long pixels = (long long)g.height * g.width, index = (long long)blockIdx.x * THREADS + threadIdx.x;
    Pixel at;
    at.owner = active[blockIdx.z / PLANES];
    at.image = at.owner * PLANES + blockIdx.z % PLANES;
    at.inside = index < pixels;
    at.y = static_cast<int>(index / g.width);
    at.x = static_cast<int>(index % g.width);
    at.flat = at.image * pixels + index;
    return at;
}

// W^T (M . u) at a pixel, with what the border takes off.
__device__ __forceinline__ float folded_here(const Parts& parts, int band, const float* __restrict__ dropped, const Pixel& at,
                                             bool symmetric, const Geometry& g) {
    const float z = folded(parts, at.image, at.y, at.x, symmetric, g);
    return band > 0 && in_band(at.y, at.x, band + parts.support / 2, g) ? z - dropped[at.flat] : z;
}

// sums[image, block, :] = the block's sums of `values`; those of the planes of an image follow each other.
template <int N>
__device__ __forceinline__ void write_sums(double* __restrict__ sums, const double (&values)[N], int image) {
    __shared__ double scratch[N][THREADS / 32];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const double total = block_sum<THREADS>(values[i], scratch[i]);
        if (threadIdx.x == 0) sums[((long long)image * gridDim.x + blockIdx.x) * N + i] = total;
    }
}
