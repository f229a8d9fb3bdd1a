// One mistake per kernel; NAME_right is the same kernel without it. All of them read x, write y (n floats each, n = 256
// threads in one block unless bugs.py says otherwise) and may use n floats of dynamic shared memory.
#include "device.cuh"

#define KERNEL(name) extern "C" __global__ void name(const float* x, float* y, int n)

constexpr int N = 256;
constexpr unsigned ALL = 0xffffffffu;

// ------------------------------------------------------------------------------------------------------------- barriers
KERNEL(missing_barrier) {
    __shared__ float part[N];
    int t = threadIdx.x;
    part[t] = x[t];
    y[t] = part[n - 1 - t];
}
KERNEL(missing_barrier_right) {
    __shared__ float part[N];
    int t = threadIdx.x;
    part[t] = x[t];
    __syncthreads();
    y[t] = part[n - 1 - t];
}

// The second turn overwrites what others still read.
KERNEL(missing_barrier_before_reuse) {
    __shared__ float part[N];
    int t = threadIdx.x;
    float sum = 0.0f;
    for (int turn = 0; turn < 2; turn++) {
        part[t] = x[t] + static_cast<float>(turn);
        __syncthreads();
        sum += part[n - 1 - t];
    }
    y[t] = sum;
}
KERNEL(missing_barrier_before_reuse_right) {
    __shared__ float part[N];
    int t = threadIdx.x;
    float sum = 0.0f;
    for (int turn = 0; turn < 2; turn++) {
        part[t] = x[t] + static_cast<float>(turn);
        __syncthreads();
        sum += part[n - 1 - t];
        __syncthreads();
    }
    y[t] = sum;
}

KERNEL(missing_syncwarp) {
    __shared__ float part[N];
    int t = threadIdx.x;
    part[t] = x[t];
    y[t] = part[t ^ 1];
}
KERNEL(missing_syncwarp_right) {
    __shared__ float part[N];
    int t = threadIdx.x;
    part[t] = x[t];
    __syncwarp();
    y[t] = part[t ^ 1];
}

// A shuffle brings the lanes together, but does not order their accesses to memory.
KERNEL(shuffle_as_barrier) {
    __shared__ float part[N];
    int t = threadIdx.x;
    part[t] = x[t];
    float own = __shfl_sync(ALL, x[t], t % 32);
    y[t] = part[t ^ 1] + 0.0f * own;
}

// __syncwarp orders the lanes of one warp only.
KERNEL(syncwarp_for_block) {
    __shared__ float part[N];
    int t = threadIdx.x;
    part[t] = x[t];
    __syncwarp();
    y[t] = part[n - 1 - t];
}

KERNEL(return_before_barrier) {
    int t = threadIdx.x;
    if (t >= n - 3) return;
    __syncthreads();
    y[t] = x[t];
}
KERNEL(return_before_barrier_right) {
    int t = threadIdx.x;
    __syncthreads();
    if (t >= n - 3) return;
    y[t] = x[t];
}

KERNEL(barrier_in_two_places) {
    int t = threadIdx.x;
    if (t < 7) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[t] = x[t];
}

// ------------------------------------------------------------------------------------------------------ warp operations
KERNEL(lanes_missing) {
    int t = threadIdx.x;
    y[t] = x[t];
    if (t < 16) y[t] = __shfl_xor_sync(ALL, x[t], 1);
}
KERNEL(lanes_missing_right) {
    int t = threadIdx.x;
    y[t] = x[t];
    if (t < 16) y[t] = __shfl_xor_sync(0x0000ffffu, x[t], 1);
}

KERNEL(caller_not_in_mask) {
    int t = threadIdx.x;
    y[t] = __shfl_xor_sync(0x0000ffffu, x[t], 1);
}

KERNEL(source_not_in_mask) {
    int t = threadIdx.x;
    y[t] = x[t];
    if (t < 16) y[t] = __shfl_sync(0x0000ffffu, x[t], 20);
}

KERNEL(different_operations) {
    int t = threadIdx.x;
    float value = x[t];
    if (t % 2) {
        value = __shfl_sync(ALL, value, 0);
    } else {
        value = static_cast<float>(__ballot_sync(ALL, 1));
    }
    y[t] = value;
}

KERNEL(mma_by_half_a_warp) {
    int t = threadIdx.x;
    float d[4] = {x[t], 0.0f, 0.0f, 0.0f};
    uint32_t a[4] = {};
    uint32_t b[2] = {};
    if (t % 32 < 16) mma_m16n8k8_tf32(d, a, b);
    y[t] = d[0];
}

// -------------------------------------------------------------------------------------------------------- global memory
KERNEL(read_past_end) {
    int t = threadIdx.x;
    y[t] = x[t + 1] * 0.0f + x[t];
}
KERNEL(write_past_end) {
    int t = threadIdx.x;
    y[t] = x[t];
    y[t + 1] = x[t];
}
KERNEL(write_past_end_right) {
    int t = threadIdx.x;
    y[t] = x[t];
    if (t + 1 == n) y[t] = x[t];
}
KERNEL(write_before_begin) {
    int t = threadIdx.x;
    y[t] = x[t];
    if (t == 0) y[t - n / N] = 1.0f;
}
KERNEL(read_far_away) {
    int t = threadIdx.x;
    y[t] = x[t + (static_cast<int64_t>(n) << 32)];
}
KERNEL(misaligned_float4) {
    int t = threadIdx.x;
    y[t] = x[t];
    if (t < 8) y[t] = reinterpret_cast<const float4*>(x + 1)[t].x - x[4 * t + 1] + x[t];
}
KERNEL(misaligned_float4_right) {
    int t = threadIdx.x;
    y[t] = x[t];
    if (t < 8) y[t] = reinterpret_cast<const float4*>(x)[t].x - x[4 * t] + x[t];
}
KERNEL(tail_not_written) {
    int t = threadIdx.x;
    if (t < n - 5) y[t] = x[t];
}
KERNEL(reads_what_it_should_write) {
    int t = threadIdx.x;
    y[t] += x[t];
}

// -------------------------------------------------------------------------------------------------------- shared memory
KERNEL(write_past_shared) {
    __shared__ float part[N];
    int t = threadIdx.x;
    part[t + 1] = x[t];
    __syncthreads();
    y[t] = part[t + 1];
}
KERNEL(write_past_shared_row) {
    __shared__ float part[16][16];
    int t = threadIdx.x;
    part[t / 16][t % 16 + 1] = x[t];
    __syncthreads();
    y[t] = part[t / 16][t % 16 + 1];
}
// Past a call the compiler does not know which array a pointer belongs to.
__device__ __noinline__ float* element(float* array, int i) { return array + i; }
KERNEL(write_past_shared_by_pointer) {
    __shared__ float part[N];
    int t = threadIdx.x;
    *element(part, t + 1) = x[t];
    __syncthreads();
    y[t] = *element(part, t + 1);
}
template <int COUNT>
__device__ __forceinline__ float* some_shared() {
    __shared__ float part[COUNT];
    return part;
}
KERNEL(write_past_shared_of_template) {
    int t = threadIdx.x;
    *element(some_shared<N>(), t + 1) = x[t];
    __syncthreads();
    y[t] = *element(some_shared<N>(), t + 1);
}
KERNEL(read_past_dynamic) {
    DYNAMIC_SHARED(float, part);
    int t = threadIdx.x;
    part[t] = x[t];
    __syncthreads();
    y[t] = part[t] + 0.0f * part[t + 1];
}
KERNEL(write_past_dynamic) {
    DYNAMIC_SHARED(float, part);
    int t = threadIdx.x;
    part[t + 1] = x[t];
    __syncthreads();
    y[t] = part[t + 1];
}
KERNEL(write_past_dynamic_right) {
    DYNAMIC_SHARED(float, part);
    int t = threadIdx.x;
    part[t] = x[t];
    __syncthreads();
    y[t] = part[t];
}
KERNEL(uninitialised_shared) {
    __shared__ float part[N];
    int t = threadIdx.x;
    if (t > 0) part[t] = x[t];
    __syncthreads();
    y[t] = part[t];
}

// -------------------------------------------------------------------------------------------------- asynchronous copies
KERNEL(copy_without_wait) {
    __shared__ __align__(16) float part[N];
    int t = threadIdx.x;
    cp_async4(part + t, x + t);
    cp_async_commit();
    __syncthreads();
    y[t] = part[t];
}
KERNEL(copy_waits_for_the_older_group) {
    __shared__ __align__(16) float part[N];
    int t = threadIdx.x;
    cp_async4(part + t, x + t);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    y[t] = part[t];
}
KERNEL(copy_without_barrier) {
    __shared__ __align__(16) float part[N];
    int t = threadIdx.x;
    cp_async4(part + t, x + t);
    cp_async_commit();
    cp_async_wait<0>();
    y[t] = part[n - 1 - t];
}
KERNEL(copy_without_barrier_right) {
    __shared__ __align__(16) float part[N];
    int t = threadIdx.x;
    cp_async4(part + t, x + t);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[t] = part[n - 1 - t];
}
KERNEL(copy_misaligned) {
    __shared__ __align__(16) float part[N];
    int t = threadIdx.x;
    y[t] = x[t];
    if (t < N / 4) cp_async16(part + 4 * t, x + 4 * t + n / N, t < N / 4 - 1);
    cp_async_commit();
    cp_async_wait<0>();
}
KERNEL(copy_past_end) {
    __shared__ __align__(16) float part[N];
    int t = threadIdx.x;
    y[t] = x[t];
    cp_async4(part + t, x + t + 1);
    cp_async_commit();
    cp_async_wait<0>();
}
KERNEL(copy_past_end_right) {
    __shared__ __align__(16) float part[N];
    int t = threadIdx.x;
    y[t] = x[t];
    cp_async4(part + t, x + t + 1, t + 1 < n);
    cp_async_commit();
    cp_async_wait<0>();
}
KERNEL(ldmatrix_misaligned) {
    __shared__ __align__(16) uint16_t rows[32 * 8 + 8];
    int t = threadIdx.x;
    for (int i = t; i < 32 * 8 + 8; i += N) rows[i] = static_cast<uint16_t>(i);
    __syncthreads();
    uint32_t registers[4];
    ldmatrix_x4(registers, rows + t % 32 * 8 + 4 * n / N);
    y[t] = x[t] + 0.0f * bf16_low(registers[0]);
}

// -------------------------------------------------------------------------------------------------- blocks and atomics
// Two blocks write the same elements; they write the same numbers, and it is a race all the same.
KERNEL(blocks_overlap) {
    y[threadIdx.x] = x[threadIdx.x];
}
KERNEL(reads_other_block) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
    y[i] += 0.0f * y[(i + blockDim.x) % n];
}
KERNEL(missing_atomic) {
    y[0] += x[threadIdx.x];
}
KERNEL(missing_atomic_right) {
    atomicAdd(&y[0], x[threadIdx.x]);
}
KERNEL(atomic_and_plain) {
    atomicAdd(&y[0], x[threadIdx.x]);
    if (threadIdx.x == 3) y[1] = y[0];
}
KERNEL(atomic_and_plain_right) {
    atomicAdd(&y[0], x[threadIdx.x]);
    __syncthreads();
    if (threadIdx.x == 3) y[1] = y[0];
}
// y[2 + block] is the part of a block, y[1] counts the blocks that are done, y[0] is the sum of the parts.
template <bool FENCE>
__device__ __forceinline__ void sum_by_last_block(const float* x, float* y) {
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
        float sum = 0.0f;
        for (unsigned i = 0; i < blockDim.x; i++) sum += x[blockIdx.x * blockDim.x + i];
        y[2 + blockIdx.x] = sum;
        if (FENCE) __threadfence();
        is_last = atomicAdd(&y[1], 1.0f) == static_cast<float>(gridDim.x - 1);
    }
    __syncthreads();
    if (!is_last || threadIdx.x != 5) return;
    y[0] = 0.0f;
    for (unsigned block = 0; block < gridDim.x; block++) y[0] += y[2 + block];
}
KERNEL(missing_fence) {
    sum_by_last_block<false>(x, y);
}
KERNEL(missing_fence_right) {
    sum_by_last_block<true>(x, y);
}

// ----------------------------------------------------------------------------------------------------------- arithmetic
KERNEL(signed_overflow) {
    int t = threadIdx.x;
    int large = n << 22;
    y[t] = x[t] + 0.0f * static_cast<float>(large + large);
}
KERNEL(division_by_zero) {
    int t = threadIdx.x;
    y[t] = x[t] + 0.0f * static_cast<float>(n / (t / n));
}
KERNEL(shift_too_far) {
    int t = threadIdx.x;
    y[t] = x[t] + 0.0f * static_cast<float>(1u << (n / 8));
}
KERNEL(local_array_overflow) {
    int t = threadIdx.x;
    float local[8];
    for (int i = 0; i < 8; i++) local[i] = x[t];
    y[t] = x[t] + 0.0f * local[t % 9];
}
KERNEL(local_array_overflow_right) {
    int t = threadIdx.x;
    float local[8];
    for (int i = 0; i < 8; i++) local[i] = x[t];
    y[t] = local[t % 8];
}
KERNEL(uninitialised_local) {
    int t = threadIdx.x;
    float local[8];
    for (int i = 0; i < n / 64; i++) local[i] = x[t];
    y[t] = local[t % 8];
}
KERNEL(null_pointer) {
    int t = threadIdx.x;
    const float* nowhere = n > 0 ? nullptr : x;
    y[t] = nowhere[t];
}
KERNEL(stack_overflow) {
    int t = threadIdx.x;
    float local[40000];
    for (int i = 0; i < 40000; i++) local[i] = x[(i + t) % n];
    y[t] = local[(t * n) % 40000];
}
