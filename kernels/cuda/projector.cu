// line_sums, project, view_sums, back_project, smear: X-ray projection of pixel images and its exact adjoint, distance-driven.
//
// The formulas, the tables of the views and the shapes stand in the twin, kernels/cpu/projector.py. An edge takes two neighbouring
// running sums, so a warp reads one or two runs of 128 bytes for 32 of them; both sums and tables stay in the second cache.
//
// Launches, V views of K cells, B images (bindings/projector.py):
//     line_sums, view_sums   grid (ceil(lines / 4), 1, B) of all H + W lines or V views, block 128: a warp for each line
//     project                grid (ceil(K / 124), V, B), block 128: a thread for each edge, neighbours in a warp bound 31 cells
//     back_project, smear    grid (ceil(W / 32), ceil(H / 8), B), block (32, 8): a thread for each pixel
#include "device.cuh"

constexpr int COEFFICIENTS = 8, WARPS = 4, CELLS_PER_WARP = 31;
constexpr unsigned ALL = 0xffffffffu;

struct Scan {
    int batch, height, width, views, detectors;
};

// Coefficients of one view.
struct View {
    float centre, t1, t2, u1, u2, delta, lambda;
};

__device__ __forceinline__ View view_of(const float* __restrict__ views, int v) {
    const float* at = views + (long long)v * COEFFICIENTS;
    return View{at[0], at[1], at[2], at[3], at[4], at[5], at[6]};
}

// Running sums over `count` values, `step` apart and each times a weight, by one warp; the last one twice.
__device__ __forceinline__ void running_sums(const float* __restrict__ values, const float* __restrict__ weights, int count,
                                             long long step, float* __restrict__ sums) {
    const int lane = threadIdx.x % 32;
    double carried = 0.0;
    if (lane == 0) sums[0] = 0.0f;
    for (int start = 0; start < count; start += 32) {
        const int i = start + lane;
        const float weight = i < count && weights ? weights[i] : 1.0f;
        double total = i < count ? (double)(weight * values[i * step]) : 0.0;
        for (int reach = 1; reach < 32; reach *= 2) {
            const double lower = __shfl_up_sync(ALL, total, reach);
            if (lane >= reach) total += lower;
        }
        total += carried;
        if (i < count) sums[i + 1] = (float)total;
        carried = __shfl_sync(ALL, total, 31);
    }
    if (lane == 0) sums[count + 1] = (float)carried;
}

// The running sum at `whole` + `share`.
__device__ __forceinline__ float interpolate(const float* __restrict__ sums, int whole, float share) {
    const float left = sums[whole], right = sums[whole + 1];
    return fmaf(share, right - left, left);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
line_sums(const float* __restrict__ x, float* __restrict__ rows, float* __restrict__ columns, Scan s) {
    const int b = blockIdx.z, line = blockIdx.x * WARPS + threadIdx.x / 32;
    if (line >= s.height + s.width) return;
    const float* image = x + (long long)b * s.height * s.width;
    if (line < s.height)
        running_sums(image + (long long)line * s.width, nullptr, s.width, 1,
                     rows + ((long long)b * s.height + line) * (s.width + 2));
    else
        running_sums(image + (line - s.height), nullptr, s.height, s.width,
                     columns + ((long long)b * s.width + line - s.height) * (s.height + 2));
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
project(const float* __restrict__ rows, const float* __restrict__ columns, const float* __restrict__ edges,
        const float* __restrict__ views, const float* __restrict__ gains, const int* __restrict__ major, float* __restrict__ y,
        Scan s) {
    const int lane = threadIdx.x % 32, v = blockIdx.y, b = blockIdx.z;
    const int k = (blockIdx.x * WARPS + threadIdx.x / 32) * CELLS_PER_WARP + lane, edge = min(k, s.detectors);
    const bool by_rows = major[v] == 0;
    const int count = by_rows ? s.height : s.width, length = by_rows ? s.width : s.height;
    const float* lines = (by_rows ? rows : columns) + (long long)b * count * (length + 2);
    const float* starts = edges + (long long)v * 2 * (s.detectors + 1);
    const float start = starts[edge], slope = starts[s.detectors + 1 + edge];
    const float lambda = view_of(views, v).lambda, middle = 0.5f * (count - 1);
    float total = 0.0f;
    for (int line = 0; line < count; line++, lines += length + 2) {
        const float rho = line - middle;
        const float place = fminf(fmaxf(fmaf(slope, rho, start), 0.0f), (float)length), whole = floorf(place);
        const float value = interpolate(lines, (int)whole, place - whole), next = __shfl_down_sync(ALL, value, 1);
        total = fmaf(1.0f / (1.0f + lambda * rho), next - value, total);
    }
    if (lane < CELLS_PER_WARP && k < s.detectors)
        y[((long long)b * s.views + v) * s.detectors + k] = gains[(long long)v * s.detectors + k] * total;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
view_sums(const float* __restrict__ y, const float* __restrict__ weights, float* __restrict__ sums, Scan s) {
    const int b = blockIdx.z, v = blockIdx.x * WARPS + threadIdx.x / 32;
    if (v >= s.views) return;
    const long long view = (long long)b * s.views + v;
    running_sums(y + view * s.detectors, weights + (long long)v * s.detectors, s.detectors, 1, sums + view * (s.detectors + 2));
}

// The running sum of a view at (xi, rho).
__device__ __forceinline__ float sum_at(const float* __restrict__ sums, int detectors, const View& view, float xi, float rho) {
    const float distance = 1.0f + (view.u1 * xi + view.u2 * rho);
    const float somewhere = view.centre + (view.t1 * xi + view.t2 * rho) / distance;
    const float place = fminf(fmaxf(somewhere, 0.0f), (float)detectors), cell = floorf(place);
    const float ahead = fmaf(view.delta, cell + 1.0f - view.centre, 1.0f), here = fmaf(view.delta, place - view.centre, 1.0f);
    return interpolate(sums, (int)cell, (place - cell) * ahead / here);
}

extern "C" __global__ void __launch_bounds__(256)
back_project(const float* __restrict__ sums, const float* __restrict__ views, const int* __restrict__ major,
             float* __restrict__ x, Scan s) {
    const int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 8 + threadIdx.y, b = blockIdx.z;
    if (column >= s.width || row >= s.height) return;
    sums += (long long)b * s.views * (s.detectors + 2);
    float total = 0.0f;
    for (int v = 0; v < s.views; v++, sums += s.detectors + 2) {
        const View view = view_of(views, v);
        const bool by_rows = major[v] == 0;
        const float xi = by_rows ? column - 0.5f * s.width : row - 0.5f * s.height;
        const float rho = by_rows ? row - 0.5f * (s.height - 1) : column - 0.5f * (s.width - 1);
        total += sum_at(sums, s.detectors, view, xi + 1.0f, rho) - sum_at(sums, s.detectors, view, xi, rho);
    }
    x[((long long)b * s.height + row) * s.width + column] = total;
}

extern "C" __global__ void __launch_bounds__(256)
smear(const float* __restrict__ cells, const float* __restrict__ views, const int* __restrict__ major, float* __restrict__ x,
      Scan s) {
    const int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 8 + threadIdx.y, b = blockIdx.z;
    if (column >= s.width || row >= s.height) return;
    const float right = column - 0.5f * (s.width - 1), down = row - 0.5f * (s.height - 1);
    cells += (long long)b * s.views * (s.detectors + 3);
    float total = 0.0f;
    for (int v = 0; v < s.views; v++, cells += s.detectors + 3) {
        const View view = view_of(views, v);
        const bool by_rows = major[v] == 0;
        const float xi = by_rows ? right : down, rho = by_rows ? down : right;
        const float near = 1.0f / (1.0f + (view.u1 * xi + view.u2 * rho));
        const float somewhere = fmaf(view.t1 * xi + view.t2 * rho, near, view.centre + 0.5f);
        const float place = fminf(fmaxf(somewhere, 0.0f), (float)(s.detectors + 1)), cell = floorf(place);
        total = fmaf(interpolate(cells, (int)cell, place - cell), near * near, total);
    }
    x[((long long)b * s.height + row) * s.width + column] = total;
}
