// synthesis_border: what layer-wise zero padding takes off W^T (M . u) near the border, in gather form.
// u as in synthesis: of the current slot, or with `other` of the other one.
//
//     dropped[q] = sum over the taps t with p = q - t + K / 2 in the band, over c:  taken[class(p), t, c] (M . u)[c, p]
// for each plane with weights of its own.
//
// One warp per pixel q of the ring that is `band` + K / 2 wide; its lanes share the taps, and their sums are added in a fixed order.
// dropped (B, P, H, W); the pixels inside the ring are left alone. Twin: the band in kernels/cpu/filter_bank.py.
// Launch: grid (ceil(ring pixels / 4), 1, P active images), block 128. Options: SUPPORT.
#include "filter_bank.cuh"

constexpr int TAPS = SUPPORT * SUPPORT, WARPS = 4;

// Pixel number `index` of the ring of an image: the top rows, the bottom rows, then what is left of the sides, row by row.
__device__ __forceinline__ bool ring_pixel(int& y, int& x, int index, int ring, const Geometry& g) {
    const int top = min(ring, g.height), bottom = max(0, min(ring, g.height - ring)), middle = g.height - top - bottom;
    const int side = min(2 * ring, g.width);
    if (index < (top + bottom) * g.width) {
        y = index / g.width, x = index % g.width;
        if (y >= top) y += middle;
        return true;
    }
    index -= (top + bottom) * g.width;
    y = top + index / side, x = index % side;
    if (x >= ring) x = max(ring, g.width - ring) + x - ring;
    return index < middle * side;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
synthesis_border(const int* __restrict__ active, const int* __restrict__ slot, int other, const float* __restrict__ dual,
                 const float* __restrict__ mask, float* __restrict__ dropped, Border border, Geometry g) {
    const int image = active[blockIdx.z / PLANES], made = blockIdx.z % PLANES, lane = threadIdx.x % 32;
    const int plane = (other ? 1 - slot[image] : slot[image]) * g.batch + image;
    int y, x;
    if (!ring_pixel(y, x, blockIdx.x * WARPS + threadIdx.x / 32, border.band + SUPPORT / 2, g)) return;
    const long long step = (long long)g.height * g.stride;
    float total = 0.0f;
    for (int t = lane; t < TAPS; t += 32) {
        const int py = y - t / SUPPORT + SUPPORT / 2, px = x - t % SUPPORT + SUPPORT / 2;
        if (py < 0 || py >= g.height || px < 0 || px >= g.width || !in_band(py, px, border.band, g)) continue;
        const int tap = border.tap_of[position_class(py, px, border.band, g) * TAPS + t];
        if (tap < 0) continue;
        const float* weight = border.weights + ((long long)tap * PLANES + made) * g.channels;
        const float* u = dual + element(plane, 0, py, px, g);
        const float* m = mask ? mask + element(image, 0, py, px, g) : nullptr;
        for (int c = 0; c < g.channels; c++) total = fmaf(weight[c], mask ? u[c * step] * m[c * step] : u[c * step], total);
    }
    for (int distance = 16; distance > 0; distance /= 2) total += __shfl_down_sync(0xffffffffu, total, distance);
    if (lane == 0) dropped[(((long long)image * PLANES + made) * g.height + y) * g.width + x] = total;
}
