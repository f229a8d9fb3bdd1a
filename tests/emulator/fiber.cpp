#include "fiber.hpp"

#include <sys/mman.h>

#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// void cuda_emulator_switch(void** save, void* load): the callee-saved registers and the stack pointer, nothing else.
asm(R"(
.text
.globl cuda_emulator_switch
.hidden cuda_emulator_switch
.type cuda_emulator_switch, @function
cuda_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_emulator_switch, . - cuda_emulator_switch
)");
extern "C" __attribute__((visibility("hidden"))) void cuda_emulator_switch(void** save, void* load);

namespace cuda_emulator {

constexpr size_t SAVED_REGISTERS = 6;

static std::vector<Stack*> idle_stacks;
static void* scheduler_stack_pointer;

#if defined(__SANITIZE_ADDRESS__)
static void* scheduler_sanitizer_state;
static const void* scheduler_low;
static size_t scheduler_bytes;

static void before_resume(Stack* stack) {
    __sanitizer_start_switch_fiber(&scheduler_sanitizer_state, reinterpret_cast<void*>(stack->low), STACK_BYTES);
}
static void after_resume() { __sanitizer_finish_switch_fiber(scheduler_sanitizer_state, nullptr, nullptr); }
static void before_leave(Stack* stack, bool for_good) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &stack->sanitizer_state, scheduler_low, scheduler_bytes);
}
static void after_leave(Stack* stack) {
    __sanitizer_finish_switch_fiber(stack->sanitizer_state, &scheduler_low, &scheduler_bytes);
}
static void after_first_resume() { __sanitizer_finish_switch_fiber(nullptr, &scheduler_low, &scheduler_bytes); }
static void forget_frames(Stack* stack) { __asan_unpoison_memory_region(reinterpret_cast<void*>(stack->low), STACK_BYTES); }
#else
static void before_resume(Stack*) {}
static void after_resume() {}
static void before_leave(Stack*, bool) {}
static void after_leave(Stack*) {}
static void after_first_resume() {}
static void forget_frames(Stack*) {}
#endif

static Stack* new_stack() {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, GUARD_BYTES, PROT_NONE);  // an overflow faults instead of reaching other memory
    return new Stack{reinterpret_cast<uintptr_t>(memory) + GUARD_BYTES};
}

void start(Fiber& fiber, void (*body)()) {
    if (idle_stacks.empty()) idle_stacks.push_back(new_stack());
    fiber.stack = idle_stacks.back();
    idle_stacks.pop_back();
    fiber.stack->sanitizer_state = nullptr;
    // As if body had been called (stack pointer 8 below a multiple of 16) and the switch had saved registers.
    void** top = reinterpret_cast<void**>(fiber.stack->low + STACK_BYTES) - 2;
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(body);
    fiber.stack_pointer = top - SAVED_REGISTERS;
}

void resume(Fiber& fiber) {
    before_resume(fiber.stack);
    cuda_emulator_switch(&scheduler_stack_pointer, fiber.stack_pointer);
    after_resume();
}

void entered() { after_first_resume(); }

void leave(Fiber& fiber) {
    before_leave(fiber.stack, false);
    cuda_emulator_switch(&fiber.stack_pointer, scheduler_stack_pointer);
    after_leave(fiber.stack);
}

void leave_for_good(Fiber& fiber) {
    before_leave(fiber.stack, true);
    cuda_emulator_switch(&fiber.stack_pointer, scheduler_stack_pointer);
    __builtin_unreachable();
}

void recycle(Fiber& fiber) {
    idle_stacks.push_back(fiber.stack);
    fiber.stack = nullptr;
}

void abandon(Fiber& fiber) {
    if (!fiber.stack) return;
    forget_frames(fiber.stack);
    recycle(fiber);
}

}  // namespace cuda_emulator

// A process may have 65,530 mappings, and every stack takes two: libraries that rest give theirs back.
extern "C" __attribute__((visibility("default"))) void emulator_release_stacks() {
    using namespace cuda_emulator;
    for (Stack* stack : idle_stacks) {
        forget_frames(stack);
        munmap(reinterpret_cast<void*>(stack->low - GUARD_BYTES), GUARD_BYTES + STACK_BYTES);
        delete stack;
    }
    idle_stacks.clear();
}
