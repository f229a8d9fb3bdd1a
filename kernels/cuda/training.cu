// What a step of training does beside convolutions and FFTs: splines with their gradient, sums of spectra over channels and over a
// batch, and the element-wise work of a dual step forwards and backwards.
//
//     spline            out = s_c(x)
//     spline_gradient   to_x = s_c'(x) g;   partial: g's share in the values of s_c, summed by each block
//     contract          image[b] = sum_c spectra[b, c] filters[c]
//     correlate         total[c] += sum_b spectra[b, c] conj(image[b])
//     extrapolate       new = clip(v + M r, -1, 1),   next = new + factor (new - u),   product = M next
//     through_clip      s = a first + b second where |new| < 1, else 0;   to_mask += s r,   product = M s
//     through_mask      to_mask += w v,   to_v = s + M w
//
// x, out, u, v, M, r, s, w: float32 (B, C, N) or flat; spectra (B, C, F), filters and total (C, F), image (B, F) complex64.
// values (C, n) at uniform knots on [low, 1]; stretch = (n - 1) / (1 - low); the ends go on linearly. No atomics: sums come out
// alike in every run. Twins: kernels/cpu/planar_spline.py, and torch in safi_fast/training/inner.py. All are bound by memory.
// Launch: see safi_fast/training/gpu.py.
#include "device.cuh"

constexpr int THREADS = 256, COLUMNS = 128;    // COLUMNS: threads of spline_gradient

// floor(p) cut to 0 .. last, as a float; 0 for NaN.
__device__ __forceinline__ float piece_of(float p, int last) { return floorf(fminf(fmaxf(p, 0.0f), static_cast<float>(last))); }

// grid (blocks of a plane, C, B)
extern "C" __global__ void __launch_bounds__(THREADS)
spline(const float* __restrict__ x, const float* __restrict__ values, float* __restrict__ out, int pixels, int knots, float low,
       float stretch) {
    const float* table = values + blockIdx.y * knots;
    const long long plane = ((long long)blockIdx.z * gridDim.y + blockIdx.y) * pixels;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < pixels; i += gridDim.x * THREADS) {
        const float p = (x[plane + i] - low) * stretch, left = piece_of(p, knots - 2);
        const int k = static_cast<int>(left);
        const float start = __ldg(table + k);
        out[plane + i] = fmaf(__ldg(table + k + 1) - start, p - left, start);
    }
}

// grid (splits, C); partial (splits, C, knots). Each thread has a column of its own for the sums over every piece of g and of
// g (p - k): dynamic shared memory of 2 (knots - 1) COLUMNS floats.
extern "C" __global__ void __launch_bounds__(COLUMNS)
spline_gradient(const float* __restrict__ x, const float* __restrict__ values, const float* __restrict__ gradient,
                float* __restrict__ to_x, float* __restrict__ partial, int batch, int pixels, int knots, float low, float stretch) {
    DYNAMIC_SHARED(float, whole);
    const int pieces = knots - 1, channel = blockIdx.y, channels = gridDim.y;
    float* right = whole + pieces * COLUMNS;
    const float* table = values + channel * knots;
    for (int k = 0; k < 2 * pieces; k++) whole[k * COLUMNS + threadIdx.x] = 0.0f;
    for (int b = 0; b < batch; b++) {
        const long long plane = ((long long)b * channels + channel) * pixels;
        for (int i = blockIdx.x * COLUMNS + threadIdx.x; i < pixels; i += gridDim.x * COLUMNS) {
            const float p = (x[plane + i] - low) * stretch, left = piece_of(p, knots - 2), g = gradient[plane + i];
            const int k = static_cast<int>(left);
            to_x[plane + i] = (__ldg(table + k + 1) - __ldg(table + k)) * stretch * g;
            whole[k * COLUMNS + threadIdx.x] += g;
            right[k * COLUMNS + threadIdx.x] += g * (p - left);
        }
    }
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int k = warp; k < 2 * pieces; k += COLUMNS / 32) {    // every sum into the first column
        float sum = 0.0f;
        for (int i = lane; i < COLUMNS; i += 32) sum += whole[k * COLUMNS + i];
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(0xffffffffu, sum, distance);
        if (lane == 0) whole[k * COLUMNS] = sum;
    }
    __syncthreads();
    float* row = partial + ((long long)blockIdx.x * channels + channel) * knots;
    for (int k = threadIdx.x; k < knots; k += COLUMNS) {
        const float own = k < pieces ? whole[k * COLUMNS] - right[k * COLUMNS] : 0.0f;
        row[k] = k > 0 ? own + right[(k - 1) * COLUMNS] : own;
    }
}

// grid (blocks of frequencies, B)
extern "C" __global__ void __launch_bounds__(THREADS)
contract(const float2* __restrict__ spectra, const float2* __restrict__ filters, float2* __restrict__ image, int channels,
         int frequencies) {
    const int f = blockIdx.x * THREADS + threadIdx.x;
    if (f >= frequencies) return;
    const float2* from = spectra + (long long)blockIdx.y * channels * frequencies + f;
    float real = 0.0f, imaginary = 0.0f;
#pragma unroll 8
    for (int c = 0; c < channels; c++) {
        const float2 s = from[(long long)c * frequencies], h = __ldg(filters + (long long)c * frequencies + f);
        real += s.x * h.x - s.y * h.y;
        imaginary += s.x * h.y + s.y * h.x;
    }
    image[(long long)blockIdx.y * frequencies + f] = make_float2(real, imaginary);
}

// grid (blocks of frequencies, C)
extern "C" __global__ void __launch_bounds__(THREADS)
correlate(const float2* __restrict__ spectra, const float2* __restrict__ image, float2* __restrict__ total, int batch,
          int frequencies) {
    const int f = blockIdx.x * THREADS + threadIdx.x;
    if (f >= frequencies) return;
    const long long step = (long long)gridDim.y * frequencies, at = (long long)blockIdx.y * frequencies + f;
    float real = 0.0f, imaginary = 0.0f;
#pragma unroll 8
    for (int b = 0; b < batch; b++) {
        const float2 s = spectra[b * step + at], h = __ldg(image + (long long)b * frequencies + f);
        real += s.x * h.x + s.y * h.y;
        imaginary += s.y * h.x - s.x * h.y;
    }
    total[at] = make_float2(total[at].x + real, total[at].y + imaginary);
}

// The last three: grid (blocks of all elements).
extern "C" __global__ void __launch_bounds__(THREADS)
extrapolate(const float* __restrict__ v, const float* __restrict__ response, const float* __restrict__ mask,
            const float* __restrict__ u, float* __restrict__ made, float* __restrict__ next, float* __restrict__ product, float factor,
            long long elements) {
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < elements; i += (long long)gridDim.x * THREADS) {
        const float m = mask[i], clipped = fminf(fmaxf(fmaf(m, response[i], v[i]), -1.0f), 1.0f);
        const float ahead = fmaf(factor, clipped - u[i], clipped);
        made[i] = clipped;
        next[i] = ahead;
        product[i] = ahead * m;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
through_clip(const float* __restrict__ first, float a, const float* __restrict__ second, float b, const float* __restrict__ made,
             const float* __restrict__ response, const float* __restrict__ mask, float* __restrict__ to_mask,
             float* __restrict__ to_sum, float* __restrict__ product, long long elements) {
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < elements; i += (long long)gridDim.x * THREADS) {
        float s = a * first[i];
        if (second) s = fmaf(b, second[i], s);
        if (!(fabsf(made[i]) < 1.0f)) s = 0.0f;
        to_sum[i] = s;
        product[i] = s * mask[i];
        to_mask[i] = fmaf(s, response[i], to_mask[i]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
through_mask(const float* __restrict__ to_w, const float* __restrict__ v, const float* __restrict__ mask,
             const float* __restrict__ to_sum, float* __restrict__ to_mask, float* __restrict__ to_v, long long elements) {
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < elements; i += (long long)gridDim.x * THREADS) {
        const float w = to_w[i];
        to_mask[i] = fmaf(w, v[i], to_mask[i]);
        to_v[i] = fmaf(w, mask[i], to_sum[i]);
    }
}
