// totals, advance, stop, clear_dual, collapse_momentum, weigh_mask: the bookkeeping between the large kernels.
#include "filter_bank.cuh"

constexpr int THREADS = 256;

// output[b, first + i] = sum over the blocks of partials[b, block, i], i < columns, in a fixed order.
// partials (B, blocks, columns), output (B, width), float64. Launch: grid (active images), block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
totals(const int* __restrict__ active, const double* __restrict__ partials, int blocks, int columns,
       double* __restrict__ output, int first, int width) {
    __shared__ double scratch[THREADS / 32];
    const int image = active[blockIdx.x];
    for (int i = 0; i < columns; i++) {
        double sum = 0.0;
        for (int block = threadIdx.x; block < blocks; block += THREADS)
            sum += partials[((long long)image * blocks + block) * columns + i];
        sum = block_sum<THREADS>(sum, scratch);
        if (threadIdx.x == 0) output[image * width + first + i] = sum;
        __syncthreads();
    }
}

// After a step: the other slot becomes current, v = u + carried (u - u_previous), and the next rows of momentum and of sizes, the step
// sizes of u, are due; sizes has one row more than there are steps.
// Launch: grid (ceil(count / 256)), block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
advance(const int* __restrict__ active, int count, int* __restrict__ slot, float* __restrict__ carried,
        const float* __restrict__ momentum, float* __restrict__ step, const float* __restrict__ sizes, int* __restrict__ turn,
        Geometry g) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const int image = active[i];
    slot[image] = 1 - slot[image];
    carried[image] = momentum[turn[image] * g.batch + image];
    step[image] = sizes[(turn[image] + 1) * g.batch + image];
    turn[image]++;
}

// carried = 0: v = u. Launch: as advance.
extern "C" __global__ void __launch_bounds__(THREADS)
stop(const int* __restrict__ active, int count, float* __restrict__ carried) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count) carried[active[i]] = 0.0f;
}

// u = 0 in the current slot. Launch: grid (ceil(C H stride / 1024), 1, active images), block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
clear_dual(const int* __restrict__ active, const int* __restrict__ slot, float* __restrict__ dual, Geometry g) {
    const long long fours = (long long)g.channels * g.height * g.stride / 4, i = (long long)blockIdx.x * THREADS + threadIdx.x;
    const int image = active[blockIdx.z];
    if (i >= fours) return;
    float4* u = reinterpret_cast<float4*>(dual + element(slot[image] * g.batch + image, 0, 0, 0, g));
    u[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// u = u + carried (u - u_previous): the extrapolated point becomes the iterate. Launch: as clear_dual.
extern "C" __global__ void __launch_bounds__(THREADS)
collapse_momentum(const int* __restrict__ active, const int* __restrict__ slot, float* __restrict__ dual,
                  const float* __restrict__ carried, Geometry g) {
    const long long fours = (long long)g.channels * g.height * g.stride / 4, i = (long long)blockIdx.x * THREADS + threadIdx.x;
    const int image = active[blockIdx.z], now = slot[image] * g.batch + image, other = (1 - slot[image]) * g.batch + image;
    const float factor = carried[image];
    if (i >= fours || factor == 0.0f) return;
    float4* current = reinterpret_cast<float4*>(dual + element(now, 0, 0, 0, g)) + i;
    const float4 u = *current, old = reinterpret_cast<const float4*>(dual + element(other, 0, 0, 0, g))[i];
    *current = make_float4(fmaf(factor, u.x - old.x, u.x), fmaf(factor, u.y - old.y, u.y), fmaf(factor, u.z - old.z, u.z),
                           fmaf(factor, u.w - old.w, u.w));
}

// Where noise varies: mask = the sum over levels of weights[b, level] . mask at that level, which comes in level by level and adds up in
// `total` until the last; without `total` mask = weights[b, level]. weights (B, levels, H, W).
// Launch: grid (ceil(H stride / 256), C, active images), block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
weigh_mask(const int* __restrict__ active, const float* __restrict__ weights, int level, int levels, float* __restrict__ mask,
           float* __restrict__ total, Geometry g) {
    const int i = blockIdx.x * THREADS + threadIdx.x, y = i / g.stride, x = i % g.stride, image = active[blockIdx.z];
    if (y >= g.height || x >= g.width) return;
    const long long at = element(image, blockIdx.y, y, x, g);
    const float weight = weights[(((long long)image * levels + level) * g.height + y) * g.width + x];
    if (total == nullptr) {
        mask[at] = weight;
        return;
    }
    const float sum = fmaf(weight, mask[at], level > 0 ? total[at] : 0.0f);
    (level + 1 < levels ? total : mask)[at] = sum;
}
