// Kernels that are known to be right, for the tests of the emulator. Each is small, and each uses one part of the language.
#include "device.cuh"

// ------------------------------------------------------------------------------------------------------- global memory
extern "C" __global__ void copy(const float* __restrict__ x, float* __restrict__ y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}

extern "C" __global__ void copy_by_four(const float4* __restrict__ x, float4* __restrict__ y, int n4) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n4) y[i] = __ldg(x + i);
}

// The order in which threads run.
extern "C" __global__ void arrival(int* next, int* __restrict__ y) {
    y[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(next, 1);
}

// y = scale * x for every type of element.
template <class T>
__device__ __forceinline__ void scale_any(const T* x, T* y, int64_t n, T scale) {
    int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] = static_cast<T>(scale * x[i]);
}
extern "C" __global__ void scale_float32(const float* x, float* y, int64_t n, float scale) { scale_any(x, y, n, scale); }
extern "C" __global__ void scale_float64(const double* x, double* y, int64_t n, double scale) { scale_any(x, y, n, scale); }
extern "C" __global__ void scale_int32(const int32_t* x, int32_t* y, int64_t n, int32_t scale) { scale_any(x, y, n, scale); }
extern "C" __global__ void scale_int64(const int64_t* x, int64_t* y, int64_t n, int64_t scale) { scale_any(x, y, n, scale); }
extern "C" __global__ void scale_uint8(const uint8_t* x, uint8_t* y, int64_t n, uint8_t scale) { scale_any(x, y, n, scale); }

// Threads outside of the image return at once; there is no barrier after that.
extern "C" __global__ void gradient(const float* __restrict__ image, float* __restrict__ across, int height, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    int64_t plane = static_cast<int64_t>(blockIdx.z) * height * width;
    if (x >= width || y >= height) return;
    const float* row = image + plane + static_cast<int64_t>(y) * width;
    float right = x + 1 < width ? row[x + 1] : row[x];
    across[plane + static_cast<int64_t>(y) * width + x] = right - row[x];
}

// ------------------------------------------------------------------------------------------------------- shared memory
// Each block reverses its own part of x.
extern "C" __global__ void __launch_bounds__(256) reverse(const float* __restrict__ x, float* __restrict__ y, int n) {
    __shared__ float part[256];
    int first = blockIdx.x * blockDim.x;
    int count = min(static_cast<int>(blockDim.x), n - first);
    int t = threadIdx.x;
    if (t < count) part[t] = x[first + t];
    __syncthreads();
    if (t < count) y[first + t] = part[count - 1 - t];
}

extern "C" __global__ void reverse_dynamic(const float* __restrict__ x, float* __restrict__ y, int n) {
    DYNAMIC_SHARED(float, part);
    int t = threadIdx.x;
    part[t] = t < n ? x[t] : 0.0f;
    __syncthreads();
    if (t < n) y[t] = part[n - 1 - t];
}

// Shared memory of a template, once per instantiation.
template <int N>
__device__ float sum_of_first() {
    __shared__ float values[N];
    if (threadIdx.x < N) values[threadIdx.x] = static_cast<float>(threadIdx.x);
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < N; i++) sum += values[i];
    return sum;
}
extern "C" __global__ void template_shared(float* y) {
    float small = sum_of_first<32>();
    float large = sum_of_first<64>();
    y[threadIdx.x] = small + 1000.0f * large;
}

constexpr int TILE = 32;
constexpr int ROWS = 8;

// A padded column keeps the transposed loads on different banks.
#ifndef PADDING
#define PADDING 1
#endif
extern "C" __global__ void __launch_bounds__(TILE* ROWS)
transpose(const float* __restrict__ x, float* __restrict__ y, int height, int width) {
    __shared__ float tile[TILE][TILE + PADDING];
    int column = blockIdx.x * TILE + threadIdx.x;
    int row = blockIdx.y * TILE + threadIdx.y;
    for (int r = 0; r < TILE; r += ROWS) {
        if (row + r < height && column < width) tile[threadIdx.y + r][threadIdx.x] = x[(row + r) * width + column];
    }
    __syncthreads();
    column = blockIdx.y * TILE + threadIdx.x;
    row = blockIdx.x * TILE + threadIdx.y;
    for (int r = 0; r < TILE; r += ROWS) {
        if (row + r < width && column < height) y[(row + r) * height + column] = tile[threadIdx.x][threadIdx.y + r];
    }
}

// ---------------------------------------------------------------------------------------------------- warps, reductions
constexpr unsigned ALL = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float value) {
    for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(ALL, value, delta);
    return value;
}

// The sum over the block, in thread 0. The block is whole warps.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float of_warp[32];
    int lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32;
    int warps = blockDim.x / 32;
    value = warp_sum(value);
    if (lane == 0) of_warp[warp] = value;
    __syncthreads();
    if (warp > 0) return 0.0f;
    return warp_sum(lane < warps ? of_warp[lane] : 0.0f);
}

__device__ __forceinline__ float strided_sum(const float* x, int n) {
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    return sum;
}

extern "C" __global__ void sum_atomic(const float* __restrict__ x, float* total, int n) {
    float sum = block_sum(strided_sum(x, n));
    if (threadIdx.x == 0) atomicAdd(total, sum);
}

// The last block to finish adds up what the others left: deterministic, one launch.
extern "C" __global__ void
sum_last_block(const float* __restrict__ x, float* partial, unsigned* finished, float* total, int n) {
    __shared__ bool is_last;
    float sum = block_sum(strided_sum(x, n));
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        is_last = atomicAdd(finished, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;
    if (threadIdx.x == 0) {
        float all = 0.0f;
        for (unsigned block = 0; block < gridDim.x; block++) all += partial[block];
        *total = all;
        *finished = 0;
    }
}

// Neighbours exchange through shared memory within a warp, so __syncwarp is enough.
extern "C" __global__ void swap_pairs(const float* __restrict__ x, float* __restrict__ y) {
    __shared__ float values[128];
    int t = threadIdx.x;
    for (int turn = 0; turn < 3; turn++) {
        values[t] = x[t] + static_cast<float>(turn);
        __syncwarp();
        y[t] = values[t ^ 1];
        __syncwarp();
    }
}

// The two halves of each warp go their own way.
extern "C" __global__ void half_sums(const float* __restrict__ x, float* __restrict__ y) {
    int t = threadIdx.x + blockDim.x * threadIdx.y;
    float value = x[t];
    if (t % 32 < 16) {
        for (int flip = 8; flip > 0; flip /= 2) value += __shfl_xor_sync(0x0000ffffu, value, flip);
    } else {
        for (int flip = 8; flip > 0; flip /= 2) value += __shfl_xor_sync(0xffff0000u, value, flip);
        value = -value;
    }
    y[t] = value;
}

// For each thread: the votes of its warp, whether any and all voted, the votes of the block. The last warp may be short.
extern "C" __global__ void votes(const float* __restrict__ x, uint32_t* __restrict__ y) {
    int t = threadIdx.x;
    int lanes = min(32, static_cast<int>(blockDim.x) - t / 32 * 32);
    uint32_t mask = lanes == 32 ? ALL : (1u << lanes) - 1u;
    int vote = x[t] > 0.0f;
    y[4 * t] = __ballot_sync(mask, vote);
    y[4 * t + 1] = __any_sync(mask, vote);
    y[4 * t + 2] = __all_sync(mask, vote);
    y[4 * t + 3] = __syncthreads_count(vote);
}

extern "C" __global__ void shuffles(const float* __restrict__ x, float* __restrict__ y) {
    int t = threadIdx.x;
    y[3 * t] = __shfl_up_sync(ALL, x[t], 3, 8);
    y[3 * t + 1] = __shfl_down_sync(ALL, x[t], 3, 8);
    y[3 * t + 2] = __shfl_sync(ALL, x[t], 5, 8);
}

// ------------------------------------------------------------------------------------------------- asynchronous copies
// The mean of three neighbours, over chunks: while one chunk is summed the next one is on its way.
constexpr int CHUNK = 128;
extern "C" __global__ void __launch_bounds__(CHUNK)
smooth_pipelined(const float* __restrict__ x, float* __restrict__ y, int n) {
    __shared__ __align__(16) float stage[2][CHUNK + 2];
    int t = threadIdx.x;
    int chunks = (n + CHUNK - 1) / CHUNK;
    auto load = [&](int chunk) {
        for (int i = t; i < CHUNK + 2; i += CHUNK) {
            int from = chunk * CHUNK + i - 1;
            bool inside = from >= 0 && from < n;
            cp_async4(&stage[chunk % 2][i], x + (inside ? from : 0), inside);
        }
        cp_async_commit();
    };
    load(0);
    for (int chunk = 0; chunk < chunks; chunk++) {
        if (chunk + 1 < chunks) {
            load(chunk + 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        const float* values = stage[chunk % 2];
        int to = chunk * CHUNK + t;
        if (to < n) y[to] = (values[t] + values[t + 1] + values[t + 2]) / 3.0f;
        __syncthreads();
    }
}

// -------------------------------------------------------------------------------------------------------- tensor cores
// c (m x n) = a (m x k) b (k x n): one warp per 16 x 8 tile of c, any sizes.
extern "C" __global__ void
matmul_tf32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, int m, int n, int k) {
    int lane = threadIdx.x;
    int group = lane / 4;
    int quad = lane % 4;
    int row0 = blockIdx.y * 16;
    int column0 = blockIdx.x * 8;
    auto load_a = [&](int row, int depth) { return row < m && depth < k ? to_tf32(a[row * k + depth]) : 0u; };
    auto load_b = [&](int depth, int column) { return depth < k && column < n ? to_tf32(b[depth * n + column]) : 0u; };
    float sum[4] = {};
    for (int depth = 0; depth < k; depth += 8) {
        uint32_t fragment_a[4];
        uint32_t fragment_b[2];
        for (int i = 0; i < 4; i++) fragment_a[i] = load_a(row0 + group + 8 * (i % 2), depth + quad + 4 * (i / 2));
        for (int i = 0; i < 2; i++) fragment_b[i] = load_b(depth + quad + 4 * i, column0 + group);
        mma_m16n8k8_tf32(sum, fragment_a, fragment_b);
    }
    for (int i = 0; i < 4; i++) {
        int row = row0 + group + 8 * (i / 2);
        int column = column0 + 2 * quad + i % 2;
        if (row < m && column < n) c[row * n + column] = sum[i];
    }
}

// c (m x n) = a (m x k) b^T (n x k), bfloat16 as bits, k a multiple of 8: a block of 4 warps makes 64 x 64, the tiles of a
// and b come by cp.async into two stages of dynamic shared memory and reach the registers by ldmatrix.
constexpr int BLOCK = 64;
constexpr int DEPTH = 32;
constexpr int PITCH = DEPTH + 8;  // rows of 80 bytes: ldmatrix without bank conflicts
extern "C" __global__ void __launch_bounds__(128)
matmul_bf16(const uint16_t* __restrict__ a, const uint16_t* __restrict__ b, float* __restrict__ c, int m, int n, int k) {
    DYNAMIC_SHARED(uint16_t, tiles);  // [stage][row of a, then of b][depth]: 2 x 128 x PITCH
    int t = threadIdx.x;
    int lane = t % 32;
    int warp = t / 32;
    int row0 = blockIdx.y * BLOCK;
    int column0 = blockIdx.x * BLOCK;
    auto tile = [&](int stage) { return tiles + stage * 2 * BLOCK * PITCH; };
    auto load = [&](int stage, int depth) {
        constexpr int PIECES = DEPTH / 8;
        for (int i = t; i < 2 * BLOCK * PIECES; i += 128) {
            int r = i / PIECES;
            int d = i % PIECES * 8;
            bool of_a = r < BLOCK;
            int row = of_a ? row0 + r : column0 + r - BLOCK;
            bool inside = row < (of_a ? m : n) && depth + d < k;
            const uint16_t* from = of_a ? a : b;
            if (inside) from += static_cast<int64_t>(row) * k + depth + d;
            cp_async16(tile(stage) + r * PITCH + d, from, inside);
        }
        cp_async_commit();
    };
    float sum[8][4] = {};
    load(0, 0);
    for (int depth = 0, stage = 0; depth < k; depth += DEPTH, stage ^= 1) {
        if (depth + DEPTH < k) {
            load(stage ^ 1, depth + DEPTH);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        for (int d = 0; d < DEPTH; d += 16) {
            uint32_t fragment_a[4];
            ldmatrix_x4(fragment_a, tile(stage) + (warp * 16 + lane % 16) * PITCH + d + lane / 16 * 8);
            for (int j = 0; j < 8; j++) {
                uint32_t fragment_b[2];
                const uint16_t* row = tile(stage) + (BLOCK + j * 8 + lane % 8) * PITCH + d;
                ldmatrix_x2(fragment_b, row + lane / 8 % 2 * 8);
                mma_m16n8k16_bf16(sum[j], fragment_a, fragment_b);
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; j++) {
        for (int i = 0; i < 4; i++) {
            int row = row0 + warp * 16 + lane / 4 + 8 * (i / 2);
            int column = column0 + j * 8 + 2 * (lane % 4) + i % 2;
            if (row < m && column < n) c[static_cast<int64_t>(row) * n + column] = sum[j][i];
        }
    }
}

// Four 8 x 8 matrices (32 rows of 8), as ldmatrix hands them out: y[i][lane] straight, y[4 + i][lane] transposed.
extern "C" __global__ void ldmatrix_registers(const uint16_t* __restrict__ x, uint32_t* __restrict__ y) {
    __shared__ __align__(16) uint16_t rows[32 * 8];
    int lane = threadIdx.x;
    for (int i = 0; i < 8; i++) rows[lane * 8 + i] = x[lane * 8 + i];
    __syncwarp();
    uint32_t straight[4];
    uint32_t transposed[4];
    ldmatrix_x4(straight, rows + lane * 8);
    ldmatrix_x4_transposed(transposed, rows + lane * 8);
    for (int i = 0; i < 4; i++) {
        y[i * 32 + lane] = straight[i];
        y[(4 + i) * 32 + lane] = transposed[i];
    }
    uint32_t pair[2];
    ldmatrix_x2_transposed(pair, rows + lane % 16 * 8);
    y[8 * 32 + lane] = pair[0];
    y[9 * 32 + lane] = pair[1];
}

// The conversions of device.cuh: to TF32; to a bfloat16 pair and back.
extern "C" __global__ void conversions(const float* __restrict__ x, uint32_t* __restrict__ tf32,
                                       uint32_t* __restrict__ pairs, float* __restrict__ back, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    tf32[i] = to_tf32(x[i]);
    pairs[i] = pack_bf16(x[i], -x[i]);
    back[2 * i] = bf16_low(pairs[i]);
    back[2 * i + 1] = bf16_high(pairs[i]);
}

// ----------------------------------------------------------------------------------------------------------- arithmetic
// Denormals are zero with -ftz=true; min and max drop a NaN; saturation turns it into 0.
extern "C" __global__ void arithmetic(const float* __restrict__ x, float* __restrict__ y) {
    y[0] = x[0] * 1e-20f * 1e-20f;
    y[1] = max(x[1], 2.0f);
    y[2] = fminf(x[1], 3.0f);
    y[3] = __saturatef(x[1]);
    y[4] = __saturatef(1.5f);
    y[5] = static_cast<float>(__float2int_rn(2.5f));
    y[6] = rsqrtf(4.0f);
    y[7] = __uint_as_float(__float_as_uint(-1.0f) & 0x7fffffffu);
}
