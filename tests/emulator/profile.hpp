// How the accesses of a warp fall on memory: 32-byte sectors of global memory, wavefronts of the 32 banks of shared memory.
#pragma once
#include <cstdint>

namespace cuda_emulator {

void profile_begins_launch();
void profile_sees(uintptr_t code, uintptr_t address, unsigned bytes, bool is_write, bool is_shared);
void profile_adds_up();  // all threads of the block wait or have returned

}  // namespace cuda_emulator
