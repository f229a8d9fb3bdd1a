// The threads of the block that runs, and what the files of the run time need of each other.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fiber.hpp"
#include "interface.hpp"

namespace cuda_emulator {

constexpr unsigned char POISON = 0xff;  // fills what is undefined: NaN as a float, -1 as an int

enum class Status : uint8_t { ready, at_barrier, in_warp_operation, exited };

struct AsyncCopy {
    void* shared;
    const void* global;
    unsigned bytes;
    bool valid;
};

struct Thread {
    Fiber fiber;
    uint3 index;
    uint16_t number;  // in the block
    uint16_t warp;
    uint8_t lane;
    Status status;
    bool predicate;    // brought to the barrier
    Where waiting_at;  // of the barrier or warp operation
    std::vector<std::vector<AsyncCopy>> copy_groups;  // committed groups, oldest first, then the open one
};

// One gathering of the lanes of a mask for one operation.
struct Meeting {
    uint32_t mask;
    uint32_t arrived;
    uint32_t departed;
    const char* operation;  // compared by address
    alignas(16) unsigned char brought[WARP][48];  // what each lane hands in, and takes away
};

struct Warp {
    std::vector<Meeting*> meetings;
};

extern std::vector<Thread> threads;
extern std::vector<Warp> warps;
extern Thread* current;  // null while the scheduler itself runs

// The first failure of a launch; the scheduler stops when there is one.
struct Failure {
    std::string message;
    uintptr_t code = 0;  // where in the kernel, when the place in the source is not known: see offset_in_library
    bool happened() const { return !message.empty(); }
};
extern Failure failure;

void record_failure(const std::string& message, uintptr_t code = 0);  // adds block and thread
[[noreturn]] void fail_in_code(const std::string& message, uintptr_t code);
std::string text_of(Where where);

// The library that holds kernels and run time.
bool in_library(uintptr_t address);
uintptr_t offset_in_library(uintptr_t address);

void wait(Status status, Where where);  // the current thread, until it is made ready again
void meet(Meeting*& meeting, uint32_t mask, const char* operation, const void* brought, size_t bytes, Where where,
          void (*finish)(Meeting&) = nullptr);  // finish: run once, by the last lane to come
void depart(Meeting* meeting);

// Bounds of shared memory.
struct Span {
    uintptr_t begin;
    uintptr_t end;
    bool holds(uintptr_t address, size_t bytes) const { return address >= begin && address + bytes <= end; }
};
Span static_shared();
Span dynamic_shared_span();

void listen_to_sanitizer(bool listen);

// While this lives, signals of the processor (bad address, division by zero), reports of AddressSanitizer and the end of the
// time limit (seconds of the processor) are failures.
class FaultGuard {
public:
    explicit FaultGuard(double time_limit);
    ~FaultGuard();
    FaultGuard(const FaultGuard&) = delete;
    FaultGuard& operator=(const FaultGuard&) = delete;
};

}  // namespace cuda_emulator
