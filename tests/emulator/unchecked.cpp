// The checker of the builds that have none.
#include "checker.hpp"

namespace cuda_emulator {

void checker_begins_launch() {}
void checker_begins_block() {}
void checker_passes_barrier() {}
void checker_passes_warp_barrier(unsigned, uint32_t) {}
void checker_passes_fence() {}
void checker_ends_block() {}
void checker_ends_launch() {}
void checker_sees_read(const void*, unsigned, const void*) {}
void checker_sees_write(void*, unsigned, const void*) {}
void checker_sees_atomic(void*, unsigned, const void*) {}
void checker_sees_copy_begin(void*, unsigned, const void*) {}
void checker_sees_copy_end(void*, unsigned, const void*) {}

}  // namespace cuda_emulator
