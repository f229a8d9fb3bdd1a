// set_image, get_image, gather_image, image_step, primal_sums, outer_sums: everything that happens to images, one thread per pixel of a plane.
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
// momentum (steps, B), row turn[b]; sums (B, P, blocks, 5 or 2) float64, one row per block; dropped (B, P, H, W) is what synthesis_border
// takes off; where the band of the border is 0 it is not read. Cost: about 50 bytes per pixel.
// With VARYING noise changes over the image: variance (B, P, H, W) relative to the largest multiplies z in x, and divides squares.
// Launch: grid (ceil(H W / 256), 1, P active images), block 256, static shared memory.
#include "image.cuh"

#ifndef VARYING
#define VARYING 0
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
set_image(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ values,
          float* __restrict__ image, int symmetric, Geometry g) {
    const Pixel at = pixel(active, g);
    if (at.inside) store_extended(image, slot[at.owner] * g.batch * PLANES + at.image, at.y, at.x, values[at.flat], symmetric, g);
}

extern "C" __global__ void __launch_bounds__(THREADS)
get_image(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ image,
          float* __restrict__ values, Geometry g) {
    const Pixel at = pixel(active, g);
    if (at.inside) values[at.flat] = image[image_element(slot[at.owner] * g.batch * PLANES + at.image, at.y, at.x, g)];
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
           double* __restrict__ sums, const float* __restrict__ variance, Geometry g) {
    const Pixel at = pixel(active, g);
    const int source = slot[at.owner], target = refresh ? source : 1 - source;
    double total[5] = {};
    if (at.inside) {
        const float factor = refresh ? 0.0f : momentum[turn[at.owner] * g.batch + at.owner];
        const int planes = g.batch * PLANES;
        const long long pixels = (long long)planes * g.height * g.width;
        const int old_plane = source * planes + at.image, new_plane = target * planes + at.image, primal = 2 * planes;
        const float z_new = folded_here(parts, band, dropped, at, symmetric, g);
        const float here = y[at.flat], z_old = z[source * pixels + at.flat], v = VARYING ? variance[at.flat] : 1.0f;
        const float x0 = image[image_element(old_plane, at.y, at.x, g)];
        const float u_old = image[image_element(primal + old_plane, at.y, at.x, g)];
        const float u_new = fminf(fmaxf(here - v * z_new, low), high);
        const float extrapolated = refresh ? z_new : fmaf(factor, z_new - z_old, z_new);
        z[target * pixels + at.flat] = z_new;
        store_extended(image, new_plane, at.y, at.x, fminf(fmaxf(here - v * extrapolated, low), high), symmetric, g);
        store_extended(image, primal + new_plane, at.y, at.x, u_new, symmetric, g);
        total[0] = z_new * x0;
        total[1] = 0.5f * (x0 - here) * (x0 - here) / v;
        total[2] = (x0 - u_new) * ((0.5f * (x0 + u_new) - here) / v + z_new);
        total[3] = (u_new - u_old) * (u_new - u_old);
        total[4] = u_old * u_old;
    }
    write_sums(sums, total, at.image);
}

extern "C" __global__ void __launch_bounds__(THREADS)
primal_sums(const int* __restrict__ active, const int* __restrict__ slot, const float* __restrict__ y,
            const float* __restrict__ z, const float* __restrict__ image, double* __restrict__ sums,
            const float* __restrict__ variance, Geometry g) {
    const Pixel at = pixel(active, g);
    double total[2] = {};
    if (at.inside) {
        const int plane = slot[at.owner] * g.batch * PLANES + at.image;
        const float x = image[image_element(2 * g.batch * PLANES + plane, at.y, at.x, g)], difference = x - y[at.flat];
        total[0] = z[slot[at.owner] * (long long)g.batch * PLANES * g.height * g.width + at.flat] * x;
        total[1] = 0.5f * difference * difference / (VARYING ? variance[at.flat] : 1.0f);
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
        const float x = image[image_element(slot[at.owner] * g.batch * PLANES + at.image, at.y, at.x, g)];
        const float before = reference[at.flat], difference = x - before;
        total[0] = static_cast<double>(difference) * difference;
        total[1] = static_cast<double>(before) * before;
        reference[at.flat] = x;
    }
    write_sums(sums, total, at.image);
}
