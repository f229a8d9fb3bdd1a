// extrapolate, move_rows, restart, mix_images, mix_rows: what a step of `reconstruct` does beside W, H and the Fourier transforms.
//
// One step of the restarted Halpern iteration (safi_fast/solver/halpern.py) on an image b, its variables x, z = W^T u and rows
// of dual variables (p of the measurements, then v of the box):
//
//     extrapolate   x_hat = x + moved,  ahead = x + 2 moved;  into the slot that anchored_step filters, with its halo
//                   t = v + s ahead,  v_hat = t - s clip(t / s, low, high),  s = box_step[b]; without a box: no v
//                   sums = ( <moved, slope>,  ||v_hat - v||^2 / s )
//     move_rows     p_hat = (p + s (H ahead - y)) / (1 + s),  s = row_step[b];  sums = ||p_hat - p||^2 / s
//     restart       residual^2 = max(0, sign <moved, slope>) + ||u_hat - u||^2 / sigma + the sums of v and p
//                   w = 0 where the iteration is due to start anew, else (k + 1) / (k + 2), k steps after the last start;
//                   above 1 it stays as it is
//     mix_images    x = w (2 x_hat - x) + (1 - w) x_0;  z = W^T u, and z_hat = W^T u_hat out of it;  w = 0: x = x_0 = x_hat, z_0 = z
//                   w > 1: x = x + w (x_hat - x), and z_hat out of z likewise; anchors are neither read nor written
//     mix_rows      the same for p and v
//
// restart sets mixing = w of this step, which the last two read, and weight = w of the next, which anchored_step reads. An image
// whose residual is not finite keeps its state, and x_hat and p_hat, from then on: `lost` is the step that saw it, from 1, else 0.
//
// Shapes: x, z, ahead, moved, slope (count, P, H, W), complex ones with real and imaginary part side by side: the workspace has
// batch = parts * count images, real parts first. Rows (count, row); sums as in image.cu. weight, mixing (batch).
// Twin: solver/halpern.py, HostSteps. Cost per pixel: 40 bytes and the halo, and 56 with the summands of synthesis.
// Launch: extrapolate, mix_images as image.cu; move_rows, mix_rows grid (ceil(n / 1024), 1, images), block 256; restart as advance.
#include "image.cuh"

constexpr int PER_THREAD = 4;                         // floats of a row

// The number of a pixel in the arrays of the iteration.
__device__ __forceinline__ long long iterate_at(const Pixel& at, int count, const Geometry& g) {
    const long long pixels = (long long)PLANES * g.height * g.width, index = at.flat - at.owner * pixels;
    return (at.owner % count * pixels + index) * (g.batch / count) + at.owner / count;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
extrapolate(const int* __restrict__ active, const int* __restrict__ slot, float* __restrict__ image, int count,
            const float* __restrict__ moved, const float* __restrict__ slope, const float* __restrict__ x,
            float* __restrict__ x_hat, float* __restrict__ ahead, const float* __restrict__ rows, float* __restrict__ rows_hat,
            long long row, long long first, const float* __restrict__ box_step, float low, float high, int symmetric,
            const int* __restrict__ counts, double* __restrict__ sums, Geometry g) {
    const Pixel at = pixel(active, g);
    double total[2] = {};
    if (at.inside && !counts[at.owner % count * 3 + 2]) {
        const long long i = iterate_at(at, count, g);
        const float step = moved[i], there = x[i] + step, beyond = there + step;
        x_hat[i] = there;
        ahead[i] = beyond;
        store_extended(image, slot[at.owner] * g.batch * PLANES + at.image, at.y, at.x, beyond, symmetric, g);
        total[0] = static_cast<double>(step) * slope[i];
        if (box_step) {
            const long long j = at.owner * row + first + (at.flat - (long long)at.owner * PLANES * g.height * g.width);
            const float length = box_step[at.owner], v = rows[j], t = fmaf(length, beyond, v);
            const float v_hat = t - length * fminf(fmaxf(t / length, low), high), change = v_hat - v;
            rows_hat[j] = v_hat;
            total[1] = static_cast<double>(change) * change / length;
        }
    }
    write_sums(sums, total, at.image);
}

extern "C" __global__ void __launch_bounds__(THREADS)
move_rows(const int* __restrict__ active, const float* __restrict__ seen, const float* __restrict__ y,
          const float* __restrict__ rows, float* __restrict__ rows_hat, long long row, long long length,
          const float* __restrict__ row_step, const int* __restrict__ counts, double* __restrict__ sums) {
    const int image = active[blockIdx.z];
    if (counts[3 * image + 2]) length = 0;
    const float step = row_step[image];
    double total[1] = {};
    for (int k = 0; k < PER_THREAD; k++) {
        const long long i = ((long long)blockIdx.x * PER_THREAD + k) * THREADS + threadIdx.x;
        if (i >= length) break;
        const float p = rows[image * row + i];
        const float p_hat = fmaf(step, seen[image * length + i] - y[image * length + i], p) / (1.0f + step), change = p_hat - p;
        rows_hat[image * row + i] = p_hat;
        total[0] += static_cast<double>(change) * change;
    }
    total[0] /= step;
    write_sums(sums, total, image);
}

// totals (batch, width): ||u_hat - u||^2, <moved, slope>, box, rows. sigma (count). residuals (count, 2): after the last start, and the
// last. counts (count, 3): steps since the last start, of this run, and lost. `active` lists `images` of the `count` images.
extern "C" __global__ void __launch_bounds__(THREADS)
restart(const int* __restrict__ active, int images, int count, const double* __restrict__ totals, int width, double sign,
        const double* __restrict__ sigma, double fall, double share, int least, float* __restrict__ weight,
        float* __restrict__ mixing, double* __restrict__ residuals, int* __restrict__ counts, Geometry g) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= images) return;
    const int image = active[i];
    int* length = counts + 3 * image;
    if (length[2]) return;
    double change = 0.0, primal = 0.0;
    for (int part = image; part < g.batch; part += count) {
        change += totals[part * width];
        primal += sign * totals[part * width + 1];
    }
    const double own = totals[image * width + 2] + totals[image * width + 3];
    const double residual = sqrt((primal < 0.0 ? 0.0 : primal) + change / sigma[image] + own);    // NaN stays NaN
    const int total = ++length[1];
    if (residual - residual != 0.0) {                     // not finite
        length[2] = total;
        return;
    }
    const float now = weight[image];
    const bool restarted = now == 0.0f;
    if (restarted || length[0] == 0) residuals[2 * image] = residual;
    residuals[2 * image + 1] = residual;
    const int steps = length[0] = restarted ? 0 : length[0] + 1;
    const bool due = steps > least && (residual <= fall * residuals[2 * image] || steps > share * total + 20.0);
    const float next = now > 1.0f ? now : due ? 0.0f : static_cast<float>((steps + 1.0) / (steps + 2.0));
    for (int part = image; part < g.batch; part += count) {
        mixing[part] = now;
        weight[part] = next;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
mix_images(const int* __restrict__ active, Parts parts, int band, const float* __restrict__ dropped, int symmetric, int count,
           const float* __restrict__ mixing, const int* __restrict__ counts, const float* __restrict__ x_hat, float* __restrict__ x,
           float* __restrict__ x_anchor, float* __restrict__ z, float* __restrict__ z_hat, float* __restrict__ z_anchor, Geometry g) {
    const Pixel at = pixel(active, g);
    if (!at.inside || counts[at.owner % count * 3 + 2]) return;
    const long long i = iterate_at(at, count, g);
    const float w = mixing[at.owner], z_new = folded_here(parts, band, dropped, at, symmetric, g);
    if (w > 1.0f) {
        z_hat[i] = z[i] + (z_new - z[i]) / w;
        x[i] = fmaf(w, x_hat[i] - x[i], x[i]);
    } else if (w > 0.0f) {
        z_hat[i] = 0.5f * ((z_new - (1.0f - w) * z_anchor[i]) / fmaxf(w, 0.25f) + z[i]);
        x[i] = w * (2.0f * x_hat[i] - x[i]) + (1.0f - w) * x_anchor[i];
    } else {
        z_hat[i] = z_anchor[i] = z_new;
        x[i] = x_anchor[i] = x_hat[i];
    }
    z[i] = z_new;
}

extern "C" __global__ void __launch_bounds__(THREADS)
mix_rows(const int* __restrict__ active, long long row, const float* __restrict__ mixing, const int* __restrict__ counts,
         const float* __restrict__ rows_hat, float* __restrict__ rows, float* __restrict__ rows_anchor) {
    const int image = active[blockIdx.z];
    if (counts[3 * image + 2]) return;
    const float w = mixing[image];
    for (int k = 0; k < PER_THREAD; k++) {
        const long long place = ((long long)blockIdx.x * PER_THREAD + k) * THREADS + threadIdx.x, i = image * row + place;
        if (place >= row) break;
        if (w > 1.0f) rows[i] = fmaf(w, rows_hat[i] - rows[i], rows[i]);
        else if (w > 0.0f) rows[i] = w * (2.0f * rows_hat[i] - rows[i]) + (1.0f - w) * rows_anchor[i];
        else rows[i] = rows_anchor[i] = rows_hat[i];
    }
}
