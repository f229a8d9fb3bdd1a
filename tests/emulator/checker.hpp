// What the scheduler tells the checker. check.cpp, order.cpp and profile.cpp listen; unchecked.cpp ignores it all.
#pragma once
#include <cstdint>

#include "interface.hpp"

namespace cuda_emulator {

void checker_begins_launch();
void checker_begins_block();
void checker_passes_barrier();                               // all threads of the block
void checker_passes_warp_barrier(unsigned warp, uint32_t mask);
void checker_passes_fence();                                 // the current thread, __threadfence
void checker_ends_block();
void checker_ends_launch();

// Accesses that the run time makes for the current thread; `code` is the place in the kernel.
void checker_sees_read(const void* address, unsigned bytes, const void* code);
void checker_sees_write(void* address, unsigned bytes, const void* code);
void checker_sees_atomic(void* address, unsigned bytes, const void* code);
void checker_sees_copy_begin(void* shared, unsigned bytes, const void* code);
void checker_sees_copy_end(void* shared, unsigned bytes, const void* code);

}  // namespace cuda_emulator
