// One stack per CUDA thread, and the switch between them and the scheduler. x86-64 System V; knows AddressSanitizer.
#pragma once
#include <cstddef>
#include <cstdint>

namespace cuda_emulator {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t STACK_BYTES = 256 << 10;  // frames grow by their red zones
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif
constexpr size_t GUARD_BYTES = 4096;  // below each stack, not accessible

struct Stack {
    uintptr_t low;
    void* sanitizer_state = nullptr;
};

struct Fiber {
    Stack* stack = nullptr;  // null: not started, or finished
    void* stack_pointer = nullptr;
};

void start(Fiber& fiber, void (*body)());  // body calls entered() first, and leaves for good at its end
void resume(Fiber& fiber);                 // scheduler -> fiber; returns when the fiber leaves
void entered();
void leave(Fiber& fiber);                        // fiber -> scheduler, until resumed
[[noreturn]] void leave_for_good(Fiber& fiber);
void recycle(Fiber& fiber);  // takes back the stack of a fiber that has finished
void abandon(Fiber& fiber);  // takes back the stack of a fiber that never will

inline bool on_stack(const Fiber& fiber, uintptr_t address) { return address - fiber.stack->low < STACK_BYTES; }
inline bool in_guard_page(const Fiber& fiber, uintptr_t address) {
    return address - (fiber.stack->low - GUARD_BYTES) < GUARD_BYTES;
}

}  // namespace cuda_emulator
