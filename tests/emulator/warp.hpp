// Barriers of a block, and the operations that the lanes of a warp do together. As in CUDA, every lane that the mask names
// must come; unlike CUDA, a lane that has returned or that the block does not have may not be named.
#pragma once
#include "interface.hpp"

inline void __syncthreads(CUDA_EMULATOR_HERE) {
    cuda_emulator::block_barrier(false, cuda_emulator::BlockVote::none, where);
}
inline int __syncthreads_count(int predicate, CUDA_EMULATOR_HERE) {
    return cuda_emulator::block_barrier(predicate, cuda_emulator::BlockVote::count, where);
}
inline int __syncthreads_and(int predicate, CUDA_EMULATOR_HERE) {
    return cuda_emulator::block_barrier(predicate, cuda_emulator::BlockVote::all, where);
}
inline int __syncthreads_or(int predicate, CUDA_EMULATOR_HERE) {
    return cuda_emulator::block_barrier(predicate, cuda_emulator::BlockVote::any, where);
}

inline void __syncwarp(uint32_t mask = cuda_emulator::ALL_LANES, CUDA_EMULATOR_HERE) {
    cuda_emulator::warp_barrier(mask, where);
}

namespace cuda_emulator {
template <class T>
inline T shuffle(uint32_t mask, T value, unsigned source_lane, Where where) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle exchanges 4 or 8 bytes");
    T result;
    warp_shuffle(mask, &value, &result, sizeof(T), source_lane, where);
    return result;
}
}  // namespace cuda_emulator

// A segment is `width` neighbouring lanes, width a power of two.
template <class T>
inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32, CUDA_EMULATOR_HERE) {
    unsigned first = cuda_emulator::lane() & ~(width - 1u);
    return cuda_emulator::shuffle(mask, value, first + (source & (width - 1)), where);
}

template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, CUDA_EMULATOR_HERE) {
    unsigned lane = cuda_emulator::lane();
    unsigned within = lane & (width - 1u);
    return cuda_emulator::shuffle(mask, value, within >= delta ? lane - delta : lane, where);
}

template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, CUDA_EMULATOR_HERE) {
    unsigned lane = cuda_emulator::lane();
    unsigned within = lane & (width - 1u);
    return cuda_emulator::shuffle(mask, value, within + delta < static_cast<unsigned>(width) ? lane + delta : lane, where);
}

template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int flip, int width = 32, CUDA_EMULATOR_HERE) {
    unsigned lane = cuda_emulator::lane();
    unsigned source = lane ^ static_cast<unsigned>(flip);
    bool beyond = source / width > lane / width;
    return cuda_emulator::shuffle(mask, value, beyond ? lane : source, where);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, CUDA_EMULATOR_HERE) {
    return cuda_emulator::warp_ballot(mask, predicate, where);
}
inline int __any_sync(uint32_t mask, int predicate, CUDA_EMULATOR_HERE) {
    return cuda_emulator::warp_ballot(mask, predicate, where) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, CUDA_EMULATOR_HERE) {
    return cuda_emulator::warp_ballot(mask, !predicate, where) == 0;
}

inline void __threadfence() { cuda_emulator::device_fence(); }
inline void __threadfence_block() {}

inline void __trap(CUDA_EMULATOR_HERE) { cuda_emulator::fail("trap", where); }
