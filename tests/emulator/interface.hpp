// What the text of a kernel and the run time know about each other. The kernels are compiled with instrumentation, the run
// time is not: anything that touches memory of the run time, or that must not count as an access of the kernel, is a
// function declared here and defined in a .cpp file.
#pragma once
#include <cstddef>
#include <cstdint>

#include "vector_types.hpp"

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

// Set anew whenever a thread is resumed.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_emulator {

constexpr unsigned WARP = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;

// A place in the source. As the last parameter of a function, HERE is where that function is called.
struct Where {
    const char* file;
    unsigned line;
    static constexpr Where current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
        return {file, line};
    }
};
#define CUDA_EMULATOR_HERE cuda_emulator::Where where = cuda_emulator::Where::current()

// Ends the launch with this message.
[[noreturn]] void fail(const char* what, Where where);

enum class BlockVote { none, count, all, any };
int block_barrier(bool predicate, BlockVote vote, Where where);

void warp_barrier(uint32_t mask, Where where);
void warp_shuffle(uint32_t mask, const void* value, void* result, unsigned bytes, unsigned source_lane, Where where);
uint32_t warp_ballot(uint32_t mask, bool predicate, Where where);
unsigned lane();

void* dynamic_shared();
void device_fence();

// An atomic read-modify-write is read_atomic, then write_atomic; nothing runs in between.
void read_atomic(const void* address, void* value, unsigned bytes);
void write_atomic(void* address, const void* value, unsigned bytes);

void async_copy(void* shared, const void* global, unsigned bytes, bool valid, Where where);
void async_commit();
void async_wait(unsigned pending_groups);

void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, Where where);
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, Where where);
void load_matrices(uint32_t* result, unsigned matrices, bool transposed, const void* row, Where where);

// One parameter of a kernel, so that the launch can compare it with the argument it was given.
struct ParameterType {
    char kind;  // of the value or of what is pointed to: 'f'loat, 'i'nt, 'u'nsigned, 's'truct, '?' for void
    bool is_pointer;
    bool is_const;   // pointer to const
    uint32_t bytes;  // of one element: float for float4*; of all of a struct
};

void copy_argument(void* value, void** arguments, size_t number, size_t bytes);

}  // namespace cuda_emulator
