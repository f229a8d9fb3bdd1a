// set_image, get_image, gather_image, image_step, primal_sums, outer_sums: everything that happens to images, one thread per pixel.
//
// image_step adds up the summands of W^T (M . u), moves x, and measures what the stopping rules and the certificate need. With
// z = W^T (M . u), x(u) = clip(y - z, low, high) and x0 the extrapolated image that the dual step started from:
//
//     z_v = z_new + momentum (z_new - z_old)                     by linearity
//     x   = clip(y - z_v, low, high)
//     sums = ( <z_new, x0>,  1/2 ||x0 - y||^2,  primal-dual part,  ||x(u_new) - x(u_old)||^2,  ||x(u_old)||^2 )
//
// The primal-dual part (x0 - x(u)) . ((x0 + x(u)) / 2 - y + z_new) >= 0 and the rest: see the twin, kernels/cpu/image.py.
// With `refresh` the state stays in its slot and momentum is zero; otherwise it goes to the other slot, and `advance` follows.
//
// momentum (steps, B), row turn[b]; sums (B, blocks, 5 or 2) float64, one row per block; dropped (B, H, W) is what synthesis_border
// takes off; where the band of the border is 0 it is not read. Cost: about 50 bytes per pixel.
// Launch: grid (ceil(H W / 256), 1, active images), block 256, static shared memory.
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
    int image, y, x;
    long long flat;                      // in a (B, H, W) array
    bool inside;
};

__device__ __forceinline__ Pixel pixel(const int* __restrict__ active, const Geometry& g) {
    const long long pixels = (long long)g.height * g.width, index = (long long)blockIdx.x * THREADS + threadIdx.x;
    Pixel at;
    at.image = active[blockIdx.z];
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

// sums[image, block, :] = the block's sums of `values`.
template <int N>
__device__ __forceinline__ void write_sums(double* __restrict__ sums, const double (&values)[N], int image) {
    __shared__ double scratch[N][THREADS / 32];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const double total = block_sum<THREADS>(values[i], scratch[i]);
        if (threadIdx.x == 0) sums[((long long)image * gridDim.x + blockIdx.x) * N + i] = total;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
set_image(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ values,
          float* __restrict__ image, int symmetric, Geometry g) {
    const Pixel at = pixel(active, g);
    if (at.inside) store_extended(image, slot[at.image] * g.batch + at.image, at.y, at.x, values[at.flat], symmetric, g);
}

extern "C" __global__ void __launch_bounds__(THREADS)
get_image(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
          float* __restrict__ values, Geometry g) {
    const Pixel at = pixel(active, g);
    if (at.inside) values[at.flat] = image[image_element(slot[at.image] * g.batch + at.image, at.y, at.x, g)];
}

// z = W^T u from the summands of synthesis, for a solver that keeps its images itself.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
gather_image(const int* __restrict__ active, Parts parts, int band, const float* __restrict__ dropped, int symmetric,
             float* __restrict__ z, Geometry g) {
    const Pixel at = pixel(active, g);
    if (at.inside) z[at.flat] = folded_here(parts, band, dropped, at, symmetric, g);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
image_step(const int* __restrict__ active, const int* __restrict__ slot, int refresh, Parts parts, int band,
           const float* __restrict__ dropped, const float* __restrict__ y, float* __restrict__ z, float* __restrict__ image,
           float low, float high, const float* __restrict__ momentum, const int* __restrict__ turn, int symmetric,
           double* __restrict__ sums, Geometry g) {
    const Pixel at = pixel(active, g);
    const int source = slot[at.image], target = refresh ? source : 1 - source;
    double total[5] = {};
    if (at.inside) {
        const float factor = refresh ? 0.0f : momentum[turn[at.image] * g.batch + at.image];
        const long long pixels = (long long)g.batch * g.height * g.width;
        const int old_plane = source * g.batch + at.image, new_plane = target * g.batch + at.image, primal = 2 * g.batch;
        const float z_new = folded_here(parts, band, dropped, at, symmetric, g);
        const float here = y[at.flat], z_old = z[source * pixels + at.flat];
        const float x0 = image[image_element(old_plane, at.y, at.x, g)];
        const float u_old = image[image_element(primal + old_plane, at.y, at.x, g)];
        const float u_new = fminf(fmaxf(here - z_new, low), high);
        const float extrapolated = refresh ? z_new : fmaf(factor, z_new - z_old, z_new);
        z[target * pixels + at.flat] = z_new;
        store_extended(image, new_plane, at.y, at.x, fminf(fmaxf(here - extrapolated, low), high), symmetric, g);
        store_extended(image, primal + new_plane, at.y, at.x, u_new, symmetric, g);
        total[0] = z_new * x0;
        total[1] = 0.5f * (x0 - here) * (x0 - here);
        total[2] = (x0 - u_new) * (0.5f * (x0 + u_new) - here + z_new);
        total[3] = (u_new - u_old) * (u_new - u_old);
        total[4] = u_old * u_old;
    }
    write_sums(sums, total, at.image);
}

extern "C" __global__ void __launch_bounds__(THREADS)
primal_sums(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ y,
            const float* __restrict__ z, const float* __restrict__ image, double* __restrict__ sums, Geometry g) {
    const Pixel at = pixel(active, g);
    double total[2] = {};
    if (at.inside) {
        const int plane = slot[at.image] * g.batch + at.image;
        const float x = image[image_element(2 * g.batch + plane, at.y, at.x, g)], difference = x - y[at.flat];
        total[0] = z[slot[at.image] * (long long)g.batch * g.height * g.width + at.flat] * x;
        total[1] = 0.5f * difference * difference;
    }
    write_sums(sums, total, at.image);
}

// sums = (||x - reference||^2, ||reference||^2) for the image x in `slot`; then reference = x.
extern "C" __global__ void __launch_bounds__(THREADS)
outer_sums(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
           float* __restrict__ reference, double* __restrict__ sums, Geometry g) {
    const Pixel at = pixel(active, g);
    double total[2] = {};
    if (at.inside) {
        const float x = image[image_element(slot[at.image] * g.batch + at.image, at.y, at.x, g)];
        const float before = reference[at.flat], difference = x - before;
        total[0] = static_cast<double>(difference) * difference;
        total[1] = static_cast<double>(before) * before;
        reference[at.flat] = x;
    }
    write_sums(sums, total, at.image);
}
