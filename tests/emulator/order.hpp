// Which accesses of other threads come before what the current thread does now.
//
//   __syncthreads   everything before it, in the block: the epoch counts these barriers through all blocks of all launches
//   __syncwarp      everything before it, among the lanes of the mask: the tick counts them in each warp
//   __threadfence, then an atomic on a counter; an atomic on the same counter by another block: everything before the fence
//
// Shuffles, votes, mma and ldmatrix order nothing, as CUDA says. A fence counts for its whole block, and the block that
// reads the counter needs none.
#pragma once
#include <cstdint>

#include "state.hpp"

namespace cuda_emulator {

// When and by whom something was done.
struct Moment {
    uint32_t epoch = 0;  // 0: never
    uint32_t tick = 0;
    uint16_t thread = 0;
};

Moment now();
bool in_this_launch(const Moment& moment);
bool in_this_block(const Moment& moment);
bool in_this_epoch(const Moment& moment);  // since the latest barrier of the block
bool comes_before_now(const Moment& moment);

// Whether what other blocks added to this counter comes before what the current thread does now.
bool counter_is_final(uintptr_t address);

// The same for a read by any of `lanes` of the warp that `moment.thread` belongs to.
uint32_t lanes_not_before_now(const Moment& moment, uint32_t lanes);

void order_begins_launch();
void order_begins_block();
void order_passes_barrier();
void order_passes_warp_barrier(unsigned warp, uint32_t mask);
void order_passes_fence();
void order_passes_atomic(uintptr_t address);

}  // namespace cuda_emulator
